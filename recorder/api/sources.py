"""Sources and their tokens, for the operator."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Annotated, Any

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.access import tokens
from recorder.access.tokens import DEFAULT_OVERLAP, IssuedToken
from recorder.api.framework import ApiCall, Route, no_content
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import Source
from recorder.errors import Conflict, InvalidInput, NotFound
from recorder.ingest import sources
from recorder.ingest.sources import NewSource, SourceChange
from recorder.playback.finding import controller_of


class SourcesQuery(BaseModel):
    """Which controller's sources."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = None


class SourceItem(BaseModel):
    """A source, without its tokens."""

    id: uuid.UUID
    name: str
    kind: str
    default_lawful_basis: LawfulBasis | None
    default_media: dict[str, Any] | None
    max_bytes: int | None
    settings: dict[str, Any]
    enabled: bool
    created_at: datetime


class SourcesAnswer(BaseModel):
    """All of a controller's sources, by name."""

    items: list[SourceItem]


class TokenBody(BaseModel):
    """A further token for a source."""

    model_config = ConfigDict(extra="forbid")

    label: Annotated[str, Field(min_length=1, max_length=100)] = "source"
    expires_at: AwareDatetime | None = None


class RotateBody(BaseModel):
    """How long the present tokens stay valid beside the new one."""

    model_config = ConfigDict(extra="forbid")

    overlap: Annotated[int, Field(ge=0, le=90 * 86_400)] = Field(
        int(DEFAULT_OVERLAP.total_seconds()), description="seconds"
    )


class TokenAnswer(BaseModel):
    """A fresh token. It is shown this once."""

    id: uuid.UUID
    token: str
    expires_at: datetime | None


def _item(row: Source) -> SourceItem:
    return SourceItem.model_validate(row, from_attributes=True)


def _token(issued: IssuedToken) -> TokenAnswer:
    return TokenAnswer(id=issued.id, token=issued.token, expires_at=issued.expires_at)


async def list_sources(call: ApiCall) -> SourcesAnswer:
    """List sources."""
    controller_id = controller_of(call.principal, call.query.controller)
    rows = await sources.list_sources(
        call.services, call.principal, controller_id, request_id=call.request_id
    )
    return SourcesAnswer(items=[_item(row) for row in rows])


async def create_source(call: ApiCall) -> SourceItem:
    """Make a source."""
    controller_id = controller_of(call.principal, call.query.controller)
    body: NewSource = call.body
    row = await sources.create_source(
        call.services, call.principal, controller_id, body, request_id=call.request_id
    )
    return _item(row)


async def get_source(call: ApiCall) -> SourceItem:
    """One source."""
    row = await sources.find_source(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    return _item(row)


async def change_source(call: ApiCall) -> SourceItem:
    """Change a source."""
    body: SourceChange = call.body
    row = await sources.change_source(
        call.services, call.principal, call.uuid("id"), body, request_id=call.request_id
    )
    return _item(row)


async def add_token(call: ApiCall) -> TokenAnswer:
    """Issue a further token."""
    source_id = call.uuid("id")
    row = await sources.find_source(call.services, call.principal, source_id, request_id=call.request_id)
    body: TokenBody = call.body
    issued = await tokens.issue_token(
        call.services,
        call.principal,
        controller_id=row.controller_id,
        label=body.label,
        source_id=source_id,
        expires_at=body.expires_at,
        request_id=call.request_id,
    )
    return _token(issued)


async def rotate(call: ApiCall) -> TokenAnswer:
    """Issue the next token; the present ones end after the overlap."""
    body: RotateBody = call.body
    issued = await tokens.rotate_source_token(
        call.services,
        call.principal,
        call.uuid("id"),
        overlap=timedelta(seconds=body.overlap),
        request_id=call.request_id,
    )
    return _token(issued)


async def revoke(call: ApiCall) -> web.StreamResponse:
    """End a token at once."""
    await sources.find_source(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    await tokens.revoke_token(call.services, call.principal, call.uuid("token"), request_id=call.request_id)
    return no_content()


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/sources",
        list_sources,
        "Telephony sources",
        "sources",
        query=SourcesQuery,
        answer=SourcesAnswer,
    ),
    Route(
        "POST",
        "/api/v1/sources",
        create_source,
        "Make a source",
        "sources",
        query=SourcesQuery,
        body=NewSource,
        answer=SourceItem,
        status=201,
        raises=(Conflict, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/sources/{id}",
        get_source,
        "A source",
        "sources",
        answer=SourceItem,
        raises=(NotFound,),
    ),
    Route(
        "PATCH",
        "/api/v1/sources/{id}",
        change_source,
        "Change a source's defaults, limit, settings or switch",
        "sources",
        body=SourceChange,
        answer=SourceItem,
        raises=(NotFound, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/sources/{id}/tokens",
        add_token,
        "Issue a further token for a source",
        "sources",
        body=TokenBody,
        answer=TokenAnswer,
        status=201,
        raises=(NotFound, Conflict),
        body_optional=True,
    ),
    Route(
        "POST",
        "/api/v1/sources/{id}/tokens/rotate",
        rotate,
        "Issue a source's next token; the present ones end after the overlap",
        "sources",
        body=RotateBody,
        answer=TokenAnswer,
        status=201,
        raises=(NotFound,),
        body_optional=True,
    ),
    Route(
        "DELETE",
        "/api/v1/sources/{id}/tokens/{token}",
        revoke,
        "End a token at once",
        "sources",
        status=204,
        raises=(NotFound,),
    ),
)
