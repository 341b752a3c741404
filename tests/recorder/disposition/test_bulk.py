"""Deciding many at once is deciding each of them: the same questions, the same rows afterwards."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue import enums
from recorder.catalogue.lists import among, as_text
from recorder.catalogue.tables import (
    Choice,
    Controller,
    Customer,
    Recording,
    RecordingTag,
    RequestItem,
    RightsRequest,
    ScheduleVersion,
)
from recorder.disposition import reevaluation
from recorder.disposition.bulk import load_many
from recorder.disposition.evaluation import reevaluate, reevaluate_customer
from recorder.disposition.facts import ALIVE, load_cases
from recorder.disposition.reevaluation import follow, follow_step
from recorder.errors import Unavailable
from retention.model import RequestKind
from tests.recorder.disposition.test_estate import fill, query_hold
from tests.recorder.disposition_world import World, clock_of

_STORED = ("decision", "schedule_version", "erase_on", "sweep_on", "held", "restricted", "evaluated_at")


async def living(world: World) -> list[uuid.UUID]:
    async with world.services.database.snapshot() as session:
        return list(await session.scalars(sa.select(Recording.id).where(Recording.state.in_(ALIVE))))


async def stored(world: World) -> dict[uuid.UUID, tuple[Any, ...]]:
    columns = [getattr(Recording, name) for name in _STORED]
    async with world.services.database.snapshot() as session:
        rows = await session.execute(sa.select(Recording.id, *columns).where(Recording.state.in_(ALIVE)))
        return {row[0]: tuple(row[1:]) for row in rows}


async def ask_of(world: World, kind: RequestKind, recording_id: uuid.UUID | None) -> None:
    """A pending request: of a customer, or about one recording."""
    customer_id = await world.customer(last_contact=world.now)
    for _ in range(2):
        await world.recording(customer_id, audio=b"x")
    async with world.services.database.transaction() as session:
        customer = await session.get_one(Customer, customer_id)
        request = RightsRequest(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            subject_id=customer.subject_id,
            customer_id=customer_id,
            kind=kind,
            channel=enums.RequestChannel.EMAIL,
            stage=enums.RequestStage.PENDING,
            language="fi",
            purposes=[],
            scoped=recording_id is not None,
            filed_at=world.now - timedelta(days=3),
            registered_at=world.now,
            registered_by="os:test",
            last_day=world.now.date(),
            deadline_at=world.now + timedelta(days=30),
        )
        session.add(request)
        await session.flush()
        if recording_id is not None:
            session.add(RequestItem(request_id=request.id, recording_id=recording_id, outcome="pending"))


async def everything(world: World, seed: int) -> None:
    """An estate with something of everything in it, of two customers' requests and two queries too."""
    await fill(world, 120, seed)
    ids = await living(world)
    await ask_of(world, RequestKind.ERASURE, None)
    await ask_of(world, RequestKind.RECTIFICATION, ids[0])
    await query_hold(world, {"queue": ["sales"], "direction": ["inbound"]}, seed)
    await query_hold(world, {"tag": ["vip"], "duration_at_least": 100}, seed, released=True)
    async with world.services.database.transaction() as session:
        tags = await session.execute(sa.select(Recording.id, Recording.tags).where(Recording.id.in_(ids)))
        session.add_all([RecordingTag(recording_id=row.id, tag=tag) for row in tags for tag in row.tags])


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_read_in_bulk_is_what_is_read_one_by_one(world: World, seed: int) -> None:
    await everything(world, seed)
    async with world.services.database.snapshot() as session:
        controller = await session.get_one(Controller, world.controller.id)
        ids = list(await session.scalars(sa.select(as_text(Recording.id)).where(Recording.state.in_(ALIVE))))
        found = {uuid.UUID(text): case for text, case in await load_many(session, controller, ids, world.now)}
        assert found == await load_cases(session, [uuid.UUID(text) for text in ids], world.now)
    assert len(found) > 60


