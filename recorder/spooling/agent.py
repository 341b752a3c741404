"""The agent: takes what the journal holds, step by step, to a receipt, and then out of the directory.

For each file: put its metadata together (waiting for a call record where one is configured), hash it, push
it, check the signed receipt against that hash, and only then delete or archive it. Each step is in the
journal before the next begins: any of them may be the last before a power cut.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from recorder.errors import Conflict, Corrupt, Erased, Forbidden, RecorderError, Unauthenticated, Unavailable
from recorder.spooling import describing, removal
from recorder.spooling.cdr import Book, Row, Sought, metadata_of, open_book
from recorder.spooling.config import SpoolConfig
from recorder.spooling.describing import Undescribable
from recorder.spooling.folder import Folder, Found, Identity, being_written
from recorder.spooling.journal import Entry, Journal, State
from recorder.spooling.pacing import Backoff, Bandwidth, Clock, Gate, SystemClock
from recorder.spooling.removal import Removal
from recorder.spooling.service import (
    MAX_HEADER,
    Away,
    Garbled,
    Held,
    Outgoing,
    Service,
    UploadGone,
    code_of,
    digest_of,
    refused_for_good,
)
from recorder.spooling.sidecars import READERS
from recorder.spooling.telling import Progress, Uploading
from recorder.spooling.watching import Watcher, wait_for

_log = logging.getLogger(__name__)
_GARBLED_TRIES: Final = 3
CONFLICTS: Final = b"conflict"


class NotYet(Exception):
    """A call record or a sidecar may still come."""

    def __init__(self, until: float, what: str) -> None:
        super().__init__(what)
        self.until = until
        self.what = what


class Agent:
    """Works on one directory until it is stopped."""

    def __init__(
        self,
        config: SpoolConfig,
        token: str,
        folder: Folder,
        journal: Journal,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        chance: Callable[[], float] = random.random,
        readers: Mapping[str, describing.SidecarReader] = READERS,
    ) -> None:
        """Prepare; nothing is read or sent yet.

        Args:
            config: What the agent is told.
            token: Of the source.
            folder: The watched directory, open.
            journal: Of this directory; the caller holds the directory's lock.
            environment: For the password of a call record database.
            clock: Time and waiting.
            chance: Random numbers in [0, 1).
            readers: Of sidecars, by kind.

        Raises:
            ConfigurationError: The book of call records cannot work.
        """
        self._config = config
        self._folder = folder
        self._journal = journal
        self._clock: Clock = clock or SystemClock()
        self._chance = chance
        self._readers = readers
        self._names = config.names()
        self._book: Book | None = None if config.cdr is None else open_book(config.cdr, environment or {})
        self._asking = asyncio.Lock()
        backoff = Backoff(config.backoff.base, config.backoff.longest)
        self._backoff = backoff
        self._gate = Gate(backoff, self._clock, chance)
        self._service = Service(
            config.server, token, Bandwidth(config.bandwidth, self._clock), chunk=config.chunk
        )
        self._resumable: bool | None = {"tus": True, "multipart": False}.get(config.transport)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._paths: dict[int, bytes] = {}
        self.progress = Progress()
        self.refused: RecorderError | None = None
        self.watcher = Watcher(config, folder, journal, self._clock, self._tell)

    def stop(self) -> None:
        """End soon and in good order; what runs is broken off and resumed after the next start."""
        self._stopping.set()
        self._news.set()

    async def run(self, *, once: bool = False, patience: int = 5) -> bool:
        """Work until stopped, or, with ``once``, until everything in the directory was dealt with.

        Args:
            once: Return when nothing is left to do.
            patience: With ``once``, give up after so many failures of the service in a row.

        Returns:
            Whether nothing is left that waits to be pushed or removed.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._begin)
        helpers = [asyncio.ensure_future(self.watcher.run())]
        if not once:
            helpers.append(asyncio.ensure_future(self.watcher.listen()))
        try:
            async with self._service:
                try:
                    await self._dispatch(helpers, once=once, patience=patience)
                finally:
                    await _cancelled(list(self._tasks.values()))
        finally:
            await _cancelled(helpers)
            if self._book is not None:
                await asyncio.to_thread(self._book.close)
        return (await asyncio.to_thread(self._journal.summary, self._clock.wall())).waiting == 0

    def _begin(self) -> None:
        returned = removal.recover(self._folder, lambda n: self._journal.has(n, State.ACCEPTED))
        if returned:
            _log.warning("%d files that were on their way out are unknown to the journal: put back", returned)
        self._journal.wake()

    def _tell(self) -> None:
        # Called from threads that look at the directory.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    async def _dispatch(self, helpers: list[asyncio.Task[None]], *, once: bool, patience: int) -> None:
        """Start work on files that are due, so many at once as configured."""
        while not self._stopping.is_set():
            for helper in helpers:
                if helper.done() and helper.exception() is not None:
                    helper.result()
            self._news.clear()
            try:
                wait = await self._start_due()
            except Unavailable:  # the journal: the disk is full, or not writable
                self.progress.problem = "journal"
                wait = 5.0
            if once and not self._tasks:
                if self.refused is not None or self._gate.failures >= patience:
                    return
                if self.watcher.quiet and wait is None:
                    # The watcher may have noted files after the journal was asked.
                    if await asyncio.to_thread(self._journal.next_due) is None:
                        return
                    continue
                wait = 0.2 if wait is None else min(wait, 0.2)
            await wait_for(self._news, wait, self._clock)

    async def _start_due(self) -> float | None:
        """Start what can be started; return the seconds until more can be, None: until something happens."""
        closed = self._gate.closed_for
        # After a failure one push goes ahead alone and tries the service out.
        slots = (1 if self._gate.failures else self._config.parallel) - len(self._tasks)
        if slots <= 0:
            return None  # the end of one of them is news
        now = self._clock.wall()
        due = await asyncio.to_thread(
            self._journal.due, now, slots, tuple(self._tasks), only_accepted=closed > 0
        )
        behind: list[int] = []
        for entry in due:
            if entry.path in self._paths.values():
                behind.append(entry.id)  # what was there before is still being pushed: one after the other
                continue
            self._paths[entry.id] = entry.path
            task = asyncio.ensure_future(self._work(entry))
            self._tasks[entry.id] = task
            task.add_done_callback(partial(self._ended, entry.id))
        next_due = await asyncio.to_thread(self._journal.next_due, (*self._tasks, *behind))
        if next_due is None:
            return None
        return max(closed, next_due - now, 0.05)

    def _ended(self, number: int, _done: asyncio.Task[None]) -> None:
        task = self._tasks.pop(number)
        self._paths.pop(number, None)
        self.progress.active.pop(number, None)
        self._news.set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("file %d: unexpected %s", number, type(task.exception()).__name__)
            self._gate.failed("unexpected", None)

    async def _work(self, entry: Entry) -> None:
        """Take one file as far as it goes, and note what stopped it."""
        try:
            await self._advance(entry)
            return
        except NotYet as later:
            await asyncio.to_thread(self._journal.postpone, entry.id, later.until, later.what, attempt=False)
            return
        except FileNotFoundError as error:
            if await self._gone(entry):
                return
            problem: RecorderError | OSError = error
        except Unavailable as error:
            if error.dependency == "journal":
                self.progress.problem = "journal"
                self._gate.failed("journal", None)
                return
            problem = error
        except (RecorderError, OSError) as error:
            problem = error
        self.progress.failed += 1
        try:
            await self._note(entry, problem)
        except Unavailable:
            self.progress.problem = "journal"
            self._gate.failed("journal", None)

    async def _note(self, entry: Entry, problem: RecorderError | OSError) -> None:
        now = self._clock.wall()
        code = problem.code if isinstance(problem, Undescribable) else code_of(problem)
        own_wait = self._backoff.delay(entry.attempts + 1, None, self._chance())
        until: float | None = None
        if isinstance(problem, Away):
            _log.warning("the service is away: %s", problem.message)
            self._gate.failed(code, problem.asked)
            self.progress.problem, until = code, 0.0
        elif isinstance(problem, (Unauthenticated, Forbidden)):
            _log.error("the service refuses the token: everything waits")
            self._gate.failed(code, 60.0)
            self.refused, self.progress.problem, until = problem, code, 0.0
        elif isinstance(problem, UploadGone):
            await asyncio.to_thread(self._journal.restart, entry.id, now)
            until = 0.0
        elif isinstance(problem, Garbled):
            until = now + own_wait if entry.attempts + 1 < _GARBLED_TRIES else None
        elif isinstance(problem, OSError) or not refused_for_good(problem):
            until = now + own_wait
        if until is not None:
            if isinstance(problem, (Corrupt, OSError)):
                _log.warning("file %d: %s; it stays where it is", entry.id, code)
            await asyncio.to_thread(self._journal.postpone, entry.id, until, code)
            return
        await self._refused(entry, problem, code, now)

    async def _refused(self, entry: Entry, problem: Exception, code: str, now: float) -> None:
        """The service will not have this file: it stays here, listed."""
        current = await asyncio.to_thread(self._journal.entry, entry.id)
        found = await asyncio.to_thread(self._folder.look, entry.path)
        if found is None or found.identity != entry.identity:  # it was refused for bytes that are no more
            await self._gone(entry)
            return
        state = State.FAILED
        if current.state is not State.SEEN:
            state = {Conflict: State.CONFLICT, Erased: State.ERASED}.get(type(problem), State.FAILED)
        await asyncio.to_thread(self._journal.finish, entry.id, state, now, code)
        _log.warning("file %d: %s (%s)", entry.id, state, code)
        if state is State.CONFLICT and self._config.on_conflict == "move":
            await asyncio.to_thread(self._move_aside, entry)
        if state is State.ERASED and self._config.on_erased == "delete":
            await asyncio.to_thread(removal.delete, self._folder, entry.path, entry.identity, entry.id)

    async def _gone(self, entry: Entry) -> bool:
        """The file is no longer there, or another one is in its place, which has an entry of its own.

        Returns:
            False for a file that was accepted: then it is not the file that is missing.
        """
        current = await asyncio.to_thread(self._journal.entry, entry.id)
        gone = current.state is not State.ACCEPTED
        if gone:
            await asyncio.to_thread(self._journal.finish, entry.id, State.GONE, self._clock.wall(), "gone")
        self.watcher.changed(entry.path)
        return gone

    # One file

    async def _advance(self, entry: Entry) -> None:
        if entry.state is not State.ACCEPTED:
            entry = await self._push(entry)
        await self._leave(entry)

    async def _push(self, entry: Entry) -> Entry:
        if self._resumable is None:
            self._resumable = await self._service.resumable()
        descriptor = await asyncio.to_thread(self._folder.open, entry.path, entry.identity)
        try:
            metadata, companions = await self._describe(entry)
            if entry.sha256 is None or entry.key is None:
                entry = await self._hash(entry, descriptor)
            assert entry.sha256 is not None  # noqa: S101
            assert entry.key is not None  # noqa: S101
            file = Outgoing(descriptor, describing.name_of(entry.path),
                            entry.identity.size, entry.sha256, entry.key, metadata)  # fmt: skip
            shown = Uploading(file.name, file.size, entry.sent)
            self.progress.active[entry.id] = shown

            async def moved(at: int) -> None:
                shown.sent = at

            if self._resumable and len(file.header) <= MAX_HEADER:
                held = await self._push_resumable(entry, file, moved)
            else:
                held = await self._service.push_whole(file, moved)
        finally:
            os.close(descriptor)
        now = self._clock.wall()
        await asyncio.to_thread(
            self._journal.accepted,
            entry.id,
            recording_id=held.recording_id,
            receipt=held.receipt,
            outcome=held.outcome,
            companions=companions,
            now=now,
        )
        self._gate.passed()
        self.refused = self.progress.problem = None
        self.progress.pushed += 1
        self.progress.pushed_bytes += entry.identity.size
        self.progress.last_success = now
        if held.outcome == "quarantined":
            _log.warning("file %d: quarantined by the service (%s)", entry.id, ", ".join(held.reasons))
        return await asyncio.to_thread(self._journal.entry, entry.id)

    async def _hash(self, entry: Entry, descriptor: int) -> Entry:
        digest, size = await asyncio.to_thread(digest_of, descriptor)
        if size != entry.identity.size:
            raise FileNotFoundError
        await asyncio.to_thread(self._journal.hashed, entry.id, digest, str(uuid.uuid4()), self._clock.wall())
        return await asyncio.to_thread(self._journal.entry, entry.id)

    async def _push_resumable(self, entry: Entry, file: Outgoing, moved: Any) -> Held:
        url, offset, held = entry.url, 0, None
        if url is None:
            url = await self._service.create(file)
            await asyncio.to_thread(self._journal.uploading, entry.id, url, self._clock.wall())
        else:
            offset = await self._service.offset(url)
        while held is None:
            offset, held = await self._service.send(url, file, offset, moved)
            await asyncio.to_thread(self._journal.sent, entry.id, offset)
        return held

    async def _describe(self, entry: Entry) -> tuple[dict[str, Any], bytes | None]:
        """Return the metadata of a push, and the sidecars that go the way of the audio.

        Raises:
            NotYet: A call record or a sidecar may still come.
            Undescribable: A sidecar cannot be read, or is missing and required.
        """
        ended = datetime.fromtimestamp(entry.identity.mtime_ns / 1e9, UTC)
        remarks: list[str] = []
        sidecar, companions = await asyncio.to_thread(self._sidecar, entry, ended)
        waited = self._clock.wall() - entry.seen_at
        fresh = entry.state is State.SEEN  # afterwards the waiting is over: the same again is being pushed
        settings = self._config.sidecar
        if sidecar is None and fresh and waited < settings.wait:
            raise NotYet(min(self._clock.wall() + 1.0, entry.seen_at + settings.wait), "sidecar-wait")
        if sidecar is None and settings.required:
            raise Undescribable("there is no sidecar", "sidecar-missing")
        named = None if self._names is None else self._names.read(describing.printable(entry.path))
        record: dict[str, Any] = {}
        if self._book is not None and self._config.cdr is not None and self._config.time_zone is not None:
            rows, problem = await self._look_up(describing.sought(entry.path, named))
            cdr = self._config.cdr
            if not rows:
                if fresh and waited < cdr.wait:
                    raise NotYet(min(self._clock.wall() + cdr.poll, entry.seen_at + cdr.wait), problem)
                remarks.append(problem)
            record = metadata_of(rows, self._config.time_zone, cdr.directions)
        metadata = describing.describe(
            entry.path,
            ended,
            fixed=self._config.metadata,
            record=record,
            named=named,
            sidecar=sidecar or {},
            remarks=remarks,
        )
        return metadata, companions

    async def _look_up(self, sought: Sought) -> tuple[list[Row], str]:
        assert self._book is not None  # noqa: S101
        async with self._asking:  # one question at a time: the book is read in a thread
            try:
                return list(await asyncio.to_thread(self._book.find, sought)), "cdr-missing"
            except Unavailable as error:
                _log.warning("%s", error.message)
                return [], "cdr-unavailable"

    def _sidecar(self, entry: Entry, ended: datetime) -> tuple[Mapping[str, Any] | None, bytes | None]:
        """Read the first sidecar there is."""
        found: Mapping[str, Any] | None = None
        companions: list[tuple[bytes, Identity]] = []
        for path, kind in describing.sidecar_paths(entry.path, self._config.sidecar.kinds):
            there = self._folder.look(path)
            if there is None:
                continue
            if there.identity.size > describing.MAX_SIDECAR:
                raise Undescribable("the sidecar is too large", f"sidecar-{kind}-unreadable")
            descriptor = self._folder.open(path, there.identity)
            try:
                raw = os.pread(descriptor, there.identity.size + 1, 0)
            finally:
                os.close(descriptor)
            name = describing.name_of(entry.path)
            found = describing.read_sidecar(raw, kind, name, ended, self._readers)
            companions.append((path, there.identity))
            break
        if self._config.complete.policy == "marker":
            marker = entry.path + os.fsencode(self._config.complete.marker)
            if (there := self._folder.look(marker)) is not None:
                companions.append((marker, there.identity))
        return found, _companions(companions)

    # Out of the directory

    async def _leave(self, entry: Entry) -> None:
        problem = None
        if self._config.after != "keep":
            result = await asyncio.to_thread(self._remove, entry)
            if result is Removal.CHANGED:
                problem = "changed"
                self.watcher.changed(entry.path)
        await asyncio.to_thread(self._journal.finish, entry.id, State.DONE, self._clock.wall(), problem)

    def _remove(self, entry: Entry) -> Removal:
        result = self._remove_one(entry, entry.path, entry.identity, entry.sha256)
        if result is not Removal.CHANGED:
            for path, identity in _read_companions(entry.companions):
                self._remove_one(entry, path, identity, None)
        return result

    def _remove_one(self, entry: Entry, path: bytes, identity: Identity, sha256: bytes | None) -> Removal:
        held = self._held if self._config.complete.policy == "settle" else removal.nobody
        if self._config.after == "delete":
            return removal.delete(self._folder, path, identity, entry.id, held)
        assert self._config.archive is not None  # noqa: S101 - checked with the configuration
        accepted = datetime.fromtimestamp(entry.changed_at, self._config.time_zone or UTC)
        target = self._config.archive / f"{accepted:%Y/%m/%d}" / Path(os.fsdecode(path))
        return removal.archive(self._folder, path, identity, entry.id, target, sha256, held)

    def _held(self, identity: Identity, device: int) -> bool:
        return self._config.complete.check_open and bool(being_written([Found(b"", identity, device)]))

    def _move_aside(self, entry: Entry) -> None:
        target = self._folder.private_folder(CONFLICTS)
        try:
            name = b"%d-%s" % (entry.id, entry.path.rpartition(b"/")[2][-200:])
            with suppress(FileNotFoundError), self._folder.parent(entry.path) as (fd, last):
                os.rename(last, name, src_dir_fd=fd, dst_dir_fd=target)
        finally:
            os.close(target)


def _companions(found: list[tuple[bytes, Identity]]) -> bytes | None:
    if not found:
        return None
    return json.dumps([[p.hex(), i.inode, i.size, i.mtime_ns] for p, i in found]).encode()


def _read_companions(raw: bytes | None) -> list[tuple[bytes, Identity]]:
    if raw is None:
        return []
    return [(bytes.fromhex(p), Identity(inode, size, mtime)) for p, inode, size, mtime in json.loads(raw)]


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
