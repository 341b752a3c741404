"""Certificates of erasure and entries of the erasure ledger: signed, and without personal data.

Both are compact JWS (RFC 7515) with EdDSA over Ed25519 (RFC 8037) on the JCS form (RFC 8785) of a document.
docs/erasure.md lists the members.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt import PyJWS

from recorder.catalogue.tables import Erasure, ErasureItem
from recorder.ingest.receipts import jwk
from storage.keys import Keyring

CERTIFICATE_TYPE: Final = "erasure-certificate+jws"
LEDGER_TYPE: Final = "erasure-ledger+jws"
FORMAT: Final = 1
_KEY_NAME: Final = "certificates"


class SignatureInvalid(ValueError):
    """A document that this service did not sign, or that was altered since."""


def sign(keyring: Keyring, document: Mapping[str, Any], *, kind: str) -> str:
    """Return the document as a compact JWS; the same document always gives the same text."""
    private = keyring.signing_key(_KEY_NAME)
    return PyJWS().encode(
        rfc8785.dumps(dict(document)),
        private,
        algorithm="EdDSA",
        headers={"typ": kind, "kid": jwk(private.public_key())["kid"]},
    )


def verify(token: str | bytes, public: Ed25519PublicKey, *, kind: str) -> dict[str, Any]:
    """Check a signed document and return it.

    Raises:
        SignatureInvalid: another type, key or algorithm, or a signature that does not fit.
    """
    try:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != kind or header.get("kid") != jwk(public)["kid"]:
            raise SignatureInvalid("signed by another key, or something else")
        document = json.loads(PyJWS().decode(token, public, algorithms=["EdDSA"]))
    except (jwt.InvalidTokenError, ValueError) as error:
        raise SignatureInvalid("the signature does not fit the document") from error
    if not isinstance(document, dict):
        raise SignatureInvalid("the document is not an object")
    return document


def certificate_document(
    certificate_id: uuid.UUID,
    erasure: Erasure,
    items: Sequence[ErasureItem],
    *,
    copies: Mapping[str, Any],
    backup_window: timedelta,
    now: datetime,
) -> dict[str, Any]:
    """What is certified: every object and version, key ids, times, ground, who asked, what stays and why.

    Args:
        copies: what else held the same voice and went with it: ``packages`` of copies by id, unfinished
            ``uploads`` and ``spooled`` pushes in number.
        backup_window: how long backups of the database are kept; none made before the keys were destroyed
            exists afterwards.
    """
    times: dict[str, str] = dict(erasure.detail.get("times", {}))
    destroyed = datetime.fromisoformat(times["destroy_keys"])
    return {
        "v": FORMAT,
        "id": str(certificate_id),
        "erasure": str(erasure.id),
        "controller": str(erasure.controller_id),
        "ground": str(erasure.ground),
        "scope": erasure.scope,
        "customer": None if erasure.customer_id is None else str(erasure.customer_id),
        "requested_by": anonymous(erasure.requested_by),
        "requested_at": text(erasure.requested_at),
        "times": times,
        "subject_keys": list(erasure.detail.get("subject_keys", [])),
        "recordings": [
            {
                "id": str(item.recording_id),
                "outcome": item.outcome,
                "code": item.detail.get("code", ""),
                "until": item.detail.get("until", ""),
                "objects": list(item.detail.get("objects", [])),
            }
            for item in sorted(items, key=lambda i: i.recording_id)
        ],
        "copies": dict(copies),
        "backups_expire_on": text(destroyed + backup_window),
        "issued_at": text(now),
    }


def anonymous(actor: str) -> str:
    """An actor without the name of an operating-system user, which is a person's."""
    return "os" if actor.startswith("os:") else actor


def text(moment: datetime) -> str:
    """RFC 3339 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
