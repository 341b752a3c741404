"""The records beside the calls go when the schedule says so, and stay while something keeps them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access import accounts, passwords
from recorder.access.principals import Grant, Principal
from recorder.audit.log import Sequencer
from recorder.audit.verify import verify_log
from recorder.catalogue import enums
from recorder.catalogue.base import Base
from recorder.catalogue.sealed_fields import BREACH_RECORD, REQUEST_RECORD
from recorder.catalogue.subjects import add_subject, seal_json
from recorder.catalogue.tables import (
    Account,
    Approval,
    AuditEntry,
    Breach,
    Certificate,
    Contact,
    Customer,
    Disclosure,
    DisclosureRecording,
    ExpectedRecording,
    Hold,
    Listen,
    Matter,
    Recording,
    RegisteredRecipient,
    RequestItem,
    RightsRequest,
    StoredObjectRow,
    Subject,
)
from recorder.disposition import other_records, scheduling
from recorder.disposition.reporting import report
from recorder.errors import Erased
from recorder.jobs import chores
from recorder.registers.sealing import controller_subject
from recorder.settings import Settings
from retention.model import RequestKind
from tests.recorder.disposition_world import World, clock_of

CONSOLE = Principal("os", "installer", None)
LONG_AGO = datetime(2010, 3, 5, 8, tzinfo=UTC)


async def rows(world: World, table: type[Base]) -> int:
    async with world.services.database.snapshot() as session:
        return int(await session.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


async def entries(world: World, action: str) -> list[dict[str, Any]]:
    async with world.services.database.snapshot() as session:
        query = sa.select(AuditEntry.payload).where(AuditEntry.action == action).order_by(AuditEntry.id)
        return [json.loads(payload) for payload in await session.scalars(query)]


async def counts(world: World) -> dict[str, tuple[int, int]]:
    async with world.services.database.snapshot() as session:
        found = await other_records.count(session, world.controller.id, world.now)
    return {line.name: (line.due, line.kept) for line in found if line.due or line.kept}


async def dispose(world: World) -> dict[str, int]:
    outcomes = await other_records.dispose(world.services, world.controller.id)
    return {outcome.name: outcome.destroyed for outcome in outcomes}


async def add(world: World, *made: Base) -> None:
    async with world.services.database.transaction() as session:
        for row in made:
            session.add(row)
            await session.flush()


async def request(
    world: World,
    customer_id: uuid.UUID | None,
    *,
    decided_at: datetime | None,
    kind: RequestKind = RequestKind.ACCESS,
) -> uuid.UUID:
    services, rights_id = world.services, uuid.uuid4()
    async with services.database.transaction() as session:
        subject = add_subject(
            session, services.keyring, world.controller.id, enums.SubjectKind.REQUEST, now=world.now
        )
        await session.flush()
        stage = enums.RequestStage.PENDING if decided_at is None else enums.RequestStage.GRANTED
        session.add(
            RightsRequest(
                id=rights_id,
                controller_id=world.controller.id,
                subject_id=subject.id,
                customer_id=customer_id,
                kind=kind,
                channel=enums.RequestChannel.POST,
                stage=stage,
                language="fi",
                purposes=[],
                scoped=False,
                sealed=seal_json(services.keyring, subject, REQUEST_RECORD, rights_id, {"name": "Aino"}),
                filed_at=world.now,
                registered_at=world.now,
                registered_by="account:a",
                last_day=world.now.date(),
                deadline_at=world.now,
                decided_at=decided_at,
            )
        )
    return rights_id


def matter(world: World, closed_at: datetime | None) -> Matter:
    return Matter(
        id=uuid.uuid4(),
        controller_id=world.controller.id,
        reference="2026-014",
        ground="legal_claims",
        sealed=None,
        review_on=world.now,
        opened_at=LONG_AGO,
        closed_at=closed_at,
    )


def hold(world: World, of: Matter, released_at: datetime | None, **target: uuid.UUID) -> Hold:
    return Hold(
        id=uuid.uuid4(),
        matter_id=of.id,
        placed_at=LONG_AGO,
        placed_by="account:a",
        released_at=released_at,
        **target,
    )


async def test_a_request_goes_on_its_day_with_its_key_and_not_before(world: World) -> None:
    decided = world.now
    rights_id = await request(world, None, decided_at=decided)
    pending = await request(world, None, decided_at=None)
    async with world.services.database.snapshot() as session:
        subject_id = (await session.get_one(RightsRequest, rights_id)).subject_id
    # Decided on 5 March 2026 in Helsinki, three years: through 5 March 2029, local time.
    clock_of(world.services).set(datetime(2029, 3, 5, 21, 59, 59, tzinfo=UTC))
    assert await counts(world) == {}
    assert await dispose(world) == {}
    clock_of(world.services).set(datetime(2029, 3, 5, 22, 0, tzinfo=UTC))
    assert await counts(world) == {"request": (1, 0)}
    assert await dispose(world) == {"request": 1}
    assert await dispose(world) == {}
    async with world.services.database.snapshot() as session:
        assert await session.get(RightsRequest, rights_id) is None
        assert await session.get(RightsRequest, pending) is not None
        subject = await session.get_one(Subject, subject_id)
        assert (subject.wrapped_key, subject.destroyed_at) == (None, world.now)
    (entry,) = await entries(world, "record.destroyed")
    assert entry["object"] == {"type": "request", "id": str(rights_id)}
    assert entry["details"] == {"record": "request", "schedule": 1}
    (together,) = await entries(world, "records.destroyed")
    assert together["details"]["count"] == 1


async def test_a_request_stays_while_a_call_rests_on_it_or_a_hold_stands(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    resting = await request(world, customer_id, decided_at=LONG_AGO, kind=RequestKind.ERASURE)
    held = await request(world, customer_id, decided_at=LONG_AGO)
    of = matter(world, None)
    stands = hold(world, of, None, customer_id=customer_id)
    await add(
        world,
        RequestItem(request_id=resting, recording_id=recording_id, outcome="granted", decided_at=LONG_AGO),
        of,
        stands,
    )
    assert (await counts(world))["request"] == (0, 2)
    assert "request" not in await dispose(world)
    async with world.services.database.transaction() as session:
        (await session.get_one(Hold, stands.id)).released_at = world.now
    assert await dispose(world) == {"request": 1}
    async with world.services.database.snapshot() as session:
        assert await session.get(RightsRequest, held) is None
        assert await session.get(RightsRequest, resting) is not None


async def test_a_request_about_a_held_call_stays_though_it_was_refused(world: World) -> None:
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    refused = await request(world, None, decided_at=LONG_AGO)
    of = matter(world, None)
    await add(
        world,
        RequestItem(request_id=refused, recording_id=recording_id, outcome="refused", decided_at=LONG_AGO),
        of,
        hold(world, of, None, recording_id=recording_id),
    )
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).held = True
    assert (await counts(world))["request"] == (0, 1)
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).held = False
    assert (await dispose(world))["request"] == 1


async def test_matters_disclosures_breaches_and_approvals(world: World) -> None:
    services, controller = world.services, world.controller.id
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    over, open_ = matter(world, LONG_AGO), matter(world, None)
    waits = matter(world, LONG_AGO)
    recipient = RegisteredRecipient(
        id=uuid.uuid4(),
        controller_id=controller,
        kind=enums.RecipientKind.AUTHORITY,
        name="Poliisi",
        purpose="investigation",
        country="FI",
        registered_at=LONG_AGO,
        registered_by="account:a",
    )
    approvals = [
        Approval(
            id=uuid.uuid4(),
            controller_id=controller,
            action="disclosure",
            target="x",
            details={},
            state=state,
            requested_by="account:a",
            requested_at=LONG_AGO,
            expires_at=LONG_AGO if state is not enums.ApprovalState.PENDING else world.now,
            used_at=LONG_AGO if state is enums.ApprovalState.USED else None,
        )
        for state in (
            enums.ApprovalState.USED,
            enums.ApprovalState.USED,
            enums.ApprovalState.EXPIRED,
            enums.ApprovalState.PENDING,
        )
    ]
    given = [
        Disclosure(
            id=uuid.uuid4(),
            controller_id=controller,
            recipient_id=recipient.id,
            ground="court_order",
            reference="R 1",
            approval_id=approval.id,
            disclosed_at=LONG_AGO,
            disclosed_by="account:a",
        )
        for approval in approvals[:2]
    ]
    async with services.database.transaction() as session:
        subject = await controller_subject(session, controller)
        breach_id = uuid.uuid4()
        session.add(
            Breach(
                id=breach_id,
                controller_id=controller,
                state=enums.BreachState.CLOSED,
                sealed=seal_json(services.keyring, subject, BREACH_RECORD, breach_id, {"facts": "x"}),
                aware_at=LONG_AGO,
                due_at=LONG_AGO,
                seen_from=LONG_AGO,
                seen_until=LONG_AGO,
                opened_at=LONG_AGO,
                opened_by="account:a",
                closed_at=LONG_AGO,
            )
        )
    await add(
        world,
        over,
        open_,
        waits,
        hold(world, over, LONG_AGO, recording_id=recording_id),
        hold(world, waits, None, recording_id=recording_id),
        recipient,
        *approvals,
        *given,
        DisclosureRecording(disclosure_id=given[0].id, recording_id=recording_id),
    )
    assert await counts(world) == {
        "matter": (1, 1),
        "disclosure": (1, 1),
        "breach": (1, 0),
        "approval": (1, 2),
    }
    # The approval of the disclosure that goes is free in the same run, and is taken by it.
    assert await dispose(world) == {"matter": 1, "disclosure": 1, "breach": 1, "approval": 2}
    assert [await rows(world, table) for table in (Matter, Hold, Disclosure, Breach, Approval)] == [
        2,
        1,
        1,
        0,
        2,
    ]


async def test_a_leavers_profile_is_destroyed_and_the_random_id_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "CURRENT", passwords.Parameters(memory_kib=64, iterations=1, lanes=1))
    services, controller = world.services, world.controller.id
    grant = Grant(enums.Role.OPERATOR, controller, enums.ScopeKind.CONTROLLER)
    made = [
        await accounts.create_account(
            services,
            CONSOLE,
            controller_id=controller,
            username=name,
            name=name,
            password="correct horse battery",
            agent_code=code,
            grants=[grant],
        )
        for name, code in (("leaver.one", None), ("leaver.held", "a7"), ("stays.here", None))
    ]
    for account_id in made[:2]:
        await accounts.disable_account(services, CONSOLE, account_id)
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    of = matter(world, None)
    await add(world, of, hold(world, of, None, recording_id=recording_id))
    async with services.database.transaction() as session:
        from recorder.disposition.evaluation import reevaluate

        await reevaluate(session, services, [recording_id], world.now)
    clock_of(services).set(datetime(2028, 3, 5, 22, 0, tzinfo=UTC))
    assert (await counts(world))["account"] == (1, 1)
    assert (await dispose(world))["account"] == 1
    assert "account" not in await dispose(world)
    with pytest.raises(Erased):
        await accounts.display_name(services, made[0])
    assert await accounts.display_name(services, made[1]) == "leaver.held"
    listed = await accounts.list_accounts(services, CONSOLE, controller)
    assert sorted((view.name, len(view.grants)) for view in listed) == [
        ("", 0),
        ("leaver.held", 1),
        ("stays.here", 1),
    ]
    async with services.database.snapshot() as session:
        gone = await session.get_one(Account, made[0])
        assert (gone.sealed, gone.password_hash, gone.agent_code) == (b"", "", None)
    # The user name is free again.
    await accounts.create_account(
        services,
        CONSOLE,
        controller_id=controller,
        username="leaver.one",
        name="Another",
        password="correct horse battery",
    )


async def test_customers_without_calls_go_with_a_certificate_and_contacts_before_them(world: World) -> None:
    services = world.services
    alone = await world.customer(last_contact=LONG_AGO)
    with_calls = await world.customer(last_contact=LONG_AGO)
    asked = await world.customer(last_contact=LONG_AGO)
    await world.customer(last_contact=world.now)
    recording_id = await world.recording(with_calls, events=["payment"])
    await request(world, asked, decided_at=None)
    older = Contact(
        id=uuid.uuid4(),
        customer_id=with_calls,
        kind=enums.ContactKind.VISIT,
        at=LONG_AGO - timedelta(days=1),
        recorded_at=LONG_AGO,
    )
    await add(world, older)
    assert await counts(world) == {"contact": (1, 3), "customer": (1, 2)}
    assert await dispose(world) == {"contact": 1, "customer": 1}
    async with services.database.snapshot() as session:
        erased = list(await session.scalars(sa.select(Customer.id).where(Customer.erased_at.is_not(None))))
        assert erased == [alone]
        certificate = (await session.scalars(sa.select(Certificate))).one()
        assert certificate.document["ground"] == "relationship_ended"
        assert await session.get(Contact, older.id) is None
    assert (await world.get(recording_id)).state == "stored"
    assert await dispose(world) == {}


async def test_announced_recordings_and_listens(world: World) -> None:
    services, recording_id = world.services, await world.recording()
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow.id).where(StoredObjectRow.recording_id == recording_id)
        object_id = (await session.scalars(query)).first()
    assert object_id is not None

    def expected(at: datetime) -> ExpectedRecording:
        return ExpectedRecording(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            source_id=world.source.id,
            identity=uuid.uuid4().bytes,
            call_identity=b"c",
            outcome="failed",
            told_by="sender",
            started_at=at,
            created_at=at,
            changed_at=at,
        )

    def listen(closed_at: datetime | None) -> Listen:
        return Listen(
            id=uuid.uuid4(),
            recording_id=recording_id,
            object_id=object_id,
            actor="account:a",
            purpose="quality",
            rendition="original",
            opened_at=LONG_AGO,
            last_active_at=LONG_AGO,
            closed_at=closed_at,
        )

    await add(world, *(expected(LONG_AGO) for _ in range(4)), expected(world.now))
    await add(world, listen(LONG_AGO), listen(None), listen(world.now))
    assert await dispose(world) == {"expected_recording": 4, "listen": 1}
    assert (await rows(world, ExpectedRecording), await rows(world, Listen)) == (1, 2)
    found = await report(services, CONSOLE, world.controller.id)
    lines = {line["record"]: (line["total"], line["destroyed"]) for line in found.records}
    assert (lines["expected_recording"], lines["listen"]) == ((1, 4), (2, 1))


async def test_the_log_is_emptied_only_where_the_schedule_says_and_still_verifies(world: World) -> None:
    services, sequencer = world.services, Sequencer(world.services)
    await world.recording()
    await sequencer.run_once()
    clock_of(services).set(datetime(2036, 3, 5, 22, 0, tzinfo=UTC))
    assert "log_entry" not in await counts(world) or (await counts(world))["log_entry"][0] == 0
    await sequencer.copy_checkpoints()
    due, _ = (await counts(world))["log_entry"]
    assert due > 0
    before = await verify_log(services)
    assert before.ok
    assert (await dispose(world))["log_entry"] == due
    assert "log_entry" not in await dispose(world)
    await sequencer.run_once()
    after = await verify_log(services)
    assert after.ok, after.problems
    assert after.size > before.size
    async with services.database.snapshot() as session:
        emptied = await session.scalars(sa.select(AuditEntry.index).where(AuditEntry.payload == b""))
        assert len(list(emptied)) == due
    # Emptying one that no entry names is found.
    async with services.database.transaction() as session:
        newest = sa.select(sa.func.max(AuditEntry.index)).scalar_subquery()
        await session.execute(sa.update(AuditEntry).where(AuditEntry.index == newest).values(payload=b""))
    assert not (await verify_log(services)).ok


async def test_more_than_the_brake_lets_through_waits_for_a_second_person(world: World) -> None:
    services = world.services
    for _ in range(3):
        await request(world, None, decided_at=LONG_AGO)
    settings = Settings(data_dir=services.settings.data_dir, sweep_brake_count=2)
    object.__setattr__(services, "settings", settings)
    (outcome,) = await other_records.dispose(services, world.controller.id)
    (again,) = await other_records.dispose(services, world.controller.id)
    assert outcome.approval is not None
    assert again == outcome
    assert await rows(world, RightsRequest) == 3
    async with services.database.transaction() as session:
        approval = await session.get_one(Approval, outcome.approval)
        assert approval.details == {"record": "request", "count": 3, "population": 3}
        approval.state, approval.decided_by = enums.ApprovalState.APPROVED, "account:b"
    clock_of(services).advance(timedelta(minutes=6))
    assert await chores.sweep_where_due(services) == ["fi-main"]
    assert await rows(world, RightsRequest) == 0


async def test_a_schedule_that_shortens_other_records_needs_a_second_person(world: World) -> None:
    services, controller = world.services, world.controller.id
    async with services.database.snapshot() as session:
        from recorder.disposition import schedules

        document = (await schedules.get(session, controller, 1)).document
    longer = document.replace("version    = 1", "version    = 2")
    shorter = longer.replace('[disposition.request]\nkeep   = "P3Y"', '[disposition.request]\nkeep   = "P1D"')
    assert shorter != longer
    await request(world, None, decided_at=world.now - timedelta(days=5))
    same = await scheduling.simulate_document(services, CONSOLE, controller, longer)
    assert not same.needs_approval
    found = await scheduling.simulate_document(services, CONSOLE, controller, shorter)
    assert found.needs_approval
    assert found.records["request"] == (0, 1)
