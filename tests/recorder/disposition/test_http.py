"""Matters, holds, restrictions, schedules and certificates over HTTP, with who may do what."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access import approvals
from recorder.access.approvals import decide_approval
from recorder.access.principals import Grant, Principal
from recorder.api import disposition
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Matter
from recorder.disposition import erasures
from recorder.disposition.certificates import CERTIFICATE_TYPE, verify
from tests.recorder.conftest import make_controller
from tests.recorder.disposition_world import World, bytes_of

Client = TestClient[web.Request, web.Application]
MATTER = {"reference": "2026-014", "ground": "legal_claims", "review_on": "2026-09-01T00:00:00Z"}


@pytest.fixture
async def client(world: Any, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    """The routes with the service's own middlewares; who is asking is named by a header."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        role = request.headers.get("X-Role")
        controller = uuid.UUID(request.headers.get("X-Controller", str(world.controller.id)))
        if role is not None:
            grant = Grant(Role(role), controller, ScopeKind.CONTROLLER)
            request[PRINCIPAL] = Principal("account", str(uuid.UUID(int=len(role))), controller, (grant,))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, disposition.ROUTES)
    return await aiohttp_client(app)


async def ask(
    client: TestClient[Any, Any], method: str, path: Any, role: Any, *, status: int = 200, **options: Any
) -> Any:
    headers = {"X-Role": role, **options.pop("headers", {})}
    async with client.request(method, path, headers=headers, **options) as response:
        body = await response.json()
        assert response.status == status, body
        return body


async def test_a_hold_is_placed_by_legal_and_released_by_two_people(
    world: World, client: TestClient[Any, Any]
) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    secret = {**MATTER, "title": "Virtanen against us"}
    matter = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=secret)
    async with world.services.database.snapshot() as session:
        (stored,) = await session.scalars(sa.select(Matter))
    assert b"Virtanen" not in bytes_of(stored.sealed)
    path = f"/api/v1/matters/{matter['id']}"
    hold = await ask(
        client, "POST", f"{path}/holds", "legal", status=201, json={"customer": str(customer_id)}
    )
    assert (await world.get(recording_id)).held
    later = await world.recording(customer_id)  # those still to come included
    assert (await world.get(later)).held
    shown = await ask(client, "GET", path, "legal")
    assert (shown["title"], [h["id"] for h in shown["holds"]]) == ("Virtanen against us", [hold["id"]])
    listed = await ask(client, "GET", "/api/v1/matters", "legal")
    assert [m["id"] for m in listed["items"]] == [matter["id"]]
    problem = await ask(client, "POST", f"{path}/close", "legal", status=409)
    assert problem["type"].endswith("holds-stand")

    one = f"{path}/holds/{hold['id']}"
    waiting = await ask(client, "DELETE", one, "legal", status=202)
    assert (await ask(client, "DELETE", one, "legal", status=202))["approval"] == waiting["approval"]
    approval = {"approval": waiting["approval"]}
    refused = await ask(client, "DELETE", one, "legal", status=403, params=approval)
    assert refused["reason"].startswith("approval-")
    second = Principal(
        "account",
        str(uuid.uuid4()),
        world.controller.id,
        (Grant(Role.PRIVACY, world.controller.id, ScopeKind.CONTROLLER),),
    )
    await decide_approval(world.services, second, uuid.UUID(waiting["approval"]), approve=True)
    assert (await world.get(recording_id)).held
    released = await ask(client, "DELETE", one, "legal", params=approval)
    assert released["released_at"] is not None
    assert not (await world.get(recording_id)).held
    await ask(client, "DELETE", one, "legal", status=409)
    closed = await ask(client, "POST", f"{path}/close", "legal")
    assert closed["closed_at"] is not None
    late = {"recording": str(recording_id)}
    await ask(client, "POST", f"{path}/holds", "legal", status=409, json=late)


async def test_an_approval_that_showed_another_matter_releases_nothing(
    world: World, client: TestClient[Any, Any]
) -> None:
    """Details of a request through the API are the asker's own words; the step compares them."""
    recording_id = await world.recording()
    small = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=MATTER)
    other = {**MATTER, "reference": "M-2"}
    large = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=other)
    path = f"/api/v1/matters/{large['id']}/holds"
    hold = await ask(client, "POST", path, "legal", status=201, json={"recording": str(recording_id)})
    grants = (Grant(Role.LEGAL, world.controller.id, ScopeKind.CONTROLLER),)
    asker, second = (Principal("account", str(uuid.uuid4()), world.controller.id, grants) for _ in range(2))
    asked = await approvals.ask(
        world.services,
        asker,
        controller_id=world.controller.id,
        action="hold_release",
        target=hold["id"],
        details={"matter": small["id"]},
    )
    await decide_approval(world.services, second, asked.id, approve=True)
    spent = {"approval": str(asked.id)}
    refused = await ask(client, "DELETE", f"{path}/{hold['id']}", "legal", status=403, params=spent)
    assert refused["reason"] == "approval-mismatch"
    assert (await world.get(recording_id)).held


