"""Signatures of outgoing webhooks by the Standard Webhooks specification, 1.0.0 (standardwebhooks.com).

Any of its libraries verifies them: HMAC-SHA256 over ``{id}.{timestamp}.{body}``, with a secret that is
written ``whsec_`` and base64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32


def new_secret(randomness: Callable[[int], bytes]) -> str:
    """A fresh secret of 256 bits, in the form that receivers configure."""
    return PREFIX + base64.b64encode(randomness(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, sent_at: datetime, body: bytes) -> str:
    """One signature, ``v1,`` and base64.

    Args:
        secret: As :func:`new_secret` made it.
        message_id: The same at every attempt; the receiver's key to drop repeats.
        sent_at: Of this attempt.
        body: Exactly as sent.
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    text = f"{message_id}.{int(sent_at.timestamp())}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()


def headers(secrets: Sequence[str], message_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a message; with several secrets, while they rotate, each signs."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": " ".join(sign(secret, message_id, sent_at, body) for secret in secrets),
    }
