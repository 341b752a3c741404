"""What reaches the service's log, whatever its level."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import aiosqlite
import pytest

from recorder.logs import JsonFormatter

PERSONAL = "+358401234567"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that anybody logs, at DEBUG."""
    root, written = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(written), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_library_says_where_but_not_what(lines: io.StringIO) -> None:
    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("SELECT ?", (PERSONAL,))
    logging.getLogger("some.library").error("no such row: %s", PERSONAL, extra={"row": PERSONAL})
    logging.getLogger("recorder.test").info("ours", extra={"count": 1})
    text = lines.getvalue()
    assert PERSONAL not in text
    entries = [json.loads(line) for line in text.splitlines()]
    assert {"aiosqlite", "some.library"} <= {entry["logger"] for entry in entries}
    assert all(entry["where"] for entry in entries if entry["event"] == "message of a library")
    assert entries[-1] | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "recorder.test",
        "event": "ours",
        "count": 1,
    }
