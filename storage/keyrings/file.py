"""The embedded default: one JSON file of mode 0600, changed only by atomic replacement.

The file is one host's, or lies on a mount that its hosts share, and never travels in the same backup as the
database: whoever has both has everything. Keys stand in it unencrypted; who can read the file is the guard.

Any number of processes may have it open. A change takes an exclusive lock (flock on a file beside it), reads
the newest state under the lock, writes a new file, flushes it and renames it over the old one. A reader keeps
the file that it read open: a link count of 0 tells, without touching the disk, that the file was replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from storage.errors import KeyringError
from storage.keyrings.state import KeyringState, StatefulKeyring, add_epoch, drop_epoch

__all__ = ["FileKeyring"]

_MODE: Final = 0o600
_MAX_SIZE: Final = 64 * 1024 * 1024


class FileKeyring(StatefulKeyring):
    """`Keyring` in a file. Use `create` once and `open` afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.RLock()
        self._file: int | None = None
        self._seen: tuple[int, int] | None = None
        self._state: KeyringState | None = None

    @classmethod
    def create(cls, path: Path | str, now: datetime) -> FileKeyring:
        """Make a new keyring file with fresh keys and open it.

        Raises:
            KeyringError: There is a file already, or the folder cannot be written to.
        """
        keyring = cls(Path(path))
        with keyring._lock():
            if keyring._path.exists():
                raise KeyringError(f"there is a keyring at {path} already; it is never overwritten")
            keyring._replace(KeyringState.generate(now))
        return keyring

    @classmethod
    def open(cls, path: Path | str) -> FileKeyring:
        """Open a keyring file.

        Raises:
            KeyringError: The file is missing, damaged, somebody else's, or open to others than its owner.
        """
        keyring = cls(Path(path))
        keyring._read()
        return keyring

    def close(self) -> None:
        """Forget the keys and close the file."""
        with self._guard:
            self._state = None
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def ensure_controller(self, controller_id: str, now: datetime | None = None) -> None:
        """See `Keyring`."""
        if controller_id in self._read().controllers:
            return
        with self._lock():
            state = self._load()
            if controller_id not in state.controllers:
                add_epoch(state, controller_id, now)
                self._replace(state)

    def rotate(self, controller_id: str, now: datetime) -> int:
        """See `Keyring`."""
        with self._lock():
            state = self._load()
            self._epochs(controller_id)
            number = add_epoch(state, controller_id, now)
            self._replace(state)
            return number

    def destroy_epoch(self, controller_id: str, epoch: int, now: datetime) -> None:
        """See `Keyring`.

        The old file is overwritten with zeros after it was replaced. A file system or a disk that copies on
        write may keep the old blocks all the same, which is why backups of the keyring have an end too.
        """
        with self._lock():
            state = self._load()
            self._epochs(controller_id)
            if drop_epoch(state, controller_id, epoch, now):
                self._replace(state, blank=True)

    def _read(self) -> KeyringState:
        with self._guard:
            if self._state is not None and self._file is not None:
                seen = os.fstat(self._file)
                if seen.st_nlink > 0 and (seen.st_mtime_ns, seen.st_size) == self._seen:
                    return self._state
            return self._load()

    def _load(self) -> KeyringState:
        with self._guard:
            while True:
                file = self._open_checked()
                try:
                    seen = os.fstat(file)
                    state = KeyringState.from_json(os.pread(file, _MAX_SIZE, 0))
                except KeyringError:
                    replaced = os.fstat(file).st_nlink == 0
                    os.close(file)
                    if replaced:  # and blanked, between our opening and our reading
                        continue
                    raise
                self._adopt(file, (seen.st_mtime_ns, seen.st_size), state)
                return state

    def _adopt(self, file: int, seen: tuple[int, int], state: KeyringState) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._seen, self._state = file, seen, state

    def _open_checked(self) -> int:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise KeyringError(
                f"there is no keyring at {self._path}: restore it, or create one for a new instance"
            ) from None
        except OSError as error:
            raise KeyringError(f"the keyring {self._path} cannot be opened: {error.strerror}") from error
        found = os.fstat(file)
        problem = None
        if not stat.S_ISREG(found.st_mode):
            problem = f"{self._path} is not a file"
        elif found.st_uid != os.geteuid():
            problem = (
                f"the keyring {self._path} belongs to user {found.st_uid}, not to this process "
                f"(user {os.geteuid()}): chown it"
            )
        elif stat.S_IMODE(found.st_mode) & 0o077:
            problem = f"the keyring {self._path} is open to others: chmod 600 {self._path}"
        if problem is not None:
            os.close(file)
            raise KeyringError(problem)
        return file

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the only right to change the file, among processes and among threads of this one."""
        with self._guard:
            try:
                lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
            except OSError as error:
                raise KeyringError(
                    f"the folder of {self._path} cannot be written to: {error.strerror}"
                ) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def _replace(self, state: KeyringState, *, blank: bool = False) -> None:
        """Write the state to disk, durable when this returns, and use it from now on."""
        temporary = Path(f"{self._path}.{os.getpid()}.tmp")
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()  # left by a process that died here and had our number
            file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            try:
                os.fchmod(file, _MODE)  # whatever the umask
                raw = state.to_json()
                written = 0
                while written < len(raw):
                    written += os.write(file, raw[written:])
                os.fsync(file)
                if blank:
                    self._replace_and_blank(temporary)
                else:
                    temporary.replace(self._path)
                _sync_folder(self._path.parent)
                seen = os.fstat(file)
            except BaseException:
                os.close(file)
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            self._state = None
            raise KeyringError(f"the keyring {self._path} cannot be written: {error.strerror}") from error
        self._adopt(file, (seen.st_mtime_ns, seen.st_size), state)

    def _replace_and_blank(self, temporary: Path) -> None:
        old = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            temporary.replace(self._path)
            _sync_folder(self._path.parent)
            os.pwrite(old, bytes(os.fstat(old).st_size), 0)
            os.fsync(old)
        finally:
            os.close(old)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
