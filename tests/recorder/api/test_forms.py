"""Every form of the pages: nothing is done for another site, or without the session's own token."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
from pytest_aiohttp import AiohttpClient

from recorder.access.sessions import COOKIE, OpenedSession
from recorder.app import build_app
from recorder.catalogue.tables import AuditEntry, Controller
from recorder.services import Services
from tests.recorder.api.conftest import sqlite_url


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Templates are read from disk when they are first shown, as in the tests of the pages."""


async def test_no_form_is_carried_out_for_another_site(
    services: Services, controller: Controller, browser: OpenedSession, aiohttp_client: AiohttpClient
) -> None:
    app = build_app(services)
    forms = {
        route.resource.canonical
        for route in app.router.routes()
        if route.method == "POST" and route.resource is not None and route.resource.canonical[:5] == "/app/"
    } - {"/app/sign-in"}
    assert len(forms) > 15
    client = await aiohttp_client(app)
    cookie = {"Cookie": f"{COOKIE}={browser.cookie}"}

    async def entries() -> int:
        async with services.database.snapshot() as session:
            return await session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) or 0

    before = await entries()
    for form in sorted(forms):
        path = re.sub(r"\{[^}]*\}", str(uuid.UUID(int=1)), form)
        tries: list[tuple[dict[str, str], dict[str, str]]] = [
            ({}, {}),
            ({"csrf": "x" * 43}, {}),
            ({"csrf": browser.csrf}, {"Sec-Fetch-Site": "cross-site"}),
            ({"csrf": browser.csrf}, {"Sec-Fetch-Site": "same-site"}),
        ]
        for fields, headers in tries:
            async with client.post(
                path, data=fields, headers={**cookie, **headers}, allow_redirects=False
            ) as answer:
                assert answer.status == 403, (form, fields.keys(), headers)
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert await entries() == before
    async with client.get("/api/v1/session", headers=cookie) as answer:
        assert answer.status == 200, "still signed in"
