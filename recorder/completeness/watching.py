"""Hour by hour: what came of each source, against what should have; gaps open, and close when made up for.

An hour is judged once it has been over for half an hour, and again while it is young or has a gap, so that
late recordings count. A gap that opens or closes is an entry in the audit log, a line in the service's log, a
number in the metrics, and through the log a webhook.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Controller, ExpectedRecording, Recording, Source, SourceHour
from recorder.completeness.expecting import WEEKS, falls_short, learned
from recorder.completeness.outcomes import close_arrived
from recorder.ingest.adapters.base import SenderOutcome
from recorder.rights import workdays
from recorder.services import Services

log = logging.getLogger("recorder.completeness")

ACTOR: Final = "system:completeness"
HOUR: Final = timedelta(hours=1)
GRACE: Final = timedelta(minutes=30)
YOUNG: Final = timedelta(hours=26)
OLDEST_GAP: Final = timedelta(days=14)
"""A gap older than that stays as it is; what comes later still closes its placeholder."""
_HISTORY: Final = timedelta(days=WEEKS * 7 + 1)


async def watch(services: Services) -> int:
    """Close the placeholders of what arrived, then judge the hours that are due.

    Returns:
        How many gaps are open.
    """
    await close_arrived(services)
    now = services.clock.now()
    async with services.database.snapshot() as session:
        controllers = list(await session.scalars(sa.select(Controller).order_by(Controller.code)))
    gaps = 0
    services.metrics.gap_hours.clear()
    services.metrics.expected_recordings.clear()
    for controller in controllers:
        gaps += await _watch(services, controller, now)
    return gaps


async def _watch(services: Services, controller: Controller, now: datetime) -> int:
    working = await workdays.load(controller.country)
    zone = await asyncio.to_thread(ZoneInfo, controller.time_zone)  # its data is read from disk

    def is_holiday(day: date) -> bool:
        return day.weekday() < 5 and not working(day)

    last = (now - GRACE).replace(minute=0, second=0, microsecond=0) - HOUR
    first = last - YOUNG
    async with services.database.snapshot() as session:
        sources = list(
            await session.scalars(
                sa.select(Source).where(Source.controller_id == controller.id, Source.enabled)
            )
        )
        old_gaps = await _open_gaps(session, controller.id, after=now - OLDEST_GAP, before=first)
        since = min(old_gaps, default=first) - _HISTORY
        received = await count_received(session, controller.id, since, last + HOUR, sqlite=_sqlite(services))
        missing = await _count_missing(session, controller.id, now - OLDEST_GAP, sqlite=_sqlite(services))
        outcomes = await session.execute(
            sa.select(ExpectedRecording.outcome, sa.func.count())
            .where(
                ExpectedRecording.controller_id == controller.id,
                ExpectedRecording.outcome != SenderOutcome.RECEIVED,
            )
            .group_by(ExpectedRecording.outcome)
        )
        for outcome, count in outcomes.all():
            services.metrics.expected_recordings.labels(controller.code, outcome).set(count)
    hours = [*sorted(old_gaps), *_hours(first, last)]
    open_gaps = 0
    for source in sources:
        history = _with_zeros(received[source.id], max(since, _began(source, received[source.id])), last)
        async with services.database.transaction() as session:
            count = await _judge_source(
                session, source, hours, history, missing[source.id], zone, is_holiday, now
            )
        services.metrics.gap_hours.labels(source.name).set(count)
        open_gaps += count
    return open_gaps


async def _judge_source(
    session: AsyncSession,
    source: Source,
    hours: list[datetime],
    history: Mapping[datetime, int],
    missing: Mapping[datetime, int],
    zone: ZoneInfo,
    is_holiday: Callable[[date], bool],
    now: datetime,
) -> int:
    query = sa.select(SourceHour).where(SourceHour.source_id == source.id, SourceHour.hour.in_(hours))
    rows = {row.hour: row for row in await session.scalars(query.with_for_update())}
    count = 0
    for hour in hours:
        came, told = history.get(hour, 0), missing.get(hour, 0)
        expected = learned(hour, history, zone, is_holiday)
        short = falls_short(came, expected)
        basis = "cdr" if told else None if expected is None else "learned"
        row = rows.get(hour)
        if row is None:
            row = SourceHour(
                source_id=source.id,
                hour=hour,
                controller_id=source.controller_id,
                gap=False,
                opened_at=None,
                closed_at=None,
            )
            session.add(row)
        row.received, row.missing, row.basis = came, told, basis
        row.expected = came + told if told else expected
        gap = told > 0 or short
        if gap and not row.gap:
            row.opened_at, row.closed_at = now, None
            _tell(session, source, row, "completeness.gap", "failed", now)
        elif row.gap and not gap:
            row.closed_at = now
            _tell(session, source, row, "completeness.closed", "ok", now)
        row.gap = gap
        count += gap
    return count


def _tell(
    session: AsyncSession, source: Source, row: SourceHour, action: str, outcome: str, now: datetime
) -> None:
    facts = {"received": row.received, "expected": row.expected, "basis": row.basis}
    event = AuditEvent(
        action=action,
        actor=ACTOR,
        object_type="source",
        object_id=str(source.id),
        outcome=outcome,
        controller_id=source.controller_id,
        details={"hour": row.hour.isoformat(), **facts},
    )
    record(session, event, now=now)
    level = logging.WARNING if outcome == "failed" else logging.INFO
    log.log(level, action, extra={"source": source.name, "hour": row.hour.isoformat(), **facts})


async def count_received(
    session: AsyncSession, controller_id: uuid.UUID, since: datetime, before: datetime, *, sqlite: bool
) -> dict[uuid.UUID, dict[datetime, int]]:
    """Recordings by source and hour of their start; what was erased since did come, and counts."""
    hour = _hour_of(Recording.started_at, sqlite=sqlite)
    query = (
        sa.select(Recording.source_id, hour.label("hour"), sa.func.count())
        .where(
            Recording.controller_id == controller_id,
            Recording.started_at >= since,
            Recording.started_at < before,
        )
        .group_by(Recording.source_id, hour)
    )
    return _by_source((await session.execute(query)).all())


async def _count_missing(
    session: AsyncSession, controller_id: uuid.UUID, since: datetime, *, sqlite: bool
) -> dict[uuid.UUID, dict[datetime, int]]:
    hour = _hour_of(ExpectedRecording.started_at, sqlite=sqlite)
    query = (
        sa.select(ExpectedRecording.source_id, hour.label("hour"), sa.func.count())
        .where(
            ExpectedRecording.controller_id == controller_id,
            ExpectedRecording.outcome == SenderOutcome.MISSING,
            ExpectedRecording.started_at >= since,
        )
        .group_by(ExpectedRecording.source_id, hour)
    )
    return _by_source((await session.execute(query)).all())


async def _open_gaps(
    session: AsyncSession, controller_id: uuid.UUID, *, after: datetime, before: datetime
) -> set[datetime]:
    query = sa.select(SourceHour.hour).where(
        SourceHour.controller_id == controller_id,
        SourceHour.gap,
        SourceHour.hour >= after,
        SourceHour.hour < before,
    )
    hours = set(await session.scalars(query))
    # A CDR that was read late opens gaps in hours that were long judged.
    missing = sa.select(ExpectedRecording.started_at).where(
        ExpectedRecording.controller_id == controller_id,
        ExpectedRecording.outcome == SenderOutcome.MISSING,
        ExpectedRecording.started_at >= after,
        ExpectedRecording.started_at < before,
    )
    return hours | {_whole(at) for at in await session.scalars(missing)}


def _by_source(rows: object) -> dict[uuid.UUID, dict[datetime, int]]:
    found: dict[uuid.UUID, dict[datetime, int]] = defaultdict(dict)
    for source_id, hour, count in rows:  # type: ignore[attr-defined]  # rows of three columns
        at = datetime.fromisoformat(hour) if isinstance(hour, str) else hour
        found[source_id][at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)] = count
    return found


def _hour_of(column: sa.orm.InstrumentedAttribute[datetime], *, sqlite: bool) -> sa.ColumnElement[datetime]:
    if sqlite:
        return sa.func.strftime("%Y-%m-%dT%H:00:00", column, type_=sa.String())
    return sa.func.date_trunc("hour", column, "UTC", type_=sa.DateTime(timezone=True))


def _began(source: Source, counts: Mapping[datetime, int]) -> datetime:
    """When the source began: an archive that was brought in may be older than its source."""
    return min([_whole(source.created_at), *counts])


def _with_zeros(counts: Mapping[datetime, int], since: datetime, last: datetime) -> dict[datetime, int]:
    """Hours in which the source was there and nothing came are samples too."""
    return {hour: counts.get(hour, 0) for hour in _hours(_whole(since), last)}


def _hours(first: datetime, last: datetime) -> list[datetime]:
    return [first + HOUR * n for n in range(int((last - first) / HOUR) + 1)]


def _whole(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _sqlite(services: Services) -> bool:
    return services.database.sqlite
