"""Comparing schedules: counts by horizon and by rule."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from retention.engine import decide
from retention.model import Condition, Facts, Hold, Purpose, Rule, Schedule, Trigger, TriggerKind
from retention.periods import Period
from retention.simulate import Group, compare
from tests.retention import strategies

NOW = datetime(2026, 3, 5, 8, tzinfo=UTC)
CALLED = Trigger(TriggerKind.CALL_STARTED)
YEAR = Rule("quality", frozenset({Purpose.QUALITY}), Period(days=365), CALLED)
OLD = Schedule("fi-main", 1, (YEAR,))


def called(days_ago: int) -> Facts:
    return Facts(zone="UTC", country="FI", call_started=NOW - timedelta(days=days_ago))


def test_horizons_count_what_falls_due_by_then() -> None:
    shorter = Schedule("fi-main", 2, (replace(YEAR, keep=Period(days=90)),))
    estate = [
        Group(called(100), count=1, audio=timedelta(seconds=1), size=10),
        Group(called(70), count=2),
        Group(called(20), count=4),
        Group(called(400), (Hold("h", NOW),), count=8),
    ]
    result = compare(OLD, shorter, iter(estate), NOW)
    assert {days: total.count for days, total in result.due_new.items()} == {0: 1, 30: 3, 90: 7, 365: 7}
    assert {days: total.count for days, total in result.due_old.items()} == {0: 0, 30: 0, 90: 0, 365: 7}
    assert result.due_new[0].to_json() == {"count": 1, "seconds": 1.0, "bytes": 10}
    assert result.shortens
    told = json.loads(json.dumps(result.to_json()))
    assert told["due_new"]["30"]["count"] == 3
    assert told["movements"][0]["rule"] == "quality"


def test_a_longer_schedule_shortens_nothing() -> None:
    longer = Schedule("fi-main", 2, (replace(YEAR, keep=Period(days=730)),))
    result = compare(OLD, longer, [Group(called(100), count=3), Group(called(400), count=2)], NOW)
    movement = result.movements[Purpose.QUALITY, "quality"]
    assert (movement.longer.count, movement.opened.count, movement.closed.count) == (3, 2, 0)
    assert not result.shortens


def test_a_rule_that_disappears_is_named_and_what_nobody_rules_is_a_task() -> None:
    none = Schedule("fi-main", 2, (replace(YEAR, when=Condition(queue=frozenset({"sales"}))),))
    result = compare(OLD, none, [Group(called(100), count=3)], NOW)
    assert result.movements[Purpose.QUALITY, "quality"].closed.count == 3
    assert result.undecided_new.count == 3
    assert result.shortens
    assert all(total.count == 0 for total in result.due_new.values())


def test_a_new_purpose_opens() -> None:
    training = Rule("training", frozenset({Purpose.TRAINING}), Period(days=30), CALLED)
    result = compare(
        OLD, Schedule("fi-main", 2, (YEAR, training)), [Group(called(10)), Group(called(50))], NOW
    )
    movement = result.movements[Purpose.TRAINING, "training"]
    assert (movement.opened.count, movement.longer.count) == (1, 1)
    assert not result.shortens


@given(strategies.schedules, st.lists(strategies.facts(), max_size=3), strategies.moments)
def test_the_same_schedule_changes_nothing(schedule: Schedule, estate: list[Facts], now: datetime) -> None:
    result = compare(schedule, schedule, [Group(facts) for facts in estate], now)
    assert result.movements == {}
    assert result.due_old == result.due_new
    assert not result.shortens
    assert result.due_new[0].count == sum(decide(f, schedule, [], [], [], now).due for f in estate)


@given(strategies.schedules, strategies.schedules, strategies.facts(), strategies.moments)
def test_whatever_goes_earlier_counts_as_shortening(
    old: Schedule, new: Schedule, facts: Facts, now: datetime
) -> None:
    before, after = (decide(facts, schedule, [], [], [], now) for schedule in (old, new))
    if after.due and not before.due:
        assert compare(old, new, [Group(facts)], now).shortens


def test_one_purpose_that_will_close_earlier_is_shortening_though_nothing_goes_earlier() -> None:
    evidence = Rule("evidence", frozenset({Purpose.SERVICE_EVIDENCE}), Period(days=3000), CALLED)
    old = Schedule("fi-main", 1, (evidence, YEAR))
    new = Schedule("fi-main", 2, (evidence, replace(YEAR, keep=Period(days=200))))
    result = compare(old, new, [Group(called(100))], NOW)
    assert result.movements[Purpose.QUALITY, "quality"].shorter.count == 1
    assert result.shortens
    assert not compare(old, new, [Group(called(400))], NOW).shortens, "closed under either"
