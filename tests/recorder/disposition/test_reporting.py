"""The retention report and the record of processing, from a catalogue with real recordings and erasures."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import LawfulBasis, RecipientKind, RecordingState, Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Recording, RegisteredRecipient
from recorder.disposition import processing_record, reporting
from recorder.disposition.sweeping import Overdue, overdue, sweep
from recorder.errors import Forbidden
from retention.model import Condition, Purpose
from tests.recorder.conftest import make_controller
from tests.recorder.disposition_world import AUDIO, World, clock_of


def somebody(world: World, role: Role) -> Principal:
    grant = Grant(role, world.controller.id, ScopeKind.CONTROLLER)
    return Principal("account", str(uuid.UUID(int=7)), world.controller.id, (grant,))


async def made(world: World) -> reporting.RetentionReport:
    return await reporting.report(world.services, somebody(world, Role.AUDITOR), world.controller.id)


async def change(world: World, recording_id: uuid.UUID, **values: object) -> None:
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).where(Recording.id == recording_id).values(**values))


async def test_nothing_kept_is_a_report_of_zeros(world: World) -> None:
    found = await made(world)
    assert (found.total, found.overdue, found.due, found.dated, found.why, found.erased) == (
        reporting.Counted(),
        reporting.Counted(),
        reporting.Counted(),
        (),
        (),
        (),
    )
    assert found.schedule == 1


async def test_what_is_kept_is_counted_by_state_reason_and_month(world: World) -> None:
    one = reporting.Counted(1, 60.0, len(AUDIO))
    customer_id = await world.customer(last_contact=world.now)
    await world.recording(customer_id)
    # A voucher: six years from the end of the calendar year, which is shorter than eight from now
    await world.recording(customer_id, events=["payment"])
    # ... but longer where the last contact was long ago
    await world.recording(
        await world.customer(last_contact=world.now - timedelta(days=366 * 3)),
        started_at=datetime(2023, 3, 5, tzinfo=UTC),
        events=["ledger"],
    )
    held, restricted, doubtful = [await world.recording() for _ in range(3)]
    await change(world, held, held=True, erase_on=None)
    await change(world, restricted, restricted=True)
    await change(world, doubtful, state=RecordingState.QUARANTINED, evaluated_at=None, erase_on=None)
    found = await made(world)
    assert found.total == reporting.Counted(6, 360.0, 6 * len(AUDIO))
    assert {state: what.count for state, what in found.by_state.items()} == {"stored": 5, "quarantined": 1}
    assert (found.held, found.restricted) == (one, one)
    assert {(k.why, k.rule): k.what.count for k in found.why} == {
        ("rule", "relationship"): 2,
        ("rule", "ledger-fi"): 1,
        ("hold", None): 1,
        ("restriction", None): 1,
        ("not_decided", None): 1,
    }
    # Kept through 5 March 2034 in Helsinki; through 31 December 2033, so that it goes in January.
    assert [(d.month, d.rule, d.what.count) for d in found.dated] == [
        ("2034-01", "ledger-fi", 1),
        ("2034-03", None, 1),
        ("2034-03", "relationship", 2),
    ]
    assert found.undated.count == 2
    assert sum(d.what.count for d in found.dated) + found.undated.count == found.total.count


async def test_the_month_is_the_controllers_own_and_not_that_of_utc(world: World) -> None:
    recording_id = await world.recording()
    await change(world, recording_id, erase_on=datetime(2030, 6, 30, 21, 0, tzinfo=UTC))  # 1 July there
    assert [d.month for d in (await made(world)).dated] == ["2030-07"]
    await change(world, recording_id, erase_on=datetime(2030, 6, 30, 20, 59, 59, tzinfo=UTC))
    assert [d.month for d in (await made(world)).dated] == ["2030-06"]


async def test_what_is_late_is_told_apart(world: World) -> None:
    tonight, yesterday, edge, held, late = [await world.recording() for _ in range(5)]
    known = world.now - timedelta(days=2)
    for recording_id in (tonight, yesterday, edge, held):
        await change(world, recording_id, evaluated_at=known)
    # It came after its time, or the schedule became shorter: known since less than a day.
    edge_of_known = world.now - timedelta(days=1) + timedelta(microseconds=1)
    gone = {"erase_on": world.now - timedelta(days=3), "sweep_on": world.now - timedelta(days=3)}
    await change(world, late, evaluated_at=edge_of_known, **gone)
    await change(world, tonight, erase_on=world.now)
    await change(world, yesterday, **gone)
    await change(world, edge, erase_on=edge_of_known, sweep_on=edge_of_known)
    await change(world, held, erase_on=world.now - timedelta(days=3), held=True)
    asked = await world.recording()
    async with world.services.database.transaction() as session:
        row = await session.get_one(Recording, asked)
        row.decision = {**(row.decision or {}), "frozen": True}
        row.erase_on = row.sweep_on = world.now - timedelta(days=3)
        row.evaluated_at = known
    found = await made(world)
    assert (found.due.count, found.overdue.count, found.waiting.count) == (3, 1, 1)
    async with world.services.database.snapshot() as session:
        for controller_id in (None, world.controller.id):
            assert await overdue(session, world.now, controller_id) == Overdue(recordings=1, erasures=0)
        assert await overdue(session, world.now, uuid.uuid4()) == Overdue(0, 0)
        # Only time makes what came late overdue: a night's sweep has left it behind.
        assert (await overdue(session, edge_of_known + timedelta(days=1))).recordings == 3


async def test_the_sweep_moves_what_is_due_to_what_was_erased(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    await world.recording(customer_id)
    clock_of(world.services).advance(timedelta(days=366 * 8))
    before = await made(world)
    assert (before.due.count + before.overdue.count, before.erased) == (1, ())
    await sweep(world.services, world.controller.id, world.now)
    after = await made(world)
    assert (after.total.count, after.overdue.count, after.overdue_erasures) == (0, 0, 0)
    assert [(e.month, e.ground, e.recordings, e.certificates) for e in after.erased] == [
        (world.now.isoformat()[:7], "retention", 1, 1)
    ]


@pytest.mark.parametrize("role", [Role.PRIVACY, Role.LEGAL, Role.AUDITOR])
async def test_those_who_answer_for_the_calls_see_it(world: World, role: Role) -> None:
    found = await reporting.report(world.services, somebody(world, role), world.controller.id)
    assert found.controller_id == world.controller.id


@pytest.mark.parametrize("role", [Role.AGENT, Role.TRAINER, Role.OPERATOR, Role.CRM])
async def test_nobody_else_does_and_the_refusal_is_logged(world: World, role: Role) -> None:
    for ask in (reporting.report, reporting.recent):
        with pytest.raises(Forbidden):
            await ask(world.services, somebody(world, role), world.controller.id)
    async with world.services.database.snapshot() as session:
        refused = list(
            await session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "access.refused"))
        )
    assert len(refused) == 2


async def test_another_controllers_recordings_are_not_counted(world: World) -> None:
    await world.recording()
    other = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    principal = Principal(
        "account", str(uuid.uuid4()), other.id, (Grant(Role.AUDITOR, other.id, ScopeKind.CONTROLLER),)
    )
    assert (await reporting.report(world.services, principal, other.id)).total.count == 0
    with pytest.raises(Forbidden):
        await reporting.report(world.services, principal, world.controller.id)


async def test_a_recent_report_serves_the_parts_of_a_page_for_a_minute(world: World) -> None:
    auditor = somebody(world, Role.AUDITOR)
    first = await reporting.recent(world.services, auditor, world.controller.id)
    await world.recording()
    assert await reporting.recent(world.services, auditor, world.controller.id) is first
    clock_of(world.services).advance(timedelta(seconds=60))
    assert (await reporting.recent(world.services, auditor, world.controller.id)).total.count == 1


# The record of processing


async def test_the_record_of_processing_says_what_is_configured(world: World) -> None:
    await world.recording()
    found = await processing_record.record_of(
        world.services, somebody(world, Role.PRIVACY), world.controller.id
    )
    assert (found.controller["name"], found.controller["authority"], found.schedule) == (
        "Example FI",
        "Tietosuojavaltuutettu",
        1,
    )
    assert {p["purpose"] for p in found.purposes} == {purpose.value for purpose in Purpose}
    assert [(b["basis"], b["recordings"]) for b in found.lawful_bases] == [("customer_relationship", 1)]
    assert [(s["name"], s["enabled"]) for s in found.sources] == [("pbx-1", True)]
    rules = {line["rule"]: line["words"] for line in found.retention if line["of"] == "recordings"}
    assert rules["relationship"] == "8 years after the last service or other contact with the customer"
    assert rules["payment-voucher-fi"] == (
        "6 years after the end of the calendar year of the end of the financial year, where a service event "
        "is payment; commanded by FI 1336/1997 2:10, which nothing shortens"
    )
    assert rules["training"].endswith("ended sooner by a restriction, an objection or withdrawn consent")
    requests = next(line for line in found.retention if line["of"] == "request records")
    assert requests["words"] == "3 years after it was decided"
    trainers = next(r for r in found.recipients if r["recipient"] == "Training")
    assert trainers["purposes"] == ["training"]
    assert found.missing


async def test_the_record_follows_what_changes(world: World) -> None:
    async def ask() -> processing_record.ProcessingRecord:
        return await processing_record.record_of(
            world.services, somebody(world, Role.AUDITOR), world.controller.id
        )

    assert all(line["inside"] for line in (await ask()).recipients)
    async with world.services.database.transaction() as session:
        session.add(
            RegisteredRecipient(
                id=uuid.uuid4(),
                controller_id=world.controller.id,
                kind=RecipientKind.PROCESSOR,
                name="Example Hosting Oy",
                sealed=None,
                purpose="runs the machines",
                country="FI",
                contract_reference="2026-1",
                contract_expires_at=None,
                safeguard=None,
                safeguard_expires_at=None,
                registered_at=world.now,
                registered_by="os:tests",
                ended_at=None,
            )
        )
    (outside,) = [line["recipient"] for line in (await ask()).recipients if not line["inside"]]
    assert outside == "Example Hosting Oy, FI: runs the machines"

    epoch = "in epoch 1, 1 so far"
    assert any(epoch in text for text in (await ask()).security)
    world.services.keyring.rotate(str(world.controller.id), world.now)
    assert any("in epoch 2, 2 so far" in text for text in (await ask()).security)
    recording_id = await world.recording()
    await change(world, recording_id, lawful_basis=LawfulBasis.CONSENT)
    assert {b["basis"] for b in (await ask()).lawful_bases} == {"customer_relationship", "consent"}
    await change(world, recording_id, state=RecordingState.ERASED)
    assert {b["basis"] for b in (await ask()).lawful_bases} == {"customer_relationship"}


async def test_the_record_is_refused_to_who_sees_no_reports(world: World) -> None:
    with pytest.raises(Forbidden):
        await processing_record.record_of(world.services, somebody(world, Role.OPERATOR), world.controller.id)


def test_a_condition_is_told_in_full() -> None:
    when = Condition(
        direction=frozenset({"outbound", "inbound"}),
        queue=frozenset({"sales"}),
        duration_less_than=timedelta(seconds=15),
    )
    assert processing_record.condition_in_words(when) == (
        "the direction is inbound or outbound and the queue is sales and the call lasts less than 15 seconds"
    )
