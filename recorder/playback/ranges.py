"""Byte ranges and preconditions of RFC 9110: header values in, what to send out. Pure.

One range per answer. A request for several ranges is served whole, which section 14.2 allows ("a server
MAY ignore the Range header field"), because no player sends one and an answer in parts costs more than it
helps. The rules followed:

- a unit other than ``bytes`` is ignored (section 14.2), so is a value that does not parse;
- ``bytes=-0`` and a first position at or behind the end are unsatisfiable (section 14.1.2): 416;
- a last position behind the end is cut to the end (section 14.1.2);
- ``If-Range`` compares strongly (section 13.1.5): a weak tag, another tag or any date means the whole
  representation, because our representations carry no Last-Modified.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from recorder.errors import RangeNotSatisfiable

__all__ = ["ByteRange", "matches", "select_range"]

# Positions longer than this are not sizes of anything; the bound keeps int() cheap on hostile input.
_DIGITS: Final = 19
_UNIT: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SPEC: Final = re.compile(r"([0-9]*)-([0-9]*)")
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, end) of a representation of ``size`` bytes; ``partial`` when a range was asked for."""

    start: int
    end: int
    size: int
    partial: bool

    @property
    def length(self) -> int:
        """Bytes to send."""
        return self.end - self.start

    @property
    def content_range(self) -> str:
        """Value of the Content-Range field (section 14.4); only for a partial answer."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


def select_range(header: str | None, size: int, *, etag: str, if_range: str | None = None) -> ByteRange:
    """Say which bytes answer a request.

    Args:
        header: value of the Range field, or None.
        size: complete length of the representation in bytes.
        etag: its strong entity tag, quoted.
        if_range: value of the If-Range field, or None.

    Returns:
        The range, or the whole representation where the field is absent or to be ignored.

    Raises:
        RangeNotSatisfiable: the range lies outside (416).
    """
    whole = ByteRange(0, size, size, partial=False)
    if header is None:
        return whole
    if if_range is not None and if_range.strip() != etag:
        return whole
    unit, found, specs = header.strip().partition("=")
    if not found or _UNIT.fullmatch(unit) is None or unit.lower() != "bytes":
        return whole
    parts = [part.strip(" \t") for part in specs.split(",")]
    parts = [part for part in parts if part]  # empty list elements are allowed (section 5.6.1.2)
    if len(parts) != 1:
        return whole
    spec = _SPEC.fullmatch(parts[0])
    if spec is None:
        return whole
    return _resolve(spec[1], spec[2], size) or whole


def _resolve(first: str, last: str, size: int) -> ByteRange | None:
    """The range of one spec; None for a spec that is no range at all."""
    if first == "":
        if last == "":
            return None
        suffix = size if len(last.lstrip("0")) > _DIGITS else int(last)
        if suffix == 0 or size == 0:
            raise _outside(size)
        return ByteRange(max(0, size - suffix), size, size, partial=True)
    # A number too long to be a size lies behind any end.
    start = size if len(first.lstrip("0")) > _DIGITS else int(first)
    end = size if last == "" or len(last.lstrip("0")) > _DIGITS else int(last) + 1
    if last != "" and _reversed(first, last):
        return None
    if start >= size:
        raise _outside(size)
    return ByteRange(start, min(end, size), size, partial=True)


def _reversed(first: str, last: str) -> bool:
    """Whether the last position lies before the first, which makes the range invalid (section 14.1.1)."""
    first, last = first.lstrip("0"), last.lstrip("0")
    return (len(last), last) < (len(first), first)


def _outside(size: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(f"the range lies outside the {size} bytes there are", size=size)


def matches(field: str, etag: str, *, weak: bool) -> bool:
    """Whether an If-Match (strong) or If-None-Match (weak comparison) field names the tag (section 13.1).

    Args:
        field: the field's value: ``*`` or a list of entity tags.
        etag: our strong tag, quoted.
        weak: compare without the ``W/`` prefix (section 8.8.3.2).
    """
    if field.strip() == "*":
        return True
    tags = _TAG.findall(field)
    return any((tag.removeprefix("W/") if weak else tag) == etag for tag in tags)
