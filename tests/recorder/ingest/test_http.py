"""Pushes over real sockets, through the service's own middlewares."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.api import customers, ingest, senders, sources
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.catalogue.enums import Role
from recorder.catalogue.tables import Controller, Recording, Source
from recorder.ingest import receipts
from recorder.services import Services
from tests.recorder.ingest.conftest import make_source

Client = TestClient[web.Request, web.Application]
META = {"external_id": "call-1", "started_at": "2026-03-05T09:00:00+02:00", "direction": "inbound"}


@pytest.fixture
async def client(services: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    app = web.Application(middlewares=[observe, problems, authenticate], client_max_size=1024)
    app[SERVICES] = services
    app.on_response_prepare.append(add_headers)
    mount(app, (*ingest.ROUTES, *senders.ROUTES, *sources.ROUTES, *customers.ROUTES))
    return await aiohttp_client(app)


async def token(
    services: Services, controller: Controller, role: Role, source: Source | None = None
) -> dict[str, str]:
    issued = await tokens.issue_token(
        services,
        Principal("os", "test", controller.id),
        controller_id=controller.id,
        label="test",
        role=role,
        source_id=None if source is None else source.id,
    )
    return {"Authorization": f"Bearer {issued.token}"}


@pytest.fixture
async def auth(services: Services, controller: Controller, source: Source) -> dict[str, str]:
    return await token(services, controller, Role.TELEPHONY, source)


def form(audio: Any, metadata: Any = None, **headers: str) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data")
    document = META if metadata is None else metadata
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    part = writer.append(raw, {"Content-Type": "application/json"})
    part.set_content_disposition("form-data", name="metadata")
    sound = writer.append(audio, {"Content-Type": "audio/wav", **headers})
    sound.set_content_disposition("form-data", name="audio", filename="in-0401234567.wav")
    return writer


def digest(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


async def count(services: Services) -> tuple[int, int]:
    async with services.database.snapshot() as session:
        rows = await session.scalar(sa.select(sa.func.count()).select_from(Recording))
    return int(rows or 0), len([stat async for stat in services.store.list()])


async def test_post_answers_with_ids_digests_and_a_receipt(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    answer = await client.post(
        "/api/v1/recordings", data=form(wav, **{"Content-Digest": digest(wav)}), headers=auth
    )
    body = await answer.json()
    assert answer.status == 201, body
    assert answer.headers["Location"] == f"/api/v1/recordings/{body['id']}"
    assert body["state"] == "stored"
    assert body["sha256"] == hashlib.sha256(wav).hexdigest()
    assert body["size"] == len(wav)
    assert body["media"]["codec"] == "pcm_s16le"
    assert body["customer"]["status"] == "unlinked"
    assert set(body["retention"]) >= {"erase_on", "windows"}
    public = services.keyring.public_keys()["receipts"]
    payload = receipts.verify_receipt(body["receipt"], {receipts.jwk(public)["kid"]: public})
    assert payload["sha256"] == body["sha256"]
    again = await client.post("/api/v1/recordings", data=form(wav), headers=auth)
    assert (again.status, (await again.json())["id"]) == (200, body["id"])
    other = await client.post("/api/v1/recordings", data=form(wav + b"xx"), headers=auth)
    problem = await other.json()
    assert (other.status, other.content_type) == (409, "application/problem+json")
    assert problem["type"].endswith(":conflict")
    assert problem["recording_id"] == body["id"]
    shown = await client.get(f"/api/v1/recordings/{body['id']}/receipt", headers=auth)
    assert (await shown.json())["receipt"] == body["receipt"]


async def test_a_file_name_that_is_no_text_loses_no_recording(
    client: Client, auth: dict[str, str], wav: bytes
) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n'
        + json.dumps(META).encode()
        + b"\r\n"
        b'--B\r\nContent-Disposition: form-data; name="audio"; filename="a\xff.wav"\r\n\r\n' + wav
    ) + b"\r\n--B--\r\n"
    answer = await client.post(
        "/api/v1/recordings",
        data=body,
        headers={**auth, "Content-Type": "multipart/form-data; boundary=B"},
    )
    assert (answer.status, (await answer.json())["state"]) == (201, "stored")


async def test_refusals_keep_nothing_and_echo_nothing(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    secret = "Maija Meikalainen 0401234567"
    cases: list[tuple[Any, int, str | None]] = [
        (form(wav, {**META, "wat": secret}), 422, "/wat"),
        (form(wav, {**META, "direction": secret}), 422, "/direction"),
        (form(wav, {**META, "started_at": secret}), 422, "/started_at"),
        (form(wav, {**META, "started_at": "2026-03-05T09:00:00"}), 422, "/started_at"),
        (form(wav, {**META, "muted": [{"from": 2, "to": 1, "reason": "x"}]}), 422, "/muted/0"),
        (form(wav, {**META, "caller": secret * 20}), 422, "/caller"),
        (form(wav, {"started_at": META["started_at"]}), 422, "/external_id"),
        (form(wav, b"{" + secret.encode()), 422, ""),
        (form(wav, b"[" * 100_000), 422, ""),
        (form(wav, b'{"external_id": "\\ud800"}'), 422, None),
        (form(wav, **{"Content-Digest": digest(wav + b"x")}), 400, "Content-Digest"),
        (form(wav, **{"Content-Digest": "sha-256=nonsense!"}), 400, "Content-Digest"),
        (form(wav, b" " * 300_000), 413, None),
        (form(wav, **{"X-Coding": "gzip"}), 415, None),
        (b"plain", 415, None),
    ]
    for data, status, pointer in cases:
        if isinstance(data, aiohttp.MultipartWriter):
            # Written out by hand, because the client refuses to send a part's Content-Encoding.
            boundary, data = data.boundary, await data.as_bytes()
            data = data.replace(b"X-Coding", b"Content-Encoding")
            headers = {**auth, "Content-Type": f"multipart/form-data; boundary={boundary}"}
        else:
            headers = auth
        answer = await client.post("/api/v1/recordings", data=data, headers=headers)
        text = await answer.text()
        assert answer.status == status, text
        assert answer.content_type == "application/problem+json"
        assert "Maija" not in text
        assert "0401234567" not in text
        if pointer is not None:
            assert pointer in [error["pointer"] for error in json.loads(text)["errors"]], text
    assert await count(services) == (0, 0)


async def test_parts_in_the_wrong_order_or_number(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    turned = aiohttp.MultipartWriter("form-data")
    turned.append(wav).set_content_disposition("form-data", name="audio", filename="a.wav")
    alone = aiohttp.MultipartWriter("form-data")
    alone.append(json.dumps(META)).set_content_disposition("form-data", name="metadata")
    more = form(wav)
    more.append(b"more").set_content_disposition("form-data", name="more")
    for writer in (turned, alone, more):
        answer = await client.post("/api/v1/recordings", data=writer, headers=auth)
        assert answer.status == 422, await answer.text()
    assert await count(services) == (0, 0)


async def test_a_multipart_body_without_its_end_is_refused(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    head = (
        b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n'
        + json.dumps(META).encode()
        + b'\r\n--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n'
    )
    headers = {**auth, "Content-Type": "multipart/form-data; boundary=b"}
    for middle, end in ((b"\r\n", b""), (f"Content-Length: {len(wav)}\r\n\r\n".encode(), b"\r\n")):
        answer = await client.post("/api/v1/recordings", data=head + middle + wav + end, headers=headers)
        assert answer.status == 400, (middle, await answer.text())
    short = head + b"Content-Length: 99\r\n\r\n" + wav + b"\r\n--b--\r\n"
    answer = await client.post("/api/v1/recordings", data=short, headers=headers)
    assert answer.status == 400, await answer.text()
    assert await count(services) == (0, 0)
    good = head + f"Content-Length: {len(wav)}\r\n\r\n".encode() + wav + b"\r\n--b--\r\n"
    answer = await client.post("/api/v1/recordings", data=good, headers=headers)
    assert answer.status == 201
    assert (await answer.json())["sha256"] == hashlib.sha256(wav).hexdigest()


async def test_a_connection_that_breaks_leaves_nothing(
    client: Client, services: Services, source: Source, auth: dict[str, str], wav: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    head = f"PUT /ingest/pbx/broken.wav HTTP/1.1\r\nHost: x\r\nContent-Length: {len(wav)}\r\n"
    writer.write(head.encode() + f"Authorization: {auth['Authorization']}\r\n\r\n".encode() + wav[:5000])
    await writer.drain()
    while services.uploads.running == 0:  # noqa: ASYNC110  # nothing tells when a request has been read
        await asyncio.sleep(0)
    writer.close()
    await services.uploads.drain()
    assert await count(services) == (0, 0)
    del reader, source  # the source must exist before its token is used


async def test_put_takes_raw_bodies_and_reads_the_query(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    answer = await client.put(
        "/ingest/pbx/9f1c-22.wav?from=0401234567&direction=inbound&agent=a7&agent=a8&queue=sales"
        "&started_at=2026-03-05T09:00:00%2B02:00&campaign=spring",
        data=wav,
        headers={**auth, "Content-Type": "audio/wav", "User-Agent": "freeswitch-http-cache/1.0"},
    )
    body = await answer.json()
    assert answer.status == 201, body
    assert (body["state"], body["reasons"]) == ("stored", [])
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(Recording))).one()
    assert (row.agents, row.queue, row.direction) == (["a7", "a8"], "sales", "inbound")
    chunked = await client.put("/ingest/pbx/9f1c-22.wav", data=_chunks(wav), headers=auth)
    assert (chunked.status, (await chunked.json())["id"]) == (200, body["id"])


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096]


async def test_put_keeps_what_it_can(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    odd = await client.put("/ingest/pbx/a.wav?direction=sideways&started_at=soon", data=wav, headers=auth)
    body = await odd.json()
    assert odd.status == 201
    assert body["state"] == "quarantined"
    assert body["reasons"] == [
        "metadata-invalid:direction",
        "metadata-invalid:started_at",
        "started-at-estimated",
    ]
    bare = await client.put("/ingest/pbx/b.wav", data=wav, headers=auth)
    assert (await bare.json())["reasons"] == ["started-at-estimated"]
    assert (await bare.json())["state"] == "stored"
    wrong = await client.put(
        "/ingest/pbx/c.wav", data=wav, headers={**auth, "Repr-Digest": digest(wav + b"x")}
    )
    assert wrong.status == 201
    assert "digest-mismatch" in (await wrong.json())["reasons"]
    raw = await client.put("/ingest/pbx/d.g722", data=b"\x12\x34" * 400, headers=auth)
    assert (await raw.json())["media"]["codec"] == "g722"
    for path in ("/ingest/other/x.wav", "/ingest/PBX/x.wav"):
        assert (await client.put(path, data=wav, headers=auth)).status == 403


async def test_a_dry_run_over_http(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    for method, path, data in (
        ("POST", "/api/v1/recordings?dry_run=true", form(wav)),
        ("PUT", "/ingest/pbx/call-1.wav?dry_run=true", wav),
    ):
        answer = await client.request(method, path, data=data, headers=auth)
        body = await answer.json()
        assert answer.status == 200, body
        assert (body["would"], body["id"], body["receipt"]) == ("created", None, None)
    bad = await client.post("/api/v1/recordings?dry_run=maybe", data=form(wav), headers=auth)
    assert bad.status == 422
    assert await count(services) == (0, 0)


async def test_who_may_push(
    client: Client, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    assert (await client.post("/api/v1/recordings", data=form(wav))).status == 401
    crm = await token(services, controller, Role.CRM)
    assert (await client.post("/api/v1/recordings", data=form(wav), headers=crm)).status == 403
    second = await make_source(services, controller, "second")
    other = await token(services, controller, Role.TELEPHONY, second)
    mine = await token(services, controller, Role.TELEPHONY, source)
    pushed = await (await client.post("/api/v1/recordings", data=form(wav), headers=mine)).json()
    receipt = f"/api/v1/recordings/{pushed['id']}/receipt"
    assert (await client.get(receipt, headers=other)).status == 403
    assert (await client.get(receipt, headers=mine)).status == 200
    assert (await client.put("/api/v1/customers", json={}, headers=mine)).status in (403, 422)
    assert (await client.get("/api/v1/quarantine", headers=mine)).status == 403
    assert (await client.get("/api/v1/sources", headers=mine)).status == 403


async def test_an_expecting_sender_gets_its_continue(
    client: Client, services: Services, auth: dict[str, str], wav: bytes
) -> None:
    answer = await client.put("/ingest/pbx/big.wav", data=wav, headers=auth, expect100=True)
    assert answer.status == 201


async def test_sources_and_their_tokens(
    client: Client, services: Services, controller: Controller, wav: bytes
) -> None:
    operator = await token(services, controller, Role.OPERATOR)
    made = await client.post(
        "/api/v1/sources",
        json={"name": "fs-1", "default_lawful_basis": "consent", "default_media": {"codec": "gsm"}},
        headers=operator,
    )
    source = await made.json()
    assert made.status == 201, source
    assert (await client.post("/api/v1/sources", json={"name": "fs-1"}, headers=operator)).status == 409
    assert (await client.post("/api/v1/sources", json={"name": "t"}, headers=operator)).status == 422
    first = await (await client.post(f"/api/v1/sources/{source['id']}/tokens", headers=operator)).json()
    rotated = await client.post(
        f"/api/v1/sources/{source['id']}/tokens/rotate", json={"overlap": 3600}, headers=operator
    )
    second = await rotated.json()
    for n, issued in enumerate((first, second)):
        headers = {"Authorization": f"Bearer {issued['token']}"}
        put = await client.put(f"/ingest/fs-1/x{n}.wav", data=wav, headers=headers)
        assert put.status == 201
    gone = await client.delete(f"/api/v1/sources/{source['id']}/tokens/{first['id']}", headers=operator)
    assert gone.status == 204
    old = {"Authorization": f"Bearer {first['token']}"}
    assert (await client.put("/ingest/fs-1/x3.wav", data=wav, headers=old)).status == 401
    off = await client.patch(
        f"/api/v1/sources/{source['id']}", json={"enabled": False, "max_bytes": 10}, headers=operator
    )
    assert ((await off.json())["enabled"], (await off.json())["max_bytes"]) == (False, 10)
    new = {"Authorization": f"Bearer {second['token']}"}
    assert (await client.put("/ingest/fs-1/x4.wav", data=wav, headers=new)).status in (401, 403)
    listed = await (await client.get("/api/v1/sources", headers=operator)).json()
    assert [item["name"] for item in listed["items"]] == ["fs-1"]


async def test_the_quarantine_is_listed_in_pages_and_decided(
    client: Client, services: Services, controller: Controller, auth: dict[str, str]
) -> None:
    operator = await token(services, controller, Role.OPERATOR)
    noise = hashlib.shake_256(b"n").digest(2000)
    pushed = set()
    for n in range(3):
        answer = await client.put(f"/ingest/pbx/odd-{n}", data=noise, headers=auth)
        pushed.add((await answer.json())["id"])
    seen: list[str] = []
    url: str | None = "/api/v1/quarantine?limit=2"
    while url is not None:
        page = await (await client.get(url, headers=operator)).json()
        seen += [item["id"] for item in page["items"]]
        url = None if page["next"] is None else f"/api/v1/quarantine?limit=2&cursor={page['next']}"
    assert set(seen) == pushed
    assert len(seen) == 3
    path = f"/api/v1/quarantine/{seen[0]}/decision"
    again = await client.post(path, json={"decision": "recheck"}, headers=operator)
    assert (await again.json())["state"] == "quarantined"
    done = await client.post(path, json={"decision": "accept"}, headers=operator)
    assert (await done.json())["state"] == "stored"
    assert (await client.post(path, json={"decision": "accept"}, headers=operator)).status == 409
    nobody = f"/api/v1/quarantine/{uuid.uuid4()}/decision"
    assert (await client.post(nobody, json={"decision": "accept"}, headers=operator)).status == 404
    bad = await client.get("/api/v1/quarantine?cursor=zzz", headers=operator)
    assert bad.status == 422


async def test_customers_over_http(
    client: Client, services: Services, controller: Controller, auth: dict[str, str], wav: bytes
) -> None:
    crm = await token(services, controller, Role.CRM)
    legal = await token(services, controller, Role.LEGAL)
    await client.post("/api/v1/recordings", data=form(wav, {**META, "caller": "0401234567"}), headers=auth)
    record = {
        "number": "C-100",
        "name": "Åsa Räsänen",
        "phone": "+358 40 123 4567",
        "emails": ["Asa@Example.fi"],
        "source": "registration",
    }
    made = await client.put("/api/v1/customers", json=record, headers=crm)
    body = await made.json()
    assert (made.status, body["created"], body["linked"]) == (201, True, 1)
    again = await client.put("/api/v1/customers", json=record, headers=crm)
    assert (again.status, (await again.json())["id"]) == (200, body["id"])
    for asked in (
        {"number": "c-100"},
        {"phone": "0401234567"},
        {"email": "asa@example.fi"},
        {"name": "rasanen ASA"},
    ):
        found = await client.post("/api/v1/customers/search", json=asked, headers=legal)
        items = (await found.json())["items"]
        assert [item["id"] for item in items] == [body["id"]], asked
        assert items[0]["name"] == "Åsa Räsänen"
    denied = await client.post("/api/v1/customers/search", json={"number": "C-100"}, headers=crm)
    assert denied.status == 403
    for wrong, pointer in (
        ({**record, "phone": "not a phone"}, "/phone"),
        ({**record, "emails": ["x"]}, "/emails/0"),
        ({**record, "number": "131052-308T"}, "/number"),
        ({"number": "C-1"}, "/source"),
        ({**record, "wat": 1}, "/wat"),
    ):
        refused = await client.put("/api/v1/customers", json=wrong, headers=crm)
        problem = await refused.json()
        assert refused.status == 422, problem
        assert pointer in [error["pointer"] for error in problem["errors"]]
        assert "not a phone" not in json.dumps(problem)
    contacts = f"/api/v1/customers/{body['id']}/contacts"
    mailing = {"kind": "mailing", "at": "2026-03-05T07:30:00Z"}
    visit = {"kind": "visit", "at": "2026-03-05T07:45:00Z", "note": "till counter"}
    first = await (await client.post(contacts, json=mailing, headers=crm)).json()
    second = await (await client.post(contacts, json=visit, headers=crm)).json()
    assert (first["counts"], first["last_contact_at"]) == (False, "2026-03-05T07:00:00Z")
    assert (second["counts"], second["last_contact_at"]) == (True, "2026-03-05T07:45:00Z")
    future = {"kind": "visit", "at": "2027-01-01T00:00:00Z"}
    assert (await client.post(contacts, json=future, headers=crm)).status == 422
    choices = f"/api/v1/customers/{body['id']}/choices"
    chosen = await client.post(choices, json={"kind": "objection"}, headers=crm)
    assert chosen.status == 201
    state = (await (await client.get(choices, headers=legal)).json())["state"]
    assert state["objected"] == ["quality", "training"]
    before = await client.get(f"{choices}?as_of=2026-03-01T00:00:00Z", headers=legal)
    assert (await before.json())["state"]["objected"] == []
    nobody = f"/api/v1/customers/{uuid.uuid4()}/contacts"
    assert (await client.post(nobody, json=visit, headers=crm)).status == 404
