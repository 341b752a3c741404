"""``make bench-estate``: retention on a large estate, each line beside one plain SQL statement."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from bench.measure import clean
from bench.rows import fill
from recorder.catalogue import migrate
from recorder.catalogue.database import Database
from recorder.catalogue.tables import Controller, Customer, Recording, ScheduleVersion, Source
from recorder.clock import ManualClock
from recorder.disposition import schedules
from recorder.disposition.estate import simulate
from recorder.disposition.facts import active_schedule
from recorder.disposition.reevaluation import STEP, follow
from recorder.disposition.sweeping import sweep
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from storage.vault import Vault
from tests.servers.postgres import new_postgres_server

NOW = datetime(2026, 3, 5, 8, tzinfo=UTC)
_DOCUMENT = Path(__file__).parent.parent / "docs" / "performance-retention.md"


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement, in seconds; ``rows`` is how many recordings it was about."""

    database: str
    what: str
    rows: int
    ours: float
    plain: float


class Estate:
    """One database full of recordings."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.database = Database(url)
        keyring, store = MemoryKeyring(), MemoryStore(versioned=True)
        self.services = Services(
            settings=Settings(data_dir=folder, sweep_brake_count=10**9, sweep_brake_share=1),
            clock=ManualClock(NOW),
            database=self.database,
            keyring=keyring,
            store=store,
            vault=Vault(store, keyring),
        )
        self.controller_id = uuid.uuid4()

    async def make(self, count: int) -> None:
        """Fill it."""
        await migrate.upgrade(self.database)
        source_id = uuid.uuid4()
        async with self.database.transaction() as session:
            controller = Controller(
                id=self.controller_id,
                code="fi-main",
                name="Bench",
                country="FI",
                time_zone="Europe/Helsinki",
                authority="Tietosuojavaltuutettu",
                subject_id=None,
                created_at=NOW,
            )
            session.add(controller)
            await session.flush()
            session.add(
                Source(
                    id=source_id,
                    controller_id=self.controller_id,
                    name="bench",
                    kind="generic",
                    settings={},
                    enabled=True,
                    created_at=NOW,
                )
            )
            await schedules.install_default(session, controller, actor="os:bench", now=NOW)
        await fill(self.database, self.controller_id, source_id, count, NOW)

    async def simulation(self, count: int) -> Line:
        """A schedule that keeps for quality only ninety days, over everything."""
        async with self.database.snapshot() as session:
            controller = await session.get_one(Controller, self.controller_id)
            old = await active_schedule(session, self.controller_id)
            text = (await session.scalars(sa.select(ScheduleVersion.document))).one()
        new = schedules.check(
            text.replace('keep      = "P1Y"', 'keep      = "P90D"').replace("version    = 1", "version = 2")
        )
        ours = await timed(lambda: simulate(self.services, controller, old, new, NOW))
        evidence = Customer.last_contact_at >= NOW - timedelta(days=8 * 365)
        plain = sa.select(
            sa.case((evidence, 1), else_=0),
            sa.case((Recording.started_at >= NOW - timedelta(days=365), 1), else_=0),
            sa.case((Recording.started_at >= NOW - timedelta(days=90), 1), else_=0),
            sa.func.count(),
            sa.func.sum(Recording.duration_ms),
            sa.func.sum(Recording.size),
        )
        plain = plain.outerjoin(Customer, Customer.id == Recording.customer_id)
        plain = plain.select_from(Recording).group_by(*(sa.literal_column(str(n)) for n in (1, 2, 3)))
        return Line(self.name, "simulate", count, ours, await timed(lambda: self._read(plain)))

    async def evaluation(self, count: int) -> Line:
        """Decide and store everything, as after a change of schedule; beside an UPDATE of the same rows."""

        async def decide() -> None:
            if await follow(self.services, self.controller_id) != count:
                raise RuntimeError("not as many recordings as there should be")

        ours = await timed(decide)
        # The same rows and columns, and a text as long as the decisions are.
        async with self.database.snapshot() as session:
            document = (
                await session.scalars(
                    sa.select(Recording.decision).where(Recording.schedule_version == 1).limit(1)
                )
            ).one()

        async def update() -> None:
            async with self.database.transaction() as session:
                await session.execute(
                    sa.update(Recording)
                    .where(Recording.schedule_version == 1)
                    .values(
                        decision=document,
                        schedule_version=2,
                        erase_on=NOW,
                        sweep_on=NOW + timedelta(days=3650),
                        evaluated_at=NOW,
                    ),
                    execution_options={"synchronize_session": False},
                )

        return Line(self.name, "evaluate and store", count, ours, await timed(update))

    async def sweeping(self, count: int) -> Line:
        """A dry run over a hundredth that may be due, beside a SELECT of the same rows."""
        due = max(1, count // 100)
        those = sa.select(Recording.id).order_by(Recording.id).limit(due)
        async with self.database.transaction() as session:
            await session.execute(
                sa.update(Recording).where(Recording.id.in_(those)).values(sweep_on=NOW),
                execution_options={"synchronize_session": False},
            )
            # The statistics of an hour ago, when nothing had a date yet, are not those of a database at work.
            await session.execute(sa.text("ANALYZE"))
        ours = await timed(lambda: sweep(self.services, self.controller_id, NOW, dry_run=True))
        plain = sa.select(Recording.id, Recording.sweep_on).where(
            Recording.controller_id == self.controller_id, Recording.sweep_on <= NOW
        )
        return Line(self.name, "sweep, dry run", due, ours, await timed(lambda: self._read(plain)))

    async def _read(self, query: sa.Executable) -> None:
        async with self.database.snapshot() as session:
            (await session.execute(query)).all()


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds on the clock."""
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


