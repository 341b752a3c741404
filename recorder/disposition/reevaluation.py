"""After a change of schedule: every stored decision follows, resumably, and one can see how far it is.

Progress is in the rows, as the version that decided each: whoever stops loses nothing, and several processes
may do it at once. Until a recording is reached its stored decision is the old one; playback and the sweep
decide afresh anyway.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.tables import Recording
from recorder.disposition.evaluation import sweep_date
from recorder.disposition.facts import ALIVE, CHUNK, active_schedule, load_cases
from recorder.services import Services
from retention.engine import decide_case
from retention.model import Case

STEP: Final = 4 * CHUNK
"""Recordings per transaction: on SQLite nobody else writes meanwhile, so it lasts below a second."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How far stored decisions follow the version in force.

    Attributes:
        version: In force.
        recordings: All that live.
        outstanding: Those that an older version decided, or none yet.
    """

    version: int
    recordings: int
    outstanding: int


async def follow(
    services: Services, controller_id: uuid.UUID, *, progress: Callable[[int], None] | None = None
) -> int:
    """Decide afresh everything that an older version decided.

    Args:
        progress: Told after each step how many were decided so far.

    Returns:
        How many were decided.
    """
    done = 0
    while step := await follow_step(services, controller_id, services.clock.now()):
        done += step
        if progress is not None:
            progress(done)
    return done


async def follow_step(
    services: Services, controller_id: uuid.UUID, now: datetime, *, limit: int = STEP
) -> int:
    """One transaction of :func:`follow`.

    Returns:
        How many were decided; 0 when nothing is left, or others have the rest in hand.
    """
    async with services.database.transaction() as session:
        version = (await active_schedule(session, controller_id)).version
        # Whoever holds a row decides it, and by the version in force as well: leave it to them.
        ids: list[uuid.UUID] = []
        for where in outdated(controller_id, version):
            query = sa.select(Recording.id).where(*where).limit(limit)
            found = await session.scalars(query.with_for_update(skip_locked=True, key_share=True))
            ids = list(found)
            if ids:
                break
        cases = await load_cases(session, ids, now)
        rows = await asyncio.to_thread(_decided, cases, now)
        if rows:
            await session.execute(sa.update(Recording), rows)
        return len(rows)


def outdated(controller_id: uuid.UUID, version: int) -> tuple[tuple[sa.ColumnElement[bool], ...], ...]:
    """What an older version decided, and what none has: two walks of ``ix_recordings_decided``.

    What follows already is not looked at. In one condition with OR, SQLite would take another index.
    """
    mine = (
        Recording.controller_id == controller_id,
        Recording.erased_at.is_(None),
        Recording.state.in_(ALIVE),
    )
    return (*mine, Recording.schedule_version < version), (*mine, Recording.schedule_version.is_(None))


def _decided(cases: Mapping[uuid.UUID, Case], now: datetime) -> list[dict[str, Any]]:
    rows = []
    for recording_id, case in cases.items():
        decision = decide_case(case, now)
        told = decision.to_json()
        rows.append(
            {
                "id": recording_id,
                "decision": told,
                "schedule_version": decision.schedule_version,
                "erase_on": decision.erase_on,
                "sweep_on": sweep_date(told, now),
                "held": decision.held,
                "restricted": decision.restricted,
                "evaluated_at": now,
            }
        )
    return rows


async def progress_of(session: AsyncSession, controller_id: uuid.UUID) -> Followed:
    """How far one controller's recordings are."""
    version = (await active_schedule(session, controller_id)).version
    living = (Recording.controller_id == controller_id, Recording.state.in_(ALIVE))
    recordings = await session.scalar(_count(*living)) or 0
    return Followed(version, recordings, await _outstanding(session, controller_id, version))


async def outstanding(session: AsyncSession, controller_id: uuid.UUID) -> int:
    """How many of a controller's recordings an older version decided, or none yet."""
    version = (await active_schedule(session, controller_id)).version
    return await _outstanding(session, controller_id, version)


async def _outstanding(session: AsyncSession, controller_id: uuid.UUID, version: int) -> int:
    counts = [await session.scalar(_count(*where)) or 0 for where in outdated(controller_id, version)]
    return sum(counts)


def _count(*where: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(Recording).where(*where)


async def read_progress(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> Followed:
    """How far one controller's recordings are, for somebody who may see schedules there.

    Raises:
        Forbidden: the caller may not.
    """
    await permit(
        services, principal, Action.VIEW_SCHEDULES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        return await progress_of(session, controller_id)
