"""Listening: decide, write it down, then stream.

One entry in the audit log opens a *listen* (caller, recording, purpose) and is committed before the first
byte leaves. Later ranges of the same listen are checked in full but add no entry (`continuing` has the short
way of it); a closing entry holds the bytes and seconds streamed. No database connection is held while audio
streams.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import JobState, ObjectRole, RecordingState
from recorder.catalogue.tables import Job, Listen, Recording, StoredObjectRow
from recorder.errors import Conflict, Corrupt, Erased, Forbidden, NotFound, Unavailable
from recorder.jobs import findings
from recorder.jobs.queue import enqueue
from recorder.playback.audio import Audio
from recorder.playback.decide import Allowed, Rendition, allowed_recording, choose_role
from recorder.playback.media import content_type_of, input_of
from recorder.playback.objects import living_objects, stored_object
from recorder.services import Services
from retention.model import Purpose
from storage.errors import ObjectMissing, TamperedObject
from storage.objects import Chunk

__all__ = [
    "Again",
    "Audio",
    "audit_refusal",
    "check_again",
    "close_idle_listens",
    "open_listen",
    "open_peaks",
    "stream",
]

log = logging.getLogger("recorder.playback")

Again = Callable[[], Awaitable[None]]
"""Asks everything anew in the middle of an answer; raises what the answer then breaks with."""

CHECK_AGAIN = timedelta(seconds=5)
"""So long at most does an answer outlive the right to it, while it sends anything at all."""
_TRUSTED = timedelta(seconds=30)  # with the database away, the last answer counts so long
_CLOSE_AT_ONCE = 200
_RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class _Question:
    """Who wants to hear what, for what."""

    principal: Principal
    recording_id: uuid.UUID
    purpose: Purpose
    rendition: Rendition
    link_id: uuid.UUID | None
    request_id: str | None


async def open_listen(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose,
    rendition: Rendition = Rendition.PLAYBACK,
    *,
    counted: bool = True,
    link_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> Audio:
    """Decide whether the caller may hear a recording, and write it down before any byte leaves.

    Args:
        counted: False for a HEAD: the decision is the same, but nothing is heard.
        link_id: the listening link it came through.

    Raises:
        NotFound: there is no such recording.
        Erased: it is erased, or on its way.
        Forbidden: refused; the refusal is in the audit log.
        Conflict: no browser can play it and nothing here can convert it.
        Unavailable: the database (and so the log) is away, or a rendition is still being made.
    """
    question = _Question(principal, recording_id, purpose, rendition, link_id, request_id)
    try:
        async with services.database.snapshot() as session:
            now = services.clock.now()
            if not counted:
                return await _resolve(session, services, question, lock=False)
            # A listen that can only be a new one is decided once, below; its refusal costs a write anyway.
            if await _open_one(session, services, question, None, now) is not None:
                audio = await _resolve(session, services, question, lock=False)
                known = await _open_one(session, services, question, audio, now)
                if known is not None:
                    return _counted(audio, known)
        async with services.database.transaction() as session:
            # Decided under lock: what begins now and what erases it see one another.
            audio = await _resolve(session, services, question, lock=True)
            now = services.clock.now()
            known = await _open_one(session, services, question, audio, now)
            return _counted(audio, known or await _begin(session, question, audio, now))
    except (Forbidden, Erased) as refusal:
        await audit_refusal(services, principal, recording_id, purpose, refusal, request_id=request_id)
        raise
    except _NotMadeYet as missing:
        await _order(services, missing.recording_id, "rendition")
        raise Unavailable(
            "The playback version of this call is being made; try again in a moment.",
            dependency="media",
            retry_after=_RETRY_SECONDS,
        ) from None


async def check_again(
    services: Services,
    principal: Principal,
    audio: Audio,
    purpose: Purpose,
    rendition: Rendition,
    *,
    request_id: str | None = None,
) -> None:
    """Ask in the middle of an answer whether this caller may still hear this very object.

    Raises:
        NotFound, Erased, Forbidden, Conflict: as for `open_listen`; a refusal is in the log.
        Unavailable: the database is away.
    """
    question = _Question(principal, audio.recording_id, purpose, rendition, None, request_id)
    try:
        try:
            async with services.database.snapshot() as session:
                now_heard = await _resolve(session, services, question, lock=False)
        except _NotMadeYet:
            raise _changed() from None
        if now_heard.obj.object_id != audio.obj.object_id:
            raise _changed()
    except (Forbidden, Erased) as refusal:
        await audit_refusal(
            services,
            principal,
            audio.recording_id,
            purpose,
            refusal,
            action="listen.cut",
            request_id=request_id,
        )
        raise


def _changed() -> Forbidden:
    return Forbidden("What may be heard of this call has changed; ask for it again.", reason="changed")


async def open_peaks(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose | None = None,
    *,
    request_id: str | None = None,
) -> Audio:
    """The drawn wave, for whoever may listen; it opens no listen.

    Args:
        purpose: the declared purpose; None tries each that the caller may have.

    Raises:
        NotFound, Erased, Forbidden, Conflict, Unavailable: as for `open_listen`.
    """
    try:
        async with services.database.snapshot() as session:
            recording = await _allowed_for_any(session, services, principal, recording_id, purpose)
            objects = await living_objects(session, recording_id)
            hopeless = input_of(recording.media) is None or await _gave_up(session, recording_id, "peaks")
    except (Forbidden, Erased) as refusal:
        await audit_refusal(services, principal, recording_id, purpose, refusal, request_id=request_id)
        raise
    if ObjectRole.PEAKS not in objects:
        if hopeless:
            raise Conflict(
                "The audio of this call cannot be drawn: nothing here decodes it.", kind="not-playable"
            )
        await _order(services, recording_id, "peaks")
        raise Unavailable(
            "The wave of this call is being drawn; try again in a moment.",
            dependency="media",
            retry_after=_RETRY_SECONDS,
        )
    row, subject = objects[ObjectRole.PEAKS]
    return Audio(
        recording.id,
        recording.controller_id,
        stored_object(row, subject),
        row.content_type,
        recording.duration_ms,
    )


async def _allowed_for_any(
    session: AsyncSession,
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose | None,
) -> Recording:
    now = services.clock.now()
    refusals: list[Forbidden] = []
    for each in tuple(Purpose) if purpose is None else (purpose,):
        try:
            allowed = await allowed_recording(session, services, principal, recording_id, each, now=now)
        except Forbidden as refusal:
            refusals.append(refusal)
        else:
            return allowed.recording
    # A closed window says more than a purpose that the role does not have at all.
    raise min(refusals, key=lambda refusal: refusal.reason in ("purpose", "role"))


@asynccontextmanager
async def stream(
    services: Services,
    audio: Audio,
    start: int = 0,
    end: int | None = None,
    *,
    again: Again | None = None,
) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Verified pieces of [start, end); the first is verified on entering, so an answer can still be an error.

    What was handed out is counted on the listen, also when the caller goes away in the middle.

    Args:
        again: asked every ``CHECK_AGAIN`` while pieces go out; what it raises ends the answer.

    Raises:
        Corrupt: the stored bytes are not what was written; on entering, or while iterating.
        Erased: its key is gone; or the recording was erased while it streamed.
        storage.errors.StoreUnavailable: the store is away.
    """
    try:
        opened = await services.vault.open_range(audio.obj, start, end, fetch=audio.fetch)
    except (TamperedObject, ObjectMissing) as error:
        raise await _corrupt(services, audio, error) from error
    try:
        yield _pieces(services, audio, opened, _Meter(services, audio, again))
    finally:
        await opened.aclose()


