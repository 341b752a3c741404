"""The rows that erasure changes: which recordings, what of them goes, what is left as proof."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import (
    ErasureGround,
    JobState,
    LinkRole,
    ObjectRole,
    RecordingState,
    SubjectKind,
)
from recorder.catalogue.subjects import add_subject, subject_ref
from recorder.catalogue.tables import (
    BlindIndex,
    Choice,
    Contact,
    Controller,
    Customer,
    CustomerBatch,
    Erasure,
    ErasureItem,
    IdempotencyKey,
    Job,
    ListeningLink,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    StoredObjectRow,
    Subject,
)
from recorder.disposition.evaluation import reevaluate
from recorder.disposition.facts import ALIVE
from recorder.disposition.rekeying import lock_recordings_of, lock_subject, move_recordings
from recorder.ingest.resumable import ending as uploads
from recorder.jobs.queue import enqueue
from recorder.playback.spans import card_spans
from recorder.quality import folding
from recorder.rights import shredding
from recorder.services import Services

GONE = (RecordingState.ERASING, RecordingState.ERASED)
# Grounds that are about a person and not about a date, which every copy has of its own.
_BY_PERSON = (ErasureGround.REQUEST, ErasureGround.RELATIONSHIP_ENDED, ErasureGround.COURT_ORDER)


async def lock_targets(session: AsyncSession, erasure: Erasure) -> list[Recording]:
    """The living recordings in an erasure's scope, locked against holds, in id order.

    The controller is locked first (against a schedule being activated), then the customer. What a person asks
    to have erased goes with the other bytes that came under the same name and lie in quarantine.
    """
    await session.execute(
        sa.select(Controller.id).where(Controller.id == erasure.controller_id).with_for_update(read=True)
    )
    query = sa.select(Recording).where(Recording.state.in_(ALIVE))
    if erasure.customer_id is not None:
        await session.execute(
            sa.select(Customer.id).where(Customer.id == erasure.customer_id).with_for_update(key_share=True)
        )
        meant = Recording.customer_id == erasure.customer_id
    else:
        meant = Recording.id == erasure.recording_id
    if erasure.scope != "original" and erasure.ground in _BY_PERSON:
        meant = sa.or_(meant, _conflicting(erasure))
    query = (
        query.where(meant)
        .order_by(Recording.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return list(await session.scalars(query))


def _conflicting(erasure: Erasure) -> sa.ColumnElement[bool]:
    """Copies kept aside of what is meant, unless they are linked to somebody else."""
    first = aliased(Recording)
    return sa.exists().where(
        first.id == Recording.conflict_of,
        first.id == erasure.recording_id
        if erasure.customer_id is None
        else first.customer_id == erasure.customer_id,
        sa.or_(Recording.customer_id.is_(None), Recording.customer_id == first.customer_id),
    )


async def items(session: AsyncSession, erasure: Erasure, outcome: str | None = None) -> list[ErasureItem]:
    """What begin decided, by recording."""
    query = sa.select(ErasureItem).where(ErasureItem.erasure_id == erasure.id)
    if outcome is not None:
        query = query.where(ErasureItem.outcome == outcome)
    return list(await session.scalars(query.order_by(ErasureItem.recording_id)))


async def objects(session: AsyncSession, erasure: Erasure) -> list[StoredObjectRow]:
    """Every object in scope, those that turned up since begin included."""
    ids = [item.recording_id for item in await items(session, erasure, "erased")]
    found: list[StoredObjectRow] = []
    for start in range(0, len(ids), 400):
        query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id.in_(ids[start : start + 400]))
        if erasure.scope == "original":
            query = query.where(StoredObjectRow.id != uuid.UUID(erasure.detail["keep"]))
        found += await session.scalars(query.order_by(StoredObjectRow.id))
    return found


async def derivative(session: AsyncSession, erasure: Erasure) -> uuid.UUID | None:
    """The muted copy that takes an original's place: the one made for this erasure, else the newest."""
    query = (
        sa.select(StoredObjectRow.id)
        .where(
            StoredObjectRow.recording_id == erasure.recording_id,
            StoredObjectRow.wrapped_key.is_not(None),
            StoredObjectRow.deleted_at.is_(None),
        )
        .order_by(StoredObjectRow.created_at.desc(), StoredObjectRow.id)
        .limit(1)
    )
    if "keep" in erasure.detail:
        return await session.scalar(query.where(StoredObjectRow.id == uuid.UUID(erasure.detail["keep"])))
    return await session.scalar(query.where(StoredObjectRow.role == ObjectRole.REDACTED))


