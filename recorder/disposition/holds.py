"""Matters, legal holds and restrictions: what keeps a recording, and what narrows its use.

A hold is placed under the lock of the recordings it reaches, so that it either comes before an erasure's
decision or is refused. Where the object store keeps legal holds, they follow the catalogue's; the catalogue
decides, the store is a second lock against deletion from outside.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.sealed_fields import MATTER_RECORD
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import (
    Controller,
    Customer,
    Hold,
    Matter,
    Recording,
    Restriction,
    StoredObjectRow,
    Subject,
)
from recorder.disposition import hold_queries
from recorder.disposition.evaluation import recordings_of, reevaluate
from recorder.disposition.facts import ALIVE, CHUNK
from recorder.errors import Conflict, Erased, InvalidInput, NotFound
from recorder.services import Services
from retention.holds import review_is_due
from retention.periods import local_day, zone_of
from storage.errors import ObjectMissing, Unsupported

MATTER_GROUNDS: Final = ("legal_claims", "authority_request", "legal_obligation")
"""GDPR art. 17(3)(b) and (e), and an authority's request to preserve."""

RESTRICTION_GROUNDS: Final = ("accuracy", "unlawful", "legal_claims", "objection", "request_pending")
"""GDPR art. 18(1)(a) to (d), and a request that is being looked into."""


