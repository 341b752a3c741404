"""A durable, sealed spool in a local directory: where a delivery waits while a store or a catalogue is away.

    ROOT/items/SEQUENCE-ID.audio      the sealed audio (storage/sealed.py), written first
    ROOT/items/SEQUENCE-ID.envelope   what there is to know of it; its rename into place is the commit
    ROOT/items/SEQUENCE-ID.partial    an envelope on its way
    ROOT/drainer.lock                 held (flock) by the one process that drains

    envelope = "TSPL" version[1] u32be(length) clear header (JSON) || wrap of the document

The clear header holds random ids, keyed digests, sizes and times, so that listing, ageing and a quota need no
key; it is bound into the wrap as associated data. Both files are sealed under keys derived from one random
key, itself sealed under the controller's key-encryption key, so that a spool needs the keyring and nothing
else. A writer holds a lock on its audio file: audio without an envelope and without a lock is what a killed
process left, and is swept. Blocking calls run in threads.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Any, Final, TypeVar
from uuid import UUID

from storage.errors import ObjectMissing, SpoolFull, StoreUnavailable, TamperedObject
from storage.keys import Keyring, epoch_under_controller, open_under_controller, seal_under_controller
from storage.objects import Chunk
from storage.sealed import (
    DATA_KEY_SIZE,
    HEADER_SIZE,
    SEGMENT_SIZE,
    Opener,
    Sealer,
    object_aad,
    sealed_size,
    segment_count,
)
from storage.wraps import bind, derive, open_wrap, seal_wrap

__all__ = ["Note", "Spool", "SpoolFigures", "SpoolItem", "SpooledAudio"]

_MAGIC: Final = Struct(">4sBI")
_NAME: Final = b"TSPL"
_VERSION: Final = 1
_ROLE: Final = "spooled"
_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_BATCH: Final = 1024 * 1024
_READ_SEGMENTS: Final = 8
_MAX_ENVELOPE: Final = 16 * 1024 * 1024
_AUDIO: Final = ".audio"
_ENVELOPE: Final = ".envelope"
_PARTIAL: Final = ".partial"
_REFUSED_FOR: Final = 15 * 10**9
"""Nanoseconds for which a refusal for lack of room is taken for the state of the spool."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SpooledAudio:
    """The audio of a delivery that has arrived whole: plaintext size in bytes and digest."""

    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """What is kept beside the audio.

    Attributes:
        identity: keyed digest under which the same delivery is recognised; stands in the clear.
        digest: SHA-256 of the bytes received; stands in the clear.
        received_at: when they had all arrived.
        document: everything else; JSON, sealed.
    """

    identity: bytes
    digest: bytes
    received_at: datetime
    document: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SpoolItem:
    """One delivery in the spool, as its clear header tells.

    Attributes:
        id: random id given by whoever added it.
        name: of its files; sorts in the order of arrival.
        controller_id: whose key it is sealed under.
        epoch: of that key.
        size: of the plaintext, in bytes.
        stored: bytes on disk, envelope included.
    """

    id: UUID
    name: str
    controller_id: str
    epoch: int
    identity: bytes
    digest: bytes
    sha256: bytes
    size: int
    received_at: datetime
    stored: int


@dataclass(frozen=True, slots=True)
class SpoolFigures:
    """How full the spool is.

    Attributes:
        items: deliveries that wait.
        size: bytes on disk, those being written included.
        oldest: when the delivery that waits longest was received; None when none waits.
        damaged: envelopes that cannot be read, or whose audio cannot; a person has to look.
        full: another delivery may find no room.
    """

    items: int
    size: int
    oldest: datetime | None
    damaged: int
    full: bool


