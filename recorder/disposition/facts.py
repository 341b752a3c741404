"""From rows to the retention engine's questions: one recording or thousands in a fixed number of queries.

What the engine cannot know is settled here: an objection that was withdrawn no longer counts, a lifted
restriction is not passed on, an erasure that had to keep something stands as a granted request until it can
finish (GDPR art. 17(3): what is covered goes by itself when the ground falls).
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue import enums
from recorder.catalogue.lists import among
from recorder.catalogue.tables import (
    Choice,
    Controller,
    Customer,
    Erasure,
    ErasureItem,
    Hold,
    Matter,
    Recording,
    RecordingLink,
    RequestItem,
    Restriction,
    RightsRequest,
    ScheduleVersion,
    Source,
)
from recorder.disposition import hold_queries
from retention import model, schedule
from retention.periods import financial_year_end, zone_of

CHUNK = 400
"""Ids per query: far below SQLite's and PostgreSQL's limits of bound parameters."""

ALIVE = (
    enums.RecordingState.STORED,
    enums.RecordingState.SPOOLED,
    enums.RecordingState.QUARANTINED,
)
_REACHING = (enums.LinkRole.PRINCIPAL, enums.LinkRole.REFERENCE)
_CHOICES = {
    enums.ChoiceKind.CONSENT: model.ChoiceKind.CONSENT_GIVEN,
    enums.ChoiceKind.CONSENT_WITHDRAWN: model.ChoiceKind.CONSENT_WITHDRAWN,
    enums.ChoiceKind.OBJECTION: model.ChoiceKind.OBJECTION,
    enums.ChoiceKind.RESTRICTION: model.ChoiceKind.RESTRICTION,
}
_GIVES_BACK = {
    model.ChoiceKind.OBJECTION: enums.ChoiceKind.OBJECTION_WITHDRAWN,
    model.ChoiceKind.RESTRICTION: enums.ChoiceKind.RESTRICTION_LIFTED,
}
_STANDING_REQUESTS = (
    enums.ErasureGround.REQUEST,
    enums.ErasureGround.COURT_ORDER,
    enums.ErasureGround.RELATIONSHIP_ENDED,
)
_OF_RECORDING = (
    "id",
    "controller_id",
    "customer_id",
    "started_at",
    "ended_at",
    "duration_ms",
    "direction",
    "queue",
    "tags",
    "service_events",
    "lawful_basis",
    "muted",
    "card_data_removed",
    "agents",
)
CARD_SECURITY = "card_security"
_ZONES: set[str] = set()
_HOLDS = sa.select(
    Hold.id,
    Hold.recording_id,
    Hold.customer_id,
    Hold.controller_id,
    Hold.query,
    Hold.placed_at,
    Hold.released_at,
    Hold.matter_id,
    Matter.closed_at,
).join(Matter, Matter.id == Hold.matter_id)


@lru_cache(maxsize=256)
def _parsed(document: str) -> model.Schedule:
    return schedule.check(document)


# By controller and version: an activated version's document never changes.
_SCHEDULES: OrderedDict[tuple[uuid.UUID, int], model.Schedule] = OrderedDict()
_KNOWN_SCHEDULES = 256


async def schedule_of(session: AsyncSession, controller_id: uuid.UUID, version: int | None) -> model.Schedule:
    """A controller's schedule whose number the caller has just read; parsed once, then remembered.

    Args:
        version: of the schedule in force (`active_version`); None where there is none.
    """
    if version is None:
        return model.Schedule(controller=str(controller_id), version=0, rules=())
    known = _SCHEDULES.get((controller_id, version))
    if known is None:
        document = await session.scalar(
            sa.select(ScheduleVersion.document).where(
                ScheduleVersion.controller_id == controller_id, ScheduleVersion.version == version
            )
        )
        known = _SCHEDULES[controller_id, version] = _parsed(document or "")
        if len(_SCHEDULES) > _KNOWN_SCHEDULES:
            _SCHEDULES.popitem(last=False)
    return known


def active_version(controller_id: sa.ColumnElement[uuid.UUID]) -> sa.ScalarSelect[int | None]:
    """The number of the schedule in force, to be asked along with something else."""
    return (
        sa.select(sa.func.max(ScheduleVersion.version))
        .where(ScheduleVersion.controller_id == controller_id, ScheduleVersion.activated_at.is_not(None))
        .scalar_subquery()
    )


def wide_holds(controller_id: sa.ColumnElement[uuid.UUID]) -> sa.ColumnElement[bool]:
    """Whether a controller has holds on whatever matches, to be asked along with something else."""
    return sa.exists().where(Hold.controller_id == controller_id)


async def active_schedule(session: AsyncSession, controller_id: uuid.UUID) -> model.Schedule:
    """The controller's schedule in force; where none was ever activated, an empty one.

    An empty schedule keeps everything, closes it to playback and asks for a person.
    """
    row = (
        await session.execute(
            sa.select(ScheduleVersion.document, ScheduleVersion.version)
            .where(ScheduleVersion.controller_id == controller_id, ScheduleVersion.activated_at.is_not(None))
            .order_by(ScheduleVersion.version.desc())
            .limit(1)
        )
    ).one_or_none()
    if row is None:
        return model.Schedule(controller=str(controller_id), version=0, rules=())
    return _parsed(row.document)


@dataclass(slots=True)
class _Circumstances:
    """What was found around a set of recordings, by recording and by customer.

    A hold or a restriction stands under its target, which is one or the other.
    """

    people: dict[uuid.UUID, set[uuid.UUID]] = field(default_factory=lambda: defaultdict(set))
    customers: dict[uuid.UUID, Any] = field(default_factory=dict)
    holds: dict[uuid.UUID, list[Any]] = field(default_factory=lambda: defaultdict(list))
    queries: list[tuple[Any, hold_queries.Query]] = field(default_factory=list)
    choices: dict[uuid.UUID, list[Any]] = field(default_factory=lambda: defaultdict(list))
    restrictions: dict[uuid.UUID, list[Any]] = field(default_factory=lambda: defaultdict(list))
    requests: dict[uuid.UUID, list[model.Request]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[uuid.UUID, list[model.Request]] = field(default_factory=lambda: defaultdict(list))


async def load_case(session: AsyncSession, recording_id: uuid.UUID, now: datetime) -> model.Case | None:
    """The engine's question for one recording; None when it is erased, being erased, or unknown."""
    return (await load_cases(session, [recording_id], now)).get(recording_id)


