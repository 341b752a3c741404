"""Look for personal values in bytes, in the forms that software likes to give them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

_LEAST = 6  # shorter values would be found by chance


def forms(value: str) -> Iterator[bytes]:
    """A value as it may stand in a database, a log or a URL."""
    for text in {value, value.lower(), value.upper(), value.casefold()}:
        raw = text.encode()
        yield raw
        yield text.encode("utf-16-le")
        yield text.encode("utf-16-be")
        yield raw.hex().encode()
        yield raw.hex().upper().encode()
        yield quote(text, safe="").encode()
        yield quote_plus(text).encode()
        yield json.dumps(text)[1:-1].encode()
        yield text.encode("unicode_escape")
        yield from _base64(raw)
    yield value.encode("latin-1", "replace") if value.isascii() else value.encode("latin-1")


def _base64(raw: bytes) -> Iterator[bytes]:
    """The characters that a value alone decides, at each of the three alignments."""
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(bytes(shift) + raw + bytes(-(shift + len(raw)) % 3))
            yield encoded[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]


class Finder:
    """Finds any of many values in any of their forms."""

    def __init__(self, values: Iterable[str]) -> None:
        self.values = tuple(values)
        assert all(len(value) >= _LEAST for value in self.values)
        self._of: dict[bytes, str] = {}
        for value in self.values:
            for form in forms(value):
                self._of.setdefault(form, value)

    def found(self, where: str, data: bytes) -> list[str]:
        """What stands in these bytes: value, form and surroundings."""
        told: list[str] = []
        for form, value in self._of.items():  # faster than one large pattern
            at = data.find(form)
            if at >= 0:
                around = data[max(0, at - 60) : at + len(form) + 30]
                told.append(f"{value!r} as {form!r} in {where}: {around!r}")
        return told
