"""Signed notes and checkpoints as C2SP specifies them: a tree head that others can check and keep.

    <origin>
    <number of entries>
    <root hash, base64>
                                        (an empty line)
    — <key name> <base64 of 4-byte key id and Ed25519 signature>

The signature covers the text up to and with the newline before the empty line, as plain Ed25519 (RFC 8032),
so stock OpenSSL checks it: docs/audit-log.md shows how. Specifications: c2sp.org/signed-note and
c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from recorder.audit.merkle import HASH_SIZE
from recorder.errors import RecorderError

_ED25519: Final = b"\x01"
_DASH: Final = "\N{EM DASH} "
_SIGNATURE: Final = 64
_KEY_ID: Final = 4
MAX_NOTE: Final = 64 * 1024
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


class BadNote(RecorderError):
    """A note is malformed, or no signature on it is the log's."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: how many entries, and their root hash."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(key: Ed25519PublicKey) -> str:
    """The log's name, which is its key's name too: unique to the installation, told by its key alone."""
    return f"tallenne/log-{hashlib.sha256(_raw(key)).hexdigest()[:16]}"


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + _raw(key)).digest()[:_KEY_ID]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """The public key as witnesses and ``sumdb/note`` tools take it: name+id+key."""
    encoded = base64.b64encode(_ED25519 + _raw(key)).decode()
    return f"{name}+{key_id(name, key).hex()}+{encoded}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The checkpoint as a signed note."""
    text = checkpoint.text()
    identity = key_id(checkpoint.origin, key.public_key())
    signature = base64.b64encode(identity + key.sign(text.encode())).decode()
    return f"{text}\n{_DASH}{checkpoint.origin} {signature}\n"


def open_note(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """Verify a note and read its checkpoint. Signatures of other keys (witnesses) are passed over.

    Raises:
        BadNote: it is malformed, of another log, or not signed by this key.
    """
    origin = origin_of(key)
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or len(note) > MAX_NOTE or not note.endswith("\n"):
        raise BadNote("the note has no signature block")
    text += "\n"
    wanted = key_id(origin, key)
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        blob = _decode(encoded)
        if not line.startswith(_DASH) or blob is None:
            raise BadNote("the note has a malformed signature line")
        if name != origin or blob[:_KEY_ID] != wanted or len(blob) != _KEY_ID + _SIGNATURE:
            continue
        try:
            key.verify(blob[_KEY_ID:], text.encode())
        except InvalidSignature:
            raise BadNote("the log's signature does not fit the note") from None
        return parse(text)
    raise BadNote("the note does not bear the log's signature")


def parse(text: str) -> Checkpoint:
    """Read the signed text of a checkpoint; further lines are extensions and are passed over.

    Raises:
        BadNote: it is malformed.
    """
    lines = text.split("\n")
    root = _decode(lines[2]) if len(lines) >= 4 else None
    if root is None or len(root) != HASH_SIZE or not lines[0] or _SIZE.fullmatch(lines[1]) is None:
        raise BadNote("the note is not a checkpoint")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root)


def _decode(encoded: str) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
