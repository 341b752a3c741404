"""What drifts is found, kept for a person and settled; the scrub reads everything in its turn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.background import Background
from recorder.catalogue.enums import ObjectRole, Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Finding, Job, ScrubCursor, StoredObjectRow
from recorder.disposition import erasures
from recorder.errors import Conflict, Forbidden, NotFound
from recorder.jobs import chores
from recorder.jobs import findings as desk
from recorder.jobs.findings import Resolution
from recorder.jobs.reconcile import reconcile
from recorder.jobs.scrub import scrub
from recorder.services import Services
from storage.errors import StoreUnavailable
from storage.memory import MemoryStore
from storage.objects import ObjectStore
from storage.s3 import S3Store
from storage.vault import StoredObject, Vault
from tests.recorder.disposition_world import World
from tests.servers.s3 import S3Server


@pytest.fixture
def operator(world: World) -> Principal:
    return Principal(
        "account",
        str(uuid.uuid4()),
        world.controller.id,
        (Grant(Role.OPERATOR, world.controller.id, ScopeKind.CONTROLLER),),
    )


@pytest.fixture(autouse=True)
def clocked(world: World) -> None:
    """A store whose objects are as old as the tests' clock says."""
    use(world.services, MemoryStore(versioned=True, clock=world.services.clock.now))


def use(services: Services, store: ObjectStore) -> None:
    object.__setattr__(services, "store", store)
    object.__setattr__(services, "vault", Vault(store, services.keyring))


def later(world: World, **by: float) -> None:
    world.services.clock.advance(timedelta(**by))  # type: ignore[attr-defined]  # the tests' clock


async def sealed(services: Services, obj: StoredObject) -> bytes:
    async with services.store.get(obj.key, version_id=obj.version_id) as pieces:
        return b"".join([piece async for piece in pieces])


async def once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


async def replace(services: Services, obj: StoredObject, raw: bytes) -> None:
    """What somebody with the bucket's keys could do, or what a disk does by itself."""
    await services.store.delete_all(obj.key)
    stat = await services.store.put(obj.key, once(raw), size=len(raw))
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(StoredObjectRow)
            .where(StoredObjectRow.id == obj.object_id)
            .values(version_id=stat.version_id)
        )


async def newest(services: Services, key: str) -> str | None:
    (latest,) = [v async for v in services.store.versions(key) if v.is_latest]
    return latest.version_id


async def found(services: Services, state: str = "open") -> list[Finding]:
    async with services.database.snapshot() as session:
        query = sa.select(Finding).where(Finding.state == state)
        return list(await session.scalars(query.order_by(Finding.kind, Finding.key)))


async def settle(world: World, who: Principal, finding: Finding, action: Resolution) -> Finding:
    return await desk.resolve(world.services, who, finding.id, action, controller_id=world.controller.id)


async def test_a_lost_original_is_adopted_when_it_is_put_back(world: World, operator: Principal) -> None:
    services = world.services
    recording_id = await world.recording(roles=[ObjectRole.ORIGINAL])
    (obj,) = await world.stored(recording_id)
    raw = await sealed(services, obj)
    later(world, days=2)
    await services.store.delete_all(obj.key)
    assert (await reconcile(services, world.now)).missing == [obj.object_id]
    (missing,) = await found(services)
    assert (missing.kind, missing.recording_id) == ("missing", recording_id)
    later(world, hours=6)
    await reconcile(services, world.now)
    (again,) = await found(services)
    assert (again.id, again.first_seen_at) == (missing.id, missing.first_seen_at)
    assert again.last_seen_at == world.now
    await Background(services)._gauges()
    assert services.metrics.registry.get_sample_value("recorder_findings_open", {"kind": "missing"}) == 1
    for action in ("recheck", "repair", "adopt"):
        with pytest.raises(Conflict):
            await settle(world, operator, missing, action)
    await services.store.put(obj.key, once(raw[:-1] + bytes([raw[-1] ^ 1])), size=len(raw))
    with pytest.raises(Conflict) as none_fits:
        await settle(world, operator, missing, "adopt")
    assert none_fits.value.kind == "nothing-to-adopt"
    await services.store.put(obj.key, once(raw), size=len(raw))
    assert (await settle(world, operator, missing, "adopt")).state == "resolved"
    (back,) = await world.stored(recording_id)
    assert back.version_id != obj.version_id
    await services.vault.verify(back)
    with pytest.raises(Conflict):
        await settle(world, operator, missing, "recheck")
    await Background(services)._gauges()
    assert services.metrics.registry.get_sample_value("recorder_findings_open", {"kind": "missing"}) == 0


