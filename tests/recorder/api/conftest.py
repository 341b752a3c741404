"""A small table of routes behind the real middlewares, on a real catalogue."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from recorder.access import passwords, sessions, tokens
from recorder.access.accounts import create_account
from recorder.access.principals import Grant, Principal
from recorder.access.sessions import OpenedSession
from recorder.api import openapi, system
from recorder.api.framework import SERVICES, Route, mount
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Controller
from recorder.services import Services

CONSOLE = Principal("os", "installer", None)
PASSWORD = "correct horse battery"
Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]
MakeToken = Callable[..., Awaitable[str]]


def sqlite_url(migrated: Path, folder: Path) -> str:
    """For modules where one kind of database is enough: what differs between them lies below these layers."""
    return f"sqlite+aiosqlite:///{shutil.copy(migrated, folder / 'catalogue.sqlite')}"


@pytest.fixture(autouse=True)
def _cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "CURRENT", passwords.Parameters(memory_kib=64, iterations=1, lanes=1))


@pytest.fixture
def serve(services: Services, aiohttp_client: AiohttpClient) -> Serve:
    """Factory: a client of an application that serves the given routes as the service would."""

    async def make(*routes: Route) -> Client:
        app = web.Application(middlewares=[observe, problems, authenticate])
        app[SERVICES] = services
        app[system.DRAINING] = system.Draining()
        app[system.OPENAPI] = openapi.build(routes, version="0")
        app.on_response_prepare.append(add_headers)
        mount(app, routes)
        return await aiohttp_client(app)

    return make


@pytest.fixture
def make_token(services: Services, controller: Controller) -> MakeToken:
    """Factory: an API client's bearer token of one role."""

    async def make(role: Role = Role.QUALITY) -> str:
        issued = await tokens.issue_token(
            services, CONSOLE, controller_id=controller.id, label="client", role=role
        )
        return issued.token

    return make


@pytest.fixture
async def browser(services: Services, controller: Controller) -> OpenedSession:
    """A signed-in person's session."""
    await create_account(
        services,
        CONSOLE,
        controller_id=controller.id,
        username="maija.meikalainen",
        name="Maija Meikäläinen",
        password=PASSWORD,
        grants=[Grant(Role.QUALITY, controller.id, ScopeKind.CONTROLLER)],
    )
    return await sessions.sign_in(services, "maija.meikalainen", PASSWORD, request_id=uuid.uuid4().hex)
