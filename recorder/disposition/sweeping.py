"""The sweep on the catalogue: what is due by index, the brake as an approval; see ``retention.sweep``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.database import Database
from recorder.catalogue.enums import ApprovalState, ErasureGround, RecordingState
from recorder.catalogue.tables import Approval, Controller, Erasure, Recording
from recorder.disposition import erasures
from recorder.disposition.evaluation import store_decision
from recorder.disposition.facts import ALIVE, load_case, load_cases
from recorder.errors import Erased, NotFound
from recorder.services import Services
from retention.decision import Decision
from retention.erasure import ErasureResult
from retention.model import Case
from retention.sweep import BulkBrake, Sweep, SweepReport

ACTOR: Final = "system:sweep"
BRAKE_ACTION: Final = "sweep_brake"
GRACE: Final = timedelta(days=1)
"""A sweep runs each night: what was to go for longer than this was left behind."""
_APPROVAL_LIFE: Final = timedelta(days=7)
_TURNS: Final[WeakKeyDictionary[Database, asyncio.Lock]] = WeakKeyDictionary()
_LIVE: Final = (ApprovalState.PENDING, ApprovalState.APPROVED)


async def sweep(
    services: Services,
    controller_id: uuid.UUID,
    now: datetime,
    *,
    dry_run: bool = False,
    actor: str = ACTOR,
    approval: str | None = None,
) -> SweepReport:
    """Sweep one controller's recordings once. Any number of processes may do it at once and share the work.

    Args:
        dry_run: decide and report, change nothing.
        actor: on whose behalf, for the log.
        approval: a second person's approval for more than the brake lets through.

    Raises:
        recorder.errors.Unavailable: the database is away; what was begun is resumed by the next sweep.
    """
    settings = services.settings
    brake = BulkBrake(share=settings.sweep_brake_share, count=settings.sweep_brake_count)
    port = SqlSweepPort(services, controller_id, actor)

    async def erase(erasure_id: str) -> ErasureResult | None:
        return await _run_unless_taken(services, uuid.UUID(erasure_id))

    async with _turn(services, dry_run=dry_run):
        report = await Sweep(port, erase, brake).run(now, dry_run=dry_run, approval=approval)
    if not dry_run:
        async with services.database.transaction() as session:
            record(
                session,
                AuditEvent(
                    action="sweep.finished",
                    actor=actor,
                    object_type="controller",
                    object_id=str(controller_id),
                    outcome="refused" if report.braked else "failed" if report.failed else "ok",
                    controller_id=controller_id,
                    details={
                        "considered": report.considered,
                        "due": len(report.due),
                        "erased": len(report.erased),
                        "kept": len(report.kept),
                        "resumed": len(report.resumed),
                        "failed": len(report.failed),
                        "approval": report.approval_id,
                    },
                ),
                now=services.clock.now(),
            )
    return report


@asynccontextmanager
async def _turn(services: Services, *, dry_run: bool) -> AsyncIterator[None]:
    """On SQLite another sweep's reads would hold back the write-ahead log, whose old pages must go."""
    if dry_run or not services.database.sqlite:
        yield
        return
    async with _TURNS.setdefault(services.database, asyncio.Lock()):
        yield


async def _run_unless_taken(services: Services, erasure_id: uuid.UUID) -> ErasureResult | None:
    """Run an erasure, unless another worker runs it now or has brought it to its end.

    On PostgreSQL a worker has an erasure by an advisory lock of its connection, which ends with the process
    however that ends. SQLite has no such lock: there sweeps of one process take turns, and the steps
    themselves, each idempotent and each its own writing transaction, keep two processes apart.
    """
    async with _claimed(services, erasure_id) as mine:
        if not mine:
            return None
        async with services.database.snapshot() as session:
            over = await session.scalar(sa.select(Erasure.finished_at).where(Erasure.id == erasure_id))
        return None if over is not None else await erasures.machine(services).run(str(erasure_id))


@asynccontextmanager
async def _claimed(services: Services, erasure_id: uuid.UUID) -> AsyncIterator[bool]:
    if services.database.sqlite:
        yield True
        return
    key = int.from_bytes(erasure_id.bytes[:8], signed=True)
    async with services.database.engine.connect() as connection:
        # No transaction stays open meanwhile: it would hold back the vacuum.
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        if not await connection.scalar(sa.select(sa.func.pg_try_advisory_lock(key))):
            yield False
            return
        try:
            yield True
        finally:
            await connection.execute(sa.select(sa.func.pg_advisory_unlock(key)))


