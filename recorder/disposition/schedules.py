"""A controller's retention schedules: stored for ever, one of them in force."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Controller, ScheduleVersion
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from retention import schedule
from retention.errors import ScheduleError
from retention.model import Schedule


def check(text: str, *, controller: str | None = None, country: str | None = None) -> Schedule:
    """Read a schedule's document.

    Raises:
        InvalidInput: with line and column of each problem.
    """
    try:
        return schedule.check(text, controller=controller, country=country)
    except ScheduleError as error:
        fields = [
            FieldError(f"/document:{p.line}:{p.column}", _sentence(p.message, p.hint)) for p in error.problems
        ]
        raise InvalidInput(f"the schedule cannot be used: {error.problems[0]}", fields=fields) from None


def _sentence(message: str, hint: str) -> str:
    return f"{message} ({hint})" if hint else message


async def install_default(
    session: AsyncSession, controller: Controller, *, actor: str, now: datetime
) -> ScheduleVersion:
    """Store and activate the shipped default of the controller's country, for a controller without any."""
    country = controller.country if controller.country in schedule.SHIPPED else schedule.SHIPPED[0]
    text = await asyncio.to_thread(schedule.default_schedule_text, country, controller.code)
    row = await add_version(session, controller.id, text, actor=actor, now=now)
    await activate(session, controller.id, row.version, actor=actor, now=now)
    return row


async def add_version(
    session: AsyncSession, controller_id: uuid.UUID, document: str, *, actor: str, now: datetime
) -> ScheduleVersion:
    """Store a new version; nothing changes until it is activated.

    Raises:
        InvalidInput: the document is not a usable schedule of this controller.
        Conflict: its number is not the next one.
        NotFound: there is no such controller.
    """
    controller = await session.get(Controller, controller_id, with_for_update={"key_share": True})
    if controller is None:
        raise NotFound("no such controller")
    parsed = check(document, controller=controller.code, country=controller.country)
    newest = await session.scalar(
        sa.select(sa.func.max(ScheduleVersion.version)).where(ScheduleVersion.controller_id == controller_id)
    )
    expected = (newest or 0) + 1
    if parsed.version != expected:
        raise Conflict(f"the next version is {expected}, the document says {parsed.version}")
    row = ScheduleVersion(
        controller_id=controller_id,
        version=parsed.version,
        document=document,
        created_at=now,
        created_by=actor,
        activated_at=None,
        approval_id=None,
    )
    session.add(row)
    _audit(session, "schedule.stored", row, actor, now)
    await session.flush()
    return row


async def activate(
    session: AsyncSession,
    controller_id: uuid.UUID,
    version: int,
    *,
    actor: str,
    now: datetime,
    approval_id: uuid.UUID | None = None,
) -> ScheduleVersion:
    """Put a version in force. Repeating it changes nothing.

    Recordings keep their stored decisions until ``reevaluation.follow`` reaches them; playback and
    the sweep decide afresh anyway. Whether a second person must agree is for the caller to have asked.

    Raises:
        NotFound: there is no such version.
        Conflict: a newer one is in force already.
    """
    # Held against by erasures that are deciding at this moment, and by nothing else.
    await session.get(Controller, controller_id, with_for_update={"key_share": True})
    row = await get(session, controller_id, version)
    in_force = await session.scalar(
        sa.select(sa.func.max(ScheduleVersion.version)).where(
            ScheduleVersion.controller_id == controller_id, ScheduleVersion.activated_at.is_not(None)
        )
    )
    if row.activated_at is not None:
        return row
    if in_force is not None and in_force > version:
        raise Conflict(f"version {in_force} is in force; store the older rules as a new version")
    row.activated_at = now
    row.approval_id = approval_id
    _audit(session, "schedule.activated", row, actor, now)
    await session.flush()
    return row


async def get(session: AsyncSession, controller_id: uuid.UUID, version: int) -> ScheduleVersion:
    """One version.

    Raises:
        NotFound: there is none of this number.
    """
    row = await session.get(ScheduleVersion, (controller_id, version))
    if row is None:
        raise NotFound("no such schedule version")
    return row


async def listing(session: AsyncSession, controller_id: uuid.UUID) -> Sequence[ScheduleVersion]:
    """Every version, the newest first."""
    query = (
        sa.select(ScheduleVersion)
        .where(ScheduleVersion.controller_id == controller_id)
        .order_by(ScheduleVersion.version.desc())
    )
    return list(await session.scalars(query))


def _audit(session: AsyncSession, action: str, row: ScheduleVersion, actor: str, now: datetime) -> None:
    record(
        session,
        AuditEvent(
            action=action,
            actor=actor,
            object_type="schedule",
            object_id=f"{row.controller_id}:{row.version}",
            controller_id=row.controller_id,
            details={"version": row.version},
        ),
        now=now,
    )
