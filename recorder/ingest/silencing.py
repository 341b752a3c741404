"""Card security codes are destroyed before anything is stored (PCI DSS 3.3.1).

Where a second of audio is a fixed number of bytes (PCM, mu-law, A-law, GSM 06.10), the spans are
overwritten as they pass and everything else stays byte for byte. Other codecs are decoded through ffmpeg's
pipes, silenced to the sample and kept as 16-bit PCM in WAV. Constant memory, nothing on disk.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from recorder.errors import InvalidInput
from recorder.ingest.metadata import CARD_SECURITY, MutedSpan
from recorder.ingest.sniff import Media
from recorder.playback.editing import Layout
from recorder.playback.ffmpeg import MediaError, decode, ffmpeg_path
from recorder.playback.media import input_of, pcm_layout

# What silence is, byte for byte, in each codec. A frame of GSM 06.10 silence is 33 bytes (20 ms).
_SILENCE: Final[dict[str, bytes]] = {
    "pcm_u8": b"\x80",
    "pcm_s16le": b"\x00",
    "pcm_s24le": b"\x00",
    "pcm_s32le": b"\x00",
    "pcm_f32le": b"\x00",
    "pcm_f64le": b"\x00",
    "pcm_mulaw": b"\xff",
    "pcm_alaw": b"\xd5",
    "gsm": bytes.fromhex("d820a2e15a50004924924924500049249249245000492492492450004924924924"),
}
_GSM_FRAME: Final = 33
_GSM_FRAMES_A_SECOND: Final = 50
_WAV_TO_THE_END: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FixedRate:
    """Audio in which time and bytes are proportional.

    Attributes:
        start: offset of the first byte of audio.
        unit: bytes of one unit: a sample of every channel, or a codec's frame.
        units_a_second: how many of them a second has.
        fill: what silence is; repeats inside a unit.
    """

    start: int
    unit: int
    units_a_second: int
    fill: bytes

    def duration_ms(self, end: int) -> int:
        """Length of the audio that ends at byte offset ``end``, in milliseconds."""
        return max(0, end - self.start) // self.unit * 1000 // self.units_a_second


def card_spans(muted: Sequence[MutedSpan]) -> tuple[tuple[float, float], ...]:
    """The spans to destroy, in seconds from the start."""
    return tuple((span.from_, span.to) for span in muted if span.reason == CARD_SECURITY)


def fixed_rate(media: Media) -> FixedRate | None:
    """How time maps to bytes, or None for a codec in which it does not."""
    if media.data_start is None or media.codec not in _SILENCE:
        return None
    if media.codec == "gsm":
        if media.container != "raw":
            return None
        return FixedRate(media.data_start, _GSM_FRAME, _GSM_FRAMES_A_SECOND, _SILENCE["gsm"])
    if not media.block or not media.sample_rate:
        return None
    return FixedRate(media.data_start, media.block, media.sample_rate, _SILENCE[media.codec])


class Overwriter:
    """Overwrites spans of a stream with silence, as it passes."""

    def __init__(self, rate: FixedRate, spans: Sequence[tuple[float, float]]) -> None:
        self._rate = rate
        self._at = 0
        # Rounded outwards to whole units: better a sample too much than one too few.
        self._ranges = [
            (
                rate.start + int(begin * rate.units_a_second) * rate.unit,
                rate.start + -int(-end * rate.units_a_second // 1) * rate.unit,
            )
            for begin, end in spans
        ]

    def feed(self, chunk: bytes | bytearray) -> bytes | bytearray:
        """Return the next bytes of the stream with what lies in a span overwritten."""
        first, last = self._at, self._at + len(chunk)
        self._at = last
        hit = [(max(a, first), min(b, last)) for a, b in self._ranges if a < last and b > first]
        if not hit:
            return chunk
        edited = bytearray(chunk)
        fill = self._rate.fill
        for begin, end in hit:
            phase = (begin - self._rate.start) % len(fill)
            length = end - begin
            pattern = (fill * (length // len(fill) + 2))[phase : phase + length]
            edited[begin - first : end - first] = pattern
        return edited


def destroy_spans(
    body: AsyncIterable[bytes | bytearray], media: Media, spans: Sequence[tuple[float, float]]
) -> tuple[AsyncIterator[bytes | bytearray], Media]:
    """Return the stream without the spans' sound, and what media that is.

    Raises:
        InvalidInput: the media is of a kind that cannot be decoded, so the spans cannot be destroyed and
            nothing may be kept; also while iterating.
    """
    rate = fixed_rate(media)
    if rate is not None:
        return _overwritten(body, Overwriter(rate, spans)), media
    opened = input_of(media.document())
    if not media.known or opened is None:
        raise _refused()
    layout = pcm_layout(media.document())
    kept = Media(
        "wav",
        "pcm_s16le",
        layout.rate,
        layout.channels,
        "audio/wav",
        "bytes",
        data_start=44,
        data_size=None,
        block=layout.frame_bytes,
    )

    async def decoded() -> AsyncIterator[bytes | bytearray]:
        overwriter = Overwriter(FixedRate(44, layout.frame_bytes, layout.rate, b"\x00"), spans)
        yield overwriter.feed(wav_header(layout))
        try:
            await asyncio.to_thread(ffmpeg_path)  # found on the disk once, then remembered
            async with decode(_plain(body), opened, layout) as pieces:
                async for piece in pieces:
                    yield overwriter.feed(piece)
        except MediaError:
            raise _refused() from None

    return decoded(), kept


def wav_header(layout: Layout) -> bytes:
    """The header of 16-bit PCM of a length that is not known yet: both sizes mean "to the end"."""
    byte_rate = layout.rate * layout.frame_bytes
    form = struct.pack("<HHIIHH", 1, layout.channels, layout.rate, byte_rate, layout.frame_bytes, 16)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", _WAV_TO_THE_END, b"WAVE", b"fmt ", len(form))
        + form
        + struct.pack("<4sI", b"data", _WAV_TO_THE_END)
    )


async def _overwritten(
    body: AsyncIterable[bytes | bytearray], overwriter: Overwriter
) -> AsyncIterator[bytes | bytearray]:
    async for chunk in body:
        yield overwriter.feed(chunk)


async def _plain(body: AsyncIterable[bytes | bytearray]) -> AsyncIterator[bytes]:
    async for chunk in body:
        yield bytes(chunk)


def _refused() -> InvalidInput:
    return InvalidInput(
        "the recording has card data in spans that cannot be destroyed in this kind of audio, so nothing was "
        "kept; send PCM, or leave the span out before sending"
    )
