"""Routes as data: what reaches a handler, and what never does."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pytest_aiohttp import AiohttpClient

from recorder.api.framework import SERVICES, ApiCall, Route, mount, no_content
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.services import Services
from tests.recorder.api.conftest import Client, MakeToken, Serve, sqlite_url

PERSONAL = "Matti-Meikäläinen-0401234567"


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: AwareDatetime | None = Field(None, alias="from")
    kind: Literal["a", "b"] = "a"
    tags: list[str] = []
    limit: Annotated[int, Field(ge=1, le=10)] = 5
    id: uuid.UUID | None = None


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: Annotated[str, Field(max_length=8)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    people: list[Inner] = []
    at: datetime | None = None
    by_key: dict[str, int] = {}


class Optional(BaseModel):
    name: str | None = None


class Answer(BaseModel):
    query: dict[str, Any] | None = None
    body: dict[str, Any] | None = None


async def echo(call: ApiCall) -> Answer:
    return Answer(
        query=None if call.query is None else call.query.model_dump(mode="json", by_alias=True),
        body=None if call.body is None else call.body.model_dump(mode="json"),
    )


async def by_id(call: ApiCall) -> web.StreamResponse:
    call.uuid("id")
    return no_content()


ROUTES = (
    Route("GET", "/api/v1/query", echo, query=Query, answer=Answer, auth="public"),
    Route("POST", "/api/v1/body", echo, body=Body, answer=Answer, status=201, auth="public"),
    Route("POST", "/api/v1/optional", echo, body=Optional, body_optional=True, answer=Answer, auth="public"),
    Route("GET", "/api/v1/things/{id}", by_id, status=204, auth="public", head=True),
    Route("GET", "/api/v1/closed", echo, answer=Answer),
)


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(*ROUTES)


async def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = await answer.json(content_type="application/problem+json")
    assert (answer.status, body["status"], body["type"]) == (status, status, f"urn:tallenne:problem:{kind}")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


async def test_a_query_arrives_validated_and_by_its_wire_names(client: Client) -> None:
    answer = await client.get(
        "/api/v1/query",
        params=[("from", "2026-03-05T10:00:00Z"), ("tags", "x"), ("tags", "y"), ("kind", "b")],
    )
    assert answer.status == 200
    got = (await answer.json())["query"]
    assert got == {"from": "2026-03-05T10:00:00Z", "kind": "b", "tags": ["x", "y"], "limit": 5, "id": None}
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"unknown": PERSONAL}, "unknown"),
        ({"kind": PERSONAL}, "kind"),
        ({"limit": PERSONAL}, "limit"),
        ({"limit": "11"}, "limit"),
        ({"id": PERSONAL}, "id"),
        ({"from": PERSONAL}, "from"),
        ({"from": "2026-03-05T10:00:00"}, "from"),
    ],
)
async def test_a_wrong_query_parameter_is_named_without_its_value(
    client: Client, query: dict[str, str], pointer: str
) -> None:
    answer = await client.get("/api/v1/query", params=query)
    text = await answer.text()
    body = await problem(answer, 422, "invalid-input")
    assert [e["pointer"] for e in body["errors"]] == [pointer]
    assert PERSONAL not in text


async def test_a_parameter_given_twice_is_refused_not_chosen_from(client: Client) -> None:
    answer = await client.get("/api/v1/query", params=[("kind", "a"), ("kind", "b")])
    body = await problem(answer, 422, "invalid-input")
    assert body["errors"] == [{"pointer": "kind", "detail": "give it once"}]


async def test_a_body_arrives_validated(client: Client) -> None:
    answer = await client.post("/api/v1/body", json={"name": "x", "people": [{"number": "1"}]})
    assert answer.status == 201
    assert (await answer.json())["body"]["people"] == [{"number": "1"}]


async def test_a_body_that_drips_is_given_up(services: Services, aiohttp_client: AiohttpClient) -> None:
    hasty = services.settings.model_copy(update={"upload_idle_seconds": 0.05})
    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = dataclasses.replace(services, settings=hasty)
    app.on_response_prepare.append(add_headers)
    mount(app, ROUTES)
    client = await aiohttp_client(app)
    never = asyncio.Event()

    async def dripping() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    answer = await client.post("/api/v1/body", data=dripping(), headers={"Content-Type": "application/json"})
    body = await problem(answer, 400, "malformed-input")
    assert "within 0.05 seconds" in body["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": 1}, "/name"),
        ({}, "/name"),
        ({"name": "x", "people": [{"number": PERSONAL}]}, "/people/0/number"),
        ({"name": "x", "at": PERSONAL}, "/at"),
        ({"name": "x", "by_key": {"a/b~c": PERSONAL}}, "/by_key/a~1b~0c"),
        ({"name": "x", "other": PERSONAL}, "/other"),
        ([PERSONAL], ""),
    ],
)
async def test_a_wrong_field_is_named_by_pointer_without_its_value(
    client: Client, body: object, pointer: str
) -> None:
    answer = await client.post("/api/v1/body", json=body)
    text = await answer.text()
    found = await problem(answer, 422, "invalid-input")
    assert [e["pointer"] for e in found["errors"]] == [pointer]
    assert PERSONAL not in text
    assert "0401234567" not in text


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'"\\ud800"', b"nul", b"[" * 100_000])
async def test_what_is_not_json_is_400(client: Client, raw: bytes) -> None:
    answer = await client.post("/api/v1/body", data=raw, headers={"Content-Type": "application/json"})
    await problem(answer, 400, "malformed-input")


async def test_another_media_type_is_415(client: Client) -> None:
    answer = await client.post("/api/v1/body", data={"name": "x"})
    await problem(answer, 415, "unsupported-media-type")


async def test_a_body_is_bounded_while_it_is_read(client: Client) -> None:
    async def blanks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    answer = await client.post("/api/v1/body", data=blanks(), headers=headers)
    await problem(answer, 413, "too-large")


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b" " * (64 * 1024 * 1024)), gzip.compress(b"{}"), b"never gzip"],
    ids=["bomb", "small", "none"],  # a packed body carries the time of day: as an id it would differ by run
)
async def test_a_compressed_body_is_refused_unread(client: Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await client.post("/api/v1/body", data=body, headers=headers)
    await problem(answer, 415, "unsupported-media-type")


async def test_an_optional_body_may_be_left_out_but_not_be_wrong(client: Client) -> None:
    answer = await client.post("/api/v1/optional")
    assert (await answer.json())["body"] == {"name": None}
    answer = await client.post("/api/v1/optional", json={"name": 1})
    await problem(answer, 422, "invalid-input")


@pytest.mark.parametrize("given", ["1", "x" * 36, "%C3%A4", "00000000-0000-0000-0000-00000000000g"])
async def test_an_id_that_is_none_is_not_found(client: Client, given: str) -> None:
    answer = await client.get(f"/api/v1/things/{given}")
    await problem(answer, 404, "not-found")


async def test_head_is_served_by_the_same_handler_where_the_route_says_so(client: Client) -> None:
    assert (await client.head(f"/api/v1/things/{uuid.uuid4()}")).status == 204
    assert (await client.head("/api/v1/query")).status == 405


async def test_a_route_is_closed_unless_it_says_public(client: Client, make_token: MakeToken) -> None:
    refused = await client.get("/api/v1/closed")
    await problem(refused, 401, "unauthenticated")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    token = await make_token()
    allowed = await client.get("/api/v1/closed", headers={"Authorization": f"Bearer {token}"})
    assert allowed.status == 200


async def test_a_route_is_closed_by_default() -> None:
    assert Route("GET", "/x", echo).auth == "required"


async def test_no_route_and_no_method_are_problems_too(client: Client) -> None:
    await problem(await client.get("/api/v1/nothing"), 404, "not-found")
    answer = await client.delete("/api/v1/query")
    await problem(answer, 405, "method-not-allowed")
    assert "GET" in answer.headers["Allow"]