async def load_cases(
    session: AsyncSession,
    recording_ids: Iterable[uuid.UUID],
    now: datetime,
    *,
    states: Sequence[enums.RecordingState] = ALIVE,
) -> dict[uuid.UUID, model.Case]:
    """Questions for many recordings, in eleven queries per four hundred of them.

    Args:
        recording_ids: those in other states than ``states`` are left out of the answer.
        now: withdrawals and liftings count up to here.
    """
    ids = list(dict.fromkeys(recording_ids))
    schedules: dict[uuid.UUID, model.Schedule] = {}
    cases: dict[uuid.UUID, model.Case] = {}
    for start in range(0, len(ids), CHUNK):
        rows = await _recordings(session, ids[start : start + CHUNK], states)
        around = await _circumstances(session, rows)
        await _load_zones({row.time_zone for row in rows})
        for row in rows:
            if row.controller_id not in schedules:
                schedules[row.controller_id] = await active_schedule(session, row.controller_id)
            cases[row.id] = _case(row, around, schedules[row.controller_id], now)
    return cases


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a recording comes from, as far as windows look at it."""

    source: str
    country: str
    time_zone: str
    financial_year_end: str


async def case_of_new(
    session: AsyncSession,
    recording: Recording,
    origin: Origin,
    active: model.Schedule,
    now: datetime,
    *,
    wide_holds: bool = True,
) -> model.Case:
    """The question for a recording that this transaction makes, from the values in hand.

    Nothing hangs on it yet but its principal, so only what stands around that customer is read, and for a
    caller who is nobody's customer nothing at all. Equal to what `load_cases` finds once the rows are there.

    Args:
        recording: not necessarily inserted.
        wide_holds: whether its controller has holds on whatever matches (`wide_holds`); they are read then.
    """
    around = _Circumstances()
    if wide_holds:
        await _about_queries(session, around, {recording.controller_id})
    if recording.customer_id is not None:
        people = [recording.customer_id]
        around.people[recording.id].update(people)
        await _about_people(session, around, [], people)
        await _about_requests(session, around, [], people)
    await _load_zones({origin.time_zone})
    row = SimpleNamespace(
        **{name: getattr(recording, name) for name in _OF_RECORDING},
        source=origin.source,
        country=origin.country,
        time_zone=origin.time_zone,
        financial_year_end=origin.financial_year_end,
    )
    return _case(row, around, active, now)


async def _load_zones(names: set[str]) -> None:
    """Zone data is read from disk once per zone and process; not in the event loop."""
    for name in names - _ZONES:
        await asyncio.to_thread(zone_of, name)
        _ZONES.add(name)


async def _recordings(
    session: AsyncSession, ids: Sequence[uuid.UUID], states: Sequence[enums.RecordingState]
) -> Sequence[Any]:
    query = (
        sa.select(
            Recording.id,
            Recording.controller_id,
            Recording.customer_id,
            Recording.started_at,
            Recording.ended_at,
            Recording.duration_ms,
            Recording.direction,
            Recording.queue,
            Recording.tags,
            Recording.service_events,
            Recording.lawful_basis,
            Recording.muted,
            Recording.card_data_removed,
            Recording.agents,
            Source.name.label("source"),
            Controller.country,
            Controller.time_zone,
            Controller.financial_year_end,
            Recording.state,
        )
        .join(Source, Source.id == Recording.source_id)
        .join(Controller, Controller.id == Recording.controller_id)
        .where(among(Recording.id, ids))
    )
    # Not in SQL: without statistics SQLite would rather walk all recordings of a state than look up the ids.
    return [row for row in await session.execute(query) if row.state in states]


async def _circumstances(session: AsyncSession, rows: Sequence[Any]) -> _Circumstances:
    around = _Circumstances()
    ids = [row.id for row in rows]
    for row in rows:
        if row.customer_id is not None:
            around.people[row.id].add(row.customer_id)
    links = sa.select(RecordingLink.recording_id, RecordingLink.customer_id).where(
        among(RecordingLink.recording_id, ids), RecordingLink.role.in_(_REACHING)
    )
    for link in await session.execute(links):
        around.people[link.recording_id].add(link.customer_id)
    people = list({person for found in around.people.values() for person in found})
    await _about_people(session, around, ids, people)
    await _about_queries(session, around, {row.controller_id for row in rows})
    await _about_requests(session, around, ids, people)
    kept = (
        sa.select(ErasureItem.recording_id, Erasure.requested_at)
        .join(Erasure, Erasure.id == ErasureItem.erasure_id)
        .where(
            among(ErasureItem.recording_id, ids),
            ErasureItem.outcome == "kept",
            Erasure.ground.in_(_STANDING_REQUESTS),
        )
    )
    for item in await session.execute(kept):
        around.requests[item.recording_id].append(
            model.Request(
                model.RequestKind.ERASURE, model.RequestState.GRANTED, item.requested_at, item.requested_at
            )
        )
    return around


async def _about_people(
    session: AsyncSession, around: _Circumstances, ids: list[uuid.UUID], people: list[uuid.UUID]
) -> None:
    customers = sa.select(
        Customer.id,
        Customer.last_contact_at,
        Customer.relationship_ended_at,
        Customer.relationship_end_confirmed_at,
        Customer.financial_year_end,
    ).where(among(Customer.id, people))
    around.customers = {row.id: row for row in await session.execute(customers)}
    on_ids, on_people = among(Hold.recording_id, ids), among(Hold.customer_id, people)
    for hold in await session.execute(sa.union_all(_HOLDS.where(on_ids), _HOLDS.where(on_people))):
        around.holds[hold.recording_id or hold.customer_id].append(hold)
    choices = sa.select(Choice.customer_id, Choice.kind, Choice.purposes, Choice.effective_at).where(
        among(Choice.customer_id, people)
    )
    for choice in await session.execute(choices):
        around.choices[choice.customer_id].append(choice)
    columns = (
        Restriction.recording_id,
        Restriction.customer_id,
        Restriction.placed_at,
        Restriction.lifted_at,
    )
    restrictions = sa.union_all(
        sa.select(*columns).where(among(Restriction.recording_id, ids)),
        sa.select(*columns).where(among(Restriction.customer_id, people)),
    )
    for row in await session.execute(restrictions):
        around.restrictions[row.recording_id or row.customer_id].append(row)


async def queries_of(session: AsyncSession, controller_id: uuid.UUID) -> list[hold_queries.Query]:
    """What a controller's holds on whatever matches ask for, released ones included."""
    found = await session.scalars(sa.select(Hold.query).where(Hold.controller_id == controller_id))
    return [hold_queries.parse(query) for query in found if query is not None]


