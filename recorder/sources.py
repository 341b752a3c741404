"""Telephony systems that push: making them known, switching them off. Their tokens are ``access.tokens``."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from pydantic import ValidationError

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import Source
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from recorder.ingest.metadata import MediaHint, field_errors
from recorder.services import Services

KINDS: Final = ("generic",)
"""Ways of pushing that are spoken here: ``generic`` is the API and the raw PUT."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


async def create_source(
    services: Services,
    principal: Principal,
    *,
    controller_id: uuid.UUID,
    name: str,
    kind: str = "generic",
    default_lawful_basis: LawfulBasis | None = None,
    default_media: Mapping[str, Any] | None = None,
    max_bytes: int | None = None,
    request_id: str | None = None,
) -> uuid.UUID:
    """Make a source known. It can push once it has a token.

    Args:
        services: The service.
        principal: Who makes it; must manage the controller's sources.
        controller_id: Whose calls it pushes.
        name: Short and stable; stands in the URL of a raw PUT.
        kind: One of :data:`KINDS`.
        default_lawful_basis: Of recordings that name none; without it they are refused.
        default_media: ``{codec, sample_rate, channels}`` of headerless audio.
        max_bytes: Largest recording; the service's own limit where left out.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        Forbidden: The caller may not manage the controller's sources.
        InvalidInput: Name, kind or media cannot be used.
        Conflict: There is a source of this name.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    media = _check(name, kind, default_media, max_bytes)
    now = services.clock.now()
    async with services.database.transaction() as session:
        if await session.scalar(sa.select(Source.id).where(Source.name == name)) is not None:
            raise Conflict(f"there is a source {name} already", kind="source-name-taken")
        row = Source(
            id=uuid.uuid4(),
            controller_id=controller_id,
            name=name,
            kind=kind,
            default_lawful_basis=default_lawful_basis,
            default_media=media,
            max_bytes=max_bytes,
            settings={},
            enabled=True,
            created_at=now,
        )
        session.add(row)
        record(session, _event("source.created", principal, row, request_id), now=now)
    return row.id


async def set_enabled(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    *,
    enabled: bool,
    request_id: str | None = None,
) -> None:
    """Switch a source on or off; while it is off its tokens open nothing. Repeating it changes nothing.

    Raises:
        Forbidden: The caller may not manage the controller's sources.
        NotFound: There is no such source.
    """
    async with services.database.snapshot() as session:
        known = await session.get(Source, source_id)
    if known is None:
        raise NotFound("there is no such source")
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=known.controller_id, request_id=request_id
    )
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await session.get_one(Source, source_id, with_for_update=True)
        if row.enabled is not enabled:
            row.enabled = enabled
            action = "source.enabled" if enabled else "source.disabled"
            record(session, _event(action, principal, row, request_id), now=now)


async def list_sources(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> Sequence[Source]:
    """A controller's sources, by name.

    Raises:
        Forbidden: The caller may not manage the controller's sources.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        query = sa.select(Source).where(Source.controller_id == controller_id).order_by(Source.name)
        return list(await session.scalars(query))


def _check(
    name: str, kind: str, media: Mapping[str, Any] | None, max_bytes: int | None
) -> dict[str, Any] | None:
    fields: list[FieldError] = []
    if _NAME.fullmatch(name) is None:
        fields.append(FieldError("/name", "1 to 64 lower-case letters, digits, dots, dashes, underscores"))
    if kind not in KINDS:
        fields.append(FieldError("/kind", f"one of {', '.join(KINDS)}"))
    if max_bytes is not None and max_bytes < 1:
        fields.append(FieldError("/max_bytes", "at least 1"))
    checked: dict[str, Any] | None = None
    if media is not None:
        try:
            checked = MediaHint.model_validate(dict(media)).model_dump(exclude_none=True)
        except ValidationError as error:
            fields += [FieldError(f"/media{f.path}", f.message) for f in field_errors(error)]
    if fields:
        raise InvalidInput("the source cannot be made like this", fields=fields)
    return checked


def _event(action: str, principal: Principal, row: Source, request_id: str | None) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="source",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"kind": row.kind},
    )
