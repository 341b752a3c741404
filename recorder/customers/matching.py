"""Whose call is it? Matching pushed values to customers, linking, and moving a call to another key.

Everything compares keyed digests; no value is opened to find a match. Linking re-wraps 32-byte data keys
and re-seals the metadata, never the audio.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ContactKind, LinkRole, RecordingState, SubjectKind
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import blind_index, open_json, seal_json, subject_ref
from recorder.catalogue.tables import (
    BlindIndex,
    Contact,
    Customer,
    Recording,
    RecordingLink,
    SharedLine,
    StoredObjectRow,
    Subject,
)
from recorder.customers import normalise
from recorder.errors import Conflict, Erased
from recorder.services import Services
from storage.keys import Keyring, rewrap_data_key

NUMBER: Final = "number"
PHONE: Final = "phone"
EMAIL: Final = "email"
NAME: Final = "name"
LINE: Final = "line"
"""Kind of blind index for the other party's line (our own numbers): searched by, never matched by."""

MATCHED: Final = (NUMBER, PHONE, EMAIL)
_SURE: Final = {NUMBER: 100, PHONE: 90, EMAIL: 90, LINE: 30}
_BOTH: Final = 98
_GONE: Final = frozenset({RecordingState.ERASING, RecordingState.ERASED})


