"""Lookups give what a session gives, on both kinds of database, and say when the database is away."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest
import sqlalchemy as sa

from recorder.catalogue.database import Database
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import ApiToken, Controller
from recorder.errors import Unavailable
from recorder.services import Services

COLUMNS = (
    ApiToken.id,
    ApiToken.secret_hash,
    ApiToken.role,
    ApiToken.scope,
    ApiToken.values,
    ApiToken.created_at,
    ApiToken.expires_at,
)
QUERY = sa.select(*COLUMNS).where(
    ApiToken.id == sa.bindparam("token", type_=sa.Uuid()), ApiToken.role == Role.QUALITY
)


@pytest.fixture
async def token(services: Services, controller: Controller) -> uuid.UUID:
    row = ApiToken(
        id=uuid.uuid4(),
        controller_id=controller.id,
        secret_hash=os.urandom(32),
        label="x",
        role=Role.QUALITY,
        scope=ScopeKind.TEAM,
        values=["a-1", "ä"],
        created_at=services.clock.now(),
    )
    async with services.database.transaction() as session:
        session.add(row)
    return row.id


async def test_a_lookup_reads_what_a_session_reads(services: Services, token: uuid.UUID) -> None:
    lookup = Lookup(QUERY)
    async with services.database.snapshot() as session:
        (expected,) = await session.execute(QUERY, {"token": token})
    for _ in range(3):
        (found,) = await services.database.lookup(lookup, token=token)
        assert tuple(found) == tuple(expected)
        assert [type(value) for value in found] == [type(value) for value in expected]
        assert found.values == ["a-1", "ä"]
    assert await services.database.lookup(lookup, token=uuid.uuid4()) == []


async def test_a_lookup_sees_what_was_committed_before_it(services: Services, token: uuid.UUID) -> None:
    lookup = Lookup(QUERY)
    assert len(await services.database.lookup(lookup, token=token)) == 1
    async with services.database.transaction() as session:
        await session.execute(sa.update(ApiToken).values(role=Role.TRAINER))
        await session.flush()
        if not services.database.sqlite:
            assert len(await services.database.lookup(lookup, token=token)) == 1
    assert await services.database.lookup(lookup, token=token) == []


async def test_many_at_once(services: Services, token: uuid.UUID) -> None:
    lookup = Lookup(QUERY)
    found = await asyncio.gather(*(services.database.lookup(lookup, token=token) for _ in range(30)))
    assert {rows[0].id for rows in found} == {token}


async def test_a_connection_that_died_is_replaced(services: Services, token: uuid.UUID) -> None:
    if services.database.sqlite:
        return  # has none that could die
    lookup = Lookup(QUERY)
    await services.database.lookup(lookup, token=token)
    async with services.database.transaction() as session:
        await session.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert len(await services.database.lookup(lookup, token=token)) == 1


async def test_a_database_that_is_away() -> None:
    database = await asyncio.to_thread(Database, "postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    try:
        with pytest.raises(Unavailable):
            await database.lookup(Lookup(QUERY), token=uuid.uuid4())
    finally:
        await database.close()


async def test_a_lookup_cannot_write(services: Services, token: uuid.UUID) -> None:
    if services.database.sqlite:
        await services.database.lookup(Lookup(QUERY), token=token)
        runner = services.database._lookups._runner
        with pytest.raises(Unavailable):
            await runner.rows("DELETE FROM api_tokens", [])
    async with services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(ApiToken)) == 1
