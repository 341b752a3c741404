"""After a restore: what the ledger says was erased is erased again, before anyone is served."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import ErasureGround, ObjectRole, RecordingState
from recorder.catalogue.tables import Customer, Recording, StoredObjectRow
from recorder.disposition import erasures, ledger
from recorder.disposition.erasure_port import SqlErasurePort
from recorder.disposition.ledger import LedgerEntry
from recorder.errors import Erased
from recorder.services import Services
from retention.model import Case, Verdict

ACTOR: Final = "system:restore"


@dataclass(slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        entries: how many entries the ledger has.
        recordings: ids that the restored database had forgotten to be erased.
        customers: likewise.
    """

    entries: int = 0
    recordings: list[uuid.UUID] = field(default_factory=list)
    customers: list[uuid.UUID] = field(default_factory=list)


async def replay(services: Services, now: datetime, *, dry_run: bool = False) -> Replayed:
    """Erase again what the ledger names and the database still has. Idempotent; stopping loses nothing.

    The ledger decides, not the schedule: a hold in the old database may have been released since.

    Args:
        dry_run: only say what is forgotten.

    Raises:
        Corrupt: an entry of the ledger was altered; a person has to look first.
        Unavailable, storage.errors.StoreUnavailable: a dependency is away; run it again.
    """
    result = Replayed()
    entries = [entry async for entry in ledger.read_all(services)]
    result.entries = len(entries)
    for entry in sorted(entries, key=lambda e: (e.at, e.erasure_id)):
        for recording in entry.recordings:
            recording_id = uuid.UUID(recording["id"])
            if await _forgotten(services, entry, recording_id):
                result.recordings.append(recording_id)
                if not dry_run:
                    await _erase_recording(services, entry, recording_id, now)
        if entry.customer_id is not None and await _customer_lives(services, entry.customer_id):
            result.customers.append(entry.customer_id)
            if not dry_run:
                await _erase_customer(services, entry, entry.customer_id, now)
    return result


async def _forgotten(services: Services, entry: LedgerEntry, recording_id: uuid.UUID) -> bool:
    async with services.database.snapshot() as session:
        if entry.scope == "original":
            gone = [uuid.UUID(o["id"]) for r in entry.recordings for o in r["objects"]]
            query = sa.select(
                sa.exists().where(
                    StoredObjectRow.recording_id == recording_id,
                    StoredObjectRow.id.in_(gone),
                    StoredObjectRow.wrapped_key.is_not(None),
                )
            )
            return bool(await session.scalar(query))
        state = await session.scalar(sa.select(Recording.state).where(Recording.id == recording_id))
        return state is not None and state is not RecordingState.ERASED


async def _customer_lives(services: Services, customer_id: uuid.UUID) -> bool:
    async with services.database.snapshot() as session:
        customer = await session.get(Customer, customer_id)
        return customer is not None and (customer.erased_at is None or customer.sealed is not None)


async def _erase_recording(
    services: Services, entry: LedgerEntry, recording_id: uuid.UUID, now: datetime
) -> None:
    scope: Literal["recording", "original"] = "recording"
    try:
        async with services.database.transaction() as session:
            if entry.scope == "original" and await _has_muted_copy(session, entry, recording_id):
                scope = "original"
            erasure_id = await erasures.open_recording(
                session,
                recording_id,
                ground=ErasureGround(entry.ground),
                requested_by=ACTOR,
                now=now,
                scope=scope,
            )
    except Erased:
        return  # another unfinished erasure has it; the sweep brings that one to its end
    await SqlErasurePort(services).begin(str(erasure_id), _as_the_ledger_says, now)
    await erasures.run(services, erasure_id)


async def _erase_customer(
    services: Services, entry: LedgerEntry, customer_id: uuid.UUID, now: datetime
) -> None:
    erasure_id = await erasures.open_customer(
        services, customer_id, ground=ErasureGround(entry.ground), requested_by=ACTOR, now=now
    )
    # What went is gone by now, one by one; what is left of the customer was kept then and is kept now.
    await SqlErasurePort(services).begin(str(erasure_id), _kept_then, now)
    await erasures.run(services, erasure_id)


async def _has_muted_copy(session: AsyncSession, entry: LedgerEntry, recording_id: uuid.UUID) -> bool:
    """Whether something is left to play: a muted copy made after the backup lost its key with its row."""
    gone = [uuid.UUID(o["id"]) for r in entry.recordings for o in r["objects"]]
    query = sa.select(
        sa.exists().where(
            StoredObjectRow.recording_id == recording_id,
            StoredObjectRow.role == ObjectRole.REDACTED,
            StoredObjectRow.id.not_in(gone),
            StoredObjectRow.wrapped_key.is_not(None),
        )
    )
    return bool(await session.scalar(query))


def _as_the_ledger_says(_case: Case, _ground: str) -> Verdict:
    return Verdict(True, "replayed")


def _kept_then(_case: Case, _ground: str) -> Verdict:
    return Verdict(False, "kept_before_restore")
