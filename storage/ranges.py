"""From a range of the plaintext to the segments and ciphertext bytes that hold it. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from storage.errors import Misuse
from storage.sealed import FIRST_PLAIN_SIZE, SEGMENT_PLAIN_SIZE, SEGMENT_SIZE, sealed_size, segment_count

__all__ = ["RangePlan", "plan_range", "segment_of"]


@dataclass(frozen=True, slots=True)
class RangePlan:
    """What to fetch for a plaintext range, and what to cut off afterwards. All sizes and offsets in bytes.

    Attributes:
        first: Number of the first segment needed.
        stop: Number after the last segment needed.
        last: Number of the object's last segment.
        cipher_start: Offset of the first byte to fetch; 0 for segment 0, so the header comes along.
        cipher_end: Offset after the last byte to fetch.
        skip: Plaintext bytes to drop at the front of the first segment.
        length: Plaintext bytes to release.
    """

    first: int
    stop: int
    last: int
    cipher_start: int
    cipher_end: int
    skip: int
    length: int

    @property
    def has_header(self) -> bool:
        """Whether the fetched bytes begin with the object's header."""
        return self.first == 0


def segment_of(offset: int) -> int:
    """Return the number of the segment that holds this plaintext offset."""
    return 0 if offset < FIRST_PLAIN_SIZE else 1 + (offset - FIRST_PLAIN_SIZE) // SEGMENT_PLAIN_SIZE


def _plain_start(number: int) -> int:
    return 0 if number == 0 else FIRST_PLAIN_SIZE + (number - 1) * SEGMENT_PLAIN_SIZE


def plan_range(size: int, start: int = 0, end: int | None = None) -> RangePlan:
    """Plan the reading of plaintext [start, end) of an object of `size` plaintext bytes.

    An empty range still names one segment: even an answer of no bytes is given only by an object that
    authenticates.

    Raises:
        Misuse: Not 0 <= start <= end <= size.
    """
    end = size if end is None else end
    if not 0 <= start <= end <= size:
        raise Misuse(f"the range {start}-{end} does not lie in an object of {size} bytes")
    last = segment_count(size) - 1
    first = min(segment_of(start), last)
    final = first if end == start else segment_of(end - 1)
    return RangePlan(
        first=first,
        stop=final + 1,
        last=last,
        cipher_start=first * SEGMENT_SIZE,
        cipher_end=min((final + 1) * SEGMENT_SIZE, sealed_size(size)),
        skip=start - _plain_start(first),
        length=end - start,
    )
