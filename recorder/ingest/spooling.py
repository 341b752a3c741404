"""Deliveries on local disk: written when a store or the catalogue is away, and read back when it is not.

What is spooled is what would have been stored: card data is destroyed before, the metadata is sealed with the
audio, and everything that only the arrival could tell (digests, media, reasons, time) is kept beside it.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import LawfulBasis, RecordingState
from recorder.catalogue.tables import Recording, SpooledReceipt
from recorder.errors import Unavailable
from recorder.ingest.admission import GONE, Admitted, erased
from recorder.ingest.identity import aside_identity
from recorder.ingest.intake import Arrival, Arrived, Chunk
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.receipts import Receipt, sign_receipt
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.settling import Settled
from recorder.ingest.sniff import Media
from recorder.ingest.storing import Delivery
from recorder.services import Services
from storage.errors import SpoolFull, StorageError
from storage.keys import Keyring
from storage.spool import Note, Spool, SpooledAudio, SpoolItem

FULL_RETRY: Final = 30
"""Seconds after which a sender may try again when the spool has no room."""
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Spooled:
    """What a delivery's envelope says.

    Attributes:
        request: as the adapter made it, as far as it is kept.
        actor: who pushed it, as the audit log names them.
        reasons: everything there was to say against it.
    """

    source_id: uuid.UUID
    actor: str
    request_id: str
    request: IngestRequest
    arrived: Arrived
    reasons: tuple[str, ...]
    basis: LawfulBasis

    def document(self) -> dict[str, Any]:
        """As JSON, to be sealed."""
        return {
            "version": _VERSION,
            "source": str(self.source_id),
            "actor": self.actor,
            "request_id": self.request_id,
            "metadata": self.request.sealed_document(),
            "key": self.request.idempotency_key,
            "media": dataclasses.asdict(self.arrived.media),
            "received_size": self.arrived.received_size,
            "received_sha256": self.arrived.received_sha256.hex(),
            "card_removed": self.arrived.card_removed,
            "duration_ms": self.arrived.duration,
            "reasons": list(self.reasons),
            "basis": self.basis.value,
        }

    @classmethod
    def from_document(cls, told: dict[str, Any]) -> Spooled:
        """Read it back."""
        metadata = {name: value for name, value in told["metadata"].items() if not name.startswith("_")}
        return cls(
            source_id=uuid.UUID(told["source"]),
            actor=told["actor"],
            request_id=told["request_id"],
            request=IngestRequest(
                metadata=RecordingMetadata.model_validate(metadata),
                strict=False,
                estimated=tuple(told["metadata"].get("_estimated", ())),
                unparsed=told["metadata"].get("_unparsed", {}),
                file_name=told["metadata"].get("_file_name"),
                idempotency_key=told["key"],
            ),
            arrived=Arrived(
                media=Media(**told["media"]),
                received_size=told["received_size"],
                received_sha256=bytes.fromhex(told["received_sha256"]),
                card_removed=told["card_removed"],
                duration=told["duration_ms"],
            ),
            reasons=tuple(told["reasons"]),
            basis=LawfulBasis(told["basis"]),
        )

    @classmethod
    async def read(cls, spool: Spool, item: SpoolItem) -> Spooled:
        """Open an item's envelope.

        Raises:
            storage.errors.StorageError: it is damaged, gone, or its key is.
        """
        return cls.from_document(await spool.document(item))

    def delivery(self, keyring: Keyring, admitted: Admitted, item: SpoolItem) -> Delivery:
        """The delivery that it was, to be settled now; the time is the one at which it was acknowledged."""
        identity = admitted.identity
        if "digest-mismatch" in self.reasons:
            identity = aside_identity(keyring, admitted.controller.id, identity, self.arrived.received_sha256)
        delivery = Delivery.prepare(
            keyring,
            request=self.request,
            admitted=admitted,
            arrival=self.arrived,
            identity=identity,
            plain_identity=admitted.identity,
            reasons=self.reasons,
            basis=self.basis,
            received_at=item.received_at,
            request_id=self.request_id,
            sealed=None,
        )
        delivery.recording_id = item.id
        return delivery

    def outcome(self, keyring: Keyring, item: SpoolItem) -> Outcome:
        """What its sender is told: everything that is certain already."""
        return Outcome(
            kind=OutcomeKind.SPOOLED,
            recording_id=item.id,
            call_id=None,
            state=RecordingState.SPOOLED,
            reasons=self.reasons,
            sha256=item.sha256,
            size=item.size,
            media={**self.arrived.media.document(), "duration_ms": self.arrived.duration},
            customer={"status": "pending", "id": None, "matched_by": None, "candidates": 0},
            retention=None,
            receipt=sign_receipt(keyring, self.receipt(item)),
        )

    def receipt(self, item: SpoolItem) -> Receipt:
        """The receipt that the recording will have."""
        arrived = self.arrived
        if not arrived.card_removed:
            return Receipt(item.id, item.sha256, item.size, item.received_at)
        return Receipt(
            item.id,
            arrived.received_sha256,
            arrived.received_size,
            item.received_at,
            kept_sha256=item.sha256,
            kept_size=item.size,
        )


class _KnownAlready(Exception):
    """The same bytes lie in the spool under the same identity."""

    def __init__(self, item: SpoolItem) -> None:
        super().__init__("spooled already")
        self.item = item


async def write(
    services: Services,
    spool: Spool,
    body: AsyncIterable[Chunk],
    arrival: Arrival,
    spooled: SpooledFrom,
    *,
    recording_id: uuid.UUID,
) -> tuple[SpoolItem, Spooled]:
    """Put a delivery on disk, once: the same bytes again give the item that is there.

    Args:
        body: what is to be kept of it.
        arrival: where that comes from; asked for its digests when the body has ended.
        spooled: makes the envelope then. An error that it raises keeps nothing.

    Raises:
        Unavailable: quota or disk has no room, or the spool cannot be written to.
        RecorderError: whatever ended the body, or `spooled` raised.
    """
    made: list[Spooled] = []

    def describe(audio: SpooledAudio) -> Note:
        envelope = spooled(audio)
        made.append(envelope)
        digest = arrival.received_sha256
        if (known := spool.find(spooled.identity, digest)) is not None:
            raise _KnownAlready(known)
        return Note(spooled.identity, digest, services.clock.now(), envelope.document())

    try:
        item = await spool.add(
            body,
            describe,
            item_id=recording_id,
            controller_id=str(spooled.controller_id),
            size=arrival.kept_size_known,
        )
    except _KnownAlready as again:
        return again.item, await Spooled.read(spool, again.item)
    except SpoolFull as error:
        raise Unavailable(
            "the spool has no room for this recording; keep it and try again",
            dependency="spool",
            retry_after=FULL_RETRY,
        ) from error
    except StorageError as error:
        raise Unavailable("the spool cannot be used; keep the recording", dependency="spool") from error
    services.metrics.spooled.inc()
    return item, made[0]


@dataclass(frozen=True, slots=True)
class SpooledFrom:
    """Makes the envelope of an arrival once its body has ended.

    Attributes:
        judge: everything there is to say against it; may refuse it.
    """

    request: IngestRequest
    admitted: Admitted
    arrival: Arrival
    basis: LawfulBasis
    request_id: str
    judge: Callable[[IngestRequest, Arrival], tuple[str, ...]]

    @property
    def identity(self) -> bytes:
        """Under which a repeat is recognised."""
        return self.admitted.identity

    @property
    def controller_id(self) -> uuid.UUID:
        """Under whose key it is sealed."""
        return self.admitted.controller.id

    def __call__(self, audio: SpooledAudio) -> Spooled:
        """The envelope."""
        reasons = self.judge(self.request, self.arrival)
        return Spooled(
            source_id=self.admitted.source.id,
            actor=self.admitted.actor,
            request_id=self.request_id,
            request=self.request,
            arrived=Arrived(
                media=self.arrival.media,
                received_size=self.arrival.received_size,
                received_sha256=self.arrival.received_sha256,
                card_removed=self.arrival.card_removed,
                duration=self.arrival.duration_ms(audio.size),
            ),
            reasons=reasons,
            basis=self.basis,
        )


# What became of it


@dataclass(frozen=True, slots=True)
class Alias:
    """What an id stands for that was given with a 202 and that no recording bears."""

    controller_id: uuid.UUID
    source_id: uuid.UUID
    outcome: str
    recording_id: uuid.UUID | None
    certificate_id: uuid.UUID | None
    received_at: datetime


async def note_drained(
    services: Services, item: SpoolItem, spooled: Spooled, settled: Settled, *, now: datetime
) -> str:
    """Write down what a spooled delivery came to, and where its id leads if not to itself.

    Returns:
        ``stored``, ``quarantined``, ``repeated``, ``conflict`` or ``erased``.

    Raises:
        Unavailable: the database is away.
    """
    outcome, leads_to = _ending(item, settled)
    event = AuditEvent(
        action="recording.drained",
        actor="system:spool",
        object_type="recording",
        object_id=str(item.id),
        outcome="refused" if settled.kind is OutcomeKind.ERASED else "ok",
        controller_id=uuid.UUID(item.controller_id),
        request_id=spooled.request_id,
        details={
            "source": str(spooled.source_id),
            "outcome": outcome,
            "recording": None if leads_to is None else str(leads_to),
            "received_at": item.received_at.isoformat(),
            "waited_seconds": max(0, int((now - item.received_at).total_seconds())),
        },
    )
    async with services.database.transaction() as session:
        if leads_to != item.id and await session.get(SpooledReceipt, item.id) is None:
            session.add(
                SpooledReceipt(
                    id=item.id,
                    controller_id=uuid.UUID(item.controller_id),
                    source_id=spooled.source_id,
                    outcome=outcome,
                    recording_id=leads_to,
                    certificate_id=settled.certificate,
                    received_at=item.received_at,
                    drained_at=now,
                )
            )
        record(session, event, now=now)
    services.metrics.drained.labels(outcome).inc()
    return outcome


async def alias_of(services: Services, given: uuid.UUID) -> Alias | None:
    """What an id of a 202 leads to; None for every other id."""
    async with services.database.snapshot() as session:
        row = await session.get(SpooledReceipt, given)
    if row is None:
        return None
    return Alias(
        row.controller_id, row.source_id, row.outcome, row.recording_id, row.certificate_id, row.received_at
    )


async def whereabouts(
    services: Services, given: uuid.UUID, controllers: Iterable[uuid.UUID]
) -> uuid.UUID | None:
    """The recording that an id of a 202 leads to; None for an id that no 202 of these controllers gave.

    Raises:
        Unavailable: the delivery still waits in this host's spool.
        Erased: its recording was erased before it came.
    """
    item = None if services.spool is None else services.spool.get(given)
    known = set(controllers)
    if item is not None and uuid.UUID(item.controller_id) in known:
        raise Unavailable("the recording is on its way to the store; try again", dependency="store")
    alias = await alias_of(services, given)
    if alias is None or alias.controller_id not in known:
        return None
    if alias.recording_id is None:
        raise erased(alias.certificate_id)
    return alias.recording_id


async def receipt_of_alias(services: Services, given: uuid.UUID, alias: Alias) -> Receipt | None:
    """The receipt that was given under an id, again; None where its recording is gone."""
    async with services.database.snapshot() as session:
        row = await session.scalar(sa.select(Recording).where(Recording.id == alias.recording_id))
    if row is None or row.state in GONE:
        return None
    if row.received_sha256 is None or row.received_size is None:
        return Receipt(given, row.sha256, row.size, alias.received_at)
    return Receipt(
        given,
        row.received_sha256,
        row.received_size,
        alias.received_at,
        kept_sha256=row.sha256,
        kept_size=row.size,
    )


def leads_elsewhere(item: SpoolItem, settled: Settled) -> bool:
    """Whether no recording bears the id of a delivery that is settled."""
    return _ending(item, settled)[1] != item.id


def _ending(item: SpoolItem, settled: Settled) -> tuple[str, uuid.UUID | None]:
    if settled.kind is OutcomeKind.ERASED:
        return "erased", None
    if settled.kind is OutcomeKind.CONFLICT:
        return "conflict", settled.aside
    outcome = settled.outcome
    if outcome is None:
        raise AssertionError("a settled delivery has an outcome")
    if outcome.recording_id == item.id:
        return outcome.state.value, item.id
    return "repeated", outcome.recording_id
