"""Makes what a browser plays and what is drawn: renditions, silenced renditions, peaks.

Handlers of background work; each may run any number of times, and two may run at once: what is there
already is left alone, and of two that finish together one destroys its own object. A derivative is complete
and sealed before its row exists, so nobody is ever served half of one, and the row is added in a transaction
that looks at the recording's state under lock, so that nothing made late outlives an erasure.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ObjectRole, RecordingState
from recorder.catalogue.tables import Recording
from recorder.errors import Erased, NotFound
from recorder.playback import editing, ffmpeg
from recorder.playback.editing import Layout
from recorder.playback.ffmpeg import LIMITS, Limits, MediaError
from recorder.playback.media import OGG_OPUS, Input, input_of, is_playable, pcm_layout
from recorder.playback.objects import add_object, living_objects, stored_object
from recorder.playback.peaks import PeakReducer
from recorder.playback.spans import Span, frames_of, read_spans
from recorder.services import Services
from storage.vault import StoredObject, WrittenObject

__all__ = ["ACTOR", "make_peaks", "make_rendition", "needed_roles"]

ACTOR: Final = "system:renditions"
_PEAKS_RATE: Final = 8000
_SILENT_DBFS: Final = -50.0
"""Below it there is nothing but the noise of a line: a quiet voice peaks some 20 dB above."""
_PIECE_BYTES: Final = 1024 * 1024
_DERIVED_TYPES: Final = {
    ObjectRole.RENDITION: OGG_OPUS,
    ObjectRole.REDACTED: OGG_OPUS,
    ObjectRole.PEAKS: "application/json",
}


@dataclass(frozen=True, slots=True)
class _Work:
    """What is decoded, how, and what of it is to be silent."""

    source: StoredObject
    opened: Input
    layout: Layout
    spans: tuple[Span, ...]


def needed_roles(recording: Recording) -> tuple[ObjectRole, ...]:
    """The renditions that a recording needs beside its original: none for plain audio that browsers play."""
    spans = read_spans(recording.muted, card_data_removed=recording.card_data_removed)
    roles = [] if is_playable(recording.media) else [ObjectRole.RENDITION]
    return (*roles, ObjectRole.REDACTED) if spans else tuple(roles)


async def make_rendition(
    services: Services, recording_id: uuid.UUID, *, limits: Limits = LIMITS
) -> tuple[ObjectRole, ...]:
    """Make the renditions that are needed and not there yet.

    Returns:
        The roles that were made now.

    Raises:
        NotFound: there is no such recording.
        MediaError: its audio cannot be decoded; trying again will not help.
        storage.errors.StorageError, Unavailable: a dependency failed; trying again may help.
    """
    recording, found = await _look(services, recording_id)
    if found is None or found.source.role != ObjectRole.ORIGINAL.value:
        return ()
    made: list[ObjectRole] = []
    for role in needed_roles(recording):
        if role in found.roles:
            continue
        work = _work(recording, found)
        spans = work.spans if role is ObjectRole.REDACTED else ()
        async with _rendition(services, work, spans, limits) as pieces:
            written = await services.vault.write(pieces, role=role.value)
        if await _settle(services, recording_id, role, written, work):
            made.append(role)
    return tuple(made)


async def make_peaks(services: Services, recording_id: uuid.UUID, *, limits: Limits = LIMITS) -> bool:
    """Compute the drawn wave once and seal it; muted spans are drawn silent for everybody.

    Returns:
        Whether it was made now.

    Raises:
        NotFound, MediaError, storage.errors.StorageError, Unavailable: as for `make_rendition`.
    """
    recording, found = await _look(services, recording_id)
    if found is None or ObjectRole.PEAKS in found.roles:
        return False
    work = _work(recording, found)
    work = _Work(work.source, work.opened, Layout(_PEAKS_RATE, work.layout.channels), work.spans)
    reducer = PeakReducer(work.layout)
    level, whole = -math.inf, work.layout.frame_bytes
    async with _silenced(services, work, work.spans, limits) as pieces:
        async for piece in pieces:
            await asyncio.to_thread(reducer.feed, piece)
            usable = piece[: len(piece) - len(piece) % whole]
            level = max(level, await asyncio.to_thread(editing.loudest, usable, work.layout))
    document = await asyncio.to_thread(reducer.finish)
    written = await services.vault.write(_once(document), role=ObjectRole.PEAKS.value, size=len(document))
    # What was muted is silent by intent: nothing follows from the rest.
    odd = () if work.spans else odd_about(level, reducer.milliseconds, services.settings.shortest_seconds)
    return await _settle(services, recording_id, ObjectRole.PEAKS, written, work, odd)


def odd_about(level: float, milliseconds: int, shortest_seconds: float) -> tuple[str, ...]:
    """Codes of what nobody means to record, told and not hidden: ``silent``, ``too-short``.

    Args:
        level: of the loudest sample, in dB below full scale.
        milliseconds: length of what decoded.
        shortest_seconds: what is shorter is too short.
    """
    found = ["silent"] if level < _SILENT_DBFS else []
    found += ["too-short"] if milliseconds < shortest_seconds * 1000 else []
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Found:
    """The object to work from: the original, or the silenced rendition that took its place."""

    source: StoredObject
    roles: frozenset[ObjectRole]


async def _look(services: Services, recording_id: uuid.UUID) -> tuple[Recording, _Found | None]:
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
        if recording is None:
            raise NotFound("no such recording")
        objects = await living_objects(session, recording_id)
    source = objects.get(ObjectRole.ORIGINAL, objects.get(ObjectRole.REDACTED))
    if recording.state is not RecordingState.STORED or source is None:
        return recording, None
    try:
        return recording, _Found(stored_object(*source), frozenset(objects))
    except Erased:
        return recording, None


def _work(recording: Recording, found: _Found) -> _Work:
    media = recording.media
    if found.source.role != ObjectRole.ORIGINAL.value:
        media = {"container": "ogg", "codec": "opus", "channels": media.get("channels")}
    opened = input_of(media)
    if opened is None:
        raise MediaError("nothing here decodes media of this kind")
    spans = read_spans(recording.muted, card_data_removed=recording.card_data_removed)
    return _Work(found.source, opened, pcm_layout(media), spans)


@asynccontextmanager
async def _rendition(
    services: Services, work: _Work, spans: Sequence[Span], limits: Limits
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The recording as Ogg/Opus, with the spans silent."""
    if not spans:
        async with (
            services.vault.read(work.source) as source,
            ffmpeg.transcode(source, work.opened, work.layout, limits=limits) as pieces,
        ):
            yield pieces
        return
    async with (
        _silenced(services, work, spans, limits) as pcm,
        ffmpeg.encode(pcm, work.layout, limits=limits) as pieces,
    ):
        yield pieces


