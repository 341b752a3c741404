"""Chores: the clock starts them, the rows say what is due."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue import enums
from recorder.catalogue.tables import Approval, AuditEntry, Job, Recording, StoredObjectRow, WebSession
from recorder.disposition.sweeping import SqlSweepPort, sweep
from recorder.jobs import chores
from recorder.jobs.clockwork import Chore, Clockwork
from recorder.jobs.queue import enqueue
from recorder.jobs.reconcile import reconcile
from recorder.settings import Settings
from storage.memory import MemoryStore
from tests.recorder.disposition_world import World, clock_of, memory_of

LONG_AGO = datetime(2010, 3, 5, 8, tzinfo=UTC)


async def actions(world: World, action: str) -> Any:
    async with world.services.database.snapshot() as session:
        query = sa.select(sa.func.count()).select_from(AuditEntry).where(AuditEntry.action == action)
        return await session.scalar(query)


@pytest.mark.parametrize(
    ("zone", "now", "expected"),
    [
        ("Europe/Helsinki", datetime(2026, 3, 5, 0, 30, tzinfo=UTC), datetime(2026, 3, 5, 0, 30, tzinfo=UTC)),
        ("Europe/Helsinki", datetime(2026, 3, 5, 0, 29, tzinfo=UTC), datetime(2026, 3, 4, 0, 30, tzinfo=UTC)),
        ("Europe/Stockholm", datetime(2026, 7, 5, 12, tzinfo=UTC), datetime(2026, 7, 5, 0, 30, tzinfo=UTC)),
    ],
)
def test_the_night_is_the_controllers(zone: str, now: datetime, expected: Any) -> None:
    assert chores.last_sweep_time("02:30", zone, now) == expected
    assert chores.next_sweep_time("02:30", zone, now) == expected + timedelta(days=1)


def test_the_next_night_is_by_the_local_clock_where_the_clock_is_changed() -> None:
    before = datetime(2026, 10, 24, 12, tzinfo=UTC)  # in the night summer time ends, at 04:00
    assert chores.next_sweep_time("02:30", "Europe/Helsinki", before) == datetime(
        2026, 10, 24, 23, 30, tzinfo=UTC
    )
    after = datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert chores.next_sweep_time("02:30", "Europe/Helsinki", after) == datetime(
        2026, 10, 26, 0, 30, tzinfo=UTC
    )


async def test_a_controller_is_swept_once_a_night_and_a_missed_night_is_made_up_for(world: World) -> None:
    services = world.services
    recording_id = await world.recording(await world.customer(), started_at=LONG_AGO)
    assert await chores.sweep_where_due(services) == []
    clock_of(services).set(datetime(2026, 3, 6, 0, 29, 59, tzinfo=UTC))
    assert await chores.sweep_where_due(services) == []
    clock_of(services).set(datetime(2026, 3, 6, 0, 30, tzinfo=UTC))  # 02:30 in Helsinki
    assert await chores.sweep_where_due(services) == ["fi-main"]
    assert (await world.get(recording_id)).state == "erased"
    assert await chores.sweep_where_due(services) == []
    clock_of(services).advance(timedelta(hours=12))
    assert await chores.sweep_where_due(services) == []
    clock_of(services).advance(timedelta(days=3))
    assert await chores.sweep_where_due(services) == ["fi-main"]
    assert await chores.sweep_where_due(services) == []


async def test_the_brake_stops_a_sweep_until_a_second_person_agrees(world: World) -> None:
    services = world.services
    customer_id = await world.customer()
    made = [await world.recording(customer_id, started_at=LONG_AGO, audio=b"x") for _ in range(3)]
    object.__setattr__(
        services, "settings", Settings(data_dir=services.settings.data_dir, sweep_brake_count=2)
    )

    report = await sweep(services, world.controller.id, world.now)
    assert (report.braked, report.erased) == (True, [])
    again = await sweep(services, world.controller.id, world.now)
    assert again.approval_id == report.approval_id
    port = SqlSweepPort(services, world.controller.id)
    assert not await port.use_approval(str(report.approval_id), 3, world.now)
    assert not await port.use_approval(str(uuid.uuid4()), 3, world.now)
    async with services.database.transaction() as session:
        approval = await session.get_one(Approval, uuid.UUID(report.approval_id))
        assert approval.details == {"count": 3, "population": 3}
        approval.state, approval.decided_by = enums.ApprovalState.APPROVED, approval.requested_by
    assert not await port.use_approval(str(report.approval_id), 3, world.now)  # the same person
    async with services.database.transaction() as session:
        await session.execute(sa.update(Approval).values(decided_by="account:second"))
    assert not await port.use_approval(str(report.approval_id), 4, world.now)
    clock_of(services).advance(timedelta(minutes=6))
    assert await chores.sweep_where_due(services) == ["fi-main"]
    assert [(await world.get(i)).state for i in made] == ["erased"] * 3
    assert not await port.use_approval(str(report.approval_id), 3, world.now)
    assert await actions(world, "sweep.braked") == 1
    assert await actions(world, "approval.used") == 1


async def test_what_is_not_due_after_all_is_settled_and_not_looked_at_again(world: World) -> None:
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(sweep_on=world.now, erase_on=world.now))
    report = await sweep(world.services, world.controller.id, world.now)
    assert (report.stale, report.erased) == ([str(recording_id)], [])
    assert (await world.get(recording_id)).erase_on == datetime(2034, 3, 5, 22, tzinfo=UTC)
    assert (await sweep(world.services, world.controller.id, world.now)).considered == 0


async def test_two_sweeps_at_once_erase_each_recording_once(world: World) -> None:
    customer_id = await world.customer()
    made = [await world.recording(customer_id, started_at=LONG_AGO, audio=b"x") for _ in range(4)]
    await asyncio.gather(*(sweep(world.services, world.controller.id, world.now) for _ in range(2)))
    assert [(await world.get(i)).state for i in made] == ["erased"] * 4
    assert await actions(world, "erasure.finished") == 4
    assert await actions(world, "erasure.begun") == 4


async def test_housekeeping_leaves_what_still_counts(world: World) -> None:
    services = world.services
    async with services.database.transaction() as session:
        enqueue(session, "peaks", uuid.uuid4(), now=world.now)
        for finished in (timedelta(days=2), timedelta(hours=2)):
            job_id = enqueue(session, "peaks", uuid.uuid4(), now=world.now)
            await session.flush()
            job = await session.get_one(Job, job_id)
            job.state, job.finished_at = enums.JobState.DONE, world.now - finished
    await chores.housekeeping(services)
    async with services.database.snapshot() as session:
        assert len(list(await session.scalars(sa.select(Job)))) == 2
        assert list(await session.scalars(sa.select(WebSession))) == []


async def test_the_clock_starts_chores_and_stops_with_them(caplog: pytest.LogCaptureFixture) -> None:
    begun, ticks, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def long() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def failing() -> None:
        ticks.set()
        raise ValueError("+358401234567")

    quick = timedelta(milliseconds=10)
    clock = Clockwork([Chore("long", quick, long), Chore("failing", quick, failing)])
    async with clock.running():
        await begun.wait()
        await ticks.wait()
        ticks.clear()
        await ticks.wait()  # a failure does not stop the clock
    assert cancelled.is_set()
    assert "+358" not in caplog.text
    with pytest.raises(ValueError, match="one name"):
        Clockwork([Chore("a", quick, long), Chore("a", quick, long)])


async def test_orphans_go_and_missing_objects_are_reported(world: World) -> None:
    services = world.services
    store = MemoryStore(versioned=True, clock=services.clock.now)
    store._objects = memory_of(services)._objects
    object.__setattr__(services, "store", store)
    object.__setattr__(services, "vault", type(services.vault)(store, services.keyring))
    recording_id = await world.recording()
    other_id = await world.recording()

    async def source() -> AsyncIterator[Any]:
        yield b"nobody was promised this"

    orphan = await services.vault.write(source(), role="original")
    clock_of(services).advance(timedelta(days=2))
    young = await services.vault.write(source(), role="original")
    lost, kept = await world.stored(recording_id)
    await services.vault.destroy(lost.key)
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(StoredObjectRow).where(StoredObjectRow.recording_id == other_id).values(sealed_size=7)
        )
    for obj in (lost, kept):
        async with services.database.transaction() as session:
            await session.execute(
                sa.update(StoredObjectRow)
                .where(StoredObjectRow.id == obj.object_id)
                .values(created_at=LONG_AGO)
            )
    findings = await reconcile(services, world.now)
    assert findings.orphans == [orphan.key]
    assert findings.missing == [lost.object_id]
    assert len(findings.resized) == 2
    assert findings.alarming
    keys = {s.key async for s in store.list("o/")}
    assert young.key in keys
    assert kept.key in keys
    assert orphan.key not in keys
    assert await actions(world, "object.missing") == 1
    again = await reconcile(services, world.now)
    assert again.orphans == []
