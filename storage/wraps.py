"""One wrapped secret: a version byte, a random nonce, AES-256-GCM over a short plaintext, ids as AAD.

    wrap = version[1] || nonce[12] || ciphertext || tag[16]
    AAD  = version[1] || ( u32be(length) || bytes ) for the label and for each part

Used for keys wrapped by keys and for sealed fields. The version byte is authenticated, every part is
length-prefixed (so no two lists of parts give the same AAD), and the label keeps one use apart from another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from struct import Struct
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from storage.errors import Misuse, TamperedObject

__all__ = ["KEY_SIZE", "WRAP_OVERHEAD", "WRAP_VERSION", "bind", "derive", "open_wrap", "seal_wrap"]

KEY_SIZE: Final = 32
WRAP_VERSION: Final = 1
_NONCE_SIZE: Final = 12
_TAG_SIZE: Final = 16
WRAP_OVERHEAD: Final = 1 + _NONCE_SIZE + _TAG_SIZE
_LENGTH: Final = Struct(">I")


def bind(label: str, *parts: bytes | str | int) -> bytes:
    """Return an unambiguous encoding of a label and its parts, for use as AAD or HKDF info.

    Text is UTF-8; whole numbers are unsigned 64-bit big-endian.
    """
    encoded = [label.encode("ascii")]
    for part in parts:
        if isinstance(part, str):
            encoded.append(part.encode("utf-8"))
        elif isinstance(part, int):
            encoded.append(part.to_bytes(8, "big"))
        else:
            encoded.append(part)
    return b"".join(_LENGTH.pack(len(piece)) + piece for piece in encoded)


def derive(key: bytes, info: bytes) -> bytes:
    """Return a 32-byte key for one use, HKDF-SHA256 without salt (RFC 5869) from a uniformly random key."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=None, info=info).derive(key)


def seal_wrap(
    key: bytes, plaintext: bytes, aad: bytes, *, random: Callable[[int], bytes] = os.urandom
) -> bytes:
    """Seal a short secret under a 32-byte key.

    Raises:
        Misuse: The key has the wrong length.
    """
    if len(key) != KEY_SIZE:
        raise Misuse(f"a wrapping key is {KEY_SIZE} bytes long")
    version = bytes([WRAP_VERSION])
    nonce = random(_NONCE_SIZE)
    return version + nonce + AESGCM(key).encrypt(nonce, plaintext, version + aad)


def open_wrap(key: bytes, wrapped: bytes, aad: bytes, *, what: str, object_id: UUID | None = None) -> bytes:
    """Return the secret in a wrap.

    Raises:
        TamperedObject: The version is unknown, or the wrap does not authenticate under this key and AAD.
    """
    if len(wrapped) < WRAP_OVERHEAD or wrapped[0] != WRAP_VERSION:
        raise TamperedObject(f"{what} is malformed or of an unknown version", object_id=object_id)
    try:
        return AESGCM(key).decrypt(
            wrapped[1 : 1 + _NONCE_SIZE], wrapped[1 + _NONCE_SIZE :], wrapped[:1] + aad
        )
    except InvalidTag:
        raise TamperedObject(f"{what} does not authenticate", object_id=object_id) from None
