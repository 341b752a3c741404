"""Locks on values rather than rows: for "look, and if it is not there, insert"."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession


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
    numbers = sorted({int.from_bytes(digest[:8], "big", signed=True) for digest in digests})
    for number in numbers:
        await session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
