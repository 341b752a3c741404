"""The queue's work is done once it is claimed, again when it fails, and released when it is interrupted."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.enums import JobState
from recorder.catalogue.tables import AuditEntry, Job
from recorder.jobs.queue import enqueue
from recorder.jobs.worker import GiveUp, Limits, Worker
from recorder.services import Services
from tests.recorder.disposition_world import clock_of


async def put(services: Services, kind: str = "peaks", **options: Any) -> Any:
    target = uuid.uuid4()
    async with services.database.transaction() as session:
        enqueue(session, kind, target, now=services.clock.now(), **options)
    return target


async def jobs(services: Services) -> Any:
    async with services.database.snapshot() as session:
        return list(await session.scalars(sa.select(Job).order_by(Job.created_at, Job.id)))


async def test_ready_work_is_done_once_and_other_kinds_are_left(services: Services) -> None:
    done = []

    async def handler(target: Any, payload: Any) -> None:
        done.append((target, dict(payload)))

    target = await put(services, payload={"n": 1})
    await put(services, kind="other")
    await put(services, not_before=services.clock.now() + timedelta(hours=1))
    worker = Worker(services, {"peaks": handler})
    assert await worker.drain() == 1
    assert await worker.drain() == 0
    assert done == [(target, {"n": 1})]
    assert sorted(job.state for job in await jobs(services)) == ["done", "queued", "queued"]
    clock_of(services).advance(timedelta(hours=1))
    assert await worker.drain() == 1


async def test_two_workers_never_hold_the_same_job(services: Services) -> None:
    for _ in range(12):
        await put(services)

    async def handler(_target: Any, _payload: Any) -> Any:
        return None

    workers = [Worker(services, {"peaks": handler}) for _ in range(3)]
    claims = await asyncio.gather(*(worker.claim(5) for worker in workers))
    taken = [claim.id for batch in claims for claim in batch]
    assert len(taken) == len(set(taken))
    while more := await workers[0].claim(5):
        taken += [claim.id for claim in more]
    assert sorted(taken) == sorted(job.id for job in await jobs(services))


async def test_a_failure_waits_longer_each_time_and_ends_visibly(services: Services) -> None:
    async def handler(_target: Any, _payload: Any) -> None:
        raise ValueError("+358401234567 must not be kept")

    target = await put(services)
    limits = Limits(attempts=3, pause=timedelta(seconds=10))
    worker = Worker(services, {"peaks": handler}, limits=limits)
    for wait in (10, 20):
        assert await worker.drain() == 1
        (job,) = await jobs(services)
        assert (job.state, job.error) == ("queued", "ValueError")
        assert job.not_before == services.clock.now() + timedelta(seconds=wait)
        clock_of(services).advance(timedelta(seconds=wait))
    assert await worker.drain() == 1
    (job,) = await jobs(services)
    assert (job.state, job.attempts, job.error) == ("failed", 3, "ValueError")
    async with services.database.snapshot() as session:
        (entry,) = await session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "job.failed"))
    assert str(target).encode() in entry.payload
    assert b"+358" not in entry.payload
    clock_of(services).advance(timedelta(days=1))
    assert await worker.drain() == 0


async def test_what_cannot_succeed_is_not_tried_again(services: Services) -> None:
    async def handler(_target: Any, _payload: Any) -> None:
        raise GiveUp("no such audio")

    await put(services)
    await Worker(services, {"peaks": handler}).drain()
    (job,) = await jobs(services)
    assert (job.state, job.attempts, job.error) == ("failed", 1, "GiveUp")


async def test_a_dead_workers_job_is_claimed_when_its_lease_is_over(services: Services) -> None:
    async def handler(_target: Any, _payload: Any) -> Any:
        return None

    await put(services)
    limits = Limits(attempts=2, lease=timedelta(minutes=5))
    worker = Worker(services, {"peaks": handler}, limits=limits)
    (first,) = await worker.claim(1)
    assert await worker.claim(1) == []
    clock_of(services).advance(timedelta(minutes=6))
    (second,) = await worker.claim(1)
    assert (second.id, second.attempts) == (first.id, 2)
    # The dead one comes back to life and has nothing to say any more.
    await worker._settle(first, None)
    (job,) = await jobs(services)
    assert (job.state, job.leased_by) == (JobState.RUNNING, second.holder)
    clock_of(services).advance(timedelta(minutes=6))
    assert await worker.claim(1) == []
    (job,) = await jobs(services)
    assert (job.state, job.error) == ("failed", "LeaseExpired")


async def test_stopping_releases_what_is_in_hand_and_counts_no_attempt(services: Services) -> None:
    begun = asyncio.Event()

    async def handler(_target: Any, _payload: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    await put(services)
    running = asyncio.create_task(Worker(services, {"peaks": handler}).run())
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (job,) = await jobs(services)
    assert (job.state, job.attempts, job.leased_by) == ("queued", 0, None)


async def test_running_works_off_what_comes_within_its_bound(services: Services) -> None:
    at_once, most, done = 0, 0, asyncio.Event()
    seen = []

    async def handler(target: Any, _payload: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        seen.append(target)
        if len(seen) == 6:
            done.set()

    targets = [await put(services) for _ in range(6)]
    limits = Limits(concurrency=2, idle_seconds=0.01)
    running = asyncio.create_task(Worker(services, {"peaks": handler}, limits=limits).run())
    await done.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(seen) == sorted(targets)
    assert most <= 2
