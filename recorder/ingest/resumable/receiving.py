"""The bytes of an upload on their way in: sealed piece by piece, each counted when it is durable.

A piece ends after its size, after some seconds, or where the connection broke: what arrived before counts.
With a checksum, the pieces of one request are counted together once it fits, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.catalogue.tables import ResumableUpload, Source, UploadKind, UploadState
from recorder.errors import (
    Busy,
    ChecksumMismatch,
    Conflict,
    Forbidden,
    Gone,
    MalformedInput,
    RecorderError,
    TooLarge,
)
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import Outcome
from recorder.ingest.resumable import ending, finishing, rows
from recorder.ingest.resumable.active import Hold
from recorder.ingest.resumable.creating import Begun, limit_of
from recorder.ingest.resumable.protocol import Checksum
from recorder.services import Services
from storage.errors import StorageError
from storage.vault import WrittenObject

log = logging.getLogger("recorder.uploads")
DIRECT: Final = 1024 * 1024
"""An upload of at most so many bytes that comes in one request goes to the pipeline without pieces."""
_MOST_PIECES: Final = 20_000
_HANDOVER: Final = 20.0
_PIECE_SECONDS: Final = 10.0
"""A slow sender's piece is made durable after so long, however small it is."""


@dataclass(frozen=True, slots=True)
class Body:
    """What one request brings.

    Attributes:
        chunks: the bytes; an error that it raises means that they broke off.
        size: bytes to come, if the request says so.
        offset: where they belong.
        length: of the whole upload, where the request settles a deferred one.
        checksum: of these bytes.
        last: whether reaching the length completes the upload; else a later request says so.
    """

    chunks: AsyncIterator[bytes]
    size: int | None
    offset: int
    length: int | None = None
    checksum: Checksum | None = None
    last: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """Where an upload stands after a request.

    Attributes:
        outcome: what it became, once it is a recording.
    """

    row: ResumableUpload
    outcome: Outcome | None = None