async def measure(estate: Estate, count: int) -> list[Line]:
    """Everything on one database."""
    print(f"{estate.name}: making {count} recordings", flush=True)
    try:
        await estate.make(count)
        lines = []
        for line in (estate.simulation(count), estate.evaluation(count), estate.sweeping(count)):
            lines.append(await line)
            print(lines[-1], flush=True)
        return lines
    finally:
        await estate.database.close()


def document(lines: list[Line], count: int, load: float) -> str:
    """The page of figures."""
    rows = "\n".join(
        f"| {line.database} | {line.what} | {line.rows:,} | {line.ours:.1f} | {line.plain:.2f} | "
        f"{line.ours / line.plain:.1f} | {line.rows / line.ours:,.0f} |"
        for line in lines
    )
    machine = (
        f"{os.cpu_count()} processors, load average {load:.1f} when it began\nand {os.getloadavg()[0]:.1f} "
        f"when it ended, Python {platform.python_version()}"
    )
    return f"""# Performance of retention

Written by `make bench-estate`. One run on one machine ({machine}) over
{count:,} recordings of {count // 5:,} customers and nine years. Of every fiftieth customer there is
an objection, and a hold's query reaches one recording in a hundred. *Plain SQL* is the physical limit: one
statement that reads, or writes, the same rows and columns without deciding anything.

- *simulate* compares the default schedule with one that keeps for quality ninety days, over everything.
- *evaluate and store* is what follows a change of schedule: every decision made afresh and written, in steps
  of {STEP:,} recordings that others can work between.
- *sweep, dry run* decides a hundredth of all recordings afresh, each by itself.

| database | | recordings | seconds | plain SQL | times that | recordings a second |
|---|---|---:|---:|---:|---:|---:|
{rows}

Compare within a line: the databases are measured one after the other, and what else the machine does differs.
Other sizes: `make bench-estate ARGS="--count 100000"`; they are printed, not written.
"""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="bench.estate", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="recordings")
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"], help="only this one; prints only")
    parser.add_argument("--output", type=Path, help="where the page goes")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="bench-estate-"))
    postgres = new_postgres_server(durable=True)
    try:
        lines: list[Line] = []
        for name, url in (
            ("SQLite", f"sqlite+aiosqlite:///{folder / 'estate.sqlite3'}"),
            ("PostgreSQL", postgres.new_database()),
        ):
            if arguments.database not in {None, name}:
                continue
            estate = Estate(name, url, folder)
            lines += asyncio.run(measure(estate, arguments.count))
    finally:
        postgres.close()
        clean(folder)
    text = document(lines, arguments.count, load)
    print(text)
    whole = arguments.database is None and arguments.count == parser.get_default("count")
    output = arguments.output or (_DOCUMENT if whole else None)
    if output is not None:
        output.write_text(text)


if __name__ == "__main__":
    main()
