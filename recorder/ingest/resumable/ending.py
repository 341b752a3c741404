"""How uploads end: their keys first, in the transaction that decides it; their objects after that."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import (
    Recording,
    ResumableUpload,
    Subject,
    Tombstone,
    UploadPiece,
    UploadState,
)
from recorder.errors import RecorderError
from recorder.ingest.resumable.rows import UNDER_WAY, is_held
from recorder.services import Services
from storage.errors import StorageError

ACTOR: Final = "system:uploads"
REMEMBERED: Final = timedelta(days=7)
"""For how long the outcome of an upload can be asked for; and for how long a complete one is tried again."""
_PAGE: Final = 400
_FEW: Final = 8
_ABREAST: Final = 8
_Dead = tuple[uuid.UUID, str]
log = logging.getLogger("recorder.uploads")


async def close(
    session: AsyncSession,
    row: ResumableUpload,
    state: UploadState,
    now: datetime,
    *,
    recording_id: uuid.UUID | None = None,
    problem: dict[str, Any] | None = None,
) -> None:
    """End an upload in the running transaction and destroy its keys."""
    row.state, row.recording_id, row.problem = state, recording_id, problem
    row.sealed, row.holder, row.lease_until, row.changed_at = None, None, None, now
    await session.execute(
        sa.update(UploadPiece).where(UploadPiece.upload_id == row.id).values(wrapped_key=None)
    )
    await session.execute(
        sa.update(Subject)
        .where(Subject.id == row.subject_id, Subject.wrapped_key.is_not(None))
        .values(wrapped_key=None, destroyed_at=now)
    )


async def give_up(
    session: AsyncSession,
    row: ResumableUpload,
    why: str,
    now: datetime,
    *,
    actor: str = ACTOR,
    outcome: str = "ok",
    request_id: str | None = None,
) -> None:
    """End an upload that becomes no recording, and say so in the log.

    Args:
        why: ``expired``, ``terminated``, ``erased``, ``damaged``, ``unfinished`` or ``used``.
    """
    await close(session, row, UploadState.ENDED, now, problem={"why": why})
    event = AuditEvent(
        action=f"upload.{why}",
        actor=actor,
        object_type="upload",
        object_id=str(row.id),
        outcome=outcome,
        controller_id=row.controller_id,
        request_id=request_id,
        details={"source": str(row.source_id), "received": row.received},
    )
    record(session, event, now=now)


async def forget(session: AsyncSession, recording_ids: Sequence[uuid.UUID], now: datetime) -> int:
    """End unfinished uploads of recordings that are being erased, in the running transaction.

    Returns:
        How many ended.
    """
    count = 0
    for start in range(0, len(recording_ids), _PAGE):
        page = recording_ids[start : start + _PAGE]
        query = (
            sa.select(ResumableUpload)
            .join(
                Recording,
                sa.and_(
                    Recording.source_id == ResumableUpload.source_id,
                    Recording.identity == ResumableUpload.identity,
                ),
            )
            .where(Recording.id.in_(page), ResumableUpload.state.in_(UNDER_WAY))
            .with_for_update(of=ResumableUpload)
        )
        for row in await session.scalars(query):
            await forget_one(session, row, now)
            count += 1
        told = sa.and_(ResumableUpload.recording_id.in_(page), ResumableUpload.state == UploadState.DONE)
        await session.execute(sa.update(ResumableUpload).where(told).values(problem=None))
    await session.flush()
    return count


async def forget_one(session: AsyncSession, row: ResumableUpload, now: datetime) -> None:
    """End one, in the running transaction, with the parts that it puts together: it was erased."""
    for part in row.parts or ():
        other = await session.get(ResumableUpload, uuid.UUID(part), with_for_update=True)
        if other is not None and other.state in UNDER_WAY:
            await give_up(session, other, "erased", now)
    await give_up(session, row, "erased", now)


async def forget_erased(services: Services) -> int:
    """End unfinished uploads of what was erased while they were begun.

    Returns:
        How many ended.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        query = (
            sa.select(ResumableUpload)
            .join(
                Tombstone,
                sa.and_(
                    Tombstone.source_id == ResumableUpload.source_id,
                    Tombstone.identity == ResumableUpload.identity,
                ),
            )
            .where(ResumableUpload.state.in_(UNDER_WAY))
            .limit(_PAGE)
        )
        rows = list(await session.scalars(query))
        for row in rows:
            await forget_one(session, row, now)
    return len(rows)