async def test_what_was_made_is_made_again_and_foreign_versions_go(world: World, operator: Principal) -> None:
    services = world.services
    recording_id = await world.recording()
    original, peaks = sorted(await world.stored(recording_id), key=lambda o: o.role)
    assert (original.role, peaks.role) == ("original", "peaks")
    await replace(services, peaks, b"short")
    foreign = await services.store.put(original.key, once(b"foreign"), size=7)
    later(world, days=2)
    seen = await reconcile(services, world.now)
    assert (seen.resized, seen.extra) == ([peaks.object_id], [original.key])
    extra, resized = await found(services)
    assert extra.detail == {"versions": [foreign.version_id], "markers": 0}
    await settle(world, operator, extra, "repair")
    assert [v.version_id async for v in services.store.versions(original.key)] == [original.version_id]
    await settle(world, operator, resized, "repair")
    assert [v async for v in services.store.versions(peaks.key)] == []
    async with services.database.snapshot() as session:
        assert [j.kind for j in await session.scalars(sa.select(Job))] == ["peaks"]
        actions = list(await session.scalars(sa.select(AuditEntry.action)))
    assert (actions.count("finding.opened"), actions.count("finding.settled")) == (2, 2)
    assert not (await reconcile(services, world.now)).alarming
    # The same thing once more opens the same finding again.
    await services.store.put(original.key, once(b"foreign"), size=7)
    later(world, days=2)
    await reconcile(services, world.now)
    assert [f.id for f in await found(services)] == [extra.id]
    await services.store.delete_version(original.key, await newest(services, original.key))
    later(world, hours=6)
    await reconcile(services, world.now)
    assert await found(services) == []
    assert [f.id for f in await found(services, "gone")] == [extra.id]


