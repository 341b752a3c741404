"""Uploads in the catalogue: created, leased, grown by pieces. Every change names who holds the upload."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder import errors
from recorder.catalogue.enums import SubjectKind
from recorder.catalogue.subjects import new_subject, open_json, seal_json, subject_ref
from recorder.catalogue.tables import ResumableUpload, Subject, UploadKind, UploadPiece, UploadState
from recorder.errors import Busy, Erased, FieldError, Gone, NotFound, RecorderError, Unavailable
from recorder.ingest.resumable.active import Hold
from recorder.ingest.resumable.asking import SEALED_AS, Asked
from recorder.services import Services
from storage.keys import wrap_data_key
from storage.vault import StoredObject, WrittenObject

ROLE: Final = "upload_part"
LEASE: Final = timedelta(seconds=15)
UNDER_WAY: Final = (UploadState.OPEN, UploadState.FINISHING)
_RECALLED: Final[dict[str, type[RecorderError]]] = {
    kind.__name__: kind
    for kind in (errors.InvalidInput, errors.MalformedInput, errors.TooLarge, errors.UnsupportedMediaType)
}


async def insert(
    services: Services,
    *,
    upload_id: uuid.UUID,
    controller_id: uuid.UUID,
    source_id: uuid.UUID,
    identity: bytes | None,
    kind: UploadKind,
    length: int | None,
    asked: Asked,
    parts: Sequence[uuid.UUID] | None = None,
    hold: Hold | None = None,
) -> ResumableUpload:
    """Create an upload, held by ``hold`` from the start if there is one."""
    now = services.clock.now()
    subject = new_subject(services.keyring, controller_id, SubjectKind.UPLOAD, now=now)
    finishing = parts is not None or length == 0
    row = ResumableUpload(
        id=upload_id,
        controller_id=controller_id,
        source_id=source_id,
        subject_id=subject.id,
        identity=identity,
        kind=kind,
        state=UploadState.FINISHING if finishing and kind is not UploadKind.PARTIAL else UploadState.OPEN,
        length=length,
        received=0 if parts is None else length,
        parts=None if parts is None else [str(part) for part in parts],
        sealed=seal_json(services.keyring, subject, SEALED_AS, upload_id, asked.document()),
        holder=None if hold is None else hold.holder,
        lease_until=None if hold is None else now + LEASE,
        created_at=now,
        changed_at=now,
        expires_at=now + life(services),
    )
    async with services.database.transaction() as session:
        session.add(subject)
        await session.flush()
        session.add(row)
    if hold is not None:
        services.resumable.enter(hold)
    return row


async def insert_done(
    services: Services,
    *,
    upload_id: uuid.UUID,
    controller_id: uuid.UUID,
    source_id: uuid.UUID,
    identity: bytes,
    length: int,
    recording_id: uuid.UUID | None,
    result: dict[str, Any] | None,
) -> ResumableUpload:
    """Remember an upload that came whole and is a recording already."""
    now = services.clock.now()
    row = ResumableUpload(
        id=upload_id,
        controller_id=controller_id,
        source_id=source_id,
        subject_id=None,
        identity=identity,
        kind=UploadKind.WHOLE,
        state=UploadState.DONE,
        length=length,
        received=length,
        recording_id=recording_id,
        problem=result,
        created_at=now,
        changed_at=now,
        expires_at=now + life(services),
    )
    async with services.database.transaction() as session:
        session.add(row)
    return row


def life(services: Services) -> timedelta:
    """How long an upload stays without a byte."""
    return timedelta(hours=services.settings.upload_expiry_hours)


async def under_way(services: Services, source_id: uuid.UUID) -> int:
    """How many uploads a source has begun and not ended."""
    query = sa.select(sa.func.count()).where(
        ResumableUpload.source_id == source_id, ResumableUpload.state.in_(UNDER_WAY)
    )
    async with services.database.snapshot() as session:
        return int(await session.scalar(query) or 0)


async def count_pieces(session: AsyncSession, upload_id: uuid.UUID) -> int:
    """How many pieces an upload has."""
    query = sa.select(sa.func.count()).where(UploadPiece.upload_id == upload_id)
    return int(await session.scalar(query) or 0)


async def find(services: Services, source_id: uuid.UUID | None, upload_id: uuid.UUID) -> ResumableUpload:
    """An upload of this source.

    Raises:
        NotFound: there is none, or it is another source's.
    """
    async with services.database.snapshot() as session:
        row = await session.get(ResumableUpload, upload_id)
    return own(row, source_id)


def own(row: ResumableUpload | None, source_id: uuid.UUID | None) -> ResumableUpload:
    """The upload, if it is this source's.

    Raises:
        NotFound: it is not, or there is none.
    """
    if row is None or source_id is None or row.source_id != source_id:
        raise NotFound("there is no such upload of this source")
    return row


def refuse_ended(row: ResumableUpload, now: datetime) -> None:
    """Say what has become of an upload that takes nothing more.

    Raises:
        Gone: it has ended or expired.
        Erased: what it was to become has been erased.
        RecorderError: what the pipeline said.
    """
    if row.state is UploadState.REFUSED:
        raise recalled(row.problem or {})
    if row.state is UploadState.ENDED:
        why = (row.problem or {}).get("why", "ended")
        if why == "erased":
            raise Erased("this call was erased and is not taken again")
        raise Gone(f"this upload has ended ({why}); begin a new one")
    if row.state is UploadState.OPEN and row.expires_at <= now:
        raise Gone("this upload has ended (expired); begin a new one")


def remembered(error: RecorderError) -> dict[str, Any]:
    """A refusal, to be told again. Messages and paths of errors never hold personal data."""
    return {
        "error": type(error).__name__,
        "message": error.message[:500],
        "fields": [asdict(field) for field in error.fields[:20]],
        "kind": getattr(error, "kind", None),
        "recording_id": getattr(error, "recording_id", None),
        "certificate_id": getattr(error, "certificate_id", None),
    }


def recalled(problem: Mapping[str, Any]) -> RecorderError:
    """The refusal that was remembered."""
    message, name = problem.get("message", ""), problem.get("error")
    if name == "Conflict":
        return errors.Conflict(
            message, kind=problem.get("kind") or "conflict", recording_id=problem.get("recording_id")
        )
    if name == "Erased":
        return Erased(message, certificate_id=problem.get("certificate_id"))
    fields = [FieldError(**field) for field in problem.get("fields", ())]
    return _RECALLED.get(str(name), errors.InvalidInput)(message, fields=fields)


@asynccontextmanager
async def held(
    services: Services, source_id: uuid.UUID | None, upload_id: uuid.UUID, hold: Hold
) -> AsyncIterator[tuple[AsyncSession, ResumableUpload]]:
    """A transaction on an upload that nobody else has; on leaving it is entered as ours.

    Raises:
        NotFound: there is no such upload of the source.
        Busy: another request has it.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get(ResumableUpload, upload_id, with_for_update=True)
        row = own(row, source_id) if source_id is not None else row
        if row is None:
            raise NotFound("there is no such upload")
        if is_held(services, row, now):
            raise Busy("another request is at work on this upload; ask for its offset and go on from there")
        yield session, row
        row.holder, row.lease_until = hold.holder, now + LEASE
    services.resumable.enter(hold)


