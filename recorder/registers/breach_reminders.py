"""The clock of breaches: reminders a day before, six hours before, and when it has run out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import BreachState
from recorder.catalogue.tables import Breach
from recorder.services import Services

__all__ = ["remind", "urgency"]

ACTOR: Final = "system:registers"
SOON: Final = timedelta(hours=24)
URGENT: Final = timedelta(hours=6)
_ORDER: Final = {None: 0, "soon": 1, "urgent": 2, "overdue": 3}


def urgency(due_at: datetime, now: datetime) -> str | None:
    """``overdue``, ``urgent`` (six hours), ``soon`` (a day), or None while there is time."""
    if now >= due_at:
        return "overdue"
    left = due_at - now
    return "urgent" if left <= URGENT else "soon" if left <= SOON else None


async def remind(services: Services) -> int:
    """Write each breach that became urgent to the log, once per step, and count the open ones.

    Returns:
        How many reminders were written now.
    """
    now = services.clock.now()
    written = 0
    counts = dict.fromkeys(("in_time", "soon", "urgent", "overdue"), 0)
    async with services.database.transaction() as session:
        query = sa.select(Breach).where(Breach.state == BreachState.OPEN)
        for row in await session.scalars(query.order_by(Breach.due_at, Breach.id).with_for_update()):
            stage = urgency(row.due_at, now)
            counts[stage or "in_time"] += 1
            if _ORDER[stage] <= _ORDER[row.reminded]:
                continue
            row.reminded = stage
            event = AuditEvent(
                action="breach.reminder",
                actor=ACTOR,
                object_type="breach",
                object_id=str(row.id),
                controller_id=row.controller_id,
                details={"urgency": stage, "due_at": row.due_at.isoformat()},
            )
            record(session, event, now=now)
            written += 1
    for name, count in counts.items():
        services.metrics.breaches_open.labels(name).set(count)
    return written
