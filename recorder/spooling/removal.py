"""Taking a file out of the directory once the service holds it, without ever taking another one.

The file is first renamed into the agent's own folder, under the journal's number of it, and looked at there:
only what is still the file of the receipt (inode, size, time) goes on. What was put in its place meanwhile is
put back. Every step may be repeated after a power cut.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from recorder.spooling.folder import Folder, Identity

LEAVING: Final = b"leaving"
_COPY: Final = 1024 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Removal(StrEnum):
    """What became of the file in the directory."""

    REMOVED = "removed"
    MISSING = "missing"  # nobody needs to remove it any more
    CHANGED = "changed"  # another file, or a longer one: it stays and is pushed of its own


Open = Callable[[Identity, int], bool]
"""Whether somebody holds the file of this identity, on this device, open for writing."""


def nobody(_identity: Identity, _device: int) -> bool:
    """For writers that close a file before it can be seen."""
    return False


def delete(folder: Folder, path: bytes, identity: Identity, number: int, held: Open = nobody) -> Removal:
    """Delete the very file of this identity.

    Args:
        folder: The watched directory.
        path: In it.
        identity: Of the file that the receipt is about.
        number: The journal's, of the file.
        held: Asked once the file is out of the way; a file that is still written to goes back.

    Raises:
        OSError: It could not be done; nothing is lost, try again.
    """
    return _leave(folder, path, identity, number, held, lambda fd, name: os.unlink(name, dir_fd=fd))


def archive(
    folder: Folder,
    path: bytes,
    identity: Identity,
    number: int,
    target: Path,
    sha256: bytes | None,
    held: Open = nobody,
) -> Removal:
    """Move the very file of this identity to ``target``; a name that is taken there gets a number.

    Args:
        folder: The watched directory.
        path: In it.
        identity: Of the file that the receipt is about.
        number: The journal's, of the file.
        target: Where it goes.
        sha256: Of the file, checked when it has to be copied; None for sidecars.
        held: As in :func:`delete`.

    Raises:
        OSError: It could not be done; nothing is lost, try again.
    """

    def away(fd: int, name: bytes) -> None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _place(fd, name, target, sha256)
        _sync(target.parent)
        os.unlink(name, dir_fd=fd)

    return _leave(folder, path, identity, number, held, away)


def recover(folder: Folder, expected: Callable[[int], bool]) -> int:
    """Put back files on their way out that the journal knows nothing of, and return how many that were.

    Only a lost journal leaves such files; they return to the top of the directory and are pushed again.
    """
    count = 0
    leaving = folder.private_folder(LEAVING)
    try:
        for number in os.listdir(leaving):  # noqa: PTH208 - by descriptor
            if number.isdigit() and expected(int(number)):
                continue
            inner = os.open(number, _DIRECTORY, dir_fd=leaving)
            try:
                for name in os.listdir(inner):  # noqa: PTH208 - by descriptor
                    with folder.parent(os.fsencode(name)) as (fd, last):
                        _return(inner, fd, last)
                    count += 1
            finally:
                os.close(inner)
            os.rmdir(number, dir_fd=leaving)
    finally:
        os.close(leaving)
    return count


def _leave(
    folder: Folder,
    path: bytes,
    identity: Identity,
    number: int,
    held: Open,
    away: Callable[[int, bytes], None],
) -> Removal:
    leaving = folder.private_folder(LEAVING)
    own = str(number).encode()
    try:
        with suppress(FileExistsError):
            os.mkdir(own, 0o700, dir_fd=leaving)
        inner = os.open(own, _DIRECTORY, dir_fd=leaving)
        try:
            result = _through(folder, path, identity, inner, held, away)
        finally:
            os.close(inner)
        os.rmdir(own, dir_fd=leaving)
        os.fsync(leaving)
        return result
    finally:
        os.close(leaving)


def _through(
    folder: Folder,
    path: bytes,
    identity: Identity,
    inner: int,
    held: Open,
    away: Callable[[int, bytes], None],
) -> Removal:
    """Take the file through the agent's folder ``inner``, which may hold it since before a power cut."""
    name = path.rpartition(b"/")[2]
    if (there := _status(inner, name)) is None:
        try:
            with folder.parent(path) as (fd, last):
                here = _status(fd, last)
                if here is None:
                    return Removal.MISSING
                if Identity.of(here) != identity:
                    return Removal.CHANGED
                try:
                    os.rename(last, name, src_dir_fd=fd, dst_dir_fd=inner)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    away(fd, last)  # another file system is mounted below the directory
                    return Removal.REMOVED
        except (FileNotFoundError, NotADirectoryError):
            return Removal.MISSING
        there = _status(inner, name)
    if there is None or Identity.of(there) != identity or held(identity, there.st_dev):
        with folder.parent(path) as (fd, last):
            _return(inner, fd, last)
        return Removal.CHANGED
    away(inner, name)
    return Removal.REMOVED


def _status(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _return(inner: int, fd: int, name: bytes) -> None:
    """Put back what is not to leave: it took the file's place between a look and the rename."""
    place = name
    while True:
        try:
            # A link never takes the place of what is there, as a rename would.
            os.link(name, place, src_dir_fd=inner, dst_dir_fd=fd, follow_symlinks=False)
            break
        except FileExistsError:
            stem, dot, extension = name.rpartition(b".")
            place = (stem or name) + b"~" + secrets.token_hex(4).encode() + (dot + extension if stem else b"")
    os.unlink(name, dir_fd=inner)


def _place(fd: int, name: bytes, target: Path, sha256: bytes | None) -> None:
    """Link or copy a file to ``target`` or a free name beside it; the same bytes there already will do."""
    for count in range(1000):
        place = target if count == 0 else target.with_name(f"{target.stem}~{count}{target.suffix}")
        try:
            os.link(name, place, src_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            if sha256 is not None and _sha256(place) == sha256:
                return
            continue
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}:
                raise
            if not _copy(fd, name, place, sha256):
                continue
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _copy(fd: int, name: bytes, place: Path, sha256: bytes | None) -> bool:
    """Copy to another file system, checked and on the disk before return; False when the name is taken."""
    if os.path.lexists(place):
        return sha256 is not None and _sha256(place) == sha256
    scratch = place.with_name(f".{secrets.token_hex(8)}.part")
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        sink = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        hasher = hashlib.sha256()
        try:
            while piece := os.read(source, _COPY):
                hasher.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(sink, view) :]
            status = os.fstat(source)
            os.utime(sink, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(sink)
        finally:
            os.close(sink)
        if sha256 is not None and not hmac.compare_digest(hasher.digest(), sha256):
            raise OSError(errno.EIO, "the copy is not the file")
        scratch.rename(place)
    finally:
        os.close(source)
        with suppress(FileNotFoundError):
            scratch.unlink()
    return True


def _sha256(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
