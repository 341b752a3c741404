"""Where an old archive lies: a folder, or a bucket of another system."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from recorder.errors import InvalidInput, NotFound, Unavailable
from storage.errors import ObjectMissing, StorageError
from storage.foreign import ForeignBucket

_PIECE: Final = 256 * 1024


class Place(Protocol):
    """Reads the files of an archive by their names."""

    def names(self) -> Iterator[str] | AsyncIterator[str]:
        """Every file's name below the root, in order."""

    def open(self, name: str) -> AbstractAsyncContextManager[tuple[int | None, AsyncIterator[bytes]]]:
        """A file's size in bytes, and its bytes.

        Raises:
            NotFound: there is none.
            InvalidInput: the name leads out of the archive, or to something that is no file.
            Unavailable: the archive is away.
        """


class Folder:
    """A folder; symbolic links are followed nowhere."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> Iterator[str]:
        """See `Place`; hidden files and folders are left out."""
        for folder, folders, files in os.walk(self._root, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith("."):
                    yield (Path(folder) / name).relative_to(self._root).as_posix()

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
        """See `Place`."""
        descriptor = await asyncio.to_thread(self._descriptor, name)
        try:
            size = os.fstat(descriptor).st_size
            yield size, _pieces(descriptor)
        finally:
            os.close(descriptor)

    def _descriptor(self, name: str) -> int:
        parts = name.replace("\\", "/").split("/")
        if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
            raise InvalidInput("the manifest names a file that is not below the archive")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        above = os.open(self._root, flags | os.O_DIRECTORY)
        try:
            # Folder by folder, so that no link on the way leads out.
            for part in parts[:-1]:
                below = os.open(part, flags | os.O_DIRECTORY, dir_fd=above)
                os.close(above)
                above = below
            descriptor = os.open(parts[-1], flags | os.O_NONBLOCK, dir_fd=above)
        except FileNotFoundError:
            raise NotFound("the file is not there") from None
        except OSError:
            raise InvalidInput("the file cannot be opened, or a link leads to it") from None
        finally:
            os.close(above)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InvalidInput("it is no file")
        return descriptor


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(os.read, descriptor, _PIECE):
        yield piece


class Bucket:
    """A bucket of another system, below a prefix."""

    def __init__(self, bucket: ForeignBucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = prefix

    async def names(self) -> AsyncIterator[str]:
        """See `Place`."""
        try:
            async for key, _ in self._bucket.objects(self._prefix):
                yield key.removeprefix(self._prefix)
        except StorageError as error:
            raise Unavailable("the archive's bucket is away", dependency="archive") from error

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
        """See `Place`."""
        try:
            async with self._bucket.read(self._prefix + name) as body:
                yield body.size, body
        except ObjectMissing:
            raise NotFound("the object is not there") from None
        except StorageError as error:
            raise Unavailable("the archive's bucket is away", dependency="archive") from error
