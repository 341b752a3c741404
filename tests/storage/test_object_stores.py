"""One contract for every object store: memory, local directory, and S3 on a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from storage.errors import (
    Misuse,
    ObjectLocked,
    ObjectMissing,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
)
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import Chunk, ObjectStore, Stat
from storage.s3 import S3Store
from storage.stores import open_store

T = TypeVar("T")
MIB = 1024 * 1024


def s3_store(server: Any, bucket: str, **changes: Any) -> S3Store:
    settings = {"access_key": server.access_key, "secret_key": server.secret_key, "timeout": 20.0} | changes
    return S3Store(server.endpoint, bucket=bucket, secure=server.secure, **settings)


@pytest.fixture(
    params=[
        "memory",
        "memory-versions",
        "local",
        pytest.param("s3", marks=pytest.mark.s3),
        pytest.param("s3-versions", marks=pytest.mark.s3),
        pytest.param("s3-lock", marks=pytest.mark.s3),
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    made: ObjectStore
    if request.param.startswith("memory"):
        made = MemoryStore(versioned=request.param == "memory-versions")
    elif request.param == "local":
        made = LocalStore(tmp_path / "store")
    else:
        server = request.getfixturevalue("s3_server")
        bucket = await asyncio.to_thread(
            server.new_bucket,
            versioned=request.param != "s3",
            object_lock=request.param == "s3-lock",
        )
        made = s3_store(server, bucket)
    yield made
    await made.aclose()


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[Chunk]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def put(store: ObjectStore, key: str, data: bytes, *, known: bool = True) -> Stat:
    return await store.put(key, pieces(data), size=len(data) if known else None)


async def read(store: ObjectStore, key: str, **range_: Any) -> bytes:
    async with store.get(key, **range_) as body:
        return b"".join([piece async for piece in body])


async def collect(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("size", [0, 1, 65536, 3 * MIB + 17])
async def test_what_is_put_is_got(store: ObjectStore, size: int, known: bool) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    data = noise(size)

    written = await put(store, "o/aa/one", data, known=known)

    assert (written.key, written.size) == ("o/aa/one", size)
    assert await read(store, "o/aa/one") == data
    found = await store.stat("o/aa/one")
    assert (found.size, found.version_id) == (size, written.version_id)
    assert before < found.modified < datetime.now(UTC) + timedelta(seconds=5)


async def test_a_body_of_several_parts_and_unknown_length(store: ObjectStore) -> None:
    data = noise(19 * MIB + 1)

    written = await put(store, "o/aa/long", data, known=False)

    assert written.size == len(data)
    assert await read(store, "o/aa/long") == data
    assert (
        await read(store, "o/aa/long", start=8 * MIB - 3, end=8 * MIB + 5) == data[8 * MIB - 3 : 8 * MIB + 5]
    )
    assert (await store.stat("o/aa/long")).version_id == written.version_id
    assert await collect(store.uploads()) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 1), (0, 2500), (7, 8), (1000, 2000), (2499, 2500), (2000, None), (5, 9999)],
)
async def test_a_range_is_the_slice_and_the_body_knows_the_whole_size(
    store: ObjectStore, start: int, end: int | None
) -> None:
    data = noise(2500)
    written = await put(store, "k", data)

    async with store.get("k", start=start, end=end) as body:
        assert body.size == 2500
        assert body.version_id == written.version_id
        assert b"".join([piece async for piece in body]) == data[start:end]


async def test_a_range_behind_the_end_is_empty_and_still_tells_the_size(store: ObjectStore) -> None:
    await put(store, "k", noise(10))
    await put(store, "empty", b"")

    for key, start, size in (("k", 10, 10), ("k", 500, 10), ("empty", 0, 0)):
        async with store.get(key, start=start, end=start + 5) as body:
            assert body.size == size
            assert [piece async for piece in body] == []


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 5), (5, 4), (0, 0)])
async def test_an_empty_or_negative_range_is_misuse(store: ObjectStore, start: int, end: int | None) -> None:
    await put(store, "k", noise(10))
    with pytest.raises(Misuse):
        async with store.get("k", start=start, end=end):
            pass


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a b", "ä", ".hidden", "a" * 201, "a\n"]
)
async def test_a_malformed_key_is_misuse(store: ObjectStore, key: str) -> None:
    with pytest.raises(Misuse):
        await put(store, key, b"x")
    with pytest.raises(Misuse):
        await store.stat(key)
    with pytest.raises(Misuse):
        await store.delete_all(key)


async def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing) as missing:
        await store.stat("o/none")
    assert missing.value.key == "o/none"
    with pytest.raises(ObjectMissing):
        await read(store, "o/none")
    with pytest.raises(ObjectMissing):
        await read(store, "o/none", start=3, end=9)
    with pytest.raises(ObjectMissing):
        await store.legal_hold("o/none", None)
    assert await collect(store.list()) == []
    assert await collect(store.versions()) == []


async def test_list_gives_keys_in_order_below_the_prefix(store: ObjectStore) -> None:
    for key in ("o/b/2", "o/a/1", "o/b/1", "p/1", "o/bb"):
        await put(store, key, key.encode())

    assert [found.key for found in await collect(store.list())] == ["o/a/1", "o/b/1", "o/b/2", "o/bb", "p/1"]
    assert [found.key for found in await collect(store.list("o/b"))] == ["o/b/1", "o/b/2", "o/bb"]
    assert [found.key for found in await collect(store.list("o/b/"))] == ["o/b/1", "o/b/2"]
    assert [(found.key, found.size) for found in await collect(store.list("p/1"))] == [("p/1", 3)]
    assert await collect(store.list("none/")) == []


async def test_overwriting_keeps_the_older_version_where_there_are_versions(store: ObjectStore) -> None:
    versioned = (await store.capabilities()).versions
    first = await put(store, "k", b"first")
    second = await put(store, "k", b"second!")

    assert await read(store, "k") == b"second!"
    found = sorted(await collect(store.versions("k")), key=lambda version: not version.is_latest)
    assert [(version.size, version.is_latest) for version in found][:1] == [(7, True)]
    assert len(found) == (2 if versioned else 1)
    if versioned:
        assert [version.version_id for version in found] == [second.version_id, first.version_id]
        assert await read(store, "k", version_id=first.version_id) == b"first"
        assert (await store.stat("k", first.version_id)).size == 5
        await store.delete_version("k", second.version_id)
        assert await read(store, "k") == b"first"
    else:
        assert first.version_id is None
        assert second.version_id is None


async def test_deleting_a_version_is_for_good_and_idempotent(store: ObjectStore) -> None:
    written = await put(store, "k", b"x")

    for _ in range(2):
        await store.delete_version("k", written.version_id)

        with pytest.raises(ObjectMissing):
            await store.stat("k", written.version_id)
        assert await collect(store.versions("k")) == []


async def test_delete_all_removes_every_version_of_exactly_this_key(store: ObjectStore) -> None:
    versioned = (await store.capabilities()).versions
    for data in (b"1", b"22", b"333"):
        await put(store, "o/k", data)
    await put(store, "o/k2", b"another")

    deleted = await store.delete_all("o/k")

    assert len(deleted) == (3 if versioned else 1)
    assert len(set(deleted)) == len(deleted)
    assert [version.key for version in await collect(store.versions())] == ["o/k2"]
    assert await store.delete_all("o/k") == ()


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("after", [0, 1, 12 * MIB])
async def test_a_body_that_fails_leaves_nothing_and_its_error_is_what_comes_out(
    store: ObjectStore, after: int, known: bool
) -> None:
    class SenderGone(Exception):
        pass

    async def failing() -> AsyncIterator[Chunk]:
        async for piece in pieces(noise(after), MIB):
            yield piece
        raise SenderGone

    with pytest.raises(SenderGone):
        await store.put("o/k", failing(), size=after + 10 if known else None)

    assert await collect(store.versions()) == []
    assert await collect(store.uploads()) == []


@pytest.mark.parametrize("announced", [999, 1001, 0, 5 * MIB])
async def test_a_body_of_another_length_than_announced_is_misuse(store: ObjectStore, announced: int) -> None:
    with pytest.raises(Misuse):
        await store.put("o/k", pieces(noise(1000), 100), size=announced)
    assert await collect(store.versions()) == []
    assert await collect(store.uploads()) == []


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_a_put_that_is_cancelled_leaves_nothing(store: ObjectStore, known: bool) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[Chunk]:
        for _ in range(10):
            yield noise(MIB)
        reached.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put("o/k", endless(), size=20 * MIB if known else None))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert await collect(store.versions()) == []
    assert await collect(store.uploads()) == []


async def test_an_upload_on_its_way_is_listed_and_can_be_aborted(store: ObjectStore) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[Chunk]:
        for _ in range(20):
            yield noise(MIB)
        reached.set()
        await go_on.wait()

    putting = asyncio.create_task(store.put("o/slow", slow(), size=None))
    await reached.wait()

    (upload,) = await collect(store.uploads("o/"))
    assert upload.key == "o/slow"
    assert upload.started.tzinfo is not None
    assert await collect(store.uploads("p/")) == []
    with pytest.raises(ObjectMissing):
        await store.stat("o/slow")
    for _ in range(2):
        await store.abort_upload(upload)
        assert await collect(store.uploads()) == []
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    assert await collect(store.versions()) == []


async def test_a_reader_may_leave_early(store: ObjectStore) -> None:
    data = noise(6 * MIB)
    await put(store, "k", data)
    for _ in range(3):
        async with store.get("k") as body:
            assert data.startswith(await anext(body))
    assert await read(store, "k") == data


async def test_many_at_once(store: ObjectStore) -> None:
    bodies = {f"o/{number:02}": noise(200_000 + number) for number in range(24)}

    await asyncio.gather(*(put(store, key, data, known=len(key) % 2 == 0) for key, data in bodies.items()))

    got = await asyncio.gather(*(read(store, key, start=100_000) for key in bodies))
    assert got == [data[100_000:] for data in bodies.values()]
    assert len(await collect(store.list("o/"))) == 24


async def test_capabilities_are_seen_and_leave_nothing_behind(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    found = await store.capabilities()

    kind = request.node.callspec.params["store"]
    assert found.versions is (kind in {"memory-versions", "s3-versions", "s3-lock"})
    assert found.object_lock is (kind in {"memory-versions", "s3-lock"})
    assert found.legal_hold is (kind in {"memory-versions", "s3-lock"})
    assert await store.capabilities() == found
    assert await collect(store.versions()) == []


@pytest.mark.parametrize("known", [True, False], ids=["known", "multipart"])
async def test_a_legal_hold_keeps_the_version_until_it_is_lifted(store: ObjectStore, known: bool) -> None:
    written = await put(store, "k", noise(9 * MIB), known=known)
    assert await store.legal_hold("k", written.version_id) is False

    if not (await store.capabilities()).legal_hold:
        with pytest.raises(Unsupported):
            await store.set_legal_hold("k", written.version_id, on=True)
        return
    await store.set_legal_hold("k", written.version_id, on=True)
    assert await store.legal_hold("k", written.version_id) is True
    with pytest.raises(ObjectLocked):
        await store.delete_version("k", written.version_id)
    with pytest.raises(ObjectLocked):
        await store.delete_all("k")
    assert (await store.stat("k", written.version_id)).size == 9 * MIB

    await store.set_legal_hold("k", written.version_id, on=False)
    assert await store.legal_hold("k", written.version_id) is False
    assert await store.delete_all("k") == (written.version_id,)


async def test_a_hold_on_nothing_is_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissing):
        await store.set_legal_hold("none", None, on=True)


async def test_check_passes_on_a_store_that_is_there(store: ObjectStore) -> None:
    await store.check()


# Delete markers, which a DELETE without a version puts on top


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.s3)])
async def test_a_delete_marker_hides_the_object_and_delete_all_removes_it_too(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store: ObjectStore
    if kind == "memory":
        store = memory = MemoryStore()
        await put(store, "k", b"x")
        await memory.mark_deleted("k")
    else:
        server = request.getfixturevalue("s3_server")
        bucket = await asyncio.to_thread(server.new_bucket, versioned=True)
        store = s3_store(server, bucket)
        await put(store, "k", b"x")
        await asyncio.to_thread(server.client().remove_object, bucket, "k")

    with pytest.raises(ObjectMissing):
        await store.stat("k")
    with pytest.raises(ObjectMissing):
        await read(store, "k")
    assert await collect(store.list()) == []
    below, marker = sorted(await collect(store.versions("k")), key=lambda version: version.is_latest)
    assert (marker.is_delete_marker, marker.is_latest, marker.size) == (True, True, 0)
    assert (below.is_delete_marker, below.is_latest, below.size) == (False, False, 1)
    assert set(await store.delete_all("k")) == {marker.version_id, below.version_id}
    assert await collect(store.versions()) == []
    await store.aclose()


# The local directory


async def test_local_files_are_the_owners_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "deep" / "store")
    await put(store, "o/aa/k", b"x")

    path = tmp_path / "deep" / "store" / "objects" / "o" / "aa" / "k"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "deep" / "store" / "uploads").iterdir()) == []


async def test_local_lists_what_a_killed_process_left(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    await store.check()
    (tmp_path / "uploads" / "0f~o%aa%k").write_bytes(b"half")

    (upload,) = await collect(store.uploads("o/aa"))
    assert upload.key == "o/aa/k"
    await store.abort_upload(upload)
    assert list((tmp_path / "uploads").iterdir()) == []
    with pytest.raises(Misuse):
        await store.abort_upload(type(upload)("k", "../objects/k", upload.started))


async def test_local_disk_trouble_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreUnavailable):
        await put(LocalStore(tmp_path), "o/k", b"x")
    assert list((tmp_path / "uploads").iterdir()) == []


# S3 only


@pytest.mark.s3
async def test_s3_wrong_keys_are_refused_and_the_message_quotes_neither(s3_server: Any) -> None:
    if s3_server.kind != "rgw":
        return  # the emulator takes any key
    bucket = await asyncio.to_thread(s3_server.new_bucket)
    store = s3_store(s3_server, bucket, secret_key="not-the-secret")
    for call in (
        lambda: put(store, "k", b"x"),
        lambda: read(store, "k"),
        lambda: store.stat("k"),
        lambda: store.delete_all("k"),
        store.check,
    ):
        with pytest.raises(StoreRefused) as refused:
            await call()
        assert "not-the-secret" not in str(refused.value)
        assert "X-Amz" not in str(refused.value)
    await store.aclose()


@pytest.mark.s3
async def test_s3_without_its_bucket_is_refused_until_it_is_made(s3_server: Any) -> None:
    store = s3_store(s3_server, "no-such-bucket-yet")
    with pytest.raises(StoreRefused):
        await store.check()
    with pytest.raises(StoreRefused):
        await put(store, "k", b"x")
    with pytest.raises(StoreRefused):
        await read(store, "k")
    for _ in range(2):
        await store.create_bucket(object_lock=True)
    await store.check()
    assert (await store.capabilities()).legal_hold is True
    await store.aclose()


async def test_s3_away_is_unavailable(free_port: Callable[[], int]) -> None:
    store = S3Store(f"127.0.0.1:{free_port()}", "key", "secret-secret", "bucket", secure=False, timeout=2.0)
    for call in (
        lambda: put(store, "k", b"x"),
        lambda: put(store, "k", b"x" * 9 * MIB, known=False),
        lambda: read(store, "k"),
        lambda: store.stat("k"),
        lambda: store.delete_all("k"),
        lambda: collect(store.uploads()),
        store.check,
    ):
        with pytest.raises(StoreUnavailable) as away:
            await call()
        assert "secret" not in str(away.value)
        assert "Signature" not in str(away.value)
    await store.aclose()


@asynccontextmanager
async def serving(answer: bytes | None) -> AsyncIterator[str]:
    """Answer every request with these bytes and hang up; None never even reads what is sent."""
    leave = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await leave.wait()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.release()

    closed = asyncio.Semaphore(0)
    server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1024)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    leave.set()
    await closed.acquire()
    server.close()
    await server.wait_closed()


async def test_s3_a_server_that_stops_taking_bytes_is_unavailable() -> None:
    async with serving(None) as endpoint:
        store = S3Store(endpoint, "key", "secret-secret", "bucket", secure=False, timeout=0.3)
        with pytest.raises(StoreUnavailable):
            await store.put("k", pieces(bytes(64 * MIB), MIB), size=64 * MIB)
        await store.aclose()


async def test_s3_a_body_that_breaks_off_is_unavailable_and_never_short() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 60) as endpoint:
        store = S3Store(endpoint, "key", "secret-secret", "bucket", secure=False, timeout=5.0)
        with pytest.raises(StoreUnavailable):
            await read(store, "k")
        await store.aclose()


async def test_s3_a_server_that_ignores_ranges_is_refused() -> None:
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100) as endpoint:
        store = S3Store(endpoint, "key", "secret-secret", "bucket", secure=False, timeout=5.0)
        with pytest.raises(StoreRefused):
            await read(store, "k", start=10, end=20)
        await store.aclose()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        ("503 Slow Down", "SlowDown", StoreUnavailable),
        ("500 Oops", "InternalError", StoreUnavailable),
        ("429 Too Many", "", StoreUnavailable),
        ("404 Not Found", "NoSuchKey", ObjectMissing),
        ("404 Not Found", "NoSuchBucket", StoreRefused),
        ("403 Forbidden", "RequestTimeTooSkewed", StoreRefused),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", "", StoreRefused),
    ],
)
async def test_s3_answers_are_told_apart(status: str, code: str, error: type[Exception]) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    async with serving(answer) as endpoint:
        store = S3Store(endpoint, "key", "secret-secret", "bucket", secure=False, timeout=5.0)
        with pytest.raises(error):
            await read(store, "k")
        await store.aclose()


# Addresses


def test_addresses_name_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    s3 = open_store("s3://bucket", s3_endpoint="http://127.0.0.1:1", access_key="a", secret_key="b" * 8)
    assert isinstance(s3, S3Store)


@pytest.mark.parametrize(
    "url", ["", "file://relative/x", "s3://", "s3://bucket/path", "s3://bucket", "ftp://x", "/var/lib/x"]
)
def test_other_addresses_are_misuse(url: str) -> None:
    with pytest.raises(Misuse):
        open_store(url)
