"""From a push to a stored recording: the one way in, for every adapter.

Steps of `Intake.accept`:

1. the source is admitted (its token, its switch, its share of concurrent uploads);
2. the identity is looked up: what was erased stays erased (410);
3. the body streams through hash, sniffer and seal into the object store, in constant memory;
4. one transaction settles everything else: customer, call, recording, keys, indexes, windows, audit, jobs.

Steps 3 and 4 run as one task that a vanishing client does not cancel: a body that arrived whole is stored,
one that broke off leaves nothing. A crash between them leaves an orphan object for the reconciler, never a
row without its bytes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import LawfulBasis, RecordingState
from recorder.catalogue.locks import lock_values
from recorder.catalogue.tables import Recording, Tombstone
from recorder.errors import (
    Conflict,
    Erased,
    FieldError,
    InvalidInput,
    MalformedInput,
    RecorderError,
    TooMany,
    Unavailable,
)
from recorder.ingest import idempotency
from recorder.ingest.admission import Admitted, admit
from recorder.ingest.answers import outcome_of, preview
from recorder.ingest.identity import aside_identity, payload_digest, recording_identity
from recorder.ingest.intake import Arrival, Chunk
from recorder.ingest.metadata import differences
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.storing import Delivery, match_of, stored_document, write_rows
from recorder.services import Services
from storage.errors import StorageError

log = logging.getLogger("recorder.ingest")
_GONE = frozenset({RecordingState.ERASING, RecordingState.ERASED})


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the storing transaction came to, acted upon after it is committed."""

    kind: OutcomeKind
    outcome: Outcome | None = None
    keep_object: bool = False
    first: uuid.UUID | None = None
    aside: uuid.UUID | None = None
    certificate: uuid.UUID | None = None


