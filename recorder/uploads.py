"""Uploads that run in this process: how many, whose, and how the object store does."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recorder.errors import TooMany


class Uploads:
    """The share of one process. An upload is a task that outlives the request which brought it.

    Attributes:
        settling_early: those that hold a transaction while their store finishes.
        store_suspect: the store failed a moment ago, and nothing has shown since that it is back.
        spooled: set when something was spooled or the store became suspect; for the drainer.
        unproven: the store was away when the service started, so it is not known yet whether the database is
            an old one. Nothing but pushes into the spool is answered meanwhile.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._by_source: Counter[uuid.UUID] = Counter()
        self.settling_early = 0
        self.store_suspect = False
        self.spooled = asyncio.Event()
        self.unproven = False

    @property
    def running(self) -> int:
        """Uploads that are not settled yet."""
        return len(self._tasks)

    def running_of(self, source_id: uuid.UUID) -> int:
        """Those of one source."""
        return self._by_source[source_id]

    def suspect_store(self) -> None:
        """The store failed: what comes next is spooled until the drainer finds that it is back."""
        self.store_suspect = True
        self.spooled.set()

    @contextmanager
    def early(self) -> Iterator[None]:
        """Count one that settles in the catalogue while its store finishes."""
        self.settling_early += 1
        try:
            yield
        finally:
            self.settling_early -= 1

    def refuse_flood(self, source_id: uuid.UUID, *, share: int, all_of_them: int) -> None:
        """Refuse an upload over its source's share, or over the process's.

        Args:
            share: uploads that one source may have at once.
            all_of_them: that all sources together may have.

        Raises:
            TooMany: there are as many already; what runs is not slowed down by more.
        """
        if self.running_of(source_id) >= share:
            raise TooMany(f"this source has {share} uploads under way already; wait for one", retry_after=1)
        if self.running >= all_of_them:
            raise TooMany("too many uploads at once; try again", retry_after=2)

    def track(self, task: asyncio.Task[Any], source_id: uuid.UUID | None = None) -> None:
        """Count a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if source_id is not None:
            self._by_source[source_id] += 1
            task.add_done_callback(lambda _: self._leave(source_id))

    async def drain(self) -> None:
        """Wait until every running upload is settled; for an orderly shutdown."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _leave(self, source_id: uuid.UUID) -> None:
        self._by_source[source_id] -= 1
        if self._by_source[source_id] <= 0:
            del self._by_source[source_id]
