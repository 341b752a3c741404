"""The push client against a real HTTP server that behaves as services behave on bad days."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import BodyPartReader, web

from recorder.errors import (
    ConfigurationError,
    Conflict,
    Corrupt,
    Erased,
    Forbidden,
    InvalidInput,
    RecorderError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from recorder.ingest.receipts import Receipt, jwk, sign_receipt
from recorder.push import Pusher, Retry, retry_after
from storage.keyrings.memory import MemoryKeyring

AUDIO = b"RIFF" + bytes(range(256)) * 4096
Answer = Callable[["Service"], web.Response | None]


@dataclass
class Service:
    """What a recorder does with a push, down to the receipt; its bad days come from ``answers``."""

    keyring: MemoryKeyring = field(default_factory=MemoryKeyring)
    answers: list[Answer] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    forge: Callable[[dict[str, Any], Receipt], None] = lambda body, receipt: None
    port: int = 0

    async def post(self, request: web.Request) -> web.StreamResponse:
        if self.answers and (early := self.answers.pop(0)(self)) is not None:
            return early
        reader = await request.multipart()
        metadata = await reader.next()
        assert isinstance(metadata, BodyPartReader)
        assert metadata.name == "metadata"
        document = await metadata.json()
        assert isinstance(document, dict)
        audio = await reader.next()
        assert isinstance(audio, BodyPartReader)
        assert audio.name == "audio"
        body = bytes(await audio.read())
        return self.accept(request, document, body, audio.headers["Content-Digest"])

    async def put(self, request: web.Request) -> web.StreamResponse:
        if self.answers and (early := self.answers.pop(0)(self)) is not None:
            return early
        document = json.loads(request.query["metadata"]) | {"external_id": request.match_info["name"]}
        return self.accept(request, document, await request.read(), request.headers["Content-Digest"])

    def accept(
        self, request: web.Request, document: dict[str, Any], body: bytes, digest: str
    ) -> web.Response:
        sha256 = hashlib.sha256(body).digest()
        assert digest == f"sha-256=:{base64.b64encode(sha256).decode()}:"
        self.seen.append(
            {
                "metadata": document,
                "size": len(body),
                "token": request.headers["Authorization"],
                "key": request.headers["Idempotency-Key"],
                "dry": request.query.get("dry_run"),
            }
        )
        receipt = Receipt(uuid.uuid4(), sha256, len(body), datetime(2026, 3, 5, tzinfo=UTC))
        answer: dict[str, Any] = {
            "id": str(receipt.id),
            "state": "stored",
            "receipt": sign_receipt(self.keyring, receipt),
        }
        if request.query.get("dry_run"):
            answer = {"id": None, "state": "stored", "receipt": None, "would": "created"}
        self.forge(answer, receipt)
        return web.json_response(answer, status=201)

    async def keys(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [jwk(self.keyring.public_keys()["receipts"])]})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/api/v1/recordings", self.post)
        app.router.add_put("/ingest/{source}/{name}", self.put)
        app.router.add_get("/api/v1/keys", self.keys)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def problem(status: int, kind: str = "x", headers: dict[str, str] | None = None, **more: Any) -> Answer:
    body = {"type": f"urn:tallenne:problem:{kind}", "status": status, "detail": "what was wrong", **more}

    def answer(_service: Service) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return answer


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "call-7.wav"
    path.write_bytes(AUDIO)
    return path


@dataclass
class Waits:
    """Remembers how long it was asked to wait, and does not."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def pusher(url: str, waits: Waits, **options: Any) -> Pusher:
    return Pusher(url, "rec_token", sleep=waits, chance=lambda: 0.0, **options)


async def test_a_push_is_proved_by_its_receipt(audio: Path) -> None:
    service, waits, moved = Service(), Waits(), list[int]()
    async with service.running() as url, pusher(url, waits) as client:
        done = await client.push(audio, {"queue": "orders"}, progress=moved.append)
    assert (done.state, done.repeat, done.attempts) == ("stored", False, 1)
    assert (done.sha256, done.size) == (hashlib.sha256(AUDIO).hexdigest(), len(AUDIO))
    (seen,) = service.seen
    assert seen["metadata"]["external_id"] == "call-7"
    assert seen["metadata"]["queue"] == "orders"
    assert datetime.fromisoformat(seen["metadata"]["started_at"]).tzinfo is not None
    assert seen["token"] == "Bearer rec_token"
    assert moved[-1] == len(AUDIO)
    assert moved == sorted(moved)


async def test_by_source_the_file_goes_out_raw(audio: Path) -> None:
    service, waits = Service(), Waits()
    async with service.running() as url, pusher(url, waits, source="pbx") as client:
        await client.push(audio, {"external_id": "a/b ä", "queue": "orders"})
    assert service.seen[0]["metadata"]["external_id"] == "a/b ä.wav"
    assert service.seen[0]["size"] == len(AUDIO)


