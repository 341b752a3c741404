"""The spool of the service: what is acknowledged from local disk becomes the recording that was promised."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.catalogue import enums
from recorder.catalogue.database import Database
from recorder.catalogue.tables import AuditEntry, Controller, Recording, Source, SpooledReceipt, SpoolState
from recorder.clock import ManualClock
from recorder.customers.records import CustomerUpsert, upsert
from recorder.disposition import erasures, rotation
from recorder.errors import (
    Conflict,
    Erased,
    Forbidden,
    MalformedInput,
    NotFound,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from recorder.ingest import quarantine, spooling
from recorder.ingest.digests import DigestCheck
from recorder.ingest.draining import ATTEMPTS, Drainer
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.settling import Settled, Settler
from recorder.ingest.snapshot import refresh
from recorder.ingest.uploading import KEPT, Retained
from recorder.offline import MAX_AGE, OfflineAdmission
from recorder.services import Services
from recorder.settings import Settings
from storage.errors import StoreUnavailable
from storage.memory import MemoryStore
from storage.objects import Stat
from storage.spool import Note, Spool, SpooledAudio
from storage.vault import Vault
from tests.recorder.conftest import START
from tests.recorder.ingest.conftest import body, make_source, principal_of, request
from tests.recorder.ingest.test_pipeline import read

LATER = START + timedelta(minutes=7)


class WeakStore(MemoryStore):
    """Fails after so many bytes of a body; with ``after`` of None it works."""

    def __init__(self) -> None:
        super().__init__(versioned=True)
        self.after: int | None = None
        self.puts = 0

    async def put(self, key: str, body: Any, *, size: int | None) -> Stat:
        self.puts += 1
        taken: list[bytes] = []
        total = 0
        if self.after == 0:
            raise StoreUnavailable("away")
        async for piece in body:
            taken.append(bytes(piece))
            total += len(piece)
            if self.after is not None and total >= self.after:
                raise StoreUnavailable("away in the middle")
        if self.after is not None:
            raise StoreUnavailable("away at the end")

        async def again() -> AsyncIterator[bytes]:
            for piece in taken:
                yield piece

        return await super().put(key, again(), size=size)

    async def check(self) -> None:
        if self.after is not None:
            raise StoreUnavailable("away")


@pytest.fixture
def store() -> WeakStore:
    return WeakStore()


@pytest.fixture
def spooling_services(services: Services, store: WeakStore, tmp_path: Path) -> Services:
    return replace(
        services,
        settings=Settings(data_dir=tmp_path / "data", object_store="memory://"),
        store=store,
        vault=Vault(store, services.keyring),
        spool=Spool(tmp_path / "spool", services.keyring, max_bytes=50_000_000),
    )


@pytest.fixture
async def offline(spooling_services: Services, source: Source, tmp_path: Path) -> AsyncIterator[Services]:
    """The same service with its database away; it knew the sources a moment ago."""
    await refresh(spooling_services)
    nowhere = await asyncio.to_thread(Database, f"sqlite+aiosqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}")
    yield replace(spooling_services, database=nowhere)
    await nowhere.close()


async def push(
    services: Services, source: Source, asked: IngestRequest, data: bytes, *, step: int = 10_000
) -> Outcome:
    return await Intake(services).accept_durably(
        asked, body(data, step), principal=principal_of(source), request_id="a" * 32
    )


def suspects(services: Services) -> bool:
    return services.uploads.store_suspect


def spool_of(services: Services) -> Spool:
    assert services.spool is not None
    return services.spool


async def drain(services: Services, clock: ManualClock) -> None:
    clock.set(LATER)
    assert await Drainer(services, spool_of(services)).round()
    assert spool_of(services).figures().items == 0


async def entries(services: Services, action: str) -> list[dict[str, Any]]:
    async with services.database.snapshot() as session:
        found = await session.scalars(sa.select(AuditEntry.payload).where(AuditEntry.action == action))
        return [json.loads(payload) for payload in found]


async def receipt(services: Services, source: Source, given: uuid.UUID) -> str:
    return await quarantine.receipt_again(services, principal_of(source), given, request_id="b" * 32)


async def row_of(services: Services, recording_id: uuid.UUID | None) -> Recording:
    async with services.database.snapshot() as session:
        return await session.get_one(Recording, recording_id)


@pytest.mark.parametrize("after", [0, 1, 20_000, 10**9])
async def test_a_store_that_fails_anywhere_costs_the_sender_nothing(
    spooling_services: Services, store: WeakStore, source: Source, clock: ManualClock, wav: bytes, after: int
) -> None:
    services = spooling_services
    store.after = after
    outcome = await push(services, source, request(file_name="call.wav"), wav)
    assert (outcome.kind, outcome.state) == (OutcomeKind.SPOOLED, enums.RecordingState.SPOOLED)
    assert (outcome.sha256, outcome.size) == (hashlib.sha256(wav).digest(), len(wav))
    assert suspects(services)
    with pytest.raises(Unavailable):
        await spooling.whereabouts(services, outcome.recording_id or uuid.uuid4(), [source.controller_id])

    clock.set(LATER)
    assert not await Drainer(services, spool_of(services)).round(), "the store is away still"
    store.after = None
    await drain(services, clock)
    assert not suspects(services)
    row = await row_of(services, outcome.recording_id)
    assert (row.received_at, row.state) == (START, enums.RecordingState.STORED)
    assert await read(services, row.id) == wav
    again = await receipt(services, source, row.id)
    assert again == outcome.receipt
    [stored] = await entries(services, "recording.stored")
    assert stored["request"] == "a" * 32
    [told] = await entries(services, "recording.drained")
    assert (told["details"]["outcome"], told["details"]["waited_seconds"]) == ("stored", 420)
    repeat = await push(services, source, request(file_name="call.wav"), wav)
    assert (repeat.kind, repeat.recording_id, repeat.differences) == (OutcomeKind.REPEATED, row.id, ())


async def test_a_large_body_cut_in_the_middle_is_refused_and_spooled_the_next_time(
    spooling_services: Services, store: WeakStore, source: Source, clock: ManualClock
) -> None:
    services, large = spooling_services, bytes(range(256)) * (KEPT // 256) * 2
    store.after = KEPT + 200_000
    with pytest.raises(StoreUnavailable):
        await push(services, source, request(), large, step=65_536)
    assert spool_of(services).figures().items == 0
    store.after, puts = 0, store.puts
    outcome = await push(services, source, request(), large, step=65_536)
    assert (outcome.kind, store.puts) == (OutcomeKind.SPOOLED, puts), "a store that is away is not tried"
    store.after = None
    await drain(services, clock)
    assert await read(services, outcome.recording_id or uuid.uuid4()) == large


async def test_a_sender_that_never_retries_loses_nothing_of_a_large_body(
    spooling_services: Services, store: WeakStore, controller: Controller, clock: ManualClock
) -> None:
    services, large = spooling_services, bytes(range(256)) * (KEPT // 256) * 2
    source = await make_source(services, controller, "switch")
    async with services.database.transaction() as session:
        (await session.get_one(Source, source.id)).kind = "freeswitch"
    store.after = KEPT + 200_000
    outcome = await push(services, source, request(), large, step=65_536)
    assert outcome.kind is OutcomeKind.SPOOLED
    store.after = None
    await drain(services, clock)
    assert await read(services, outcome.recording_id or uuid.uuid4()) == large
    second = await push(services, source, request(external_id="call-2"), large)
    assert second.kind is OutcomeKind.CREATED
    assert spool_of(services).figures().items == 0


async def test_an_id_told_while_a_repeat_is_being_settled_leads_to_the_first_recording(
    spooling_services: Services, controller: Controller, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender gave up waiting twice: one repeat is on disk and being settled when the next arrives."""
    services = spooling_services
    source = await make_source(services, controller, "switch")
    async with services.database.transaction() as session:
        (await session.get_one(Source, source.id)).kind = "rtpengine"
    first = await push(services, source, request(), wav)
    assert first.kind is OutcomeKind.CREATED

    settle, begun, go = Settler.settle, asyncio.Event(), asyncio.Event()

    async def slowly(*given: Any) -> Settled:
        begun.set()
        await go.wait()
        return await settle(*given)

    monkeypatch.setattr(Settler, "settle", slowly)
    second = asyncio.create_task(push(services, source, request(), wav))
    await begun.wait()
    third = await push(services, source, request(), wav)
    assert (third.kind, third.recording_id == first.recording_id) == (OutcomeKind.SPOOLED, False)
    go.set()
    told = await second
    assert (told.kind, told.recording_id) == (OutcomeKind.REPEATED, first.recording_id)
    assert spool_of(services).figures().items == 0
    assert third.recording_id is not None
    leads_to = await spooling.whereabouts(services, third.recording_id, [source.controller_id])
    assert leads_to == first.recording_id
    assert await receipt(services, source, third.recording_id) == third.receipt


