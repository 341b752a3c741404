"""All recordings of a controller as groups that are decided alike: what a simulation of a schedule needs.

Nearly all recordings are *plain*: no hold, choice, restriction or request reaches them. Those are grouped by
SQL on the facts that the schedules in question ask for, instants as local days, and no row of theirs is
loaded. The others are loaded as the engine sees them. Both are then grouped by profile (see
``retention.profiles``), and the engine decides one of each. docs/adr/0014 tells why.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from recorder.catalogue.tables import Controller, Customer, Recording, Source
from recorder.disposition.facts import ALIVE, CHUNK, load_cases, queries_of
from recorder.disposition.hold_queries import Query, may_match
from recorder.disposition.plain import LocalDays, circumstanced, is_plain, is_regular, offsets_of
from recorder.services import Services
from retention.model import Case, Facts, Schedule, TriggerKind
from retention.periods import financial_year_end, start_of_day, zone_of
from retention.profiles import DayVector, Profiler
from retention.simulate import HORIZONS, Comparison, Group, compare

__all__ = ["Progress", "groups", "others", "simulate"]

Progress = Callable[[int, int], None]
"""Called with how many recordings have been looked at, and of how many."""

_EPOCH = date(1970, 1, 1).toordinal()
_ROWS = 20_000
_LISTS = ("direction", "queue", "source", "tag", "service_event", "basis")


async def simulate(
    services: Services,
    controller: Controller,
    old: Schedule,
    new: Schedule,
    now: datetime,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """What would change if ``new`` were in force instead of ``old``, over everything there is."""
    async with services.database.snapshot() as session:
        estate = await groups(session, controller, (old, new), now, progress=progress)
    return await asyncio.to_thread(compare, old, new, estate, now)


async def groups(
    session: AsyncSession,
    controller: Controller,
    schedules: Sequence[Schedule],
    now: datetime,
    *,
    progress: Progress | None = None,
) -> list[Group]:
    """The living recordings of a controller, grouped so that any of ``schedules`` treats a group alike.

    Args:
        progress: told as the work goes on.
    """
    sqlite = session.get_bind().dialect.name == "sqlite"
    await asyncio.to_thread(zone_of, controller.time_zone)
    whole = await session.scalar(
        sa.select(sa.func.count()).select_from(Recording).where(Recording.controller_id == controller.id)
    )
    told = progress or (lambda _done, _all: None)
    queries = await queries_of(session, controller.id)
    reader = _Reader(controller, schedules, now, sqlite, told, whole or 0, queries)
    await reader.read_plain(session)
    await reader.read_others(session)
    return list(reader.found.values())


def _living(controller_id: uuid.UUID, *, scan: bool = False) -> tuple[sa.ColumnElement[bool], ...]:
    """Of nearly all rows SQLite would make a walk through an index, twice as slow as reading the table."""
    if scan:
        owner = sa.func.coalesce(Recording.controller_id, sa.null())
        state = sa.func.coalesce(Recording.state, sa.null())
        return (sa.type_coerce(owner, sa.Uuid()) == controller_id, state.in_([str(s) for s in ALIVE]))
    return (Recording.controller_id == controller_id, Recording.state.in_(ALIVE))


@dataclass
class _Reader:
    controller: Controller
    schedules: Sequence[Schedule]
    now: datetime
    sqlite: bool
    progress: Progress
    whole: int
    queries: Sequence[Query]
    found: dict[Hashable, Group] = field(default_factory=dict)
    done: int = 0

    def __post_init__(self) -> None:
        self.zone = zone_of(self.controller.time_zone)
        self.profiler = Profiler(
            self.schedules, self.controller.time_zone, self.now, HORIZONS, self._year_end
        )
        rules = [rule for schedule in self.schedules for rule in schedule.rules]
        self.kinds = {rule.after.kind for rule in rules}
        self.fields = {name for name in _LISTS for rule in rules if getattr(rule.when, name) is not None}
        lengths = [rule.when.duration_at_least for rule in rules] + [
            rule.when.duration_less_than for rule in rules
        ]
        self.lengths = sorted({length for length in lengths if length is not None})
        self.year_ends: dict[int, int] = {}

    def add(self, key: Hashable, group: Callable[[], Group], count: int, length: int, size: int) -> None:
        """Count recordings in, making their group if it is the first of its profile."""
        known = self.found.get(key)
        if known is None:
            self.found[key] = replace(group(), count=count, audio=timedelta(milliseconds=length), size=size)
        else:
            self.found[key] = replace(
                known,
                count=known.count + count,
                audio=known.audio + timedelta(milliseconds=length),
                size=known.size + size,
            )

    def told(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.whole)

    # -- plain recordings --------------------------------------------------------------------------

    async def read_plain(self, session: AsyncSession) -> None:
        """Group in SQL by the facts that any rule asks for; a row of the answer is a fact vector."""
        columns = await self._columns(session)
        names = list(columns)
        query = (
            sa.select(
                *(column.label(name) for name, column in columns.items()),
                sa.func.count(),
                sa.func.sum(Recording.duration_ms),
                sa.func.sum(Recording.size),
            )
            .where(*_living(self.controller.id, scan=self.sqlite), is_plain(self.now, self.queries))
            .group_by(*(sa.literal_column(str(place + 1)) for place in range(len(columns))))
        )
        if {"contact", "relationship_ended", "financial_year_end"} & columns.keys():
            query = query.outerjoin(Customer, Customer.id == Recording.customer_id)
        if "source" in columns:
            query = query.join(Source, Source.id == Recording.source_id)
        plans: dict[tuple[Any, ...], tuple[Facts, Any]] = {}
        stream = await session.stream(query.execution_options(yield_per=_ROWS))
        async for rows in stream.partitions(_ROWS):
            await asyncio.to_thread(self._take, rows, names, plans)

    def _take(
        self, rows: Sequence[Any], names: list[str], plans: dict[tuple[Any, ...], tuple[Facts, Any]]
    ) -> None:
        split = next((n for n, name in enumerate(names) if name in _DAYS), len(names))
        dates = names[split:]
        plain = self.profiler.plain
        totals: dict[Hashable, list[int]] = {}
        firsts: dict[Hashable, tuple[Facts, DayVector]] = {}
        count = 0
        for row in rows:
            kind = tuple(row[:split])
            known = plans.get(kind)
            if known is None:
                facts = self._kind(dict(zip(names[:split], kind, strict=True)))
                known = plans[kind] = facts, self.profiler.plan(facts)
            days = self._days(dict(zip(dates, row[split:-3], strict=True)))
            key = plain(known[1], days)
            total = totals.get(key)
            if total is None:
                totals[key] = [row[-3], int(row[-2]), int(row[-1])]
                firsts[key] = known[0], days
            else:
                total[0] += row[-3]
                total[1] += int(row[-2])
                total[2] += int(row[-1])
            count += row[-3]
        for key, (number, length, size) in totals.items():
            facts, days = firsts[key]
            self.add(key, lambda f=facts, d=days: Group(self._dated(f, d)), number, length, size)  # type: ignore[misc]
        self.told(count)

    def _kind(self, values: dict[str, Any]) -> Facts:
        """One kind of plain recordings: everything but the dates, which are set by `_dated`."""
        return Facts(
            zone=self.controller.time_zone,
            country=self.controller.country,
            call_started=self.now,
            duration=self._length(values.get("length", 0)),
            direction=None if values.get("direction") is None else str(values["direction"]),
            source=values.get("source"),
            queue=values.get("queue"),
            tags=frozenset(json.loads(values.get("tag", "[]"))),
            service_events=frozenset(json.loads(values.get("service_event", "[]"))),
            lawful_basis=None if values.get("basis") is None else str(values["basis"]),
            linked=bool(values["linked"]),
        )

    def _length(self, place: int) -> timedelta:
        """Some length between the limits that rules set, as far along as `place` of them are reached."""
        return timedelta(0) if place == 0 else self.lengths[place - 1]

    def _days(self, values: dict[str, int | None]) -> DayVector:
        started = values["started"]
        if started is None:
            raise AssertionError("every recording has a beginning")
        started += _EPOCH
        year = values.get("financial_year_end")
        return DayVector(
            started,
            _ordinal(values.get("ended")),
            _ordinal(values.get("contact")),
            _ordinal(values.get("relationship_ended")),
            self._year_end(started) if year is None else year + _EPOCH,
        )

    def _year_end(self, started: int) -> int:
        found = self.year_ends.get(started)
        if found is None:
            month, day = map(int, self.controller.financial_year_end.split("-"))
            end = financial_year_end(date.fromordinal(started), self.zone, month, day)
            found = self.year_ends[started] = end.toordinal()
        return found

    def _dated(self, facts: Facts, days: DayVector) -> Facts:
        started = start_of_day(date.fromordinal(days.started), self.zone)
        ended = None if days.ended is None else start_of_day(date.fromordinal(days.ended), self.zone)
        over = days.relationship_ended
        year = days.financial_year_end
        return replace(
            facts,
            call_started=started,
            call_ended=ended,
            last_contact=None
            if days.contact is None
            else start_of_day(date.fromordinal(days.contact), self.zone),
            relationship_ended=None if over is None else date.fromordinal(over),
            relationship_confirmed_at=None if over is None else started,
            financial_year_end=None if year is None else date.fromordinal(year),
        )

    async def _columns(self, session: AsyncSession) -> dict[str, sa.ColumnElement[Any]]:
        """What is grouped by: first the kind, then the days; only what some rule asks for."""
        days = await self._calendar(session)
        columns: dict[str, sa.ColumnElement[Any]] = {"linked": Recording.customer_id.is_not(None)}
        plain: dict[str, sa.ColumnElement[Any] | InstrumentedAttribute[Any]] = {
            "direction": Recording.direction,
            "queue": Recording.queue,
            "source": Source.name,
            "tag": sa.cast(Recording.tags, sa.Text),
            "service_event": sa.cast(Recording.service_events, sa.Text),
            "basis": Recording.lawful_basis,
        }
        columns |= {
            name: sa.type_coerce(column, column.type) for name, column in plain.items() if name in self.fields
        }
        if self.lengths:
            limits = [(Recording.duration_ms < _ms(at), place) for place, at in enumerate(self.lengths)]
            columns["length"] = sa.case(*limits, else_=len(limits))
        columns["started"] = days.column("started", Recording.started_at)
        if TriggerKind.CALL_ENDED in self.kinds:
            columns["ended"] = days.ended()
        if TriggerKind.LAST_CONTACT in self.kinds:
            columns["contact"] = days.column("contact", Customer.last_contact_at)
        if TriggerKind.RELATIONSHIP_ENDED in self.kinds:
            columns["relationship_ended"] = sa.case(
                (
                    Customer.relationship_end_confirmed_at <= self.now,
                    days.column("relationship_ended", Customer.relationship_ended_at),
                )
            )
        if TriggerKind.FINANCIAL_YEAR_END in self.kinds:
            columns["financial_year_end"] = days.column("financial_year_end", Customer.financial_year_end)
        return columns

    async def _calendar(self, session: AsyncSession) -> _Calendar:
        """Local days in SQL, over all dates there are."""
        mine = Recording.controller_id == self.controller.id
        ends = [Recording.ended_at, Recording.duration_ms] if TriggerKind.CALL_ENDED in self.kinds else []
        calls = sa.select(
            sa.func.min(Recording.started_at),
            sa.func.max(Recording.started_at),
            *(sa.func.max(end) for end in ends),
        ).where(mine)
        columns = (Customer.last_contact_at, Customer.relationship_ended_at, Customer.financial_year_end)
        people = sa.select(*(f(c) for c in columns for f in (sa.func.min, sa.func.max))).where(
            Customer.controller_id == self.controller.id
        )
        first, last, *ended = (await session.execute(calls)).one()
        found = (first, last, *ended[:1], *(await session.execute(people)).one())
        moments = [moment for moment in found if moment is not None]
        earliest, latest = min(moments, default=self.now), max(moments, default=self.now)
        latest += timedelta(milliseconds=(ended[1] or 0) if ended else 0)
        near = self.now - _NEAR
        odd: list[datetime] = []
        if earliest < near:
            # One wrong year would make a calendar of centuries: of old days only those there are.
            for column in (Recording.started_at, *columns):
                old = sa.select(column).where(
                    column < near, column.class_.controller_id == self.controller.id
                )
                odd += [moment for moment in await session.scalars(old.distinct()) if moment is not None]
        return await asyncio.to_thread(self._make_calendar, earliest, latest, max(earliest, near), odd)

    def _make_calendar(
        self, earliest: datetime, latest: datetime, near: datetime, odd: Sequence[datetime]
    ) -> _Calendar:
        first, last, *old = (m.astimezone(self.zone).date().toordinal() for m in (near, latest, *odd))
        days = sorted({*old, *range(first, last + 1)})
        spans = {name: self.profiler.spans(name, days) for name in _SPANNED}
        return _Calendar(
            LocalDays(self.sqlite, offsets_of(self.zone, earliest, latest)),
            {
                name: [
                    (start_of_day(date.fromordinal(since), self.zone), day - _EPOCH) for since, day in found
                ]
                for name, found in spans.items()
                if found is not None
            },
        )

    # -- all others --------------------------------------------------------------------------------

    async def read_others(self, session: AsyncSession) -> None:
        """Load what is not plain as the engine sees it; the schedule is left out of the question."""
        rows = await others(session, self.controller.id, self.now, self.queries, scan=self.sqlite)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            cases = await load_cases(session, [row.id for row in chunk], self.now)
            await asyncio.to_thread(self._take_others, chunk, cases)

    def _take_others(self, rows: Sequence[Any], cases: Mapping[uuid.UUID, Case]) -> None:
        for row in rows:
            case = cases[row.id]
            key = self.profiler.of(case.facts, case.holds, case.choices, case.requests)
            group = Group(case.facts, case.holds, case.choices, case.requests)
            self.add(key, lambda g=group: g, 1, row.duration_ms or 0, row.size)  # type: ignore[misc]
        self.told(len(rows))


_NEAR = timedelta(days=40 * 365)
_SPANNED = ("started", "contact", "relationship_ended", "financial_year_end")
_DAYS = frozenset({"started", "ended", "contact", "relationship_ended", "financial_year_end"})


@dataclass(frozen=True, slots=True)
class _Calendar:
    """Days in SQL: to the day where that matters, else one for a whole span."""

    days: LocalDays
    spans: Mapping[str, Sequence[tuple[datetime, int]]]

    def column(self, name: str, column: Any) -> sa.ColumnElement[Any]:
        spans = self.spans.get(name)
        if spans is None:
            return self.days.day(column)
        return sa.case((column.is_not(None), self.days.search(column, spans)))

    def ended(self) -> sa.ColumnElement[Any]:
        second = (self.days.milliseconds(Recording.started_at) + Recording.duration_ms) // sa.literal_column(
            "1000", sa.BigInteger()
        )
        return sa.case(
            (Recording.ended_at.is_not(None), self.days.day(Recording.ended_at)),
            else_=self.days.day_at(second),
        )


async def others(
    session: AsyncSession, controller_id: uuid.UUID, now: datetime, queries: Sequence[Query], *, scan: bool
) -> Sequence[Any]:
    """Living recordings that are not plain, with their lengths and sizes."""
    columns = sa.select(Recording.id, Recording.duration_ms, Recording.size)
    unlike = sa.or_(sa.not_(is_regular(now)), *(may_match(query) for query in queries))
    odd = columns.where(*_living(controller_id, scan=scan), unlike)
    found = {row.id: row for row in await session.execute(odd)}
    touched = columns.where(*_living(controller_id), Recording.id.in_(circumstanced()))
    found |= {row.id: row for row in await session.execute(touched)}
    return list(found.values())


def _ordinal(day: int | None) -> int | None:
    return None if day is None else day + _EPOCH


def _ms(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)
