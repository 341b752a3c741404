"""Bringing a database to the newest schema, and telling whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from recorder.catalogue.database import Database
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

    def run(connection: Connection) -> None:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")

    async with database.engine.begin() as connection:
        await connection.run_sync(run)


async def current(database: Database) -> tuple[str | None, str | None]:
    """The schema's revision in the database, and the newest one that this program knows."""
    head = ScriptDirectory.from_config(config()).get_current_head()
    async with database.engine.connect() as connection:
        revision = await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
    return revision, head


async def drift(database: Database) -> list[object]:
    """What autogeneration would still change: empty when the migrations match the tables."""
    async with database.engine.connect() as connection:
        return await connection.run_sync(
            lambda c: list(compare_metadata(MigrationContext.configure(c), Base.metadata))
        )
