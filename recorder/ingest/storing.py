"""The rows of a recording, written in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import LawfulBasis, LinkRole, ObjectRole, RecordingState, SubjectKind
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import add_subject, blind_index, open_json, seal_json
from recorder.catalogue.tables import (
    BlindIndex,
    Call,
    Customer,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    Subject,
)
from recorder.customers import matching, normalise
from recorder.customers.matching import Match, MatchKeys
from recorder.disposition.evaluation import reevaluate, reevaluate_customer
from recorder.ingest.admission import Admitted
from recorder.ingest.identity import call_identity, payload_digest
from recorder.ingest.intake import Arrival, counterpart
from recorder.ingest.request import IngestRequest, quarantines
from recorder.jobs.queue import enqueue
from recorder.playback.objects import add_object
from recorder.services import Services
from storage.keys import Keyring
from storage.vault import WrittenObject


@dataclass(slots=True)
class Delivery:
    """A delivery whose bytes have arrived, with every digest that the transaction needs.

    Attributes:
        identity: under which it is stored; differs from ``plain_identity`` for what is kept aside.
        plain_identity: of (source, external id, leg).
        conflict_of: the recording whose identity it came under with other bytes.
    """

    request: IngestRequest
    admitted: Admitted
    arrival: Arrival
    identity: bytes
    plain_identity: bytes
    call_identity: bytes
    keys: MatchKeys
    reasons: tuple[str, ...]
    basis: LawfulBasis
    received_at: datetime
    received_sha256: bytes
    request_id: str
    conflict_of: uuid.UUID | None = None
    written: WrittenObject | None = field(default=None, repr=False)

    @classmethod
    def prepare(
        cls,
        keyring: Keyring,
        *,
        request: IngestRequest,
        admitted: Admitted,
        arrival: Arrival,
        identity: bytes,
        plain_identity: bytes,
        reasons: tuple[str, ...],
        basis: LawfulBasis,
        received_at: datetime,
        request_id: str,
    ) -> Delivery:
        """Work the digests out."""
        metadata, controller = request.metadata, admitted.controller
        call = metadata.external_id if metadata.call is None else metadata.call.external_id
        return cls(
            request=request,
            admitted=admitted,
            arrival=arrival,
            identity=identity,
            plain_identity=plain_identity,
            call_identity=call_identity(keyring, controller.id, admitted.source.id, call),
            keys=customer_keys(keyring, request, admitted),
            reasons=reasons,
            basis=basis,
            received_at=received_at,
            received_sha256=arrival.received_sha256,
            request_id=request_id,
        )

    @property
    def state(self) -> RecordingState:
        """Stored, or in quarantine for its reasons."""
        return RecordingState.QUARANTINED if quarantines(self.reasons) else RecordingState.STORED

    @property
    def lock_digests(self) -> tuple[bytes, ...]:
        """What must not change hands while the rows are written."""
        return (self.plain_identity, self.call_identity, *self.keys.digests)

    def payload(self, keyring: Keyring) -> bytes:
        """What an Idempotency-Key of this delivery stands for."""
        return payload_digest(
            keyring, self.admitted.controller.id, self.request.sealed_document(), self.received_sha256
        )


def customer_keys(keyring: Keyring, request: IngestRequest, admitted: Admitted) -> MatchKeys:
    """Digests to find the customer by: what the sender says of them, else the number they called with."""
    metadata, controller = request.metadata, admitted.controller
    said = metadata.customer
    number, phone, email = (None, None, None) if said is None else (said.number, said.phone, said.email)
    line = phone if phone is not None else counterpart(metadata)
    return matching.match_keys(
        keyring,
        controller.id,
        region=controller.country,
        number=number,
        phones=() if line is None else (line,),
        emails=() if email is None else (email,),
    )


async def match_of(session: AsyncSession, services: Services, delivery: Delivery) -> Match:
    """Whose call it is."""
    del services
    return await matching.resolve(session, delivery.admitted.controller.id, delivery.keys)


async def stored_document(session: AsyncSession, services: Services, row: Recording) -> dict[str, Any]:
    """The sealed metadata of a recording, opened."""
    if row.sealed is None:
        return {}
    subject = await session.get_one(Subject, row.subject_id)
    return open_json(services.keyring, subject, RECORDING_METADATA, row.id, row.sealed)


async def write_rows(session: AsyncSession, services: Services, delivery: Delivery) -> Recording:
    """Add everything that a new recording is, in the running transaction."""
    now, controller_id = delivery.received_at, delivery.admitted.controller.id
    match = await match_of(session, services, delivery)
    customer: Customer | None = None
    if match.certain:
        customer = await session.get_one(Customer, match.customers[0], with_for_update=True)
        subject = await session.get_one(Subject, customer.subject_id)
    else:
        subject = add_subject(session, services.keyring, controller_id, SubjectKind.UNLINKED, now=now)
        await session.flush()
    call = await _call(session, delivery)
    row = _recording(delivery, call.id, subject, customer)
    row.sealed = seal_json(
        services.keyring, subject, RECORDING_METADATA, row.id, delivery.request.sealed_document()
    )
    session.add(row)
    await session.flush()
    await _add_object(session, services, delivery, row)
    _add_details(session, services, delivery, row)
    if customer is not None:
        session.add(
            RecordingLink(
                recording_id=row.id,
                customer_id=customer.id,
                role=LinkRole.PRINCIPAL,
                matched_by=match.by or "number",
                created_at=now,
            )
        )
        await matching.note_call(session, customer, row, now=now)
    else:
        await matching.add_candidates(session, row, match, now=now)
    _record_stored(session, delivery, row, match)
    await session.flush()
    await _windows(session, services, row, customer, now)
    for kind in ("media_check", "rendition", "peaks"):
        enqueue(session, kind, row.id, now=now)
    return row


async def _windows(
    session: AsyncSession, services: Services, row: Recording, customer: Customer | None, now: datetime
) -> None:
    # A new contact moves the windows of everything else the customer has, too.
    if customer is not None and customer.last_contact_at == min(row.started_at, row.received_at):
        await reevaluate_customer(session, services, customer.id, now)
    else:
        await reevaluate(session, services, [row.id], now)
    await session.refresh(row)


async def _call(session: AsyncSession, delivery: Delivery) -> Call:
    source_id = delivery.admitted.source.id
    query = sa.select(Call).where(Call.source_id == source_id, Call.identity == delivery.call_identity)
    call = (await session.scalars(query)).one_or_none()
    started = delivery.request.metadata.started_at
    if call is None:
        call = Call(
            id=uuid.uuid4(),
            controller_id=delivery.admitted.controller.id,
            source_id=source_id,
            identity=delivery.call_identity,
            started_at=started,
            created_at=delivery.received_at,
        )
        session.add(call)
        await session.flush()
    elif started < call.started_at:
        call.started_at = started
    return call


def _recording(
    delivery: Delivery, call_id: uuid.UUID, subject: Subject, customer: Customer | None
) -> Recording:
    metadata, arrival, written = delivery.request.metadata, delivery.arrival, _written(delivery)
    duration = arrival.duration_ms(written.size)
    if duration is None and metadata.duration is not None:
        duration = round(metadata.duration * 1000)
    notice = metadata.notice
    return Recording(
        id=uuid.uuid4(),
        controller_id=delivery.admitted.controller.id,
        source_id=delivery.admitted.source.id,
        call_id=call_id,
        identity=delivery.identity,
        conflict_of=delivery.conflict_of,
        subject_id=subject.id,
        customer_id=None if customer is None else customer.id,
        state=delivery.state,
        reasons=list(delivery.reasons),
        held=False,
        restricted=False,
        started_at=metadata.started_at,
        ended_at=metadata.end,
        received_at=delivery.received_at,
        duration_ms=duration,
        direction=metadata.direction,
        queue=metadata.queue,
        agents=list(dict.fromkeys(metadata.agents)),
        tags=list(dict.fromkeys(metadata.tags)),
        service_events=list(dict.fromkeys(event.type for event in metadata.service_events)),
        lawful_basis=delivery.basis,
        notice_version=None if notice is None else notice.version,
        notice_offset_ms=None if notice is None or notice.offset is None else round(notice.offset * 1000),
        muted=[
            {"from_ms": int(s.from_ * 1000), "to_ms": -int(-s.to * 1000 // 1), "reason": s.reason}
            for s in metadata.silences
        ],
        channels=[channel.model_dump() for channel in metadata.channels],
        media=arrival.media.document(),
        sha256=written.sha256,
        size=written.size,
        sealed=None,
        card_data_removed=arrival.card_removed,
        received_sha256=arrival.received_sha256 if arrival.card_removed else None,
        received_size=arrival.received_size if arrival.card_removed else None,
    )


async def _add_object(session: AsyncSession, services: Services, delivery: Delivery, row: Recording) -> None:
    await add_object(
        session,
        services,
        row,
        _written(delivery),
        role=ObjectRole.ORIGINAL,
        content_type=delivery.arrival.media.content_type,
        now=delivery.received_at,
    )


def _written(delivery: Delivery) -> WrittenObject:
    if delivery.written is None:
        raise AssertionError("nothing was written for this delivery")
    return delivery.written


def _add_details(session: AsyncSession, services: Services, delivery: Delivery, row: Recording) -> None:
    for agent in row.agents:
        session.add(RecordingAgent(recording_id=row.id, agent=agent, controller_id=row.controller_id))
    for tag in row.tags:
        session.add(RecordingTag(recording_id=row.id, tag=tag))
    pairs = {*delivery.keys.pairs, *_search_pairs(services.keyring, delivery)}
    known = {(matching.LINE, digest) for kind, digest in delivery.keys.pairs if kind == matching.PHONE}
    for kind, digest in sorted(pairs - known):
        session.add(
            BlindIndex(
                id=uuid.uuid4(),
                controller_id=row.controller_id,
                kind=kind,
                digest=digest,
                subject_id=row.subject_id,
                customer_id=row.customer_id,
                recording_id=row.id,
            )
        )


def _search_pairs(keyring: Keyring, delivery: Delivery) -> set[tuple[str, bytes]]:
    """Digests for searching alone: ids as the sender wrote them, and both lines of the call."""
    metadata, controller = delivery.request.metadata, delivery.admitted.controller
    pairs = {("external_id", blind_index(keyring, controller.id, "external_id", metadata.external_id))}
    if metadata.call is not None:
        pairs.add(
            ("external_id", blind_index(keyring, controller.id, "external_id", metadata.call.external_id))
        )
    if delivery.request.file_name is not None:
        name = blind_index(keyring, controller.id, "file_name", delivery.request.file_name)
        pairs.add(("file_name", name))
    for line in (metadata.caller, metadata.callee):
        e164 = None if line is None else normalise.phone(line, controller.country)
        if e164 is not None:
            # Digested as a phone, filed as a line: found by the same look-up, never matched by.
            pairs.add((matching.LINE, blind_index(keyring, controller.id, matching.PHONE, e164)))
    return pairs


def _record_stored(session: AsyncSession, delivery: Delivery, row: Recording, match: Match) -> None:
    stored = row.state is RecordingState.STORED
    event = AuditEvent(
        action="recording.stored" if stored else "recording.quarantined",
        actor=delivery.admitted.actor,
        object_type="recording",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=delivery.request_id,
        details={
            "source": str(row.source_id),
            "sha256": row.sha256.hex(),
            "size": row.size,
            "received_sha256": None if row.received_sha256 is None else row.received_sha256.hex(),
            "card_data_removed": row.card_data_removed,
            "reasons": list(row.reasons),
            "matched_by": match.by,
            "customer": None if row.customer_id is None else str(row.customer_id),
            "candidates": 0 if match.certain else len(match.customers),
        },
    )
    record(session, event, now=delivery.received_at)
