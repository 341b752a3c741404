"""The side of a provider from which the service fetches audio: an HTTP server with what was offered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class Shelf:
    """Audio by name, until it has been fetched to its end.

    Attributes:
        fetched: names whose audio was sent whole at least once.
    """

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._bodies: dict[str, bytes] = {}
        self.fetched: set[str] = set()

    def offer(self, name: str, body: bytes) -> str:
        """Put audio there and return its address."""
        self._bodies[name] = body
        return f"{self._address}/{name}"

    @property
    def waiting(self) -> int:
        """How much is still to be fetched."""
        return len(self._bodies.keys() - self.fetched)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one download; providers take the extension for a choice of format."""
        name = request.match_info["name"].removesuffix(".wav")
        body = self._bodies.get(name)
        if body is None:
            raise web.HTTPNotFound
        response = web.StreamResponse(
            headers={"Content-Type": "audio/x-wav", "Content-Length": str(len(body))}
        )
        await response.prepare(request)
        await response.write(body)
        await response.write_eof()
        self.fetched.add(name)
        return response


@asynccontextmanager
async def hosted(host: str, port: int, *, address: str | None = None) -> AsyncIterator[Shelf]:
    """A shelf that serves while one is inside.

    Args:
        host: To listen on.
        port: 0 takes a free one.
        address: As the service reaches it, where that is another one.
    """
    app = web.Application()
    runner = web.AppRunner(app, access_log=None)
    shelf = Shelf("")
    app.router.add_get("/{name}", shelf.serve)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        taken = runner.addresses[0][1]
        shelf._address = (address or f"http://{host}:{taken}").rstrip("/")  # noqa: SLF001 - made just above
        yield shelf
    finally:
        await runner.cleanup()
