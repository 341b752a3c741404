"""What goes wrong, and when: a schedule made of the seed, struck while calls are pushed."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.chaos.proxy import Mode, StoreProxy
from tests.system.installation import Installation

ALONE = ("service killed", "service stopped")
"""Where everything is on one box."""
ALL = (
    *ALONE,
    "worker killed",
    "all killed",
    "store killed",
    "store stopped",
    "store busy",
    "store stalls",
    "store cut off",
    "database killed",
    "database restarted",
    "spool full",
    "killed while the store is away",
    "killed while the store is cut off",
    "killed while the database is away",
)


@dataclass(frozen=True)
class Step:
    """One fault.

    Attributes:
        span: requests that come to an end while it lasts.
        seconds: after which it ends all the same.
    """

    fault: str
    span: int
    seconds: float


def schedule(seed: int, faults: tuple[str, ...], count: int) -> list[Step]:
    """``count`` faults: each of them before one comes again."""
    chance = random.Random(f"faults/{seed}")
    found: list[Step] = []
    while len(found) < count:
        found += [
            Step(fault, chance.randrange(6, 30), chance.uniform(1.0, 4.0))
            for fault in chance.sample(faults, len(faults))
        ]
    return found[:count]


@dataclass
class World:
    """What can be broken.

    Attributes:
        passed: waits until so many requests have come to an end, or so many seconds passed.
    """

    installation: Installation
    proxy: StoreProxy | None = None
    store: S3Server | None = None
    database: PostgresServer | None = None
    passed: Callable[[int, float], Awaitable[None]] = field(init=False)

    async def strike(self, step: Step) -> None:
        """Break it, let it be broken, mend it."""
        own, words = self.installation, step.fault.split(" while the ")
        away = words[-1] if len(words) > 1 else step.fault
        await self._break(away)
        if len(words) > 1:
            await self.passed(step.span // 2, step.seconds / 2)
            await asyncio.to_thread(own.kill)
            if not away.startswith("database"):  # the service does not start without its catalogue
                await asyncio.to_thread(own.start)
        if step.fault == "spool full":
            await self._until_full(step)
        elif not self._down():
            await self.passed(step.span, step.seconds)
        await self._mend()

    async def _break(self, what: str) -> None:
        own, proxy, store, database = self.installation, self.proxy, self.store, self.database
        if what == "service killed":
            await asyncio.to_thread(own.serve.kill)
        elif what == "service stopped":
            await asyncio.to_thread(own.serve.stop, how=signal.SIGTERM, seconds=30.0)
        elif what == "worker killed":
            await asyncio.to_thread(own.worker.kill)
        elif what == "all killed":
            await asyncio.to_thread(own.kill)
        elif what.startswith("store ") or what == "spool full":
            assert proxy is not None
            assert store is not None
            if what in ("store killed", "store is away", "spool full"):
                await asyncio.to_thread(store.kill)
            elif what == "store stopped":
                await asyncio.to_thread(store.stop)
            else:
                modes = {"busy": Mode.BUSY, "stalls": Mode.STALL, "off": Mode.CUT}
                proxy.set_mode(modes[what.rpartition(" ")[2]])
        elif what.startswith("database "):
            assert database is not None
            await asyncio.to_thread(database.stop if what == "database restarted" else database.kill)
        else:
            raise AssertionError(what)

    async def _mend(self) -> None:
        if self.proxy is not None:
            self.proxy.set_mode(Mode.PASS)
        for server in (self.store, self.database):
            if server is not None:
                await asyncio.to_thread(server.start)
        await asyncio.to_thread(self.installation.start)

    def _down(self) -> bool:
        return not self.installation.serve.running

    async def _until_full(self, step: Step) -> None:
        """The quota is small: what is pushed now fills it."""
        await self.passed(6 * step.span, 3 * step.seconds)
