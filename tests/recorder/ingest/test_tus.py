"""Resumable uploads: the protocol over real sockets, on each kind of database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import AuditEntry, Controller, Recording, ResumableUpload, Source, UploadPiece
from recorder.clock import ManualClock
from recorder.ingest import receipts
from recorder.ingest.pipeline import Intake
from recorder.ingest.resumable import ending, finishing, receiving
from recorder.services import Services
from recorder.settings import Settings
from storage.errors import StoreUnavailable
from storage.spool import Spool
from tests.recorder.ingest.conftest import make_source
from tests.recorder.ingest.tus_world import BYTES, Client, Tus, app_of, kept, left, said, token_of, upload_row

START = {"external_id": "call-1", "started_at": "2026-03-05T09:00:00+02:00", "direction": "inbound"}


@pytest.fixture
async def services(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Small pieces, so that little audio makes many."""
    small = services.settings.model_copy(update={"upload_piece_bytes": 3000, "open_uploads_per_source": 12})
    object.__setattr__(services, "settings", small)
    monkeypatch.setattr(receiving, "DIRECT", 1000)
    return services


@pytest.fixture
async def client(services: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    return await aiohttp_client(app_of(services))


@pytest.fixture
async def tus(client: Client, services: Services, controller: Controller, source: Source) -> Tus:
    return Tus(client, await token_of(services, controller, source))


def checked(services: Services, text: str) -> dict[str, Any]:
    public = services.keyring.public_keys()["receipts"]
    return receipts.verify_receipt(text, {receipts.jwk(public)["kid"]: public})


async def test_what_is_spoken_can_be_asked_by_anybody(client: Client) -> None:
    for path in ("/uploads", f"/uploads/{uuid.uuid4()}"):
        answer = await client.options(path)
        assert answer.status == 204
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256"
        assert int(answer.headers["Tus-Max-Size"]) == Settings().max_upload_bytes
        assert set(answer.headers["Tus-Extension"].split(",")) == {
            "creation",
            "creation-with-upload",
            "creation-defer-length",
            "expiration",
            "checksum",
            "termination",
            "concatenation",
        }


async def test_an_upload_in_several_requests_becomes_a_recording(
    tus: Tus, services: Services, wav: bytes
) -> None:
    metadata = said(metadata=json.dumps(START), filename="in-0401234567.wav", filetype="audio/wav")
    url = await tus.create(len(wav), metadata)
    assert uuid.UUID(url.removeprefix("/uploads/")).version == 4
    first = await tus.patch(url, 0, wav[:10_000])
    assert (first.status, first.headers["Upload-Offset"]) == (204, "10000")
    expires = parsedate_to_datetime(first.headers["Upload-Expires"])
    assert expires == services.clock.now() + timedelta(hours=24)
    assert "Recording-Id" not in first.headers
    asked = await tus.ask("HEAD", url)
    assert asked.status == 200
    assert asked.headers["Upload-Offset"] == "10000"
    assert asked.headers["Upload-Length"] == str(len(wav))
    assert asked.headers["Upload-Metadata"] == metadata
    # At rest: four sealed pieces, nothing in the clear.
    recordings, pieces, objects = await left(services)
    assert (recordings, pieces, objects) == (0, 4, 4)
    async for stat in services.store.list():
        async with services.store.get(stat.key) as body:
            assert wav[100:200] not in b"".join([bytes(chunk) async for chunk in body])
    row, _ = await upload_row(services, url)
    assert b"0401234567" not in (row.sealed or b"")
    last = await tus.patch(url, 10_000, wav[10_000:])
    assert (last.status, last.headers["Upload-Offset"]) == (204, str(len(wav)))
    assert last.headers["Recording-State"] == "stored"
    receipt = checked(services, last.headers["Upload-Receipt"])
    assert receipt["sha256"] == hashlib.sha256(wav).hexdigest()
    assert receipt["id"] == last.headers["Recording-Id"]
    assert await kept(services) == {last.headers["Recording-Id"]: wav}
    assert await left(services) == (1, 0, 1)
    row, subject = await upload_row(services, url)
    assert (row.sealed, subject.wrapped_key) == (None, None)
    again = await tus.ask("HEAD", url)
    assert again.headers["Upload-Receipt"] == last.headers["Upload-Receipt"]
    assert (await tus.patch(url, len(wav), b"")).headers["Recording-Id"] == receipt["id"]
    shown = await (await tus.ask("GET", url)).json()
    assert (shown["state"], shown["received"]) == ("done", len(wav))
    assert shown["recording"]["receipt"] == last.headers["Upload-Receipt"]
    async with services.database.snapshot() as session:
        recording = (await session.scalars(sa.select(Recording))).one()
    assert (recording.direction, recording.state) == ("inbound", RecordingState.STORED)


async def test_keys_of_a_raw_push_and_the_file_name_alone_will_do(
    tus: Tus, services: Services, wav: bytes
) -> None:
    metadata = said(filename="9f1c.wav", direction="sideways", agent="a7,a8", relativePath="")
    answer = await tus.ask(
        "POST",
        "/uploads",
        {**BYTES, "Upload-Length": str(len(wav)), "Upload-Metadata": metadata + ",is_confidential"},
        wav,
    )
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, str(len(wav)))
    assert answer.headers["Recording-State"] == "quarantined"
    shown = await (await tus.ask("GET", answer.headers["Location"])).json()
    assert shown["recording"]["reasons"] == ["metadata-invalid:direction", "started-at-estimated"]
    async with services.database.snapshot() as session:
        assert (await session.scalars(sa.select(Recording))).one().agents == ["a7", "a8"]


