"""Webhooks: where the controller's systems are told of events."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall, Route, no_content
from recorder.catalogue.enums import WebhookState
from recorder.catalogue.tables import WebhookEndpoint, WebhookMessage
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.outgoing import endpoints
from recorder.outgoing.events import EVENT_TYPES
from recorder.playback.finding import controller_of

_Events = Annotated[
    list[str], Field(max_length=50, description=f"event types, none for all: {', '.join(EVENT_TYPES)}")
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewWebhook(_Model):
    """An endpoint to be told of events."""

    controller: uuid.UUID | None = None
    url: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        description="https; kept sealed, for it may hold a secret of the receiver's"
    )
    label: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .:-]+$")]
    events: _Events = []


class WebhookChange(_Model):
    """What may change of an endpoint; what is left out stays."""

    events: _Events | None = None
    enabled: bool | None = None


class WebhookAnswer(BaseModel):
    """An endpoint; its address is never shown again, only the host."""

    id: uuid.UUID
    host: str
    label: str
    events: list[str]
    enabled: bool
    disabled_reason: str | None
    created_at: datetime
    waiting: int | None = None
    dead: int | None = None
    secret: str | None = Field(None, description="shown once, when the endpoint is made")


class WebhookList(BaseModel):
    """A controller's endpoints."""

    items: list[WebhookAnswer]


class ListQuery(_Model):
    """Whose endpoints."""

    controller: uuid.UUID | None = None


class MessageQuery(_Model):
    """Which messages."""

    state: WebhookState | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class MessageAnswer(BaseModel):
    """A message, and how its last attempt went."""

    id: uuid.UUID
    type: str
    state: WebhookState
    attempts: int
    next_attempt: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    payload: dict[str, Any]


class MessageList(BaseModel):
    """Messages, the newest first."""

    items: list[MessageAnswer]


class ReplayBody(_Model):
    """What to send again."""

    message: uuid.UUID | None = Field(None, description="one dead message; default all of them")


class ReplayAnswer(BaseModel):
    """What is on its way again."""

    messages: int


class RotateBody(_Model):
    """How the secret changes."""

    overlap_hours: Annotated[float, Field(ge=0, le=720)] = Field(
        24.0, description="for how long messages carry the old signature as well"
    )


class SecretAnswer(BaseModel):
    """The new secret, shown this once."""

    secret: str


class TestAnswer(BaseModel):
    """The test message that is on its way."""

    __test__ = False  # a name for users of the API, not for pytest

    message: uuid.UUID


async def create(call: ApiCall) -> WebhookAnswer:
    """POST /api/v1/webhooks."""
    body: NewWebhook = call.body
    row, secret = await endpoints.create_endpoint(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        url=body.url,
        label=body.label,
        events=body.events,
        request_id=call.request_id,
    )
    return _answer(row).model_copy(update={"secret": secret})


async def listing(call: ApiCall) -> WebhookList:
    """GET /api/v1/webhooks."""
    controller_id = controller_of(call.principal, call.query.controller)
    views = await endpoints.list_endpoints(
        call.services, call.principal, controller_id, request_id=call.request_id
    )
    return WebhookList(
        items=[_answer(v.row).model_copy(update={"waiting": v.waiting, "dead": v.dead}) for v in views]
    )


async def change(call: ApiCall) -> WebhookAnswer:
    """PATCH /api/v1/webhooks/{id}."""
    body: WebhookChange = call.body
    row = await endpoints.change_endpoint(
        call.services,
        call.principal,
        call.uuid("id"),
        events=body.events,
        enabled=body.enabled,
        request_id=call.request_id,
    )
    return _answer(row)


async def remove(call: ApiCall) -> web.Response:
    """DELETE /api/v1/webhooks/{id}."""
    await endpoints.remove_endpoint(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    return no_content()


async def test(call: ApiCall) -> TestAnswer:
    """POST /api/v1/webhooks/{id}/test."""
    message = await endpoints.send_test(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    return TestAnswer(message=message)


async def rotate(call: ApiCall) -> SecretAnswer:
    """POST /api/v1/webhooks/{id}/secret."""
    secret = await endpoints.rotate_secret(
        call.services,
        call.principal,
        call.uuid("id"),
        overlap=timedelta(hours=call.body.overlap_hours),
        request_id=call.request_id,
    )
    return SecretAnswer(secret=secret)


async def messages(call: ApiCall) -> MessageList:
    """GET /api/v1/webhooks/{id}/messages."""
    found = await endpoints.list_messages(
        call.services,
        call.principal,
        call.uuid("id"),
        state=call.query.state,
        limit=call.query.limit,
        request_id=call.request_id,
    )
    return MessageList(items=[_message(row) for row in found])


async def replay(call: ApiCall) -> ReplayAnswer:
    """POST /api/v1/webhooks/{id}/replay."""
    count = await endpoints.replay(
        call.services,
        call.principal,
        call.uuid("id"),
        message_id=call.body.message,
        request_id=call.request_id,
    )
    return ReplayAnswer(messages=count)


def _answer(row: WebhookEndpoint) -> WebhookAnswer:
    return WebhookAnswer(
        id=row.id,
        host=row.host,
        label=row.label,
        events=row.events,
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
    )


def _message(row: WebhookMessage) -> MessageAnswer:
    return MessageAnswer(
        id=row.id,
        type=row.type,
        state=row.state,
        attempts=row.attempts,
        next_attempt=row.not_before if row.state is WebhookState.PENDING else None,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        payload=row.payload,
    )


_TAG: Final = "webhooks"
_ONE: Final = (NotFound, Forbidden)

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/v1/webhooks",
        create,
        "Be told of events by signed webhooks",
        _TAG,
        body=NewWebhook,
        answer=WebhookAnswer,
        status=201,
        raises=(Forbidden, InvalidInput, Conflict, NotFound),
    ),
    Route(
        "GET",
        "/api/v1/webhooks",
        listing,
        "Webhooks, with how many messages wait and how many are dead",
        _TAG,
        query=ListQuery,
        answer=WebhookList,
        raises=(Forbidden,),
    ),
    Route(
        "PATCH",
        "/api/v1/webhooks/{id}",
        change,
        "Change what a webhook is told of, or switch it off and on",
        _TAG,
        body=WebhookChange,
        answer=WebhookAnswer,
        raises=(*_ONE, InvalidInput),
    ),
    Route("DELETE", "/api/v1/webhooks/{id}", remove, "Remove a webhook", _TAG, status=204, raises=_ONE),
    Route(
        "POST",
        "/api/v1/webhooks/{id}/test",
        test,
        "Send a test message",
        _TAG,
        answer=TestAnswer,
        status=202,
        raises=_ONE,
    ),
    Route(
        "POST",
        "/api/v1/webhooks/{id}/secret",
        rotate,
        "Give a webhook its next secret",
        _TAG,
        body=RotateBody,
        body_optional=True,
        answer=SecretAnswer,
        raises=(*_ONE, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/webhooks/{id}/messages",
        messages,
        "A webhook's messages; state=dead lists the dead letters",
        _TAG,
        query=MessageQuery,
        answer=MessageList,
        raises=_ONE,
    ),
    Route(
        "POST",
        "/api/v1/webhooks/{id}/replay",
        replay,
        "Send dead messages again",
        _TAG,
        body=ReplayBody,
        body_optional=True,
        answer=ReplayAnswer,
        status=202,
        raises=_ONE,
    ),
)
