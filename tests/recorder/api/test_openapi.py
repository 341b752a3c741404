"""The document says what is served: nothing less, nothing more, in valid OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from aiohttp import web
from schemathesis import openapi as schemathesis_openapi

from recorder.api import openapi
from recorder.api.framework import ApiCall, Route, no_content
from recorder.app import ROUTES, build_app
from recorder.services import Services
from tests.recorder.api.conftest import sqlite_url

OURS = re.compile(r"^/(api|ingest|listen|uploads)(/|$)|^/(healthz|readyz|metrics)$")
_PLACE = re.compile(r"{(\w+)(?::[^{}]*)?}")
Operations = set[tuple[str, str]]


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
def app(services: Services) -> web.Application:
    return build_app(services)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.build(ROUTES, version="0")


def served(app: web.Application) -> Operations:
    """What the router answers under the API's roots."""
    found: Operations = set()
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if OURS.match(path):
            found.add((route.method, _PLACE.sub(r"{\1}", path)))
    return found


def described(document: dict[str, Any]) -> Operations:
    return {(method.upper(), path) for path, found in document["paths"].items() for method in found}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield method, path, operation


async def test_what_is_served_is_described_and_the_other_way_round(
    app: web.Application, document: dict[str, Any]
) -> None:
    assert len(described(document)) > 40
    assert served(app) - described(document) == set(), "served, not described"
    assert described(document) - served(app) == set(), "described, not served"


async def test_a_route_beside_the_table_is_noticed(app: web.Application, document: dict[str, Any]) -> None:
    async def hidden(_request: web.Request) -> web.StreamResponse:
        return web.Response()

    app.router.add_get("/api/v1/hidden", hidden, allow_head=False)
    assert served(app) - described(document) == {("GET", "/api/v1/hidden")}


async def test_a_described_route_that_nobody_serves_is_noticed(app: web.Application) -> None:
    async def ghost(_call: ApiCall) -> web.StreamResponse:
        return no_content()

    more = openapi.build((*ROUTES, Route("GET", "/api/v1/ghost", ghost)), version="0")
    assert described(more) - served(app) == {("GET", "/api/v1/ghost")}


def test_every_contract_name_is_there(document: dict[str, Any]) -> None:
    contract = """
        POST /api/v1/recordings, PUT /ingest/{source}/{external_id}, GET /api/v1/recordings,
        POST /api/v1/recordings/search, GET /api/v1/recordings/{id}, GET /api/v1/recordings/{id}/retention,
        GET /api/v1/recordings/{id}/history, GET /api/v1/recordings/{id}/audio,
        HEAD /api/v1/recordings/{id}/audio, POST /api/v1/recordings/{id}/links, GET /listen/{token},
        PUT /api/v1/customers, POST /api/v1/customers/search, POST /api/v1/customers/{id}/contacts,
        POST /api/v1/customers/{id}/choices, POST /api/v1/matters, POST /api/v1/matters/{id}/holds,
        DELETE /api/v1/matters/{id}/holds/{hold}, GET /api/v1/schedules, GET /api/v1/approvals,
        POST /api/v1/approvals, GET /api/v1/quarantine, GET /api/v1/keys, GET /api/v1/audit/checkpoint,
        GET /api/v1/audit/entries, GET /api/v1/audit/proof, GET /healthz, GET /readyz, GET /metrics,
        GET /api/openapi.json, GET /api/docs
    """
    wanted = {(m, p) for m, _, p in (item.strip().partition(" ") for item in contract.split(","))}
    assert wanted - described(document) == set()


def test_the_document_is_valid_openapi_31(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    for name, schema in document["components"]["schemas"].items():
        # OpenAPI 3.1 schemas are JSON Schema 2020-12; their references point into the whole document.
        whole = {**schema, "components": document["components"]}
        jsonschema_rs.Draft202012Validator(whole)  # raises where a schema is none
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name), "a component's name (OpenAPI 3.1 section 4.8.7)"
    schemathesis_openapi.from_dict(document).validate()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(ref := value.get("$ref"), str):
                yield ref
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) - names == set()


def test_operations_are_complete(document: dict[str, Any]) -> None:
    ids: list[str] = []
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        ids.append(operation["operationId"])
        assert operation["summary"], where
        in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert in_path == set(_PLACE.findall(path)), where
        for parameter in operation["parameters"]:
            assert parameter["schema"], where
        successes = {int(s) for s in operation["responses"] if int(s) < 400}
        assert successes, where
        # 460 is tus 1.0.0's own, not of the registry (RFC 9110 section 16.2).
        assert all(HTTPStatus(int(status)) for status in operation["responses"].keys() - {"460"}), where
        assert all(r["description"] for r in operation["responses"].values()), where
        for status in (204, 304):
            assert "content" not in operation["responses"].get(str(status), {}), where
    assert len(ids) == len(set(ids))


def test_every_refusal_is_a_problem_document(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and status != "412":
                assert "application/problem+json" in response["content"], (method, path, status)
        assert {"401", "403", "503"} <= operation["responses"].keys(), (method, path)


def test_only_these_are_open_to_anybody(document: dict[str, Any]) -> None:
    public = {(m.upper(), p) for m, p, operation in operations(document) if operation["security"] == []}
    assert public == {
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/api/openapi.json"),
        ("GET", "/api/docs"),
        ("OPTIONS", "/uploads"),
        ("OPTIONS", "/uploads/{id}"),
        ("GET", "/api/v1/keys"),
        ("POST", "/api/v1/session"),
    } | {
        # The token in the path is the credential, for which OpenAPI has no security scheme.
        (method, path)
        for method, path in described(document)
        if path.startswith("/ingest/t/{token}")
    }


def test_readiness_documents_its_own_answer_to_not_ready(document: dict[str, Any]) -> None:
    content = document["paths"]["/readyz"]["get"]["responses"]["503"]["content"]
    assert {"application/json", "application/problem+json"} == content.keys()
