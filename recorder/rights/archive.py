"""A ZIP written piece by piece from asynchronous sources, in constant memory.

The library pulls from a thread of its own; leaving early must not leave a source half open behind it.
"""

from __future__ import annotations

import asyncio
import stat
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from stream_zip import ZIP_64, async_stream_zip

__all__ = ["Member", "zipped"]

_MODE: Final = stat.S_IFREG | 0o600
_END: Final[Any] = object()
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive; its pieces are read before the next member is asked for."""

    name: str
    modified: datetime
    pieces: AsyncIterable[bytes]


class _Closed(Exception):
    """Ends the library's thread after its reader has gone."""


class _Gate:
    """Lets one pull through at a time, and none once closed."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._closed = False

    async def through(self, source: AsyncIterable[_T]) -> AsyncIterator[_T]:
        iterator = aiter(source)
        while True:
            async with self._lock:
                if self._closed:
                    raise _Closed("nobody reads this archive any more")
                item = await anext(iterator, _END)
            if item is _END:
                return
            yield item

    async def close(self) -> None:
        async with self._lock:  # waits for the pull that is under way
            self._closed = True


async def zipped(members: AsyncGenerator[Member]) -> AsyncGenerator[bytes]:
    """The archive's bytes. Close it (``aclosing``) to close the members' source, whatever happened."""
    gate = _Gate()

    async def files() -> AsyncIterator[Any]:
        async for member in gate.through(members):
            yield member.name, member.modified, _MODE, ZIP_64, gate.through(member.pieces)

    try:
        async for chunk in async_stream_zip(files(), get_compressobj=_compressor):
            yield chunk
    finally:
        await gate.close()
        await members.aclose()


def _compressor() -> Any:
    # Speech that is compressed already does not get smaller; effort would only cost time.
    return zlib.compressobj(wbits=-zlib.MAX_WBITS, level=1)
