"""What recurs: sweeps, re-evaluation, re-wrapping, the log, housekeeping; what is due is read from the rows.

What belongs to other parts (the log, playback) is handed in by the composition root.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import ApprovalState, JobState
from recorder.catalogue.tables import (
    Approval,
    AuditEntry,
    Controller,
    Erasure,
    IdempotencyKey,
    Job,
    LoginFailure,
    WebSession,
)
from recorder.disposition import other_records
from recorder.disposition.holds import align_all, follow_queries, remind_of_reviews
from recorder.disposition.reevaluation import follow, outstanding
from recorder.disposition.rotation import rewrap_outdated
from recorder.disposition.sweeping import BRAKE_ACTION, sweep
from recorder.jobs.clockwork import Chore
from recorder.jobs.reconcile import reconcile
from recorder.jobs.scrub import Scrubbed, scrub
from recorder.registers import breach_reminders
from recorder.services import Services

_KEEP_DONE: Final = timedelta(days=1)
_KEEP_FAILED_LOGINS: Final = timedelta(days=30)

Call = Callable[[], Awaitable[object]]


def standard_chores(
    services: Services, *, sequence_log: Call, copy_checkpoints: Call, close_idle_listens: Call
) -> tuple[Chore, ...]:
    """Everything that recurs in one installation.

    Args:
        sequence_log: gives waiting audit entries their place and signs.
        copy_checkpoints: puts the newest checkpoint beside the recordings.
        close_idle_listens: writes the closing entries of abandoned listens.
    """
    return (
        Chore("log-sequence", timedelta(seconds=1), sequence_log),
        Chore("log-copies", timedelta(seconds=30), copy_checkpoints),
        Chore("idle-listens", timedelta(seconds=30), close_idle_listens),
        Chore("sweeps", timedelta(minutes=1), lambda: sweep_where_due(services)),
        Chore("schedules", timedelta(minutes=1), lambda: follow_schedules(services)),
        Chore("key-epochs", timedelta(minutes=1), lambda: follow_epochs(services)),
        Chore("store-holds", timedelta(minutes=10), lambda: align_holds(services)),
        Chore("matter-reviews", timedelta(hours=1), lambda: matter_reviews(services)),
        Chore("breach-clocks", timedelta(minutes=15), lambda: breach_reminders.remind(services)),
        Chore("housekeeping", timedelta(minutes=10), lambda: housekeeping(services)),
        Chore("scrub", timedelta(minutes=10), lambda: scrub_tonight(services)),
        Chore("reconcile", timedelta(hours=6), lambda: reconcile(services, services.clock.now())),
    )


async def sweep_where_due(services: Services) -> list[str]:
    """Sweep each controller once a night, at ``sweep_at`` of its own zone; resume what is unfinished.

    Calls first, then the other records of the schedule.
    A sweep that was missed because nothing ran at that time is made up for, and one that the bulk brake
    stopped goes on as soon as a second person has approved it.

    Returns:
        Codes of the controllers that were swept now.
    """
    now = services.clock.now()
    async with services.database.snapshot() as session:
        controllers = list(await session.scalars(sa.select(Controller).order_by(Controller.code)))
        due = [c for c in controllers if await _wants_sweep(session, services, c, now)]
    for controller in due:
        await sweep(services, controller.id, services.clock.now())
        await other_records.dispose(services, controller.id)
    return [controller.code for controller in due]


async def _wants_sweep(
    session: AsyncSession, services: Services, controller: Controller, now: datetime
) -> bool:
    tonight = last_sweep_time(services.settings.sweep_at, controller.time_zone, now)
    last = await session.scalar(
        sa.select(sa.func.max(AuditEntry.at)).where(
            AuditEntry.object_id == str(controller.id), AuditEntry.action == "sweep.finished"
        )
    )
    last = last or controller.created_at  # a new installation waits for its first night
    if last < tonight:
        return True
    approved = sa.exists().where(
        Approval.controller_id == controller.id,
        Approval.action.in_([BRAKE_ACTION, other_records.BRAKE]),
        Approval.state == ApprovalState.APPROVED,
        Approval.expires_at > now,
    )
    # Somebody's erasure that hit an outage waits minutes, not until the night.
    unfinished = sa.exists().where(
        Erasure.controller_id == controller.id,
        Erasure.finished_at.is_(None),
        Erasure.requested_at < now - timedelta(minutes=5),
    )
    wanted = await session.scalar(sa.select(sa.or_(approved, unfinished)))
    return bool(wanted) and last < now - timedelta(minutes=5)


def last_sweep_time(sweep_at: str, zone: str, now: datetime) -> datetime:
    """The latest instant not after ``now`` at which the local clock showed ``sweep_at`` (``HH:MM``)."""
    hour, minute = map(int, sweep_at.split(":"))
    local = now.astimezone(ZoneInfo(zone))
    today = datetime.combine(local.date(), time(hour, minute), tzinfo=ZoneInfo(zone))
    return today if today <= local else today - timedelta(days=1)


def next_sweep_time(sweep_at: str, zone: str, now: datetime) -> datetime:
    """The first instant after ``now`` at which the local clock shows ``sweep_at`` (``HH:MM``)."""
    last = last_sweep_time(sweep_at, zone, now)
    return datetime.combine(last.date() + timedelta(days=1), last.timetz())


async def follow_schedules(services: Services) -> int:
    """Re-evaluate what an older schedule version decided; progress is in the rows.

    Returns:
        How many recordings were decided.
    """
    count = 0
    for controller_id in await _controllers(services):
        gauge = services.metrics.outdated_decisions.labels(str(controller_id))
        async with services.database.snapshot() as session:
            waiting = await outstanding(session, controller_id)
        gauge.set(waiting)
        if waiting:
            count += await follow(
                services,
                controller_id,
                progress=lambda done, g=gauge, w=waiting: g.set(max(0, w - done)),  # type: ignore[misc]
            )
            gauge.set(0)
    return count


async def follow_epochs(services: Services) -> int:
    """Re-wrap subject keys that an older key epoch wraps.

    Returns:
        How many subjects were moved.
    """
    count = 0
    for controller_id in await _controllers(services):
        while step := await rewrap_outdated(services, controller_id, services.clock.now()):
            count += step
    return count


async def align_holds(services: Services) -> int:
    """Follow query holds; set and lift the store's legal holds where they are not as the catalogue's.

    Returns:
        How many object versions were changed.
    """
    await follow_queries(services, services.clock.now())
    return await align_all(services)


async def matter_reviews(services: Services) -> None:
    """Say in the log that a matter's review is due, and count those that wait."""
    services.metrics.matter_reviews.set(await remind_of_reviews(services, services.clock.now()))


