"""The vault: sealed streams in, verified ranges out, nothing left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import (
    KeyDestroyed,
    Misuse,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    TamperedObject,
)
from storage.keyrings.memory import MemoryKeyring
from storage.keys import Keyring, SubjectKeyRef, new_subject_key, wrap_data_key
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import Chunk, ObjectStore, Stat
from storage.s3 import S3Store
from storage.sealed import (
    FIRST_PLAIN_SIZE,
    HEADER_SIZE,
    SEGMENT_PLAIN_SIZE,
    SEGMENT_SIZE,
    Opener,
    object_aad,
    sealed_size,
    segment_count,
)
from storage.vault import StoredObject, Vault, WrittenObject

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SIZES = [0, 1, FIRST_PLAIN_SIZE, FIRST_PLAIN_SIZE + 1, FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE, 1_000_000]


class Recording(MemoryStore):
    """A memory store that notes which ranges were asked of it, and can lose its temper."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int | None]] = []
        self.away = False

    def get(self, key: str, *, start: int = 0, end: int | None = None, version_id: str | None = None) -> Any:
        self.asked.append((start, end))
        return super().get(key, start=start, end=end, version_id=version_id)

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        stat = await super().put(key, body, size=size)
        if self.away:
            raise StoreUnavailable("gone between the bytes and the answer")
        return stat


@pytest.fixture
def keyring() -> Keyring:
    made = MemoryKeyring(NOW)
    made.ensure_controller("c1")
    return made


@pytest.fixture
def subject(keyring: Keyring) -> SubjectKeyRef:
    return new_subject_key(keyring, "c1", "s1")


@pytest.fixture
def store() -> Recording:
    return Recording()


