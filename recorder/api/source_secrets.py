"""Secrets of sources: set and removed by the operator, listed by name, never read back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from recorder.api.framework import ApiCall, Route, no_content
from recorder.errors import InvalidInput, NotFound
from recorder.ingest import secrets


class SecretItem(BaseModel):
    """That a source has a secret."""

    name: str
    changed_at: datetime


class SecretsAnswer(BaseModel):
    """A source's secrets, by name, without their values."""

    items: list[SecretItem]


class SecretBody(BaseModel):
    """A secret's value. It cannot be read back."""

    model_config = ConfigDict(extra="forbid")

    value: Annotated[SecretStr, Field(min_length=1, max_length=secrets.MAX_SECRET)]


async def list_secrets(call: ApiCall) -> SecretsAnswer:
    """Name a source's secrets."""
    found = await secrets.list_secrets(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    return SecretsAnswer(items=[SecretItem.model_validate(one, from_attributes=True) for one in found])


async def put_secret(call: ApiCall) -> web.StreamResponse:
    """Set a secret."""
    body: SecretBody = call.body
    await secrets.set_secret(
        call.services,
        call.principal,
        call.uuid("id"),
        call.path["name"],
        body.value.get_secret_value(),
        request_id=call.request_id,
    )
    return no_content()


async def remove_secret(call: ApiCall) -> web.StreamResponse:
    """Forget a secret."""
    await secrets.remove_secret(
        call.services, call.principal, call.uuid("id"), call.path["name"], request_id=call.request_id
    )
    return no_content()


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/sources/{id}/secrets",
        list_secrets,
        "Names of a source's secrets",
        "sources",
        answer=SecretsAnswer,
        raises=(NotFound,),
    ),
    Route(
        "PUT",
        "/api/v1/sources/{id}/secrets/{name}",
        put_secret,
        "Set a secret of a source; it cannot be read back",
        "sources",
        body=SecretBody,
        status=204,
        raises=(NotFound, InvalidInput),
    ),
    Route(
        "DELETE",
        "/api/v1/sources/{id}/secrets/{name}",
        remove_secret,
        "Forget a secret of a source",
        "sources",
        status=204,
        raises=(NotFound,),
    ),
)
