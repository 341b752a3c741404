"""The reports over HTTP: the service's own routes, pages and plot, except for who asks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import reports
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Controller, Recording
from recorder.web import pages
from recorder.web.plot import stacked_bars
from recorder.web.views import day
from tests.recorder.disposition_world import World

Client = TestClient[web.Request, web.Application]


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """The first look at a template reads its file."""


@pytest.fixture
def app(world: World) -> web.Application:  # made outside the event loop: static files are looked for
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        if (role := request.headers.get("X-Role")) is not None:
            here = world.controller.id
            grant = Grant(Role(role), here, ScopeKind.CONTROLLER)
            request[PRINCIPAL] = Principal("token", str(uuid.UUID(int=7)), here, (grant,))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, reports.ROUTES)
    pages.mount(app)
    return app


@pytest.fixture
async def client(app: web.Application, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    return await aiohttp_client(app)


def tonight(world: World) -> str:
    """The day of the next sweep, in words."""
    local = world.now.astimezone(ZoneInfo(world.controller.time_zone))
    before = (local.hour, local.minute) < (2, 30)
    return day(local if before else local + timedelta(days=1), world.controller.time_zone)


async def get(client: Client, path: str, role: str, status: int = 200) -> str:
    async with client.get(path, headers={"X-Role": role}) as response:
        body = await response.text()
        assert response.status == status, body
        return body


async def test_the_api_answers_in_json_and_refuses(world: World, client: Client) -> None:
    await world.recording()
    found = json.loads(await get(client, "/api/v1/reports/retention", "legal"))
    assert (found["total"]["count"], found["overdue"]["count"], found["overdue_erasures"]) == (1, 0, 0)
    assert found["dated"][0]["rule"] == "relationship"
    record = json.loads(await get(client, "/api/v1/reports/processing-record", "auditor"))
    assert record["controller"]["country"] == "FI"
    for path in ("retention", "processing-record"):
        await get(client, f"/api/v1/reports/{path}", "operator", 403)
        await get(client, f"/api/v1/reports/{path}?controller={uuid.uuid4()}", "privacy", 403)


async def test_the_page_shows_the_numbers_and_what_is_overdue(world: World, client: Client) -> None:
    recording_id = await world.recording()
    page = await get(client, "/app/retention", "privacy")
    assert "Nothing is overdue." in page
    assert "2034-03" in page
    assert "Rule relationship" in page
    assert "with the next sweep, on" not in page
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).erase_on = world.now - timedelta(days=2)
    page = await get(client, "/app/retention", "privacy")
    assert "Nothing is overdue. 1 recording whose time is over goes with the next sweep, on" in page
    assert f"{tonight(world)} at 02:30" in page
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).evaluated_at = world.now - timedelta(days=2)
    page = await get(client, "/app/retention", "privacy")
    assert "1 recording whose time ended more than a day ago" in page
    assert "Nothing is overdue." not in page
    await get(client, "/app/retention", "agent", 403)


async def test_pages_carry_no_script_and_no_style_of_their_own(world: World, client: Client) -> None:
    await world.recording()
    for path in ("/app/retention", "/app/article-30", "/app/retention.svg", "/app/retention.svg?theme=dark"):
        text = await get(client, path, "auditor")
        for word in ("<script", "<style", " style=", " onload="):
            assert word not in text, (path, word)


async def test_the_plot_is_a_well_formed_picture_in_each_theme(world: World, client: Client) -> None:
    await world.recording()
    drawn = {}
    for theme in ("light", "dark"):
        drawn[theme] = await get(client, f"/app/retention.svg?theme={theme}", "legal")
        root = ET.fromstring(drawn[theme])
        titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
        assert titles == ["Recordings that fall due, by month and rule", "2034-03: 1 relationship"]
    assert drawn["light"] != drawn["dark"]
    await get(client, "/app/retention.svg?theme=pink", "legal", 422)
    await get(client, "/app/retention.svg", "agent", 403)


async def test_what_is_named_is_escaped(world: World, client: Client) -> None:
    async with world.services.database.transaction() as session:
        row = await session.get_one(Controller, world.controller.id)
        row.name = "<b>Example & Sons</b>"
    page = await get(client, "/app/article-30", "auditor")
    assert "&lt;b&gt;Example &amp; Sons&lt;/b&gt;" in page
    assert "<b>" not in page


def test_a_plot_stacks_from_the_ground_and_joins_the_small() -> None:
    series = {f"rule-{i}": [i, 0] for i in range(1, 10)} | {"<x>": [100, 50]}
    root = ET.fromstring(stacked_bars("t", ["a", "b"], series, "light", unit="calls"))
    space = "{http://www.w3.org/2000/svg}"
    bars = [
        (r.get("x"), float(r.get("y", "")), float(r.get("height", ""))) for r in root.iter(f"{space}rect")
    ]
    first = [bar for bar in bars if bar[0] == "64.0"]
    titles = [t.text for t in root.iter(f"{space}title")]
    assert "a: 100 <x>" in titles
    assert "a: 10 others" in titles  # 1 + 2 + 3 + 4: the six largest have names
    assert len(first) == 7
    assert first[0][1] + first[0][2] == pytest.approx(292, abs=0.11)
    for below, above in pairwise(first):
        assert above[1] + above[2] == pytest.approx(below[1], abs=0.11)
    assert max(height for _, _, height in first) == pytest.approx(248 * 100 / 150, abs=0.1)


def test_a_plot_of_nothing_is_still_a_picture() -> None:
    root = ET.fromstring(stacked_bars("t", [], {}, "dark", unit="calls"))
    assert root.tag.endswith("svg")
