"""Legal holds: whom they reach, and who may let go. Pure; the catalogue stores and asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime

from retention.errors import Misuse, RetentionError
from retention.model import Condition, Facts, Hold
from retention.periods import local_day, zone_of
from retention.rules import first_failure

__all__ = ["HoldQuery", "ReleaseRefused", "check_release", "review_is_due", "standing"]


class ReleaseRefused(RetentionError):
    """A hold may not be released this way.

    Attributes:
        code: ``same_person``, ``already_released`` or ``before_placement``.
    """

    def __init__(self, code: str) -> None:
        super().__init__(f"the hold is not released: {code.replace('_', ' ')}")
        self.code = code


@dataclass(frozen=True, slots=True)
class HoldQuery:
    """A hold on whatever matches, recordings still to come included.

    Attributes:
        when: As in a schedule's rule.
        started_from: Calls that began at or after this instant, if given.
        started_before: Calls that began before this instant, if given.
    """

    when: Condition = field(default_factory=Condition)
    started_from: datetime | None = None
    started_before: datetime | None = None

    def __post_init__(self) -> None:
        if self.when.is_empty and self.started_from is None and self.started_before is None:
            raise Misuse("a hold on everything names at least one condition")
        for moment in (self.started_from, self.started_before):
            if moment is not None and moment.utcoffset() is None:
                raise Misuse("a moment without a time zone")

    def matches(self, facts: Facts) -> bool:
        """Whether the hold reaches a recording; what is unknown is held rather than lost."""
        if self.started_from is not None and facts.call_started < self.started_from:
            return False
        if self.started_before is not None and facts.call_started >= self.started_before:
            return False
        failed, _ = first_failure(self.when, facts)
        return failed is None


def standing(holds: Iterable[Hold], now: datetime) -> tuple[Hold, ...]:
    """The holds in force at `now`: two placed and one released leave one."""
    return tuple(hold for hold in holds if hold.stands(now))


def check_release(hold: Hold, asked_by: str, approved_by: str, now: datetime) -> None:
    """Two different people release a hold.

    Args:
        hold: The hold.
        asked_by: Id of the person who wants it released.
        approved_by: Id of the person who agrees.
        now: The time of release.

    Raises:
        ReleaseRefused: It is one person, or the hold does not stand.
    """
    if asked_by == approved_by:
        raise ReleaseRefused("same_person")
    if now < hold.placed_at:
        raise ReleaseRefused("before_placement")
    if not hold.stands(now):
        raise ReleaseRefused("already_released")


def review_is_due(review_on: date, now: datetime, zone: str) -> bool:
    """Whether a matter's review date has come, on the controller's calendar."""
    return local_day(now, zone_of(zone)) >= review_on
