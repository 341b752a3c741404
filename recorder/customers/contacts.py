"""Contacts with a customer: they move the last contact, and with it the retention windows."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ContactKind
from recorder.catalogue.sealed_fields import CONTACT_NOTE
from recorder.catalogue.subjects import seal_json
from recorder.catalogue.tables import Contact, Customer, Subject
from recorder.customers.matching import touch
from recorder.customers.records import living
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import FieldError, InvalidInput
from recorder.services import Services


async def add_contact(
    services: Services,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    kind: ContactKind,
    at: datetime,
    note: dict[str, str] | None,
    actor: str,
    request_id: str,
) -> tuple[uuid.UUID, datetime | None]:
    """Record a contact; kinds that count move the last contact, never backwards.

    Returns:
        The contact's id and the customer's last contact.

    Raises:
        NotFound: no such customer.
        InvalidInput: the time lies in the future.
    """
    now = services.clock.now()
    refuse_future(services, at)
    async with services.database.transaction() as session:
        customer = await living(session, controller_id, customer_id)
        contact_id = await add_in(
            session, services, customer, kind=kind, at=at, note=note, actor=actor, request_id=request_id
        )
        await session.flush()
        await reevaluate_customer(session, services, customer.id, now)
        return contact_id, customer.last_contact_at


def refuse_future(services: Services, at: datetime) -> None:
    """Let a contact lie in the future by no more than clocks differ.

    Raises:
        InvalidInput: it does.
    """
    if (at - services.clock.now()).total_seconds() > services.settings.clock_skew_seconds:
        raise InvalidInput("/at: lies in the future", fields=[FieldError("/at", "lies in the future")])


async def add_in(
    session: AsyncSession,
    services: Services,
    customer: Customer,
    *,
    kind: ContactKind,
    at: datetime,
    note: dict[str, str] | None,
    actor: str,
    request_id: str,
) -> uuid.UUID:
    """The same in a running transaction that holds the customer; re-evaluating is the caller's."""
    now = services.clock.now()
    contact_id = uuid.uuid4()
    sealed = None
    if note:
        subject = await session.get_one(Subject, customer.subject_id)
        sealed = seal_json(services.keyring, subject, CONTACT_NOTE, contact_id, dict(note))
    session.add(
        Contact(
            id=contact_id,
            customer_id=customer.id,
            kind=kind,
            at=at,
            recording_id=None,
            sealed=sealed,
            recorded_at=now,
        )
    )
    if kind.counts:
        touch(customer, at)
    event = AuditEvent(
        action="contact.added",
        actor=actor,
        object_type="customer",
        object_id=str(customer.id),
        controller_id=customer.controller_id,
        request_id=request_id,
        details={"contact": str(contact_id), "kind": kind.value},
    )
    record(session, event, now=now)
    return contact_id