class Intake:
    """The pipeline. It keeps nothing itself: running uploads are counted in ``services.uploads``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def accept(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        *,
        principal: Principal,
        request_id: str,
        source: str | None = None,
    ) -> Outcome:
        """Take a recording in.

        Args:
            body: the audio; an error that it raises propagates and nothing is kept.
            principal: the source's token.
            source: name or id of the source in the URL, which must be the token's own.

        Raises:
            Forbidden: the token may not push, or not for this source.
            InvalidInput: the metadata lacks a lawful basis, or an idempotency key was reused.
            MalformedInput: the bytes are not the announced ones (strict requests).
            TooLarge: the body is over the limit.
            TooMany: too many uploads at once.
            Conflict: other bytes under a known identity (kept in quarantine), or a key in flight.
            Erased: this call was erased.
            Unavailable: database or store is away; nothing was accepted.
        """
        admitted = await admit(self._services, principal, source, request_id=request_id)
        if self._services.uploads.running >= self._services.settings.concurrent_uploads:
            raise TooMany("too many uploads at once; try again")
        task = asyncio.create_task(self._run(request, body, admitted, request_id))
        self._services.uploads.track(task)
        task.add_done_callback(_finished)
        return await asyncio.shield(task)

    async def rehearse(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        *,
        principal: Principal,
        request_id: str,
        source: str | None = None,
    ) -> Outcome:
        """Check all of a push, read its body, keep nothing, and say what would happen.

        Raises:
            RecorderError: as `accept` would.
        """
        admitted = await admit(self._services, principal, source, request_id=request_id)
        now = self._services.clock.now()
        basis = lawful_basis(request, admitted)
        identity = self._identity(request, admitted)
        async with self._services.database.snapshot() as session:
            await _refuse_erased(session, admitted.source.id, identity)
        arrival = self._arrival(request, body, admitted)
        await arrival.begin()
        await arrival.drain()
        reasons = self._judge(request, arrival)
        delivery = self._delivery(request, admitted, arrival, identity, reasons, basis, now, request_id)
        async with self._services.database.snapshot() as session:
            first = await _find(session, admitted.source.id, identity)
            match = await match_of(session, self._services, delivery)
            return preview(delivery, first, match)

    async def _run(
        self, request: IngestRequest, body: AsyncIterable[Chunk], admitted: Admitted, request_id: str
    ) -> Outcome:
        outcome = "failed"
        try:
            result = await self._with_key(request, body, admitted, request_id)
            outcome = result.state.value if result.kind is OutcomeKind.CREATED else result.kind.value
        except RecorderError as error:
            outcome = type(error).__name__.lower()
            raise
        finally:
            self._services.metrics.pushes.labels(outcome).inc()
        return result

    async def _with_key(
        self, request: IngestRequest, body: AsyncIterable[Chunk], admitted: Admitted, request_id: str
    ) -> Outcome:
        """Run under the request's idempotency key, where it has one."""
        key = request.idempotency_key
        if key is None:
            return await self._store(request, body, admitted, request_id, None)
        claim = await idempotency.claim(
            self._services, admitted.controller.id, admitted.source.id, key, now=self._services.clock.now()
        )
        try:
            return await self._store(request, body, admitted, request_id, claim)
        except BaseException:
            await asyncio.shield(idempotency.release(self._services, claim))
            raise

    async def _store(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        admitted: Admitted,
        request_id: str,
        claim: idempotency.Claim | None,
    ) -> Outcome:
        services = self._services
        basis = lawful_basis(request, admitted)
        identity = self._identity(request, admitted)
        async with services.database.snapshot() as session:
            await _refuse_erased(session, admitted.source.id, identity)
        arrival = self._arrival(request, body, admitted)
        await arrival.begin()
        if claim is not None and claim.payload is not None:
            return await self._replay(request, arrival, claim, admitted)
        written = await services.vault.write(arrival.kept(), role="original", size=arrival.kept_size_known)
        keep = False
        try:
            now = services.clock.now()
            reasons = self._judge(request, arrival)
            if "digest-mismatch" in reasons:
                identity = self._aside(admitted, identity, arrival)
            delivery = self._delivery(request, admitted, arrival, identity, reasons, basis, now, request_id)
            delivery.written = written
            try:
                async with services.database.transaction() as session:
                    settled = await self._settle(session, delivery, claim)
            except Unavailable:
                # The answer to COMMIT may have been lost on the way: the row may be there. An orphan object
                # can be found and removed later, a row without its bytes cannot be mended.
                keep = True
                raise
            keep = settled.keep_object
        finally:
            if not keep:
                await self._discard(written.key)
        return _answer(settled)

    async def _settle(
        self, session: AsyncSession, delivery: Delivery, claim: idempotency.Claim | None
    ) -> _Settled:
        services, now = self._services, delivery.received_at
        source_id = delivery.admitted.source.id
        await lock_values(session, delivery.lock_digests)
        plain = delivery.plain_identity
        tombstone = await session.get(Tombstone, (source_id, plain))
        first = await _find(session, source_id, delivery.identity)
        if tombstone is not None or (first is not None and first.state in _GONE):
            self._audit(
                session, delivery, "recording.refused", str(source_id), "refused", {"reason": "erased"}
            )
            found = tombstone.certificate_id if tombstone else first.certificate_id if first else None
            return _Settled(OutcomeKind.ERASED, certificate=found)
        if first is not None and (first.received_sha256 or first.sha256) != delivery.received_sha256:
            return await self._conflict(session, delivery, first)
        told: tuple[str, ...] = ()
        if first is None:
            row = await write_rows(session, services, delivery)
            kind = OutcomeKind.CREATED
        else:
            row, kind = first, OutcomeKind.REPEATED
            told = await self._compare(session, delivery, first)
        if claim is not None:
            await idempotency.settle(session, claim, delivery.payload(services.keyring), row.id, now=now)
        outcome = await outcome_of(session, services, row, kind, differences=told)
        return _Settled(kind, outcome, keep_object=first is None)

    async def _conflict(self, session: AsyncSession, delivery: Delivery, first: Recording) -> _Settled:
        """Other bytes under a known identity: both are kept, the second in quarantine, once."""
        delivery.identity = self._aside_of(delivery)
        known = await _find(session, delivery.admitted.source.id, delivery.identity)
        if known is None:
            delivery.reasons = (*delivery.reasons, "conflict")
            delivery.conflict_of = first.id
            known = await write_rows(session, self._services, delivery)
            kept = True
        else:
            kept = False
        details: dict[str, Detail] = {"of": str(first.id), "again": not kept}
        self._audit(session, delivery, "recording.conflict", str(known.id), "refused", details)
        return _Settled(OutcomeKind.CONFLICT, keep_object=kept, first=first.id, aside=known.id)

    async def _compare(self, session: AsyncSession, delivery: Delivery, first: Recording) -> tuple[str, ...]:
        document = await stored_document(session, self._services, first)
        again = delivery.request.sealed_document()
        skip = {*document.get("_estimated", ()), *again.get("_estimated", ())}
        told = tuple(differences(document, again, ignore=skip))
        self._audit(session, delivery, "recording.repeated", str(first.id), "ok", {"differs": list(told)})
        return told

    async def _replay(
        self, request: IngestRequest, arrival: Arrival, claim: idempotency.Claim, admitted: Admitted
    ) -> Outcome:
        """A key that is settled: the same payload gets the first answer, another is refused."""
        await arrival.drain()
        payload = payload_digest(
            self._services.keyring,
            admitted.controller.id,
            request.sealed_document(),
            arrival.received_sha256,
        )
        if payload != claim.payload:
            raise InvalidInput(
                "the Idempotency-Key was used for another payload; use a new one",
                fields=[FieldError("Idempotency-Key", "was used for another payload")],
            )
        async with self._services.database.snapshot() as session:
            first = await session.get(Recording, claim.recording_id)
            if first is None or first.state in _GONE:
                raise Erased("this call was erased")
            return await outcome_of(session, self._services, first, OutcomeKind.REPEATED)

    def _arrival(self, request: IngestRequest, body: AsyncIterable[Chunk], admitted: Admitted) -> Arrival:
        limit = min(filter(None, (admitted.source.max_bytes, self._services.settings.max_upload_bytes)))
        return Arrival(
            request,
            body,
            limit=limit,
            source_media=admitted.source.default_media,
            metrics=self._services.metrics,
        )

    def _judge(self, request: IngestRequest, arrival: Arrival) -> tuple[str, ...]:
        """Everything there is to say against a delivery, now that its bytes are here.

        Raises:
            MalformedInput: a strict request's digest does not fit.
        """
        reasons = [*request.reasons, *arrival.reasons()]
        if wrong := request.digests.mismatched():
            if request.strict:
                fields = [FieldError(name, "is not the digest of the bytes received") for name in wrong]
                raise MalformedInput(f"{', '.join(wrong)} does not match the bytes received", fields=fields)
            reasons.append("digest-mismatch")
        now, skew = self._services.clock.now(), timedelta(seconds=self._services.settings.clock_skew_seconds)
        if request.metadata.started_at > now + skew:
            reasons.append("started-at-future")
        if (end := request.metadata.end) is not None and end > now + skew:
            reasons.append("ended-at-future")
        if request.sent_at is not None and abs(request.sent_at - now) > skew:
            reasons.append("clock-skew")
        return tuple(dict.fromkeys(reasons))

    def _delivery(
        self,
        request: IngestRequest,
        admitted: Admitted,
        arrival: Arrival,
        identity: bytes,
        reasons: tuple[str, ...],
        basis: LawfulBasis,
        now: datetime,
        request_id: str,
    ) -> Delivery:
        return Delivery.prepare(
            self._services.keyring,
            request=request,
            admitted=admitted,
            arrival=arrival,
            identity=identity,
            plain_identity=self._identity(request, admitted),
            reasons=reasons,
            basis=basis,
            received_at=now,
            request_id=request_id,
        )

    def _identity(self, request: IngestRequest, admitted: Admitted) -> bytes:
        return recording_identity(
            self._services.keyring,
            admitted.controller.id,
            admitted.source.id,
            request.metadata.external_id,
            request.metadata.leg,
        )

    def _aside(self, admitted: Admitted, identity: bytes, arrival: Arrival) -> bytes:
        return aside_identity(
            self._services.keyring, admitted.controller.id, identity, arrival.received_sha256
        )

    def _aside_of(self, delivery: Delivery) -> bytes:
        return aside_identity(
            self._services.keyring,
            delivery.admitted.controller.id,
            delivery.plain_identity,
            delivery.received_sha256,
        )

    def _audit(
        self,
        session: AsyncSession,
        delivery: Delivery,
        action: str,
        object_id: str,
        outcome: str,
        details: Mapping[str, Detail],
    ) -> None:
        event = AuditEvent(
            action=action,
            actor=delivery.admitted.actor,
            object_type="source" if action == "recording.refused" else "recording",
            object_id=object_id,
            outcome=outcome,
            controller_id=delivery.admitted.controller.id,
            request_id=delivery.request_id,
            details=details,
        )
        record(session, event, now=delivery.received_at)

    async def _discard(self, key: str) -> None:
        """Remove an object that no row names; what cannot be removed now is the reconciler's."""
        try:
            await asyncio.shield(self._services.vault.destroy(key))
        except StorageError as error:
            log.warning("an object is left behind", extra={"kind": type(error).__name__})