@dataclass(frozen=True, slots=True)
class MatchKeys:
    """Keyed digests of what is known of a customer; equal values have equal digests."""

    number: bytes | None = None
    phones: tuple[bytes, ...] = ()
    emails: tuple[bytes, ...] = ()

    @property
    def pairs(self) -> tuple[tuple[str, bytes], ...]:
        """(kind, digest) of each."""
        number = () if self.number is None else ((NUMBER, self.number),)
        return (*number, *((PHONE, p) for p in self.phones), *((EMAIL, e) for e in self.emails))

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Every digest, for `recorder.catalogue.locks.lock_values`."""
        return tuple(digest for _, digest in self.pairs)


@dataclass(frozen=True, slots=True)
class Match:
    """What a look-up found.

    Attributes:
        customers: who it may be, in id order.
        by: ``number``, ``phone`` or ``email``; None when nobody was found.
        certain: exactly one, and nothing contradicts it.
        confidence: how sure it is of each of them, in percent; see docs/customers.md.
    """

    customers: tuple[uuid.UUID, ...] = ()
    by: str | None = None
    certain: bool = False
    confidence: int = 0


def match_keys(
    keyring: Keyring,
    controller_id: uuid.UUID,
    *,
    region: str,
    number: str | None = None,
    phones: Iterable[str] = (),
    emails: Iterable[str] = (),
) -> MatchKeys:
    """Normalise and digest values; what does not parse (a short code, a withheld number) is left out."""

    def digest(kind: str, value: str) -> bytes:
        return blind_index(keyring, controller_id, kind, value)

    plain = normalise.number(number) if number is not None else ""
    e164 = dict.fromkeys(p for p in (normalise.phone(v, region) for v in phones) if p is not None)
    folded = dict.fromkeys(e for e in (normalise.email(v) for v in emails) if e is not None)
    return MatchKeys(
        number=digest(NUMBER, plain) if plain else None,
        phones=tuple(digest(PHONE, p) for p in e164),
        emails=tuple(digest(EMAIL, e) for e in folded),
    )


async def find_customers(
    session: AsyncSession, controller_id: uuid.UUID, pairs: Sequence[tuple[str, bytes]]
) -> dict[str, set[uuid.UUID]]:
    """Living customers who have any of the values in their record, by kind of value.

    Who is known by a shared line alone is found as of kind ``line``.
    """
    found: dict[str, set[uuid.UUID]] = {}
    if not pairs:
        return found
    query = (
        sa.select(
            sa.case((SharedLine.digest.is_not(None), LINE), else_=BlindIndex.kind), BlindIndex.customer_id
        )
        .join(Customer, Customer.id == BlindIndex.customer_id)
        .outerjoin(
            SharedLine,
            sa.and_(
                BlindIndex.kind == PHONE,
                SharedLine.controller_id == BlindIndex.controller_id,
                SharedLine.digest == BlindIndex.digest,
            ),
        )
        .where(
            BlindIndex.controller_id == controller_id,
            BlindIndex.recording_id.is_(None),
            Customer.erased_at.is_(None),
            sa.or_(*(sa.and_(BlindIndex.kind == k, BlindIndex.digest == d) for k, d in pairs)),
        )
    )
    for kind, customer_id in await session.execute(query):
        if customer_id is not None:
            found.setdefault(kind, set()).add(customer_id)
    return found


async def resolve(session: AsyncSession, controller_id: uuid.UUID, keys: MatchKeys) -> Match:
    """Find the customer: by number, else by telephone or e-mail.

    One match is certain; several are candidates for a person to choose from. Where a number was given
    that nobody has, a match by telephone is only a candidate: the sender meant somebody else, perhaps
    of the same household, who is not registered yet.
    """
    return judge(
        await find_customers(session, controller_id, keys.pairs), given_number=keys.number is not None
    )


def judge(found: Mapping[str, Set[uuid.UUID]], *, given_number: bool) -> Match:
    """What the found customers come to. Pure.

    Args:
        found: customers by the kind of value that they were found by; ``line`` is a shared line.
        given_number: the sender gave a customer number, whoever has it.
    """
    if by_number := found.get(NUMBER):
        certain = len(by_number) == 1
        return Match(tuple(sorted(by_number)), NUMBER, certain, _SURE[NUMBER] if certain else _SURE[LINE])
    phone, email = found.get(PHONE, frozenset()), found.get(EMAIL, frozenset())
    others = phone | email
    if not others:
        # Everybody of a company calls from its switchboard: it may be them, and it may be anybody.
        shared = tuple(sorted(found.get(LINE, ())))
        return (
            Match(shared, PHONE, certain=False, confidence=_SURE[LINE] // len(shared)) if shared else Match()
        )
    by = PHONE if phone else EMAIL
    if len(others) > 1:
        return Match(tuple(sorted(others)), by, certain=False, confidence=_SURE[by] // len(others))
    if given_number:
        return Match(tuple(others), by, certain=False, confidence=_SURE[by] // 2)
    return Match(tuple(others), by, certain=True, confidence=_BOTH if phone and email else _SURE[by])


async def add_candidates(session: AsyncSession, recording: Recording, match: Match, *, now: datetime) -> None:
    """Remember who it may be. Candidates open nothing and move no date."""
    have = await session.scalars(
        sa.select(RecordingLink.customer_id).where(RecordingLink.recording_id == recording.id)
    )
    known = set(have)
    session.add_all(link for link in match_links(recording, match, now=now) if link.customer_id not in known)


def match_links(recording: Recording, match: Match, *, now: datetime) -> list[RecordingLink]:
    """A match as rows of nobody's session: the principal where it is certain, else candidates."""
    role = LinkRole.PRINCIPAL if match.certain else LinkRole.CANDIDATE
    return [
        RecordingLink(
            recording_id=recording.id,
            customer_id=customer_id,
            role=role,
            matched_by=match.by or "person",
            confidence=match.confidence,
            created_at=now,
        )
        for customer_id in match.customers
    ]


async def note_call(
    session: AsyncSession, customer: Customer, recording: Recording, *, now: datetime
) -> None:
    """Record the call as a contact of the customer; it moves the last contact.

    A start time in the future (a sender's clock) counts as the time of receipt, so that a wrong clock
    does not lengthen retention.
    """
    exists = await session.scalar(
        sa.select(Contact.id).where(Contact.customer_id == customer.id, Contact.recording_id == recording.id)
    )
    if exists is not None:
        return
    contact = call_contact(customer, recording, now=now)
    session.add(contact)
    touch(customer, contact.at)


def call_contact(customer: Customer, recording: Recording, *, now: datetime) -> Contact:
    """The contact that a call is, as a row of nobody's session."""
    return Contact(
        id=uuid.uuid4(),
        customer_id=customer.id,
        kind=ContactKind.CALL,
        at=min(recording.started_at, recording.received_at),
        recording_id=recording.id,
        sealed=None,
        recorded_at=now,
    )


