"""Copies for the person: what is in them, what is not, and that they end."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import sys
import tempfile
import uuid
import zipfile
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.background import Background
from recorder.catalogue.enums import DataSource, JobState, LawfulBasis, PackageState, RecordingState
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH, RECORDING_METADATA
from recorder.catalogue.subjects import seal_json
from recorder.catalogue.tables import (
    Certificate,
    Customer,
    CustomerBatch,
    Job,
    Recording,
    RequestPackage,
    RightsRequest,
    Subject,
)
from recorder.disposition import erasures, rotation
from recorder.jobs.reconcile import reconcile
from recorder.rights import copies, index_page, packages, shredding
from recorder.rights.copies import others_channels
from storage.errors import StoreUnavailable
from tests.recorder.disposition_world import World
from tests.recorder.playback.conftest import WAV, decoded, make_audio
from tests.recorder.rights.conftest import Desk

STEREO = [{"party": "customer"}, {"party": "agent"}]


async def call(
    world: World,
    customer_id: uuid.UUID,
    audio: bytes,
    *,
    channels: list[dict[str, str]] | None = None,
    basis: LawfulBasis = LawfulBasis.CUSTOMER_RELATIONSHIP,
    media: dict[str, Any] | None = None,
) -> uuid.UUID:
    recording_id = await world.recording(customer_id, audio=audio)
    async with world.services.database.transaction() as session:
        recording = await session.get_one(Recording, recording_id)
        recording.channels = STEREO if channels is None else channels
        recording.media, recording.lawful_basis = media or WAV, basis
        subject = await session.get_one(Subject, recording.subject_id)
        # As a sender may give it: who served the call stands in what it said as well.
        said = {"caller": "+358401234567", "agent": "a7", "agents": ["a7"]}
        recording.sealed = seal_json(world.services.keyring, subject, RECORDING_METADATA, recording_id, said)
    return recording_id


async def deliver(world: World, customer_id: uuid.UUID, source: DataSource, fields: dict[str, Any]) -> None:
    services = world.services
    services.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # the test's clock
    async with services.database.transaction() as session:
        customer = await session.get_one(Customer, customer_id)
        subject = await session.get_one(Subject, customer.subject_id)
        batch_id = uuid.uuid4()
        document = {"source_ref": "r-1", "fields": fields}
        session.add(
            CustomerBatch(
                id=batch_id,
                customer_id=customer_id,
                source=source,
                sealed=seal_json(services.keyring, subject, CUSTOMER_BATCH, batch_id, document),
                stored_at=world.now,
            )
        )


async def made(desk: Desk, rights_id: str) -> zipfile.ZipFile:
    """Ordered, built by the worker, fetched over HTTP."""
    path = f"/api/v1/requests/{rights_id}/export"
    ordered = await desk.ask("POST", path, status=202)
    assert ordered["state"] == "queued"
    assert (await desk.ask("GET", path, status=202))["state"] == "queued"
    await Background(desk.world.services).worker.drain()
    ready = await desk.ask("GET", path, params={"status": "true"})
    assert ready["state"] == "ready", ready
    assert ready["done"] == ready["total"]
    async with desk.client.get(path, headers={"X-Role": "privacy"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/zip"
        body = await answer.read()
    assert len(body) == ready["size"]
    return zipfile.ZipFile(io.BytesIO(body))


def loudness(pcm: bytes, channel: int) -> int:
    return max(abs(sample) for sample in array("h", pcm)[channel::2])


async def test_access_holds_everything_of_the_person_and_no_staff(desk: Desk, world: World) -> None:
    audio = await make_audio(1)
    customer_id = await world.customer(last_contact=world.now)
    await deliver(world, customer_id, DataSource.CREDIT_REGISTER, {"address": "Kuja <1>"})
    recording_id = await call(world, customer_id, audio)
    stranger = await call(world, await world.customer(), audio)
    assert await desk.plays(recording_id, "quality", "quality") == 200
    granted = await desk.grant("access", customer_id)
    archive = await made(desk, granted["id"])
    assert archive.testzip() is None
    assert sorted(archive.namelist()) == [
        "calls/0001/call.json",
        "calls/0001/call.vcon.json",
        "calls/0001/recording.wav",
        "data.json",
        "index.html",
    ]
    assert archive.read("calls/0001/recording.wav") == audio
    data = json.loads(archive.read("data.json"))
    assert data["person"] == {"name": "Aino V"}
    assert data["calls"] == [str(recording_id)]
    (use,) = data["consultations"]
    assert use == {
        "recording": str(recording_id),
        "at": "2026-03-05T08:00:01.000000+00:00",
        "purpose": "quality",
        "what": "listen.opened",
    }
    assert [d["source"] for d in data["deliveries"]] == ["registration", "credit_register"]
    described = json.loads(archive.read("calls/0001/call.json"))
    assert described["metadata"] == {"caller": "+358401234567"}
    assert described["kept_until"] is not None
    everything = b"".join(archive.read(name) for name in archive.namelist() if "recording" not in name)
    for secret in (b'"a7"', str(uuid.UUID(int=len("quality"))).encode(), b"account:", str(stranger).encode()):
        assert secret not in everything.replace(str(recording_id).encode(), b"")
    page = archive.read("index.html").decode()
    assert "Tietosuojavaltuutettu" in page
    assert 'src="calls/0001/recording.wav"' in page
    # Handing it out is a consultation of its own, and is on record.
    assert "recording.copied" in await desk.actions(recording_id)
    assert "package.downloaded" in await desk.actions(granted["id"])
    shown = await desk.ask("GET", f"/api/v1/requests/{granted['id']}")
    assert shown["completed_at"] is not None


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Writing:
    """Every file that the process itself opens for writing, inside ``with``. ffmpeg may write none at all."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._watching = False
        sys.addaudithook(self._hook)  # cannot be taken back: idle from the end of the block on

    def __enter__(self) -> Writing:
        self._watching = True
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event == "open":
            path, _mode, flags = arguments
            # A number is a pipe to a child: whatever has a name was opened by it before.
            if flags & (os.O_WRONLY | os.O_RDWR) and path != os.devnull and not isinstance(path, int):
                self.paths.append(str(path))


