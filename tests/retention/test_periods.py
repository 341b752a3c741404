from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.errors import Misuse, PeriodError, Undecidable
from retention.periods import (
    Period,
    end_of_calendar_year,
    end_of_period,
    financial_year_end,
    parse_duration,
    start_of_day,
    zone_of,
)
from tests.retention.strategies import ZONES, moments, periods

HELSINKI = zone_of("Europe/Helsinki")


@pytest.mark.parametrize(
    ("text", "period", "shown"),
    [
        ("P8Y", Period(months=96), "P8Y"),
        ("P1Y6M", Period(months=18), "P1Y6M"),
        ("P18M", Period(months=18), "P1Y6M"),
        ("P2W", Period(days=14), "P14D"),
        ("P90D", Period(days=90), "P90D"),
        ("P1Y2M3W4D", Period(months=14, days=25), "P1Y2M25D"),
        ("P0D", Period(), "P0D"),
    ],
)
def test_periods_are_read_and_shown(text: str, period: Period, shown: str) -> None:
    assert Period.parse(text) == period
    assert str(period) == shown
    assert Period.parse(shown) == period


@pytest.mark.parametrize(
    "text", ["", "P", "8Y", "P8", "P-1Y", "PT15S", "P1DT1H", "p8y", "P1.5Y", "P８Y", "P8Y ", "P1D1Y"]
)
def test_other_texts_are_not_periods(text: str) -> None:
    with pytest.raises(PeriodError):
        Period.parse(text)


def test_durations() -> None:
    assert parse_duration("PT15S") == timedelta(seconds=15)
    assert parse_duration("PT1H2M3S") == timedelta(hours=1, minutes=2, seconds=3)
    for text in ("PT", "P1D", "15", "PT-1S"):
        with pytest.raises(PeriodError):
            parse_duration(text)


@pytest.mark.parametrize(
    ("trigger", "period", "zone", "end"),
    [
        ("2026-03-05T10:00+02:00", "P8Y", "Europe/Helsinki", "2034-03-06T00:00+02:00"),
        ("2092-02-29T12:00+02:00", "P8Y", "Europe/Helsinki", "2100-03-01T00:00+02:00"),
        ("2024-02-29T12:00+02:00", "P4Y", "Europe/Helsinki", "2028-03-01T00:00+02:00"),
        ("2026-01-31T12:00+02:00", "P1M", "Europe/Helsinki", "2026-03-01T00:00+02:00"),
        ("2026-08-31T12:00+03:00", "P1M", "Europe/Helsinki", "2026-10-01T00:00+03:00"),
        # 23:30 local on the days on which summer time begins and ends: the next day in UTC is not counted
        ("2026-03-29T23:30+03:00", "P1Y", "Europe/Helsinki", "2027-03-30T00:00+03:00"),
        ("2026-10-25T23:30+02:00", "P1Y", "Europe/Helsinki", "2027-10-26T00:00+03:00"),
        # the same instant is another day elsewhere
        ("2026-03-05T22:30+00:00", "P1D", "Europe/Helsinki", "2026-03-08T00:00+02:00"),
        ("2026-03-05T22:30+00:00", "P1D", "Europe/Stockholm", "2026-03-07T00:00+01:00"),
        # midnight did not exist: the day begins at one
        ("2017-10-14T12:00-03:00", "P0D", "America/Sao_Paulo", "2017-10-15T01:00-02:00"),
        # the whole day did not exist
        ("2011-12-29T12:00-10:00", "P0D", "Pacific/Apia", "2011-12-31T00:00+14:00"),
        ("2026-12-30T12:00+02:00", "P90D", "Europe/Helsinki", "2027-03-31T00:00+03:00"),
    ],
)
def test_ends(trigger: str, period: str, zone: str, end: str) -> None:
    got = end_of_period(datetime.fromisoformat(trigger), Period.parse(period), zone_of(zone))
    assert got == datetime.fromisoformat(end)
    assert got.utcoffset() == timedelta(0)


def test_calendar_and_financial_years() -> None:
    assert end_of_calendar_year(datetime(2024, 12, 31, 22, 30, tzinfo=UTC), HELSINKI) == date(2025, 12, 31)
    assert end_of_calendar_year(date(2024, 3, 31), HELSINKI) == date(2024, 12, 31)
    assert financial_year_end(date(2024, 3, 31), HELSINKI, 3, 31) == date(2024, 3, 31)
    assert financial_year_end(date(2024, 4, 1), HELSINKI, 3, 31) == date(2025, 3, 31)
    assert financial_year_end(date(2023, 3, 1), HELSINKI, 2, 29) == date(2024, 2, 29)
    assert financial_year_end(date(2025, 2, 1), HELSINKI, 2, 29) == date(2025, 2, 28)
    with pytest.raises(Misuse):
        financial_year_end(date(2025, 2, 1), HELSINKI, 13, 1)


def test_misuse_and_the_end_of_the_calendar() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 -- the point of the test
    with pytest.raises(Misuse):
        end_of_period(naive, Period(days=1), HELSINKI)
    for period in (Period(months=12 * 9000), Period(days=999_999_9)):
        with pytest.raises(Undecidable) as caught:
            end_of_period(date(2026, 1, 1), period, HELSINKI)
        assert caught.value.code == "date_out_of_range"
    for name in ("Europe/Nowhere", "../etc/passwd", ""):
        with pytest.raises(Misuse):
            zone_of(name)


@given(moments, periods, st.sampled_from(ZONES))
def test_an_end_is_a_first_instant_of_a_day_after_the_trigger(
    trigger: datetime, period: Period, zone: str
) -> None:
    tz = zone_of(zone)
    end = end_of_period(trigger, period, tz)
    assert end > trigger
    local = end.astimezone(tz)
    assert end == start_of_day(local.date(), tz)
    assert (end - timedelta(seconds=1)).astimezone(tz).date() < local.date()


@given(moments, moments, periods, st.sampled_from(ZONES))
def test_a_later_trigger_never_ends_earlier(a: datetime, b: datetime, period: Period, zone: str) -> None:
    tz = zone_of(zone)
    first, second = sorted((a, b))
    assert end_of_period(first, period, tz) <= end_of_period(second, period, tz)


@given(periods, periods, moments)
def test_never_shorter_than_is_never_wrong(a: Period, b: Period, trigger: datetime) -> None:
    if a.never_shorter_than(b):
        assert end_of_period(trigger, a, HELSINKI) >= end_of_period(trigger, b, HELSINKI)
