"""What happens re-evaluates exactly what it touches: nothing less, and no row more."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue import enums
from recorder.catalogue.tables import Hold, Recording, RecordingLink
from recorder.customers.contacts import add_contact
from recorder.customers.ledger import add_choice
from recorder.disposition import holds, schedules
from recorder.disposition.reevaluation import follow
from recorder.rights import register
from recorder.rights.register import NewRequest
from retention.model import RequestKind
from tests.recorder.disposition_world import World, clock_of

ACTOR = "os:test"


class Estate:
    """Two of Aino's calls, one of Bertta's on which Aino is a reference, one of Cecilia's, one of nobody."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.people: dict[str, uuid.UUID] = {}
        self.calls: dict[str, uuid.UUID] = {}

    async def make(self) -> None:
        world = self.world
        for name in ("aino", "bertta", "cecilia"):
            self.people[name] = await world.customer(last_contact=world.now)
        for name, customer in (
            ("aino-1", "aino"),
            ("aino-2", "aino"),
            ("shared", "bertta"),
            ("cecilia-1", "cecilia"),
            ("nobody", None),
        ):
            owner = None if customer is None else self.people[customer]
            started = world.now - timedelta(days=200 if name == "cecilia-1" else 1)
            self.calls[name] = await world.recording(owner, started_at=started, audio=b"x")
        async with world.services.database.transaction() as session:
            session.add(
                RecordingLink(
                    recording_id=self.calls["shared"],
                    customer_id=self.people["aino"],
                    role=enums.LinkRole.REFERENCE,
                    matched_by="phone",
                    created_at=world.now,
                )
            )

    async def evaluated(self) -> dict[str, datetime | None]:
        async with self.world.services.database.snapshot() as session:
            query = sa.select(Recording.id, Recording.evaluated_at)
            found = {row.id: row.evaluated_at for row in await session.execute(query)}
        return {name: found[recording_id] for name, recording_id in self.calls.items()}

    async def touched(self, happen: Callable[[Estate], Awaitable[object]]) -> set[str]:
        before = await self.evaluated()
        later = clock_of(self.world.services).advance(timedelta(days=1))
        await happen(self)
        after = await self.evaluated()
        changed = {name for name in after if after[name] != before[name]}
        assert {after[name] for name in changed} <= {later}
        return changed


def officer(world: World) -> Principal:
    grant = Grant(enums.Role.PRIVACY, world.controller.id, enums.ScopeKind.CONTROLLER)
    return Principal("account", str(uuid.UUID(int=9)), world.controller.id, (grant,))


async def contact(estate: Estate) -> None:
    world = estate.world
    await add_contact(
        world.services,
        world.controller.id,
        estate.people["aino"],
        kind=enums.ContactKind.SERVICE,
        at=world.now,
        note=None,
        actor=ACTOR,
        request_id="r",
    )


async def choice(estate: Estate) -> None:
    world = estate.world
    await add_choice(
        world.services,
        world.controller.id,
        estate.people["aino"],
        kind=enums.ChoiceKind.OBJECTION,
        purposes=[],
        channel=None,
        effective_at=None,
        source="call",
        actor=ACTOR,
        request_id="r",
    )


def hold(
    *, on: str | None = None, of: str | None = None, query: bool = False
) -> Callable[[Estate], Awaitable[object]]:
    async def happen(estate: Estate) -> None:
        world = estate.world
        async with world.services.database.transaction() as session:
            matter = await holds.open_matter(
                session,
                world.services,
                controller_id=world.controller.id,
                reference="2026-1",
                ground="legal_claims",
                review_on=world.now,
                title="",
                notes="",
                actor=ACTOR,
                now=world.now,
            )
            await holds.place_hold(
                session,
                world.services,
                matter,
                recording_id=None if on is None else estate.calls[on],
                customer_id=None if of is None else estate.people[of],
                query={"started_before": world.now - timedelta(days=100)} if query else None,
                actor=ACTOR,
                now=world.now,
            )

    return happen


def request(*about: str) -> Callable[[Estate], Awaitable[object]]:
    async def happen(estate: Estate) -> None:
        world = estate.world
        new = NewRequest(
            RequestKind.RECTIFICATION,
            enums.RequestChannel.EMAIL,
            customer_id=estate.people["aino"],
            recording_ids=tuple(estate.calls[name] for name in about),
        )
        await register.file(world.services, officer(world), world.controller.id, new, request_id="r")

    return happen


async def schedule(estate: Estate) -> None:
    world = estate.world
    async with world.services.database.transaction() as session:
        document = (await schedules.get(session, world.controller.id, 1)).document
        later = document.replace("version    = 1", "version    = 2").replace('"P8Y"', '"P10Y"', 1)
        await schedules.add_version(session, world.controller.id, later, actor=ACTOR, now=world.now)
        await schedules.activate(session, world.controller.id, 2, actor=ACTOR, now=world.now)
    assert await follow(world.services, world.controller.id) == len(estate.calls)


AINOS = {"aino-1", "aino-2", "shared"}
EVENTS: dict[str, tuple[Callable[[Estate], Awaitable[object]], set[str]]] = {
    "contact": (contact, AINOS),
    "choice": (choice, AINOS),
    "hold on a recording": (hold(on="aino-1"), {"aino-1"}),
    "hold on a customer": (hold(of="bertta"), {"shared"}),
    "hold on what matches": (hold(query=True), {"cecilia-1"}),
    "request": (request(), AINOS),
    "request about one recording": (request("aino-2"), {"aino-2"}),
    "schedule": (schedule, {*AINOS, "cecilia-1", "nobody"}),
}


@pytest.mark.parametrize("name", EVENTS)
async def test_an_event_touches_what_it_is_about(world: World, name: str) -> None:
    happen, expected = EVENTS[name]
    estate = Estate(world)
    await estate.make()
    assert await estate.touched(happen) == expected


async def test_a_release_touches_what_was_held(world: World) -> None:
    estate = Estate(world)
    await estate.make()
    await hold(of="aino")(estate)

    async def release(_: Estate) -> None:
        async with world.services.database.transaction() as session:
            standing = (await session.scalars(sa.select(Hold))).one()
            found = await holds.get_matter(session, standing.matter_id, lock=True)
            await holds.release_hold(session, world.services, found, standing.id, actor=ACTOR, now=world.now)

    assert await estate.touched(release) == AINOS
