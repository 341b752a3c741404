"""What an operator sees of completeness: hours of sources, and what was told of and is not here."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.tables import ExpectedRecording, Source, SourceHour
from recorder.ingest.adapters.base import SenderOutcome
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class HourView:
    """One hour of one source."""

    row: SourceHour
    source: str


async def hours(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    since: datetime,
    before: datetime,
    source_id: uuid.UUID | None = None,
    gaps_only: bool = False,
    request_id: str | None = None,
) -> list[HourView]:
    """Hours of a controller's sources in order, at most ten thousand.

    Raises:
        Forbidden: the caller does not look after sources.
    """
    await permit(services, principal, Action.VIEW_HEALTH, controller_id=controller_id, request_id=request_id)
    query = (
        sa.select(SourceHour, Source.name)
        .join(Source, Source.id == SourceHour.source_id)
        .where(
            SourceHour.controller_id == controller_id,
            SourceHour.hour >= since,
            SourceHour.hour < before,
        )
        .order_by(SourceHour.hour, Source.name)
        .limit(10_000)
    )
    if source_id is not None:
        query = query.where(SourceHour.source_id == source_id)
    if gaps_only:
        query = query.where(SourceHour.gap)
    async with services.database.snapshot() as session:
        return [HourView(row, name) for row, name in (await session.execute(query)).all()]


async def expected(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    outcome: SenderOutcome | None,
    limit: int,
    request_id: str | None = None,
) -> Sequence[ExpectedRecording]:
    """What was told of, the newest call first; without an outcome, all that is not here.

    Raises:
        Forbidden: the caller does not look after sources.
    """
    await permit(services, principal, Action.VIEW_HEALTH, controller_id=controller_id, request_id=request_id)
    which = (
        ExpectedRecording.outcome != SenderOutcome.RECEIVED
        if outcome is None
        else ExpectedRecording.outcome == outcome
    )
    query = (
        sa.select(ExpectedRecording)
        .where(ExpectedRecording.controller_id == controller_id, which)
        .order_by(ExpectedRecording.started_at.desc(), ExpectedRecording.id)
        .limit(limit)
    )
    async with services.database.snapshot() as session:
        return (await session.scalars(query)).all()
