"""Moving to another store: a folder, a real S3 server; stopped, tampered with, erased meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder.access.principals import Principal
from recorder.archive.moving import Moved, copy, name_of, switch
from recorder.catalogue.tables import AuditEntry, MovedObject, StoredObjectRow
from recorder.errors import Conflict
from storage.errors import StoreUnavailable
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import Chunk, ObjectStore, Stat
from storage.s3 import S3Store
from storage.vault import Vault
from tests.recorder.disposition_world import AUDIO, World, chunks, memory_of
from tests.servers.s3 import S3Server

OPERATOR = Principal(kind="os", id="root", controller_id=None)
NAME = name_of("s3://new")
LEDGER = "ledger/000001"


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)])
async def target(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    store: ObjectStore
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        bucket = await asyncio.to_thread(lambda: server.new_bucket(versioned=True))
        store = S3Store(
            server.endpoint, server.access_key, server.secret_key, bucket, server.region, secure=server.secure
        )
    elif request.param == "folder":
        store = LocalStore(str(tmp_path / "new"))
    else:
        store = MemoryStore(versioned=True)
    yield store
    await store.aclose()


@pytest.fixture
async def filled(world: World) -> World:
    for number in range(3):
        await world.recording(audio=AUDIO[: 40_000 * (number + 1)])
    await world.services.store.put(LEDGER, chunks(b"signed"), size=6)
    return world


async def opens(world: World, store: ObjectStore, recording_id: uuid.UUID) -> None:
    """As the service does when it runs on the store: by the versions in the catalogue."""
    vault = Vault(store, world.services.keyring)
    objects = await world.stored(recording_id)
    assert objects
    for obj in objects:
        await vault.verify(obj)


async def test_everything_is_there_opens_there_and_the_catalogue_knows_its_versions(
    filled: World, target: ObjectStore
) -> None:
    done = await copy(filled.services, target, NAME)
    assert (done.copied, done.known, done.failed, done.damaged) == (7, 0, [], [])
    again = await copy(filled.services, target, NAME)
    assert (again.copied, again.known) == (0, 7)
    await filled.recording()  # the service runs on meanwhile
    done = await switch(filled.services, OPERATOR, target, NAME)
    assert (done.copied, done.known, done.removed) == (2, 7, 0)
    for recording_id in filled.made:
        await opens(filled, target, recording_id)
    async with target.get(LEDGER) as body:
        assert b"".join([piece async for piece in body]) == b"signed"
    async with filled.services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(MovedObject)) == 0
        query = sa.select(AuditEntry.object_id).where(AuditEntry.action == "store.switched")
        assert await session.scalar(query) == NAME


async def test_what_is_erased_meanwhile_does_not_live_on(filled: World, target: ObjectStore) -> None:
    await copy(filled.services, target, NAME)
    gone = filled.made[0]
    keys = [obj.key for obj in await filled.stored(gone)]
    for key in keys:
        await filled.services.vault.destroy(key)
    async with filled.services.database.transaction() as session:
        await session.execute(
            sa.update(StoredObjectRow)
            .where(StoredObjectRow.recording_id == gone)
            .values(deleted_at=filled.now, wrapped_key=None)
        )
    done = await switch(filled.services, OPERATOR, target, NAME)
    assert done.removed == len(keys)
    assert {version.key async for version in target.versions()}.isdisjoint(keys)


async def test_a_bucket_of_somebody_else_is_refused(filled: World, target: ObjectStore) -> None:
    await target.put("theirs", chunks(b"x"), size=1)
    with pytest.raises(Conflict, match="somebody else"):
        await copy(filled.services, target, NAME)
    assert [stat.key async for stat in target.list()] == ["theirs"]


async def test_a_copy_that_died_before_its_row_is_made_again(filled: World, target: ObjectStore) -> None:
    [obj, *_] = await filled.stored(filled.made[0])
    await target.put(obj.key, chunks(b"half of it"), size=10)
    done = await copy(filled.services, target, NAME)
    assert done.copied == 7
    await switch(filled.services, OPERATOR, target, NAME)
    await opens(filled, target, filled.made[0])


async def test_a_run_that_is_stopped_goes_on(filled: World, target: ObjectStore) -> None:
    def stop(done: Moved) -> None:
        if done.copied == 3:
            raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        await copy(filled.services, target, NAME, progress=stop)
    done = await copy(filled.services, target, NAME)
    assert (done.known, done.copied) == (3, 4)


class Lying(MemoryStore):
    """Takes what it is given and keeps something else."""

    lies = True

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        stat = await super().put(key, body, size=size)
        if self.lies:
            for kept in self._objects[key]:
                if kept.data:
                    flipped = bytearray(kept.data)
                    flipped[-1] ^= 1
                    kept.data = bytes(flipped)
        return stat


async def test_a_copy_that_is_not_the_original_does_not_count(filled: World) -> None:
    target = Lying()
    done = await copy(filled.services, target, NAME)
    assert (done.copied, len(done.failed)) == (0, 7)
    with pytest.raises(Conflict, match="not what they should be"):
        await switch(filled.services, OPERATOR, target, NAME)
    assert [stat.key async for stat in target.list()] == []
    target.lies = False
    await switch(filled.services, OPERATOR, target, NAME)
    await opens(filled, target, filled.made[0])


async def test_damage_is_told_and_carried_along(filled: World, target: ObjectStore) -> None:
    [obj, *_] = await filled.stored(filled.made[0])
    await filled.services.store.delete_all(obj.key)
    await filled.services.store.put(obj.key, chunks(b"\x28" + bytes(100)), size=101)
    done = await copy(filled.services, target, NAME)
    assert (done.copied, done.damaged, done.failed) == (7, [obj.key], [])


async def test_an_object_that_the_old_store_lost_stops_the_switch(filled: World, target: ObjectStore) -> None:
    [obj, *_] = await filled.stored(filled.made[0])
    before = obj.version_id
    await filled.services.store.delete_all(obj.key)
    with pytest.raises(Conflict, match="1 objects are not in the new store"):
        await switch(filled.services, OPERATOR, target, NAME)
    [after, *_] = await filled.stored(filled.made[0])
    assert after.version_id == before


async def test_the_old_store_is_left_as_it_was(filled: World, target: ObjectStore) -> None:
    old = memory_of(filled.services)
    before = {stat.key: stat.size async for stat in old.list()}
    objects = {made: await filled.stored(made) for made in filled.made}
    await switch(filled.services, OPERATOR, target, NAME)
    assert {stat.key: stat.size async for stat in old.list()} == before
    for stored in objects.values():
        for obj in stored:
            await filled.services.vault.verify(replace(obj, header=None))
