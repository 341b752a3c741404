"""Engines, sessions and transactions, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import ConnectionPoolEntry

from recorder.catalogue.lookups import Lookup, Lookups
from recorder.errors import ConfigurationError, Unavailable

_WRITE = "recorder_write"
_IDLE_SINCE: Final = "recorder_idle_since"
_PING_AFTER: Final = 1.0
"""Seconds that a pooled connection may lie idle before it is asked whether it still lives."""


class Database:
    """The catalogue's database.

    One session serves one task and one use case. Never hold one while audio streams: authorise,
    write the audit entry, commit, then stream.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ConfigurationError("RECORDER_DATABASE_URL is not a database URL") from None
        self.url = parsed
        self.sqlite = parsed.get_backend_name() == "sqlite"
        # Parameters may be personal data: they stay out of error texts and logs.
        options: dict[str, Any] = {"hide_parameters": True}
        if self.sqlite:
            parsed = parsed.set(drivername="sqlite+aiosqlite")
            options["connect_args"] = {"timeout": 15.0}
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            options |= {"pool_size": 10, "max_overflow": 10, "pool_timeout": 10, "pool_recycle": 1800}
            options["connect_args"] = {"connect_timeout": 5}
        self.engine: AsyncEngine = create_async_engine(parsed, **options)
        if self.sqlite:
            listen_sqlite(self.engine.sync_engine)
        else:
            listen_idle(self.engine.sync_engine)
        self._lookups = Lookups(self.engine.dialect, parsed, options["connect_args"])
        self._read = async_sessionmaker(self.engine, expire_on_commit=False)
        self._write = async_sessionmaker(
            self.engine.execution_options(**{_WRITE: True}), expire_on_commit=False
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A writing transaction: commits at the end, rolls back on any error.

        Raises:
            Unavailable: the database is away, full or too busy; nothing was committed.
        """
        async with self._scoped(self._write) as session, session.begin():
            yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncSession]:
        """A session for reading.

        Raises:
            Unavailable: the database is away or too busy.
        """
        async with self._scoped(self._read) as session:
            yield session

    async def lookup(self, lookup: Lookup, **values: Any) -> list[Any]:
        """The rows of one prepared statement, as named tuples; no session, no transaction.

        Raises:
            Unavailable: the database is away or too busy.
        """
        return await self._lookups.run(lookup, values)

    @asynccontextmanager
    async def _scoped(self, factory: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
        with _translated():
            async with factory() as session:
                yield session

    async def check(self) -> None:
        """Ask the database for one row.

        Raises:
            Unavailable: it did not answer.
        """
        async with self.snapshot() as session:
            await session.execute(sa.text("SELECT 1"))

    async def flush_deleted(self) -> bool:
        """Make deleted bytes leave SQLite's files; True when they have.

        With ``secure_delete`` the pages are zeroed, but old copies stay in the write-ahead log
        until a checkpoint that no reader held up. On PostgreSQL the answer is always True: there
        it is the rotation of key epochs that ends what dead tuples and WAL still hold.
        """
        if not self.sqlite:
            return True
        async with self.engine.connect() as connection:
            raw = await connection.execution_options(isolation_level="AUTOCOMMIT")
            row = (await raw.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")).one()
        return int(row[0]) == 0

    async def close(self) -> None:
        """Give all connections back."""
        await self._lookups.aclose()
        await self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        # SQLite calls a missing table or column "operational" too; trying again would not help.
        if isinstance(error, OperationalError) and str(error.orig).startswith("no such "):
            raise
        raise Unavailable("the database is away or busy; try again", dependency="database") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("the database is away or busy; try again", dependency="database") from error
        raise


def listen_idle(engine: sa.Engine) -> None:
    """Ask a pooled connection whether it still lives, but only after it has lain idle.

    A ping costs a round trip, on every use; a server that restarted is noticed by the first that comes late.
    """

    @sa.event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        since = record.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < _PING_AFTER:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError("the pooled connection is dead") from error


def listen_sqlite(engine: sa.Engine) -> None:
    """Set up every connection of an engine on SQLite, and begin its transactions the right way."""
    sa.event.listen(engine, "connect", _configure_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: _begin_sqlite does (BEGIN IMMEDIATE for writers).
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged push survives a power cut
        "secure_delete=ON",
        "foreign_keys=ON",
        "busy_timeout=15000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_isolation_level() == "AUTOCOMMIT":
        return
    immediate = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
