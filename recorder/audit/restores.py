"""Restores that a person has accepted: the log goes on from an older database, and says so for ever.

A database restored from a backup lacks the entries since. The store keeps checkpoints of them, so the
service refuses to start (`recorder.audit.log.refuse_if_rolled_back`). Accepting the restore writes one object
into the store, signed with the log's key: it names each checkpoint that the log no longer continues. Nothing
is deleted; the lost stretch stays provable, and without the log's key nobody can make such an object.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rfc8785
from jwt import PyJWS

from recorder.audit.events import AuditEvent, record
from recorder.audit.log import RESTORE_TYPE, RESTORES, copies, newest_checkpoint, read_copy
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was accepted.

    Attributes:
        abandoned: checkpoints in the store that the log no longer continues.
        lost_from: number of entries that the database has; those from here on are lost.
        lost_to: the greatest size that was signed before.
    """

    abandoned: tuple[str, ...]
    lost_from: int
    lost_to: int


async def accept(services: Services, *, actor: str, now: datetime) -> Accepted | None:
    """Let the log go on from the database as it is now. Idempotent.

    Returns:
        What was accepted; None when the database is not behind the store.

    Raises:
        Corrupt: the database has no checkpoint, or a copy in the store is not this log's.
        storage.errors.StorageError: the store is away or refuses.
    """
    async with services.database.snapshot() as session:
        row = await newest_checkpoint(session)
    size = 0 if row is None else row.size
    ahead, greatest = [], size
    async for version in copies(services):
        copy = await read_copy(services, version)
        if copy.size > size:
            ahead.append(version.key)
            greatest = max(greatest, copy.size)
    if not ahead:
        return None
    abandoned = sorted(set(ahead))
    document: dict[str, Any] = {
        "v": 1,
        "at": now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "continued": {"size": size, "root": "" if row is None else row.root.hex()},
        "abandoned": abandoned,
    }
    private = services.keyring.signing_key("log")
    raw = (
        PyJWS()
        .encode(rfc8785.dumps(document), private, algorithm="EdDSA", headers={"typ": RESTORE_TYPE})
        .encode()
    )
    key = f"{RESTORES}{now.astimezone(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex}"
    stat = await services.store.put(key, _once(raw), size=len(raw))
    if (await services.store.capabilities()).legal_hold:
        await services.store.set_legal_hold(key, stat.version_id, True)
    async with services.database.transaction() as session:
        event = AuditEvent(
            action="log.restored",
            actor=actor,
            object_type="log",
            object_id="log",
            details={"continued": size, "lost_to": greatest, "marker": key},
        )
        record(session, event, now=now)
    return Accepted(tuple(abandoned), size, greatest)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
