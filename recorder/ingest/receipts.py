"""Signed receipts: a sender may delete its copy against one.

A receipt is a compact JWS (RFC 7515) signed with EdDSA over Ed25519 (RFC 8037). Its payload says which
bytes were taken in, when, and under which id; the key is published with its thumbprint as ``kid``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jwt
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWS

from storage.keys import Keyring

TYPE: Final = "recording-receipt+jws"
_KEY_NAME: Final = "receipts"


class ReceiptInvalid(ValueError):
    """A receipt that this service did not sign, or that was altered."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is acknowledged.

    Attributes:
        id: the recording.
        sha256: of the bytes received.
        size: bytes received.
        received_at: when the whole of them had arrived.
        kept_sha256: of what is kept, where card data was destroyed at ingest; else None.
        kept_size: its size in bytes.
    """

    id: uuid.UUID
    sha256: bytes
    size: int
    received_at: datetime
    kept_sha256: bytes | None = None
    kept_size: int | None = None

    def payload(self) -> dict[str, Any]:
        """The JSON that is signed."""
        document: dict[str, Any] = {
            "id": str(self.id),
            "sha256": self.sha256.hex(),
            "size": self.size,
            "received_at": self.received_at.astimezone(UTC).isoformat(timespec="microseconds"),
        }
        if self.kept_sha256 is not None:
            document["kept"] = {"sha256": self.kept_sha256.hex(), "size": self.kept_size}
        return document


def jwk(public: Ed25519PublicKey) -> dict[str, str]:
    """The public key as a JWK (RFC 8037), with its RFC 7638 thumbprint as ``kid``."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    members = {"crv": "Ed25519", "kty": "OKP", "x": _b64(raw)}
    thumbprint = _b64(hashlib.sha256(rfc8785.dumps(members)).digest())
    return {**members, "kid": thumbprint, "alg": "EdDSA", "use": "sig"}


def sign_receipt(keyring: Keyring, receipt: Receipt) -> str:
    """Return the receipt as a compact JWS; the same receipt always gives the same text."""
    private = keyring.signing_key(_KEY_NAME)
    return PyJWS().encode(
        rfc8785.dumps(receipt.payload()),
        private,
        algorithm="EdDSA",
        headers={"typ": TYPE, "kid": jwk(private.public_key())["kid"]},
    )


def verify_receipt(token: str, keys: Mapping[str, Ed25519PublicKey]) -> dict[str, Any]:
    """Check a receipt and return its payload.

    Args:
        token: the compact JWS.
        keys: public keys by ``kid``.

    Raises:
        ReceiptInvalid: another type, key or algorithm, or a signature that does not fit.
    """
    try:
        header = jwt.get_unverified_header(token)
        key = keys.get(str(header.get("kid")))
        if key is None or header.get("typ") != TYPE:
            raise ReceiptInvalid("no receipt of a key that is known here")
        raw = PyJWS().decode(token, key, algorithms=["EdDSA"])
        payload = json.loads(raw)
    except (jwt.InvalidTokenError, ValueError) as error:
        raise ReceiptInvalid("the receipt does not verify") from error
    if not isinstance(payload, dict):
        raise ReceiptInvalid("the receipt holds no object")
    return payload


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
