"""Uploads that this process is at work on. Leases in the catalogue say so to other processes."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import uuid
from collections.abc import Coroutine
from typing import Any

from recorder.errors import TooMany


class Hold:
    """The right to change one upload, and the way to ask whoever has it to stop reading.

    Attributes:
        holder: how the catalogue names it.
        stopped: whether it was asked to stop; what has arrived is kept then.
    """

    def __init__(self, active: Active, upload_id: uuid.UUID, source_id: uuid.UUID | None) -> None:
        self.upload_id = upload_id
        self.source_id = source_id
        self.holder = f"{active.name}:{secrets.token_hex(8)}"
        self.stopped = False
        self.over = asyncio.Event()
        self._reading: asyncio.Timeout | None = None

    def reading(self, seconds: float) -> asyncio.Timeout:
        """A time limit around one read from the sender, which `stop` brings to its end."""
        self._reading = asyncio.timeout(0 if self.stopped else seconds)
        return self._reading

    def read(self) -> None:
        """The read is over."""
        self._reading = None

    def stop(self) -> None:
        """Have no more read from the sender."""
        self.stopped = True
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())


class Active:
    """The holds of one process and the tasks that outlive the requests which began them."""

    def __init__(self) -> None:
        self._host = socket.gethostname()[:60].replace(":", "-")
        self._pid = os.getpid()
        self._nonce = secrets.token_hex(6)
        self._holds: dict[uuid.UUID, Hold] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def name(self) -> str:
        """This process, told apart from the one that had its number before."""
        return f"{self._host}:{self._pid}:{self._nonce}"

    def refuse_flood(self, source_id: uuid.UUID | None, *, share: int, all_of_them: int) -> None:
        """Refuse a request over its source's share, or over the process's.

        Args:
            share: uploads that one source may be writing to at once.
            all_of_them: that all sources together may.

        Raises:
            TooMany: there are as many already.
        """
        if sum(hold.source_id == source_id for hold in self._holds.values()) >= share:
            raise TooMany(f"this source writes to {share} uploads already; wait for one", retry_after=1)
        if len(self._holds) >= all_of_them:
            raise TooMany("too many uploads at once; try again", retry_after=2)

    def begin(self, upload_id: uuid.UUID, source_id: uuid.UUID | None = None) -> Hold:
        """A hold to enter into the catalogue."""
        return Hold(self, upload_id, source_id)

    def enter(self, hold: Hold) -> None:
        """The catalogue has it."""
        self._holds[hold.upload_id] = hold

    def leave(self, hold: Hold) -> None:
        """It is given back."""
        if self._holds.get(hold.upload_id) is hold:
            del self._holds[hold.upload_id]
        hold.over.set()

    def of(self, upload_id: uuid.UUID) -> Hold | None:
        """Who has an upload here."""
        return self._holds.get(upload_id)

    def is_dead(self, holder: str) -> bool:
        """Whether a holder certainly works no more: its process ended on this machine, or it left here.

        A wrong yes costs nobody a byte: whoever writes has to be the holder still.
        """
        parts = holder.split(":")
        if len(parts) != 4 or parts[0] != self._host:
            return False
        if parts[2] == self._nonce:
            return all(hold.holder != holder for hold in self._holds.values())
        if parts[1] == str(self._pid):
            return True
        try:
            os.kill(int(parts[1]), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError):
            return False
        return False

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do work that does not end with the request."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: the client may be gone; the route answers it if it is not

    async def drain(self) -> None:
        """Wait for what is in hand; for an orderly shutdown."""
        for hold in list(self._holds.values()):
            hold.stop()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
