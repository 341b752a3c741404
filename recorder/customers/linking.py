"""A person's word on whose call it is."""

from __future__ import annotations

import uuid

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.enums import LinkRole
from recorder.catalogue.tables import Customer, Recording
from recorder.customers.matching import link_recording
from recorder.customers.records import living
from recorder.disposition.evaluation import reevaluate, reevaluate_customer
from recorder.errors import Forbidden, NotFound
from recorder.services import Services


async def link_by_person(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    role: LinkRole,
    request_id: str,
) -> LinkRole:
    """Link a customer to a recording by hand: settle candidates, correct a link, name another person.

    Raises:
        Forbidden: the caller may not manage customers, or is not a person.
        NotFound: there is no such recording or customer at this controller.
        Conflict: the principal is made a reference.
        Erased: the recording is gone, or going.
    """
    async with services.database.snapshot() as session:
        seen = await session.get(Recording, recording_id)
    if seen is None:
        raise NotFound("there is no such recording")
    await permit(
        services,
        principal,
        Action.MANAGE_CUSTOMERS,
        controller_id=seen.controller_id,
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    if principal.kind not in ("account", "os"):
        raise Forbidden("only a person may say whose call it is; a token is not one", reason="not-a-person")
    now = services.clock.now()
    async with services.database.transaction() as session:
        # Whose call it was is locked as well, before the recording: see `recorder.catalogue.locks`.
        for known in sorted({customer_id, seen.customer_id or customer_id}):
            await session.get(Customer, known, with_for_update={"key_share": True})
        customer = await living(session, seen.controller_id, customer_id)
        recording = await session.get_one(Recording, recording_id, with_for_update={"key_share": True})
        before = recording.customer_id
        await link_recording(
            session,
            services,
            recording,
            customer,
            by="person",
            actor=principal.actor,
            now=now,
            role=role,
            request_id=request_id,
        )
        await session.flush()
        await reevaluate_customer(session, services, customer.id, now)
        if before is not None and before != customer.id:
            await reevaluate_customer(session, services, before, now)
        await reevaluate(session, services, [recording.id], now)
    return role
