"""Health, readiness and metrics: what they say when a part is away, and to whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import hdrs, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recorder.api import system
from recorder.api.framework import ApiCall, Route, no_content
from recorder.catalogue.database import Database
from recorder.catalogue.enums import Role
from recorder.services import Services
from storage.errors import KeyringError, StoreUnavailable
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from tests.recorder.api.conftest import Client, MakeToken, Serve, sqlite_url


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(*system.ROUTES)


async def test_healthz_says_that_the_process_answers(client: Client) -> None:
    answer = await client.get("/healthz")
    assert answer.status == 200
    assert (await answer.json())["status"] == "ok"


async def test_readyz_asks_every_part(client: Client, services: Services) -> None:
    answer = await client.get("/readyz")
    assert answer.status == 200
    assert await answer.json() == {
        "ready": True,
        "parts": {"database": "ok", "store": "ok", "keyring": "ok"},
        "degraded": [],
        "spooled": None,
    }
    assert services.metrics.registry.get_sample_value("recorder_ready") == 1


class AwayStore(MemoryStore):
    """A store whose network is down."""

    async def check(self) -> None:
        raise StoreUnavailable("connection refused")


class LostKeyring(MemoryKeyring):
    """A keyring whose file has vanished."""

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        raise KeyringError("gone")


@pytest.fixture(params=["store", "keyring", "database"])
def without(request: pytest.FixtureRequest, services: Services, tmp_path: Path) -> tuple[str, Services]:
    away: str = request.param
    changed = {
        "store": lambda: replace(services, store=AwayStore()),
        "keyring": lambda: replace(services, keyring=LostKeyring()),
        "database": lambda: replace(
            services, database=Database(f"sqlite+aiosqlite:///{tmp_path / 'nowhere' / 'x.sqlite'}")
        ),
    }[away]()
    return away, changed


@pytest.fixture
async def away(without: tuple[str, Services]) -> AsyncIterator[tuple[str, Services]]:
    yield without
    await without[1].database.close()


async def test_readyz_fails_and_names_the_part_that_is_away(
    client: Client, away: tuple[str, Services]
) -> None:
    name, services = away
    found = await system.check_parts(services)
    assert {k for k, v in found.items() if v == "away"} == {name}
    assert {k for k, v in found.items() if v == "ok"} == {"database", "store", "keyring"} - {name}


async def test_draining_fails_readiness_and_nothing_else(client: Client, services: Services) -> None:
    assert client.app is not None
    client.app[system.DRAINING].on = True
    answer = await client.get("/readyz")
    assert answer.status == 503
    body = await answer.json()
    assert (body["ready"], body["parts"]["service"]) == (False, "stopping")
    assert (await client.get("/healthz")).status == 200
    assert services.metrics.registry.get_sample_value("recorder_ready") == 0
    refused = await client.get("/api/docs")
    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    client.app[system.DRAINING].on = False
    assert (await client.get("/api/docs")).status == 200


async def test_stopping_waits_for_what_runs(serve: Serve) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_call: ApiCall) -> web.StreamResponse:
        inside.set()
        await go_on.wait()
        return no_content()

    client = await serve(*system.ROUTES, Route("GET", "/api/v1/slow", slow, auth="public"))
    assert client.app is not None
    draining = client.app[system.DRAINING]
    running = asyncio.create_task(client.get("/api/v1/slow"))
    await inside.wait()
    assert draining.active == 1
    stopping = asyncio.create_task(draining.finish(60))
    assert (await client.get("/readyz")).status == 503
    assert not stopping.done()
    go_on.set()
    assert (await running).status == 204
    await stopping
    assert draining.active == 0


async def test_stopping_waits_no_longer_than_it_may() -> None:
    draining = system.Draining(active=1)
    await draining.finish(0.01)
    assert (draining.on, draining.active) == (True, 1)


async def test_metrics_answer_whoever_is_on_this_host(client: Client) -> None:
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert answer.headers[hdrs.CONTENT_TYPE].startswith("text/plain")
    assert "recorder_http_requests_total" in await answer.text()


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize("value", ["203.0.113.7", "127.0.0.1", ""])
async def test_what_a_proxy_passes_on_must_be_signed_in(client: Client, header: str, value: str) -> None:
    assert (await client.get("/metrics", headers={header: value})).status == 401


@pytest.mark.parametrize(("role", "status"), [(Role.OPERATOR, 200), (Role.QUALITY, 403), (Role.CRM, 403)])
async def test_metrics_through_a_proxy_are_for_operators(
    client: Client, make_token: MakeToken, role: Role, status: int
) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7", "Authorization": f"Bearer {await make_token(role)}"}
    assert (await client.get("/metrics", headers=headers)).status == status


async def test_the_document_and_its_page_are_served(client: Client) -> None:
    document = await (await client.get("/api/openapi.json")).json()
    page = await client.get("/api/docs")
    text = await page.text()
    assert page.status == 200
    assert "<script" not in text
    for path in document["paths"]:
        assert path in text
    assert json.dumps(document).count("readyz") >= 1
