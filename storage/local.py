"""An object store in a local directory, durable when `put` returns.

    ROOT/objects/KEY            one file per object, mode 0600
    ROOT/uploads/ID~KEY         what is being written, KEY with "/" as "%"

A file is written beside, flushed, renamed into place, and its folder flushed. What a killed process left in
`uploads` is listed as an abandoned upload. Blocking calls run in threads, about a megabyte at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self, TypeVar

from storage.durable import make_folder, sync_folder
from storage.errors import Misuse, ObjectMissing, StoreRefused, StoreUnavailable, Unsupported
from storage.objects import Capabilities, Chunk, Stat, Upload, Version, check_key, check_prefix, check_range

__all__ = ["LocalStore"]

_BATCH: Final = 1024 * 1024
_MODE: Final = 0o600
_NULL: Final = "null"
_T = TypeVar("_T")


class LocalStore:
    """`ObjectStore` in a directory. It keeps no versions and no legal holds.

    Args:
        root: The directory; made on first use, with its parents.
    """

    def __init__(self, root: Path | str) -> None:
        self._objects = Path(root) / "objects"
        self._uploads = Path(root) / "uploads"

    async def put(self, key: str, body: AsyncIterable[Chunk], *, size: int | None) -> Stat:
        """See `ObjectStore`."""
        target = self._path(key)
        upload = self._uploads / f"{uuid.uuid4().hex}~{key.replace('/', '%')}"
        file = await _in_thread(_begin, upload)
        total = 0
        try:
            async for batch in _batches(body):
                total += sum(map(len, batch))
                if size is not None and total > size:
                    raise Misuse("the body is longer than its announced size")
                await _in_thread(_write, file, batch)
            if size is not None and total != size:
                raise Misuse("the body is shorter than its announced size")
            return await _in_thread(_commit, file, upload, target, key)
        finally:
            await _in_thread(_end, file, upload)

    @asynccontextmanager
    async def get(
        self, key: str, *, start: int = 0, end: int | None = None, version_id: str | None = None
    ) -> AsyncIterator[_Body]:
        """See `ObjectStore`."""
        check_range(start, end)
        path = self._path(key)
        _only_version(key, version_id)
        file, size = await _in_thread(_open, path, key)
        try:
            yield _Body(file, size, start, size if end is None else min(end, size))
        finally:
            await _in_thread(os.close, file)

    async def stat(self, key: str, version_id: str | None = None) -> Stat:
        """See `ObjectStore`."""
        path = self._path(key)
        _only_version(key, version_id)
        return await _in_thread(_stat, path, key)

    async def list(self, prefix: str = "") -> AsyncIterator[Stat]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        for key in await _in_thread(_keys, self._objects, prefix):
            with contextlib.suppress(ObjectMissing):  # deleted while we were walking
                yield await self.stat(key)

    async def versions(self, prefix: str = "") -> AsyncIterator[Version]:
        """See `ObjectStore`."""
        async for found in self.list(prefix):
            yield Version(found.key, None, found.size, found.modified, is_delete_marker=False, is_latest=True)

    async def delete_version(self, key: str, version_id: str | None) -> None:
        """See `ObjectStore`."""
        if version_id in {None, _NULL}:
            await self.delete_all(key)

    async def delete_all(self, key: str) -> tuple[str, ...]:
        """See `ObjectStore`."""
        return (_NULL,) if await _in_thread(_delete, self._path(key)) else ()

    async def uploads(self, prefix: str = "") -> AsyncIterator[Upload]:
        """See `ObjectStore`."""
        check_prefix(prefix)
        for upload in await _in_thread(_list_uploads, self._uploads):
            if upload.key.startswith(prefix):
                yield upload

    async def abort_upload(self, upload: Upload) -> None:
        """See `ObjectStore`."""
        if "/" in upload.upload_id:
            raise Misuse("this upload id is not of this store")
        await _in_thread(_delete, self._uploads / upload.upload_id)

    async def capabilities(self) -> Capabilities:
        """See `ObjectStore`."""
        return Capabilities(versions=False, object_lock=False, legal_hold=False, conditional_put=False)

    async def set_legal_hold(self, key: str, version_id: str | None, on: bool) -> None:
        """See `ObjectStore`."""
        await self.stat(key, version_id)
        raise Unsupported("a local directory keeps no legal holds")

    async def legal_hold(self, key: str, version_id: str | None) -> bool:
        """See `ObjectStore`."""
        await self.stat(key, version_id)
        return False

    async def check(self) -> None:
        """See `ObjectStore`."""
        await _in_thread(_check, self._uploads)

    async def aclose(self) -> None:
        """See `ObjectStore`."""

    def _path(self, key: str) -> Path:
        return self._objects / check_key(key)


class _Body:
    def __init__(self, file: int, size: int, start: int, end: int) -> None:
        self.size = size
        self.version_id: str | None = None
        self._file = file
        self._next = start
        self._end = end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        wanted = min(_BATCH, self._end - self._next)
        piece = b"" if wanted <= 0 else await _in_thread(os.pread, self._file, wanted, self._next)
        if not piece:
            raise StopAsyncIteration
        self._next += len(piece)
        return piece


async def _in_thread(function: Callable[..., _T], *args: object) -> _T:
    """Run a blocking call in a thread; when cancelled, wait for it first, for it may use our descriptor."""
    running = asyncio.ensure_future(asyncio.to_thread(_translated, function, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _translated(function: Callable[..., _T], *args: object) -> _T:
    try:
        return function(*args)
    except PermissionError as error:
        raise StoreRefused(
            f"the object directory refuses access to {error.filename}: check its owner and mode"
        ) from error
    except OSError as error:
        reason = "is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else f"failed: {error.strerror}"
        raise StoreUnavailable(f"the object directory {reason}") from error


async def _batches(body: AsyncIterable[Chunk]) -> AsyncIterator[list[Chunk]]:
    batch: list[Chunk] = []
    held = 0
    async for piece in body:
        batch.append(piece)
        held += len(piece)
        if held >= _BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _begin(upload: Path) -> int:
    make_folder(upload.parent)
    return os.open(upload, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)


def _write(file: int, batch: list[Chunk]) -> None:
    for piece in batch:
        left = memoryview(piece)
        while left:
            left = left[os.write(file, left) :]


def _commit(file: int, upload: Path, target: Path, key: str) -> Stat:
    os.fsync(file)
    make_folder(target.parent)
    upload.replace(target)
    sync_folder(target.parent)
    found = os.fstat(file)
    return Stat(key, None, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _end(file: int, upload: Path) -> None:
    os.close(file)
    upload.unlink(missing_ok=True)  # gone already after a commit


def _open(path: Path, key: str) -> tuple[int, int]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectMissing(key) from None
    return file, os.fstat(file).st_size


def _stat(path: Path, key: str) -> Stat:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ObjectMissing(key) from None
    if path.is_dir():
        raise ObjectMissing(key)
    return Stat(key, None, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _delete(path: Path) -> bool:
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_folder(path.parent)
    return True


def _keys(root: Path, prefix: str) -> list[str]:
    # Only the folder that the prefix names is walked; a prefix may end in the middle of a name.
    top = root / prefix.rpartition("/")[0]
    keys = []
    for folder, _, names in os.walk(top):
        below = Path(folder).relative_to(root).as_posix()
        keys += [name if below == "." else f"{below}/{name}" for name in names]
    return sorted(key for key in keys if key.startswith(prefix))


def _list_uploads(folder: Path) -> list[Upload]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            _, _, key = entry.name.partition("~")
            with contextlib.suppress(FileNotFoundError):  # ended while we were listing
                started = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
                found.append(Upload(key.replace("%", "/"), entry.name, started))
    return sorted(found, key=lambda upload: (upload.key, upload.upload_id))


def _check(folder: Path) -> None:
    make_folder(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreRefused(f"the object directory {folder} cannot be written to: check its owner and mode")


def _only_version(key: str, version_id: str | None) -> None:
    if version_id not in {None, _NULL}:
        raise ObjectMissing(key, version_id)