async def test_a_small_upload_needs_no_pieces(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "DIRECT", 1024 * 1024)

    async def none(*_: object, **__: object) -> None:
        raise AssertionError("a piece was written")

    monkeypatch.setattr(receiving, "_keep", none)
    url = await tus.create(len(wav))
    answer = await tus.patch(url, 0, wav, **checksum("sha1", wav))
    assert (answer.status, answer.headers["Recording-State"]) == (204, "stored")
    assert list((await kept(services)).values()) == [wav]
    # All in one request: nothing of it is ever kept unfinished.
    named = {**BYTES, "Upload-Length": str(len(wav)), "Upload-Metadata": said(external_id="call-2")}
    wrong = await tus.ask("POST", "/uploads", {**named, **checksum("sha1", b"x")}, wav)
    assert wrong.status == 460
    at_once = await tus.ask("POST", "/uploads", {**named, **checksum("sha1", wav)}, wav)
    assert (at_once.status, at_once.headers["Recording-State"]) == (201, "stored")
    shown = await tus.ask("HEAD", at_once.headers["Location"])
    assert shown.headers["Upload-Receipt"] == at_once.headers["Upload-Receipt"]
    assert shown.headers["Upload-Offset"] == str(len(wav))
    assert await left(services) == (2, 0, 2)
    clock.advance(ending.REMEMBERED)
    await finishing.tend_uploads(services)
    assert (await tus.ask("HEAD", at_once.headers["Location"])).status == 404


async def test_a_small_upload_may_be_spooled(
    tus: Tus, services: Services, wav: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "DIRECT", 1024 * 1024)
    spool = Spool(tmp_path / "spool", services.keyring, max_bytes=50_000_000)
    await spool.load()
    object.__setattr__(services, "spool", spool)
    named = {**BYTES, "Upload-Length": str(len(wav)), "Upload-Metadata": said(external_id="call-2")}

    def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(services.store, "put", away)
        answer = await tus.ask("POST", "/uploads", named, wav)
        assert (answer.status, answer.headers["Recording-State"]) == (201, "spooled")
        shown = await tus.ask("HEAD", answer.headers["Location"])
        assert shown.headers["Upload-Receipt"] == answer.headers["Upload-Receipt"]
    [item] = spool.items()
    await Intake(services).drain(item, spool)
    shown = await tus.ask("HEAD", answer.headers["Location"])
    assert shown.headers["Recording-State"] == "stored"
    assert shown.headers["Recording-Id"] in await kept(services)