async def test_nothing_unsealed_touches_a_disk(desk: Desk, world: World, tmp_path: Path) -> None:
    with Writing() as known:
        (tmp_path / "seen").write_bytes(b"x")
        await asyncio.to_thread(lambda: tempfile.TemporaryFile().close())
    assert len(known.paths) >= 2, "what is written is seen, in threads as well"

    audio = await make_audio(3)
    customer_id = await world.customer()
    await deliver(world, customer_id, DataSource.REGISTRATION, {"wishes": "No letters, please, to Kuja 7"})
    await call(world, customer_id, audio)
    granted = await desk.grant("access", customer_id, mute_agent=True)
    with Writing() as writing:
        archive = await made(desk, granted["id"])
    assert writing.paths == []
    # What the database wrote by itself: neither sound, nor what was said, nor the file that was made.
    heard = archive.read(next(name for name in archive.namelist() if "recording." in name))
    pieces = [audio[at : at + 64] for at in range(0, len(audio) - 64, 997)]
    pieces += [heard[at : at + 64] for at in range(0, len(heard) - 64, 997) if any(heard[at : at + 64])]
    pieces += [b"No letters, please", b"calls/0001/"]
    assert contents(tmp_path), "the database and the keyring lie here"
    for path, content in contents(tmp_path).items():
        assert not any(piece in content for piece in pieces), path


async def test_the_vcon_says_who_is_heard_and_holds_the_same_audio(desk: Desk, world: World) -> None:
    audio = await make_audio(1)
    recording_id = await call(world, customer_id := await world.customer(), audio)
    archive = await made(desk, (await desk.grant("access", customer_id))["id"])
    vcon = json.loads(archive.read("calls/0001/call.vcon.json"))
    (dialog,) = vcon["dialog"]
    body = dialog["body"]
    assert base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)) == audio
    assert (dialog["type"], dialog["encoding"], dialog["parties"]) == ("recording", "base64url", [0, 1])
    assert dialog["mediatype"] == "audio/wav"
    assert uuid.UUID(vcon["uuid"]).version == 8
    assert vcon["uuid"] != str(recording_id)
    assert vcon["parties"][1]["org"] == "Example FI"


