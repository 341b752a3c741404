"""Whatever anybody sends: an answer that says what was wrong, or the quarantine; no 500, little memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recorder.simulate.senders import SENDERS
from tests.servers import processes
from tests.system.installation import Api, Installation, client, embedded, in_own_loop, tone
from tests.system.test_simulate import source_of

pytestmark = pytest.mark.slow
AUDIO = tone(1.0)
KINDS = tuple(sorted(kind for kind in SENDERS if kind != "tus"))
IDLE = 2.0
GIB = 1 << 30
MOST_GROWTH = 220  # MiB, of a process that has just started; a bomb of these tests holds 1 GiB


@dataclass(frozen=True)
class Heard:
    """A raw answer; status 0 where the connection ended without one."""

    status: int
    head: str
    body: bytes


@pytest.fixture(scope="module")
def running() -> Iterator[Installation]:
    made = embedded(
        processes.work_folder("hostile"),
        RECORDER_UPLOAD_IDLE_SECONDS=str(IDLE),
        RECORDER_FETCH_PRIVATE_HOSTS='["127.0.0.1"]',
    )
    made.install()
    for kind in KINDS:
        made.tokens[kind] = in_own_loop(source_of(made, kind, 9))
    made.start()
    yield made
    made.stop()
    processes.remove_folder(made.folder)


@pytest.fixture
async def api(running: Installation) -> AsyncIterator[Api]:
    """A client; after each test the service is well, has not grown, and wrote of no failure of its own."""
    before = resident(running)
    async with client(running) as made:
        yield made
        assert (await made.get("/readyz")).status == 200
        pushed = await made.put("well.wav", AUDIO)
        assert pushed.status in (200, 201), pushed.body
    assert running.serve.running
    assert resident(running) - before < MOST_GROWTH
    for line in running.logs[-1].read_text().splitlines():
        assert '"status": 500' not in line, line


def resident(installation: Installation) -> int:
    """MiB of the service's process."""
    text = Path(f"/proc/{installation.serve.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) // 1024


async def raw(installation: Installation, *pieces: bytes) -> Heard:
    """Send bytes as they are; read until the service closes or answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", installation.port)

    async def send() -> None:
        with contextlib.suppress(ConnectionError):  # refused before it was read
            for piece in pieces:
                writer.write(piece)
                await writer.drain()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            body = await reader.readexactly(0 if found is None else int(found[1]))
        return Heard(int(head.split()[1]), head.decode("latin-1"), body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Heard(0, "", b"")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


def worked(installation: Installation) -> float:
    """Seconds of processor time that the service's process has taken."""
    fields = Path(f"/proc/{installation.serve.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request(method: str, path: str, *headers: str, token: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: recorder.example", "Connection: close", *headers]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def refused(heard: Heard, *statuses: int) -> None:
    assert heard.status in statuses, (heard.status, heard.body[:300])
    assert "application/problem+json" in heard.head, heard.head
    told = json.loads(heard.body)
    assert told["status"] == heard.status
    assert told["title"]


METADATA = json.dumps({"external_id": "h1", "started_at": "2026-03-05T09:00:00+02:00"})
PART_1 = (
    '--b\r\nContent-Disposition: form-data; name="metadata"\r\nContent-Type: application/json\r\n\r\n'
    f"{METADATA}\r\n"
).encode()
PART_2 = (
    b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\nContent-Type: audio/wav\r\n'
)
WHOLE = PART_1 + PART_2 + b"\r\n" + AUDIO + b"\r\n--b--\r\n"
FORM = "Content-Type: multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ((FORM,), WHOLE[:-8]),
        ((FORM,), WHOLE[: len(PART_1) // 2]),
        ((FORM,), b""),
        (("Content-Type: multipart/form-data; boundary=other",), WHOLE),
        (("Content-Type: multipart/form-data",), WHOLE),
        (("Content-Type: multipart/form-data; boundary=" + "x" * 300,), WHOLE),
        ((FORM,), PART_1 + PART_2 + b"Content-Length: 5\r\n\r\n" + AUDIO + b"\r\n--b--\r\n"),
        ((FORM,), PART_1 + PART_2 + b"Content-Length: 999999\r\n\r\n" + AUDIO + b"\r\n--b--\r\n"),
        (
            (FORM,),
            PART_1
            + PART_2
            + b"Content-Encoding: gzip\r\n\r\n"
            + gzip.compress(AUDIO, mtime=0)
            + b"\r\n--b--\r\n",
        ),
        ((FORM,), PART_1 + PART_2 + b"Content-Transfer-Encoding: base64\r\n\r\n" + AUDIO + b"\r\n--b--\r\n"),
        ((FORM,), b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\n--c--\r\n--b--\r\n"),
        ((FORM,), b"--b\r\n" + b"X-Many: 1\r\n" * 20_000 + b"\r\n\r\n--b--\r\n"),
        ((FORM,), PART_1.replace(METADATA.encode(), b"[" * 100_000) + PART_2 + b"\r\n\r\n--b--\r\n"),
        ((FORM,), PART_1.replace(METADATA.encode(), b"\xff\xfe{}") + PART_2 + b"\r\n\r\n--b--\r\n"),
        ((FORM,), PART_1.replace(METADATA.encode(), b"{" + b" " * 400_000) + PART_2 + b"\r\n\r\n--b--\r\n"),
    ],
    ids=[f"form-{n}" for n in range(15)],
)
async def test_multipart_that_lies_is_refused(
    running: Installation, api: Api, headers: tuple[str, ...], body: bytes
) -> None:
    token = running.tokens["telephony"]
    head = request("POST", "/api/v1/recordings", *headers, f"Content-Length: {len(body)}", token=token)
    refused(await raw(running, head, body), 400, 413, 415, 422)
    assert (await api.get("/api/v1/recordings?state=stored&queue=none", "quality")).status == 200


async def test_lengths_that_lie(running: Installation, api: Api) -> None:
    token = running.tokens["telephony"]
    paths = [("POST", "/api/v1/recordings", FORM), ("PUT", "/ingest/pbx/lie.wav", "Content-Type: audio/wav")]
    paths += [
        (m, f"/ingest/t/{running.tokens[k]}/lie.wav", "Content-Type: audio/wav")
        for k in KINDS
        for m in ("POST", "PUT")
    ]

    async def lies(method: str, path: str, kind: str, announced: int) -> None:
        head = request(
            method, path, kind, f"Content-Length: {announced}", token=None if "/t/" in path else token
        )
        refused(await raw(running, head, AUDIO), 400, 401, 413, 415, 422, 429)

    lengths = (10 * GIB, len(AUDIO) + 9)
    await asyncio.gather(*(lies(*one, announced) for one in paths for announced in lengths))
    for value in ("-1", "1e3", "99999999999999999999999999", "5, 6", "0x10"):
        heard = await raw(
            running, request("PUT", "/ingest/pbx/x.wav", f"Content-Length: {value}", token=token), AUDIO
        )
        assert heard.status in (0, 400, 413), (value, heard)
    both = request("PUT", "/ingest/pbx/x.wav", "Content-Length: 5", "Transfer-Encoding: chunked", token=token)
    assert (await raw(running, both, b"0\r\n\r\n")).status in (0, 400)
    bad = request("PUT", "/ingest/pbx/x.wav", "Transfer-Encoding: chunked", token=token)
    for body in (b"zz\r\nabc\r\n0\r\n\r\n", b"ffffffffffffffffff\r\nabc", b"-5\r\nabc\r\n", b"5\r\nab"):
        assert (await raw(running, bad, body)).status in (0, 400, 413), body


def bomb(coding: str) -> bytes:
    """A GiB of zeros, in about a MiB."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(1024)), packer.flush()])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_bombs(running: Installation, api: Api, coding: str) -> None:
    packed = await asyncio.to_thread(bomb, coding)
    before = worked(running)
    types = (
        "audio/wav",
        "application/json",
        "application/vcon",
        "application/x-www-form-urlencoded",
        FORM[14:],
    )

    async def burst(kind: str, content_type: str) -> None:
        head = request(
            "POST",
            f"/ingest/t/{running.tokens[kind]}/b.wav",
            f"Content-Type: {content_type}",
            f"Content-Encoding: {coding}",
            f"Content-Length: {len(packed)}",
        )
        refused(await raw(running, head, packed), 400, 401, 413, 415, 429)

    for content_type in types:
        await asyncio.gather(*(burst(kind, content_type) for kind in KINDS))
    for method, path, role, kind in (
        ("POST", "/api/v1/recordings", "telephony", FORM[14:]),
        ("POST", "/uploads", "telephony", "application/offset+octet-stream"),
        ("POST", "/api/v1/recordings/search", "quality", "application/json"),
    ):
        head = request(
            method,
            path,
            f"Content-Type: {kind}",
            f"Content-Encoding: {coding}",
            "Tus-Resumable: 1.0.0",
            "Upload-Length: 1073741824",
            "Upload-Metadata: external_id Ym9tYg==",
            f"Content-Length: {len(packed)}",
            token=running.tokens[role],
        )
        heard = await raw(running, head, packed)
        assert heard.status in (0, 400, 404, 405, 413, 415, 422), heard
    if coding == "gzip":
        for content_type in ("application/vcon+gzip", "application/gzip"):
            head = request(
                "POST",
                f"/ingest/t/{running.tokens['vcon']}",
                f"Content-Type: {content_type}",
                f"Content-Length: {len(packed)}",
            )
            heard = await raw(running, head, packed)
            assert heard.status in (201, 400, 413, 415, 422), heard
    # Nearly seventy of them; each takes three seconds where it is inflated, be it to throw it away.
    assert worked(running) - before < 30


async def test_slow_bodies_and_heads_are_given_up(running: Installation, api: Api) -> None:
    token = running.tokens["telephony"]

    async def dripping(head: bytes, body: bytes) -> int:
        return (await raw(running, head, body)).status

    heads = [
        (request("PUT", "/ingest/pbx/slow.wav", "Content-Length: 90000", token=token), AUDIO[:100]),
        (request("POST", "/api/v1/recordings", FORM, "Content-Length: 90000", token=token), PART_1[:30]),
        (
            request("POST", "/api/v1/recordings", FORM, "Content-Length: 90000", token=token),
            PART_1 + PART_2 + b"\r\nRIFF",
        ),
        (
            request(
                "POST",
                f"/ingest/t/{running.tokens['vcon']}",
                "Content-Type: application/vcon",
                "Content-Length: 900",
            ),
            b"{",
        ),
        (request("POST", f"/ingest/t/{running.tokens['siprec']}/x", FORM, "Content-Length: 900"), b"--b\r\n"),
        (
            request(
                "POST",
                f"/ingest/t/{running.tokens['zoom']}",
                "Content-Type: application/json",
                "Content-Length: 9",
            ),
            b"{",
        ),
        (
            request(
                "POST",
                f"/ingest/t/{running.tokens['twilio']}",
                "Content-Type: application/x-www-form-urlencoded",
                "Content-Length: 9",
            ),
            b"a",
        ),
    ]
    statuses = await asyncio.gather(*(dripping(*pair) for pair in heads for _ in range(4)))
    assert set(statuses) <= {0, 400, 401, 408, 429}, statuses

    # Heads that never end hold a socket and nothing else: others are served meanwhile.
    open_heads = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(100)]
    for _, writer in open_heads:
        writer.write(b"PUT /ingest/pbx/x.wav HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    assert (await api.put("meanwhile.wav", AUDIO)).status in (200, 201)
    for _, writer in open_heads:
        writer.close()


XML_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9))
    + '<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    + '<recording xmlns="urn:ietf:params:xml:ns:recording:1">&j;&x;</recording>'
)
DOCUMENTS: list[tuple[str, str, bytes]] = [
    ("siprec", "application/rs-metadata+xml", XML_BOMB.encode()),
    ("siprec", "application/rs-metadata+xml", b"<recording" * 5000),
    ("siprec", "application/rs-metadata+xml", b"<a>" * 20_000),
    ("vcon", "application/vcon", b"[" * 100_000),
    ("vcon", "application/vcon", b'{"dialog":' * 20_000),
    ("vcon", "application/vcon", b"\xff\xfe\x00"),
    (
        "vcon",
        "application/vcon",
        json.dumps({"uuid": "x", "dialog": [{"type": "recording", "body": "!"}]}).encode(),
    ),
    ("vcon", "application/vcon", b'{"uuid": 1e999, "dialog": NaN}'),
    ("vcon", "application/jose", b"e30.e30.e30"),
    ("vcon", "application/jose+json", b'{"payload":"!","signatures":[{"protected":"e30","signature":"!"}]}'),
    ("vcon", "application/vcon+gzip", b"\x1f\x8b\x08broken"),
    ("vcon", "application/vcon+gzip", gzip.compress(bytes(1 << 20), mtime=0)),  # the body names the test
    ("zoom", "application/json", b'{"event":' + b"[" * 50_000),
    ("zoom", "application/json", b'{"event":"\xed\xa0\x80"}'),
    ("twilio", "application/x-www-form-urlencoded", b"&".join(b"f%d=1" % n for n in range(10_000))),
    ("twilio", "application/x-www-form-urlencoded", b"RecordingSid=%00&CallSid=%ff%fe&RecordingUrl=%0d%0a"),
    ("httapi", "application/x-www-form-urlencoded", b"a=1&" * 10_000),
    ("generic", "application/json", b'{"a":' * 50_000),
    ("oreka", "application/x-www-form-urlencoded", b"type=tape&recid=%00&timestamp=9e99&stage=stop"),
]


@pytest.mark.parametrize(("kind", "content_type", "body"), DOCUMENTS, ids=lambda v: str(v)[:40])
async def test_documents_that_are_none(
    running: Installation, api: Api, kind: str, content_type: str, body: bytes
) -> None:
    path = f"/ingest/t/{running.tokens[kind]}"
    head = request("POST", path, f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
    heard = await raw(running, head, body)
    # Word without audio may simply be noted; what has audio may go to quarantine.
    assert heard.status in (200, 201, 202, 204, 400, 401, 403, 413, 415, 422), heard
    if heard.status >= 400:
        refused(heard, heard.status)


WAVS: list[bytes] = [
    b"",
    b"RIFF",
    b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00" + bytes(16),
    AUDIO[:30],
    AUDIO.replace(b"fmt ", b"\xff\xff\xff\xff", 1),
    AUDIO[:20] + b"\xff" * 24 + AUDIO[44:],
    b"RIFF\x24\x00\x00\x00WAVE" + b"LIST\x00\x00\x00\x00" * 50_000,
    b"OggS" + bytes(1000),
    b"ID3" + b"\xff" * 1000,
    b"fLaC" + b"\x7f" * 1000,
    b"\x1aE\xdf\xa3" + b"\xff" * 1000,
    b"PK\x03\x04" + bytes(1000),
    b"<?php system($_GET[0]); ?>",
]


@pytest.mark.parametrize("audio", WAVS, ids=lambda v: repr(v[:12]))
async def test_audio_that_is_none_goes_to_quarantine(running: Installation, api: Api, audio: bytes) -> None:
    answer = await api.put(f"odd-{zlib.crc32(audio):x}.wav", audio)
    assert answer.status in (200, 201), answer.body
    if answer.json["state"] != "quarantined":
        assert answer.json["reasons"], answer.json


NAMES = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/x.wav",
    "a%00b.wav",
    "a%0d%0aX-Evil:%201.wav",
    "%ff%fe.wav",
    "x" * 6000 + ".wav",
    "%c3%a4%cc%88.wav",
    "..",
    ".",
    "%2e%2e",
    "~root",
    "C:%5Cboot.ini",
    "%252e%252e%252f",
    "a;b=c?d",
    "%F0%9F%98%80",
    "a%20b%09c",
    "%7B%7B7*7%7D%7D",
    "$(id)",
    "'%3B--",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda v: v[:20])
async def test_tricks_in_addresses_and_file_names(running: Installation, api: Api, name: str) -> None:
    token = running.tokens["telephony"]
    length = f"Content-Length: {len(AUDIO)}"
    for path in (f"/ingest/pbx/{name}", f"/ingest/t/{running.tokens['kazoo']}/{name}"):
        heard = await raw(running, request("PUT", path, length, token=token), AUDIO)
        assert heard.status in (0, 200, 201, 400, 401, 404, 405, 409, 414, 431), heard
        assert "x-evil" not in heard.head.lower()
    quoted = name.replace('"', "")
    body = WHOLE.replace(b"a.wav", quoted.encode()).replace(
        b'"h1"', json.dumps(f"n-{zlib.crc32(name.encode())}").encode()
    )
    head = request("POST", "/api/v1/recordings", FORM, f"Content-Length: {len(body)}", token=token)
    heard = await raw(running, head, body)
    assert heard.status in (200, 201, 400, 409, 422), heard
    found = [
        p for p in running.folder.rglob("*") if p.is_file() and p.name in ("passwd", "x.wav", "boot.ini")
    ]
    assert found == []


HEADERS = [
    "X-Recording-Call-ID: a\rb",
    "X-Recording-Call-ID: a\x00b",
    "X-Request-Id: a\nX-Evil: 1",
    "X-Recording-Call-Start-Time: 1e999",
    "X-Recording-Call-Metadata: " + "|" * 7000,
    "Date: tomorrow",
    "Content-Digest: sha-256=:AAAA:",
    "Content-Digest: sha-256=:" + "!" * 100 + ":",
    "Repr-Digest: \udcff",
    "Idempotency-Key: " + "k" * 7000,
    "X-Forwarded-For: ' OR 1=1 --",
    "Range: bytes=" + "0-1," * 1000,
    "X-Huge: " + "h" * 70_000,
    "Authorization: Basic " + base64.b64encode(b"\xff:\xfe").decode(),
    "Expect: 200-ok",
    "Upgrade: websocket",
    "Content-Type: \udcff/\udcfe",
    "Cookie: " + "a=b;" * 1500,
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda v: repr(v[:30]))
async def test_headers_that_are_none(running: Installation, api: Api, header: str) -> None:
    for kind in ("rtpengine", "freeswitch", "jambonz", "generic"):
        path = f"/ingest/t/{running.tokens[kind]}/h-{zlib.crc32(header.encode('utf-8', 'replace')):x}.wav"
        head = request("PUT", path, header, f"Content-Length: {len(AUDIO)}")
        heard = await raw(running, head, AUDIO)
        assert heard.status in (0, 200, 201, 400, 401, 409, 413, 415, 417, 422, 426, 431), heard
        assert "x-evil" not in heard.head.lower()


@pytest.mark.parametrize(
    "metadata",
    [
        "external_id",
        "external_id !",
        ",,,",
        "external_id AA==",
        "a " * 1500,
        "metadata W1tb",
        "\udcff x",
        "external_id " + "A" * 7000,
    ],
    ids=lambda v: repr(v[:20]),
)
async def test_uploads_that_are_none(running: Installation, api: Api, metadata: str) -> None:
    token = running.tokens["telephony"]
    for length in (
        "Upload-Length: 10",
        f"Upload-Length: {10 * GIB}",
        "Upload-Length: -1",
        "Upload-Length: 9" * 9,
    ):
        head = request(
            "POST",
            "/uploads",
            "Tus-Resumable: 1.0.0",
            length,
            f"Upload-Metadata: {metadata}",
            "Content-Length: 0",
            token=token,
        )
        heard = await raw(running, head)
        assert heard.status in (0, 201, 400, 413, 422, 431), heard
