"""One object on its way into the store, in a task of its own; the catalogue is readied meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final, Self

from recorder.ingest.intake import Chunk
from storage.errors import StorageError
from storage.vault import RunningDigest, SealedObject, Vault, WrittenObject

log = logging.getLogger("recorder.ingest")
KEPT: Final = 1024 * 1024
"""Bytes of a body that are held in memory until its store has answered."""


class Retained:
    """A body that a second reader can take over from its beginning, as long as it is small.

    What a failing store had read of it is not lost: up to `limit` bytes are remembered, and a reader that is
    cancelled while it waits for more does not take the waiting with it. Past the limit nothing is remembered.
    """

    def __init__(self, source: AsyncIterable[Chunk], limit: int = KEPT) -> None:
        self._source = aiter(source)
        self._limit = limit
        self._kept: list[Chunk] | None = []
        self._size = 0
        self._waiting: asyncio.Task[Chunk | None] | None = None
        self._ended = False

    @property
    def whole(self) -> bool:
        """Whether it can still be read from its beginning."""
        return self._kept is not None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._kept is None:
            return await anext(self._source)
        if self._ended:
            raise StopAsyncIteration
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._next())
        piece = await asyncio.shield(self._waiting)
        self._waiting = None
        if piece is None:
            self._ended = True
            raise StopAsyncIteration
        self._size += len(piece)
        if self._size > self._limit:
            self._kept = None
        else:
            self._kept.append(piece)
        return piece

    async def again(self) -> AsyncIterator[Chunk]:
        """The whole body from its beginning, once; only while it is `whole`."""
        kept = self._kept
        if kept is None:
            raise AssertionError("the body is too large to be read again")
        self._limit = 0  # from here on nothing more is remembered
        for piece in kept:
            yield piece
        while True:
            try:
                piece = await anext(self)
            except StopAsyncIteration:
                return
            yield piece

    async def aclose(self) -> None:
        """Wait for nothing any more."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])
            if not self._waiting.cancelled():
                self._waiting.exception()  # whoever waited for it has been told

    async def _next(self) -> Chunk | None:
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            return None


class Upload:
    """The writing of one body; begins at once. End it with `written` and keep, or with `discard`.

    Args:
        body: what is written.
        size: its size in bytes, where it is known.
        sha256: a running SHA-256 that somebody else feeds with the same bytes.
    """

    def __init__(
        self,
        vault: Vault,
        body: AsyncIterable[Chunk],
        *,
        size: int | None = None,
        sha256: RunningDigest | None = None,
    ) -> None:
        self._vault = vault
        self._sealed: asyncio.Future[SealedObject] = asyncio.get_running_loop().create_future()
        self._writing = asyncio.create_task(
            vault.write(body, role="original", size=size, sha256=sha256, on_sealed=self._sealed.set_result)
        )

    async def sealed(self) -> SealedObject:
        """Wait until the whole body has arrived and is sealed. The store has not confirmed it yet.

        Raises:
            RecorderError: whatever ended the body.
            storage.errors.StorageError: the store failed before.
        """
        either: set[asyncio.Future[Any]] = {self._writing, self._sealed}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._sealed.done():
            await self._writing
        return self._sealed.result()

    async def written(self, patience: float | None = None) -> WrittenObject:
        """Wait until the store has confirmed the object.

        Args:
            patience: seconds; None waits as long as the store may take.

        Raises:
            TimeoutError: it takes longer; the writing goes on.
            storage.errors.StorageError: the store failed; nothing is there.
        """
        async with asyncio.timeout(patience):
            return await asyncio.shield(self._writing)

    async def discard(self) -> None:
        """Remove the object, which no row names; what cannot be removed now is the reconciler's."""
        try:
            written = await asyncio.shield(self._writing)
        except Exception:  # noqa: BLE001 - whoever waited for it has been told; nothing was written
            return
        try:
            await asyncio.shield(self._vault.destroy(written.key))
        except StorageError as error:
            log.warning("an object is left behind", extra={"kind": type(error).__name__})
