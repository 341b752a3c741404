"""Real telephony speech through HTTP into real S3 with PostgreSQL, and back byte for byte.

Debian's Asterisk prompts: raw GSM 06.10, 8 kHz WAV and raw G.722. `make test-prompts` pushes every file.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import av
import pytest

from tests.servers.prompts import Prompts
from tests.system.installation import Api, Installation, client

pytestmark = [pytest.mark.s3, pytest.mark.postgres]

SAMPLE = 24
PLAYED = 4
# Bytes of a second: GSM 06.10 is 33 bytes in 20 ms, G.722 64 kbit/s, WAV 8 kHz of 16 bits behind a header.
BYTES_A_SECOND = {"gsm": 1650, "g722": 8000, "wav": 16000}
CODECS = {"gsm": "gsm", "g722": "g722", "wav": "pcm_s16le"}


@pytest.fixture
async def api(_production: Installation) -> AsyncIterator[Api]:
    async with client(_production) as made:
        yield made


async def pushed(api: Api, paths: Iterable[Path], prefix: str) -> dict[Path, str]:
    """Push files, eight at a time, and return their recordings' ids."""
    slots = asyncio.Semaphore(8)

    async def one(path: Path) -> tuple[Path, str]:
        audio = await asyncio.to_thread(path.read_bytes)
        name = f"{prefix}-{path.parent.name}-{path.name}"
        async with slots:
            answer = await api.put(name, audio)
        assert answer.status == 201, (path, answer.body)
        assert answer.json["state"] == "stored", (path, answer.json["reasons"])
        assert answer.json["sha256"] == hashlib.sha256(audio).hexdigest(), path
        assert answer.json["media"]["codec"] == CODECS[path.suffix[1:]], path
        return path, str(answer.json["id"])

    return dict(await asyncio.gather(*(one(path) for path in paths)))


async def read_back(api: Api, path: Path, recording: str) -> None:
    """Read one back whole, and by ranges at its borders and in its middle."""
    audio = await asyncio.to_thread(path.read_bytes)
    whole = await api.audio(recording, rendition="original")
    assert (whole.status, whole.body) == (200, audio), path
    middle = len(audio) // 2
    for first, last in {
        (0, 0),
        (middle, min(middle + 999, len(audio) - 1)),
        (len(audio) - 1, len(audio) - 1),
    }:
        part = await api.audio(recording, rendition="original", headers={"Range": f"bytes={first}-{last}"})
        assert (part.status, part.body) == (206, audio[first : last + 1]), (path, first, last)


async def all_read_back(api: Api, ids: dict[Path, str]) -> None:
    slots = asyncio.Semaphore(8)

    async def one(path: Path, recording: str) -> None:
        async with slots:
            await read_back(api, path, recording)

    await asyncio.gather(*(one(path, recording) for path, recording in ids.items()))


def seconds_of(audio: bytes) -> float:
    """How long it plays, by decoding it."""
    with av.open(io.BytesIO(audio), "r") as container:
        frames = list(container.decode(audio=0))
    return float(sum(frame.samples / frame.sample_rate for frame in frames))


async def played(api: Api, path: Path, recording: str) -> None:
    """What a browser gets lasts as long as the prompt."""
    answer = await api.until(
        lambda: api.audio(recording, rendition="playback"), lambda a: a.status not in {409, 503}
    )
    assert answer.status == 200, (path, answer.body)
    assert answer.headers["Content-Type"].split(";")[0] in {"audio/wav", "audio/ogg", "audio/mpeg"}
    expected = (await asyncio.to_thread(path.stat)).st_size / BYTES_A_SECOND[path.suffix[1:]]
    assert abs(await asyncio.to_thread(seconds_of, answer.body) - expected) < 0.1, path


@pytest.mark.parametrize("form", ["gsm", "g722", "wav"])
async def test_a_sample_of_the_prompts(api: Api, prompts: Prompts, form: str) -> None:
    ids = await pushed(api, prompts.sample(SAMPLE)[form], f"sample-{form}")
    assert len(ids) == SAMPLE
    await all_read_back(api, ids)
    for path in list(ids)[:: SAMPLE // PLAYED]:
        await played(api, path, ids[path])


@pytest.mark.prompts
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", ["gsm", "g722", "wav"])
async def test_every_prompt(api: Api, prompts: Prompts, form: str) -> None:
    ids = await pushed(api, prompts.files[form], f"all-{form}")
    assert len(ids) == len(prompts.files[form]) > 400
    await all_read_back(api, ids)
    for path in list(ids)[::25]:
        await played(api, path, ids[path])