def is_held(services: Services, row: ResumableUpload, now: datetime) -> bool:
    """Whether somebody is at work on it."""
    if row.holder is None or row.lease_until is None or row.lease_until <= now:
        return False
    return not services.resumable.is_dead(row.holder)


async def release(services: Services, hold: Hold) -> None:
    """Give an upload back. A lease that cannot be given back runs out."""
    try:
        with contextlib.suppress(Unavailable):
            async with services.database.transaction() as session:
                await session.execute(
                    sa.update(ResumableUpload)
                    .where(ResumableUpload.id == hold.upload_id, ResumableUpload.holder == hold.holder)
                    .values(holder=None, lease_until=None)
                )
    finally:
        services.resumable.leave(hold)


@asynccontextmanager
async def renewing(services: Services, hold: Hold) -> AsyncIterator[None]:
    """Keep the lease inside."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / 3)
            with contextlib.suppress(Unavailable):
                async with services.database.transaction() as session:
                    await session.execute(
                        sa.update(ResumableUpload)
                        .where(ResumableUpload.id == hold.upload_id, ResumableUpload.holder == hold.holder)
                        .values(lease_until=services.clock.now() + LEASE)
                    )

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def mine(session: AsyncSession, hold: Hold) -> ResumableUpload:
    """The upload, locked, if it is still held by this hold.

    Raises:
        Busy: another request took it over.
        Gone: it was ended meanwhile.
    """
    query = sa.select(ResumableUpload).where(ResumableUpload.id == hold.upload_id).with_for_update()
    row = (await session.scalars(query.execution_options(populate_existing=True))).one_or_none()
    if row is None or row.state not in UNDER_WAY:
        raise Gone("this upload has ended while it was written")
    if row.holder != hold.holder:
        raise Busy("another request took this upload over; ask for its offset and go on from there")
    return row


async def append(
    services: Services, hold: Hold, position: int, written: Sequence[WrittenObject], *, last: bool = True
) -> ResumableUpload:
    """Count pieces as received: from here on they are durable and told of.

    Args:
        last: whether reaching the length completes the upload.

    Raises:
        Busy, Gone: the upload is ours no more; the pieces are the caller's to remove.
        Unavailable: nothing was counted, or it cannot be said.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await mine(session, hold)
        if row.received != position:
            raise Busy("another request wrote to this upload; ask for its offset and go on from there")
        subject = await session.get_one(Subject, row.subject_id)
        for piece in written:
            wrapped = wrap_data_key(
                services.keyring,
                subject_ref(subject),
                piece.data_key,
                object_id=piece.object_id,
                size=piece.size,
                sha256=piece.sha256,
            )
            session.add(
                UploadPiece(
                    id=piece.object_id,
                    upload_id=row.id,
                    position=row.received,
                    key=piece.key,
                    version_id=piece.version_id,
                    wrapped_key=wrapped,
                    size=piece.size,
                    sealed_size=piece.sealed_size,
                    sha256=piece.sha256,
                    header=piece.header,
                    created_at=now,
                )
            )
            row.received += piece.size
        row.changed_at, row.expires_at = now, now + life(services)
        row.lease_until = now + LEASE
        if last and row.received == row.length and row.kind is not UploadKind.PARTIAL:
            row.state = UploadState.FINISHING
    return row


