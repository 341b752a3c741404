"""From the log to messages: each endpoint has a position, and what lies beyond it becomes its messages.

Positions move in the transaction that writes the messages, so that an event becomes one message for each
endpoint that asked for it, whatever dies in between.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import WebhookState
from recorder.catalogue.tables import AuditEntry, ErasureItem, WebhookEndpoint, WebhookMessage
from recorder.outgoing.events import ACTIONS, Event, event_of
from recorder.services import Services

_BATCH: Final = 500
_MOST_LISTED: Final = 500
"""Recordings of one erasure that its message names; its certificate names them all."""


async def follow_log(services: Services) -> int:
    """Turn what the log has beyond the endpoints' positions into messages.

    Returns:
        How many messages were made.
    """
    made = 0
    async with services.database.snapshot() as session:
        head = await newest_index(session)
        behind = sa.select(WebhookEndpoint.id).where(WebhookEndpoint.enabled, WebhookEndpoint.position < head)
        waiting = list(await session.scalars(behind.order_by(WebhookEndpoint.id)))
    for endpoint_id in waiting:
        more = True
        while more:
            async with services.database.transaction() as session:
                count, more = await _advance(session, services, endpoint_id)
            made += count
    return made


async def newest_index(session: AsyncSession) -> int:
    """Place of the log's newest sequenced entry; -1 in an empty log."""
    found = await session.scalar(sa.select(sa.func.max(AuditEntry.index)))
    return -1 if found is None else found


async def _advance(session: AsyncSession, services: Services, endpoint_id: uuid.UUID) -> tuple[int, bool]:
    query = sa.select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.enabled)
    # Another process that follows for this endpoint right now does its work; there is nothing to wait for.
    endpoint = (await session.scalars(query.with_for_update(skip_locked=True))).one_or_none()
    if endpoint is None:
        return 0, False
    head = await newest_index(session)
    last = min(endpoint.position + _BATCH, head)
    entries = await session.execute(
        sa.select(AuditEntry.id, AuditEntry.index, AuditEntry.payload)
        .where(
            AuditEntry.index > endpoint.position,
            AuditEntry.index <= last,
            AuditEntry.controller_id == endpoint.controller_id,
            AuditEntry.action.in_(ACTIONS),
        )
        .order_by(AuditEntry.index)
    )
    count = 0
    for entry_id, index, payload in entries.all():
        event = event_of(payload, index=index or 0)  # sequenced: the query asked for an index
        if event is None or (endpoint.events and event.type not in endpoint.events):
            continue
        await _name_recordings(session, event)
        session.add(new_message(services, endpoint.id, event.type, event.payload, entry_id=entry_id))
        count += 1
    endpoint.position = last
    return count, last < head


async def _name_recordings(session: AsyncSession, event: Event) -> None:
    """Say which recordings an erasure took, and which it had to keep."""
    data: Mapping[str, Any] = event.payload["data"]
    if "erasure" not in data:
        return
    query = (
        sa.select(ErasureItem.recording_id, ErasureItem.outcome)
        .where(ErasureItem.erasure_id == uuid.UUID(data["erasure"]))
        .order_by(ErasureItem.recording_id)
        .limit(_MOST_LISTED + 1)
    )
    items: Sequence[Any] = (await session.execute(query)).all()
    listed = [{"recording": str(item.recording_id), "outcome": item.outcome} for item in items]
    event.payload["data"] |= {"recordings": listed[:_MOST_LISTED], "more": len(listed) > _MOST_LISTED}


def new_message(
    services: Services,
    endpoint_id: uuid.UUID,
    kind: str,
    payload: Mapping[str, Any],
    *,
    entry_id: uuid.UUID | None = None,
) -> WebhookMessage:
    """A message to be sent at once."""
    now = services.clock.now()
    return WebhookMessage(
        id=uuid.uuid4(),
        endpoint_id=endpoint_id,
        entry_id=entry_id or uuid.uuid4(),
        type=kind,
        payload=dict(payload),
        state=WebhookState.PENDING,
        attempts=0,
        not_before=now,
        last_status=None,
        last_error=None,
        created_at=now,
        settled_at=None,
    )
