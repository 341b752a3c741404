"""Erasing a customer or a recording: opening the erasure, running it, reading how it ended."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ErasureGround
from recorder.catalogue.tables import Customer, Erasure, Recording
from recorder.disposition.erasure_port import SqlErasurePort
from recorder.disposition.facts import ALIVE
from recorder.errors import Conflict, Erased, NotFound, Unavailable
from recorder.services import Services
from retention import errors as retention_errors
from retention.erasure import Erasure as Machine
from retention.erasure import ErasureResult


def machine(services: Services) -> Machine:
    """The state machine over this service's catalogue and store."""
    return Machine(SqlErasurePort(services), services.clock.now)


async def erase_customer(
    services: Services,
    customer_id: uuid.UUID,
    *,
    ground: ErasureGround = ErasureGround.REQUEST,
    requested_by: str,
    now: datetime,
    shared: Literal["keep", "erase"] = "keep",
    request_id: str | None = None,
) -> ErasureResult:
    """Erase a customer and what may go of their calls; what statute or hold covers stays under a fresh key.

    Raises:
        NotFound, Erased, Conflict: as for :func:`open_customer`.
        Unavailable: the store or the database is away; the erasure is open and the next sweep resumes it.
    """
    erasure_id = await open_customer(
        services,
        customer_id,
        ground=ground,
        requested_by=requested_by,
        now=now,
        shared=shared,
        request_id=request_id,
    )
    return await run(services, erasure_id)


async def open_customer(
    services: Services,
    customer_id: uuid.UUID,
    *,
    ground: ErasureGround,
    requested_by: str,
    now: datetime,
    shared: Literal["keep", "erase"] = "keep",
    request_id: str | None = None,
) -> uuid.UUID:
    """Create the erasure of a customer, or find the open one.

    Args:
        requested_by: the actor who asked, as the audit log names them.
        shared: what becomes of calls on which other customers hang as well; ``keep`` leaves them to a person.

    Raises:
        NotFound: there is no such customer.
        Erased: it was erased before.
        Conflict: an erasure of this customer on another ground is not finished.
    """
    async with services.database.transaction() as session:
        customer = await session.get(Customer, customer_id, with_for_update={"key_share": True})
        if customer is None:
            raise NotFound("no such customer")
        found = await _open(session, Erasure.customer_id == customer_id)
        if found is None and customer.erased_at is not None:
            certificate = await _certificate(session, customer_id)
            raise Erased("the customer has been erased", certificate_id=certificate)
        if found is not None and found.ground is not ground:
            raise Conflict("an erasure of this customer on another ground is not finished")
        if found is None:
            found = _new(session, customer.controller_id, ground, "customer", requested_by, now)
            found.customer_id = customer_id
            found.detail = {"shared": shared}
            _audit(session, found, now, request_id)
        return found.id


async def erase_recording(
    services: Services,
    recording_id: uuid.UUID,
    *,
    ground: ErasureGround = ErasureGround.REQUEST,
    requested_by: str,
    now: datetime,
    request_id: str | None = None,
) -> ErasureResult:
    """Erase one recording, unless hold or statute keep it; the result says which.

    Raises:
        NotFound: there is no such recording.
        Erased: it is gone already.
        Unavailable: the store or the database is away; the next sweep resumes it.
    """
    async with services.database.transaction() as session:
        erasure_id = await open_recording(
            session, recording_id, ground=ground, requested_by=requested_by, now=now, request_id=request_id
        )
    return await run(services, erasure_id)


async def open_recording(
    session: AsyncSession,
    recording_id: uuid.UUID,
    *,
    ground: ErasureGround,
    requested_by: str,
    now: datetime,
    scope: Literal["recording", "original"] = "recording",
    request_id: str | None = None,
) -> uuid.UUID:
    """Create the erasure of one recording, or find the open one.

    Raises:
        NotFound: there is no such recording.
        Erased: it is gone already, or another erasure is taking it.
    """
    recording = await session.get(
        Recording, recording_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if recording is None:
        raise NotFound("no such recording")
    found = await _open(session, sa.and_(Erasure.recording_id == recording_id, Erasure.scope == scope))
    if found is not None:
        return found.id
    if recording.state not in ALIVE:
        certificate = None if recording.certificate_id is None else str(recording.certificate_id)
        raise Erased("the recording has been erased", certificate_id=certificate)
    erasure = _new(session, recording.controller_id, ground, scope, requested_by, now)
    erasure.recording_id = recording_id
    _audit(session, erasure, now, request_id)
    await session.flush()
    return erasure.id


async def run(services: Services, erasure_id: uuid.UUID) -> ErasureResult:
    """Run an erasure from wherever it stands to its end.

    Raises:
        Unavailable: the store or the database is away, or the store still lists what was deleted.
    """
    try:
        return await machine(services).run(str(erasure_id))
    except (retention_errors.Unavailable, retention_errors.AbsenceNotProved) as error:
        raise Unavailable(
            "the erasure has begun and is not finished; the sweep resumes it", dependency="store"
        ) from error


def _new(
    session: AsyncSession,
    controller_id: uuid.UUID,
    ground: ErasureGround,
    scope: str,
    requested_by: str,
    now: datetime,
) -> Erasure:
    erasure = Erasure(
        id=uuid.uuid4(),
        controller_id=controller_id,
        recording_id=None,
        customer_id=None,
        scope=scope,
        ground=ground,
        requested_by=requested_by,
        requested_at=now,
        step=None,
        detail={},
        finished_at=None,
        certificate_id=None,
    )
    session.add(erasure)
    return erasure


async def _open(session: AsyncSession, which: sa.ColumnElement[bool]) -> Erasure | None:
    query = sa.select(Erasure).where(which, Erasure.finished_at.is_(None))
    return (await session.scalars(query)).one_or_none()


async def _certificate(session: AsyncSession, customer_id: uuid.UUID) -> str | None:
    query = (
        sa.select(Erasure.certificate_id)
        .where(Erasure.customer_id == customer_id, Erasure.certificate_id.is_not(None))
        .order_by(Erasure.requested_at.desc())
        .limit(1)
    )
    found = await session.scalar(query)
    return None if found is None else str(found)


def _audit(session: AsyncSession, erasure: Erasure, now: datetime, request_id: str | None) -> None:
    record(
        session,
        AuditEvent(
            action="erasure.requested",
            actor=erasure.requested_by,
            object_type="erasure",
            object_id=str(erasure.id),
            controller_id=erasure.controller_id,
            request_id=request_id,
            details={
                "ground": str(erasure.ground),
                "scope": erasure.scope,
                "recording": None if erasure.recording_id is None else str(erasure.recording_id),
                "customer": None if erasure.customer_id is None else str(erasure.customer_id),
            },
        ),
        now=now,
    )
