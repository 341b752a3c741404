"""Enforcing how long the records beside the calls live: by the schedule, in pages, held where they must stay.

Each page is one transaction: rows that are due and that nothing keeps are locked, destroyed, and entered in
the log together. Whoever stops anywhere loses nothing; several processes share the work (``SKIP LOCKED``).
More at once than the bulk brake lets through waits for a second person, kind by kind.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ApprovalState, ErasureGround
from recorder.catalogue.tables import Approval, AuditEntry, Controller, Customer
from recorder.disposition import erasures
from recorder.disposition.facts import active_schedule
from recorder.disposition.record_classes import CLASSES, LOG_DISPOSED, Destroy, RecordClass
from recorder.errors import Conflict, Erased, NotFound
from recorder.services import Services
from retention.model import Schedule
from retention.periods import over_before, zone_of
from retention.schedule import records_due_before
from retention.sweep import BulkBrake

__all__ = [
    "BRAKE",
    "ClassCount",
    "Outcome",
    "count",
    "destroyed_since",
    "dispose",
    "dispose_all",
    "shortened",
]

ACTOR: Final = "system:sweep"
BRAKE: Final = "records_brake"
PAGE: Final = 200
_APPROVAL_LIFE: Final = timedelta(days=7)
_NO_LIMIT: Final = 2**62


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many of one kind there are.

    Attributes:
        name: the kind.
        total: what is there.
        due: its time is over and nothing keeps it.
        kept: its time is over, and a hold, a request or something that rests on it keeps it.
    """

    name: str
    total: int
    due: int
    kept: int

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        return {"record": self.name, "total": self.total, "due": self.due, "kept": self.kept}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did with one kind.

    Attributes:
        destroyed: how many went.
        approval: a second person's approval that is waited for, where the brake stopped it.
    """

    name: str
    destroyed: int = 0
    approval: uuid.UUID | None = None


async def count(
    session: AsyncSession, controller_id: uuid.UUID, now: datetime, *, schedule: Schedule | None = None
) -> list[ClassCount]:
    """What of each kind is there, due and kept, by the schedule in force or by another one.

    Raises:
        NotFound: there is no such controller.
    """
    controller = await session.get(Controller, controller_id)
    if controller is None:
        raise NotFound("no such controller")
    await asyncio.to_thread(zone_of, controller.time_zone)  # the first time it is read from a file
    plan = schedule or await active_schedule(session, controller_id)
    found = []
    for kind in CLASSES:
        over = _over(kind, plan, controller, now)
        held = kind.held(_grace_from(plan, controller, now))
        over = sa.false() if over is None else over
        query = sa.select(
            sa.func.count().label("total"),
            sa.func.count().filter(sa.and_(over, sa.not_(held))).label("due"),
            sa.func.count().filter(sa.and_(over, held)).label("kept"),
        )
        query = query.select_from(kind.key.class_).where(kind.mine(controller_id))
        row = (await session.execute(query)).one()
        found.append(ClassCount(kind.name, row.total, row.due, row.kept))
    return found


def shortened(old: Schedule, new: Schedule, now: datetime, zone: str) -> set[str]:
    """Kinds whose rows would go earlier by the new schedule, or from another event than before."""
    found = set()
    for kind in CLASSES:
        before, after = (records_due_before(plan, kind.record, now, zone) for plan in (old, new))
        if after is None:
            continue
        other_event = (
            before is not None and old.dispositions[kind.record].after != new.dispositions[kind.record].after
        )
        if before is None or after > before or other_event:
            found.add(kind.name)
    return found


async def dispose_all(services: Services, *, actor: str = ACTOR) -> dict[str, list[Outcome]]:
    """Destroy what is due of every controller; outcomes by the controller's code."""
    async with services.database.snapshot() as session:
        rows = await session.execute(sa.select(Controller.id, Controller.code).order_by(Controller.code))
        controllers = [(row.id, row.code) for row in rows]
    return {code: await dispose(services, found, actor=actor) for found, code in controllers}


