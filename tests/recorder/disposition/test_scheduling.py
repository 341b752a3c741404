"""A schedule over HTTP: stored, simulated, activated by two people where it shortens; then all follows."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.approvals import decide_approval
from recorder.access.principals import Grant, Principal
from recorder.api import disposition, schedules
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import ChoiceKind, Role, ScopeKind
from recorder.catalogue.tables import Approval, Choice, Recording
from recorder.disposition import holds
from recorder.disposition.evaluation import reevaluate_customer
from recorder.disposition.reevaluation import follow, follow_step, outdated
from recorder.disposition.sweeping import due_query
from recorder.jobs.chores import follow_schedules
from retention.schedule import default_schedule_text
from tests.recorder.disposition_world import World, clock_of

Client = TestClient[web.Request, web.Application]
Ask = Callable[..., Awaitable[dict[str, Any]]]
V1 = default_schedule_text("FI", "fi-main")
SHORTER = V1.replace("version    = 1", "version    = 2").replace('keep      = "P1Y"', 'keep      = "P90D"', 1)
LONGER = V1.replace("version    = 1", "version    = 2").replace('"P8Y"', '"P10Y"', 1)


@pytest.fixture
async def client(world: World, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        role = Role(request.headers["X-Role"])
        request[PRINCIPAL] = person(world, role)
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, (*disposition.ROUTES, *schedules.ROUTES))
    return await aiohttp_client(app)


def person(world: World, role: Role) -> Principal:
    grant = Grant(role, world.controller.id, ScopeKind.CONTROLLER)
    return Principal("account", str(uuid.UUID(int=len(role))), world.controller.id, (grant,))


def second(world: World) -> Principal:
    grant = Grant(Role.PRIVACY, world.controller.id, ScopeKind.CONTROLLER)
    return Principal("account", str(uuid.uuid4()), world.controller.id, (grant,))


@pytest.fixture
def ask(client: Client) -> Ask:
    async def send(method: str, path: str, role: str, *, status: int = 200, **options: Any) -> dict[str, Any]:
        async with client.request(method, path, headers={"X-Role": role}, **options) as response:
            body: dict[str, Any] = await response.json()
            assert response.status == status, body
            return body

    return send


async def old_calls(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    for days in (10, 100, 200):
        await world.recording(customer_id, started_at=world.now - timedelta(days=days))


async def test_a_shorter_schedule_needs_a_second_person(world: World, ask: Ask) -> None:
    await old_calls(world)
    document = {"document": SHORTER}
    simulated = await ask("POST", "/api/v1/schedules/simulate", "privacy", json=document)
    assert (simulated["against"], simulated["version"], simulated["needs_approval"]) == (1, 2, True)
    assert simulated["recordings"]["count"] == 3
    (quality,) = simulated["movements"]
    assert (quality["purpose"], quality["rule"]) == ("quality", "quality")
    assert (quality["closed"]["count"], quality["shorter"]["count"]) == (2, 1)
    assert quality["closed"]["seconds"] == 120

    stored = await ask("POST", "/api/v1/schedules", "privacy", status=201, json=document)
    assert (stored["version"], stored["state"]) == (2, "stored")
    again = await ask("POST", "/api/v1/schedules/simulate", "auditor", json={"version": 2})
    assert again["digest"] == simulated["digest"]

    path = "/api/v1/schedules/2/activate"
    waiting = await ask("POST", path, "privacy", status=202, json={})
    assert waiting["simulation"]["digest"] == simulated["digest"]
    approval = {"approval": waiting["approval"]}
    assert (await ask("POST", path, "privacy", status=202, json={}))["approval"] == waiting["approval"]
    refused = await ask("POST", path, "privacy", status=403, json=approval)
    assert refused["reason"] == "approval-mismatch"  # nobody has decided it
    await decide_approval(world.services, second(world), uuid.UUID(waiting["approval"]), approve=True)
    active = await ask("POST", path, "privacy", json=approval)
    assert active["state"] == "in_force"
    assert (await ask("POST", path, "privacy", json={}))["activated_at"] == active["activated_at"]


async def test_a_longer_schedule_needs_one_person(world: World, ask: Ask) -> None:
    await old_calls(world)
    await ask("POST", "/api/v1/schedules", "privacy", status=201, json={"document": LONGER})
    active = await ask("POST", "/api/v1/schedules/2/activate", "privacy", json={})
    assert active["state"] == "in_force"
    async with world.services.database.snapshot() as session:
        assert list(await session.scalars(sa.select(Approval))) == []


async def test_a_stricter_rule_that_touches_nothing_yet_needs_a_second_person(world: World, ask: Ask) -> None:
    await world.recording(await world.customer(last_contact=world.now))  # of today, and no sales call
    rule = V1[V1.index('[[rule]]\nid        = "quality"') : V1.index("# Kirjanpitolaki")]
    sales = rule.replace('"quality"\npurposes', '"sales"\npurposes').replace(
        "after     =", 'when      = { queue = ["fraud"] }\nafter     ='
    )
    year, two = sales.replace('"P1Y"', '"P3Y"'), sales.replace('"P1Y"', '"P2Y"')
    for number, (extra, needs) in enumerate(((year, False), (two, True)), start=2):
        text = V1.replace("version    = 1", f"version    = {number}").replace("[cap]", f"{extra}\n[cap]", 1)
        found = await ask("POST", "/api/v1/schedules/simulate", "privacy", json={"document": text})
        assert (found["shortens"], found["needs_approval"]) == (False, needs)
        expected = [{"what": "rule", "purpose": "quality", "rule": "sales"}] if needs else []
        assert found["stricter"] == expected
        await ask("POST", "/api/v1/schedules", "privacy", status=201, json={"document": text})
        path = f"/api/v1/schedules/{number}/activate"
        await ask("POST", path, "privacy", status=202 if needs else 200, json={})


async def test_an_approval_covers_one_document_and_about_as_much_as_was_seen(world: World, ask: Ask) -> None:
    await old_calls(world)
    await ask("POST", "/api/v1/schedules", "privacy", status=201, json={"document": SHORTER})
    path = "/api/v1/schedules/2/activate"
    waiting = await ask("POST", path, "privacy", status=202, json={})
    approval_id = uuid.UUID(waiting["approval"])
    await decide_approval(world.services, second(world), approval_id, approve=True)
    async with world.services.database.transaction() as session:
        row = await session.get_one(Approval, approval_id)
        row.details = {**row.details, "document_sha256": "0" * 64}
    refused = await ask("POST", path, "privacy", status=403, json={"approval": str(approval_id)})
    assert refused["reason"] == "approval-mismatch"
    async with world.services.database.transaction() as session:
        row = await session.get_one(Approval, approval_id)
        row.details = {
            **row.details,
            "document_sha256": waiting["simulation"]["document_sha256"],
            "closed_now": -40,
        }
    grown = await ask("POST", path, "privacy", status=409, json={"approval": str(approval_id)})
    assert grown["type"].endswith("simulation-outdated")


async def test_what_is_wrong_with_a_document_is_named_by_line_and_column(world: World, ask: Ask) -> None:
    wrong = SHORTER.replace('after     = "call_started"', 'after     = "call_begun"', 1)
    for path in ("/api/v1/schedules", "/api/v1/schedules/simulate"):
        problem = await ask("POST", path, "privacy", status=422, json={"document": wrong})
        line = wrong[: wrong.index("call_begun")].count("\n") + 1
        assert problem["errors"][0]["pointer"].startswith(f"/document:{line}:")
    await ask("POST", "/api/v1/schedules", "auditor", status=403, json={"document": SHORTER})
    await ask("POST", "/api/v1/schedules/9/activate", "privacy", status=404, json={})
    await ask("POST", "/api/v1/schedules/x/activate", "privacy", status=404, json={})
    await ask("POST", "/api/v1/schedules/simulate", "privacy", status=422, json={})


async def test_everything_follows_a_change_and_one_sees_how_far(world: World, ask: Ask) -> None:
    await old_calls(world)
    assert await ask("GET", "/api/v1/reevaluation", "auditor") == {
        "version": 1,
        "recordings": 3,
        "outstanding": 0,
    }
    await ask("POST", "/api/v1/schedules", "privacy", status=201, json={"document": LONGER})
    await ask("POST", "/api/v1/schedules/2/activate", "privacy", json={})
    services, controller_id = world.services, world.controller.id
    assert (await ask("GET", "/api/v1/reevaluation", "auditor"))["outstanding"] == 3
    assert await follow_step(services, controller_id, world.now, limit=2) == 2  # and then it is killed
    assert (await ask("GET", "/api/v1/reevaluation", "auditor"))["outstanding"] == 1
    told: list[int] = []
    assert await follow(services, controller_id, progress=told.append) == 1
    assert told == [1]
    assert await follow_schedules(services) == 0
    gauge = services.metrics.registry.get_sample_value(
        "recorder_outdated_decisions", {"controller": str(controller_id)}
    )
    assert gauge == 0
    for recording_id in world.made:
        row = await world.get(recording_id)
        assert row.schedule_version == 2
        assert row.erase_on is not None
        assert row.erase_on.year == 2036
        assert row.evaluated_at == world.now


async def test_finding_what_is_outdated_reads_an_index(world: World) -> None:
    for where in outdated(world.controller.id, 2):
        assert "ix_recordings_decided" in await explain(
            world, sa.select(Recording.id).where(*where).limit(100)
        )


async def test_finding_what_is_due_reads_an_index(world: World) -> None:
    """So that a night's cost follows what is due, not what exists."""
    query = due_query(world.controller.id, world.now, 500, uuid.UUID(int=1))
    assert "ix_recordings_sweep" in await explain(world, query)