@pytest.fixture
def vault(store: Recording, keyring: Keyring) -> Vault:
    return Vault(store, keyring)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def pieces(data: bytes, size: int = 30_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def catalogued(
    keyring: Keyring, subject: SubjectKeyRef, written: WrittenObject, **changes: Any
) -> StoredObject:
    wrapped = wrap_data_key(
        keyring,
        subject,
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    known = StoredObject(
        written.object_id,
        written.role,
        written.key,
        written.version_id,
        written.size,
        written.sha256,
        wrapped,
        subject,
    )
    return dataclasses.replace(known, **changes)


async def read(vault: Vault, obj: StoredObject, start: int = 0, end: int | None = None) -> bytes:
    async with vault.read(obj, start, end) as found:
        return b"".join([piece async for piece in found])


async def read_into(released: bytearray, vault: Vault, obj: StoredObject) -> None:
    async with vault.read(obj) as found:
        async for piece in found:
            released += piece


async def replace(store: ObjectStore, obj: StoredObject, data: bytes) -> StoredObject:
    stat = await store.put(obj.key, pieces(data), size=len(data))
    return dataclasses.replace(obj, version_id=stat.version_id)


async def stored(store: ObjectStore, key: str) -> bytes:
    async with store.get(key) as body:
        return b"".join([piece async for piece in body])


# Writing


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_written_is_read(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef, size: int, known: bool
) -> None:
    data = noise(size)
    sha512 = hashlib.sha512()

    written = await vault.write(pieces(data), role="original", size=size if known else None, hashers=[sha512])

    assert (written.size, written.sealed_size) == (size, sealed_size(size))
    assert written.sha256 == hashlib.sha256(data).digest()
    assert sha512.digest() == hashlib.sha512(data).digest()
    obj = catalogued(keyring, subject, written)
    assert await read(vault, obj) == data
    await vault.verify(obj)


async def test_a_key_of_the_store_is_random_and_says_nothing(vault: Vault, keyring: Keyring) -> None:
    object_id = uuid4()
    first = await vault.write(pieces(b"x"), role="original", object_id=object_id)
    second = await vault.write(pieces(b"x"), role="original", object_id=object_id)

    assert first.object_id == object_id
    assert first.key != second.key
    assert object_id.hex not in first.key
    assert first.key.startswith(f"o/{first.key[5:7]}/")
    assert first.data_key != second.data_key
    assert first.header != second.header


async def test_the_store_sees_the_sealed_format_and_no_plaintext(vault: Vault, store: Recording) -> None:
    data = b"The customer said something." * 10_000
    written = await vault.write(pieces(data), role="peaks")

    sealed = await stored(store, written.key)

    assert b"customer" not in sealed
    assert sealed[:HEADER_SIZE] == written.header
    opener = Opener(written.data_key, object_aad(written.object_id, "peaks"), sealed[:HEADER_SIZE])
    assert opener.open_run(0, sealed[HEADER_SIZE:], last=segment_count(len(data)) - 1) == data


def test_no_secret_shows_in_a_repr() -> None:
    written = WrittenObject(uuid4(), "original", "k", None, 1, 57, b"d", b"\xaa" * 32, b"h")
    assert "data_key" not in repr(written)


async def test_randomness_comes_from_where_it_is_told(store: Recording, keyring: Keyring) -> None:
    def source() -> Vault:
        return Vault(store, keyring, random=random.Random(7).randbytes)

    one = await source().write(pieces(b"x"), role="original")
    other = await source().write(pieces(b"x"), role="original")
    assert dataclasses.replace(one, version_id=None) == dataclasses.replace(other, version_id=None)


@pytest.mark.parametrize("after", [0, 10, 500_000])
async def test_a_source_that_fails_leaves_nothing_and_its_error_comes_out(
    vault: Vault, store: Recording, after: int
) -> None:
    class SenderGone(Exception):
        pass

    async def failing() -> AsyncIterator[bytes]:
        async for piece in pieces(noise(after)):
            yield piece
        raise SenderGone

    for size in (None, after + 1):
        with pytest.raises(SenderGone):
            await vault.write(failing(), role="original", size=size)
    assert [version async for version in store.versions()] == []


@pytest.mark.parametrize("announced", [0, 99_999, 100_001])
async def test_a_source_of_another_size_than_announced_is_misuse(
    vault: Vault, store: Recording, announced: int
) -> None:
    with pytest.raises(Misuse):
        await vault.write(pieces(noise(100_000)), role="original", size=announced)
    assert [version async for version in store.versions()] == []


async def test_an_object_whose_put_was_not_answered_is_cleared_away(vault: Vault, store: Recording) -> None:
    store.away = True
    with pytest.raises(StoreUnavailable):
        await vault.write(pieces(b"x"), role="original")
    assert [version async for version in store.versions()] == []


async def test_a_cancelled_write_leaves_nothing(vault: Vault, store: Recording) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield noise(200_000)
        reached.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(vault.write(endless(), role="original"))
    await reached.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert [version async for version in store.versions()] == []


async def test_a_malformed_role_is_misuse(vault: Vault) -> None:
    with pytest.raises(Misuse):
        await vault.write(pieces(b"x"), role="Not a role")


# Reading


@settings(max_examples=60, deadline=None)
@given(data=st.data())
async def test_any_range_is_the_slice(data: st.DataObject) -> None:
    keyring = MemoryKeyring(NOW)
    keyring.ensure_controller("c1")
    vault = Vault(MemoryStore(), keyring)
    size = data.draw(st.integers(0, 1_200_000))
    start = data.draw(st.integers(0, size))
    end = data.draw(st.one_of(st.none(), st.integers(start, size)))
    plain = noise(size)
    written = await vault.write(pieces(plain, 100_000), role="original")
    obj = catalogued(keyring, new_subject_key(keyring, "c1", "s"), written)

    assert await read(vault, obj, start, end) == plain[start:end]
    with_header = dataclasses.replace(obj, header=written.header)
    assert await read(Vault(vault._store, keyring), with_header, start, end) == plain[start:end]


async def test_a_range_fetches_the_segments_it_needs(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(1_000_000)), role="original")
    seek = (FIRST_PLAIN_SIZE + 4 * SEGMENT_PLAIN_SIZE + 5, FIRST_PLAIN_SIZE + 6 * SEGMENT_PLAIN_SIZE)
    segments = (5 * SEGMENT_SIZE, 7 * SEGMENT_SIZE)

    await read(vault, catalogued(keyring, subject, written, header=written.header), *seek)
    assert store.asked == [segments]

    store.asked.clear()
    obj = catalogued(keyring, subject, written)
    await read(vault, obj, *seek)
    await read(vault, obj, *seek)
    assert sorted(store.asked) == [(0, HEADER_SIZE), segments, segments]  # the header once

    store.asked.clear()
    await read(vault, obj, 0, 10)
    assert store.asked == [(0, SEGMENT_SIZE)]


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (0, 11), (5, 4), (11, None)])
async def test_a_range_outside_is_misuse(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef, start: int, end: int | None
) -> None:
    written = await vault.write(pieces(b"0123456789"), role="original")
    with pytest.raises(Misuse):
        await read(vault, catalogued(keyring, subject, written), start, end)


