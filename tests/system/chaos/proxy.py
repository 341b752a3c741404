"""A TCP proxy before the S3 server that misbehaves when told to: says 503, stalls, cuts connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

_CHUNK = 64 * 1024
_BUSY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>busy</Message></Error>'
_ANSWER = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_BUSY), _BUSY)
)
_METHODS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")


class Mode(StrEnum):
    """What the proxy does."""

    PASS = "pass"  # hands everything on
    BUSY = "busy"  # answers requests with 503
    STALL = "stall"  # hands nothing on, and keeps the connection
    CUT = "cut"  # breaks connections off, in the middle of a request or of an answer


class StoreProxy:
    """Hands bytes on to ``port``, as its mode says.

    Attributes:
        done: how often each mode struck.
        share: of the connections that a mode other than ``PASS`` strikes.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self._port = port
        self._chance = chance
        self._mode = Mode.PASS
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.share = 0.7
        self.done: dict[str, int] = {mode.value: 0 for mode in Mode}
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def set_mode(self, mode: Mode) -> None:
        """From now on, on connections that are open as well."""
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[StoreProxy]:
        """Listen on a free port of loopback while one is inside."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        forth: asyncio.StreamWriter | None = None
        pumps: list[asyncio.Task[None]] = []
        try:
            far, forth = await asyncio.open_connection("127.0.0.1", self._port, limit=_CHUNK)
            pumps = [
                asyncio.create_task(self._pump(near, forth, back, asked=True)),
                asyncio.create_task(self._pump(far, back, back, asked=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the run is over
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for writer in (forth, back):
                if writer is not None:
                    writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        *,
        asked: bool,
    ) -> None:
        while data := await reader.read(_CHUNK):
            struck = self._chance.random() < self.share
            mode = self._mode if struck else Mode.PASS
            if mode is Mode.STALL:
                self.done[mode] += 1
                while self._mode is Mode.STALL:
                    await self._changed.wait()
            elif mode is Mode.CUT:
                self.done[mode] += 1
                # Some of it arrives: the far end has half a request, or the near end half an answer, or none.
                writer.write(data[: self._chance.randrange(len(data) + 1)])
                await writer.drain()
                return
            elif mode is Mode.BUSY and asked and data.startswith(_METHODS):
                self.done[mode] += 1
                back.write(_ANSWER)
                await back.drain()
                back.write_eof()
                while await reader.read(_CHUNK):
                    pass  # reading on lets the answer arrive, as a reset would not
                return
            writer.write(data)
            await writer.drain()
