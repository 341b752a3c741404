"""How many recordings an hour of a source should have, by what the same hour had before. Pure.

The rate is learned: the median of the same hour of the week in the four weeks before, in local time; a public
holiday is compared with Sundays. Arrivals of calls are taken as Poisson (Brown et al., "Statistical analysis
of a telephone call center", JASA 100, 2005): with a mean m, fewer than m - 3 sqrt(m) come about once in a
thousand hours. Under nine calls an hour silence is no news.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from statistics import median
from typing import Final
from zoneinfo import ZoneInfo

WEEKS: Final = 4
_NEEDED: Final = 3
"""Comparable hours without which nothing is expected."""
_LEAST: Final = 9
_SUNDAY: Final = 6


def learned(
    hour: datetime,
    history: Mapping[datetime, int],
    zone: ZoneInfo,
    is_holiday: Callable[[date], bool],
) -> int | None:
    """The number of recordings to expect in an hour.

    Args:
        hour: Its start, UTC.
        history: Numbers received by start of the hour, UTC; an hour without recordings is there with zero.
        zone: Of the controller.
        is_holiday: Whether a local date is a public holiday.

    Returns:
        None when too little is known.
    """
    local = hour.astimezone(zone)
    as_sunday = is_holiday(local.date())
    samples: list[int] = []
    for days in range(1, WEEKS * 7 + 1):
        # Local wall time moves with daylight saving; the comparison is with the same hour on the clock.
        then = (local.replace(tzinfo=None) - timedelta(days=days)).replace(tzinfo=zone)
        holiday = is_holiday(then.date())
        comparable = (
            then.weekday() == _SUNDAY or holiday
            if as_sunday
            else (then.weekday() == local.weekday() and not holiday)
        )
        found = history.get(then.astimezone(hour.tzinfo)) if comparable else None
        if found is not None:
            samples.append(found)
    return round(median(samples)) if len(samples) >= _NEEDED else None


def falls_short(received: int, expected: int | None) -> bool:
    """Whether so few came that chance does not explain it."""
    return expected is not None and expected >= _LEAST and received < expected - 3 * math.sqrt(expected)
