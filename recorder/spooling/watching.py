"""Finding files: what the kernel reports, and a look at all now and then, so that nothing is missed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final

import watchfiles

from recorder.errors import Unavailable
from recorder.spooling.config import SpoolConfig
from recorder.spooling.folder import Folder, Found, being_written
from recorder.spooling.journal import Journal
from recorder.spooling.pacing import Clock, Settling

_log = logging.getLogger(__name__)
_BATCH: Final = 500
_FORGET_AFTER: Final = 30 * 86400.0
_REPLACEMENT: Final = "�".encode()  # stands in reported names for bytes that are no UTF-8


class Watcher:
    """Notes complete files in the journal and says so to who pushes them."""

    def __init__(
        self, config: SpoolConfig, folder: Folder, journal: Journal, clock: Clock, news: Callable[[], None]
    ) -> None:
        """Watch for ``config``; ``news`` is called when the journal has new files."""
        self._config = config
        self._folder = folder
        self._journal = journal
        self._clock = clock
        self._news = news
        self._settling = Settling(config.complete.settle)
        self._changed: set[bytes] = set()
        self._poke = asyncio.Event()
        self._scan_at = clock.steady()
        self._scanned = False
        self._told_limit = False

    @property
    def quiet(self) -> bool:
        """Whether the whole directory was looked at and every file in it is complete and noted."""
        return self._scanned and not self._changed and not self._settling.unsettled

    @property
    def unsettled(self) -> int:
        """Files that are still being written."""
        return len(self._settling.unsettled)

    def changed(self, path: bytes) -> None:
        """Something happened to a path below the directory."""
        self._changed.add(path)
        self._poke.set()

    def scan(self) -> None:
        """Look at the whole directory as soon as possible."""
        self._scan_at = self._clock.steady()
        self._poke.set()

    def _scan_soon(self) -> None:
        self._scan_at = min(self._scan_at, self._clock.steady() + 1.0)
        self._poke.set()

    async def listen(self) -> None:
        """Take the kernel's reports until cancelled; without them the regular looks have to do."""
        begun = False
        try:
            async for changes in watchfiles.awatch(
                self._folder.root,
                watch_filter=None,
                debounce=400,
                step=50,
                rust_timeout=1000,
                yield_on_timeout=True,
            ):
                if not begun:  # what came between the first look and the kernel's first report
                    begun = True
                    self.scan()
                for change, name in changes:
                    raw = os.fsencode(name)
                    if _REPLACEMENT in raw:
                        self.scan()
                    elif (path := self._folder.relative(raw)) is not None:
                        self.changed(path)
                        if change is watchfiles.Change.added and b"." not in path.rpartition(b"/")[2]:
                            # Perhaps a folder: what was put into it at once may not be reported.
                            self._scan_soon()
        except (OSError, RuntimeError) as error:
            # Mostly the limit of inotify watches (fs.inotify.max_user_watches).
            _log.warning(
                "the kernel does not report changes (%s): looking every %g s instead; see "
                "fs.inotify.max_user_watches and max_user_instances",
                type(error).__name__,
                self._config.rescan,
            )

    async def run(self) -> None:
        """Look at what changed, and at everything now and then, until cancelled."""
        while True:
            self._poke.clear()
            now = self._clock.steady()
            try:
                if now >= self._scan_at:
                    self._scan_at = now + self._config.rescan
                    await self._look_at_all()
                else:
                    paths, self._changed = self._changed, set()
                    await asyncio.to_thread(self._look_at, {*paths, *self._ripe(now)})
            except (Unavailable, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                _log.warning("the directory cannot be looked at now: %s", why)
                self._scan_at = min(self._scan_at, self._clock.steady() + 5.0)
            await self._pause()

    async def _pause(self) -> None:
        now = self._clock.steady()
        wait = max(0.0, self._scan_at - now)
        settles = self._settling.wait(now)
        if settles is not None and self._config.complete.policy == "settle":
            wait = min(wait, max(settles, 0.02))
        await wait_for(self._poke, wait, self._clock)

    def _ripe(self, now: float) -> list[bytes]:
        return [path for path in self._settling.unsettled if self._settling.due(path, now)]

    async def _look_at_all(self) -> None:
        self._changed.clear()
        seen = await asyncio.to_thread(self._walk)
        self._scanned = True
        await asyncio.to_thread(self._tidy, seen)

    def _walk(self) -> set[bytes]:
        seen: set[bytes] = set()
        found = (one for one in self._folder.walk() if self._config.is_audio(one.path))
        while batch := list(islice(found, _BATCH)):
            seen.update(one.path for one in batch)
            self._take(batch)
        for path in self._settling.unsettled:
            if path not in seen:
                self._settling.forget(path)
        return seen

    def _tidy(self, seen: set[bytes]) -> None:
        self._journal.forget(self._clock.wall() - _FORGET_AFTER, keep=seen)
        self._journal.keep_reserve()

    def _look_at(self, paths: Iterable[bytes]) -> None:
        found: list[Found] = []
        marker = os.fsencode(self._config.complete.marker)
        for path in paths:
            if self._config.complete.policy == "marker":
                path = path.removesuffix(marker)
            if not self._config.is_audio(path):
                continue
            one = None
            with suppress(OSError):  # not to be looked at: the next look at everything tries again
                one = self._folder.look(path)
            if one is None:
                self._settling.forget(path)
            else:
                found.append(one)
        self._take(found)

    def _take(self, found: list[Found]) -> None:
        """Note those that are complete; remember since when the others are as they are."""
        new = [one for one in found if not self._known(one)]
        complete = self._complete(new)
        fresh = 0
        for one in complete:
            _, made = self._journal.note(
                one.path, one.identity, self._clock.wall(), keeps=self._config.after == "keep"
            )
            self._settling.forget(one.path)
            fresh += made
        if fresh:
            self._news()

    def _known(self, one: Found) -> bool:
        if self._journal.knows(one.path, one.identity, keeps=self._config.after == "keep"):
            self._settling.forget(one.path)
            return True
        return False

    def _complete(self, found: list[Found]) -> list[Found]:
        policy = self._config.complete
        if policy.policy == "rename":
            return found
        if policy.policy == "marker":
            marker = os.fsencode(policy.marker)
            return [one for one in found if self._folder.look(one.path + marker) is not None]
        now = self._clock.steady()
        settled = [one for one in found if self._settling.look(one.path, one.identity, now)]
        writing = being_written(settled) if settled and policy.check_open else set[bytes]()
        for one in settled:
            if one.path in writing:
                self._settling.look(one.path, one.identity, now, writing=True)
        return [one for one in settled if one.path not in writing]


async def wait_for(event: asyncio.Event, seconds: float | None, clock: Clock) -> None:
    """Wait until an event is set, at most so many seconds of the clock; None waits as long as it takes."""
    if event.is_set():
        return
    waiting: list[asyncio.Future[bool]] = [asyncio.ensure_future(event.wait())]
    if seconds is not None:
        waiting.append(asyncio.ensure_future(_asleep(clock, seconds)))
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _asleep(clock: Clock, seconds: float) -> bool:
    await clock.sleep(seconds)
    return True
