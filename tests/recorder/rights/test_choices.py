"""The choices ledger over HTTP: in force at the next playback, most restrictive wins, as of any moment."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from recorder.catalogue.enums import ChoiceKind
from recorder.customers.choices import state_as_of
from tests.recorder.disposition_world import World
from tests.recorder.rights.conftest import Desk


async def choose(
    desk: Desk, customer_id: uuid.UUID, kind: str, *, role: str = "crm", status: int = 201, **more: Any
) -> Any:
    path = f"/api/v1/customers/{customer_id}/choices"
    return await desk.ask("POST", path, role=role, status=status, json={"kind": kind, **more})


async def held(desk: Desk, customer_id: uuid.UUID, moment: datetime) -> dict[str, Any]:
    path = f"/api/v1/customers/{customer_id}/choices"
    answer = await desk.ask("GET", path, params={"as_of": moment.isoformat()})
    state: dict[str, Any] = answer["state"]
    return state


async def test_an_objection_counts_at_the_next_playback_and_so_does_its_withdrawal(
    desk: Desk, world: World
) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    start, clock = world.now, world.services.clock
    assert await desk.plays(recording_id, "quality", "quality") == 200
    clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # the test's clock
    await choose(desk, customer_id, "objection", purposes=["quality"])
    assert await desk.plays(recording_id, "quality", "quality") == 403
    assert await desk.plays(recording_id, "training", "trainer") == 200
    clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # the test's clock
    await choose(desk, customer_id, "consent", purposes=["quality"])
    assert await desk.plays(recording_id, "quality", "quality") == 403  # the more restrictive one
    await choose(desk, customer_id, "objection_withdrawn", purposes=["training"], status=409)
    back: dict[str, Any] = {"effective_at": start.isoformat()}
    await choose(desk, customer_id, "objection_withdrawn", status=422, **back)
    await choose(desk, customer_id, "objection_withdrawn")
    assert await desk.plays(recording_id, "quality", "quality") == 200
    states = [await held(desk, customer_id, start + timedelta(minutes=m)) for m in range(3)]
    assert [state["objected"] for state in states] == [[], ["quality"], []]
    assert [state["consented"] for state in states] == [[], [], ["quality"]]


async def test_an_objection_can_take_effect_later_by_itself(desk: Desk, world: World) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    later = (world.now + timedelta(days=1)).isoformat()
    await choose(desk, customer_id, "objection", effective_at=later)
    assert await desk.plays(recording_id, "quality", "quality") == 200
    world.services.clock.advance(timedelta(days=1))  # type: ignore[attr-defined]  # the test's clock
    assert await desk.plays(recording_id, "quality", "quality") == 403


async def test_a_restriction_is_lifted_by_privacy_after_the_person_was_told(desk: Desk, world: World) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    await choose(desk, customer_id, "restriction")
    assert await desk.plays(recording_id, "service_evidence", "legal") == 403
    world.services.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # the test's clock
    told: dict[str, Any] = {"told_at": world.now.isoformat()}
    await choose(desk, customer_id, "restriction_lifted", status=403, **told)
    await choose(desk, customer_id, "restriction_lifted", role="privacy", status=422)
    partly: dict[str, Any] = {"purposes": ["training"], **told}
    await choose(desk, customer_id, "restriction_lifted", role="privacy", **partly)
    assert await desk.plays(recording_id, "service_evidence", "legal") == 403  # the rest of it stands
    await choose(desk, customer_id, "restriction_lifted", role="privacy", **told)
    assert await desk.plays(recording_id, "service_evidence", "legal") == 200
    await choose(desk, customer_id, "restriction_lifted", role="privacy", status=409, **told)


@pytest.mark.parametrize(
    ("entries", "allowed"),
    [
        ([], set()),
        ([("marketing_consent", "email")], {"email"}),
        ([("marketing_consent", "email"), ("marketing_ban", "email")], set()),
        ([("marketing_consent", None), ("marketing_ban", "sms")], {"email", "phone"}),
        ([("marketing_ban", None), ("marketing_consent", "email")], set()),
        ([("marketing_ban", None), ("marketing_consent", None)], {"email", "sms", "phone"}),
    ],
)
async def test_marketing_is_banned_per_channel(
    desk: Desk, world: World, entries: list[tuple[str, str | None]], allowed: set[str]
) -> None:
    customer_id = await world.customer()
    for kind, channel in entries:
        world.services.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]
        await choose(desk, customer_id, kind, channel=channel)
    answer = await desk.ask("GET", f"/api/v1/customers/{customer_id}/choices")
    ledger = [_Entry(ChoiceKind(i["kind"]), i["channel"], i["effective_at"]) for i in answer["items"]]
    state = state_as_of(ledger, world.now)
    assert state.marketing == answer["state"]["marketing"]
    assert {c for c in ("email", "sms", "phone") if state.may_market(c)} == allowed


class _Entry:
    def __init__(self, kind: ChoiceKind, channel: str | None, at: str) -> None:
        self.kind, self.channel, self.effective_at = kind, channel, datetime.fromisoformat(at)
        self.purposes: list[str] = []


async def test_the_persons_view_of_the_log_has_no_staff(desk: Desk, world: World) -> None:
    recording_id = await world.recording(customer_id := await world.customer(last_contact=world.now))
    await desk.plays(recording_id, "quality", "quality")
    await desk.plays(recording_id, "marketing", "quality")  # refused: nobody heard anything
    path = f"/api/v1/customers/{customer_id}/consultations"
    assert (await desk.ask("GET", path))["items"] == [
        {
            "recording": str(recording_id),
            "at": "2026-03-05T08:00:00Z",
            "purpose": "quality",
            "what": "listen.opened",
        }
    ]
    for role in ("crm", "legal", "auditor"):
        await desk.ask("GET", path, role=role, status=403)
