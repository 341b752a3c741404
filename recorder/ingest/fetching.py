"""Fetching audio that a sender told of: ordered durably, done in the background, tried again for days.

An order is one row, sealed under a key of its own that ends with it, and one job. The answer to the sender
waits for their commit only. The job downloads straight into the pipeline: what the order says and what the
bytes are is judged there, as with any push. An order that is settled forgets what it was about.
"""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Grant, Principal
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import JobState, Role, ScopeKind, SubjectKind
from recorder.catalogue.locks import lock_values
from recorder.catalogue.sealed_fields import FETCH_ORDER
from recorder.catalogue.subjects import new_subject, open_json, seal_json
from recorder.catalogue.tables import Fetch, FetchState, Job, Recording, Source, Subject
from recorder.completeness.outcomes import note_outcome
from recorder.errors import Conflict, Erased, RecorderError
from recorder.ingest.adapters.base import Later, SenderOutcome
from recorder.ingest.admission import admit
from recorder.ingest.orders import order_document, order_intent
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.ingest.secrets import BASIC, BEARER, secrets_of
from recorder.ingest.unwrapping import content_key, decrypted
from recorder.jobs.queue import enqueue
from recorder.outgoing.client import Downloader, FetchFailed
from recorder.services import Services
from storage.errors import StorageError

log = logging.getLogger("recorder.fetching")

FETCH_JOB: Final = "fetch"
ACTOR: Final = "system:fetcher"
_FIRST_PAUSE: Final = timedelta(seconds=10)
_LONGEST_PAUSE: Final = timedelta(hours=1)
_LOST_AFTER: Final = timedelta(minutes=15)
_KEEP_SETTLED: Final = timedelta(days=30)


async def later(
    services: Services,
    principal: Principal,
    intent: Later,
    *,
    request_id: str,
    source: str | None = None,
) -> uuid.UUID:
    """Order a recording to be fetched. Once this returns, it will be, or its failure will be told of.

    Ordering the same recording again changes the one order: addresses and tokens of downloads run out.

    Args:
        principal: the source's token.
        source: name or id of the source in the URL, which must be the token's own.

    Returns:
        The order's id.

    Raises:
        Forbidden: the token may not push, or not for this source.
        Erased: this recording was erased.
        Unavailable: the database is away; nothing was ordered.
    """
    metadata = intent.request.metadata
    admitted = await admit(
        services,
        principal,
        source,
        external_id=metadata.external_id,
        leg=metadata.leg,
        request_id=request_id,
    )
    admitted.refuse_erased()
    now, source_id, controller_id = services.clock.now(), admitted.source.id, admitted.controller.id
    async with services.database.transaction() as session:
        await lock_values(session, [admitted.identity])
        row = await session.scalar(
            sa.select(Fetch).where(Fetch.source_id == source_id, Fetch.identity == admitted.identity)
        )
        here = await session.scalar(
            sa.select(Recording.id).where(
                Recording.source_id == source_id, Recording.identity == admitted.identity
            )
        )
        if row is not None and (here is not None or row.state is FetchState.DONE):
            return row.id
        if row is None:
            row = Fetch(
                id=uuid.uuid4(), source_id=source_id, controller_id=controller_id, identity=admitted.identity
            )
        # One that is due has its job already: the newer address is enough.
        has_job = row.state is FetchState.WAITING and row.due_at <= now
        row.request_id, row.error, row.attempts = request_id, None, 0
        row.created_at = row.due_at = now
        row.give_up_at = now + timedelta(hours=services.settings.fetch_hours)
        row.settled_at, row.recording_id = None, here
        if here is None:
            subject = await _fresh_key(session, services, row, now)
            row.state = FetchState.WAITING
            row.sealed = seal_json(services.keyring, subject, FETCH_ORDER, row.id, order_document(intent))
            if not has_job:
                enqueue(session, FETCH_JOB, row.id, now=now)
        else:  # it came by another road before
            row.state = FetchState.DONE
            await forget(session, row, now)
        session.add(row)
        outcome = SenderOutcome.FETCHING if here is None else SenderOutcome.RECEIVED
        await _note(session, services, row, intent.request, outcome, None, now)
        record(session, _event("fetch.ordered", admitted.actor, row, "ok", {}), now=now)
    return row.id


@dataclass(frozen=True, slots=True)
class _Order:
    """An order in hand."""

    row: Fetch
    intent: Later
    source: Source


