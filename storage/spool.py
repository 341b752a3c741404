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

import base64
import json
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from storage import spool_files as files
from storage.errors import ObjectMissing, SpoolFull, TamperedObject
from storage.keys import Keyring, open_under_controller, seal_under_controller
from storage.objects import Chunk
from storage.sealed import (
    DATA_KEY_SIZE,
    HEADER_SIZE,
    SEGMENT_SIZE,
    Opener,
    Sealer,
    sealed_size,
    segment_count,
)
from storage.spool_envelope import (
    Note,
    SpooledAudio,
    SpoolItem,
    audio_aad,
    audio_key,
    clear_header,
    item_of,
    key_label,
    open_envelope,
    seal_envelope,
    split,
)
from storage.spool_files import AUDIO, ENVELOPE, in_thread

__all__ = ["Note", "Spool", "SpoolFigures", "SpoolItem", "SpooledAudio"]

_BATCH: Final = 1024 * 1024
_READ_SEGMENTS: Final = 8
_REFUSED_FOR: Final = 15 * 10**9
"""Nanoseconds for which a refusal for lack of room is taken for the state of the spool."""


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
        names, fresh, damaged = await in_thread(self._scan, known)
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
        wrapped = seal_under_controller(self._keyring, controller_id, key_label(item_id), key)
        self._last = max(self._time_ns(), self._last + 1)
        name = f"{self._last:020d}-{item_id.hex}"
        with self._reserving(0 if size is None else sealed_size(size)) as room:
            file = await in_thread(files.begin, self._folder, name)
            kept = False
            try:
                audio = await self._write(file, body, Sealer(audio_key(key), audio_aad(item_id)), room)
                note = describe(audio)
                header = clear_header(item_id, controller_id, wrapped, audio, note)
                envelope = seal_envelope(key, header, note.document)
                room.grow_to(sealed_size(audio.size) + len(envelope))
                await in_thread(files.commit, self._folder, name, file, envelope)
                kept = True
            finally:
                await in_thread(files.end, self._folder, name, file, kept)
        item = item_of(name, header, len(envelope))
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
        raw = await in_thread(files.read_envelope, self._folder / f"{item.name}{ENVELOPE}")
        key, header, sealed = self._unlock(item, raw)
        return open_envelope(key, header, sealed)

    async def read(self, item: SpoolItem) -> AsyncIterator[bytearray]:
        """The audio of an item, each piece verified before it is yielded, and its digest at the end.

        Raises:
            TamperedObject: it is not what was written.
            KeyDestroyed: its key epoch is gone.
            ObjectMissing: it was removed meanwhile.
        """
        raw = await in_thread(files.read_envelope, self._folder / f"{item.name}{ENVELOPE}")
        key, _, _ = self._unlock(item, raw)
        file = await in_thread(files.open_audio, self._folder / f"{item.name}{AUDIO}", item.size)
        digest = sha256()
        try:
            total, last, number = sealed_size(item.size), segment_count(item.size) - 1, 0
            header = await in_thread(os.pread, file, HEADER_SIZE, 0)
            opener = Opener(audio_key(key), audio_aad(item.id), header, object_id=item.id)
            at = HEADER_SIZE
            while number <= last:
                stop = min(number + _READ_SEGMENTS, last + 1)
                end = min(stop * SEGMENT_SIZE, total)
                run = await in_thread(os.pread, file, end - at, at)
                if len(run) != end - at:
                    raise TamperedObject("the spooled audio ends too early", object_id=item.id)
                piece = opener.open_run(number, run, last=last)
                digest.update(piece)
                yield piece
                number, at = stop, end
            if digest.digest() != item.sha256:
                raise TamperedObject("the spooled audio has another SHA-256", object_id=item.id)
        finally:
            await in_thread(os.close, file)

    async def remove(self, item: SpoolItem) -> None:
        """Remove an item for good: its envelope, which holds its key, is blanked. Removing twice is no error.

        Raises:
            StoreUnavailable: the directory cannot be written to.
        """
        await in_thread(files.remove, self._folder, item.name)
        self._drop(item.name)
        self._damaged.discard(item.name)
        self._refused_at = None

    async def sweep(self) -> int:
        """Remove what killed writers left behind; return how many files that were."""
        return await in_thread(files.sweep, self._folder)

    @asynccontextmanager
    async def draining(self) -> AsyncIterator[bool]:
        """Hold the one place of a drainer; False where another process holds it."""
        lock, held = await in_thread(files.take, self.root)
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
        header, sealed = split(raw)
        if item_of(item.name, header, len(raw)) != item:
            raise TamperedObject("a spooled envelope is not the one that was listed", object_id=item.id)
        wrapped = base64.b64decode(json.loads(header)["key"])
        key = open_under_controller(self._keyring, item.controller_id, key_label(item.id), wrapped)
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
                await in_thread(files.write, file, batch)
                batch, held = [], 0
        batch.append(sealer.finish())
        await in_thread(files.write, file, batch)
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
            names = {e.name.removesuffix(ENVELOPE) for e in entries if e.name.endswith(ENVELOPE)}
        fresh: dict[str, SpoolItem] = {}
        damaged: set[str] = set()
        for name in names - known:
            try:
                raw = files.read_envelope(self._folder / f"{name}{ENVELOPE}")
                item = item_of(name, split(raw)[0], len(raw))
                found = (self._folder / f"{name}{AUDIO}").stat()
                if found.st_size != sealed_size(item.size):
                    raise TamperedObject("the spooled audio has another size", object_id=item.id)
                fresh[name] = item
            except (TamperedObject, FileNotFoundError):
                if (self._folder / f"{name}{ENVELOPE}").exists():
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
