"""A death told by a relative: reported it changes nothing, confirmed by a person it counts from its day."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import AuditEntry, Customer, CustomerBatch, Subject
from recorder.customers import relationship
from recorder.disposition import schedules
from recorder.errors import Forbidden
from tests.recorder.disposition_world import World, bytes_of, clock_of
from tests.recorder.rights.conftest import Desk

DEATH = {"ended_on": "2026-04-20", "cause": "death", "source": "relative", "source_ref": "letter 7"}
CALL = datetime(2026, 3, 5, 8, tzinfo=UTC)


async def end(
    desk: Desk, customer: uuid.UUID, step: str = "", *, method: str = "POST", **options: Any
) -> dict[str, Any]:
    path = f"/api/v1/customers/{customer}/relationship-end{step}"
    answer: dict[str, Any] = await desk.ask(method, path, **options)
    return answer


async def count_from_the_end(world: World) -> None:
    """The default schedule, but evidence counts from the end of the relationship."""
    async with world.services.database.transaction() as session:
        first = await schedules.get(session, world.controller.id, 1)
        document = first.document.replace("version    = 1", "version    = 2")
        document = document.replace('after    = "last_contact"', 'after    = "relationship_ended"', 1)
        await schedules.add_version(session, world.controller.id, document, actor="os:t", now=world.now)
        await schedules.activate(session, world.controller.id, 2, actor="os:t", now=world.now)


async def row(world: World, customer: uuid.UUID) -> Customer:
    async with world.services.database.snapshot() as session:
        return await session.get_one(Customer, customer)


@pytest.fixture
async def told(world: World) -> tuple[uuid.UUID, uuid.UUID]:
    """A customer and a call, under a schedule that counts from the end; it is 22 April."""
    await count_from_the_end(world)
    clock_of(world.services).set(CALL)
    customer = await world.customer(last_contact=CALL)
    recording = await world.recording(customer, started_at=CALL)
    clock_of(world.services).set(datetime(2026, 4, 22, 8, tzinfo=UTC))
    return customer, recording


async def test_a_death_counts_from_its_day_once_a_person_has_confirmed_it(
    desk: Desk, world: World, told: tuple[uuid.UUID, uuid.UUID]
) -> None:
    customer, recording = told
    assert (await world.get(recording)).erase_on is None
    answer = await end(desk, customer, role="crm", json=DEATH)
    assert answer == {"ended_on": "2026-04-20", "confirmed_at": None}
    assert (await world.get(recording)).erase_on is None  # nobody has confirmed it
    clock_of(world.services).set(datetime(2026, 5, 2, 9, tzinfo=UTC))
    answer = await end(desk, customer, "/confirmation", json={"ended_on": "2026-04-20"})
    assert answer["confirmed_at"] == "2026-05-02T09:00:00Z"
    # Eight years from the day itself, and not from its confirmation: through 20 April 2034 in Helsinki.
    assert (await world.get(recording)).erase_on == datetime(2034, 4, 20, 21, tzinfo=UTC)
    assert (await row(world, customer)).last_contact_at == CALL
    assert await desk.actions(customer) == ["relationship.end_reported", "relationship.end_confirmed"]


async def test_what_was_told_in_error_is_taken_back(
    desk: Desk, world: World, told: tuple[uuid.UUID, uuid.UUID]
) -> None:
    customer, recording = told
    await end(desk, customer, method="DELETE", status=409)
    await end(desk, customer, role="crm", json=DEATH)
    seen = {"ended_on": "2026-04-20"}
    await end(desk, customer, "/confirmation", json=seen)
    again = await end(desk, customer, role="crm", json=DEATH)
    assert again["confirmed_at"] is not None  # the same day is confirmed still
    other = await end(desk, customer, role="crm", json={**DEATH, "ended_on": "2026-04-19"})
    assert other == {"ended_on": "2026-04-19", "confirmed_at": None}
    assert (await world.get(recording)).erase_on is None
    await end(desk, customer, "/confirmation", json=seen, status=409)  # not the day that is there now
    await end(desk, customer, "/confirmation", json={"ended_on": "2026-04-19"})
    assert (await world.get(recording)).erase_on is not None
    answer = await end(desk, customer, method="DELETE")
    assert answer == {"ended_on": None, "confirmed_at": None}
    assert (await world.get(recording)).erase_on is None


async def test_who_may_say_so_and_of_which_day(
    desk: Desk, world: World, told: tuple[uuid.UUID, uuid.UUID]
) -> None:
    customer, _ = told
    tomorrow = (world.now + timedelta(days=1)).date().isoformat()
    await end(desk, customer, role="crm", status=422, json={**DEATH, "ended_on": tomorrow})
    await end(desk, customer, role="crm", status=422, json={**DEATH, "source": "rumour"})
    for role in ("agent", "trainer", "quality", "operator", "auditor"):
        await end(desk, customer, role=role, status=403, json=DEATH)
    await end(desk, uuid.uuid4(), role="crm", status=404, json=DEATH)
    await end(desk, customer, role="crm", json=DEATH)
    seen = {"ended_on": "2026-04-20"}
    await end(desk, customer, "/confirmation", role="crm", status=403, json=seen)
    await end(desk, customer, role="crm", method="DELETE", status=403)
    grant = Grant(Role.PRIVACY, world.controller.id, ScopeKind.CONTROLLER)
    token = Principal("token", str(uuid.uuid4()), world.controller.id, (grant,))
    with pytest.raises(Forbidden, match="only a person"):
        await relationship.confirm_end(
            world.services,
            token,
            world.controller.id,
            customer,
            ended_on=datetime(2026, 4, 20, tzinfo=UTC).date(),
            request_id="r",
        )
    assert (await row(world, customer)).relationship_end_confirmed_at is None


async def test_day_and_cause_are_sealed_and_the_source_is_kept(
    desk: Desk, world: World, told: tuple[uuid.UUID, uuid.UUID]
) -> None:
    customer, _ = told
    await end(desk, customer, role="crm", json=DEATH)
    async with world.services.database.snapshot() as session:
        query = sa.select(CustomerBatch).where(
            CustomerBatch.customer_id == customer, CustomerBatch.source == "relative"
        )
        batch = (await session.scalars(query)).one()
        subject = await session.get_one(Subject, (await session.get_one(Customer, customer)).subject_id)
        opened = open_json(world.services.keyring, subject, CUSTOMER_BATCH, batch.id, bytes_of(batch.sealed))
        said = await session.scalar(
            sa.select(AuditEntry.payload).where(AuditEntry.action == "relationship.end_reported")
        )
    assert opened == {
        "source_ref": "letter 7",
        "fields": {"relationship_ended": "2026-04-20", "cause": "death"},
    }
    assert json.loads(bytes_of(said))["details"] == {"source": "relative"}
