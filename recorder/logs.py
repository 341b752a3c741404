"""Structured logs: one JSON object a line, random ids only.

Exceptions are logged by type and place, never by message: a driver's message may quote a row. So may what
libraries log; of theirs only the place is kept.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_OURS = frozenset({"recorder", "storage", "retention"})


class JsonFormatter(logging.Formatter):
    """Formats a record, with what was passed as ``extra``, as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name.partition(".")[0] in _OURS:
            entry["event"] = record.getMessage()
            entry |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        else:
            # A library quotes what it works on: at DEBUG, aiosqlite logs each statement with its parameters.
            entry |= {"event": "message of a library", "where": f"{record.filename}:{record.lineno}"}
        if record.exc_info and record.exc_info[1] is not None:
            entry |= describe(record.exc_info[1])
        return json.dumps(entry, ensure_ascii=False, default=str)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception without its message: the types of its chain and the innermost places of its stack."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        chain.append(type(current).__name__)
        current = current.__cause__ or current.__context__
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {
        "error": chain,
        "at": [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames],
    }


def configure(level: str) -> None:
    """Send every log record to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their messages quote URLs, statements or job arguments.
    for noisy in (
        "aiohttp.access",
        "aiohttp.server",
        "urllib3",
        "apscheduler",
        "sqlalchemy",
        "asyncio",
        "libav",
    ):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
