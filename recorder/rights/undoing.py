"""Undoing a request that was filed under the wrong person, by mistake, or that the person takes back."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.catalogue.enums import ChoiceKind, RequestStage
from recorder.catalogue.tables import Customer, RequestItem, RequestPackage, Restriction, RightsRequest
from recorder.disposition import holds
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import Conflict, InvalidInput
from recorder.rights import register
from recorder.rights.register import RequestView
from recorder.services import Services
from retention.model import RequestKind

__all__ = ["UNDO_REASONS", "undo"]

UNDO_REASONS: Final = ("wrong_person", "filed_in_error", "withdrawn_by_person")
_TAKEN_BACK: Final = {
    RequestKind.OBJECTION: ChoiceKind.OBJECTION_WITHDRAWN,
    RequestKind.CONSENT_WITHDRAWAL: ChoiceKind.CONSENT,
}


async def undo(
    services: Services,
    principal: Principal,
    rights_id: uuid.UUID,
    *,
    reason: str,
    customer_id: uuid.UUID | None = None,
    request_id: str,
) -> RequestView:
    """Take a request off a customer: what it froze, restricted or closed is as it was before.

    Filed under the wrong person, it goes on as a request of nobody yet, or of the customer named; its clock
    has been running all the time and the identity has to be made sure again. Otherwise it ends here.

    Raises:
        NotFound: no such request or customer.
        InvalidInput: an unknown reason, or a new customer without a wrong one.
        Conflict: it erased something or handed copies out, or was undone before.
    """
    if reason not in UNDO_REASONS or (customer_id is not None and reason != "wrong_person"):
        raise InvalidInput(f"reason is one of {', '.join(UNDO_REASONS)}; a customer goes with wrong_person")
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        await _refuse_irreversible(session, row)
        before = row.customer_id
        if before is not None:
            # The lock that evaluation's other writers take; an erased customer has nothing to give back.
            await session.get(Customer, before, with_for_update={"key_share": True})
        await _take_back(session, services, row, principal.actor, now, request_id)
        await session.execute(sa.delete(RequestItem).where(RequestItem.request_id == row.id))
        register.audit(
            session,
            row,
            "request.undone",
            principal.actor,
            now,
            request_id,
            reason=reason,
            customer=None if before is None else str(before),
        )
        row.undone_at, row.undone_by, row.undone_reason = now, principal.actor, reason
        if reason == "wrong_person":
            row.stage, row.customer_id, row.scoped = RequestStage.PENDING, None, False
            row.identity_method = row.identity_outcome = row.identity_at = row.identity_by = None
            row.decided_at = row.decided_by = row.completed_at = row.ground = row.choice_id = None
            row.replied_at = row.replied_by = None
        else:
            row.stage = RequestStage.UNDONE
        await session.flush()
        if before is not None:
            await reevaluate_customer(session, services, before, now)
        if customer_id is not None:
            await register.attach(session, services, row, customer_id, principal.actor, now, request_id)
        return await register.view_of(session, services, row)


async def _refuse_irreversible(session: AsyncSession, row: RightsRequest) -> None:
    if row.stage is RequestStage.UNDONE:
        raise Conflict("the request was undone before", kind="request-undone")
    granted = row.stage in {RequestStage.GRANTED, RequestStage.PARTLY_GRANTED}
    if granted and row.kind is RequestKind.ERASURE:
        raise Conflict("the erasure has begun; it cannot be undone", kind="request-decided")
    packages = sa.select(RequestPackage.id).where(RequestPackage.request_id == row.id).limit(1)
    if await session.scalar(packages) is not None:
        raise Conflict("copies were made for this request", kind="request-decided")


async def _take_back(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    actor: str,
    now: datetime,
    request_id: str,
) -> None:
    """Undo what granting wrote: lift its restrictions, write the counter-entry of its choice."""
    if row.decided_at is None or row.customer_id is None:
        return
    items = sa.select(RequestItem.recording_id).where(RequestItem.request_id == row.id)
    if row.kind is RequestKind.RESTRICTION:
        placed = sa.select(Restriction.id).where(
            sa.or_(Restriction.customer_id == row.customer_id, Restriction.recording_id.in_(items)),
            Restriction.placed_at == row.decided_at,
            Restriction.lifted_at.is_(None),
        )
        for restriction_id in list(await session.scalars(placed)):
            await holds.lift_restriction(
                session,
                services,
                restriction_id,
                controller_id=row.controller_id,
                actor=actor,
                now=now,
                request_id=request_id,
            )
    if row.choice_id is not None:
        register.write_choice(
            session, row, _TAKEN_BACK[row.kind], actor, now, now, request_id, source="correction"
        )
