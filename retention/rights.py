"""The rights of the person: deadlines, and what a request does to recordings. Pure.

GDPR art. 12(3): an answer within one month of receipt, extendable by two more if the person is told
so within the first. Counted by Regulation 1182/71 art. 3; a last day that is not a working day moves
to the next one (art. 3(4)). Every channel starts the clock; checking the identity does not stop it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from retention.errors import Misuse, RetentionError
from retention.model import RequestKind, Verdict
from retention.periods import add_months, local_day, start_of_day, zone_of

__all__ = [
    "RESTRICTS_WHILE_PENDING",
    "Deadline",
    "ExtensionRefused",
    "RefusalGround",
    "deadline",
    "extend",
    "monday_to_friday",
    "refusal_ground",
]

MONTHS = 1
EXTENDED_MONTHS = 3
_LONGEST_HOLIDAY = 31

RESTRICTS_WHILE_PENDING = frozenset(
    {RequestKind.ERASURE, RequestKind.RECTIFICATION, RequestKind.OBJECTION, RequestKind.RESTRICTION}
)
"""While these wait for a decision, use is restricted (GDPR art. 18(1)); all kinds freeze erasure."""


class RefusalGround(StrEnum):
    """Coded grounds on which a request is refused, in whole or for named recordings."""

    LEGAL_OBLIGATION = "legal_obligation"  # GDPR art. 17(3)(b)
    LEGAL_CLAIMS = "legal_claims"  # GDPR art. 17(3)(e)
    IDENTITY_NOT_SHOWN = "identity_not_shown"  # GDPR art. 12(2), 12(6)
    UNFOUNDED_OR_EXCESSIVE = "unfounded_or_excessive"  # GDPR art. 12(5)
    COMPELLING_GROUNDS = "compelling_grounds"  # GDPR art. 21(1)
    RIGHTS_OF_OTHERS = "rights_of_others"  # GDPR art. 15(4), 20(4)
    NOT_SELF_PROVIDED = "not_self_provided"  # GDPR art. 20(1)


class ExtensionRefused(RetentionError):
    """The first month is over, or it was extended already."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when an answer is owed.

    Attributes:
        last_day: The last day, on the controller's calendar.
        ends: The first instant after it, UTC.
        extended: Whether the two further months are in it.
    """

    last_day: date
    ends: datetime
    extended: bool = False

    def is_over(self, now: datetime) -> bool:
        """Whether an answer at `now` is late."""
        return now >= self.ends


def monday_to_friday(day: date) -> bool:
    """Working days where nobody has public holidays; pass a calendar's own test instead."""
    return day.weekday() < 5


def deadline(
    filed_at: datetime,
    zone: str,
    working_day: Callable[[date], bool] = monday_to_friday,
    *,
    extended: bool = False,
) -> Deadline:
    """When the answer to a request is due.

    Args:
        filed_at: Receipt, on whatever channel; aware.
        zone: The controller's IANA zone.
        working_day: Whether a day is a working day where the controller is.
        extended: With the two further months.

    Raises:
        Misuse: A naive datetime, or a calendar without working days.
        Undecidable: Outside the calendar.
    """
    tz = zone_of(zone)
    months = EXTENDED_MONTHS if extended else MONTHS
    last = add_months(local_day(filed_at, tz), months)
    for _ in range(_LONGEST_HOLIDAY):
        if working_day(last):
            return Deadline(last, start_of_day(last + timedelta(days=1), tz), extended)
        last += timedelta(days=1)
    raise Misuse("a month without a working day")


def extend(
    filed_at: datetime,
    told_at: datetime,
    zone: str,
    working_day: Callable[[date], bool] = monday_to_friday,
) -> Deadline:
    """Extend by two months; the person was told, with reasons, at `told_at`.

    Raises:
        ExtensionRefused: The notice went out after the first month.
        Misuse: A naive datetime.
    """
    if deadline(filed_at, zone, working_day).is_over(told_at):
        raise ExtensionRefused("the notice of extension goes out within the first month")
    return deadline(filed_at, zone, working_day, extended=True)


def refusal_ground(verdict: Verdict) -> RefusalGround | None:
    """The coded ground for a recording that an erasure request leaves in place.

    Returns:
        None where the recording goes, or stays only because something else is still open.
    """
    if verdict.erase:
        return None
    return {"hold": RefusalGround.LEGAL_CLAIMS, "statute": RefusalGround.LEGAL_OBLIGATION}.get(verdict.code)
