"""Fetching from a real server on the loopback: late, broken, redirected, encrypted, and never kept half."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from recorder.access.principals import Principal
from recorder.catalogue.enums import DataSource, RecordingState
from recorder.catalogue.sealed_fields import FETCH_ORDER
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import (
    AuditEntry,
    ExpectedRecording,
    Fetch,
    FetchState,
    Job,
    Recording,
    Source,
    Subject,
)
from recorder.clock import ManualClock
from recorder.customers.records import CustomerUpsert, upsert
from recorder.disposition import erasures
from recorder.errors import Erased
from recorder.ingest.adapters.base import Later
from recorder.ingest.digests import DigestCheck
from recorder.ingest.fetching import FETCH_JOB, Fetcher, later, principal_of, tend
from recorder.ingest.orders import order_document, order_intent
from recorder.ingest.secrets import set_secret
from recorder.ingest.unwrapping import decrypted
from recorder.jobs.worker import Limits, Worker
from recorder.outgoing.client import Downloader, FetchFailed
from recorder.services import Services
from recorder.settings import Settings
from tests.recorder.ingest.conftest import encode, request, tone

OPERATOR = Principal("os", "installer", None)
WAV = encode(tone())
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sender:
    """A telephony provider's download server."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[web.Request] = []
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._answer)
        self.server = TestServer(app)

    async def _answer(self, asked: web.Request) -> web.StreamResponse:
        self.seen.append(asked)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(asked)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def url(self, path: str = "/RE1.wav") -> str:
        return f"http://{self.host}{path}"


def status(code: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


def audio(data: bytes = WAV, content_type: str = "audio/x-wav") -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=data, content_type=content_type)

    return answer


