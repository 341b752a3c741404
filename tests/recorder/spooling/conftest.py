"""A real MariaDB for call detail records, and time that moves when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.servers import report
from tests.servers.mariadb import MariaDbServer, new_mariadb_server
from tests.servers.processes import ServerUnavailableError


class ManualTime:
    """Time that passes by sleeping only: a sleep moves it and returns at once."""

    def __init__(self, wall: float = 1_772_700_000.0) -> None:
        self._wall = wall
        self._steady = 1000.0
        self.slept: list[float] = []

    def wall(self) -> float:
        return self._wall

    def steady(self) -> float:
        return self._steady

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self._wall += seconds
        self._steady += seconds


@pytest.fixture
def manual_time() -> ManualTime:
    return ManualTime()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    try:
        server = new_mariadb_server()
    except ServerUnavailableError as reason:
        report.missing("MariaDB", f"{reason}; call records would have been looked up in it")
        pytest.skip(f"MariaDB is missing: {reason}")
    yield server
    server.close()