@asynccontextmanager
async def _silenced(
    services: Services, work: _Work, spans: Sequence[Span], limits: Limits
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The recording as raw PCM, with the spans silent."""
    async with (
        services.vault.read(work.source) as source,
        _decoding(source, work, limits) as pcm,
    ):
        yield _silence(pcm, work.layout, spans)


def _decoding(
    source: AsyncIterator[bytes], work: _Work, limits: Limits
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    return ffmpeg.decode(source, work.opened, work.layout, limits=limits)


async def _silence(pcm: AsyncIterator[bytes], layout: Layout, spans: Sequence[Span]) -> AsyncIterator[bytes]:
    """Silence exactly the covered frames of a stream of PCM, in pieces of a minute at most.

    Not by ffmpeg's volume filter: its ``enable`` is looked at once a frame of its own, which is half a second
    of telephone audio, so it would let through the start of a span.
    """
    whole = layout.frame_bytes
    size = min(_PIECE_BYTES // whole, editing.MAX_PIECE_SECONDS * layout.rate) * whole
    done = 0
    async for piece in _in_pieces(pcm, size):
        usable = piece[: len(piece) - len(piece) % whole]
        covered = frames_of(spans, layout.rate, done, len(usable) // whole)
        done += len(usable) // whole
        yield await asyncio.to_thread(editing.silence, usable, layout, covered) if covered else usable


async def _in_pieces(source: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    kept = bytearray()
    async for piece in source:
        kept += piece
        while len(kept) >= size:
            yield bytes(kept[:size])
            del kept[:size]
    if kept:
        yield bytes(kept)


async def _once(document: bytes) -> AsyncIterator[bytes]:
    yield document


async def _settle(
    services: Services,
    recording_id: uuid.UUID,
    role: ObjectRole,
    written: WrittenObject,
    work: _Work,
    odd: Sequence[str] = (),
) -> bool:
    """Add the finished object to the catalogue, or destroy it where it came too late."""
    settled = False
    try:
        async with services.database.transaction() as session:
            recording = await _still_wanted(session, recording_id, role, work)
            if recording is not None:
                now = services.clock.now()
                row = await add_object(
                    session,
                    services,
                    recording,
                    written,
                    role=role,
                    content_type=_DERIVED_TYPES[role],
                    now=now,
                )
                record(session, _made(recording, row.id, role), now=now)
                if new := [code for code in odd if code not in recording.reasons]:
                    recording.reasons = [*recording.reasons, *new]
                    record(session, _odd(recording, new), now=now)
                settled = True
    except Erased:
        settled = False
    # After any other error the commit is in doubt: the object stays for the reconciler to judge.
    if not settled:
        await services.vault.destroy(written.key)
    return settled


async def _still_wanted(
    session: AsyncSession, recording_id: uuid.UUID, role: ObjectRole, work: _Work
) -> Recording | None:
    # FOR NO KEY UPDATE: an erasure takes the same lock to begin, so one of the two sees the other.
    recording = await session.get(
        Recording, recording_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if recording is None or recording.state is not RecordingState.STORED:
        return None
    if read_spans(recording.muted, card_data_removed=recording.card_data_removed) != work.spans:
        return None  # muted otherwise in the meantime; the job that this change enqueued makes it again
    objects = await living_objects(session, recording_id)
    same_source = any(row.id == work.source.object_id for row, _ in objects.values())
    return recording if same_source and role not in objects else None


def _made(recording: Recording, object_id: uuid.UUID, role: ObjectRole) -> AuditEvent:
    return AuditEvent(
        action="peaks.made" if role is ObjectRole.PEAKS else "rendition.made",
        actor=ACTOR,
        object_type="recording",
        object_id=str(recording.id),
        controller_id=recording.controller_id,
        details={"object": str(object_id), "role": role.value},
    )


def _odd(recording: Recording, codes: Sequence[str]) -> AuditEvent:
    return AuditEvent(
        action="recording.odd",
        actor=ACTOR,
        object_type="recording",
        object_id=str(recording.id),
        controller_id=recording.controller_id,
        details={"reasons": list(codes)},
    )
