"""Research: a pseudonymised set of facts about calls, for a registered recipient, approved by two people.

There is no audio in it (a voice names its owner), no name, number, agent, customer or time of day. A
pseudonym is a keyed hash that only this service can make again, and another one in each set: when a recording
is rectified, restricted or erased, the recipient can be told which line it is (GDPR art. 19). Calls of a
month and queue with fewer than ``FEWEST`` of them are left out. What may not be used to develop quality now,
by the decision made afresh (objection, restriction, end of the window), is not in it either.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.approvals import ApprovalView, request_approval, use_approval
from recorder.access.guard import permit, refusals_recorded
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.enums import RecipientKind, RecordingState
from recorder.catalogue.subjects import blind_index
from recorder.catalogue.tables import Controller, Disclosure, Recording
from recorder.disposition.facts import CHUNK, load_cases
from recorder.errors import FieldError, Forbidden, InvalidInput, NotFound
from recorder.registers.disclosures import enter
from recorder.registers.recipients import require_recipient
from recorder.registers.regions import require_regions
from recorder.services import Services
from retention.decision import allows
from retention.engine import decide_case
from retention.model import Purpose
from retention.periods import zone_of

__all__ = ["FEWEST", "MOST", "NewResearch", "ResearchSet", "export", "pseudonym"]

STEP: Final = "research_export"
GROUND: Final = "research"
FEWEST: Final = 5
MOST: Final = 5000
_MINUTES: Final = (1, 3, 10, 30)


@dataclass(frozen=True, slots=True)
class NewResearch:
    """Which calls, for whom.

    Attributes:
        reference: number of the research plan or permission; names no person.
        since, until: when the calls began; the second is the first instant after.
        queue: calls of this queue alone; None for all.
    """

    recipient_id: uuid.UUID
    reference: str
    since: datetime
    until: datetime
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class ResearchSet:
    """What was given.

    Attributes:
        rows: ``{id, month, queue, direction, minutes}``, in the order of the pseudonyms.
        left_out: calls of groups so small that they could be somebody's.
    """

    disclosure: Disclosure
    rows: Sequence[dict[str, Any]]
    left_out: int


async def export(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    new: NewResearch,
    *,
    approval_id: uuid.UUID | None,
    request_id: str,
) -> ResearchSet | ApprovalView:
    """Make a set that a second person approved and enter it as a disclosure; without an approval, ask for it.

    Returns:
        The set, or the approval that is now waited for.

    Raises:
        Forbidden: the caller may not disclose here; the recipient is no research partner under contract, or
            may not be given anything; store or keys are where data may not be; the approval is not for this.
        InvalidInput: the time ends before it begins, or too many calls are in it.
        NotFound: no such recipient at this controller.
    """
    await permit(services, principal, Action.DISCLOSE, controller_id=controller_id, request_id=request_id)
    if new.until <= new.since:
        raise InvalidInput("the time ends before it begins", fields=[FieldError("/until", "after since")])
    now = services.clock.now()
    async with (
        refusals_recorded(
            services,
            principal,
            "research.refused",
            controller_id=controller_id,
            now=now,
            request_id=request_id,
        ),
        services.database.transaction() as session,
    ):
        require_regions(services.settings, now)
        recipient = await require_recipient(session, new.recipient_id, now)
        if recipient.controller_id != controller_id:
            raise NotFound("no such recipient")
        if recipient.kind is not RecipientKind.RESEARCH:
            raise Forbidden("This recipient is not entered for research.", reason="recipient-kind")
        step: dict[str, Any] = {
            "controller_id": controller_id,
            "action": STEP,
            "target": str(recipient.id),
            "details": _details(new),
        }
        if approval_id is None:
            return await request_approval(session, principal, now=now, request_id=request_id, **step)
        await use_approval(
            session, approval_id, actor=principal.actor, now=now, request_id=request_id, **step
        )
        return await _make(session, services, principal, controller_id, new, approval_id, now, request_id)


def pseudonym(
    services: Services, controller_id: uuid.UUID, disclosure_id: uuid.UUID, recording_id: uuid.UUID
) -> str:
    """Under which name a recording stands in one set."""
    digest = blind_index(services.keyring, controller_id, f"research/{disclosure_id}", str(recording_id))
    return digest[:16].hex()


def _details(new: NewResearch) -> dict[str, Any]:
    return {
        "reference": new.reference,
        "since": new.since.isoformat(),
        "until": new.until.isoformat(),
        "queue": new.queue,
    }


async def _make(
    session: AsyncSession,
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    new: NewResearch,
    approval_id: uuid.UUID,
    now: datetime,
    request_id: str,
) -> ResearchSet:
    chosen = await _usable(session, controller_id, new, now)
    controller = await session.get_one(Controller, controller_id)
    zone = await asyncio.to_thread(zone_of, controller.time_zone)  # the first time it is read from a file
    groups = Counter(_group(row, zone) for row in chosen)
    given = [row for row in chosen if groups[_group(row, zone)] >= FEWEST]
    disclosure = Disclosure(
        id=uuid.uuid4(),
        controller_id=controller_id,
        recipient_id=new.recipient_id,
        ground=GROUND,
        reference=new.reference,
        approval_id=approval_id,
        disclosed_at=now,
        disclosed_by=principal.actor,
    )
    await enter(session, disclosure, [row.id for row in given], request_id=request_id)
    rows = [
        {
            "id": pseudonym(services, controller_id, disclosure.id, row.id),
            "month": _group(row, zone)[0],
            "queue": row.queue,
            "direction": None if row.direction is None else row.direction.value,
            "minutes": _minutes(row.duration_ms),
        }
        for row in given
    ]
    return ResearchSet(disclosure, sorted(rows, key=lambda row: str(row["id"])), len(chosen) - len(given))


async def _usable(
    session: AsyncSession, controller_id: uuid.UUID, new: NewResearch, now: datetime
) -> list[Recording]:
    # Locked against an erasure: who erases afterwards sees the disclosure, and tells its recipient.
    query = (
        sa.select(Recording)
        .where(
            Recording.controller_id == controller_id,
            Recording.state == RecordingState.STORED,
            Recording.started_at >= new.since,
            Recording.started_at < new.until,
        )
        .order_by(Recording.id)
        .limit(MOST + 1)
        .with_for_update(key_share=True)
    )
    if new.queue is not None:
        query = query.where(Recording.queue == new.queue)
    found = list(await session.scalars(query))
    if len(found) > MOST:
        raise InvalidInput(
            f"more than {MOST} calls: ask for a shorter time", fields=[FieldError("/until", "earlier")]
        )
    usable = []
    for start in range(0, len(found), CHUNK):
        page = found[start : start + CHUNK]
        cases = await load_cases(session, [row.id for row in page], now)
        usable += [
            row
            for row in page
            if row.id in cases and allows(decide_case(cases[row.id], now), Purpose.QUALITY, now)[0]
        ]
    return usable


def _group(row: Recording, zone: ZoneInfo) -> tuple[str, str | None]:
    return f"{row.started_at.astimezone(zone):%Y-%m}", row.queue


def _minutes(duration_ms: int | None) -> str | None:
    """How long, roughly: ``under-1``, ``1-3`` and so on."""
    if duration_ms is None:
        return None
    minutes = duration_ms / 60_000
    if minutes < _MINUTES[0]:
        return f"under-{_MINUTES[0]}"
    for low, high in itertools.pairwise(_MINUTES):
        if minutes < high:
            return f"{low}-{high}"
    return f"from-{_MINUTES[-1]}"
