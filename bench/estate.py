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

from bench import due
from bench.measure import clean
from bench.rows import fill
from bench.watching import Work, watched
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
_NAMED = 3
_DOCUMENT = Path(__file__).parent.parent / "docs" / "performance-retention.md"


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement, in seconds; ``rows`` is how many recordings it was about."""

    database: str
    what: str
    rows: int
    ours: float
    plain: float


@dataclass(frozen=True, slots=True)
class Sweeping:
    """What a real sweep was made of.

    Attributes:
        further: seconds of plain SQL on what hangs on the recordings' rows.
    """

    database: str
    rows: int
    seconds: float
    further: float
    work: Work

    def words(self) -> str:
        """A line of the page."""
        heaviest = "; ".join(
            f"`{what}` {seconds / self.seconds:.0%}" for what, seconds in self.work.heaviest(_NAMED)
        )
        inside = self.work.executing / self.seconds
        committing = self.work.committing / self.seconds
        return (
            f"- {self.database}: {self.seconds / self.rows * 1000:.1f} ms an erasure, in "
            f"{self.work.commits / self.rows:.1f} writing transactions and "
            f"{self.work.statements / self.rows:.0f} statements.\n"
            f"  Of the time {inside:.0%} went into statements, {committing:.0%} into commits and "
            f"{1 - inside - committing:.0%} into everything else\n"
            f"  (making statements, rows to objects, deciding, two signatures, the store in memory).\n"
            f"  Heaviest statements: {heaviest}.\n"
            f"  Plain SQL on the other five tables took a further {self.further:.2f} s."
        )


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
        self.controller_id, self.source_id = uuid.uuid4(), uuid.uuid4()

    async def make(self, count: int) -> None:
        """Fill it."""
        await migrate.upgrade(self.database)
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
                    id=self.source_id,
                    controller_id=self.controller_id,
                    name="bench",
                    kind="generic",
                    settings={},
                    enabled=True,
                    created_at=NOW,
                )
            )
            await schedules.install_default(session, controller, actor="os:bench", now=NOW)
        await fill(self.database, self.controller_id, self.source_id, count, NOW)

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

    async def overdue(self, count: int) -> int:
        """Make a hundredth more whose time is over, and as many twins of them for the plain SQL."""
        number = max(1, count // 100)
        for years in (due.DUE, due.TWINS):
            await due.make(
                self.services,
                self.controller_id,
                self.source_id,
                count=number,
                years=years,
                now=NOW,
                stored=years == due.DUE,
            )
        if await follow(self.services, self.controller_id) != 2 * number:
            raise RuntimeError("not as many are decided as were made")
        async with self.database.transaction() as session:
            # The statistics of an hour ago, when nothing had a date yet, are not those of a database at work.
            await session.execute(sa.text("ANALYZE"))
        return number

    async def plain_erasure(self) -> tuple[float, float]:
        """Seconds of one UPDATE of the twins' rows, and of a statement for each further table.

        Comes before any sweep, to which the twins would be due as well.
        """
        first, *others = due.strip(self.controller_id, NOW)

        async def run(*statements: sa.UpdateBase) -> None:
            async with self.database.transaction() as session:
                for statement in statements:
                    await session.execute(statement, execution_options={"synchronize_session": False})

        return await timed(lambda: run(first)), await timed(lambda: run(*others))

    async def dry_run(self, number: int) -> Line:
        """Only deciding what is due, beside a SELECT of the same rows."""

        async def look() -> None:
            report = await sweep(self.services, self.controller_id, NOW, dry_run=True)
            if len(report.due) != number:
                raise RuntimeError(f"{len(report.due)} are due instead of {number}")

        ours = await timed(look)
        plain = sa.select(Recording.id, Recording.sweep_on).where(
            Recording.controller_id == self.controller_id, Recording.sweep_on <= NOW
        )
        return Line(self.name, "sweep, dry run", number, ours, await timed(lambda: self._read(plain)))

    async def sweeping(self, number: int, plain: float, further: float) -> tuple[Line, Sweeping]:
        """Erase them, beside what `plain_erasure` took."""

        async def erase() -> None:
            report = await sweep(self.services, self.controller_id, NOW)
            if len(report.erased) != number or report.failed or report.kept or report.braked:
                raise RuntimeError(f"{len(report.erased)} of {number} were erased")

        with watched(self.database) as work:
            ours = await timed(erase)
        await due.check_erased(self.services, self.controller_id, number, NOW)
        line = Line(self.name, "sweep", number, ours, plain)
        return line, Sweeping(self.name, number, ours, further, work)

    async def _read(self, query: sa.Executable) -> None:
        async with self.database.snapshot() as session:
            (await session.execute(query)).all()


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds on the clock."""
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


