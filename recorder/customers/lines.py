"""Shared lines: numbers that many people call from, by which nobody is linked without a person's word."""

from __future__ import annotations

import uuid

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.subjects import blind_index
from recorder.catalogue.tables import Controller, SharedLine
from recorder.customers import normalise
from recorder.customers.matching import PHONE
from recorder.errors import FieldError, InvalidInput
from recorder.services import Services


async def mark_line(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    phone: str,
    *,
    shared: bool,
    request_id: str | None = None,
) -> bool:
    """Say that a line is shared, or no longer; for the calls that come from now on.

    Returns:
        Whether that was news.

    Raises:
        Forbidden: the caller does not manage customers.
        InvalidInput: it is no telephone number.
    """
    await permit(
        services, principal, Action.MANAGE_CUSTOMERS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.transaction() as session:
        controller = await session.get_one(Controller, controller_id)
        e164 = normalise.phone(phone, controller.country)
        if e164 is None:
            problem = FieldError("/phone", "is not a telephone number; give it as +358…")
            raise InvalidInput(f"{problem.path}: {problem.message}", fields=[problem])
        digest = blind_index(services.keyring, controller_id, PHONE, e164)
        known = await session.get(SharedLine, (controller_id, digest), with_for_update=True)
        if (known is not None) == shared:
            return False
        now = services.clock.now()
        if known is None:
            session.add(
                SharedLine(
                    controller_id=controller_id, digest=digest, created_at=now, created_by=principal.actor
                )
            )
        else:
            await session.delete(known)
        count = sa.select(sa.func.count()).where(SharedLine.controller_id == controller_id)
        event = AuditEvent(
            action="line.shared" if shared else "line.unshared",
            actor=principal.actor,
            object_type="controller",
            object_id=str(controller_id),
            controller_id=controller_id,
            request_id=request_id,
            details={"lines": (await session.scalar(count) or 0)},
        )
        record(session, event, now=now)
    return True
