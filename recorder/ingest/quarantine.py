"""What could not be taken as it came: listed for a person, and decided by one. No audio is played here."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action, Target
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import Recording
from recorder.disposition.evaluation import reevaluate
from recorder.errors import Conflict, Erased, FieldError, InvalidInput, NotFound
from recorder.ingest.admission import erased
from recorder.ingest.answers import receipt_of
from recorder.ingest.receipts import Receipt, sign_receipt
from recorder.ingest.spooling import Spooled, alias_of, receipt_of_alias
from recorder.jobs.queue import enqueue
from recorder.services import Services

_GONE = frozenset({RecordingState.ERASING, RecordingState.ERASED})
Decision = Literal["accept", "recheck"]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the quarantine, the oldest first, and where to go on."""

    items: Sequence[Recording]
    next: str | None


async def list_quarantined(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    cursor: str | None,
    limit: int,
    request_id: str,
) -> Page:
    """List a controller's quarantined recordings.

    Raises:
        Forbidden: the caller does not manage the quarantine.
        InvalidInput: the cursor is not one of ours.
    """
    await permit(
        services, principal, Action.MANAGE_QUARANTINE, controller_id=controller_id, request_id=request_id
    )
    query = sa.select(Recording).where(
        Recording.controller_id == controller_id, Recording.state == RecordingState.QUARANTINED
    )
    if cursor is not None:
        after, last = _read_cursor(cursor)
        query = query.where(sa.tuple_(Recording.received_at, Recording.id) > sa.tuple_(after, last))
    async with services.database.snapshot() as session:
        ordered = query.order_by(Recording.received_at, Recording.id).limit(limit + 1)
        found = (await session.scalars(ordered)).all()
    more = len(found) > limit
    return Page(found[:limit], _cursor(found[limit - 1]) if more else None)


async def decide(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    decision: Decision,
    *,
    request_id: str,
) -> RecordingState:
    """Accept a quarantined recording as it is, or have its media looked at again.

    Raises:
        Forbidden: the caller does not manage the quarantine.
        NotFound: there is no such recording.
        Conflict: it is not in quarantine.
        Erased: it is gone, or going.
    """
    async with services.database.snapshot() as session:
        row = await session.get(Recording, recording_id)
    if row is None:
        raise NotFound("there is no such recording")
    await permit(
        services,
        principal,
        Action.MANAGE_QUARANTINE,
        controller_id=row.controller_id,
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get_one(Recording, recording_id, with_for_update={"key_share": True})
        if row.state in _GONE:
            raise Erased("the recording was erased")
        if row.state is not RecordingState.QUARANTINED:
            raise Conflict("the recording is not in quarantine")
        if decision == "accept":
            row.state = RecordingState.STORED
            row.reasons = [*row.reasons, "accepted"]
            for kind in ("rendition", "peaks"):
                enqueue(session, kind, row.id, now=now)
        else:
            enqueue(session, "media_check", row.id, now=now)
        event = AuditEvent(
            action=f"quarantine.{decision}ed",
            actor=principal.actor,
            object_type="recording",
            object_id=str(row.id),
            controller_id=row.controller_id,
            request_id=request_id,
            details={"reasons": list(row.reasons)},
        )
        record(session, event, now=now)
        await session.flush()
        await reevaluate(session, services, [row.id], now)
        return row.state


async def receipt_again(
    services: Services, principal: Principal, recording_id: uuid.UUID, *, request_id: str
) -> str:
    """Sign a recording's receipt again.

    Raises:
        Forbidden: another source pushed it.
        NotFound: there is no such recording.
        Erased: it was erased; the first receipt stays valid, its recording does not.
    """
    async with services.database.snapshot() as session:
        row = await session.get(Recording, recording_id)
    if row is None:
        return await _receipt_of_spooled(services, principal, recording_id, request_id)
    await permit(
        services,
        principal,
        Action.VIEW_RECEIPT,
        controller_id=row.controller_id,
        target=Target(source_id=row.source_id),
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    if row.state in _GONE:
        raise Erased("the recording was erased")
    return sign_receipt(services.keyring, receipt_of(row))


async def _receipt_of_spooled(
    services: Services, principal: Principal, given: uuid.UUID, request_id: str
) -> str:
    """The receipt of an id that was given with a 202: of what still waits, or of what it led to."""
    spool = services.spool
    item = None if spool is None else spool.get(given)
    alias = None if item is not None else await alias_of(services, given)
    if spool is not None and item is not None:
        spooled = await Spooled.read(spool, item)
        controller_id, source_id = uuid.UUID(item.controller_id), spooled.source_id
        receipt: Receipt | None = spooled.receipt(item)
    elif alias is not None:
        controller_id, source_id = alias.controller_id, alias.source_id
        receipt = await receipt_of_alias(services, given, alias)
    else:
        raise NotFound("there is no such recording")
    await permit(
        services,
        principal,
        Action.VIEW_RECEIPT,
        controller_id=controller_id,
        target=Target(source_id=source_id),
        object_type="recording",
        object_id=str(given),
        request_id=request_id,
    )
    if receipt is None:
        raise erased(None if alias is None else alias.certificate_id)
    return sign_receipt(services.keyring, receipt)


def _cursor(row: Recording) -> str:
    return base64.urlsafe_b64encode(f"{row.received_at.isoformat()}|{row.id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, uuid.UUID]:
    try:
        at, _, last = base64.urlsafe_b64decode(cursor.encode()).decode().partition("|")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError
        return moment, uuid.UUID(last)
    except (ValueError, binascii.Error):
        field = FieldError("cursor", "is not one of ours")
        raise InvalidInput("the cursor is not one of ours", fields=[field]) from None
