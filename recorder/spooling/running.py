"""One run of the agent: the directory's lock, signals, signs of life, and what the operator sees."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from recorder.errors import ConfigurationError, Conflict, RecorderError, Unavailable
from recorder.spooling.agent import Agent
from recorder.spooling.config import SpoolConfig
from recorder.spooling.describing import printable
from recorder.spooling.folder import PRIVATE, Folder
from recorder.spooling.journal import LISTED, PENDING, Entry, Journal, State, Summary
from recorder.spooling.notifying import listening
from recorder.spooling.pacing import Clock, SystemClock
from recorder.spooling.telling import Progress, Systemd, status_line, write_metrics

_log = logging.getLogger(__name__)
_TICK: Final = 2.0
Show = Callable[[Summary, Progress, int], None]


@contextmanager
def locked(directory: Path) -> Iterator[tuple[Folder, Journal]]:
    """Open a directory for the one agent that may work on it.

    Raises:
        Conflict: Another agent works on it.
        ConfigurationError: It is no directory, or may not be written.
    """
    folder = Folder(directory)
    try:
        lock = os.open(b"lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder.private)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict("another agent works on this directory") from None
            journal = Journal(_private(directory))
            try:
                yield folder, journal
            finally:
                journal.close()
        finally:
            os.close(lock)
    finally:
        folder.close()


async def run_agent(
    config: SpoolConfig,
    token: str,
    environment: Mapping[str, str],
    *,
    once: bool = False,
    retry: bool = False,
    show: Show | None = None,
    clock: Clock | None = None,
) -> Summary:
    """Work on the configured directory until a signal, or with ``once`` until it is drained.

    Args:
        config: What the agent is told.
        token: Of the source.
        environment: NOTIFY_SOCKET, WATCHDOG_USEC, the password of a call record database.
        once: Return when everything was dealt with.
        retry: Begin again with what the service refused before.
        show: Called every two seconds, for a display.
        clock: Time and waiting.

    Returns:
        Where the journal stands at the end.

    Raises:
        Unauthenticated, Forbidden: With ``once``: the service refuses the token.
        Unavailable: With ``once``: the service stayed away.
        RecorderError: The directory or a setting cannot work.
    """
    clock = clock or SystemClock()
    opened = locked(config.directory)
    folder, journal = await asyncio.to_thread(opened.__enter__)
    try:
        if retry:
            await asyncio.to_thread(journal.retry, clock.wall())
        agent = Agent(config, token, folder, journal, environment=environment, clock=clock)
        systemd = Systemd(environment)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stop)
        reporter = asyncio.ensure_future(_report(config, agent, journal, systemd, show, clock))
        try:
            async with listening(config.notify, folder, agent.watcher.changed):
                systemd.tell(READY="1")
                drained = await agent.run(once=once)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)
            systemd.tell(STOPPING="1")
        if once and agent.refused is not None:
            raise agent.refused
        if once and not drained and agent.progress.problem is not None:
            raise Unavailable(
                f"not everything could be pushed ({agent.progress.problem})", dependency="service"
            )
        await asyncio.to_thread(_metrics, config, journal, agent, clock)
        return await asyncio.to_thread(journal.summary, clock.wall())
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def _report(
    config: SpoolConfig,
    agent: Agent,
    journal: Journal,
    systemd: Systemd,
    show: Show | None,
    clock: Clock,
) -> None:
    """Say how it goes, until cancelled."""
    tick = _TICK if systemd.watchdog is None else min(_TICK, systemd.watchdog)
    logged = clock.steady()
    while True:
        systemd.tell(WATCHDOG="1")
        with suppress(RecorderError):  # the journal is away: the agent says so
            summary = await asyncio.to_thread(_metrics, config, journal, agent, clock)
            line = status_line(summary, agent.progress, agent.watcher.unsettled)
            systemd.tell(STATUS=line)
            if show is not None:
                show(summary, agent.progress, agent.watcher.unsettled)
            elif clock.steady() - logged >= config.status_interval:
                logged = clock.steady()
                _log.info("%s", line)
        await clock.sleep(tick)


def _metrics(config: SpoolConfig, journal: Journal, agent: Agent, clock: Clock) -> Summary:
    summary = journal.summary(clock.wall())
    if config.metrics is not None:
        try:
            write_metrics(config.metrics, summary, agent.progress)
        except OSError as error:
            _log.warning("the metrics file cannot be written: %s", error.strerror)
    return summary


def look(directory: Path, clock: Clock | None = None) -> dict[str, Any]:
    """What the journal of a directory says, for a person beside the switchboard: with file names.

    Raises:
        ConfigurationError: No agent has worked on it.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no directory")
    journal = Journal(_private(directory), read_only=True)
    try:
        summary = journal.summary((clock or SystemClock()).wall())
        listed, waiting = journal.listed(LISTED), journal.listed(PENDING, limit=100)
    finally:
        journal.close()
    return {
        "running": _is_locked(directory),
        "states": {state.value: summary.counts.get(state, 0) for state in State},
        "waiting": {
            "files": summary.waiting,
            "bytes": summary.waiting_bytes,
            "oldest_seconds": summary.oldest,
        },
        "refused": [_line(entry) for entry in listed],
        "next": [_line(entry) for entry in reversed(waiting)],
    }


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.id,
        "file": printable(entry.path),
        "size": entry.identity.size,
        "sent": entry.sent,
        "state": entry.state.value,
        "problem": entry.problem,
        "attempts": entry.attempts,
    }


def _is_locked(directory: Path) -> bool:
    try:
        lock = os.open(_private(directory) / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _private(directory: Path) -> Path:
    return directory / os.fsdecode(PRIVATE)
