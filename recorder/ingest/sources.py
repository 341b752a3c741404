"""Telephony sources: made, listed and changed by the operator. Their tokens are `recorder.access.tokens`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Final

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.locks import lock_values
from recorder.catalogue.tables import Source
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from recorder.ingest.adapters.registry import GENERIC, KINDS, settings_of
from recorder.ingest.metadata import MediaHint, field_errors, pointer
from recorder.services import Services

RESERVED: Final = frozenset({"t"})
"""Names that are paths of their own below /ingest."""

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Kind = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class SourceChange(BaseModel):
    """What an operator may change of a source; what is left out stays, null clears."""

    model_config = ConfigDict(extra="forbid")

    default_lawful_basis: LawfulBasis | None = None
    default_media: MediaHint | None = Field(None, description="what headerless audio of this source is")
    max_bytes: Annotated[int, Field(gt=0, le=2**40)] | None = Field(
        None, description="largest recording; default the service's limit"
    )
    enabled: bool = True
    settings: dict[str, JsonValue] | None = Field(
        None, description="of its kind, such as allow: networks (CIDR) it pushes from; replaced as a whole"
    )


class NewSource(SourceChange):
    """A source to be made."""

    name: Name = Field(description="stands in URLs; a system's name, never a person's")
    kind: Kind = Field(GENERIC, description=f"how it pushes: {', '.join(KINDS)}")


async def create_source(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    given: NewSource,
    *,
    request_id: str | None = None,
) -> Source:
    """Make a source. It can push once it has a token.

    Raises:
        Forbidden: the caller does not manage sources.
        Conflict: the name is taken.
        InvalidInput: the name is reserved, the kind unknown, or a setting is none of the kind's.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    if given.name in RESERVED:
        field = FieldError("/name", "is reserved; choose another")
        raise InvalidInput(f"{field.path}: {field.message}", fields=[field])
    if given.kind not in KINDS:
        field = FieldError("/kind", f"is none of {', '.join(KINDS)}")
        raise InvalidInput(f"{field.path}: {field.message}", fields=[field])
    now = services.clock.now()
    row = Source(
        id=uuid.uuid4(),
        controller_id=controller_id,
        name=given.name,
        kind=given.kind,
        default_lawful_basis=given.default_lawful_basis,
        default_media=_media(given.default_media),
        max_bytes=given.max_bytes,
        settings=_settings(given.kind, given.settings),
        enabled=given.enabled,
        created_at=now,
    )
    async with services.database.transaction() as session:
        await lock_values(session, [b"source\x00\x00" + given.name.encode()[:32]])
        if await session.scalar(sa.select(Source.id).where(Source.name == given.name)) is not None:
            raise Conflict("a source of this name exists already")
        session.add(row)
        record(
            session,
            _event("source.created", principal, row, sorted(given.model_fields_set), request_id),
            now=now,
        )
    return row


async def change_source(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    given: SourceChange,
    *,
    request_id: str | None = None,
) -> Source:
    """Change a source's settings; switching it off refuses its pushes at once.

    Raises:
        Forbidden: the caller does not manage sources.
        NotFound: there is no such source.
        InvalidInput: a setting is none of its kind's.
    """
    await find_source(services, principal, source_id, request_id=request_id)
    async with services.database.transaction() as session:
        row = await session.get_one(Source, source_id, with_for_update=True)
        for name in given.model_fields_set:
            setattr(row, name, _column(row.kind, given, name))
        event = _event("source.changed", principal, row, sorted(given.model_fields_set), request_id)
        record(session, event, now=services.clock.now())
    return row


async def find_source(
    services: Services, principal: Principal, source_id: uuid.UUID, *, request_id: str | None = None
) -> Source:
    """One source.

    Raises:
        Forbidden: the caller does not manage its controller's sources.
        NotFound: there is no such source.
    """
    async with services.database.snapshot() as session:
        row = await session.get(Source, source_id)
    if row is None:
        raise NotFound("there is no such source")
    await permit(
        services,
        principal,
        Action.MANAGE_SOURCES,
        controller_id=row.controller_id,
        object_type="source",
        object_id=str(source_id),
        request_id=request_id,
    )
    return row


async def list_sources(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> Sequence[Source]:
    """A controller's sources by name.

    Raises:
        Forbidden: the caller does not manage sources.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        query = sa.select(Source).where(Source.controller_id == controller_id).order_by(Source.name)
        return (await session.scalars(query)).all()


def _column(kind: str, given: SourceChange, name: str) -> Any:
    match name:
        case "default_media":
            return _media(given.default_media)
        case "settings":
            return _settings(kind, given.settings)
        case _:
            return getattr(given, name)


def _settings(kind: str, given: dict[str, JsonValue] | None) -> dict[str, Any]:
    """Settings as kept.

    Raises:
        InvalidInput: naming each setting that is not of the kind, or wrong.
    """
    model = settings_of(kind)
    if unknown := sorted((given or {}).keys() - model.model_fields.keys()):
        message = f"is none of {', '.join(model.model_fields)}"
        fields = [FieldError(f"/settings{pointer([name])}", message) for name in unknown]
        raise InvalidInput(f"the settings cannot be used: {fields[0].path}: {message}", fields=fields)
    try:
        return model.model_validate(given or {}).document()
    except ValidationError as error:
        fields = [FieldError(f"/settings{f.path}", f.message) for f in field_errors(error)]
        listing = "; ".join(f"{f.path}: {f.message}" for f in fields[:5])
        raise InvalidInput(f"the settings cannot be used: {listing}", fields=fields) from None


def _media(hint: MediaHint | None) -> dict[str, Any] | None:
    return None if hint is None else hint.model_dump(exclude_none=True)


def _event(
    action: str, principal: Principal, row: Source, fields: list[str], request_id: str | None
) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="source",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"fields": fields, "kind": row.kind, "enabled": row.enabled},
    )