async def sweep_all(
    services: Services, *, dry_run: bool = False, actor: str = ACTOR
) -> dict[str, SweepReport]:
    """Sweep every controller; reports by the controller's code."""
    async with services.database.snapshot() as session:
        query = sa.select(Controller.id, Controller.code).order_by(Controller.code)
        controllers = [(row.id, row.code) for row in await session.execute(query)]
    return {
        code: await sweep(services, controller_id, services.clock.now(), dry_run=dry_run, actor=actor)
        for controller_id, code in controllers
    }


@dataclass(frozen=True, slots=True)
class Overdue:
    """What the sweeps left behind; both should be zero.

    Attributes:
        recordings: to go for more than a day, and no erasure of them was begun.
        erasures: begun more than a day ago and not finished.
    """

    recordings: int
    erasures: int


async def overdue(session: AsyncSession, now: datetime, controller_id: uuid.UUID | None = None) -> Overdue:
    """Count what is overdue, of one controller or of all: the metrics and the report mean the same."""
    # Controllers by name even where all are meant: ix_recordings_sweep begins with them.
    owners = sa.select(Controller.id)
    if controller_id is not None:
        owners = owners.where(Controller.id == controller_id)
    recordings = (
        sa.select(sa.func.count())
        .select_from(Recording)
        .where(
            Recording.controller_id.in_(owners),
            Recording.sweep_on <= now - GRACE,
            Recording.state.in_(ALIVE),
            lateness(now) == "overdue",
        )
    )
    begun = (
        sa.select(sa.func.count())
        .select_from(Erasure)
        .where(
            Erasure.controller_id.in_(owners),
            Erasure.finished_at.is_(None),
            Erasure.requested_at < now - GRACE,
        )
    )
    return Overdue(int(await session.scalar(recordings) or 0), int(await session.scalar(begun) or 0))


def lateness(now: datetime) -> sa.Case[str]:
    """By its stored decision, whether a recording's time is over: ``no``, ``waiting``, ``due``, ``overdue``.

    It counts from when the service knew: a call that came after its time, an old archive or a shorter
    schedule is due at once, and overdue only when a night's sweep has left it behind. No sweep stores the
    decision of what is due anew, so that one which fails night after night cannot hide it.
    """
    ends, known = Recording.erase_on, sa.func.coalesce(Recording.evaluated_at, Recording.received_at)
    return sa.case(
        (ends.is_(None), "no"),
        (ends > now, "no"),
        (sa.or_(Recording.held, Recording.restricted, Recording.state == RecordingState.ERASING), "no"),
        (Recording.decision["frozen"].as_boolean(), "waiting"),
        (sa.and_(ends <= now - GRACE, known <= now - GRACE), "overdue"),
        else_="due",
    )


def due_query(
    controller_id: uuid.UUID, now: datetime, limit: int, after: uuid.UUID | None
) -> sa.Select[uuid.UUID]:
    """Recordings that the sweep has to look at, by ``ix_recordings_sweep``, in id order."""
    query = sa.select(Recording.id).where(
        Recording.controller_id == controller_id, Recording.sweep_on <= now, Recording.state.in_(ALIVE)
    )
    if after is not None:
        query = query.where(Recording.id > after)
    return query.order_by(Recording.id).limit(limit)


