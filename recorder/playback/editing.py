"""Edits raw audio in memory with pydub: the one module that imports it.

Pieces are raw interleaved PCM of a minute at most, so that memory stays bounded whatever the length of a
call. pydub writes temporary files when it exports or opens a container; from raw samples it never does,
and nothing else of it is used. The calls are synchronous: run them in a thread.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

with warnings.catch_warnings():
    # pydub complains on import when there is no ffmpeg on PATH; it is never asked to run one.
    warnings.simplefilter("ignore")
    from pydub import AudioSegment

__all__ = ["MAX_PIECE_SECONDS", "SAMPLE_WIDTH", "Layout", "loudest", "silence", "silence_channels"]

MAX_PIECE_SECONDS: Final = 60
SAMPLE_WIDTH: Final = 2
"""Bytes of a sample: signed 16-bit little-endian, what every telephony codec fits into."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How raw audio is laid out: frames a second and samples a frame."""

    rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return SAMPLE_WIDTH * self.channels


def silence(pcm: bytes, layout: Layout, covered: Sequence[tuple[int, int]]) -> bytes:
    """Replace stretches of every channel by digital silence, exact to the sample.

    Args:
        pcm: whole frames, at most a minute of them.
        layout: their layout.
        covered: ranges [start, end) of frames inside the piece.

    Returns:
        As many bytes as came in.

    Raises:
        ValueError: the piece is too long or ends inside a frame.
    """
    if len(pcm) > MAX_PIECE_SECONDS * layout.rate * layout.frame_bytes or len(pcm) % layout.frame_bytes:
        raise ValueError("a piece is at most a minute of whole frames")
    audio = _segment(pcm, layout)
    for start, end in covered:
        gap = _segment(bytes((end - start) * layout.frame_bytes), layout)
        before = audio.get_sample_slice(0, start)
        after = audio.get_sample_slice(end, int(audio.frame_count()))
        audio = before.append(gap, crossfade=0).append(after, crossfade=0)
    return bytes(audio.raw_data)


def loudest(pcm: bytes, layout: Layout) -> float:
    """Level of the largest sample of all channels, in dB below full scale; minus infinity where all is zero.

    Args:
        pcm: whole frames, at most a minute of them.
        layout: their layout.

    Raises:
        ValueError: the piece is too long or ends inside a frame.
    """
    if len(pcm) > MAX_PIECE_SECONDS * layout.rate * layout.frame_bytes or len(pcm) % layout.frame_bytes:
        raise ValueError("a piece is at most a minute of whole frames")
    return float(_segment(pcm, layout).max_dBFS) if pcm else -math.inf


def silence_channels(pcm: bytes, layout: Layout, channels: Collection[int]) -> bytes:
    """Replace whole channels by digital silence; the others stay as they are, to the sample.

    Args:
        pcm: whole frames, at most a minute of them.
        layout: their layout.
        channels: numbers of the channels to silence, from 0.

    Returns:
        As many bytes as came in.

    Raises:
        ValueError: the piece is too long or ends inside a frame, or there is no such channel.
    """
    if len(pcm) > MAX_PIECE_SECONDS * layout.rate * layout.frame_bytes or len(pcm) % layout.frame_bytes:
        raise ValueError("a piece is at most a minute of whole frames")
    if not all(0 <= channel < layout.channels for channel in channels):
        raise ValueError("there is no such channel")
    if not pcm:
        return b""
    mono = Layout(layout.rate, 1)
    voices = [
        _segment(bytes(len(voice.raw_data)), mono) if number in channels else voice
        for number, voice in enumerate(_segment(pcm, layout).split_to_mono())
    ]
    return bytes(AudioSegment.from_mono_audiosegments(*voices).raw_data)


def _segment(pcm: bytes, layout: Layout) -> AudioSegment:
    return AudioSegment(data=pcm, sample_width=SAMPLE_WIDTH, frame_rate=layout.rate, channels=layout.channels)
