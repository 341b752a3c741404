"""Deadlines by Regulation 1182/71 with the public holidays of Finland and Sweden."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from recorder.rights.workdays import load, working_day
from retention.rights import deadline, monday_to_friday

HELSINKI, STOCKHOLM = "Europe/Helsinki", "Europe/Stockholm"


@pytest.mark.parametrize(
    ("country", "zone", "filed", "last_day"),
    [
        ("FI", HELSINKI, (2025, 3, 5), date(2025, 4, 7)),  # 5 Apr is a Saturday
        ("FI", HELSINKI, (2024, 3, 5), date(2024, 4, 5)),
        ("FI", HELSINKI, (2026, 8, 31), date(2026, 9, 30)),
        ("FI", HELSINKI, (2026, 3, 5), date(2026, 4, 7)),  # Easter Sunday, then Easter Monday
        ("FI", HELSINKI, (2026, 3, 3), date(2026, 4, 7)),  # Good Friday and the rest of Easter
        ("SE", STOCKHOLM, (2026, 3, 3), date(2026, 4, 7)),
        ("FI", HELSINKI, (2027, 11, 6), date(2027, 12, 7)),  # Independence Day, a Monday
        ("SE", STOCKHOLM, (2027, 11, 6), date(2027, 12, 6)),  # an ordinary Monday in Sweden
        ("SE", STOCKHOLM, (2025, 5, 6), date(2025, 6, 9)),  # 6 June, National Day, is a Friday
        ("FI", HELSINKI, (2025, 5, 6), date(2025, 6, 6)),
        ("FI", HELSINKI, (2026, 5, 19), date(2026, 6, 22)),  # Midsummer Eve and Day
        ("FI", HELSINKI, (2026, 11, 24), date(2026, 12, 28)),  # Christmas
        ("SE", STOCKHOLM, (2026, 11, 25), date(2026, 12, 28)),
        ("FI", HELSINKI, (2026, 12, 6), date(2027, 1, 7)),  # Epiphany
        ("FI", HELSINKI, (2027, 1, 31), date(2027, 3, 1)),  # 28 Feb is a Sunday
    ],
)
async def test_last_day(country: str, zone: str, filed: tuple[int, int, int], last_day: date) -> None:
    filed_at = datetime(*filed, 12, tzinfo=ZoneInfo(zone))
    due = deadline(filed_at, zone, await load(country))
    assert due.last_day == last_day
    midnight = datetime(last_day.year, last_day.month, last_day.day, tzinfo=ZoneInfo(zone))
    assert (due.ends.astimezone(ZoneInfo(zone)).date() - midnight.date()).days == 1


def test_the_day_of_receipt_is_the_controllers() -> None:
    late = datetime(2024, 3, 5, 22, 30, tzinfo=UTC)  # 6 March in Helsinki, still the 5th in UTC
    assert deadline(late, HELSINKI, working_day("FI")).last_day == date(2024, 4, 8)
    assert deadline(late, STOCKHOLM, working_day("SE")).last_day == date(2024, 4, 5)


async def test_other_countries_have_their_own_holidays_and_unknown_ones_fail_early() -> None:
    assert not (await load("EE"))(date(2026, 2, 24))
    assert await load("ZZ") is monday_to_friday
    assert (await load("FI"))(date(2026, 2, 24))