async def test_two_holds_and_one_released_still_hold_in_the_store_too(
    world: World, client: TestClient[Any, Any]
) -> None:
    recording_id = await world.recording()
    (obj, *_) = await world.stored(recording_id)
    target = {"recording": str(recording_id)}
    placed = []
    for _ in range(2):
        matter = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=MATTER)
        path = f"/api/v1/matters/{matter['id']}/holds"
        placed.append(f"{path}/{(await ask(client, 'POST', path, 'legal', status=201, json=target))['id']}")
    second = Principal(
        "account",
        str(uuid.uuid4()),
        world.controller.id,
        (Grant(Role.PRIVACY, world.controller.id, ScopeKind.CONTROLLER),),
    )
    for path, still in zip(placed, (True, False), strict=True):
        assert await world.services.store.legal_hold(obj.key, obj.version_id)
        waiting = (await ask(client, "DELETE", path, "legal", status=202))["approval"]
        await decide_approval(world.services, second, uuid.UUID(waiting), approve=True)
        await ask(client, "DELETE", path, "legal", params={"approval": waiting})
        assert (await world.get(recording_id)).held is still
        assert await world.services.store.legal_hold(obj.key, obj.version_id) is still


async def test_a_restriction_narrows_use_until_it_is_lifted(
    world: World, client: TestClient[Any, Any]
) -> None:
    recording_id = await world.recording()
    body = {"recording": str(recording_id), "ground": "accuracy"}
    placed = await ask(client, "POST", "/api/v1/restrictions", "privacy", status=201, json=body)
    assert (await world.get(recording_id)).restricted
    path = f"/api/v1/restrictions/{placed['id']}"
    await ask(client, "DELETE", path, "privacy")
    assert not (await world.get(recording_id)).restricted
    await ask(client, "DELETE", path, "privacy", status=409)
    await ask(client, "DELETE", f"/api/v1/restrictions/{uuid.uuid4()}", "privacy", status=404)


async def test_schedules_are_shown_with_what_is_in_force(world: World, client: TestClient[Any, Any]) -> None:
    listed = await ask(client, "GET", "/api/v1/schedules", "auditor")
    assert [(s["version"], s["state"]) for s in listed["items"]] == [(1, "in_force")]
    shown = await ask(client, "GET", "/api/v1/schedules/1", "privacy")
    assert 'controller = "fi-main"' in shown["document"]
    for unknown in ("2", "x", "9" * 30):
        await ask(client, "GET", f"/api/v1/schedules/{unknown}", "privacy", status=404)


async def test_a_certificate_is_shown_signed(world: World, client: TestClient[Any, Any]) -> None:
    recording_id = await world.recording()
    await erasures.erase_recording(world.services, recording_id, requested_by="os:test", now=world.now)
    certificate_id = (await world.get(recording_id)).certificate_id
    shown = await ask(client, "GET", f"/api/v1/certificates/{certificate_id}", "auditor")
    public = world.services.keyring.public_keys()["certificates"]
    assert verify(shown["signature"], public, kind=CERTIFICATE_TYPE) == shown["document"]
    assert shown["document"]["recordings"][0]["id"] == str(recording_id)
    await ask(client, "GET", f"/api/v1/certificates/{uuid.uuid4()}", "auditor", status=404)
    gone = {"recording": str(recording_id), "ground": "accuracy"}
    problem = await ask(client, "POST", "/api/v1/restrictions", "privacy", status=410, json=gone)
    assert problem["certificate"] == str(certificate_id) or str(certificate_id) in str(problem)


@pytest.mark.parametrize(
    ("method", "path", "body", "role"),
    [
        ("GET", "/api/v1/matters", None, "quality"),
        ("POST", "/api/v1/matters", MATTER, "privacy"),
        ("POST", "/api/v1/restrictions", {"recording": "{recording}", "ground": "accuracy"}, "legal"),
        ("GET", "/api/v1/schedules", None, "agent"),
        ("GET", "/api/v1/schedules/1", None, "trainer"),
    ],
)
async def test_others_are_refused_and_that_is_on_record(
    world: World, client: TestClient[Any, Any], method: str, path: Any, body: Any, role: Any
) -> None:
    recording_id = await world.recording(audio=b"x")
    json = None if body is None else {k: v.format(recording=recording_id) for k, v in body.items()}
    await ask(client, method, path, role, status=403, json=json)
    async with world.services.database.snapshot() as session:
        query = sa.select(AuditEntry).where(AuditEntry.action == "access.refused")
        assert len(list(await session.scalars(query))) == 1


async def test_another_controllers_matter_is_refused(world: World, client: TestClient[Any, Any]) -> None:
    matter = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=MATTER)
    other = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    headers = {"X-Controller": str(other.id)}
    await ask(client, "GET", f"/api/v1/matters/{matter['id']}", "legal", status=403, headers=headers)
    theirs = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=MATTER, headers=headers)
    mine = {"recording": str(await world.recording(audio=b"x"))}
    path = f"/api/v1/matters/{theirs['id']}/holds"
    await ask(client, "POST", path, "legal", status=404, json=mine, headers=headers)


@pytest.mark.parametrize("body", [{}, {"recording": None}, {"recording": "x"}, {"surprise": 1}])
async def test_a_hold_without_exactly_one_target_is_refused(
    world: World, client: TestClient[Any, Any], body: Any
) -> None:
    matter = await ask(client, "POST", "/api/v1/matters", "legal", status=201, json=MATTER)
    await ask(client, "POST", f"/api/v1/matters/{matter['id']}/holds", "legal", status=422, json=body)
