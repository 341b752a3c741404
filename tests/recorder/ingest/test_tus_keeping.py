"""What is kept of unfinished uploads and for how long; nothing is lost or left. On every kind of store."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder.catalogue.database import Database
from recorder.catalogue.enums import DataSource, ErasureGround
from recorder.catalogue.tables import (
    AuditEntry,
    Controller,
    ResumableUpload,
    Source,
    UploadPiece,
    UploadState,
)
from recorder.clock import ManualClock
from recorder.customers.records import CustomerUpsert, upsert
from recorder.disposition import erasures
from recorder.disposition.rotation import rewrap_outdated, rotate
from recorder.errors import InvalidInput, MalformedInput
from recorder.ingest.digests import DigestCheck
from recorder.ingest.resumable import asking, finishing, protocol, receiving, rows
from recorder.ingest.resumable.active import Active
from recorder.jobs.reconcile import GRACE, reconcile
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.memory import MemoryKeyring
from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import ObjectStore
from storage.s3 import S3Store
from storage.vault import Vault
from tests.recorder.conftest import START
from tests.recorder.ingest.conftest import encode, tone
from tests.recorder.ingest.tus_world import Client, Tus, app_of, kept, left, said, token_of, upload_row

SMALL = 3000


@pytest.fixture(params=["memory", "local", pytest.param("s3", marks=pytest.mark.s3)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    """Where pieces lie."""
    made: ObjectStore
    if request.param == "memory":
        made = MemoryStore(versioned=True)
    elif request.param == "local":
        made = LocalStore(tmp_path / "objects")
    else:
        server = request.getfixturevalue("s3_server")
        bucket = await asyncio.to_thread(server.new_bucket, versioned=True)
        host = server.url.partition("://")[2]
        made = S3Store(host, server.access_key, server.secret_key, bucket, secure=False)
    yield made
    await made.aclose()


@pytest.fixture
async def services(
    database: Database,
    clock: ManualClock,
    tmp_path: Path,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Services:
    """Small pieces, so that little audio makes many."""
    monkeypatch.setattr(receiving, "DIRECT", 1000)
    keyring = MemoryKeyring()
    settings = Settings(data_dir=tmp_path / "data", upload_piece_bytes=SMALL)
    return Services(settings, clock, database, keyring, store, Vault(store, keyring))


@pytest.fixture
async def client(services: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    return await aiohttp_client(app_of(services))


@pytest.fixture
async def tus(client: Client, services: Services, controller: Controller, source: Source) -> Tus:
    return Tus(client, await token_of(services, controller, source))


async def cut_off(tus: Tus, url: str, offset: int, sent: bytes, size: int) -> None:
    """A request that announces ``size`` bytes and breaks off after some."""
    _, writer = await asyncio.open_connection("127.0.0.1", tus.client.port)
    head = (
        f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Offset: {offset}\r\nContent-Type: application/offset+octet-stream\r\n"
        f"Authorization: Bearer {tus.token}\r\n\r\n"
    )
    writer.write(head.encode() + sent)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("seed", range(3))
async def test_broken_off_anywhere_the_recording_is_byte_for_byte(
    tus: Tus, services: Services, seed: int
) -> None:
    draw = random.Random(seed)
    audio = encode(tone(draw.uniform(0.5, 2)))
    url = await tus.create(len(audio) if draw.random() < 0.5 else None)
    told = 0
    answer = None
    while answer is None or answer.status != 204 or told < len(audio):
        left_over = len(audio) - told
        if draw.random() < 0.5:
            sent = draw.randint(0, left_over - 1)
            await cut_off(tus, url, told, audio[told : told + sent], left_over)
        else:
            size = draw.randint(0, left_over)
            headers = {"Upload-Length": str(len(audio))} if size == left_over else {}
            answer = await tus.patch(url, told, audio[told : told + size], **headers)
            assert answer.status in (204, 409, 423), answer.status
        offset = await tus.offset(url)
        assert told <= offset <= len(audio)  # what was told of is never lost
        told = offset
    await services.resumable.drain()
    assert answer.headers["Recording-State"] == "stored"
    assert list((await kept(services)).values()) == [audio]
    assert await left(services) == (1, 0, 1)


async def test_the_reconciler_leaves_pieces_alone_and_removes_what_no_row_names(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    await tus.patch(url, 0, wav[:8000])

    async def audio() -> AsyncIterator[bytes]:
        yield b"a piece whose process died before its row"

    await services.vault.write(audio(), role=rows.ROLE)
    assert (await left(services))[1:] == (3, 4)
    found = await reconcile(services, clock.now() + timedelta(days=400), grace=GRACE)
    assert (len(found.orphans), found.missing) == (1, [])
    assert (await tus.patch(url, 8000, wav[8000:])).headers["Recording-State"] == "stored"


async def test_an_erasure_reaches_pieces_of_the_same_recording(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes
) -> None:
    done = await tus.create(len(wav))
    recording = (await tus.patch(done, 0, wav)).headers["Recording-Id"]
    again = await tus.create(len(wav))
    await tus.patch(again, 0, wav[:8000])
    assert (await left(services))[1] == 3
    result = await erasures.erase_recording(
        services,
        uuid.UUID(recording),
        ground=ErasureGround.COURT_ORDER,
        requested_by="os:test",
        now=clock.now(),
    )
    assert result is not None
    assert (await left(services))[1:] == (0, 0)
    row, subject = await upload_row(services, again)
    assert (row.state, row.sealed, subject.wrapped_key) == (UploadState.ENDED, None, None)
    assert (await tus.ask("HEAD", again)).status == 410
    assert (await tus.patch(again, 8000, wav[8000:])).status == 410
    fresh = {"Upload-Length": "5", "Upload-Metadata": said(external_id="call-1")}
    refused = await tus.ask("POST", "/uploads", fresh)
    assert (refused.status, (await refused.json())["type"]) == (410, "urn:tallenne:problem:erased")
    shown = await (await tus.ask("GET", done)).json()
    assert (shown["recording"], shown["problem"]["status"]) == (None, 410)


async def test_erasing_a_customer_ends_unfinished_uploads_of_their_calls(
    tus: Tus, services: Services, controller: Controller, clock: ManualClock, wav: bytes
) -> None:
    person = await upsert(
        services,
        controller.id,
        CustomerUpsert(number="1001", source=DataSource.REGISTRATION),
        actor="system:test",
        request_id="r",
    )
    theirs = await tus.create(len(wav), said(external_id="t", number="1001"))
    others = await tus.create(len(wav), said(external_id="o", number="2002"))
    for url in (theirs, others):
        await tus.patch(url, 0, wav[:8000])
    await erasures.erase_customer(services, person.id, requested_by="os:test", now=clock.now())
    row, subject = await upload_row(services, theirs)
    assert (row.state, row.sealed, subject.wrapped_key) == (UploadState.ENDED, None, None)
    assert (await tus.patch(theirs, 8000, wav[8000:])).status == 410
    assert "Recording-Id" in (await tus.patch(others, 8000, wav[8000:])).headers


async def test_what_was_begun_while_it_was_erased_is_ended_by_the_chore(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes
) -> None:
    done = await tus.create(len(wav))
    recording = (await tus.patch(done, 0, wav)).headers["Recording-Id"]
    other = await tus.create(len(wav), said(external_id="call-2"))
    await tus.patch(other, 0, wav[:8000])
    await erasures.erase_recording(
        services,
        uuid.UUID(recording),
        ground=ErasureGround.COURT_ORDER,
        requested_by="os:test",
        now=clock.now(),
    )
    async with services.database.transaction() as session:  # as if it had slipped in between
        identity = sa.select(ResumableUpload.identity).where(
            ResumableUpload.id == uuid.UUID(done.rpartition("/")[2])
        )
        mine = ResumableUpload.id == uuid.UUID(other.rpartition("/")[2])
        await session.execute(
            sa.update(ResumableUpload).where(mine).values(identity=identity.scalar_subquery())
        )
    await finishing.tend_uploads(services)
    assert (await left(services))[1:] == (0, 0)
    assert (await tus.ask("HEAD", other)).status == 410


async def test_an_upload_survives_a_rotation_of_keys(
    tus: Tus, services: Services, controller: Controller, clock: ManualClock, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    await tus.patch(url, 0, wav[:8000])
    await rotate(services, controller.id, actor="os:test", now=clock.now())
    while await rewrap_outdated(services, controller.id, clock.now()):
        pass
    await asyncio.to_thread(services.keyring.destroy_epoch, str(controller.id), 1, clock.now())
    assert (await tus.patch(url, 8000, wav[8000:])).headers["Recording-State"] == "stored"


async def test_a_lease_of_a_dead_process_is_free_and_of_a_living_one_is_not(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    upload_id = uuid.UUID(url.rpartition("/")[2])
    mine = services.resumable.name.split(":")
    leases = {
        f"{mine[0]}:{mine[1]}:000000000000:00": 204,  # this process id, before it was ours
        f"{mine[0]}:4194305:000000000000:00": 204,  # above the highest process id there can be
        f"elsewhere:{mine[1]}:000000000000:00": 423,
    }
    offset = 0
    for holder, status in leases.items():
        async with services.database.transaction() as session:
            await session.execute(
                sa.update(ResumableUpload)
                .where(ResumableUpload.id == upload_id)
                .values(holder=holder, lease_until=clock.now() + rows.LEASE)
            )
        answer = await tus.patch(url, offset, wav[offset : offset + 5000])
        assert answer.status == status, holder
        offset = await tus.offset(url)
    clock.advance(rows.LEASE)
    assert (await tus.patch(url, offset, wav[offset:])).headers["Recording-State"] == "stored"
    assert list((await kept(services)).values()) == [wav]


async def test_a_holder_whose_lease_was_taken_over_writes_nothing_more(
    tus: Tus, services: Services, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    upload_id = uuid.UUID(url.rpartition("/")[2])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield wav[:1000]
        begun.set()
        await go_on.wait()
        yield wav[1000:]

    first = asyncio.create_task(tus.patch(url, 0, slow()))
    await begun.wait()
    while services.resumable.of(upload_id) is None:  # noqa: ASYNC110  # nothing tells when a lease is taken
        await asyncio.sleep(0)
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(ResumableUpload).where(ResumableUpload.id == upload_id).values(holder="another")
        )
    go_on.set()
    assert (await first).status == 423
    assert await left(services) == (0, 0, 0)
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(ResumableUpload).where(ResumableUpload.id == upload_id).values(holder=None)
        )
    assert (await tus.patch(url, 0, wav)).headers["Recording-State"] == "stored"


async def test_endings_are_on_record_without_anything_personal(
    tus: Tus, services: Services, wav: bytes
) -> None:
    url = await tus.create(len(wav), said(external_id="c", caller="0401234567", filename="Maija.wav"))
    await tus.patch(url, 0, wav[:8000])
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(ResumableUpload))).one()
        piece = (await session.scalars(sa.select(UploadPiece).limit(1))).one()
        for secret in (b"0401234567", b"Maija"):
            assert secret not in (row.sealed or b"")
    assert "Maija" not in repr((piece.key, row.holder))
    await tus.ask("DELETE", url)
    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry).where(AuditEntry.action == "upload.terminated")
        entry = (await session.scalars(query)).one()
    assert entry.actor.startswith("source:")
    assert b"Maija" not in entry.payload
    assert b'"received":8000' in entry.payload


# What the fields say, by themselves.

TEXT = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(value=TEXT)
def test_no_field_breaks_its_reader(value: str) -> None:
    for read in (
        protocol.metadata_pairs,
        protocol.checksum,
        lambda v: protocol.concat(v, below="/uploads/"),
        lambda v: protocol.number("Upload-Offset", v),
    ):
        with contextlib.suppress(MalformedInput):
            read(value)


@given(
    pairs=st.dictionaries(
        st.text(
            alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1
        ),
        st.binary(max_size=40),
        max_size=6,
    )
)
def test_metadata_comes_back_as_it_was_said(pairs: dict[str, bytes]) -> None:
    assert dict(protocol.metadata_pairs(said(**pairs))) == pairs


@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from(
                ["external_id", "filename", "agent", "direction", "metadata", "muted", "x", "to"]
            ),
            st.binary(max_size=30) | st.sampled_from([b"inbound", b"call-1.wav", b'{"external_id": "y"}']),
        ),
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_whatever_is_asked_survives_its_sealing(pairs: list[tuple[str, bytes]]) -> None:
    now = ManualClock(START).now()
    try:
        asked = asking.ask("header", pairs, digests=DigestCheck(), now=now)
    except InvalidInput:
        return
    again = asking.Asked.of(asked.document(), size=5)
    assert again.request is not None
    assert asked.request is not None
    assert again.document() == asked.document()
    assert again.request.metadata == asked.request.metadata
    assert again.request.size == 5
    assert not again.request.strict


def test_holders_tell_processes_apart() -> None:
    one, other = Active(), Active()
    hold = one.begin(uuid.uuid4())
    one.enter(hold)
    assert not one.is_dead(hold.holder)
    assert other.is_dead(hold.holder)  # the same process id, another start
    one.leave(hold)
    assert one.is_dead(hold.holder)
    assert not one.is_dead("nonsense")
