"""Subject keys in the catalogue: creating them, and sealing a row's personal fields under them."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import SubjectKind
from recorder.catalogue.tables import Subject
from recorder.errors import Erased
from storage import keys


def subject_ref(subject: Subject) -> keys.SubjectKeyRef:
    """The key reference that ``storage`` understands.

    Raises:
        Erased: the subject's key has been destroyed.
    """
    if subject.wrapped_key is None:
        raise Erased("the data subject's key has been destroyed")
    return keys.SubjectKeyRef(
        controller_id=str(subject.controller_id),
        subject_id=str(subject.id),
        epoch=subject.epoch,
        wrapped=subject.wrapped_key,
    )


def add_subject(
    session: AsyncSession,
    keyring: keys.Keyring,
    controller_id: uuid.UUID,
    kind: SubjectKind,
    *,
    now: datetime,
    subject_id: uuid.UUID | None = None,
) -> Subject:
    """Make a new subject with a key of its own and add it to the session."""
    subject = new_subject(keyring, controller_id, kind, now=now, subject_id=subject_id)
    session.add(subject)
    return subject


def new_subject(
    keyring: keys.Keyring,
    controller_id: uuid.UUID,
    kind: SubjectKind,
    *,
    now: datetime,
    subject_id: uuid.UUID | None = None,
) -> Subject:
    """Make a new subject with a key of its own, in memory."""
    identity = subject_id or uuid.uuid4()
    ref = keys.new_subject_key(keyring, str(controller_id), str(identity))
    return Subject(
        id=identity,
        controller_id=controller_id,
        kind=kind,
        wrapped_key=ref.wrapped,
        epoch=ref.epoch,
        rekey_needed=False,
        created_at=now,
        destroyed_at=None,
    )


def seal_json(
    keyring: keys.Keyring, subject: Subject, field: str, row_id: uuid.UUID, value: dict[str, Any]
) -> bytes:
    """Seal a JSON object as the ``field`` of the row ``row_id``."""
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return keys.seal_field(keyring, subject_ref(subject), field, str(row_id), plain)


def open_json(
    keyring: keys.Keyring, subject: Subject, field: str, row_id: uuid.UUID, sealed: bytes
) -> dict[str, Any]:
    """Open what :func:`seal_json` sealed.

    Raises:
        Erased: the subject's key has been destroyed.
        storage.errors.TamperedObject: the bytes are not what was sealed for this row.
    """
    value = json.loads(keys.open_field(keyring, subject_ref(subject), field, str(row_id), sealed))
    if not isinstance(value, dict):
        raise TypeError(f"sealed field {field} does not hold an object")
    return value


def blind_index(keyring: keys.Keyring, controller_id: uuid.UUID, kind: str, value: str) -> bytes:
    """Keyed HMAC-SHA256 of a normalised personal value, 32 bytes; equal values meet, nobody reads them.

    The caller normalises first (E.164 phone, case-folded e-mail and name token, stripped number).
    """
    return keys.blind_index(keyring, str(controller_id), kind, value)
