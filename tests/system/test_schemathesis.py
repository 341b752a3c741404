"""Whatever the document allows, and much that it does not, gets an answer that the document knows.

Every JSON operation of a throw-away service, with requests made from its own description by schemathesis:
valid ones and broken ones, under every role. Streams and raw bodies have tests of their own.
"""

from __future__ import annotations

import json
import uuid
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
from tests.system.installation import Installation, call_of, client, embedded, in_own_loop, tone

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
        installation.add_account("maija.meikalainen", "Maija Meikäläinen", Role.LEGAL)
        installation.start()
        yield installation
    finally:
        installation.stop()
        processes.remove_folder(installation.folder)


@pytest.fixture(scope="module")
def known(throw_away: Installation) -> dict[str, str]:
    """Ids that exist, by the collection they are in: only with them a request gets deep."""

    async def fill() -> dict[str, str]:
        async with client(throw_away) as api:
            upsert = {"number": "K-1", "source": "registration"}
            customer = await api.request("PUT", "/api/v1/customers", role="crm", json=upsert)
            pushed = await api.push(call_of("fuzzed", customer={"number": "K-1"}), tone(0.2))
            matter = {"reference": "R-1", "ground": "legal_claims", "review_on": "2030-01-01T00:00:00Z"}
            opened = await api.post("/api/v1/matters", "legal", json=matter)
            accounts = await api.get("/api/v1/accounts", "operator")
            return {
                "customers": customer.json["id"],
                "recordings": pushed.json["id"],
                "quarantine": pushed.json["id"],
                "matters": opened.json["id"],
                "accounts": accounts.json["items"][0]["id"],
                "sources": str(throw_away.source_id),
                "schedules": "1",
            }

    return in_own_loop(fill())


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


# Who does what a path is about; others are tried as well.
MAIN_ROLE = {
    "customers": "crm",
    "recordings": "legal",
    "matters": "legal",
    "restrictions": "privacy",
    "schedules": "privacy",
    "approvals": "privacy",
    "audit": "auditor",
    "accounts": "operator",
    "tokens": "operator",
    "sources": "operator",
    "quarantine": "operator",
}


def collection_of(path: str) -> str:
    return path.split("/")[3] if path.startswith("/api/v1/") else ""


def filled(case: Case[Any], known: dict[str, str]) -> None:
    """Put ids that exist where ids are wanted: only with them a request gets deep."""
    for name in case.path_parameters or {}:
        exists = known.get(collection_of(case.path)) if name in {"id", "version"} else None
        case.path_parameters[name] = exists or str(uuid.uuid4())
    for members in (case.query, case.body):
        if not isinstance(members, dict):
            continue
        members.pop("controller", None)
        for name, collection in (("recording", "recordings"), ("customer", "customers")):
            if isinstance(members.get(name), str):
                members[name] = known[collection]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
@pytest.mark.parametrize("route", JSON_ROUTES, ids=[f"{r.method} {r.path}" for r in JSON_ROUTES])
def test_every_answer_is_a_documented_one(
    route: Route,
    mode: GenerationMode,
    throw_away: Installation,
    known: dict[str, str],
    http: requests.Session,
) -> None:
    operation = SCHEMA[route.path][route.method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
        mode = GenerationMode.POSITIVE  # nothing there to break

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
        usual=st.sampled_from([True, True, False]),
    )
    def probe(case: Case[Any], role: str | None, usual: bool) -> None:
        if usual:
            filled(case, known)
            role = MAIN_ROLE.get(collection_of(route.path), role)
        headers = {} if role is None else {"Authorization": f"Bearer {throw_away.tokens[role]}"}
        response = case.call(base_url=throw_away.url, session=http, headers=headers, timeout=60)
        # A dependency that is really away would be a fault of this test's own.
        assert response.status_code < 500, (role, response.text)
        case.validate_response(response, checks=CHECKS)

    run: Callable[[], Any] = probe
    run()


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
    # Many operations were not only refused, but done at least once; those that want a second person, or a
    # thing in a state that chance does not make, have tests of their own.
    assert len(never) < len(JSON_ROUTES) * 3 / 5, sorted(never)
