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
from collections.abc import AsyncIterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from recorder.access.principals import Principal
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import Recording
from recorder.errors import (
    Conflict,
    Erased,
    FieldError,
    InvalidInput,
    MalformedInput,
    RecorderError,
    Unavailable,
)
from recorder.ingest import idempotency, spooling
from recorder.ingest.admission import GONE, Admitted, admit, admit_again, admit_offline
from recorder.ingest.answers import outcome_of, preview
from recorder.ingest.identity import aside_identity, payload_digest
from recorder.ingest.intake import Arrival, Chunk
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.settling import Settled, Settler, answer, find
from recorder.ingest.spooling import Spooled, SpooledFrom
from recorder.ingest.storing import Delivery, match_of
from recorder.ingest.uploading import Retained, Upload
from recorder.services import Services
from storage.errors import StorageError, StoreRefused, StoreUnavailable
from storage.spool import Spool, SpoolItem
from storage.vault import SealedObject

log = logging.getLogger("recorder.ingest")


@dataclass(frozen=True, slots=True)
class _Push:
    """One push that was admitted.

    Attributes:
        spool: whether it may be acknowledged from the spool.
        recording_id: the id that its recording gets, whichever way it takes.
    """

    request: IngestRequest
    body: AsyncIterable[Chunk]
    admitted: Admitted
    request_id: str
    basis: LawfulBasis
    spool: bool = False
    recording_id: uuid.UUID = field(default_factory=uuid.uuid4)


