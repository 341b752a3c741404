"""Outcomes without audio: a sender said that there is none, or that it comes later."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.tables.completeness import ExpectedRecording
from recorder.ingest.adapters.base import SenderOutcome
from recorder.ingest.identity import call_identity, recording_identity
from recorder.ingest.request import IngestRequest
from storage.keys import Keyring

BY_SENDER: Final = "sender"


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
    if row.outcome != SenderOutcome.RECEIVED:
        row.outcome, row.code, row.changed_at = outcome.value, code, now
    return row.id
