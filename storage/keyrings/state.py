"""What every keyring that holds its keys itself has in common: the keys, and what is done with them.

No file and no lock here; `FileKeyring` and `MemoryKeyring` say where the state lives.
"""

from __future__ import annotations

import base64
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from storage.errors import KeyDestroyed, KeyringError, Misuse
from storage.keys import SIGNING_KEYS, EpochInfo, SigningKeyName
from storage.wraps import KEY_SIZE, bind, derive, open_wrap, seal_wrap

__all__ = ["KeyringState", "StatefulKeyring"]

_FORMAT: Final = "tallenne-keyring"
_VERSION: Final = 1


@dataclass(slots=True)
class _Epoch:
    created: datetime | None
    key: bytes | None = field(repr=False)
    destroyed: datetime | None = None


@dataclass(slots=True)
class KeyringState:
    """The secrets of one keyring. Epochs count from 1; the highest number is the current one."""

    created: datetime
    index: bytes = field(repr=False)
    signing: dict[SigningKeyName, bytes] = field(repr=False)
    controllers: dict[str, dict[int, _Epoch]] = field(default_factory=dict, repr=False)

    @classmethod
    def generate(cls, now: datetime) -> KeyringState:
        """Return a state with fresh index and signing keys and no controller yet."""
        _aware(now)
        return cls(now, os.urandom(KEY_SIZE), {name: os.urandom(KEY_SIZE) for name in SIGNING_KEYS})

    def to_json(self) -> bytes:
        """Return the state as the keyring file holds it (docs/sealed-format.md)."""
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "created": self.created.isoformat(),
            "index": _text(self.index),
            "signing": {name: _text(seed) for name, seed in self.signing.items()},
            "controllers": {
                controller: {
                    str(number): {
                        "created": None if epoch.created is None else epoch.created.isoformat(),
                        "destroyed": None if epoch.destroyed is None else epoch.destroyed.isoformat(),
                        "key": None if epoch.key is None else _text(epoch.key),
                    }
                    for number, epoch in epochs.items()
                }
                for controller, epochs in self.controllers.items()
            },
        }
        return json.dumps(document, indent=1).encode("ascii") + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> KeyringState:
        """Read a state back.

        Raises:
            KeyringError: The bytes are not a keyring, or one of a version that this program does not know.
        """
        try:
            document = json.loads(raw)
            if document["format"] != _FORMAT:
                raise KeyringError("the file is not a keyring")
            if document["version"] != _VERSION:
                raise KeyringError("the keyring was written by a newer version of this program")
            state = cls(
                datetime.fromisoformat(document["created"]),
                _key(document["index"]),
                {name: _key(document["signing"][name]) for name in SIGNING_KEYS},
                {
                    str(controller): {int(number): _epoch(entry) for number, entry in epochs.items()}
                    for controller, epochs in document["controllers"].items()
                },
            )
            if any(not epochs for epochs in state.controllers.values()):
                raise KeyringError("the keyring names a controller without a key")
        except (ValueError, KeyError, TypeError, AttributeError):
            # The parser's own message could quote key material, so it is not chained.
            raise KeyringError("the keyring is damaged: restore it from its backup") from None
        return state


