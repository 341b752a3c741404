"""A decision that is filled in from another one's is the engine's, letter for letter."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.engine import decide_case
from retention.model import (
    Case,
    Choice,
    ChoiceKind,
    Facts,
    Hold,
    Purpose,
    Request,
    RequestKind,
    RequestState,
    Rule,
    Schedule,
)
from retention.periods import Period
from retention.schedule import check, default_schedule_text
from retention.templates import Templates
from tests.retention import strategies

T = TypeVar("T")
ZONE = "Europe/Helsinki"
NOW = datetime(2026, 3, 5, 8, tzinfo=UTC)
DEFAULT = check(default_schedule_text("FI", "fi-main"))
shifts = st.lists(st.integers(-90_000, 90_000).map(lambda s: timedelta(seconds=s)), max_size=5)


@st.composite
def cases(draw: st.DrawFn, schedule: Schedule) -> Case:
    return Case(
        replace(draw(strategies.facts()), zone=ZONE, card_security=draw(st.booleans())),
        schedule,
        tuple(draw(st.lists(strategies.holds(), max_size=2, unique_by=lambda hold: hold.id))),
        tuple(draw(st.lists(strategies.choices, max_size=2))),
        tuple(draw(st.lists(strategies.requests(), max_size=2))),
    )


def moved(case: Case, by: timedelta) -> Case:
    """Nearly the same recording, so that kinds do meet."""
    facts = case.facts
    contact = None if facts.last_contact is None else facts.last_contact + 2 * by
    ended = None if facts.call_ended is None else facts.call_ended + by
    return replace(
        case,
        facts=replace(facts, call_started=facts.call_started + by, last_contact=contact, call_ended=ended),
        choices=tuple(replace(c, effective_at=c.effective_at + by) for c in case.choices),
    )


@settings(max_examples=400)
@given(st.data(), strategies.schedules, shifts, strategies.moments)
def test_filling_in_changes_no_decision(
    data: st.DataObject, schedule: Schedule, by: list[timedelta], now: datetime
) -> None:
    drawn = data.draw(st.lists(cases(schedule), min_size=1, max_size=3))
    estate = [moved(case, shift) for case in drawn for shift in (timedelta(0), *by)]
    templates = Templates(schedule, ZONE)
    for moment in (now, now + timedelta(hours=1)):
        for case in estate:
            same(templates, case, moment)


def same(templates: Templates, case: Case, now: datetime) -> None:
    expected, found = decide_case(case, now), templates.decide(case, now)
    assert json.loads(found.document) == expected.to_json()
    assert found.schedule_version == expected.schedule_version
    assert found.erase_on == expected.erase_on
    assert found.reevaluate_at == expected.reevaluate_at
    flags = (found.destroy_original, found.held, found.restricted)
    assert flags == (expected.destroy_original, expected.held, expected.restricted)


def crowded(dice: random.Random, rules: list[Rule]) -> tuple[Schedule, list[Case]]:
    """An estate of few dates, a few days apart, so that everything meets everything and borders are hit."""

    def moment() -> datetime:
        return NOW + timedelta(days=dice.choice((-3, -2, -1, 0, 0, 1)), seconds=dice.choice((-1, 0, 0, 9000)))

    def maybe(part: float, value: Callable[[], T]) -> T | None:
        return value() if dice.random() < part else None

    def some(make: Callable[[], T]) -> tuple[T, ...]:
        return tuple(make() for _ in range(dice.choice((0, 0, 0, 1, 2))))

    def limited() -> frozenset[Purpose]:
        return frozenset(dice.sample(list(Purpose), dice.choice((0, 0, 1))))

    def request() -> Request:
        filed, kind = moment(), dice.choice((RequestKind.ERASURE, *RequestKind))
        state = dice.choice(list(RequestState))
        return Request(kind, state, filed, None if state is RequestState.PENDING else max(filed, moment()))

    def hold(name: str) -> Hold:
        return Hold(name, moment(), maybe(0.5, moment), "m")

    few = [replace(rule, keep=Period(days=dice.choice((1, 2, 3)))) for rule in rules]
    caps = {purpose: Period(days=dice.choice((1, 2))) for purpose in limited() | limited()}
    grace = dice.choice((Period(), Period(days=1)))
    schedule = Schedule("fi-main", 3, tuple(few), caps, hold_grace=grace)
    bases = ("consent", "customer_relationship")
    estate = []
    for _ in range(60):
        plain = dice.random() < 0.5
        facts = Facts(
            zone=ZONE,
            country="FI",
            call_started=moment(),
            call_ended=maybe(0.4, moment),
            duration=maybe(0.8, lambda: timedelta(seconds=dice.choice((-1, 14, 15, 100_000)))),
            direction=dice.choice((None, "inbound", "outbound")),
            service_events=frozenset(dice.choice(((), ("payment",)))),
            lawful_basis=dice.choice(bases),
            linked=dice.random() < 0.8,
            card_security=dice.random() < 0.1,
            last_contact=maybe(0.6, moment),
            relationship_ended=maybe(0.4, moment),
            relationship_confirmed_at=maybe(0.6, moment),
            financial_year_end=maybe(0.8, lambda: moment().date()),
            in_matter=dice.random() < 0.2,
            matter_closed=maybe(0.2, moment),
        )
        choices = () if plain else some(lambda: Choice(dice.choice(list(ChoiceKind)), moment(), limited()))
        holds = () if plain else (hold("h1"), hold("h2"))[: dice.choice((0, 0, 1, 2))]
        estate.append(Case(facts, schedule, holds, choices, () if plain else some(request)))
    return schedule, estate


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.lists(strategies.rules(), max_size=3, unique_by=lambda rule: rule.id))
def test_nor_where_all_dates_are_close_together(seed: int, rules: list[Rule]) -> None:
    schedule, estate = crowded(random.Random(seed), rules)
    templates = Templates(schedule, ZONE)
    for case in estate:
        same(templates, case, NOW)
    assert templates.decided <= len(estate)


def call(days: int, *, contact: int, queue: str = "sales") -> Case:
    return Case(
        Facts(
            zone=ZONE,
            country="FI",
            call_started=NOW - timedelta(days=days),
            duration=timedelta(seconds=60),
            direction="inbound",
            queue=queue,
            lawful_basis="customer_relationship",
            linked=True,
            last_contact=NOW - timedelta(days=contact),
            financial_year_end=NOW.date(),
        ),
        DEFAULT,
    )


def test_the_engine_decides_a_few_of_very_many() -> None:
    templates = Templates(DEFAULT, ZONE)
    for days in range(3000):
        case = call(days, contact=days // 2, queue=f"queue-{days}")
        found = templates.decide(case, NOW + timedelta(seconds=days))
        assert json.loads(found.document) == decide_case(case, NOW + timedelta(seconds=days)).to_json()
    assert templates.decided < 20


def test_forgetting_kinds_changes_nothing() -> None:
    templates = Templates(DEFAULT, ZONE, size=1)
    for days in (1, 400, 1, 800, 3000, 1):
        case = call(days, contact=days)
        assert json.loads(templates.decide(case, NOW).document) == decide_case(case, NOW).to_json()
    assert templates.decided == 6


def test_a_percent_sign_and_what_only_looks_like_an_instant_are_kept() -> None:
    odd = replace(DEFAULT.rules[0], id="100%s-rule", statutory="2026-03-05 %d")
    schedule = replace(DEFAULT, rules=(odd, *DEFAULT.rules[1:]))
    templates = Templates(schedule, ZONE)
    for days in (1, 2, 3):
        case = replace(call(days, contact=0), schedule=schedule)
        assert json.loads(templates.decide(case, NOW).document) == decide_case(case, NOW).to_json()
    assert templates.decided == 3


def test_a_case_of_another_schedule_or_zone_is_refused() -> None:
    templates = Templates(replace(DEFAULT, version=2), ZONE)
    with pytest.raises(ValueError, match="another schedule"):
        templates.decide(call(1, contact=1), NOW)
    with pytest.raises(ValueError, match="another zone"):
        Templates(DEFAULT, "Europe/Stockholm").decide(call(1, contact=1), NOW)
