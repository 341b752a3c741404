"""A recording's sealed objects in the catalogue: finding them, and adding those that are made from it."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import ObjectRole
from recorder.catalogue.subjects import subject_ref
from recorder.catalogue.tables import Recording, StoredObjectRow, Subject
from recorder.errors import Erased
from recorder.services import Services
from storage.keys import wrap_data_key
from storage.vault import StoredObject, WrittenObject

__all__ = ["add_object", "living_objects", "stored_object"]


async def living_objects(
    session: AsyncSession, recording_id: uuid.UUID
) -> dict[ObjectRole, tuple[StoredObjectRow, Subject]]:
    """The objects that are there, by role, each with the subject whose key wraps its own; newest wins."""
    query = (
        sa.select(StoredObjectRow, Subject)
        .join(Subject, Subject.id == StoredObjectRow.subject_id)
        .where(
            StoredObjectRow.recording_id == recording_id,
            StoredObjectRow.deleted_at.is_(None),
            StoredObjectRow.wrapped_key.is_not(None),
        )
        .order_by(StoredObjectRow.created_at, StoredObjectRow.id)
    )
    return {row.role: (row, subject) for row, subject in await session.execute(query)}


def stored_object(row: StoredObjectRow, subject: Subject) -> StoredObject:
    """The object as the vault reads it.

    Raises:
        Erased: its key, or its subject's, has been destroyed.
    """
    if row.wrapped_key is None:
        raise Erased("the key of this object has been destroyed")
    return StoredObject(
        object_id=row.id,
        role=row.role.value,
        key=row.key,
        version_id=row.version_id,
        size=row.size,
        sha256=row.sha256,
        wrapped_key=row.wrapped_key,
        subject=subject_ref(subject),
        header=row.header,
    )


async def add_object(
    session: AsyncSession,
    services: Services,
    recording: Recording,
    written: WrittenObject,
    *,
    role: ObjectRole,
    content_type: str,
    now: datetime,
) -> StoredObjectRow:
    """Wrap a written object's key under the recording's present subject and add its row.

    Raises:
        Erased: the subject's key has been destroyed.
    """
    # Read under the transaction: a link made a moment ago may have moved the recording to another subject.
    subject = await session.get_one(Subject, recording.subject_id, populate_existing=True)
    wrapped = wrap_data_key(
        services.keyring,
        subject_ref(subject),
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    row = StoredObjectRow(
        id=written.object_id,
        recording_id=recording.id,
        role=role,
        key=written.key,
        version_id=written.version_id,
        subject_id=subject.id,
        wrapped_key=wrapped,
        size=written.size,
        sealed_size=written.sealed_size,
        sha256=written.sha256,
        content_type=content_type,
        header=written.header,
        created_at=now,
        deleted_at=None,
    )
    session.add(row)
    await session.flush()
    return row
