"""A sweep that its brake held back, started by a second person after another had approved it.

The brake is asked for by the service itself, so the two people are who approved and who starts it.
"""

from __future__ import annotations

import uuid
from typing import Final

from recorder.access.approvals import ApprovalView
from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ApprovalState
from recorder.catalogue.tables import Approval
from recorder.disposition.sweeping import BRAKE_ACTION, sweep
from recorder.errors import Forbidden, InvalidInput
from recorder.jobs.queue import enqueue
from recorder.services import Services

__all__ = ["BRAKE_ACTION", "JOB", "order", "run"]

JOB: Final = "released_sweep"


async def order(
    services: Services, principal: Principal, approval: ApprovalView, *, request_id: str | None
) -> None:
    """Have the sweep go on in the background, within what was approved.

    Raises:
        Forbidden: the caller may not erase here, is who approved, or the approval is not given or is spent.
        InvalidInput: it is no approval of a sweep.
    """
    if approval.action != BRAKE_ACTION:
        raise InvalidInput("this is no approval of a sweep")
    await permit(
        services,
        principal,
        Action.ERASE,
        controller_id=approval.controller_id,
        object_type="approval",
        object_id=str(approval.id),
        request_id=request_id,
    )
    if approval.state is not ApprovalState.APPROVED:
        raise Forbidden("The approval is not given, used up, or expired.", reason="approval-missing")
    if approval.decided_by == principal.actor:
        raise Forbidden("Whoever approved it cannot start it; another person must.", reason="own-approval")
    now = services.clock.now()
    async with services.database.transaction() as session:
        enqueue(session, JOB, approval.id, now=now)
        event = AuditEvent(
            action="sweep.released",
            actor=principal.actor,
            object_type="approval",
            object_id=str(approval.id),
            controller_id=approval.controller_id,
            request_id=request_id,
            details={"count": approval.details.get("count")},
        )
        record(session, event, now=now)


async def run(services: Services, approval_id: uuid.UUID) -> None:
    """Sweep with the approval; a handler of background work, safe to repeat: it is spent once.

    Raises:
        recorder.errors.Unavailable: the database is away.
    """
    async with services.database.snapshot() as session:
        approval = await session.get_one(Approval, approval_id)
    await sweep(services, approval.controller_id, services.clock.now(), approval=str(approval_id))