async def expire(services: Services) -> int:
    """End uploads whose time is over: open ones without a byte for too long, complete ones tried for a week.

    Returns:
        How many ended.
    """
    now = services.clock.now()
    stale = sa.or_(
        sa.and_(ResumableUpload.state == UploadState.OPEN, ResumableUpload.expires_at <= now),
        sa.and_(
            ResumableUpload.state == UploadState.FINISHING, ResumableUpload.changed_at <= now - REMEMBERED
        ),
    )
    count = 0
    async with services.database.snapshot() as session:
        if await session.scalar(sa.select(sa.exists().where(stale))) is not True:
            return 0
    async with services.database.transaction() as session:
        query = sa.select(ResumableUpload).where(stale).limit(_PAGE).with_for_update(skip_locked=True)
        for row in list(await session.scalars(query)):
            if is_held(services, row, now):
                continue
            unfinished = row.state is UploadState.FINISHING
            why, outcome = ("unfinished", "failed") if unfinished else ("expired", "ok")
            await give_up(session, row, why, now, outcome=outcome)
            count += 1
    return count


async def delete_dead(services: Services) -> int:
    """Delete the objects of pieces whose keys are gone, then their rows.

    Returns:
        How many were deleted.

    Raises:
        storage.errors.StorageError: the store is away, or holds on to one.
    """
    count = 0
    while dead := await _dead(services, sa.true()):
        await _delete(services, dead)
        count += len(dead)
    return count


async def clear(services: Services, upload_ids: Sequence[uuid.UUID]) -> None:
    """Delete the objects of uploads that have ended: few at once, many while the answer goes out.

    What cannot be deleted now is left to `delete_dead`.
    """
    which = UploadPiece.upload_id.in_(upload_ids)
    few = await _dead(services, which, limit=_FEW + 1)
    if len(few) <= _FEW:
        await _quietly(services, few)
    else:
        services.resumable.start(_clear(services, which))


async def _clear(services: Services, which: sa.ColumnElement[bool]) -> None:
    while dead := await _dead(services, which):
        if not await _quietly(services, dead):
            return


async def _quietly(services: Services, dead: Sequence[_Dead]) -> bool:
    try:
        await _delete(services, dead)
    except (RecorderError, StorageError) as failure:
        log.warning("pieces are left to be deleted", extra={"error": type(failure).__name__})
        return False
    return True


async def _dead(services: Services, which: sa.ColumnElement[bool], *, limit: int = _PAGE) -> Sequence[_Dead]:
    query = sa.select(UploadPiece.id, UploadPiece.key).where(which, UploadPiece.wrapped_key.is_(None))
    async with services.database.snapshot() as session:
        return [(row.id, row.key) for row in await session.execute(query.limit(limit))]


async def _delete(services: Services, dead: Sequence[_Dead]) -> None:
    slots = asyncio.Semaphore(_ABREAST)

    async def one(key: str) -> None:
        async with slots:
            await services.vault.destroy(key)

    found = await asyncio.gather(*(one(key) for _, key in dead), return_exceptions=True)
    for failure in found:
        if isinstance(failure, BaseException):
            raise failure
    if dead:
        async with services.database.transaction() as session:
            ids = [piece_id for piece_id, _ in dead]
            await session.execute(sa.delete(UploadPiece).where(UploadPiece.id.in_(ids)))


async def purge(services: Services) -> int:
    """Delete the rows of uploads that ended long ago.

    Returns:
        How many were deleted.
    """
    before = services.clock.now() - REMEMBERED
    old = sa.and_(
        ResumableUpload.state.not_in(UNDER_WAY),
        ResumableUpload.changed_at <= before,
        ~sa.exists().where(UploadPiece.upload_id == ResumableUpload.id),
    )
    async with services.database.snapshot() as session:
        query = sa.select(ResumableUpload.id, ResumableUpload.subject_id).where(old).limit(_PAGE)
        rows = (await session.execute(query)).all()
    if rows:
        async with services.database.transaction() as session:
            await session.execute(
                sa.delete(ResumableUpload).where(ResumableUpload.id.in_([r.id for r in rows]))
            )
            subjects = [row.subject_id for row in rows if row.subject_id is not None]
            await session.execute(sa.delete(Subject).where(Subject.id.in_(subjects)))
    return len(rows)
