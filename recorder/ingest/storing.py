"""The rows of a recording, written in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, entry_of
from recorder.catalogue.enums import LawfulBasis, ObjectRole, RecordingState, SubjectKind
from recorder.catalogue.inserting import insert_and_commit, insert_rows
from recorder.catalogue.locks import lock_and_look
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import blind_index, new_subject, open_json, seal_json, subject_ref
from recorder.catalogue.tables import (
    Base,
    BlindIndex,
    Call,
    CallLink,
    Customer,
    Recording,
    RecordingAgent,
    RecordingTag,
    StoredObjectRow,
    Subject,
    Tombstone,
)
from recorder.customers import matching, normalise
from recorder.customers.matching import Match, MatchKeys
from recorder.disposition.evaluation import recordings_of, reevaluate, store_decision
from recorder.disposition.facts import Origin, active_version, case_of_new, schedule_of, wide_holds
from recorder.ingest.admission import GONE, Admitted
from recorder.ingest.identity import call_identity, payload_digest
from recorder.ingest.intake import Arrival, Arrived, counterpart
from recorder.ingest.request import IngestRequest, quarantines
from recorder.jobs.queue import new_job
from recorder.services import Services
from retention.engine import decide_case
from storage.keys import Keyring, wrap_data_key
from storage.vault import SealedObject, WrittenObject


@dataclass(slots=True)
class Delivery:
    """A delivery whose bytes have arrived, with every digest that the transaction needs.

    Attributes:
        identity: under which it is stored; differs from ``plain_identity`` for what is kept aside.
        plain_identity: of (source, external id, leg).
        sealed: its bytes, sealed; None in a dry run.
        conflict_of: the recording whose identity it came under with other bytes.
        subject: whose key it is under; known once its rows are written.
        committing: from here on, a database that goes away may have committed.
        recording_id: the id that its recording gets; settled beforehand where the sender was told it.
    """

    request: IngestRequest
    admitted: Admitted
    arrival: Arrival | Arrived
    identity: bytes
    plain_identity: bytes
    call_identity: bytes
    keys: MatchKeys
    reasons: tuple[str, ...]
    basis: LawfulBasis
    received_at: datetime
    received_sha256: bytes
    request_id: str
    sealed: SealedObject | None = field(default=None, repr=False)
    conflict_of: uuid.UUID | None = None
    subject: Subject | None = field(default=None, repr=False)
    committing: bool = False
    recording_id: uuid.UUID = field(default_factory=uuid.uuid4)

    @classmethod
    def prepare(
        cls,
        keyring: Keyring,
        *,
        request: IngestRequest,
        admitted: Admitted,
        arrival: Arrival | Arrived,
        identity: bytes,
        plain_identity: bytes,
        reasons: tuple[str, ...],
        basis: LawfulBasis,
        received_at: datetime,
        request_id: str,
        sealed: SealedObject | None,
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
            sealed=sealed,
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


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the catalogue as the storing transaction begins, under its locks.

    Attributes:
        erased: a tombstone, or a recording that is erased or going, has the identity.
        certificate: of that erasure, once there is one.
        first: the recording that has the identity.
        call: the call's id and start, where a delivery brought it before.
        schedule: number of the schedule in force.
        wide_holds: whether there are holds on whatever matches.
    """

    erased: bool
    certificate: uuid.UUID | None
    first: uuid.UUID | None
    call: tuple[uuid.UUID, datetime] | None
    schedule: int | None
    wide_holds: bool


