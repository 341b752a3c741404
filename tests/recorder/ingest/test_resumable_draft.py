"""Resumable uploads by the IETF draft, over real sockets, on each kind of database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientResponse

from recorder.catalogue.tables import Controller, Source
from recorder.ingest import receipts
from recorder.ingest.resumable import receiving
from recorder.services import Services
from storage.errors import StoreUnavailable
from tests.recorder.ingest.conftest import make_source
from tests.recorder.ingest.tus_world import Client, Tus, app_of, kept, left, said, token_of

PARTIAL = {"Content-Type": "application/partial-upload"}
NAMED = {"Upload-Metadata": said(external_id="call-1")}
PROBLEM = "https://iana.org/assignments/http-problem-types#"


@pytest.fixture
async def services(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The draft is spoken; small pieces, so that little audio makes many."""
    spoken = services.settings.model_copy(update={"upload_piece_bytes": 3000, "resumable_draft": True})
    object.__setattr__(services, "settings", spoken)
    monkeypatch.setattr(receiving, "DIRECT", 1000)
    return services


@pytest.fixture
async def client(services: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    return await aiohttp_client(app_of(services))


@dataclass
class Draft:
    """The draft, spoken by hand."""

    client: Client
    token: str

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> ClientResponse:
        auth = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        answer = await self.client.request(method, path, headers=auth, data=data)
        await answer.read()
        assert answer.headers["Cache-Control"] == "no-store"
        return answer

    async def create(self, complete: str = "?0", data: Any = None, **headers: str) -> ClientResponse:
        return await self.ask("POST", "/uploads", {"Upload-Complete": complete, **NAMED, **headers}, data)

    async def begin(self, data: Any = None, **headers: str) -> str:
        answer = await self.create("?0", data, **headers)
        assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?0"), await answer.text()
        return answer.headers["Location"]

    async def patch(
        self, url: str, offset: int, data: Any, complete: str = "?0", **headers: str
    ) -> ClientResponse:
        given = {**PARTIAL, "Upload-Offset": str(offset), "Upload-Complete": complete, **headers}
        return await self.ask("PATCH", url, given, data)


@pytest.fixture
async def draft(client: Client, services: Services, controller: Controller, source: Source) -> Draft:
    return Draft(client, await token_of(services, controller, source))


async def is_recording(answer: ClientResponse, services: Services, wav: bytes) -> None:
    """An answer that says the upload is complete, with a receipt of these very bytes."""
    assert answer.status == 201, await answer.text()
    assert answer.headers["Upload-Complete"] == "?1"
    assert answer.headers["Upload-Offset"] == str(len(wav))
    assert "Tus-Resumable" not in answer.headers
    public = services.keyring.public_keys()["receipts"]
    text = answer.headers["Upload-Receipt"]
    receipt = receipts.verify_receipt(text, {receipts.jwk(public)["kid"]: public})
    assert receipt["sha256"] == hashlib.sha256(wav).hexdigest()
    assert receipt["size"] == len(wav)
    body = await answer.json()
    assert body["receipt"] == text
    assert body["id"] == receipt["id"] == answer.headers["Recording-Id"]
    assert (await kept(services))[receipt["id"]] == wav


async def refused(answer: ClientResponse, status: int, kind: str) -> dict[str, Any]:
    assert answer.status == status, await answer.text()
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = await answer.json()
    assert (body["type"], body["status"]) == (PROBLEM + kind, status)
    return body


async def chunked(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@pytest.mark.parametrize("direct", [1000, 1024 * 1024])
async def test_all_in_one_request(
    draft: Draft, services: Services, wav: bytes, monkeypatch: pytest.MonkeyPatch, direct: int
) -> None:
    monkeypatch.setattr(receiving, "DIRECT", direct)
    answer = await draft.create("?1", wav)
    await is_recording(answer, services, wav)
    asked = await draft.ask("HEAD", answer.headers["Location"])
    assert asked.headers["Upload-Receipt"] == answer.headers["Upload-Receipt"]
    assert await left(services) == (1, 0, 1)


@pytest.mark.parametrize("length", [None, "right", "wrong"])
async def test_all_in_one_request_without_a_content_length(
    draft: Draft, services: Services, wav: bytes, length: str | None
) -> None:
    said = {} if length is None else {"Upload-Length": str(len(wav) + (length == "wrong"))}
    answer = await draft.create("?1", chunked(wav), **said)
    if length == "wrong":
        await refused(answer, 400, "inconsistent-upload-length")
        assert await left(services) == (0, 0, 0)
    else:
        await is_recording(answer, services, wav)


@pytest.mark.parametrize("known", [True, False])
async def test_some_bytes_and_appends(draft: Draft, services: Services, wav: bytes, known: bool) -> None:
    length = {"Upload-Length": str(len(wav))} if known else {}
    made = await draft.create("?0", wav[:4000], **length)
    assert (made.status, made.headers["Upload-Offset"]) == (201, "4000")
    limit = f"max-size={services.settings.max_upload_bytes}, max-age=86400"
    assert made.headers["Upload-Limit"] == limit
    url = made.headers["Location"]
    assert uuid.UUID(url.removeprefix("/uploads/")).version == 4
    more = await draft.patch(url, 4000, wav[4000:9000])
    assert (more.status, more.headers["Upload-Complete"]) == (204, "?0")
    assert more.headers["Upload-Offset"] == "9000"
    asked = await draft.ask("HEAD", url)
    assert (asked.status, asked.headers["Upload-Offset"]) == (204, "9000")
    assert asked.headers["Upload-Complete"] == "?0"
    assert asked.headers.get("Upload-Length") == (str(len(wav)) if known else None)
    assert asked.headers["Upload-Limit"] == limit
    # The offset may reach the length; the upload is complete once the client says so, and not before.
    every = await draft.patch(url, 9000, wav[9000:], "?0")
    assert (every.status, every.headers["Upload-Complete"]) == (204, "?0")
    assert (await draft.ask("HEAD", url)).headers["Upload-Complete"] == "?0"
    assert (await left(services))[0] == 0
    await is_recording(await draft.patch(url, len(wav), b"", "?1"), services, wav)
    over = await draft.ask("HEAD", url)
    assert (over.status, over.headers["Upload-Complete"]) == (204, "?1")
    assert over.headers["Upload-Length"] == over.headers["Upload-Offset"] == str(len(wav))
    assert await left(services) == (1, 0, 1)


async def test_the_last_append_completes(draft: Draft, services: Services, wav: bytes) -> None:
    url = await draft.begin()
    assert (await draft.patch(url, 0, chunked(wav[:5000]))).status == 204
    await is_recording(await draft.patch(url, 5000, wav[5000:], "?1"), services, wav)


async def test_the_last_append_without_a_content_length(draft: Draft, services: Services, wav: bytes) -> None:
    url = await draft.begin(wav[:5000], **{"Upload-Length": str(len(wav))})
    short = await draft.patch(url, 5000, chunked(wav[5000:6000]), "?1")
    await refused(short, 400, "inconsistent-upload-length")
    await is_recording(await draft.patch(url, 6000, chunked(wav[6000:]), "?1"), services, wav)


async def test_a_broken_connection_keeps_what_came(
    draft: Draft, client: Client, services: Services, wav: bytes
) -> None:
    url = await draft.begin(wav[:1000])
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = (
        f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav) - 1000}\r\nUpload-Complete: ?1\r\n"
        f"Upload-Offset: 1000\r\nContent-Type: {PARTIAL['Content-Type']}\r\n"
        f"Authorization: Bearer {draft.token}\r\n\r\n"
    )
    writer.write(head.encode() + wav[1000:7777])
    await writer.drain()
    while (await left(services))[1] < 3:  # noqa: ASYNC110  # nothing tells when a piece is durable
        await asyncio.sleep(0)
    writer.close()
    await services.resumable.drain()
    asked = await draft.ask("HEAD", url)
    assert (asked.headers["Upload-Offset"], asked.headers["Upload-Complete"]) == ("7777", "?0")
    assert asked.headers["Upload-Length"] == str(len(wav))
    await is_recording(await draft.patch(url, 7777, wav[7777:], "?1"), services, wav)