async def _about_queries(session: AsyncSession, around: _Circumstances, controllers: set[uuid.UUID]) -> None:
    """Holds on whatever matches, released ones included: their grace and their matter's end count as well."""
    found = await session.execute(_HOLDS.where(Hold.controller_id.in_(controllers)))
    around.queries = [(row, hold_queries.parse(row.query)) for row in found]


async def _about_requests(
    session: AsyncSession, around: _Circumstances, ids: list[uuid.UUID], people: list[uuid.UUID]
) -> None:
    """What was asked and waits for a decision, by customer or by recording; and erasures that were granted.

    A pending request reaches every call its person is on. A granted erasure reaches the recordings that its
    decision named: calls on which the person is a mere reference, and those refused, are not among them.
    """
    waiting = sa.select(RightsRequest.customer_id, RightsRequest.kind, RightsRequest.filed_at).where(
        among(RightsRequest.customer_id, people),
        RightsRequest.stage == enums.RequestStage.PENDING,
        RightsRequest.scoped.is_(False),
    )
    for asked in await session.execute(waiting):
        request = model.Request(asked.kind, model.RequestState.PENDING, asked.filed_at)
        around.asked[asked.customer_id].append(request)
    named = (
        sa.select(
            RequestItem.recording_id, RequestItem.decided_at, RightsRequest.kind, RightsRequest.filed_at
        )
        .join(RightsRequest, RightsRequest.id == RequestItem.request_id)
        .where(
            among(RequestItem.recording_id, ids),
            sa.or_(
                sa.and_(
                    RequestItem.outcome == "pending",
                    RightsRequest.scoped.is_(True),
                    RightsRequest.customer_id.is_not(None),
                    RightsRequest.stage == enums.RequestStage.PENDING,
                ),
                sa.and_(
                    RequestItem.outcome == "granted",
                    RightsRequest.kind == model.RequestKind.ERASURE,
                    RightsRequest.stage.in_([enums.RequestStage.GRANTED, enums.RequestStage.PARTLY_GRANTED]),
                ),
            ),
        )
    )
    for item in await session.execute(named):
        state = model.RequestState.PENDING if item.decided_at is None else model.RequestState.GRANTED
        around.requests[item.recording_id].append(
            model.Request(item.kind, state, item.filed_at, item.decided_at)
        )


