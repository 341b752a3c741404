"""Recordings whose time is over, as ingest writes them: keys of their own, sealed bytes in the store."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, entry_of
from recorder.catalogue import enums
from recorder.catalogue.inserting import insert_rows
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import blind_index, new_subject, seal_json, subject_ref
from recorder.catalogue.tables import (
    AuditEntry,
    Base,
    BlindIndex,
    Call,
    Certificate,
    Recording,
    RecordingAgent,
    RecordingTag,
    StoredObjectRow,
    Subject,
    Tombstone,
)
from recorder.services import Services
from storage.keys import wrap_data_key
from storage.vault import WrittenObject

DUE: Final = 20
"""How many years ago the calls of those began that a sweep is to erase."""
TWINS: Final = 30
"""The same of as many others, for the plain SQL; what there was of them in the store is left out."""
_AUDIO: Final = 4096
_CHUNK: Final = 250


def begun(controller_id: uuid.UUID, years: int, now: datetime) -> sa.ColumnElement[bool]:
    """The recordings that `make` made for so many years ago."""
    first = now - timedelta(days=365 * years)
    return sa.and_(
        Recording.controller_id == controller_id,
        Recording.started_at >= first,
        Recording.started_at < first + timedelta(days=365),
    )


async def make(
    services: Services,
    controller_id: uuid.UUID,
    source_id: uuid.UUID,
    *,
    count: int,
    years: int,
    now: datetime,
    stored: bool,
) -> None:
    """Make so many recordings of nobody's known, not decided yet.

    Args:
        years: how long ago they began; each at a moment of its own within a year.
        stored: whether their objects are in the store as well, or in the catalogue only.
    """
    first = now - timedelta(days=365 * years)
    services.keyring.ensure_controller(str(controller_id), now)
    for start in range(0, count, _CHUNK):
        rows: list[Base] = []
        for number in range(start, min(start + _CHUNK, count)):
            moment = first + timedelta(seconds=(number * 100_003) % (365 * 86_400))
            written = await _object(services, stored=stored)
            rows += _rows(services, controller_id, source_id, written, moment, now)
        async with services.database.transaction() as session:
            await insert_rows(session, rows)


async def _object(services: Services, *, stored: bool) -> WrittenObject:
    audio = os.urandom(_AUDIO)
    if stored:
        return await services.vault.write(_once(audio), role=enums.ObjectRole.ORIGINAL, size=len(audio))
    object_id, key = uuid.uuid4(), uuid.uuid4().hex
    return WrittenObject(
        object_id=object_id,
        role=enums.ObjectRole.ORIGINAL,
        key=f"o/{key[:2]}/{key}",
        version_id=uuid.uuid4().hex,
        size=len(audio),
        sealed_size=len(audio) + 56,
        sha256=hashlib.sha256(audio).digest(),
        data_key=os.urandom(32),
        header=os.urandom(40),
    )


async def _once(audio: bytes) -> AsyncIterator[bytes]:
    yield audio


def _rows(
    services: Services,
    controller_id: uuid.UUID,
    source_id: uuid.UUID,
    written: WrittenObject,
    started: datetime,
    now: datetime,
) -> list[Base]:
    """What ``recorder.ingest.storing`` writes for a caller who is nobody's customer, its jobs done."""
    keyring, recording_id = services.keyring, uuid.uuid4()
    subject = new_subject(keyring, controller_id, enums.SubjectKind.UNLINKED, now=started)
    call = Call(
        id=uuid.uuid4(),
        controller_id=controller_id,
        source_id=source_id,
        identity=os.urandom(32),
        started_at=started,
        created_at=started,
    )
    number = f"+35840{int.from_bytes(os.urandom(3)):08d}"
    recording = Recording(
        id=recording_id,
        controller_id=controller_id,
        source_id=source_id,
        call_id=call.id,
        identity=os.urandom(32),
        subject_id=subject.id,
        customer_id=None,
        state=enums.RecordingState.STORED,
        reasons=[],
        held=False,
        restricted=False,
        started_at=started,
        received_at=started,
        duration_ms=60_000,
        direction=enums.Direction.INBOUND,
        queue="support",
        agents=["a7"],
        tags=["callback"],
        service_events=[],
        lawful_basis=enums.LawfulBasis.CUSTOMER_RELATIONSHIP,
        muted=[],
        channels=[],
        media={"codec": "pcm_s16le"},
        sha256=written.sha256,
        size=written.size,
        sealed=seal_json(keyring, subject, RECORDING_METADATA, recording_id, {"caller": number}),
        card_data_removed=False,
    )
    wrapped = wrap_data_key(
        keyring,
        subject_ref(subject),
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    original = StoredObjectRow(
        id=written.object_id,
        recording_id=recording_id,
        role=enums.ObjectRole.ORIGINAL,
        key=written.key,
        version_id=written.version_id,
        subject_id=subject.id,
        wrapped_key=wrapped,
        size=written.size,
        sealed_size=written.sealed_size,
        sha256=written.sha256,
        content_type="audio/wav",
        held_in_store=False,
        header=written.header,
        created_at=started,
    )
    index = BlindIndex(
        id=uuid.uuid4(),
        controller_id=controller_id,
        kind="line",
        digest=blind_index(keyring, controller_id, "phone", number),
        subject_id=subject.id,
        customer_id=None,
        recording_id=recording_id,
    )
    event = AuditEvent(
        action="recording.stored",
        actor=f"source:{source_id}",
        object_type="recording",
        object_id=str(recording_id),
        controller_id=controller_id,
    )
    return [
        subject,
        call,
        recording,
        original,
        RecordingAgent(recording_id=recording_id, agent="a7", controller_id=controller_id),
        RecordingTag(recording_id=recording_id, tag="callback"),
        index,
        entry_of(event, now=started),
    ]


async def check_erased(services: Services, controller_id: uuid.UUID, count: int, now: datetime) -> None:
    """Look at what a sweep has left.

    Raises:
        RuntimeError: not every one of them is gone: key, object, what is stripped; or a proof is missing.
    """
    mine = sa.select(Recording.id).where(begun(controller_id, DUE, now))
    async with services.database.snapshot() as session:
        found = {
            "recordings": await _count(
                session,
                sa.select(Recording.id).where(
                    begun(controller_id, DUE, now),
                    Recording.state == enums.RecordingState.ERASED,
                    Recording.certificate_id.is_not(None),
                    Recording.sealed.is_(None),
                ),
            ),
            "destroyed subject keys": await _count(
                session,
                sa.select(Subject.id).where(
                    Subject.id.in_(sa.select(Recording.subject_id).where(Recording.id.in_(mine))),
                    Subject.wrapped_key.is_(None),
                    Subject.destroyed_at.is_not(None),
                ),
            ),
            "destroyed data keys": await _count(
                session,
                sa.select(StoredObjectRow.id).where(
                    StoredObjectRow.recording_id.in_(mine),
                    StoredObjectRow.wrapped_key.is_(None),
                    StoredObjectRow.deleted_at.is_not(None),
                ),
            ),
            "certificates": await _count(session, sa.select(Certificate.id)),
            "tombstones": await _count(session, sa.select(Tombstone.recording_id)),
            "log entries": await _count(
                session, sa.select(AuditEntry.id).where(AuditEntry.action == "erasure.finished")
            ),
        }
        indexes = await _count(session, sa.select(BlindIndex.id).where(BlindIndex.recording_id.in_(mine)))
    found["entries of the ledger"] = len([v async for v in services.store.versions("ledger/")])
    wrong = {what: number for what, number in found.items() if number != count}
    left = [v async for v in services.store.versions("o/")]
    if wrong or left or indexes:
        raise RuntimeError(f"not {count}: {wrong}; {len(left)} objects and {indexes} blind indexes are left")


async def _count(session: AsyncSession, query: sa.Select[tuple[uuid.UUID]] | sa.Select[uuid.UUID]) -> int:
    return int(await session.scalar(sa.select(sa.func.count()).select_from(query.subquery())) or 0)


def strip(controller_id: uuid.UUID, now: datetime) -> list[sa.UpdateBase]:
    """Plain SQL for the twins: the rows of recordings first, then what hangs on them, a statement a table."""
    twins = begun(controller_id, TWINS, now)
    mine = sa.select(Recording.id).where(twins)
    stripped = sa.update(Recording).where(twins)
    return [
        stripped.values(
            sealed=None,
            reasons=[],
            duration_ms=None,
            direction=None,
            queue=None,
            agents=[],
            tags=[],
            service_events=[],
            muted=[],
            channels=[],
            media={},
            sha256=b"",
            size=0,
            state=enums.RecordingState.ERASED,
            erased_at=now,
            decision=None,
            erase_on=None,
            sweep_on=None,
        ),
        sa.update(StoredObjectRow)
        .where(StoredObjectRow.recording_id.in_(mine))
        .values(wrapped_key=None, sha256=b"", deleted_at=now),
        sa.update(Subject)
        .where(Subject.id.in_(sa.select(Recording.subject_id).where(twins)))
        .values(wrapped_key=None, destroyed_at=now),
        sa.delete(BlindIndex).where(BlindIndex.recording_id.in_(mine)),
        sa.delete(RecordingAgent).where(RecordingAgent.recording_id.in_(mine)),
        sa.delete(RecordingTag).where(RecordingTag.recording_id.in_(mine)),
    ]
