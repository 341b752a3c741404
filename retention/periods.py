"""Periods of time as law counts them.

Regulation (EEC, Euratom) No 1182/71, article 3: the day of the event is not counted; a period of
years or months ends with the expiry of the last hour of the same-numbered day, or of the month's
last day where that day does not exist. Days are days of the controller's time zone, so an end is
always a local midnight, given here as an exclusive instant in UTC.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retention.errors import Misuse, PeriodError, Undecidable

__all__ = [
    "Period",
    "add_months",
    "end_of_calendar_year",
    "end_of_period",
    "financial_year_end",
    "local_day",
    "over_before",
    "parse_duration",
    "start_of_day",
    "zone_of",
]

_PERIOD = re.compile(r"P(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,6})D)?", re.ASCII)
_DURATION = re.compile(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,8})S)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """A period of whole days: ISO 8601 ``PnYnMnWnD``.

    Attributes:
        months: Years and months together, in months.
        days: Weeks and days together, in days.
    """

    months: int = 0
    days: int = 0

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read ``PnYnMnWnD``.

        Raises:
            PeriodError: The text is something else, or a period of time of day (``PT...``).
        """
        match = _PERIOD.fullmatch(text)
        if match is None or not any(match.groups()):
            raise PeriodError("not a period like P8Y, P6M, P2W or P90D")
        years, months, weeks, days = (int(group or 0) for group in match.groups())
        return cls(months=12 * years + months, days=7 * weeks + days)

    def __str__(self) -> str:
        years, months = divmod(self.months, 12)
        parts = [f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (self.days, "D")) if n]
        return "P" + ("".join(parts) or "0D")

    @property
    def is_zero(self) -> bool:
        """Whether nothing is kept at all."""
        return self.months == 0 and self.days == 0

    def never_shorter_than(self, other: Period) -> bool:
        """Whether this period reaches at least as far as `other` from every possible day.

        Years and days do not compare exactly (a month has 28 to 31 days), so the answer is
        False wherever some start day would make `other` the longer one.
        """
        if self.months >= other.months and self.days >= other.days:
            return True
        shortest = (self.months * 146097) // 4800 - 3 + self.days if self.months else self.days
        longest = (other.months * 146097) // 4800 + 3 + other.days if other.months else other.days
        return shortest >= longest

    def in_words(self) -> str:
        """The period in English, for example ``8 years and 6 months``."""
        years, months = divmod(self.months, 12)
        named = ((years, "year"), (months, "month"), (self.days, "day"))
        parts = [f"{n} {word}{'' if n == 1 else 's'}" for n, word in named if n]
        return " and ".join(parts) or "no time"


def parse_duration(text: str) -> timedelta:
    """Read an ISO 8601 duration of hours, minutes and seconds: ``PTnHnMnS``.

    Raises:
        PeriodError: The text is something else.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise PeriodError("not a duration like PT15S, PT5M or PT1H")
    hours, minutes, seconds = (int(group or 0) for group in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


@lru_cache(maxsize=256)
def zone_of(name: str) -> ZoneInfo:
    """The IANA time zone of this name.

    Raises:
        Misuse: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Misuse("not an IANA time zone") from error


def local_day(moment: datetime | date, zone: ZoneInfo) -> date:
    """The calendar day on which `moment` lies in `zone`; a plain date is already such a day.

    Raises:
        Misuse: A datetime without a time zone.
    """
    if not isinstance(moment, datetime):
        return moment
    if moment.utcoffset() is None:
        raise Misuse("a moment without a time zone")
    return moment.astimezone(zone).date()


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC.

    Where the clock jumps over midnight the day begins at the jump, and where midnight happens
    twice it begins at the first one: both are what ``fold=0`` means (PEP 495).
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def add_months(day: date, months: int) -> date:
    """The same-numbered day so many months later, or that month's last day (1182/71 art. 3(2)(c)).

    Raises:
        Undecidable: The result lies outside the calendar.
    """
    index = day.year * 12 + day.month - 1 + months
    year, month = index // 12, index % 12 + 1
    if not 1 <= year <= 9998:
        raise Undecidable("date_out_of_range")
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


@lru_cache(maxsize=65536)
def _end_of(day: date, period: Period, zone: ZoneInfo) -> datetime:
    last = add_months(day, period.months)
    try:
        return start_of_day(last + timedelta(days=period.days + 1), zone)
    except OverflowError as error:
        raise Undecidable("date_out_of_range") from error


def end_of_period(trigger: datetime | date, period: Period, zone: ZoneInfo) -> datetime:
    """The first instant at which a period that began with `trigger` is over.

    Args:
        trigger: The event; an aware datetime, or a local day.
        period: How long.
        zone: Whose days are counted.

    Returns:
        A UTC instant: the local midnight after the period's last day. The window is
        ``[..., end)``.

    Raises:
        Misuse: A naive datetime.
        Undecidable: The end lies outside the calendar.
    """
    return _end_of(local_day(trigger, zone), period, zone)


def over_before(period: Period, now: datetime, zone: ZoneInfo) -> datetime:
    """The instant before which a period must have begun to be over at `now`.

    Returns:
        A UTC instant: `end_of_period(t, period, zone) <= now` exactly where `t` lies before it.

    Raises:
        Misuse: A naive datetime.
        Undecidable: It lies outside the calendar.
    """
    # A later day never ends earlier, so the last day that is over is looked for downwards.
    day = add_months(local_day(now, zone), -period.months) - timedelta(days=period.days - 4)
    while _end_of(day, period, zone) > now:
        day -= timedelta(days=1)
    return start_of_day(day + timedelta(days=1), zone)


def end_of_calendar_year(trigger: datetime | date, zone: ZoneInfo) -> date:
    """31 December of the local year in which `trigger` lies.

    Raises:
        Misuse: A naive datetime.
    """
    return date(local_day(trigger, zone).year, 12, 31)


def financial_year_end(moment: datetime | date, zone: ZoneInfo, month: int, day: int) -> date:
    """The last day of the financial year in which `moment` lies.

    Args:
        moment: The business event.
        zone: The controller's time zone.
        month: Month in which the controller's financial years end.
        day: Last day of the financial year; clamped to the month's last day, so ``2, 29`` means
            the end of February of every year.

    Raises:
        Misuse: A naive datetime, or no such month or day.
    """
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise Misuse("not a month and a day")
    on = local_day(moment, zone)
    for year in (on.year, on.year + 1):
        end = date(year, month, min(day, calendar.monthrange(year, month)[1]))
        if end >= on:
            return end
    raise AssertionError  # the same day of next year is never before today
