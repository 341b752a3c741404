"""The work queue: enqueued in the transaction that makes the work necessary."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import JobState
from recorder.catalogue.tables import Job


def enqueue(
    session: AsyncSession,
    kind: str,
    target_id: uuid.UUID,
    *,
    now: datetime,
    payload: Mapping[str, Any] | None = None,
    not_before: datetime | None = None,
) -> uuid.UUID:
    """Add one piece of work to the running transaction.

    Args:
        kind: which handler does it: ``media_check``, ``rendition``, ``peaks``, ``erase``.
        target_id: what it is about; random ids only.
    """
    job = new_job(kind, target_id, now=now, payload=payload, not_before=not_before)
    session.add(job)
    return job.id


def new_job(
    kind: str,
    target_id: uuid.UUID,
    *,
    now: datetime,
    payload: Mapping[str, Any] | None = None,
    not_before: datetime | None = None,
) -> Job:
    """One piece of work as a row, for a use case that inserts its rows itself."""
    return Job(
        id=uuid.uuid4(),
        kind=kind,
        target_id=target_id,
        payload=dict(payload or {}),
        state=JobState.QUEUED,
        attempts=0,
        not_before=not_before or now,
        lease_until=None,
        leased_by=None,
        error=None,
        created_at=now,
        finished_at=None,
    )
