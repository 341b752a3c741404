"""Moving what a subject's key protects to another key: 32-byte wraps and sealed fields, never audio."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from recorder.catalogue.sealed_fields import (
    CONTACT_NOTE,
    CUSTOMER_BATCH,
    CUSTOMER_RECORD,
    RECORDING_METADATA,
    REQUEST_NOTICE,
    REQUEST_RECORD,
)
from recorder.catalogue.tables import (
    BlindIndex,
    Contact,
    Customer,
    CustomerBatch,
    Recording,
    RequestNotice,
    RequestPackage,
    RightsRequest,
    StoredObjectRow,
    Subject,
)
from recorder.disposition.facts import ALIVE
from storage.keys import Keyring, SubjectKeyRef, open_field, rewrap_data_key, seal_field

_PAGE = 200


async def lock_subject(session: AsyncSession, subject_id: uuid.UUID) -> Subject:
    """A subject whose key nobody else changes or wraps with until this transaction ends."""
    return (
        await session.scalars(
            sa.select(Subject)
            .where(Subject.id == subject_id)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
    ).one()


async def lock_recordings_of(session: AsyncSession, subject_id: uuid.UUID) -> list[Recording]:
    """The living recordings under a subject's key, locked in id order against new objects and links.

    Lock order everywhere: customer, recordings, subject.
    """
    query = (
        sa.select(Recording)
        .where(Recording.subject_id == subject_id, Recording.state.in_(ALIVE))
        .order_by(Recording.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(await session.scalars(query))


async def move_recordings(
    session: AsyncSession,
    keyring: Keyring,
    old: SubjectKeyRef,
    new: SubjectKeyRef,
    recording_ids: Sequence[uuid.UUID],
) -> int:
    """Re-wrap the data keys and re-seal the metadata of recordings from one subject key to another.

    What already hangs on another subject than ``old`` is left alone, so repeating it changes nothing.

    Returns:
        How many data keys were re-wrapped.

    Raises:
        storage.errors.TamperedObject: a wrap or a sealed field is not what was stored.
    """
    old_id, new_id = uuid.UUID(old.subject_id), uuid.UUID(new.subject_id)
    moved = 0
    for start in range(0, len(recording_ids), _PAGE):
        page = recording_ids[start : start + _PAGE]
        objects = await session.scalars(
            sa.select(StoredObjectRow).where(
                StoredObjectRow.recording_id.in_(page),
                StoredObjectRow.subject_id == old_id,
                StoredObjectRow.wrapped_key.is_not(None),
            )
        )
        for row in objects:
            row.wrapped_key = rewrap_data_key(
                keyring,
                old,
                new,
                row.wrapped_key or b"",
                object_id=row.id,
                size=row.size,
                sha256=row.sha256,
            )
            row.subject_id = new_id
            moved += 1
        recordings = await session.scalars(
            sa.select(Recording).where(Recording.id.in_(page), Recording.subject_id == old_id)
        )
        for recording in recordings:
            if recording.sealed is not None:
                recording.sealed = _resealed(
                    keyring, old, new, RECORDING_METADATA, recording.id, recording.sealed
                )
            recording.subject_id = new_id
        await session.execute(
            sa.update(BlindIndex)
            .where(BlindIndex.recording_id.in_(page), BlindIndex.subject_id == old_id)
            .values(subject_id=new_id)
        )
        await session.flush()
    return moved


async def move_customer_fields(
    session: AsyncSession, keyring: Keyring, old: SubjectKeyRef, new: SubjectKeyRef
) -> None:
    """Re-seal a customer's own record, deliveries and contact notes under the subject's new key."""
    subject_id = uuid.UUID(old.subject_id)
    theirs = sa.select(Customer.id).where(Customer.subject_id == subject_id).scalar_subquery()
    tables: tuple[tuple[Any, InstrumentedAttribute[Any], str], ...] = (
        (Customer, Customer.id, CUSTOMER_RECORD),
        (CustomerBatch, CustomerBatch.customer_id, CUSTOMER_BATCH),
        (Contact, Contact.customer_id, CONTACT_NOTE),
    )
    for table, owner, field in tables:
        rows = await session.scalars(sa.select(table).where(owner.in_(theirs), table.sealed.is_not(None)))
        for row in rows:
            row.sealed = _resealed(keyring, old, new, field, row.id, row.sealed)
    await session.flush()


async def move_request(
    session: AsyncSession, keyring: Keyring, old: SubjectKeyRef, new: SubjectKeyRef
) -> None:
    """Re-seal a data subject's request and its notices, and re-wrap its package, under the new key."""
    mine = RightsRequest.subject_id == uuid.UUID(old.subject_id)
    theirs = sa.select(RightsRequest.id).where(mine).scalar_subquery()
    for request in await session.scalars(sa.select(RightsRequest).where(mine)):
        if request.sealed is not None:
            request.sealed = _resealed(keyring, old, new, REQUEST_RECORD, request.id, request.sealed)
    for notice in await session.scalars(sa.select(RequestNotice).where(RequestNotice.request_id.in_(theirs))):
        if notice.sealed is not None:
            row_id = notice_id(notice.request_id, notice.number)
            notice.sealed = _resealed(keyring, old, new, REQUEST_NOTICE, row_id, notice.sealed)
    packages = sa.select(RequestPackage).where(
        RequestPackage.request_id.in_(theirs), RequestPackage.wrapped_key.is_not(None)
    )
    for package in await session.scalars(packages):
        if package.object_id is None or package.size is None or package.sha256 is None:
            continue
        package.wrapped_key = rewrap_data_key(
            keyring,
            old,
            new,
            package.wrapped_key or b"",
            object_id=package.object_id,
            size=package.size,
            sha256=package.sha256,
        )
    await session.flush()


def notice_id(rights_id: uuid.UUID, number: int) -> uuid.UUID:
    """The id that the sealed field of a request's notice is bound to."""
    return uuid.uuid5(rights_id, f"notice/{number}")


def _resealed(
    keyring: Keyring, old: SubjectKeyRef, new: SubjectKeyRef, field: str, row_id: uuid.UUID, sealed: bytes
) -> bytes:
    plain = open_field(keyring, old, field, str(row_id), sealed)
    return seal_field(keyring, new, field, str(row_id), plain)