class _Feed:
    """A body, read in pieces."""

    def __init__(self, body: Body, hold: Hold, *, allowed: int, idle: float) -> None:
        self._chunks = body.chunks
        self._hold = hold
        self._allowed = allowed
        self._idle = idle
        self._rest = b""
        self._ended = False
        self.hasher: Any = None if body.checksum is None else body.checksum.hasher()
        self.broken = False

    async def more(self) -> bool:
        """Whether there is another byte.

        Raises:
            TooLarge: there are more than the upload takes.
        """
        if not self._rest:
            self._rest = await self._next()
        return bool(self._rest)

    async def piece(self, size: int) -> AsyncIterator[bytes]:
        """The next bytes, at most so many."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PIECE_SECONDS
        while size > 0 and await self.more():
            chunk, self._rest = self._rest[:size], self._rest[size:]
            size -= len(chunk)
            yield chunk
            if loop.time() >= until:
                return

    async def _next(self) -> bytes:
        if self._ended:
            return b""
        try:
            async with self._hold.reading(self._idle):
                chunk = await anext(self._chunks, b"")
        except (RecorderError, TimeoutError, ConnectionError):
            self.broken = self._ended = True
            return b""
        finally:
            self._hold.read()
        self._ended = not chunk
        self._allowed -= len(chunk)
        if self._allowed < 0:
            self._ended = True
            raise TooLarge("the request brings more bytes than the upload is long")
        if self.hasher is not None:
            self.hasher.update(chunk)
        return chunk


async def patch(
    services: Services,
    source_id: uuid.UUID | None,
    upload_id: uuid.UUID,
    body: Body,
    *,
    request_id: str,
    hold: Hold | None = None,
) -> Progress:
    """Take the bytes of one request in, and make the upload a recording when they were the last.

    The work outlives a client that vanishes: what arrived is kept.

    Args:
        hold: of an upload that was created by this very request.

    Raises:
        NotFound, Gone, Erased: there is nothing to write to.
        Conflict: the offset is another one; or, at the end, other bytes are stored under the identity.
        Busy: another request is writing.
        Forbidden: it is put together from parts.
        TooLarge: it is longer than it may be.
        ChecksumMismatch: the bytes were dropped.
        MalformedInput: the body broke off; what arrived is kept, but for a body with a checksum.
        TooMany: too much at once.
        RecorderError: what the pipeline says at the end.
    """
    work = _patch(services, source_id, upload_id, body, request_id, hold)
    return await asyncio.shield(services.resumable.start(work))


async def _patch(
    services: Services,
    source_id: uuid.UUID | None,
    upload_id: uuid.UUID,
    body: Body,
    request_id: str,
    hold: Hold | None,
) -> Progress:
    if hold is None:
        row = await rows.find(services, source_id, upload_id)
        over = row.state in (UploadState.DONE, UploadState.FINISHING)
        if over and body.offset == row.received and body.size in (0, None):
            return await again(services, row, request_id)
        refuse_flood(services, source_id)
        hold = services.resumable.begin(upload_id, source_id)
        async with rows.held(services, source_id, upload_id, hold) as (session, row):
            allowed = await _admit(session, services, row, body)
    else:
        async with services.database.snapshot() as session:
            row = await session.get_one(ResumableUpload, upload_id)
            allowed = await _allowed(session, services, row)
        if body.size is not None and body.size > allowed:
            await rows.release(services, hold)
            raise TooLarge("the request brings more bytes than the upload is long")
    try:
        async with rows.renewing(services, hold):
            return await _write(services, hold, row, body, allowed, request_id)
    finally:
        await rows.release(services, hold)


async def take_whole(
    services: Services, begun: Begun, body: Body, *, principal: Principal, request_id: str
) -> Progress:
    """Take a small upload in that comes whole with its creation: nothing of it is kept unfinished.

    Raises:
        MalformedInput: the body broke off.
        ChecksumMismatch: its bytes are others.
        RecorderError: what the pipeline says.
    """
    work = _take_whole(services, begun, body, principal, request_id)
    return await asyncio.shield(services.resumable.start(work))


def comes_whole(begun: Begun, body: Body) -> bool:
    """Whether a creation brings all of a small upload."""
    small = begun.length is not None and 0 < begun.length <= DIRECT
    return body.last and small and begun.kind is UploadKind.WHOLE and body.size == begun.length


async def _take_whole(
    services: Services, begun: Begun, body: Body, principal: Principal, request_id: str
) -> Progress:
    asked, length, admitted = begun.asked.request, begun.length, begun.admitted
    if asked is None or length is None:
        raise AssertionError("a part, or a length that is to come, is not whole")
    refuse_flood(services, admitted.source.id)
    hold = services.resumable.begin(begun.upload_id, admitted.source.id)
    services.resumable.enter(hold)
    try:
        feed = _Feed(body, hold, allowed=length, idle=services.settings.upload_idle_seconds)
        data = [chunk async for chunk in feed.piece(length)]
    finally:
        services.resumable.leave(hold)
    if sum(map(len, data)) != length:
        raise MalformedInput("the body broke off; nothing was kept")
    _check(feed, body)
    outcome = await Intake(services).accept_durably(
        replace(asked, size=length), _given(data), principal=principal, request_id=request_id
    )
    row = await rows.insert_done(
        services,
        upload_id=begun.upload_id,
        controller_id=admitted.controller.id,
        source_id=admitted.source.id,
        identity=admitted.identity,
        length=length,
        recording_id=outcome.recording_id,
        result=finishing.told_of(outcome),
    )
    return Progress(row, outcome)


def refuse_flood(services: Services, source_id: uuid.UUID | None) -> None:
    """Refuse a request that would write beside too many others.

    Raises:
        TooMany: of this source, or of all.
    """
    settings = services.settings
    services.resumable.refuse_flood(
        source_id, share=settings.uploads_per_source, all_of_them=settings.concurrent_uploads
    )


async def begin(
    services: Services, row: ResumableUpload, body: Body, hold: Hold, *, actor: str, request_id: str
) -> Progress:
    """Take the bytes in that came with the creation itself.

    Raises:
        RecorderError: as `patch`; an upload of which the client learns no address is ended then.
    """
    try:
        return await patch(services, row.source_id, row.id, body, request_id=request_id, hold=hold)
    except RecorderError:
        with contextlib.suppress(RecorderError):
            known = await rows.find(services, row.source_id, row.id)
            if known.state is UploadState.OPEN:
                await terminate(services, row.source_id, row.id, actor=actor, request_id=request_id)
        raise


async def again(services: Services, row: ResumableUpload, request_id: str) -> Progress:
    """The answer for an upload whose every byte was here before this request; finishes it if need be.

    Raises:
        Busy: another request is finishing it.
        RecorderError: what the pipeline says, or said.
    """
    if row.state is UploadState.FINISHING:
        await finishing.drive(services, row.source_id, row.id, request_id=request_id)
        row = await rows.find(services, row.source_id, row.id)
    rows.refuse_ended(row, services.clock.now())
    if row.state is not UploadState.DONE:
        raise Busy("the upload is being made a recording; ask again")
    return Progress(row, await finishing.outcome(services, row))


async def _admit(session: AsyncSession, services: Services, row: ResumableUpload, body: Body) -> int:
    """Check a request against the upload under its lock; the bytes that it may bring."""
    rows.refuse_ended(row, services.clock.now())
    if row.kind is UploadKind.FINAL:
        raise Forbidden("an upload that is put together from parts takes no bytes", reason="final-upload")
    if body.offset != row.received or row.state is not UploadState.OPEN:
        raise Conflict("the upload stands at another offset; ask for it (HEAD)", kind="wrong-offset")
    if await rows.count_pieces(session, row.id) >= _MOST_PIECES:
        raise TooLarge("the upload came in too many pieces; begin a new one with larger requests")
    allowed = await _allowed(session, services, row)
    if body.length is not None and row.length is None:
        if body.length < row.received:
            raise MalformedInput("Upload-Length is less than what has been received")
        if body.length - row.received > allowed:
            raise TooLarge("the upload is longer than this source may send")
        row.length = body.length
        allowed = body.length - row.received
    elif body.length is not None and body.length != row.length:
        raise MalformedInput("Upload-Length is known already, and is another one")
    if body.size is not None and body.size > allowed:
        raise TooLarge("the request brings more bytes than the upload is long")
    if body.last and row.length == row.received and row.kind is UploadKind.WHOLE:
        row.state = UploadState.FINISHING
    return allowed


async def _allowed(session: AsyncSession, services: Services, row: ResumableUpload) -> int:
    if row.length is not None:
        return row.length - row.received
    source = await session.get_one(Source, row.source_id)
    return limit_of(services, source.max_bytes) - row.received


async def _write(
    services: Services, hold: Hold, row: ResumableUpload, body: Body, allowed: int, request_id: str
) -> Progress:
    feed = _Feed(body, hold, allowed=allowed, idle=services.settings.upload_idle_seconds)
    data: list[bytes] | None = None
    small = row.received == 0 and 0 < (row.length or 0) <= DIRECT
    if row.kind is UploadKind.WHOLE and small and body.last:
        data = [chunk async for chunk in feed.piece(DIRECT)]
        size = sum(map(len, data))
        await feed.more()  # finds out whether the body has ended as it should
        _check(feed, body)
        if size != row.length:
            row = await _keep(services, hold, row.received, _given(data)) if size else row
            data = None
    else:
        row = await _pieces(services, hold, row, feed, body)
    if data is None and (row.state is not UploadState.FINISHING or row.kind is UploadKind.PARTIAL):
        if feed.broken:
            raise MalformedInput(f"the body broke off; {row.received} bytes of the upload are kept")
        return Progress(row)
    try:
        outcome = await finishing.finish(services, hold, request_id=request_id, data=data)
    except (RecorderError, StorageError) as error:
        if data is not None:
            await _keep_after(services, hold, data, error)
        raise
    return Progress(await rows.find(services, row.source_id, row.id), outcome)


async def _keep_after(services: Services, hold: Hold, data: list[bytes], error: Exception) -> None:
    """Keep bytes that the pipeline could not take now; best effort, for the client is told of no progress."""
    with contextlib.suppress(RecorderError, StorageError):
        await _keep(services, hold, 0, _given(data))
        log.info("an upload waits for the pipeline", extra={"error": type(error).__name__})


async def _pieces(
    services: Services, hold: Hold, row: ResumableUpload, feed: _Feed, body: Body
) -> ResumableUpload:
    """Seal what comes; the upload as it stands after the last piece.

    Raises:
        ChecksumMismatch: nothing of it was kept.
        TooLarge: what came before the surplus is kept.
    """
    position, size = row.received, services.settings.upload_piece_bytes
    if body.checksum is None:
        while await feed.more():
            row = await _keep(services, hold, position, feed.piece(size), last=body.last)
            position = row.received
        return row
    together: list[WrittenObject] = []
    try:
        while await feed.more():
            together.append(await services.vault.write(feed.piece(size), role=rows.ROLE))
        _check(feed, body)
        if feed.broken:
            raise MalformedInput(
                "the body broke off before its checksum could be told; nothing of it is kept"
            )
    except BaseException:
        await _remove(services, together)
        raise
    return await _count(services, hold, position, together, last=body.last) if together else row


def _check(feed: _Feed, body: Body) -> None:
    if body.checksum is not None and not feed.broken and not body.checksum.fits(feed.hasher):
        raise ChecksumMismatch("the bytes do not fit Upload-Checksum; send them again")


async def _keep(
    services: Services, hold: Hold, position: int, chunks: AsyncIterator[bytes], *, last: bool = True
) -> ResumableUpload:
    written = await services.vault.write(chunks, role=rows.ROLE)
    return await _count(services, hold, position, [written], last=last)


async def _count(
    services: Services, hold: Hold, position: int, written: list[WrittenObject], *, last: bool
) -> ResumableUpload:
    try:
        return await rows.append(services, hold, position, written, last=last)
    except (Busy, Gone):
        await _remove(services, written)  # certainly not counted; whatever else failed may have been
        raise


async def _remove(services: Services, written: list[WrittenObject]) -> None:
    """Remove pieces that no row names; what cannot be removed now is the reconciler's."""
    for piece in written:
        try:
            await services.vault.destroy(piece.key)
        except StorageError as error:
            log.warning("an object is left behind", extra={"error": type(error).__name__})