_CONTROLLER: Final = sa.bindparam("controller_id", type_=sa.Uuid())
_SOURCE: Final = sa.bindparam("source_id", type_=sa.Uuid())
_PLAIN: Final = sa.bindparam("plain_identity", type_=sa.LargeBinary())
_IDENTITY: Final = sa.bindparam("identity", type_=sa.LargeBinary())
_CALL: Final = sa.bindparam("call_identity", type_=sa.LargeBinary())
_ONE: Final = sa.select(sa.literal(1).label("one")).subquery("one")
_QUESTION = (
    sa.select(
        Tombstone.source_id.label("tombstone"),
        Tombstone.certificate_id.label("tombstone_certificate"),
        Recording.id.label("first"),
        Recording.state,
        Recording.certificate_id,
        Call.id.label("call_id"),
        Call.started_at,
        active_version(_CONTROLLER).label("schedule"),
        wide_holds(_CONTROLLER).label("wide_holds"),
    )
    .select_from(_ONE)
    .outerjoin(Tombstone, sa.and_(Tombstone.source_id == _SOURCE, Tombstone.identity == _PLAIN))
    .outerjoin(Recording, sa.and_(Recording.source_id == _SOURCE, Recording.identity == _IDENTITY))
    .outerjoin(Call, sa.and_(Call.source_id == _SOURCE, Call.identity == _CALL))
)
_STANDING: Final = Lookup(cast("sa.Select[Any]", _QUESTION))


async def standing(session: AsyncSession, delivery: Delivery) -> Standing:
    """Take the delivery's locks and look around under them."""
    values = {
        "controller_id": delivery.admitted.controller.id,
        "source_id": delivery.admitted.source.id,
        "plain_identity": delivery.plain_identity,
        "identity": delivery.identity,
        "call_identity": delivery.call_identity,
    }
    [found] = await lock_and_look(session, delivery.lock_digests, _STANDING, values)
    certificate = found.tombstone_certificate if found.tombstone is not None else found.certificate_id
    return Standing(
        erased=found.tombstone is not None or found.state in GONE,
        certificate=certificate,
        first=found.first,
        call=None if found.call_id is None else (found.call_id, found.started_at),
        schedule=found.schedule,
        wide_holds=bool(found.wide_holds),
    )


async def write_rows(
    session: AsyncSession, services: Services, delivery: Delivery, around: Standing
) -> tuple[Recording, Match]:
    """Insert everything that a new recording is, in the running transaction, but for its object.

    The object's row (`finish`) comes, with the commit, when the store has confirmed the bytes.
    """
    now, controller = delivery.received_at, delivery.admitted.controller
    match = await match_of(session, services, delivery)
    customer: Customer | None = None
    if match.certain:
        customer = await session.get_one(Customer, match.customers[0], with_for_update={"key_share": True})
        subject = await session.get_one(Subject, customer.subject_id)
        rows: list[Base] = []
    else:
        subject = new_subject(services.keyring, controller.id, SubjectKind.UNLINKED, now=now)
        rows = [subject]
    call_id = await _call(session, delivery, around, rows)
    rows += await _transfer(session, services.keyring, delivery, call_id)
    row = _recording(delivery, call_id, subject, customer)
    row.sealed = seal_json(
        services.keyring, subject, RECORDING_METADATA, row.id, delivery.request.sealed_document()
    )
    moved = False
    if customer is not None:
        contact = matching.call_contact(customer, row, now=now)
        rows.append(contact)
        moved = customer.last_contact_at is None or customer.last_contact_at <= contact.at
        matching.touch(customer, contact.at)
        await session.flush()
    await _decide(session, delivery, around, row)
    rows += [row, *matching.match_links(row, match, now=now), *_details(services.keyring, delivery, row)]
    rows.append(entry_of(_stored_event(delivery, row, match), now=now))
    rows += [new_job(kind, row.id, now=now) for kind in ("media_check", "rendition", "peaks")]
    await insert_rows(session, rows)
    if customer is not None and moved:
        # A new contact moves the windows of everything else the customer has, too.
        others = [known for known in await recordings_of(session, customer.id) if known != row.id]
        await reevaluate(session, services, others, now)
    delivery.subject = subject
    return row, match


async def _decide(session: AsyncSession, delivery: Delivery, around: Standing, row: Recording) -> None:
    """Put the decision on the row before it is inserted: the one that `reevaluate` would come to."""
    admitted, now = delivery.admitted, delivery.received_at
    controller = admitted.controller
    origin = Origin(
        admitted.source.name, controller.country, controller.time_zone, controller.financial_year_end
    )
    active = await schedule_of(session, controller.id, around.schedule)
    case = await case_of_new(session, row, origin, active, now, wide_holds=around.wide_holds)
    store_decision(row, decide_case(case, now), now)