class StatefulKeyring(ABC):
    """The `Keyring` protocol over a `KeyringState`; subclasses say how the state is loaded and changed."""

    @abstractmethod
    def _read(self) -> KeyringState:
        """The newest state."""

    @abstractmethod
    def ensure_controller(self, controller_id: str, now: datetime | None = None) -> None:
        """See `Keyring`."""

    @abstractmethod
    def rotate(self, controller_id: str, now: datetime) -> int:
        """See `Keyring`."""

    @abstractmethod
    def destroy_epoch(self, controller_id: str, epoch: int, now: datetime) -> None:
        """See `Keyring`."""

    def current_epoch(self, controller_id: str) -> int:
        """See `Keyring`."""
        return max(self._epochs(controller_id))

    def epochs(self, controller_id: str) -> list[EpochInfo]:
        """See `Keyring`."""
        epochs = self._epochs(controller_id)
        current = max(epochs)
        return [
            EpochInfo(number, epoch.created, epoch.destroyed, number == current)
            for number, epoch in sorted(epochs.items())
        ]

    def wrap(self, controller_id: str, epoch: int, plaintext: bytes, aad: bytes) -> bytes:
        """See `Keyring`."""
        return seal_wrap(self._kek(controller_id, epoch), plaintext, _kek_aad(controller_id, epoch, aad))

    def unwrap(self, controller_id: str, epoch: int, wrapped: bytes, aad: bytes) -> bytes:
        """See `Keyring`."""
        kek = self._kek(controller_id, epoch)
        return open_wrap(kek, wrapped, _kek_aad(controller_id, epoch, aad), what="a wrapped key")

    def index_key(self, controller_id: str) -> bytes:
        """See `Keyring`."""
        return derive(self._read().index, bind("tallenne.controller.index", controller_id))

    def signing_key(self, name: SigningKeyName) -> Ed25519PrivateKey:
        """See `Keyring`."""
        seed = self._read().signing.get(name)
        if seed is None:
            raise Misuse("there is no signing key of this name")
        return Ed25519PrivateKey.from_private_bytes(seed)

    def public_keys(self) -> dict[str, Ed25519PublicKey]:
        """See `Keyring`."""
        return {name: self.signing_key(name).public_key() for name in SIGNING_KEYS}

    def _epochs(self, controller_id: str) -> dict[int, _Epoch]:
        epochs = self._read().controllers.get(controller_id)
        if epochs is None:
            raise KeyringError(
                f"the keyring has no key for controller {controller_id}: is it the keyring of this database?"
            )
        return epochs

    def _kek(self, controller_id: str, epoch: int) -> bytes:
        entry = self._epochs(controller_id).get(epoch)
        if entry is None:
            raise KeyringError(
                f"the keyring has no epoch {epoch} of controller {controller_id}: "
                "it is older than the database"
            )
        if entry.key is None:
            raise KeyDestroyed(controller_id, epoch)
        return entry.key


def add_epoch(state: KeyringState, controller_id: str, now: datetime | None) -> int:
    """Add the next epoch with a fresh key to the state and return its number."""
    if now is not None:
        _aware(now)
    if not controller_id:
        raise Misuse("a controller has an id")
    epochs = state.controllers.setdefault(controller_id, {})
    number = max(epochs, default=0) + 1
    epochs[number] = _Epoch(now, os.urandom(KEY_SIZE))
    return number


def drop_epoch(state: KeyringState, controller_id: str, epoch: int, now: datetime) -> bool:
    """Drop the key of an older epoch; return whether there was one to drop."""
    _aware(now)
    epochs = state.controllers.get(controller_id, {})
    entry = epochs.get(epoch)
    if entry is None:
        raise Misuse(f"controller {controller_id} has no key epoch {epoch}")
    if epoch == max(epochs):
        raise Misuse("the current key epoch cannot be destroyed; rotate first")
    if entry.key is None:
        return False
    entry.key, entry.destroyed = None, now
    return True


def _kek_aad(controller_id: str, epoch: int, aad: bytes) -> bytes:
    return bind("tallenne.kek", controller_id, epoch, aad)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _key(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if len(raw) != KEY_SIZE:
        raise ValueError
    return raw


def _epoch(entry: dict[str, Any]) -> _Epoch:
    created, destroyed, key = entry["created"], entry["destroyed"], entry["key"]
    return _Epoch(
        None if created is None else datetime.fromisoformat(created),
        None if key is None else _key(key),
        None if destroyed is None else datetime.fromisoformat(destroyed),
    )


def _aware(now: datetime) -> None:
    if now.tzinfo is None:
        raise Misuse("a point in time needs its zone")