class Spool:
    """Deliveries on local disk, in order of arrival.

    Args:
        root: its directory; made on first use, with its parents.
        keyring: under whose keys the deliveries are sealed.
        max_bytes: quota on disk.
        max_items: quota in deliveries.
        time_ns: source of sequence numbers, which never go back whatever it does.
        random: source of keys.
    """

    def __init__(
        self,
        root: Path | str,
        keyring: Keyring,
        *,
        max_bytes: int,
        max_items: int = 1_000_000,
        time_ns: Callable[[], int] = time.time_ns,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.root = Path(root)
        self.max_bytes = max_bytes
        self.max_items = max_items
        self._folder = self.root / "items"
        self._keyring = keyring
        self._time_ns = time_ns
        self._random = random
        self._items: dict[str, SpoolItem] = {}
        self._by_id: dict[UUID, SpoolItem] = {}
        self._by_bytes: dict[tuple[bytes, bytes], SpoolItem] = {}
        self._stored = 0
        self._damaged: set[str] = set()
        self._in_hand: set[UUID] = set()
        self._writing = 0
        self._reserved = 0
        self._refused_at: int | None = None
        self._last = 0
        self._loaded = False

    # What lies in it

    async def load(self) -> None:
        """Read what lies in the directory; again later, to see what other processes did.

        Raises:
            StoreUnavailable: the directory cannot be used.
        """
        known = set(self._items)
        names, fresh, damaged = await _in_thread(self._scan, known)
        for name in known - names:  # what was added meanwhile was not listed, and is there
            self._drop(name)
        for item in fresh.values():
            self._insert(item)
        self._damaged = {name for name in self._damaged | damaged if name in names}
        self._last = max([self._last, *(int(name.partition("-")[0]) for name in names)])
        self._loaded = True

    def items(self) -> list[SpoolItem]:
        """Readable deliveries in order of arrival, those in hand left out."""
        return [
            item
            for name, item in sorted(self._items.items())
            if name not in self._damaged and item.id not in self._in_hand
        ]

    def find(self, identity: bytes, digest: bytes) -> SpoolItem | None:
        """A delivery of the same bytes under the same identity."""
        return self._by_bytes.get((identity, digest))

    def get(self, item_id: UUID) -> SpoolItem | None:
        """The delivery of an id."""
        return self._by_id.get(item_id)

    def controllers(self) -> set[str]:
        """Whose deliveries lie in it."""
        return {item.controller_id for item in self._items.values()}

    def of_controller(self, controller_id: str) -> list[SpoolItem]:
        """One controller's deliveries in order of arrival, those in hand and those damaged included."""
        return [item for _, item in sorted(self._items.items()) if item.controller_id == controller_id]

    def epochs(self, controller_id: str) -> dict[int, int]:
        """Deliveries by the key epoch that they hang on."""
        counts: dict[int, int] = {}
        for item in self._items.values():
            if item.controller_id == controller_id:
                counts[item.epoch] = counts.get(item.epoch, 0) + 1
        return counts

    def figures(self) -> SpoolFigures:
        """How full it is."""
        stored = self._stored + self._reserved
        count = len(self._items) + self._writing
        refused = self._refused_at is not None and self._time_ns() - self._refused_at < _REFUSED_FOR
        full = refused or stored >= self.max_bytes or count >= self.max_items
        oldest = min((item.received_at for item in self._items.values()), default=None)
        return SpoolFigures(len(self._items), stored, oldest, len(self._damaged), full)

    @contextmanager
    def in_hand(self, item: SpoolItem) -> Iterator[bool]:
        """Keep everybody else in this process off an item; False where somebody has it already."""
        mine = item.id not in self._in_hand
        self._in_hand.add(item.id)
        try:
            yield mine
        finally:
            if mine:
                self._in_hand.discard(item.id)

    def mark_damaged(self, item: SpoolItem) -> None:
        """Leave an item where it is and hand it out no more: it cannot be opened."""
        self._damaged.add(item.name)

    # Adding, reading, removing

    async def add(
        self,
        body: AsyncIterable[Chunk],
        describe: Callable[[SpooledAudio], Note],
        *,
        item_id: UUID,
        controller_id: str,
        size: int | None = None,
    ) -> SpoolItem:
        """Seal and keep a delivery; durable when this returns.

        Args:
            body: the plaintext. An error that it raises propagates, and nothing is kept.
            describe: called once the body has ended; an error that it raises keeps nothing either.
            item_id: the item's id.
            controller_id: under whose key it is sealed.
            size: plaintext size in bytes where it is known, so that what has no room is refused at once.

        Raises:
            SpoolFull: neither quota nor disk has room for it.
            StoreUnavailable: the directory cannot be written to.
            KeyringError: the keyring cannot be used.
        """
        if not self._loaded:
            await self.load()
        key = self._random(DATA_KEY_SIZE)
        wrapped = seal_under_controller(self._keyring, controller_id, _label(item_id), key)
        self._last = max(self._time_ns(), self._last + 1)
        name = f"{self._last:020d}-{item_id.hex}"
        with self._reserving(0 if size is None else sealed_size(size)) as room:
            file = await _in_thread(_begin, self._folder, name)
            kept = False
            try:
                audio = await self._write(file, body, Sealer(_audio_key(key), _aad(item_id)), room)
                note = describe(audio)
                header = _header(item_id, controller_id, wrapped, audio, note)
                envelope = _seal_envelope(key, header, note.document)
                room.grow_to(sealed_size(audio.size) + len(envelope))
                await _in_thread(_commit, self._folder, name, file, envelope)
                kept = True
            finally:
                await _in_thread(_end, self._folder, name, file, kept)
        item = _item(name, header, len(envelope))
        self._insert(item)
        self._refused_at = None
        return item

    async def document(self, item: SpoolItem) -> dict[str, Any]:
        """The sealed part of an item's envelope.

        Raises:
            TamperedObject: it is not what was written, or another one's.
            KeyDestroyed: its key epoch is gone.
            ObjectMissing: it was removed meanwhile.
        """
        raw = await _in_thread(_read_envelope, self._folder / f"{item.name}{_ENVELOPE}")
        key, header, sealed = self._unlock(item, raw)
        opened = open_wrap(
            derive(key, bind("tallenne.spool.envelope")),
            sealed,
            bind("tallenne.spool.envelope", header),
            what="a spooled envelope",
        )
        document: dict[str, Any] = json.loads(opened)
        return document

    async def read(self, item: SpoolItem) -> AsyncIterator[bytearray]:
        """The audio of an item, each piece verified before it is yielded, and its digest at the end.

        Raises:
            TamperedObject: it is not what was written.
            KeyDestroyed: its key epoch is gone.
            ObjectMissing: it was removed meanwhile.
        """
        raw = await _in_thread(_read_envelope, self._folder / f"{item.name}{_ENVELOPE}")
        key, _, _ = self._unlock(item, raw)
        file = await _in_thread(_open_audio, self._folder / f"{item.name}{_AUDIO}", item.size)
        digest = sha256()
        try:
            total, last, number = sealed_size(item.size), segment_count(item.size) - 1, 0
            header = await _in_thread(os.pread, file, HEADER_SIZE, 0)
            opener = Opener(_audio_key(key), _aad(item.id), header, object_id=item.id)
            at = HEADER_SIZE
            while number <= last:
                stop = min(number + _READ_SEGMENTS, last + 1)
                end = min(stop * SEGMENT_SIZE, total)
                run = await _in_thread(os.pread, file, end - at, at)
                if len(run) != end - at:
                    raise TamperedObject("the spooled audio ends too early", object_id=item.id)
                piece = opener.open_run(number, run, last=last)
                digest.update(piece)
                yield piece
                number, at = stop, end
            if digest.digest() != item.sha256:
                raise TamperedObject("the spooled audio has another SHA-256", object_id=item.id)
        finally:
            await _in_thread(os.close, file)

    async def remove(self, item: SpoolItem) -> None:
        """Remove an item for good: its envelope, which holds its key, is blanked. Removing twice is no error.

        Raises:
            StoreUnavailable: the directory cannot be written to.
        """
        await _in_thread(_remove, self._folder, item.name)
        self._drop(item.name)
        self._damaged.discard(item.name)
        self._refused_at = None

    async def sweep(self) -> int:
        """Remove what killed writers left behind; return how many files that were."""
        return await _in_thread(_sweep, self._folder)

    @asynccontextmanager
    async def draining(self) -> AsyncIterator[bool]:
        """Hold the one place of a drainer; False where another process holds it."""
        lock, held = await _in_thread(_take, self.root)
        try:
            yield held
        finally:
            os.close(lock)

    # How

    def _insert(self, item: SpoolItem) -> None:
        if item.name not in self._items:
            self._items[item.name] = item
            self._by_id[item.id] = item
            self._by_bytes.setdefault((item.identity, item.digest), item)
            self._stored += item.stored

    def _drop(self, name: str) -> None:
        item = self._items.pop(name, None)
        if item is None:
            return
        self._stored -= item.stored
        self._by_id.pop(item.id, None)
        if self._by_bytes.get((item.identity, item.digest)) is item:
            del self._by_bytes[item.identity, item.digest]

    def _unlock(self, item: SpoolItem, raw: bytes) -> tuple[bytes, bytes, bytes]:
        header, sealed = _split(raw)
        if _item(item.name, header, len(raw)) != item:
            raise TamperedObject("a spooled envelope is not the one that was listed", object_id=item.id)
        wrapped = base64.b64decode(json.loads(header)["key"])
        key = open_under_controller(self._keyring, item.controller_id, _label(item.id), wrapped)
        return key, header, sealed

    async def _write(
        self, file: int, body: AsyncIterable[Chunk], sealer: Sealer, room: _Room
    ) -> SpooledAudio:
        digest, size = sha256(), 0
        batch: list[Chunk] = [sealer.header()]
        held = 0
        async for chunk in body:
            size += len(chunk)
            room.grow_to(sealed_size(size))
            digest.update(chunk)
            sealed = sealer.update(chunk)
            if sealed:
                batch.append(sealed)
                held += len(sealed)
            if held >= _BATCH:
                await _in_thread(_write, file, batch)
                batch, held = [], 0
        batch.append(sealer.finish())
        await _in_thread(_write, file, batch)
        return SpooledAudio(size, digest.digest())

    @contextmanager
    def _reserving(self, size: int) -> Iterator[_Room]:
        """Count a delivery against the quota while it is being written."""
        room = _Room(self)
        self._writing += 1
        try:
            if len(self._items) + self._writing > self.max_items:
                raise SpoolFull("the spool holds as many deliveries as it may")
            room.grow_to(size)
            yield room
        except SpoolFull:
            self._refused_at = self._time_ns()
            raise
        finally:
            self._writing -= 1
            self._reserved -= room.size

    def reserve(self, more: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            SpoolFull: they are over the quota.
        """
        if self._stored + self._reserved + more > self.max_bytes:
            raise SpoolFull("the spool is full: its quota is used up")
        self._reserved += more

    def _scan(self, known: set[str]) -> tuple[set[str], dict[str, SpoolItem], set[str]]:
        if not self._folder.is_dir():
            return set(), {}, set()  # nothing is made by looking
        with os.scandir(self._folder) as entries:
            names = {e.name.removesuffix(_ENVELOPE) for e in entries if e.name.endswith(_ENVELOPE)}
        fresh: dict[str, SpoolItem] = {}
        damaged: set[str] = set()
        for name in names - known:
            try:
                raw = _read_envelope(self._folder / f"{name}{_ENVELOPE}")
                item = _item(name, _split(raw)[0], len(raw))
                found = (self._folder / f"{name}{_AUDIO}").stat()
                if found.st_size != sealed_size(item.size):
                    raise TamperedObject("the spooled audio has another size", object_id=item.id)
                fresh[name] = item
            except (TamperedObject, FileNotFoundError):
                if (self._folder / f"{name}{_ENVELOPE}").exists():
                    damaged.add(name)
            except ObjectMissing:
                continue  # drained by another process meanwhile
        names = {name for name in names if name.partition("-")[0].isdigit()}
        return names, fresh, damaged


class _Room:
    """The share of the quota of one delivery that is being written."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.size = 0

    def grow_to(self, size: int) -> None:
        if size > self.size:
            self._spool.reserve(size - self.size)
            self.size = size


def _label(item_id: UUID) -> str:
    return f"spool:{item_id}"


def _aad(item_id: UUID) -> bytes:
    return object_aad(item_id, _ROLE)


def _audio_key(key: bytes) -> bytes:
    return derive(key, bind("tallenne.spool.audio"))


def _header(item_id: UUID, controller_id: str, wrapped: bytes, audio: SpooledAudio, note: Note) -> bytes:
    return json.dumps(
        {
            "id": str(item_id),
            "controller": controller_id,
            "identity": note.identity.hex(),
            "digest": note.digest.hex(),
            "sha256": audio.sha256.hex(),
            "size": audio.size,
            "received_at": note.received_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "key": base64.b64encode(wrapped).decode("ascii"),
        }
    ).encode("ascii")


def _seal_envelope(key: bytes, header: bytes, document: dict[str, Any]) -> bytes:
    sealed = seal_wrap(
        derive(key, bind("tallenne.spool.envelope")),
        json.dumps(document, separators=(",", ":")).encode(),
        bind("tallenne.spool.envelope", header),
    )
    return _MAGIC.pack(_NAME, _VERSION, len(header)) + header + sealed


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Header and sealed part of an envelope.

    Raises:
        TamperedObject: it is torn, or no envelope.
    """
    if len(raw) < _MAGIC.size:
        raise TamperedObject("a spooled envelope is torn")
    name, version, length = _MAGIC.unpack_from(raw)
    if name != _NAME or version != _VERSION or len(raw) < _MAGIC.size + length:
        raise TamperedObject("a spooled envelope is torn or of an unknown version")
    header = raw[_MAGIC.size : _MAGIC.size + length]
    return header, raw[_MAGIC.size + length :]


def _item(name: str, header: bytes, envelope: int) -> SpoolItem:
    try:
        told = json.loads(header)
        size = int(told["size"])
        wrapped = base64.b64decode(told["key"], validate=True)
        item = SpoolItem(
            id=UUID(told["id"]),
            name=name,
            controller_id=str(told["controller"]),
            epoch=epoch_under_controller(wrapped),
            identity=bytes.fromhex(told["identity"]),
            digest=bytes.fromhex(told["digest"]),
            sha256=bytes.fromhex(told["sha256"]),
            size=size,
            received_at=datetime.fromisoformat(told["received_at"]),
            stored=sealed_size(size) + envelope,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TamperedObject("the header of a spooled envelope cannot be read") from error
    if item.received_at.tzinfo is None or name.partition("-")[2] != item.id.hex:
        raise TamperedObject("a spooled envelope lies under another name")
    return item


# Blocking calls, in threads


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
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise SpoolFull("the disk of the spool is full") from error
        raise StoreUnavailable(f"the spool directory failed: {error.strerror}") from error


def _begin(folder: Path, name: str) -> int:
    _make_folder(folder)
    file = os.open(folder / f"{name}{_AUDIO}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    fcntl.flock(file, fcntl.LOCK_EX)  # ours alone: it exists since just now
    return file


def _write(file: int, batch: list[Chunk]) -> None:
    for piece in batch:
        left = memoryview(piece)
        while left:
            left = left[os.write(file, left) :]


def _commit(folder: Path, name: str, file: int, envelope: bytes) -> None:
    """Audio, then its name, then the envelope, then its name: each durable before the next."""
    os.fsync(file)
    partial = folder / f"{name}{_PARTIAL}"
    beside = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        _write(beside, [envelope])
        os.fsync(beside)
    finally:
        os.close(beside)
    _sync_folder(folder)
    partial.replace(folder / f"{name}{_ENVELOPE}")
    _sync_folder(folder)


def _end(folder: Path, name: str, file: int, kept: bool) -> None:
    try:
        if not kept:
            # The envelope first: should its rename have come through after all, it names nothing half.
            for suffix in (_ENVELOPE, _PARTIAL, _AUDIO):
                with contextlib.suppress(OSError):
                    (folder / f"{name}{suffix}").unlink(missing_ok=True)
    finally:
        os.close(file)


def _read_envelope(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ENVELOPE)
    except FileNotFoundError:
        raise ObjectMissing(path.stem) from None


def _open_audio(path: Path, size: int) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ObjectMissing(path.stem) from None
    if os.fstat(file).st_size != sealed_size(size):
        os.close(file)
        raise TamperedObject("the spooled audio has another size than was written")
    return file


def _remove(folder: Path, name: str) -> None:
    """The envelope goes first; without it the audio is nobody's, and without its key nobody can open it."""
    with contextlib.suppress(FileNotFoundError):
        envelope = os.open(folder / f"{name}{_ENVELOPE}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            (folder / f"{name}{_ENVELOPE}").unlink(missing_ok=True)
            _sync_folder(folder)
            os.pwrite(envelope, bytes(os.fstat(envelope).st_size), 0)
            os.fsync(envelope)
        finally:
            os.close(envelope)
    with contextlib.suppress(FileNotFoundError):
        (folder / f"{name}{_AUDIO}").unlink()
        _sync_folder(folder)


def _sweep(folder: Path) -> int:
    swept = 0
    _make_folder(folder)
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    for name in sorted(names):
        stem, dot, ending = name.rpartition(".")
        suffix = dot + ending
        if suffix == _AUDIO and f"{stem}{_ENVELOPE}" not in names:
            swept += _sweep_one(folder, stem)
        elif suffix == _PARTIAL and f"{stem}{_AUDIO}" not in names:
            (folder / name).unlink(missing_ok=True)
            swept += 1
    if swept:
        _sync_folder(folder)
    return swept


def _sweep_one(folder: Path, stem: str) -> int:
    audio = folder / f"{stem}{_AUDIO}"
    try:
        file = os.open(audio, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        # Looked at again under the lock: its writer may have committed since the folder was listed.
        if not _locked(file) or (folder / f"{stem}{_ENVELOPE}").exists():
            return 0
        (folder / f"{stem}{_PARTIAL}").unlink(missing_ok=True)
        audio.unlink(missing_ok=True)
        return 1
    finally:
        os.close(file)


def _take(root: Path) -> tuple[int, bool]:
    _make_folder(root)
    lock = os.open(root / "drainer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    return lock, _locked(lock)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=_FOLDER_MODE)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
