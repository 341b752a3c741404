"""Secrets of a source: what proves a sender's signature, signs in to fetch its audio, or unwraps it.

They are sealed under the controller's subject key, written and never read back: the API lists their names.

======================  ==========================================================================
``auth_token``          Twilio and SignalWire sign their callbacks with it; ``auth_token_next`` as well
``basic``               ``user:password`` to fetch audio with (a Twilio API key: ``SID:secret``)
``bearer``              a bearer token to fetch audio with
``secret_token``        Zoom's, of the event subscription
``key:NAME``            PEM private key that unwraps encrypted recordings (Twilio: the public key's SID)
``trust_anchors``       PEM certificates that signers of vCons descend from
``vcon_key``            PEM private key that encrypted vCons are encrypted to
======================  ==========================================================================
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.locks import lock_values
from recorder.catalogue.sealed_fields import SOURCE_SECRET
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import Controller, SourceSecret, Subject
from recorder.errors import FieldError, InvalidInput, NotFound
from recorder.ingest.sources import find_source
from recorder.services import Services

AUTH_TOKEN: Final = "auth_token"  # noqa: S105 - a name
BASIC: Final = "basic"
BEARER: Final = "bearer"
SECRET_TOKEN: Final = "secret_token"  # noqa: S105 - a name
TRUST_ANCHORS: Final = "trust_anchors"
VCON_KEY: Final = "vcon_key"
KEY_PREFIX: Final = "key:"
MAX_SECRET: Final = 64 * 1024
"""Characters of the longest value: a bundle of certificates."""

_PLAIN: Final = frozenset({AUTH_TOKEN, "auth_token_next", BASIC, BEARER, SECRET_TOKEN})
_NAME: Final = re.compile(r"key:[A-Za-z0-9_.-]{1,80}")


@dataclass(frozen=True, slots=True)
class SecretName:
    """That a secret is there, and since when."""

    name: str
    changed_at: datetime


async def secrets_of(services: Services, source_id: uuid.UUID) -> Mapping[str, str]:
    """A source's secrets, opened; for verifying and fetching, never for showing.

    Raises:
        Unavailable: the database is away.
    """
    query = (
        sa.select(SourceSecret, Subject)
        .join(Controller, Controller.id == SourceSecret.controller_id)
        .join(Subject, Subject.id == Controller.subject_id)
        .where(SourceSecret.source_id == source_id)
    )
    async with services.database.snapshot() as session:
        rows = (await session.execute(query)).all()
    return {
        row.name: str(open_json(services.keyring, subject, SOURCE_SECRET, row.id, row.sealed)["value"])
        for row, subject in rows
    }


async def set_secret(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    name: str,
    value: str,
    *,
    request_id: str | None = None,
) -> None:
    """Keep a secret, in place of the one of this name.

    Raises:
        Forbidden: the caller does not manage sources.
        NotFound: there is no such source.
        InvalidInput: the name is unknown, or the value is not what the name promises.
    """
    source = await find_source(services, principal, source_id, request_id=request_id)
    _check(name, value)
    now = services.clock.now()
    async with services.database.transaction() as session:
        await lock_values(session, [source_id.bytes])
        subject = await controller_subject(session, source.controller_id)
        row = await session.scalar(_named(source_id, name))
        if row is None:
            row = SourceSecret(
                id=uuid.uuid4(), source_id=source_id, controller_id=source.controller_id, name=name
            )
            session.add(row)
        row.sealed = seal_json(services.keyring, subject, SOURCE_SECRET, row.id, {"value": value})
        row.changed_at = now
        record(session, _event("source.secret_set", principal, row, request_id), now=now)


async def remove_secret(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    name: str,
    *,
    request_id: str | None = None,
) -> None:
    """Forget a secret.

    Raises:
        Forbidden: the caller does not manage sources.
        NotFound: there is no such source, or it has no such secret.
    """
    await find_source(services, principal, source_id, request_id=request_id)
    async with services.database.transaction() as session:
        row = await session.scalar(_named(source_id, name).with_for_update())
        if row is None:
            raise NotFound("the source has no secret of this name")
        now = services.clock.now()
        record(session, _event("source.secret_removed", principal, row, request_id), now=now)
        await session.delete(row)


async def list_secrets(
    services: Services, principal: Principal, source_id: uuid.UUID, *, request_id: str | None = None
) -> Sequence[SecretName]:
    """Which secrets a source has, by name; never their values.

    Raises:
        Forbidden: the caller does not manage sources.
        NotFound: there is no such source.
    """
    await find_source(services, principal, source_id, request_id=request_id)
    query = (
        sa.select(SourceSecret.name, SourceSecret.changed_at)
        .where(SourceSecret.source_id == source_id)
        .order_by(SourceSecret.name)
    )
    async with services.database.snapshot() as session:
        return [SecretName(row.name, row.changed_at) for row in await session.execute(query)]


async def controller_subject(session: AsyncSession, controller_id: uuid.UUID) -> Subject:
    """The subject whose key seals what belongs to the controller."""
    controller = await session.get_one(Controller, controller_id)
    # Reread: a key rotation may have moved it since this session first saw it.
    return await session.get_one(Subject, controller.subject_id, populate_existing=True)


def _named(source_id: uuid.UUID, name: str) -> sa.Select[SourceSecret]:
    return sa.select(SourceSecret).where(SourceSecret.source_id == source_id, SourceSecret.name == name)


def _check(name: str, value: str) -> None:
    """Refuse what could only fail later, at night, when a recording comes.

    Raises:
        InvalidInput: naming the field, never the value.
    """
    key = name == VCON_KEY or _NAME.fullmatch(name) is not None
    if not key and name != TRUST_ANCHORS and name not in _PLAIN:
        known = ", ".join(sorted({*_PLAIN, TRUST_ANCHORS, VCON_KEY, "key:NAME"}))
        raise _refused("name", f"is none of {known}")
    if not value or len(value) > MAX_SECRET or "\x00" in value or not value.isascii():
        raise _refused("value", f"give 1 to {MAX_SECRET} ASCII characters")
    if name == BASIC and ":" not in value:
        raise _refused("value", "give user:password")
    if name in _PLAIN and not value.isprintable():
        raise _refused("value", "give one line of printable characters")
    try:
        if key:
            serialization.load_pem_private_key(value.encode(), password=None)
        elif name == TRUST_ANCHORS:
            x509.load_pem_x509_certificates(value.encode())
    except (ValueError, TypeError) as error:
        what = "PEM certificates" if name == TRUST_ANCHORS else "a PEM private key without a passphrase"
        raise _refused("value", f"is not {what}") from error


def _refused(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"/{field}: {message}", fields=[FieldError(f"/{field}", message)])


def _event(action: str, principal: Principal, row: SourceSecret, request_id: str | None) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="source",
        object_id=str(row.source_id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"name": row.name},
    )
