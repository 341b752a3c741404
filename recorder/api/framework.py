"""Routes as data: one table serves requests, checks input and writes the OpenAPI document.

A handler gets an :class:`ApiCall` with everything already authenticated and validated, and returns a
pydantic model (sent as JSON) or a response of its own. It raises ``recorder.errors``.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar

from aiohttp import web
from aiohttp.http import HttpProcessingError
from pydantic import BaseModel, ValidationError

from recorder.access.principals import Principal
from recorder.api.bodies import refuse_encoding
from recorder.errors import (
    FieldError,
    InvalidInput,
    MalformedInput,
    NotFound,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from recorder.services import Services

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
PRINCIPAL: web.RequestKey[Principal | None] = web.RequestKey("principal", object)  # type: ignore[arg-type]  # Optional
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
CSRF: web.RequestKey[str] = web.RequestKey("csrf", str)
# Set by a handler before it prepares a stream: from then on only a broken connection tells of a failure.
STREAMING: web.RequestKey[bool] = web.RequestKey("streaming", bool)

_JSON_LIMIT = 1024 * 1024
M = TypeVar("M", bound=BaseModel)


@dataclass(slots=True)
class ApiCall:
    """One request, as a handler sees it.

    Attributes:
        query: instance of the route's ``query`` model.
        body: instance of the route's ``body`` model.
        path: path parameters as sent.
    """

    services: Services
    request: web.Request
    request_id: str
    caller: Principal | None
    query: Any = None
    body: Any = None

    @property
    def principal(self) -> Principal:
        """Who is asking.

        Raises:
            Unauthenticated: nobody signed in; only on routes that are public.
        """
        if self.caller is None:
            raise Unauthenticated("sign in, or send Authorization: Bearer with a valid token")
        return self.caller

    @property
    def path(self) -> Mapping[str, str]:
        """Path parameters as sent."""
        return self.request.match_info

    def uuid(self, name: str) -> uuid.UUID:
        """A path parameter that must be a random id.

        Raises:
            NotFound: it is not one, so nothing can be there.
        """
        try:
            return uuid.UUID(self.request.match_info[name])
        except ValueError:
            raise NotFound(f"{name} in the path is not an id of ours") from None


Handler = Callable[[ApiCall], Awaitable[BaseModel | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Other:
    """A further successful answer of an operation, with a model of its own."""

    meaning: str
    answer: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the API.

    Attributes:
        path: aiohttp pattern, which is the OpenAPI path as well.
        query: model of the query string; unknown parameters are refused.
        body: model of a JSON body.
        answer: model of the JSON answer.
        status: status of success.
        other: further successful statuses, with what they mean; as :class:`Other` where the answer differs.
        auth: ``required``: deny without a principal; ``public``: the handler does without.
        security: names of the document's security schemes, any of which will do.
        raises: errors this operation documents beside the ones every operation has.
        raw: the body or the answer is a stream; ``request_types``/``answer_types`` name its media types.
        head: GET also answers HEAD by the same handler.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    path: str
    handler: Handler
    summary: str = ""
    tag: str = "recordings"
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    status: int = 200
    other: Mapping[int, str | Other] = field(default_factory=dict)
    auth: Literal["required", "public"] = "required"
    security: tuple[str, ...] = ("bearer", "session")
    raises: tuple[type[Exception], ...] = ()
    raw: bool = False
    head: bool = False
    request_types: tuple[str, ...] = ()
    answer_types: tuple[str, ...] = ()
    body_optional: bool = False
    expect_handler: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None


def mount(app: web.Application, routes: tuple[Route, ...]) -> None:
    """Serve a table of routes."""
    for route in routes:
        endpoint = _endpoint(route)
        if route.method == "GET" and route.head:
            app.router.add_route("HEAD", route.path, endpoint)
        app.router.add_route(route.method, route.path, endpoint, expect_handler=route.expect_handler)


def _endpoint(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        call = ApiCall(
            services=request.app[SERVICES],
            request=request,
            request_id=request[REQUEST_ID],
            caller=request.get(PRINCIPAL),
        )
        if route.auth == "required":
            _ = call.principal
        if route.query is not None:
            call.query = parse_query(route.query, request)
        if route.body is not None:
            call.body = await parse_body(route.body, request, optional=route.body_optional)
        answer = await route.handler(call)
        if isinstance(answer, BaseModel):
            return json_response(answer, route.status)
        return answer

    return serve


def json_response(
    answer: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A model as JSON; never stored by caches."""
    return web.Response(
        status=status,
        body=answer.model_dump_json(by_alias=True).encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def no_content() -> web.Response:
    """204: done, and nothing to say."""
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def parse_query(model: type[M], request: web.Request) -> M:
    """Validate the query string.

    Raises:
        InvalidInput: naming each parameter.
    """
    lists = _lists(model)
    values: dict[str, Any] = {}
    for name in request.query:
        every = request.query.getall(name)
        if name not in lists and len(every) > 1:
            raise InvalidInput(
                f"the query parameter {name} is given twice", fields=[FieldError(name, "give it once")]
            )
        values[name] = every if name in lists else every[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid(error, query=True) from None


@cache
def _lists(model: type[BaseModel]) -> frozenset[str]:
    """Parameters that may be given more than once."""
    return frozenset(
        info.alias or name
        for name, info in model.model_fields.items()
        if "list" in str(info.annotation) or "tuple" in str(info.annotation)
    )


async def parse_body(model: type[M], request: web.Request, *, optional: bool = False) -> M:
    """Read and validate a JSON body of at most a mebibyte.

    Raises:
        UnsupportedMediaType: it is not declared as JSON.
        TooLarge: it is longer than the limit.
        MalformedInput: it is not JSON.
        InvalidInput: naming each field by JSON pointer.
    """
    raw = await read_bounded(request, _JSON_LIMIT, seconds=request.app[SERVICES].settings.upload_idle_seconds)
    if not raw and optional:
        return model()
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise UnsupportedMediaType("send the body as application/json")
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


async def read_bounded(request: web.Request, limit: int, *, seconds: float) -> bytes:
    """The whole body, counted as it comes: ``client_max_size`` does not bound ``request.content``.

    Args:
        limit: most bytes.
        seconds: in which the whole of it has to be here; a sender that drips holds nothing for longer.

    Raises:
        UnsupportedMediaType: it is compressed.
        TooLarge: it is longer than the limit.
        MalformedInput: it did not arrive whole, or not in time.
    """
    refuse_encoding(request.headers)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"the body is over {limit} bytes")
                parts.append(chunk)
    except TimeoutError:
        raise MalformedInput(f"the body did not arrive within {seconds:g} seconds") from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
        raise MalformedInput("the body broke off, or its framing is wrong") from None
    return b"".join(parts)


def invalid(
    error: ValidationError, *, query: bool = False, prefix: str = ""
) -> InvalidInput | MalformedInput:
    """Our error for pydantic's: pointers and reasons, never the values (they may be personal)."""
    fields: list[FieldError] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        if item["type"] == "json_invalid":
            return MalformedInput("the body is not JSON (RFC 8259)")
        names = [str(part)[:60] for part in item["loc"]]
        escaped = [n.replace("~", "~0").replace("/", "~1") for n in names]
        path = ".".join(names) if query else prefix + "".join(f"/{n}" for n in escaped)
        fields.append(FieldError(path, item["msg"]))
    listing = "; ".join(f"{f.path or 'body'}: {f.message}" for f in fields[:5])
    return InvalidInput(listing, fields=fields)
