"""The end of assessments: their sums stay, without call, agent or assessor."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.tables import Assessment, AssessmentTotal, Recording

__all__ = ["fold", "fold_recordings"]


async def fold_recordings(session: AsyncSession, recording_ids: Sequence[uuid.UUID]) -> int:
    """End the assessments of recordings that go, in the running transaction, while their queues are known.

    Returns:
        How many ended.
    """
    return await _fold(session, Assessment.recording_id.in_(recording_ids))


async def fold(session: AsyncSession, ids: Sequence[uuid.UUID]) -> int:
    """End assessments, in the running transaction.

    Returns:
        How many ended.
    """
    return await _fold(session, Assessment.id.in_(ids))


async def _fold(session: AsyncSession, which: sa.ColumnElement[bool]) -> int:
    query = sa.select(Assessment, Recording.queue).join(Recording, Recording.id == Assessment.recording_id)
    sums: dict[tuple[uuid.UUID, str, str | None, str], list[int]] = {}
    ended = 0
    for row, queue in (await session.execute(query.where(which))).all():
        key = (row.controller_id, f"{row.given_at.astimezone(UTC):%Y-%m}", queue, row.form)
        entry = sums.setdefault(key, [0, 0, 0])
        for position, value in enumerate((1, row.points, row.out_of)):
            entry[position] += value
        ended += 1
    for (controller_id, month, queue, form), (count, points, out_of) in sums.items():
        session.add(
            AssessmentTotal(
                id=uuid.uuid4(),
                controller_id=controller_id,
                month=month,
                queue=queue,
                form=form,
                count=count,
                points=points,
                out_of=out_of,
            )
        )
    await session.execute(sa.delete(Assessment).where(which))
    return ended
