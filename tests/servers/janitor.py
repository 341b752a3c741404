"""Run apart: wait until standard input closes, then kill the servers and remove the folders named on it.

Lines: ``process PID``, ``ended PID``, ``folder PATH``. Run as a script by tests/servers/processes.py;
standard library only. A process is known by its id *and* its start time, so a reused id is never killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path


def start_time(pid: int) -> str | None:
    """Return the kernel's start time of a process (proc(5), field 22), None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def main() -> None:
    """Keep the books until the pipe closes, then clear up."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    processes: dict[int, str | None] = {}
    folders: list[Path] = []
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "process":
            processes[int(rest)] = start_time(int(rest))
        elif word == "ended":
            processes.pop(int(rest), None)
        elif word == "folder":
            folders.append(Path(rest))
    alive = [pid for pid, started in processes.items() if started is not None and start_time(pid) == started]
    for pid in alive:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5.0
    while any(start_time(pid) == processes[pid] for pid in alive) and time.monotonic() < deadline:
        time.sleep(0.05)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
