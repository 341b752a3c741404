"""Resumable uploads by the clients that people use, over a line that breaks and a service that is killed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tusclient.client import TusClient
from tusclient.uploader.uploader import Uploader

from recorder.ingest import receipts
from tests.servers import node
from tests.system.installation import Api, Installation, call_of, client, embedded, production, tone

UPLOADS = Path(__file__).parent / "uploads"


class Line:
    """A TCP line to the service that breaks after so many bytes; the numbers are drawn from a seed."""

    def __init__(self, port: int, seed: int, *, shortest: int, longest: int, most: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._lengths = (shortest, longest)
        self._most = most
        self.breaks = 0
        self.passed = 0
        self.at = asyncio.Event()
        self.alarm: int | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        left = self._random.randint(*self._lengths) if self.breaks < self._most else 1 << 60
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        answers = asyncio.create_task(self._copy(there, writer))
        try:
            while data := await reader.read(16_384):
                left -= len(data)
                self.passed += len(data)
                if self.alarm is not None and self.passed >= self.alarm:
                    self.at.set()
                if left < 0:
                    self.breaks += 1
                    break
                back.write(data)
                await back.drain()
            if left >= 0:
                back.write_eof()
                await answers
        except (ConnectionError, asyncio.CancelledError):
            pass  # either end, or the test, is over
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            back.transport.abort() if self._random.random() < 0.5 else back.close()
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def close(self) -> None:
        """End every connection."""
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


@asynccontextmanager
async def line(
    port: int, seed: int, *, shortest: int = 20_000, longest: int = 600_000, most: int = 12
) -> AsyncIterator[tuple[Line, str]]:
    made = Line(port, seed, shortest=shortest, longest=longest, most=most)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()[1]
        try:
            yield made, f"http://127.0.0.1:{address}/uploads"
        finally:
            await made.close()


@pytest.fixture(scope="module")
def audio() -> bytes:
    sound = tone(5)
    return sound + random.Random(7).randbytes(3_000_000)  # after the header: noise


@pytest.fixture(scope="session")
def tus_js(request: pytest.FixtureRequest) -> Path:
    assert request.config.cache is not None
    return node.installed(UPLOADS, request.config.cache.mkdir("node"))


async def proved(api: Api, receipt: str, audio: bytes) -> str:
    """A receipt that verifies, of a recording that plays back byte for byte; its id."""
    jwks = (await api.get("/api/v1/keys")).json
    found = {key["kid"]: key for key in jwks["keys"]}
    payload = receipts.verify_receipt(receipt, {kid: receipts_key(key) for kid, key in found.items()})
    assert payload["sha256"] == hashlib.sha256(audio).hexdigest()
    played = await api.audio(payload["id"], "legal", "legal_protection", rendition="original")
    assert played.status == 200, played.body[:300]
    assert played.body == audio
    return str(payload["id"])


def receipts_key(jwk: dict[str, Any]) -> Any:
    raw = base64.urlsafe_b64decode(jwk["x"] + "=" * (-len(jwk["x"]) % 4))
    return Ed25519PublicKey.from_public_bytes(raw)


def tuspy(endpoint: str, token: str, audio: bytes, metadata: dict[str, str], **options: Any) -> str:
    """Upload with tuspy; the receipt."""
    tus = TusClient(endpoint, headers={"Authorization": f"Bearer {token}"})
    given = {"retries": 200, "retry_delay": 0.05, **options}
    uploader: Uploader = tus.uploader(file_stream=io.BytesIO(audio), metadata=metadata, **given)
    uploader.upload()
    return receipt_of(uploader) or ""


def receipt_of(uploader: Uploader) -> str | None:
    """The receipt in the last answer, if it had one."""
    last: Any = uploader.request
    found = last.response_headers.get("upload-receipt")
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (1, {}),
        (2, {"chunk_size": 400_000}),
        (3, {"chunk_size": 300_000, "upload_checksum": True}),
    ],
    ids=["whole", "chunks", "checksums"],
)
async def test_tuspy_over_a_line_that_breaks(
    service: Installation, api: Api, audio: bytes, seed: int, options: dict[str, Any]
) -> None:
    name = f"tuspy-{service.name}-{seed}"
    async with line(service.port, seed) as (broken, endpoint):
        receipt = await asyncio.to_thread(
            tuspy,
            endpoint,
            service.tokens["telephony"],
            audio,
            {"filename": f"{name}.wav", "filetype": "audio/wav", "started_at": call_of("x")["started_at"]},
            **options,
        )
        assert broken.breaks > 2
    await proved(api, receipt, audio)


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (11, {}),
        (12, {"chunkSize": 500_000, "uploadDataDuringCreation": True}),
        (13, {"chunkSize": 500_000, "uploadLengthDeferred": True}),
        (14, {"parallelUploads": 3, "overridePatchMethod": True}),
    ],
    ids=["whole", "chunks", "deferred", "parallel"],
)
async def test_tus_js_client_over_a_line_that_breaks(
    service: Installation,
    api: Api,
    audio: bytes,
    tus_js: Path,
    tmp_path: Path,
    seed: int,
    options: dict[str, Any],
) -> None:
    name = f"js-{service.name}-{seed}"
    file = tmp_path / "call.wav"
    file.write_bytes(audio)
    metadata = {"metadata": json.dumps(call_of(name)), "filename": "call.wav"}
    given = {
        **options,
        "metadata": metadata,
        "headers": {"Authorization": f"Bearer {service.tokens['telephony']}"},
    }
    async with line(service.port, seed) as (broken, endpoint):
        arguments = [
            *node.command("node"),
            str(UPLOADS / "upload.mjs"),
            endpoint,
            str(file),
            json.dumps(given),
        ]
        said = json.loads(await asyncio.to_thread(node.run, arguments, tus_js))
        assert broken.breaks > 0
    await proved(api, said["receipt"], audio)


@pytest.mark.parametrize(
    "kind", ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]
)
async def test_uploads_go_on_after_the_service_is_killed(
    own_installation: Callable[..., Installation],
    audio: bytes,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    if kind == "embedded":
        installation = own_installation(embedded)
    else:
        servers = (request.getfixturevalue("s3_server"), request.getfixturevalue("postgres"))
        installation = own_installation(production, *servers)
    installation.start()
    draw = random.Random(21)
    async with (
        client(installation) as api,
        line(installation.port, 21, most=0) as (passing, endpoint),
    ):
        passing.alarm = draw.randint(100_000, 900_000)
        pushing = asyncio.create_task(
            asyncio.to_thread(
                tuspy,
                endpoint,
                installation.tokens["telephony"],
                audio,
                {"external_id": "killed"},
                chunk_size=100_000,
                retry_delay=0.3,
            )
        )
        for _ in range(3):
            await passing.at.wait()
            await asyncio.to_thread(installation.kill)
            await asyncio.to_thread(installation.start)
            passing.at.clear()
            passing.alarm = passing.passed + draw.randint(100_000, 700_000)
        receipt = await pushing
        recording = await proved(api, receipt, audio)
        listed = await api.get("/api/v1/recordings", "legal")
        assert [item["id"] for item in listed.json["items"]] == [recording]
    installation.stop()
    done = await installation.run("audit", "verify")
    assert done.returncode == 0, done.stderr