async def test_a_dry_run_asks_for_no_receipt(audio: Path) -> None:
    service, waits = Service(), Waits()
    async with service.running() as url, pusher(url, waits, dry_run=True) as client:
        done = await client.push(audio, {})
    assert (done.state, done.recording_id, service.seen[0]["dry"]) == ("checked", None, "true")


@pytest.mark.parametrize(("would", "error"), [("conflict", Conflict), ("erased", Erased)])
async def test_a_dry_run_fails_where_the_push_would(
    audio: Path, would: str, error: type[RecorderError]
) -> None:
    service, waits = Service(forge=lambda answer, _: answer.update(would=would)), Waits()
    async with service.running() as url, pusher(url, waits, dry_run=True) as client:
        with pytest.raises(error, match="the push would be"):
            await client.push(audio, {})


async def test_it_comes_back_after_trouble_with_one_key_for_the_delivery(audio: Path) -> None:
    service, waits = Service(), Waits()
    service.answers = [problem(503, headers={"Retry-After": "7"}), problem(429), problem(409, "in-flight")]
    async with service.running() as url, pusher(url, waits) as client:
        done = await client.push(audio, {})
    assert done.attempts == 4
    # Retry-After where it is given; else half a second, doubled each time, at least half of it.
    assert waits.seconds == [7.0, 0.5, 1.0]


async def test_a_service_that_is_away_is_tried_again_and_then_given_up(
    audio: Path, free_port: Callable[[], int]
) -> None:
    waits = Waits()
    async with pusher(f"http://127.0.0.1:{free_port()}", waits, retry=Retry(attempts=3)) as client:
        with pytest.raises(Unavailable, match="no answer from"):
            await client.push(audio, {})
    assert waits.seconds == [0.25, 0.5]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInput),
        (401, Unauthenticated),
        (403, Forbidden),
        (409, Conflict),
        (410, Erased),
        (413, TooLarge),
        (422, InvalidInput),
    ],
)
async def test_a_refusal_is_final(audio: Path, status: int, error: type[RecorderError]) -> None:
    service, waits = Service(), Waits()
    service.answers = [problem(status, errors=[{"pointer": "/queue", "detail": "too long"}])]
    async with service.running() as url, pusher(url, waits) as client:
        with pytest.raises(error, match="what was wrong; /queue: too long"):
            await client.push(audio, {})
    assert waits.seconds == []
    assert service.seen == []


def other_bytes(answer: dict[str, Any], receipt: Receipt) -> None:
    answer["receipt"] = sign_receipt(
        FORGER, Receipt(receipt.id, bytes(32), receipt.size, receipt.received_at)
    )


def other_size(answer: dict[str, Any], receipt: Receipt) -> None:
    answer["receipt"] = sign_receipt(FORGER, Receipt(receipt.id, receipt.sha256, 1, receipt.received_at))


def other_recording(answer: dict[str, Any], receipt: Receipt) -> None:
    answer["id"] = str(uuid.uuid4())


def no_receipt(answer: dict[str, Any], receipt: Receipt) -> None:
    del answer["receipt"]


def altered(answer: dict[str, Any], receipt: Receipt) -> None:
    head, body, signature = answer["receipt"].split(".")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    answer["receipt"] = f"{head}.{body}.{flipped}"


def unknown_key(answer: dict[str, Any], receipt: Receipt) -> None:
    answer["receipt"] = sign_receipt(MemoryKeyring(), receipt)


FORGER = MemoryKeyring()


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (other_bytes, "other bytes"),
        (other_size, "other bytes"),
        (other_recording, "another recording"),
        (no_receipt, "no receipt"),
        (altered, "does not verify"),
        (unknown_key, "does not verify"),
    ],
)
async def test_a_false_receipt_is_no_receipt(
    audio: Path, forge: Callable[[dict[str, Any], Receipt], None], why: str
) -> None:
    # The forger holds the service's real key: it is the claims that are false.
    service, waits = Service(keyring=FORGER, forge=forge), Waits()
    async with service.running() as url, pusher(url, waits) as client:
        with pytest.raises(Corrupt, match=why):
            await client.push(audio, {})


@pytest.mark.parametrize("address", ["", "ftp://host", "127.0.0.1:8080", "http://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="http"):
        Pusher(address, "t")


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 3, 5, 12, 0, tzinfo=UTC)
    later = format_datetime(datetime(2026, 3, 5, 12, 0, 9, tzinfo=UTC), usegmt=True)
    assert retry_after({"Retry-After": "12"}, now) == 12.0
    assert retry_after({"Retry-After": later}, now) == 9.0
    assert retry_after({"Retry-After": "soon"}, now) is None
    assert retry_after({}, now) is None


def test_the_wait_is_spread_and_bounded() -> None:
    retry = Retry(base=1.0, longest=30.0)
    assert retry.delay(1, None, 0.0) == 0.5
    assert retry.delay(1, None, 0.5) == 0.75
    assert retry.delay(4, None, 0.0) == 4.0
    assert retry.delay(2, 10.0, 0.0) == 10.0
    assert retry.delay(2, 3600.0, 0.0) == 30.0
    assert retry.delay(20, None, 0.9) == 30.0
