"""One object on its way into the store, in a task of its own; the catalogue is readied meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from recorder.ingest.intake import Arrival
from storage.errors import StorageError
from storage.vault import SealedObject, Vault, WrittenObject

log = logging.getLogger("recorder.ingest")


class Upload:
    """The writing of one arrival; begins at once. End it with `written` and keep, or with `discard`."""

    def __init__(self, vault: Vault, arrival: Arrival) -> None:
        self._vault = vault
        self._sealed: asyncio.Future[SealedObject] = asyncio.get_running_loop().create_future()
        self._writing = asyncio.create_task(
            vault.write(
                arrival.kept(),
                role="original",
                size=arrival.kept_size_known,
                sha256=arrival.kept_hasher,
                on_sealed=self._sealed.set_result,
            )
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
