"""Muting a stretch of a stored call: an overlay, or, for a card security code, destruction.

A card security code must not remain after authorisation (PCI DSS 3.3.1). One that is found late goes like
this, hold or not:

1. `declare`: the span is on the recording, so nobody hears the original from here on; what was drawn and
   converted from it loses its key in the same transaction.
2. A muted copy of the original is made: byte for byte the original but for the span where the codec allows
   it, else 16-bit PCM. It is read back and verified.
3. The original and everything made from it is erased at once, every version, with a certificate.

A process that dies in between leaves a job that goes on. Any other reason is an overlay: the span is silent
for everybody but those who may hear the original.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ErasureGround, JobState, ObjectRole
from recorder.catalogue.tables import Erasure, Job, Recording, StoredObjectRow
from recorder.disposition import erasures
from recorder.disposition.evaluation import reevaluate
from recorder.disposition.facts import ALIVE
from recorder.errors import Conflict, Erased, FieldError, InvalidInput, NotFound, Unavailable
from recorder.ingest.silencing import destroy_spans, fixed_rate
from recorder.ingest.sniff import HEAD_SIZE, Hints, Media, sniff
from recorder.jobs.queue import enqueue
from recorder.playback.media import content_type_of, input_of
from recorder.playback.objects import add_object, living_objects, stored_object
from recorder.playback.spans import CARD_SECURITY, card_spans
from recorder.services import Services
from storage.errors import ObjectLocked, StorageError, Unsupported
from storage.keys import wrap_data_key
from storage.vault import StoredObject, WrittenObject

JOB: Final = "redaction"
ACTOR: Final = "system:redaction"
_RESUME_AFTER: Final = timedelta(minutes=2)
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Redaction:
    """What a redaction did.

    Attributes:
        destroyed: the stretch is gone for everybody; else it is an overlay.
        certificate_id: certificate of the original's destruction.
    """

    recording_id: uuid.UUID
    from_ms: int
    to_ms: int
    reason: str
    destroyed: bool
    certificate_id: uuid.UUID | None


@dataclass(frozen=True, slots=True)
class _Copy:
    """The muted copy, written and not yet in the catalogue."""

    written: WrittenObject
    media: dict[str, Any]
    spans: tuple[tuple[int, int], ...]


async def redact(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    *,
    from_ms: int,
    to_ms: int,
    reason: str,
    request_id: str | None = None,
) -> Redaction:
    """Mute a stretch of a recording; with reason ``card_security``, destroy it before this returns.

    Args:
        from_ms: start in milliseconds of audio.
        to_ms: end, after the start.
        reason: stable code, for example ``card_security``, ``payment`` or ``third_party``.

    Raises:
        NotFound: there is no such recording.
        Forbidden: the caller may not erase there.
        Erased: it is gone.
        InvalidInput: the stretch is empty or begins after the end of the call.
        Conflict: nothing here can mute this kind of audio; erase the recording instead.
        Unavailable: a dependency is away; the stretch is muted for everybody already, and the rest follows.
    """
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
    if recording is None:
        raise NotFound("no such recording")
    await permit(
        services,
        principal,
        Action.ERASE,
        controller_id=recording.controller_id,
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    if reason != CARD_SECURITY:
        await _raise_copy(services, recording_id)
    async with services.database.transaction() as session:
        stale = await _declare(
            session,
            services,
            recording_id,
            span={"from_ms": from_ms, "to_ms": to_ms, "reason": reason},
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )
    if reason != CARD_SECURITY:
        await _discard(services, stale)
        return Redaction(recording_id, from_ms, to_ms, reason, False, None)
    certificate_id = await destroy_original(services, recording_id, actor=principal.actor)
    return Redaction(recording_id, from_ms, to_ms, reason, True, certificate_id)


async def _declare(
    session: AsyncSession,
    services: Services,
    recording_id: uuid.UUID,
    *,
    span: dict[str, Any],
    actor: str,
    now: datetime,
    request_id: str | None,
) -> list[StoredObjectRow]:
    """Put the span on the recording and take the key of what was made without it."""
    recording = await session.get(
        Recording, recording_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if recording is None:
        raise NotFound("no such recording")
    _refuse_gone(recording)
    _check(recording, span)
    card = span["reason"] == CARD_SECURITY
    objects = await living_objects(session, recording_id)
    if not card and ObjectRole.ORIGINAL not in objects:
        raise Conflict("the recording's audio is being replaced; ask again", kind="original-gone")
    recording.muted = [*recording.muted, span]
    if card:
        recording.card_data_removed = False
    made = {ObjectRole.REDACTED, ObjectRole.PEAKS}
    if card:
        made.add(ObjectRole.RENDITION)
    if ObjectRole.ORIGINAL not in objects:
        made.discard(ObjectRole.REDACTED)  # it is what the muted copy is made from
    query = sa.select(StoredObjectRow).where(
        StoredObjectRow.recording_id == recording_id,
        StoredObjectRow.role.in_(made),
        StoredObjectRow.wrapped_key.is_not(None),
    )
    stale = list(await session.scalars(query))
    for row in stale:
        row.wrapped_key = None
        if not card:
            row.deleted_at = now
    await session.execute(
        sa.delete(Job).where(
            Job.target_id == recording_id,
            Job.kind.in_(["rendition", "peaks"]),
            Job.state == JobState.QUEUED,
        )
    )
    if card:
        # Done at once below; this one takes over if the process dies before.
        enqueue(session, JOB, recording_id, now=now, not_before=now + _RESUME_AFTER)
    else:
        for kind in ("rendition", "peaks"):
            enqueue(session, kind, recording_id, now=now)
    event = AuditEvent(
        action="recording.redacted",
        actor=actor,
        object_type="recording",
        object_id=str(recording_id),
        controller_id=recording.controller_id,
        request_id=request_id,
        details={**span, "stale": [str(row.id) for row in stale]},
    )
    record(session, event, now=now)
    await session.flush()
    await reevaluate(session, services, [recording_id], now)
    return stale


async def _raise_copy(services: Services, recording_id: uuid.UUID) -> None:
    """Where only a silenced rendition outlived the original, seal it anew as what overlays are made from.

    What an object is to its recording is bound into its bytes, so it cannot merely be called something else.
    """
    async with services.database.snapshot() as session:
        objects = await living_objects(session, recording_id)
    found = objects.get(ObjectRole.REDACTED)
    if ObjectRole.ORIGINAL in objects or found is None:
        return
    source = stored_object(*found)
    async with services.vault.read(source) as pieces:
        written = await services.vault.write(_plain(pieces), role=ObjectRole.ORIGINAL.value, size=source.size)
    try:
        async with services.database.transaction() as session:
            kept = await _enter_copy(session, services, recording_id, source, written)
    except (Erased, NotFound):
        with contextlib.suppress(StorageError):
            await services.vault.destroy(written.key)
        raise
    # After any other error the commit is in doubt: the object stays for the reconciler to judge.
    if not kept:
        with contextlib.suppress(StorageError):
            await services.vault.destroy(written.key)


async def _enter_copy(
    session: AsyncSession,
    services: Services,
    recording_id: uuid.UUID,
    source: StoredObject,
    written: WrittenObject,
) -> bool:
    """Returns whether it is the recording's audio now; not where another one was quicker."""
    recording = await session.get(
        Recording, recording_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if recording is None:
        raise NotFound("no such recording")
    _refuse_gone(recording)
    objects = await living_objects(session, recording_id)
    found = objects.get(ObjectRole.REDACTED)
    if ObjectRole.ORIGINAL in objects or found is None or found[0].id != source.object_id:
        return False
    media = Media("ogg", "opus", channels=recording.media.get("channels")).document()
    row = await add_object(
        session,
        services,
        recording,
        written,
        role=ObjectRole.ORIGINAL,
        content_type=content_type_of(media),
        now=services.clock.now(),
    )
    recording.sha256, recording.size, recording.media = row.sha256, row.size, media
    event = AuditEvent(
        action="recording.muted_copy",
        actor=ACTOR,
        object_type="recording",
        object_id=str(recording.id),
        controller_id=recording.controller_id,
        details={"object": str(row.id), "sha256": row.sha256.hex(), "size": row.size},
    )
    record(session, event, now=services.clock.now())
    return True


async def destroy_original(
    services: Services, recording_id: uuid.UUID, *, actor: str = ACTOR
) -> uuid.UUID | None:
    """Make the muted copy and destroy the original; idempotent, also the job's handler.

    Returns:
        The certificate of its destruction; None when there is nothing (left) to destroy.

    Raises:
        NotFound: there is no such recording.
        Erased: it is gone altogether.
        Conflict: nothing here can mute this kind of audio.
        Unavailable, storage.errors.StorageError: a dependency is away; call again.
    """
    certificate_id: uuid.UUID | None = None
    for _ in range(_ATTEMPTS):  # a second stretch may be declared while the first is being destroyed
        erasure_id = await _open_erasure(services, recording_id)
        if erasure_id is None:
            copy = await _mute(services, recording_id)
            if copy is None:
                return certificate_id
            erasure_id = await _settle(services, recording_id, copy, actor)
        if erasure_id is not None:
            certificate_id = await _run(services, erasure_id)
    return certificate_id


async def _run(services: Services, erasure_id: uuid.UUID) -> uuid.UUID | None:
    for attempt in range(_ATTEMPTS):
        try:
            await erasures.run(services, erasure_id)
            break
        except Unavailable:
            # A rendition that was being made just then sends the erasure back once.
            if attempt + 1 == _ATTEMPTS:
                raise
    async with services.database.snapshot() as session:
        return (await session.get_one(Erasure, erasure_id)).certificate_id


async def _open_erasure(services: Services, recording_id: uuid.UUID) -> uuid.UUID | None:
    """An erasure of the original that has its muted copy and is not finished."""
    async with services.database.snapshot() as session:
        query = sa.select(Erasure).where(
            Erasure.recording_id == recording_id,
            Erasure.scope == "original",
            Erasure.finished_at.is_(None),
        )
        found = (await session.scalars(query)).one_or_none()
    return None if found is None or "keep" not in found.detail else found.id


async def _mute(services: Services, recording_id: uuid.UUID) -> _Copy | None:
    """Write a copy of the audio with every card security span destroyed."""
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
        if recording is None:
            raise NotFound("no such recording")
        _refuse_gone(recording)
        spans = card_spans(recording.muted)
        objects = await living_objects(session, recording_id)
        found = objects.get(ObjectRole.ORIGINAL) or objects.get(ObjectRole.REDACTED)
        if recording.card_data_removed or not spans or found is None:
            return None
        source = stored_object(*found)
    media = await _media_of(services, recording, source)
    try:
        async with services.vault.read(source) as pieces:
            seconds = [(start / 1000, end / 1000) for start, end in spans]
            kept, media = destroy_spans(_plain(pieces), media, seconds)
            written = await services.vault.write(kept, role=ObjectRole.ORIGINAL.value)
    except InvalidInput as error:
        raise Conflict(
            "nothing here can mute this kind of audio; erase the recording instead", kind="cannot-be-muted"
        ) from error
    # Read back before the only other copy goes.
    wrapped = wrap_data_key(
        services.keyring,
        source.subject,
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    await services.vault.verify(
        StoredObject(
            object_id=written.object_id,
            role=written.role,
            key=written.key,
            version_id=written.version_id,
            size=written.size,
            sha256=written.sha256,
            wrapped_key=wrapped,
            subject=source.subject,
        )
    )
    return _Copy(written, media.document(), tuple(spans))


async def _settle(services: Services, recording_id: uuid.UUID, copy: _Copy, actor: str) -> uuid.UUID | None:
    """The copy becomes the recording's audio, and the erasure of everything else is opened.

    Returns:
        The erasure; None when another stretch was declared meanwhile, so that another copy is needed.
    """
    now = services.clock.now()
    kept, erasure_id = False, None
    try:
        async with services.database.transaction() as session:
            recording = await session.get(
                Recording, recording_id, with_for_update={"key_share": True}, populate_existing=True
            )
            if recording is None:
                raise NotFound("no such recording")
            _refuse_gone(recording)
            if tuple(card_spans(recording.muted)) == copy.spans and not recording.card_data_removed:
                erasure_id = await erasures.open_recording(
                    session,
                    recording_id,
                    ground=ErasureGround.CARD_SECURITY,
                    requested_by=actor,
                    now=now,
                    scope="original",
                )
                erasure = await session.get_one(
                    Erasure, erasure_id, with_for_update=True, populate_existing=True
                )
                if "keep" not in erasure.detail:
                    await _adopt(session, services, recording, copy, erasure, now)
                    kept = True
    except (Erased, NotFound):
        await _forget(services, copy)
        raise
    # After any other error the commit is in doubt: the object stays for the reconciler to judge.
    if not kept:
        await _forget(services, copy)
    return erasure_id


async def _forget(services: Services, copy: _Copy) -> None:
    with contextlib.suppress(StorageError):
        await services.vault.destroy(copy.written.key)


async def _adopt(
    session: AsyncSession,
    services: Services,
    recording: Recording,
    copy: _Copy,
    erasure: Erasure,
    now: datetime,
) -> None:
    row = await add_object(
        session,
        services,
        recording,
        copy.written,
        role=ObjectRole.ORIGINAL,
        content_type=content_type_of(copy.media),
        now=now,
    )
    if recording.received_sha256 is None:
        recording.received_sha256, recording.received_size = recording.sha256, recording.size
    recording.sha256, recording.size, recording.media = row.sha256, row.size, copy.media
    erasure.detail = {**erasure.detail, "keep": str(row.id), "spans": [list(span) for span in copy.spans]}
    event = AuditEvent(
        action="recording.muted_copy",
        actor=ACTOR,
        object_type="recording",
        object_id=str(recording.id),
        controller_id=recording.controller_id,
        details={"object": str(row.id), "sha256": row.sha256.hex(), "size": row.size},
    )
    record(session, event, now=now)


async def _media_of(services: Services, recording: Recording, source: StoredObject) -> Media:
    """What the audio is, with where its samples lie; from its own first bytes, as at ingest."""
    if source.role != ObjectRole.ORIGINAL.value:
        return Media("ogg", "opus", channels=recording.media.get("channels"))
    head = b""
    if source.size:
        async with services.vault.read(source, 0, min(source.size, HEAD_SIZE)) as pieces:
            head = b"".join([piece async for piece in pieces])
    known = recording.media
    media = sniff(
        head,
        Hints(
            codec=known.get("codec"),
            sample_rate=known.get("sample_rate"),
            channels=known.get("channels"),
            content_type=known.get("content_type"),
        ),
    )
    if fixed_rate(media) is None and (not media.known or input_of(media.document()) is None):
        raise Conflict(
            "nothing here can mute this kind of audio; erase the recording instead", kind="cannot-be-muted"
        )
    return media


async def _discard(services: Services, stale: Sequence[StoredObjectRow]) -> None:
    """Delete stale derivatives; their keys are gone, so what an outage leaves is for the reconciler."""
    for row in stale:
        with contextlib.suppress(StorageError):
            await remove_derivative(services, row.key)


async def remove_derivative(services: Services, key: str) -> None:
    """Delete every version of an object that can be made again, the store's legal hold lifted first.

    Raises:
        storage.errors.StorageError: the store is away or refuses.
    """
    try:
        await services.vault.destroy(key)
    except ObjectLocked:
        async for version in services.store.versions(key):
            if version.key == key and not version.is_delete_marker:
                with contextlib.suppress(Unsupported):
                    await services.store.set_legal_hold(key, version.version_id, False)
        await services.vault.destroy(key)


def _check(recording: Recording, span: dict[str, Any]) -> None:
    start, end = span["from_ms"], span["to_ms"]
    if start < 0 or end <= start:
        raise InvalidInput("the stretch must end after it begins", fields=[FieldError("/to", "after from")])
    if recording.duration_ms is not None and start >= recording.duration_ms:
        raise InvalidInput(
            "the stretch begins after the end of the call", fields=[FieldError("/from", "inside the call")]
        )


def _refuse_gone(recording: Recording) -> None:
    if recording.state not in ALIVE:
        certificate = None if recording.certificate_id is None else str(recording.certificate_id)
        raise Erased("the recording has been erased", certificate_id=certificate)


async def _plain(pieces: AsyncIterator[bytes | bytearray]) -> AsyncIterator[bytes | bytearray]:
    async for piece in pieces:
        yield piece