def _case(row: Any, around: _Circumstances, active: model.Schedule, now: datetime) -> model.Case:
    people = around.people.get(row.id, set())
    customer = around.customers.get(row.customer_id)
    targets = (row.id, *people)
    holds = [hold for target in targets for hold in around.holds.get(target, ())]
    if around.queries:
        bare = _facts(row, customer, ())
        holds += [
            hold
            for hold, query in around.queries
            if hold.controller_id == row.controller_id and query.matches(bare, row.agents)
        ]
    choices: list[model.Choice] = []
    for person in people:
        choices += _standing_choices(around.choices.get(person, ()), now)
    choices += [
        model.Choice(model.ChoiceKind.RESTRICTION, r.placed_at)
        for target in targets
        for r in around.restrictions.get(target, ())
        if not _over(r.lifted_at, now)
    ]
    return model.Case(
        facts=_facts(row, customer, holds),
        schedule=active,
        holds=tuple(model.Hold(str(h.id), h.placed_at, h.released_at, str(h.matter_id)) for h in holds),
        choices=tuple(choices),
        requests=(
            *around.requests.get(row.id, ()),
            *(asked for person in people for asked in around.asked.get(person, ())),
        ),
    )


def _facts(row: Any, customer: Any, holds: Sequence[Any]) -> model.Facts:
    matters_closed = [h.closed_at for h in holds]
    still_open = any(closed is None for closed in matters_closed)
    zone = zone_of(row.time_zone)
    if customer is not None and customer.financial_year_end is not None:
        year_end = customer.financial_year_end.astimezone(zone).date()
    else:
        month, day = map(int, row.financial_year_end.split("-"))
        year_end = financial_year_end(row.started_at, zone, month, day)
    return model.Facts(
        zone=row.time_zone,
        country=row.country,
        call_started=row.started_at,
        call_ended=row.ended_at,
        duration=None if row.duration_ms is None else timedelta(milliseconds=row.duration_ms),
        direction=None if row.direction is None else str(row.direction),
        source=row.source,
        queue=row.queue,
        tags=frozenset(row.tags),
        service_events=frozenset(row.service_events),
        lawful_basis=str(row.lawful_basis),
        linked=customer is not None,
        card_security=not row.card_data_removed
        and any(span.get("reason") == CARD_SECURITY for span in row.muted),
        last_contact=None if customer is None else customer.last_contact_at,
        relationship_ended=None if customer is None else customer.relationship_ended_at,
        relationship_confirmed_at=None if customer is None else customer.relationship_end_confirmed_at,
        financial_year_end=year_end,
        in_matter=bool(holds),
        matter_closed=None if still_open or not holds else max(matters_closed),
    )


def _standing_choices(entries: Sequence[Any], now: datetime) -> list[model.Choice]:
    """One customer's ledger as the engine reads it: without what was withdrawn or lifted by now.

    Given back in part, what is left is named: the rest of an objection or restriction stands.
    """
    standing = []
    for entry in entries:
        kind = _CHOICES.get(entry.kind)
        if kind is None:
            continue
        purposes = frozenset(model.Purpose(p) for p in entry.purposes)
        giving = _GIVES_BACK.get(kind)
        later = [
            e
            for e in entries
            if e.kind is giving and e.effective_at <= now and e.effective_at > entry.effective_at
        ]
        if any(not e.purposes for e in later):
            continue
        gone = frozenset(model.Purpose(p) for e in later for p in e.purposes)
        left = (purposes or frozenset(model.Purpose)) - gone if gone else purposes
        if gone and not left:
            continue
        standing.append(model.Choice(kind, entry.effective_at, left))
    return standing


def _over(lifted_at: datetime | None, now: datetime) -> bool:
    return lifted_at is not None and lifted_at <= now
