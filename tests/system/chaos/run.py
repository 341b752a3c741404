"""Calls of all kinds are pushed at a real installation while everything breaks; then everything is counted.

Faults follow the seed and how many requests have come to an end, never a clock alone. Loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import sqlalchemy as sa

from recorder.app import open_services
from recorder.catalogue.enums import JobState
from recorder.catalogue.tables import Fetch, FetchState, Job
from recorder.clock import SystemClock
from recorder.ingest.fetching import FETCH_JOB
from recorder.jobs.reconcile import Findings, reconcile
from recorder.services import Services
from recorder.simulate.calls import Calls, from_files
from recorder.simulate.hosting import Shelf, hosted
from recorder.simulate.running import Pace, play
from recorder.simulate.senders import SENDERS, Target
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.chaos.checker import Config, write_config
from tests.system.chaos.faults import ALL, ALONE, Step, World, schedule
from tests.system.chaos.proxy import StoreProxy
from tests.system.installation import ROOT, Installation, embedded, in_own_loop, production
from tests.system.test_simulate import SECRET, source_of

SMALL_SPOOL = {"RECORDER_SPOOL_MAX_BYTES": str(3 * 1024 * 1024), "RECORDER_SPOOL_MAX_ITEMS": "60"}
# Streams are not repeated: their callers have hung up.
ONCE = frozenset({"jambonz"})
_BLOCK = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much.

    Attributes:
        count: pushed calls.
        faults: how many; the calls are spread over them.
        minutes: after which no new fault and no new call begins.
        kinds: of `SENDERS`.
        natural: leases and pauses of the work queue run out by themselves, which takes up to ten minutes.
    """

    seed: int
    count: int
    faults: int
    minutes: float = 60.0
    kinds: Sequence[str] = tuple(sorted(SENDERS))
    natural: bool = False


@dataclass
class Result:
    """How it went.

    Attributes:
        statuses: of every request; 0 where no answer came.
        finals: last answers, by kind of sender.
        struck: faults, in their order.
        unexpected: what the processes logged of failures that nobody expected.
        report: the checker's counts and findings.
    """

    plan: Plan
    statuses: Counter[int] = field(default_factory=Counter)
    finals: dict[str, Counter[int]] = field(default_factory=dict)
    struck: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    proxied: dict[str, int] = field(default_factory=dict)
    reconciled: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    code: int = -1

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.plan.seed,
            "count": self.plan.count,
            "statuses": {str(k): n for k, n in sorted(self.statuses.items())},
            "finals": {
                kind: {str(k): n for k, n in sorted(c.items())} for kind, c in sorted(self.finals.items())
            },
            "faults": dict(Counter(self.struck)),
            "store_proxy": self.proxied,
            "reconciled": self.reconciled,
            "unexpected": self.unexpected,
            "seconds": {k: round(v, 1) for k, v in self.seconds.items()},
            **self.report,
        }


