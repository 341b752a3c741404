"""Personal data breaches (GDPR art. 33, 34): who heard what, when, and the 72 hours to tell the authority."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import BreachState
from recorder.catalogue.sealed_fields import BREACH_RECORD
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import Breach, BreachRecording, Listen, Recording
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from recorder.registers.sealing import controller_subject
from recorder.services import Services

# Of the clock: a period in hours is not moved by holidays (Regulation 1182/71 art. 3(4)).
NOTIFY_WITHIN: Final = timedelta(hours=72)
WORDS: Final = ("facts", "effects", "measures", "delay", "reason")


@dataclass(frozen=True, slots=True)
class NewBreach:
    """What a breach is entered with.

    Attributes:
        aware_at: when the controller became aware of it; starts the clock.
        seen_from, seen_until: when data lay open; the second is the first instant after.
        actor: whose access was misused, as the log names them, if it was one's.
        recording_ids: what it is about; none for whatever was heard in that time.
        facts: what happened; may name persons, so it is sealed.
    """

    aware_at: datetime
    seen_from: datetime
    seen_until: datetime
    facts: str
    actor: str | None = None
    recording_ids: tuple[uuid.UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class BreachView:
    """A breach with its words.

    Attributes:
        words: of ``WORDS`` those that were written.
        overdue: the authority was not told in time, or is not told yet and the time is over.
    """

    row: Breach
    words: Mapping[str, str]
    recording_ids: tuple[uuid.UUID, ...]
    overdue: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """One listen that a breach reaches: who, what, when, how much."""

    listen_id: uuid.UUID
    recording_id: uuid.UUID
    actor: str
    purpose: str
    link_id: uuid.UUID | None
    opened_at: datetime
    last_active_at: datetime
    seconds: float


async def open_breach(
    services: Services, principal: Principal, controller_id: uuid.UUID, new: NewBreach, *, request_id: str
) -> BreachView:
    """Enter a breach; its clock runs from when it was known, not from now.

    Raises:
        Forbidden: the caller does not handle breaches here.
        InvalidInput: known in the future, or a time that ends before it begins.
        NotFound: no such recording at this controller.
    """
    await permit(
        services, principal, Action.MANAGE_BREACHES, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    if new.aware_at > now:
        raise InvalidInput(
            "nobody knows of a breach yet to come", fields=[FieldError("/aware_at", "not after now")]
        )
    if new.seen_until <= new.seen_from:
        raise InvalidInput(
            "the time ends before it begins", fields=[FieldError("/seen_until", "after seen_from")]
        )
    recording_ids = tuple(sorted(set(new.recording_ids)))
    async with services.database.transaction() as session:
        await _require_recordings(session, controller_id, recording_ids)
        subject = await controller_subject(session, controller_id)
        breach_id = uuid.uuid4()
        words = {"facts": new.facts}
        row = Breach(
            id=breach_id,
            controller_id=controller_id,
            state=BreachState.OPEN,
            sealed=seal_json(services.keyring, subject, BREACH_RECORD, breach_id, words),
            aware_at=new.aware_at,
            due_at=new.aware_at + NOTIFY_WITHIN,
            seen_from=new.seen_from,
            seen_until=new.seen_until,
            actor=new.actor,
            opened_at=now,
            opened_by=principal.actor,
        )
        session.add(row)
        await session.flush()
        session.add_all(BreachRecording(breach_id=breach_id, recording_id=item) for item in recording_ids)
        _audit(session, "breach.opened", row, principal.actor, now, request_id, due_at=row.due_at.isoformat())
    return BreachView(row, words, recording_ids, _overdue(row, now))


async def list_breaches(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    due_within: timedelta | None = None,
    request_id: str,
) -> list[BreachView]:
    """A controller's breaches, what is due first; or only those whose clock runs out within a time.

    Raises:
        Forbidden: the caller may not see the registers here.
    """
    await permit(
        services, principal, Action.VIEW_REGISTERS, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    query = sa.select(Breach).where(Breach.controller_id == controller_id)
    if due_within is not None:
        query = query.where(Breach.state == BreachState.OPEN, Breach.due_at <= now + due_within)
    order = sa.case((Breach.state == BreachState.OPEN, 0), else_=1)
    async with services.database.snapshot() as session:
        rows = list(await session.scalars(query.order_by(order, Breach.due_at, Breach.id)))
        return [await _view(session, services, row, now) for row in rows]


async def get_breach(
    services: Services, principal: Principal, breach_id: uuid.UUID, *, request_id: str
) -> BreachView:
    """One breach.

    Raises:
        NotFound: there is none of this id.
        Forbidden: the caller may not see the registers there.
    """
    await _permit(services, principal, breach_id, Action.VIEW_REGISTERS, request_id)
    async with services.database.snapshot() as session:
        row = await session.get_one(Breach, breach_id)
        return await _view(session, services, row, services.clock.now())


async def heard(
    services: Services,
    principal: Principal,
    breach_id: uuid.UUID,
    *,
    after: uuid.UUID | None = None,
    limit: int = 500,
    request_id: str,
) -> list[Heard]:
    """Who heard what, the first first: every listen in the breach's time, of its actor, of its recordings.

    Args:
        services: Parts of the service.
        principal: Who asks.
        breach_id: Which.
        after: The last listen of the page before.
        limit: How many at most.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        NotFound: no such breach, or no such listen to go on after.
        Forbidden: the caller does not handle breaches there.
    """
    await _permit(services, principal, breach_id, Action.MANAGE_BREACHES, request_id)
    async with services.database.snapshot() as session:
        row = await session.get_one(Breach, breach_id)
        ended = sa.func.coalesce(Listen.closed_at, Listen.last_active_at)
        query = (
            sa.select(Listen)
            .join(Recording, Recording.id == Listen.recording_id)
            .where(
                Recording.controller_id == row.controller_id,
                Listen.opened_at < row.seen_until,
                ended >= row.seen_from,
            )
        )
        if row.actor is not None:
            query = query.where(Listen.actor == row.actor)
        named = await _recordings(session, breach_id)
        if named:
            query = query.where(Listen.recording_id.in_(named))
        if after is not None:
            last = await session.get(Listen, after)
            if last is None:
                raise NotFound("no such listen to go on after")
            later = sa.or_(
                Listen.opened_at > last.opened_at,
                sa.and_(Listen.opened_at == last.opened_at, Listen.id > last.id),
            )
            query = query.where(later)
        found = await session.scalars(query.order_by(Listen.opened_at, Listen.id).limit(limit))
        return [
            Heard(
                listen.id,
                listen.recording_id,
                listen.actor,
                listen.purpose,
                listen.link_id,
                listen.opened_at,
                listen.last_active_at,
                listen.seconds,
            )
            for listen in found
        ]


async def describe(
    services: Services,
    principal: Principal,
    breach_id: uuid.UUID,
    *,
    words: Mapping[str, str],
    persons_told_at: datetime | None = None,
    request_id: str,
) -> BreachView:
    """Write down facts, effects and measures (GDPR art. 33(5)), and when the persons were told (art. 34).

    Raises:
        NotFound: there is none of this id.
        Forbidden: the caller does not handle breaches there.
        Conflict: it is closed.
        InvalidInput: the persons are told in the future.
    """
    if persons_told_at is not None:
        _refuse_future(persons_told_at, services.clock.now(), "/persons_told_at")
    values = {} if persons_told_at is None else {"persons_told_at": persons_told_at}
    return await _change(
        services, principal, breach_id, "breach.described", request_id, words=words, values=values
    )


async def notify(
    services: Services,
    principal: Principal,
    breach_id: uuid.UUID,
    *,
    notified_at: datetime,
    reference: str,
    delay: str = "",
    request_id: str,
) -> BreachView:
    """Record that the authority was told.

    Args:
        services: Parts of the service.
        principal: Who records it.
        breach_id: Which.
        notified_at: When it was told.
        reference: The authority's number for it.
        delay: Why it took longer than 72 hours, which then has to be said (GDPR art. 33(1)).
        request_id: Ties the audit entry to the service's logs.

    Raises:
        NotFound, Forbidden: as for :func:`describe`.
        Conflict: it was told before, or the breach is closed.
        InvalidInput: late and no reason given, or a time to come, or one before it was known.
    """
    now = services.clock.now()
    _refuse_future(notified_at, now, "/notified_at")
    await _permit(services, principal, breach_id, Action.MANAGE_BREACHES, request_id)
    async with services.database.snapshot() as session:
        row = await session.get_one(Breach, breach_id)
    if notified_at < row.aware_at:
        raise InvalidInput(
            "told before it was known", fields=[FieldError("/notified_at", "not before aware_at")]
        )
    if notified_at > row.due_at and not delay.strip():
        raise InvalidInput(
            "a late notification gives the reasons for the delay (GDPR art. 33(1))",
            fields=[FieldError("/delay", "say why it took longer than 72 hours")],
        )
    return await _change(
        services,
        principal,
        breach_id,
        "breach.notified",
        request_id,
        words={"delay": delay} if delay.strip() else {},
        values={
            "state": BreachState.NOTIFIED,
            "notified_at": notified_at,
            "notified_by": principal.actor,
            "notification_reference": reference,
        },
        # Found to be no risk before, and a risk after all: the authority may still be told.
        expected=(BreachState.OPEN, BreachState.NOT_REQUIRED),
    )


async def need_no_notice(
    services: Services, principal: Principal, breach_id: uuid.UUID, *, reason: str, request_id: str
) -> BreachView:
    """Record why a breach is unlikely to be a risk to anybody, so that the authority need not be told.

    Raises:
        NotFound, Forbidden: as for :func:`describe`.
        Conflict: the breach is not open.
    """
    return await _change(
        services,
        principal,
        breach_id,
        "breach.not_notifiable",
        request_id,
        words={"reason": reason},
        values={"state": BreachState.NOT_REQUIRED},
        expected=(BreachState.OPEN,),
    )


async def close(
    services: Services, principal: Principal, breach_id: uuid.UUID, *, request_id: str
) -> BreachView:
    """Close a breach that was notified, or found not to need it.

    Raises:
        NotFound, Forbidden: as for :func:`describe`.
        Conflict: the authority still waits to be told, or it is closed.
    """
    return await _change(
        services,
        principal,
        breach_id,
        "breach.closed",
        request_id,
        values={
            "state": BreachState.CLOSED,
            "closed_at": services.clock.now(),
            "closed_by": principal.actor,
        },
        expected=(BreachState.NOTIFIED, BreachState.NOT_REQUIRED),
    )


async def _change(
    services: Services,
    principal: Principal,
    breach_id: uuid.UUID,
    action: str,
    request_id: str,
    *,
    words: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    expected: Sequence[BreachState] = (BreachState.OPEN, BreachState.NOTIFIED, BreachState.NOT_REQUIRED),
) -> BreachView:
    await _permit(services, principal, breach_id, Action.MANAGE_BREACHES, request_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get_one(Breach, breach_id, with_for_update=True, populate_existing=True)
        if row.state not in expected:
            raise Conflict(f"the breach is {row.state.value.replace('_', ' ')}", kind="breach-state")
        if words:
            subject = await controller_subject(session, row.controller_id)
            known = open_json(services.keyring, subject, BREACH_RECORD, row.id, row.sealed)
            row.sealed = seal_json(services.keyring, subject, BREACH_RECORD, row.id, {**known, **words})
        for name, value in (values or {}).items():
            setattr(row, name, value)
        _audit(session, action, row, principal.actor, now, request_id, state=row.state.value)
        await session.flush()
        return await _view(session, services, row, now)


def _refuse_future(at: datetime, now: datetime, pointer: str) -> None:
    if at > now:
        raise InvalidInput("what is recorded has happened", fields=[FieldError(pointer, "not after now")])


def _overdue(row: Breach, now: datetime) -> bool:
    if row.notified_at is not None:
        return row.notified_at > row.due_at
    return row.state is BreachState.OPEN and row.due_at < now


async def _view(session: AsyncSession, services: Services, row: Breach, now: datetime) -> BreachView:
    subject = await controller_subject(session, row.controller_id)
    words = open_json(services.keyring, subject, BREACH_RECORD, row.id, row.sealed)
    return BreachView(row, words, await _recordings(session, row.id), _overdue(row, now))


async def _recordings(session: AsyncSession, breach_id: uuid.UUID) -> tuple[uuid.UUID, ...]:
    query = sa.select(BreachRecording.recording_id).where(BreachRecording.breach_id == breach_id)
    return tuple(sorted(await session.scalars(query)))


async def _require_recordings(
    session: AsyncSession, controller_id: uuid.UUID, recording_ids: Sequence[uuid.UUID]
) -> None:
    query = (
        sa.select(sa.func.count())
        .select_from(Recording)
        .where(Recording.id.in_(recording_ids), Recording.controller_id == controller_id)
    )
    if recording_ids and await session.scalar(query) != len(recording_ids):
        raise NotFound("no such recording")


async def _permit(
    services: Services, principal: Principal, breach_id: uuid.UUID, action: Action, request_id: str
) -> None:
    async with services.database.snapshot() as session:
        row = await session.get(Breach, breach_id)
    if row is None:
        raise NotFound("no such breach")
    await permit(
        services,
        principal,
        action,
        controller_id=row.controller_id,
        object_type="breach",
        object_id=str(breach_id),
        request_id=request_id,
    )


def _audit(
    session: AsyncSession,
    action: str,
    row: Breach,
    actor: str,
    now: datetime,
    request_id: str | None,
    **details: str,
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="breach",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details=details,
    )
    record(session, event, now=now)
