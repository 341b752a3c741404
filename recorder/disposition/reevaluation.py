"""After a change of schedule: every stored decision follows, resumably, and one can see how far it is.

Progress is in the rows, as the version that decided each: whoever stops loses nothing, and several processes
may do it at once. Until a recording is reached its stored decision is the old one; playback and the sweep
decide afresh anyway.

The engine decides one recording of each kind, and the others are filled in from it (``retention.templates``).
A step is read in a fixed number of queries and written with one statement. docs/adr/0014 tells why it is
not done in SQL altogether.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.base import Base
from recorder.catalogue.lists import among, as_text
from recorder.catalogue.tables import Controller, Recording
from recorder.disposition.bulk import load_many
from recorder.disposition.evaluation import next_look
from recorder.disposition.facts import ALIVE, CHUNK, active_schedule
from recorder.services import Services
from retention.model import Case, Schedule
from retention.templates import Templates

STEP: Final = 4 * CHUNK
"""Recordings per transaction: on SQLite nobody else writes meanwhile, so it lasts below a second."""

_AHEAD: Final = 25 * STEP
"""Ids that are looked up at once: what was decided leaves dead index entries, past which a look-up walks."""

_SIDE_BY_SIDE: Final = 2
"""Steps at once on PostgreSQL: while one is written another one is decided."""

_KNOWN: Final = 8
_TEMPLATES: Final[OrderedDict[tuple[uuid.UUID, int], Templates]] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Followed:
    """How far stored decisions follow the version in force.

    Attributes:
        version: In force.
        recordings: All that live.
        outstanding: Those that an older version decided, or none yet.
    """

    version: int
    recordings: int
    outstanding: int


async def follow(
    services: Services, controller_id: uuid.UUID, *, progress: Callable[[int], None] | None = None
) -> int:
    """Decide afresh everything that an older version decided.

    Args:
        progress: Told after each step how many were decided so far.

    Returns:
        How many were decided.
    """
    done = 0

    async def work(steps: list[list[str]]) -> None:
        nonlocal done
        while steps:
            decided = await _decide(services, controller_id, steps.pop(), services.clock.now())
            done += decided
            if progress is not None and decided:
                progress(done)

    while True:
        before = done
        async with services.database.snapshot() as session:
            version = (await active_schedule(session, controller_id)).version
            ids = await _some(session, controller_id, version, _AHEAD)
        steps = [ids[start : start + STEP] for start in range(0, len(ids), STEP)]
        steps.reverse()
        await _together([work(steps) for _ in range(1 if services.database.sqlite else _SIDE_BY_SIDE)])
        if done == before:
            return done


async def follow_step(
    services: Services, controller_id: uuid.UUID, now: datetime, *, limit: int = STEP
) -> int:
    """One transaction of :func:`follow`.

    Returns:
        How many were decided; 0 when nothing is left, or others have the rest in hand.
    """
    async with services.database.snapshot() as session:
        version = (await active_schedule(session, controller_id)).version
        ids = await _some(session, controller_id, version, limit)
    return await _decide(services, controller_id, ids, now) if ids else 0


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run them side by side; when one fails, the others end before its error goes on."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _some(session: AsyncSession, controller_id: uuid.UUID, version: int, limit: int) -> list[str]:
    for where in outdated(controller_id, version):
        query = sa.select(as_text(Recording.id)).where(*where).limit(limit)
        if found := list(await session.scalars(query)):
            return found
    return []


async def _decide(services: Services, controller_id: uuid.UUID, ids: Sequence[str], now: datetime) -> int:
    """Decide those of some recordings that are still outdated and in nobody's hands."""
    async with services.database.transaction() as session:
        controller = await session.get_one(Controller, controller_id)
        version = (await active_schedule(session, controller_id)).version
        behind = (
            Recording.controller_id == controller_id,
            Recording.erased_at.is_(None),
            Recording.state.in_(ALIVE),
            sa.func.coalesce(Recording.schedule_version, -1) < version,  # by the id's index, not by this one
        )
        if not services.database.sqlite:
            # Whoever holds a row decides it, and by the version in force as well: leave it to them. What
            # stands around a recording is read by later statements, so that nothing is missed that was stored
            # before its row was locked; what is stored after that waits for the row and decides it again.
            locked = sa.select(as_text(Recording.id)).where(among(Recording.id, ids), *behind)
            found = await session.scalars(locked.with_for_update(skip_locked=True, key_share=True))
            ids = list(found)
        cases = await load_many(session, controller, ids, now, *behind)
        if cases:
            rows = await asyncio.to_thread(_rows, controller_id, cases, now)
            await _store(session, rows, now)
        return len(cases)


def outdated(controller_id: uuid.UUID, version: int) -> tuple[tuple[sa.ColumnElement[bool], ...], ...]:
    """What an older version decided, and what none has: two walks of ``ix_recordings_decided``.

    What follows already is not looked at. In one condition with OR, SQLite would take another index.
    """
    mine = (
        Recording.controller_id == controller_id,
        Recording.erased_at.is_(None),
        Recording.state.in_(ALIVE),
    )
    return (*mine, Recording.schedule_version < version), (*mine, Recording.schedule_version.is_(None))


