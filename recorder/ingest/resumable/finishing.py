"""From a complete upload to a recording: its pieces are read back, verified, and go the one way in.

Repeating it changes nothing: the pipeline knows the recording again, so a crash between its commit and ours
costs a second look.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import RecordingState, Role, ScopeKind
from recorder.catalogue.tables import Recording, ResumableUpload, UploadState
from recorder.errors import (
    Conflict,
    Erased,
    Gone,
    InvalidInput,
    MalformedInput,
    RecorderError,
    TooLarge,
    UnsupportedMediaType,
)
from recorder.ingest import spooling
from recorder.ingest.admission import GONE
from recorder.ingest.answers import outcome_of
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import Outcome, OutcomeKind
from recorder.ingest.resumable import ending, rows
from recorder.ingest.resumable.active import Hold
from recorder.services import Services
from storage.errors import KeyDestroyed, ObjectMissing, StorageError, TamperedObject

log = logging.getLogger("recorder.uploads")
# What the pipeline would say again, however often it is asked. Anything else may be mended by time.
_FINAL: Final = (Conflict, Erased, InvalidInput, MalformedInput, TooLarge, UnsupportedMediaType)


class _Damaged(Exception):
    """A piece is not what was written, or not there."""


class _NotNeeded(Exception):
    """The upload stands elsewhere by now."""


async def drive(
    services: Services, source_id: uuid.UUID | None, upload_id: uuid.UUID, *, request_id: str
) -> None:
    """Finish an upload whose every byte is here, unless somebody does; see `outcome` for what it came to.

    Raises:
        Busy: another request has it.
        RecorderError: as the pipeline says; a refusal is remembered.
    """
    hold = services.resumable.begin(upload_id)
    try:
        async with rows.held(services, source_id, upload_id, hold) as (_, row):
            if row.state is not UploadState.FINISHING:
                raise _NotNeeded
    except _NotNeeded:
        return
    try:
        async with rows.renewing(services, hold):
            await finish(services, hold, request_id=request_id)
    finally:
        await rows.release(services, hold)


async def finish(
    services: Services, hold: Hold, *, request_id: str, data: Sequence[bytes] | None = None
) -> Outcome:
    """Hand a held upload to the pipeline and end it.

    Args:
        data: its bytes, where they are in memory and need not be read back.

    Raises:
        Gone: a piece is damaged, or the upload was ended meanwhile.
        RecorderError, storage.errors.StorageError: as the pipeline says.
    """
    row = await rows.find(services, await _source_of(services, hold), hold.upload_id)
    asked = (await rows.opened(services, row)).request
    if asked is None:
        raise AssertionError("a part is no recording")
    ids = [uuid.UUID(part) for part in row.parts] if row.parts is not None else [row.id]
    body = _stored(services, ids) if data is None else _given(data)
    try:
        async with aclosing(body):
            intake = Intake(services)
            # What lies in pieces waits there; what is in memory alone may be spooled.
            step = intake.accept if data is None else intake.accept_durably
            outcome = await step(asked, body, principal=pusher(row), request_id=request_id)
    except _FINAL as error:
        await _end(services, hold, UploadState.REFUSED, error=error)
        raise
    except (_Damaged, Gone):
        await _give_up(services, hold)
        raise Gone("pieces of this upload are damaged; begin a new one") from None
    await _end(services, hold, UploadState.DONE, outcome=outcome)
    return outcome


def pusher(row: ResumableUpload) -> Principal:
    """The source of an upload, for work that goes on without its request."""
    grant = Grant(Role.TELEPHONY, row.controller_id, ScopeKind.CONTROLLER)
    return Principal(
        "source", str(row.source_id), row.controller_id, grants=(grant,), source_id=row.source_id
    )


async def outcome(services: Services, row: ResumableUpload) -> Outcome:
    """What a finished upload became, with its receipt.

    Raises:
        Erased: it was erased since.
    """
    async with services.database.snapshot() as session:
        recording = None if row.recording_id is None else await session.get(Recording, row.recording_id)
        if recording is None and row.recording_id is not None and (row.problem or {}).get("spooled"):
            alias = await spooling.alias_of(services, row.recording_id)
            if alias is None:
                return _spooled(row.recording_id, row.problem or {})
            recording = await session.get(Recording, alias.recording_id) if alias.recording_id else None
        if recording is None or recording.state in GONE:
            raise Erased("this call was erased")
        return await outcome_of(session, services, recording, OutcomeKind.CREATED)


def told_of(outcome: Outcome) -> dict[str, Any] | None:
    """What is told of a recording that waits in the spool, where no row of it can be asked yet."""
    if outcome.state is not RecordingState.SPOOLED:
        return None
    return {
        "spooled": True,
        "call_id": None if outcome.call_id is None else str(outcome.call_id),
        "reasons": list(outcome.reasons),
        "sha256": outcome.sha256.hex(),
        "size": outcome.size,
        "media": outcome.media,
        "receipt": outcome.receipt,
    }


def _spooled(recording_id: uuid.UUID, kept: dict[str, Any]) -> Outcome:
    return Outcome(
        kind=OutcomeKind.CREATED,
        recording_id=recording_id,
        call_id=None if kept["call_id"] is None else uuid.UUID(kept["call_id"]),
        state=RecordingState.SPOOLED,
        reasons=tuple(kept["reasons"]),
        sha256=bytes.fromhex(kept["sha256"]),
        size=kept["size"],
        media=kept["media"],
        customer={"status": "unlinked", "id": None, "matched_by": None, "candidates": 0},
        retention=None,
        receipt=kept["receipt"],
    )


async def finish_left(services: Services) -> int:
    """Finish what a process that died, or an outage, left complete.

    Returns:
        How many are recordings now.
    """
    async with services.database.snapshot() as session:
        query = sa.select(ResumableUpload.id).where(ResumableUpload.state == UploadState.FINISHING)
        waiting = list(await session.scalars(query.order_by(ResumableUpload.changed_at).limit(200)))
    count = 0
    for upload_id in waiting:
        try:
            await drive(services, None, upload_id, request_id=uuid.uuid4().hex)
            count += 1
        except (RecorderError, StorageError) as error:
            log.info("an upload is not finished", extra={"error": type(error).__name__})
    return count


async def tend_uploads(services: Services) -> None:
    """What recurs: finish what is complete, end what is over, delete what is dead."""
    await finish_left(services)
    await ending.expire(services)
    await ending.forget_erased(services)
    await ending.delete_dead(services)
    await ending.purge(services)


async def _source_of(services: Services, hold: Hold) -> uuid.UUID | None:
    async with services.database.snapshot() as session:
        query = sa.select(ResumableUpload.source_id).where(ResumableUpload.id == hold.upload_id)
        return await session.scalar(query)


async def _stored(services: Services, ids: Sequence[uuid.UUID]) -> AsyncGenerator[bytes]:
    for upload_id in ids:
        for piece in await rows.pieces(services, upload_id):
            try:
                opened = await services.vault.open_range(piece)
            except (TamperedObject, ObjectMissing, KeyDestroyed) as error:
                raise _Damaged from error
            try:
                while True:
                    try:
                        chunk = await anext(opened, None)
                    except TamperedObject as error:
                        raise _Damaged from error
                    if chunk is None:
                        break
                    yield bytes(chunk)
            finally:
                await opened.aclose()


async def _given(data: Sequence[bytes]) -> AsyncGenerator[bytes]:
    for chunk in data:
        yield chunk


async def _end(
    services: Services,
    hold: Hold,
    state: UploadState,
    *,
    outcome: Outcome | None = None,
    error: RecorderError | None = None,
) -> None:
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await rows.mine(session, hold)
        row.received = row.length if row.length is not None else row.received
        for part in row.parts or ():
            other = await session.get(ResumableUpload, uuid.UUID(part), with_for_update=True)
            if other is not None and other.state in rows.UNDER_WAY:
                await ending.close(session, other, UploadState.ENDED, now, problem={"why": "used"})
        recording_id = None if outcome is None else outcome.recording_id
        problem = None if outcome is None else told_of(outcome)
        if error is not None:
            problem = rows.remembered(error)
        await ending.close(session, row, state, now, recording_id=recording_id, problem=problem)
        ids = [row.id, *(uuid.UUID(part) for part in row.parts or ())]
    await ending.clear(services, ids)


async def _give_up(services: Services, hold: Hold) -> None:
    log.error("pieces of an upload are damaged", extra={"upload": str(hold.upload_id)})
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await rows.mine(session, hold)
        await ending.give_up(session, row, "damaged", now, outcome="failed")


__all__ = ["drive", "finish", "finish_left", "outcome", "pusher", "tend_uploads", "told_of"]
