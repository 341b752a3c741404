"""The whole service on real servers: the embedded default, and PostgreSQL with S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.servers import processes
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.installation import Api, Installation, client, embedded, production

BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole services on real servers: on a busy machine they take their time."""
    for item in items:
        if "tests/system" in item.path.as_posix() and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: the service runs in processes of its own; only its set-up runs here, in a thread's loop."""


@pytest.fixture(scope="session")
def _embedded() -> Iterator[Installation]:
    yield from _running(embedded(processes.work_folder("embedded")))


@pytest.fixture(scope="session")
def _production(s3_server: S3Server, postgres: PostgresServer) -> Iterator[Installation]:
    yield from _running(production(processes.work_folder("production"), s3_server, postgres))


def _running(installation: Installation) -> Iterator[Installation]:
    installation.install()
    try:
        installation.start()
        yield installation
    finally:
        installation.stop()
        processes.remove_folder(installation.folder)


@pytest.fixture(params=BOTH)
def service(request: pytest.FixtureRequest) -> Installation:
    """A running installation that the tests of the session share: leave it as you found it."""
    found: Installation = request.getfixturevalue(f"_{request.param}")
    return found


@pytest.fixture
async def api(service: Installation) -> AsyncIterator[Api]:
    """A client of ``service``."""
    async with client(service) as made:
        yield made


@pytest.fixture
def own_installation() -> Iterator[Callable[[Callable[..., Installation]], Installation]]:
    """Factory: an installation of the test's own, installed and not started; ended after the test."""
    made: list[Installation] = []

    def make(kind: Callable[..., Installation], *arguments: object, **settings: str) -> Installation:
        made.append(kind(processes.work_folder("own"), *arguments, **settings))
        made[-1].install()
        return made[-1]

    yield make
    for installation in made:
        installation.stop()
        processes.remove_folder(installation.folder)
