"""Several files of one call become one call in order; late parts join; transfers keep the link."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Call, Controller, Source
from recorder.errors import Forbidden, NotFound
from recorder.ingest.pipeline import Intake
from recorder.playback.calls import CallPart, whole_call
from recorder.services import Services
from tests.recorder.ingest.conftest import body, make_source, principal_of, request

START = "2026-03-05T09:{:02d}:00+02:00"


@pytest.fixture
def trainer(controller: Controller) -> Principal:
    return who(controller, ScopeKind.CONTROLLER)


def who(controller: Controller, scope: ScopeKind, *values: str) -> Principal:
    grant = Grant(Role.QUALITY, controller.id, scope, frozenset(values))
    return Principal("account", str(uuid.uuid4()), controller.id, grants=(grant,))


async def push(intake: Intake, source: Source, wav: bytes, external_id: str, **fields: Any) -> uuid.UUID:
    outcome = await intake.accept(
        request(external_id=external_id, **fields),
        body(wav),
        principal=principal_of(source),
        request_id="r",
    )
    assert outcome.recording_id is not None
    return outcome.recording_id


async def call_of(services: Services, recording_id: uuid.UUID) -> uuid.UUID:
    from recorder.catalogue.tables import Recording

    async with services.database.snapshot() as session:
        return (await session.get_one(Recording, recording_id)).call_id


def ids(part: CallPart) -> list[uuid.UUID]:
    return [found.recording.id for found in part.recordings]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[::2])
async def test_parts_in_any_order_of_arrival_are_one_call_in_the_senders_order(
    services: Services, intake: Intake, source: Source, wav: bytes, trainer: Principal, order: tuple[int, ...]
) -> None:
    found: dict[int, uuid.UUID] = {}
    for part in order:
        found[part] = await push(
            intake,
            source,
            wav + bytes(part),
            f"file-{part}",
            call={"external_id": "c-1", "part": part},
            started_at=START.format(10 + part),
        )
    [whole] = await whole_call(services, trainer, await call_of(services, found[0]))
    assert ids(whole) == [found[0], found[1], found[2]]
    assert [item.recording.part for item in whole.recordings] == [0, 1, 2]
    async with services.database.snapshot() as session:
        # The call begins with its earliest recording, whichever came first.
        [call] = await session.scalars(sa.select(Call))
        assert call.started_at == whole.recordings[0].recording.started_at


async def test_legs_and_mix_stand_by_time_and_keep_their_parties(
    services: Services, intake: Intake, source: Source, wav: bytes, trainer: Principal
) -> None:
    mix = await push(intake, source, wav, "x", call={"external_id": "c"}, started_at=START.format(1))
    agent = await push(
        intake,
        source,
        wav,
        "x",
        leg="a",
        call={"external_id": "c"},
        started_at=START.format(2),
        channels=[{"party": "agent"}, {"party": "customer"}],
    )
    [whole] = await whole_call(services, trainer, await call_of(services, mix))
    assert ids(whole) == [mix, agent]
    assert whole.recordings[1].recording.channels == [{"party": "agent"}, {"party": "customer"}]


@pytest.mark.parametrize("late", [False, True])
async def test_an_attended_transfer_keeps_the_link_whichever_call_comes_first(
    services: Services, intake: Intake, source: Source, wav: bytes, trainer: Principal, late: bool
) -> None:
    async def first() -> uuid.UUID:
        return await push(intake, source, wav, "one", started_at=START.format(1))

    async def second() -> uuid.UUID:
        call = {"external_id": "two", "transferred_from": "one"}
        await push(intake, source, wav, "two-b", call=call, started_at=START.format(6))
        return await push(intake, source, wav, "two-a", call=call, started_at=START.format(5))

    if late:
        after = await second()
        before = await first()
    else:
        before = await first()
        after = await second()
    one, two = await call_of(services, before), await call_of(services, after)
    seen = await whole_call(services, trainer, two)
    assert [(part.id, part.way, len(part.recordings)) for part in seen] == [
        (one, "from", 1),
        (two, "self", 2),
    ]
    seen = await whole_call(services, trainer, one)
    assert [(part.id, part.way) for part in seen] == [(one, "self"), (two, "to")]


async def test_another_sources_call_of_the_same_id_is_another_call(
    services: Services, controller: Controller, intake: Intake, source: Source, wav: bytes, trainer: Principal
) -> None:
    other = await make_source(services, controller, "other")
    mine = await push(intake, source, wav, "same")
    theirs = await push(intake, other, wav, "same", call={"external_id": "x", "transferred_from": "same"})
    assert await call_of(services, mine) != await call_of(services, theirs)
    [alone] = await whole_call(services, trainer, await call_of(services, theirs))
    assert alone.way == "self"


async def test_who_may_know_of_a_part_sees_that_part_only(
    services: Services, controller: Controller, intake: Intake, source: Source, wav: bytes
) -> None:
    sales = await push(intake, source, wav, "s", call={"external_id": "c"}, queue="sales")
    await push(intake, source, wav + b"\0", "b", call={"external_id": "c"}, queue="billing")
    call_id = await call_of(services, sales)
    [seen] = await whole_call(services, who(controller, ScopeKind.QUEUE, "sales"), call_id)
    assert ids(seen) == [sales]
    with pytest.raises(NotFound):
        await whole_call(services, who(controller, ScopeKind.QUEUE, "else"), call_id)
    with pytest.raises(NotFound):
        await whole_call(services, who(controller, ScopeKind.CONTROLLER), uuid.uuid4())
    with pytest.raises(Forbidden):
        await whole_call(services, principal_of(source), call_id)
