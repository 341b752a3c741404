"""The retention report: what is kept, why, until when, what was erased, what is overdue.

One statement reads each living recording once and answers in groups; months are those of the controller's
time zone. A group says what the recordings' stored decisions say; playback and the sweep decide afresh.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.database import Database
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import Controller, Erasure, ErasureItem, Recording
from recorder.disposition import other_records
from recorder.disposition.facts import active_schedule
from recorder.disposition.plain import LocalDays, offsets_of
from recorder.disposition.sweeping import lateness
from recorder.disposition.sweeping import overdue as count_overdue
from recorder.errors import NotFound
from recorder.services import Services
from retention.model import Purpose
from retention.periods import zone_of

__all__ = ["WHY_WORDS", "Counted", "Due", "Erased", "Kept", "RetentionReport", "recent", "report"]

WHY_WORDS: Final = {
    "rule": "a rule of the schedule",
    "hold": "a legal hold",
    "restriction": "a restriction of processing",
    "person": "a person has to decide",
    "open_ended": "its end is not known yet",
    "not_decided": "not decided yet",
    "erasing": "being erased",
}
_FRESH: Final = timedelta(minutes=1)
# Most calls' last window is one of the first: the search for the rule ends there.
_LONGEST_FIRST: Final = (
    Purpose.LEGAL_PROTECTION,
    Purpose.SERVICE_EVIDENCE,
    Purpose.SECURITY,
    Purpose.TRAINING,
    Purpose.QUALITY,
)
_EPOCH: Final = date(1970, 1, 1)
_HORIZON: Final = timedelta(
    days=366 * 60
)  # as far as summer time is looked up; later days may be an hour off
_RECENT: Final[WeakKeyDictionary[Database, dict[uuid.UUID, RetentionReport]]] = WeakKeyDictionary()
_TURNS: Final[WeakKeyDictionary[Database, asyncio.Lock]] = WeakKeyDictionary()
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Counted:
    """A number of recordings, the seconds of their audio, and the bytes of their originals."""

    count: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.count + other.count, self.seconds + other.seconds, self.bytes + other.bytes)

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        return {"count": self.count, "seconds": round(self.seconds, 3), "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Kept:
    """What one reason keeps.

    Attributes:
        why: a key of ``WHY_WORDS``.
        rule: id of the rule whose window ends last; None where no rule decides.
    """

    why: str
    rule: str | None
    what: Counted


@dataclass(frozen=True, slots=True)
class Due:
    """What falls due in a month by a rule; ``month`` is ``YYYY-MM``, ``rule`` None where none is named."""

    month: str
    rule: str | None
    what: Counted


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased in a month on a ground, with the certificates that prove it."""

    month: str
    ground: str
    recordings: int
    certificates: int


@dataclass(frozen=True, slots=True)
class RetentionReport:
    """A controller's report.

    Attributes:
        schedule: version in force; 0 where none is.
        by_state: everything that is not erased, by state.
        held: under a legal hold, of those; restricted likewise.
        dated: what has a date on which it goes; months in order. What is overdue is in its past month.
        undated: what has none yet, or none while a hold stands.
        due: its time has ended and the next sweep takes it.
        waiting: its time has ended, but a request of the person is open.
        overdue: its time ended, as the service has known for more than a day, and nothing keeps it: should be
            none. It is `sweeping.overdue`, which the metrics count, too.
        overdue_erasures: begun more than a day ago and not finished: should be none.
        records: of each kind of other record what is there, due, kept although its time is over, and what was
            destroyed within the last year.
    """

    controller_id: uuid.UUID
    name: str
    time_zone: str
    made_at: datetime
    schedule: int
    total: Counted
    by_state: Mapping[str, Counted]
    held: Counted
    restricted: Counted
    why: tuple[Kept, ...]
    dated: tuple[Due, ...]
    undated: Counted
    due: Counted
    waiting: Counted
    overdue: Counted
    overdue_erasures: int
    records: tuple[Mapping[str, Any], ...]
    erased: tuple[Erased, ...]

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        return {
            "controller": str(self.controller_id),
            "name": self.name,
            "time_zone": self.time_zone,
            "made_at": self.made_at.isoformat(),
            "schedule": self.schedule,
            "total": self.total.to_json(),
            "by_state": {state: what.to_json() for state, what in self.by_state.items()},
            "held": self.held.to_json(),
            "restricted": self.restricted.to_json(),
            "why": [{"why": k.why, "rule": k.rule, **k.what.to_json()} for k in self.why],
            "dated": [{"month": d.month, "rule": d.rule, **d.what.to_json()} for d in self.dated],
            "undated": self.undated.to_json(),
            "due": self.due.to_json(),
            "waiting": self.waiting.to_json(),
            "overdue": self.overdue.to_json(),
            "overdue_erasures": self.overdue_erasures,
            "records": [dict(line) for line in self.records],
            "erased": [
                {
                    "month": e.month,
                    "ground": e.ground,
                    "recordings": e.recordings,
                    "certificates": e.certificates,
                }
                for e in self.erased
            ],
        }