class SqlSweepPort:
    """``retention.ports.SweepPort`` on one controller's recordings."""

    def __init__(self, services: Services, controller_id: uuid.UUID, actor: str = ACTOR) -> None:
        self._services = services
        self._controller_id = controller_id
        self._actor = actor
        self._cases: dict[uuid.UUID, Case] = {}

    async def unfinished(self, limit: int) -> Sequence[str]:
        """See ``SweepPort``."""
        query = (
            sa.select(Erasure.id)
            .where(Erasure.controller_id == self._controller_id, Erasure.finished_at.is_(None))
            .order_by(Erasure.requested_at, Erasure.id)
            .limit(limit)
        )
        async with self._services.database.snapshot() as session:
            return [str(found) for found in await session.scalars(query)]

    async def due(self, now: datetime, limit: int, after: str | None) -> Sequence[str]:
        """See ``SweepPort``; ``sweep_on`` is the earliest of the dates that the contract names."""
        query = due_query(self._controller_id, now, limit, None if after is None else uuid.UUID(after))
        async with self._services.database.snapshot() as session:
            ids = list(await session.scalars(query))
            # Asked for one by one next; what changes in between is seen by the judgement under lock.
            self._cases = await load_cases(session, ids, now)
        return [str(recording_id) for recording_id in ids]

    async def case(self, recording_id: str) -> Case | None:
        """See ``SweepPort``."""
        known = self._cases.pop(uuid.UUID(recording_id), None)
        if known is not None:
            return known
        async with self._services.database.snapshot() as session:
            return await load_case(session, uuid.UUID(recording_id), self._services.clock.now())

    async def population(self) -> int:
        """See ``SweepPort``."""
        query = (
            sa.select(sa.func.count())
            .select_from(Recording)
            .where(Recording.controller_id == self._controller_id, Recording.state.in_(ALIVE))
        )
        async with self._services.database.snapshot() as session:
            return int(await session.scalar(query) or 0)

    async def settle(self, recording_id: str, decision: Mapping[str, object], now: datetime) -> None:
        """See ``SweepPort``."""
        async with self._services.database.transaction() as session:
            row = await session.get(Recording, uuid.UUID(recording_id))
            if row is not None and row.state in ALIVE:
                store_decision(row, Decision.from_json(decision), now)

    async def brake(self, count: int, population: int, now: datetime) -> str:
        """See ``SweepPort``."""
        async with self._services.database.transaction() as session:
            await session.get(Controller, self._controller_id, with_for_update={"key_share": True})
            query = sa.select(Approval).where(
                Approval.controller_id == self._controller_id,
                Approval.action == BRAKE_ACTION,
                Approval.state.in_(_LIVE),
                Approval.expires_at > now,
            )
            for known in await session.scalars(query.order_by(Approval.requested_at)):
                if known.details["count"] >= count:
                    return str(known.id)
            approval = Approval(
                id=uuid.uuid4(),
                controller_id=self._controller_id,
                action=BRAKE_ACTION,
                target=str(self._controller_id),
                details={"count": count, "population": population},
                state=ApprovalState.PENDING,
                requested_by=self._actor,
                requested_at=now,
                expires_at=now + _APPROVAL_LIFE,
                decided_by=None,
                decided_at=None,
                used_at=None,
            )
            session.add(approval)
            record(
                session,
                AuditEvent(
                    action="sweep.braked",
                    actor=self._actor,
                    object_type="approval",
                    object_id=str(approval.id),
                    outcome="refused",
                    controller_id=self._controller_id,
                    details={"count": count, "population": population},
                ),
                now=now,
            )
            return str(approval.id)

    async def use_approval(self, approval_id: str, count: int, now: datetime) -> bool:
        """See ``SweepPort``."""
        async with self._services.database.transaction() as session:
            found = await session.get(Approval, uuid.UUID(approval_id), with_for_update=True)
            if (
                found is None
                or found.controller_id != self._controller_id
                or found.action != BRAKE_ACTION
                or found.state is not ApprovalState.APPROVED
                or found.expires_at <= now
                or found.decided_by in {None, found.requested_by}
                or found.details["count"] < count
            ):
                return False
            found.state, found.used_at = ApprovalState.USED, now
            record(
                session,
                AuditEvent(
                    action="approval.used",
                    actor=self._actor,
                    object_type="approval",
                    object_id=approval_id,
                    controller_id=self._controller_id,
                    details={"count": count},
                ),
                now=now,
            )
            return True

    async def open_erasure(self, recording_id: str, ground: str, scope: str, now: datetime) -> str | None:
        """See ``SweepPort``."""
        what: Literal["recording", "original"] = "original" if scope == "original" else "recording"
        async with self._services.database.transaction() as session:
            try:
                found = await erasures.open_recording(
                    session,
                    uuid.UUID(recording_id),
                    ground=ErasureGround(ground),
                    requested_by=self._actor,
                    now=now,
                    scope=what,
                )
            except (Erased, NotFound):
                return None
            return str(found)
