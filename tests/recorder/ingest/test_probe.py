"""The deep look at media: real codecs, real prompts, hostile bytes."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import subprocess
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import AuditEntry, Recording, Source
from recorder.ingest.pipeline import Intake
from recorder.ingest.probe import UNDECODABLE, Finding, Limits, check_media, look
from recorder.ingest.sniff import Hints, sniff
from recorder.playback.ffmpeg import ffmpeg_path
from recorder.playback.media import Input, input_of
from recorder.services import Services
from tests.recorder.ingest.conftest import body, encode, principal_of, request, tone
from tests.servers.prompts import Prompts

LOOK = Limits(stall_seconds=60)

CODECS: dict[str, tuple[dict[str, Any], Hints, tuple[str, str], int]] = {
    "wav16": ({}, Hints(), ("wav", "pcm_s16le"), 2),
    "wav8": ({"codec": "pcm_u8", "sample_format": "u8"}, Hints(), ("wav", "pcm_u8"), 2),
    "mulaw": ({"codec": "pcm_mulaw"}, Hints(), ("wav", "pcm_mulaw"), 2),
    "alaw": ({"codec": "pcm_alaw"}, Hints(), ("wav", "pcm_alaw"), 2),
    "raw-mulaw": (
        {"codec": "pcm_mulaw", "container": "mulaw", "channels": 1},
        Hints(extension="ulaw"),
        ("raw", "pcm_mulaw"),
        1,
    ),
    "raw-alaw": (
        {"codec": "pcm_alaw", "container": "alaw", "channels": 1},
        Hints(content_type="audio/PCMA"),
        ("raw", "pcm_alaw"),
        1,
    ),
    "g722": (
        {"codec": "g722", "container": "g722", "rate": 16000, "channels": 1},
        Hints(codec="g722"),
        ("raw", "g722"),
        1,
    ),
    "mp3": (
        {"codec": "libmp3lame", "container": "mp3", "rate": 16000, "sample_format": "s16p"},
        Hints(),
        ("mp3", "mp3"),
        2,
    ),
    "opus": ({"codec": "libopus", "container": "ogg", "rate": 16000}, Hints(), ("ogg", "opus"), 2),
    "webm": ({"codec": "libopus", "container": "webm", "rate": 16000}, Hints(), ("webm", "opus"), 2),
    "flac": ({"codec": "flac", "container": "flac"}, Hints(), ("flac", "flac"), 2),
    "amr": (
        {
            "codec": "libopencore_amrnb",
            "container": "amr",
            "channels": 1,
            "bit_rate": 12200,
        },
        Hints(),
        ("amr", "amr_nb"),
        1,
    ),
}


def opened(media: dict[str, Any]) -> Input:
    found = input_of(media)
    assert found is not None
    return found


@pytest.mark.parametrize("name", CODECS)
async def test_every_codec_is_told_and_decodes(name: str) -> None:
    options, hints, expected, channels = CODECS[name]
    data = encode(tone(2.0), **options)
    media = sniff(data, hints)
    assert (media.container, media.codec) == expected
    finding = await look(body(data), opened(media.document()), limits=LOOK)
    assert (finding.decodes, finding.codec, finding.channels, finding.errors) == (
        True,
        expected[1],
        channels,
        0,
    )
    assert finding.duration_ms is not None
    assert abs(finding.duration_ms - 2000) < 150
    if media.channels is not None:
        assert media.channels == channels


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
async def test_a_wav_without_a_size_goes_to_the_end(size: int) -> None:
    data = bytearray(encode(tone(1.0)))
    at = data.index(b"data")
    struct.pack_into("<I", data, at + 4, size)
    struct.pack_into("<I", data, 4, size)
    media = sniff(bytes(data), Hints())
    assert media.data_size is None
    finding = await look(body(bytes(data)), opened(media.document()), limits=LOOK)
    assert finding.duration_ms == 1000


async def test_real_prompts_and_wav49(prompts: Prompts) -> None:
    for kind, paths in prompts.sample(3).items():
        for path in paths:
            data = await asyncio.to_thread(path.read_bytes)
            media = sniff(data, Hints(extension=kind))
            finding = await look(body(data), opened(media.document()), limits=LOOK)
            assert finding.decodes, path
            assert finding.codec == media.codec
            if kind == "gsm":
                assert sniff(data, Hints()).codec == "gsm"  # told from its frames alone
                assert finding.duration_ms == len(data) // 33 * 20


@pytest.mark.parametrize(
    "data",
    [
        hashlib.shake_256(b"x").digest(20_000),
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\xff\xff\0\0\0\0\0\0\0\0\0\0\x10\0data\xff\xff\xff\xff",
        b"fLaC" + b"\xff" * 5000,
        b"OggS\0\x02" + b"\xff" * 5000,
        b"\x1a\x45\xdf\xa3\x9fwebm" + b"\xff" * 5000,
        b"#!AMR\n",
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + b"\0" * 100,
        b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nfile:///etc/passwd\n",
    ],
)
@pytest.mark.parametrize("demuxer", ["wav", "flac", "ogg", "matroska", "amr", "mp3"])
async def test_hostile_bytes_are_undecodable_and_nothing_else(data: bytes, demuxer: str) -> None:
    finding = await look(body(data), Input(("-f", demuxer), seekable=False), limits=LOOK)
    assert not finding.decodes or demuxer == "mp3"


async def test_a_child_over_its_limits_is_an_answer_too() -> None:
    data = encode(tone(2.0))
    small = Limits(memory_bytes=32 * 1024**2, stall_seconds=60)
    assert await look(body(data), Input(("-f", "wav"), seekable=False), limits=small) == UNDECODABLE

    async def never() -> AsyncIterator[bytes]:
        yield data[:100]
        raise RuntimeError("the store went away")

    with pytest.raises(RuntimeError):
        await look(never(), Input(("-f", "wav"), seekable=False), limits=LOOK)


async def stored(services: Services, source: Source, data: bytes, **fields: Any) -> uuid.UUID:
    outcome = await Intake(services).accept(
        request(**fields), body(data), principal=principal_of(source), request_id="r"
    )
    assert outcome.recording_id is not None
    return outcome.recording_id


async def row_of(services: Services, recording_id: uuid.UUID) -> Recording:
    async with services.database.snapshot() as session:
        return await session.get_one(Recording, recording_id)


async def test_the_look_fills_in_what_the_bytes_say(services: Services, source: Source) -> None:
    data = encode(tone(2.0), codec="libopus", container="ogg", rate=16000)
    recording_id = await stored(services, source, data)
    assert (await row_of(services, recording_id)).duration_ms is None
    finding = await check_media(services, recording_id)
    assert isinstance(finding, Finding)
    row = await row_of(services, recording_id)
    assert row.state is RecordingState.STORED
    assert row.duration_ms == finding.duration_ms
    assert row.ended_at is not None
    assert (row.media["codec"], row.media["channels"]) == ("opus", 2)


async def test_media_that_does_not_decode_moves_to_quarantine_and_back(
    services: Services, source: Source
) -> None:
    recording_id = await stored(services, source, b"fLaC" + b"\xff" * 500)
    assert (await row_of(services, recording_id)).state is RecordingState.STORED
    await check_media(services, recording_id)
    row = await row_of(services, recording_id)
    assert (row.state, row.reasons) == (RecordingState.QUARANTINED, ["media-undecodable"])
    async with services.database.snapshot() as session:
        actions = (
            await session.scalars(
                sa.select(AuditEntry.action).where(AuditEntry.object_id == str(recording_id))
            )
        ).all()
    assert "recording.quarantined" in actions


async def test_channels_that_are_not_as_said(services: Services, source: Source, wav: bytes) -> None:
    fine = await stored(services, source, wav, channels=[{"party": "agent"}, {"party": "customer"}])
    await check_media(services, fine)
    assert (await row_of(services, fine)).reasons == []
    odd = await stored(services, source, wav, external_id="2", channels=[{"party": "mixed"}], duration=60)
    await check_media(services, odd)
    row = await row_of(services, odd)
    assert row.reasons == ["media-differs:channels", "duration-differs"]
    assert row.state is RecordingState.QUARANTINED
    await check_media(services, odd)
    assert (await row_of(services, odd)).reasons == row.reasons


def test_the_ffmpeg_at_hand_decodes_gsm() -> None:
    listing = subprocess.run([ffmpeg_path(), "-hide_banner", "-decoders"], capture_output=True, check=True)
    assert b" gsm_ms" in listing.stdout
