"""Keyed identities: how a delivery is recognised without keeping what the sender called it in the clear."""

from __future__ import annotations

import json
import uuid
from typing import Any

from recorder.catalogue.subjects import blind_index
from storage.keys import Keyring


def recording_identity(
    keyring: Keyring, controller_id: uuid.UUID, source_id: uuid.UUID, external_id: str, leg: str | None
) -> bytes:
    """Digest of (source, external id, leg): the same for every delivery of one recording."""
    return blind_index(keyring, controller_id, "recording", f"{source_id}\x00{external_id}\x00{leg or ''}")


def aside_identity(keyring: Keyring, controller_id: uuid.UUID, identity: bytes, sha256: bytes) -> bytes:
    """Identity of bytes that are kept aside of the recording whose name they came under.

    Made of both, so that the same bytes are kept aside once however often they come.
    """
    return blind_index(keyring, controller_id, "aside", f"{identity.hex()}\x00{sha256.hex()}")


def call_identity(
    keyring: Keyring, controller_id: uuid.UUID, source_id: uuid.UUID, external_id: str
) -> bytes:
    """Digest of (source, call id)."""
    return blind_index(keyring, controller_id, "call", f"{source_id}\x00{external_id}")


def idempotency_digest(keyring: Keyring, controller_id: uuid.UUID, source_id: uuid.UUID, key: str) -> bytes:
    """Digest of a sender's Idempotency-Key."""
    return blind_index(keyring, controller_id, "idempotency", f"{source_id}\x00{key}")


def payload_digest(
    keyring: Keyring, controller_id: uuid.UUID, document: dict[str, Any], sha256: bytes
) -> bytes:
    """Digest of what an Idempotency-Key stands for: metadata without estimates, and the audio's digest.

    Keyed, because the metadata holds numbers: who reads the database could find them by trying all there are.
    """
    skip = set(document.get("_estimated", ()))
    told = {n: v for n, v in document.items() if not n.startswith("_") and n not in skip}
    # Sorted keys are canonical enough: only this program compares, and RFC 8785 refuses large integers.
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return blind_index(keyring, controller_id, "payload", f"{sha256.hex()}\x00{canonical}")
