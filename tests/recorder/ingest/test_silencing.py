"""Card data is destroyed before anything is stored."""

from __future__ import annotations

import asyncio
import hashlib
import io
import uuid
from array import array
from typing import Any

import av
import pytest
import sqlalchemy as sa
from av.audio.resampler import AudioResampler

from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import AuditEntry, Recording, Source, StoredObjectRow
from recorder.errors import InvalidInput, MalformedInput
from recorder.ingest import receipts
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import Outcome, OutcomeKind
from recorder.ingest.silencing import Overwriter, destroy_spans, fixed_rate
from recorder.ingest.sniff import Hints, sniff
from recorder.services import Services
from tests.recorder.ingest.conftest import body, encode, principal_of, request, tone
from tests.recorder.ingest.test_pipeline import keys, push, read, rows
from tests.servers.prompts import Prompts

CARD = [{"from": 0.5, "to": 1.0, "reason": "card_security"}]


def decoded(data: bytes, container: str | None = None) -> tuple[int, array[int]]:
    """(rate, samples of both channels mixed)."""
    samples = array("h")
    with av.open(io.BytesIO(data), "r", format=container) as file:
        stream = file.streams.audio[0]
        resampler = AudioResampler("s16", layout="mono", rate=stream.rate)
        for frame in file.decode(stream):
            for piece in resampler.resample(frame):
                samples.frombytes(bytes(piece.planes[0])[: piece.samples * 2])
        return stream.rate, samples


def loudest(heard: tuple[int, array[int]], begin: float, end: float) -> int:
    """The largest sample between two times in seconds."""
    rate, samples = heard
    return max(abs(sample) for sample in samples[int(begin * rate) : int(end * rate)])


@pytest.mark.parametrize(
    ("options", "hints"),
    [
        ({}, Hints()),
        ({"codec": "pcm_u8", "sample_format": "u8"}, Hints()),
        ({"codec": "pcm_mulaw"}, Hints()),
        ({"codec": "pcm_alaw"}, Hints()),
        ({"codec": "pcm_mulaw", "container": "mulaw", "channels": 1}, Hints(extension="ulaw")),
    ],
)
@pytest.mark.parametrize("step", [7, 4096, 10**6])
async def test_fixed_rate_audio_is_overwritten_in_the_span_and_nowhere_else(
    options: dict[str, Any], hints: Hints, step: int
) -> None:
    data = encode(tone(2.0), **options)
    media = sniff(data, hints)
    pieces, kept = destroy_spans(body(data, step), media, [(0.5, 1.0)])
    out = b"".join([bytes(piece) async for piece in pieces])
    assert kept == media
    rate = fixed_rate(media)
    assert rate is not None
    begin, end = (rate.start + rate.unit * rate.units_a_second * n // 2 for n in (1, 2))
    assert out[:begin] == data[:begin]
    assert out[end:] == data[end:]
    assert set(out[begin:end]) == set(rate.fill)
    assert len(out) == len(data)


def test_spans_are_rounded_outwards() -> None:
    media = sniff(encode(tone(1.0)), Hints())
    rate = fixed_rate(media)
    assert rate is not None
    silenced = Overwriter(rate, [(0.1 + 1e-9, 0.2 + 1e-9)]).feed(b"\x01" * (rate.start + 8000 * 4))
    first, last = rate.start + 800 * 4, rate.start + 1601 * 4
    assert silenced[first - 1] == 1
    assert set(silenced[first:last]) == {0}
    assert silenced[last] == 1


async def test_real_gsm_prompts_keep_their_frames(prompts: Prompts) -> None:
    path = max(prompts.files["gsm"][:50], key=lambda p: p.name)
    data = (await asyncio.to_thread(path.read_bytes)) * 20
    media = sniff(data, Hints())
    pieces, _ = destroy_spans(body(data, 1000), media, [(0.51, 1.01)])
    out = b"".join([bytes(piece) async for piece in pieces])
    assert out[: 25 * 33] == data[: 25 * 33]
    assert out[51 * 33 :] == data[51 * 33 :]
    assert loudest(decoded(out, "gsm"), 0.6, 0.95) < 300


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "libmp3lame", "container": "mp3", "rate": 16000, "sample_format": "s16p"},
        {"codec": "libopus", "container": "ogg", "rate": 16000},
        {"codec": "libopus", "container": "webm", "rate": 16000},
        {"codec": "flac", "container": "flac"},
        {"codec": "g722", "container": "g722", "rate": 16000, "channels": 1},
    ],
    ids=lambda o: o["container"],
)
async def test_other_codecs_are_decoded_and_kept_as_pcm(
    services: Services, source: Source, options: dict[str, Any]
) -> None:
    data = encode(tone(2.0), **options)
    outcome = await push(Intake(services), source, request(muted=CARD, extension=options["container"]), data)
    assert outcome.recording_id is not None
    kept = await read(services, outcome.recording_id)
    assert hashlib.sha256(kept).digest() == outcome.sha256
    assert outcome.media["codec"] == "pcm_s16le"
    heard = decoded(kept)
    assert loudest(heard, 0.5, 1.0) == 0
    assert loudest(heard, 0, 0.45) > 3000
    assert loudest(heard, 1.05, 1.9) > 3000


