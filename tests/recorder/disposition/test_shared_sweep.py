"""Several workers sweep at once: nothing twice, nothing missed, also when one of them dies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import accounts
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import ErasureGround, Role, ScopeKind
from recorder.catalogue.tables import Certificate, Erasure
from recorder.disposition import erasures
from recorder.disposition.sweeping import sweep
from recorder.settings import Settings
from tests.recorder.disposition_world import World

LONG_AGO = datetime(2010, 3, 5, 8, tzinfo=UTC)


async def due(world: World, count: int) -> list[uuid.UUID]:
    customer_id = await world.customer()
    return [await world.recording(customer_id, started_at=LONG_AGO, audio=b"x") for _ in range(count)]


async def certificates(world: World) -> int:
    async with world.services.database.snapshot() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(Certificate)) or 0


async def test_two_workers_share_a_sweep(world: World) -> None:
    made = await due(world, 8)
    first, second = await asyncio.gather(
        *(sweep(world.services, world.controller.id, world.now, actor=f"system:{n}") for n in range(2))
    )
    assert sorted([*first.erased, *second.erased]) == sorted(str(i) for i in made)
    assert first.failed == second.failed == {}
    assert [(await world.get(i)).state for i in made] == ["erased"] * 8
    assert await certificates(world) == 8


async def test_what_a_dead_worker_left_is_finished_by_the_other(world: World) -> None:
    made = await due(world, 6)
    worker = asyncio.create_task(sweep(world.services, world.controller.id, world.now))
    while await certificates(world) < 2:
        assert not worker.done()
        await asyncio.sleep(0)
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    await sweep(world.services, world.controller.id, world.now)
    assert [(await world.get(i)).state for i in made] == ["erased"] * 6
    assert await certificates(world) == 6
    async with world.services.database.snapshot() as session:
        open_ones = sa.select(Erasure.id).where(Erasure.finished_at.is_(None))
        assert list(await session.scalars(open_ones)) == []


async def test_an_erasure_in_another_process_is_left_to_it_while_that_lives(world: World) -> None:
    if world.services.database.sqlite:
        return  # it has no such lock; the test above is about the tasks of one process
    (recording_id,) = await due(world, 1)
    async with world.services.database.transaction() as session:
        erasure_id = await erasures.open_recording(
            session, recording_id, ground=ErasureGround.RETENTION, requested_by="system:sweep", now=world.now
        )
    key = int.from_bytes(erasure_id.bytes[:8], signed=True)
    other = await world.services.database.engine.connect()
    await other.execute(sa.select(sa.func.pg_advisory_lock(key)))
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.elsewhere == [str(erasure_id), str(recording_id)]
    assert (await world.get(recording_id)).state == "stored"
    await other.invalidate()  # the connection breaks, as that of a killed process does
    await other.close()
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.resumed == [str(erasure_id)]
    assert (await world.get(recording_id)).state == "erased"


def person(world: World, role: Role, number: int) -> Principal:
    grant = Grant(role, world.controller.id, ScopeKind.CONTROLLER)
    return Principal("account", str(uuid.UUID(int=number)), world.controller.id, (grant,))


async def test_the_bulk_brake_is_released_by_a_second_person_over_http(
    world: World, aiohttp_client: Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
) -> None:
    services = world.services
    settings = Settings(data_dir=services.settings.data_dir, sweep_brake_count=2)
    object.__setattr__(services, "settings", settings)
    made = await due(world, 3)
    report = await sweep(services, world.controller.id, world.now, actor=f"account:{uuid.UUID(int=1)}")
    assert (report.braked, report.erased) == (True, [])

    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        request[PRINCIPAL] = person(world, Role.PRIVACY, int(request.headers["X-Person"]))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = services
    app.on_response_prepare.append(add_headers)
    mount(app, accounts.ROUTES)
    client = await aiohttp_client(app)
    path = f"/api/v1/approvals/{report.approval_id}"
    async with client.get(path, headers={"X-Person": "2"}) as response:
        shown = await response.json()
        assert (shown["action"], shown["details"]) == ("sweep_brake", {"count": 3, "population": 3})
    for number, status in ((1, 403), (2, 200)):
        body = {"decision": "approve"}
        async with client.post(f"{path}/decision", json=body, headers={"X-Person": str(number)}) as response:
            assert response.status == status, await response.text()
    swept = await sweep(services, world.controller.id, world.now)
    assert sorted(swept.erased) == sorted(str(i) for i in made)
