"""The errors of the storage package: one root, and one type for each thing a caller may want to do about it.

The three tiers are kept apart on purpose: `Misuse` is a bug in the calling code, `TamperedObject` is hostile
or rotten input, `StoreUnavailable` is a dependency that is away and may come back. No message holds personal
data: objects and subjects are named by their random ids only.
"""

from __future__ import annotations

from uuid import UUID

__all__ = [
    "KeyDestroyed",
    "KeyringError",
    "Misuse",
    "ObjectLocked",
    "ObjectMissing",
    "SpoolFull",
    "StorageError",
    "StoreRefused",
    "StoreUnavailable",
    "TamperedObject",
    "Unsupported",
]


class StorageError(Exception):
    """Root of everything that this package raises on purpose."""


class Misuse(StorageError):
    """The caller broke a rule of the interface: a bug, never the fault of what is stored."""


class TamperedObject(StorageError):
    """A ciphertext, a tag, a wrap, a digest or a size is not what it must be. Nothing of it was released.

    Attributes:
        object_id: The object concerned, or None where the failing value belongs to none (a sealed field).
        detail: What did not fit, in words without personal data.
    """

    def __init__(self, detail: str, *, object_id: UUID | None = None) -> None:
        self.detail = detail
        self.object_id = object_id
        super().__init__(detail if object_id is None else f"object {object_id}: {detail}")


class ObjectMissing(StorageError):
    """The store holds no object (or no such version) under this key.

    Attributes:
        key: The object key asked for.
    """

    def __init__(self, key: str, version_id: str | None = None) -> None:
        self.key = key
        self.version_id = version_id
        super().__init__(f"no object {key}" + ("" if version_id is None else f" in version {version_id}"))


class KeyDestroyed(StorageError):
    """The key-encryption key of this epoch was destroyed; what it wrapped stays unreadable for good."""

    def __init__(self, controller_id: str, epoch: int) -> None:
        self.controller_id = controller_id
        self.epoch = epoch
        super().__init__(f"key epoch {epoch} of controller {controller_id} is destroyed")


class StoreUnavailable(StorageError):
    """The object store cannot be reached, timed out or failed on its own side. Trying again may help."""


class StoreRefused(StorageError):
    """The object store answered and said no: credentials, policy or configuration need a person."""


class SpoolFull(StorageError):
    """The local spool has no room for another delivery, by its quota or on its disk."""


class ObjectLocked(StorageError):
    """The store keeps this version under a legal hold or a retention lock and did not delete it."""

    def __init__(self, key: str, version_id: str | None) -> None:
        self.key = key
        self.version_id = version_id
        super().__init__(f"object {key} in version {version_id} is locked in the store")


class KeyringError(StorageError):
    """The keyring cannot be opened, read or written; the message says what to do."""


class Unsupported(StorageError):
    """This store cannot do what was asked (no versions, no legal hold); ask `capabilities()` first."""
