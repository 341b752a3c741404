"""A keyring that lives and dies with the process, for tests and throw-away instances."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Final

from storage.keyrings.state import KeyringState, StatefulKeyring, add_epoch, drop_epoch

__all__ = ["MemoryKeyring"]

_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


class MemoryKeyring(StatefulKeyring):
    """`Keyring` in memory. Everything that it wrapped is unreadable once the process ends."""

    def __init__(self, now: datetime = _BEGINNING) -> None:
        self._state = KeyringState.generate(now)
        self._lock = threading.Lock()

    def ensure_controller(self, controller_id: str, now: datetime | None = None) -> None:
        """See `Keyring`."""
        with self._lock:
            if controller_id not in self._state.controllers:
                add_epoch(self._state, controller_id, now)

    def rotate(self, controller_id: str, now: datetime) -> int:
        """See `Keyring`."""
        self._epochs(controller_id)
        with self._lock:
            return add_epoch(self._state, controller_id, now)

    def destroy_epoch(self, controller_id: str, epoch: int, now: datetime) -> None:
        """See `Keyring`."""
        self._epochs(controller_id)
        with self._lock:
            drop_epoch(self._state, controller_id, epoch, now)

    def _read(self) -> KeyringState:
        return self._state
