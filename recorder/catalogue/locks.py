"""Locks on values rather than rows: for "look, and if it is not there, insert".

Rows are locked in one order everywhere: controller, customers, recordings, subject. Customers and recordings
are locked with ``key_share=True`` (PostgreSQL's FOR NO KEY UPDATE), because other rows point at them: the
check of a foreign key takes FOR KEY SHARE on the row it names, in no order that anybody chose, and would
wait for a full FOR UPDATE, perhaps of the very transaction that waits for it (PostgreSQL, "Explicit Locking",
13.3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.inserting import pipelined
from recorder.catalogue.lookups import Lookup

# One statement for all of them: unnest keeps the order of the array, and each row takes its lock in turn.
_LOCK_TEXT: Final = "SELECT pg_advisory_xact_lock(number) FROM unnest(%(numbers)s::bigint[]) AS number"
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(number) FROM unnest(:numbers) AS number").bindparams(
    sa.bindparam("numbers", type_=postgresql.ARRAY(sa.BigInteger))
)


async def lock_values(session: AsyncSession, digests: Iterable[bytes]) -> None:
    """Hold off other transactions that lock any of the same digests, until this one ends.

    Take all locks of a transaction in one call, first thing: they are taken in one order everywhere,
    so that two transactions never wait for each other. On SQLite a writing transaction is alone
    anyway. Unique constraints stay the last word; the locks make them never fire in practice.

    Args:
        digests: keyed HMACs; two that share their first eight bytes merely wait for each other.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    await session.execute(_LOCK, {"numbers": _numbers(digests)})


async def lock_and_look(
    session: AsyncSession, digests: Iterable[bytes], lookup: Lookup, values: Mapping[str, Any]
) -> list[Any]:
    """Take locks, then run one lookup under them, in the running transaction and one round trip.

    They stay two statements: a statement sees what was committed when it began, and one that both locked and
    looked would look too early.

    Returns:
        The lookup's rows, as named tuples.

    Raises:
        Unavailable: the database went away.
    """
    connection = await session.connection()
    compiled = lookup.compiled(connection.dialect)
    parameters = compiled.parameters(values)
    async with pipelined(connection) as driver:
        if driver is not None:
            await driver.execute(_LOCK_TEXT, {"numbers": _numbers(digests)})
            cursor = await driver.execute(compiled.text, parameters)
    if driver is not None:
        rows = await cursor.fetchall()
    else:
        rows = (await connection.exec_driver_sql(compiled.text, tuple(parameters))).all()
    return [compiled.read(row) for row in rows]


def _numbers(digests: Iterable[bytes]) -> list[int]:
    return sorted({int.from_bytes(digest[:8], "big", signed=True) for digest in digests})
