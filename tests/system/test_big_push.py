"""A gibibyte goes through in constant memory."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.system.installation import Installation, call_of, client

GIB = 1 << 30
PIECE = 1 << 20
ALLOWED = 64 << 20


def status_of(pid: int, name: str) -> int:
    """A size out of proc(5)'s status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name}")


def begin_peak_anew(pid: int) -> None:
    """See proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def gibibyte() -> AsyncIterator[bytes]:
    # "Until the end of the file", as streamed WAV says it.
    form = struct.pack("<HHIIHH", 1, 2, 8000, 32000, 4, 16)
    yield b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + form + b"data\xff\xff\xff\xff"
    piece = bytes(range(256)) * (PIECE // 256)
    for _ in range(GIB // PIECE):
        yield piece


@pytest.mark.slow
async def test_a_gibibyte_in_constant_memory(service: Installation) -> None:
    pid = service.serve.pid
    async with client(service) as api:
        warm = await api.put(f"warm-{service.name}.wav", bytes(3 * PIECE))
        assert warm.status == 201
        idle = status_of(pid, "VmRSS")
        begin_peak_anew(pid)
        answer = await api.request(
            "PUT",
            f"/ingest/pbx/big-{service.name}.wav",
            role="telephony",
            params={"started_at": call_of("x")["started_at"]},
            data=gibibyte(),
        )
        assert answer.status == 201, answer.body
        assert (answer.json["state"], answer.json["size"]) == ("stored", GIB + 44)
        peak = status_of(pid, "VmHWM")
        assert peak - idle < ALLOWED, f"{(peak - idle) >> 20} MiB above idle"
        recording = answer.json["id"]
        tail = await api.audio(
            recording, "legal", "legal_protection", rendition="original", headers={"Range": "bytes=-1000"}
        )
        assert (tail.status, tail.body) == (206, (bytes(range(256)) * 4)[-1000:])