async def _pieces(
    services: Services, audio: Audio, opened: AsyncIterator[Chunk], meter: _Meter
) -> AsyncIterator[Chunk]:
    while True:
        try:
            piece = await anext(opened)
        except StopAsyncIteration:
            return
        except (TamperedObject, ObjectMissing) as error:
            raise await _corrupt(services, audio, error) from error
        await meter.count(len(piece))
        yield piece


class _Meter:
    """Counts what one answer sends, and looks now and then whether its recording is still there."""

    def __init__(self, services: Services, audio: Audio, again: Again | None) -> None:
        self._services = services
        self._audio = audio
        self._again = again
        self._asked_at = self._known_at = services.clock.now()
        self._every = timedelta(seconds=services.settings.listen_idle_seconds / 4)
        self._looked_at = services.clock.now()
        length = 0 if audio.duration_ms is None else audio.duration_ms
        self._seconds_per_byte = 0.0 if audio.size == 0 else length / 1000 / audio.size

    async def count(self, size: int) -> None:
        """Add bytes that are about to be sent.

        Raises:
            Erased: the recording is no longer there.
        Unauthenticated, Forbidden: whoever hears it may not any more.
        """
        services, audio = self._services, self._audio
        services.metrics.streamed.inc(size)
        if audio.listen_id is None:
            return
        now = services.clock.now()
        await self._ask(now)
        services.counts.add(services.database, audio.listen_id, size, size * self._seconds_per_byte, now)
        if now - self._looked_at < self._every:
            return
        self._looked_at = now
        await services.counts.flush(services.database)
        async with services.database.snapshot() as session:
            state = await session.scalar(sa.select(Recording.state).where(Recording.id == audio.recording_id))
        if state is not RecordingState.STORED:
            raise Erased("the recording was taken away while it was heard")

    async def _ask(self, now: datetime) -> None:
        if self._again is None or now - self._asked_at < CHECK_AGAIN:
            return
        self._asked_at = now
        try:
            await self._again()
        except Unavailable:
            if now - self._known_at >= _TRUSTED:
                raise
        else:
            self._known_at = now


