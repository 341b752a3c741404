"""The sweep: dry run, brake, second persons, and what is decided afresh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.engine import decide_case
from retention.erasure import Erasure, Scope
from retention.errors import Misuse
from retention.model import Case, Facts, Ground, Hold, Purpose, Rule, Schedule, Trigger, TriggerKind
from retention.periods import Period
from retention.sweep import BulkBrake, Sweep, SweepReport
from tests.retention import strategies
from tests.retention.memory_port import MemoryWorld

NOW = datetime(2026, 3, 5, 8, tzinfo=UTC)
SCHEDULE = Schedule(
    "fi-main",
    1,
    (Rule("r", frozenset({Purpose.SERVICE_EVIDENCE}), Period(months=96), Trigger(TriggerKind.LAST_CONTACT)),),
)


def case(years: int, holds: tuple[Hold, ...] = (), *, card_security: bool = False) -> Case:
    started = NOW - timedelta(days=366 * years)
    facts = Facts(
        zone="Europe/Helsinki",
        country="FI",
        call_started=started,
        linked=True,
        card_security=card_security,
    )
    return Case(facts, SCHEDULE, holds)


def estate(due: int, living: int) -> MemoryWorld:
    world = MemoryWorld()
    for number in range(due):
        world.add(f"old-{number:03}", case(9), customer=f"c{number}")
    for number in range(living):
        world.add(f"young-{number:03}", case(1), customer=f"d{number}")
    return world


def sweep(world: MemoryWorld, limits: BulkBrake | None = None, page: int = 3) -> Sweep:
    return Sweep(world, Erasure(world, lambda: NOW).run, limits, page)


def ids(report: SweepReport) -> list[str]:
    return [finding.recording_id for finding in report.due]


async def test_what_is_due_goes_and_the_rest_is_settled() -> None:
    world = estate(2, 5)
    world.add("held", case(9, (Hold("h", NOW),)))
    report = await sweep(world).run(NOW)
    assert report.erased == ["old-000", "old-001"]
    assert report.considered == 8
    assert report.stale == ["held", *(f"young-{n:03}" for n in range(5))]
    assert all(finding.ground is Ground.RETENTION for finding in report.due)
    held = world.tables.recordings["held"].decision
    assert held is not None
    assert held.held
    again = await sweep(world).run(NOW)
    assert again.erased == []


async def test_a_dry_run_touches_nothing_and_finds_the_same() -> None:
    world = estate(2, 5)
    tables, bucket = world.tables, set(world.bucket)
    dry = await sweep(world).run(NOW, dry_run=True)
    assert world.tables == tables
    assert world.bucket == bucket
    assert dry.erased == []
    real = await sweep(world).run(NOW)
    assert ids(dry) == ids(real) == real.erased


@settings(max_examples=40)
@given(
    st.lists(
        st.builds(
            Case,
            strategies.facts(),
            strategies.schedules,
            st.lists(strategies.holds(), max_size=1).map(tuple),
            st.lists(strategies.choices, max_size=2).map(tuple),
            st.lists(strategies.requests(), max_size=1).map(tuple),
        ),
        max_size=6,
    ),
    strategies.moments,
)
async def test_dry_run_equals_sweep_equals_engine(cases: list[Case], now: datetime) -> None:
    world = MemoryWorld()
    for number, one in enumerate(cases):
        world.add(f"r{number}", one, customer=f"c{number}")
    limits = BulkBrake(share=1, count=100)
    dry = await sweep(world, limits).run(now, dry_run=True)
    real = await Sweep(world, Erasure(world, lambda: now).run, limits).run(now)
    assert ids(dry) == ids(real) == real.erased
    assert ids(dry) == [f"r{n}" for n, one in enumerate(cases) if decide_case(one, now).due]


async def test_the_brake_stops_before_the_first_and_asks() -> None:
    world = estate(4, 6)
    limits = BulkBrake(share=0.3, count=100, spare=2)
    report = await sweep(world, limits).run(NOW)
    assert report.braked
    assert report.erased == []
    assert report.approval_id == "approval-1"
    assert world.tables.approvals == {"approval-1": (4, False)}
    assert (await sweep(world, limits).run(NOW)).approval_id == "approval-1", "asked once"
    assert (await sweep(world, limits).run(NOW, approval="approval-1")).braked, "not granted yet"
    world.tables.approvals["approval-1"] = (4, True)
    released = await sweep(world, limits).run(NOW)
    assert len(released.erased) == 4
    assert world.tables.approvals == {}, "spent"


async def test_an_approval_for_fewer_is_not_enough() -> None:
    world = estate(4, 6)
    world.tables.approvals["small"] = (3, True)
    report = await sweep(world, BulkBrake(share=0, count=0, spare=0)).run(NOW, approval="small")
    assert report.braked
    assert report.approval_id != "small"


async def test_a_dry_run_tells_of_the_brake_without_asking() -> None:
    world = estate(4, 6)
    report = await sweep(world, BulkBrake(share=0.3, count=100, spare=2)).run(NOW, dry_run=True)
    assert report.braked
    assert report.approval_id is None
    assert world.tables.approvals == {}


@pytest.mark.parametrize(
    ("due", "population", "stops"),
    [
        (20, 20, False),
        (21, 21, True),
        (21, 420, False),
        (21, 419, True),
        (1000, 10**6, False),
        (1001, 10**6, True),
    ],
)
def test_the_brake_counts(due: int, population: int, stops: bool) -> None:
    assert BulkBrake(share=0.05, count=1000, spare=20).stops(due, population) is stops


def test_a_senseless_brake_is_refused() -> None:
    for wrong in ({"share": 1.5}, {"share": -0.1}, {"count": -1}, {"spare": -1}):
        with pytest.raises(Misuse):
            BulkBrake(**wrong)
    with pytest.raises(Misuse):
        sweep(estate(0, 0), page=0)


async def test_a_card_security_code_goes_at_once_brake_and_hold_or_not() -> None:
    world = estate(3, 0)
    world.add("card", case(1, (Hold("h", NOW),), card_security=True), customer="x")
    report = await sweep(world, BulkBrake(share=0, count=0, spare=0)).run(NOW)
    assert report.braked
    assert report.erased == ["card"]
    assert [f.scope for f in report.due if f.recording_id == "card"] == [Scope.ORIGINAL]
    assert not world.readable("card")
    assert world.tables.recordings["card"].state == "stored"


async def test_unfinished_erasures_are_resumed_and_a_sick_store_stops_nothing_else() -> None:
    world = estate(2, 5)
    world.away = True
    report = await sweep(world).run(NOW)
    assert report.failed == {"old-000": "Unavailable", "old-001": "Unavailable"}
    assert report.erased == []
    world.away = False
    report = await sweep(world).run(NOW)
    assert report.resumed == ["erasure-recording-old-000", "erasure-recording-old-001"]
    assert not world.readable("old-000")
    assert report.failed == {}


async def test_a_hold_placed_between_decision_and_lock_wins() -> None:
    class Late(MemoryWorld):
        async def open_erasure(self, recording_id: str, ground: str, scope: str, now: datetime) -> str | None:
            self.tables.recordings[recording_id].case = case(9, (Hold("h", NOW),))
            return await super().open_erasure(recording_id, ground, scope, now)

    world = Late()
    world.add("r1", case(9))
    report = await sweep(world).run(NOW)
    assert report.kept == ["r1"]
    assert world.readable("r1")


async def test_what_another_worker_has_is_left_to_it() -> None:
    class Busy(MemoryWorld):
        async def open_erasure(self, recording_id: str, ground: str, scope: str, now: datetime) -> str | None:
            return None

    world = Busy()
    world.add("r1", case(9))
    report = await sweep(world).run(NOW)
    assert report.elsewhere == ["r1"]
    assert world.readable("r1")


async def test_a_candidate_erased_meanwhile_is_passed_over() -> None:
    class Gone(MemoryWorld):
        async def case(self, recording_id: str) -> Case | None:
            return None

    world = Gone()
    world.add("r1", case(9))
    assert (await sweep(world).run(NOW)).considered == 0
