"""The erasure ledger: one signed object per erasure, beside the log's checkpoints in the object store.

A database restored from a backup does not know what was erased after it was made. The ledger does: it is
replayed before a restored service answers anyone. Entries hold random ids and keyed hashes only.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from recorder.catalogue.tables import Erasure
from recorder.disposition.certificates import FORMAT, LEDGER_TYPE, SignatureInvalid, sign, text, verify
from recorder.errors import Corrupt
from recorder.services import Services
from storage.errors import ObjectMissing

PREFIX: Final = "ledger/"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One erasure as the ledger remembers it.

    Attributes:
        subjects: subjects whose keys were destroyed.
        recordings: ``{id, source, identity (hex), objects: [{id, key}]}`` of what went.
    """

    erasure_id: uuid.UUID
    controller_id: uuid.UUID
    ground: str
    scope: str
    customer_id: uuid.UUID | None
    subjects: tuple[uuid.UUID, ...]
    recordings: tuple[Mapping[str, Any], ...]
    at: datetime


def key_of(erasure_id: uuid.UUID) -> str:
    """Where an erasure's entry lies in the store."""
    return f"{PREFIX}{erasure_id}"


async def append(
    services: Services, erasure: Erasure, recordings: Sequence[Mapping[str, Any]], now: datetime
) -> str:
    """Write an erasure's entry, once: an entry that is there already is never written over.

    Returns:
        Its key in the store.

    Raises:
        storage.errors.StoreUnavailable: the store is away.
    """
    key = key_of(erasure.id)
    try:
        await services.store.stat(key)
    except ObjectMissing:
        document = {
            "v": FORMAT,
            "erasure": str(erasure.id),
            "controller": str(erasure.controller_id),
            "ground": str(erasure.ground),
            "scope": erasure.scope,
            "customer": None if erasure.customer_id is None else str(erasure.customer_id),
            "subjects": [k["subject"] for k in erasure.detail.get("subject_keys", [])],
            "recordings": [dict(r) for r in recordings],
            "at": text(now),
        }
        raw = sign(services.keyring, document, kind=LEDGER_TYPE).encode("ascii")
        await services.store.put(key, _once(raw), size=len(raw))
    return key


async def read_all(services: Services) -> AsyncIterator[LedgerEntry]:
    """Every entry of the ledger, its signature checked.

    Raises:
        Corrupt: an entry was altered or is not ours; nothing may be served until a person has looked.
        storage.errors.StoreUnavailable: the store is away.
    """
    public = services.keyring.public_keys()["certificates"]
    async for stat in services.store.list(PREFIX):
        async with services.store.get(stat.key) as body:
            raw = b"".join([piece async for piece in body])
        try:
            document = verify(raw, public, kind=LEDGER_TYPE)
            entry = _parse(document)
        except (SignatureInvalid, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the erasure ledger's entry {stat.key} does not verify") from error
        if key_of(entry.erasure_id) != stat.key:
            raise Corrupt(f"the erasure ledger's entry {stat.key} is another erasure's")
        yield entry


def _parse(document: Mapping[str, Any]) -> LedgerEntry:
    if document["v"] != FORMAT:
        raise ValueError("unknown version")
    customer = document["customer"]
    return LedgerEntry(
        erasure_id=uuid.UUID(document["erasure"]),
        controller_id=uuid.UUID(document["controller"]),
        ground=document["ground"],
        scope=document["scope"],
        customer_id=None if customer is None else uuid.UUID(customer),
        subjects=tuple(uuid.UUID(s) for s in document["subjects"]),
        recordings=tuple(document["recordings"]),
        at=datetime.fromisoformat(document["at"]),
    )


async def _once(raw: bytes) -> AsyncIterator[bytes]:
    yield raw
