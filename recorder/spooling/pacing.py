"""When: waiting for a file to be complete, for bandwidth, for a service that is away. Time is a parameter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from recorder.spooling.folder import Identity


class Clock(Protocol):
    """The time of day, a steady time for intervals, and waiting; replaced in tests."""

    def wall(self) -> float:
        """Seconds since 1970."""
        ...

    def steady(self) -> float:
        """Seconds that only grow."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's."""

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def steady(self) -> float:
        """Seconds since some start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait in the event loop."""
        await asyncio.sleep(seconds)


class Settling:
    """Tells when files stopped changing: the same size and time in all looks for a stretch of time."""

    def __init__(self, seconds: float) -> None:
        """A file is settled once it did not change for so many seconds."""
        self._seconds = seconds
        self._since: dict[bytes, tuple[Identity, float]] = {}

    @property
    def unsettled(self) -> tuple[bytes, ...]:
        """Paths that are to be looked at again."""
        return tuple(self._since)

    def look(self, path: bytes, identity: Identity | None, now: float, *, writing: bool = False) -> bool:
        """Take in what a look found and say whether the file is settled.

        Args:
            path: Of the file.
            identity: What was found; None when it is not there.
            now: Steady time of the look.
            writing: Somebody holds it open for writing; its time begins anew.
        """
        if identity is None:
            self._since.pop(path, None)
            return False
        known = self._since.get(path)
        if known is None or known[0] != identity or writing:
            known = (identity, now)
            self._since[path] = known
        return now - known[1] >= self._seconds and not writing

    def forget(self, path: bytes) -> None:
        """The file is in the journal now."""
        self._since.pop(path, None)

    def due(self, path: bytes, now: float) -> bool:
        """Whether a look now would settle the file if it did not change."""
        known = self._since.get(path)
        return known is not None and now - known[1] >= self._seconds

    def wait(self, now: float) -> float | None:
        """Seconds until the first file could be settled; None when there is none."""
        if not self._since:
            return None
        return max(0.0, min(since for _, since in self._since.values()) + self._seconds - now)


class Bandwidth:
    """A token bucket for all pushes together: no second carries more than the rate, plus one burst."""

    def __init__(self, rate: int | None, clock: Clock, *, burst: int = 256 * 1024) -> None:
        """Let ``rate`` bytes a second pass; None lets everything pass."""
        self._rate = rate
        self._clock = clock
        self._burst = burst if rate is None else min(burst, max(rate, 1))
        self._free = float(self._burst)
        self._at = clock.steady()
        self._turn = asyncio.Lock()

    @property
    def piece(self) -> int:
        """Bytes to ask for at once."""
        return self._burst

    async def take(self, count: int) -> None:
        """Wait until so many bytes may be sent; callers are served in order."""
        if self._rate is None:
            return
        async with self._turn:
            self._fill()
            self._free -= count
            # Loops, as a clock may wake early; never for less than it can tell apart.
            while self._free < 0:
                await self._clock.sleep(max(0.001, -self._free / self._rate))
                self._fill()

    def _fill(self) -> None:
        assert self._rate is not None  # noqa: S101
        now = self._clock.steady()
        self._free = min(float(self._burst), self._free + (now - self._at) * self._rate)
        self._at = now


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling waits; half of each is random, so that agents that failed together do not return together."""

    base: float
    longest: float

    def delay(self, attempt: int, asked: float | None, chance: float) -> float:
        """Seconds to wait after the attempt of this number (from 1).

        Args:
            attempt: That failed.
            asked: What ``Retry-After`` said, in seconds; never undercut, but bounded by an hour.
            chance: A number in [0, 1).
        """
        doubled = self.base * 2.0 ** min(attempt - 1, 32) * (0.5 + chance / 2)
        own = min(self.longest, doubled)
        return own if asked is None else max(own, min(asked, 3600.0) * (1 + chance / 10))


class Gate:
    """Holds all pushes back while the service is away; the first that passes afterwards tries it out."""

    def __init__(self, backoff: Backoff, clock: Clock, chance: Callable[[], float]) -> None:
        """Open at first."""
        self._backoff = backoff
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._until = 0.0
        self.reason: str | None = None

    @property
    def closed_for(self) -> float:
        """Seconds until a push may try again; 0 when open."""
        return max(0.0, self._until - self._clock.steady())

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def failed(self, reason: str, asked: float | None) -> None:
        """The service did not answer, or asked to wait."""
        self.reason = reason
        if self.closed_for > 0 and asked is None:
            return  # pushes that began before it closed say nothing new
        self._failures += 1
        delay = self._backoff.delay(self._failures, asked, self._chance())
        self._until = self._clock.steady() + delay

    def passed(self) -> None:
        """The service answered."""
        self._failures, self._until, self.reason = 0, 0.0, None