@pytest.mark.parametrize("committed", [True, False])
async def test_a_database_lost_at_the_commit_costs_the_sender_nothing(
    spooling_services: Services,
    source: Source,
    clock: ManualClock,
    wav: bytes,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
) -> None:
    """Whether the rows are there or not cannot be told; the id given is theirs in either case."""
    services = spooling_services
    commit = psycopg.AsyncConnection.commit

    async def lost_postgres(connection: Any) -> None:
        if committed:
            await commit(connection)
        raise psycopg.OperationalError("gone")

    def lost_sqlite(connection: Any) -> None:
        connection.commit() if committed else connection.rollback()
        raise sqlite3.OperationalError("gone")

    if services.database.sqlite:
        monkeypatch.setattr(services.database.engine.dialect, "do_commit", lost_sqlite)
    else:
        monkeypatch.setattr(psycopg.AsyncConnection, "commit", lost_postgres)
    outcome = await push(services, source, request(), wav)
    monkeypatch.undo()
    assert outcome.kind is OutcomeKind.SPOOLED
    await drain(services, clock)
    async with services.database.snapshot() as session:
        assert list(await session.scalars(sa.select(Recording.id))) == [outcome.recording_id]
        assert list(await session.scalars(sa.select(SpooledReceipt))) == []
    assert outcome.recording_id is not None
    assert await read(services, outcome.recording_id) == wav


