"""One HTTP client for both sides, so that what differs is the server."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp


@dataclass(frozen=True, slots=True)
class Request:
    """One request to make: where, with which headers, with or without a body."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


class Client:
    """Runs lists of requests over a fixed number of connections and times them."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=600),
            read_bufsize=1 << 20,
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session."""
        if self._session is None:
            raise RuntimeError("enter the client first")
        return self._session

    async def put(self, request: Request) -> None:
        """Send one body."""
        # A presigned address must be sent as signed, byte for byte.
        from yarl import URL

        url = URL(request.url, encoded=True)
        async with self.session.put(url, data=request.body, headers=request.headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"PUT answered {answer.status}: {text[:300]!r}")

    async def get(self, request: Request) -> int:
        """Read one answer to its end; return its size in bytes."""
        from yarl import URL

        size = 0
        async with self.session.get(URL(request.url, encoded=True), headers=request.headers) as answer:
            if answer.status not in {200, 206}:
                raise RuntimeError(f"GET answered {answer.status}: {(await answer.read())[:300]!r}")
            async for piece in answer.content.iter_any():
                size += len(piece)
        return size

    async def first_byte(self, request: Request) -> float:
        """Seconds from sending a GET to the first byte of its body; the rest is read untimed."""
        from yarl import URL

        started = time.perf_counter()
        async with self.session.get(URL(request.url, encoded=True), headers=request.headers) as answer:
            if answer.status != 206:
                raise RuntimeError(f"a range answered {answer.status}")
            await answer.content.readany()
            seconds = time.perf_counter() - started
            await answer.read()
        return seconds

    async def run(
        self, requests: Sequence[Request], connections: int, one: Callable[[Request], Awaitable[object]]
    ) -> float:
        """Seconds for all requests over so many connections."""
        queue = list(reversed(requests))

        async def worker() -> None:
            while queue:
                await one(queue.pop())

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(connections)))
        return time.perf_counter() - started

    async def seeks(self, requests: Sequence[Request]) -> float:
        """Median seconds to the first byte, one after another."""
        return statistics.median([await self.first_byte(request) for request in requests])