def _finished(task: asyncio.Task[Outcome]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        # Retrieved here because the client may be gone; the route answers it if it is not.
        log.debug("push not accepted", extra={"kind": type(error).__name__})


def lawful_basis(request: IngestRequest, admitted: Admitted) -> LawfulBasis:
    """The recording's lawful basis: as sent, else the source's default.

    Raises:
        InvalidInput: neither is there; nothing is kept without a ground (GDPR art. 6).
    """
    basis = request.metadata.lawful_basis or admitted.source.default_lawful_basis
    if basis is None:
        field = FieldError("/lawful_basis", "is missing, and the source has no default")
        raise InvalidInput(f"{field.path}: {field.message}", fields=[field])
    return basis


async def _find(session: AsyncSession, source_id: uuid.UUID, identity: bytes) -> Recording | None:
    query = sa.select(Recording).where(Recording.source_id == source_id, Recording.identity == identity)
    return (await session.scalars(query)).one_or_none()


async def _refuse_erased(session: AsyncSession, source_id: uuid.UUID, identity: bytes) -> None:
    """Spare a sender the upload of what was erased; the transaction that stores looks again."""
    tombstone = await session.get(Tombstone, (source_id, identity))
    if tombstone is not None:
        raise _erased(tombstone.certificate_id)
    found = await _find(session, source_id, identity)
    if found is not None and found.state in _GONE:
        raise _erased(found.certificate_id)


def _erased(certificate_id: uuid.UUID | None) -> Erased:
    certificate = None if certificate_id is None else str(certificate_id)
    return Erased("this call was erased and is not taken again", certificate_id=certificate)


def _answer(settled: _Settled) -> Outcome:
    if settled.kind is OutcomeKind.ERASED:
        raise _erased(settled.certificate)
    if settled.kind is OutcomeKind.CONFLICT:
        raise Conflict(
            f"other bytes are stored under this identity; these are kept in quarantine as {settled.aside}",
            recording_id=str(settled.first),
        )
    if settled.outcome is None:
        raise AssertionError("a settled delivery has an outcome")
    return settled.outcome


__all__ = ["Intake", "lawful_basis"]