async def cut(asked: web.Request) -> web.StreamResponse:
    """The announced length, half of the bytes, and a closed connection."""
    response = web.StreamResponse(headers={"Content-Length": str(len(WAV))})
    await response.prepare(asked)
    await response.write(WAV[: len(WAV) // 2])
    assert asked.transport is not None
    asked.transport.close()
    return response


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender()
    await sender.server.start_server()
    yield sender
    await sender.server.close()


@pytest.fixture
def here(services: Services, sender: Sender) -> Services:
    """The service, which may fetch from the loopback server."""
    settings = Settings(data_dir=services.settings.data_dir, fetch_private_hosts=(sender.host,))
    return replace(services, settings=settings)


@pytest.fixture
async def open_source(services: Services, source: Source, sender: Sender) -> Source:
    """The source, whose settings allow the server."""
    async with services.database.transaction() as session:
        row = await session.get_one(Source, source.id)
        row.settings = {"fetch_hosts": [sender.host]}
    return row


async def order(services: Services, source: Source, url: str, **options: Any) -> Any:
    intent = Later(options.pop("request", request(strict=False, extension="wav")), url=url, **options)
    return await later(services, principal_of(source), intent, request_id="r1", source=source.name)


async def work(services: Services) -> int:
    fetcher = Worker(services, {FETCH_JOB: Fetcher(services).run}, limits=Limits(concurrency=2))
    done = await fetcher.drain()
    await services.uploads.drain()
    return done


async def state_of(services: Services) -> tuple[Fetch, list[Recording], list[ExpectedRecording]]:
    async with services.database.snapshot() as session:
        [fetch] = (await session.scalars(sa.select(Fetch))).all()
        recordings = (await session.scalars(sa.select(Recording))).all()
        expected = (await session.scalars(sa.select(ExpectedRecording))).all()
    return fetch, list(recordings), list(expected)


async def objects(services: Services) -> int:
    return len([one async for one in services.store.list()])


async def test_audio_that_is_not_ready_is_fetched_when_it_is(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [status(404), status(425), status(503), audio()]
    await order(here, open_source, sender.url(), headers={"X-Token": "t"})
    fetch, _, expected = await state_of(here)
    assert (fetch.state, [row.outcome for row in expected]) == (FetchState.WAITING, ["fetching"])

    for attempt, error in enumerate(["status-404", "status-425", "status-503"], 1):
        assert await work(here) == 1
        fetch, recordings, _ = await state_of(here)
        assert (fetch.attempts, fetch.error, recordings) == (attempt, error, [])
        assert await work(here) == 0, "not before its pause is over"
        clock.set(fetch.due_at)
    assert await work(here) == 1

    fetch, [recording], [row] = await state_of(here)
    assert (fetch.state, fetch.sealed, fetch.recording_id) == (FetchState.DONE, None, recording.id)
    assert (recording.state, recording.sha256) == (RecordingState.STORED, hashlib.sha256(WAV).digest())
    assert row.outcome == "received"
    assert sender.seen[0].headers["X-Token"] == "t"
    assert here.metrics.registry.get_sample_value("recorder_fetches_total", {"outcome": "done"}) == 1


async def key_of(services: Services, fetch: Fetch) -> Subject:
    async with services.database.snapshot() as session:
        return await session.get_one(Subject, fetch.id)


async def test_what_an_order_is_about_ends_with_its_own_key(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    """Under a key that lived on, an old backup would go on telling who was called."""
    sender.answers = [status(404)]
    await order(here, open_source, sender.url())
    fetch, _, _ = await state_of(here)
    assert fetch.sealed is not None
    first = await key_of(here, fetch)
    assert open_json(here.keyring, first, FETCH_ORDER, fetch.id, fetch.sealed)["url"] == sender.url()
    clock.advance(timedelta(days=4))
    await work(here)
    fetch, _, _ = await state_of(here)
    gone = await key_of(here, fetch)
    assert (fetch.state, gone.wrapped_key) == (FetchState.FAILED, None)
    assert gone.destroyed_at == clock.now()

    await order(here, open_source, sender.url())
    second = await key_of(here, fetch)
    assert second.destroyed_at is None
    assert second.wrapped_key not in (None, first.wrapped_key)
    clock.advance(timedelta(days=4))
    await work(here)
    clock.advance(timedelta(days=31))
    await tend(here)
    async with here.database.snapshot() as session:
        assert await session.get(Subject, fetch.id) is None


async def test_erasing_a_customer_ends_orders_for_their_calls(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    person = await upsert(
        here,
        open_source.controller_id,
        CustomerUpsert(number="1001", source=DataSource.REGISTRATION),
        actor="system:test",
        request_id="r",
    )
    sender.answers = [audio()]
    for name, number in (("t", "1001"), ("o", "2002")):
        asked = request(external_id=name, strict=False, extension="wav", customer={"number": number})
        await order(here, open_source, sender.url(f"/{name}"), request=asked)
    done = await erasures.erase_customer(here, person.id, requested_by="os:test", now=clock.now())
    assert done is not None
    async with here.database.snapshot() as session:
        states = {row.error: row for row in await session.scalars(sa.select(Fetch))}
    assert (states["erased"].state, states["erased"].sealed) == (FetchState.DONE, None)
    assert (await key_of(here, states["erased"])).wrapped_key is None
    await work(here)
    assert [each.path for each in sender.seen] == ["/o"]
    async with here.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Recording)) == 1


async def test_ordering_twice_fetches_once(here: Services, open_source: Source, sender: Sender) -> None:
    sender.answers = [audio()]
    first = await order(here, open_source, sender.url("/old"))
    assert await order(here, open_source, sender.url("/new")) == first
    await work(here)
    assert [asked.path for asked in sender.seen] == ["/new"], "the newer address, once"
    assert await order(here, open_source, sender.url("/again")) == first
    await work(here)
    assert len(sender.seen) == 1
    _, recordings, expected = await state_of(here)
    assert (len(recordings), [row.outcome for row in expected]) == (1, ["received"])


async def test_what_waits_is_sealed(here: Services, open_source: Source, sender: Sender) -> None:
    asked = request(strict=False, caller="+358401234567", reasons=("x",))
    await order(here, open_source, sender.url("/secret-path"), headers={"X": "token-9"}, request=asked)
    async with here.database.snapshot() as session:
        fetch = (await session.scalars(sa.select(Fetch))).one()
        entries = (await session.scalars(sa.select(AuditEntry.payload))).all()
        jobs = (await session.scalars(sa.select(Job))).all()
    everything = b"".join([fetch.sealed or b"", *entries, *(str(job.payload).encode() for job in jobs)])
    for hidden in (b"secret-path", b"token-9", b"358401234567"):
        assert hidden not in everything


async def test_an_order_comes_back_as_it_was(source: Source) -> None:
    del source
    check = DigestCheck.expecting([("content_hash", "sha-512", bytes(64))])
    intent = Later(
        request(strict=False, caller="+1", digests=check, unparsed={"a": [1]}, file_name="x.wav"),
        url="https://h/x",
        headers={"A": "b"},
        credential="basic",
        encryption={"key": "k"},
    )
    again = order_intent(order_document(intent))
    assert again.request.digests.announced == check.announced
    assert order_document(again) == order_document(intent)


async def test_hosts_that_are_not_allowed_are_not_asked(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [status(302, Location="http://localhost:1/x"), audio()]
    await order(here, open_source, sender.url())
    await work(here)
    assert (await state_of(here))[0].error == "forbidden-host"

    async with here.database.transaction() as session:  # the operator mends it, and it goes on by itself
        (await session.get_one(Source, open_source.id)).settings = {"fetch_hosts": ["other.example"]}
    clock.advance(timedelta(minutes=1))
    await work(here)
    assert (await state_of(here))[0].error == "forbidden-host"
    assert len(sender.seen) == 1


@pytest.mark.parametrize(
    ("url", "hosts", "private", "code"),
    [
        ("http://{host}/x", ["{host}"], False, "not-https"),
        ("https://{host}/x", ["{host}"], False, "private-address"),
        ("https://localhost/x", ["localhost"], False, "private-address"),
        ("https://[::1]/x", ["::1"], False, "private-address"),
        ("https://[::ffff:127.0.0.1]/x", ["::ffff:7f00:1"], False, "private-address"),
        ("https://169.254.169.254/x", ["169.254.169.254"], False, "private-address"),
        ("https://0x7f000001/x", ["*.twilio.com"], False, "forbidden-host"),
        ("https://twilio.com.evil.example/x", ["*.twilio.com", "twilio.com"], False, "forbidden-host"),
        ("https://eviltwilio.com/x", ["*.twilio.com"], False, "forbidden-host"),
        ("https://api.twilio.com:8443/x", ["*.twilio.com", "api.twilio.com"], False, "forbidden-host"),
        ("https://user:pw@api.twilio.com/x", ["api.twilio.com"], False, "bad-address"),
        ("file:///etc/passwd", ["", "etc"], True, "bad-address"),
        ("//x", ["x"], True, "bad-address"),
        ("https://[bad/x", ["bad"], True, "bad-address"),
        ("", [""], True, "bad-address"),
    ],
)
async def test_addresses_are_checked(
    sender: Sender, url: str, hosts: list[str], private: bool, code: str
) -> None:
    downloader = Downloader(private_hosts=[sender.host] if private else [])
    asked = url.replace("{host}", sender.host)
    with pytest.raises(FetchFailed) as caught:
        async with downloader.open(
            asked, hosts=[h.replace("{host}", sender.host) for h in hosts], headers={}
        ):
            raise AssertionError("it was opened")
    assert caught.value.code == code
    assert sender.seen == []


async def test_a_private_host_is_private_on_its_own_port_only(sender: Sender) -> None:
    """Another service of that machine is none of a source's business."""
    port = int(sender.host.rpartition(":")[2])
    downloader = Downloader(private_hosts=[f"127.0.0.1:{port + 1}"])
    with pytest.raises(FetchFailed) as caught:
        async with downloader.open(f"https://{sender.host}/x", hosts=[sender.host], headers={}):
            raise AssertionError("it was opened")
    assert caught.value.code == "private-address"


async def test_credentials_stay_with_their_origin(
    here: Services, open_source: Source, sender: Sender
) -> None:
    other = Sender()
    other.answers = [audio()]
    await other.server.start_server()
    sender.answers = [status(307, Location="/same"), status(307, Location=other.url("/media"))]
    settings = here.settings.model_copy(update={"fetch_private_hosts": (sender.host, other.host)})
    open_source.settings = {"fetch_hosts": [sender.host, other.host]}
    async with here.database.transaction() as session:
        (await session.get_one(Source, open_source.id)).settings = open_source.settings
    await set_secret(here, OPERATOR, open_source.id, "basic", "SK1:s3cret")
    await order(here, open_source, sender.url(), credential="basic")
    await work(replace(here, settings=settings))
    await other.server.close()

    expected = "Basic " + base64.b64encode(b"SK1:s3cret").decode()
    assert [asked.headers.get("Authorization") for asked in sender.seen] == [expected, expected]
    assert [asked.headers.get("Authorization") for asked in other.seen] == [None]
    assert (await state_of(here))[0].state is FetchState.DONE


async def test_a_redirect_that_never_ends(here: Services, open_source: Source, sender: Sender) -> None:
    sender.answers = [status(302, Location="/round")]
    await order(here, open_source, sender.url())
    await work(here)
    assert (await state_of(here))[0].error == "redirects"


async def test_a_download_that_breaks_off_leaves_nothing(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [cut, audio()]
    await order(here, open_source, sender.url())
    await work(here)
    fetch, recordings, _ = await state_of(here)
    assert (fetch.error, recordings, await objects(here)) == ("broken-off", [], 0)

    clock.set(fetch.due_at)
    await work(here)
    fetch, [recording], _ = await state_of(here)
    assert (fetch.state, recording.sha256) == (FetchState.DONE, hashlib.sha256(WAV).digest())


class Stalling:
    """The announced length, half of the bytes, and then nothing for as long as anybody waits."""

    def __init__(self) -> None:
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    async def __call__(self, asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(WAV))})
        await response.prepare(asked)
        await response.write(WAV[: len(WAV) // 2])
        self.begun.set()
        await self.over.wait()
        return response


async def test_a_download_that_stalls_is_given_up(
    here: Services, open_source: Source, sender: Sender
) -> None:
    stalling = Stalling()
    sender.answers = [stalling]
    settings = here.settings.model_copy(update={"upload_idle_seconds": 0.2})
    await order(here, open_source, sender.url())
    await work(replace(here, settings=settings))
    stalling.over.set()
    fetch, recordings, _ = await state_of(here)
    assert (fetch.error, recordings, await objects(here)) == ("timeout", [], 0)


async def test_a_worker_that_stops_leaves_nothing_half_done(
    here: Services, open_source: Source, sender: Sender
) -> None:
    stalling = Stalling()
    sender.answers = [stalling, audio()]
    await order(here, open_source, sender.url())
    running = asyncio.create_task(Worker(here, {FETCH_JOB: Fetcher(here).run}).run())
    async with asyncio.timeout(20):
        await stalling.begun.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await here.uploads.drain()
    stalling.over.set()
    fetch, recordings, _ = await state_of(here)
    assert (fetch.state, fetch.attempts, recordings, await objects(here)) == (FetchState.WAITING, 0, [], 0)
    assert await work(here) == 1, "the next worker takes it up at once"
    assert (await state_of(here))[0].state is FetchState.DONE


def wrapped(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """A recording as Twilio encrypts it: private key, envelope, ciphertext with its tag."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    key, nonce = os.urandom(32), os.urandom(12)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    cek = private.public_key().encrypt(key, oaep)
    envelope = {
        "key": "CR1",
        "cek": base64.b64encode(cek).decode(),
        "iv": base64.b64encode(nonce).decode(),
    }
    return pem, envelope, AESGCM(key).encrypt(nonce, data, None)


async def test_encrypted_audio_is_unwrapped(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    pem, envelope, sealed = wrapped(WAV)
    sender.answers = [audio(sealed, "application/octet-stream")]
    await order(here, open_source, sender.url(), encryption=envelope)
    await work(here)
    fetch, recordings, _ = await state_of(here)
    assert (fetch.error, recordings, sender.seen) == ("no-key", [], []), "no key, so nothing was asked for"

    await set_secret(here, OPERATOR, open_source.id, "key:CR1", pem)
    clock.set(fetch.due_at)
    await work(here)
    _, [recording], _ = await state_of(here)
    assert (recording.sha256, recording.state) == (hashlib.sha256(WAV).digest(), RecordingState.STORED)


async def test_a_wrong_tag_keeps_nothing(here: Services, open_source: Source, sender: Sender) -> None:
    pem, envelope, sealed = wrapped(WAV)
    sender.answers = [audio(sealed[:100] + bytes([sealed[100] ^ 1]) + sealed[101:])]
    await set_secret(here, OPERATOR, open_source.id, "key:CR1", pem)
    await order(here, open_source, sender.url(), encryption=envelope)
    await work(here)
    fetch, recordings, _ = await state_of(here)
    assert (fetch.error, recordings, await objects(here)) == ("wrong-tag", [], 0)


async def test_another_key_is_told(here: Services, open_source: Source, sender: Sender) -> None:
    _, envelope, sealed = wrapped(WAV)
    other, _, _ = wrapped(b"")
    sender.answers = [audio(sealed)]
    await set_secret(here, OPERATOR, open_source.id, "key:CR1", other)
    await order(here, open_source, sender.url(), encryption=envelope)
    await work(here)
    assert (await state_of(here))[0].error == "bad-key"


async def test_it_is_given_up_after_the_horizon(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [status(404)]
    await order(here, open_source, sender.url())
    tries = 0
    while (fetch := (await state_of(here))[0]).state is FetchState.WAITING:
        clock.set(max(fetch.due_at, clock.now()))
        tries += await work(here)
    _, recordings, [expected] = await state_of(here)
    assert (fetch.state, fetch.sealed, fetch.error, recordings) == (FetchState.FAILED, None, "status-404", [])
    assert (expected.outcome, expected.code) == ("failed", "status-404")
    assert 70 < tries < 90, "three days, an hour apart at most"
    assert clock.now() <= fetch.created_at + timedelta(hours=72)

    sender.answers = [audio()]  # the sender tells of it again
    await order(here, open_source, sender.url())
    await work(here)
    fetch, [_], [expected] = await state_of(here)
    assert (fetch.state, expected.outcome) == (FetchState.DONE, "received")


async def test_other_bytes_than_announced_are_kept_aside(
    here: Services, open_source: Source, sender: Sender
) -> None:
    sender.answers = [audio()]
    check = DigestCheck.expecting([("content_hash", "sha-512", bytes(64))])
    asked = request(strict=False, extension="wav", digests=check)
    await order(here, open_source, sender.url(), request=asked)
    await work(here)
    fetch, [recording], _ = await state_of(here)
    assert fetch.state is FetchState.DONE
    assert (recording.state, recording.reasons) == (RecordingState.QUARANTINED, ["digest-mismatch"])


async def test_a_source_that_is_off_or_whose_limit_is_passed_waits(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [audio()]
    await order(here, open_source, sender.url())
    for change, error in (
        ({"enabled": False}, "forbidden"),
        ({"enabled": True, "max_bytes": 100}, "toolarge"),
    ):
        async with here.database.transaction() as session:
            row = await session.get_one(Source, open_source.id)
            for name, value in change.items():
                setattr(row, name, value)
        await work(here)
        fetch, recordings, _ = await state_of(here)
        assert (fetch.error, recordings, await objects(here)) == (error, [], 0)
        clock.set(fetch.due_at)


async def test_an_order_that_lost_its_job_gets_another(
    here: Services, open_source: Source, sender: Sender, clock: ManualClock
) -> None:
    sender.answers = [audio()]
    await order(here, open_source, sender.url())
    async with here.database.transaction() as session:
        await session.execute(sa.delete(Job))
    assert await work(here) == 0
    clock.advance(timedelta(hours=1))
    await tend(here)
    await tend(here)
    assert here.metrics.registry.get_sample_value("recorder_fetches_waiting") == 1
    assert await work(here) == 1
    assert (await state_of(here))[0].state is FetchState.DONE
    clock.advance(timedelta(days=31))
    await tend(here)
    async with here.database.snapshot() as session:
        assert (await session.scalars(sa.select(Fetch))).all() == []


async def test_what_was_erased_is_not_ordered(here: Services, open_source: Source, sender: Sender) -> None:
    sender.answers = [audio()]
    await order(here, open_source, sender.url())
    await work(here)
    async with here.database.transaction() as session:
        await session.execute(sa.update(Recording).values(state=RecordingState.ERASED))
    with pytest.raises(Erased):
        await order(here, open_source, sender.url())


@given(st.binary(max_size=400), st.lists(st.integers(1, 64), min_size=1, max_size=20), st.integers(0, 3000))
def test_decryption_survives_any_cut_and_no_change(data: bytes, cuts: list[int], flip: int) -> None:
    key, nonce = bytes(range(32)), bytes(12)
    sealed = AESGCM(key).encrypt(nonce, data, None)

    async def pieces(whole: bytes) -> AsyncIterator[bytes]:
        at = turn = 0
        while at < len(whole):
            step = cuts[turn % len(cuts)]
            yield whole[at : at + step]
            at, turn = at + step, turn + 1

    async def read(whole: bytes) -> bytes:
        return b"".join([piece async for piece in decrypted(pieces(whole), key, nonce)])

    assert asyncio.run(read(sealed)) == data
    bit = flip % (8 * len(sealed))
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FetchFailed):
        asyncio.run(read(bytes(changed)))
    with pytest.raises(FetchFailed):
        asyncio.run(read(sealed[:-1]))