async def test_a_spool_without_room_is_no_worse_than_none(
    spooling_services: Services, store: WeakStore, source: Source, wav: bytes, tmp_path: Path
) -> None:
    services = replace(
        spooling_services, spool=Spool(tmp_path / "tiny", spooling_services.keyring, max_bytes=1000)
    )
    async with services.database.transaction() as session:
        (await session.get_one(Source, source.id)).settings = {"tee": True}
    assert (await push(services, source, request(), wav)).kind is OutcomeKind.CREATED
    store.after = 0
    with pytest.raises((StoreUnavailable, Unavailable)):
        await push(services, source, request(external_id="2"), wav)
    services.uploads.suspect_store()
    with pytest.raises(Unavailable) as full:
        await push(services, source, request(external_id="2"), wav)
    assert (full.value.dependency, full.value.retry_after) == ("spool", spooling.FULL_RETRY)
    assert list((tmp_path / "tiny" / "items").iterdir()) == []


async def test_offline_what_settles_later_is_told_by_the_id_that_was_given(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    online = spooling_services
    first = await push(online, source, request(), wav)
    repeat = await push(offline, source, request(), wav)
    other = await push(offline, source, request(), wav + b"other")
    fresh = await push(offline, source, request(external_id="call-9"), wav)
    same = await push(offline, source, request(external_id="call-9"), wav)
    assert {o.kind for o in (repeat, other, fresh, same)} == {OutcomeKind.SPOOLED}
    assert (same.recording_id, same.receipt) == (fresh.recording_id, fresh.receipt)
    await drain(online, clock)

    async def where(outcome: Outcome) -> uuid.UUID | None:
        return await spooling.whereabouts(
            online, outcome.recording_id or uuid.uuid4(), [source.controller_id]
        )

    assert await where(repeat) == first.recording_id
    assert await spooling.whereabouts(online, repeat.recording_id or uuid.uuid4(), [uuid.uuid4()]) is None
    assert [await where(other), await where(fresh)] == [None, None], "they bear their ids themselves"
    aside = await row_of(online, other.recording_id)
    assert (aside.conflict_of, aside.state) == (first.recording_id, enums.RecordingState.QUARANTINED)
    assert await read(online, aside.id) == wav + b"other"
    assert await read(online, fresh.recording_id or uuid.uuid4()) == wav
    for outcome in (repeat, other, fresh):
        assert outcome.recording_id is not None
        again = await receipt(online, source, outcome.recording_id)
        assert again == outcome.receipt


async def test_a_receipt_is_another_sources_no_business(
    spooling_services: Services,
    offline: Services,
    source: Source,
    controller: Controller,
    clock: ManualClock,
    wav: bytes,
) -> None:
    await push(spooling_services, source, request(), wav)
    outcome = await push(offline, source, request(), wav)
    stranger = await make_source(spooling_services, controller, "stranger")
    assert outcome.recording_id is not None
    for _ in range(2):
        with pytest.raises(Forbidden):
            await receipt(spooling_services, stranger, outcome.recording_id)
        await drain(spooling_services, clock)
    with pytest.raises(NotFound):
        await quarantine.receipt_again(
            spooling_services, principal_of(source), uuid.uuid4(), request_id="c" * 32
        )


async def test_what_was_erased_meanwhile_stays_erased(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    online = spooling_services
    first = await push(online, source, request(), wav)
    assert first.recording_id is not None
    waiting = await push(offline, source, request(), wav)
    # Another host's erasure, which cannot reach into this host's spool.
    await erasures.erase_recording(
        replace(online, spool=None),
        first.recording_id,
        ground=enums.ErasureGround.COURT_ORDER,
        requested_by="os:test",
        now=clock.now(),
    )
    await drain(online, clock)
    assert waiting.recording_id is not None
    with pytest.raises(Erased):
        await spooling.whereabouts(online, waiting.recording_id, [source.controller_id])
    with pytest.raises(Erased):
        await quarantine.receipt_again(
            online, principal_of(source), waiting.recording_id, request_id="d" * 32
        )
    async with online.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Recording)) == 1