async def close_idle_listens(services: Services, now: datetime) -> int:
    """Write the closing entry of listens that have been still for ``listen_idle_seconds``.

    Returns:
        How many were closed; call again while it is as many as fit into one step.
    """
    await services.counts.flush(services.database)
    before = now - timedelta(seconds=services.settings.listen_idle_seconds)
    query = (
        sa.select(Listen, Recording.controller_id)
        .join(Recording, Recording.id == Listen.recording_id)
        .where(Listen.closed_at.is_(None), Listen.last_active_at < before)
        .order_by(Listen.last_active_at, Listen.id)
        .limit(_CLOSE_AT_ONCE)
        .with_for_update(of=Listen, skip_locked=True, key_share=True)
    )
    async with services.database.transaction() as session:
        rows = (await session.execute(query)).all()
        for listen, controller_id in rows:
            listen.closed_at = now
            event = AuditEvent(
                action="listen.closed",
                actor=listen.actor,
                object_type="recording",
                object_id=str(listen.recording_id),
                controller_id=controller_id,
                purpose=listen.purpose,
                details={
                    "listen": str(listen.id),
                    "bytes": listen.bytes_sent,
                    "seconds": round(listen.seconds),
                    "rendition": listen.rendition,
                },
            )
            record(session, event, now=now)
    return len(rows)


async def audit_refusal(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose | None,
    refusal: Forbidden | Erased,
    *,
    action: str = "listen.refused",
    request_id: str | None = None,
) -> None:
    """Write a refusal to the log.

    Raises:
        Unavailable: it cannot be written; the caller is then told that instead.
    """
    async with services.database.transaction() as session:
        controller = sa.select(Recording.controller_id).where(Recording.id == recording_id)
        event = AuditEvent(
            action=action,
            actor=principal.actor,
            object_type="recording",
            object_id=str(recording_id),
            outcome="refused",
            controller_id=await session.scalar(controller),
            purpose=None if purpose is None else purpose.value,
            request_id=request_id,
            details={"reason": refusal.reason if isinstance(refusal, Forbidden) else "erased"},
        )
        record(session, event, now=services.clock.now())


class _NotMadeYet(Exception):
    """The rendition that answers does not exist yet."""

    def __init__(self, recording_id: uuid.UUID) -> None:
        super().__init__()
        self.recording_id = recording_id


async def _resolve(session: AsyncSession, services: Services, question: _Question, *, lock: bool) -> Audio:
    now = services.clock.now()
    allowed = await allowed_recording(
        session, services, question.principal, question.recording_id, question.purpose, now=now, lock=lock
    )
    role = choose_role(allowed, question.principal, question.purpose, question.rendition)
    return await _audio(session, allowed, role)


async def _audio(session: AsyncSession, allowed: Allowed, role: ObjectRole) -> Audio:
    recording = allowed.recording
    objects = await living_objects(session, recording.id)
    if ObjectRole.ORIGINAL not in objects and ObjectRole.REDACTED in objects:
        role = ObjectRole.REDACTED  # the original was destroyed for card security; this took its place
    if role not in objects:
        if role is ObjectRole.ORIGINAL:
            raise Corrupt("the recording's audio is not in the catalogue")
        if input_of(recording.media) is None or await _gave_up(session, recording.id, "rendition"):
            text = "No browser plays this call and nothing here can convert it; ask for rendition=original."
            raise Conflict(text, kind="not-playable")
        raise _NotMadeYet(recording.id)
    row, subject = objects[role]
    content_type = content_type_of(recording.media) if role is ObjectRole.ORIGINAL else row.content_type
    return Audio(
        recording.id,
        recording.controller_id,
        stored_object(row, subject),
        content_type,
        recording.duration_ms,
    )