async def test_an_empty_upload_is_kept_for_a_person(tus: Tus) -> None:
    answer = await tus.ask(
        "POST", "/uploads", {"Upload-Length": "0", "Upload-Metadata": said(external_id="nothing")}
    )
    assert (answer.status, answer.headers["Recording-State"]) == (201, "quarantined")
    assert answer.headers["Upload-Offset"] == "0"


def checksum(algorithm: str, data: bytes) -> dict[str, str]:
    digest = hashlib.new(algorithm, data).digest()
    return {"Upload-Checksum": f"{algorithm} {base64.b64encode(digest).decode()}"}


async def test_checksums_hold_for_whole_requests(tus: Tus, services: Services, wav: bytes) -> None:
    url = await tus.create(len(wav))
    good = await tus.patch(url, 0, wav[:7000], **checksum("sha256", wav[:7000]))
    assert good.status == 204
    wrong = await tus.patch(url, 7000, wav[7000:], **checksum("sha1", wav))
    assert wrong.status == 460
    assert (await wrong.json())["type"] == "urn:tallenne:problem:checksum-mismatch"
    assert await tus.offset(url) == 7000
    assert await left(services) == (0, 3, 3)
    for odd in ("md5 AAAA", "sha1", "sha1 AAAA", "sha1 \u00e4", "sha256 !"):
        assert (await tus.patch(url, 7000, b"", **{"Upload-Checksum": odd})).status == 400
    last = await tus.patch(url, 7000, wav[7000:], **checksum("sha1", wav[7000:]))
    assert last.status == 204
    assert list((await kept(services)).values()) == [wav]


