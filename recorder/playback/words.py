"""Refusals in words: what may not be done, why, and since when. Pure; nothing personal in them."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from retention.decision import Decision, Reason
from retention.explain import sentence
from retention.model import Purpose

__all__ = ["PURPOSE_WORDS", "day", "refusal_text"]

PURPOSE_WORDS: Final = {
    Purpose.SERVICE_EVIDENCE: "Service evidence",
    Purpose.LEGAL_PROTECTION: "Legal protection",
    Purpose.SECURITY: "Security",
    Purpose.TRAINING: "Training",
    Purpose.QUALITY: "Quality",
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# What closed a window, in the words of who did it.
_CLOSED_BY: Final = {
    "objection": "the customer objected on {day}",
    "consent_withdrawn": "the customer withdrew consent on {day}",
    "erasure_granted": "its erasure was granted on {day}",
    "restriction": "its use was restricted on {day}",
    "hold_released": "the legal hold was released on {day}",
}
_FOREVER_CLOSED: Final = frozenset({"objection", "consent_withdrawn", "erasure_granted", "restriction"})


def refusal_text(decision: Decision, purpose: Purpose, reason: Reason) -> str:
    """One sentence for a person whose purpose's window is not open.

    Args:
        decision: what was decided.
        purpose: the declared purpose.
        reason: why it is not open, from `retention.engine.allows`.
    """
    return f"{PURPOSE_WORDS[purpose]} may not use this call: {_why(decision, purpose, reason)}."


def _why(decision: Decision, purpose: Purpose, reason: Reason) -> str:
    zone = decision.zone
    match reason.code:
        case "window_closed":
            words = _CLOSED_BY.get(reason.params.get("by", ""), "its time for this ended on {day}")
            return words.format(day=day(reason.params.get("until", ""), zone))
        case "not_yet_open":
            return f"it opens on {day(reason.params.get('from', ''), zone)}"
        case "no_window":
            closed = next(
                (r for r in decision.considered if r.code in _FOREVER_CLOSED and "at" in r.params), None
            )
            if closed is not None and purpose in (Purpose.TRAINING, Purpose.QUALITY):
                return _CLOSED_BY[closed.code].format(day=day(closed.params["at"], zone))
            return "no rule of the retention schedule opens it for this purpose"
        case _:
            return sentence(reason, zone)


def day(moment: datetime | str, zone: str) -> str:
    """A day as people write it, in the controller's zone: ``3 May 2026``."""
    if isinstance(moment, str):
        if not moment:
            return "an unknown day"
        moment = datetime.fromisoformat(moment)
    if moment.tzinfo is not None:
        moment = moment.astimezone(ZoneInfo(zone))
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
