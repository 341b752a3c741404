"""Lookups: single SELECT statements of the hot path, compiled once and run outside any transaction.

A session of SQLAlchemy costs a ping, a BEGIN, the statement and a ROLLBACK, and more processor time than the
database needs to answer. What every request asks (who is this, may the next range go out) is one statement,
and one statement is a consistent snapshot by itself. Types are bound and read by SQLAlchemy's own processors,
so a value here equals the value that a session would give.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect

from recorder.errors import Unavailable

if TYPE_CHECKING:
    import psycopg

__all__ = ["Lookup", "Lookups"]

_CONNECTIONS: Final = 8
_PATIENCE: Final = 10.0  # seconds; as long as the pool of sessions waits
_AWAY: Final = "the database is away or busy; try again"
_Processor = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement in one dialect, with what turns values into parameters and columns into values."""

    text: str
    order: tuple[str, ...] | None  # names by position, where parameters have no names
    fixed: Mapping[str, Any]
    binders: Mapping[str, _Processor | None]
    readers: tuple[tuple[int, _Processor], ...]
    row: Callable[[Sequence[Any]], Any]

    def parameters(self, values: Mapping[str, Any]) -> Any:
        bound = dict(self.fixed)
        for name, value in values.items():
            binder = self.binders[name]
            bound[name] = value if binder is None else binder(value)
        return bound if self.order is None else [bound[name] for name in self.order]

    def read(self, row: Sequence[Any]) -> Any:
        values = list(row)
        for place, reader in self.readers:
            values[place] = reader(values[place])
        return self.row(values)


class Lookup:
    """One SELECT with named parameters (`sqlalchemy.bindparam`, with their types) and labelled columns."""

    def __init__(self, statement: sa.Select[*tuple[Any, ...]]) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def compiled(self, dialect: Dialect) -> _Compiled:
        """The statement in a dialect; compiled at its first use."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> _Compiled:
        compiled: Any = self._statement.compile(dialect=dialect)
        binders = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in compiled.binds.items()
        }
        fixed = {
            name: value if binders[name] is None or value is None else binders[name](value)
            for name, value in compiled.params.items()
        }
        columns = list(self._statement.selected_columns)
        readers = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        kind = namedtuple("Found", [column.key for column in columns])  # type: ignore[misc]
        return _Compiled(
            text=str(compiled),
            order=tuple(compiled.positiontup) if compiled.positional else None,
            fixed=fixed,
            binders=binders,
            readers=tuple((place, reader) for place, reader in enumerate(readers) if reader is not None),
            row=kind._make,
        )


class _Runner(Protocol):
    async def rows(self, text: str, parameters: Any) -> list[Any]: ...
    async def aclose(self) -> None: ...


class Lookups:
    """Runs lookups on a few connections of its own.

    Args:
        dialect: Of the engine that everything else uses.
        url: Of the same database.
        options: For connecting.
    """

    def __init__(self, dialect: Dialect, url: sa.URL, options: Mapping[str, Any]) -> None:
        self._dialect = dialect
        self._runner: _Runner = (
            _SqliteRunner(dialect, url, options)
            if dialect.name == "sqlite"
            else _PostgresRunner(dialect, url, options)
        )

    async def run(self, lookup: Lookup, values: Mapping[str, Any]) -> list[Any]:
        """The rows, each a named tuple of its columns' labels.

        Raises:
            Unavailable: the database is away or too busy.
        """
        compiled = lookup.compiled(self._dialect)
        try:
            async with asyncio.timeout(_PATIENCE):
                rows = await self._runner.rows(compiled.text, compiled.parameters(values))
        except TimeoutError as error:
            raise Unavailable(_AWAY, dependency="database") from error
        return [compiled.read(row) for row in rows]

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._runner.aclose()


class _PostgresRunner:
    """Connections in autocommit, on which each statement is prepared at its first use."""

    def __init__(self, dialect: Dialect, url: sa.URL, options: Mapping[str, Any]) -> None:
        _, found = dialect.create_connect_args(url)
        # A plan of its own for every set of ids costs more than it can find: they are all primary keys.
        self._options = {**found, **options, "options": "-c plan_cache_mode=force_generic_plan"}
        if "options" in found:
            self._options["options"] += f" {found['options']}"
        self._idle: list[psycopg.AsyncConnection[Any]] = []
        self._gate = asyncio.Semaphore(_CONNECTIONS)

    async def rows(self, text: str, parameters: Any) -> list[Any]:
        import psycopg

        async with self._gate:
            while True:
                reused = bool(self._idle)
                connection: psycopg.AsyncConnection[Any] | None = None
                try:
                    connection = (
                        self._idle.pop()
                        if reused
                        else await psycopg.AsyncConnection.connect(**self._options, autocommit=True)
                    )
                    rows = await (await connection.execute(text, parameters, prepare=True)).fetchall()
                except BaseException as error:
                    if connection is not None:
                        await connection.close()
                    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                        raise
                    if not reused:
                        raise Unavailable(_AWAY, dependency="database") from error
                else:
                    self._idle.append(connection)
                    return rows

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class _SqliteRunner:
    """One reading connection in one thread: a statement and its rows are one visit to it."""

    def __init__(self, dialect: Dialect, url: sa.URL, options: Mapping[str, Any]) -> None:
        self._dialect, self._url = dialect, url
        self._timeout = options.get("timeout", 5.0)
        self._connection: sqlite3.Connection | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def rows(self, text: str, parameters: Any) -> list[Any]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookups")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._read, text, parameters
            )
        except sqlite3.OperationalError as error:
            raise Unavailable(_AWAY, dependency="database") from error

    def _read(self, text: str, parameters: Any) -> list[Any]:
        if self._connection is None:
            self._connection = sqlite3.connect(
                self._dialect.create_connect_args(self._url)[0][0],
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.execute("PRAGMA query_only=ON").close()
        with contextlib.closing(self._connection.execute(text, parameters)) as cursor:
            return cursor.fetchall()

    async def aclose(self) -> None:
        if self._thread is not None:
            if self._connection is not None:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
            await asyncio.to_thread(self._thread.shutdown)
            self._thread = self._connection = None
