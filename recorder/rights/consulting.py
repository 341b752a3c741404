"""When a person's recordings were used, and what for: the log as the person may see it, without staff."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.audit.query import EntryView
from recorder.catalogue.tables import AuditEntry
from recorder.customers.records import living
from recorder.disposition.evaluation import recordings_of
from recorder.disposition.facts import CHUNK
from recorder.services import Services

__all__ = ["Consultation", "consultations", "of_customer"]

_USES: Final = ("listen.opened", "recording.copied", "recording.disclosed", "evidence.made")


@dataclass(frozen=True, slots=True)
class Consultation:
    """One time that a recording was used: when, what for, how; never by whom (CJEU C-579/21)."""

    recording: str
    at: str
    purpose: str | None
    what: str


async def consultations(session: AsyncSession, ids: Sequence[uuid.UUID]) -> list[Consultation]:
    """Every use of the recordings that the audit log has, the oldest first; dates and purposes, no staff."""
    found: list[Consultation] = []
    for start in range(0, len(ids), CHUNK):
        query = sa.select(AuditEntry.id, AuditEntry.index, AuditEntry.payload).where(
            AuditEntry.object_type == "recording",
            AuditEntry.object_id.in_([str(i) for i in ids[start : start + CHUNK]]),
            AuditEntry.action.in_(_USES),
            AuditEntry.outcome == "ok",
        )
        for row in await session.execute(query):
            entry = EntryView(*row).entry
            found.append(
                Consultation(entry["object"]["id"], entry["time"], entry["purpose"], entry["action"])
            )
    return sorted(found, key=lambda use: (use.at, use.recording))


async def of_customer(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    customer_id: uuid.UUID,
    *,
    request_id: str,
) -> list[Consultation]:
    """Every use of a living customer's recordings, the oldest first; looking is on record itself.

    Raises:
        Forbidden: the caller does not handle requests here.
        NotFound: no such customer.
    """
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.transaction() as session:
        await living(session, controller_id, customer_id)
        event = AuditEvent(
            action="consultations.viewed",
            actor=principal.actor,
            object_type="customer",
            object_id=str(customer_id),
            controller_id=controller_id,
            request_id=request_id,
        )
        record(session, event, now=services.clock.now())
        return await consultations(session, await recordings_of(session, customer_id))
