"""Demo audio into the codecs that telephony systems send, in memory, through PyAV."""

from __future__ import annotations

import io
from array import array
from dataclasses import dataclass
from typing import Any, Final

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream


@dataclass(frozen=True, slots=True)
class Coding:
    """One way to deliver a call's audio.

    Attributes:
        codec: libav encoder.
        container: libav muxer.
        rate: samples a second.
        channels: 2 keeps the parties apart; 1 mixes them.
        sample_format: what the encoder wants.
        content_type: media type as a sender would say it.
        suffix: file name extension.
        bit_rate: bits a second, where the codec has a choice.
        media: ``metadata.media`` of a headerless format, which nothing in the bytes tells.
    """

    codec: str
    container: str
    rate: int
    channels: int
    sample_format: str
    content_type: str
    suffix: str
    bit_rate: int | None = None
    media: dict[str, Any] | None = None


WAV_PCM16: Final = Coding("pcm_s16le", "wav", 16_000, 2, "s16", "audio/wav", "wav")
WAV_PCM16_8K: Final = Coding("pcm_s16le", "wav", 8_000, 2, "s16", "audio/wav", "wav")
WAV_PCM8: Final = Coding("pcm_u8", "wav", 8_000, 2, "u8", "audio/wav", "wav")
WAV_MULAW: Final = Coding("pcm_mulaw", "wav", 8_000, 2, "s16", "audio/wav", "wav")
WAV_ALAW: Final = Coding("pcm_alaw", "wav", 8_000, 2, "s16", "audio/wav", "wav")
G722: Final = Coding(
    "g722", "g722", 16_000, 1, "s16", "audio/G722", "g722",
    media={"codec": "g722", "sample_rate": 16_000, "channels": 1},
)  # fmt: skip
MP3: Final = Coding("libmp3lame", "mp3", 16_000, 2, "s16p", "audio/mpeg", "mp3", 48_000)
OPUS: Final = Coding("libopus", "ogg", 16_000, 2, "s16", "audio/ogg", "opus", 32_000)
WEBM: Final = Coding("libopus", "webm", 16_000, 2, "s16", "audio/webm", "webm", 32_000)
FLAC: Final = Coding("flac", "flac", 16_000, 2, "s16", "audio/flac", "flac")
AMR: Final = Coding("libopencore_amrnb", "amr", 8_000, 1, "s16", "audio/AMR", "amr", 12_200)


def encode(samples: array[int], rate: int, coding: Coding) -> bytes:
    """Return interleaved 16-bit stereo samples as a file of the coding.

    The same samples give the same bytes: muxers are told not to invent serial numbers.
    """
    out = io.BytesIO()
    layout = "stereo" if coding.channels == 2 else "mono"
    with av.open(out, "w", format=coding.container, options={"fflags": "+bitexact"}) as container:
        options: dict[str, Any] = {"layout": layout, "format": coding.sample_format}
        stream = container.add_stream(coding.codec, rate=coding.rate, **options)
        assert isinstance(stream, AudioStream)  # noqa: S101  # every codec above is one of audio
        stream.codec_context.flags |= _BITEXACT
        if coding.bit_rate is not None:
            stream.bit_rate = coding.bit_rate
        stream.codec_context.open()
        resampler = AudioResampler(
            coding.sample_format, layout, coding.rate, frame_size=stream.codec_context.frame_size or 0
        )
        frame = AudioFrame(format="s16", layout="stereo", samples=len(samples) // 2)
        frame.sample_rate = rate
        frame.pts = 0
        frame.planes[0].update(samples.tobytes())
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()


_BITEXACT: Final = 1 << 23  # AV_CODEC_FLAG_BITEXACT: no version of the encoder in the output