async def test_the_receipt_names_what_was_received_and_what_is_kept(
    services: Services, intake: Intake, source: Source
) -> None:
    data = encode(tone(2.0))
    muted = [*CARD, {"from": 1.5, "to": 1.6, "reason": "health"}]

    async def deliver() -> Outcome:
        return await push(intake, source, request(muted=muted), data)

    outcome = await deliver()
    public = services.keyring.public_keys()["receipts"]
    assert outcome.receipt is not None
    payload = receipts.verify_receipt(outcome.receipt, {receipts.jwk(public)["kid"]: public})
    assert payload["sha256"] == hashlib.sha256(data).hexdigest()
    assert payload["size"] == len(data)
    assert payload["kept"] == {"sha256": outcome.sha256.hex(), "size": outcome.size}
    assert outcome.sha256 != hashlib.sha256(data).digest()
    (row,) = await rows(services, Recording)
    assert row.card_data_removed
    assert row.received_sha256 == hashlib.sha256(data).digest()
    assert row.muted[0] == {"from_ms": 500, "to_ms": 1000, "reason": "card_security"}
    assert outcome.recording_id is not None
    kept = await read(services, outcome.recording_id)
    assert loudest(decoded(kept), 0.5, 1.0) == 0
    assert loudest(decoded(kept), 1.5, 1.6) > 3000  # an overlay, not destroyed
    again = await deliver()
    assert (again.kind, again.receipt) == (OutcomeKind.REPEATED, outcome.receipt)
    (entry,) = await rows(services, AuditEntry, AuditEntry.action == "recording.stored")
    assert entry.payload.count(hashlib.sha256(data).hexdigest().encode()) == 1


@pytest.mark.parametrize("data", [hashlib.shake_256(b"n").digest(9000), b"fLaC" + b"\xff" * 9000])
async def test_what_cannot_be_silenced_is_not_kept(
    services: Services, intake: Intake, source: Source, data: bytes
) -> None:
    for strict in (True, False):
        with pytest.raises(InvalidInput):
            await push(intake, source, request(muted=CARD, strict=strict), data)
    assert await keys(services) == []
    assert await rows(services, Recording) == []


async def test_a_body_that_breaks_off_while_it_is_decoded_leaves_nothing(
    services: Services, intake: Intake, source: Source
) -> None:
    data = encode(tone(20.0), codec="flac", container="flac")

    async def broken() -> Any:
        yield data[: len(data) // 2]
        raise MalformedInput("the body broke off")

    with pytest.raises(MalformedInput):
        await intake.accept(
            request(muted=CARD), broken(), principal=principal_of(source), request_id=uuid.uuid4().hex
        )
    assert await keys(services) == []


async def test_a_span_on_a_known_size_stays_one_streaming_put(
    services: Services, intake: Intake, source: Source
) -> None:
    data = encode(tone(1.0))
    outcome = await push(intake, source, request(muted=CARD, size=len(data)), data)
    assert outcome.state is RecordingState.STORED
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(StoredObjectRow))).one()
    assert row.size == len(data)
