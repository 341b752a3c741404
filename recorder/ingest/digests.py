"""Digest fields (RFC 9530): reading them as structured fields (RFC 9651), and checking bytes against them.

Pure. Only `sha-256` and `sha-512` are checked; the others of the registry are insecure or unknown, and a
recipient may ignore them (RFC 9530 section 5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from recorder.errors import FieldError, MalformedInput

SIZES: Final = {"sha-256": 32, "sha-512": 64}
_MAX_FIELD: Final = 8192
# RFC 9651 section 3.2 with members of section 3.3.5 (byte sequences) and, to be able to skip the members
# of algorithms we do not know, any other bare item; parameters (section 3.1.2) are read and dropped.
_KEY: Final = re.compile(r"[a-z*][a-z0-9_.*-]*")
_BYTES: Final = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_OTHER: Final = re.compile(
    r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"|[A-Za-z*][!#$%&\'*+\-.^_`|~0-9A-Za-z:/]*'
    r"|\?[01]|@?-?[0-9]{1,15}(?:\.[0-9]{1,3})?"
)
_COMMA: Final = re.compile(r"[ \t]*,[ \t]*")


def parse_digests(value: str, *, header: str) -> dict[str, bytes]:
    """Read a ``Content-Digest`` or ``Repr-Digest`` field value.

    Args:
        value: the field's value; several fields of the name joined with commas.
        header: the field's name, for the error.

    Returns:
        The digests that can be checked, by algorithm; empty when there is none of them.

    Raises:
        MalformedInput: it is not a dictionary of byte sequences, or a digest has the wrong length.
    """
    found: dict[str, bytes] = {}
    text = value.strip(" ")
    if len(text) > _MAX_FIELD:
        raise _malformed(header, "is too long")
    at = 0
    while at < len(text):
        key = _KEY.match(text, at)
        if key is None:
            raise _malformed(header, "is not a structured dictionary (RFC 9651)")
        at = key.end()
        member: bytes | None = None
        if text.startswith("=", at):
            member, at = _item(text, at + 1, header)
        at = _parameters(text, at, header)
        name = key.group()
        if name in SIZES:
            if member is None or len(member) != SIZES[name]:
                raise _malformed(header, f"{name} is not {SIZES[name]} bytes between colons")
            found[name] = member  # the last one of a key wins, RFC 9651 section 4.2.2
        if at == len(text):
            break
        comma = _COMMA.match(text, at)
        if comma is None or comma.end() == len(text):
            raise _malformed(header, "is not a structured dictionary (RFC 9651)")
        at = comma.end()
    return found


def _item(text: str, at: int, header: str) -> tuple[bytes | None, int]:
    if (match := _BYTES.match(text, at)) is not None:
        encoded = match.group(1).rstrip("=")
        try:
            return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True), match.end()
        except binascii.Error:
            raise _malformed(header, "holds base64 that cannot be read") from None
    if (match := _OTHER.match(text, at)) is not None:
        return None, match.end()
    raise _malformed(header, "holds a value that is no byte sequence (:base64:)")


def _parameters(text: str, at: int, header: str) -> int:
    while text.startswith(";", at):
        at += 1
        while text.startswith(" ", at):
            at += 1
        key = _KEY.match(text, at)
        if key is None:
            raise _malformed(header, "holds a malformed parameter")
        at = key.end()
        if text.startswith("=", at):
            _, at = _item(text, at + 1, header)
    return at


def _malformed(header: str, what: str) -> MalformedInput:
    return MalformedInput(f"{header} {what}", fields=[FieldError(header, what)])


@dataclass(slots=True)
class DigestCheck:
    """Digests that a sender announced, and hashers that are fed with what really arrives.

    Attributes:
        announced: (header, algorithm, digest); the same algorithm may stand in two headers.
    """

    announced: list[tuple[str, str, bytes]] = field(default_factory=list)
    _hashers: dict[str, Any] = field(default_factory=dict)
    _shared: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Iterable[tuple[str, str | None]]) -> DigestCheck:
        """Read header fields, given as (name, value or None).

        Raises:
            MalformedInput: one of them cannot be read.
        """
        check = cls()
        for header, value in fields:
            if value is not None:
                for algorithm, digest in parse_digests(value, header=header).items():
                    check.announced.append((header, algorithm, digest))
        return cls.expecting(check.announced)

    @classmethod
    def expecting(cls, announced: Iterable[tuple[str, str, bytes]]) -> DigestCheck:
        """Expect digests that are known already, as (where from, ``sha-256`` or ``sha-512``, digest)."""
        check = cls(announced=list(announced))
        for _, algorithm, _ in check.announced:
            check._hashers.setdefault(algorithm, hashlib.new(algorithm.replace("-", "")))
        return check

    def share(self, algorithm: str, hasher: Any) -> None:
        """Compare with a hasher that somebody else feeds with the whole of the same bytes."""
        if self._hashers.pop(algorithm, None) is not None:
            self._shared[algorithm] = hasher

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Feed the next bytes of the body."""
        for hasher in self._hashers.values():
            hasher.update(chunk)

    def mismatched(self) -> tuple[str, ...]:
        """Headers whose digest is not that of the bytes fed."""
        hashers = {**self._hashers, **self._shared}
        wrong = [
            header
            for header, algorithm, digest in self.announced
            if not hmac.compare_digest(hashers[algorithm].digest(), digest)
        ]
        return tuple(dict.fromkeys(wrong))

    @property
    def sha256(self) -> bytes | None:
        """The SHA-256 that was announced, if one was."""
        return next((digest for _, algorithm, digest in self.announced if algorithm == "sha-256"), None)
