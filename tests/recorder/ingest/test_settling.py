"""The storing transaction: what it decides without reading back, and what it waits for."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue import enums
from recorder.catalogue.inserting import insert_rows
from recorder.catalogue.tables import (
    AuditEntry,
    Base,
    Choice,
    Controller,
    Customer,
    Hold,
    Job,
    Matter,
    Recording,
    Restriction,
    Source,
    StoredObjectRow,
    Tombstone,
)
from recorder.customers.records import CustomerUpsert, upsert
from recorder.disposition import schedules
from recorder.disposition.evaluation import reevaluate
from recorder.disposition.facts import load_cases
from recorder.errors import Erased, MalformedInput
from recorder.ingest.digests import DigestCheck
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.services import Services
from retention.engine import decide_case
from storage.errors import StoreUnavailable
from storage.memory import MemoryStore
from storage.objects import Stat
from storage.vault import Vault
from tests.recorder.conftest import START
from tests.recorder.ingest.conftest import body, principal_of, request

DECIDED = ("decision", "schedule_version", "erase_on", "sweep_on", "held", "restricted", "evaluated_at")


class PausingStore(MemoryStore):
    """Takes a whole body, then waits before it confirms."""

    def __init__(self) -> None:
        super().__init__(versioned=True)
        self.taken = asyncio.Event()
        self.confirm = asyncio.Event()
        self.fails = False

    async def put(self, key: str, body: Any, *, size: int | None) -> Stat:
        pieces = [bytes(piece) async for piece in body]
        self.taken.set()
        await self.confirm.wait()
        if self.fails:
            raise StoreUnavailable("away")

        async def again() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return await super().put(key, again(), size=size)


@pytest.fixture
def paused(services: Services) -> tuple[Services, PausingStore]:
    store = PausingStore()
    return Services(
        settings=services.settings,
        clock=services.clock,
        database=services.database,
        keyring=services.keyring,
        store=store,
        vault=Vault(store, services.keyring),
    ), store


async def push(services: Services, source: Source, asked: IngestRequest, data: bytes) -> Outcome:
    return await Intake(services).accept(
        asked, body(data), principal=principal_of(source), request_id=uuid.uuid4().hex
    )


async def count(services: Services, table: type[Base]) -> int:
    async with services.database.snapshot() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


async def nothing_is_committed(services: Services) -> None:
    for table in (Recording, StoredObjectRow, AuditEntry, Job):
        assert await count(services, table) == 0, table


async def test_nothing_is_committed_or_acknowledged_before_the_store_confirms(
    paused: tuple[Services, PausingStore], source: Source, wav: bytes
) -> None:
    services, store = paused
    pushing = asyncio.create_task(push(services, source, request(), wav))
    await store.taken.wait()
    for _ in range(20):
        await nothing_is_committed(services)
    assert not pushing.done()
    store.confirm.set()
    assert (await pushing).kind is OutcomeKind.CREATED
    assert [await count(services, t) for t in (Recording, StoredObjectRow, AuditEntry, Job)] == [1, 1, 1, 3]


async def test_a_store_that_fails_after_the_last_byte_takes_the_rows_back(
    paused: tuple[Services, PausingStore], source: Source, wav: bytes
) -> None:
    services, store = paused
    store.fails = True
    pushing = asyncio.create_task(push(services, source, request(), wav))
    await store.taken.wait()
    await nothing_is_committed(services)
    store.confirm.set()
    with pytest.raises(StoreUnavailable):
        await pushing
    await nothing_is_committed(services)


async def test_a_slow_store_is_waited_for_without_a_transaction(
    paused: tuple[Services, PausingStore], source: Source, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, store = paused
    monkeypatch.setattr("recorder.ingest.settling._PATIENCE", 0.0)
    given_up = asyncio.Event()
    monkeypatch.setattr("recorder.ingest.settling.log.debug", lambda *_: given_up.set())
    pushing = asyncio.create_task(push(services, source, request(), wav))
    await store.taken.wait()
    if not services.database.sqlite:  # on SQLite none is begun before the store has confirmed
        await given_up.wait()
    # The transaction that was begun early has given up, and with it went its locks: this one gets through.
    async with services.database.transaction() as session:
        session.add(
            Tombstone(
                source_id=source.id,
                identity=await identity_of(services, source),
                recording_id=uuid.uuid4(),
                erased_at=START,
                certificate_id=None,
            )
        )
    store.confirm.set()
    with pytest.raises(Erased):  # erased meanwhile: the second transaction looks again
        await pushing
    assert [stat async for stat in store.list()] == []
    assert await count(services, Recording) == 0


async def identity_of(services: Services, source: Source) -> bytes:
    from recorder.ingest.identity import recording_identity

    return recording_identity(services.keyring, source.controller_id, source.id, "call-1", None)


async def test_a_repeat_and_a_refused_digest_leave_one_object(
    services: Services, source: Source, wav: bytes
) -> None:
    assert (await push(services, source, request(), wav)).kind is OutcomeKind.CREATED
    assert (await push(services, source, request(), wav)).kind is OutcomeKind.REPEATED
    digests = DigestCheck.from_fields([("Content-Digest", "sha-256=:" + "A" * 43 + "=:")])
    with pytest.raises(MalformedInput):
        await push(services, source, request(external_id="2", digests=digests), wav)
    assert len([stat async for stat in services.store.list()]) == 1


async def test_a_shared_hasher_judges_an_announced_digest() -> None:
    import base64

    right = base64.b64encode(hashlib.sha256(b"audio").digest()).decode()
    long = base64.b64encode(hashlib.sha512(b"audio").digest()).decode()
    check = DigestCheck.from_fields([("Repr-Digest", f"sha-256=:{right}:, sha-512=:{long}:")])
    shared = hashlib.sha256()
    check.share("sha-256", shared)
    shared.update(b"audi")
    check.update(b"audio")
    assert check.mismatched() == ("Repr-Digest",)
    shared.update(b"o")
    assert check.mismatched() == ()


async def test_a_broken_constraint_rolls_the_whole_of_it_back(
    services: Services, controller: Controller
) -> None:
    def matter(matter_id: uuid.UUID, controller_id: uuid.UUID) -> Matter:
        return Matter(id=matter_id, controller_id=controller_id, **matter_fields())

    one, other = uuid.uuid4(), uuid.uuid4()
    for rows in (
        [matter(one, controller.id), matter(one, controller.id)],
        [matter(one, controller.id), matter(other, uuid.uuid4())],
    ):
        with pytest.raises(sa.exc.IntegrityError):
            async with services.database.transaction() as session:
                await insert_rows(session, rows)
    assert await count(services, Matter) == 0


def filler(column: sa.Column[Any], moment: datetime) -> Any:
    kinds: dict[Any, Any] = {str: "x", bytes: b"x"}
    return kinds.get(column.type.python_type, moment)


def matter_fields() -> dict[str, Any]:
    required: dict[str, Any] = {}
    for column in Base.metadata.tables["matters"].columns:
        if column.key in {"id", "controller_id"} or column.nullable:
            continue
        required[column.key] = filler(column, START)
    return required


async def customer(services: Services, controller: Controller, number: str) -> uuid.UUID:
    given = CustomerUpsert(number=number, source=enums.DataSource.REGISTRATION)
    return (await upsert(services, controller.id, given, actor="system:test", request_id="r")).id


async def circumstances(services: Services, controller: Controller, dice: random.Random) -> None:
    """Customers c0 to c7, each with another part of everything that can stand around one."""
    now = services.clock.now()
    options = list(itertools.product((False, True), repeat=3))
    people = [await customer(services, controller, f"c{n}") for n in range(len(options))]
    matter = Matter(id=uuid.uuid4(), controller_id=controller.id, **matter_fields())
    rows: list[Base] = [matter]
    for person, (held, chose, restricted) in zip(people, options, strict=True):
        if held:
            rows.append(
                Hold(
                    id=uuid.uuid4(),
                    matter_id=matter.id,
                    customer_id=person,
                    placed_at=now - timedelta(days=2),
                    placed_by="os:test",
                )
            )
        if chose:
            rows.append(
                Choice(
                    id=uuid.uuid4(),
                    customer_id=person,
                    kind=dice.choice([enums.ChoiceKind.OBJECTION, enums.ChoiceKind.CONSENT_WITHDRAWN]),
                    purposes=dice.choice([[], ["training"]]),
                    channel=None,
                    effective_at=now - timedelta(days=1),
                    source="call",
                    recorded_at=now,
                    actor="os:test",
                )
            )
        if restricted:
            rows.append(
                Restriction(
                    id=uuid.uuid4(),
                    customer_id=person,
                    **restriction_fields(),
                )
            )
    async with services.database.transaction() as session:
        await insert_rows(session, rows)
        await session.execute(
            sa.update(Customer)
            .where(Customer.id == people[1])
            .values(relationship_ended_at=now - timedelta(days=400), financial_year_end=now)
        )


def restriction_fields() -> dict[str, Any]:
    required: dict[str, Any] = {}
    for column in Base.metadata.tables["restrictions"].columns:
        if column.key != "id" and not column.nullable:
            required[column.key] = filler(column, START - timedelta(days=1))
    return required


def deliveries(dice: random.Random) -> Iterable[dict[str, Any]]:
    for number in range(24):
        started = START - timedelta(
            seconds=dice.randrange(3 * 365 * 86400), microseconds=dice.randrange(10**6)
        )
        fields: dict[str, Any] = {
            "external_id": f"call-{number}",
            "started_at": started.isoformat(),
            "direction": dice.choice([None, "inbound", "outbound", "internal"]),
            "queue": dice.choice([None, "sales", "claims"]),
            "tags": dice.sample(["vip", "fi", "sv"], dice.randrange(3)),
            "agents": dice.sample(["a1", "a2"], dice.randrange(3)),
            "lawful_basis": dice.choice([None, *(b.value for b in enums.LawfulBasis)]),
            "service_events": dice.sample([{"type": "contract"}, {"type": "claim"}], dice.randrange(3)),
            "muted": dice.choice([[], [{"from": 0.1, "to": 0.2, "reason": "payment"}]]),
            "duration": dice.choice([None, 0.5, 90.25]),
        }
        if number % 3:
            fields["customer"] = {"number": f"c{number % 8}"}
        yield {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("seed", range(3))
async def test_the_decision_made_in_hand_is_the_one_made_from_the_rows(
    services: Services, controller: Controller, source: Source, wav: bytes, seed: int
) -> None:
    dice = random.Random(seed)
    now = services.clock.now()
    if seed:  # seed 0: a controller without a schedule
        async with services.database.transaction() as session:
            await schedules.install_default(session, controller, actor="os:test", now=now)
    await circumstances(services, controller, dice)
    for fields in deliveries(dice):
        outcome = await push(services, source, request(**fields), wav)
        assert outcome.recording_id is not None
        async with services.database.snapshot() as session:
            row = await session.get_one(Recording, outcome.recording_id)
            stored = {name: getattr(row, name) for name in DECIDED}
            case = (await load_cases(session, [row.id], now))[row.id]
        assert stored["decision"] == decide_case(case, now).to_json()
        async with services.database.transaction() as session:
            await reevaluate(session, services, [row.id], now)
            again = await session.get_one(Recording, row.id)
            assert {name: getattr(again, name) for name in DECIDED} == stored
        assert outcome.retention is not None
        assert outcome.retention["windows"] == stored["decision"]["windows"]
        assert (outcome.retention["held"], outcome.retention["restricted"]) == (row.held, row.restricted)


async def test_a_push_takes_few_statements(services: Services, source: Source, wav: bytes) -> None:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    await push(services, source, request(external_id="warm"), wav)
    engine = services.database.engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    await push(services, source, request(external_id="counted"), wav)
    sa.event.remove(engine, "before_cursor_execute", note)
    asked = [s for s in seen if s.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    written = [s for s in asked if s.startswith("INSERT")]
    assert len(written) == 7
    # Locks and look-ups of PostgreSQL go past the engine, in the driver's pipeline.
    assert len(asked) - len(written) == (1 if services.database.sqlite else 0)
