"""Every curl of the pages for telephony engineers, run as it stands there against the whole service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.app import build_app
from recorder.catalogue.enums import LawfulBasis
from recorder.catalogue.tables import Controller
from recorder.ingest import sources
from recorder.ingest.sources import NewSource
from recorder.services import Services
from tests.recorder.api.conftest import sqlite_url
from tests.recorder.ingest.adapters.recorded import envelope

DOCS = Path(__file__).parents[4] / "docs" / "telephony"
PAGES = {"generic": 6, "freeswitch": 2, "kazoo": 1, "rtpengine": 1, "oreka": 2, "siprec": 1}


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
def app(services: Services) -> web.Application:
    return build_app(services)


@pytest.fixture
def files(tmp_path: Path, wav: bytes) -> Path:
    (tmp_path / "call.wav").write_bytes(wav)
    (tmp_path / "metadata.xml").write_text(dict(envelope("siprec").fields)["metadata"].strip())
    return tmp_path


@pytest.fixture
def commands(request: pytest.FixtureRequest) -> list[str]:
    text = (DOCS / f"{request.getfixturevalue('kind')}.md").read_text()
    return [line.strip() for line in text.splitlines() if line.startswith("    curl ")]


@pytest.mark.parametrize("kind", PAGES)
async def test_the_page_does_what_it_says(
    kind: str,
    commands: list[str],
    files: Path,
    services: Services,
    controller: Controller,
    app: web.Application,
    aiohttp_server: Callable[[web.Application], Awaitable[TestServer]],
) -> None:
    assert len(commands) == PAGES[kind]
    operator = Principal("os", "test", controller.id)
    given = NewSource(name=kind, kind=kind, default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP)
    source = await sources.create_source(services, operator, controller.id, given)
    issued = await tokens.issue_token(
        services, operator, controller_id=controller.id, label="docs", source_id=source.id
    )
    server = await aiohttp_server(app)
    variables = {"URL": str(server.make_url("")).rstrip("/"), "SOURCE": kind, "TOKEN": issued.token}
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            command,
            cwd=files,
            env={**os.environ, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, (command, out, err)
        assert out, command
        if b'"state"' in out:
            assert b'"state":"stored"' in out, out
