"""Twilio, Zoom, vCon and jambonz over real sockets, from their first byte to the stored recording."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.api import jambonz, senders, source_secrets
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.api.system import DRAINING, Draining
from recorder.catalogue.enums import RecordingState, Role
from recorder.catalogue.tables import Controller, ExpectedRecording, Fetch, FetchState, Recording, Source
from recorder.ingest.fetching import FETCH_JOB, Fetcher
from recorder.ingest.secrets import set_secret
from recorder.jobs.worker import Worker
from recorder.services import Services
from recorder.settings import Settings
from storage.errors import StoreUnavailable
from tests.recorder.ingest.conftest import make_source
from tests.recorder.ingest.test_fetching import WAV, Sender, audio
from tests.recorder.ingest.test_vcon import b64url, document, inline
from tests.recorder.ingest.test_zoom import COMPLETED

Client = TestClient[web.Request, web.Application]
OPERATOR = Principal("os", "installer", None)


@pytest.fixture
async def provider() -> AsyncIterator[Sender]:
    provider = Sender()
    provider.answers = [audio()]
    await provider.server.start_server()
    yield provider
    await provider.server.close()


@pytest.fixture
def here(services: Services, provider: Sender) -> Services:
    settings = Settings(
        data_dir=services.settings.data_dir,
        fetch_private_hosts=(provider.host,),
        public_url="https://recorder.example.com",
        upload_idle_seconds=5.0,
    )
    return replace(services, settings=settings)


@pytest.fixture
async def client(here: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    app = web.Application(middlewares=[observe, problems, authenticate], client_max_size=1024)
    app[SERVICES] = here
    app[DRAINING] = Draining()
    app.on_response_prepare.append(add_headers)
    mount(app, (*jambonz.ROUTES, *senders.ROUTES, *source_secrets.ROUTES))
    return await aiohttp_client(app)


MakeSource = Callable[..., Awaitable[tuple[Source, str]]]


@pytest.fixture
def make(here: Services, controller: Controller, provider: Sender) -> MakeSource:
    """Factory: a source of a kind, with its settings and secrets; and its token."""

    async def make(kind: str, secrets: dict[str, str] | None = None, **settings: Any) -> tuple[Source, str]:
        source = await make_source(here, controller, kind)
        async with here.database.transaction() as session:
            row = await session.get_one(Source, source.id)
            row.kind, row.settings = kind, {"fetch_hosts": [provider.host], **settings}
        for name, value in (secrets or {}).items():
            await set_secret(here, OPERATOR, source.id, name, value)
        issued = await tokens.issue_token(
            here, OPERATOR, controller_id=controller.id, label=kind, role=Role.TELEPHONY, source_id=source.id
        )
        return source, issued.token

    return make


async def work(services: Services) -> None:
    await Worker(services, {FETCH_JOB: Fetcher(services).run}).drain()
    await services.uploads.drain()


async def recordings(services: Services) -> list[Recording]:
    async with services.database.snapshot() as session:
        return list(await session.scalars(sa.select(Recording).order_by(Recording.started_at)))


async def expected(services: Services) -> list[tuple[str, str | None]]:
    async with services.database.snapshot() as session:
        rows = await session.scalars(sa.select(ExpectedRecording))
        return [(row.outcome, row.code) for row in rows]


async def test_twilio_from_callback_to_recording(
    client: Client, here: Services, make: MakeSource, provider: Sender
) -> None:
    secrets = {"auth_token": "twilio-token", "basic": "SK1:secret"}
    _, token = await make("twilio", secrets, channels=["customer", "agent"])
    path = f"/ingest/t/{token}?agent=a17"
    form = {
        "RecordingSid": "RE1",
        "CallSid": "CA1",
        "RecordingUrl": provider.url("/Recordings/RE1"),
        "RecordingStatus": "completed",
        "RecordingChannels": "2",
        "RecordingStartTime": "Thu, 05 Mar 2026 07:58:01 +0000",
        "RecordingDuration": "1",
    }
    signature = RequestValidator("twilio-token").compute_signature(
        f"https://recorder.example.com{path}", form
    )

    forged = await client.post(
        path, data={**form, "RecordingSid": "RE2"}, headers={"X-Twilio-Signature": signature}
    )
    assert forged.status == 401
    for _ in range(2):  # Twilio repeats
        answer = await client.post(path, data=form, headers={"X-Twilio-Signature": signature})
        assert (answer.status, await answer.read()) == (204, b"")
    assert await expected(here) == [("fetching", None)]
    await work(here)

    [recording] = await recordings(here)
    assert (recording.state, recording.sha256) == (RecordingState.STORED, hashlib.sha256(WAV).digest())
    assert (recording.agents, [c["party"] for c in recording.channels]) == (["a17"], ["customer", "agent"])
    [asked] = provider.seen
    assert asked.path_qs == "/Recordings/RE1.wav?RequestedChannels=2"
    assert asked.headers["Authorization"].startswith("Basic ")
    assert await expected(here) == [("received", None)]


async def test_twilio_tells_that_there_is_nothing(client: Client, here: Services, make: MakeSource) -> None:
    _, token = await make("twilio", {"auth_token": "t"})
    form = {"RecordingSid": "RE1", "CallSid": "CA1", "RecordingStatus": "absent", "ErrorCode": "16102"}
    url = f"https://recorder.example.com/ingest/t/{token}"
    headers = {"X-Twilio-Signature": RequestValidator("t").compute_signature(url, form)}
    answer = await client.post(f"/ingest/t/{token}", data=form, headers=headers)
    assert answer.status == 204
    assert await expected(here) == [("silent", "16102")]


async def test_zoom_from_validation_to_recording(
    client: Client, here: Services, make: MakeSource, provider: Sender
) -> None:
    _, token = await make("zoom", {"secret_token": "zoom-secret"})

    async def send(event: object) -> aiohttp.ClientResponse:
        body = json.dumps(event).encode()
        stamp = str(int(here.clock.now().timestamp()))
        mac = hmac.new(b"zoom-secret", f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {"x-zm-signature": f"v0={mac}", "x-zm-request-timestamp": stamp}
        headers["Content-Type"] = "application/json; charset=utf-8"
        return await client.post(f"/ingest/t/{token}", data=body, headers=headers)

    checked = await send({"event": "endpoint.url_validation", "payload": {"plainToken": "abc"}})
    encrypted = hmac.new(b"zoom-secret", b"abc", hashlib.sha256).hexdigest()
    assert await checked.json() == {"plainToken": "abc", "encryptedToken": encrypted}

    event = json.loads(json.dumps(COMPLETED))
    for number, one in enumerate(event["payload"]["object"]["recordings"]):
        one["download_url"] = provider.url(f"/{number}")
    assert (await send(event)).status == 204
    await work(here)
    assert len(await recordings(here)) == 2
    assert {asked.headers["Authorization"] for asked in provider.seen} == {"Bearer abc.def.ghi"}


async def test_a_vcon_brings_some_audio_and_tells_of_more(
    client: Client, here: Services, make: MakeSource, provider: Sender
) -> None:
    _, token = await make("vcon", unsigned=True)
    digest = hashlib.sha512(WAV).digest()
    linked = inline(
        WAV, url=provider.url("/b.wav"), content_hash=f"sha512-{b64url(digest)}", start="2026-03-05T07:59:00Z"
    )
    del linked["body"], linked["encoding"]
    body = json.dumps(document(inline(WAV), linked)).encode()
    headers = {"Content-Type": "application/vcon", "x-conserver-api-token": token}
    answer = await client.post("/ingest/vcon", data=body, headers=headers)
    assert answer.status == 201, await answer.text()
    again = await client.post("/ingest/vcon", data=body, headers=headers)
    assert again.status == 200
    await work(here)
    first, second = await recordings(here)
    assert first.call_id == second.call_id
    assert {first.sha256, second.sha256} == {hashlib.sha256(WAV).digest()}
    assert [r.state for r in (first, second)] == [RecordingState.STORED] * 2

    # A changed dialog is kept aside; what else the vCon has is taken all the same, and then it is told.
    changed = document(inline(WAV + b"\x00\x00"), linked, inline(WAV, start="2026-03-05T07:59:30Z"))
    refused = await client.post("/ingest/vcon", json=changed, headers={"x-conserver-api-token": token})
    assert refused.status == 409
    assert len(await recordings(here)) == 4


async def test_a_vcon_nobody_signed_goes_to_quarantine(
    client: Client, here: Services, make: MakeSource
) -> None:
    _, token = await make("vcon")
    answer = await client.post(f"/ingest/t/{token}", json=document())
    assert answer.status == 201
    [recording] = await recordings(here)
    assert (recording.state, recording.reasons) == (RecordingState.QUARANTINED, ["vcon-unsigned"])


OPENING = {
    "accountSid": "ac",
    "applicationSid": "ap",
    "callSid": "c3ab5b0e",
    "callId": "sip-1",
    "direction": "inbound",
    "from": "+358401234567",
    "to": "+358912345",
    "sampleRate": 8000,
    "originatingSipIp": "10.0.0.1",
    "originatingSipTrunkName": "trunk",
}
FRAMES = WAV[44:]


async def settled(services: Services) -> None:
    """Until the stream's upload has begun and ended."""
    async with asyncio.timeout(20):
        await services.uploads.drain()


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something has come about."""
    async with asyncio.timeout(20):
        for _ in iter(true, True):
            await asyncio.sleep(0)


@pytest.mark.parametrize("by_url", [True, False])
async def test_jambonz_streams_a_call(client: Client, here: Services, make: MakeSource, by_url: bool) -> None:
    _, token = await make("jambonz")
    path = f"/ingest/t/{token}/record/custom" if by_url else "/ingest/jambonz/record/custom"
    basic = "Basic " + base64.b64encode(f"jambonz:{token}".encode()).decode()
    headers = {} if by_url else {"Authorization": basic}
    async with client.ws_connect(path, protocols=["audio.jambonz.org"], headers=headers) as socket:
        assert socket.protocol == "audio.jambonz.org"
        await socket.send_json(OPENING)
        for start in range(0, len(FRAMES), 640):
            await socket.send_bytes(FRAMES[start : start + 640])
            if start == 640:
                await socket.send_json({"event": "dtmf", "dtmf": "4", "duration": "200"})
    await settled(here)
    [recording] = await recordings(here)
    assert (recording.state, recording.reasons) == (RecordingState.STORED, ["keys-pressed"])
    assert recording.size == 44 + len(FRAMES)
    assert recording.duration_ms == len(FRAMES) * 1000 // (4 * 8000)
    assert recording.media["channels"] == 2
    assert [c["party"] for c in recording.channels] == ["caller", "callee"]


async def test_the_closing_frame_is_answered_once_the_stream_is_durable(
    client: Client, here: Services, make: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await make("jambonz")

    async def stream() -> int | None:
        async with client.ws_connect(f"/ingest/t/{token}/record/custom") as socket:
            await socket.send_json(OPENING)
            await socket.send_bytes(FRAMES)
        return socket.close_code

    assert await stream() == aiohttp.WSCloseCode.OK
    assert len(await recordings(here)) == 1

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(here.store, "put", away)
    assert await stream() == aiohttp.WSCloseCode.TRY_AGAIN_LATER
    assert len(await recordings(here)) == 1


async def test_a_line_that_breaks_keeps_what_came(client: Client, here: Services, make: MakeSource) -> None:
    _, token = await make("jambonz")
    socket = await client.ws_connect(f"/ingest/t/{token}/record/custom")
    await socket.send_json(OPENING)
    await socket.send_bytes(FRAMES[:640])
    await socket.send_bytes(FRAMES[640:1280])
    await until(lambda: here.uploads.running > 0)
    response: Any = socket._response
    response.connection.transport.abort()
    await settled(here)
    [recording] = await recordings(here)
    assert "broken-off" in recording.reasons
    assert recording.state is RecordingState.STORED
    assert recording.size >= 44 + 640
    await socket.close()


async def test_streams_that_bring_nothing(client: Client, here: Services, make: MakeSource) -> None:
    _, token = await make("jambonz")
    await make("generic")
    path = f"/ingest/t/{token}/record/custom"
    async with client.ws_connect(path) as socket:
        await socket.send_json(OPENING)
    async with asyncio.timeout(20):
        while await expected(here) != [("absent", "no-frames")]:
            await settled(here)
    for first in (
        "no json",
        "[]",
        json.dumps({"callSid": "x", "sampleRate": 1}),
        json.dumps({"sampleRate": 8000}),
    ):
        async with client.ws_connect(path) as socket:
            await socket.send_str(first)
            message = await socket.receive(timeout=10)
            assert (message.type, message.data) == (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSCloseCode.POLICY_VIOLATION,
            )
    async with client.ws_connect(path) as socket:
        await socket.send_bytes(b"audio first")
        assert (await socket.receive(timeout=10)).data == aiohttp.WSCloseCode.POLICY_VIOLATION
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await client.ws_connect("/ingest/t/rt_nobody/record/custom")
    assert refused.value.status == 401
    assert await recordings(here) == []


async def test_secrets_over_the_api(
    client: Client, here: Services, make: MakeSource, controller: Controller
) -> None:
    source, pushing = await make("twilio")
    issued = await tokens.issue_token(
        here, OPERATOR, controller_id=controller.id, label="operator", role=Role.OPERATOR
    )
    operator = {"Authorization": f"Bearer {issued.token}"}
    path = f"/api/v1/sources/{source.id}/secrets"
    put = await client.put(f"{path}/auth_token", json={"value": "tw-secret"}, headers=operator)
    assert put.status == 204
    listed = await client.get(path, headers=operator)
    assert [item["name"] for item in (await listed.json())["items"]] == ["auth_token"]
    assert "tw-secret" not in await listed.text()
    wrong = await client.put(f"{path}/key:CR1", json={"value": "no pem"}, headers=operator)
    assert wrong.status == 422
    assert "no pem" not in await wrong.text()
    own = await client.get(path, headers={"Authorization": f"Bearer {pushing}"})
    assert own.status == 403
    assert (await client.delete(f"{path}/auth_token", headers=operator)).status == 204
    assert (await client.delete(f"{path}/auth_token", headers=operator)).status == 404
    nowhere = await client.get(f"/api/v1/sources/{uuid.uuid4()}/secrets", headers=operator)
    assert nowhere.status == 404


def test_the_header_of_a_stream() -> None:
    from recorder.ingest.adapters.jambonz import wav_header

    header = wav_header(16_000)
    assert len(header) == 44
    assert struct.unpack_from("<HHIIHH", header, 20) == (1, 2, 16_000, 64_000, 4, 16)


async def test_an_order_survives_without_its_worker(
    client: Client, here: Services, make: MakeSource, provider: Sender
) -> None:
    """204 means that the order is in the catalogue: whoever works next finds it."""
    _, token = await make("twilio", signature="off", credential="none")
    form = {"RecordingSid": "RE9", "RecordingUrl": provider.url("/RE9")}
    answer = await client.post(f"/ingest/t/{token}", data=form)
    assert (answer.status, answer.content_type) == (200, "text/xml")
    async with here.database.snapshot() as session:
        [row] = await session.scalars(sa.select(Fetch))
    assert row.state is FetchState.WAITING
    await work(here)
    assert len(await recordings(here)) == 1
