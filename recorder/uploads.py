"""Uploads that run in this process: how many, and the tasks that finish them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Uploads:
    """The share of one process. An upload is a task that outlives the request which brought it.

    Attributes:
        settling_early: those that hold a transaction while their store finishes.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.settling_early = 0

    @property
    def running(self) -> int:
        """Uploads that are not settled yet."""
        return len(self._tasks)

    @contextmanager
    def early(self) -> Iterator[None]:
        """Count one that settles in the catalogue while its store finishes."""
        self.settling_early += 1
        try:
            yield
        finally:
            self.settling_early -= 1

    def track(self, task: asyncio.Task[Any]) -> None:
        """Count a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait until every running upload is settled; for an orderly shutdown."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