async def test_the_agents_side_is_silent_when_the_decision_says_so(desk: Desk, world: World) -> None:
    audio = await make_audio(1)
    customer_id = await world.customer()
    await call(world, customer_id, audio, channels=[{"party": "agent"}, {"party": "customer"}])
    mixed = await call(world, customer_id, audio, channels=[{"party": "mixed"}], media={**WAV, "channels": 1})
    granted = await desk.grant("access", customer_id, mute_agent=True)
    archive = await made(desk, granted["id"])
    calls = {}
    for name in archive.namelist():
        if name.endswith("call.json"):
            described = json.loads(archive.read(name))
            calls[described["id"]] = described["copy"]
    assert calls.pop(str(mixed)) == {"file": None, "content_type": None, "note": "withheld"}
    ((_, copy),) = calls.items()
    assert copy["note"] == "muted"
    heard = await decoded(archive.read(copy["file"]))
    assert loudness(heard, 0) < 40
    assert loudness(heard, 1) > 5000
    assert "voices on this recording cannot be separated" in archive.read("index.html").decode()


async def test_portability_holds_exactly_what_the_person_provided(desk: Desk, world: World) -> None:
    audio = await make_audio(1)
    customer_id = await world.customer()
    await deliver(world, customer_id, DataSource.REGISTRATION, {"name": "Aino", "phones": ["+35840"]})
    await deliver(world, customer_id, DataSource.RELATIVE, {"name": "Aino V.", "address": "elsewhere"})
    await deliver(world, customer_id, DataSource.CALL, {"name": "Aino Virtanen"})
    theirs = [
        await call(world, customer_id, audio, basis=basis)
        for basis in (LawfulBasis.CONSENT, LawfulBasis.ASSIGNMENT)
    ]
    others = await call(world, customer_id, audio, basis=LawfulBasis.STATUTORY_OBLIGATION)
    granted = await desk.grant("portability", customer_id)
    grounds = {item["recording"]: item["ground"] for item in granted["recordings"]}
    assert grounds == {**dict.fromkeys(map(str, theirs)), str(others): "not_self_provided"}
    archive = await made(desk, granted["id"])
    data = json.loads(archive.read("data.json"))
    assert data["person"] == {"name": "Aino Virtanen", "phones": ["+35840"]}
    assert sorted(data["calls"]) == sorted(map(str, theirs))
    assert not {"deliveries", "contacts", "consultations", "recipients"} & data.keys()
    described = json.loads(archive.read("calls/0001/call.json"))
    assert set(described) == {
        "id", "started_at", "ended_at", "duration_ms", "direction", "lawful_basis", "copy",
    }  # fmt: skip
    heard = await decoded(archive.read(described["copy"]["file"]))
    assert loudness(heard, 1) < 40  # the agent's voice is not the person's to take along
    assert loudness(heard, 0) > 5000


async def test_audio_that_cannot_be_decoded_is_handed_out_as_it_came(desk: Desk, world: World) -> None:
    broken = b"these are no samples of any codec" * 100
    customer_id = await world.customer()
    await call(world, customer_id, broken, media={"container": "amr", "codec": "amr_nb", "channels": 1})
    archive = await made(desk, (await desk.grant("access", customer_id))["id"])
    (name,) = [n for n in archive.namelist() if "recording" in n]
    assert archive.read(name) == broken


async def test_only_who_answers_requests_gets_copies_and_only_granted_ones(desk: Desk, world: World) -> None:
    await call(world, customer_id := await world.customer(), await make_audio(1))
    filed = await desk.file("access", customer_id)
    path = f"/api/v1/requests/{filed['id']}/export"
    await desk.ask("POST", path, status=409)
    await desk.ask("GET", path, status=404)
    await desk.identify(filed["id"])
    await desk.decide(filed["id"], outcome="granted")
    for role in ("legal", "quality", "auditor", "operator"):
        await desk.ask("POST", path, role=role, status=403)
    first = await desk.ask("POST", path, status=202)
    assert (await desk.ask("POST", path, status=202))["id"] == first["id"]
    objection = await desk.grant("objection", customer_id)
    await desk.ask("POST", f"/api/v1/requests/{objection['id']}/export", status=409)