async def report(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> RetentionReport:
    """Make the report as of now.

    Raises:
        Forbidden: the caller does not see reports of this controller.
        NotFound: there is no such controller.
        Unavailable: the database is away.
    """
    await permit(services, principal, Action.VIEW_REPORTS, controller_id=controller_id, request_id=request_id)
    async with services.database.snapshot() as session:
        made = await _report(session, services, controller_id, services.clock.now())
    _RECENT.setdefault(services.database, {})[controller_id] = made
    return made


async def recent(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> RetentionReport:
    """The report that was made within the last minute, or else a new one: for the parts of one page.

    Raises:
        As `report`.
    """
    await permit(services, principal, Action.VIEW_REPORTS, controller_id=controller_id, request_id=request_id)
    async with _TURNS.setdefault(services.database, asyncio.Lock()):
        known = _RECENT.setdefault(services.database, {}).get(controller_id)
        if known is not None and abs(services.clock.now() - known.made_at) < _FRESH:
            return known
        return await report(services, principal, controller_id, request_id=request_id)


async def _report(
    session: AsyncSession, services: Services, controller_id: uuid.UUID, now: datetime
) -> RetentionReport:
    controller = await session.get(Controller, controller_id)
    if controller is None:
        raise NotFound("there is no such controller")
    days = await _local_days(session, controller, now, sqlite=services.database.sqlite)
    rows = (await session.execute(_kept(controller_id, days, now))).all()
    counted = [
        (row, Counted(int(row.count), int(row.milliseconds or 0) / 1000, int(row.bytes or 0))) for row in rows
    ]
    by_state = _sum((str(row.state), what) for row, what in counted)
    why = _sum(((row.why, row.rule), what) for row, what in counted)
    dated = _sum(((_month(row.day), row.rule), what) for row, what in counted if row.day is not None)
    late = _sum((row.late, what) for row, what in counted)
    none = Counted()
    return RetentionReport(
        controller_id=controller_id,
        name=controller.name,
        time_zone=controller.time_zone,
        made_at=now,
        schedule=(await active_schedule(session, controller_id)).version,
        total=sum((what for _, what in counted), none),
        by_state={state.value: by_state[state.value] for state in RecordingState if state.value in by_state},
        held=sum((what for row, what in counted if row.held), none),
        restricted=sum((what for row, what in counted if row.restricted), none),
        why=tuple(
            Kept(key[0], key[1], what) for key, what in sorted(why.items(), key=lambda item: -item[1].count)
        ),
        dated=tuple(
            Due(key[0], key[1], what)
            for key, what in sorted(dated.items(), key=lambda item: (item[0][0], item[0][1] or ""))
        ),
        undated=sum((what for row, what in counted if row.day is None), none),
        due=late.get("due", none),
        waiting=late.get("waiting", none),
        overdue=late.get("overdue", none),
        overdue_erasures=(await count_overdue(session, now, controller_id)).erasures,
        records=await _records(session, controller_id, now),
        erased=await _erased(session, controller_id, days),
    )


def _kept(controller_id: uuid.UUID, days: LocalDays, now: datetime) -> sa.Select[Any]:
    """One pass over what lives; the rule is looked for in a decision's document only where one decides."""
    decided, ends = Recording.decision, Recording.erase_on
    flagged = sa.or_(Recording.held, Recording.restricted, Recording.state == RecordingState.ERASING)
    why = sa.case(
        (Recording.state == RecordingState.ERASING, "erasing"),
        (Recording.held, "hold"),
        (Recording.restricted, "restriction"),
        (Recording.evaluated_at.is_(None), "not_decided"),
        (ends.is_not(None), "rule"),
        (decided[("undecided", 0, 0)].as_string().is_not(None), "person"),
        else_="open_ended",
    )
    each = (
        sa.select(
            Recording.state.label("state"),
            Recording.held.label("held"),
            Recording.restricted.label("restricted"),
            why.label("why"),
            sa.case((sa.or_(flagged, ends.is_(None)), sa.null()), else_=_rule()).label("rule"),
            days.day(ends).label("day"),
            lateness(now).label("late"),
            Recording.duration_ms.label("duration_ms"),
            Recording.size.label("size"),
        )
        .where(Recording.controller_id == controller_id, Recording.state != RecordingState.ERASED)
        .subquery()
    )
    groups = [each.c[name] for name in ("state", "held", "restricted", "why", "rule", "day", "late")]
    return sa.select(
        *groups,
        sa.func.count().label("count"),
        sa.func.sum(each.c.duration_ms).label("milliseconds"),
        sa.func.sum(each.c.size).label("bytes"),
    ).group_by(*groups)


def _rule() -> sa.ColumnElement[Any]:
    """The first reason's rule of the window that ends when the recording goes."""
    decided = Recording.decision
    ends = decided["erase_on"].as_string()
    return sa.case(
        *(
            (
                decided[(kind, purpose.value, "end")].as_string() == ends,
                decided[(kind, purpose.value, "because", 0, "rule")].as_string(),
            )
            for kind in ("windows", "suspended")
            for purpose in _LONGEST_FIRST
        ),
        else_=sa.null(),
    )


async def _local_days(
    session: AsyncSession, controller: Controller, now: datetime, *, sqlite: bool
) -> LocalDays:
    """Days in the controller's zone, over all dates that the report can meet."""
    mine = Recording.controller_id == controller.id
    query = sa.select(
        sa.select(sa.func.min(Recording.erase_on)).where(mine).scalar_subquery(),
        sa.select(sa.func.max(Recording.erase_on)).where(mine).scalar_subquery(),
        sa.select(sa.func.min(Erasure.finished_at))
        .where(Erasure.controller_id == controller.id)
        .scalar_subquery(),
    )
    known = [moment for moment in (await session.execute(query)).one() if moment is not None]
    first, last = max(min([now, *known]), now - _HORIZON), min(max([now, *known]), now + _HORIZON)
    zone = await asyncio.to_thread(zone_of, controller.time_zone)  # the first time it is read from a file
    return LocalDays(sqlite, offsets_of(zone, first, last))


async def _erased(session: AsyncSession, controller_id: uuid.UUID, days: LocalDays) -> tuple[Erased, ...]:
    each = (
        sa.select(
            days.day(Erasure.finished_at).label("day"),
            Erasure.ground.label("ground"),
            Erasure.certificate_id.label("certificate"),
        )
        .join(ErasureItem, ErasureItem.erasure_id == Erasure.id)
        .where(
            Erasure.controller_id == controller_id,
            Erasure.finished_at.is_not(None),
            ErasureItem.outcome == "erased",
        )
        .subquery()
    )
    query = sa.select(
        each.c.day,
        each.c.ground,
        sa.func.count().label("recordings"),
        sa.func.count(sa.distinct(each.c.certificate)).label("certificates"),
    ).group_by(each.c.day, each.c.ground)
    found: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for day, ground, recordings, certificates in await session.execute(query):
        before = found[_month(day), str(ground)]
        found[_month(day), str(ground)] = (before[0] + recordings, before[1] + certificates)
    return tuple(Erased(*key, *found[key]) for key in sorted(found))


async def _records(
    session: AsyncSession, controller_id: uuid.UUID, now: datetime
) -> tuple[Mapping[str, Any], ...]:
    gone = await other_records.destroyed_since(session, controller_id, now - timedelta(days=365))
    counts = await other_records.count(session, controller_id, now)
    return tuple({**found.to_json(), "destroyed": gone.get(found.name, 0)} for found in counts)


def _sum(pairs: Iterable[tuple[K, Counted]]) -> dict[K, Counted]:
    found: dict[K, Counted] = {}
    for key, what in pairs:
        found[key] = found.get(key, Counted()) + what
    return found


def _month(day: int) -> str:
    return (_EPOCH + timedelta(days=int(day))).isoformat()[:7]