def touch(customer: Customer, at: datetime) -> None:
    """Move the last contact forward; it never moves back."""
    if customer.last_contact_at is None or customer.last_contact_at < at:
        customer.last_contact_at = at


async def _forget_call(session: AsyncSession, customer_id: uuid.UUID, recording_id: uuid.UUID) -> None:
    """Take back the contact that a call made with somebody who was not on it."""
    await session.execute(
        sa.delete(Contact).where(Contact.customer_id == customer_id, Contact.recording_id == recording_id)
    )
    customer = await session.get_one(Customer, customer_id, with_for_update={"key_share": True})
    counting = [kind for kind in ContactKind if kind.counts]
    customer.last_contact_at = await session.scalar(
        sa.select(sa.func.max(Contact.at)).where(
            Contact.customer_id == customer_id, Contact.kind.in_(counting)
        )
    )


async def move_to_subject(
    session: AsyncSession,
    services: Services,
    recording: Recording,
    new: Subject,
    *,
    customer_id: uuid.UUID | None,
    now: datetime,
) -> None:
    """Give a recording to another subject: re-wrap its data keys, re-seal its metadata, move its indexes.

    An unlinked subject that is left empty loses its key; a customer that lost a recording gets a new key
    at the next rotation, because the old one, in an old backup, still opens what it wrapped.

    Raises:
        Erased: one of the two keys is destroyed.
        storage.errors.TamperedObject: a wrap or the metadata is not what was stored.
    """
    if recording.subject_id == new.id:
        recording.customer_id = customer_id
        return
    old = await session.get_one(Subject, recording.subject_id, with_for_update=True)
    before, after = subject_ref(old), subject_ref(new)
    objects = await session.scalars(
        sa.select(StoredObjectRow).where(
            StoredObjectRow.recording_id == recording.id, StoredObjectRow.wrapped_key.is_not(None)
        )
    )
    for row in objects:
        if row.wrapped_key is not None:
            row.wrapped_key = rewrap_data_key(
                services.keyring,
                before,
                after,
                row.wrapped_key,
                object_id=row.id,
                size=row.size,
                sha256=row.sha256,
            )
            row.subject_id = new.id
    if recording.sealed is not None:
        document = open_json(services.keyring, old, RECORDING_METADATA, recording.id, recording.sealed)
        recording.sealed = seal_json(services.keyring, new, RECORDING_METADATA, recording.id, document)
    await session.execute(
        sa.update(BlindIndex)
        .where(BlindIndex.recording_id == recording.id)
        .values(subject_id=new.id, customer_id=customer_id)
    )
    recording.subject_id = new.id
    recording.customer_id = customer_id
    await session.flush()
    await _leave(session, old, now)


async def _leave(session: AsyncSession, old: Subject, now: datetime) -> None:
    if old.kind is not SubjectKind.UNLINKED:
        old.rekey_needed = True
        return
    left = await session.scalar(
        sa.select(sa.func.count()).select_from(Recording).where(Recording.subject_id == old.id)
    )
    if left == 0:
        old.wrapped_key = None
        old.destroyed_at = now


