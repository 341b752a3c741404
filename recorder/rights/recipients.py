"""Whom a person's data was given to: the port through which the register of disclosures is asked.

GDPR art. 19: each recipient is told of a rectification, erasure or restriction. Whoever keeps disclosures
registers a source; without one there are no recipients that anybody logged.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.services import Services

__all__ = ["Recipient", "RecipientSource", "recipients_of", "register_source"]


@dataclass(frozen=True, slots=True)
class Recipient:
    """One who was given something.

    Attributes:
        id: Random id in the register it comes from.
        name: An organisation or a person.
    """

    id: uuid.UUID
    name: str


RecipientSource = Callable[
    [AsyncSession, Services, uuid.UUID | None, Sequence[uuid.UUID]], Awaitable[Sequence[Recipient]]
]
_SOURCES: Final[list[RecipientSource]] = []


def register_source(source: RecipientSource) -> None:
    """Ask this source, too; registering it again changes nothing."""
    if source not in _SOURCES:
        _SOURCES.append(source)


async def recipients_of(
    session: AsyncSession,
    services: Services,
    customer_id: uuid.UUID | None,
    recording_ids: Sequence[uuid.UUID],
) -> list[Recipient]:
    """Every logged recipient of a customer's data or of any of the recordings, each once, by name."""
    found: dict[uuid.UUID, Recipient] = {}
    for source in _SOURCES:
        for recipient in await source(session, services, customer_id, recording_ids):
            found.setdefault(recipient.id, recipient)
    return sorted(found.values(), key=lambda r: (r.name, r.id))
