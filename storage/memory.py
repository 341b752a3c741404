"""An object store in memory: a real implementation for tests and throw-away instances."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from storage.errors import Misuse, ObjectLocked, ObjectMissing, Unsupported
from storage.objects import Capabilities, Chunk, Stat, Upload, Version, check_key, check_prefix, check_range

__all__ = ["MemoryStore"]

_PIECE = 1024 * 1024


@dataclass(slots=True)
class _Version:
    version_id: str
    data: bytes
    modified: datetime
    is_delete_marker: bool = False
    held: bool = False


class _Body:
    def __init__(self, version: _Version, start: int, end: int | None, *, versioned: bool) -> None:
        self.size = len(version.data)
        self.version_id = version.version_id if versioned else None
        self._left = memoryview(version.data)[start:end]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        piece, self._left = bytes(self._left[:_PIECE]), self._left[_PIECE:]
        return piece


class MemoryStore:
    """`ObjectStore` in memory.

    Args:
        versioned: Keep older versions, as a bucket with versioning and Object Lock does.
        clock: Where the times of objects come from.
    """

    def __init__(
        self, versioned: bool = True, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._versioned = versioned
        self._clock = clock
        self._objects: dict[str, list[_Version]] = {}  # newest last
        self._uploads: dict[str, Upload] = {}

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        """See `ObjectStore`."""
        upload = Upload(check_key(key), uuid.uuid4().hex, self._clock())
        if size is None:
            self._uploads[upload.upload_id] = upload
        data = bytearray()
        try:
            async for piece in body:
                data += piece
                if size is not None and len(data) > size:
                    raise Misuse("the body is longer than its announced size")
            if size is not None and len(data) != size:
                raise Misuse("the body is shorter than its announced size")
        finally:
            self._uploads.pop(upload.upload_id, None)
        version = _Version(uuid.uuid4().hex if self._versioned else "null", bytes(data), self._clock())
        self._push(key, version)
        return self._stat(key, version)

    @asynccontextmanager
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, version_id: str | None = None
    ) -> AsyncIterator[_Body]:
        """See `ObjectStore`."""
        check_range(start, end)
        yield _Body(self._find(key, version_id), start, end, versioned=self._versioned)

    async def stat(self, key: str, version_id: str | None = None) -> Stat:
        """See `ObjectStore`."""
        return self._stat(key, self._find(key, version_id))

    async def list(self, prefix: str = "") -> AsyncIterator[Stat]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            newest = self._objects.get(key, [])[-1:]
            if newest and not newest[0].is_delete_marker:
                yield self._stat(key, newest[0])

    async def versions(self, prefix: str = "") -> AsyncIterator[Version]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        for key in sorted(key for key in self._objects if key.startswith(prefix)):
            newest_first = list(reversed(self._objects.get(key, [])))
            for index, version in enumerate(newest_first):
                yield Version(
                    key,
                    version.version_id if self._versioned else None,
                    len(version.data),
                    version.modified,
                    version.is_delete_marker,
                    index == 0,
                )

    async def delete_version(self, key: str, version_id: str | None) -> None:
        """See `ObjectStore`."""
        wanted = "null" if version_id is None else version_id
        kept = self._objects.get(check_key(key), [])
        for version in kept:
            if version.version_id == wanted:
                if version.held:
                    raise ObjectLocked(key, version_id)
                kept.remove(version)
                break
        if not kept:
            self._objects.pop(key, None)

    async def delete_all(self, key: str) -> tuple[str, ...]:
        """See `ObjectStore`."""
        deleted = []
        for version in list(reversed(self._objects.get(check_key(key), []))):
            await self.delete_version(key, version.version_id)
            deleted.append(version.version_id)
        return tuple(deleted)

    async def mark_deleted(self, key: str) -> None:
        """Delete as a plain DELETE of S3 does with versions: by a marker that hides what is below it.

        Raises:
            Unsupported: The store keeps no versions.
        """
        if not self._versioned:
            raise Unsupported("a store without versions has no delete markers")
        self._push(check_key(key), _Version(uuid.uuid4().hex, b"", self._clock(), is_delete_marker=True))

    async def uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        for upload in list(self._uploads.values()):
            if upload.key.startswith(prefix):
                yield upload

    async def abort_upload(self, upload: Upload) -> None:
        """See `ObjectStore`."""
        self._uploads.pop(upload.upload_id, None)

    async def capabilities(self) -> Capabilities:
        """See `ObjectStore`."""
        held = self._versioned
        return Capabilities(self._versioned, object_lock=held, legal_hold=held, conditional_put=False)

    async def set_legal_hold(self, key: str, version_id: str | None, on: bool) -> None:
        """See `ObjectStore`."""
        version = self._find(key, version_id)
        if not self._versioned:
            raise Unsupported("a store without versions keeps no legal holds")
        version.held = on

    async def legal_hold(self, key: str, version_id: str | None) -> bool:
        """See `ObjectStore`."""
        return self._find(key, version_id).held

    async def check(self) -> None:
        """See `ObjectStore`."""

    async def aclose(self) -> None:
        """See `ObjectStore`."""

    def _push(self, key: str, version: _Version) -> None:
        if self._versioned:
            self._objects.setdefault(key, []).append(version)
        else:
            self._objects[key] = [version]

    def _find(self, key: str, version_id: str | None) -> _Version:
        versions = self._objects.get(check_key(key), [])
        if version_id is None:
            found = versions[-1:]
        else:
            found = [version for version in versions if version.version_id == version_id]
        if not found or found[0].is_delete_marker:
            raise ObjectMissing(key, version_id)
        return found[0]

    def _stat(self, key: str, version: _Version) -> Stat:
        return Stat(key, version.version_id if self._versioned else None, len(version.data), version.modified)
