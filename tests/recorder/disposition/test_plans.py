"""An erasure, and the decision about one recording, cost the same however many others there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.database import Database
from recorder.disposition import erasures
from recorder.disposition.facts import load_cases
from tests.recorder.disposition_world import World, clock_of

# Tables that have a row, or more, for every call, customer or step there ever was.
GROWING = {
    "audit_entries",
    "blind_indexes",
    "certificates",
    "contacts",
    "customers",
    "customer_batches",
    "erasure_items",
    "erasures",
    "idempotency_keys",
    "jobs",
    "listens",
    "objects",
    "recording_agents",
    "recording_links",
    "recording_tags",
    "recordings",
    "subjects",
    "tombstones",
}


@contextmanager
def statements(database: Database) -> Iterator[dict[str, Any]]:
    """Every statement that reads or changes rows, with one set of its parameters."""
    found: dict[str, Any] = {}
    engine = database.engine.sync_engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            found.setdefault(statement, parameters)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def scans(database: Database, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The statements that read a growing table from end to end, as SQLite would without statistics."""
    seen = []
    async with database.engine.connect() as connection:
        for statement, parameters in found.items():
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            for step in plan.scalars(3):
                words = step.split()
                if words[0] == "SCAN" and words[1] in GROWING:
                    seen.append((step, statement))
    return seen


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_no_statement_of_an_erasure_reads_a_whole_table(world: World) -> None:
    database = world.services.database
    tables = set(await _tables(database))
    assert tables >= GROWING, GROWING - tables
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    with statements(database) as found:
        async with database.snapshot() as session:
            await load_cases(session, [recording_id], world.now)
        clock_of(world.services).advance(timedelta(minutes=1))
        result = await erasures.erase_customer(
            world.services, customer_id, requested_by="account:7b0c", now=world.now
        )
    assert result.erased
    assert len(found) > 60
    assert await scans(database, found) == []


async def _tables(database: Database) -> list[str]:
    async with database.engine.connect() as connection:
        return await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
