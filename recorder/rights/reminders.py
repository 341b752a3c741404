"""Reminding of answers that are owed: once when a week is left, once when two days are, once when late."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from recorder.catalogue.enums import RequestStage
from recorder.catalogue.tables import RightsRequest
from recorder.rights import register
from recorder.services import Services

ACTOR: Final = "system:rights"
SOON: Final = timedelta(days=7)
URGENT: Final = timedelta(days=2)
_ORDER: Final = {None: 0, "soon": 1, "urgent": 2, "overdue": 3}


def urgency(deadline_at: datetime, now: datetime) -> str | None:
    """``overdue``, ``urgent`` (two days), ``soon`` (a week), or None while there is time."""
    if now >= deadline_at:
        return "overdue"
    left = deadline_at - now
    return "urgent" if left <= URGENT else "soon" if left <= SOON else None


async def remind(services: Services) -> int:
    """Write what became urgent to the audit log, and how much is open to the metrics.

    Returns:
        How many reminders were written now.
    """
    now = services.clock.now()
    written = 0
    async with services.database.transaction() as session:
        query = (
            sa.select(RightsRequest)
            .where(*register.open_conditions(now + SOON))
            .order_by(RightsRequest.deadline_at, RightsRequest.id)
            .with_for_update(skip_locked=True)
        )
        for row in await session.scalars(query):
            stage = urgency(row.deadline_at, now)
            if _ORDER[stage] <= _ORDER[row.reminded]:
                continue
            row.reminded = stage
            register.audit(
                session,
                row,
                "request.reminder",
                ACTOR,
                now,
                None,
                urgency=stage,
                last_day=row.last_day.isoformat(),
            )
            written += 1
    await count_due(services)
    return written


async def count_due(services: Services) -> None:
    """Set the gauges of requests that are open, by urgency."""
    now = services.clock.now()
    query = sa.select(RightsRequest.deadline_at).where(
        RightsRequest.completed_at.is_(None), RightsRequest.stage != RequestStage.UNDONE
    )
    counts = dict.fromkeys(("in_time", "soon", "urgent", "overdue"), 0)
    async with services.database.snapshot() as session:
        for deadline_at in await session.scalars(query):
            counts[urgency(deadline_at, now) or "in_time"] += 1
    for name, count in counts.items():
        services.metrics.requests_due.labels(name).set(count)
