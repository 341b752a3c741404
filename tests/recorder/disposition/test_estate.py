"""The grouped estate: equal to deciding every recording by itself, on both databases."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue import enums
from recorder.catalogue.tables import (
    Call,
    Choice,
    Controller,
    Customer,
    Erasure,
    ErasureItem,
    Hold,
    Matter,
    Recording,
    RecordingLink,
    Restriction,
)
from recorder.disposition.estate import groups, simulate
from recorder.disposition.facts import ALIVE, load_cases
from retention import schedule
from retention.model import Schedule
from retention.profiles import Profiler
from retention.simulate import Comparison, Group, compare
from tests.recorder.disposition_world import World

OLD = schedule.check(schedule.default_schedule_text("FI", "fi-main"))
HEAD = '[schedule]\ncontroller = "fi-main"\nversion = 2\n'
RULE = '[[rule]]\nid = "{id}"\npurposes = [{purposes}]\nkeep = "{keep}"\nafter = "{after}"\n{more}\n'


def changed(*edits: tuple[str, str]) -> Schedule:
    text = schedule.default_schedule_text("FI", "fi-main")
    for before, after in edits:
        assert before in text
        text = text.replace(before, after, 1)
    return schedule.check(text)


def of_rules(*rules: dict[str, str]) -> Schedule:
    return schedule.check(HEAD + "".join(RULE.format(**{"more": "", **rule}) for rule in rules))


ALL = '"service_evidence", "legal_protection", "security", "training", "quality"'
VARIANTS = {
    "quality-shorter": changed(('keep      = "P1Y"', 'keep      = "P90D"')),
    "longer": changed(('keep     = "P8Y"', 'keep     = "P10Y"')),
    "evidence-from-the-call": changed(('after    = "last_contact"', 'after    = "call_started"')),
    "every-condition": of_rules(
        {"id": "all", "purposes": ALL, "keep": "P2Y", "after": "call_ended"},
        {
            "id": "long-sales",
            "purposes": '"training"',
            "keep": "P6Y",
            "after": "relationship_ended",
            "more": 'when = { queue = ["sales"], direction = ["inbound"], tag = ["vip"], '
            'duration_at_least = "PT15S", duration_less_than = "PT5M", source = ["pbx-1"] }',
        },
        {
            "id": "consent",
            "purposes": '"quality"',
            "keep": "P30D",
            "after": "consent_withdrawn",
            "more": 'when = { basis = ["consent"] }',
        },
        {
            "id": "statute",
            "purposes": '"legal_protection"',
            "keep": "P6Y",
            "after": "end_of_calendar_year_of(financial_year_end)",
            "more": 'when = { service_event = ["payment"] }\nstatutory = "FI 1336/1997 2:10"',
        },
        {"id": "matter", "purposes": '"security"', "keep": "P1Y", "after": "matter_closed"},
    ),
}


async def fill(world: World, count: int, seed: int) -> None:
    """Recordings around midnights and summer-time changes, with something of everything around them."""
    dice = random.Random(seed)
    zone = ZoneInfo("Europe/Helsinki")
    now = world.now

    def moment() -> datetime:
        day = now.astimezone(zone) - timedelta(
            days=dice.choice([0, 1, 30, 89, 90, 91, 364, 365, 366, 1500, 2922])
        )
        clock = dice.choice([(0, 0, 0), (23, 59, 59), (3, 30, 0), (12, 0, 0)])
        local = day.replace(
            hour=clock[0], minute=clock[1], second=clock[2], microsecond=dice.choice([0, 999_999])
        )
        if dice.random() < 0.3:
            local = datetime(2024, dice.choice([3, 10]), dice.choice([27, 28, 31]), 23, 45, tzinfo=zone)
        return min(local.astimezone(UTC), now)

    async with world.services.database.transaction() as session:
        subject_id = world.controller.subject_id
        assert subject_id is not None
    customers = [await world.customer(last_contact=dice.choice([None, moment()])) for _ in range(8)]
    async with world.services.database.transaction() as session:
        for number, customer_id in enumerate(customers):
            row = await session.get_one(Customer, customer_id)
            if number % 3 == 0:
                row.relationship_ended_at = moment()
                row.relationship_end_confirmed_at = dice.choice([None, now, now + timedelta(days=1)])
            if number % 4 == 0:
                row.financial_year_end = datetime(2024, 3, 30, 22, tzinfo=UTC)
        made: list[uuid.UUID] = []
        for _ in range(count):
            recording_id, call_id, started = uuid.uuid4(), uuid.uuid4(), moment()
            if dice.random() < 0.05:
                started = now + timedelta(hours=1)
            call = Call(
                id=call_id,
                controller_id=world.controller.id,
                source_id=world.source.id,
                identity=call_id.bytes,
                started_at=started,
                created_at=now,
            )
            session.add(call)
            await session.flush()
            session.add(
                Recording(
                    id=recording_id,
                    controller_id=world.controller.id,
                    source_id=world.source.id,
                    call_id=call_id,
                    identity=recording_id.bytes,
                    subject_id=subject_id,
                    customer_id=dice.choice([None, *customers]),
                    state=dice.choice([*ALIVE, enums.RecordingState.ERASED]),
                    reasons=[],
                    started_at=started,
                    ended_at=dice.choice(
                        [None, None, started + timedelta(minutes=3), started - timedelta(minutes=1)]
                    ),
                    received_at=now,
                    duration_ms=dice.choice([None, 0, 14_999, 15_000, 60_000, 300_000, 7_200_000]),
                    direction=dice.choice([None, *enums.Direction]),
                    queue=dice.choice([None, "sales", "support"]),
                    agents=[],
                    tags=dice.choice([[], ["vip"], ["x", "vip"]]),
                    service_events=dice.choice([[], ["payment"], ["ledger", "payment"]]),
                    lawful_basis=dice.choice([*enums.LawfulBasis]),
                    muted=dice.choice([[], [], [], [{"reason": "card_security"}], [{"reason": "pause"}]]),
                    card_data_removed=dice.random() < 0.5,
                    channels=[],
                    media={},
                    sha256=b"",
                    size=dice.randrange(1000),
                )
            )
            made.append(recording_id)
        await session.flush()
        await _happen(session, world, dice, customers, made, now)


async def _happen(
    session: AsyncSession,
    world: World,
    dice: random.Random,
    customers: list[uuid.UUID],
    made: list[uuid.UUID],
    now: datetime,
) -> None:
    before = now - timedelta(days=10)
    matter = Matter(
        id=uuid.uuid4(),
        controller_id=world.controller.id,
        reference="m",
        ground="legal_claims",
        review_on=now,
        opened_at=before,
    )
    erasure = Erasure(
        id=uuid.uuid4(),
        controller_id=world.controller.id,
        scope="recording",
        ground=enums.ErasureGround.REQUEST,
        requested_by="os:test",
        requested_at=before,
        detail={},
        finished_at=now,
    )
    session.add_all([matter, erasure])
    await session.flush()

    def hold(**target: uuid.UUID) -> Hold:
        return Hold(id=uuid.uuid4(), matter_id=matter.id, placed_at=before, placed_by="os:test", **target)

    def choice(customer_id: uuid.UUID, kind: enums.ChoiceKind) -> Choice:
        return Choice(
            id=uuid.uuid4(),
            customer_id=customer_id,
            kind=kind,
            purposes=[],
            effective_at=before,
            source="call",
            recorded_at=before,
            actor="os:test",
        )

    session.add_all(
        [
            hold(recording_id=made[0]),
            hold(customer_id=customers[1]),
            choice(customers[2], enums.ChoiceKind.OBJECTION),
            choice(customers[3], enums.ChoiceKind.CONSENT_WITHDRAWN),
            choice(customers[4], enums.ChoiceKind.MARKETING_BAN),
            Restriction(
                id=uuid.uuid4(),
                recording_id=made[1],
                ground="accuracy",
                placed_at=before,
                placed_by="os:test",
            ),
            ErasureItem(erasure_id=erasure.id, recording_id=made[2], outcome="kept", detail={}),
            RecordingLink(
                recording_id=made[3],
                customer_id=customers[1],
                role=enums.LinkRole.REFERENCE,
                matched_by="phone",
                created_at=before,
            ),
        ]
    )


async def query_hold(world: World, query: dict[str, Any], number: int, *, released: bool = False) -> None:
    """A hold on whatever matches."""
    before = world.now - timedelta(days=5)
    async with world.services.database.transaction() as session:
        matter = Matter(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            reference=f"q-{number}",
            ground="legal_claims",
            review_on=world.now,
            opened_at=before,
        )
        session.add(matter)
        await session.flush()
        session.add(
            Hold(
                id=uuid.uuid4(),
                matter_id=matter.id,
                controller_id=world.controller.id,
                query=query,
                placed_at=before,
                placed_by="os:test",
                released_at=world.now - timedelta(days=1) if released else None,
            )
        )


async def one_by_one(world: World, old: Schedule, new: Schedule) -> Comparison:
    async with world.services.database.snapshot() as session:
        rows = (
            await session.execute(
                sa.select(Recording.id, Recording.duration_ms, Recording.size).where(
                    Recording.state.in_(ALIVE)
                )
            )
        ).all()
        cases = await load_cases(session, [row.id for row in rows], world.now)
    estate = [
        Group(
            cases[row.id].facts,
            cases[row.id].holds,
            cases[row.id].choices,
            cases[row.id].requests,
            1,
            timedelta(milliseconds=row.duration_ms or 0),
            row.size,
        )
        for row in rows
    ]
    return compare(old, new, estate, world.now)


@pytest.mark.parametrize("seed", range(3))
async def test_grouping_changes_no_simulation(world: World, seed: int) -> None:
    await fill(world, 160, seed)
    controller = world.controller
    for new in VARIANTS.values():
        for pair in ((OLD, new), (new, OLD)):
            found = await simulate(world.services, controller, *pair, world.now)
            assert found == await one_by_one(world, *pair)
            assert found.recordings.count > 100


async def test_one_wrong_year_costs_no_calendar_of_centuries(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(world, 60, 4)
    async with world.services.database.transaction() as session:
        [*some] = await session.scalars(sa.select(Customer).order_by(Customer.id).limit(2))
        some[0].last_contact_at = datetime(296, 1, 29, 1, 29, tzinfo=UTC)
        some[1].last_contact_at = datetime(1931, 2, 28, 23, 30, tzinfo=UTC)
    asked: list[int] = []
    spans = Profiler.spans

    def counted(self: Profiler, name: str, days: Sequence[int]) -> list[tuple[int, int]] | None:
        asked.append(len(days))
        return spans(self, name, days)

    monkeypatch.setattr(Profiler, "spans", counted)
    for new in VARIANTS.values():
        found = await simulate(world.services, world.controller, OLD, new, world.now)
        assert found == await one_by_one(world, OLD, new)
    assert max(asked) < 50 * 366


async def test_progress_counts_every_recording_once(world: World) -> None:
    await fill(world, 40, 9)
    told: list[tuple[int, int]] = []
    async with world.services.database.snapshot() as session:
        controller = await session.get_one(Controller, world.controller.id)
        estate = await groups(session, controller, (OLD,), world.now, progress=lambda *at: told.append(at))
    assert told[-1][0] == sum(group.count for group in estate) <= told[-1][1] == 40
