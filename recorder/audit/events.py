"""Writing audit entries: in the transaction of what they record, never apart from it."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import rfc8785
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.tables import AuditEntry

ENTRY_VERSION = 1
Detail = str | int | bool | None | list[str] | list[int]
_ACTOR = re.compile(r"^(account|token|source|link|os|system):[A-Za-z0-9_.@-]{1,100}$")


class _OrderedIds:
    """UUIDv7 (RFC 9562 section 6.2, method 1): entries of one instant keep the order they were written in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0  # milliseconds and, in the low 12 bits, the counter

    def next(self, now: datetime) -> uuid.UUID:
        with self._lock:
            self._last = max(self._last + 1, int(now.timestamp() * 1000) << 12)
            last = self._last
        random = int.from_bytes(os.urandom(8)) >> 2
        return uuid.UUID(int=(last >> 12) << 80 | 7 << 76 | (last & 0xFFF) << 64 | 0b10 << 62 | random)


_IDS = _OrderedIds()


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done, or refused.

    Attributes:
        action: dotted verb, for example ``recording.stored`` or ``listen.opened``.
        actor: ``account:<uuid>``, ``token:<uuid>``, ``source:<uuid>``, ``link:<uuid>``, ``os:<user>`` or
            ``system:<part>``.
        object_type: what it was done to, for example ``recording``.
        object_id: its random id.
        outcome: ``ok``, ``refused`` or ``failed``.
        controller_id: whose it is; None for the installation as a whole.
        purpose: the declared purpose, where there is one.
        request_id: ties the entry to the service's logs.
        details: further facts; random ids, codes, counts and times only, never personal data.
    """

    action: str
    actor: str
    object_type: str
    object_id: str
    outcome: str = "ok"
    controller_id: uuid.UUID | None = None
    purpose: str | None = None
    request_id: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)


def record(session: AsyncSession, event: AuditEvent, *, now: datetime) -> uuid.UUID:
    """Add an entry to the running transaction; the log's leader sequences it within about a second.

    Returns:
        The entry's id.

    Raises:
        ValueError: the actor has no known form.
    """
    entry = entry_of(event, now=now)
    session.add(entry)
    return entry.id


def entry_of(event: AuditEvent, *, now: datetime) -> AuditEntry:
    """The entry as a row, for a use case that inserts its rows itself; it belongs into the same transaction.

    Raises:
        ValueError: the actor has no known form.
    """
    if not _ACTOR.match(event.actor):
        raise ValueError(f"not an actor: {event.actor!r}")
    entry_id = _IDS.next(now)
    entry: dict[str, Any] = {
        "v": ENTRY_VERSION,
        "id": str(entry_id),
        "time": now.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor,
        "action": event.action,
        "object": {"type": event.object_type, "id": event.object_id},
        "controller": None if event.controller_id is None else str(event.controller_id),
        "purpose": event.purpose,
        "outcome": event.outcome,
        "request": event.request_id,
        "details": dict(event.details),
    }
    return AuditEntry(
        id=entry_id,
        index=None,
        payload=rfc8785.dumps(entry),
        controller_id=event.controller_id,
        at=now,
        actor=event.actor,
        action=event.action,
        object_type=event.object_type,
        object_id=event.object_id,
        outcome=event.outcome,
    )
