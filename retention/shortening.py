"""Does a schedule shorten anything, for whatever recording there may be one day?

A simulation answers for the recordings that are there. This compares the rules themselves: whatever
cannot be shown to keep at least as long, wherever the old schedule kept, is named. It is a proof in
one direction only: nothing named means that nothing is shortened, but what is named might be harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from retention.contradictions import implies, is_unconditional, never_earlier
from retention.model import ChoiceKind, Condition, Purpose, Rule, Schedule, TriggerKind

__all__ = ["Stricter", "stricter"]

_OBJECTION_FLOOR = frozenset({Purpose.TRAINING, Purpose.QUALITY})
# What counts from these is there for every recording, or waited for: never in doubt, never without.
_ALWAYS_COUNTED = frozenset(
    {TriggerKind.CALL_STARTED, TriggerKind.LAST_CONTACT, TriggerKind.RELATIONSHIP_ENDED}
)


@dataclass(frozen=True, slots=True, order=True)
class Stricter:
    """Something of a new schedule that may end a window, or a recording, earlier than the old one.

    Attributes:
        what: ``rule``: no new rule keeps wherever and as long as this old one. ``cap``: it is new or
            shorter. ``closes_on``: a choice closes a purpose that it left open. ``hold_grace``.
        purpose: Whose window it is, or an empty string.
        rule: Id of the old rule that nothing replaces, or of the new one that closes, or that speaks of
            what no rule spoke of; else empty.
    """

    what: str
    purpose: str = ""
    rule: str = ""


def stricter(old: Schedule, new: Schedule) -> tuple[Stricter, ...]:
    """What of `new` cannot be shown to keep as long as `old` does; empty if nothing is shortened."""
    return tuple(
        sorted(
            {
                *_rules(old, new),
                *_first_rules(old, new),
                *_caps(old, new),
                *_closers(old, new),
                *_grace(old, new),
            }
        )
    )


def _rules(old: Schedule, new: Schedule) -> Iterator[Stricter]:
    for rule in old.rules:
        for purpose in rule.purposes:
            narrow = replace(rule, purposes=frozenset({purpose}))
            if not any(_keeps_as_long(other, narrow) for other in new.rules):
                yield Stricter("rule", str(purpose), rule.id)


def _first_rules(old: Schedule, new: Schedule) -> Iterator[Stricter]:
    """What no rule speaks of is kept until a person decides; a first rule would let it go."""
    if any(is_unconditional(rule) for rule in old.rules):
        return
    spoken_of = {(rule.when, rule.after) for rule in old.rules}
    for rule in new.rules:
        if (rule.when, rule.after) not in spoken_of:
            yield Stricter("rule", "", rule.id)


def _keeps_as_long(rule: Rule, other: Rule) -> bool:
    """Whether `rule` keeps for the purpose of `other` wherever that applies, for as long and as firmly."""
    return (
        other.purposes <= rule.purposes
        and (rule.statutory is not None or other.statutory is None)
        and (rule.when == other.when or (not _leaves_doubt(other.when) and implies(other.when, rule.when)))
        and never_earlier(rule.after, other.after)
        and rule.keep.never_shorter_than(other.keep)
    )


def _leaves_doubt(when: Condition) -> bool:
    """Whether a condition asks for what may be unknown: then it keeps, until a person decides."""
    asked = (when.direction, when.basis, when.duration_at_least, when.duration_less_than)
    return any(field is not None for field in asked)


def _caps(old: Schedule, new: Schedule) -> Iterator[Stricter]:
    for purpose, cap in new.caps.items():
        before = old.caps.get(purpose)
        if before is None or not cap.never_shorter_than(before):
            yield Stricter("cap", str(purpose))


def _closers(old: Schedule, new: Schedule) -> Iterator[Stricter]:
    for rule in new.rules:
        for purpose in rule.purposes:
            for choice in rule.closes_on:
                if choice is ChoiceKind.OBJECTION and purpose in _OBJECTION_FLOOR:
                    continue  # closes it anyway
                if not any(_closed_before(other, rule, purpose, choice) for other in old.rules):
                    yield Stricter("closes_on", str(purpose), rule.id)


def _closed_before(other: Rule, rule: Rule, purpose: Purpose, choice: ChoiceKind) -> bool:
    """Whether an old rule had the choice close the purpose wherever the new one does."""
    return (
        purpose in other.purposes
        and choice in other.closes_on
        and (rule.when == other.when or (not _leaves_doubt(other.when) and implies(rule.when, other.when)))
        and (other.after == rule.after or other.after.kind in _ALWAYS_COUNTED)
    )


def _grace(old: Schedule, new: Schedule) -> Iterator[Stricter]:
    if not new.hold_grace.never_shorter_than(old.hold_grace):
        yield Stricter("hold_grace")
