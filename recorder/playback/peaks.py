"""The drawn wave: smallest and largest sample per pixel and channel, in constant memory. Pure."""

from __future__ import annotations

import json
import sys
from array import array
from typing import Final

from recorder.playback.editing import Layout

__all__ = ["MAX_PIXELS", "PEAKS_VERSION", "PeakReducer"]

PEAKS_VERSION: Final = 1
MAX_PIXELS: Final = 8192
"""A longer call gets coarser pixels: whenever this many are full, neighbours are joined."""

_FIRST_PIXELS_A_SECOND: Final = 100


class PeakReducer:
    """Takes raw 16-bit PCM in and gives peaks out, whatever the length.

    Args:
        layout: how the PCM is laid out.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._samples_per_pixel = max(1, layout.rate // _FIRST_PIXELS_A_SECOND)
        self._pixels: list[list[int]] = [[] for _ in range(layout.channels)]  # min, max, min, max, ...
        self._rest = b""
        self._frames = 0

    def feed(self, pcm: bytes) -> None:
        """Take the next bytes, which may end anywhere."""
        pcm = self._rest + pcm
        position, size = 0, self._samples_per_pixel * self._layout.frame_bytes
        while len(pcm) - position >= size:
            self._pixel(pcm[position : position + size])
            position += size
            if len(self._pixels[0]) >= 2 * MAX_PIXELS:
                self._halve()
                size = self._samples_per_pixel * self._layout.frame_bytes
        self._rest = pcm[position:]

    @property
    def milliseconds(self) -> int:
        """Length of what was taken in."""
        return self._frames * 1000 // self._layout.rate

    def finish(self) -> bytes:
        """The peaks as JSON.

        ``channels`` holds, for each channel, ``length`` pairs of smallest and largest sample, flat, as
        integers from -128 to 127; ``samples_per_pixel`` counts samples at ``sample_rate``.
        """
        whole = len(self._rest) - len(self._rest) % self._layout.frame_bytes
        if whole:
            self._pixel(self._rest[:whole])
            self._rest = b""
        document = {
            "version": PEAKS_VERSION,
            "bits": 8,
            "sample_rate": self._layout.rate,
            "samples_per_pixel": self._samples_per_pixel,
            "length": len(self._pixels[0]) // 2,
            "duration_ms": self.milliseconds,
            "channels": self._pixels,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def _pixel(self, pcm: bytes) -> None:
        samples = array("h", pcm)
        if sys.byteorder == "big":
            samples.byteswap()
        step = self._layout.channels
        for channel, pixels in enumerate(self._pixels):
            own = samples[channel::step]
            pixels.append(min(own) >> 8)
            pixels.append(max(own) >> 8)
        self._frames += len(samples) // step

    def _halve(self) -> None:
        self._samples_per_pixel *= 2
        for channel, pixels in enumerate(self._pixels):
            low, high = pixels[::2], pixels[1::2]
            joined: list[int] = []
            for index in range(0, len(low), 2):
                joined += (min(low[index : index + 2]), max(high[index : index + 2]))
            self._pixels[channel] = joined
