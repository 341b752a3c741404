"""The ledger of choices: consents, objections, restrictions, marketing bans; appended to, never changed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ChoiceKind
from recorder.catalogue.tables import Choice, Customer
from recorder.customers.choices import GIVES_BACK, reaches, standing_purposes
from recorder.customers.records import living
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from recorder.services import Services
from retention.model import Purpose


async def add_choice(
    services: Services,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    kind: ChoiceKind,
    purposes: Sequence[Purpose],
    channel: str | None,
    effective_at: datetime | None,
    source: str,
    actor: str,
    request_id: str,
    told_at: datetime | None = None,
) -> uuid.UUID:
    """Append a choice to the ledger; nothing there is ever changed or removed.

    Args:
        effective_at: from when; default now.
        told_at: when the person was told that a restriction will be lifted (GDPR art. 18(3)).

    Raises:
        NotFound: no such customer.
        InvalidInput: something is given back before now, or a restriction lifted without telling first.
        Conflict: nothing stands that could be given back.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        customer = await living(session, controller_id, customer_id)
        if kind in GIVES_BACK:
            _check_giving_back(kind, effective_at, told_at, now)
            theirs = sa.select(Choice).where(Choice.customer_id == customer.id)
            standing = standing_purposes(list(await session.scalars(theirs)), kind, effective_at or now)
            if not standing & (reaches(kind, [p.value for p in purposes])):
                raise Conflict("nothing stands that this would give back", kind="nothing-standing")
        choice = Choice(
            id=uuid.uuid4(),
            customer_id=customer.id,
            kind=kind,
            purposes=[p.value for p in dict.fromkeys(purposes)],
            channel=channel,
            effective_at=effective_at or now,
            source=source,
            recorded_at=now,
            actor=actor,
        )
        session.add(choice)
        event = AuditEvent(
            action="choice.recorded",
            actor=actor,
            object_type="customer",
            object_id=str(customer.id),
            controller_id=controller_id,
            request_id=request_id,
            details={
                "choice": str(choice.id),
                "kind": kind.value,
                "purposes": list(choice.purposes),
                "told_at": None if told_at is None else told_at.isoformat(),
            },
        )
        record(session, event, now=now)
        await session.flush()
        await reevaluate_customer(session, services, customer.id, now)
        return choice.id


def _check_giving_back(
    kind: ChoiceKind, effective_at: datetime | None, told_at: datetime | None, now: datetime
) -> None:
    """What closed a window closed it: nothing is opened again for a time that is over."""
    problems = []
    if effective_at is not None and effective_at < now:
        problems.append(FieldError("/effective_at", "what is given back counts from now on at the earliest"))
    if kind is ChoiceKind.RESTRICTION_LIFTED and (told_at is None or told_at > now):
        problems.append(
            FieldError("/told_at", "say when the person was told that the restriction will be lifted")
        )
    if problems:
        raise InvalidInput("; ".join(f"{p.path}: {p.message}" for p in problems), fields=problems)


async def choices_of(
    services: Services, controller_id: uuid.UUID, customer_id: uuid.UUID
) -> Sequence[Choice]:
    """A customer's choices, the oldest first.

    Raises:
        NotFound: no such customer.
    """
    async with services.database.snapshot() as session:
        customer = await session.get(Customer, customer_id)
        if customer is None or customer.controller_id != controller_id or customer.erased_at is not None:
            raise NotFound("there is no such customer")
        query = sa.select(Choice).where(Choice.customer_id == customer_id)
        return (await session.scalars(query.order_by(Choice.effective_at, Choice.recorded_at))).all()