async def dispose(services: Services, controller_id: uuid.UUID, *, actor: str = ACTOR) -> list[Outcome]:
    """Destroy what is due of one controller, kind by kind.

    Returns:
        One outcome per kind of which anything was due.

    Raises:
        NotFound: there is no such controller.
        Unavailable: the database or the store is away; the next run goes on.
    """
    now = services.clock.now()
    async with services.database.snapshot() as session:
        plan = await active_schedule(session, controller_id)
        controller = await session.get(Controller, controller_id)
        counts = {found.name: found for found in await count(session, controller_id, now, schedule=plan)}
    if controller is None:
        raise NotFound("no such controller")
    outcomes = []
    for kind in CLASSES:
        over, counted = _over(kind, plan, controller, now), counts[kind.name]
        if over is None or not counted.due:
            continue
        settings = services.settings
        brake = BulkBrake(
            share=settings.sweep_brake_share, count=_NO_LIMIT if kind.steady else settings.sweep_brake_count
        )
        if brake.stops(counted.due, counted.total):
            waits = await _ask_or_spend(services, controller_id, counted, actor, now)
            if waits is not None:
                outcomes.append(Outcome(kind.name, approval=waits))
                continue
        which = sa.and_(
            kind.mine(controller_id), over, sa.not_(kind.held(_grace_from(plan, controller, now)))
        )
        if kind.destroy is None:
            done = await _erase_customers(services, kind, which, actor, now)
        else:
            done = await _destroy(
                services, controller_id, kind, kind.destroy, which, plan.version, actor, now
            )
        outcomes.append(Outcome(kind.name, done))
    if any(found.destroyed for found in outcomes):
        await services.database.flush_deleted()
    return outcomes


def _over(
    kind: RecordClass, schedule: Schedule, controller: Controller, now: datetime
) -> sa.ColumnElement[bool] | None:
    """That a row's time is over; None where the schedule says nothing about this kind."""
    before = records_due_before(schedule, kind.record, now, controller.time_zone)
    if before is None:
        return None
    event = kind.events.get(schedule.dispositions[kind.record].after)
    return None if event is None else sa.and_(event.is_not(None), event < before)


def _grace_from(schedule: Schedule, controller: Controller, now: datetime) -> datetime:
    return over_before(schedule.hold_grace, now, zone_of(controller.time_zone))


async def _destroy(
    services: Services,
    controller_id: uuid.UUID,
    kind: RecordClass,
    destroy: Destroy,
    which: sa.ColumnElement[bool],
    version: int,
    actor: str,
    now: datetime,
) -> int:
    done = 0
    while True:
        async with services.database.transaction() as session:
            page = (
                sa.select(kind.key)
                .where(which)
                .order_by(kind.key)
                .limit(PAGE)
                .with_for_update(skip_locked=True, of=kind.key.class_)
            )
            ids = list(await session.scalars(page))
            if not ids:
                return done
            places = await _places(session, ids) if kind.key is AuditEntry.id else None
            await destroy(session, ids, now)
            _enter(session, controller_id, kind, ids, version, actor, now)
            if places is not None:
                # The verifier accepts an emptied place only where the log itself says so.
                event = AuditEvent(
                    action=LOG_DISPOSED,
                    actor=actor,
                    object_type="controller",
                    object_id=str(controller_id),
                    controller_id=controller_id,
                    details={"schedule": version, "places": places},
                )
                record(session, event, now=now)
        done += len(ids)


async def _places(session: AsyncSession, ids: Sequence[uuid.UUID]) -> list[int]:
    """The indexes of log entries, as first and last of each unbroken run."""
    query = sa.select(AuditEntry.index).where(AuditEntry.id.in_(ids), AuditEntry.index.is_not(None))
    runs: list[int] = []
    for index in await session.scalars(query.order_by(AuditEntry.index)):
        if index is None:
            continue
        if runs and runs[-1] == index - 1:
            runs[-1] = index
        else:
            runs += [index, index]
    return runs