@pytest.mark.parametrize("seed", range(3, 6))
async def test_what_follows_a_schedule_is_what_the_engine_decides(world: World, seed: int) -> None:
    await everything(world, seed)
    ids = await living(world)
    async with world.services.database.transaction() as session:
        row = (await session.scalars(sa.select(ScheduleVersion))).one()
        document = row.document.replace("version    = 1", "version    = 2").replace('"P1Y"', '"P90D"', 1)
        session.add(
            ScheduleVersion(
                controller_id=world.controller.id,
                version=2,
                document=document + '\n[cap]\nsecurity = "P4Y"\n' if "[cap]" not in document else document,
                created_at=world.now,
                created_by="os:test",
                activated_at=world.now,
            )
        )
    told: list[int] = []
    assert await follow(world.services, world.controller.id, progress=told.append) == len(ids) == told[-1]
    grouped = await stored(world)
    async with world.services.database.transaction() as session:
        assert await reevaluate(session, world.services, ids, world.now) == len(ids)
    assert grouped == await stored(world)
    flags = {(row[4], row[5]) for row in grouped.values()}
    assert {(True, False), (False, True), (False, False)} <= flags
    assert await follow(world.services, world.controller.id) == 0


async def outdate(world: World) -> None:
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(schedule_version=0))


async def test_several_follow_at_once_and_decide_each_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, 150, 8)
    ids = await living(world)
    await follow(world.services, world.controller.id)
    await outdate(world)
    monkeypatch.setattr(reevaluation, "STEP", 7)
    monkeypatch.setattr(reevaluation, "_AHEAD", 40)
    later = clock_of(world.services).advance(timedelta(days=1))
    done = await asyncio.gather(*(follow(world.services, world.controller.id) for _ in range(3)))
    assert await follow(world.services, world.controller.id) + sum(done) == len(ids)
    assert {row[-1] for row in (await stored(world)).values()} == {later}


async def test_who_changes_a_customer_meanwhile_has_the_last_word(world: World) -> None:
    """A choice that waits for the row, or for which the row waits: the decision that stays knows of it."""
    customers = [await world.customer(last_contact=world.now) for _ in range(3)]
    for customer_id in customers:
        for _ in range(4):
            await world.recording(customer_id, audio=b"x")
    await outdate(world)

    async def object_to(customer_id: uuid.UUID) -> None:
        async with world.services.database.transaction() as session:
            session.add(
                Choice(
                    id=uuid.uuid4(),
                    customer_id=customer_id,
                    kind=enums.ChoiceKind.OBJECTION,
                    purposes=[],
                    effective_at=world.now,
                    source="call",
                    recorded_at=world.now,
                    actor="os:test",
                )
            )
            await session.flush()
            await reevaluate_customer(session, world.services, customer_id, world.now)

    async def follow_slowly() -> None:
        while await follow_step(world.services, world.controller.id, world.now, limit=2):
            pass

    await asyncio.gather(follow_slowly(), *(object_to(customer_id) for customer_id in customers))
    await follow(world.services, world.controller.id)
    found = await stored(world)
    async with world.services.database.transaction() as session:
        await reevaluate(session, world.services, list(found), world.now)
    assert found == await stored(world)


async def test_one_that_fails_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(world, 60, 4)
    ids = await living(world)
    await outdate(world)
    monkeypatch.setattr(reevaluation, "STEP", 10)
    seen = 0

    def die(done: int) -> None:
        nonlocal seen
        seen = done
        if done >= 20:
            raise Unavailable("the database is away", dependency="database")

    with pytest.raises(Unavailable):
        await follow(world.services, world.controller.id, progress=die)
    rest = await follow(world.services, world.controller.id)
    assert 0 < rest <= len(ids) - seen
    assert {row[1] for row in (await stored(world)).values()} == {1}


async def test_another_controllers_recordings_stay_as_they_are(world: World) -> None:
    await world.recording(audio=b"x")
    await outdate(world)
    assert await follow(world.services, uuid.uuid4()) == 0
    assert {row[1] for row in (await stored(world)).values()} == {0}


async def test_no_ids_are_no_rows(world: World) -> None:
    await world.recording(audio=b"x")
    async with world.services.database.snapshot() as session:
        query = sa.select(Recording.id)
        assert list(await session.scalars(query.where(among(Recording.id, [])))) == []
        assert list(await session.scalars(query.where(among(Recording.id, world.made)))) == world.made
