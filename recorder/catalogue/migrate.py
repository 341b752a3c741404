"""Bringing a database to the newest schema, and telling whether it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from recorder.catalogue.database import Database, listen_sqlite
from recorder.catalogue.tables import Base

_SCRIPTS = Path(__file__).parent / "migrations"


def config() -> Config:
    """Alembic's configuration; the connection is handed over by the caller."""
    settings = Config()
    settings.set_main_option("script_location", str(_SCRIPTS))
    settings.set_main_option("path_separator", "os")
    return settings


async def upgrade(database: Database) -> None:
    """Run every migration that has not been run yet."""
    await asyncio.to_thread(upgrade_now, database.url)


def upgrade_now(url: sa.URL) -> None:
    """The same without an event loop: Alembic reads files and is synchronous all the way."""
    with connected(url) as connection:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


@contextmanager
def connected(url: sa.URL) -> Iterator[Connection]:
    """A synchronous connection in a transaction that commits at the end."""
    sqlite = url.get_backend_name() == "sqlite"
    engine = sa.create_engine(
        url.set(drivername="sqlite" if sqlite else "postgresql+psycopg"), hide_parameters=True
    )
    if sqlite:
        listen_sqlite(engine)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


async def current(database: Database) -> tuple[str | None, str | None]:
    """The schema's revision in the database, and the newest one that this program knows."""
    head = await asyncio.to_thread(lambda: ScriptDirectory.from_config(config()).get_current_head())
    async with database.engine.connect() as connection:
        revision = await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
    return revision, head


async def drift(database: Database) -> list[object]:
    """What autogeneration would still change: empty when the migrations match the tables."""

    def compare() -> list[object]:
        with connected(database.url) as connection:
            return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    return await asyncio.to_thread(compare)