class Intake:
    """The pipeline. It keeps nothing itself: running uploads are counted in ``services.uploads``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def accept_durably(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        *,
        principal: Principal,
        request_id: str,
        source: str | None = None,
    ) -> Outcome:
        """Take a recording in, through the local spool where a store or the catalogue is away.

        For senders who wait for the answer. An outcome of kind ``SPOOLED`` names a recording that is not in
        the catalogue yet.

        Raises:
            RecorderError: as `accept` does; `Unavailable` where the spool cannot take it either.
        """
        return await self.accept(
            request, body, principal=principal, request_id=request_id, source=source, spool=True
        )

    async def accept(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        *,
        principal: Principal,
        request_id: str,
        source: str | None = None,
        spool: bool = False,
    ) -> Outcome:
        """Take a recording in.

        Args:
            body: the audio; an error that it raises propagates and nothing is kept.
            principal: the source's token.
            source: name or id of the source in the URL, which must be the token's own.
            spool: acknowledge it from the local spool where it cannot be stored now. What lies durably
                somewhere else already is better left there and tried again.

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
        spool = spool and self._services.spool is not None
        admitted = await self._admit(request, principal, source, request_id, offline=spool)
        settings, uploads = self._services.settings, self._services.uploads
        uploads.refuse_flood(
            admitted.source.id,
            share=admitted.source.share(settings.uploads_per_source),
            all_of_them=settings.concurrent_uploads,
        )
        task = asyncio.create_task(self._run(request, body, admitted, request_id, spool))
        uploads.track(task, admitted.source.id)
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
        push = _Push(request, body, admitted, request_id, lawful_basis(request, admitted))
        admitted.refuse_erased()
        arrival = self._arrival(request, body, admitted)
        await arrival.begin()
        await arrival.drain()
        reasons = self._judge(request, arrival)
        delivery = self._delivery(push, arrival, admitted.identity, reasons, now, None)
        async with self._services.database.snapshot() as session:
            first = await find(session, admitted.source.id, admitted.identity)
            match = await match_of(session, self._services, delivery)
            return preview(delivery, first, match)

    async def _run(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        admitted: Admitted,
        request_id: str,
        spool: bool,
    ) -> Outcome:
        outcome = "failed"
        try:
            basis = lawful_basis(request, admitted)
            result = await self._with_key(_Push(request, body, admitted, request_id, basis, spool))
            outcome = result.state.value if result.kind is OutcomeKind.CREATED else result.kind.value
        except RecorderError as error:
            outcome = type(error).__name__.lower()
            raise
        finally:
            self._services.metrics.pushes.labels(outcome).inc()
        return result

    async def _with_key(self, push: _Push) -> Outcome:
        """Run under the request's idempotency key, where it has one."""
        key, admitted = push.request.idempotency_key, push.admitted
        if key is None or admitted.offline:
            return await self._take(push, None)
        try:
            claim = await self._claim(admitted, key)
        except Unavailable:
            if not push.spool:
                raise
            return await self._take(replace(push, admitted=replace(admitted, offline=True)), None)
        try:
            outcome = await self._take(push, claim)
        except BaseException:
            await asyncio.shield(idempotency.release(self._services, claim))
            raise
        if outcome.kind is OutcomeKind.SPOOLED:
            await idempotency.release(self._services, claim)  # it is claimed again when this is drained
        return outcome

    async def _take(self, push: _Push, claim: idempotency.Claim | None) -> Outcome:
        """Store a delivery, or make it durable on local disk where that has to come first."""
        push.admitted.refuse_erased()
        arrival = self._arrival(push.request, push.body, push.admitted)
        await arrival.begin()
        if claim is not None and claim.payload is not None:
            return await self._replay(push.request, arrival, claim, push.admitted)
        spool, uploads = self._services.spool, self._services.uploads
        if spool is None or not push.spool:
            return await self._store(push, claim, arrival, arrival.kept())
        kept = Retained(arrival.kept())
        try:
            if push.admitted.offline or uploads.store_suspect or uploads.unproven:
                return await self._spool(push, arrival, kept, spool)
            if push.admitted.source.tee:
                return await self._spool_first(push, claim, arrival, kept, spool)
            return await self._store_or_spool(push, claim, arrival, kept, spool)
        finally:
            await kept.aclose()

    async def _store(
        self, push: _Push, claim: idempotency.Claim | None, arrival: Arrival, kept: AsyncIterable[Chunk]
    ) -> Outcome:
        upload = Upload(self._services.vault, kept, size=arrival.kept_size_known, sha256=arrival.kept_hasher)
        try:
            # Every byte has arrived and is sealed; the store is still busy with the last of them.
            sealed = await upload.sealed()
            reasons = self._judge(push.request, arrival)
            identity = push.admitted.identity
            if "digest-mismatch" in reasons:
                identity = self._aside(push.admitted, identity, arrival)
            delivery = self._delivery(push, arrival, identity, reasons, self._services.clock.now(), sealed)
            delivery.recording_id = push.recording_id
        except BaseException:
            await upload.discard()
            raise
        return answer(await Settler(self._services).settle(delivery, claim, upload))

    async def _store_or_spool(
        self,
        push: _Push,
        claim: idempotency.Claim | None,
        arrival: Arrival,
        kept: Retained,
        spool: Spool,
    ) -> Outcome:
        """Store; what a store or database that goes away had of it is spooled, where it is still at hand."""
        try:
            return await self._store(push, claim, arrival, kept)
        except (Unavailable, StoreUnavailable, StoreRefused) as error:
            if not self._note_failure(error) or not kept.whole:
                raise
            log.warning("spooled instead", extra={"request_id": push.request_id}, exc_info=error)
            try:
                return await self._spool(push, arrival, kept.again(), spool)
            except Unavailable:
                raise error from None  # no room there either: the first reason stands

    async def _spool(
        self, push: _Push, arrival: Arrival, kept: AsyncIterable[Chunk], spool: Spool
    ) -> Outcome:
        """Acknowledge a delivery from local disk."""
        item, spooled = await self._write(push, arrival, kept, spool)
        self._services.uploads.spooled.set()
        return spooled.outcome(self._services.keyring, item)

    async def _spool_first(
        self,
        push: _Push,
        claim: idempotency.Claim | None,
        arrival: Arrival,
        kept: Retained,
        spool: Spool,
    ) -> Outcome:
        """Make it durable on local disk, then store it: its sender would not send it again."""
        try:
            item, spooled = await self._write(push, arrival, kept, spool)
        except Unavailable as error:
            if not kept.whole:
                raise
            # No room for it here; the store may well be there.
            log.warning("stored without being spooled first", exc_info=error)
            return await self._store(push, claim, arrival, kept.again())
        with spool.in_hand(item) as mine:
            if not mine:
                return spooled.outcome(self._services.keyring, item)
            try:
                settled = await self._settle_spooled(item, spooled, spool, push.admitted, claim)
            except (Unavailable, StorageError) as error:
                self._note_failure(error)
                self._services.uploads.spooled.set()
                return spooled.outcome(self._services.keyring, item)
            await self._done_with(item, spooled, settled, spool)
        return answer(settled)

    async def _done_with(self, item: SpoolItem, spooled: Spooled, settled: Settled, spool: Spool) -> None:
        """Take what is settled out of the spool; first write down where its id leads, if not to itself.

        A repeat that came meanwhile found the item there and was told its id.
        """
        try:
            if spooling.leads_elsewhere(item, settled):
                await spooling.note_drained(
                    self._services, item, spooled, settled, now=self._services.clock.now()
                )
        except Unavailable as error:
            self._note_failure(error)
            self._services.uploads.spooled.set()  # the drainer settles it again, and writes it down then
            return
        await spool.remove(item)

    async def _write(
        self, push: _Push, arrival: Arrival, kept: AsyncIterable[Chunk], spool: Spool
    ) -> tuple[SpoolItem, Spooled]:
        envelope = SpooledFrom(push.request, push.admitted, arrival, push.basis, push.request_id, self._judge)
        return await spooling.write(
            self._services, spool, kept, arrival, envelope, recording_id=push.recording_id
        )

    async def drain(self, item: SpoolItem, spool: Spool) -> str:
        """Store what was acknowledged from the spool, write down what it came to, and remove it there.

        It can be done again after any interruption: the identity is settled once.

        Returns:
            What it came to, as `recorder.ingest.spooling.note_drained` has it.

        Raises:
            Unavailable: the database is away.
            Forbidden: the catalogue does not know the source.
            storage.errors.StorageError: the store is away, or the item is damaged.
        """
        spooled = await Spooled.read(spool, item)
        controller = uuid.UUID(item.controller_id)
        known = await spooling.alias_of(self._services, item.id)
        if known is not None:
            # Settled before, and its remover died; or erased while it waited.
            await spool.remove(item)
            return known.outcome
        admitted = await admit_again(
            self._services, spooled.source_id, controller, spooled.actor, item.identity
        )
        claim = await self._claim_again(admitted, spooled)
        try:
            settled = await self._settle_spooled(item, spooled, spool, admitted, claim)
        except BaseException:
            if claim is not None:
                await asyncio.shield(idempotency.release(self._services, claim))
            raise
        outcome = await spooling.note_drained(
            self._services, item, spooled, settled, now=self._services.clock.now()
        )
        await spool.remove(item)
        return outcome

    async def _settle_spooled(
        self,
        item: SpoolItem,
        spooled: Spooled,
        spool: Spool,
        admitted: Admitted,
        claim: idempotency.Claim | None,
    ) -> Settled:
        delivery = spooled.delivery(self._services.keyring, admitted, item)
        upload = Upload(self._services.vault, spool.read(item), size=item.size)
        try:
            delivery.sealed = await upload.sealed()
        except BaseException:
            await upload.discard()
            raise
        return await Settler(self._services).settle(delivery, claim, upload)

    async def _claim(self, admitted: Admitted, key: str) -> idempotency.Claim:
        now = self._services.clock.now()
        return await idempotency.claim(
            self._services, admitted.controller.id, admitted.source.id, key, now=now
        )

    async def _claim_again(self, admitted: Admitted, spooled: Spooled) -> idempotency.Claim | None:
        """The idempotency key of a spooled delivery, where it is free; else the identity settles all."""
        key = spooled.request.idempotency_key
        if key is None:
            return None
        try:
            claim = await self._claim(admitted, key)
        except (Conflict, InvalidInput):
            return None
        return claim if claim.payload is None else None

    def _note_failure(self, error: Exception) -> bool:
        """Remember that the store failed, if that is what it was; whether spooling would help."""
        if isinstance(error, Unavailable):
            return error.dependency in {"database", "store"}
        if isinstance(error, StoreUnavailable | StoreRefused):
            if not self._services.settings.resolved_object_store.startswith("file:"):
                self._services.uploads.suspect_store()
            return True
        return False

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
        self,
        request: IngestRequest,
        principal: Principal,
        source: str | None,
        request_id: str,
        *,
        offline: bool = False,
    ) -> Admitted:
        metadata = request.metadata
        try:
            return await admit(
                self._services,
                principal,
                source,
                external_id=metadata.external_id,
                leg=metadata.leg,
                request_id=request_id,
            )
        except Unavailable:
            if not offline:
                raise
            known = await admit_offline(
                self._services,
                principal,
                source,
                external_id=metadata.external_id,
                leg=metadata.leg,
                request_id=request_id,
            )
            if known is None:
                raise
            return known

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
        push: _Push,
        arrival: Arrival,
        identity: bytes,
        reasons: tuple[str, ...],
        now: datetime,
        sealed: SealedObject | None,
    ) -> Delivery:
        return Delivery.prepare(
            self._services.keyring,
            request=push.request,
            admitted=push.admitted,
            arrival=arrival,
            identity=identity,
            plain_identity=push.admitted.identity,
            reasons=reasons,
            basis=push.basis,
            received_at=now,
            request_id=push.request_id,
            sealed=sealed,
        )

    def _aside(self, admitted: Admitted, identity: bytes, arrival: Arrival) -> bytes:
        return aside_identity(
            self._services.keyring, admitted.controller.id, identity, arrival.received_sha256
        )


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


__all__ = ["Intake", "lawful_basis"]
