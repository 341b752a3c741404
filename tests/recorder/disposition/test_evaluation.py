"""Rows become the engine's questions, and its answers become rows."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue import enums
from recorder.catalogue.tables import AuditEntry, Choice, Customer, Recording, Restriction
from recorder.disposition import schedules
from recorder.disposition.evaluation import (
    current_decision,
    reevaluate,
    reevaluate_customer,
)
from recorder.disposition.facts import load_cases
from recorder.disposition.reevaluation import follow_step
from recorder.errors import Conflict, Erased, InvalidInput, NotFound
from retention.model import Purpose
from tests.recorder.disposition_world import World, clock_of, decision_of


async def choose(
    world: World, customer_id: Any, kind: Any, at: datetime, purposes: Sequence[str] = ()
) -> None:
    async with world.services.database.transaction() as session:
        session.add(
            Choice(
                id=uuid.uuid4(),
                customer_id=customer_id,
                kind=kind,
                purposes=list(purposes),
                channel=None,
                effective_at=at,
                source="call",
                recorded_at=world.now,
                actor="os:test",
            )
        )
        await session.flush()
        await reevaluate_customer(session, world.services, customer_id, world.now)


async def test_a_stored_decision_has_the_dates_of_the_register(world: World) -> None:
    contact = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
    recording_id = await world.recording(await world.customer(last_contact=contact), started_at=contact)
    row = await world.get(recording_id)
    assert row.erase_on == datetime(2034, 3, 5, 22, 0, tzinfo=UTC)  # 2034-03-06T00:00+02:00
    assert row.sweep_on == row.erase_on
    assert row.schedule_version == 1
    assert row.decision is not None
    assert decision_of(row)["windows"]["training"]["end"] == "2028-03-05T22:00:00Z"
    assert (row.held, row.restricted) == (False, False)


async def test_a_new_contact_moves_evidence_and_leaves_training(world: World) -> None:
    start = world.now
    customer_id = await world.customer(last_contact=start)
    recording_id = await world.recording(customer_id)
    async with world.services.database.transaction() as session:
        customer = await session.get_one(Customer, customer_id)
        customer.last_contact_at = datetime(2028, 1, 10, 9, tzinfo=UTC)
        assert await reevaluate_customer(session, world.services, customer_id, world.now) == 1
    row = await world.get(recording_id)
    assert row.erase_on == datetime(2036, 1, 10, 22, tzinfo=UTC)
    assert decision_of(row)["windows"]["training"]["end"] == "2028-03-05T22:00:00Z"


async def test_an_objection_closes_training_until_it_is_withdrawn(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    before = await world.get(recording_id)
    day_10 = clock_of(world.services).advance(timedelta(days=10))
    await choose(world, customer_id, enums.ChoiceKind.OBJECTION, day_10)
    row = await world.get(recording_id)
    assert decision_of(row)["windows"]["training"]["end"] == day_10.isoformat().replace("+00:00", "Z")
    assert row.erase_on == before.erase_on

    later = clock_of(world.services).advance(timedelta(days=1))
    await choose(world, customer_id, enums.ChoiceKind.OBJECTION_WITHDRAWN, later, ["training"])
    row = await world.get(recording_id)
    assert decision_of(row)["windows"]["training"] == decision_of(before)["windows"]["training"]
    assert decision_of(row)["windows"]["quality"]["end"] == day_10.isoformat().replace("+00:00", "Z")


async def test_one_restriction_stands_when_another_is_lifted(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    await choose(world, customer_id, enums.ChoiceKind.RESTRICTION, world.now)
    async with world.services.database.transaction() as session:
        session.add(
            Restriction(
                id=uuid.uuid4(),
                recording_id=recording_id,
                customer_id=None,
                ground="accuracy",
                placed_at=world.now,
                placed_by="os:test",
            )
        )
        await reevaluate(session, world.services, [recording_id], world.now)
    assert (await world.get(recording_id)).restricted
    later = clock_of(world.services).advance(timedelta(hours=1))
    await choose(world, customer_id, enums.ChoiceKind.RESTRICTION_LIFTED, later)
    assert (await world.get(recording_id)).restricted
    async with world.services.database.transaction() as session:
        restriction = (await session.scalars(sa.select(Restriction))).one()
        restriction.lifted_at = later
        await reevaluate(session, world.services, [recording_id], later)
    row = await world.get(recording_id)
    assert not row.restricted
    assert "training" in decision_of(row)["windows"]


async def test_a_payment_is_kept_by_statute_from_the_controllers_financial_year(world: World) -> None:
    started = datetime(2023, 11, 2, 9, tzinfo=UTC)
    recording_id = await world.recording(await world.customer(), started_at=started, events=["payment"])
    async with world.services.database.snapshot() as session:
        decision = await current_decision(session, world.services, recording_id, world.now)
    codes = {(r.code, r.rule_id, r.params.get("until")) for r in decision.considered}
    assert ("rule_won", "payment-voucher-fi", "2029-12-31T22:00:00Z") in codes


async def test_many_are_loaded_in_a_fixed_number_of_queries(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    for _ in range(3):
        await world.recording(customer_id, audio=b"x")
    await world.recording(audio=b"x")
    engine = world.services.database.engine.sync_engine
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: Any, *_: Any) -> None:
        seen.append(statement)

    async def count(ids: Any) -> Any:
        seen.clear()
        async with world.services.database.snapshot() as session:
            cases = await load_cases(session, ids, world.now)
        assert len(cases) == len(ids)
        return sum(s.lstrip().startswith("SELECT") for s in seen)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        assert await count(world.made[:1]) == await count(world.made)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


async def test_without_a_schedule_everything_is_kept_and_closed(world: World) -> None:
    recording_id = await world.recording()
    async with world.services.database.transaction() as session:
        row = await schedules.get(session, world.controller.id, 1)
        row.activated_at = None
        await session.flush()
        decision = await current_decision(session, world.services, recording_id, world.now)
    assert decision.windows == {}
    assert not decision.due
    assert [task.code for task in decision.undecided] == ["no_rule"]


async def test_an_erased_recording_is_gone_and_an_unknown_one_unknown(world: World) -> None:
    recording_id = await world.recording()
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(state=enums.RecordingState.ERASED))
    async with world.services.database.snapshot() as session:
        with pytest.raises(Erased):
            await current_decision(session, world.services, recording_id, world.now)
        with pytest.raises(NotFound):
            await current_decision(session, world.services, uuid.uuid4(), world.now)


async def test_a_new_schedule_version_counts_once_activated_and_reaches_every_row(world: World) -> None:
    made = [await world.recording(audio=b"x") for _ in range(3)]
    async with world.services.database.transaction() as session:
        first = await schedules.get(session, world.controller.id, 1)
        changed = first.document.replace('"P1Y"', '"P90D"', 1).replace("version    = 1", "version    = 2")
        with pytest.raises(Conflict):
            await schedules.add_version(
                session, world.controller.id, first.document, actor="os:test", now=world.now
            )
        with pytest.raises(InvalidInput) as refused:
            await schedules.add_version(
                session, world.controller.id, "[schedule", actor="os:test", now=world.now
            )
        assert refused.value.fields[0].path.startswith("/document:1:")
        await schedules.add_version(session, world.controller.id, changed, actor="os:test", now=world.now)
    assert await follow_step(world.services, world.controller.id, world.now) == 0
    async with world.services.database.transaction() as session:
        for _ in range(2):
            await schedules.activate(session, world.controller.id, 2, actor="os:test", now=world.now)
        with pytest.raises(NotFound):
            await schedules.activate(session, world.controller.id, 3, actor="os:test", now=world.now)
    assert await follow_step(world.services, world.controller.id, world.now, limit=2) == 2
    assert await follow_step(world.services, world.controller.id, world.now, limit=2) == 1
    assert await follow_step(world.services, world.controller.id, world.now, limit=2) == 0
    for recording_id in made:
        row = await world.get(recording_id)
        assert row.schedule_version == 2
        assert decision_of(row)["windows"][Purpose.QUALITY]["end"] == "2026-06-03T21:00:00Z"
    async with world.services.database.snapshot() as session:
        actions = await session.scalars(
            sa.select(AuditEntry.action).where(AuditEntry.object_type == "schedule").order_by(AuditEntry.at)
        )
        assert sorted(actions) == ["schedule.activated"] * 2 + ["schedule.stored"] * 2
