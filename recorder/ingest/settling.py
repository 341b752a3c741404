"""The storing transaction of a delivery whose bytes are sealed: once, whatever happens on the way."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.tables import Recording
from recorder.customers.matching import Match
from recorder.errors import Conflict, Unavailable
from recorder.ingest import idempotency
from recorder.ingest.admission import erased
from recorder.ingest.answers import outcome_of
from recorder.ingest.identity import aside_identity
from recorder.ingest.metadata import differences
from recorder.ingest.request import Outcome, OutcomeKind
from recorder.ingest.storing import Delivery, Standing, finish, standing, stored_document, write_rows
from recorder.ingest.uploading import Upload
from recorder.services import Services

log = logging.getLogger("recorder.ingest")
_EARLY: Final = 6
"""Deliveries that may hold a transaction while their store finishes: a part of the pool of connections."""
_PATIENCE: Final = 0.25
"""Seconds for which they may. Their transaction looked at holds and schedules before that wait."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What the storing transaction came to, acted upon after it is committed."""

    kind: OutcomeKind
    outcome: Outcome | None = None
    keep_object: bool = False
    first: uuid.UUID | None = None
    aside: uuid.UUID | None = None
    certificate: uuid.UUID | None = None


class CommitUnknown(Exception):
    """The database went away while a transaction was being committed."""

    def __init__(self, cause: Unavailable) -> None:
        super().__init__("the outcome of a commit is unknown")
        self.cause = cause


class Settler:
    """Settles deliveries in the catalogue; keeps nothing itself."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def settle(self, delivery: Delivery, claim: idempotency.Claim | None, upload: Upload) -> Settled:
        """Write all that a delivery is, or find what stands in its way; its object stays or goes with it.

        Raises:
            Unavailable: the database is away.
            storage.errors.StorageError: the store failed.
        """
        keep = False
        try:
            settled = await self._attempt(delivery, claim, upload)
            keep = settled.keep_object
        except CommitUnknown as error:
            # The answer to COMMIT may have been lost on the way: the row may be there. An orphan object can
            # be found and removed later, a row without its bytes cannot be mended.
            keep = True
            raise error.cause from None
        finally:
            if not keep:
                await upload.discard()
        return settled

    async def _attempt(self, delivery: Delivery, claim: idempotency.Claim | None, upload: Upload) -> Settled:
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
    ) -> Settled:
        try:
            async with self._services.database.transaction() as session:
                settled = await self._settle(session, delivery, claim, upload, patience)
                delivery.committing = True
        except Unavailable as error:
            if delivery.committing:
                raise CommitUnknown(error) from error
            raise
        return settled

    async def _settle(
        self,
        session: AsyncSession,
        delivery: Delivery,
        claim: idempotency.Claim | None,
        upload: Upload,
        patience: float | None,
    ) -> Settled:
        services, now = self._services, delivery.received_at
        source_id = delivery.admitted.source.id
        around = await standing(session, delivery)
        if around.erased:
            self._audit(
                session, delivery, "recording.refused", str(source_id), "refused", {"reason": "erased"}
            )
            return Settled(OutcomeKind.ERASED, certificate=around.certificate)
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
        return Settled(kind, outcome, keep_object=kind is OutcomeKind.CREATED)

    async def _conflict(
        self,
        session: AsyncSession,
        delivery: Delivery,
        first: Recording,
        around: Standing,
        upload: Upload,
        patience: float | None,
    ) -> Settled:
        """Other bytes under a known identity: both are kept, the second in quarantine, once."""
        delivery.identity = self._aside_of(delivery)
        known = await find(session, delivery.admitted.source.id, delivery.identity)
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
        return Settled(OutcomeKind.CONFLICT, keep_object=kept, first=first.id, aside=known.id)

    async def _compare(self, session: AsyncSession, delivery: Delivery, first: Recording) -> tuple[str, ...]:
        document = await stored_document(session, self._services, first)
        again = delivery.request.sealed_document()
        skip = {*document.get("_estimated", ()), *again.get("_estimated", ())}
        told = tuple(differences(document, again, ignore=skip))
        self._audit(session, delivery, "recording.repeated", str(first.id), "ok", {"differs": list(told)})
        return told

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


async def find(session: AsyncSession, source_id: uuid.UUID, identity: bytes) -> Recording | None:
    """What stands under an identity."""
    query = sa.select(Recording).where(Recording.source_id == source_id, Recording.identity == identity)
    return (await session.scalars(query)).one_or_none()


def answer(settled: Settled) -> Outcome:
    """The outcome to tell, or the error that it is.

    Raises:
        Erased: this call was erased.
        Conflict: other bytes are stored under its identity.
    """
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
