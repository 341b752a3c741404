"""Unpack Debian packages into a cache, for parts that are not installed and a user who is not root.

``apt-get download`` and ``dpkg -x`` need no privileges. Only what apt's own lists already know is fetched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.servers.processes import ServerUnavailableError

_SECONDS = 240


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "tallenne-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _apt(arguments: Sequence[str], cwd: Path) -> str:
    try:
        done = subprocess.run(
            ["apt-get", *arguments],
            check=False,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerUnavailableError(f"apt-get {arguments[0]}: {error}") from error
    if done.returncode != 0:
        raise ServerUnavailableError(f"apt-get {arguments[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def unpacked(name: str, packages: Sequence[str]) -> Path:
    """Return a folder with ``packages`` and what they need beyond what is installed, fetched at most once.

    Args:
        name: names the folder in the cache.
        packages: Debian package names.

    Raises:
        ServerUnavailableError: not a Debian machine, no package lists, or no network.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise ServerUnavailableError(f"{', '.join(packages)} not installed, and this is no Debian machine")
    try:
        cache = _cache()
    except OSError as error:
        raise ServerUnavailableError(f"no cache folder: {error}") from error
    ready = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers of one run must not fetch it twice
        if ready.exists():
            return ready
        plan = _apt(["install", "--simulate", "--no-install-recommends", "-qq", *packages], cache)
        wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archives, root = Path(scratch, "archives"), Path(scratch, "root")
            archives.mkdir()
            _apt(["download", "-qq", *wanted], archives)
            for archive in sorted(archives.glob("*.deb")):
                subprocess.run(["dpkg", "-x", archive, root], check=True, timeout=_SECONDS)
            root.rename(ready)  # last: a half-filled cache is never taken for a whole one
    return ready