async def _call(session: AsyncSession, delivery: Delivery, around: Standing, rows: list[Base]) -> uuid.UUID:
    started = delivery.request.metadata.started_at
    if around.call is not None:
        call_id, known = around.call
        if started < known:
            await session.execute(sa.update(Call).where(Call.id == call_id).values(started_at=started))
        return call_id
    call = Call(
        id=uuid.uuid4(),
        controller_id=delivery.admitted.controller.id,
        source_id=delivery.admitted.source.id,
        identity=delivery.call_identity,
        started_at=started,
        created_at=delivery.received_at,
    )
    rows.append(call)
    return call.id


async def _transfer(
    session: AsyncSession, keyring: Keyring, delivery: Delivery, call_id: uuid.UUID
) -> list[Base]:
    """The link to the call that this one came out of, once, whichever of the two is here first."""
    call = delivery.request.metadata.call
    if call is None or call.transferred_from is None:
        return []
    source = delivery.admitted.source.id
    other = call_identity(keyring, delivery.admitted.controller.id, source, call.transferred_from)
    if other == delivery.call_identity or await session.get(CallLink, (call_id, other)) is not None:
        return []
    return [CallLink(call_id=call_id, other=other, source_id=source, created_at=delivery.received_at)]


async def finish(
    session: AsyncSession, services: Services, delivery: Delivery, row: Recording, written: WrittenObject
) -> None:
    """Insert the row of the original, whose bytes are in the store now, and commit the transaction."""
    subject = delivery.subject
    if subject is None:
        raise AssertionError("the recording's rows come before its object's")
    wrapped = wrap_data_key(
        services.keyring,
        subject_ref(subject),
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    original = StoredObjectRow(
        id=written.object_id,
        recording_id=row.id,
        role=ObjectRole.ORIGINAL,
        key=written.key,
        version_id=written.version_id,
        subject_id=subject.id,
        wrapped_key=wrapped,
        size=written.size,
        sealed_size=written.sealed_size,
        sha256=written.sha256,
        content_type=delivery.arrival.media.content_type,
        header=written.header,
        created_at=delivery.received_at,
        deleted_at=None,
    )
    await session.flush()
    delivery.committing = True
    await insert_and_commit(session, [original])


def _recording(
    delivery: Delivery, call_id: uuid.UUID, subject: Subject, customer: Customer | None
) -> Recording:
    metadata, arrival, sealed = delivery.request.metadata, delivery.arrival, delivery.sealed
    if sealed is None:
        raise AssertionError("a rehearsal writes no rows")
    duration = arrival.duration_ms(sealed.size)
    if duration is None and metadata.duration is not None:
        duration = round(metadata.duration * 1000)
    notice = metadata.notice
    return Recording(
        id=delivery.recording_id,
        controller_id=delivery.admitted.controller.id,
        source_id=delivery.admitted.source.id,
        call_id=call_id,
        part=None if metadata.call is None else metadata.call.part,
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
        sha256=sealed.sha256,
        size=sealed.size,
        sealed=None,
        card_data_removed=arrival.card_removed,
        received_sha256=arrival.received_sha256 if arrival.card_removed else None,
        received_size=arrival.received_size if arrival.card_removed else None,
    )


def _details(keyring: Keyring, delivery: Delivery, row: Recording) -> list[Base]:
    rows: list[Base] = [
        RecordingAgent(recording_id=row.id, agent=agent, controller_id=row.controller_id)
        for agent in row.agents
    ]
    rows += [RecordingTag(recording_id=row.id, tag=tag) for tag in row.tags]
    pairs = {*delivery.keys.pairs, *_search_pairs(keyring, delivery)}
    known = {(matching.LINE, digest) for kind, digest in delivery.keys.pairs if kind == matching.PHONE}
    rows += [
        BlindIndex(
            id=uuid.uuid4(),
            controller_id=row.controller_id,
            kind=kind,
            digest=digest,
            subject_id=row.subject_id,
            customer_id=row.customer_id,
            recording_id=row.id,
        )
        for kind, digest in sorted(pairs - known)
    ]
    return rows


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


def _stored_event(delivery: Delivery, row: Recording, match: Match) -> AuditEvent:
    stored = row.state is RecordingState.STORED
    return AuditEvent(
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
