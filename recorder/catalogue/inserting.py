"""Inserting rows of several tables at once, past the unit of work: for the path on which every push goes.

The objects are plain values here: no session tracks them, and what was inserted is not read again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from recorder.catalogue.tables import Base
from recorder.errors import Unavailable

# Parents before children.
_ORDER: Final = {table: place for place, table in enumerate(Base.metadata.sorted_tables)}


async def insert_rows(session: AsyncSession, rows: Iterable[Base]) -> None:
    """Insert new rows in the running transaction, parents first; on PostgreSQL in one round trip.

    Args:
        rows: made and not added to any session; those of one table have the same attributes set.

    Raises:
        Unavailable: the database went away.
        sqlalchemy.exc.IntegrityError: a row breaks a constraint; the transaction has to be rolled back.
    """
    insert = _insertion(rows)
    connection = await session.connection()
    async with pipelined(connection):
        await connection.run_sync(insert)


async def insert_and_commit(session: AsyncSession, rows: Iterable[Base]) -> None:
    """Insert the last rows of a transaction and commit it; on PostgreSQL in one round trip.

    Nothing may be pending in the session, and nothing may follow in its transaction.

    Raises:
        Unavailable: the database went away; whether the transaction was committed is not known.
        sqlalchemy.exc.IntegrityError: a row breaks a constraint; nothing was committed.
    """
    insert = _insertion(rows)
    connection = await session.connection()
    async with pipelined(connection) as driver:
        await connection.run_sync(insert)
        if driver is not None:
            await driver.commit()
    await session.commit()  # where the driver has committed, this only gives the connection back


def _insertion(rows: Iterable[Base]) -> Callable[[Connection], None]:
    tables: dict[sa.Table, list[dict[str, Any]]] = {}
    for row in rows:
        table, state = Base.metadata.tables[row.__tablename__], row.__dict__
        values = {column.key: state[column.key] for column in table.columns if column.key in state}
        tables.setdefault(table, []).append(values)

    def insert(connection: Connection) -> None:
        for table in sorted(tables, key=_ORDER.__getitem__):
            values = tables[table]
            connection.execute(table.insert(), values[0] if len(values) == 1 else values)

    return insert


@asynccontextmanager
async def pipelined(connection: AsyncConnection) -> AsyncIterator[Any]:
    """Send statements without waiting for each answer, where the driver can; answers are awaited at the end.

    For statements that return no rows. Yields the driver's own connection, or None where it has no pipeline.

    Raises:
        Unavailable: the database went away.
        sqlalchemy.exc.IntegrityError: one of the statements broke a constraint.
    """
    if connection.dialect.name != "postgresql":
        yield None
        return
    import psycopg

    raw = await connection.get_raw_connection()
    driver: Any = raw.driver_connection
    try:
        async with driver.pipeline():
            yield driver
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable("the database is away or busy; try again", dependency="database") from error
    except psycopg.IntegrityError as error:
        raise IntegrityError(None, None, error) from error
