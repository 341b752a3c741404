"""The scrub: every object is read whole and verified within a round, a share of them each night.

How far a round has come is a row, so a process that stops loses at most one batch, which is then read again.
Reading needs no lock: two workers at once only read the same batch twice, and one of them moves the cursor.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import Recording, ScrubCursor, StoredObjectRow, Subject
from recorder.errors import Erased
from recorder.jobs import findings
from recorder.jobs.findings import Seen
from recorder.playback.objects import stored_object
from recorder.services import Services
from storage.errors import KeyDestroyed, ObjectMissing, TamperedObject

log = logging.getLogger("recorder.scrub")

BATCH: Final = 20
_CURSOR: Final = "objects"
_START: Final = uuid.UUID(int=0)
_FULL: Final = 1.0
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Scrubbed:
    """What a scrub did.

    Attributes:
        goal: how many objects this share has.
        done: how many of them have been read.
        bytes: plaintext bytes verified.
        wrong: ids of objects that are not what was written, or not there.
        rounds: complete rounds so far.
    """

    goal: int = 0
    done: int = 0
    bytes: int = 0
    wrong: list[uuid.UUID] = field(default_factory=list)
    rounds: int = 0


async def scrub(
    services: Services,
    share: float,
    *,
    night: str | None = None,
    progress: Progress = lambda _done, _goal: None,
) -> Scrubbed:
    """Read and verify the next share of all objects.

    Args:
        share: how much of everything, above 0 and up to 1.
        night: date of the nightly share: what is done of it is remembered, and it is not begun twice. None
            for a share of its own, as a person asks for it.
        progress: called after each batch with objects done and their goal.

    Raises:
        storage.errors.StoreUnavailable, recorder.errors.Unavailable: a dependency is away; run again.
    """
    result = Scrubbed()
    async with services.database.transaction() as session:
        cursor = await _cursor(session, services.clock.now())
        living = int(await session.scalar(_living(sa.select(sa.func.count()))) or 0)
        result.goal = math.ceil(living * min(share, _FULL))
        if night is not None:
            if cursor.night == night:
                result.goal = cursor.goal
                result.done = cursor.done
            else:
                cursor.night, cursor.goal, cursor.done = night, result.goal, 0
    while result.done < result.goal:
        read = await _batch(services, result, min(BATCH, result.goal - result.done), night)
        if read == 0:
            break  # there is nothing (left) to read
        progress(result.done, result.goal)
    return result


async def _batch(services: Services, result: Scrubbed, size: int, night: str | None) -> int:
    async with services.database.snapshot() as session:
        cursor = await session.get_one(ScrubCursor, _CURSOR)
        after = cursor.after
        query = _living(sa.select(StoredObjectRow, Subject)).where(StoredObjectRow.id > after)
        rows = (await session.execute(query.order_by(StoredObjectRow.id).limit(size))).all()
    for row, subject in rows:
        if await _verify(services, row, subject):
            result.bytes += row.size
        else:
            result.wrong.append(row.id)
        services.metrics.scrubbed.inc()
    wrapped = len(rows) < size
    async with services.database.transaction() as session:
        cursor = await session.get_one(ScrubCursor, _CURSOR, with_for_update=True, populate_existing=True)
        if cursor.after == after:
            cursor.after = _START if wrapped else rows[-1][0].id
            if wrapped:
                cursor.rounds += 1
                cursor.round_started_at = services.clock.now()
            if night is not None and cursor.night == night:
                cursor.done += len(rows)
        result.rounds = cursor.rounds
    result.done += len(rows)
    # At the end of a round an empty batch only turns the cursor back.
    return len(rows) or int(wrapped and after != _START)


async def _verify(services: Services, row: StoredObjectRow, subject: Subject) -> bool:
    """Read one object whole; say and write down whether it is what was written."""
    now = services.clock.now()
    try:
        await services.vault.verify(stored_object(row, subject))
    except TamperedObject:
        kind = "tampered"
        services.metrics.corrupt.inc()
    except ObjectMissing:
        kind = "missing"
    except (KeyDestroyed, Erased):
        kind = "unreadable"
    else:
        await findings.close_object(services, row.id, now)
        return True
    if not await _still_lives(services, row.id):
        return True  # erased between the two looks
    await findings.report(services, [Seen(kind, row.key, row, {"role": str(row.role)})], now)
    log.error("an object is not what was written", extra={"object": str(row.id), "kind": kind})
    return False


async def _still_lives(services: Services, object_id: uuid.UUID) -> bool:
    async with services.database.snapshot() as session:
        found = await session.scalar(
            _living(sa.select(StoredObjectRow.id)).where(StoredObjectRow.id == object_id)
        )
    return found is not None


async def _cursor(session: AsyncSession, now: datetime) -> ScrubCursor:
    found = await session.get(ScrubCursor, _CURSOR, with_for_update=True, populate_existing=True)
    if found is None:
        found = ScrubCursor(
            name=_CURSOR, after=_START, round_started_at=now, night=None, done=0, goal=0, rounds=0
        )
        session.add(found)
        await session.flush()
    return found


def _living(query: Any) -> Any:  # a Select of whatever columns, and the same again
    """Of objects that must be there and readable, with the subjects whose keys wrap theirs."""
    return (
        query.select_from(StoredObjectRow)
        .join(Recording, Recording.id == StoredObjectRow.recording_id)
        .join(Subject, Subject.id == StoredObjectRow.subject_id)
        .where(
            StoredObjectRow.wrapped_key.is_not(None),
            StoredObjectRow.deleted_at.is_(None),
            Recording.state.not_in([RecordingState.ERASING, RecordingState.ERASED]),
        )
    )