async def test_opening_verifies_before_anything_is_released(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(300_000)), role="original")
    obj = catalogued(keyring, subject, written)
    sealed = bytearray(await stored(store, written.key))
    sealed[2 * SEGMENT_SIZE + 9] ^= 1
    obj = await replace(store, obj, bytes(sealed))

    # The damage lies in segment 2: a read that begins there does not open ...
    begin = FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE
    with pytest.raises(TamperedObject) as tampered:
        await vault.open_range(obj, begin)
    assert tampered.value.object_id == obj.object_id
    # ... one that begins earlier opens and stops in front of it ...
    released = bytearray()
    with pytest.raises(TamperedObject):
        await read_into(released, vault, obj)
    assert released == noise(300_000)[: len(released)]
    assert len(released) <= begin
    # ... and one that does not touch it is answered.
    assert await read(vault, obj, 0, begin) == noise(300_000)[:begin]
    assert await read(vault, obj, begin + SEGMENT_PLAIN_SIZE) == noise(300_000)[begin + SEGMENT_PLAIN_SIZE :]
    with pytest.raises(TamperedObject):
        await vault.verify(obj)


@pytest.mark.parametrize("keep", [0, 1, HEADER_SIZE, SEGMENT_SIZE, 3 * SEGMENT_SIZE, -1, 100_000_000])
@pytest.mark.parametrize("start", [0, 150_000, 249_999])
async def test_a_stored_size_that_is_not_the_recorded_one_is_refused_at_opening(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef, keep: int, start: int
) -> None:
    written = await vault.write(pieces(noise(250_000)), role="original")
    sealed = await stored(store, written.key)
    changed = sealed + b"\x00" if keep > len(sealed) else sealed[:keep]
    obj = await replace(store, catalogued(keyring, subject, written, header=written.header), changed)
    with pytest.raises(TamperedObject):
        await vault.open_range(obj, start)


async def test_an_object_in_anothers_place_does_not_open(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    one = await vault.write(pieces(noise(1000)), role="original")
    other = await vault.write(pieces(noise(1000)), role="original")
    swapped = catalogued(keyring, subject, one, key=other.key, version_id=other.version_id)
    with pytest.raises(TamperedObject):
        await read(vault, swapped)


@pytest.mark.parametrize(
    "changes", [{"role": "rendition"}, {"object_id": uuid4()}, {"size": 999}, {"sha256": bytes(32)}]
)
async def test_an_edited_row_does_not_open(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef, changes: dict[str, Any]
) -> None:
    written = await vault.write(pieces(noise(1000)), role="original")
    with pytest.raises(TamperedObject):
        await vault.open_range(catalogued(keyring, subject, written, **changes))


async def test_a_wrong_remembered_header_does_not_open(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(200_000)), role="original")
    for header in (b"", bytes(40), written.header[:-1] + bytes([written.header[-1] ^ 1])):
        with pytest.raises(TamperedObject):
            await vault.open_range(catalogued(keyring, subject, written, header=header), 100_000)


async def test_verify_sees_a_digest_that_was_never_true(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = dataclasses.replace(
        await vault.write(pieces(b"audio"), role="original"), sha256=hashlib.sha256(b"other").digest()
    )
    obj = catalogued(keyring, subject, written)  # the wrap binds the false digest, so it opens
    assert await read(vault, obj) == b"audio"
    with pytest.raises(TamperedObject):
        await vault.verify(obj)


async def test_without_its_key_an_object_is_unreadable(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef, store: Recording
) -> None:
    written = await vault.write(pieces(b"audio"), role="original")
    obj = catalogued(keyring, subject, written)
    keyring.rotate("c1", NOW)
    keyring.destroy_epoch("c1", 1, NOW)
    store.asked.clear()
    with pytest.raises(KeyDestroyed):
        await vault.open_range(obj)
    assert store.asked == []


async def test_a_reader_may_leave_early_and_close_twice(
    vault: Vault, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(900_000)), role="original")
    opened = await vault.open_range(catalogued(keyring, subject, written), 10)
    assert opened.length == 899_990
    first = await anext(opened)
    assert noise(900_000)[10:].startswith(first)
    await opened.aclose()
    await opened.aclose()


