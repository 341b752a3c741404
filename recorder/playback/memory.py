"""What is remembered of listens that are under way: where their ciphertext lies, and nothing that opens it.

All of it is a hint. It says which rows to ask for and which bytes to fetch meanwhile; whether the next range
may go out is asked of the catalogue every time (`recorder.playback.continuing`). Keys are never in here.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from retention.model import Purpose

__all__ = ["KnownListen", "Memory"]

_MOST: Final = 4096
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class KnownListen:
    """A listen as its last range left it.

    Attributes:
        rendition: as it was asked for.
        key: where the sealed object lies.
        size: plaintext bytes.
        etag: entity tag of the object.
    """

    listen_id: uuid.UUID
    recording_id: uuid.UUID
    purpose: Purpose
    rendition: str
    object_id: uuid.UUID
    key: str
    version_id: str | None
    size: int
    etag: str


class Recent(Generic[_K, _V]):
    """The last few thousand values that were used."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._values: OrderedDict[_K, _V] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        """What is remembered under a key."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: _K, value: _V) -> None:
        """Remember it; the one longest unused goes."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def drop(self, key: _K) -> None:
        """Forget it."""
        self._values.pop(key, None)


class Memory:
    """The hints of one process.

    Attributes:
        listens: by who asked (a digest of their credential) and by what they asked for, word for word.
    """

    def __init__(self) -> None:
        self.listens: Recent[tuple[object, str], KnownListen] = Recent()
