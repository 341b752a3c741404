"""What the rest of the program sees of storage: sealed objects, written as streams and read by range.

Plaintext exists here in memory only, a few segments at a time. No byte is released before the tag of its
segment has been checked, and the first needed segment is checked before a read is handed out at all, so that
an HTTP answer can still be an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, Self
from uuid import UUID

from storage.errors import Misuse, StorageError, TamperedObject
from storage.keys import Keyring, SubjectKeyRef, unwrap_data_key
from storage.objects import Body, Chunk, ObjectStore
from storage.ranges import RangePlan, plan_range
from storage.sealed import (
    DATA_KEY_SIZE,
    HEADER_SIZE,
    NONCE_PREFIX_SIZE,
    SALT_SIZE,
    SEGMENT_SIZE,
    Opener,
    Sealer,
    object_aad,
    sealed_size,
)

__all__ = [
    "Fetch",
    "Hasher",
    "OpenRange",
    "RunningDigest",
    "SealedObject",
    "StoredObject",
    "Vault",
    "WrittenObject",
]

# Segments are opened in batches of at most this many, so that a piece is released soon and the overhead of a
# piece stays small beside its bytes.
_BATCH_SEGMENTS: Final = 8
# What is so short that it comes in one piece has nothing to read ahead.
_SMALL: Final = 256 * 1024
# Sealed pieces that may wait for the store, so that it does not wait for hashing and sealing.
_AHEAD: Final = 4
_KNOWN_HEADERS: Final = 4096


class Hasher(Protocol):
    """Anything with the `update` of hashlib."""

    def update(self, data: bytes | bytearray, /) -> None: ...  # noqa: D102 - see hashlib


class RunningDigest(Protocol):
    """Anything with the `digest` of hashlib."""

    def digest(self) -> bytes: ...  # noqa: D102 - see hashlib


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object of which every byte is sealed and on its way; the store has not confirmed it yet.

    The attributes are those of `WrittenObject`. What is prepared from it must not be kept unless the write
    returns.
    """

    object_id: UUID
    role: str
    key: str
    size: int
    sha256: bytes
    data_key: bytes = field(repr=False)
    header: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """An object that was just written; wrap its data key (`keys.wrap_data_key`) and drop it.

    Attributes:
        object_id: Random id, bound into the sealed bytes.
        role: What the object is to its recording, bound as well.
        key: Where it lies in the store; random, unrelated to `object_id`.
        version_id: Its version, where the store has versions.
        size: Plaintext size in bytes.
        sealed_size: Size in the store in bytes.
        sha256: Digest of the plaintext.
        data_key: The secret that opens it.
        header: The first 40 bytes of the object; public. Kept in the catalogue it saves each seek a request.
    """

    object_id: UUID
    role: str
    key: str
    version_id: str | None
    size: int
    sealed_size: int
    sha256: bytes
    data_key: bytes = field(repr=False)
    header: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the catalogue remembers it; the fields are those of `WrittenObject`.

    Attributes:
        wrapped_key: The data key under the subject's key.
        subject: Whose key that is.
        header: The object's first 40 bytes if the catalogue keeps them, else they are fetched.
    """

    object_id: UUID
    role: str
    key: str
    version_id: str | None
    size: int
    sha256: bytes
    wrapped_key: bytes = field(repr=False)
    subject: SubjectKeyRef
    header: bytes | None = field(default=None, repr=False)


class Vault:
    """Seals streams into an object store and reads verified ranges back.

    Args:
        store: Where the ciphertext lies.
        keyring: Where the keys of subjects are unwrapped.
        random: Source of data keys, salts and ids; `os.urandom` but in tests.
    """

    def __init__(
        self, store: ObjectStore, keyring: Keyring, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._random = random
        # Headers are public, and a wrong one only makes tags fail; unwrapped keys are never remembered.
        self._headers: OrderedDict[tuple[str, str | None], bytes] = OrderedDict()

    async def write(
        self,
        source: AsyncIterable[Chunk],
        *,
        role: str,
        object_id: UUID | None = None,
        size: int | None = None,
        hashers: Sequence[Hasher] = (),
        sha256: RunningDigest | None = None,
        on_sealed: Callable[[SealedObject], None] | None = None,
    ) -> WrittenObject:
        """Seal and store a stream in one pass and constant memory.

        Args:
            source: The plaintext. An error that it raises propagates, and no object remains.
            role: What the object is to its recording.
            object_id: The object's id; a random one unless told.
            size: Plaintext size in bytes if known beforehand, for a single streaming put.
            hashers: Further digests to feed with the plaintext as it passes.
            sha256: A SHA-256 that the source itself feeds with all that it yields, to spare a second pass.
            on_sealed: Called once, when the source has ended and before the store has confirmed anything.

        Raises:
            Misuse: The source is longer or shorter than `size`, or the role is malformed.
            StoreUnavailable: The store is away. It may hold an orphan then, for the reconciler to find.
        """
        object_id = UUID(bytes=self._random(16), version=4) if object_id is None else object_id
        name = self._random(16).hex()
        key = f"o/{name[:2]}/{name}"
        data_key = self._random(DATA_KEY_SIZE)
        sealer = Sealer(
            data_key,
            object_aad(object_id, role),
            salt=self._random(SALT_SIZE),
            nonce_prefix=self._random(NONCE_PREFIX_SIZE),
        )

        def told(sealed_bytes: int) -> None:
            if on_sealed is not None:
                digest = sealing.sha256.digest()
                on_sealed(SealedObject(object_id, role, key, sealed_bytes, digest, data_key, sealer.header()))

        sealing = _Sealing(source, sealer, size, hashers, sha256, told)
        expected = None if size is None else sealed_size(size)
        try:
            if expected is not None and expected <= _SMALL:
                stat = await self._store.put(key, sealing.run(), size=expected)
            else:
                async with _ReadAhead(sealing.run()) as body:
                    stat = await self._store.put(key, body, size=expected)
            if stat.size != sealed_size(sealing.size):
                raise TamperedObject("the store holds another size than was written", object_id=object_id)
        except BaseException:
            await self._forget(key)
            raise
        return WrittenObject(
            object_id,
            role,
            key,
            stat.version_id,
            sealing.size,
            stat.size,
            sealing.sha256.digest(),
            data_key,
            sealing.sealer.header(),
        )

    def fetch(
        self, key: str, version_id: str | None, size: int, start: int = 0, end: int | None = None
    ) -> Fetch:
        """Begin to get the ciphertext of plaintext [start, end), before it is known whether it may be read.

        Nothing can be read from what is returned: it is for `open_range`, which needs the object's key. The
        caller closes it (`aclose`) whether it was used or not.

        Args:
            key: Where the object lies.
            version_id: Its version, where the store has versions.
            size: Plaintext size in bytes.
            start: First byte.
            end: After the last byte; None is the object's end.

        Raises:
            Misuse: The range does not lie in the object.
        """
        return Fetch(self._store, key, version_id, plan_range(size, start, end))

    async def open_range(
        self, obj: StoredObject, start: int = 0, end: int | None = None, *, fetch: Fetch | None = None
    ) -> OpenRange:
        """Open plaintext [start, end) for reading, with the first segment of it fetched and verified.

        The caller closes what is returned (`aclose`, or `async with`); see `read` for the shorter way.

        Args:
            obj: What to read.
            start: First byte.
            end: After the last byte; None is the object's end.
            fetch: Its ciphertext, under way already; what was fetched for something else is not used.

        Raises:
            TamperedObject: The key's wrap, the stored size or the first segment is not what it must be.
            KeyDestroyed: The subject's key is gone.
            ObjectMissing: The store does not hold the object.
            Misuse: The range does not lie in the object.
        """
        plan = plan_range(obj.size, start, end)
        data_key = unwrap_data_key(
            self._keyring,
            obj.subject,
            obj.wrapped_key,
            object_id=obj.object_id,
            size=obj.size,
            sha256=obj.sha256,
        )
        async with AsyncExitStack() as stack:
            header = None if plan.has_header else await self._header(obj)
            if fetch is not None and fetch.is_for(obj, plan):
                stack.push_async_callback(fetch.aclose)
                body = await fetch.body()
            else:
                body = await stack.enter_async_context(
                    self._store.get(
                        obj.key, start=plan.cipher_start, end=plan.cipher_end, version_id=obj.version_id
                    )
                )
            if body.size != sealed_size(obj.size):
                raise TamperedObject("the stored size is not the recorded one", object_id=obj.object_id)
            segments = _Segments(body, obj.object_id)
            if header is None:
                await segments.fill(HEADER_SIZE)
                with segments.front(HEADER_SIZE) as front:
                    header = bytes(front)
                self._remember(obj, header)
            opener = Opener(data_key, object_aad(obj.object_id, obj.role), header, object_id=obj.object_id)
            opened = OpenRange(opener, segments, plan, stack.pop_all())
        try:
            await opened.verify_first()
        except BaseException:
            await opened.aclose()
            raise
        return opened

    @asynccontextmanager
    async def read(
        self, obj: StoredObject, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read plaintext [start, end) as verified pieces; the first one is verified on entering.

        Raises:
            TamperedObject: On entering or between pieces; nothing unverified is ever yielded.
            KeyDestroyed: The subject's key is gone.
            ObjectMissing: The store does not hold the object.
            Misuse: The range does not lie in the object.
        """
        opened = await self.open_range(obj, start, end)
        try:
            yield (bytes(piece) async for piece in opened)
        finally:
            await opened.aclose()

    async def verify(self, obj: StoredObject) -> None:
        """Read the whole object and check every tag, its size and its SHA-256.

        Raises:
            TamperedObject: It is not what was written.
            KeyDestroyed: The subject's key is gone.
            ObjectMissing: The store does not hold the object.
        """
        digest = hashlib.sha256()
        async with self.read(obj) as pieces:
            async for piece in pieces:
                digest.update(piece)
        if digest.digest() != obj.sha256:
            raise TamperedObject("the plaintext has another SHA-256", object_id=obj.object_id)

    async def destroy(self, key: str) -> tuple[str, ...]:
        """Delete every version and marker of an object and make sure that none is left.

        Returns:
            The ids of the versions deleted; () when there was nothing.

        Raises:
            ObjectLocked: The store holds on to a version.
            StorageError: A version is still there after the deletion.
        """
        deleted = await self._store.delete_all(key)
        left = [version async for version in self._store.versions(key) if version.key == key]
        if left:
            raise StorageError(f"object {key} still has {len(left)} versions after its deletion")
        for known in [known for known in self._headers if known[0] == key]:
            del self._headers[known]
        return deleted

    async def _header(self, obj: StoredObject) -> bytes:
        known = self._headers.get((obj.key, obj.version_id))
        if obj.header is not None:
            return obj.header
        if known is not None:
            return known
        async with self._store.get(obj.key, start=0, end=HEADER_SIZE, version_id=obj.version_id) as body:
            header = b"".join([piece async for piece in body])
        self._remember(obj, header)
        return header

    def _remember(self, obj: StoredObject, header: bytes) -> None:
        self._headers[obj.key, obj.version_id] = header
        self._headers.move_to_end((obj.key, obj.version_id))
        if len(self._headers) > _KNOWN_HEADERS:
            self._headers.popitem(last=False)

    async def _forget(self, key: str) -> None:
        """Best effort: what stays is an orphan for the reconciler, and the first error stands."""
        with contextlib.suppress(StorageError):
            await asyncio.shield(self._store.delete_all(key))


