"""Senders against the whole service: what was recorded of them, replayed over a socket."""

from __future__ import annotations

import hashlib
import io
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.api import senders
from recorder.app import build_app
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import AuditEntry, Controller, Recording, Source, StoredObjectRow, Subject
from recorder.catalogue.tables.completeness import ExpectedRecording
from recorder.errors import InvalidInput
from recorder.ingest import sources
from recorder.ingest.adapters.base import Envelope, Intent, Reply
from recorder.ingest.sources import NewSource, SourceChange
from recorder.ingest.storing import stored_document
from recorder.logs import JsonFormatter
from recorder.playback.objects import stored_object
from recorder.services import Services
from tests.recorder.ingest.adapters.recorded import Answered, send, wire
from tests.recorder.ingest.conftest import encode, tone

Serve = Callable[[web.Application], Awaitable[TestServer]]


@pytest.fixture(scope="module")
def mp3() -> bytes:
    return encode(tone(), codec="libmp3lame", container="mp3", sample_format="s16p", bit_rate=64_000)


@dataclass
class World:
    """A running service and a source of it."""

    services: Services
    controller: Controller
    port: int
    source: Source
    token: str

    async def replay(self, payload: str, audio: bytes = b"") -> Answered:
        return await send(self.port, wire(payload, token=self.token, audio=audio))

    async def rows(self) -> list[Recording]:
        async with self.services.database.snapshot() as session:
            return list(await session.scalars(sa.select(Recording).order_by(Recording.received_at)))

    async def read(self, recording_id: str) -> bytes:
        async with self.services.database.snapshot() as session:
            query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == uuid.UUID(recording_id))
            row = (await session.scalars(query)).one()
            subject = await session.get_one(Subject, row.subject_id)
        async with self.services.vault.read(stored_object(row, subject)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def told(self, recording_id: str) -> dict[str, Any]:
        async with self.services.database.snapshot() as session:
            row = await session.get_one(Recording, uuid.UUID(recording_id))
            return await stored_document(session, self.services, row)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


Begin = Callable[..., Awaitable[World]]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


@pytest.fixture
def app(services: Services, request: pytest.FixtureRequest) -> web.Application:
    patience = getattr(request, "param", services.settings.upload_idle_seconds)
    settings = services.settings.model_copy(update={"upload_idle_seconds": patience})
    return build_app(replace(services, settings=settings))


@pytest.fixture
def begin(services: Services, controller: Controller, app: web.Application, aiohttp_server: Serve) -> Begin:
    async def make(kind: str, *, name: str = "pbx", **settings: Any) -> World:
        operator = Principal("os", "test", controller.id)
        given = NewSource(
            name=name, kind=kind, default_lawful_basis=LawfulBasis.CONSENT, settings=settings or None
        )
        source = await sources.create_source(services, operator, controller.id, given)
        issued = await tokens.issue_token(
            services, operator, controller_id=controller.id, label="test", source_id=source.id
        )
        server = await aiohttp_server(app)
        assert server.port is not None
        return World(services, controller, server.port, source, issued.token)

    return make


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that anybody logs, at DEBUG, as the service writes it."""
    root, written = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(written), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


KINDS = {
    "freeswitch-http-cache": "freeswitch",
    "freeswitch-httapi": "freeswitch",
    "kazoo": "kazoo",
    "asterisk": "asterisk",
    "rtpengine-mix": "rtpengine",
    "rtpengine-ssrc": "rtpengine",
    "siprec": "siprec",
    "generic-form": "generic",
}


@pytest.mark.parametrize("payload", KINDS)
async def test_what_is_pushed_comes_back_byte_for_byte(
    begin: Begin, wav: bytes, mp3: bytes, payload: str
) -> None:
    world = await begin(KINDS[payload])
    audio = mp3 if payload == "kazoo" else wav
    answered = await world.replay(payload, audio)
    assert answered.status in (200, 201), answered.body
    (row,) = await world.rows()
    assert (row.state.value, row.size) == ("stored", len(audio))
    assert await world.read(str(row.id)) == audio
    if payload != "freeswitch-httapi":
        assert answered.json["id"] == str(row.id)
        assert answered.json["sha256"] == hashlib.sha256(audio).hexdigest()
        assert answered.json["receipt"].count(".") == 2
    again = await world.replay(payload, audio)
    assert again.status == 200
    assert len(await world.rows()) == 1


async def test_httapi_hears_how_the_call_goes_on(begin: Begin, wav: bytes) -> None:
    answered = await (await begin("freeswitch")).replay("freeswitch-httapi", wav)
    assert (answered.status, answered.headers["content-type"]) == (200, "text/xml")
    assert b"xml/freeswitch-httapi" in answered.body


async def test_one_call_of_rtpengine_has_all_its_files(begin: Begin, wav: bytes) -> None:
    world = await begin("rtpengine", parties={"caller": "customer"})
    mix = await world.replay("rtpengine-mix", wav)
    leg = await world.replay("rtpengine-ssrc", wav + b"\0\0")
    assert mix.json["call_id"] == leg.json["call_id"]
    assert mix.json["id"] != leg.json["id"]
    assert (await world.told(leg.json["id"]))["channels"] == [{"party": "customer"}]


async def test_a_path_alone_is_never_answered_as_taken(begin: Begin) -> None:
    world = await begin("rtpengine")
    answered = await world.replay("rtpengine-path-only")
    assert (answered.status, answered.headers["content-type"]) == (422, "application/problem+json")
    assert "recorder spool" in answered.json["detail"]
    assert await world.rows() == []


async def test_oreka_deletes_its_tape_when_the_recording_is_here_and_not_before(
    begin: Begin, wav: bytes
) -> None:
    world = await begin("oreka")
    for stage in ("start", "stop", "ready"):
        answered = await world.replay(f"oreka-{stage}")
        # orkaudio looks for "HTTP/1.x 200" at its place, and for a body.
        assert (answered.status, answered.version[:7]) == (200, "HTTP/1.")
        assert b"deletetape=false" in answered.body
    assert (await world.replay("oreka-ping")).status == 200
    async with world.services.database.snapshot() as session:
        (expected,) = list(await session.scalars(sa.select(ExpectedRecording)))
        entries = list(await session.scalars(sa.select(AuditEntry.action)))
    assert expected.outcome == "fetching"
    assert entries.count("recording.told") == 3
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:
        put = await session.put(world.url("/ingest/pbx/20260305_091500_RTAB.wav"), data=wav)
        assert put.status == 201
    assert b"deletetape=true" in (await world.replay("oreka-ready")).body
    assert b"deletetape=false" in (await world.replay("oreka-start")).body


async def test_what_follows_the_audio_is_kept_too(begin: Begin, wav: bytes) -> None:
    world = await begin("generic")
    answered = await world.replay("generic-form", wav)
    told = await world.told(answered.json["id"])
    assert told["_unparsed"]["fields_after_audio"] == [["note", "after the audio"]]
    assert told["_file_name"] == "../../etc/in-1.wav"


async def test_every_way_to_show_a_token(begin: Begin, wav: bytes) -> None:
    world = await begin("generic")
    good = world.token
    wrong = good[:-4] + ("AAAA" if not good.endswith("AAAA") else "BBBB")
    async with aiohttp.ClientSession() as session:

        async def put(path: str, **options: Any) -> aiohttp.ClientResponse:
            return await session.put(world.url(path), data=wav, **options)

        for n, options in enumerate(
            [
                {"headers": {"Authorization": f"Bearer {good}"}},
                {"headers": {"X-Conserver-API-Token": good}},
                {"headers": basic("pbx", good)},
                {"headers": basic("anybody", good)},
                {"headers": basic(good, "")},
            ]
        ):
            assert (await put(f"/ingest/pbx/{n}.wav", **options)).status == 201
        assert (await put(f"/ingest/t/{good}/url.wav")).status == 201
        for options in (
            {},
            {"headers": {"Authorization": f"Bearer {wrong}"}},
            {"headers": {"Authorization": "Basic !!!"}},
            {"headers": {"Authorization": "Digest x"}},
            {"headers": basic("pbx", wrong)},
            {"cookies": {"recorder_session": good}},
        ):
            refused = await put("/ingest/pbx/no.wav", **options)
            assert refused.status == 401, options
            challenges = refused.headers.getall("WWW-Authenticate")
            assert [c.split(" ")[0] for c in challenges] == ["Bearer", "Basic"]
        for token in (wrong, "x", "rec_" + "0" * 32 + "_" + "A" * 43, "%00", "..%2f..%2fapi"):
            assert (await put(f"/ingest/t/{token}/no.wav")).status == 401
        # Elsewhere a password opens nothing.
        api = await session.get(world.url("/api/v1/sources"), headers=basic("pbx", good))
        assert api.status == 401
        assert api.headers.getall("WWW-Authenticate") == ['Bearer realm="recorder"']
    assert len(await world.rows()) == 6


async def test_a_token_in_the_url_stands_in_no_log_and_no_metric(
    begin: Begin, wav: bytes, lines: io.StringIO
) -> None:
    world = await begin("rtpengine")
    secret, number = world.token.split("_", 2)[2], "0401234567"  # a secret may hold an underscore itself
    async with aiohttp.ClientSession() as session:
        for method, path in (
            ("PUT", f"/ingest/t/{world.token}/{number}.wav?from={number}"),
            ("PUT", f"/ingest/t/{world.token}x/{number}.wav"),
            ("GET", f"/ingest/t/{world.token}/{number}"),
            ("PATCH", f"/ingest/t/{world.token}/{number}"),
            ("PUT", f"/nowhere/{world.token}/{number}"),
        ):
            answer = await session.request(method, world.url(path), data=wav if method == "PUT" else None)
            assert secret not in await answer.text()
            assert number not in await answer.text()
        metrics = await (await session.get(world.url("/metrics"))).text()
    written = lines.getvalue()
    assert "/ingest/t/{token}" in written
    assert "/ingest/t/{token}" in metrics
    for text in (written, metrics):
        assert secret not in text
        assert number not in text


async def test_a_source_pushes_from_its_networks_alone(begin: Begin, wav: bytes) -> None:
    world = await begin("generic", allow=["10.0.0.0/8", "2001:db8::/32"])
    operator = Principal("os", "test", world.controller.id)
    url, api = world.url(f"/ingest/t/{world.token}/a.wav"), world.url("/api/v1/recordings")
    bearer = {"Authorization": f"Bearer {world.token}"}
    async with aiohttp.ClientSession() as session:
        for forwarded in ({}, {"X-Forwarded-For": "10.1.2.3"}):
            refused = await session.put(url, data=wav, headers=forwarded)
            assert (refused.status, (await refused.json())["reason"]) == (403, "address")
        assert (await session.post(api, headers=bearer)).status == 403
        change = SourceChange(settings={"allow": ["127.0.0.1"]})
        row = await sources.change_source(world.services, operator, world.source.id, change)
        assert row.settings == {"allow": ["127.0.0.1/32"]}
        assert (await session.put(url, data=wav)).status == 201
    assert len(await world.rows()) == 1


async def test_settings_are_of_the_kind(begin: Begin) -> None:
    world = await begin("rtpengine", parties={"caller": "customer"})
    operator = Principal("os", "test", world.controller.id)
    for wrong, pointer in (
        ({"allow": ["nonsense"]}, "/settings/allow/0"),
        ({"parties": {"x": "Not A Party"}}, "/settings/parties/x"),
        ({"file_names": ["{x}"]}, "/settings/file_names"),
    ):
        with pytest.raises(InvalidInput) as caught:
            await sources.change_source(
                world.services, operator, world.source.id, SourceChange(settings=wrong)
            )
        assert pointer in [field.path for field in caught.value.fields]
    cleared = await sources.change_source(
        world.services, operator, world.source.id, SourceChange(settings=None)
    )
    assert cleared.settings == {}
    with pytest.raises(InvalidInput, match=r"none of .*asterisk.*siprec") as unknown:
        await sources.create_source(
            world.services, operator, world.controller.id, NewSource(name="x", kind="carrier-pigeon")
        )
    assert unknown.value.fields[0].path == "/kind"


async def test_audio_that_calls_itself_something_else(begin: Begin, wav: bytes) -> None:
    world = await begin("generic")
    headers = {"Authorization": f"Bearer {world.token}"}
    # curl --data-binary @file, and senders that send everything as JSON
    cases = {
        "a.wav": ("application/x-www-form-urlencoded", wav),
        "b.ulaw": ("application/x-www-form-urlencoded", b"\xff\x7f\xfe" * 3000),
        "c.wav": ("application/json", wav),
        "d.wav": ("text/xml; charset=utf-8", wav),
        "e.wav": ("text/plain", wav),
    }
    async with aiohttp.ClientSession(headers=headers) as session:
        for name, (kind, body) in cases.items():
            answer = await session.post(
                world.url(f"/ingest/pbx/{name}"), data=body, headers={"Content-Type": kind}
            )
            assert answer.status == 201, (name, await answer.text())
            answered = await answer.json()
            assert answered["state"] == "stored", (name, answered)
            assert await world.read(answered["id"]) == body
        for kind, body in (
            ("application/x-www-form-urlencoded", b"from=0401234567&to=1"),
            ("application/json", b'{"event": "x"}'),
            ("application/json", b"[" * 100_000),
            ("application/xml", b"<a/>"),
        ):
            answer = await session.post(world.url("/ingest/pbx/f"), data=body, headers={"Content-Type": kind})
            assert (answer.status, answer.content_type) == (422, "application/problem+json")
        large = await session.post(
            world.url("/ingest/pbx/g"), data=b" " * 300_000, headers={"Content-Type": "application/json"}
        )
        assert large.status == 413
    assert len(await world.rows()) == len(cases)


async def test_several_recordings_in_one_body(begin: Begin, wav: bytes) -> None:
    world = await begin("generic")
    writer = aiohttp.MultipartWriter("form-data")
    for name, body in (("caller", wav), ("callee", wav + b"\0\0")):
        part = writer.append(body, {"Content-Type": "audio/wav"})
        part.set_content_disposition("form-data", name=name, filename=f"{name}.wav")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:
        url = world.url("/ingest/pbx/call-9?call=call-9&started_at=2026-03-05T09:15:00%2B02:00")
        answer = await session.post(url, data=writer)
        answered = await answer.json()
    assert answer.status == 201, answered
    (other,) = answered["others"]
    assert other["call_id"] == answered["call_id"]
    assert await world.read(answered["id"]) == wav
    assert await world.read(other["id"]) == wav + b"\0\0"


async def test_a_body_that_breaks_off_leaves_nothing(begin: Begin, wav: bytes) -> None:
    world = await begin("rtpengine")
    whole = wire("rtpengine-mix", token=world.token, audio=wav)
    head, _, body = whole.partition(b"\r\n\r\n")
    for cut in (
        body[: len(body) // 2],
        body[: body.rindex(b"--")],
        body.replace(b"d74496d66958873e--", b"d74"),
    ):
        lines = [x for x in head.split(b"\r\n") if not x.lower().startswith(b"content-length")]
        request = b"\r\n".join([*lines, b"Content-Length: %d" % len(cut)]) + b"\r\n\r\n" + cut
        answered = await send(world.port, request)
        assert (answered.status, answered.headers["content-type"]) == (400, "application/problem+json")
    assert await world.rows() == []
    assert [stat async for stat in world.services.store.list()] == []


async def test_names_that_play_tricks_are_names(begin: Begin, wav: bytes) -> None:
    tricks = ["..%2f..%2fetc%2fpasswd.wav", "a/../../b.wav", "%00.wav", "x%0d%0aX-Evil:1.wav", "%ff%fe.wav"]
    tricks.append("y" * 2000)
    world = await begin("generic")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:
        for n, path in enumerate(
            [
                "..%2f..%2fetc%2fpasswd.wav",
                "a/../../b.wav",
                "%00.wav",
                "x%0d%0aX-Evil:1.wav",
                "%ff%fe.wav",
                "y" * 2000,
            ]
        ):
            answer = await session.put(
                URL(world.url(f"/ingest/pbx/{path}"), encoded=True), data=wav + bytes(2 * n)
            )
            assert answer.status == 201, (path, await answer.text())
            assert "X-Evil" not in answer.headers
    assert len(await world.rows()) == 6


async def test_another_sources_name_opens_nothing(begin: Begin, wav: bytes) -> None:
    world = await begin("generic")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:
        for path in ("/ingest/other/x.wav", f"/ingest/{uuid.uuid4()}/x.wav"):
            answer = await session.put(world.url(path), data=wav)
            assert (answer.status, answer.content_type) == (403, "application/problem+json")
        by_id = await session.put(world.url(f"/ingest/{world.source.id}/x.wav"), data=wav)
        assert by_id.status == 201
        dry = await session.put(world.url("/ingest/pbx/dry.wav?dry_run=true"), data=wav)
        assert (dry.status, (await dry.json())["would"]) == (200, "created")
    assert len(await world.rows()) == 1


class Broken:
    """An adapter with a mistake in it."""

    kind = "generic"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        raise KeyError(envelope.path)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        del envelope, intents
        return None


async def test_a_mistake_in_an_adapter_loses_no_audio(
    begin: Begin, wav: bytes, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await begin("generic")
    monkeypatch.setattr(senders, "adapter_of", lambda _kind: Broken())
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:
        answer = await session.put(world.url("/ingest/pbx/0401234567.wav"), data=wav)
        answered = await answer.json()
        assert (answer.status, answered["state"]) == (201, "quarantined")
        assert "metadata-invalid:adapter" in answered["reasons"]
        assert await world.read(answered["id"]) == wav
        without = await session.get(world.url("/ingest/pbx/0401234567"))
        assert (without.status, without.content_type) == (500, "application/problem+json")
    assert "an adapter failed" in lines.getvalue()
    assert "0401234567" not in lines.getvalue()


@pytest.mark.parametrize("app", [0.2], indirect=True)
async def test_a_document_that_drips_is_given_up(begin: Begin) -> None:
    world = await begin("generic")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {world.token}"}) as session:

        async def drip() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                # The pace is the service's own: a byte for every answer, for ever.
                async with session.get(world.url("/healthz")) as alive:
                    assert alive.status == 200

        for kind in ("application/json", "multipart/form-data; boundary=b"):
            answer = await session.post(
                world.url("/ingest/pbx/x"), data=drip(), headers={"Content-Type": kind}
            )
            assert (answer.status, answer.content_type) == (400, "application/problem+json")
