"""A schedule in which nothing is found stricter never keeps less, for any recording."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.decision import allows
from retention.engine import decide_case
from retention.model import Case, ChoiceKind, Condition, Purpose, Rule, Schedule, Trigger, TriggerKind
from retention.periods import Period
from retention.schedule import check, default_schedule_text
from retention.shortening import Stricter, stricter
from tests.retention import strategies
from tests.retention.test_templates import NOW, crowded

DEFAULT = check(default_schedule_text("FI", "fi-main"))


def altered(dice: random.Random, schedule: Schedule, more: list[Rule]) -> Schedule:
    """Another version: some of it longer or wider, some of it perhaps shorter."""
    rules = list(schedule.rules)
    caps, grace = dict(schedule.caps), schedule.hold_grace
    for _ in range(dice.choice((1, 1, 2))):
        place = dice.randrange(len(rules)) if rules else None
        change = dice.choice(("keep", "when", "after", "statutory", "closes", "cap", "grace", "add", "drop"))
        if change == "add":
            rules += more
        elif change == "cap" and caps:
            purpose = dice.choice(sorted(caps))
            if dice.random() < 0.3:
                del caps[purpose]
            else:
                caps[purpose] = Period(days=caps[purpose].days + dice.choice((-1, 0, 1)))
        elif change == "cap":
            caps[dice.choice(list(Purpose))] = Period(days=2)
        elif change == "grace":
            grace = Period(days=dice.choice((0, 1, 2)))
        elif place is not None and change == "drop":
            del rules[place]
        elif place is not None:
            rule = rules[place]
            longer = Period(days=rule.keep.days + dice.choice((-1, 1, 1, 2)))
            rules[place] = {
                "keep": replace(rule, keep=longer),
                "when": replace(rule, when=Condition()),
                "after": replace(rule, after=Trigger(TriggerKind.LAST_CONTACT, dice.random() < 0.5)),
                "statutory": replace(rule, statutory="S", closes_on=frozenset()),
                "closes": replace(rule, closes_on=frozenset(dice.sample(sorted(rule.closes_on), 0))),
            }[change]
    unique = {rule.id: rule for rule in reversed(rules)}
    return replace(schedule, version=4, rules=tuple(unique.values()), caps=caps, hold_grace=grace)


@settings(max_examples=400)
@given(
    st.integers(0, 2**32),
    st.lists(strategies.rules(), min_size=1, max_size=3, unique_by=lambda rule: rule.id),
    st.lists(strategies.rules().map(lambda r: replace(r, id=f"new-{r.id}")), max_size=1),
)
def test_where_nothing_is_stricter_nothing_goes_or_closes_earlier(
    seed: int, rules: list[Rule], more: list[Rule]
) -> None:
    dice = random.Random(seed)
    old, estate = crowded(dice, rules)
    new = altered(dice, old, [replace(rule, keep=Period(days=2)) for rule in more])
    if stricter(old, new):
        return
    for case in estate:
        for now in (NOW, NOW + timedelta(days=2)):
            keeps_as_long(case, replace(case, schedule=new), now)


def keeps_as_long(case: Case, later: Case, now: object) -> None:
    assert isinstance(now, type(NOW))
    before, after = decide_case(case, now), decide_case(later, now)
    if after.undecided:
        assert not after.due
        return
    assert before.due or not after.due
    if before.erase_on is None:
        assert after.erase_on is None
    else:
        assert after.erase_on is None or after.erase_on >= before.erase_on
    for purpose in Purpose:
        if allows(before, purpose, now)[0]:
            assert allows(after, purpose, now)[0]


def with_rule(number: int, **changes: object) -> Schedule:
    rules = list(DEFAULT.rules)
    rules[number] = replace(rules[number], **changes)  # type: ignore[arg-type]
    return replace(DEFAULT, version=2, rules=tuple(rules))


ADDED = Rule("added", frozenset({Purpose.QUALITY}), Period(days=3), Trigger(TriggerKind.CALL_STARTED))
HARMLESS: dict[str, Callable[[], Schedule]] = {
    "the same again": lambda: replace(DEFAULT, version=2),
    "longer": lambda: with_rule(0, keep=Period(months=120)),
    "another name": lambda: with_rule(0, id="renamed"),
    "one more purpose": lambda: with_rule(0, purposes=DEFAULT.rules[0].purposes | {Purpose.TRAINING}),
    "a rule more": lambda: replace(DEFAULT, rules=(*DEFAULT.rules, ADDED)),
    "a cap less": lambda: replace(DEFAULT, caps={Purpose.TRAINING: DEFAULT.caps[Purpose.TRAINING]}),
    "for everything": lambda: with_rule(3, when=Condition()),
    "to the year's end": lambda: with_rule(0, after=Trigger(TriggerKind.LAST_CONTACT, True)),
    "from the last contact": lambda: with_rule(2, after=Trigger(TriggerKind.LAST_CONTACT)),
    "closed by less": lambda: with_rule(1, closes_on=frozenset()),
    "some grace": lambda: replace(DEFAULT, hold_grace=Period(days=3)),
}
STRICTER: dict[str, tuple[Callable[[], Schedule], Stricter]] = {
    "shorter": (lambda: with_rule(2, keep=Period(days=90)), Stricter("rule", "quality", "quality")),
    "days for a month": (lambda: with_rule(2, keep=Period(days=365)), Stricter("rule", "quality", "quality")),
    "gone": (
        lambda: replace(DEFAULT, rules=(*DEFAULT.rules[:2], *DEFAULT.rules[3:])),
        Stricter("rule", "quality", "quality"),
    ),
    "a purpose less": (
        lambda: with_rule(0, purposes=DEFAULT.rules[0].purposes - {Purpose.SECURITY}),
        Stricter("rule", "security", "relationship"),
    ),
    "for some only": (
        lambda: with_rule(0, when=Condition(queue=frozenset({"sales"}))),
        Stricter("rule", "security", "relationship"),
    ),
    "from the call": (
        lambda: with_rule(0, after=Trigger(TriggerKind.CALL_STARTED)),
        Stricter("rule", "security", "relationship"),
    ),
    "no statute any more": (
        lambda: with_rule(3, statutory=None),
        Stricter("rule", "legal_protection", "payment-voucher-fi"),
    ),
    "a cap more": (
        lambda: replace(DEFAULT, caps={**DEFAULT.caps, Purpose.SECURITY: Period(months=120)}),
        Stricter("cap", "security"),
    ),
    "a shorter cap": (
        lambda: replace(DEFAULT, caps={**DEFAULT.caps, Purpose.TRAINING: Period(months=30)}),
        Stricter("cap", "training"),
    ),
    "closed by more": (
        lambda: with_rule(0, closes_on=frozenset({ChoiceKind.RESTRICTION})),
        Stricter("closes_on", "security", "relationship"),
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_keeps_as_long_is_not_stricter(name: str) -> None:
    assert stricter(DEFAULT, HARMLESS[name]()) == ()


@pytest.mark.parametrize("name", STRICTER)
def test_what_may_keep_less_is_named(name: str) -> None:
    make, expected = STRICTER[name]
    assert expected in stricter(DEFAULT, make())


def test_less_grace_after_a_hold_is_stricter() -> None:
    graced = replace(DEFAULT, hold_grace=Period(days=14))
    assert stricter(graced, DEFAULT) == (Stricter("hold_grace"),)


def test_what_kept_in_doubt_must_be_kept_by_the_same_condition() -> None:
    """A call of unknown length is kept until a person decides; a rule for all calls would let it go."""
    doubtful = Rule(
        "long",
        frozenset({Purpose.QUALITY}),
        Period(months=12),
        Trigger(TriggerKind.CALL_STARTED),
        Condition(duration_at_least=timedelta(seconds=15)),
    )
    old = replace(DEFAULT, rules=(*DEFAULT.rules, doubtful))
    assert stricter(old, DEFAULT) == (Stricter("rule", "quality", "long"),)
    assert stricter(old, replace(old, version=2)) == ()
