"""Note which real servers a test run used and which parts of the machine were missing.

Workers of pytest-xdist hand their notes to the controller (tests/conftest.py), which prints them at the end.
"""

from __future__ import annotations

_used: dict[str, str] = {}
_missing: dict[str, str] = {}


def used(part: str, what: str) -> None:
    """Note that ``part`` (for example "S3") was played by ``what``."""
    _used[part] = what


def missing(part: str, adds: str) -> None:
    """Note that ``part`` is missing, and what it would have added to this run."""
    _missing[part] = adds


def notes() -> dict[str, dict[str, str]]:
    """Return this process's notes in builtins, for the trip from a worker to the controller."""
    return {"used": dict(_used), "missing": dict(_missing)}


def merge(other: dict[str, dict[str, str]]) -> None:
    """Take over a worker's notes."""
    _used.update(other["used"])
    _missing.update(other["missing"])


def lines() -> list[str]:
    """Return the notes as lines for the terminal."""
    return [f"{part}: {what}" for part, what in sorted(_used.items())] + [
        f"MISSING {part}: {adds}" for part, adds in sorted(_missing.items())
    ]
