"""What makes a readable schedule impossible to keep to: rules that contradict or hide each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from retention.model import CONSENT, ChoiceKind, Condition, Purpose, Rule, Trigger, TriggerKind
from retention.periods import Period
from retention.positions import Path

__all__ = ["Finding", "contradictions", "implies", "is_shadowed_by", "is_unconditional", "never_earlier"]

_SETS = ("direction", "source", "queue", "tag", "service_event", "basis", "country")
_ALWAYS_THERE = frozenset(
    {
        TriggerKind.CALL_STARTED,
        TriggerKind.LAST_CONTACT,
        TriggerKind.RELATIONSHIP_ENDED,
        TriggerKind.CALL_ENDED,
    }
)
_OBJECTION_FLOOR = frozenset({Purpose.TRAINING, Purpose.QUALITY})


@dataclass(frozen=True, slots=True)
class Finding:
    """A contradiction, and where it stands."""

    path: Path
    message: str
    hint: str = ""


def contradictions(
    rules: Sequence[tuple[int, Rule]], caps: Mapping[Purpose, Period], country: str | None
) -> Iterator[Finding]:
    """Find what no recording could ever satisfy, or what would hide a rule from every recording.

    Args:
        rules: The readable rules with their place in the document.
        caps: The caps.
        country: The controller's country, if known.
    """
    for index, rule in rules:
        yield from _impossible(index, rule, country)
        yield from _statute(index, rule, caps)
    if rules and not any(is_unconditional(rule) for _, rule in rules):
        yield Finding(
            ("rule", rules[0][0]),
            "no rule is unconditional, so some recordings would have none",
            "give one rule no 'when', and a trigger that every recording has, such as last_contact",
        )
    for position, (index, rule) in enumerate(rules):
        for other_position, (_, other) in enumerate(rules):
            mutual = is_shadowed_by(other, rule)
            if other_position == position or not is_shadowed_by(rule, other):
                continue
            if mutual and other_position > position:
                continue  # two equal rules: the later one is the one too many
            yield Finding(
                ("rule", index),
                f"rule {rule.id!r} can never decide anything: {other.id!r} always keeps at least as long",
                "remove it, keep longer, or narrow the other rule",
            )
            break


def is_unconditional(rule: Rule) -> bool:
    """Whether a rule speaks of every recording."""
    return rule.when.is_empty and rule.after.kind in _ALWAYS_THERE


def _impossible(index: int, rule: Rule, country: str | None) -> Iterator[Finding]:
    when, path = rule.when, ("rule", index, "when")
    least, less = when.duration_at_least, when.duration_less_than
    if least is not None and less is not None and least >= less:
        yield Finding(
            (*path, "duration_at_least"),
            f"rule {rule.id!r} can never apply: no call is at least {least} and shorter than {less}",
        )
    if less is not None and less.total_seconds() <= 0:
        yield Finding(
            (*path, "duration_less_than"), f"rule {rule.id!r} can never apply: no call is shorter than none"
        )
    if country is not None and when.country is not None and country not in when.country:
        yield Finding(
            (*path, "country"),
            f"rule {rule.id!r} can never apply: the controller is in {country}",
            "put it into the other controller's schedule",
        )
    if rule.after.kind is TriggerKind.CONSENT_WITHDRAWN:
        if when.basis is not None and CONSENT not in when.basis:
            yield Finding(
                ("rule", index, "after"),
                f"rule {rule.id!r} waits for the withdrawal of consent, but applies only to other bases",
                'let basis name "consent", or count from another event',
            )
        if ChoiceKind.CONSENT_WITHDRAWN in rule.closes_on:
            yield Finding(
                ("rule", index, "closes_on"),
                f"rule {rule.id!r} closes on the event from which it counts",
                "remove consent_withdrawn here, or count from another event",
            )


def _statute(index: int, rule: Rule, caps: Mapping[Purpose, Period]) -> Iterator[Finding]:
    if rule.statutory is None:
        return
    if rule.closes_on:
        yield Finding(
            ("rule", index, "closes_on"),
            f"rule {rule.id!r} is statutory, so no choice closes it",
            "remove closes_on, or statutory",
        )
    for purpose in sorted(rule.purposes):
        cap = caps.get(purpose)
        if cap is not None and not cap.never_shorter_than(rule.keep):
            yield Finding(
                ("cap", str(purpose)),
                f"the cap {cap} on {purpose} is below what statute {rule.statutory!r} wants: {rule.keep}",
                f"raise it to {rule.keep} at least, or remove it",
            )


def is_shadowed_by(rule: Rule, other: Rule) -> bool:
    """Whether `other` decides wherever `rule` applies, so that `rule` could as well not be there.

    True if `other` applies to at least the same recordings and purposes, counts from the same or a
    never earlier event, keeps at least as long, is at least as strong, and is closed by as much.
    """
    if rule is other or not rule.purposes <= other.purposes:
        return False
    if rule.statutory is not None and other.statutory is None:
        return False
    closes = {
        c for c in rule.closes_on if not (c is ChoiceKind.OBJECTION and rule.purposes <= _OBJECTION_FLOOR)
    }
    if other.statutory is None and not closes <= other.closes_on:
        return False  # it has no say in how long, but it has one in what closes it
    return (
        implies(rule.when, other.when)
        and never_earlier(other.after, rule.after)
        and other.keep.never_shorter_than(rule.keep)
    )


def implies(narrow: Condition, wide: Condition) -> bool:
    """Whether everything that matches `narrow` matches `wide`."""
    for name in _SETS:
        wanted: frozenset[str] | None = getattr(wide, name)
        given: frozenset[str] | None = getattr(narrow, name)
        if wanted is not None and (given is None or not given <= wanted):
            return False
    if wide.duration_at_least is not None and (
        narrow.duration_at_least is None or narrow.duration_at_least < wide.duration_at_least
    ):
        return False
    return wide.duration_less_than is None or (
        narrow.duration_less_than is not None and narrow.duration_less_than <= wide.duration_less_than
    )


def never_earlier(late: Trigger, early: Trigger) -> bool:
    """Whether `late` can be proved never to lie before `early`, for whatever recording."""
    if late.kind is not early.kind and not (
        early.kind is TriggerKind.CALL_STARTED and late.kind is TriggerKind.LAST_CONTACT
    ):
        return False
    return late.calendar_year or not early.calendar_year
