"""A whole service without its HTTP face, on each kind of database."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recorder.catalogue.database import Database
from recorder.catalogue.enums import SubjectKind
from recorder.catalogue.subjects import add_subject
from recorder.catalogue.tables import Base, Controller
from recorder.clock import ManualClock
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from storage.vault import Vault

START = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def unopened_database(database_url: str) -> Database:
    """Made outside the event loop: SQLAlchemy asks the file system for a SQLite file's absolute path."""
    return Database(database_url)


@pytest.fixture
async def database(unopened_database: Database) -> AsyncIterator[Database]:
    """An empty catalogue; runs on SQLite and on PostgreSQL."""
    database = unopened_database
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield database
    finally:
        await database.close()


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