async def test_a_creation_that_breaks_off_is_no_recording(
    draft: Draft, client: Client, services: Services, wav: bytes
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = (
        f"POST /uploads HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\nUpload-Complete: ?1\r\n"
        f"Upload-Metadata: {NAMED['Upload-Metadata']}\r\nAuthorization: Bearer {draft.token}\r\n\r\n"
    )
    writer.write(head.encode() + wav[:7777])
    await writer.drain()
    while (await left(services))[1] < 2:  # noqa: ASYNC110  # nothing tells when a piece is durable
        await asyncio.sleep(0)
    writer.close()
    await services.resumable.drain()
    assert (await left(services))[0] == 0
    await is_recording(await draft.create("?1", wav), services, wav)


async def test_a_wrong_offset(draft: Draft, wav: bytes) -> None:
    url = await draft.begin(wav[:4000])
    for offset in (0, 3999, 4001):
        answer = await draft.patch(url, offset, wav[4000:], "?1")
        body = await refused(answer, 409, "mismatching-upload-offset")
        assert (body["expected-offset"], body["provided-offset"]) == (4000, offset)
        assert (answer.headers["Upload-Offset"], answer.headers["Upload-Complete"]) == ("4000", "?0")


async def test_a_completed_upload_takes_nothing(draft: Draft, services: Services, wav: bytes) -> None:
    url = (await draft.create("?1", wav)).headers["Location"]
    for complete in ("?0", "?1"):
        again = await draft.patch(url, len(wav), b"", complete)
        await refused(again, 400, "completed-upload")
        assert again.headers["Upload-Complete"] == "?1"
        await refused(await draft.patch(url, len(wav), b"x", complete), 400, "inconsistent-upload-length")
        await refused(await draft.patch(url, 0, wav, complete), 409, "mismatching-upload-offset")
    assert list((await kept(services)).values()) == [wav]


async def test_lengths_that_contradict_each_other(draft: Draft, services: Services, wav: bytes) -> None:
    for complete, length in (("?1", "5"), ("?1", str(len(wav) + 1)), ("?0", "5")):
        answer = await draft.create(complete, wav, **{"Upload-Length": length})
        await refused(answer, 400, "inconsistent-upload-length")
    assert await left(services) == (0, 0, 0)
    url = await draft.begin(wav[:10], **{"Upload-Length": "5000"})
    for data, complete, headers in (
        (wav[10:20], "?1", {}),
        (wav[10:6000], "?0", {}),
        (wav[10:5000], "?1", {"Upload-Length": "4999"}),
        (b"", "?0", {"Upload-Length": "5001"}),
    ):
        answer = await draft.patch(url, 10, data, complete, **headers)
        await refused(answer, 400, "inconsistent-upload-length")
    surplus = await draft.patch(url, 10, chunked(wav[10:6000]))
    assert surplus.status == 413
    assert surplus.headers["Upload-Limit"] == f"max-size={services.settings.max_upload_bytes}"


async def test_the_sources_limit(client: Client, services: Services, controller: Controller) -> None:
    small = await make_source(services, controller, "small", max_bytes=5000)
    draft = Draft(client, await token_of(services, controller, small))
    over = await draft.create("?1", b"x" * 5001)
    assert (over.status, over.headers["Upload-Limit"]) == (413, "max-size=5000")
    made = await draft.create()
    assert made.headers["Upload-Limit"].startswith("max-size=5000, ")
    assert (await draft.patch(made.headers["Location"], 0, b"x" * 5001)).status == 413


async def test_cancellation_leaves_nothing(draft: Draft, services: Services, wav: bytes) -> None:
    url = await draft.begin(wav[:8000])
    assert (await draft.ask("DELETE", url)).status == 204
    for answer in (
        await draft.ask("HEAD", url),
        await draft.patch(url, 8000, b"x"),
        await draft.ask("DELETE", url),
    ):
        assert answer.status == 410
    assert await left(services) == (0, 0, 0)


async def test_off_by_default(client: Client, draft: Draft, services: Services, wav: bytes) -> None:
    url = await draft.begin(wav[:10])
    off = services.settings.model_copy(
        update={"resumable_draft": type(services.settings).model_fields["resumable_draft"].default}
    )
    object.__setattr__(services, "settings", off)
    answers = [
        await draft.create("?1", wav),
        await draft.ask("HEAD", url),
        await draft.patch(url, 10, wav[10:], "?1"),
        await draft.ask("DELETE", url),
    ]
    for answer in answers:
        assert (answer.status, answer.headers["Tus-Resumable"]) == (412, "1.0.0")
        assert "Upload-Complete" not in answer.headers
    assert "Accept-Patch" not in (await client.options("/uploads")).headers
    assert (await left(services))[0] == 0


async def test_what_is_spoken_and_tus_beside_it(
    client: Client, draft: Draft, services: Services, wav: bytes
) -> None:
    offered = await client.options("/uploads")
    assert offered.headers["Accept-Patch"] == "application/partial-upload"
    assert offered.headers["Upload-Limit"] == f"max-size={services.settings.max_upload_bytes}"
    assert offered.headers["Tus-Version"] == "1.0.0"
    tus = Tus(client, draft.token)
    url = await tus.create(len(wav))
    assert (await tus.patch(url, 0, wav[:4000])).status == 204
    await is_recording(await draft.patch(url, 4000, wav[4000:], "?1"), services, wav)
    part = await tus.create(5, "", **{"Upload-Concat": "partial"})
    assert (await draft.patch(part, 0, b"x")).status == 403
    assert (await draft.ask("POST", "/uploads", NAMED)).status == 412


async def test_fields_are_structured_fields(draft: Draft, services: Services, wav: bytes) -> None:
    url = await draft.begin()
    for odd in ("1", "true", "?2", "?", "", "?1, ?0", "? 1", "?1;", '"?1"', "?1;A=1"):
        for answer in (await draft.create(odd, wav), await draft.patch(url, 0, wav, odd)):
            assert (answer.status, (await answer.json())["type"]) == (
                400,
                "urn:tallenne:problem:malformed-input",
            ), odd
    for odd in ("-1", "x", "", "1.0", "0, 0", "1" * 16, "?0"):
        answer = await draft.ask(
            "PATCH", url, {**PARTIAL, "Upload-Complete": "?0", "Upload-Offset": odd}, wav
        )
        assert answer.status == 400, odd
    assert (await draft.ask("PATCH", url, {**PARTIAL, "Upload-Offset": "0"}, wav)).status == 400
    typed = {"Upload-Complete": "?0", "Upload-Offset": "0", "Content-Type": "audio/wav"}
    assert (await draft.ask("PATCH", url, typed, wav)).status == 415
    # A length that cannot be read is no length; a parameter changes nothing.
    assert (await draft.patch(url, 0, wav[:9], '?0;a="b";c', **{"Upload-Length": "-3"})).status == 204
    await is_recording(await draft.patch(url, 9, wav[9:], " ?1;x=?0 "), services, wav)


async def test_an_upload_is_its_sources_alone(
    draft: Draft, client: Client, services: Services, controller: Controller, wav: bytes
) -> None:
    url = await draft.begin(wav[:10])
    second = await make_source(services, controller, "second")
    other = Draft(client, await token_of(services, controller, second))
    crm = Draft(client, await token_of(services, controller, None))
    for who in (other, crm):
        for method in ("HEAD", "DELETE"):
            assert (await who.ask(method, url)).status == 404
        assert (await who.patch(url, 10, wav[10:], "?1")).status == 404
    assert (await crm.create("?1", wav)).status == 403
    assert (await Draft(client, "nothing").create("?1", wav)).status == 401
    assert (await draft.patch(f"/uploads/{uuid.uuid4()}", 0, wav)).status == 404


async def test_digests(draft: Draft, services: Services, wav: bytes) -> None:
    def digest(field: str, data: bytes) -> dict[str, str]:
        return {field: f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}

    url = await draft.begin(wav[:4000], **digest("Content-Digest", wav[:4000]), **digest("Repr-Digest", wav))
    wrong = await draft.patch(url, 4000, wav[4000:], "?1", **digest("Content-Digest", b"x"))
    assert (wrong.status, (await wrong.json())["type"]) == (400, "urn:tallenne:problem:malformed-input")
    assert (await draft.ask("HEAD", url)).headers["Upload-Offset"] == "4000"
    right = digest("Content-Digest", wav[4000:])
    last = await draft.patch(url, 4000, wav[4000:], "?1", **right)
    await is_recording(last, services, wav)
    assert last.headers["Recording-State"] == "stored"


async def test_name_and_type_come_from_http(draft: Draft, services: Services, wav: bytes) -> None:
    given = {
        "Upload-Complete": "?1",
        "Content-Type": "audio/wav",
        "Content-Disposition": "inline; filename*=UTF-8''9f1c.wav",
    }
    answer = await draft.ask("POST", "/uploads", given, wav)
    await is_recording(answer, services, wav)
    assert (await draft.ask("POST", "/uploads", {"Upload-Complete": "?1"}, wav)).status == 422
    wrong = said(metadata=json.dumps({"external_id": "x"}))
    assert (await draft.create("?1", wav, **{"Upload-Metadata": wrong})).status == 422


async def test_an_empty_upload_is_kept_for_a_person(draft: Draft) -> None:
    answer = await draft.create("?1")
    assert (answer.status, answer.headers["Recording-State"]) == (201, "quarantined")
    assert (answer.headers["Upload-Offset"], answer.headers["Upload-Complete"]) == ("0", "?1")
    later = await draft.begin(**{"Upload-Length": "0", "Upload-Metadata": said(external_id="call-2")})
    assert (await draft.patch(later, 0, b"", "?1")).headers["Recording-State"] == "quarantined"


async def test_a_failure_at_the_end_says_that_every_byte_is_here(
    draft: Draft, services: Services, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await draft.begin(wav[:-1])

    def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(services.store, "get", away)
        last = await draft.patch(url, len(wav) - 1, wav[-1:], "?1")
        assert (last.status, last.headers["Upload-Complete"]) == (503, "?1")
    await is_recording(await draft.patch(url, len(wav), b"", "?1"), services, wav)
    other = await draft.create("?1", wav[:-2] + b"xx")
    assert (other.status, (await other.json())["type"]) == (409, "urn:tallenne:problem:conflict")
