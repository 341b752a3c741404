"""What is pushed and played: PCM WAV bodies of an exact size, different each time."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator

_HEADER = 44
_PIECE = 256 * 1024


def wav_header(size: int) -> bytes:
    """Header of a stereo 16-bit 8 kHz WAV file of ``size`` bytes in all."""
    data = size - _HEADER
    return (
        b"RIFF"
        + struct.pack("<I", (size - 8) & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 2, 8000, 32000, 4, 16)
        + b"data"
        + struct.pack("<I", data & 0xFFFFFFFF)
    )


def wav(size: int) -> bytes:
    """A WAV file of random samples."""
    return wav_header(size) + os.urandom(size - _HEADER)


async def wav_stream(size: int) -> AsyncIterator[bytes]:
    """A WAV file as a stream, in pieces of 256 KiB, without ever being whole."""
    yield wav_header(size)
    left = size - _HEADER
    piece = os.urandom(_PIECE)
    while left:
        yield piece[: min(left, _PIECE)]
        left -= min(left, _PIECE)