async def shared_with_others(session: AsyncSession, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Recordings on which other living customers hang as well: what becomes of those a person decides."""
    query = (
        sa.select(RecordingLink.recording_id)
        .join(Customer, Customer.id == RecordingLink.customer_id)
        .where(
            RecordingLink.recording_id.in_(ids),
            RecordingLink.role == LinkRole.REFERENCE,
            Customer.erased_at.is_(None),
        )
    )
    return set(await session.scalars(query))


async def close_access(session: AsyncSession, ids: Sequence[uuid.UUID], now: datetime) -> None:
    """Revoke listening links and take work that has not begun off the queue."""
    await session.execute(
        sa.update(ListeningLink)
        .where(ListeningLink.recording_id.in_(ids), ListeningLink.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    await session.execute(sa.delete(Job).where(Job.target_id.in_(ids), Job.state == JobState.QUEUED))


async def stop_matching(session: AsyncSession, customer_id: uuid.UUID, now: datetime) -> None:
    """From here no push and no search finds the customer: its own blind indexes go first."""
    await session.execute(
        sa.delete(BlindIndex).where(BlindIndex.customer_id == customer_id, BlindIndex.recording_id.is_(None))
    )
    await session.execute(sa.update(Customer).where(Customer.id == customer_id).values(erased_at=now))


async def move_kept(session: AsyncSession, services: Services, erasure: Erasure, now: datetime) -> int:
    """Put everything of the customer that stays under a fresh key; calling it again moves only newcomers.

    Newcomers are recordings that a push linked while the erasure was already running.

    Returns:
        How many recordings were moved.
    """
    if erasure.customer_id is None:
        return 0
    customer = await session.get_one(Customer, erasure.customer_id)
    # Recordings first: whoever adds an object to one holds its row while wrapping under the subject's key.
    staying = await lock_recordings_of(session, customer.subject_id)
    old = await lock_subject(session, customer.subject_id)
    if old.wrapped_key is None or not staying:
        return 0
    known = {item.recording_id for item in await items(session, erasure)}
    for recording in staying:
        if recording.id not in known:
            session.add(
                ErasureItem(
                    erasure_id=erasure.id,
                    recording_id=recording.id,
                    outcome="kept",
                    detail={"code": "arrived_late", "until": ""},
                )
            )
    fresh = add_subject(session, services.keyring, erasure.controller_id, SubjectKind.CUSTOMER, now=now)
    await session.flush()
    ids = [recording.id for recording in staying]
    await move_recordings(session, services.keyring, subject_ref(old), subject_ref(fresh), ids)
    return len(ids)


async def destroy(session: AsyncSession, services: Services, erasure: Erasure, now: datetime) -> None:
    """Destroy keys and sealed fields; note key ids on the erasure and the items, for the certificate."""
    gone = [item.recording_id for item in await items(session, erasure, "erased")]
    in_scope = await objects(session, erasure)
    by_recording: dict[uuid.UUID, list[dict[str, Any]]] = {}
    for row in in_scope:
        row.wrapped_key = None
        if (
            erasure.scope != "original"
        ):  # whose digest the receipt names; else nothing is left to compare with
            row.sha256 = b""
        by_recording.setdefault(row.recording_id, []).append({"id": str(row.id), "role": str(row.role)})
    for item in await items(session, erasure, "erased"):
        known = {o["id"]: o for o in item.detail.get("objects", [])}
        for entry in by_recording.get(item.recording_id, []):
            known.setdefault(entry["id"], entry)
        item.detail = {**item.detail, "objects": list(known.values())}
    destroyed: list[Subject] = []
    # Packages of copies that were made to answer a request hold the same voice.
    packages = await shredding.forget(session, gone, erasure.customer_id, now)
    # So do the pieces of a repeated upload that has not come to its end.
    pieces = await uploads.forget(session, gone, now)
    note_copies(erasure, packages=[str(found) for found in packages], uploads=pieces)
    if erasure.scope == "original":
        await _owe_new_key(session, gone)
    else:
        await _strip(session, gone)
        if erasure.customer_id is not None:
            await move_kept(session, services, erasure, now)
            destroyed.append(await _destroy_customer(session, erasure.customer_id, now))
        # After the customer's own: what was kept aside hangs on a subject of its own.
        destroyed += await _destroy_or_owe(session, gone, now)
    detail = dict(erasure.detail)
    detail["subject_keys"] = [
        *detail.get("subject_keys", []),
        *({"subject": str(s.id), "epoch": s.epoch} for s in destroyed),
    ]
    erasure.detail = detail
    await session.flush()


def note_copies(
    erasure: Erasure, *, packages: Sequence[str] = (), uploads: int = 0, spooled: int = 0
) -> None:
    """Add to what else held the same voice and goes with it; the certificate names it."""
    before = copies_of(erasure)
    erasure.detail = {
        **erasure.detail,
        "copies": {
            "packages": [*before["packages"], *packages],
            "uploads": before["uploads"] + uploads,
            "spooled": before["spooled"] + spooled,
        },
    }


def copies_of(erasure: Erasure) -> dict[str, Any]:
    """Packages by id; unfinished uploads and spooled pushes in number."""
    return {"packages": [], "uploads": 0, "spooled": 0, **erasure.detail.get("copies", {})}


async def _strip(session: AsyncSession, ids: Sequence[uuid.UUID]) -> None:
    """Everything that says something about the person or the call, but the times; keyed hashes go as well."""
    for start in range(0, len(ids), 400):
        page = ids[start : start + 400]
        await folding.fold_recordings(session, page)
        for table in (BlindIndex, RecordingAgent, RecordingTag, RecordingLink, IdempotencyKey):
            await session.execute(sa.delete(table).where(table.recording_id.in_(page)))
        await session.execute(
            sa.update(Contact).where(Contact.recording_id.in_(page)).values(recording_id=None)
        )
        await session.execute(
            sa.update(Recording)
            .where(Recording.id.in_(page))
            .values(
                sealed=None,
                reasons=[],
                ended_at=None,
                duration_ms=None,
                direction=None,
                queue=None,
                agents=[],
                tags=[],
                service_events=[],
                notice_version=None,
                notice_offset_ms=None,
                muted=[],
                channels=[],
                media={},
                sha256=b"",
                size=0,
                received_sha256=None,
                received_size=None,
            )
        )


async def _destroy_customer(session: AsyncSession, customer_id: uuid.UUID, now: datetime) -> Subject:
    customer = await session.get_one(Customer, customer_id)
    customer.sealed = None
    customer.erased_at = customer.erased_at or now
    await session.execute(sa.delete(CustomerBatch).where(CustomerBatch.customer_id == customer_id))
    await session.execute(sa.delete(Contact).where(Contact.customer_id == customer_id))
    # A mere reference on somebody else's call: the link goes, and the old key must not open old backups.
    references = (
        sa.select(RecordingLink.recording_id)
        .join(Recording, Recording.id == RecordingLink.recording_id)
        .where(RecordingLink.customer_id == customer_id, Recording.customer_id.is_distinct_from(customer_id))
    )
    elsewhere = list(await session.scalars(references))
    await _owe_new_key(session, elsewhere)
    await session.execute(
        sa.delete(RecordingLink).where(
            RecordingLink.customer_id == customer_id, RecordingLink.recording_id.in_(elsewhere)
        )
    )
    subject = await lock_subject(session, customer.subject_id)
    await session.execute(sa.delete(BlindIndex).where(BlindIndex.subject_id == subject.id))
    subject.wrapped_key, subject.destroyed_at = None, subject.destroyed_at or now
    return subject


async def _destroy_or_owe(session: AsyncSession, ids: Sequence[uuid.UUID], now: datetime) -> list[Subject]:
    """A subject that lost its last recording and has no living customer goes; others are owed a new key."""
    destroyed = []
    query = sa.select(Recording.subject_id).where(Recording.id.in_(ids)).distinct()
    for subject_id in list(await session.scalars(query)):
        subject = await lock_subject(session, subject_id)
        still_used = await session.scalar(
            sa.select(
                sa.or_(
                    sa.exists().where(Recording.subject_id == subject_id, Recording.state.in_(ALIVE)),
                    sa.exists().where(Customer.subject_id == subject_id, Customer.erased_at.is_(None)),
                )
            )
        )
        if still_used or subject.kind not in {SubjectKind.CUSTOMER, SubjectKind.UNLINKED}:
            subject.rekey_needed = True
        elif subject.wrapped_key is not None:
            subject.wrapped_key, subject.destroyed_at = None, now
            destroyed.append(subject)
    return destroyed


async def _owe_new_key(session: AsyncSession, ids: Sequence[uuid.UUID]) -> None:
    subjects = sa.select(Recording.subject_id).where(Recording.id.in_(ids)).scalar_subquery()
    await session.execute(
        sa.update(Subject)
        .where(Subject.id.in_(subjects), Subject.wrapped_key.is_not(None))
        .values(rekey_needed=True)
    )


async def close_recordings(
    session: AsyncSession, services: Services, erasure: Erasure, now: datetime
) -> None:
    """The last change: states, and what was kept is decided afresh with the request standing."""
    gone = [item.recording_id for item in await items(session, erasure, "erased")]
    kept = [item.recording_id for item in await items(session, erasure, "kept")]
    if erasure.scope == "original":
        await _adopt_derivative(session, services, erasure, gone, now)
        return
    controller = await session.get_one(Controller, erasure.controller_id)
    values: dict[str, Any] = {
        "state": RecordingState.ERASED,
        "erased_at": now,
        "certificate_id": erasure.certificate_id,
        "customer_id": None,
        "held": False,
        "restricted": False,
        "decision": None,
        "erase_on": None,
        "sweep_on": None,
    }
    owner = {} if controller.subject_id is None else {"subject_id": controller.subject_id}
    for start in range(0, len(gone), 400):
        page = gone[start : start + 400]
        await session.execute(
            sa.update(StoredObjectRow).where(StoredObjectRow.recording_id.in_(page)).values(**owner)
            if owner
            else sa.select(1)
        )
        await session.execute(sa.update(Recording).where(Recording.id.in_(page)).values(**values, **owner))
        await close_access(session, page, now)
    if erasure.customer_id is not None and not kept:
        await session.execute(sa.delete(Choice).where(Choice.customer_id == erasure.customer_id))
        await session.execute(
            sa.update(Customer)
            .where(Customer.id == erasure.customer_id)
            .values(last_contact_at=None, relationship_ended_at=None, relationship_end_confirmed_at=None)
        )
    await reevaluate(session, services, kept, now)


async def _adopt_derivative(
    session: AsyncSession,
    services: Services,
    erasure: Erasure,
    ids: Sequence[uuid.UUID],
    now: datetime,
) -> None:
    """The muted derivative takes the original's place; what is played and drawn is made from it anew."""
    for recording in await session.scalars(sa.select(Recording).where(Recording.id.in_(ids))):
        kept = await session.get_one(StoredObjectRow, uuid.UUID(erasure.detail["keep"]))
        if recording.sha256 != kept.sha256:
            recording.received_sha256 = recording.received_sha256 or recording.sha256
            recording.sha256, recording.size = kept.sha256, kept.size
        covered = {(start, end) for start, end in erasure.detail.get("spans", [])}
        if "spans" in erasure.detail and not covered.issuperset(card_spans(recording.muted)):
            enqueue(session, "redaction", recording.id, now=now)  # another stretch was declared meanwhile
        else:
            recording.card_data_removed = True
        recording.reasons = [*dict.fromkeys([*recording.reasons, "original_destroyed"])]
        record(
            session,
            AuditEvent(
                action="recording.original_destroyed",
                actor="system:erasure",
                object_type="recording",
                object_id=str(recording.id),
                controller_id=recording.controller_id,
                details={
                    "erasure": str(erasure.id),
                    "certificate": None if erasure.certificate_id is None else str(erasure.certificate_id),
                    "sha256": recording.sha256.hex(),
                },
            ),
            now=now,
        )
        for kind in ("rendition", "peaks"):
            enqueue(session, kind, recording.id, now=now)
    await session.flush()
    await reevaluate(session, services, ids, now)
