"""Webhooks, completeness, whole calls and shared lines over HTTP, as an operator's programs use them."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import calls, completeness, customers, webhooks
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.completeness.watching import watch
from tests.recorder.disposition_world import World, clock_of, world

__all__ = ["world"]

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture
async def ask(
    world: World, aiohttp_client: Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
) -> Ask:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        controller = uuid.UUID(request.headers.get("X-Controller", str(world.controller.id)))
        grant = Grant(Role(request.headers["X-Role"]), controller, ScopeKind.CONTROLLER)
        request[PRINCIPAL] = Principal("account", str(uuid.UUID(int=7)), controller, (grant,))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, (*webhooks.ROUTES, *completeness.ROUTES, *calls.ROUTES, *customers.ROUTES))
    client = await aiohttp_client(app)

    async def send(
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str = "operator",
        status: int = 200,
        data: bytes | None = None,
        controller: uuid.UUID | None = None,
    ) -> Any:
        headers = {"X-Role": role}
        if controller is not None:
            headers["X-Controller"] = str(controller)
        if data is not None:
            headers["Content-Type"] = "text/csv"
        async with client.request(method, path, json=body, data=data, headers=headers) as answer:
            found = await answer.json() if answer.content_type.endswith("json") else None
            assert answer.status == status, found
            return found

    return send


async def test_the_life_of_a_webhook(ask: Ask) -> None:
    body = {"url": "https://crm.example/hook?key=hunter2", "label": "crm", "events": ["recording.erased"]}
    made = await ask("POST", "/api/v1/webhooks", body, status=201)
    assert made["secret"].startswith("whsec_")
    assert "url" not in made
    path = f"/api/v1/webhooks/{made['id']}"
    assert (await ask("GET", "/api/v1/webhooks"))["items"] == [
        {**made, "secret": None, "waiting": 0, "dead": 0}
    ]
    changed = await ask("PATCH", path, {"enabled": False})
    assert (changed["enabled"], changed["disabled_reason"]) == (False, "operator")
    secret = await ask("POST", f"{path}/secret", {"overlap_hours": 1})
    assert secret["secret"] != made["secret"]
    await ask("POST", f"{path}/test", status=202)
    [message] = (await ask("GET", f"{path}/messages?state=pending"))["items"]
    assert message["type"] == "webhook.test"
    assert await ask("POST", f"{path}/replay", {}, status=202) == {"messages": 0}
    await ask("POST", f"{path}/replay", {"message": message["id"]}, status=404)
    await ask("DELETE", path, status=204)
    await ask("GET", f"{path}/messages", status=404)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://crm.example/", "label": "x"}, "/url"),
        ({"url": "https://crm.example/", "label": "x", "events": ["nothing"]}, "/events"),
        ({"url": "https://crm.example/"}, "/label"),
    ],
)
async def test_what_is_wrong_with_a_webhook_is_named(ask: Ask, body: dict[str, Any], pointer: str) -> None:
    found = await ask("POST", "/api/v1/webhooks", body, status=422)
    assert [error["pointer"] for error in found["errors"]] == [pointer]
    assert "crm.example" not in str(found)


async def test_other_roles_and_other_controllers_see_nothing(ask: Ask) -> None:
    made = await ask("POST", "/api/v1/webhooks", {"url": "https://crm.example/", "label": "crm"}, status=201)
    paths = ("/api/v1/webhooks", f"/api/v1/webhooks/{made['id']}/messages", "/api/v1/completeness")
    for role in ("trainer", "quality", "legal", "crm", "agent", "telephony"):
        for path in paths:
            await ask("GET", path, role=role, status=403)
    elsewhere = uuid.uuid4()
    await ask("GET", f"/api/v1/webhooks/{made['id']}/messages", controller=elsewhere, status=403)
    await ask("DELETE", f"/api/v1/webhooks/{made['id']}", controller=elsewhere, status=403)


async def test_call_detail_records_open_a_gap_that_is_shown(ask: Ask, world: World) -> None:
    path = f"/api/v1/sources/{world.source.id}/cdr"
    # As FreeSWITCH writes them, in a zone of its own.
    text = (
        b'"M","040","100","d","2026-03-05 08:00:00","2026-03-05 08:00:02","x","32","30","OK","u-1","","",""\n'
    )
    report = await ask("POST", f"{path}?format=freeswitch&zone=Europe/Stockholm", data=text)
    assert (report["answered"], report["missing"], report["missing_lines"]) == (1, 1, [1])
    [told] = (await ask("GET", "/api/v1/completeness/expected"))["items"]
    assert (told["outcome"], told["started_at"]) == ("missing", "2026-03-05T07:00:00Z")
    clock_of(world.services).advance(timedelta(hours=2))
    await watch(world.services)
    [gap] = (await ask("GET", "/api/v1/completeness?gaps=true"))["items"]
    assert (gap["source"], gap["expected"], gap["received"], gap["basis"]) == ("pbx-1", 1, 0, "cdr")
    assert gap["hour"] == "2026-03-05T07:00:00Z"
    await ask("POST", f"{path}?zone=Mars/Olympus", data=text, status=422)
    await ask("POST", f"{path}?format=guess", data=text, status=422)
    await ask("POST", path, data=text, role="trainer", status=403)
    await ask("POST", f"/api/v1/sources/{uuid.uuid4()}/cdr", data=text, status=404)
    await ask("GET", "/api/v1/completeness?from=yesterday", status=422)


async def test_a_call_as_a_whole(ask: Ask, world: World) -> None:
    recording = await world.recording()
    row = await world.get(recording)
    [call] = (await ask("GET", f"/api/v1/calls/{row.call_id}", role="quality"))["calls"]
    assert (call["id"], call["way"]) == (str(row.call_id), "self")
    assert [item["id"] for item in call["recordings"]] == [str(recording)]
    await ask("GET", f"/api/v1/calls/{uuid.uuid4()}", role="quality", status=404)
    await ask("GET", "/api/v1/calls/nonsense", role="quality", status=404)
    await ask("GET", f"/api/v1/calls/{row.call_id}", role="telephony", status=403)


async def test_shared_lines_never_stand_in_an_address(ask: Ask) -> None:
    body = {"phone": "09 1234 500"}
    assert await ask("POST", "/api/v1/shared-lines", body, role="crm") == {"changed": True}
    assert await ask("POST", "/api/v1/shared-lines", body, role="crm") == {"changed": False}
    assert await ask("POST", "/api/v1/shared-lines/removal", body, role="crm") == {"changed": True}
    await ask("POST", "/api/v1/shared-lines", {"phone": "hello"}, role="crm", status=422)
    await ask("POST", "/api/v1/shared-lines", body, role="operator", status=403)
