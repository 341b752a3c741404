"""Erasure and rotation on a real S3 server: every version goes, and the oldest copies open nothing."""

from __future__ import annotations

import asyncio
import io
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from minio import Minio
from minio.commonconfig import CopySource

from recorder.catalogue.database import Database
from recorder.catalogue.sealed_fields import CUSTOMER_RECORD, RECORDING_METADATA
from recorder.catalogue.subjects import subject_ref
from recorder.catalogue.tables import Certificate, Customer, Recording, StoredObjectRow, Subject
from recorder.disposition import erasures, rotation
from recorder.services import Services
from storage.errors import KeyDestroyed, TamperedObject
from storage.keys import SubjectKeyRef, open_field
from storage.s3 import S3Store
from storage.vault import StoredObject, Vault
from tests.recorder.disposition_world import World
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: the tests also act as somebody with the bucket's keys and a plain client."""


@pytest.fixture
async def store_of(s3_server: S3Server) -> AsyncIterator[Callable[[str], S3Store]]:
    made: list[S3Store] = []

    def make(bucket: str) -> S3Store:
        made.append(
            S3Store(
                s3_server.endpoint,
                s3_server.access_key,
                s3_server.secret_key,
                bucket,
                s3_server.region,
                secure=s3_server.secure,
            )
        )
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.new_bucket(versioned=True)


@pytest.fixture
def real(world: World, bucket: str, store_of: Callable[[str], S3Store]) -> World:
    """The world on that bucket."""
    store = store_of(bucket)
    object.__setattr__(world.services, "store", store)
    object.__setattr__(world.services, "vault", Vault(store, world.services.keyring))
    return world


async def read(vault: Vault, obj: StoredObject) -> int:
    async with vault.read(obj) as pieces:
        return sum([len(piece) async for piece in pieces])


async def test_every_version_marker_and_upload_part_is_gone_and_proved(
    real: World, bucket: str, s3_server: S3Server
) -> None:
    world, services, client = real, real.services, s3_server.client()
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    other = await world.recording(await world.customer(last_contact=world.now))
    objects = await world.stored(recording_id)
    # What retries, lifecycle rules and people leave behind.
    first = objects[0]
    client.put_object(bucket, first.key, io.BytesIO(b"written over"), 12)
    client.remove_object(bucket, first.key)
    upload = client._create_multipart_upload(bucket, first.key, {})
    client._upload_part(bucket, first.key, b"x" * 100, {}, upload, 1)
    before = [v async for v in services.store.versions(first.key)]
    assert (len(before), sum(v.is_delete_marker for v in before)) == (3, 1)

    result = await erasures.erase_customer(services, customer_id, requested_by="os:test", now=world.now)

    assert result.erased
    plain = s3_server.client()
    for obj in objects:
        listed = plain.list_objects(bucket, prefix=obj.key, include_version=True)
        assert [entry.version_id for entry in listed] == []
        assert plain._list_multipart_uploads(bucket, prefix=obj.key).uploads == []
    async with services.database.snapshot() as session:
        (certificate,) = await session.scalars(sa.select(Certificate))
    (listed_in,) = certificate.document["recordings"]
    versions = {v for o in listed_in["objects"] if o["key"] == first.key for v in o["versions"]}
    assert versions == {v.version_id for v in before}
    for obj in await world.stored(other):
        assert await read(services.vault, obj) == obj.size


def copy_bucket(client: Minio, source: str, target: str) -> dict[tuple[str, str | None], str | None]:
    """Every version of every object; their ids in the copy, by key and old id."""
    ids: dict[tuple[str, str | None], str | None] = {}
    for entry in client.list_objects(source, recursive=True, include_version=True):
        if not entry.is_delete_marker and entry.object_name is not None:
            made = client.copy_object(
                target, entry.object_name, CopySource(source, entry.object_name, version_id=entry.version_id)
            )
            ids[entry.object_name, entry.version_id] = made.version_id
    return ids


async def copy_database(services: Services, tmp_path: Path, request: pytest.FixtureRequest) -> Database:
    if services.database.sqlite:
        assert await services.database.flush_deleted()
        source, target = str(services.database.url.database), tmp_path / "oldest.sqlite"
        await asyncio.to_thread(shutil.copy, source, target)
        return Database(f"sqlite+aiosqlite:///{target}")
    server: PostgresServer = request.getfixturevalue("postgres")
    await services.database.close()  # a template may have nobody in it
    return Database(server.new_database(template=str(services.database.url.database)))


