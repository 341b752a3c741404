"""A whole service without its HTTP face, on each kind of database."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder.catalogue import migrate
from recorder.catalogue.database import Database
from recorder.catalogue.enums import SubjectKind
from recorder.catalogue.subjects import add_subject
from recorder.catalogue.tables import Controller
from recorder.clock import ManualClock
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from storage.vault import Vault
from tests.servers.postgres import PostgresServer

START = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that went through every migration, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "catalogue.sqlite3"
    migrate.upgrade_now(sa.make_url(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: PostgresServer) -> str:
    """Name of a PostgreSQL database that went through every migration, to be a template."""
    url = sa.make_url(postgres.new_database())
    migrate.upgrade_now(url)
    return str(url.database)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh empty catalogue as the migrations make it, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "catalogue.sqlite"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite+aiosqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.new_database(template=request.getfixturevalue("migrated_postgres"))
    yield url
    server.start()  # a test of faults may have left it stopped
    server.drop_database(url)


@pytest.fixture
def unopened_database(database_url: str) -> Database:
    """Made outside the event loop: SQLAlchemy asks the file system for a SQLite file's absolute path."""
    return Database(database_url)


@pytest.fixture
async def database(unopened_database: Database) -> AsyncIterator[Database]:
    """The catalogue, opened."""
    try:
        yield unopened_database
    finally:
        await unopened_database.close()


@pytest.fixture
async def services(database: Database, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Services]:
    """Real catalogue, in-memory store and keyring."""
    keyring = MemoryKeyring()
    store = MemoryStore(versioned=True)
    yield Services(
        settings=Settings(data_dir=tmp_path / "data"),
        clock=clock,
        database=database,
        keyring=keyring,
        store=store,
        vault=Vault(store, keyring),
    )
    await store.aclose()


@pytest.fixture
async def controller(services: Services) -> Controller:
    """The Finnish group company, with its own subject."""
    return await make_controller(services, "fi-main", "FI", "Europe/Helsinki")


async def make_controller(services: Services, code: str, country: str, zone: str) -> Controller:
    now = services.clock.now()
    controller_id = uuid.uuid4()
    services.keyring.ensure_controller(str(controller_id))
    async with services.database.transaction() as session:
        row = Controller(
            id=controller_id,
            code=code,
            name=f"Example {country}",
            country=country,
            time_zone=zone,
            authority="Tietosuojavaltuutettu" if country == "FI" else "IMY",
            subject_id=None,
            created_at=now,
        )
        session.add(row)
        await session.flush()
        subject = add_subject(session, services.keyring, controller_id, SubjectKind.CONTROLLER, now=now)
        await session.flush()
        row.subject_id = subject.id
    return row