async def test_ciphertext_fetched_beforehand_is_used_for_its_range_alone(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(900_000)), role="original")
    obj = catalogued(keyring, subject, written, header=written.header)
    for start, end, requests in ((70_000, 140_000, 1), (70_001, 140_000, 2)):
        store.asked.clear()
        fetch = vault.fetch(obj.key, obj.version_id, obj.size, 70_000, 140_000)
        async with await vault.open_range(obj, start, end, fetch=fetch) as opened:
            assert b"".join([bytes(piece) async for piece in opened]) == noise(900_000)[start:end]
        await fetch.aclose()
        assert len(store.asked) == requests
    another = await vault.write(pieces(noise(900_000)), role="original")
    fetch = vault.fetch(another.key, another.version_id, another.size, 70_000, 140_000)
    async with await vault.open_range(obj, 70_000, 140_000, fetch=fetch) as opened:
        assert b"".join([bytes(piece) async for piece in opened]) == noise(900_000)[70_000:140_000]
    await fetch.aclose()


async def test_fetched_ciphertext_may_be_dropped_at_any_time(
    vault: Vault, store: Recording, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    written = await vault.write(pieces(noise(900_000)), role="original")
    at_once = vault.fetch(written.key, written.version_id, written.size)
    await at_once.aclose()
    arrived = vault.fetch(written.key, written.version_id, written.size)
    await arrived.body()
    for _ in range(2):
        await arrived.aclose()
    missing = vault.fetch("o/00/nothing", None, written.size)
    with pytest.raises(ObjectMissing):
        await vault.open_range(
            catalogued(keyring, subject, written, key="o/00/nothing", version_id=None), fetch=missing
        )
    await missing.aclose()
    unwanted = vault.fetch("o/00/nothing", None, written.size)
    await asyncio.sleep(0)
    await unwanted.aclose()
    with pytest.raises(Misuse):
        vault.fetch(written.key, None, written.size, 0, written.size + 1)


# Destroying


async def test_destroy_removes_every_version_and_proves_it(
    vault: Vault, store: Recording, keyring: Keyring
) -> None:
    written = await vault.write(pieces(b"x"), role="original")
    again = await store.put(written.key, pieces(b"newer"), size=5)
    await store.mark_deleted(written.key)

    deleted = await vault.destroy(written.key)

    assert {written.version_id, again.version_id} < set(deleted)
    assert len(deleted) == 3
    assert [version async for version in store.versions()] == []
    assert await vault.destroy(written.key) == ()


async def test_destroy_does_not_believe_the_store(keyring: Keyring) -> None:
    class Liar(MemoryStore):
        async def delete_all(self, key: str) -> tuple[str, ...]:
            return ("done",)

    vault = Vault(Liar(), keyring)
    written = await vault.write(pieces(b"x"), role="original")
    with pytest.raises(StorageError):
        await vault.destroy(written.key)


async def test_a_destroyed_object_is_missing(vault: Vault, keyring: Keyring, subject: SubjectKeyRef) -> None:
    written = await vault.write(pieces(noise(200_000)), role="original")
    obj = catalogued(keyring, subject, written)
    await read(vault, obj)
    await vault.destroy(written.key)
    for start in (0, 100_000):
        with pytest.raises(ObjectMissing):
            await vault.open_range(obj, start)


# On real stores


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.s3)])
async def test_on_a_real_store(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, keyring: Keyring, subject: SubjectKeyRef
) -> None:
    real: ObjectStore = LocalStore(tmp_path)
    if kind == "s3":
        server = request.getfixturevalue("s3_server")
        bucket = await asyncio.to_thread(server.new_bucket, versioned=True)
        real = S3Store(server.endpoint, server.access_key, server.secret_key, bucket, secure=server.secure)
    vault = Vault(real, keyring)
    for size in (0, 1, FIRST_PLAIN_SIZE, 20_000_000):
        data = noise(size)
        for known in (size, None):
            written = await vault.write(pieces(data, 200_000), role="original", size=known)
            obj = catalogued(keyring, subject, written)
            assert await read(vault, obj) == data
            assert (
                await read(vault, obj, size // 2, size // 2 + size // 4)
                == data[size // 2 : size // 2 + size // 4]
            )
            truncated = (await stored(real, written.key))[:-1]
            with pytest.raises(TamperedObject):
                await vault.open_range(await replace(real, obj, truncated), max(size - 1, 0))
            await vault.destroy(written.key)
    assert [version async for version in real.versions()] == []
    await real.aclose()
