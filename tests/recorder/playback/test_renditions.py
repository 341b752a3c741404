"""Renditions of real telephony audio: playable, silent where muted, sealed, never made twice or too late."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import uuid
import wave
from array import array
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.enums import ObjectRole, RecordingState
from recorder.catalogue.tables import AuditEntry, Recording, StoredObjectRow
from recorder.errors import NotFound
from recorder.playback import ffmpeg
from recorder.playback.ffmpeg import LIMITS, Limits, MediaError, decode, encode, ffmpeg_path, transcode
from recorder.playback.media import Input, input_of, is_playable, pcm_layout
from recorder.playback.objects import living_objects, stored_object
from recorder.playback.renditions import make_peaks, make_rendition
from recorder.services import Services
from storage.errors import TamperedObject
from tests.recorder.playback.conftest import WAV, World, chunks, decoded, make_audio
from tests.servers.prompts import Prompts

GSM = {"container": "raw", "codec": "gsm", "sample_rate": 8000, "channels": 1}
G722 = {"container": "raw", "codec": "adpcm_g722", "sample_rate": 16000, "channels": 1}


async def content(services: Services, recording_id: uuid.UUID, role: ObjectRole) -> bytes:
    async with services.database.snapshot() as session:
        row, subject = (await living_objects(session, recording_id))[role]
    async with services.vault.read(stored_object(row, subject)) as pieces:
        return b"".join([piece async for piece in pieces])


async def actions(services: Services, recording_id: uuid.UUID) -> list[str]:
    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry.action).where(AuditEntry.object_id == str(recording_id))
        return sorted(await session.scalars(query.order_by(AuditEntry.at)))


def loudness(pcm: bytes, channels: int, start_ms: int, end_ms: int, rate: int = 8000) -> int:
    samples = array("h", pcm)[start_ms * rate // 1000 * channels : end_ms * rate // 1000 * channels]
    return max(abs(s) for s in samples)


async def test_playable_audio_without_mutes_needs_no_copy(world: World) -> None:
    recording_id = await world.recording(await make_audio(1))
    assert await make_rendition(world.services, recording_id) == ()
    assert await actions(world.services, recording_id) == []


async def test_muted_spans_are_silent_on_every_channel(world: World) -> None:
    audio = await make_audio(4)
    muted: list[dict[str, Any]] = [
        {"from_ms": 1000, "to_ms": 1500, "reason": "payment"},
        {"from_ms": 3000, "to_ms": 3001},
    ]
    recording_id = await world.recording(audio, muted=muted)
    assert await make_rendition(world.services, recording_id) == (ObjectRole.REDACTED,)
    heard = await decoded(await content(world.services, recording_id, ObjectRole.REDACTED))
    # The codec smears by a few milliseconds; what it smears is what lies outside the span.
    assert loudness(heard, 2, 1020, 1480) < 40
    assert loudness(heard, 2, 200, 900) > 10_000
    assert loudness(heard, 2, 1600, 2900) > 10_000
    assert await actions(world.services, recording_id) == ["rendition.made"]


async def test_a_second_run_makes_nothing(world: World) -> None:
    recording_id = await world.recording(await make_audio(1), muted=[{"from_ms": 0, "to_ms": 500}])
    services = world.services
    both = await asyncio.gather(
        make_rendition(services, recording_id), make_rendition(services, recording_id)
    )
    assert sorted(both) == [(), (ObjectRole.REDACTED,)]
    assert await make_rendition(services, recording_id) == ()
    async with services.database.snapshot() as session:
        rows = (await session.scalars(sa.select(StoredObjectRow))).all()
    keys = {stat.key async for stat in services.store.list()}
    assert len(rows) == 2
    assert keys == {row.key for row in rows}  # the loser's object is gone


@pytest.mark.parametrize(
    ("codec", "media"),
    [
        ("mulaw", {"container": "raw", "codec": "pcm_mulaw", "sample_rate": 8000, "channels": 2}),
        ("g722", G722),
        ("amr", {"container": "amr", "codec": "amr_nb", "sample_rate": 8000, "channels": 1}),
    ],
)
async def test_what_browsers_cannot_play_is_converted(
    world: World, codec: str, media: dict[str, object]
) -> None:
    channels = media["channels"]
    assert isinstance(channels, int)
    audio = await make_audio(2, codec=codec, channels=channels)
    recording_id = await world.recording(audio, media)
    assert not is_playable(media)
    assert await make_rendition(world.services, recording_id) == (ObjectRole.RENDITION,)
    made = await content(world.services, recording_id, ObjectRole.RENDITION)
    assert made[:4] == b"OggS"
    heard = await decoded(made)
    assert abs(len(heard) / 2 / channels / 8000 - 2) < 0.1
    assert loudness(heard, channels, 200, 1800) > 5_000


async def test_real_prompts(world: World, prompts: Prompts) -> None:
    for kind, media in (("gsm", GSM), ("g722", G722)):
        path = prompts.sample(1)[kind][0]
        audio = await asyncio.to_thread(path.read_bytes)
        recording_id = await world.recording(audio, media)
        assert await make_rendition(world.services, recording_id) == (ObjectRole.RENDITION,)
        heard = await decoded(await content(world.services, recording_id, ObjectRole.RENDITION))
        seconds = len(audio) / 33 * 0.02 if kind == "gsm" else len(audio) / 8000
        assert abs(len(heard) / 16000 - seconds) < 0.1


async def test_the_channels_of_a_call_stay_apart() -> None:
    source = await make_audio(2, channels=1)
    opened = input_of(WAV)
    assert opened is not None
    async with decode(chunks(source), opened, pcm_layout(WAV)) as pieces:
        both = array("h", b"".join([piece async for piece in pieces]))
    both[1::2] = array("h", bytes(len(both)))
    async with encode(chunks(both.tobytes()), pcm_layout(WAV)) as pieces:
        made = b"".join([piece async for piece in pieces])
    right = array("h", await decoded(made))[1::2]
    assert max(abs(s) for s in right) < 40


async def test_broken_media_leaves_nothing(world: World) -> None:
    recording_id = await world.recording(b"RIFF\x00\x00\x00\x00WAVEnonsense" * 50, WAV | {"codec": "gsm_ms"})
    with pytest.raises(MediaError):
        await make_rendition(world.services, recording_id)
    assert len([stat async for stat in world.services.store.list()]) == 1


async def test_unknown_media_is_not_guessed_at(world: World) -> None:
    recording_id = await world.recording(
        b"#EXTM3U\nfile:///etc/passwd\n", {"container": "m3u8", "codec": "hls"}
    )
    with pytest.raises(MediaError):
        await make_rendition(world.services, recording_id)


async def test_a_tampered_original_is_never_made_into_a_shorter_rendition(world: World) -> None:
    audio = await make_audio(30, codec="mulaw")
    media = {"container": "raw", "codec": "pcm_mulaw", "sample_rate": 8000, "channels": 2}
    recording_id = await world.recording(audio, media)
    store = world.services.store
    async with world.services.database.snapshot() as session:
        row, _ = (await living_objects(session, recording_id))[ObjectRole.ORIGINAL]
    async with store.get(row.key) as body:
        sealed = bytearray(b"".join([piece async for piece in body]))
    sealed[-1] ^= 1
    await store.delete_all(row.key)
    stat = await store.put(row.key, chunks(bytes(sealed)), size=len(sealed))
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(StoredObjectRow).values(version_id=stat.version_id))
    with pytest.raises(TamperedObject):
        await make_rendition(world.services, recording_id)
    assert len([stat async for stat in store.list()]) == 1


async def test_a_recording_that_is_erased_meanwhile_gets_no_rendition(world: World) -> None:
    """The erasure begins between the making and the settling."""
    recording_id = await world.recording(await make_audio(1), muted=[{"from_ms": 0, "to_ms": 500}])
    services = world.services
    real = services.vault.write

    async def write_then_erase(*arguments: object, **options: object) -> object:
        written = await real(*arguments, **options)  # type: ignore[arg-type]
        async with services.database.transaction() as session:
            await session.execute(sa.update(Recording).values(state=RecordingState.ERASING))
        return written

    services.vault.write = write_then_erase  # type: ignore[method-assign,assignment]
    assert await make_rendition(services, recording_id) == ()
    assert len([stat async for stat in services.store.list()]) == 1
    services.vault.write = real  # type: ignore[method-assign]
    assert await make_rendition(services, recording_id) == ()
    assert await make_peaks(services, recording_id) is False


async def test_no_such_recording(world: World) -> None:
    with pytest.raises(NotFound):
        await make_rendition(world.services, uuid.uuid4())


async def test_peaks_draw_the_call_and_hide_what_is_muted(world: World) -> None:
    recording_id = await world.recording(await make_audio(2), muted=[{"from_ms": 500, "to_ms": 1000}])
    assert await make_peaks(world.services, recording_id) is True
    assert await make_peaks(world.services, recording_id) is False
    document = json.loads(await content(world.services, recording_id, ObjectRole.PEAKS))
    assert document["length"] == 200
    assert document["samples_per_pixel"] == 80
    assert [len(c) for c in document["channels"]] == [400, 400]
    for channel in document["channels"]:
        assert max(channel[:90]) > 40
        assert min(channel[:90]) < -40
        assert set(channel[102:198]) <= {0}
        assert max(channel[202:]) > 40


@pytest.mark.parametrize(
    ("amplitude", "seconds", "muted", "told"),
    [
        (0.5, 2, (), []),
        (0.0, 2, (), ["silent"]),
        (0.002, 2, (), ["silent"]),  # -54 dB: the noise of a line
        (0.01, 2, (), []),  # -40 dB: a voice far from the telephone
        (0.5, 0.5, (), ["too-short"]),
        (0.0, 0.5, (), ["silent", "too-short"]),
        (0.5, 2, ({"from_ms": 0, "to_ms": 2000, "reason": "payment"},), []),  # silent by intent
    ],
)
async def test_silence_and_what_is_too_short_are_told(
    world: World, amplitude: float, seconds: float, muted: tuple[dict[str, Any], ...], told: list[str]
) -> None:
    pcm = array(
        "h", (round(32767 * amplitude * (1 if n // 20 % 2 else -1)) for n in range(int(seconds * 8000)))
    )
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(pcm.tobytes())
    recording_id = await world.recording(out.getvalue(), muted=list(muted))
    await make_peaks(world.services, recording_id)
    async with world.services.database.snapshot() as session:
        assert (await session.get_one(Recording, recording_id)).reasons == told
    assert ("recording.odd" in await actions(world.services, recording_id)) is bool(told)


# ffmpeg itself


async def test_mp4_that_needs_seeking_is_opened_in_memory(tmp_path: Path) -> None:
    source = await make_audio(3, channels=1)
    path = tmp_path / "tone.mp4"  # this layout of MP4 can be written to a file only
    await asyncio.to_thread(_write_mp4, source, path)
    audio = await asyncio.to_thread(path.read_bytes)
    media = {"container": "mp4", "codec": "aac", "sample_rate": 8000, "channels": 1}
    opened = input_of(media)
    assert opened is not None
    assert opened.seekable
    async with transcode(chunks(audio), opened, pcm_layout(media)) as pieces:
        made = b"".join([piece async for piece in pieces])
    assert abs(len(await decoded(made)) / 16000 - 3) < 0.2
    with pytest.raises(MediaError):
        async with transcode(chunks(audio), opened, pcm_layout(media), limits=Limits(in_memory_bytes=100)):
            pass


def _write_mp4(source: bytes, path: Path) -> None:
    subprocess.run(
        [ffmpeg_path(), "-loglevel", "error", "-y", "-i", "pipe:0", "-c:a", "aac", "-f", "mp4", path],
        input=source,
        check=True,
    )


async def drain(audio: bytes, opened: Input, limits: Limits = LIMITS) -> int:
    size = 0
    async with decode(chunks(audio), opened, pcm_layout(WAV), limits=limits) as pieces:
        async for piece in pieces:
            size += len(piece)
    return size


async def test_output_is_bounded() -> None:
    opened = input_of(WAV)
    assert opened is not None
    audio = await make_audio(5)
    assert await drain(audio, opened) == 5 * 8000 * 2 * 2
    with pytest.raises(MediaError, match="more than is allowed"):
        await drain(audio, opened, Limits(output_bytes=1000))


async def test_leaving_early_leaves_no_task_behind() -> None:
    opened = input_of(WAV)
    assert opened is not None
    audio = await make_audio(60)
    before = asyncio.all_tasks()
    async with decode(chunks(audio), opened, pcm_layout(WAV)) as pieces:
        assert await anext(pieces)
        assert asyncio.all_tasks() != before
    assert asyncio.all_tasks() == before


async def test_a_playlist_cannot_name_files() -> None:
    """ffconcat would open other files; only pipes are open to it, and it is not even asked for."""
    hostile = b"ffconcat version 1.0\nfile /etc/hostname\n"
    with pytest.raises(MediaError):
        await drain(hostile, Input(("-f", "concat", "-safe", "0"), False))


async def test_ffmpeg_can_write_no_file(tmp_path: Path) -> None:
    """Decrypted audio never reaches a disk, whatever an option or a hostile input talks it into."""
    opened = input_of(WAV)
    assert opened is not None
    leak = tmp_path / "leak.raw"
    output = ("-f", "s16le", str(leak), "-map", "0:a:0", "-f", "s16le")
    with pytest.raises(MediaError):
        await _drain_run(await make_audio(5), opened, output)
    assert not leak.exists() or leak.stat().st_size == 0


async def _drain_run(audio: bytes, opened: Input, output: tuple[str, ...]) -> None:
    async with ffmpeg._run(chunks(audio), opened, output, LIMITS) as pieces:
        async for _ in pieces:
            pass
