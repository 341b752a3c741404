"""Noting that the letter with the decision went out: what a request is finished with."""

from __future__ import annotations

import uuid

from recorder.access.principals import Principal
from recorder.catalogue.enums import RequestStage
from recorder.errors import Conflict
from recorder.rights import register
from recorder.rights.register import RequestView
from recorder.services import Services

__all__ = ["note_sent"]

_OPEN = frozenset({RequestStage.PENDING, RequestStage.UNDONE})


async def note_sent(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> RequestView:
    """Note that the person was told of the decision (GDPR art. 12(3) and (4)).

    Raises:
        NotFound: no such request.
        Forbidden: the caller does not handle requests there.
        Conflict: there is no decision to tell, or it was told before.
    """
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        if row.stage in _OPEN:
            raise Conflict("there is no decision to tell the person yet", kind="request-undecided")
        if row.replied_at is not None:
            raise Conflict("the letter was noted as sent before", kind="reply-sent")
        row.replied_at, row.replied_by = now, principal.actor
        register.audit(
            session, row, "request.replied", principal.actor, now, request_id, stage=row.stage.value
        )
        return await register.view_of(session, services, row)
