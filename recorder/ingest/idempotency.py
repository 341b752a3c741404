"""Idempotency-Key: one payload per key, and one delivery of it at a time."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.locks import lock_values
from recorder.catalogue.tables import IdempotencyKey
from recorder.errors import Conflict, FieldError, InvalidInput, Unavailable
from recorder.ingest.identity import idempotency_digest
from recorder.services import Services

IN_FLIGHT: Final = timedelta(hours=6)
"""After this long a key in flight belongs to a process that died."""
SETTLED: Final = timedelta(days=7)
MAX_KEY: Final = 255
log = logging.getLogger("recorder.ingest")


@dataclass(frozen=True, slots=True)
class Claim:
    """A key that this delivery may use.

    Attributes:
        payload: what the key stands for already; None for a key that is new.
        recording_id: what that became.
    """

    source_id: uuid.UUID
    digest: bytes
    payload: bytes | None = None
    recording_id: uuid.UUID | None = None


async def claim(
    services: Services, controller_id: uuid.UUID, source_id: uuid.UUID, key: str, *, now: datetime
) -> Claim:
    """Claim a key for one delivery.

    Raises:
        Conflict: another delivery with this key is in flight.
        InvalidInput: the key is empty or too long.
    """
    if not 0 < len(key) <= MAX_KEY:
        field = FieldError("Idempotency-Key", f"is 1 to {MAX_KEY} characters long")
        raise InvalidInput(f"{field.path} {field.message}", fields=[field])
    digest = idempotency_digest(services.keyring, controller_id, source_id, key)
    async with services.database.transaction() as session:
        await lock_values(session, [digest])
        await session.execute(
            sa.delete(IdempotencyKey).where(
                IdempotencyKey.source_id == source_id, IdempotencyKey.expires_at <= now
            )
        )
        row = await session.get(IdempotencyKey, (source_id, digest))
        if row is None:
            session.add(
                IdempotencyKey(
                    source_id=source_id,
                    digest=digest,
                    payload=None,
                    recording_id=None,
                    created_at=now,
                    expires_at=now + IN_FLIGHT,
                )
            )
            return Claim(source_id, digest)
        if row.payload is None:
            raise Conflict("a request with this Idempotency-Key is in flight; wait for it", kind="in-flight")
        return Claim(source_id, digest, row.payload, row.recording_id)


async def settle(
    session: AsyncSession, claim: Claim, payload: bytes, recording_id: uuid.UUID, *, now: datetime
) -> None:
    """Tie the key to what became of it, in the storing transaction."""
    await session.execute(
        sa.update(IdempotencyKey)
        .where(IdempotencyKey.source_id == claim.source_id, IdempotencyKey.digest == claim.digest)
        .values(payload=payload, recording_id=recording_id, expires_at=now + SETTLED)
    )


async def release(services: Services, claim: Claim) -> None:
    """Give a key back after a delivery that failed; a settled one stays."""
    try:
        async with services.database.transaction() as session:
            await session.execute(
                sa.delete(IdempotencyKey).where(
                    IdempotencyKey.source_id == claim.source_id,
                    IdempotencyKey.digest == claim.digest,
                    IdempotencyKey.payload.is_(None),
                )
            )
    except Unavailable:
        log.warning("an idempotency key stays claimed until it expires")
