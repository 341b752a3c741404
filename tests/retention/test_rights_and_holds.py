from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from retention.errors import Misuse
from retention.holds import HoldQuery, ReleaseRefused, check_release, review_is_due, standing
from retention.model import Condition, Facts, Hold, Verdict
from retention.rights import ExtensionRefused, RefusalGround, deadline, extend, refusal_ground

HELSINKI = "Europe/Helsinki"
T0 = datetime(2026, 3, 5, 8, tzinfo=UTC)


def every_day(day: date) -> bool:
    return True


@pytest.mark.parametrize(
    ("filed", "last"),
    [
        ("2026-03-05T09:00+02:00", date(2026, 4, 5)),
        ("2026-08-31T09:00+03:00", date(2026, 9, 30)),
        ("2027-01-31T23:59+02:00", date(2027, 2, 28)),
        ("2028-01-31T23:59+02:00", date(2028, 2, 29)),
        ("2026-03-05T22:30+00:00", date(2026, 4, 6)),  # already the 6th in Helsinki
    ],
)
def test_one_month(filed: str, last: date) -> None:
    due = deadline(datetime.fromisoformat(filed), HELSINKI, every_day)
    assert due.last_day == last
    assert not due.is_over(due.ends - timedelta(seconds=1))
    assert due.is_over(due.ends)


def test_a_last_day_off_moves_to_the_next_working_day() -> None:
    filed = datetime.fromisoformat("2026-03-05T09:00+02:00")
    assert deadline(filed, HELSINKI).last_day == date(2026, 4, 6)  # the 5th is a Sunday

    def easter(day: date) -> bool:
        return day.weekday() < 5 and day not in {date(2026, 4, 3), date(2026, 4, 6)}

    due = deadline(filed, HELSINKI, easter)
    assert due.last_day == date(2026, 4, 7)
    assert due.ends == datetime.fromisoformat("2026-04-08T00:00+03:00")
    with pytest.raises(Misuse):
        deadline(filed, HELSINKI, lambda day: False)


def test_extension_only_within_the_first_month() -> None:
    filed = datetime.fromisoformat("2026-08-31T09:00+03:00")
    within = datetime.fromisoformat("2026-09-30T23:59+03:00")
    extended = extend(filed, within, HELSINKI, every_day)
    assert extended.extended
    assert extended.last_day == date(2026, 11, 30)
    with pytest.raises(ExtensionRefused):
        extend(filed, within + timedelta(minutes=1), HELSINKI, every_day)


def test_refusal_grounds() -> None:
    assert refusal_ground(Verdict(False, "hold")) is RefusalGround.LEGAL_CLAIMS
    assert refusal_ground(Verdict(False, "statute", T0)) is RefusalGround.LEGAL_OBLIGATION
    assert refusal_ground(Verdict(False, "frozen")) is None
    assert refusal_ground(Verdict(True, "request")) is None


def test_release_takes_two_people_and_a_standing_hold() -> None:
    hold = Hold("h", T0)
    check_release(hold, "anna", "bertil", T0)
    refused = [
        (hold, "anna", "anna", T0, "same_person"),
        (hold, "anna", "bertil", T0 - timedelta(seconds=1), "before_placement"),
        (Hold("h", T0, T0 + timedelta(days=1)), "anna", "bertil", T0 + timedelta(days=1), "already_released"),
    ]
    for which, asked, approved, now, code in refused:
        with pytest.raises(ReleaseRefused) as caught:
            check_release(which, asked, approved, now)
        assert caught.value.code == code


def test_two_holds_one_released_leave_one() -> None:
    holds = [Hold("a", T0, T0 + timedelta(days=1)), Hold("b", T0)]
    assert [hold.id for hold in standing(holds, T0)] == ["a", "b"]
    assert [hold.id for hold in standing(holds, T0 + timedelta(days=1))] == ["b"]
    assert standing(holds, T0 - timedelta(seconds=1)) == ()


def test_a_query_takes_in_what_matches_and_what_is_unknown() -> None:
    query = HoldQuery(
        Condition(queue=frozenset({"sales"}), direction=frozenset({"inbound"})), T0, T0 + timedelta(days=1)
    )

    def call(started: datetime, queue: str, direction: str | None) -> Facts:
        return Facts(zone=HELSINKI, country="FI", call_started=started, queue=queue, direction=direction)

    assert query.matches(call(T0, "sales", "inbound"))
    assert query.matches(call(T0, "sales", None))
    assert not query.matches(call(T0, "care", None))
    assert not query.matches(call(T0, "sales", "outbound"))
    assert not query.matches(call(T0 - timedelta(seconds=1), "sales", "inbound"))
    assert not query.matches(call(T0 + timedelta(days=1), "sales", "inbound"))
    with pytest.raises(Misuse):
        HoldQuery()


def test_a_review_is_due_on_the_local_day() -> None:
    assert review_is_due(date(2026, 3, 6), datetime(2026, 3, 5, 22, tzinfo=UTC), HELSINKI)
    assert not review_is_due(date(2026, 3, 6), datetime(2026, 3, 5, 21, 59, tzinfo=UTC), HELSINKI)