@dataclass(frozen=True, slots=True)
class _Row:
    id: str
    document: str
    schedule_version: int
    erase_on: datetime | None
    sweep_on: datetime | None
    held: bool
    restricted: bool

    def values(self) -> dict[str, Any]:
        return {
            "row": self.id,
            "document": self.document,
            "new_schedule_version": self.schedule_version,
            "new_erase_on": self.erase_on,
            "new_sweep_on": self.sweep_on,
            "new_held": self.held,
            "new_restricted": self.restricted,
        }

    def to_json(self) -> str:
        return (
            f'{{"id":"{self.id}","decision":{self.document},"schedule_version":{self.schedule_version},'
            f'"erase_on":{_quoted(self.erase_on)},"sweep_on":{_quoted(self.sweep_on)},'
            f'"held":{_word(self.held)},"restricted":{_word(self.restricted)}}}'
        )


def _quoted(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{moment.isoformat()}"'


def _word(value: bool) -> str:
    return "true" if value else "false"


def _rows(controller_id: uuid.UUID, cases: Sequence[tuple[str, Case]], now: datetime) -> list[_Row]:
    first = cases[0][1]
    templates = _templates(controller_id, first.schedule, first.facts.zone)
    rows = []
    for recording_id, case in cases:
        if case.schedule is not templates.schedule:  # another one came into force between two statements
            templates = _templates(controller_id, case.schedule, case.facts.zone)
        found = templates.decide(case, now)
        sweep_on = next_look(found.erase_on, found.reevaluate_at, found.destroy_original, now)
        rows.append(
            _Row(
                recording_id,
                found.document,
                found.schedule_version,
                found.erase_on,
                sweep_on,
                found.held,
                found.restricted,
            )
        )
    return rows


def _templates(controller_id: uuid.UUID, schedule: Schedule, zone: str) -> Templates:
    """What this process knows of a version's decisions; an activated version never changes."""
    key = (controller_id, schedule.version)
    known = _TEMPLATES.get(key)
    if known is None or known.zone != zone or known.schedule != schedule:
        known = _TEMPLATES[key] = Templates(schedule, zone)
        if len(_TEMPLATES) > _KNOWN:
            _TEMPLATES.popitem(last=False)
    return known


async def _store(session: AsyncSession, rows: Sequence[_Row], now: datetime) -> None:
    """Write decisions with one statement, for which their documents are texts already."""
    if session.get_bind().dialect.name == "sqlite":
        await session.execute(_EACH, [{**row.values(), "now": now} for row in rows])
        return
    await session.execute(_ALL, {"decided": f"[{','.join(row.to_json() for row in rows)}]", "now": now})


_TABLE: Final = Base.metadata.tables[Recording.__tablename__]
_STORED: Final = ("schedule_version", "erase_on", "sweep_on", "held", "restricted")
_EACH: Final = (
    sa.update(_TABLE)
    .where(_TABLE.c.id == sa.bindparam("row", type_=sa.Text()))
    .values(
        {
            "decision": sa.bindparam("document", type_=sa.Text()),
            "evaluated_at": sa.bindparam("now"),
            **{name: sa.bindparam(f"new_{name}") for name in _STORED},
        }
    )
)
# One value for all rows: of arrays the driver would escape every quotation mark by itself.
_NEW: Final = (
    sa.func.jsonb_to_recordset(sa.cast(sa.bindparam("decided", type_=sa.Text()), JSONB()))
    .table_valued(*(sa.column(name, _TABLE.c[name].type) for name in ("id", "decision", *_STORED)))
    .render_derived("decided", with_types=True)
)
_ALL: Final = (
    sa.update(_TABLE)
    .where(_TABLE.c.id == _NEW.c.id)
    .values(
        {
            "decision": _NEW.c.decision,
            "evaluated_at": sa.bindparam("now"),
            **{name: _NEW.c[name] for name in _STORED},
        }
    )
)


async def progress_of(session: AsyncSession, controller_id: uuid.UUID) -> Followed:
    """How far one controller's recordings are."""
    version = (await active_schedule(session, controller_id)).version
    living = (Recording.controller_id == controller_id, Recording.state.in_(ALIVE))
    recordings = await session.scalar(_count(*living)) or 0
    return Followed(version, recordings, await _outstanding(session, controller_id, version))


async def outstanding(session: AsyncSession, controller_id: uuid.UUID) -> int:
    """How many of a controller's recordings an older version decided, or none yet."""
    version = (await active_schedule(session, controller_id)).version
    return await _outstanding(session, controller_id, version)


async def _outstanding(session: AsyncSession, controller_id: uuid.UUID, version: int) -> int:
    counts = [await session.scalar(_count(*where)) or 0 for where in outdated(controller_id, version)]
    return sum(counts)


def _count(*where: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(Recording).where(*where)


async def read_progress(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> Followed:
    """How far one controller's recordings are, for somebody who may see schedules there.

    Raises:
        Forbidden: the caller may not.
    """
    await permit(
        services, principal, Action.VIEW_SCHEDULES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        return await progress_of(session, controller_id)