async def test_a_package_expires_and_its_key_and_object_are_gone(desk: Desk, world: World) -> None:
    services = world.services
    await call(world, customer_id := await world.customer(), await make_audio(1))
    granted = await desk.grant("access", customer_id)
    await made(desk, granted["id"])
    row = await package(world)
    assert row.key is not None
    async with services.store.get(row.key) as body:
        sealed = b"".join([piece async for piece in body])
    assert b"Aino" not in sealed
    assert b"call.json" not in sealed
    services.clock.advance(packages.LIFE - timedelta(seconds=1))  # type: ignore[attr-defined]
    path = f"/api/v1/requests/{granted['id']}/export"
    await desk.ask("GET", path)
    findings = await reconcile(services, world.now)
    assert findings.orphans == []  # the reconciler knows it
    services.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # the test's clock
    await desk.ask("GET", path, status=410)
    assert [await shredding.expire(services) for _ in range(2)] == [1, 0]
    row = await package(world)
    assert (row.state, row.wrapped_key) == (PackageState.EXPIRED, None)
    assert row.deleted_at is not None
    assert [v async for v in services.store.versions(row.key or "")] == []
    again = await desk.ask("POST", path, status=202)
    assert again["state"] == "queued"


async def package(world: World) -> RequestPackage:
    async with world.services.database.snapshot() as session:
        return (await session.scalars(sa.select(RequestPackage))).one()


@pytest.mark.parametrize("what", ["customer", "recording"])
async def test_erasure_takes_the_copies_with_it(desk: Desk, world: World, what: str) -> None:
    services = world.services
    recording_id = await call(world, customer_id := await world.customer(), await make_audio(1))
    granted = await desk.grant("access", customer_id)
    await made(desk, granted["id"])
    if what == "customer":
        await erasures.erase_customer(services, customer_id, requested_by="os:test", now=world.now)
    else:
        await erasures.erase_recording(services, recording_id, requested_by="os:test", now=world.now)
    assert (await world.get(recording_id)).state is RecordingState.ERASED
    row = await package(world)
    assert row.wrapped_key is None
    assert row.deleted_at is not None
    assert [stat async for stat in services.store.list("o/")] == [] or what == "recording"
    assert row.key not in {stat.key async for stat in services.store.list("o/")}
    await desk.ask("GET", f"/api/v1/requests/{granted['id']}/export", status=410)
    async with services.database.snapshot() as session:
        request = (await session.scalars(sa.select(RightsRequest))).one()
        assert (await session.get_one(Subject, request.subject_id)).rekey_needed
        certificate = (await session.scalars(sa.select(Certificate))).one()
    assert certificate.document["copies"] == {"packages": [str(row.id)], "uploads": 0, "spooled": 0}