def told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """One run against one installation, which it starts and leaves running."""

    def __init__(self, plan: Plan, world: World, speech: bytes, folder: Path) -> None:
        self.plan, self.world, self.folder = plan, world, folder
        self.result = Result(plan)
        world.passed = self.passed
        self.ledger = folder / "ledger.ndjson"
        self._calls = Calls(
            speech, seed=plan.seed, start=SystemClock().now() - timedelta(hours=3), seconds=(1.1, 6.0)
        )
        self._ended = 0
        self._allowed = 0.0  # share of each kind's calls that may begin by now
        self._more = asyncio.Condition()
        self._pushed = False
        self._chance = random.Random(f"clients/{plan.seed}")

    # Progress

    def _trace(self) -> aiohttp.TraceConfig:
        trace = aiohttp.TraceConfig()

        async def ended(_session: Any, _context: Any, params: aiohttp.TraceRequestEndParams) -> None:
            self.result.statuses[params.response.status] += 1
            await self._count()

        async def failed(_session: Any, _context: Any, _params: Any) -> None:
            self.result.statuses[0] += 1
            await self._count()

        trace.on_request_end.append(ended)
        trace.on_request_exception.append(failed)
        return trace

    async def _count(self) -> None:
        async with self._more:
            self._ended += 1
            self._more.notify_all()

    async def passed(self, requests: int, seconds: float) -> None:
        """Wait until so many requests have come to an end, all calls were pushed, or the time is over."""
        wanted = self._ended + requests
        try:
            async with asyncio.timeout(seconds), self._more:
                await self._more.wait_for(lambda: self._ended >= wanted or self._pushed)
        except TimeoutError:
            pass

    async def _allow(self, share: float) -> None:
        async with self._more:
            self._allowed = share
            self._more.notify_all()

    # Clients

    async def _break_off(self, body: bytes) -> AsyncIterator[bytes]:
        """A body; one in eight ends before its end, as a line that is cut."""
        end = self._chance.randrange(len(body)) if self._chance.random() < 0.12 else None
        for start in range(0, len(body), 16 * 1024):
            if end is not None and start + 16 * 1024 > end:
                yield body[start:end]
                raise ConnectionResetError
            yield body[start : start + 16 * 1024]

    async def _kind(
        self, session: aiohttp.ClientSession, kind: str, token: str, shelf: Shelf, numbers: range
    ) -> None:
        own = self.world.installation
        target = Target(session, own.url, token, SECRET, media=shelf, hinder=self._break_off)
        sender = SENDERS[kind]()
        finals = self.result.finals.setdefault(kind, Counter())
        chance = random.Random(f"{kind}/{self.plan.seed}")
        retries = 0 if kind in ONCE else 40
        for first in range(numbers.start, numbers.stop, _BLOCK):
            count = min(_BLOCK, numbers.stop - first)
            async with self._more:
                done = (first - numbers.start) / len(numbers)
                await self._more.wait_for(lambda: self._allowed > done)  # noqa: B023 - waited for here
            pace = Pace(count, concurrency=2, retries=retries)
            again = [n for n in range(first, first + count) if kind not in ONCE and chance.random() < 0.15]
            lines = _Ledger(self.ledger, kind)
            tally = await play(sender, target, self._calls, pace, first=first, ledger=lines, sleep=_soon)  # type: ignore[arg-type]  # write() is all it needs
            finals.update(tally.statuses)
            for number in again:  # a sender that did not believe its answer
                pace = Pace(1, retries=retries)
                await play(sender, target, self._calls, pace, first=number, ledger=lines, sleep=_soon)  # type: ignore[arg-type]

    # The run

    async def go(self) -> Result:
        began = time.monotonic()
        own = self.world.installation
        async with AsyncExitStack() as stack:
            shelf = await stack.enter_async_context(hosted("127.0.0.1", 0))
            port = int(shelf.offer("x", b"").rpartition("/")[0].rpartition(":")[2])
            shelf.fetched.add("x")
            tokens = await asyncio.to_thread(in_own_loop, self._sources(port))
            # The copy of tokens by which sources are known while the database is away is made at the start.
            await asyncio.to_thread(own.start)
            self.result.seconds["set up"] = time.monotonic() - began
            session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=40, sock_connect=5), trace_configs=[self._trace()]
                )
            )
            began = time.monotonic()
            await self._push(session, tokens, shelf)
            self.result.seconds["pushed"] = time.monotonic() - began
            began = time.monotonic()
            await self._settle()
            self.result.seconds["settled"] = time.monotonic() - began
            began = time.monotonic()
            # Without its usual grace of a day: nothing may be between its object and its row meanwhile.
            await asyncio.to_thread(own.stop)
            found = await asyncio.to_thread(in_own_loop, self._reconcile())
            await asyncio.to_thread(own.start)
            self.result.reconciled = {
                "orphans": len(found.orphans),
                "uploads": len(found.uploads),
                "missing": len(found.missing),
                "resized": len(found.resized),
                "extra": len(found.extra),
            }
            if self.world.proxy is not None:
                self.result.proxied = self.world.proxy.done
            self.result.seconds["reconciled"] = time.monotonic() - began
            began = time.monotonic()
            self.result.report, self.result.code = await checked(self.config(), self.folder)
            self.result.unexpected = [
                line
                for log in own.logs
                for line in log.read_text(errors="replace").splitlines()
                if "unexpected failure" in line
            ]
            self.result.seconds["checked"] = time.monotonic() - began
        return self.result

    async def _sources(self, port: int) -> dict[str, str]:
        """A source of each kind, and its token."""
        own = self.world.installation
        return dict(
            zip(self.plan.kinds, [await source_of(own, kind, port) for kind in self.plan.kinds], strict=True)
        )

    async def _push(self, session: aiohttp.ClientSession, tokens: dict[str, str], shelf: Shelf) -> None:
        plan = self.plan
        total = len(plan.kinds)
        bounds = [plan.count * place // total for place in range(total + 1)]
        ends = time.monotonic() + plan.minutes * 60
        players = []
        for place, kind in enumerate(plan.kinds):
            numbers = range(bounds[place], bounds[place + 1])
            players.append(asyncio.create_task(self._kind(session, kind, tokens[kind], shelf, numbers)))
        together = asyncio.gather(*players)

        def finished(_: Any) -> None:
            self._pushed = True

        together.add_done_callback(finished)
        faults = ALL if self.world.database is not None else ALONE
        steps = schedule(plan.seed, faults, plan.faults)
        told(f"chaos: seed {plan.seed}, {plan.count} calls of {len(plan.kinds)} kinds, {len(steps)} faults")
        for number, step in enumerate(steps):
            await self._allow((number + 0.5) / (len(steps) + 1))
            if self._pushed or time.monotonic() > ends:
                break
            await self._strike(step)
            # Calls of those who never try again come both while it is broken and while it is well.
            await self._allow((number + 1) / (len(steps) + 1))
            await self.passed(step.span, 2.0)
        await self._allow(1.0)
        await together

    async def _strike(self, step: Step) -> None:
        began, before = time.monotonic(), self._ended
        await self.world.strike(step)
        self.result.struck.append(step.fault)
        told(f"  {step.fault:<36}{self._ended - before:>6} requests {time.monotonic() - began:>6.1f} s")

    async def _settle(self) -> None:
        """Wait until the spool is drained and nothing is queued any more."""
        own = self.world.installation
        if not self.plan.natural:
            await asyncio.to_thread(own.stop)
            await asyncio.to_thread(in_own_loop, self._released())
            await asyncio.to_thread(own.start)
        async with aiohttp.ClientSession() as session:

            async def calm() -> bool:
                async with session.get(f"{own.url}/readyz") as response:
                    ready = await response.json()
                return bool(ready["ready"] and not ready["degraded"] and not ready["spooled"])

            await asyncio.to_thread(in_own_loop, self._until_idle(in_this_loop(calm)))

    async def _released(self) -> None:
        async with open_services(self.world.installation.open_settings()) as services:
            await _release(services)

    async def _until_idle(self, calm: Callable[[], bool]) -> None:
        deadline, waited = time.monotonic() + (1200.0 if self.plan.natural else 120.0), Counter[str]()
        async with open_services(self.world.installation.open_settings()) as services:
            while time.monotonic() < deadline:
                if not self.plan.natural:
                    await _hurry(services)
                if await _fetching(services):
                    waited["fetches"] += 1
                elif not await asyncio.to_thread(calm):
                    waited["spool"] += 1
                else:
                    return
                await asyncio.sleep(0.1)
        told(f"chaos: still under way, {dict(waited)}")

    async def _reconcile(self) -> Findings:
        async with open_services(self.world.installation.open_settings()) as services:
            return await reconcile(services, services.clock.now() + timedelta(hours=1), grace=timedelta(0))

    def config(self) -> Config:
        """For the checker, past the proxy."""
        return config_of(self.world.installation, self.ledger, self.world.store)


async def _hurry(services: Services) -> None:
    """Let pauses run out now."""
    now = services.clock.now()
    async with services.database.transaction() as session:
        waiting = sa.update(Fetch).where(Fetch.state == FetchState.WAITING, Fetch.due_at > now)
        await session.execute(waiting.values(due_at=now))
        queued = sa.update(Job).where(
            Job.kind == FETCH_JOB, Job.state == JobState.QUEUED, Job.not_before > now
        )
        await session.execute(queued.values(not_before=now))


async def _release(services: Services) -> None:
    """Let the leases of the killed run out now; nobody is alive."""
    async with services.database.transaction() as session:
        held = sa.update(Job).where(Job.state == JobState.RUNNING)
        await session.execute(held.values(lease_until=services.clock.now()))


async def _fetching(services: Services) -> int:
    """Audio that is still to be fetched. Peaks and checks of the media may take their time."""
    async with services.database.snapshot() as session:
        waiting = sa.select(sa.func.count()).where(Fetch.state == FetchState.WAITING)
        return (await session.scalar(waiting)) or 0


def in_this_loop(ask: Callable[[], Coroutine[Any, Any, T]]) -> Callable[[], T]:
    """For a thread: has the loop that runs now do it, and waits."""
    loop = asyncio.get_running_loop()
    return lambda: asyncio.run_coroutine_threadsafe(ask(), loop).result()


def config_of(own: Installation, ledger: Path, store: S3Server | None) -> Config:
    """Where the checker finds everything of an installation."""
    if store is None:
        database, place = f"sqlite:{own.data / 'catalogue.sqlite3'}", {"folder": str(own.data / "objects")}
    else:
        database = own.settings["RECORDER_DATABASE_URL"].replace("+psycopg", "")
        place = {
            "endpoint": store.endpoint,
            "access_key": store.access_key,
            "secret_key": store.secret_key,
            "bucket": own.settings["RECORDER_OBJECT_STORE"].removeprefix("s3://"),
        }
    return Config(
        ledger=str(ledger),
        server=own.url,
        listener=own.tokens["quality"],
        operator=own.tokens["operator"],
        database=database,
        store=place,
        spool=str(own.data / "spool"),
        environment={**own.environment, "PYTHONPATH": str(ROOT)},
    )


async def checked(config: Config, folder: Path) -> tuple[dict[str, Any], int]:
    """What the checker says, in a process of its own, and its exit code."""
    path = folder / "checker.json"
    write_config(config, path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.system.chaos.checker", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    out, words = await process.communicate()
    told(words.decode())
    if not out.strip():
        raise AssertionError(words.decode())
    report: dict[str, Any] = json.loads(out)
    assert process.returncode is not None
    return report, process.returncode


class _Ledger:
    """A file of one JSON object for each call, flushed line by line."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind

    def write(self, text: str) -> int:
        line = json.loads(text)
        status = line["status"]
        line |= {"source": f"sim-{self._kind}", "accepted": 200 <= status < 300 or status == 101}
        with self._path.open("a") as file:
            return file.write(json.dumps(line) + "\n")


async def _soon(seconds: float) -> None:
    """Senders repeat sooner than real ones: the outages here are short."""
    await asyncio.sleep(min(seconds, 2.0))


def speech_of(voices: Sequence[Path]) -> bytes:
    """A conversation out of the longest of these files."""
    return from_files(sorted(voices, key=lambda path: -path.stat().st_size)[:6])


@asynccontextmanager
async def production_world(
    plan: Plan,
    speech: bytes,
    folder: Path,
    make: Callable[..., Installation],
    store: S3Server,
    database: PostgresServer,
) -> AsyncIterator[Run]:
    """PostgreSQL and S3, with the proxy between. ``make(production, …)`` installs."""
    async with StoreProxy(store.port, random.Random(f"proxy/{plan.seed}")).running() as proxy:
        settings = {"RECORDER_S3_ENDPOINT": proxy.url, "RECORDER_FETCH_PRIVATE_HOSTS": '["127.0.0.1"]'}
        own = await asyncio.to_thread(make, production, store, database, **settings, **SMALL_SPOOL)
        yield Run(plan, World(own, proxy, store, database), speech, folder)


async def embedded_run(plan: Plan, speech: bytes, folder: Path, make: Callable[..., Installation]) -> Run:
    """Everything on one box."""
    own = await asyncio.to_thread(make, embedded, RECORDER_FETCH_PRIVATE_HOSTS='["127.0.0.1"]')
    return Run(plan, World(own), speech, folder)
