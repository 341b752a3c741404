"""Holds on whatever matches, several at once, reviews, grace after release, and the store's own holds."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.tables import AuditEntry, Hold, Matter, StoredObjectRow
from recorder.disposition import erasures, holds, schedules
from recorder.disposition.hold_queries import parse
from recorder.disposition.sweeping import sweep
from recorder.errors import Conflict, InvalidInput
from recorder.jobs import chores
from recorder.services import Services
from storage.errors import ObjectLocked, StoreUnavailable
from storage.s3 import S3Store
from storage.vault import Vault
from tests.recorder.disposition_world import World
from tests.servers.s3 import S3Server

LONG_AGO = datetime(2010, 3, 5, 8, tzinfo=UTC)


async def matter_of(world: World, **more: Any) -> Matter:
    async with world.services.database.transaction() as session:
        return await holds.open_matter(
            session,
            world.services,
            controller_id=world.controller.id,
            reference="2026-014",
            ground="legal_claims",
            actor="os:test",
            now=world.now,
            **{"review_on": world.now + timedelta(days=180), **more},
        )


async def place(world: World, matter: Matter, **target: Any) -> Hold:
    async with world.services.database.transaction() as session:
        found = await holds.get_matter(session, matter.id, lock=True)
        hold = await holds.place_hold(
            session, world.services, found, actor="os:test", now=world.now, **target
        )
    await holds.align_store(world.services, hold)
    return hold


async def release(world: World, hold: Hold) -> None:
    async with world.services.database.transaction() as session:
        matter = await holds.get_matter(session, hold.matter_id, lock=True)
        await holds.release_hold(session, world.services, matter, hold.id, actor="os:test", now=world.now)
    await holds.align_store(world.services, hold)


async def is_held(world: World, *ids: uuid.UUID) -> list[bool]:
    return [(await world.get(i)).held for i in ids]


async def test_new_matches_join_a_query_hold_by_themselves(world: World) -> None:
    before = await world.recording(started_at=world.now - timedelta(days=3))
    inside = await world.recording()
    matter = await matter_of(world)
    query = {
        "queue": ["sales", "support"],
        "agent": ["a7"],
        "tag": ["vip"],
        "started_from": world.now - timedelta(days=1),
        "started_before": world.now + timedelta(days=30),
    }
    hold = await place(world, matter, query=query)
    assert await is_held(world, before, inside) == [False, True]
    later = await world.recording()
    far = await world.recording(started_at=world.now + timedelta(days=31))
    assert await is_held(world, later, far) == [True, False]
    result = await erasures.erase_recording(world.services, later, requested_by="os:test", now=world.now)
    assert not result.erased
    assert result.outcomes[str(later)]["code"] == "hold"

    second = await place(world, matter, recording_id=inside)
    await release(world, hold)
    assert await is_held(world, inside, later) == [True, False]
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.erased == [str(later)]  # what was asked for while it was held
    await release(world, second)
    assert await is_held(world, inside) == [False]
    async with world.services.database.transaction() as session:
        found = await holds.get_matter(session, matter.id, lock=True)
        await holds.close_matter(session, world.services, found, actor="os:test", now=world.now)
        with pytest.raises(Conflict):
            await holds.place_hold(
                session, world.services, found, query=query, actor="os:test", now=world.now
            )


@pytest.mark.parametrize(
    ("query", "reached"),
    [
        ({"direction": ["inbound"]}, True),
        ({"direction": ["outbound"]}, False),
        ({"source": ["pbx-1"]}, True),
        ({"source": ["pbx-2"]}, False),
        ({"service_event": ["payment"]}, True),
        ({"service_event": ["order"]}, False),
        ({"basis": ["customer_relationship"]}, True),
        ({"basis": ["consent"]}, False),
        ({"agent": ["a7", "a8"]}, True),
        ({"agent": ["a8"]}, False),
        ({"tag": ["vip"], "queue": ["support"]}, False),
        ({"duration_at_least": 60}, True),
        ({"duration_less_than": 60}, False),
    ],
)
async def test_what_a_query_reaches(world: World, query: dict[str, Any], reached: bool) -> None:
    recording_id = await world.recording(events=["payment"], audio=b"x")
    await place(world, await matter_of(world), query=query)
    assert await is_held(world, recording_id) == [reached]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"queue": []},
        {"surprise": ["x"]},
        {"direction": ["sideways"]},
        {"basis": ["mood"]},
        {"started_from": "2026-03-05T10:00:00"},
        {"started_from": "soon"},
        {"duration_at_least": "long"},
    ],
)
def test_a_query_that_cannot_be_is_refused(query: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        parse(query)


async def test_a_push_that_raced_with_a_query_hold_is_kept_and_its_flag_follows(world: World) -> None:
    recording_id = await world.recording(started_at=LONG_AGO)
    assert (await world.get(recording_id)).sweep_on is not None
    matter = await matter_of(world)
    async with world.services.database.transaction() as session:
        session.add(  # as if the push had committed just after the hold looked
            Hold(
                id=uuid.uuid4(),
                matter_id=matter.id,
                controller_id=world.controller.id,
                query={"queue": ["sales"]},
                placed_at=world.now,
                placed_by="os:test",
            )
        )
    assert await is_held(world, recording_id) == [False]
    report = await sweep(world.services, world.controller.id, world.now, dry_run=True)
    assert report.due == []
    await chores.align_holds(world.services)
    assert await is_held(world, recording_id) == [True]
    (obj, *_) = await world.stored(recording_id)
    assert await world.services.store.legal_hold(obj.key, obj.version_id)


async def test_a_review_is_reminded_of_once_and_a_new_date_begins_again(world: World) -> None:
    services = world.services
    matter = await matter_of(
        world,
        review_on=datetime(2026, 9, 1, tzinfo=UTC),
        title="Virtanen against us",
        custodians=["Kaisa Korhonen"],
    )
    assert b"Korhonen" not in (matter.sealed or b"")
    services.clock.set(datetime(2026, 8, 31, 20, 59, tzinfo=UTC))  # type: ignore[attr-defined]  # tests' clock
    assert await holds.remind_of_reviews(services, world.now) == 0
    services.clock.set(datetime(2026, 8, 31, 21, 0, tzinfo=UTC))  # type: ignore[attr-defined]  # 1 Sept. in Helsinki
    await chores.matter_reviews(services)
    assert await holds.remind_of_reviews(services, world.now) == 1
    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry).where(AuditEntry.action == "matter.review_due")
        assert len(list(await session.scalars(query))) == 1
    async with services.database.transaction() as session:
        found = await holds.get_matter(session, matter.id, lock=True)
        await holds.amend_matter(
            session,
            services,
            found,
            review_on=datetime(2027, 3, 1, tzinfo=UTC),
            custodians=["Kaisa Korhonen", "Ville Laine"],
            actor="os:test",
            now=world.now,
        )
        words = await holds.read_matter(session, services, found)
        assert words["custodians"] == ["Kaisa Korhonen", "Ville Laine"]
        assert words["title"] == "Virtanen against us"
    assert await holds.remind_of_reviews(services, world.now) == 0


async def test_after_release_the_old_date_applies_once_the_grace_has_passed(world: World) -> None:
    services = world.services
    async with services.database.snapshot() as session:
        document = (await schedules.get(session, world.controller.id, 1)).document
    await _activate(world, document.replace("\n[[rule]]", '\nhold_grace = "P30D"\n\n[[rule]]', 1))
    recording_id = await world.recording(await world.customer(last_contact=LONG_AGO), started_at=LONG_AGO)
    hold = await place(world, await matter_of(world), recording_id=recording_id)
    assert (await sweep(services, world.controller.id, world.now)).due == []
    await release(world, hold)
    row = await world.get(recording_id)
    assert not row.held
    assert row.erase_on is not None
    assert world.now + timedelta(days=30) <= row.erase_on <= world.now + timedelta(days=31)
    services.clock.advance(timedelta(days=29))  # type: ignore[attr-defined]  # the tests' clock
    assert (await sweep(services, world.controller.id, world.now)).erased == []
    services.clock.set(row.erase_on)  # type: ignore[attr-defined]  # the tests' clock
    assert (await sweep(services, world.controller.id, world.now)).erased == [str(recording_id)]


async def _activate(world: World, document: str) -> None:
    from recorder.catalogue.tables import ScheduleVersion

    document = document.replace("version = 1\n", "version = 2\n", 1)
    assert "hold_grace" in document
    async with world.services.database.transaction() as session:
        session.add(
            ScheduleVersion(
                controller_id=world.controller.id,
                version=2,
                document=document,
                created_at=world.now,
                created_by="os:test",
                activated_at=world.now,
            )
        )


@pytest.fixture
async def locking(world: World, s3_server: S3Server) -> AsyncIterator[World]:
    """The world on a real bucket with Object Lock."""
    bucket = s3_server.new_bucket(object_lock=True)
    store = S3Store(
        s3_server.endpoint,
        s3_server.access_key,
        s3_server.secret_key,
        bucket,
        s3_server.region,
        secure=s3_server.secure,
    )
    object.__setattr__(world.services, "store", store)
    object.__setattr__(world.services, "vault", Vault(store, world.services.keyring))
    yield world
    await store.aclose()


async def in_store(services: Services, recording_id: uuid.UUID) -> list[bool]:
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == recording_id)
        rows = list(await session.scalars(query.order_by(StoredObjectRow.id)))
    return [await services.store.legal_hold(row.key, row.version_id) for row in rows]


@pytest.mark.s3
async def test_the_bucket_holds_and_lets_go_with_the_catalogue(
    locking: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, services = locking, locking.services
    assert (await services.store.capabilities()).legal_hold

    # Length unknown beforehand: written as a multipart upload.
    big = b"spoken words " * 1_300_000
    recording_id = await world.recording(audio=big)
    matter = await matter_of(world)
    one = await place(world, matter, recording_id=recording_id)
    two = await place(world, matter, query={"queue": ["sales"]})
    assert await in_store(services, recording_id) == [True, True]
    (obj, *_) = await world.stored(recording_id)
    with pytest.raises(ObjectLocked):
        await services.store.delete_version(obj.key, obj.version_id)
    later = await world.recording()
    assert await in_store(services, later) == [False, False]
    await chores.align_holds(services)
    assert await in_store(services, later) == [True, True]

    await release(world, one)
    assert await in_store(services, recording_id) == [True, True]

    async def away(*_: object) -> None:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "set_legal_hold", away)
        with pytest.raises(StoreUnavailable):
            await release(world, two)
    assert await in_store(services, recording_id) == [True, True]
    await chores.align_holds(services)
    assert await in_store(services, recording_id) == [False, False]
    assert await chores.align_holds(services) == 0
    done = await erasures.erase_recording(services, recording_id, requested_by="os:test", now=world.now)
    assert done.erased
    assert [v async for v in services.store.versions(obj.key)] == []
