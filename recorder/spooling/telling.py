"""Saying how it goes: to systemd, to Prometheus by a text file, and in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from recorder.spooling.journal import LISTED, State, Summary


class Systemd:
    """What sd_notify(3) does, without a library: lines to the socket that NOTIFY_SOCKET names."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Silent where there is no such socket."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog: float | None = None
        """Seconds between two signs of life that systemd wants, halved; None when it wants none."""
        owner = environment.get("WATCHDOG_PID", str(os.getpid()))
        microseconds = environment.get("WATCHDOG_USEC", "")
        if microseconds.isascii() and microseconds.isdigit() and owner == str(os.getpid()):
            self.watchdog = int(microseconds) / 2_000_000

    def tell(self, **values: str) -> None:
        """Send assignments such as READY=1."""
        if not self._address.startswith(("/", "@")):
            return
        # "@" stands for the NUL of Linux's abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        text = "\n".join(f"{name}={value}" for name, value in values.items())
        # A manager that went away is no reason to stop pushing.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(text.encode())


@dataclass
class Uploading:
    """A push that runs now."""

    name: str
    size: int
    sent: int = 0


@dataclass
class Progress:
    """What the agent did since it started, and does now.

    Attributes:
        problem: stable code of what holds everything up, or None.
        last_success: when a file was accepted last, seconds since 1970.
    """

    pushed: int = 0
    pushed_bytes: int = 0
    failed: int = 0
    active: dict[int, Uploading] = field(default_factory=dict)
    problem: str | None = None
    last_success: float | None = None


def status_line(summary: Summary, progress: Progress, unsettled: int) -> str:
    """One line for a log or systemctl; without names, as they may hold telephone numbers."""
    parts = [f"{summary.waiting} waiting ({human(summary.waiting_bytes)})"]
    if summary.oldest is not None:
        parts.append(f"oldest {summary.oldest:.0f} s")
    parts.append(f"{len(progress.active)} uploading")
    parts.append(f"{unsettled} being written")
    parts.append(f"{progress.pushed} pushed since start ({human(progress.pushed_bytes)})")
    parts += [f"{summary.counts[state]} {state}" for state in LISTED if summary.counts.get(state)]
    if progress.problem is not None:
        parts.append(f"held up: {progress.problem}")
    return ", ".join(parts)


def human(size: int) -> str:
    """Bytes in the largest unit that leaves a whole number before the point."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


class _Counters(Collector):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def collect(self) -> list[CounterMetricFamily]:
        """The counts since the start."""
        p = self._progress
        return [
            CounterMetricFamily("recorder_spool_pushed", "Files accepted by the service.", p.pushed),
            CounterMetricFamily("recorder_spool_pushed_bytes", "Bytes of them.", p.pushed_bytes),
            CounterMetricFamily("recorder_spool_attempts_failed", "Pushes that did not succeed.", p.failed),
        ]


def write_metrics(path: Path, summary: Summary, progress: Progress) -> None:
    """Write a file for the node exporter's textfile collector, replaced in one step.

    Raises:
        OSError: It cannot be written.
    """
    registry = CollectorRegistry()
    registry.register(_Counters(progress))
    files = Gauge("recorder_spool_files", "Files in the journal by state.", ["state"], registry=registry)
    for state in State:
        files.labels(state).set(summary.counts.get(state, 0))

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"recorder_spool_{name}", text, registry=registry).set(value)

    gauge("waiting_files", "Files still to be pushed or removed.", summary.waiting)
    gauge("waiting_bytes", "Bytes of them.", summary.waiting_bytes)
    gauge("oldest_seconds", "Age of the oldest of them; 0 without any.", summary.oldest or 0.0)
    gauge("uploading_files", "Pushes that run now.", len(progress.active))
    gauge("held_up", "1 while the service, the token or the disk holds everything up.",
          0 if progress.problem is None else 1)  # fmt: skip
    if progress.last_success is not None:
        gauge("last_success_timestamp_seconds", "When a file was accepted last.", progress.last_success)
    write_to_textfile(os.fspath(path), registry)
