"""The end of a customer relationship: reported by a source, a death for example, and confirmed by a person.

Reported, it changes nothing. Confirmed, it counts from its own day: rules with ``after =
"relationship_ended"`` count from there, and nothing of the last contact moves.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import DataSource
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH, CUSTOMER_RECORD
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import AuditEntry, Controller, Customer, CustomerBatch, Subject
from recorder.customers.records import living
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import Conflict, FieldError, Forbidden, InvalidInput
from recorder.services import Services
from retention.periods import local_day, start_of_day, zone_of

__all__ = [
    "Cause",
    "EndReport",
    "KnownCustomer",
    "RelationshipEnd",
    "confirm_end",
    "known_end",
    "report_end",
    "waiting_ends",
    "withdraw_end",
]


class Cause(StrEnum):
    """Why a relationship ended."""

    CLOSED = "closed"  # by the customer or the controller
    DEATH = "death"


@dataclass(frozen=True, slots=True)
class RelationshipEnd:
    """What is known of the end.

    Attributes:
        ended_on: the day, in the controller's zone; None when no end is known.
        confirmed_at: since when it counts; None until a person has confirmed it.
    """

    ended_on: date | None
    confirmed_at: datetime | None


@dataclass(frozen=True, slots=True)
class EndReport:
    """The report that an end rests on, for those who are to confirm it.

    Attributes:
        reference: the source's own; None where it gave none.
        reported_by: the actor who handed it in; None where the log does not reach back to it.
        confirmed_by: the actor who confirmed it, likewise.
    """

    cause: Cause
    source: DataSource
    reference: str | None
    reported_at: datetime
    reported_by: str | None
    confirmed_by: str | None


@dataclass(frozen=True, slots=True)
class KnownCustomer:
    """A customer by whom an end is recognised, and what is known of it.

    Attributes:
        report: None when no end is known.
    """

    id: uuid.UUID
    number: str | None
    name: str | None
    last_contact_at: datetime | None
    end: RelationshipEnd
    report: EndReport | None


async def known_end(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    request_id: str,
) -> KnownCustomer:
    """The customer, the end that is known, and who told of it. Looking is in the log, as every look-up is.

    Raises:
        Forbidden: the caller does not handle requests here, or may not look customers up.
        NotFound: no such customer.
    """
    for action in (Action.MANAGE_REQUESTS, Action.VIEW_CUSTOMERS):
        await permit(services, principal, action, controller_id=controller_id, request_id=request_id)
    async with services.database.transaction() as session:
        customer = await living(session, controller_id, customer_id)
        subject = await session.get_one(Subject, customer.subject_id)
        values: dict[str, Any] = {}
        if customer.sealed is not None:
            values = open_json(services.keyring, subject, CUSTOMER_RECORD, customer.id, customer.sealed)
        end = _view(customer, await session.get_one(Controller, controller_id))
        report = None if end.ended_on is None else await _report(session, services, subject, customer)
        event = AuditEvent(
            action="customer.searched",
            actor=principal.actor,
            object_type="controller",
            object_id=str(controller_id),
            controller_id=controller_id,
            request_id=request_id,
            details={"by": ["id"], "found": 1},
        )
        record(session, event, now=services.clock.now())
        return KnownCustomer(
            customer.id, values.get("number"), values.get("name"), customer.last_contact_at, end, report
        )


async def waiting_ends(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, limit: int, request_id: str
) -> list[tuple[uuid.UUID, date]]:
    """Customers whose end was reported and waits for a person, with its day; the earliest first.

    Raises:
        Forbidden: the caller does not handle requests here.
    """
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    query = (
        sa.select(Customer.id, Customer.relationship_ended_at)
        .where(
            Customer.controller_id == controller_id,
            Customer.relationship_ended_at.is_not(None),
            Customer.relationship_end_confirmed_at.is_(None),
            Customer.erased_at.is_(None),
        )
        .order_by(Customer.relationship_ended_at, Customer.id)
        .limit(limit)
    )
    async with services.database.snapshot() as session:
        zone = zone_of((await session.get_one(Controller, controller_id)).time_zone)
        rows = await session.execute(query)
        return [(row_id, local_day(ended_at, zone)) for row_id, ended_at in rows if ended_at is not None]


async def report_end(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    ended_on: date,
    cause: Cause,
    source: DataSource,
    source_ref: str | None,
    request_id: str,
) -> RelationshipEnd:
    """Note an end that a source tells of; day and cause are sealed in a delivery of their own.

    The day that was reported before, and confirmed, is confirmed still; another day is not.

    Raises:
        Forbidden: the caller does not keep customers here.
        NotFound: no such customer.
        InvalidInput: the day lies in the future.
    """
    await permit(
        services, principal, Action.MANAGE_CUSTOMERS, controller_id=controller_id, request_id=request_id
    )
    async with _changing(services, controller_id, customer_id) as (session, customer, controller, now):
        zone = zone_of(controller.time_zone)
        if ended_on > local_day(now, zone):
            text = "lies in the future"
            raise InvalidInput(f"/ended_on: {text}", fields=[FieldError("/ended_on", text)])
        ended_at = start_of_day(ended_on, zone)
        if customer.relationship_ended_at != ended_at:
            customer.relationship_end_confirmed_at = None
        customer.relationship_ended_at = ended_at
        batch_id = uuid.uuid4()
        fields = {"relationship_ended": ended_on.isoformat(), "cause": cause.value}
        document = {"source_ref": source_ref or request_id, "fields": fields}
        subject = await session.get_one(Subject, customer.subject_id)
        session.add(
            CustomerBatch(
                id=batch_id,
                customer_id=customer.id,
                source=source,
                sealed=seal_json(services.keyring, subject, CUSTOMER_BATCH, batch_id, document),
                stored_at=now,
            )
        )
        _audit(
            session, customer, "relationship.end_reported", principal, now, request_id, source=source.value
        )
        return _view(customer, controller)


async def confirm_end(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    ended_on: date,
    request_id: str,
) -> RelationshipEnd:
    """Confirm the day that was reported; from now on it counts.

    Args:
        ended_on: the day that the person saw; another one may have been reported since.

    Raises:
        Forbidden: the caller does not handle requests here, or is not a person.
        NotFound: no such customer.
        Conflict: no end was reported, or another day.
    """
    await _permit_person(services, principal, controller_id, request_id)
    async with _changing(services, controller_id, customer_id) as (session, customer, controller, now):
        known = _view(customer, controller)
        if known.ended_on != ended_on:
            raise Conflict("this is not the end that was reported", kind="relationship-end")
        if known.confirmed_at is None:
            customer.relationship_end_confirmed_at = now
            _audit(session, customer, "relationship.end_confirmed", principal, now, request_id)
        return _view(customer, controller)


async def withdraw_end(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    request_id: str,
) -> RelationshipEnd:
    """Take back an end that was reported or confirmed in error; the windows are as before.

    Raises:
        Forbidden: the caller does not handle requests here, or is not a person.
        NotFound: no such customer.
        Conflict: no end is known.
    """
    await _permit_person(services, principal, controller_id, request_id)
    async with _changing(services, controller_id, customer_id) as (session, customer, controller, now):
        if customer.relationship_ended_at is None:
            raise Conflict("no end of the relationship is known", kind="relationship-end")
        customer.relationship_ended_at = customer.relationship_end_confirmed_at = None
        _audit(session, customer, "relationship.end_withdrawn", principal, now, request_id)
        return _view(customer, controller)


async def _permit_person(
    services: Services, principal: Principal, controller_id: uuid.UUID, request_id: str
) -> None:
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    if principal.kind != "account":
        raise Forbidden("only a person who is signed in may say so", reason="not-a-person")


@asynccontextmanager
async def _changing(
    services: Services, controller_id: uuid.UUID, customer_id: uuid.UUID
) -> AsyncIterator[tuple[AsyncSession, Customer, Controller, datetime]]:
    """The customer, locked; its recordings are decided afresh in the same transaction."""
    now = services.clock.now()
    async with services.database.transaction() as session:
        customer = await living(session, controller_id, customer_id)
        yield session, customer, await session.get_one(Controller, controller_id), now
        await session.flush()
        await reevaluate_customer(session, services, customer.id, now)


def _view(customer: Customer, controller: Controller) -> RelationshipEnd:
    ended = customer.relationship_ended_at
    day = None if ended is None else local_day(ended, zone_of(controller.time_zone))
    return RelationshipEnd(day, customer.relationship_end_confirmed_at)


async def _report(
    session: AsyncSession, services: Services, subject: Subject, customer: Customer
) -> EndReport | None:
    """The newest delivery that told of an end; its day is the one that the customer has."""
    batches = (
        sa.select(CustomerBatch)
        .where(CustomerBatch.customer_id == customer.id, CustomerBatch.sealed.is_not(None))
        .order_by(CustomerBatch.stored_at.desc())
    )
    for batch in await session.scalars(batches):
        if batch.sealed is None:
            continue
        told = open_json(services.keyring, subject, CUSTOMER_BATCH, batch.id, batch.sealed)
        if "relationship_ended" not in told["fields"]:
            continue
        reported = await _logged(session, customer, "relationship.end_reported")
        confirmed = None
        if customer.relationship_end_confirmed_at is not None:
            confirmed = await _logged(session, customer, "relationship.end_confirmed")
        # Where the source gave no reference, the report's own id stands in for it.
        stand_in = None if reported is None else json.loads(reported.payload).get("request_id")
        return EndReport(
            Cause(told["fields"]["cause"]),
            batch.source,
            None if told["source_ref"] == stand_in else told["source_ref"],
            batch.stored_at,
            None if reported is None else reported.actor,
            None if confirmed is None else confirmed.actor,
        )
    return None


async def _logged(session: AsyncSession, customer: Customer, action: str) -> AuditEntry | None:
    """The newest entry of the log that says so of this customer."""
    query = sa.select(AuditEntry).where(AuditEntry.object_id == str(customer.id), AuditEntry.action == action)
    found: AuditEntry | None = await session.scalar(query.order_by(AuditEntry.at.desc()).limit(1))
    return found


def _audit(
    session: AsyncSession,
    customer: Customer,
    action: str,
    principal: Principal,
    now: datetime,
    request_id: str,
    **details: str,
) -> None:
    """Neither day nor cause: the log holds nothing personal."""
    event = AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="customer",
        object_id=str(customer.id),
        controller_id=customer.controller_id,
        request_id=request_id,
        details=dict(details),
    )
    record(session, event, now=now)