async def open_matter(
    session: AsyncSession,
    services: Services,
    *,
    controller_id: uuid.UUID,
    reference: str,
    ground: str,
    review_on: datetime,
    title: str = "",
    notes: str = "",
    custodians: Sequence[str] = (),
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> Matter:
    """Open a matter. Title, notes and custodians are personal: sealed under the controller's key.

    Raises:
        InvalidInput: the ground is not one of ``MATTER_GROUNDS``.
        NotFound: there is no such controller.
    """
    if ground not in MATTER_GROUNDS:
        raise InvalidInput(f"ground is one of {', '.join(MATTER_GROUNDS)}")
    matter_id = uuid.uuid4()
    sealed = None
    if title or notes or custodians:
        subject = await _controller_subject(session, controller_id)
        value = {"title": title, "notes": notes, "custodians": list(custodians)}
        sealed = seal_json(services.keyring, subject, MATTER_RECORD, matter_id, value)
    matter = Matter(
        id=matter_id,
        controller_id=controller_id,
        reference=reference,
        ground=ground,
        sealed=sealed,
        review_on=review_on,
        opened_at=now,
        closed_at=None,
    )
    session.add(matter)
    _audit(session, "matter.opened", matter, actor, now, request_id, ground=ground)
    await session.flush()
    return matter


async def read_matter(session: AsyncSession, services: Services, matter: Matter) -> dict[str, Any]:
    """Title, notes and custodians of a matter."""
    empty: dict[str, Any] = {"title": "", "notes": "", "custodians": []}
    if matter.sealed is None:
        return empty
    subject = await _controller_subject(session, matter.controller_id)
    return {**empty, **open_json(services.keyring, subject, MATTER_RECORD, matter.id, matter.sealed)}


async def amend_matter(
    session: AsyncSession,
    services: Services,
    matter: Matter,
    *,
    review_on: datetime | None = None,
    notes: str | None = None,
    custodians: Sequence[str] | None = None,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> None:
    """Set another review date, or other notes or custodians; what is None stays.

    Raises:
        Conflict: the matter is closed.
    """
    if matter.closed_at is not None:
        raise Conflict("the matter is closed", kind="matter-closed")
    changed = []
    if review_on is not None:
        matter.review_on, matter.reminded_at = review_on, None
        changed.append("review_on")
    if notes is not None or custodians is not None:
        value = await read_matter(session, services, matter)
        given = {"notes": notes, "custodians": None if custodians is None else list(custodians)}
        value |= {name: new for name, new in given.items() if new is not None}
        changed += [name for name, new in given.items() if new is not None]
        subject = await _controller_subject(session, matter.controller_id)
        matter.sealed = seal_json(services.keyring, subject, MATTER_RECORD, matter.id, value)
    _audit(session, "matter.amended", matter, actor, now, request_id, changed=changed)


async def remind_of_reviews(services: Services, now: datetime) -> int:
    """Write once into the log that an open matter's review date has come, on the controller's calendar.

    Returns:
        How many reviews are due and not done, for the metric; those reminded of before included.
    """
    query = (
        sa.select(Matter, Controller.time_zone)
        .join(Controller, Controller.id == Matter.controller_id)
        .where(Matter.closed_at.is_(None), Matter.review_on < now + timedelta(days=1))
    )
    async with services.database.snapshot() as session:
        rows = (await session.execute(query)).all()
    # Zone data is read from disk; not in the event loop.
    due = await asyncio.to_thread(
        lambda: [m for m, zone in rows if review_is_due(local_day(m.review_on, zone_of(zone)), now, zone)]
    )
    fresh = [matter.id for matter in due if matter.reminded_at is None]
    if fresh:
        async with services.database.transaction() as session:
            locked = sa.select(Matter).where(Matter.id.in_(fresh), Matter.reminded_at.is_(None))
            for matter in await session.scalars(locked.with_for_update()):
                matter.reminded_at = now
                _audit(session, "matter.review_due", matter, "system:matters", now, None)
    return len(due)


async def get_matter(session: AsyncSession, matter_id: uuid.UUID, *, lock: bool = False) -> Matter:
    """A matter.

    Raises:
        NotFound: there is none of this id.
    """
    matter = await session.get(Matter, matter_id, with_for_update=lock or None, populate_existing=lock)
    if matter is None:
        raise NotFound("no such matter")
    return matter


async def close_matter(
    session: AsyncSession,
    services: Services,
    matter: Matter,
    *,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> None:
    """Close a matter whose holds have all been released; recordings that count from its closing move.

    Raises:
        Conflict: a hold of it stands.
    """
    if matter.closed_at is not None:
        return
    holds = list(await session.scalars(sa.select(Hold).where(Hold.matter_id == matter.id)))
    if any(hold.released_at is None for hold in holds):
        raise Conflict("release the matter's holds first", kind="holds-stand")
    matter.closed_at = now
    _audit(session, "matter.closed", matter, actor, now, request_id)
    reached = [i for hold in holds for i in await _reached(session, hold)]
    await reevaluate(session, services, reached, now)


async def place_hold(
    session: AsyncSession,
    services: Services,
    matter: Matter,
    *,
    recording_id: uuid.UUID | None = None,
    customer_id: uuid.UUID | None = None,
    query: Mapping[str, Any] | None = None,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> Hold:
    """Hold one recording, all of a customer's, or all that matches a query; those still to come included.

    Call :func:`align_store` after the transaction.

    Args:
        query: see `recorder.disposition.hold_queries.parse`.

    Raises:
        InvalidInput: not exactly one target, or a query that cannot be.
        Conflict: the matter is closed.
        NotFound: no such target at the matter's controller.
        Erased: the recording is gone or going; a hold comes too late.
    """
    if matter.closed_at is not None:
        raise Conflict("the matter is closed", kind="matter-closed")
    if query is not None and (recording_id is not None or customer_id is not None):
        raise InvalidInput("name either a recording, a customer or a query")
    if query is None:
        reached = await _lock_target(session, matter.controller_id, recording_id, customer_id)
    else:
        reached = await _lock_query(session, matter.controller_id, hold_queries.parse(query))
    hold = Hold(
        id=uuid.uuid4(),
        matter_id=matter.id,
        recording_id=recording_id,
        customer_id=customer_id,
        controller_id=None if query is None else matter.controller_id,
        query=None if query is None else _stored(query),
        placed_at=now,
        placed_by=actor,
        released_at=None,
        released_by=None,
    )
    session.add(hold)
    _audit(
        session, "hold.placed", matter, actor, now, request_id, **_target(hold.id, recording_id, customer_id)
    )
    await session.flush()
    await reevaluate(session, services, reached, now)
    return hold


async def release_hold(
    session: AsyncSession,
    services: Services,
    matter: Matter,
    hold_id: uuid.UUID,
    *,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> Hold:
    """Release a hold; the recordings' own dates apply again. Call :func:`align_store` after the transaction.

    Raises:
        NotFound: the matter has no such hold.
        Conflict: it was released before.
    """
    hold = await session.get(Hold, hold_id, with_for_update=True, populate_existing=True)
    if hold is None or hold.matter_id != matter.id:
        raise NotFound("no such hold")
    if hold.released_at is not None:
        raise Conflict("the hold was released before", kind="hold-released")
    hold.released_at, hold.released_by = now, actor
    _audit(
        session,
        "hold.released",
        matter,
        actor,
        now,
        request_id,
        **_target(hold.id, hold.recording_id, hold.customer_id),
    )
    await session.flush()
    await reevaluate(session, services, await _reached(session, hold), now)
    return hold


async def align_store(services: Services, hold: Hold) -> int:
    """Make the store's legal holds of what a hold reaches equal to the catalogue's flags.

    Idempotent; to be called after the transaction that placed or released the hold.

    Returns:
        How many object versions were changed; 0 where the store keeps no legal holds.

    Raises:
        storage.errors.StoreUnavailable: the store is away; call again, or leave it to :func:`align_all`.
    """
    if not (await services.store.capabilities()).legal_hold:
        return 0
    async with services.database.snapshot() as session:
        ids = list(await _reached(session, hold))
    return sum(
        [
            await _align(services, StoredObjectRow.recording_id.in_(ids[start : start + CHUNK]))
            for start in range(0, len(ids), CHUNK)
        ]
    )


async def align_all(services: Services) -> int:
    """Align every object of a held recording, and every one held in the store: new objects, missed outages.

    Returns:
        How many object versions were changed.

    Raises:
        storage.errors.StoreUnavailable: the store is away still.
    """
    if not (await services.store.capabilities()).legal_hold:
        return 0
    held = sa.select(Recording.id).where(Recording.held)
    wanting = sa.and_(StoredObjectRow.recording_id.in_(held), StoredObjectRow.held_in_store.is_(False))
    return await _align(services, sa.or_(wanting, StoredObjectRow.held_in_store))


async def _align(services: Services, which: sa.ColumnElement[bool]) -> int:
    query = (
        sa.select(StoredObjectRow.id, StoredObjectRow.key, StoredObjectRow.version_id, Recording.held)
        .join(Recording, Recording.id == StoredObjectRow.recording_id)
        .where(which, StoredObjectRow.held_in_store != Recording.held, StoredObjectRow.deleted_at.is_(None))
    )
    async with services.database.snapshot() as session:
        wanted = list(await session.execute(query))
    changed = 0
    for row in wanted:
        try:
            await services.store.set_legal_hold(row.key, row.version_id, row.held)
        except (ObjectMissing, Unsupported):
            continue  # erased meanwhile, or an object of a store without holds; the catalogue's flag decides
        async with services.database.transaction() as session:
            values = {"held_in_store": row.held}
            await session.execute(
                sa.update(StoredObjectRow).where(StoredObjectRow.id == row.id).values(**values)
            )
        changed += 1
    return changed


async def follow_queries(services: Services, now: datetime) -> int:
    """Decide afresh what a query hold of the last hour reaches and a push stored while it was being placed.

    Every erasure asks the queries itself; this keeps the flags on the rows and in the store right.

    Returns:
        How many were decided.
    """
    recent = sa.select(Hold).where(
        Hold.query.is_not(None), Hold.placed_at >= now - timedelta(hours=1), Hold.released_at.is_(None)
    )
    async with services.database.snapshot() as session:
        standing = list(await session.scalars(recent))
    decided = 0
    for hold in standing:
        async with services.database.transaction() as session:
            since = sa.and_(
                Recording.received_at >= hold.placed_at - timedelta(hours=1), Recording.held.is_(False)
            )
            decided += await reevaluate(session, services, await _reached(session, hold, since), now)
    return decided


async def restrict(
    session: AsyncSession,
    services: Services,
    *,
    controller_id: uuid.UUID,
    recording_id: uuid.UUID | None = None,
    customer_id: uuid.UUID | None = None,
    ground: str,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> Restriction:
    """Restrict processing of one recording or of a customer's (GDPR art. 18): stored only, but for legal use.

    Raises:
        InvalidInput: not exactly one target, or an unknown ground.
        NotFound: no such target at this controller.
        Erased: the recording is gone.
    """
    if ground not in RESTRICTION_GROUNDS:
        raise InvalidInput(f"ground is one of {', '.join(RESTRICTION_GROUNDS)}")
    reached = await _lock_target(session, controller_id, recording_id, customer_id)
    row = Restriction(
        id=uuid.uuid4(),
        recording_id=recording_id,
        customer_id=customer_id,
        ground=ground,
        placed_at=now,
        placed_by=actor,
        lifted_at=None,
        lifted_by=None,
    )
    session.add(row)
    _audit_restriction(session, "restriction.placed", row, controller_id, actor, now, request_id)
    await session.flush()
    await reevaluate(session, services, reached, now)
    return row


async def lift_restriction(
    session: AsyncSession,
    services: Services,
    restriction_id: uuid.UUID,
    *,
    controller_id: uuid.UUID,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> Restriction:
    """Lift a restriction. The person has to be told before (GDPR art. 18(3)); that is the caller's to ask.

    Raises:
        NotFound: there is no such restriction at this controller.
        Conflict: it was lifted before.
    """
    row = await session.get(Restriction, restriction_id, with_for_update=True, populate_existing=True)
    if row is None or await _owner(session, row.recording_id, row.customer_id) != controller_id:
        raise NotFound("no such restriction")
    if row.lifted_at is not None:
        raise Conflict("the restriction was lifted before", kind="restriction-lifted")
    row.lifted_at, row.lifted_by = now, actor
    _audit_restriction(session, "restriction.lifted", row, controller_id, actor, now, request_id)
    await session.flush()
    await reevaluate(session, services, await _of(session, row.recording_id, row.customer_id), now)
    return row


async def _lock_target(
    session: AsyncSession,
    controller_id: uuid.UUID,
    recording_id: uuid.UUID | None,
    customer_id: uuid.UUID | None,
) -> Sequence[uuid.UUID]:
    """Lock what a hold or restriction reaches, against an erasure that is deciding; return recording ids."""
    if (recording_id is None) == (customer_id is None):
        raise InvalidInput("name either a recording or a customer")
    if customer_id is not None:
        customer = await session.get(
            Customer, customer_id, with_for_update={"key_share": True}, populate_existing=True
        )
        if customer is None or customer.controller_id != controller_id:
            raise NotFound("no such customer")
    ids = await recordings_of(session, customer_id) if customer_id is not None else [recording_id]
    query = (
        sa.select(Recording)
        .where(Recording.id.in_([i for i in ids if i is not None]))
        .order_by(Recording.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    found = [r for r in await session.scalars(query) if r.controller_id == controller_id]
    if recording_id is not None:
        if not found:
            raise NotFound("no such recording")
        if found[0].state in {RecordingState.ERASING, RecordingState.ERASED}:
            certificate = found[0].certificate_id
            raise Erased(
                "the recording has been erased",
                certificate_id=None if certificate is None else str(certificate),
            )
    return [recording.id for recording in found if recording.state in ALIVE]


async def _lock_query(
    session: AsyncSession, controller_id: uuid.UUID, query: hold_queries.Query
) -> Sequence[uuid.UUID]:
    """What a query may reach. Erasures that are deciding now end first; those that come see the hold."""
    await session.execute(sa.select(Controller.id).where(Controller.id == controller_id).with_for_update())
    return list(await session.scalars(hold_queries.candidates(controller_id, query)))


def _stored(query: Mapping[str, Any]) -> dict[str, Any]:
    """A query as JSON: times as RFC 3339, nothing that was not given."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in query.items()
        if value not in (None, [])
    }


async def _reached(
    session: AsyncSession, hold: Hold, which: sa.ColumnElement[bool] | None = None
) -> Sequence[uuid.UUID]:
    if hold.query is None or hold.controller_id is None:
        return await _of(session, hold.recording_id, hold.customer_id)
    found = hold_queries.candidates(hold.controller_id, hold_queries.parse(hold.query))
    return list(await session.scalars(found if which is None else found.where(which)))


async def _of(
    session: AsyncSession, recording_id: uuid.UUID | None, customer_id: uuid.UUID | None
) -> Sequence[uuid.UUID]:
    if recording_id is not None:
        return [recording_id]
    return [] if customer_id is None else await recordings_of(session, customer_id)


async def _owner(
    session: AsyncSession, recording_id: uuid.UUID | None, customer_id: uuid.UUID | None
) -> uuid.UUID | None:
    if recording_id is not None:
        return await session.scalar(sa.select(Recording.controller_id).where(Recording.id == recording_id))
    return await session.scalar(sa.select(Customer.controller_id).where(Customer.id == customer_id))


async def _controller_subject(session: AsyncSession, controller_id: uuid.UUID) -> Subject:
    controller = await session.get(Controller, controller_id)
    if controller is None or controller.subject_id is None:
        raise NotFound("no such controller")
    return await session.get_one(Subject, controller.subject_id)


def _target(
    hold_id: uuid.UUID, recording_id: uuid.UUID | None, customer_id: uuid.UUID | None
) -> dict[str, Detail]:
    ids: Iterable[tuple[str, uuid.UUID | None]] = (
        ("hold", hold_id),
        ("recording", recording_id),
        ("customer", customer_id),
    )
    return {name: str(value) for name, value in ids if value is not None}


def _audit(
    session: AsyncSession,
    action: str,
    matter: Matter,
    actor: str,
    now: datetime,
    request_id: str | None,
    **details: Detail,
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="matter",
        object_id=str(matter.id),
        controller_id=matter.controller_id,
        request_id=request_id,
        details=details,
    )
    record(session, event, now=now)


def _audit_restriction(
    session: AsyncSession,
    action: str,
    row: Restriction,
    controller_id: uuid.UUID,
    actor: str,
    now: datetime,
    request_id: str | None,
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="restriction",
        object_id=str(row.id),
        controller_id=controller_id,
        request_id=request_id,
        details={
            "ground": row.ground,
            "recording": None if row.recording_id is None else str(row.recording_id),
            "customer": None if row.customer_id is None else str(row.customer_id),
        },
    )
    record(session, event, now=now)
