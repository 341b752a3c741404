"""Emptying the spool: in order, with back-off, one process for each directory; resumed wherever it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from recorder.audit.log import refuse_if_rolled_back
from recorder.catalogue.tables import SpoolState
from recorder.errors import RecorderError, Unavailable
from recorder.ingest.pipeline import Intake
from recorder.ingest.snapshot import refresh
from recorder.services import Services
from storage.errors import (
    KeyDestroyed,
    ObjectMissing,
    StoreRefused,
    StoreUnavailable,
    TamperedObject,
)
from storage.spool import Spool, SpoolItem

log = logging.getLogger("recorder.spool")
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 10.0
"""Seconds between attempts while a store or database is away: doubled from the first to the longest."""
IDLE: Final = 30.0
"""Seconds after which an empty spool is looked at again, for what another process left in it."""
REFRESH: Final = 30.0
"""Seconds between two copies of tokens and sources; what is revoked is revoked offline after as long."""
ATTEMPTS: Final = 5
"""Times that one delivery may fail for a reason of its own before it is left to a person."""
_AWAY: Final = (Unavailable, StoreUnavailable, StoreRefused)
_DAMAGED: Final = (TamperedObject, KeyDestroyed)


class Drainer:
    """The one that empties a spool.

    Args:
        spool: of ``services``.
    """

    def __init__(self, services: Services, spool: Spool) -> None:
        self._services = services
        self._spool = spool
        self._intake = Intake(services)
        self._state_id: uuid.UUID | None = None
        self._failures: Counter[uuid.UUID] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Drain, and keep the copy that admits pushes offline fresh, inside."""
        tasks = [asyncio.create_task(self.run()), asyncio.create_task(self._keep_fresh())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self) -> None:
        """Drain for good; wait for the place where another process has it."""
        while True:
            async with self._spool.draining() as mine:
                if mine:
                    swept = await self._spool.sweep()
                    if swept:
                        log.warning("torn deliveries swept", extra={"files": swept})
                    await self._drain_for_good()
            await asyncio.sleep(LONGEST_PAUSE)

    async def _drain_for_good(self) -> None:
        pause = 0.0
        while True:
            wake = self._services.uploads.spooled
            wake.clear()
            back = await self.round()
            self.gauge()
            pause = 0.0 if back else min(LONGEST_PAUSE, max(FIRST_PAUSE, pause * 2))
            if back:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), IDLE)
            else:
                await asyncio.sleep(pause)

    async def round(self) -> bool:
        """Drain what there is.

        Returns:
            False when a store or database is away, and trying again later is right.
        """
        try:
            await self._spool.load()
            uploads = self._services.uploads
            if uploads.unproven:
                await refuse_if_rolled_back(self._services)
                uploads.unproven = False
            if uploads.store_suspect:
                await self._services.store.check()
                if not self._spool.items():
                    uploads.store_suspect = False
            for item in self._spool.items():
                if not await self._one(item):
                    return False
                uploads.store_suspect = False
            await self._tell()
        except (*_AWAY, TimeoutError) as error:
            log.info("nothing is drained now", extra={"kind": type(error).__name__})
            return False
        except Exception:
            log.exception("the spool could not be drained")
            return False
        return True

    async def _one(self, item: SpoolItem) -> bool:
        """Drain one delivery; False when a store or database is away."""
        with self._spool.in_hand(item) as mine:
            if not mine:
                return True
            extra = {"recording": str(item.id)}
            try:
                outcome = await self._intake.drain(item, self._spool)
            except _AWAY as error:
                log.info("not drained yet", extra={**extra, "kind": type(error).__name__})
                return False
            except ObjectMissing:
                return True  # removed meanwhile: its recording was erased, or another process drained it
            except _DAMAGED:
                log.exception("a spooled delivery cannot be opened", extra=extra)
                self._spool.mark_damaged(item)
            except Exception:
                # A defect of this one, or of ours: the others go on, and it is tried again a few times.
                log.exception("a spooled delivery cannot be drained", extra=extra)
                self._failures[item.id] += 1
                if self._failures[item.id] >= ATTEMPTS:
                    self._spool.mark_damaged(item)
            else:
                self._failures.pop(item.id, None)
                log.info("drained", extra={**extra, "outcome": outcome})
            return True

    def gauge(self) -> None:
        """Tell depth, size and age to the metrics."""
        figures, metrics = self._spool.figures(), self._services.metrics
        metrics.spool_items.set(figures.items)
        metrics.spool_bytes.set(figures.size)
        metrics.spool_damaged.set(figures.damaged)
        age = 0.0
        if figures.oldest is not None:
            age = max(0.0, (self._services.clock.now() - figures.oldest).total_seconds())
        metrics.spool_oldest.set(age)

    async def _keep_fresh(self) -> None:
        while True:
            try:
                await refresh(self._services)
                await self._tell()
            except RecorderError as error:
                log.info("the admission snapshot ages", extra={"kind": type(error).__name__})
            except Exception:
                log.exception("the admission snapshot cannot be made")
            self.gauge()
            await asyncio.sleep(REFRESH)

    async def _tell(self) -> None:
        """Write into the catalogue what this host's spool holds, for who destroys key epochs elsewhere."""
        if self._state_id is None:
            self._state_id = await asyncio.to_thread(_identity, self._spool.root / "id")
        figures = self._spool.figures()
        values = {
            "items": figures.items,
            "size": figures.size,
            "oldest_at": figures.oldest,
            "damaged": figures.damaged,
            "epochs": {
                c: {str(e): n for e, n in self._spool.epochs(c).items()} for c in self._spool.controllers()
            },
            "told_at": self._services.clock.now(),
        }
        # The first time, another task or process may tell it at the same moment: once is enough.
        with contextlib.suppress(IntegrityError):
            await self._write(values)

    async def _write(self, values: dict[str, Any]) -> None:
        async with self._services.database.transaction() as session:
            mine = SpoolState.id == self._state_id
            known = await session.scalar(
                sa.update(SpoolState).where(mine).values(**values).returning(SpoolState.id)
            )
            if known is None:
                session.add(SpoolState(id=self._state_id, **values))


def _identity(path: Path) -> uuid.UUID:
    """The random id of a spool directory; blocking."""
    with contextlib.suppress(OSError, ValueError):
        return uuid.UUID(path.read_text("ascii").strip())
    made = uuid.uuid4()
    path.write_text(f"{made}\n", "ascii")
    return made
