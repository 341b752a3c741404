"""Fresh decisions, and storing them on the rows that lists and the sweep read."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import LinkRole, RecordingState
from recorder.catalogue.tables import Certificate, Recording, RecordingLink
from recorder.disposition.facts import ALIVE, CHUNK, active_schedule, load_cases
from recorder.errors import Erased, NotFound
from recorder.services import Services
from retention.decision import Decision
from retention.engine import decide_case

__all__ = [
    "active_schedule",
    "current_decision",
    "next_look",
    "reevaluate",
    "reevaluate_customer",
    "store_decision",
]


async def current_decision(
    session: AsyncSession, services: Services, recording: uuid.UUID | Recording, now: datetime
) -> Decision:
    """Decide one recording from what the catalogue says at this moment; nothing is stored.

    Raises:
        Erased: it is gone, or on its way; the certificate is named once there is one.
        NotFound: there is no such recording.
    """
    del services
    recording_id = recording.id if isinstance(recording, Recording) else recording
    case = (await load_cases(session, [recording_id], now)).get(recording_id)
    if case is not None:
        return decide_case(case, now)
    await refuse_erased(session, recording_id)
    raise NotFound("no such recording")


async def refuse_erased(session: AsyncSession, recording_id: uuid.UUID) -> None:
    """Do nothing for a recording that lives.

    Raises:
        Erased: it is gone, or on its way.
    """
    query = sa.select(Recording.state, Recording.certificate_id).where(Recording.id == recording_id)
    row = (await session.execute(query)).one_or_none()
    if row is not None and row.state in {RecordingState.ERASING, RecordingState.ERASED}:
        certificate = None if row.certificate_id is None else str(row.certificate_id)
        raise Erased("the recording has been erased", certificate_id=certificate)


async def reevaluate(
    session: AsyncSession, services: Services, recording_ids: Iterable[uuid.UUID], now: datetime
) -> int:
    """Decide afresh and store decision, dates and flags, in the running transaction.

    Args:
        recording_ids: erased ones among them are left alone.

    Returns:
        How many were decided.
    """
    del services
    ids = list(dict.fromkeys(recording_ids))
    decided = 0
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        cases = await load_cases(session, chunk, now)
        rows = await session.scalars(sa.select(Recording).where(Recording.id.in_(list(cases))))
        for row in rows:
            store_decision(row, decide_case(cases[row.id], now), now)
            decided += 1
        await session.flush()
    return decided


def store_decision(recording: Recording, decision: Decision, now: datetime) -> None:
    """Put a decision on its row."""
    document = decision.to_json()
    recording.decision = document
    recording.schedule_version = decision.schedule_version
    recording.erase_on = decision.erase_on
    recording.sweep_on = next_look(decision.erase_on, decision.reevaluate_at, decision.destroy_original, now)
    recording.held = decision.held
    recording.restricted = decision.restricted
    recording.evaluated_at = now


def next_look(
    erase_on: datetime | None, reevaluate_at: datetime | None, destroy_original: bool, now: datetime
) -> datetime | None:
    """When the sweep must look at a recording next: at its end, or when its inputs change by themselves."""
    if destroy_original:
        return now
    return min((moment for moment in (erase_on, reevaluate_at) if moment is not None), default=None)


async def reevaluate_customer(
    session: AsyncSession, services: Services, customer_id: uuid.UUID, now: datetime
) -> int:
    """Decide afresh everything that a customer's contact, choice, link or hold can touch.

    Returns:
        How many recordings were decided.
    """
    return await reevaluate(session, services, await recordings_of(session, customer_id), now)


async def recordings_of(session: AsyncSession, customer_id: uuid.UUID) -> list[uuid.UUID]:
    """Living recordings on which a customer hangs, as principal or as reference, in id order."""
    linked = sa.select(RecordingLink.recording_id).where(
        RecordingLink.customer_id == customer_id,
        RecordingLink.role.in_([LinkRole.PRINCIPAL, LinkRole.REFERENCE]),
    )
    query = (
        sa.select(Recording.id)
        .where(
            sa.or_(Recording.customer_id == customer_id, Recording.id.in_(linked)), Recording.state.in_(ALIVE)
        )
        .order_by(Recording.id)
    )
    return list(await session.scalars(query))


async def certificate_of(session: AsyncSession, certificate_id: uuid.UUID) -> Certificate:
    """A certificate of erasure.

    Raises:
        NotFound: there is none of this id.
    """
    row = await session.get(Certificate, certificate_id)
    if row is None:
        raise NotFound("no such certificate")
    return row