async def test_refusals(tus: Tus, services: Services, wav: bytes, client: Client) -> None:
    url = await tus.create(len(wav))
    assert (await tus.patch(url, 5, wav)).status == 409
    assert (await tus.patch(url, 0, wav + b"x")).status == 413
    assert (await tus.patch(url, 0, chunked(wav + b"x"))).status == 413
    assert (
        await tus.ask("PATCH", url, {"Upload-Offset": "0", "Content-Type": "audio/wav"}, wav)
    ).status == 415
    for offset in ("-1", "x", "", "1" * 30):
        assert (await tus.ask("PATCH", url, {**BYTES, "Upload-Offset": offset}, wav)).status == 400
    assert (await tus.ask("PATCH", url, BYTES, wav)).status == 400
    encoded = await tus.ask("PATCH", url, {**BYTES, "Upload-Offset": "0", "Content-Encoding": "gzip"}, b"")
    assert encoded.status in (400, 415)
    assert (await tus.patch(f"/uploads/{uuid.uuid4()}", 0, wav)).status == 404
    assert (await tus.patch("/uploads/x", 0, wav)).status == 404
    for version in ("0.2.2", ""):
        for method in ("POST", "PATCH", "HEAD", "DELETE"):
            path = "/uploads" if method == "POST" else url
            answer = await tus.ask(method, path, {"Tus-Resumable": version, **BYTES, "Upload-Offset": "0"})
            assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")
    cases: list[tuple[dict[str, str], int]] = [
        ({}, 400),
        ({"Upload-Length": "1", "Upload-Defer-Length": "1"}, 400),
        ({"Upload-Defer-Length": "2"}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": str(10**15)}, 413),
        ({"Upload-Length": "1", "Upload-Metadata": "a b c"}, 400),
        ({"Upload-Length": "1", "Upload-Metadata": "a YQ==,a YQ=="}, 400),
        ({"Upload-Length": "1", "Upload-Metadata": said(direction="inbound")}, 422),
        ({"Upload-Length": "1", "Upload-Metadata": said(metadata='{"external_id": "x"}')}, 422),
        ({"Upload-Length": "1", "Upload-Metadata": said(metadata=json.dumps(START), agent="a")}, 422),
        ({"Upload-Length": "1", "Upload-Concat": "half"}, 400),
        ({"Upload-Concat": "final;/uploads/nonsense"}, 400),
        ({"Upload-Concat": f"final;/elsewhere/{uuid.uuid4()}"}, 400),
        ({"Upload-Concat": f"final;/uploads/{uuid.uuid4()}", "Upload-Length": "1"}, 400),
        ({"Upload-Length": "1", "Repr-Digest": "sha-256=nonsense!"}, 400),
    ]
    for headers, status in cases:
        given = {"Upload-Metadata": said(external_id="x"), **headers}
        answer = await tus.ask("POST", "/uploads", given)
        assert answer.status == status, (headers, await answer.text())
    typed = await tus.ask("POST", "/uploads", {"Upload-Length": "1", "Content-Type": "audio/wav"}, b"x")
    assert typed.status == 415
    assert await left(services) == (0, 0, 0)


async def chunked(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


async def test_an_upload_is_its_sources_alone(
    tus: Tus, client: Client, services: Services, controller: Controller, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    second = await make_source(services, controller, "second")
    other = Tus(client, await token_of(services, controller, second))
    crm = Tus(client, await token_of(services, controller, None))
    nobody = Tus(client, "")
    for who, status in ((other, 404), (crm, 404), (nobody, 401)):
        for method in ("HEAD", "DELETE", "GET"):
            assert (await who.ask(method, url)).status == status
        assert (await who.patch(url, 0, wav)).status == status
    assert (await crm.ask("POST", "/uploads", {"Upload-Length": "1"})).status == 422
    named = {"Upload-Length": "1", "Upload-Metadata": said(external_id="x")}
    assert (await crm.ask("POST", "/uploads", named)).status == 403
    basic = base64.b64encode(f"pbx:{tus.token}".encode()).decode()
    with_password = Tus(client, "", {"Authorization": f"Basic {basic}"})
    assert (await with_password.patch(url, 0, wav)).status == 204


async def test_a_length_may_come_late(tus: Tus, services: Services, wav: bytes) -> None:
    url = await tus.create(None)
    answer = await tus.ask("HEAD", url)
    assert answer.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in answer.headers
    assert (await tus.patch(url, 0, chunked(wav[:5000]))).status == 204
    assert (await tus.patch(url, 5000, b"", **{"Upload-Length": "4999"})).status == 400
    told = {"Upload-Length": str(len(wav))}
    assert (await tus.patch(url, 5000, wav[5000:6000], **told)).status == 204
    assert (await tus.patch(url, 6000, b"", **{"Upload-Length": "9"})).status == 400
    assert (await tus.patch(url, 6000, wav[6000:], **told)).headers["Recording-State"] == "stored"
    second = await tus.create(None, said(external_id="call-2"))
    assert (await tus.patch(second, 0, wav)).status == 204
    ended = await tus.patch(second, len(wav), b"", **told)
    assert ended.headers["Recording-State"] == "stored"
    assert sorted((await kept(services)).values()) == [wav, wav]


async def test_the_sources_limit_holds_for_a_deferred_length(
    client: Client, services: Services, controller: Controller
) -> None:
    small = await make_source(services, controller, "small", max_bytes=5000)
    tus = Tus(client, await token_of(services, controller, small))
    over = {"Upload-Length": "5001", "Upload-Metadata": said(external_id="x")}
    assert (await tus.ask("POST", "/uploads", over)).status == 413
    url = await tus.create(None)
    assert (await tus.patch(url, 0, b"x" * 5001)).status == 413
    assert (await tus.patch(url, 0, chunked(b"x" * 8001))).status == 413
    offset = await tus.offset(url)
    assert offset in (0, 3000)  # a piece may have been whole before the surplus came
    assert (await tus.patch(url, offset, b"", **{"Upload-Length": "5001"})).status == 413


async def test_parts_are_put_together(tus: Tus, services: Services, wav: bytes) -> None:
    cut = 9000
    urls = []
    for part in (wav[:cut], wav[cut:]):
        url = await tus.create(len(part), "", **{"Upload-Concat": "partial"})
        assert (await tus.patch(url, 0, part)).status == 204
        assert (await tus.ask("HEAD", url)).headers["Upload-Concat"] == "partial"
        urls.append(url)
    absolute = str(tus.client.make_url(urls[1]))
    final = {"Upload-Concat": f"final;{urls[0]} {absolute}", "Upload-Metadata": said(external_id="joined")}
    made = await tus.ask("POST", "/uploads", final)
    assert (made.status, made.headers["Recording-State"]) == (201, "stored")
    assert list((await kept(services)).values()) == [wav]
    again = await tus.ask("POST", "/uploads", final)  # the answer was lost, say
    assert (again.status, again.headers["Location"]) == (201, made.headers["Location"])
    shown = await tus.ask("HEAD", made.headers["Location"])
    assert shown.headers["Upload-Concat"] == f"final;{urls[0]} {urls[1]}"
    assert shown.headers["Upload-Length"] == str(len(wav))
    assert (await tus.patch(made.headers["Location"], 5, b"x")).status in (403, 409)
    assert (await tus.ask("HEAD", urls[0])).status == 410
    assert await left(services) == (1, 0, 1)


async def test_parts_that_are_not_complete_or_no_parts(tus: Tus, wav: bytes) -> None:
    whole = await tus.create(len(wav))
    part = await tus.create(len(wav), "", **{"Upload-Concat": "partial"})
    await tus.patch(part, 0, wav[:10])
    named = {"Upload-Metadata": said(external_id="joined")}
    open_part = await tus.ask("POST", "/uploads", {**named, "Upload-Concat": f"final;{part}"})
    assert (open_part.status, (await open_part.json())["type"]) == (
        409,
        "urn:tallenne:problem:part-incomplete",
    )
    assert (await tus.ask("POST", "/uploads", {**named, "Upload-Concat": f"final;{whole}"})).status == 400
    missing = f"final;/uploads/{uuid.uuid4()}"
    assert (await tus.ask("POST", "/uploads", {**named, "Upload-Concat": missing})).status == 404


async def test_an_end_by_the_sender_leaves_nothing(tus: Tus, services: Services, wav: bytes) -> None:
    url = await tus.create(len(wav))
    await tus.patch(url, 0, wav[:8000])
    assert (await tus.ask("DELETE", url)).status == 204
    for answer in (
        await tus.ask("HEAD", url),
        await tus.patch(url, 8000, b"x"),
        await tus.ask("DELETE", url),
    ):
        assert answer.status == 410
    row, subject = await upload_row(services, url)
    assert (row.sealed, subject.wrapped_key) == (None, None)
    assert await left(services) == (0, 0, 0)
    posted = await tus.create(len(wav), said(external_id="posted"))
    override = {"X-HTTP-Method-Override": "PATCH", **BYTES, "Upload-Offset": "0"}
    assert (await tus.ask("POST", posted, override, wav)).headers["Recording-State"] == "stored"
    assert (await tus.ask("POST", posted, {"X-HTTP-Method-Override": "HEAD"})).status == 200
    assert (await tus.ask("POST", posted, {"X-HTTP-Method-Override": "DELETE"})).status == 204
    assert (await tus.ask("POST", posted, {})).status == 400
    assert len(await kept(services)) == 1  # what has become a recording stays one


async def test_an_upload_without_bytes_expires(
    tus: Tus, services: Services, clock: ManualClock, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    clock.advance(timedelta(hours=23))
    await tus.patch(url, 0, wav[:8000])
    clock.advance(timedelta(hours=23, minutes=59))
    assert await tus.offset(url) == 8000
    await finishing.tend_uploads(services)
    assert await left(services) == (0, 3, 3)
    clock.advance(timedelta(minutes=1))
    assert (await tus.ask("HEAD", url)).status == 410
    assert (await tus.patch(url, 8000, wav[8000:])).status == 410
    await finishing.tend_uploads(services)
    assert await left(services) == (0, 0, 0)
    assert (await (await tus.ask("GET", url)).json())["problem"]["status"] == 410
    async with services.database.snapshot() as session:
        actions = list(await session.scalars(sa.select(AuditEntry.action)))
    assert actions.count("upload.expired") == 1
    clock.advance(ending.REMEMBERED)
    await finishing.tend_uploads(services)
    async with services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(ResumableUpload)) == 0


async def test_refusals_at_the_end_are_remembered(tus: Tus, services: Services, wav: bytes) -> None:
    first = await tus.create(len(wav))
    assert (await tus.patch(first, 0, wav)).status == 204
    other = wav[:-2] + b"xx"
    second = await tus.create(len(other))
    told = await tus.patch(second, 0, other)
    assert (told.status, (await told.json())["type"]) == (409, "urn:tallenne:problem:conflict")
    assert (await tus.ask("HEAD", second)).status == 409
    assert (await tus.patch(second, len(other), b"")).status == 409
    shown = await (await tus.ask("GET", second)).json()
    assert (shown["state"], shown["problem"]["status"]) == ("refused", 409)
    assert shown["problem"]["recording_id"] in await kept(services)
    assert sorted((await kept(services)).values()) == sorted([wav, other])
    third = await tus.create(len(wav))
    repeated = await tus.patch(third, 0, wav)
    assert repeated.headers["Recording-Id"] == shown["problem"]["recording_id"]
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    wrong = await tus.create(len(wav), said(external_id="wrong"), **{"Repr-Digest": f"sha-256=:{digest}:"})
    assert (await tus.patch(wrong, 0, wav)).headers["Recording-State"] == "quarantined"
    assert await left(services) == (3, 0, 3)


async def test_two_requests_at_once_do_not_mix(tus: Tus, services: Services, wav: bytes) -> None:
    url = await tus.create(len(wav))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield wav[:4000]
        begun.set()
        await go_on.wait()
        yield wav[4000:]

    first = asyncio.create_task(tus.patch(url, 0, slow()))
    await begun.wait()
    while await pieces_of(services) == 0:  # noqa: ASYNC110  # nothing tells when a piece is durable
        await asyncio.sleep(0)
    second = await tus.patch(url, 0, wav)
    assert (second.status, second.headers["Retry-After"]) == (423, "2")
    third = await tus.patch(url, 3000, wav[3000:])
    assert third.status == 423
    lone = services.settings.model_copy(update={"uploads_per_source": 1})
    object.__setattr__(services, "settings", lone)
    other = await tus.create(len(wav), said(external_id="call-2"))
    flood = await tus.patch(other, 0, wav)
    assert (flood.status, flood.headers["Retry-After"]) == (429, "1")
    go_on.set()
    assert (await first).headers["Recording-State"] == "stored"
    assert list((await kept(services)).values()) == [wav]


async def pieces_of(services: Services) -> int:
    async with services.database.snapshot() as session:
        return int(await session.scalar(sa.select(sa.func.count()).select_from(UploadPiece)) or 0)


async def test_whoever_asks_for_the_offset_takes_over_from_a_request_that_hangs(
    tus: Tus, services: Services, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    begun = asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield wav[:4000]
        begun.set()
        await asyncio.Event().wait()

    hung = asyncio.create_task(tus.patch(url, 0, hanging()))
    await begun.wait()
    while await pieces_of(services) == 0:  # noqa: ASYNC110  # nothing tells when a piece is durable
        await asyncio.sleep(0)
    offset = await tus.offset(url)
    assert offset == 4000  # the tail that had come was made durable before it was told of
    answer = await tus.patch(url, offset, wav[offset:])
    assert answer.headers["Recording-State"] == "stored"
    hung.cancel()
    assert list((await kept(services)).values()) == [wav]


async def test_a_broken_connection_keeps_what_came(
    tus: Tus, client: Client, services: Services, wav: bytes
) -> None:
    url = await tus.create(len(wav))
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = (
        f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Offset: 0\r\nContent-Type: {BYTES['Content-Type']}\r\n"
        f"Authorization: Bearer {tus.token}\r\n\r\n"
    )
    writer.write(head.encode() + wav[:7777])
    await writer.drain()
    while await pieces_of(services) < 2:  # noqa: ASYNC110  # nothing tells when a piece is durable
        await asyncio.sleep(0)
    writer.close()
    await services.resumable.drain()
    assert await tus.offset(url) == 7777
    assert (await tus.patch(url, 7777, wav[7777:])).headers["Recording-State"] == "stored"
    assert list((await kept(services)).values()) == [wav]


async def test_a_source_has_only_so_many_open_uploads(tus: Tus, services: Services) -> None:
    for number in range(services.settings.open_uploads_per_source):
        await tus.create(10, said(external_id=f"n{number}"))
    over = await tus.ask("POST", "/uploads", {"Upload-Length": "9", "Upload-Metadata": said(external_id="x")})
    assert (over.status, over.headers["Retry-After"]) == (429, "60")


async def test_a_store_that_is_away_at_the_end_costs_only_time(
    tus: Tus, services: Services, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await tus.create(len(wav))
    await tus.patch(url, 0, wav[:-1])
    real = services.store.get

    def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(services.store, "get", away)
        last = await tus.patch(url, len(wav) - 1, wav[-1:])
        assert last.status == 503
        assert (await tus.ask("HEAD", url)).status == 503
        await finishing.finish_left(services)
        assert (await (await tus.ask("GET", url)).json())["state"] == "finishing"
    assert services.store.get == real
    assert (await tus.ask("HEAD", url)).headers["Recording-State"] == "stored"
    assert list((await kept(services)).values()) == [wav]


async def test_what_a_process_left_complete_is_finished_by_another(
    tus: Tus, services: Services, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await tus.create(len(wav))

    async def died(*_: object, **__: object) -> None:
        raise StoreUnavailable("as if the process had died here")

    with monkeypatch.context() as patched:
        patched.setattr(finishing, "finish", died)
        assert (await tus.patch(url, 0, wav)).status == 503
    assert (await left(services))[0] == 0
    assert await finishing.finish_left(services) == 1
    assert list((await kept(services)).values()) == [wav]
    assert (await tus.ask("HEAD", url)).headers["Recording-State"] == "stored"


async def test_a_crash_between_recording_and_upload_makes_no_second_one(
    tus: Tus, services: Services, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await tus.create(len(wav))

    async def died(*_: object, **__: object) -> None:
        raise StoreUnavailable("as if the process had died here")

    with monkeypatch.context() as patched:
        patched.setattr(finishing, "_end", died)
        assert (await tus.patch(url, 0, wav)).status == 503
    assert (await left(services))[0] == 1
    answer = await tus.patch(url, len(wav), b"")
    assert answer.headers["Recording-Id"] in await kept(services)
    assert await left(services) == (1, 0, 1)


async def test_damaged_pieces_end_the_upload(tus: Tus, services: Services, wav: bytes) -> None:
    url = await tus.create(len(wav))
    await tus.patch(url, 0, wav[:-1])
    async with services.database.snapshot() as session:
        key = (await session.scalars(sa.select(UploadPiece.key).limit(1))).one()
    await services.store.delete_all(key)
    assert (await tus.patch(url, len(wav) - 1, wav[-1:])).status == 410
    assert (await tus.ask("HEAD", url)).status == 410
    await finishing.tend_uploads(services)
    assert await left(services) == (0, 0, 0)
    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry.outcome).where(AuditEntry.action == "upload.damaged")
        assert await session.scalar(query) == "failed"
