"""Does a rule apply to these facts, and from when does it count: the leaves of the calculation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

from retention.errors import Undecidable
from retention.model import Choice, ChoiceKind, Condition, Facts, Rule, Trigger, TriggerKind
from retention.periods import end_of_calendar_year, zone_of

__all__ = ["NEEDS_CUSTOMER", "Waiting", "first_failure", "standing_withdrawals", "trigger_of"]

NEEDS_CUSTOMER = frozenset(
    {TriggerKind.LAST_CONTACT, TriggerKind.RELATIONSHIP_ENDED, TriggerKind.CONSENT_WITHDRAWN}
)
"""Triggers for which an unlinked recording uses ``call_started``."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The trigger has not happened yet.

    Attributes:
        on: What is waited for, for example ``relationship_ended`` or ``confirmation``.
    """

    on: str


def first_failure(when: Condition, facts: Facts) -> tuple[str | None, str | None]:
    """Match a condition in three values.

    Returns:
        ``(field, None)``: it does not match, because of this field. ``(None, field)``: nothing
        known contradicts it, but this field is unknown. ``(None, None)``: it matches.
    """
    unknown: str | None = None
    one_of: tuple[tuple[str, frozenset[str] | None, str | None, bool], ...] = (
        ("direction", when.direction, facts.direction, True),
        ("source", when.source, facts.source, False),
        ("queue", when.queue, facts.queue, False),
        ("basis", when.basis, facts.lawful_basis, True),
        ("country", when.country, facts.country, False),
    )
    for name, wanted, actual, can_be_unknown in one_of:
        if wanted is None or actual in wanted:
            continue
        if actual is None and can_be_unknown:
            unknown = unknown or name
            continue
        return name, None
    any_of = (("tag", when.tag, facts.tags), ("service_event", when.service_event, facts.service_events))
    for name, wanted, present in any_of:
        if wanted is not None and not wanted & present:
            return name, None
    if when.duration_at_least is not None or when.duration_less_than is not None:
        length = facts.duration
        if length is None and facts.call_ended is not None:
            length = facts.call_ended - facts.call_started
        if length is None:
            unknown = unknown or "duration"
        elif when.duration_at_least is not None and length < when.duration_at_least:
            return "duration_at_least", None
        elif when.duration_less_than is not None and length >= when.duration_less_than:
            return "duration_less_than", None
    return None, unknown


def standing_withdrawals(facts: Facts, choices: Iterable[Choice]) -> list[Choice]:
    """Withdrawals of consent that reach this recording, earliest first.

    A consent given again after a withdrawal and before the call covers the call: that withdrawal
    spoke of an older consent. One given after the call re-opens nothing.
    """
    entries = list(choices)
    renewals = [
        c for c in entries if c.kind is ChoiceKind.CONSENT_GIVEN and c.effective_at <= facts.call_started
    ]
    standing = [
        c
        for c in entries
        if c.kind is ChoiceKind.CONSENT_WITHDRAWN
        and not any(
            r.effective_at > c.effective_at and (not r.purposes or (c.purposes and c.purposes <= r.purposes))
            for r in renewals
        )
    ]
    return sorted(standing, key=lambda c: (c.effective_at, sorted(c.purposes)))


def trigger_of(
    rule: Rule, facts: Facts, withdrawals: Iterable[Choice], now: datetime
) -> datetime | date | Waiting | None:
    """The moment or local day from which `rule` counts.

    Returns:
        The trigger; `Waiting` while it has not happened; None if it can never happen to this
        recording (a matter's closing for a recording in no matter).

    Raises:
        Undecidable: Its data is missing.
    """
    point = _event(rule.after, rule, facts, withdrawals, now)
    if point is None or isinstance(point, Waiting) or not rule.after.calendar_year:
        return point
    return end_of_calendar_year(point, zone_of(facts.zone))


def _event(
    trigger: Trigger, rule: Rule, facts: Facts, withdrawals: Iterable[Choice], now: datetime
) -> datetime | date | Waiting | None:
    kind = trigger.kind
    if kind in NEEDS_CUSTOMER and not facts.linked:
        return facts.call_started
    match kind:
        case TriggerKind.CALL_STARTED:
            return facts.call_started
        case TriggerKind.CALL_ENDED:
            return _call_ended(facts)
        case TriggerKind.LAST_CONTACT:
            # The call is itself a service contact, so an older register entry never shortens.
            return max(facts.last_contact or facts.call_started, facts.call_started)
        case TriggerKind.RELATIONSHIP_ENDED:
            return _relationship_ended(facts, now)
        case TriggerKind.MATTER_CLOSED:
            return facts.matter_closed or (Waiting("matter_closed") if facts.in_matter else None)
        case TriggerKind.CONSENT_WITHDRAWN:
            whole = (c for c in withdrawals if all(c.reaches(purpose) for purpose in rule.purposes))
            first = next(whole, None)
            return Waiting("consent_withdrawn") if first is None else first.effective_at
        case TriggerKind.FINANCIAL_YEAR_END:
            if facts.financial_year_end is None:
                raise Undecidable("unknown_financial_year_end")
            return facts.financial_year_end


def _call_ended(facts: Facts) -> datetime:
    if facts.call_ended is not None:
        return facts.call_ended
    if facts.duration is not None:
        return facts.call_started + facts.duration
    raise Undecidable("unknown_call_ended")


def _relationship_ended(facts: Facts, now: datetime) -> datetime | date | Waiting:
    """A reported end (a death told by a relative, say) counts once a person has confirmed it."""
    if facts.relationship_ended is None:
        return Waiting("relationship_ended")
    confirmed = facts.relationship_confirmed_at
    return Waiting("confirmation") if confirmed is None or now < confirmed else facts.relationship_ended
