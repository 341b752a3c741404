"""The files of a spool: blocking calls, each durable in its order, and the way to run them in threads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from storage.durable import make_folder, sync_folder
from storage.errors import ObjectMissing, SpoolFull, StoreUnavailable, TamperedObject
from storage.objects import Chunk
from storage.sealed import sealed_size

AUDIO: Final = ".audio"
ENVELOPE: Final = ".envelope"
_PARTIAL: Final = ".partial"
_MODE: Final = 0o600
_MAX_ENVELOPE: Final = 16 * 1024 * 1024
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_T = TypeVar("_T")


async def in_thread(function: Callable[..., _T], *args: object) -> _T:
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
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise SpoolFull("the disk of the spool is full") from error
        raise StoreUnavailable(f"the spool directory failed: {error.strerror}") from error


def begin(folder: Path, name: str) -> int:
    """Make the audio file of a delivery and lock it: whoever holds the lock is still writing."""
    make_folder(folder)
    file = os.open(folder / f"{name}{AUDIO}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    fcntl.flock(file, fcntl.LOCK_EX)  # ours alone: it exists since just now
    return file


def write(file: int, batch: list[Chunk]) -> None:
    """Write all of the chunks."""
    for piece in batch:
        left = memoryview(piece)
        while left:
            left = left[os.write(file, left) :]


def commit(folder: Path, name: str, file: int, envelope: bytes) -> None:
    """Audio, then its name, then the envelope, then its name: each durable before the next."""
    os.fsync(file)
    partial = folder / f"{name}{_PARTIAL}"
    beside = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        write(beside, [envelope])
        os.fsync(beside)
    finally:
        os.close(beside)
    sync_folder(folder)
    partial.replace(folder / f"{name}{ENVELOPE}")
    sync_folder(folder)


def end(folder: Path, name: str, file: int, kept: bool) -> None:
    """Close the audio file, and remove everything where nothing was kept."""
    try:
        if not kept:
            # The envelope first: should its rename have come through after all, it names nothing half.
            for suffix in (ENVELOPE, _PARTIAL, AUDIO):
                with contextlib.suppress(OSError):
                    (folder / f"{name}{suffix}").unlink(missing_ok=True)
    finally:
        os.close(file)


def read_envelope(path: Path) -> bytes:
    """The bytes of an envelope.

    Raises:
        ObjectMissing: it is not there.
    """
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ENVELOPE)
    except FileNotFoundError:
        raise ObjectMissing(path.stem) from None


def open_audio(path: Path, size: int) -> int:
    """Open audio that has the size it was written with.

    Raises:
        ObjectMissing: it is not there.
        TamperedObject: it has another size.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ObjectMissing(path.stem) from None
    if os.fstat(file).st_size != sealed_size(size):
        os.close(file)
        raise TamperedObject("the spooled audio has another size than was written")
    return file


def remove(folder: Path, name: str) -> None:
    """The envelope goes first; without it the audio is nobody's, and without its key nobody can open it."""
    with contextlib.suppress(FileNotFoundError):
        envelope = os.open(folder / f"{name}{ENVELOPE}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            (folder / f"{name}{ENVELOPE}").unlink(missing_ok=True)
            sync_folder(folder)
            os.pwrite(envelope, bytes(os.fstat(envelope).st_size), 0)
            os.fsync(envelope)
        finally:
            os.close(envelope)
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{name}{AUDIO}").unlink()
        sync_folder(folder)


def sweep(folder: Path) -> int:
    """Remove what killed writers left behind."""
    swept = 0
    make_folder(folder)
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    for name in sorted(names):
        stem, dot, ending = name.rpartition(".")
        suffix = dot + ending
        if suffix == AUDIO and f"{stem}{ENVELOPE}" not in names:
            swept += _sweep_one(folder, stem)
        elif suffix == _PARTIAL and f"{stem}{AUDIO}" not in names:
            (folder / name).unlink(missing_ok=True)
            swept += 1
    if swept:
        sync_folder(folder)
    return swept


def _sweep_one(folder: Path, stem: str) -> int:
    audio = folder / f"{stem}{AUDIO}"
    try:
        file = os.open(audio, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        # Looked at again under the lock: its writer may have committed since the folder was listed.
        if not locked(file) or (folder / f"{stem}{ENVELOPE}").exists():
            return 0
        (folder / f"{stem}{_PARTIAL}").unlink(missing_ok=True)
        audio.unlink(missing_ok=True)
        return 1
    finally:
        os.close(file)


def take(root: Path) -> tuple[int, bool]:
    """Open the drainer's lock, and say whether it was free."""
    make_folder(root)
    lock = os.open(root / "drainer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    return lock, locked(lock)


def locked(file: int) -> bool:
    """Take a lock if it is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