async def subjects_of(services: Services) -> list[SubjectKeyRef]:
    async with services.database.snapshot() as session:
        rows = await session.scalars(sa.select(Subject).where(Subject.wrapped_key.is_not(None)))
        return [subject_ref(row) for row in rows]


async def test_the_oldest_copies_with_todays_database_and_keyring_open_nothing_erased(
    real: World,
    bucket: str,
    s3_server: S3Server,
    store_of: Callable[[str], S3Store],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    world, services = real, real.services
    alive = await world.customer(last_contact=world.now)
    single, stays = await world.recording(alive), await world.recording(alive)
    whole = await world.customer(last_contact=world.now)
    whole_gone, whole_kept = await world.recording(whole), await world.recording(whole, events=["payment"])
    unlinked = await world.recording()
    gone, living = (single, whole_gone, unlinked), (stays, whole_kept)

    oldest_bucket = s3_server.new_bucket(versioned=True)
    ids = copy_bucket(s3_server.client(), bucket, oldest_bucket)
    oldest_database = await copy_database(services, tmp_path, request)
    oldest_store = store_of(oldest_bucket)
    oldest = replace(
        services,
        database=oldest_database,
        store=oldest_store,
        vault=Vault(oldest_store, services.keyring),
    )
    then = World(oldest, world.controller, world.source)

    async def old_objects(recording_id: uuid.UUID) -> list[StoredObject]:
        found = await then.stored(recording_id)
        return [replace(o, version_id=ids[o.key, o.version_id]) for o in found]

    try:
        for obj in [o for i in (*gone, *living) for o in await old_objects(i)]:
            assert await read(oldest.vault, obj) == obj.size  # the copies are good ones

        for recording_id in (single, unlinked):
            await erasures.erase_recording(services, recording_id, requested_by="os:test", now=world.now)
        await erasures.erase_customer(services, whole, requested_by="os:test", now=world.now)
        services.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]  # the tests' clock
        await rotation.rotate(services, world.controller.id, actor="os:test", now=world.now)
        while await rotation.rewrap_outdated(services, world.controller.id, world.now):
            pass
        services.clock.advance(timedelta(days=services.settings.backup_window_days))  # type: ignore[attr-defined]
        await rotation.destroy_epoch(services, world.controller.id, 1, actor="os:test", now=world.now)

        today = await subjects_of(services)
        assert {ref.epoch for ref in today} == {2}
        for recording_id in gone:
            for obj in await old_objects(recording_id):
                with pytest.raises(KeyDestroyed):
                    await read(oldest.vault, obj)
                for ref in today:
                    for forged in (ref, replace(ref, subject_id=obj.subject.subject_id)):
                        with pytest.raises(TamperedObject):
                            await read(oldest.vault, replace(obj, subject=forged))
        await _no_field_opens(oldest, gone, whole, today)
        async with services.database.snapshot() as session:
            query = sa.select(StoredObjectRow.wrapped_key).where(StoredObjectRow.recording_id.in_(gone))
            assert set(await session.scalars(query)) == {None}
        for recording_id in living:
            for obj in await world.stored(recording_id):
                assert await read(services.vault, obj) == obj.size
    finally:
        await oldest_database.close()


async def _no_field_opens(
    oldest: Services, gone: tuple[uuid.UUID, ...], customer_id: uuid.UUID, today: list[SubjectKeyRef]
) -> None:
    async with oldest.database.snapshot() as session:
        customer = await session.get_one(Customer, customer_id)
        fields = [(CUSTOMER_RECORD, customer.id, customer.sealed, customer.subject_id)]
        for recording_id in gone:
            row = await session.get_one(Recording, recording_id)
            fields.append((RECORDING_METADATA, row.id, row.sealed, row.subject_id))
        refs = {s: subject_ref(await session.get_one(Subject, s)) for *_, s in fields}
    for field, row_id, sealed, subject_id in fields:
        assert sealed is not None
        with pytest.raises(KeyDestroyed):
            open_field(oldest.keyring, refs[subject_id], field, str(row_id), sealed)
        for ref in today:
            for forged in (ref, replace(ref, subject_id=str(subject_id))):
                with pytest.raises(TamperedObject):
                    open_field(oldest.keyring, forged, field, str(row_id), sealed)
