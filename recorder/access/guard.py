"""The policy's question with a record of every no: what the use cases call."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from recorder.access.policy import Action, Target, Verdict, decide
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.errors import Forbidden
from recorder.services import Services
from retention.model import Purpose


async def permit(
    services: Services,
    principal: Principal,
    action: Action,
    *,
    controller_id: uuid.UUID,
    purpose: Purpose | None = None,
    target: Target | None = None,
    object_type: str = "controller",
    object_id: str | None = None,
    request_id: str | None = None,
) -> Verdict:
    """Return when the policy says yes; write the refusal to the audit log when it says no.

    Opens a transaction of its own for the refusal: never call it inside one.

    Raises:
        Forbidden: the policy says no; the reason is the verdict's code.
        Unavailable: the refusal could not be recorded.
    """
    verdict = decide(principal, action, controller_id=controller_id, purpose=purpose, target=target)
    if verdict.allowed:
        return verdict
    async with services.database.transaction() as session:
        event = AuditEvent(
            action="access.refused",
            actor=principal.actor,
            object_type=object_type,
            object_id=object_id or str(controller_id),
            outcome="refused",
            controller_id=controller_id,
            purpose=None if purpose is None else purpose.value,
            request_id=request_id,
            details={"action": action.value, "reason": verdict.code},
        )
        record(session, event, now=services.clock.now())
    raise Forbidden(verdict.text, reason=verdict.code)


@asynccontextmanager
async def refusals_recorded(
    services: Services,
    principal: Principal,
    action: str,
    *,
    controller_id: uuid.UUID,
    now: datetime,
    request_id: str | None,
) -> AsyncIterator[None]:
    """Write a refusal of a step that is weighed in its own transaction to the audit log as ``action``.

    The step's transaction must lie inside, so that it has ended, and nothing of it stands, when this writes.
    """
    try:
        yield
    except Forbidden as refusal:
        async with services.database.transaction() as session:
            event = AuditEvent(
                action=action,
                actor=principal.actor,
                object_type="controller",
                object_id=str(controller_id),
                outcome="refused",
                controller_id=controller_id,
                request_id=request_id,
                details={"reason": refusal.reason},
            )
            record(session, event, now=now)
        raise
