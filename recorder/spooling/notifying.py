"""Hints from programs on the same machine that a file is there: older rtpengine-recording posts a path.

A hint only makes the agent look at once: the file is in the directory either way and is found without it too.
So nothing of a request is believed but which file to look at, and nothing outside the directory is looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from recorder.spooling.folder import Folder

# rtpengine-recording names the file in the first; scripts may use a parameter, or the body.
_HEADERS: Final = ("X-Recording-Full-File-Name", "X-Recording-File-Name")
_LIMIT: Final = 8192


@asynccontextmanager
async def listening(
    address: str | None, folder: Folder, changed: Callable[[bytes], None]
) -> AsyncIterator[int | None]:
    """Listen on a loopback address and give the port; None without an address.

    Args:
        address: ``host:port``; port 0 takes a free one.
        folder: The watched directory.
        changed: Told of each path below it.
    """
    if address is None:
        yield None
        return

    async def told(request: web.Request) -> web.Response:
        names = [request.headers[name].encode("utf-8", "surrogateescape") for name in _HEADERS
                 if name in request.headers]  # fmt: skip
        names += [unquote_to_bytes(value) for key, _, value in
                  (pair.partition("=") for pair in request.rel_url.raw_query_string.split("&"))
                  if key in {"path", "file"}]  # fmt: skip
        if not names and request.method == "POST":
            names = [(await request.content.read(_LIMIT)).strip()]
        for name in names:
            path = folder.relative(name) if name.startswith(b"/") else name
            if path and all(part and not part.startswith(b".") for part in path.split(b"/")):
                changed(path)
                return web.Response(status=202)
        return web.Response(status=404)

    app = web.Application(client_max_size=_LIMIT)
    app.router.add_route("GET", "/{any:.*}", told)
    app.router.add_route("POST", "/{any:.*}", told)
    runner = web.AppRunner(app, access_log=None)  # paths are personal: they name callers
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        await site.start()
        addresses = runner.addresses
        yield int(addresses[0][1])
    finally:
        await runner.cleanup()