async def opened(services: Services, row: ResumableUpload) -> Asked:
    """What an upload says of itself.

    Raises:
        Gone: its key was destroyed meanwhile.
    """
    async with services.database.snapshot() as session:
        subject = await session.get(Subject, row.subject_id) if row.subject_id is not None else None
        if row.sealed is None or subject is None or subject.wrapped_key is None:
            raise Gone("this upload has ended")
        document = open_json(services.keyring, subject, SEALED_AS, row.id, row.sealed)
    return Asked.of(document, size=row.length)


async def pieces(services: Services, upload_id: uuid.UUID) -> list[StoredObject]:
    """The pieces of an upload in order, ready to be read.

    Raises:
        Gone: a key was destroyed.
    """
    async with services.database.snapshot() as session:
        row = await session.get_one(ResumableUpload, upload_id)
        subject = await session.get_one(Subject, row.subject_id)
        if subject.wrapped_key is None:
            raise Gone("this upload has ended")
        ref = subject_ref(subject)
        query = sa.select(UploadPiece).where(UploadPiece.upload_id == upload_id)
        found = list(await session.scalars(query.order_by(UploadPiece.position)))
    at = 0
    result = []
    for piece in found:
        if piece.wrapped_key is None or piece.position != at:
            raise Gone("this upload has ended")
        at += piece.size
        result.append(
            StoredObject(
                object_id=piece.id,
                role=ROLE,
                key=piece.key,
                version_id=piece.version_id,
                size=piece.size,
                sha256=piece.sha256,
                wrapped_key=piece.wrapped_key,
                subject=ref,
                header=piece.header,
            )
        )
    if at != row.received:
        raise Gone("this upload has ended")
    return result
