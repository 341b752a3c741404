"""Telling recipients of a rectification, erasure or restriction (GDPR art. 19), and who acknowledged it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.catalogue.sealed_fields import REQUEST_NOTICE
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import RequestNotice, RightsRequest, Subject
from recorder.disposition.rekeying import notice_id
from recorder.errors import Conflict, NotFound
from recorder.rights import register
from recorder.rights.recipients import recipients_of
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class NoticeView:
    """A notice with its recipient's name."""

    number: int
    recipient_id: uuid.UUID
    recipient: str
    created_at: datetime
    acknowledged_at: datetime | None


async def create(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    recording_ids: Sequence[uuid.UUID],
    now: datetime,
) -> int:
    """Note who has to be told, before an erasure takes the traces of whom that is.

    Returns:
        How many.
    """
    subject = await session.get_one(Subject, row.subject_id, populate_existing=True)
    # A request undone and granted anew tells those, too, who were told before.
    last = await session.scalar(
        sa.select(sa.func.max(RequestNotice.number)).where(RequestNotice.request_id == row.id)
    )
    found = await recipients_of(session, services, row.customer_id, recording_ids)
    for number, recipient in enumerate(found, start=(last or 0) + 1):
        sealed = seal_json(
            services.keyring,
            subject,
            REQUEST_NOTICE,
            notice_id(row.id, number),
            {"recipient": recipient.name},
        )
        session.add(
            RequestNotice(
                request_id=row.id,
                number=number,
                recipient_id=recipient.id,
                sealed=sealed,
                created_at=now,
            )
        )
        register.audit(
            session,
            row,
            "request.notice_due",
            row.decided_by or "system:rights",
            now,
            None,
            notice=number,
            recipient=str(recipient.id),
        )
    await session.flush()
    return len(found)


def opened(services: Services, subject: Subject, row: RequestNotice) -> NoticeView:
    """A notice with what is sealed of it."""
    name = ""
    if row.sealed is not None and subject.wrapped_key is not None:
        row_id = notice_id(row.request_id, row.number)
        name = str(open_json(services.keyring, subject, REQUEST_NOTICE, row_id, row.sealed)["recipient"])
    return NoticeView(row.number, row.recipient_id, name, row.created_at, row.acknowledged_at)


async def acknowledge(
    services: Services, principal: Principal, rights_id: uuid.UUID, number: int, *, request_id: str
) -> None:
    """Note that a recipient confirmed having been told and having followed.

    Raises:
        NotFound: no such request or notice.
        Conflict: it was acknowledged before.
    """
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        notice = await session.get(RequestNotice, (rights_id, number))
        if notice is None:
            raise NotFound("there is no such notice")
        if notice.acknowledged_at is not None:
            raise Conflict("the notice was acknowledged before", kind="notice-acknowledged")
        notice.acknowledged_at, notice.acknowledged_by = now, principal.actor
        register.audit(
            session, row, "request.notice_acknowledged", principal.actor, now, request_id, notice=number
        )
