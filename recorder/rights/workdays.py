"""Working days where a controller is, for periods counted by Regulation 1182/71.

Art. 2(2): all days but public holidays, Saturdays and Sundays; public holidays are those that the Member
State has designated. Eves that are merely customary (in Sweden Midsummer's, Christmas and New Year's Eve) are
counted as working days: an answer is then due a day sooner rather than a day late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Final

import holidays

from retention.rights import monday_to_friday

__all__ = ["WorkingDay", "load", "working_day"]

WorkingDay = Callable[[date], bool]

# Made on import: the library reads its files then, and not in the event loop.
_KNOWN: Final[dict[str, holidays.HolidayBase]] = {
    country: holidays.country_holidays(country) for country in ("FI", "SE")
}


async def load(country: str) -> WorkingDay:
    """`working_day` for any country; one met for the first time is read outside the event loop."""
    if country not in _KNOWN and country in holidays.list_supported_countries():
        _KNOWN[country] = await asyncio.to_thread(holidays.country_holidays, country)
    return working_day(country)


def working_day(country: str) -> WorkingDay:
    """A test for working days of a country (ISO 3166); where nobody knows its holidays, Monday to Friday.

    That fails towards an earlier deadline, never a later one.
    """
    calendar = _KNOWN.get(country)
    if calendar is None:
        return monday_to_friday
    return lambda day: monday_to_friday(day) and day not in calendar
