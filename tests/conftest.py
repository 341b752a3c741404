"""Real servers, guards and the closing report for the whole suite. See docs/development.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import guards, processes, report, s3
from tests.servers import postgres as postgres_server
from tests.servers.postgres import PostgresServer, new_postgres_server
from tests.servers.processes import ServerUnavailableError
from tests.servers.prompts import Prompts, find_prompts
from tests.servers.s3 import S3Server, new_s3_server


def _chromium() -> str | None:
    return next(
        (found for name in ("/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome")
         if (found := shutil.which(name)) is not None),
        None,
    )  # fmt: skip


def pytest_report_header() -> list[str]:
    return [
        f"real servers: S3 by {s3.describe()}; PostgreSQL from {postgres_server.describe()}; "
        f"browser {_chromium() or 'none'}"
    ]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole services and browsers first: a long file that one worker begins last leaves the others idle."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next(
            (n for n, folder in enumerate(("/system/chaos/", "/system/", "/web/")) if folder in path), 9
        )

    items.sort(key=place)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tallenne_servers"] = report.notes()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    notes = getattr(node, "workeroutput", {}).get("tallenne_servers")
    if notes is not None:
        report.merge(notes)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = report.lines()
    if lines:
        terminalreporter.section("real servers of this run")
        for line in lines:
            terminalreporter.line(line, red=line.startswith("MISSING"))


def _skip(part: str, adds: str, reason: object) -> None:
    report.missing(part, f"{reason}; {adds}")
    pytest.skip(f"{part} is missing: {reason}")


# Every test


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with guards.only_loopback(monkeypatch):
        yield


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    with guards.no_blocking_calls():
        yield


# Servers. Session fixtures live once per pytest-xdist worker, each on ports of its own, so that a test may
# stop one without disturbing another worker.


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The shared S3 server. A test that stops it starts it again; to kill one, take `own_s3_server`."""
    server = new_s3_server()
    yield server
    server.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """A fresh empty bucket without versions on the shared server."""
    return s3_server.new_bucket()


@pytest.fixture
def own_s3_server() -> Iterator[Callable[[], S3Server]]:
    """Factory of private S3 servers (about 3 s each) for tests that kill them."""
    servers: list[S3Server] = []

    def make() -> S3Server:
        servers.append(new_s3_server())
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The shared PostgreSQL cluster, without fsync."""
    try:
        server = new_postgres_server()
    except ServerUnavailableError as reason:
        _skip("PostgreSQL", "every catalogue test would have run on it beside SQLite", reason)
    yield server
    server.close()


@pytest.fixture
def own_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Factory of private clusters (about 1 s each), durable by default, for tests that kill them."""
    servers: list[PostgresServer] = []

    def make(*, durable: bool = True) -> PostgresServer:
        try:
            servers.append(new_postgres_server(durable=durable))
        except ServerUnavailableError as reason:
            _skip("PostgreSQL", "durability of the catalogue would have been tried on it", reason)
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """SQLAlchemy URL of a fresh empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'catalogue.sqlite'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    server.start()  # a test of faults may have left it stopped
    server.drop_database(url)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Callable that reserves a loopback port nobody else of this run gets."""
    return processes.free_port


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of a real Chromium for playwright's ``executable_path``."""
    found = _chromium()
    if found is None:
        _skip("Chromium", "the pages would have been driven in a real browser", "no chromium on this machine")
    assert found is not None
    report.used("browser", found)
    return found


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """Debian's telephony prompts in GSM, G.722 and WAV."""
    try:
        found = find_prompts()
    except ServerUnavailableError as reason:
        _skip("telephony prompts", "real GSM, G.722 and WAV speech would have been pushed and played", reason)
    report.used("telephony prompts", str(found.folder))
    return found
