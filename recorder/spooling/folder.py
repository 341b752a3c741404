"""Files below one directory, reached without ever following a symbolic link out of it.

Paths are bytes relative to the directory: a file name need not be UTF-8. Every component is opened with
``O_NOFOLLOW`` from the directory's own descriptor, so a link that is put in the way later leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recorder.errors import ConfigurationError

PRIVATE: Final = b".recorder-spool"
"""The agent's own folder in the directory: journal, lock, files that are on their way out."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one file from another that is put in its place, or from itself after a change."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """Read it from a stat."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file below the directory."""

    path: bytes
    identity: Identity
    device: int


class Folder:
    """One watched directory."""

    def __init__(self, root: Path) -> None:
        """Open it, and make the agent's private folder in it.

        Raises:
            ConfigurationError: It is no directory, or may not be written.
        """
        self.root = root
        self._roots = {os.fsencode(one).rstrip(b"/") + b"/" for one in (root.absolute(), root.resolve())}
        try:
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(FileExistsError):
                os.mkdir(PRIVATE, 0o700, dir_fd=self._fd)
            self.private = self._open_directory(PRIVATE)
        except OSError as error:
            raise ConfigurationError(
                f"{root} must be a directory that the agent may read and write ({error.strerror})"
            ) from None

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.private)
        os.close(self._fd)

    def walk(self) -> Iterator[Found]:
        """Yield the regular files, without hidden folders; what vanishes meanwhile is left out."""
        for top, folders, names, fd in os.fwalk(b".", follow_symlinks=False, dir_fd=self._fd):
            folders[:] = sorted(one for one in folders if not one.startswith(b"."))
            prefix = b"" if top == b"." else top.removeprefix(b"./") + b"/"
            for name in sorted(names):
                with suppress(OSError):
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        yield Found(prefix + name, Identity.of(found), found.st_dev)

    def look(self, path: bytes) -> Found | None:
        """Return the regular file at a path, None where there is none."""
        try:
            with self.parent(path) as (fd, name):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise
        return Found(path, Identity.of(found), found.st_dev) if stat.S_ISREG(found.st_mode) else None

    def open(self, path: bytes, identity: Identity | None = None) -> int:
        """Open a file for reading and return its descriptor.

        Raises:
            FileNotFoundError: There is none, or no longer the one of this identity.
            OSError: It cannot be opened.
        """
        with self.parent(path) as (fd, name):
            try:
                opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
            except OSError as error:
                if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link or a pipe was put there
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
                raise
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or (identity is not None and Identity.of(found) != identity):
            os.close(opened)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return opened

    def relative(self, path: bytes) -> bytes | None:
        """Return an absolute path's part below the directory; None for one outside, or with dots in it."""
        for root in self._roots:
            if path.startswith(root):
                below = path[len(root) :]
                parts = below.split(b"/")
                return below if all(part and not part.startswith(b".") for part in parts) else None
        return None

    @contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the descriptor of a path's folder, and the path's last part.

        Raises:
            OSError: A part is missing, no directory, or a symbolic link.
        """
        *above, name = path.split(b"/")
        if not name or any(part in {b"", b".", b".."} for part in (*above, name)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        fd = os.dup(self._fd)
        try:
            for part in above:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, name
        finally:
            os.close(fd)

    def private_folder(self, name: bytes) -> int:
        """Open a folder of the agent's own, made where it is missing, and return its descriptor."""
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self.private)
        return os.open(name, _DIRECTORY, dir_fd=self.private)

    def _open_directory(self, name: bytes) -> int:
        return os.open(name, _DIRECTORY, dir_fd=self._fd)


def being_written(found: list[Found]) -> set[bytes]:
    """Return the paths of those files that some process has open for writing, as far as /proc shows.

    /proc shows the descriptors of the caller's own processes, to root those of all (proc(5)).
    """
    wanted = {(one.device, one.identity.inode): one.path for one in found}
    writing: set[bytes] = set()
    own = str(os.getpid())
    try:
        processes = [one for one in Path("/proc").iterdir() if one.name.isdigit() and one.name != own]
    except OSError:  # no /proc: another system
        return writing
    for process in processes:
        with suppress(OSError):  # ended meanwhile, or another user's
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    status = descriptor.stat()
                    path = wanted.get((status.st_dev, status.st_ino))
                    if path is not None and _writes(process / "fdinfo" / descriptor.name):
                        writing.add(path)
    return writing


def _writes(information: Path) -> bool:
    lines = information.read_text("ascii").splitlines()
    flags = next((int(line.split()[1], 8) for line in lines if line.startswith("flags:")), 0)
    return flags & os.O_ACCMODE != os.O_RDONLY
