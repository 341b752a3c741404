"""Start real servers for the tests, watch them and make sure that none outlives the test run.

A *janitor* process holds the other end of a pipe. When the test run ends, cleanly or by SIGKILL, the pipe
closes and the janitor kills every server and removes every folder that it was told of.
(``PR_SET_PDEATHSIG`` would be shorter, but follows the *thread* that started the child, and tests start
servers from worker threads too.)
"""

from __future__ import annotations

import atexit
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Below Linux's ephemeral range: no outgoing connection takes the port of a server that is down for a moment.
_PORTS = range(15000, 32000)
_POLL_SECONDS = 0.02


class ServerUnavailableError(Exception):
    """A server cannot be had on this machine; the text says why."""


class ServerFailedError(Exception):
    """A server that is installed did not start or died; the text ends with its log."""


class _Janitor:
    """The process that clears up after a test run that was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def tell(self, line: str) -> None:
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._owner = os.getpid()
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(Path(__file__).with_name("janitor.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                atexit.register(self.close)
            assert self._process.stdin is not None
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            if process is None or self._owner != os.getpid():
                return
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=30)


_janitor = _Janitor()
_port_locks: list[int] = []


def free_port() -> int:
    """Reserve a loopback TCP port for this process.

    The reservation is a lock file that every test process of this user respects, so two workers never pick
    the same port, and a server that is stopped finds its port free when it starts again.
    """
    folder = Path(tempfile.gettempdir()) / f"tallenne-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for port in random.sample(_PORTS, 500):
        lock = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
            continue
        _port_locks.append(lock)
        return port
    raise ServerUnavailableError("no free loopback port between 15000 and 31999")


def work_folder(name: str) -> Path:
    """Make a short-named folder for a server's data; the janitor removes it if nobody else does.

    The name is short because UNIX sockets live in it, whose paths end at 107 bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"tln-{name}-"))
    _janitor.tell(f"folder {folder}")
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a server's folder."""
    shutil.rmtree(folder, ignore_errors=True)


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment for a server, free of the virtual environment's and the user's settings."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": tempfile.gettempdir(),
    } | more


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until ``condition`` holds.

    Raises:
        ServerFailedError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServerFailedError(f"{what} within {seconds:.0f} s")
        time.sleep(_POLL_SECONDS)


def accepts(port: int) -> bool:
    """Tell whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    seconds: float = 60.0,
) -> str:
    """Run a set-up command to its end and return its standard output.

    Raises:
        ServerFailedError: it failed or took longer than ``seconds``.
    """
    try:
        done = subprocess.run(
            [str(part) for part in command],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=dict(environment if environment is not None else clean_environment()),
            cwd="/",
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerFailedError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise ServerFailedError(
            f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}"
        )
    return done.stdout


class Daemon:
    """One server process in the foreground, in a session of its own, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.name = name
        self._command = [str(part) for part in command]
        self._log = log
        self._environment = dict(environment if environment is not None else clean_environment())
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        """Start the process unless it runs."""
        if self.running:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd="/",
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        _janitor.tell(f"process {self._process.pid}")

    def stop(self, *, how: int = signal.SIGTERM, seconds: float = 5.0) -> None:
        """Ask the process to end with signal ``how``; kill it after ``seconds``."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        _janitor.tell(f"ended {process.pid}")

    def kill(self) -> None:
        """End the process as a power cut would: SIGKILL, no goodbye."""
        self.stop(how=signal.SIGKILL)

    def log_tail(self, size: int = 2000) -> str:
        """Return the end of what the server wrote."""
        return self._log.read_text(errors="replace")[-size:] if self._log.exists() else ""
