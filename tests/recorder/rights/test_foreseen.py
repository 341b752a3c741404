"""What granting is said to do is what it does; and a letter is noted as sent once, after a decision."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import Role, ScopeKind
from recorder.disposition import holds
from recorder.errors import Forbidden
from recorder.rights import previewing
from recorder.rights.previewing import Foreseen
from tests.recorder.disposition_world import World
from tests.recorder.rights.conftest import Desk


async def foresee(world: World, rights_id: str, role: Role = Role.PRIVACY) -> dict[uuid.UUID, Foreseen]:
    controller = world.controller.id
    principal = Principal(
        "account", str(uuid.UUID(int=1)), controller, (Grant(role, controller, ScopeKind.CONTROLLER),)
    )
    found = await previewing.foresee(world.services, principal, uuid.UUID(rights_id), request_id="tests")
    return {item.recording_id: item for item in found}


async def hold(world: World, recording_id: uuid.UUID) -> None:
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
        await holds.place_hold(
            session, world.services, matter, recording_id=recording_id, actor="os:test", now=world.now
        )


@pytest.mark.parametrize("kind", ["access", "erasure", "portability", "restriction", "objection"])
async def test_what_is_foreseen_is_what_is_decided(desk: Desk, world: World, kind: str) -> None:
    customer_id = await world.customer(last_contact=world.now)
    free, held = await world.recording(customer_id), await world.recording(customer_id)
    await hold(world, held)
    filed = await desk.file(kind, customer_id)
    before = await foresee(world, filed["id"])
    assert set(before) == {free, held}
    assert await foresee(world, filed["id"]) == before, "looking changes nothing"
    await desk.identify(filed["id"])
    decided = await desk.decide(filed["id"], outcome="granted")
    said = {
        str(item.recording_id): (item.outcome, item.ground)
        for item in before.values()
        if item.outcome is not None
    }
    assert {r["recording"]: (r["outcome"], r["ground"]) for r in decided["recordings"]} == said
    if kind == "erasure":
        assert said == {str(free): ("granted", None), str(held): ("refused", "legal_claims")}
    after = await foresee(world, filed["id"])
    assert {str(i): (item.outcome, item.ground) for i, item in after.items()} == said


async def test_nothing_is_foreseen_for_nobody_and_for_no_one_else(desk: Desk, world: World) -> None:
    filed = await desk.file("erasure", None)
    assert await foresee(world, filed["id"]) == {}
    for role in (Role.LEGAL, Role.OPERATOR, Role.AUDITOR):
        with pytest.raises(Forbidden):
            await foresee(world, filed["id"], role)


async def test_a_letter_is_sent_once_and_after_the_decision(desk: Desk, world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    filed = await desk.file("objection", customer_id)
    path = f"/api/v1/requests/{filed['id']}/reply"
    early = await desk.ask("POST", path, status=409)
    assert early["type"].endswith("request-undecided")
    await desk.identify(filed["id"])
    await desk.decide(filed["id"], outcome="granted")
    for role in ("legal", "operator", "auditor"):
        await desk.ask("POST", path, role=role, status=403)
    sent = await desk.ask("POST", path)
    assert sent["replied_at"] == "2026-03-05T08:00:00Z"
    again = await desk.ask("POST", path, status=409)
    assert again["type"].endswith("reply-sent")
    assert (await desk.actions(filed["id"])).count("request.replied") == 1

    undo: dict[str, Any] = {"reason": "wrong_person"}
    undone = await desk.ask("POST", f"/api/v1/requests/{filed['id']}/undo", json=undo)
    assert (undone["state"], undone["replied_at"]) == ("pending", None)
