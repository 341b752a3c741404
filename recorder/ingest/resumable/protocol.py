"""What tus 1.0.0 says in header fields: read strictly, without input and output.

https://tus.io/protocols/resumable-upload, version 1.0.0 of 2016-03-25.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from recorder.errors import FieldError, MalformedInput

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
ALGORITHMS: Final = ("sha1", "sha256")
CONTENT_TYPE: Final = "application/offset+octet-stream"
MAX_PARTS: Final = 200
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_KEY: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,120}")


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the body of one request has to hash to."""

    algorithm: str
    digest: bytes

    def hasher(self) -> Any:
        """A running hash of the algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def fits(self, hasher: Any) -> bool:
        """Whether what was fed to a `hasher` is what was announced."""
        return hmac.compare_digest(hasher.digest(), self.digest)


@dataclass(frozen=True, slots=True)
class Concat:
    """An ``Upload-Concat`` field: a partial upload, or the final one of these parts."""

    parts: tuple[uuid.UUID, ...] | None = field(default=None)

    @property
    def final(self) -> bool:
        """Whether it puts parts together."""
        return self.parts is not None


def number(name: str, value: str | None) -> int | None:
    """A header field that counts bytes; None when it is not there.

    Raises:
        MalformedInput: it is no whole number, or negative.
    """
    if value is None:
        return None
    if _NUMBER.fullmatch(value.strip()) is None:
        raise _malformed(name, "is a whole number of bytes, not negative")
    return int(value)


def metadata_pairs(value: str | None) -> list[tuple[str, bytes]]:
    """Read ``Upload-Metadata``: keys and decoded values, in order.

    Raises:
        MalformedInput: a key is empty, repeated or not ASCII, or a value is not Base64.
    """
    pairs: dict[str, bytes] = {}
    if value is None or not value.strip():
        return []
    for item in value.split(","):
        key, _, encoded = item.strip().partition(" ")
        if _KEY.fullmatch(key) is None:
            raise _malformed("Upload-Metadata", "has a key that is empty, too long or not ASCII")
        if key in pairs:
            raise _malformed("Upload-Metadata", "gives a key twice")
        try:
            pairs[key] = base64.b64decode(encoded.strip().encode(errors="surrogateescape"), validate=True)
        except (binascii.Error, ValueError):
            raise _malformed("Upload-Metadata", "holds a value that is not Base64") from None
    return list(pairs.items())


def checksum(value: str | None) -> Checksum | None:
    """Read ``Upload-Checksum``; None when it is not there.

    Raises:
        MalformedInput: another algorithm than those of ``ALGORITHMS``, or no Base64 of its length.
    """
    if value is None:
        return None
    algorithm, _, encoded = value.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise _malformed("Upload-Checksum", f"takes {' or '.join(ALGORITHMS)}")
    try:
        digest = base64.b64decode(encoded.strip().encode(errors="surrogateescape"), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("Upload-Checksum", "holds a value that is not Base64") from None
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise _malformed("Upload-Checksum", f"is not the length of a {algorithm} digest")
    return Checksum(algorithm, digest)


def concat(value: str | None, *, below: str) -> Concat | None:
    """Read ``Upload-Concat``; None when it is not there.

    Args:
        below: path under which uploads lie, with its last slash.

    Raises:
        MalformedInput: it is neither ``partial`` nor ``final;`` with addresses of uploads here.
    """
    if value is None:
        return None
    if value.strip() == "partial":
        return Concat()
    word, _, listed = value.strip().partition(";")
    if word.strip() != "final":
        raise _malformed("Upload-Concat", "is partial, or final; and the addresses of its parts")
    parts = [_upload_id(address, below) for address in listed.split()]
    if not 0 < len(parts) <= MAX_PARTS:
        raise _malformed("Upload-Concat", f"names 1 to {MAX_PARTS} parts")
    return Concat(tuple(parts))


def _upload_id(address: str, below: str) -> uuid.UUID:
    try:
        path = urlsplit(address).path
        if path.startswith(below):
            return uuid.UUID(path.removeprefix(below))
    except ValueError:
        pass
    raise _malformed("Upload-Concat", "names something that is no upload here")


def _malformed(name: str, what: str) -> MalformedInput:
    return MalformedInput(f"{name} {what}", fields=[FieldError(name, what)])
