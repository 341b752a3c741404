"""What listens were sent, gathered in memory and written to the catalogue every few seconds.

The entry that opens a listen is committed before its first byte; only the counts lag behind. A crash loses
those of the last seconds, an orderly end loses none.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from recorder.catalogue.database import Database
from recorder.catalogue.tables import Listen
from recorder.errors import Unavailable

__all__ = ["ListenCounts"]

FLUSH_SECONDS: Final = 2.0
log = logging.getLogger("recorder.playback")

_LISTENS: Final = Listen.metadata.tables[Listen.__tablename__]
_ADD: Final = (
    sa.update(_LISTENS)
    .where(_LISTENS.c.id == sa.bindparam("listen"))
    .values(
        bytes_sent=_LISTENS.c.bytes_sent + sa.bindparam("sent"),
        seconds=_LISTENS.c.seconds + sa.bindparam("heard"),
        last_active_at=sa.case(
            (_LISTENS.c.last_active_at < sa.bindparam("at"), sa.bindparam("at")),
            else_=_LISTENS.c.last_active_at,
        ),
        closed_at=None,  # closed while it paused: it closes again, with the new total
    )
)


@dataclass(slots=True)
class _Count:
    sent: int
    seconds: float
    at: datetime


class ListenCounts:
    """The counts of one process that are not written down yet."""

    def __init__(self) -> None:
        self._waiting: dict[uuid.UUID, _Count] = {}
        self._writing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    def add(self, database: Database, listen_id: uuid.UUID, sent: int, seconds: float, at: datetime) -> None:
        """Count what is about to be sent; it is written down within seconds."""
        self._put(listen_id, _Count(sent, seconds, at))
        if self._timer is None or self._timer.done():
            self._timer = asyncio.create_task(self._later(database), name="listen-counts")

    def active_at(self, listen_id: uuid.UUID) -> datetime | None:
        """When a listen was last sent something that is not written down yet."""
        count = self._waiting.get(listen_id)
        return None if count is None else count.at

    async def flush(self, database: Database) -> None:
        """Write everything down. The audio is out already: with the database away it is kept for later."""
        async with self._writing:
            waiting, self._waiting = self._waiting, {}
            if not waiting:
                return
            # In one order everywhere, so that two processes cannot wait for one another.
            rows = [
                {"listen": listen_id, "sent": count.sent, "heard": count.seconds, "at": count.at}
                for listen_id, count in sorted(waiting.items())
            ]
            try:
                async with database.transaction() as session:
                    await (await session.connection()).execute(_ADD, rows)
            except BaseException as error:
                for listen_id, count in waiting.items():
                    self._put(listen_id, count)
                if not isinstance(error, Unavailable):
                    raise
                log.warning("counts of listens wait for the database", extra={"listens": len(waiting)})

    async def close(self, database: Database) -> None:
        """Write down what is left and stop the timer; for the orderly end of a process."""
        if self._timer is not None:
            async with self._writing:  # never in the middle of a commit
                self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
        await self.flush(database)

    def _put(self, listen_id: uuid.UUID, more: _Count) -> None:
        count = self._waiting.get(listen_id)
        if count is None:
            self._waiting[listen_id] = _Count(more.sent, more.seconds, more.at)
            return
        count.sent += more.sent
        count.seconds += more.seconds
        count.at = max(count.at, more.at)

    async def _later(self, database: Database) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush(database)
            except Exception:
                log.exception("counts of listens could not be written")