async def test_a_package_that_turns_up_again_sends_its_erasure_back(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, original = world.services, shredding.delete_dead
    recording_id = await call(world, customer_id := await world.customer(), await make_audio(1))
    granted = await desk.grant("access", customer_id)
    await made(desk, granted["id"])
    key = (await package(world)).key
    assert key is not None
    rounds = 0

    async def once() -> AsyncIterator[bytes]:
        yield b"an old copy"

    async def deletes(*arguments: Any) -> int:
        nonlocal rounds
        rounds += 1
        count = await original(*arguments)
        if rounds == 1:
            await services.store.put(key, once(), size=11)
        return count

    monkeypatch.setattr(shredding, "delete_dead", deletes)
    await erasures.erase_recording(services, recording_id, requested_by="os:test", now=world.now)
    assert rounds == 2
    assert key not in {stat.key async for stat in services.store.list("o/")}


async def test_a_recording_erased_while_the_package_is_made_is_not_in_it(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, audio = world.services, await make_audio(1)
    customer_id = await world.customer()
    gone, stays = [await call(world, customer_id, audio) for _ in range(2)]
    granted = await desk.grant("access", customer_id)
    await desk.ask("POST", f"/api/v1/requests/{granted['id']}/export", status=202)
    render = index_page.render

    async def erase_then_render(*args: Any, **more: Any) -> Any:
        if (await world.get(gone)).state is RecordingState.STORED:
            await erasures.erase_recording(services, gone, requested_by="os:test", now=world.now)
        async for piece in render(*args, **more):
            yield piece

    monkeypatch.setattr(index_page, "render", erase_then_render)
    await packages.build(services, (await package(world)).id)
    ready = await package(world)
    assert (ready.state, ready.total) == (PackageState.READY, 1)
    live = {stat.key async for stat in services.store.list("o/")}
    assert ready.key in live
    stored = {obj.key for obj in await world.stored(stays)}
    assert live <= stored | {ready.key}  # the first try was destroyed


async def test_a_build_that_breaks_off_leaves_nothing_and_is_made_again(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = world.services
    await call(world, customer_id := await world.customer(), await make_audio(1))
    granted = await desk.grant("access", customer_id)
    await desk.ask("POST", f"/api/v1/requests/{granted['id']}/export", status=202)
    package_id = (await package(world)).id
    before = {stat.key async for stat in services.store.list("o/")}
    reading, closed = asyncio.Event(), asyncio.Event()
    endless = False

    @asynccontextmanager
    async def interrupted(*_: object) -> AsyncIterator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(100_000)
            if not endless:
                raise StoreUnavailable("the store went away")
            reading.set()
            while not closed.is_set():
                await asyncio.sleep(0)
                yield bytes(1000)

        try:
            yield pieces()
        finally:
            closed.set()

    monkeypatch.setattr(copies, "opened", interrupted)
    with pytest.raises(StoreUnavailable):
        await packages.build(services, package_id)
    assert closed.is_set()
    closed.clear()
    endless = True
    building = asyncio.create_task(packages.build(services, package_id))
    await reading.wait()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert closed.is_set()  # nothing of the source is left open behind it
    assert {stat.key async for stat in services.store.list("o/")} == before
    assert (await package(world)).state is PackageState.BUILDING
    monkeypatch.undo()
    await packages.build(services, package_id)
    assert (await package(world)).state is PackageState.READY


async def test_a_package_and_its_request_survive_new_keys(desk: Desk, world: World) -> None:
    services = world.services
    await call(world, customer_id := await world.customer(), await make_audio(1))
    filed = await desk.file("access", customer_id, person={"name": "Aino"})
    await desk.identify(filed["id"])
    await desk.decide(filed["id"], outcome="granted")
    await made(desk, filed["id"])
    async with services.database.transaction() as session:
        request = (await session.scalars(sa.select(RightsRequest))).one()
        subject = await session.get_one(Subject, request.subject_id)
        subject.rekey_needed = True
        before = subject.wrapped_key
    await asyncio.to_thread(services.keyring.rotate, str(world.controller.id), world.now)
    while await rotation.rewrap_outdated(services, world.controller.id, world.now):
        pass
    async with services.database.snapshot() as session:
        assert (await session.get_one(Subject, request.subject_id)).wrapped_key != before
    shown = await desk.ask("GET", f"/api/v1/requests/{filed['id']}")
    assert shown["person"]["name"] == "Aino"
    await desk.ask("GET", f"/api/v1/requests/{filed['id']}/export")


async def test_a_failed_package_is_made_again(desk: Desk, world: World) -> None:
    await call(world, customer_id := await world.customer(), await make_audio(1))
    granted = await desk.grant("access", customer_id)
    path = f"/api/v1/requests/{granted['id']}/export"
    await desk.ask("POST", path, status=202)
    await packages.fail(world.services, (await package(world)).id, "media")
    assert (await desk.ask("GET", path, params={"status": "true"}))["error"] == "media"
    await desk.ask("GET", path, status=409)
    async with world.services.database.snapshot() as session:
        assert len(list(await session.scalars(sa.select(Job).where(Job.kind == packages.PACKAGE_JOB)))) == 1
    world.services.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # the test's clock
    again = await desk.ask("POST", path, status=202)
    assert again["state"] == "queued"
    world.services.clock.advance(timedelta(seconds=1))  # type: ignore[attr-defined]  # the test's clock
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Job).values(state=JobState.FAILED))  # its last worker gave up
    third = await desk.ask("POST", path, status=202)
    assert third["id"] != again["id"]


@pytest.mark.parametrize(
    ("parties", "channels", "silent"),
    [
        (["customer", "agent"], 2, (1,)),
        (["agent", "customer"], 2, (0,)),
        (["customer"], 1, ()),
        (["agent"], 1, None),
        (["mixed"], 1, None),
        (["customer", "mixed"], 2, None),
        ([], 2, None),
        (["customer", "agent"], 1, None),
        (["customer", "agent"], None, None),
        (["customer", "agent", "agent"], 3, None),
    ],
)
def test_whose_channel_is_never_guessed(
    parties: list[str], channels: int | None, silent: tuple[int, ...] | None
) -> None:
    assert others_channels([{"party": party} for party in parties], channels) == silent
