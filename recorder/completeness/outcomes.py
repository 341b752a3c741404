"""Outcomes without audio: a sender said that there is none, or that it comes later."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Call, ExpectedRecording, Recording
from recorder.ingest.adapters.base import SenderOutcome
from recorder.ingest.identity import call_identity, recording_identity
from recorder.ingest.request import IngestRequest
from recorder.services import Services
from storage.keys import Keyring

BY_SENDER: Final = "sender"
BY_CDR: Final = "cdr"
_BATCH: Final = 500
_TOLD_OF: Final = frozenset(
    {SenderOutcome.ABSENT, SenderOutcome.TOO_SHORT, SenderOutcome.SILENT, SenderOutcome.FAILED}
)
"""What a sender said for good; what may still come (missing, fetching) is no event."""


async def note_outcome(
    session: AsyncSession,
    keyring: Keyring,
    *,
    controller_id: uuid.UUID,
    source_id: uuid.UUID,
    request: IngestRequest,
    outcome: SenderOutcome,
    code: str | None = None,
    told_by: str = BY_SENDER,
    now: datetime,
) -> uuid.UUID:
    """Keep what is told of a recording whose audio is not here; telling again changes the one row.

    What has been received stays received.
    """
    metadata = request.metadata
    identity = recording_identity(keyring, controller_id, source_id, metadata.external_id, metadata.leg)
    query = sa.select(ExpectedRecording).where(
        ExpectedRecording.source_id == source_id, ExpectedRecording.identity == identity
    )
    row = (await session.scalars(query.with_for_update())).one_or_none()
    if row is None:
        call = metadata.external_id if metadata.call is None else metadata.call.external_id
        row = ExpectedRecording(
            id=uuid.uuid4(),
            controller_id=controller_id,
            source_id=source_id,
            identity=identity,
            call_identity=call_identity(keyring, controller_id, source_id, call),
            started_at=metadata.started_at,
            duration_ms=None if metadata.duration is None else round(metadata.duration * 1000),
            created_at=now,
            told_by=told_by,
        )
        session.add(row)
    if row.outcome == SenderOutcome.RECEIVED or (row.outcome, row.code) == (outcome.value, code):
        return row.id
    row.outcome, row.code, row.changed_at = outcome.value, code, now
    if outcome in _TOLD_OF:
        event = AuditEvent(
            action="recording.absent",
            actor=f"source:{source_id}",
            object_type="source",
            object_id=str(source_id),
            outcome="failed",
            controller_id=controller_id,
            details={"expected": str(row.id), "outcome": outcome.value, "code": code},
        )
        record(session, event, now=now)
    return row.id


async def close_arrived(services: Services) -> int:
    """Close what was told of and has arrived since: the recording itself, or any recording of a CDR's call.

    Run in the background, over what is open: storing a recording costs nothing more.

    Returns:
        How many were closed.
    """
    closed = 0
    while True:
        async with services.database.transaction() as session:
            count = await _close_some(session, services.clock.now())
        closed += count
        if count < _BATCH:
            return closed


async def _close_some(session: AsyncSession, now: datetime) -> int:
    still_open = ExpectedRecording.outcome != SenderOutcome.RECEIVED
    itself = (
        sa.select(ExpectedRecording.id, Recording.id)
        .join(
            Recording,
            sa.and_(
                Recording.source_id == ExpectedRecording.source_id,
                Recording.identity == ExpectedRecording.identity,
            ),
        )
        .where(still_open)
        .limit(_BATCH)
    )
    of_the_call = (
        sa.select(ExpectedRecording.id, sa.func.min(sa.cast(Recording.id, sa.String)))
        .join(
            Call,
            sa.and_(
                Call.source_id == ExpectedRecording.source_id,
                Call.identity == ExpectedRecording.call_identity,
            ),
        )
        .join(Recording, Recording.call_id == Call.id)
        .where(still_open, ExpectedRecording.told_by == BY_CDR)
        .group_by(ExpectedRecording.id)
        .limit(_BATCH)
    )
    found: dict[uuid.UUID, uuid.UUID] = {
        expected: uuid.UUID(first) for expected, first in (await session.execute(of_the_call)).all()
    }
    found.update((expected, own) for expected, own in (await session.execute(itself)).all())
    for expected_id, recording_id in found.items():
        await session.execute(
            sa.update(ExpectedRecording)
            .where(ExpectedRecording.id == expected_id)
            .values(outcome=SenderOutcome.RECEIVED.value, changed_at=now, recording_id=recording_id)
        )
    return len(found)