async def test_an_event_re_evaluates_what_it_touches_and_nothing_else(world: World) -> None:
    customers = [await world.customer(last_contact=world.now) for _ in range(3)]
    theirs = [await world.recording(customer_id) for customer_id in customers]
    alone = await world.recording()
    before = {i: (await world.get(i)).evaluated_at for i in (*theirs, alone)}
    clock_of(world.services).advance(timedelta(days=1))
    async with world.services.database.transaction() as session:
        session.add(
            Choice(
                id=uuid.uuid4(),
                customer_id=customers[0],
                kind=ChoiceKind.OBJECTION,
                purposes=[],
                channel=None,
                effective_at=world.now,
                source="call",
                recorded_at=world.now,
                actor="os:test",
            )
        )
        await session.flush()
        assert await reevaluate_customer(session, world.services, customers[0], world.now) == 1
        matter = await holds.open_matter(
            session,
            world.services,
            controller_id=world.controller.id,
            reference="2026-1",
            ground="legal_claims",
            review_on=world.now,
            title="",
            notes="",
            actor="os:test",
            now=world.now,
        )
        await holds.place_hold(
            session,
            world.services,
            matter,
            recording_id=theirs[1],
            customer_id=None,
            actor="os:test",
            now=world.now,
        )
    after = {i: (await world.get(i)).evaluated_at for i in before}
    assert {i for i in before if after[i] != before[i]} == {theirs[0], theirs[1]}


async def explain(world: World, query: sa.Select[Any]) -> str:
    """The database's plan, as it would be on a large table."""
    database = world.services.database
    prefix = "EXPLAIN QUERY PLAN" if database.sqlite else "EXPLAIN"
    async with database.snapshot() as session:
        if not database.sqlite:
            await session.execute(sa.text("SET LOCAL enable_seqscan = off"))
        text = query.compile(database.engine.sync_engine, compile_kwargs={"literal_binds": True})
        rows = await session.execute(sa.text(f"{prefix} {str(text).replace(':', chr(92) + ':')}"))
        return "\n".join(str(row) for row in rows)
