"""A source that may push, and deliveries of real audio."""

from __future__ import annotations

import io
import uuid
from array import array
from collections.abc import AsyncIterator
from typing import Any, cast

import av
import pytest
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from recorder.catalogue.tables import Controller, Source
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.services import Services


async def make_source(
    services: Services,
    controller: Controller,
    name: str = "pbx",
    *,
    basis: LawfulBasis | None = LawfulBasis.CUSTOMER_RELATIONSHIP,
    max_bytes: int | None = None,
    media: dict[str, Any] | None = None,
) -> Source:
    source = Source(
        id=uuid.uuid4(),
        controller_id=controller.id,
        name=name,
        kind="generic",
        default_lawful_basis=basis,
        default_media=media,
        max_bytes=max_bytes,
        settings={},
        enabled=True,
        created_at=services.clock.now(),
    )
    async with services.database.transaction() as session:
        session.add(source)
    return source


def principal_of(source: Source) -> Principal:
    grant = Grant(Role.TELEPHONY, source.controller_id, ScopeKind.CONTROLLER)
    return Principal("source", str(source.id), source.controller_id, grants=(grant,), source_id=source.id)


@pytest.fixture
async def source(services: Services, controller: Controller) -> Source:
    return await make_source(services, controller)


@pytest.fixture
async def intake(services: Services) -> AsyncIterator[Intake]:
    intake = Intake(services)
    yield intake
    await services.uploads.drain()


def metadata(**fields: Any) -> RecordingMetadata:
    document = {"external_id": "call-1", "started_at": "2026-03-05T09:00:00+02:00", **fields}
    return RecordingMetadata.model_validate(document)


def request(**fields: Any) -> IngestRequest:
    options = {n: fields.pop(n) for n in list(fields) if n in IngestRequest.__dataclass_fields__}
    return IngestRequest(metadata=metadata(**fields), **options)


async def body(data: bytes, step: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


def tone(seconds: float = 0.5, rate: int = 8000) -> array[int]:
    """Interleaved stereo: a square wave that is nowhere zero, so that silence shows."""
    frames = int(seconds * rate)
    return array("h", [v for i in range(frames) for v in ((9000, 7000) if i // 10 % 2 else (-9000, -7000))])


def encode(
    samples: array[int],
    *,
    codec: str = "pcm_s16le",
    container: str = "wav",
    rate: int = 8000,
    channels: int = 2,
    sample_format: str = "s16",
    bit_rate: int | None = None,
) -> bytes:
    out = io.BytesIO()
    layout = "stereo" if channels == 2 else "mono"
    with av.open(out, "w", format=container) as file:
        stream = cast("AudioStream", file.add_stream(codec, rate=rate, layout=layout, format=sample_format))
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        stream.codec_context.open()
        resampler = AudioResampler(
            sample_format, layout, rate, frame_size=stream.codec_context.frame_size or 0
        )
        frame = AudioFrame(format="s16", layout="stereo", samples=len(samples) // 2)
        frame.sample_rate = 8000
        frame.pts = 0
        frame.planes[0].update(samples.tobytes())
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(piece))
        file.mux(stream.encode(None))
    return out.getvalue()


@pytest.fixture(scope="session")
def wav() -> bytes:
    return encode(tone())
