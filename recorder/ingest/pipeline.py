"""From a push to a stored recording: the one way in, for every adapter.

Steps of `Intake.accept`:

1. the source is admitted (its token, its switch, its share of concurrent uploads);
2. in the same statement the identity is looked up: what was erased stays erased (410);
3. the body streams through hash, sniffer and seal into the object store, in constant memory;
4. one transaction settles everything else: customer, call, recording, keys, indexes, windows, audit, jobs. It
   begins when the last byte is sealed and commits when the store has confirmed the object, never before.

Steps 3 and 4 run as one task that a vanishing client does not cancel: a body that arrived whole is stored,
one that broke off leaves nothing. A crash between them leaves an orphan object for the reconciler, never a
row without its bytes.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import Recording
from recorder.customers.matching import Match
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
from recorder.ingest.admission import GONE, Admitted, admit, erased
from recorder.ingest.answers import outcome_of, preview
from recorder.ingest.identity import aside_identity, payload_digest
from recorder.ingest.intake import Arrival, Chunk
from recorder.ingest.metadata import differences
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.storing import (
    Delivery,
    Standing,
    finish,
    match_of,
    standing,
    stored_document,
    write_rows,
)
from recorder.ingest.uploading import Upload
from recorder.services import Services
from storage.vault import SealedObject

log = logging.getLogger("recorder.ingest")
_EARLY: Final = 6
"""Deliveries that may hold a transaction while their store finishes: a part of the pool of connections."""
_PATIENCE: Final = 0.25
"""Seconds for which they may. Their transaction looked at holds and schedules before that wait."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """What the storing transaction came to, acted upon after it is committed."""

    kind: OutcomeKind
    outcome: Outcome | None = None
    keep_object: bool = False
    first: uuid.UUID | None = None
    aside: uuid.UUID | None = None
    certificate: uuid.UUID | None = None


class _CommitUnknown(Exception):
    """The database went away while a transaction was being committed."""

    def __init__(self, cause: Unavailable) -> None:
        super().__init__("the outcome of a commit is unknown")
        self.cause = cause


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
        admitted = await self._admit(request, principal, source, request_id)
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
        admitted = await self._admit(request, principal, source, request_id)
        now = self._services.clock.now()
        basis = lawful_basis(request, admitted)
        identity = admitted.identity
        admitted.refuse_erased()
        arrival = self._arrival(request, body, admitted)
        await arrival.begin()
        await arrival.drain()
        reasons = self._judge(request, arrival)
        delivery = self._delivery(request, admitted, arrival, identity, reasons, basis, now, request_id, None)
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
        basis = lawful_basis(request, admitted)
        admitted.refuse_erased()
        arrival = self._arrival(request, body, admitted)
        await arrival.begin()
        if claim is not None and claim.payload is not None:
            return await self._replay(request, arrival, claim, admitted)
        upload = Upload(self._services.vault, arrival)
        keep = False
        try:
            # Every byte has arrived and is sealed; the store is still busy with the last of them.
            sealed = await upload.sealed()
            now = self._services.clock.now()
            reasons = self._judge(request, arrival)
            identity = admitted.identity
            if "digest-mismatch" in reasons:
                identity = self._aside(admitted, identity, arrival)
            delivery = self._delivery(
                request, admitted, arrival, identity, reasons, basis, now, request_id, sealed
            )
            try:
                settled = await self._settled(delivery, claim, upload)
            except _CommitUnknown as error:
                # The answer to COMMIT may have been lost on the way: the row may be there. An orphan object
                # can be found and removed later, a row without its bytes cannot be mended.
                keep = True
                raise error.cause from None
            keep = settled.keep_object
        finally:
            if not keep:
                await upload.discard()
        return _answer(settled)

    async def _settled(self, delivery: Delivery, claim: idempotency.Claim | None, upload: Upload) -> _Settled:
        """Settle while the store finishes, where that holds up nobody; else when it has finished.

        SQLite has one writer: nobody else could write while this one waits for a store. A store that is slow
        must not hold connections of the database, so such waits are few and short.
        """
        uploads = self._services.uploads
        if not self._services.database.sqlite and uploads.settling_early < _EARLY:
            try:
                with uploads.early():
                    return await self._transact(replace(delivery), claim, upload, patience=_PATIENCE)
            except TimeoutError:
                log.debug("the store is slow; settling again after it")
        await upload.written()
        return await self._transact(delivery, claim, upload, patience=None)

    async def _transact(
        self,
        delivery: Delivery,
        claim: idempotency.Claim | None,
        upload: Upload,
        *,
        patience: float | None,
    ) -> _Settled:
        try:
            async with self._services.database.transaction() as session:
                settled = await self._settle(session, delivery, claim, upload, patience)
                delivery.committing = True
        except Unavailable as error:
            if delivery.committing:
                raise _CommitUnknown(error) from error
            raise
        return settled

    async def _settle(
        self,
        session: AsyncSession,
        delivery: Delivery,
        claim: idempotency.Claim | None,
        upload: Upload,
        patience: float | None,
    ) -> _Settled:
        services, now = self._services, delivery.received_at
        source_id = delivery.admitted.source.id
        around = await standing(session, delivery)
        if around.erased:
            self._audit(
                session, delivery, "recording.refused", str(source_id), "refused", {"reason": "erased"}
            )
            return _Settled(OutcomeKind.ERASED, certificate=around.certificate)
        told: tuple[str, ...] = ()
        match: Match | None = None
        if around.first is None:
            row, match = await write_rows(session, services, delivery, around)
            kind = OutcomeKind.CREATED
        else:
            row = await session.get_one(Recording, around.first)
            if (row.received_sha256 or row.sha256) != delivery.received_sha256:
                return await self._conflict(session, delivery, row, around, upload, patience)
            kind = OutcomeKind.REPEATED
            told = await self._compare(session, delivery, row)
        if claim is not None:
            await idempotency.settle(session, claim, delivery.payload(services.keyring), row.id, now=now)
        outcome = await outcome_of(session, services, row, kind, differences=told, match=match)
        if kind is OutcomeKind.CREATED:
            await finish(session, services, delivery, row, await upload.written(patience))
        return _Settled(kind, outcome, keep_object=kind is OutcomeKind.CREATED)

    async def _conflict(
        self,
        session: AsyncSession,
        delivery: Delivery,
        first: Recording,
        around: Standing,
        upload: Upload,
        patience: float | None,
    ) -> _Settled:
        """Other bytes under a known identity: both are kept, the second in quarantine, once."""
        delivery.identity = self._aside_of(delivery)
        known = await _find(session, delivery.admitted.source.id, delivery.identity)
        if known is None:
            delivery.reasons = (*delivery.reasons, "conflict")
            delivery.conflict_of = first.id
            known, _ = await write_rows(session, self._services, delivery, around)
            kept = True
        else:
            kept = False
        details: dict[str, Detail] = {"of": str(first.id), "again": not kept}
        self._audit(session, delivery, "recording.conflict", str(known.id), "refused", details)
        if kept:
            await finish(session, self._services, delivery, known, await upload.written(patience))
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
            if first is None or first.state in GONE:
                raise Erased("this call was erased")
            return await outcome_of(session, self._services, first, OutcomeKind.REPEATED)

    async def _admit(
        self, request: IngestRequest, principal: Principal, source: str | None, request_id: str
    ) -> Admitted:
        return await admit(
            self._services,
            principal,
            source,
            external_id=request.metadata.external_id,
            leg=request.metadata.leg,
            request_id=request_id,
        )

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
        sealed: SealedObject | None,
    ) -> Delivery:
        return Delivery.prepare(
            self._services.keyring,
            request=request,
            admitted=admitted,
            arrival=arrival,
            identity=identity,
            plain_identity=admitted.identity,
            reasons=reasons,
            basis=basis,
            received_at=now,
            request_id=request_id,
            sealed=sealed,
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


def _answer(settled: _Settled) -> Outcome:
    if settled.kind is OutcomeKind.ERASED:
        raise erased(settled.certificate)
    if settled.kind is OutcomeKind.CONFLICT:
        raise Conflict(
            f"other bytes are stored under this identity; these are kept in quarantine as {settled.aside}",
            recording_id=str(settled.first),
        )
    if settled.outcome is None:
        raise AssertionError("a settled delivery has an outcome")
    return settled.outcome


__all__ = ["Intake", "lawful_basis"]
