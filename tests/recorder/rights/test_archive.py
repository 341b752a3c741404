"""The ZIP writer: readable by others, in constant memory, closing its sources whatever happens."""

from __future__ import annotations

import contextlib
import io
import json
import random
import tracemalloc
import zipfile
from base64 import urlsafe_b64decode
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from recorder.rights import vcon
from recorder.rights.archive import Member, zipped

AT = datetime(2026, 3, 5, tzinfo=UTC)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_members_come_back_as_they_went_in() -> None:
    async def members() -> AsyncGenerator[Member]:
        yield Member("empty", AT, pieces())
        yield Member("a/ä.txt", AT, pieces(b"one", b"", b"two"))

    async with contextlib.aclosing(zipped(members())) as stream:
        archive = zipfile.ZipFile(io.BytesIO(b"".join([chunk async for chunk in stream])))
    assert archive.testzip() is None
    assert {name: archive.read(name) for name in archive.namelist()} == {"empty": b"", "a/ä.txt": b"onetwo"}


async def test_a_long_call_takes_no_more_memory_than_a_short_one() -> None:
    noise = random.Random(1).randbytes(1024 * 1024)
    size = 0

    async def members() -> AsyncGenerator[Member]:
        yield Member("long", AT, pieces(*[noise] * 48))

    tracemalloc.start()
    try:
        async with contextlib.aclosing(zipped(members())) as stream:
            async for chunk in stream:
                size += len(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 40 * len(noise)
    assert peak < 12 * len(noise)


@pytest.mark.parametrize("after", [0, 3])
async def test_leaving_early_closes_what_is_open(after: int) -> None:
    closed: list[str] = []

    async def members() -> AsyncGenerator[Member]:
        try:
            yield Member("endless", AT, endless())
        finally:
            closed.append("members")

    async def endless() -> AsyncIterator[bytes]:
        noise = random.Random(1).randbytes(200_000)
        while True:
            yield noise

    async with contextlib.aclosing(zipped(members())) as stream:
        for _ in range(after + 1):
            await anext(stream)
    assert closed == ["members"]


async def test_an_error_of_a_source_is_the_readers() -> None:
    async def members() -> AsyncGenerator[Member]:
        yield Member("broken", AT, broken())

    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("gone")

    with pytest.raises(LookupError):
        async with contextlib.aclosing(zipped(members())) as stream:
            _ = [chunk async for chunk in stream]


@pytest.mark.parametrize("sizes", [[], [1], [2, 2], [3], [1, 5, 1], [100, 1, 3]])
async def test_a_vcons_body_is_the_audio_however_it_arrives(sizes: list[int]) -> None:
    audio = [random.Random(size).randbytes(size) for size in sizes]
    dialog = vcon.Dialog(AT, 1.5, (0, 1), "audio/wav", "recording.wav")
    document = vcon.document(UUID(int=7), AT, [{"role": "customer"}], dialog, [])
    text = b"".join([piece async for piece in vcon.stream(document, pieces(*audio))])
    read: dict[str, Any] = json.loads(text)
    body = read["dialog"][0]["body"]
    assert "=" not in body
    assert urlsafe_b64decode(body + "=" * (-len(body) % 4)) == b"".join(audio)
    assert UUID(read["uuid"]).variant == "specified in RFC 4122"


async def test_a_vcon_without_audio_has_no_dialog() -> None:
    document = vcon.document(UUID(int=7), AT, [], None, [])
    text = b"".join([piece async for piece in vcon.stream(document, None)])
    assert json.loads(text)["dialog"] == []