async def scrub_tonight(services: Services) -> Scrubbed:
    """Read and verify this night's share of all objects, from ``sweep_at`` (UTC) on; go on where it stood."""
    settings = services.settings
    # Zone data is read from disk; not in the event loop.
    began = await asyncio.to_thread(last_sweep_time, settings.sweep_at, "UTC", services.clock.now())
    return await scrub(services, settings.scrub_share, night=began.date().isoformat())


async def housekeeping(services: Services) -> None:
    """Delete what has run its time: sessions, idempotency keys, finished jobs, failed sign-ins."""
    now = services.clock.now()
    async with services.database.transaction() as session:
        await session.execute(sa.delete(WebSession).where(WebSession.expires_at < now - _KEEP_DONE))
        await session.execute(sa.delete(IdempotencyKey).where(IdempotencyKey.expires_at < now))
        await session.execute(
            sa.delete(Job).where(Job.state == JobState.DONE, Job.finished_at < now - _KEEP_DONE)
        )
        await session.execute(sa.delete(LoginFailure).where(LoginFailure.last_at < now - _KEEP_FAILED_LOGINS))
        await session.execute(
            sa.update(Approval)
            .where(Approval.state == ApprovalState.PENDING, Approval.expires_at < now)
            .values(state=ApprovalState.EXPIRED)
        )


async def _controllers(services: Services) -> list[uuid.UUID]:
    async with services.database.snapshot() as session:
        return list(await session.scalars(sa.select(Controller.id).order_by(Controller.code)))