def _enter(
    session: AsyncSession,
    controller_id: uuid.UUID,
    kind: RecordClass,
    ids: Sequence[uuid.UUID],
    version: int,
    actor: str,
    now: datetime,
) -> None:
    def event(action: str, object_type: str, object_id: uuid.UUID, **details: Any) -> AuditEvent:
        return AuditEvent(
            action=action,
            actor=actor,
            object_type=object_type,
            object_id=str(object_id),
            controller_id=controller_id,
            details={"record": kind.name, "schedule": version, **details},
        )

    if kind.singly:
        for record_id in ids:
            record(session, event("record.destroyed", kind.name, record_id), now=now)
    together = event("records.destroyed", "controller", controller_id, count=len(ids))
    record(session, together, now=now)


async def _erase_customers(
    services: Services, kind: RecordClass, which: sa.ColumnElement[bool], actor: str, now: datetime
) -> int:
    """Customers whose relationship ended and who have no recording left, each with a certificate."""
    done, after = 0, uuid.UUID(int=0)
    while True:
        async with services.database.snapshot() as session:
            page = sa.select(kind.key).where(which, kind.key > after).order_by(kind.key).limit(PAGE)
            ids = list(await session.scalars(page))
        if not ids:
            return done
        for customer_id in ids:
            async with services.database.snapshot() as session:
                still = await session.scalar(sa.select(kind.key).where(which, kind.key == customer_id))
            if still is None:
                continue  # they were in touch meanwhile
            try:
                await erasures.erase_customer(
                    services,
                    customer_id,
                    ground=ErasureGround.RELATIONSHIP_ENDED,
                    requested_by=actor,
                    now=now,
                )
            except (Erased, Conflict):
                continue  # another erasure has them
            done += 1
            async with services.database.transaction() as session:
                owner = await session.get_one(Customer, customer_id)
                plan = await active_schedule(session, owner.controller_id)
                _enter(session, owner.controller_id, kind, [customer_id], plan.version, actor, now)
        after = ids[-1]


async def _ask_or_spend(
    services: Services, controller_id: uuid.UUID, counted: ClassCount, actor: str, now: datetime
) -> uuid.UUID | None:
    """Spend an approval that covers this many, or ask for one.

    Returns:
        The approval that is waited for; None when one was spent.
    """
    target = f"{controller_id}:{counted.name}"
    async with services.database.transaction() as session:
        await session.get(Controller, controller_id, with_for_update={"key_share": True})
        query = sa.select(Approval).where(
            Approval.controller_id == controller_id,
            Approval.action == BRAKE,
            Approval.target == target,
            Approval.state.in_([ApprovalState.PENDING, ApprovalState.APPROVED]),
            Approval.expires_at > now,
        )
        for known in await session.scalars(query.order_by(Approval.requested_at)):
            if known.details["count"] < counted.due:
                continue
            if known.state is ApprovalState.PENDING or known.decided_by in {None, known.requested_by}:
                return known.id
            known.state, known.used_at = ApprovalState.USED, now
            _audit_approval(session, "approval.used", known, actor, now, "ok")
            return None
        asked = Approval(
            id=uuid.uuid4(),
            controller_id=controller_id,
            action=BRAKE,
            target=target,
            details={"record": counted.name, "count": counted.due, "population": counted.total},
            state=ApprovalState.PENDING,
            requested_by=actor,
            requested_at=now,
            expires_at=now + _APPROVAL_LIFE,
            decided_by=None,
            decided_at=None,
            used_at=None,
        )
        session.add(asked)
        _audit_approval(session, "records.braked", asked, actor, now, "refused")
        return asked.id


def _audit_approval(
    session: AsyncSession, action: str, row: Approval, actor: str, now: datetime, outcome: str
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="approval",
        object_id=str(row.id),
        outcome=outcome,
        controller_id=row.controller_id,
        details=dict(row.details),
    )
    record(session, event, now=now)


async def destroyed_since(
    session: AsyncSession, controller_id: uuid.UUID, since: datetime
) -> Mapping[str, int]:
    """How many of each kind were destroyed since then, from the log."""
    query = sa.select(AuditEntry.payload).where(
        AuditEntry.object_id == str(controller_id),
        AuditEntry.action == "records.destroyed",
        AuditEntry.at >= since,
    )
    found: dict[str, int] = {}
    for payload in await session.scalars(query):
        details = json.loads(payload)["details"]
        found[details["record"]] = found.get(details["record"], 0) + int(details["count"])
    return found