async def test_the_scrub_finds_a_flipped_bit_and_goes_on_where_it_stood(
    world: World, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = world.services
    made = [await world.recording(audio=b"x" * 100, roles=[ObjectRole.ORIGINAL]) for _ in range(9)]
    objects = sorted([(await world.stored(i))[0] for i in made], key=lambda o: o.object_id.bytes)
    bad = objects[4]
    raw = bytearray(await sealed(services, bad))
    raw[60] ^= 1
    await replace(services, bad, bytes(raw))
    read: list[uuid.UUID] = []
    real = services.vault.verify

    async def counting(obj: StoredObject) -> None:
        read.append(obj.object_id)
        await real(obj)

    monkeypatch.setattr(services.vault, "verify", counting)
    first = await scrub(services, 0.3)
    assert (first.goal, first.done, first.wrong) == (3, 3, [])
    second = await scrub(services, 0.3)
    assert second.wrong == [bad.object_id]
    rest = await scrub(services, 0.3)
    assert read == [o.object_id for o in objects]
    assert (rest.done, rest.wrong) == (3, [])
    whole = await scrub(services, 1.0)
    assert sorted(read[9:], key=lambda i: i.bytes) == [o.object_id for o in objects]
    assert (whole.wrong, whole.rounds) == ([bad.object_id], 1)
    (tampered,) = await found(services)
    assert tampered.kind == "tampered"
    with pytest.raises(Conflict):
        await settle(world, operator, tampered, "repair")
    raw[60] ^= 1
    await replace(services, bad, bytes(raw))
    assert (await scrub(services, 1.0)).wrong == []
    assert await found(services) == []


async def test_a_night_reads_its_share_once_and_resumes_after_an_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = world.services
    for _ in range(30):
        await world.recording(audio=b"x", roles=[ObjectRole.ORIGINAL])
    real, calls = services.vault.verify, 0

    async def fragile(obj: StoredObject) -> None:
        nonlocal calls
        calls += 1
        if calls == 22:
            raise StoreUnavailable("the store is away")
        await real(obj)

    monkeypatch.setattr(services.vault, "verify", fragile)
    with pytest.raises(StoreUnavailable):
        await scrub(services, 0.8, night="2026-03-05")
    resumed = await scrub(services, 0.8, night="2026-03-05")
    assert (resumed.goal, resumed.done) == (24, 24)
    assert calls == 22 + 4  # the batch that broke off is read again, what was done is not
    again = await scrub(services, 0.8, night="2026-03-05")
    assert (again.done, calls) == (24, 26)
    later(world, days=1)
    assert (await chores.scrub_tonight(services)).done == 2  # 3.4 % of 30
    async with services.database.snapshot() as session:
        (cursor,) = await session.scalars(sa.select(ScrubCursor))
    assert (cursor.night, cursor.done, cursor.goal) == ("2026-03-06", 2, 2)


async def test_what_is_being_erased_is_no_finding(world: World) -> None:
    services = world.services
    recording_id = await world.recording()
    await erasures.erase_recording(services, recording_id, requested_by="os:test", now=world.now)
    later(world, days=2)
    assert not (await reconcile(services, world.now)).alarming
    assert (await scrub(services, 1.0)).goal == 0
    assert await found(services) == []


async def test_who_sees_and_settles_findings(world: World, operator: Principal) -> None:
    services = world.services
    recording_id = await world.recording(roles=[ObjectRole.ORIGINAL])
    (obj,) = await world.stored(recording_id)
    await services.store.delete_all(obj.key)
    await scrub(services, 1.0)
    (finding,) = await desk.listing(services, operator, world.controller.id, state="open", limit=10)
    quality = Principal(
        "account",
        str(uuid.uuid4()),
        world.controller.id,
        (Grant(Role.QUALITY, world.controller.id, ScopeKind.CONTROLLER),),
    )
    with pytest.raises(Forbidden):
        await desk.listing(services, quality, world.controller.id, state=None, limit=10)
    with pytest.raises(Forbidden):
        await settle(world, quality, finding, "accept")
    with pytest.raises(NotFound):
        await desk.resolve(services, operator, uuid.uuid4(), "accept", controller_id=world.controller.id)
    assert (await settle(world, operator, finding, "accept")).state == "accepted"
    assert (await scrub(services, 1.0)).wrong == [obj.object_id]
    assert await found(services) == []  # known: it is not opened every night


@pytest.mark.s3
async def test_a_real_bucket_shows_leftover_versions_and_abandoned_uploads(
    world: World, operator: Principal, s3_server: S3Server
) -> None:
    services = world.services
    bucket = s3_server.new_bucket(versioned=True)
    store = S3Store(
        s3_server.endpoint,
        s3_server.access_key,
        s3_server.secret_key,
        bucket,
        s3_server.region,
        secure=s3_server.secure,
    )
    try:
        use(services, store)
        recording_id = await world.recording(roles=[ObjectRole.ORIGINAL])
        (obj,) = await world.stored(recording_id)
        client = s3_server.client()
        client.remove_object(bucket, obj.key)  # without a version: a delete marker goes on top
        upload = client._create_multipart_upload(bucket, "o/ab/abandoned", {})
        client._upload_part(bucket, "o/ab/abandoned", b"x" * 10, {}, upload, 1)
        await services.vault.verify(obj)
        seen = await reconcile(services, world.now + timedelta(days=10_000), grace=timedelta(0))
        assert seen.uploads == ["o/ab/abandoned"]
        assert (seen.extra, seen.missing) == ([obj.key], [])
        assert [u async for u in store.uploads("o/")] == []
        (extra,) = await found(services)
        assert extra.detail["markers"] == 1
        await settle(world, operator, extra, "repair")
        assert [v.version_id async for v in store.versions(obj.key)] == [obj.version_id]
    finally:
        await store.aclose()