async def _gave_up(session: AsyncSession, recording_id: uuid.UUID, kind: str) -> bool:
    query = (
        sa.select(Job.state)
        .where(Job.target_id == recording_id, Job.kind == kind)
        .order_by(Job.created_at.desc(), Job.id)
        .limit(1)
    )
    return await session.scalar(query) is JobState.FAILED


async def _open_one(
    session: AsyncSession, services: Services, question: _Question, audio: Audio | None, now: datetime
) -> uuid.UUID | None:
    """The listen that this request continues, if there is one; without ``audio``, of whichever object."""
    since = now - timedelta(seconds=services.settings.listen_idle_seconds)
    link = Listen.link_id.is_(None) if question.link_id is None else Listen.link_id == question.link_id
    query = sa.select(Listen.id).where(
        Listen.recording_id == question.recording_id,
        Listen.actor == question.principal.actor,
        Listen.purpose == question.purpose.value,
        sa.true() if audio is None else Listen.object_id == audio.obj.object_id,
        Listen.closed_at.is_(None),
        Listen.last_active_at >= since,
        link,
    )
    return await session.scalar(query.limit(1))


async def _begin(session: AsyncSession, question: _Question, audio: Audio, now: datetime) -> uuid.UUID:
    """Add a listen and the entry that opens it."""
    listen_id = uuid.uuid4()
    session.add(
        Listen(
            id=listen_id,
            recording_id=question.recording_id,
            object_id=audio.obj.object_id,
            actor=question.principal.actor,
            purpose=question.purpose.value,
            rendition=question.rendition.value,
            link_id=question.link_id,
            opened_at=now,
            last_active_at=now,
            closed_at=None,
            bytes_sent=0,
            seconds=0.0,
        )
    )
    event = AuditEvent(
        action="listen.opened",
        actor=question.principal.actor,
        object_type="recording",
        object_id=str(question.recording_id),
        controller_id=audio.controller_id,
        purpose=question.purpose.value,
        request_id=question.request_id,
        details={
            "listen": str(listen_id),
            "rendition": question.rendition.value,
            "object": str(audio.obj.object_id),
            "link": None if question.link_id is None else str(question.link_id),
        },
    )
    record(session, event, now=now)
    return listen_id


def _counted(audio: Audio, listen_id: uuid.UUID) -> Audio:
    return replace(audio, listen_id=listen_id)


async def _order(services: Services, recording_id: uuid.UUID, kind: str) -> None:
    """Have a derivative made, unless that is under way."""
    now = services.clock.now()
    async with services.database.transaction() as session:
        locked = await session.get(Recording, recording_id, with_for_update={"key_share": True})
        if locked is None:
            raise NotFound("there is no such recording")
        waiting = sa.select(Job.id).where(
            Job.target_id == recording_id,
            Job.kind == kind,
            Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
        )
        if await session.scalar(waiting.limit(1)) is None:
            enqueue(session, kind, recording_id, now=now)


async def _find(services: Services, audio: Audio, kind: str) -> None:
    """Put a bad object on the list that a person works through, unless it is only just being erased."""
    async with services.database.snapshot() as session:
        row = await session.get(StoredObjectRow, audio.obj.object_id)
        state = await session.scalar(sa.select(Recording.state).where(Recording.id == audio.recording_id))
    if row is None or row.wrapped_key is None or row.deleted_at is not None:
        return
    if state in {RecordingState.ERASING, RecordingState.ERASED}:
        return
    seen = findings.Seen(kind, row.key, row, {"role": str(row.role), "met": "playback"})
    await findings.report(services, [seen], services.clock.now())


async def _corrupt(services: Services, audio: Audio, error: TamperedObject | ObjectMissing) -> Corrupt:
    """Raise the alarm on an object that is not what was written."""
    services.metrics.corrupt.inc()
    log.error("corrupt object refused", extra={"object": str(audio.obj.object_id)})
    event = AuditEvent(
        action="object.corrupt",
        actor="system:playback",
        object_type="object",
        object_id=str(audio.obj.object_id),
        outcome="failed",
        controller_id=audio.controller_id,
        details={"recording": str(audio.recording_id), "role": audio.obj.role},
    )
    # The log line and the count stand when the audit log is away; what is refused stays refused.
    with contextlib.suppress(Unavailable):
        async with services.database.transaction() as session:
            record(session, event, now=services.clock.now())
        await _find(services, audio, "missing" if isinstance(error, ObjectMissing) else "tampered")
    return Corrupt("The stored audio is not what was written, so none of it is played; the alarm is raised.")