async def measure(estate: Estate, count: int) -> tuple[list[Line], Sweeping]:
    """Everything on one database."""
    say(f"{estate.name}: making {count} recordings")
    try:
        await estate.make(count)
        lines = []
        for step in (estate.simulation, estate.evaluation):
            lines.append(await step(count))
            say(str(lines[-1]))
        number = await estate.overdue(count)
        plain, further = await estate.plain_erasure()
        say(f"{number} are due")
        lines.append(await estate.dry_run(number))
        say(str(lines[-1]))
        swept, sweeping = await estate.sweeping(number, plain, further)
        say(f"{swept}\n{sweeping.words()}")
        return [*lines, swept], sweeping
    finally:
        await estate.database.close()


def say(what: str) -> None:
    """Tell how far it is."""
    print(time.strftime("%H:%M:%S"), what, flush=True)


def document(lines: list[Line], sweeps: list[Sweeping], count: int, load: float) -> str:
    """The page of figures."""
    rows = "\n".join(
        f"| {line.database} | {line.what} | {line.rows:,} | {line.ours:.1f} | {line.plain:.2f} | "
        f"{line.ours / line.plain:,.1f} | {line.rows / line.ours:,.0f} |"
        for line in lines
    )
    costs = "\n".join(sweeping.words() for sweeping in sweeps)
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
- *sweep, dry run* decides a further hundredth of recordings afresh, each by itself: calls of {due.DUE} years
  ago, whose time is over.
- *sweep* erases them, each by itself: what the dry run does; then keys destroyed, what is personal stripped
  from the rows, the object deleted and looked for again, the ledger's entry, the tombstone, the signed
  certificate and the log's entries. Afterwards the run counts all of these and stops if one is missing or an
  object is left. The objects are small and lie in memory: a real store adds what its requests take. Plain
  SQL beside it is one `UPDATE` of the rows of as many other such recordings, which empties the same columns
  of `recordings`; it destroys no key, deletes nothing and proves nothing.

| database | | recordings | seconds | plain SQL | times that | recordings a second |
|---|---|---:|---:|---:|---:|---:|
{rows}

Compare within a line: the databases are measured one after the other, and what else the machine does differs.
Other sizes: `make bench-estate ARGS="--count 100000"`; they are printed, not written.

## What an erasure is made of

Every step of an erasure is a transaction of its own, so that one that is interrupted goes on where it was
(docs/erasure.md). That, a recording at a time, is what a sweep pays for beside one statement; the seconds
are the clock's, waiting for a busy processor included.

{costs}
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
        sweeps: list[Sweeping] = []
        for name, url in (
            ("SQLite", f"sqlite+aiosqlite:///{folder / 'estate.sqlite3'}"),
            ("PostgreSQL", postgres.new_database()),
        ):
            if arguments.database not in {None, name}:
                continue
            estate = Estate(name, url, folder)
            measured, sweeping = asyncio.run(measure(estate, arguments.count))
            lines += measured
            sweeps.append(sweeping)
    finally:
        postgres.close()
        clean(folder)
    text = document(lines, sweeps, arguments.count, load)
    print(text)
    whole = arguments.database is None and arguments.count == parser.get_default("count")
    output = arguments.output or (_DOCUMENT if whole else None)
    if output is not None:
        output.write_text(text)


if __name__ == "__main__":
    main()
