"""Recordings that a sender encrypted to us: AES-256-GCM, its key wrapped with RSAES-OAEP (RFC 8017)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from recorder.ingest.secrets import KEY_PREFIX
from recorder.outgoing.client import FetchFailed

_TAG: Final = 16


def content_key(encryption: Mapping[str, str], secrets: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The key and the nonce of one recording.

    Args:
        encryption: ``key`` names the source's secret ``key:NAME``; ``cek`` and ``iv`` are base64.

    Raises:
        FetchFailed: ``no-key`` when the private key is not among the secrets; ``bad-key`` when it does not
            fit what is wrapped.
    """
    pem = secrets.get(KEY_PREFIX + encryption.get("key", ""))
    if pem is None:
        raise FetchFailed("no-key", "the private key of this recording is not among the source's secrets")
    try:
        private = serialization.load_pem_private_key(pem.encode(), password=None)
        wrapped = base64.b64decode(encryption.get("cek", ""), validate=True)
        nonce = base64.b64decode(encryption.get("iv", ""), validate=True)
        if not isinstance(private, rsa.RSAPrivateKey) or not 8 <= len(nonce) <= 128:
            raise ValueError
        sha256 = hashes.SHA256()
        key = private.decrypt(wrapped, padding.OAEP(padding.MGF1(sha256), sha256, label=None))
    except (ValueError, TypeError, binascii.Error):
        raise FetchFailed("bad-key", "the recording's key cannot be unwrapped") from None
    if len(key) != 32:
        raise FetchFailed("bad-key", "the recording's key is not of 256 bits")
    return key, nonce


async def decrypted(chunks: AsyncIterable[bytes], key: bytes, nonce: bytes) -> AsyncIterator[bytes]:
    """What AES-256-GCM hides in ``chunks``, whose last 16 bytes are the tag.

    The bytes are handed out before the tag is known. Whoever takes them must keep nothing until the iterator
    has ended without an error: `recorder.ingest.pipeline` commits only then.

    Raises:
        FetchFailed: ``wrong-tag`` at the end, when the bytes are not what was encrypted.
    """
    cipher = Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor()
    held = b""
    async for chunk in chunks:
        held += chunk
        if len(held) > _TAG:
            plain = cipher.update(held[:-_TAG])
            held = held[-_TAG:]
            if plain:
                yield plain
    try:
        cipher.finalize_with_tag(held)
    except (InvalidTag, ValueError):
        raise FetchFailed("wrong-tag", "the recording is not what was encrypted") from None
