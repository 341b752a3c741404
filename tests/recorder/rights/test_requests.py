"""The register of requests over HTTP, and what a request does to recordings at once."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue import enums
from recorder.catalogue.tables import Choice, Job, RightsRequest, Subject
from recorder.disposition import holds, sweeping
from recorder.disposition.erasures import erase_customer
from recorder.errors import Erased
from recorder.rights import deciding, recipients, reminders
from recorder.rights.recipients import Recipient
from recorder.services import Services
from tests.recorder.disposition_world import World
from tests.recorder.rights.conftest import Desk

PERSON = {"name": "Aino <Virtanen>", "contact": "aino@example.org", "message": "please"}


async def hold(world: World, recording_id: uuid.UUID) -> tuple[Any, uuid.UUID]:
    async with world.services.database.transaction() as session:
        matter = await holds.open_matter(
            session,
            world.services,
            controller_id=world.controller.id,
            reference="2026-1",
            ground="legal_claims",
            review_on=world.now + timedelta(days=100),
            actor="os:test",
            now=world.now,
        )
        placed = await holds.place_hold(
            session, world.services, matter, recording_id=recording_id, actor="os:test", now=world.now
        )
        return matter, placed.id


async def test_filing_starts_the_clock_on_receipt_and_seals_the_words(desk: Desk, world: World) -> None:
    filed = await desk.file(
        "access", None, channel="post", filed_at="2026-03-02T09:00:00+02:00", person=PERSON, language="fi"
    )
    assert (filed["last_day"], filed["state"], filed["customer"]) == ("2026-04-02", "pending", None)
    assert filed["deadline_at"] == "2026-04-02T21:00:00Z"
    assert filed["person"] == PERSON
    async with world.services.database.snapshot() as session:
        row = await session.get_one(RightsRequest, uuid.UUID(filed["id"]))
        subject = await session.get_one(Subject, row.subject_id)
    assert row.sealed is not None
    assert b"Virtanen" not in row.sealed
    assert subject.kind is enums.SubjectKind.REQUEST
    assert await desk.actions(filed["id"]) == ["request.filed"]
    late = {"type": "access", "channel": "web", "filed_at": "2026-04-02T09:00:00+02:00"}
    await desk.ask("POST", "/api/v1/requests", status=422, json=late)
    for role in ("legal", "quality", "crm", "auditor", "operator"):
        await desk.ask("GET", f"/api/v1/requests/{filed['id']}", role=role, status=403)
        await desk.ask("POST", "/api/v1/requests", role=role, status=403, json={**late, "filed_at": None})


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("erasure", 403),
        ("rectification", 403),
        ("objection", 403),
        ("restriction", 403),
        ("access", 200),
        ("portability", 200),
        ("consent_withdrawal", 200),
    ],
)
async def test_a_pending_request_freezes_and_restricts_by_its_kind(
    desk: Desk, world: World, kind: str, status: int
) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    stranger = await world.recording(await world.customer(last_contact=world.now))
    assert await desk.plays(recording_id, "quality", "quality") == 200
    filed = await desk.file(kind, customer_id)
    assert await desk.plays(recording_id, "quality", "quality") == status
    assert await desk.plays(stranger, "quality", "quality") == 200
    decision = (await world.get(recording_id)).decision
    assert decision is not None
    assert decision["frozen"]
    refusal: dict[str, Any] = {"outcome": "refused", "ground": "identity_not_shown"}
    refused = await desk.decide(filed["id"], **refusal)
    assert (refused["state"], refused["completed_at"] is not None) == ("refused", True)
    assert await desk.plays(recording_id, "quality", "quality") == 200
    await desk.decide(filed["id"], status=409, **refusal)


async def test_a_request_about_one_recording_touches_no_other(desk: Desk, world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    one, other = await world.recording(customer_id), await world.recording(customer_id)
    await desk.file("restriction", customer_id, recordings=[str(one)])
    assert await desk.plays(one, "quality", "quality") == 403
    assert await desk.plays(other, "quality", "quality") == 200
    strange = {"type": "restriction", "channel": "web", "customer": str(customer_id)}
    foreign = str(await world.recording())
    await desk.ask("POST", "/api/v1/requests", status=404, json={**strange, "recordings": [foreign]})


async def test_the_identity_gates_the_action_not_the_registration(desk: Desk, world: World) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    filed = await desk.file("restriction", None)
    path = f"/api/v1/requests/{filed['id']}"
    problem = await desk.decide(filed["id"], status=409, outcome="granted")
    assert problem["type"].endswith("request-unmatched")
    await desk.ask("POST", f"{path}/customer", json={"customer": str(customer_id)})
    assert await desk.plays(recording_id, "quality", "quality") == 403  # matched, so it restricts
    problem = await desk.decide(filed["id"], status=403, outcome="granted")
    assert problem["reason"] == "identity-not-confirmed"
    not_shown = {"method": "call_back", "outcome": "not_shown"}
    await desk.ask("POST", f"{path}/identity", json=not_shown)
    await desk.decide(filed["id"], status=403, outcome="granted")
    shown = await desk.ask("POST", f"{path}/identity", json={**not_shown, "outcome": "confirmed"})
    assert shown["identity"] == {**not_shown, "outcome": "confirmed", "at": "2026-03-05T08:00:00Z"}
    secret = {"method": "call_back", "outcome": "confirmed", "answer": "blue"}
    await desk.ask("POST", f"{path}/identity", status=422, json=secret)
    granted = await desk.decide(filed["id"], outcome="granted")
    assert granted["state"] == "granted"
    assert await desk.plays(recording_id, "quality", "quality") == 403
    assert "request.identity_checked" in await desk.actions(filed["id"])


async def test_an_extension_goes_out_within_the_first_month(desk: Desk, world: World) -> None:
    filed = await desk.file("access", None)
    path = f"/api/v1/requests/{filed['id']}/extension"
    await desk.ask("POST", path, status=422, json={"reason": "busy"})
    extended = await desk.ask("POST", path, json={"reason": "complexity"})
    assert (extended["last_day"], extended["extended"]) == ("2026-06-05", True)
    await desk.ask("POST", path, status=409, json={"reason": "complexity"})
    second = await desk.file("access", None)
    world.services.clock.set(datetime(2026, 4, 7, 21, tzinfo=UTC))  # type: ignore[attr-defined]  # the test's
    path = f"/api/v1/requests/{second['id']}/extension"
    await desk.ask("POST", path, status=409, json={"reason": "complexity"})


async def test_an_objection_closes_training_and_quality_and_nothing_else(desk: Desk, world: World) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    before = (await world.get(recording_id)).erase_on
    granted = await desk.grant("objection", customer_id)
    assert granted["completed_at"] is not None
    assert await desk.plays(recording_id, "quality", "quality") == 403
    assert await desk.plays(recording_id, "service_evidence", "legal") == 200
    assert (await world.get(recording_id)).erase_on == before
    answer = await desk.ask("GET", f"/api/v1/customers/{customer_id}/choices")
    assert answer["items"][0]["source"] == "request"
    assert answer["state"]["objected"] == ["quality", "training"]


async def test_one_under_the_wrong_person_is_undone(desk: Desk, world: World) -> None:
    wrong, right = [await world.customer(last_contact=world.now) for _ in range(2)]
    theirs, own = await world.recording(wrong), await world.recording(right)
    for kind in ("restriction", "objection"):
        granted = await desk.grant(kind, wrong)
        assert await desk.plays(theirs, "quality", "quality") == 403
        world.services.clock.advance(timedelta(hours=1))  # type: ignore[attr-defined]  # the test's
        body = {"reason": "wrong_person", "customer": str(right)}
        undone = await desk.ask("POST", f"/api/v1/requests/{granted['id']}/undo", json=body)
        assert await desk.plays(theirs, "quality", "quality") == 200
        assert await desk.plays(own, "quality", "quality") == 403  # pending again, on the right person
        assert (undone["state"], undone["customer"], undone["identity"]) == ("pending", str(right), None)
        assert undone["last_day"] == granted["last_day"]  # the clock was running all the time
        log = await desk.actions(granted["id"])
        assert log[-2:] == ["request.undone", "request.matched"]
        ended = {"reason": "withdrawn_by_person"}
        await desk.ask("POST", f"/api/v1/requests/{granted['id']}/undo", json=ended)
        assert await desk.plays(own, "quality", "quality") == 200
        await desk.ask("POST", f"/api/v1/requests/{granted['id']}/undo", status=409, json=ended)
    async with world.services.database.snapshot() as session:
        kinds = list(await session.scalars(sa.select(Choice.kind).order_by(Choice.effective_at)))
    assert kinds == [enums.ChoiceKind.OBJECTION, enums.ChoiceKind.OBJECTION_WITHDRAWN]


async def test_erasure_takes_what_nothing_covers_and_the_rest_by_itself(desk: Desk, world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    free = await world.recording(customer_id)
    held = await world.recording(customer_id)
    voucher = await world.recording(customer_id, events=["payment"])
    matter, hold_id = await hold(world, held)
    filed = await desk.file("erasure", customer_id, person=PERSON)
    await desk.identify(filed["id"])
    wrong = [{"recording": str(free), "ground": "legal_claims"}]
    problem = await desk.decide(filed["id"], status=409, outcome="granted", recordings=wrong)
    assert problem["type"].endswith("ground-unfounded")
    named = [{"recording": str(held), "ground": "legal_claims", "review_on": "2026-12-01T00:00:00Z"}]
    granted = await desk.decide(filed["id"], outcome="granted", recordings=named)
    assert granted["state"] == "partly_granted"
    outcomes = {item["recording"]: item for item in granted["recordings"]}
    assert outcomes[str(free)]["outcome"] == "granted"
    assert outcomes[str(held)]["ground"] == "legal_claims"
    assert outcomes[str(held)]["review_on"] == "2026-12-01T00:00:00Z"
    assert outcomes[str(voucher)]["ground"] == "legal_obligation"
    assert outcomes[str(voucher)]["review_on"] == "2032-12-31T22:00:00Z"
    assert await desk.plays(free, "service_evidence", "legal") == 403  # before anything was erased
    async with world.services.database.snapshot() as session:
        (job,) = await session.scalars(sa.select(Job).where(Job.kind == deciding.ERASURE_JOB))
    assert job.target_id == uuid.UUID(filed["id"])
    for _ in range(2):  # safe to repeat
        await deciding.carry_out(world.services, job.target_id)
    assert await desk.plays(free, "service_evidence", "legal") == 410
    assert await desk.plays(held, "legal_protection", "legal") == 200
    assert await desk.plays(held, "service_evidence", "legal") == 403
    with_undo = {"reason": "wrong_person"}
    await desk.ask("POST", f"/api/v1/requests/{filed['id']}/undo", status=409, json=with_undo)
    # The register outlives the customer: what the person wrote is there under its own key.
    shown = await desk.ask("GET", f"/api/v1/requests/{filed['id']}")
    assert shown["person"] == PERSON
    assert shown["completed_at"] is not None
    # The ground falls, and what it covered goes without anybody asking again.
    async with world.services.database.transaction() as session:
        await holds.release_hold(session, world.services, matter, hold_id, actor="os:test", now=world.now)
    world.services.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]  # the test's
    await sweeping.sweep(world.services, world.controller.id, world.now)
    assert (await world.get(held)).state is enums.RecordingState.ERASED
    assert (await world.get(voucher)).state is enums.RecordingState.STORED


async def test_erasing_one_recording_leaves_the_others(desk: Desk, world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    one, other = await world.recording(customer_id), await world.recording(customer_id)
    filed = await desk.file("erasure", customer_id, recordings=[str(one)])
    await desk.identify(filed["id"])
    granted = await desk.decide(filed["id"], outcome="granted")
    assert [item["recording"] for item in granted["recordings"]] == [str(one)]
    for _ in range(2):
        await deciding.carry_out(world.services, uuid.UUID(filed["id"]))
    assert (await world.get(one)).state is enums.RecordingState.ERASED
    assert await desk.plays(other, "quality", "quality") == 200


async def test_another_pending_request_keeps_the_recordings_until_it_is_decided(
    desk: Desk, world: World
) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    access = await desk.file("access", customer_id)
    granted = await desk.grant("erasure", customer_id)
    assert [item["ground"] for item in granted["recordings"]] == ["frozen"]
    await deciding.carry_out(world.services, uuid.UUID(granted["id"]))
    assert (await world.get(recording_id)).state is enums.RecordingState.STORED
    await desk.decide(access["id"], outcome="refused", ground="unfounded_or_excessive")
    await sweeping.sweep(world.services, world.controller.id, world.now)
    assert (await world.get(recording_id)).state is enums.RecordingState.ERASED


@pytest.mark.parametrize(
    ("kind", "ground"),
    [("access", "legal_claims"), ("consent_withdrawal", "unfounded_or_excessive"), ("objection", None)],
)
async def test_a_refusal_needs_a_ground_of_its_kind(desk: Desk, kind: str, ground: str | None) -> None:
    filed = await desk.file(kind, None)
    problem = await desk.decide(filed["id"], status=422, outcome="refused", ground=ground)
    assert problem["errors"][0]["pointer"] == "/ground"


async def test_recipients_are_told_and_confirm(
    desk: Desk, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient = Recipient(uuid.uuid4(), "Asianajotoimisto Oy")
    asked: list[tuple[uuid.UUID | None, Sequence[uuid.UUID]]] = []

    async def source(
        session: AsyncSession, services: Services, customer_id: uuid.UUID | None, ids: Sequence[uuid.UUID]
    ) -> Sequence[Recipient]:
        asked.append((customer_id, ids))
        return [recipient]

    monkeypatch.setattr(recipients, "_SOURCES", [source])
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    granted = await desk.grant("erasure", customer_id)
    assert asked == [(customer_id, [recording_id])]
    assert [n["recipient"] for n in granted["notices"]] == ["Asianajotoimisto Oy"]
    path = f"/api/v1/requests/{granted['id']}"
    assert "disclosed" in await desk.ask("GET", f"{path}/reply")
    await desk.ask("POST", f"{path}/notices/1/acknowledgement", status=204)
    await desk.ask("POST", f"{path}/notices/1/acknowledgement", status=409)
    await desk.ask("POST", f"{path}/notices/2/acknowledgement", status=404)
    shown = await desk.ask("GET", path)
    assert shown["notices"][0]["acknowledged_at"] == "2026-03-05T08:00:00Z"
    assert (await desk.grant("access", await world.customer()))["notices"] == []


async def test_replies_in_three_languages_name_the_authority(desk: Desk, world: World) -> None:
    filed = await desk.file("erasure", None, person=PERSON, language="sv")
    path = f"/api/v1/requests/{filed['id']}/reply"
    swedish = await desk.ask("GET", path)
    assert "senast 2026-04-07" in swedish
    assert "Tietosuojavaltuutettu" in swedish
    assert "viimeistään 7.4.2026" in await desk.ask("GET", path, params={"language": "fi"})
    page = await desk.ask("GET", path, params={"language": "en", "format": "html"})
    assert "7 April 2026" in page
    assert "Aino &lt;Virtanen&gt;" in page
    assert "<Virtanen>" not in page
    await desk.ask("POST", f"/api/v1/requests/{filed['id']}/extension", json={"reason": "complexity"})
    assert "komplicerad" in await desk.ask("GET", path)
    await desk.decide(filed["id"], outcome="refused", ground="unfounded_or_excessive")
    for language, word in (("fi", "perusteeton"), ("sv", "ogrundad"), ("en", "unfounded")):
        letter = await desk.ask("GET", path, params={"language": language})
        assert word in letter
        assert "Tietosuojavaltuutettu" in letter


async def test_a_reply_says_what_stays_and_until_when(desk: Desk, world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    await world.recording(customer_id, events=["payment"])
    granted = await desk.grant("erasure", customer_id)
    letter = await desk.ask("GET", f"/api/v1/requests/{granted['id']}/reply", params={"language": "en"})
    assert "The call of 5 March 2026: the law obliges us" in letter
    assert "This ground ends on 31 December 2032." in letter
    assert "without a further request" in letter


async def test_reminders_and_the_list_of_what_is_due(desk: Desk, world: World) -> None:
    first = await desk.file("access", None)
    world.services.clock.advance(timedelta(days=28))  # type: ignore[attr-defined]  # the test's
    second = await desk.file("access", None)
    due = await desk.ask("GET", "/api/v1/requests", params={"due": "soon"})
    assert [(r["id"], r["urgency"]) for r in due["items"]] == [(first["id"], "soon")]
    written = [await reminders.remind(world.services) for _ in range(2)]
    world.services.clock.advance(timedelta(days=6))  # type: ignore[attr-defined]  # the test's
    written += [await reminders.remind(world.services) for _ in range(2)]
    assert written == [1, 0, 1, 0]
    assert (await desk.actions(first["id"]))[1:] == ["request.reminder"] * 2
    gauge = world.services.metrics.requests_due
    assert gauge.labels("overdue")._value.get() == 1
    assert gauge.labels("in_time")._value.get() == 1
    overdue = await desk.ask("GET", "/api/v1/requests", params={"due": "overdue"})
    assert [r["id"] for r in overdue["items"]] == [first["id"]]
    await desk.decide(first["id"], outcome="no_data")
    assert await reminders.remind(world.services) == 0
    assert gauge.labels("overdue")._value.get() == 0
    everything = [r["id"] async for r in pages(desk)]
    assert everything == [second["id"], first["id"]]


async def pages(desk: Desk) -> AsyncIterator[dict[str, Any]]:
    query: dict[str, Any] = {"limit": 1}
    while True:
        page = await desk.ask("GET", "/api/v1/requests", params=query)
        for item in page["items"]:
            yield item
        if page["next"] is None:
            return
        query["cursor"] = page["next"]


async def test_an_erased_customer_cannot_be_named_but_the_request_is_kept(desk: Desk, world: World) -> None:
    granted = await desk.grant("erasure", customer_id := await world.customer())
    await deciding.carry_out(world.services, uuid.UUID(granted["id"]))
    body = {"type": "access", "channel": "web", "customer": str(customer_id)}
    await desk.ask("POST", "/api/v1/requests", status=404, json=body)
    assert (await desk.decide((await desk.file("access", None))["id"], outcome="no_data"))[
        "state"
    ] == "no_data"
    with pytest.raises(Erased):
        await erase_customer(world.services, customer_id, requested_by="os:test", now=world.now)