async def test_erasing_a_customer_reaches_into_the_spool(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    online = spooling_services
    person = await upsert(
        online,
        source.controller_id,
        CustomerUpsert(number="1001", source=enums.DataSource.REGISTRATION),
        actor="system:test",
        request_id="r",
    )
    theirs = await push(offline, source, request(external_id="t", customer={"number": "1001"}), wav)
    others = await push(offline, source, request(external_id="o", customer={"number": "2002"}), wav)
    folder = spool_of(online).root / "items"
    assert len(list(folder.iterdir())) == 4
    await erasures.erase_customer(online, person.id, requested_by="os:test", now=clock.now())
    assert len(list(folder.iterdir())) == 2
    await drain(online, clock)
    assert theirs.recording_id is not None
    with pytest.raises(Erased):
        await spooling.whereabouts(online, theirs.recording_id, [source.controller_id])
    assert await read(online, others.recording_id or uuid.uuid4()) == wav
    assert len(await entries(online, "recording.erased_in_spool")) == 1


async def test_an_epoch_that_the_spool_needs_is_not_destroyed(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    online, controller_id = spooling_services, source.controller_id
    await push(offline, source, request(), wav)
    drainer = Drainer(online, spool_of(online))
    await drainer._tell()
    await rotation.rotate(online, controller_id, actor="os:test", now=clock.now())
    while await rotation.rewrap_outdated(online, controller_id, clock.now()):
        pass
    for who in (online, replace(online, spool=None)):
        with pytest.raises(Conflict, match="spooled"):
            await rotation.destroy_epoch(
                who, controller_id, 1, actor="os:test", now=clock.now(), before_backups_expire=True
            )
    await drain(online, clock)
    await rotation.destroy_epoch(
        online, controller_id, 1, actor="os:test", now=clock.now(), before_backups_expire=True
    )
    async with online.database.snapshot() as session:
        [state] = await session.scalars(sa.select(SpoolState))
    assert (state.items, state.size, state.epochs) == (0, 0, {})


async def test_what_is_refused_is_refused_before_it_is_spooled(
    offline: Services, source: Source, wav: bytes
) -> None:
    wrong = DigestCheck.from_fields([("Content-Digest", "sha-256=:" + "A" * 43 + "=:")])
    with pytest.raises(MalformedInput):
        await push(offline, source, request(digests=wrong), wav)
    assert spool_of(offline).figures().items == 0


async def test_what_is_doubtful_is_quarantined_when_it_drains(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    wrong = DigestCheck.from_fields([("Content-Digest", "sha-256=:" + "A" * 43 + "=:")])
    outcome = await push(offline, source, request(digests=wrong, strict=False), wav)
    assert outcome.reasons == ("digest-mismatch",)
    right = await push(offline, source, request(), wav + b"right")
    await drain(spooling_services, clock)
    aside, row = (
        await row_of(spooling_services, outcome.recording_id),
        await row_of(spooling_services, right.recording_id),
    )
    assert (aside.state, row.state) == (enums.RecordingState.QUARANTINED, enums.RecordingState.STORED)


async def test_card_data_never_reaches_the_spool(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    muted = [{"from": 0.1, "to": 0.2, "reason": "card_security"}]
    outcome = await push(offline, source, request(muted=muted), wav)
    [item] = spool_of(offline).items()
    kept = b"".join([bytes(piece) async for piece in spool_of(offline).read(item)])
    assert kept != wav
    assert len(kept) == len(wav)
    assert outcome.sha256 == hashlib.sha256(kept).digest()
    await drain(spooling_services, clock)
    row = await row_of(spooling_services, outcome.recording_id)
    assert row.card_data_removed
    assert row.received_sha256 == hashlib.sha256(wav).digest()
    assert await read(spooling_services, row.id) == kept
    again = await quarantine.receipt_again(
        spooling_services, principal_of(source), row.id, request_id="b" * 32
    )
    assert again == outcome.receipt


async def test_one_delivery_that_cannot_be_opened_holds_up_no_other(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    spool = spool_of(offline)
    await push(offline, source, request(external_id="bad"), wav)
    good = await push(offline, source, request(external_id="good"), wav)
    audio = spool.root / "items" / f"{spool.items()[0].name}.audio"
    raw = bytearray(await asyncio.to_thread(audio.read_bytes))
    raw[1000] ^= 1
    await asyncio.to_thread(audio.write_bytes, raw)
    clock.set(LATER)
    drainer = Drainer(spooling_services, spool)
    assert await drainer.round()
    drainer.gauge()
    assert await read(spooling_services, good.recording_id or uuid.uuid4()) == wav
    assert (spool.figures().items, spool.figures().damaged) == (1, 1)
    value = spooling_services.metrics.registry.get_sample_value
    assert value("recorder_spool_damaged") == 1
    assert value("recorder_spool_oldest_seconds") == 420
    async with spooling_services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Recording)) == 1


async def test_a_delivery_that_fails_for_a_reason_of_its_own_is_left_to_a_person_in_the_end(
    spooling_services: Services, offline: Services, source: Source, wav: bytes
) -> None:
    spool = spool_of(offline)
    odd = await push(offline, source, request(external_id="odd"), wav)
    good = await push(offline, source, request(external_id="good"), wav)
    # The catalogue at hand is one that does not know its source (an older one was restored).
    item = spool.items()[0]
    document = await spool.document(item)
    await spool.remove(item)

    def describe(audio: SpooledAudio) -> Note:
        return Note(item.identity, audio.sha256, START, {**document, "source": str(uuid.uuid4())})

    assert odd.recording_id is not None
    await spool.add(body(wav), describe, item_id=odd.recording_id, controller_id=item.controller_id)
    drainer = Drainer(spooling_services, spool)
    for _ in range(ATTEMPTS):
        assert spool.figures().damaged == 0
        assert await drainer.round(), "it holds up nothing"
        assert good.recording_id is not None
        assert await read(spooling_services, good.recording_id) == wav
    assert (spool.figures().items, spool.figures().damaged) == (1, 1)


async def test_draining_again_after_a_kill_before_the_removal_changes_nothing(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock, wav: bytes
) -> None:
    outcome = await push(offline, source, request(), wav)
    spool = spool_of(offline)
    [item] = spool.items()
    folder = spool.root / "items"
    saved = {path: await asyncio.to_thread(path.read_bytes) for path in list(folder.iterdir())}
    await drain(spooling_services, clock)
    for path, raw in saved.items():
        await asyncio.to_thread(path.write_bytes, raw)
    await drain(spooling_services, clock)
    async with spooling_services.database.snapshot() as session:
        assert list(await session.scalars(sa.select(Recording.id))) == [outcome.recording_id] == [item.id]
        assert list(await session.scalars(sa.select(SpooledReceipt))) == []


# Who may push while the catalogue is away


async def test_offline_a_source_is_known_by_its_token_for_a_quarter_of_an_hour(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock
) -> None:
    online, operator = spooling_services, Principal("os", "test", None)
    pushing = await tokens.issue_token(
        online, operator, controller_id=source.controller_id, label="pbx", source_id=source.id
    )
    ended = await tokens.issue_token(
        online,
        operator,
        controller_id=source.controller_id,
        label="old",
        source_id=source.id,
        expires_at=START + timedelta(minutes=1),
    )
    client = await tokens.issue_token(
        online, operator, controller_id=source.controller_id, label="crm", role=enums.Role.CRM
    )
    with pytest.raises(Unavailable):
        await tokens.authenticate_token(offline, pushing.token)  # issued since the copy was made
    await refresh(online)
    found = await tokens.authenticate_token(offline, pushing.token)
    assert found == await tokens.authenticate_token(online, pushing.token)
    for wrong in (pushing.token[:-1] + ("a" if pushing.token[-1] != "a" else "b"),):
        with pytest.raises(Unauthenticated):
            await tokens.authenticate_token(offline, wrong)
    with pytest.raises(Unavailable):
        await tokens.authenticate_token(offline, client.token)
    clock.set(START + timedelta(minutes=2))
    with pytest.raises(Unauthenticated):
        await tokens.authenticate_token(offline, ended.token)
    await tokens.revoke_token(online, operator, pushing.id)
    await refresh(online)
    with pytest.raises(Unavailable):
        await tokens.authenticate_token(offline, pushing.token)
    clock.set(START + timedelta(minutes=2) + MAX_AGE + timedelta(seconds=1))
    assert offline.offline.source(source.id, clock.now()) is None


async def test_offline_a_source_that_was_switched_off_or_is_anothers_is_refused(
    spooling_services: Services, offline: Services, source: Source, controller: Controller, wav: bytes
) -> None:
    async def named(name: str) -> Outcome:
        return await Intake(offline).accept_durably(
            request(), body(wav), principal=principal_of(source), request_id="a" * 32, source=name
        )

    assert (await named("pbx")).kind is OutcomeKind.SPOOLED
    with pytest.raises(Unavailable):
        await named("another")  # refused; and a refusal that cannot be recorded is no answer
    async with spooling_services.database.transaction() as session:
        (await session.get_one(Source, source.id)).enabled = False
    await refresh(spooling_services)
    with pytest.raises(Forbidden):
        await named("pbx")


async def test_the_copy_on_disk_opens_with_the_keyring_and_unchanged_alone(
    spooling_services: Services, offline: Services, source: Source, clock: ManualClock
) -> None:
    path = spool_of(offline).root / "admission.sealed"
    raw = await asyncio.to_thread(path.read_bytes)
    assert str(source.id).encode() not in raw
    copy = OfflineAdmission()
    await asyncio.to_thread(copy.load, path, offline.keyring)
    assert copy.source(source.id, clock.now()) == offline.offline.source(source.id, clock.now())
    for changed in (raw[:-20], raw.replace(b'": "A', b'": "B'), b"{}", b""):
        await asyncio.to_thread(path.write_bytes, changed)
        copy = OfflineAdmission()
        await asyncio.to_thread(copy.load, path, offline.keyring)
        assert not copy.fresh(clock.now())


# Backpressure


async def test_a_flood_of_one_source_leaves_room_for_another(
    spooling_services: Services, source: Source, controller: Controller, wav: bytes
) -> None:
    services = replace(
        spooling_services,
        settings=spooling_services.settings.model_copy(
            update={"uploads_per_source": 3, "concurrent_uploads": 5}
        ),
    )
    quiet = await make_source(services, controller, "quiet")
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield wav[:1000]
        await go.wait()
        yield wav[1000:]

    async def flood(number: int) -> Outcome:
        return await Intake(services).accept_durably(
            request(external_id=f"f{number}"), slow(), principal=principal_of(source), request_id="a" * 32
        )

    flooding = [asyncio.create_task(flood(number)) for number in range(10)]
    waiting = set(flooding)
    while len(waiting) > 3:
        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    refused = [task.exception() for task in flooding if task.done()]
    assert all(isinstance(error, TooMany) and error.retry_after >= 1 for error in refused)
    assert len(refused) == 7
    assert (await push(services, quiet, request(), wav)).kind is OutcomeKind.CREATED
    go.set()
    done = await asyncio.gather(*flooding, return_exceptions=True)
    assert sum(isinstance(outcome, Outcome) for outcome in done) == 3
    await services.uploads.drain()
    assert services.uploads.running_of(source.id) == 0
    assert (await push(services, source, request(external_id="after"), wav)).kind is OutcomeKind.CREATED


async def test_a_source_may_have_a_share_of_its_own(
    spooling_services: Services, source: Source, wav: bytes
) -> None:
    async with spooling_services.database.transaction() as session:
        (await session.get_one(Source, source.id)).settings = {"uploads": 1}
    go = asyncio.Event()

    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        yield wav
        await go.wait()

    first = asyncio.create_task(
        Intake(spooling_services).accept_durably(
            request(), slow(), principal=principal_of(source), request_id="a" * 32
        )
    )
    await begun.wait()
    with pytest.raises(TooMany):
        await push(spooling_services, source, request(external_id="2"), wav)
    go.set()
    assert (await first).kind is OutcomeKind.CREATED


# A body that two read


@given(
    pieces=st.lists(st.binary(max_size=40), max_size=12),
    stop=st.integers(0, 13),
    cancelled=st.booleans(),
    limit=st.integers(0, 300),
)
@settings(max_examples=200, deadline=None)
async def test_a_second_reader_gets_all_that_a_failing_first_one_had(
    pieces: list[bytes], stop: int, cancelled: bool, limit: int
) -> None:
    gate = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        for number, piece in enumerate(pieces):
            if cancelled and number == stop:
                await gate.wait()
            yield piece

    kept = Retained(source(), limit)

    async def first() -> None:
        number = 0
        async for _ in kept:
            number += 1
            if number == stop and not cancelled:
                return

    reading = asyncio.create_task(first())
    for _ in range(3 * len(pieces) + 3):
        await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    gate.set()
    if kept.whole:
        assert b"".join([bytes(piece) async for piece in kept.again()]) == b"".join(pieces)
    else:
        assert sum(map(len, pieces)) > limit
    await kept.aclose()
