"""What a piece of work asks of a database: statements, writing transactions, and the seconds of each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from recorder.catalogue.database import Database

_BEGUN: Final = "bench_begun"
_WRITE: Final = re.compile(r"\s*(UPDATE|DELETE FROM|INSERT INTO|PRAGMA)\s+(\w+)")
_READ: Final = re.compile(r"\bFROM\s+(\w+)")


@dataclass(slots=True)
class Work:
    """Counts and seconds; waiting for the database included."""

    statements: int = 0
    commits: int = 0
    executing: float = 0.0
    committing: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=dict)

    def heaviest(self, number: int) -> list[tuple[str, float]]:
        """The kinds of statement that took longest, with their seconds."""
        return sorted(self.seconds_of.items(), key=lambda item: -item[1])[:number]


@contextmanager
def watched(database: Database) -> Iterator[Work]:
    """Count what goes through the engine meanwhile, from one task."""
    engine, work = database.engine.sync_engine, Work()

    def before(connection: sa.Connection, *_: Any) -> None:
        connection.info[_BEGUN] = time.perf_counter()

    def after(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        took = time.perf_counter() - connection.info[_BEGUN]
        work.statements += 1
        work.executing += took
        name = name_of(statement)
        work.seconds_of[name] = work.seconds_of.get(name, 0.0) + took

    commit: Callable[[Any], None] = engine.dialect.do_commit

    def timed(connection: Any) -> None:
        begun = time.perf_counter()
        commit(connection)
        work.commits += 1
        work.committing += time.perf_counter() - begun

    sa.event.listen(engine, "before_cursor_execute", before)
    sa.event.listen(engine, "after_cursor_execute", after)
    engine.dialect.do_commit = timed  # type: ignore[method-assign,assignment]
    try:
        yield work
    finally:
        engine.dialect.do_commit = commit  # type: ignore[method-assign,assignment]
        sa.event.remove(engine, "before_cursor_execute", before)
        sa.event.remove(engine, "after_cursor_execute", after)


def name_of(statement: str) -> str:
    """Verb and table."""
    if found := _WRITE.match(statement):
        return f"{found[1]} {found[2]}"
    found = _READ.search(statement)
    return statement.split(maxsplit=1)[0] if found is None else f"SELECT FROM {found[1]}"