class Fetch:
    """Ciphertext on its way from the store. Made by `Vault.fetch`; close it in any case."""

    def __init__(self, store: ObjectStore, key: str, version_id: str | None, plan: RangePlan) -> None:
        self._what = (key, version_id, plan)
        self._stack = AsyncExitStack()
        self._opening = asyncio.create_task(
            self._stack.enter_async_context(
                store.get(key, start=plan.cipher_start, end=plan.cipher_end, version_id=version_id)
            )
        )

    def is_for(self, obj: StoredObject, plan: RangePlan) -> bool:
        """Whether it brings just these bytes of this object."""
        return self._what == (obj.key, obj.version_id, plan)

    async def body(self) -> Body:
        """The ciphertext, once the store answers."""
        return await self._opening

    async def aclose(self) -> None:
        """Give the store's connection back, or drop it when there is more to come. Idempotent."""
        if not self._opening.done():
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if not self._opening.cancelled():
            self._opening.exception()  # whoever wanted to know has asked
        await self._stack.aclose()


class OpenRange:
    """A verified reading in progress: iterate once, then close. Made by `Vault.open_range`."""

    def __init__(self, opener: Opener, segments: _Segments, plan: RangePlan, stack: AsyncExitStack) -> None:
        self._opener = opener
        self._segments = segments
        self._plan = plan
        self._stack = stack
        self._next = plan.first
        self._left = plan.length
        self._ready: Chunk | None = None

    @property
    def length(self) -> int:
        """Plaintext bytes of the whole range."""
        return self._plan.length

    async def verify_first(self) -> None:
        """Fetch and verify the first segment, to be released by the first step of the iteration."""
        self._ready = self._cut(await self._batch(1), self._plan.skip)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._ready is not None:
            piece, self._ready = self._ready, None
            if piece:
                return piece
        if self._next >= self._plan.stop:
            raise StopAsyncIteration
        return self._cut(await self._batch(_BATCH_SEGMENTS), 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the store's connection back."""
        await self._stack.aclose()

    async def _batch(self, segments: int) -> bytearray:
        """Open the next segment and those behind it that have arrived already, `segments` at most.

        To open what is there while the rest is under way keeps the last piece from waiting for a whole batch.
        """
        first = self._next
        begin = first * SEGMENT_SIZE + (HEADER_SIZE if first == 0 else 0)
        held = await self._segments.fill(self._end_of(first) - begin)
        stop = first + 1
        while stop < min(first + segments, self._plan.stop) and self._end_of(stop) - begin <= held:
            stop += 1
        with self._segments.front(self._end_of(stop - 1) - begin) as run:
            plain = self._opener.open_run(first, run, last=self._plan.last)
        self._next = stop
        return plain

    def _end_of(self, number: int) -> int:
        return min((number + 1) * SEGMENT_SIZE, self._plan.cipher_end)

    def _cut(self, plain: bytearray, skip: int) -> Chunk:
        if skip == 0 and len(plain) <= self._left:
            self._left -= len(plain)
            return plain
        with memoryview(plain) as view:
            piece = bytes(view[skip : skip + self._left])
        self._left -= len(piece)
        return piece


class _Segments:
    """The ciphertext of a read as it arrives, to be taken off the front."""

    def __init__(self, body: Body, object_id: UUID) -> None:
        self._body = body
        self._object_id = object_id
        self._held = bytearray()

    async def fill(self, size: int) -> int:
        """Wait until at least `size` bytes are held; return how many are.

        Raises:
            TamperedObject: The body ends before.
        """
        while len(self._held) < size:
            try:
                self._held += await anext(self._body)
            except StopAsyncIteration:
                raise TamperedObject("the object ends too early", object_id=self._object_id) from None
        return len(self._held)

    @contextlib.contextmanager
    def front(self, size: int) -> Iterator[memoryview]:
        """Lend the first `size` bytes without copying them, and drop them afterwards."""
        with memoryview(self._held) as held, held[:size] as front:
            yield front
        del self._held[:size]


class _ReadAhead:
    """Runs a source a few pieces ahead of whoever iterates over it, in a task of its own."""

    def __init__(self, source: AsyncIterator[Chunk]) -> None:
        self._source = source
        self._queue: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue(_AHEAD)
        self._filling = asyncio.create_task(self._fill())

    async def _fill(self) -> None:
        try:
            async for piece in self._source:
                await self._queue.put(piece)
        except Exception as error:  # noqa: BLE001 - raised where the pieces are taken
            await self._queue.put(error)
        else:
            await self._queue.put(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        piece = await self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._filling.cancel()
        await asyncio.wait([self._filling])


class _Sealing:
    """One pass over a source: count, hash, seal."""

    def __init__(
        self,
        source: AsyncIterable[Chunk],
        sealer: Sealer,
        expected: int | None,
        hashers: Sequence[Hasher],
        sha256: RunningDigest | None,
        told: Callable[[int], None],
    ) -> None:
        self.sealer = sealer
        self.size = 0
        self._source = source
        self._expected = expected
        self._told = told
        self.sha256: RunningDigest
        if sha256 is None:
            own = hashlib.sha256()
            self.sha256, self._hashers = own, (own, *hashers)
        else:
            self.sha256, self._hashers = sha256, tuple(hashers)

    async def run(self) -> AsyncIterator[Chunk]:
        head = bytearray(self.sealer.header())
        async for chunk in self._source:
            self.size += len(chunk)
            if self._expected is not None and self.size > self._expected:
                raise Misuse("the source is longer than its announced size")
            for hasher in self._hashers:
                hasher.update(chunk)
            sealed = self.sealer.update(chunk)
            if sealed:
                if head:
                    yield bytes(head)
                    head.clear()
                yield sealed
        if self._expected is not None and self.size != self._expected:
            raise Misuse("the source is shorter than its announced size")
        last = bytes(head) + self.sealer.finish()
        self._told(self.size)
        yield last
