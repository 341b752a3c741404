"""The clock that starts recurring chores. The only importer of APScheduler, which is a clock here, no more.

What there is to do is always read from the catalogue, so that a missed tick, a second process or a cancelled
chore loses nothing: the next tick finds the same work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

log = logging.getLogger("recorder.clockwork")


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do again and again.

    Attributes:
        name: stable id.
        every: time between two starts; a chore that takes longer is not started twice.
        run: does it once. Its exceptions are logged by type and never stop the clock.
    """

    name: str
    every: timedelta
    run: Callable[[], Awaitable[object]]


class Clockwork:
    """Starts chores on time.

    Args:
        chores: names are unique.
    """

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = tuple(chores)
        self._running: set[asyncio.Task[None]] = set()
        if len({chore.name for chore in chores}) != len(self._chores):
            raise ValueError("two chores have one name")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Chores run inside; on leaving, those under way are cancelled and waited for."""
        scheduler = AsyncIOScheduler(timezone=UTC)
        for chore in self._chores:
            scheduler.add_job(
                self._start,
                IntervalTrigger(seconds=chore.every.total_seconds(), timezone=UTC),
                args=(chore,),
                id=chore.name,
                coalesce=True,
                max_instances=1,
                # The default of one second would skip a start whenever the loop was busy for longer.
                misfire_grace_time=max(60, int(chore.every.total_seconds())),
            )
        scheduler.start()
        try:
            yield
        finally:
            scheduler.shutdown(wait=False)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _start(self, chore: Chore) -> None:
        # A task of our own: the scheduler would drop its futures without waiting for them.
        task = asyncio.create_task(run_once(chore))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)


async def run_once(chore: Chore) -> None:
    """Run a chore; log its failure by type only, for the text could say what it was about."""
    try:
        await chore.run()
    except Exception as error:  # noqa: BLE001 - one chore's defect must not stop the clock
        log.error("chore failed", extra={"chore": chore.name, "error": type(error).__name__})