async def _given(data: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in data:
        yield chunk


async def terminate(
    services: Services, source_id: uuid.UUID | None, upload_id: uuid.UUID, *, actor: str, request_id: str
) -> None:
    """End an upload because its source says so. What has become a recording stays one.

    Raises:
        NotFound: there is none.
        Gone: it has ended already.
        Busy: it is being made a recording.
    """
    await rows.find(services, source_id, upload_id)
    if (hold := services.resumable.of(upload_id)) is not None:
        await interrupt(hold)
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get(ResumableUpload, upload_id, with_for_update=True)
        row = rows.own(row, source_id)
        if row.state is UploadState.ENDED:
            rows.refuse_ended(row, now)
        if row.state is UploadState.FINISHING and rows.is_held(services, row, now):
            raise Busy("the upload is being made a recording; ask again")
        await ending.give_up(session, row, "terminated", now, actor=actor, request_id=request_id)
    await ending.clear(services, [upload_id])


async def interrupt(hold: Hold) -> bool:
    """Have another request of this process read no more, and wait until what it had is kept.

    Returns:
        Whether it has let go of the upload.
    """
    hold.stop()
    try:
        async with asyncio.timeout(_HANDOVER):
            await hold.over.wait()
    except TimeoutError:
        return False
    return True


async def standing(
    services: Services, source_id: uuid.UUID | None, upload_id: uuid.UUID, *, request_id: str
) -> Progress:
    """Where an upload stands, for a client that wants to go on with it.

    A request of this process that still waits for bytes of it is ended: its client is the one that asks. What
    is complete is finished first, so that a full offset always means a recording.

    Raises:
        NotFound, Gone, Erased: there is nothing to go on with.
        Busy: it is being made a recording.
        RecorderError: what the pipeline says, or said.
    """
    row = await rows.find(services, source_id, upload_id)
    if (hold := services.resumable.of(upload_id)) is not None:
        if not await interrupt(hold):
            raise Busy("another request is at work on this upload; ask again")
        row = await rows.find(services, source_id, upload_id)
    rows.refuse_ended(row, services.clock.now())
    if row.state is UploadState.OPEN:
        return Progress(row)
    return await again(services, row, request_id)
