"""What an object store must do for us: the one protocol, and the values that cross it.

Stores know keys and bytes, nothing of sealing, recordings or people. Keys are random and hold no personal
data. Every implementation passes the contract suite in tests/storage/test_object_stores.py.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, Self

from storage.errors import Misuse

__all__ = [
    "Body",
    "Capabilities",
    "Chunk",
    "ObjectStore",
    "Stat",
    "Upload",
    "Version",
    "check_key",
    "check_prefix",
    "check_range",
]

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MAX_KEY: Final = 200


@dataclass(frozen=True, slots=True)
class Stat:
    """One stored object. Size in bytes, `modified` aware, `version_id` None in a store without versions."""

    key: str
    version_id: str | None
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, or a delete marker (size 0). A store without versions has one per object."""

    key: str
    version_id: str | None
    size: int
    modified: datetime
    is_delete_marker: bool
    is_latest: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that was begun and not ended; its bytes take space until it is aborted."""

    key: str
    upload_id: str
    started: datetime


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the store was seen to do with this bucket, by trying it.

    Attributes:
        versions: Overwriting or deleting keeps the older version.
        object_lock: The bucket was made with Object Lock.
        legal_hold: A legal hold is kept, read back and enforced.
        conditional_put: `If-None-Match: *` refuses to overwrite.
    """

    versions: bool
    object_lock: bool
    legal_hold: bool
    conditional_put: bool


Chunk = bytes | bytearray


class Body(Protocol):
    """The bytes of a `get`, and what the store says of the whole object.

    Attributes:
        size: Size in bytes of the whole object, not of the range.
        version_id: The version that is being read, where the store says so.
    """

    @property
    def size(self) -> int: ...  # noqa: D102 - see the class
    @property
    def version_id(self) -> str | None: ...  # noqa: D102 - see the class
    def __aiter__(self) -> Self: ...
    async def __anext__(self) -> bytes: ...


class ObjectStore(Protocol):
    """A flat store of immutable objects. Safe to use from many tasks of one event loop.

    Besides what each method names, all raise `StoreUnavailable` when the store is away, `StoreRefused` when
    it refuses for credentials or policy, and `Misuse` for a malformed key.
    """

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        """Store the body; when this returns it is durable, and before that nothing of it is visible.

        Args:
            key: Where to. An object that is there already is replaced (or gets a newer version).
            body: The bytes; an error that it raises propagates unchanged and leaves no object.
            size: The length in bytes if it is known beforehand: one streaming request instead of several.

        Raises:
            Misuse: The body is longer or shorter than `size` said.
        """
        ...

    def get(
        self, key: str, *, start: int = 0, end: int | None = None, version_id: str | None = None
    ) -> AbstractAsyncContextManager[Body]:
        """Open bytes [start, end) of the object for reading; `end` is exclusive and None means "to the end".

        The body ends early rather than late when the object is shorter than `end`.

        Raises:
            ObjectMissing: There is no such object or version.
            Misuse: `start` is negative, or `end` is not after it (an empty range has nothing to fetch).
        """
        ...

    async def stat(self, key: str, version_id: str | None = None) -> Stat:
        """Return size and time of the object.

        Raises:
            ObjectMissing: There is no such object or version, or its newest version is a delete marker.
        """
        ...

    def list(self, prefix: str = "") -> AsyncIterator[Stat]:
        """Yield the current objects whose key begins with the prefix, in the order of their keys."""
        ...

    def versions(self, prefix: str = "") -> AsyncIterator[Version]:
        """Yield every version and delete marker below the prefix, in no promised order."""
        ...

    async def delete_version(self, key: str, version_id: str | None) -> None:
        """Delete one version for good. Deleting what is not there is no error.

        Raises:
            ObjectLocked: The store holds on to this version.
        """
        ...

    async def delete_all(self, key: str) -> tuple[str, ...]:
        """Delete every version and delete marker of exactly this key; return the version ids deleted.

        A store without versions names its one version `null`. Idempotent: the second call returns ().

        Raises:
            ObjectLocked: The store holds on to a version; others may be gone already.
        """
        ...

    def uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        """Yield the uploads that were begun below the prefix and not ended, running ones included."""
        ...

    async def abort_upload(self, upload: Upload) -> None:
        """Throw an unfinished upload away. Aborting what is not there is no error."""
        ...

    async def capabilities(self) -> Capabilities:
        """Return what this store can do, found out by trying on objects of its own; remembered afterwards."""
        ...

    async def set_legal_hold(self, key: str, version_id: str | None, on: bool) -> None:
        """Set or lift the legal hold on a version and make sure by reading it back.

        Raises:
            Unsupported: The store keeps no legal holds.
            ObjectMissing: There is no such version.
        """
        ...

    async def legal_hold(self, key: str, version_id: str | None) -> bool:
        """Return whether a legal hold is on this version; False in a store that keeps none.

        Raises:
            ObjectMissing: There is no such version.
        """
        ...

    async def check(self) -> None:
        """Return if the store answers and the bucket is there; cheap enough for a readiness probe."""
        ...

    async def aclose(self) -> None:
        """Release connections and threads. The store must not be used afterwards."""
        ...


def check_key(key: str) -> str:
    """Return the key if every store can hold it.

    Raises:
        Misuse: The key is empty, too long, or not words of A-Z a-z 0-9 . _ - between slashes.
    """
    if len(key) > _MAX_KEY or _KEY.fullmatch(key) is None:
        raise Misuse("an object key is words of A-Z a-z 0-9 . _ - between slashes, 200 characters at most")
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix if it could begin a key.

    Raises:
        Misuse: No key begins like this.
    """
    if prefix and _KEY.fullmatch(prefix.removesuffix("/")) is None:
        raise Misuse("no object key begins like this")
    return prefix


def check_range(start: int, end: int | None) -> None:
    """Check that a byte range has at least one byte or runs to the end.

    Raises:
        Misuse: It does not.
    """
    if start < 0 or (end is not None and end <= start):
        raise Misuse(f"the byte range {start}-{end} is empty or negative")
