"""What granting a pending request would do, by recording, before anybody decides: nothing is changed."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.catalogue.enums import RequestStage
from recorder.catalogue.tables import Recording, RequestItem, RightsRequest
from recorder.disposition.evaluation import recordings_of
from recorder.disposition.facts import CHUNK
from recorder.rights import register
from recorder.rights.deciding import Decided, outcome_of
from recorder.services import Services

__all__ = ["Foreseen", "foresee"]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A recording that a request concerns.

    Attributes:
        outcome: what granting comes to: ``granted``, ``refused``; None where the request is not answered
            recording by recording; of a decided request, what was decided.
        ground: why it stays.
        review_on: when the ground ends or is looked at again.
    """

    recording_id: uuid.UUID
    started_at: datetime
    duration_ms: int | None
    queue: str | None
    outcome: str | None
    ground: str | None
    review_on: datetime | None


async def foresee(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> Sequence[Foreseen]:
    """The recordings of a request in the order of their calls; empty while nobody knows whose it is.

    Raises:
        NotFound: no such request.
        Forbidden: the caller does not handle requests there.
    """
    async with register.changing(services, principal, rights_id, request_id, lock=False) as (
        session,
        row,
        now,
    ):
        if row.stage is RequestStage.UNDONE or row.customer_id is None:
            return ()
        items = sa.select(RequestItem).where(RequestItem.request_id == row.id)
        stored = {item.recording_id: item for item in await session.scalars(items)}
        if row.stage is not RequestStage.PENDING:
            told: dict[uuid.UUID, _Told] = {
                i: (item.outcome, item.ground, item.review_on) for i, item in stored.items()
            }
            return await _listed(session, told)
        outcome = await outcome_of(session, row, Decided(RequestStage.GRANTED), now, lock=False)
        ids = list(stored) if row.scoped else await _all_of(session, row)
        found: dict[uuid.UUID, _Told] = dict.fromkeys(ids, (None, None, None))
        found |= dict.fromkeys(outcome.granted, ("granted", None, None))
        found |= {i: ("refused", ground, review) for i, (ground, review) in outcome.refused.items()}
        return await _listed(session, found)


_Told = tuple[str | None, str | None, datetime | None]


async def _all_of(session: AsyncSession, row: RightsRequest) -> list[uuid.UUID]:
    assert row.customer_id is not None  # noqa: S101 - the caller has looked
    return list(await recordings_of(session, row.customer_id))


async def _listed(session: AsyncSession, told: dict[uuid.UUID, _Told]) -> Sequence[Foreseen]:
    ids = sorted(told)
    rows: list[sa.Row[uuid.UUID, datetime, int | None, str | None]] = []
    for start in range(0, len(ids), CHUNK):
        query = sa.select(Recording.id, Recording.started_at, Recording.duration_ms, Recording.queue).where(
            Recording.id.in_(ids[start : start + CHUNK])
        )
        rows += (await session.execute(query)).all()
    rows.sort(key=lambda row: (row.started_at, row.id))
    return [Foreseen(r.id, r.started_at, r.duration_ms, r.queue, *told[r.id]) for r in rows]
