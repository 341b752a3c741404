"""Recipients, transfers, disclosures, breaches and staff copies over HTTP, as legal and privacy use them."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.accounts import create_account
from recorder.access.approvals import decide_approval
from recorder.access.principals import Grant, Principal
from recorder.api import registers
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.app import check_startup
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState, Role, ScopeKind
from recorder.catalogue.tables import (
    AuditEntry,
    Breach,
    Disclosure,
    Hold,
    Listen,
    Matter,
    Recording,
    RegisteredRecipient,
    Restriction,
    StoredObjectRow,
)
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import ConfigurationError
from recorder.registers import breach_reminders
from recorder.registers.regions import transfer_problem
from recorder.registers.research import pseudonym
from recorder.rights.recipients import recipients_of
from tests.recorder.conftest import make_controller
from tests.recorder.disposition_world import World, clock_of, world

__all__ = ["world"]

Ask = Callable[..., Awaitable[Any]]
PATH = "/api/v1/registers"
UNTIL = "2026-06-01T00:00:00Z"
PROCESSOR = {
    "kind": "processor",
    "name": "Puhelinpalvelu Oy",
    "purpose": "transcription",
    "country": "SE",
    "contract_reference": "DPA-7",
    "contract_expires_at": UNTIL,
}
POLICE = {"kind": "authority", "name": "Poliisi", "purpose": "criminal investigation", "country": "FI"}


@pytest.fixture
async def ask(
    world: World, aiohttp_client: Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
) -> Ask:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        role = request.headers["X-Role"]
        controller = uuid.UUID(request.headers.get("X-Controller", str(world.controller.id)))
        grant = Grant(Role(role), controller, ScopeKind.CONTROLLER)
        request[PRINCIPAL] = Principal("account", str(uuid.UUID(int=len(role))), controller, (grant,))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, registers.ROUTES)
    client = await aiohttp_client(app)

    async def send(
        method: str, path: str, body: Any = None, *, role: str = "legal", status: int = 200
    ) -> Any:
        async with client.request(method, path, json=body, headers={"X-Role": role}) as answer:
            found = await answer.json()
            assert answer.status == status, found
            return found

    return send


async def approve(world: World, approval: str) -> None:
    grant = Grant(Role.PRIVACY, world.controller.id, ScopeKind.CONTROLLER)
    second = Principal("account", str(uuid.uuid4()), world.controller.id, (grant,))
    await decide_approval(world.services, second, uuid.UUID(approval), approve=True)


async def actions(world: World, object_id: object) -> list[str]:
    async with world.services.database.snapshot() as session:
        query = sa.select(AuditEntry.action).where(AuditEntry.object_id == str(object_id))
        return list(await session.scalars(query.order_by(AuditEntry.at, AuditEntry.id)))


async def disclosed(ask: Ask, world: World, recipient: dict[str, Any], *recordings: uuid.UUID) -> Any:
    body = {
        "ground": "authority_request",
        "reference": "5500/R/1",
        "recipient": recipient["id"],
        "recordings": [str(item) for item in recordings],
    }
    waiting = await ask("POST", f"{PATH}/disclosures", body, status=202)
    await approve(world, waiting["approval"])
    return await ask("POST", f"{PATH}/disclosures", {**body, "approval": waiting["approval"]})


async def test_an_expired_contract_is_refused_at_use_until_it_is_renewed(world: World, ask: Ask) -> None:
    recipient = await ask("POST", f"{PATH}/recipients", PROCESSOR, status=201)
    recording_id = await world.recording()
    body = {
        "ground": "customer_request",
        "reference": "1",
        "recipient": recipient["id"],
        "recordings": [str(recording_id)],
    }
    clock_of(world.services).set(datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC))
    waiting = await ask("POST", f"{PATH}/disclosures", body, status=202)
    await approve(world, waiting["approval"])
    clock_of(world.services).set(datetime(2026, 6, 1, tzinfo=UTC))
    approved = {**body, "approval": waiting["approval"]}
    problem = await ask("POST", f"{PATH}/disclosures", approved, status=403)
    assert problem["reason"] == "contract-expired"
    (listed,) = (await ask("GET", f"{PATH}/recipients", role="auditor"))["items"]
    assert (listed["usable"], listed["reason"]) == (False, "contract-expired")
    terms = {"contract_expires_at": "2027-06-01T00:00:00Z"}
    await ask("PATCH", f"{PATH}/recipients/{recipient['id']}", terms)
    assert (await ask("POST", f"{PATH}/disclosures", approved))["recipient"] == recipient["id"]
    await ask("DELETE", f"{PATH}/recipients/{recipient['id']}")
    assert (await ask("POST", f"{PATH}/disclosures", body, status=403))["reason"] == "recipient-ended"
    await ask("DELETE", f"{PATH}/recipients/{recipient['id']}", status=409)
    assert await actions(world, recipient["id"]) == [
        "recipient.registered", "recipient.amended", "recipient.ended",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"contract_expires_at": None}, "/contract_expires_at"),
        ({"contract_reference": None}, "/contract_expires_at"),
        ({"contract_expires_at": "2026-03-05T08:00:00Z"}, "/contract_expires_at"),
        ({"country": "US"}, "/safeguard"),
        ({"country": "US", "safeguard": "scc"}, "/safeguard"),
        ({"country": "US", "safeguard": "scc", "safeguard_expires_at": "2026-03-05T08:00:00Z"}, "/safeguard"),
    ],
)
async def test_a_recipient_that_could_get_nothing_is_not_entered(
    ask: Ask, change: dict[str, Any], pointer: str
) -> None:
    problem = await ask("POST", f"{PATH}/recipients", {**PROCESSOR, **change}, status=422)
    assert problem["errors"][0]["pointer"] == pointer
    assert (await ask("GET", f"{PATH}/recipients"))["items"] == []


async def test_outside_the_area_a_safeguard_holds_until_its_end(world: World, ask: Ask) -> None:
    far = {**PROCESSOR, "country": "US", "safeguard": "scc", "safeguard_expires_at": "2026-04-01T00:00:00Z"}
    recipient = await ask("POST", f"{PATH}/recipients", far, status=201)
    recording_id = await world.recording()
    assert (await disclosed(ask, world, recipient, recording_id))["recordings"] == [str(recording_id)]
    clock_of(world.services).set(datetime(2026, 4, 1, tzinfo=UTC))
    body = {
        "ground": "court_order",
        "reference": "2",
        "recipient": recipient["id"],
        "recordings": [str(recording_id)],
    }
    assert (await ask("POST", f"{PATH}/disclosures", body, status=403))["reason"] == "transfer"


def test_the_area_is_the_eu_with_iceland_liechtenstein_and_norway() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for country in ("FI", "SE", "GR", "HR", "IS", "LI", "NO"):
        assert transfer_problem(country, None, None, now) is None
    for country in ("GB", "CH", "US", "EL"):
        assert transfer_problem(country, None, None, now) is not None
        assert transfer_problem(country, "scc", now + timedelta(seconds=1), now) is None
        assert transfer_problem(country, "scc", now, now) is not None


@pytest.mark.parametrize("name", ["store_country", "key_country"])
async def test_the_service_does_not_start_where_data_may_not_be(world: World, name: str, ask: Ask) -> None:
    services = world.services
    far = services.settings.model_copy(update={name: "US"})
    with pytest.raises(ConfigurationError, match=f"RECORDER_{name.upper()}.*no safeguard"):
        await check_startup(dataclasses.replace(services, settings=far))
    until = world.now + timedelta(days=1)
    excepted = far.model_copy(update={"transfer_exception": "scc", "transfer_exception_until": until})
    await check_startup(dataclasses.replace(services, settings=excepted))
    clock_of(services).set(until)
    with pytest.raises(ConfigurationError, match="ended on 2026-03-06"):
        await check_startup(dataclasses.replace(services, settings=excepted))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ground": None}, "disclosure-ground"),
        ({"ground": "curiosity"}, "disclosure-ground"),
        ({"reference": None}, "disclosure-reference"),
        ({"recipient": None}, "disclosure-recipient"),
    ],
)
async def test_a_disclosure_without_ground_reference_or_recipient_is_refused_on_record(
    world: World, ask: Ask, change: dict[str, Any], reason: str
) -> None:
    recipient = await ask("POST", f"{PATH}/recipients", POLICE, status=201)
    body = {
        "ground": "authority_request",
        "reference": "5500/R/1",
        "recipient": recipient["id"],
        "recordings": [str(await world.recording())],
    }
    problem = await ask("POST", f"{PATH}/disclosures", {**body, **change}, status=403)
    assert problem["reason"] == reason
    assert "disclosure.refused" in await actions(world, world.controller.id)
    await ask("POST", f"{PATH}/disclosures", body, status=202)


async def test_two_people_disclose_exactly_what_was_approved_and_its_recipient_is_told(
    world: World, ask: Ask
) -> None:
    person = {"kind": "person", "name": "Aino Virtanen", "purpose": "own call", "country": "FI"}
    recipient = await ask("POST", f"{PATH}/recipients", person, status=201)
    async with world.services.database.snapshot() as session:
        row = await session.get_one(RegisteredRecipient, uuid.UUID(recipient["id"]))
        assert row.name is None
        assert row.sealed is not None
        assert b"Virtanen" not in row.sealed
    customer_id = await world.customer(last_contact=world.now)
    first, second = await world.recording(customer_id), await world.recording()
    body = {
        "ground": "customer_request",
        "reference": "R-1",
        "recipient": recipient["id"],
        "recordings": [str(first)],
    }
    waiting = await ask("POST", f"{PATH}/disclosures", body, status=202)
    early = {**body, "approval": waiting["approval"]}
    assert (await ask("POST", f"{PATH}/disclosures", early, status=403))["reason"] == "approval-mismatch"
    await approve(world, waiting["approval"])
    for change in ({"recordings": [str(second)]}, {"reference": "R-2"}, {"ground": "court_order"}):
        other = await ask("POST", f"{PATH}/disclosures", {**early, **change}, status=403)
        assert other["reason"] == "approval-mismatch"
    done = await ask("POST", f"{PATH}/disclosures", early)
    assert (await ask("POST", f"{PATH}/disclosures", early, status=403))["reason"] == "approval-missing"
    assert "recording.disclosed" in await actions(world, first)
    assert (await ask("GET", f"{PATH}/disclosures?recording={first}"))["items"] == [done]
    assert (await ask("GET", f"{PATH}/disclosures?recording={second}"))["items"] == []
    async with world.services.database.snapshot() as session:
        for customer, ids in ((None, [first]), (customer_id, [])):
            (told,) = await recipients_of(session, world.services, customer, ids)
            assert (str(told.id), told.name) == (recipient["id"], "Aino Virtanen")
        assert await recipients_of(session, world.services, None, [second]) == []
    ended = await ask("DELETE", f"{PATH}/recipients/{recipient['id']}?forget=true")
    assert ended["name"] == ""
    async with world.services.database.snapshot() as session:
        assert await recipients_of(session, world.services, customer_id, [first]) == []


async def test_nothing_of_others_and_nothing_erased_is_disclosed(world: World, ask: Ask) -> None:
    recipient = await ask("POST", f"{PATH}/recipients", POLICE, status=201)
    other = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    gone, theirs = await world.recording(), await world.recording()
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, gone)).state = RecordingState.ERASED
        (await session.get_one(Recording, theirs)).controller_id = other.id
    for recording_id, status in ((gone, 410), (theirs, 404), (uuid.uuid4(), 404)):
        body = {
            "ground": "court_order",
            "reference": "3",
            "recipient": recipient["id"],
            "recordings": [str(recording_id)],
        }
        await ask("POST", f"{PATH}/disclosures", body, status=status)
    async with world.services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Disclosure)) == 0


async def listen(world: World, recording_id: uuid.UUID, actor: str, start: datetime, end: datetime) -> str:
    async with world.services.database.transaction() as session:
        objects = sa.select(StoredObjectRow.id).where(StoredObjectRow.recording_id == recording_id).limit(1)
        row = Listen(
            id=uuid.uuid4(),
            recording_id=recording_id,
            object_id=(await session.scalars(objects)).one(),
            actor=actor,
            purpose="quality",
            rendition="original",
            opened_at=start,
            last_active_at=end,
            seconds=12.5,
        )
        session.add(row)
        event = AuditEvent(
            action="listen.opened",
            actor=actor,
            object_type="recording",
            object_id=str(recording_id),
            controller_id=world.controller.id,
            purpose="quality",
        )
        record(session, event, now=start)
        return str(row.id)


async def test_a_breach_says_who_heard_what_in_its_time(world: World, ask: Ask) -> None:
    thief, other = f"account:{uuid.uuid4()}", f"account:{uuid.uuid4()}"
    one, two = await world.recording(), await world.recording()
    at = world.now - timedelta(days=1)
    minute = timedelta(minutes=1)
    await listen(world, one, thief, at - 9 * minute, at - minute)  # over before
    begun = await listen(world, one, thief, at - minute, at)  # begun before, went on
    inside = await listen(world, two, thief, at + minute, at + 2 * minute)
    others = await listen(world, two, other, at + 2 * minute, at + 3 * minute)
    await listen(world, two, thief, at + 60 * minute, at + 61 * minute)  # at the end, which is not in it
    body = {
        "aware_at": world.now.isoformat(),
        "seen_from": at.isoformat(),
        "seen_until": (at + 60 * minute).isoformat(),
        "facts": "Maija's password was written on a note",
    }

    async def found(**more: Any) -> list[str]:
        breach = await ask("POST", f"{PATH}/breaches", {**body, **more}, role="privacy", status=201)
        page = await ask("GET", f"{PATH}/breaches/{breach['id']}/heard?limit=2")
        ids = [item["id"] for item in page["items"]]
        if len(ids) == 2:
            rest = await ask("GET", f"{PATH}/breaches/{breach['id']}/heard?after={ids[-1]}")
            ids += [item["id"] for item in rest["items"]]
        return ids

    assert await found() == [begun, inside, others]
    assert await found(actor=thief) == [begun, inside]
    assert await found(recordings=[str(two)]) == [inside, others]
    assert await found(actor=thief, recordings=[str(two)]) == [inside]
    async with world.services.database.snapshot() as session:
        for row in await session.scalars(sa.select(Breach)):
            assert b"Maija" not in row.sealed


async def test_the_clock_of_a_breach_runs_from_when_it_was_known(world: World, ask: Ask) -> None:
    known = world.now - timedelta(hours=70)
    body = {
        "aware_at": known.isoformat(),
        "seen_from": "2026-03-01T00:00:00Z",
        "seen_until": "2026-03-02T00:00:00Z",
        "facts": "a lost phone",
    }
    breach = await ask("POST", f"{PATH}/breaches", body, status=201)
    path = f"{PATH}/breaches/{breach['id']}"
    due = known + timedelta(hours=72)
    assert datetime.fromisoformat(breach["due_at"]) == due
    for hours, count in ((0, 0), (1, 0), (2, 1)):
        listed = await ask("GET", f"{PATH}/breaches?due_within_hours={hours}", role="auditor")
        assert len(listed["items"]) == count
    await ask("POST", f"{path}/close", status=409)
    clock_of(world.services).set(due + timedelta(seconds=1))
    assert (await ask("GET", path))["overdue"]
    assert len((await ask("GET", f"{PATH}/breaches?due_within_hours=0"))["items"]) == 1
    late = {"notified_at": world.now.isoformat(), "reference": "TSV/77"}
    problem = await ask("POST", f"{path}/notification", late, status=422)
    assert problem["errors"][0]["pointer"] == "/delay"
    told = await ask("POST", f"{path}/notification", {**late, "delay": "the finder was away"})
    assert (told["state"], told["overdue"], told["delay"]) == ("notified", True, "the finder was away")
    await ask("POST", f"{path}/notification", {**late, "delay": "again"}, status=409)
    more = await ask(
        "PATCH", path, {"measures": "phones are locked", "persons_told_at": world.now.isoformat()}
    )
    assert (more["facts"], more["measures"]) == ("a lost phone", "phones are locked")
    assert (await ask("POST", f"{path}/close"))["state"] == "closed"
    await ask("PATCH", path, {"measures": "x"}, status=409)
    assert (await ask("GET", f"{PATH}/breaches?due_within_hours=99"))["items"] == []
    assert await actions(world, breach["id"]) == [
        "breach.opened", "breach.notified", "breach.described", "breach.closed",
    ]  # fmt: skip


async def test_a_breach_without_risk_needs_no_notice_but_a_reason(world: World, ask: Ask) -> None:
    body = {
        "aware_at": world.now.isoformat(),
        "seen_from": "2026-03-01T00:00:00Z",
        "seen_until": "2026-03-02T00:00:00Z",
        "facts": "a sealed disk was lost",
    }
    ahead = {**body, "aware_at": (world.now + timedelta(seconds=1)).isoformat()}
    await ask("POST", f"{PATH}/breaches", ahead, status=422)
    await ask("POST", f"{PATH}/breaches", {**body, "seen_until": body["seen_from"]}, status=422)
    await ask("POST", f"{PATH}/breaches", {**body, "recordings": [str(uuid.uuid4())]}, status=404)
    breach = await ask("POST", f"{PATH}/breaches", body, status=201)
    path = f"{PATH}/breaches/{breach['id']}"
    await ask("POST", f"{path}/no-notification", {}, status=422)
    settled = await ask("POST", f"{path}/no-notification", {"reason": "nobody can read it"})
    assert (settled["state"], settled["reason"]) == ("not_required", "nobody can read it")
    assert (await ask("POST", f"{path}/close"))["state"] == "closed"


async def test_a_copy_for_staff_holds_their_calls_and_listening_and_nobody_elses(
    world: World, ask: Ask
) -> None:
    console = Principal("os", "installer", None)
    account_id = await create_account(
        world.services,
        console,
        controller_id=world.controller.id,
        username="maija",
        name="Maija Meikäläinen",
        password="correct horse battery",
        agent_code="a7",
        grants=[Grant(Role.AGENT, world.controller.id, ScopeKind.OWN)],
    )
    customer_id = await world.customer(last_contact=world.now)
    theirs = await world.recording(customer_id)
    await listen(world, theirs, f"account:{account_id}", world.now, world.now)
    await listen(world, theirs, f"account:{uuid.uuid4()}", world.now, world.now)
    path = f"/api/v1/staff/{account_id}/copy"
    copy = await ask("GET", path, role="privacy")
    assert (copy["name"], copy["agent_code"]) == ("Maija Meikäläinen", "a7")
    assert [item["recording"] for item in copy["calls"]] == [str(theirs)]
    assert [(item["recording"], item["purpose"]) for item in copy["listening"]] == [(str(theirs), "quality")]
    assert datetime.fromisoformat(copy["listening"][0]["at"]) == world.now
    assert "Aino" not in str(copy)
    assert "+358" not in str(copy)
    assert str(customer_id) not in str(copy)
    assert (await actions(world, account_id))[-1] == "staff.copied"
    assert (await ask("GET", path, role="legal", status=403))["reason"] == "role"
    await ask("GET", f"/api/v1/staff/{uuid.uuid4()}/copy", role="privacy", status=404)


@pytest.mark.parametrize("role", ["quality", "agent", "operator", "crm"])
async def test_others_keep_out_of_the_registers(world: World, ask: Ask, role: str) -> None:
    for part in ("recipients", "disclosures", "breaches"):
        assert (await ask("GET", f"{PATH}/{part}", role=role, status=403))["reason"] == "role"
    assert (await ask("POST", f"{PATH}/recipients", POLICE, role=role, status=403))["reason"] == "role"


async def test_the_clock_of_a_breach_reminds_once_per_step(world: World, ask: Ask) -> None:
    services, known = world.services, world.now
    body = {
        "aware_at": known.isoformat(),
        "seen_from": known.isoformat(),
        "seen_until": (known + timedelta(hours=1)).isoformat(),
        "facts": "a laptop was lost",
    }
    breach = await ask("POST", f"{PATH}/breaches", body, status=201)
    told = await ask("POST", f"{PATH}/breaches", body, status=201)
    await ask(
        "POST",
        f"{PATH}/breaches/{told['id']}/notification",
        {"notified_at": known.isoformat(), "reference": "TSV-1"},
    )
    steps = []
    for hours in (0, 47, 48, 49, 66, 71, 72, 90):
        clock_of(services).set(known + timedelta(hours=hours))
        steps.append(await breach_reminders.remind(services))
    assert steps == [0, 0, 1, 0, 1, 0, 1, 0]
    assert (await actions(world, breach["id"])).count("breach.reminder") == 3
    assert "breach.reminder" not in await actions(world, told["id"])
    overdue = services.metrics.registry.get_sample_value("recorder_breaches_open", {"urgency": "overdue"})
    assert overdue == 1


async def test_what_is_disclosed_follows_windows_restrictions_and_holds(world: World, ask: Ask) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    police = await ask("POST", f"{PATH}/recipients", POLICE, status=201)
    async with services.database.transaction() as session:
        restriction = Restriction(
            id=uuid.uuid4(),
            customer_id=customer_id,
            ground="accuracy_contested",
            placed_at=world.now,
            placed_by="account:a",
        )
        session.add(restriction)
        await session.flush()
        await reevaluate_customer(session, services, customer_id, world.now)

    def body(ground: str) -> dict[str, Any]:
        return {
            "ground": ground,
            "reference": "R/1",
            "recipient": police["id"],
            "recordings": [str(recording_id)],
        }

    # Restricted: stored only, but for the person's own request and for courts.
    refused = await ask("POST", f"{PATH}/disclosures", body("authority_request"), status=403)
    assert refused["reason"] == "restricted"
    for ground in ("customer_request", "court_order"):
        await ask("POST", f"{PATH}/disclosures", body(ground), status=202)
    # A hold opens legal protection.
    async with services.database.transaction() as session:
        matter = Matter(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            reference="2026-1",
            ground="legal_claims",
            sealed=None,
            review_on=world.now,
            opened_at=world.now,
        )
        session.add(matter)
        await session.flush()
        held = Hold(
            id=uuid.uuid4(),
            matter_id=matter.id,
            recording_id=recording_id,
            placed_at=world.now,
            placed_by="account:a",
        )
        session.add(held)
    await ask("POST", f"{PATH}/disclosures", body("authority_request"), status=202)
    async with services.database.transaction() as session:
        (await session.get_one(Hold, held.id)).released_at = world.now
        (await session.get_one(Restriction, restriction.id)).lifted_at = world.now
        (await session.get_one(Recording, recording_id)).state = RecordingState.QUARANTINED
    refused = await ask("POST", f"{PATH}/disclosures", body("court_order"), status=403)
    assert refused["reason"] == "quarantined"
    async with services.database.transaction() as session:
        (await session.get_one(Recording, recording_id)).state = RecordingState.STORED
    # Its time is over, and the sweep has not come yet.
    clock_of(services).set(datetime(2040, 1, 1, tzinfo=UTC))
    for ground in ("authority_request", "customer_request", "court_order"):
        await ask("POST", f"{PATH}/disclosures", body(ground), status=403)
    assert await actions(world, recording_id) == []


async def test_research_gets_pseudonyms_of_what_may_be_used_from_two_people(world: World, ask: Ask) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    made = [await world.recording(customer_id, audio=b"x") for _ in range(6)]
    alone = await world.recording(customer_id, started_at=world.now - timedelta(days=60), audio=b"x")
    restricted = await world.recording(customer_id, audio=b"x")
    async with services.database.transaction() as session:
        session.add(
            Restriction(
                id=uuid.uuid4(),
                recording_id=restricted,
                ground="accuracy_contested",
                placed_at=world.now,
                placed_by="account:a",
            )
        )
    partner = await ask("POST", f"{PATH}/recipients", {**PROCESSOR, "kind": "research"}, status=201)
    processor = await ask("POST", f"{PATH}/recipients", PROCESSOR, status=201)
    body = {
        "recipient": partner["id"],
        "reference": "TKM-12",
        "since": (world.now - timedelta(days=90)).isoformat(),
        "until": (world.now + timedelta(days=1)).isoformat(),
    }
    path = f"{PATH}/research-exports"
    refused = await ask("POST", path, {**body, "recipient": processor["id"]}, status=403)
    assert refused["reason"] == "recipient-kind"
    await ask("POST", path, body, role="quality", status=403)
    await ask("POST", path, {**body, "until": body["since"]}, status=422)
    waiting = await ask("POST", path, body, status=202)
    await ask("POST", path, {**body, "approval": waiting["approval"]}, status=403)
    await approve(world, waiting["approval"])
    other = {**body, "reference": "TKM-13", "approval": waiting["approval"]}
    await ask("POST", path, other, status=403)
    given = await ask("POST", path, {**body, "approval": waiting["approval"]})
    await ask("POST", path, {**body, "approval": waiting["approval"]}, status=403)
    assert (len(given["rows"]), given["left_out"]) == (6, 1)
    first = given["rows"][0]
    assert {key: first[key] for key in ("month", "queue", "direction", "minutes")} == {
        "month": "2026-03",
        "queue": "sales",
        "direction": "inbound",
        "minutes": "1-3",
    }
    text = str(given)
    for secret in (*made, alone, restricted, customer_id, "'a7'", "vip", "Aino", "35840"):
        assert str(secret) not in text
    named = {pseudonym(services, world.controller.id, uuid.UUID(given["disclosure"]), r) for r in made}
    assert named == {row["id"] for row in given["rows"]}
    # It is a disclosure: each recording's history has it, and its recipient is told of an erasure.
    assert await actions(world, made[0]) == ["recording.disclosed"]
    assert await actions(world, restricted) == []
    async with services.database.snapshot() as session:
        told = await recipients_of(session, services, customer_id, [])
    assert [str(recipient.id) for recipient in told] == [partner["id"]]
    clock_of(services).set(datetime(2026, 6, 2, tzinfo=UTC))
    assert (await ask("POST", path, body, status=403))["reason"] == "contract-expired"