class Fetcher:
    """Carries orders out. ``run`` is the handler of the job `FETCH_JOB`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        settings = services.settings
        self._downloader = Downloader(
            private_hosts=settings.fetch_private_hosts,
            idle_seconds=settings.upload_idle_seconds,
            total_seconds=settings.fetch_seconds,
        )

    async def run(self, fetch_id: uuid.UUID, _payload: Mapping[str, Any] | None = None) -> None:
        """Try once. What fails is ordered again, with growing pauses, until its time is over.

        Raises:
            Unavailable: the database is away.
        """
        order = await self._order(fetch_id)
        if order is None:
            return
        try:
            recording_id, code = await self._fetch(order)
        except FetchFailed as error:
            await self._failed(order, error.code)
        except (RecorderError, StorageError) as error:
            # Refused by ourselves: the source is off, the store away, a basis missing. All of it can mend.
            await self._failed(order, type(error).__name__.lower())
        else:
            await self._settle(order, FetchState.DONE, SenderOutcome.RECEIVED, code, recording_id)

    async def _order(self, fetch_id: uuid.UUID) -> _Order | None:
        async with self._services.database.snapshot() as session:
            row = await session.get(Fetch, fetch_id)
            if row is None or row.state is not FetchState.WAITING or row.sealed is None:
                return None
            if row.due_at > self._services.clock.now():
                return None  # another job has it
            source = await session.get_one(Source, row.source_id)
            intent = await opened(session, self._services, row)
        return None if intent is None else _Order(row, intent, source)

    async def _fetch(self, order: _Order) -> tuple[uuid.UUID | None, str | None]:
        """Download into the pipeline.

        Returns:
            The recording's id, and a code where it is not simply stored.
        """
        intent, source = order.intent, order.source
        secrets = await secrets_of(self._services, source.id)
        # Looked at before the download: a missing key spares it.
        key = None if intent.encryption is None else content_key(intent.encryption, secrets)
        hosts = tuple(str(host) for host in source.settings.get("fetch_hosts", ()))
        headers = {**intent.headers, **_credential(intent.credential, secrets)}
        async with self._downloader.open(intent.url, hosts=hosts, headers=headers) as download:
            body: AsyncIterator[bytes] = download.chunks
            request = replace(intent.request, size=download.size)
            if request.content_type is None:
                request = replace(request, content_type=download.content_type)
            if key is not None:
                body = decrypted(body, *key)
                request = replace(request, size=None, content_type=intent.request.content_type)
            try:
                outcome = await Intake(self._services).accept(
                    request,
                    body,
                    principal=principal_of(source),
                    request_id=order.row.request_id,
                )
            except Conflict as error:  # kept in quarantine
                return None if error.recording_id is None else uuid.UUID(error.recording_id), "conflict"
            except Erased:
                return None, "erased"
        return outcome.recording_id, None

    async def _failed(self, order: _Order, code: str) -> None:
        now = self._services.clock.now()
        log.warning("audio not fetched", extra={"fetch": str(order.row.id), "error": code})
        pause = min(_FIRST_PAUSE * 2 ** min(order.row.attempts, 16), _LONGEST_PAUSE)
        if now + pause > order.row.give_up_at:
            await self._settle(order, FetchState.FAILED, SenderOutcome.FAILED, code, None)
            return
        async with self._services.database.transaction() as session:
            row = await session.get_one(Fetch, order.row.id, with_for_update=True)
            if row.state is not FetchState.WAITING or row.attempts != order.row.attempts:
                return  # settled or ordered anew meanwhile
            row.attempts, row.error, row.due_at = row.attempts + 1, code[:60], now + pause
            enqueue(session, FETCH_JOB, row.id, now=now, not_before=row.due_at)
        self._services.metrics.fetches.labels("again").inc()

    async def _settle(
        self,
        order: _Order,
        state: FetchState,
        outcome: SenderOutcome,
        code: str | None,
        recording_id: uuid.UUID | None,
    ) -> None:
        now, failed = self._services.clock.now(), state is FetchState.FAILED
        async with self._services.database.transaction() as session:
            row = await session.get_one(Fetch, order.row.id, with_for_update=True)
            if row.state is not FetchState.WAITING or (failed and row.created_at != order.row.created_at):
                return
            row.state = state
            await forget(session, row, now)
            row.error, row.recording_id = None if code is None else code[:60], recording_id
            row.attempts += 1
            await _note(session, self._services, row, order.intent.request, outcome, code, now)
            details: dict[str, Detail] = {
                "code": code,
                "attempts": row.attempts,
                "recording": None if recording_id is None else str(recording_id),
            }
            action = "fetch.failed" if failed else "fetch.done"
            record(session, _event(action, ACTOR, row, "failed" if failed else "ok", details), now=now)
        self._services.metrics.fetches.labels("failed" if failed else "done").inc()
        if failed:
            log.error("audio given up", extra={"fetch": str(order.row.id), "error": code})


async def opened(session: AsyncSession, services: Services, row: Fetch) -> Later | None:
    """What a waiting order is about; None where it is settled, and its key destroyed."""
    subject = await session.get(Subject, row.id, populate_existing=True)
    if row.sealed is None or subject is None or subject.wrapped_key is None:
        return None
    return order_intent(open_json(services.keyring, subject, FETCH_ORDER, row.id, row.sealed))


async def forget(session: AsyncSession, row: Fetch, now: datetime) -> None:
    """Destroy what an order is about, in the running transaction: its key too, for backups have the rest."""
    row.sealed, row.settled_at = None, now
    await session.execute(
        sa.update(Subject)
        .where(Subject.id == row.id, Subject.wrapped_key.is_not(None))
        .values(wrapped_key=None, destroyed_at=now)
    )


async def _fresh_key(session: AsyncSession, services: Services, row: Fetch, now: datetime) -> Subject:
    """A new key for what is ordered now, even where the order is an old one."""
    fresh = new_subject(services.keyring, row.controller_id, SubjectKind.UPLOAD, now=now, subject_id=row.id)
    known = await session.get(Subject, row.id, with_for_update=True)
    if known is None:
        session.add(fresh)
        await session.flush()
        return fresh
    known.wrapped_key, known.epoch, known.destroyed_at = fresh.wrapped_key, fresh.epoch, None
    await session.flush()
    return known


async def tend(services: Services) -> None:
    """Count what waits, order again what lost its job, forget orders settled long ago. Idempotent."""
    now = services.clock.now()
    pending = sa.exists().where(
        Job.kind == FETCH_JOB,
        Job.target_id == Fetch.id,
        Job.state.in_((JobState.QUEUED, JobState.RUNNING)),
    )
    lost = sa.select(Fetch.id).where(
        Fetch.state == FetchState.WAITING, Fetch.due_at < now - _LOST_AFTER, ~pending
    )
    waiting = sa.select(sa.func.count()).where(Fetch.state == FetchState.WAITING)
    async with services.database.snapshot() as session:
        services.metrics.fetches_waiting.set(await session.scalar(waiting) or 0)
        found = (await session.scalars(lost.limit(1000))).all()
    async with services.database.transaction() as session:
        for fetch_id in found:
            enqueue(session, FETCH_JOB, fetch_id, now=now)
        old = sa.delete(Fetch).where(Fetch.settled_at < now - _KEEP_SETTLED).returning(Fetch.id)
        gone = (await session.scalars(old)).all()
        for start in range(0, len(gone), 400):
            await session.execute(sa.delete(Subject).where(Subject.id.in_(gone[start : start + 400])))


def principal_of(source: Source) -> Principal:
    """The source as a caller, for work that is done for it after its request has been answered."""
    grant = Grant(Role.TELEPHONY, source.controller_id, ScopeKind.CONTROLLER)
    return Principal("source", str(source.id), source.controller_id, grants=(grant,), source_id=source.id)


def _credential(name: str | None, secrets: Mapping[str, str]) -> dict[str, str]:
    """The header to sign in with.

    Raises:
        FetchFailed: the source has no such secret.
    """
    if name is None:
        return {}
    value = secrets.get(name)
    if value is None:
        raise FetchFailed("no-credential", f"the source has no secret {name}")
    if name == BASIC:
        return {"Authorization": "Basic " + base64.b64encode(value.encode()).decode()}
    if name == BEARER:
        return {"Authorization": f"Bearer {value}"}
    raise FetchFailed("no-credential", "the sender's kind names a secret that signs nobody in")


async def _note(
    session: AsyncSession,
    services: Services,
    row: Fetch,
    request: IngestRequest,
    outcome: SenderOutcome,
    code: str | None,
    now: datetime,
) -> None:
    await note_outcome(
        session,
        services.keyring,
        controller_id=row.controller_id,
        source_id=row.source_id,
        request=request,
        outcome=outcome,
        code=None if code is None else code[:40],
        now=now,
    )


def _event(action: str, actor: str, row: Fetch, outcome: str, details: Mapping[str, Detail]) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=actor,
        object_type="fetch",
        object_id=str(row.id),
        outcome=outcome,
        controller_id=row.controller_id,
        request_id=row.request_id,
        details={"source": str(row.source_id), **details},
    )
