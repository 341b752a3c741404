"""Assessments over HTTP: who gives them, who sees them, and what is left when the call goes."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import assessments, registers
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import ChoiceKind, Role, ScopeKind
from recorder.catalogue.tables import Account, Assessment, AssessmentTotal, AuditEntry, Choice, Recording
from recorder.disposition import erasures, other_records
from recorder.disposition.evaluation import reevaluate_customer
from tests.recorder.disposition_world import World, clock_of, world

__all__ = ["world"]

Ask = Callable[..., Awaitable[Any]]
BODY = {"form": "greeting-2", "points": 7, "out_of": 10}


@pytest.fixture
async def ask(
    world: World, aiohttp_client: Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
) -> Ask:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        controller, role = world.controller.id, Role(request.headers["X-Role"])
        queue = request.headers.get("X-Queue")
        scope = ScopeKind.OWN if role is Role.AGENT else ScopeKind.CONTROLLER
        grant = Grant(role, controller, scope)
        if queue is not None:
            grant = Grant(role, controller, ScopeKind.QUEUE, frozenset({queue}))
        code = request.headers.get("X-Agent")
        request[PRINCIPAL] = Principal(
            "account", str(uuid.UUID(int=7)), controller, (grant,), agent_code=code
        )
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, (*assessments.ROUTES, *registers.ROUTES))
    client = await aiohttp_client(app)

    async def send(
        method: str, path: str, body: Any = None, *, role: str = "quality", status: int = 200, **more: str
    ) -> Any:
        headers = {"X-Role": role} | {f"X-{name.title()}": value for name, value in more.items()}
        async with client.request(method, path, json=body, headers=headers) as answer:
            found = await answer.json()
            assert answer.status == status, found
            return found

    return send


def of(recording_id: uuid.UUID) -> str:
    return f"/api/v1/recordings/{recording_id}/assessments"


async def test_quality_gives_and_the_agent_sees_their_own(world: World, ask: Ask) -> None:
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).agents = ["a7", "b9"]
    await ask("POST", of(recording_id), BODY, status=422)
    await ask("POST", of(recording_id), {**BODY, "agent": "c1"}, status=422)
    await ask("POST", of(recording_id), {**BODY, "agent": "a7", "points": 11}, status=422)
    made = await ask("POST", of(recording_id), {**BODY, "agent": "a7"}, status=201)
    await ask("POST", of(recording_id), {**BODY, "agent": "b9"}, status=201, queue="sales")
    assert (made["points"], made["agent"]) == (7, "a7")
    everybody = await ask("GET", of(recording_id))
    assert {line["agent"] for line in everybody["items"]} == {"a7", "b9"}
    own = await ask("GET", of(recording_id), role="agent", agent="b9")
    assert [line["agent"] for line in own["items"]] == ["b9"]
    for more in (
        {"role": "agent", "agent": "c1"},
        {"role": "trainer"},
        {"role": "quality", "queue": "other"},
    ):
        await ask("GET", of(recording_id), status=403, **more)
    for more in ({"role": "agent", "agent": "a7"}, {"role": "legal"}, {"role": "quality", "queue": "other"}):
        await ask("POST", of(recording_id), BODY, status=403, **more)
    async with world.services.database.snapshot() as session:
        query = sa.select(AuditEntry.action).where(AuditEntry.object_id == str(recording_id))
        assert list(await session.scalars(query)).count("recording.assessed") == 2


async def test_a_closed_window_closes_assessing(world: World, ask: Ask) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    await ask("POST", of(recording_id), BODY, status=201)
    async with world.services.database.transaction() as session:
        session.add(
            Choice(
                id=uuid.uuid4(),
                customer_id=customer_id,
                kind=ChoiceKind.OBJECTION,
                purposes=[],
                channel=None,
                effective_at=world.now,
                source="web",
                recorded_at=world.now,
                actor="account:a",
            )
        )
        await session.flush()
        await reevaluate_customer(session, world.services, customer_id, world.now)
    clock_of(world.services).advance(timedelta(seconds=1))
    await ask("POST", of(recording_id), BODY, status=403)
    async with world.services.database.snapshot() as session:
        refused = sa.select(AuditEntry.id).where(AuditEntry.action == "assessment.refused")
        assert len(list(await session.scalars(refused))) == 1


async def test_scores_die_with_the_call_and_anonymous_sums_stay(world: World, ask: Ask) -> None:
    customer_id = await world.customer(last_contact=world.now)
    made = [await world.recording(customer_id, audio=b"x") for _ in range(3)]
    for recording_id in made:
        for points in (4, 9):
            await ask("POST", of(recording_id), {**BODY, "points": points}, status=201)
    await erasures.erase_recording(world.services, made[0], requested_by="account:a", now=world.now)
    async with world.services.database.snapshot() as session:
        left = await session.scalars(sa.select(Assessment.recording_id))
        assert set(left) == set(made[1:])
        total = (await session.scalars(sa.select(AssessmentTotal))).one()
        assert (total.month, total.queue, total.form) == ("2026-03", "sales", "greeting-2")
        assert (total.count, total.points, total.out_of) == (2, 13, 20)
        columns = set(AssessmentTotal.__table__.columns.keys())
        assert columns.isdisjoint({"agent", "assessor", "recording_id"})
    sums = await ask("GET", "/api/v1/assessments/totals")
    assert sums["items"] == [
        {"month": "2026-03", "queue": "sales", "form": "greeting-2", "count": 6, "points": 39, "out_of": 60}
    ]
    await ask("GET", "/api/v1/assessments/totals", role="agent", agent="a7", status=403)


async def test_sums_of_few_are_nobodys_to_see(world: World, ask: Ask) -> None:
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    for _ in range(4):
        await ask("POST", of(recording_id), BODY, status=201)
    assert (await ask("GET", "/api/v1/assessments/totals"))["items"] == []
    await ask("POST", of(recording_id), BODY, status=201)
    assert len((await ask("GET", "/api/v1/assessments/totals"))["items"]) == 1


async def test_scores_go_when_the_schedule_says_so_and_are_in_the_staff_copy(world: World, ask: Ask) -> None:
    services = world.services
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    await ask("POST", of(recording_id), BODY, status=201)
    account_id = uuid.UUID(int=7)
    async with services.database.transaction() as session:
        from recorder.catalogue.enums import SubjectKind
        from recorder.catalogue.subjects import add_subject, seal_json

        subject = add_subject(
            session, services.keyring, world.controller.id, SubjectKind.STAFF, now=world.now
        )
        await session.flush()
        profile = {"username": "maija", "name": "Maija"}
        session.add(
            Account(
                id=account_id,
                controller_id=world.controller.id,
                subject_id=subject.id,
                username_index=b"x",
                sealed=seal_json(services.keyring, subject, "account.profile", account_id, profile),
                password_hash="",
                agent_code="a7",
                created_at=world.now,
                disabled_at=None,
            )
        )
    copy = await ask("GET", f"/api/v1/staff/{account_id}/copy", role="privacy")
    (score,) = copy["scores"]
    assert (score["points"], score["given"], score["recording"]) == (7, True, str(recording_id))
    clock_of(services).set(datetime.fromisoformat("2027-03-05T21:59:59+00:00"))
    assert [o.name for o in await other_records.dispose(services, world.controller.id)] == []
    clock_of(services).set(datetime.fromisoformat("2027-03-05T22:00:00+00:00"))
    assert [o.name for o in await other_records.dispose(services, world.controller.id)] == ["assessment"]
    async with services.database.snapshot() as session:
        assert list(await session.scalars(sa.select(Assessment))) == []
        assert (await session.scalars(sa.select(AssessmentTotal))).one().count == 1
