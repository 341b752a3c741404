"""Whatever the document allows, and much that it does not, gets an answer that the document knows.

Every JSON operation of a throw-away service, with requests made from its own description by schemathesis:
valid ones and broken ones, under every role. Streams and raw bodies have tests of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from recorder.api import openapi
from recorder.api.framework import Route
from recorder.app import ROUTES
from recorder.catalogue.enums import Role
from tests.servers import processes
from tests.system.deeds import DEEDS, Deed, Office
from tests.system.installation import Installation, embedded

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ROLES = ["privacy", "operator", "legal", "crm", "auditor", "quality", "agent", "telephony", None]
JSON_ROUTES = [route for route in ROUTES if not route.raw]
SCHEMA = schemathesis.openapi.from_dict(openapi.build(ROUTES, version="0"))
EXAMPLES = 15


@pytest.fixture(scope="module")
def throw_away() -> Iterator[Installation]:
    installation = embedded(processes.work_folder("fuzzed"), RECORDER_LOCKOUT_FAILURES="1000000")
    try:
        installation.install()
        for username, role in (("leena", Role.LEGAL), ("olli", Role.LEGAL), ("pia", Role.PRIVACY)):
            installation.add_account(username, username.capitalize(), role)
        installation.start()
        yield installation
    finally:
        installation.stop()
        processes.remove_folder(installation.folder)


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def office(throw_away: Installation, http: requests.Session) -> Office:
    return Office(throw_away, http)


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def grounded(case: Case[Any], deed: Deed, keep: bool) -> None:
    """Do what chance says upon things that exist; ``keep`` all of the deed's members but what is broken."""
    case.path_parameters = {**(case.path_parameters or {}), **deed.path}
    case.query = {**deed.query, **(case.query or {})}
    case.query.pop("controller", None)
    if isinstance(case.body, dict):
        case.body.pop("controller", None)
        if keep and deed.body is not None:
            strange = sorted(case.body)[:1]
            case.body = {**deed.body, **{name: case.body[name] for name in strange}}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
@pytest.mark.parametrize("route", JSON_ROUTES, ids=named)
def test_every_answer_is_a_documented_one(
    route: Route,
    mode: GenerationMode,
    throw_away: Installation,
    office: Office,
    http: requests.Session,
) -> None:
    operation = SCHEMA[route.path][route.method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        mode = GenerationMode.POSITIVE  # nothing there to break
    deed = DEEDS[named(route)](office)
    granted = office.headers(deed.who)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        role=st.sampled_from(ROLES),
        usual=st.sampled_from(["one member", "every member", "nothing"]),
    )
    def probe(case: Case[Any], role: str | None, usual: str) -> None:
        headers = {} if role is None else {"Authorization": f"Bearer {throw_away.tokens[role]}"}
        if usual != "nothing":
            grounded(case, deed, keep=usual == "one member")
            headers = granted
        http.cookies.clear()
        response = case.call(base_url=throw_away.url, session=http, headers=headers, timeout=60)
        # A dependency that is really away would be a fault of this test's own.
        assert response.status_code < 500, (role, response.text)
        case.validate_response(response, checks=CHECKS)

    run: Callable[[], Any] = probe
    run()


@pytest.mark.parametrize("route", JSON_ROUTES, ids=named)
def test_every_operation_is_granted_to_whom_it_is_for(
    route: Route, office: Office, http: requests.Session
) -> None:
    deed = DEEDS[named(route)](office)
    case = SCHEMA[route.path][route.method].Case(
        path_parameters=deed.path, query=deed.query, body=deed.body, media_type="application/json"
    )
    http.cookies.clear()
    response = case.call(
        base_url=office.installation.url, session=http, headers=office.headers(deed.who), timeout=60
    )
    assert 200 <= response.status_code < 300, response.text
    case.validate_response(response, checks=CHECKS)


def test_the_service_has_come_through(throw_away: Installation, http: requests.Session) -> None:
    """After all that: alive, ready, its log intact, and nothing unexpected in its logs."""
    assert http.get(f"{throw_away.url}/readyz").status_code == 200
    assert throw_away.serve.running
    verified = throw_away.command("audit", "verify")
    assert verified.returncode == 0, verified.stderr
    text = (throw_away.folder / "serve.log").read_text()
    assert "unexpected failure" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    answers = {
        (line["method"], line["route"], line["status"]) for line in lines if line["event"] == "request"
    }
    done = {(method, route) for method, route, status in answers if status < 300}
    never = {(r.method, r.path) for r in JSON_ROUTES} - done
    assert not never, sorted(never)