async def link_recording(
    session: AsyncSession,
    services: Services,
    recording: Recording,
    customer: Customer,
    *,
    by: str,
    actor: str,
    now: datetime,
    role: LinkRole = LinkRole.PRINCIPAL,
    confidence: int = 100,
    request_id: str | None = None,
) -> None:
    """Hang a customer on a recording, in the running transaction.

    The principal's key wraps the data keys; a reference is only named. A new principal takes the place
    of the old one and ends the candidates. The caller re-evaluates windows afterwards.

    Args:
        by: ``number``, ``phone``, ``email`` or ``person``.
        confidence: how sure it is, in percent; a person's word is.

    Raises:
        Erased: recording or customer is gone or going.
        Conflict: they belong to different controllers, or the principal is made a reference.
    """
    if customer.erased_at is not None or recording.state in _GONE:
        raise Erased("the recording or the customer has been erased")
    if recording.controller_id != customer.controller_id:
        raise Conflict("the recording and the customer belong to different controllers")
    links = {
        link.customer_id: link
        for link in await session.scalars(
            sa.select(RecordingLink).where(RecordingLink.recording_id == recording.id)
        )
    }
    if role is LinkRole.REFERENCE and recording.customer_id == customer.id:
        raise Conflict("the customer is the recording's principal; link another principal first")
    if role is LinkRole.PRINCIPAL:
        for link in links.values():
            if link.customer_id != customer.id and link.role is not LinkRole.REFERENCE:
                await session.delete(link)
                if link.role is LinkRole.PRINCIPAL:
                    await _forget_call(session, link.customer_id, recording.id)
        subject = await session.get_one(Subject, customer.subject_id)
        await move_to_subject(session, services, recording, subject, customer_id=customer.id, now=now)
    mine = links.get(customer.id)
    if mine is None:
        session.add(
            RecordingLink(
                recording_id=recording.id,
                customer_id=customer.id,
                role=role,
                matched_by=by,
                confidence=confidence,
                created_at=now,
            )
        )
    else:
        mine.role, mine.matched_by, mine.confidence = role, by, confidence
    await note_call(session, customer, recording, now=now)
    event = AuditEvent(
        action="recording.linked",
        actor=actor,
        object_type="recording",
        object_id=str(recording.id),
        controller_id=recording.controller_id,
        request_id=request_id,
        details={"customer": str(customer.id), "role": role.value, "by": by},
    )
    record(session, event, now=now)


async def adopt_unlinked(
    session: AsyncSession,
    services: Services,
    customer: Customer,
    keys: MatchKeys,
    *,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> tuple[uuid.UUID, ...]:
    """Link the calls that waited for this customer: the register's row often comes after the call.

    Each waiting recording is resolved afresh by its own values, so that one that now matches two
    customers gets candidates instead.

    Returns:
        The recordings linked.
    """
    if not keys.pairs:
        return ()
    waiting = await session.scalars(
        sa.select(Recording)
        .join(Subject, Subject.id == Recording.subject_id)
        .where(
            Recording.controller_id == customer.controller_id,
            Recording.customer_id.is_(None),
            Recording.state.not_in(_GONE),
            Subject.kind == SubjectKind.UNLINKED,
            Recording.id.in_(
                sa.select(BlindIndex.recording_id).where(
                    BlindIndex.controller_id == customer.controller_id,
                    BlindIndex.recording_id.is_not(None),
                    sa.or_(*(sa.and_(BlindIndex.kind == k, BlindIndex.digest == d) for k, d in keys.pairs)),
                )
            ),
        )
        .order_by(Recording.id)
        .with_for_update(of=Recording, key_share=True)
    )
    linked: list[uuid.UUID] = []
    for recording in waiting.all():
        match = await resolve(session, customer.controller_id, await _keys_of(session, recording.id))
        if match.certain and match.customers == (customer.id,):
            await link_recording(
                session,
                services,
                recording,
                customer,
                by=match.by or PHONE,
                confidence=match.confidence,
                actor=actor,
                now=now,
                request_id=request_id,
            )
            linked.append(recording.id)
        elif match.customers:
            await add_candidates(session, recording, match, now=now)
    return tuple(linked)


async def _keys_of(session: AsyncSession, recording_id: uuid.UUID) -> MatchKeys:
    rows = await session.execute(
        sa.select(BlindIndex.kind, BlindIndex.digest).where(
            BlindIndex.recording_id == recording_id, BlindIndex.kind.in_(MATCHED)
        )
    )
    by_kind: dict[str, list[bytes]] = {}
    for kind, digest in rows:
        by_kind.setdefault(kind, []).append(digest)
    return MatchKeys(
        number=next(iter(by_kind.get(NUMBER, [])), None),
        phones=tuple(by_kind.get(PHONE, [])),
        emails=tuple(by_kind.get(EMAIL, [])),
    )
