"""Assessments of calls: by quality, inside its scope, while the call may be heard for quality.

They are about an agent, who sees their own. What is left of them is anonymous: sums by month, queue and form,
shown only where there are at least ``FEWEST`` of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action, Target, decide
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Assessment, AssessmentTotal, Recording
from recorder.errors import FieldError, Forbidden, InvalidInput, NotFound
from recorder.playback.decide import allowed_recording
from recorder.playback.serve import audit_refusal
from recorder.services import Services
from retention.model import Purpose

__all__ = ["FEWEST", "NewAssessment", "TotalView", "assess", "list_of", "totals"]

FEWEST: Final = 5
"""A sum of fewer assessments could be somebody's."""


@dataclass(frozen=True, slots=True)
class NewAssessment:
    """Points for one agent's part of a call.

    Attributes:
        form: which questions were asked.
        agent: code of an agent on the call; may be left out where there is one only.
    """

    form: str
    points: int
    out_of: int
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class TotalView:
    """Assessments of one month, queue and form together."""

    month: str
    queue: str | None
    form: str
    count: int
    points: int
    out_of: int


async def assess(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    new: NewAssessment,
    *,
    request_id: str,
) -> Assessment:
    """Enter an assessment; whoever may not hear the call for quality cannot assess it.

    Raises:
        NotFound: there is no such recording.
        Erased: it is gone.
        Forbidden: role, scope or window of quality refuses.
        InvalidInput: the call had no such agent, or several and none is named.
    """
    now = services.clock.now()
    await _permit(services, principal, Action.ASSESS, recording_id, request_id)
    try:
        async with services.database.transaction() as session:
            # Under lock, so that an erasure either ends this assessment or comes first.
            allowed = await allowed_recording(
                session, services, principal, recording_id, Purpose.QUALITY, now=now, lock=True
            )
            recording = allowed.recording
            agent = _agent(recording, new.agent)
            row = Assessment(
                id=uuid.uuid4(),
                controller_id=recording.controller_id,
                recording_id=recording_id,
                assessor=principal.actor,
                agent=agent,
                form=new.form,
                points=new.points,
                out_of=new.out_of,
                given_at=now,
            )
            session.add(row)
            event = AuditEvent(
                action="recording.assessed",
                actor=principal.actor,
                object_type="recording",
                object_id=str(recording_id),
                controller_id=recording.controller_id,
                purpose=Purpose.QUALITY.value,
                request_id=request_id,
                details={"assessment": str(row.id)},
            )
            record(session, event, now=now)
            return row
    except Forbidden as refusal:
        await audit_refusal(
            services,
            principal,
            recording_id,
            Purpose.QUALITY,
            refusal,
            action="assessment.refused",
            request_id=request_id,
        )
        raise


def _agent(recording: Recording, named: str | None) -> str:
    if named is None and len(recording.agents) == 1:
        return recording.agents[0]
    if named is not None and named in recording.agents:
        return named
    raise InvalidInput(
        "name an agent of this call", fields=[FieldError("/agent", "one of the call's agents")]
    )


async def list_of(
    services: Services, principal: Principal, recording_id: uuid.UUID, *, request_id: str
) -> Sequence[Assessment]:
    """The assessments of a call, the oldest first; an agent sees those of their own part.

    Raises:
        NotFound: there is no such recording.
        Forbidden: the caller may not see its assessments.
    """
    recording = await _permit(services, principal, Action.VIEW_ASSESSMENTS, recording_id, request_id)
    query = sa.select(Assessment).where(Assessment.recording_id == recording_id)
    if not _assesses(principal, recording):
        query = query.where(Assessment.agent == principal.agent_code)
    async with services.database.snapshot() as session:
        return list(await session.scalars(query.order_by(Assessment.given_at, Assessment.id)))


def _assesses(principal: Principal, recording: Recording) -> bool:
    target = Target(tuple(recording.agents), recording.queue, recording.source_id)
    return decide(principal, Action.ASSESS, controller_id=recording.controller_id, target=target).allowed


async def totals(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> list[TotalView]:
    """Sums of all assessments, of living and of gone calls, where there are enough for nobody to show.

    Raises:
        Forbidden: the caller does not see the assessments of all of this controller's calls.
    """
    await permit(
        services, principal, Action.VIEW_ASSESSMENTS, controller_id=controller_id, request_id=request_id
    )
    sums: dict[tuple[str, str | None, str], list[int]] = {}
    async with services.database.snapshot() as session:
        living = (
            sa.select(Assessment, Recording.queue)
            .join(Recording, Recording.id == Assessment.recording_id)
            .where(Assessment.controller_id == controller_id)
        )
        parts = [
            (f"{row.given_at.astimezone(UTC):%Y-%m}", queue, row.form, 1, row.points, row.out_of)
            for row, queue in await session.execute(living)
        ]
        gone = sa.select(AssessmentTotal).where(AssessmentTotal.controller_id == controller_id)
        parts += [
            (row.month, row.queue, row.form, row.count, row.points, row.out_of)
            for row in await session.scalars(gone)
        ]
    for month, queue, form, *numbers in parts:
        entry = sums.setdefault((month, queue, form), [0, 0, 0])
        for position, value in enumerate(numbers):
            entry[position] += value
    return [
        TotalView(month, queue, form, *found)
        for (month, queue, form), found in sorted(
            sums.items(), key=lambda item: (item[0][0], item[0][1] or "", item[0][2])
        )
        if found[0] >= FEWEST
    ]


async def _permit(
    services: Services, principal: Principal, action: Action, recording_id: uuid.UUID, request_id: str
) -> Recording:
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
    if recording is None:
        raise NotFound("there is no such recording")
    await permit(
        services,
        principal,
        action,
        controller_id=recording.controller_id,
        target=Target(tuple(recording.agents), recording.queue, recording.source_id),
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    return recording
