"""The erasure machine: its way, what it keeps, and dying anywhere on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retention.erasure import ORDER, PROOF_ATTEMPTS, Erasure, Scope, Step, next_step
from retention.errors import AbsenceNotProved, Misuse, Unavailable, UnknownErasure
from retention.model import Case, Facts, Hold, Purpose, Rule, Schedule, Trigger, TriggerKind
from retention.periods import Period
from retention.ports import ErasureState
from tests.retention.memory_port import MemoryWorld

CALL = datetime(2016, 3, 5, 8, tzinfo=UTC)
NOW = datetime(2026, 3, 5, 8, tzinfo=UTC)
PLAIN = Schedule(
    "fi-main",
    1,
    (Rule("r", frozenset({Purpose.SERVICE_EVIDENCE}), Period(months=96), Trigger(TriggerKind.LAST_CONTACT)),),
)
OLD = Case(Facts(zone="Europe/Helsinki", country="FI", call_started=CALL, linked=True), PLAIN)
YOUNG = Case(Facts(zone="Europe/Helsinki", country="FI", call_started=NOW, linked=True), PLAIN)
HELD = Case(OLD.facts, PLAIN, (Hold("h1", CALL),))
CARD = Case(
    Facts(zone="Europe/Helsinki", country="FI", call_started=NOW, linked=True, card_security=True),
    PLAIN,
    (Hold("h1", NOW),),
)


class PowerCutError(BaseException):
    """Kills the process: nothing catches it."""


def clock() -> datetime:
    return NOW


def the_world() -> MemoryWorld:
    world = MemoryWorld()
    world.add("r1", OLD)
    world.add("r2", HELD)
    world.add("r3", YOUNG)
    world.add("r9", YOUNG, customer="c2")
    world.put_erasure("customer", "request", "customer", "c1")
    world.put_erasure("single", "retention", "recording", "r1")
    world.put_erasure("refused", "retention", "recording", "r3")
    world.add("r5", CARD, customer="c3")
    world.put_erasure("card", "card_security", "original", "r5")
    return world


async def test_one_recording_goes_the_whole_way() -> None:
    world = the_world()
    result = await Erasure(world, clock).run("single")
    assert result.erased
    assert result.outcomes == {"r1": {"outcome": "erased", "code": "due", "until": ""}}
    assert [step for erasure, step in world.tables.audit if erasure == "single"] == [str(s) for s in ORDER]
    assert world.tables.recordings["r1"].state == "erased"
    assert not world.readable("r1")
    assert not any(name.startswith("r1-") for name, _ in world.bucket)
    assert len(world.tables.tombstones) == 1
    assert world.tables.keys["c1"] is not None, "the customer lives on"
    assert all(world.readable(other) for other in ("r2", "r3", "r9"))


async def test_what_must_stay_ends_with_its_reason() -> None:
    world = the_world()
    before = set(world.bucket)
    result = await Erasure(world, clock).run("refused")
    assert not result.erased
    assert result.outcomes["r3"]["code"] == "not_due"
    assert datetime.fromisoformat(result.outcomes["r3"]["until"]) == datetime(2034, 3, 5, 22, tzinfo=UTC)
    assert world.bucket == before
    assert world.tables.recordings["r3"].state == "stored"
    assert [step for _, step in world.tables.audit] == ["begin", "abandon"]


async def test_a_customer_goes_and_the_held_recording_stays_readable() -> None:
    world = the_world()
    result = await Erasure(world, clock).run("customer")
    assert {r: o["outcome"] for r, o in result.outcomes.items()} == {
        "r1": "erased",
        "r2": "kept",
        "r3": "erased",
    }
    assert result.outcomes["r2"]["code"] == "hold"
    assert world.tables.keys["c1"] is None
    assert world.readable("r2")
    assert world.readable("r9")
    assert not world.readable("r1")
    # when the hold falls, the same machine finishes what is left
    world.tables.recordings["r2"].case = Case(OLD.facts, PLAIN, (Hold("h1", CALL, NOW),))
    world.put_erasure("later", "request", "recording", "r2")
    assert (await Erasure(world, clock).run("later")).erased
    assert not world.readable("r2")


async def test_a_customer_of_whom_everything_stays_still_loses_the_old_key() -> None:
    world = MemoryWorld()
    world.add("r2", HELD)
    world.put_erasure("e", "request", "customer", "c1")
    result = await Erasure(world, clock).run("e")
    assert result.erased
    assert result.outcomes["r2"]["outcome"] == "kept"
    assert world.tables.keys["c1"] is None
    assert world.readable("r2")


async def test_card_security_destroys_the_original_under_hold_and_leaves_the_derivative() -> None:
    world = the_world()
    result = await Erasure(world, clock).run("card")
    assert result.erased
    assert not world.readable("r5")
    assert {name for name, _ in world.bucket if name.startswith("r5-")} == {"r5-rendition"}
    assert world.tables.recordings["r5"].state == "stored"
    assert world.tables.tombstones == set(), "the recording lives on"


async def test_only_card_security_takes_an_original_alone() -> None:
    world = the_world()
    world.put_erasure("odd", "request", "original", "r1")
    with pytest.raises(Misuse):
        await Erasure(world, clock).run("odd")
    assert world.readable("r1")


async def test_a_finished_erasure_changes_nothing_when_run_again() -> None:
    world = the_world()
    erasure = Erasure(world, clock)
    first = await erasure.run("customer")
    tables, bucket = world.tables, set(world.bucket)
    assert await erasure.run("customer") == first
    assert world.tables == tables
    assert world.bucket == bucket


async def test_every_step_is_idempotent_by_itself() -> None:
    world = the_world()
    await Erasure(world, clock).run("customer")
    tables, bucket = world.tables, set(world.bucket)
    for step in ORDER[1:]:
        await getattr(world, step)("customer", NOW)
    assert world.tables == tables
    assert world.bucket == bucket


async def test_a_store_that_is_away_leaves_it_to_a_later_run() -> None:
    world = the_world()
    world.away = True
    with pytest.raises(Unavailable):
        await Erasure(world, clock).run("single")
    assert (await world.state("single")).step == "destroy_keys"
    assert not world.readable("r1"), "unreadable from the destruction of its keys"
    assert await world.unfinished(10) == ["card", "customer", "refused", "single"]
    world.away = False
    assert (await Erasure(world, clock).run("single")).erased


async def test_absence_is_proved_and_not_believed() -> None:
    world = the_world()
    world.stubborn = 3
    assert (await Erasure(world, clock).run("single")).erased
    world = the_world()
    world.stubborn = 4 * PROOF_ATTEMPTS
    with pytest.raises(AbsenceNotProved) as caught:
        await Erasure(world, clock).run("single")
    assert caught.value.leftovers == 4
    assert world.tables.erasures["single"].certificate is None
    assert (await Erasure(world, clock).run("single")).erased


async def test_unknown_erasure() -> None:
    with pytest.raises(UnknownErasure):
        await Erasure(MemoryWorld(), clock).run("nobody")


async def test_a_port_that_records_nothing_is_found_out() -> None:
    class Forgetful(MemoryWorld):
        async def tombstone(self, erasure_id: str, now: datetime) -> None:
            return None

    world = Forgetful()
    world.add("r1", OLD)
    world.put_erasure("e", "retention", "recording", "r1")
    with pytest.raises(Misuse, match="tombstone"):
        await Erasure(world, clock).run("e")


def test_next_step() -> None:
    assert next_step(ErasureState("request", "recording", None, 0)) is Step.BEGIN
    assert next_step(ErasureState("request", "recording", "begin", 0)) is Step.ABANDON
    assert next_step(ErasureState("request", "customer", "begin", 0)) is Step.REWRAP_KEPT
    assert next_step(ErasureState("request", "recording", "begin", 1)) is Step.REWRAP_KEPT
    assert next_step(ErasureState("request", "recording", "finish", 1)) is None
    assert next_step(ErasureState("request", "recording", "abandon", 0)) is None
    for state in (
        ErasureState("request", "recording", "burn", 1),
        ErasureState("request", "all", "begin", 1),
    ):
        with pytest.raises(Misuse):
            next_step(state)
    assert set(Scope) == {"recording", "customer", "original"}


# -- dying -------------------------------------------------------------------------------------------------


def die_at(*visits: int) -> Callable[[str], None]:
    """Raise at the given visits of a crash point, counted from 0 over all lives."""
    seen = iter(range(10**9))

    def crash(place: str) -> None:
        if next(seen) in visits:
            raise PowerCutError(place)

    return crash


async def crash_points(erasure_id: str) -> int:
    world = the_world()
    visited: list[str] = []
    world.crash = visited.append
    await Erasure(world, clock).run(erasure_id)
    return len(visited)


async def live_through(world: MemoryWorld, erasure_id: str) -> int:
    """Run until it ends, however often it dies; returns the number of lives."""
    for life in range(1, 100):
        try:
            await Erasure(world, clock).run(erasure_id)
        except PowerCutError:
            assert_never_half_done(world)
            continue
        return life
    raise AssertionError("it never ended")


def assert_never_half_done(world: MemoryWorld) -> None:
    for row in world.tables.recordings.values():
        if row.state == "stored" and not row.original_refused:
            names = set(row.data_keys)
            assert names <= {name for name, _ in world.bucket}, "a living recording lost an object"
            assert all(row.data_keys.values()), "a living recording lost a key"
    for erasure in world.tables.erasures.values():
        if erasure.certificate is not None:
            assert not any(name in erasure.certificate for name, _ in world.bucket)


@pytest.mark.parametrize("erasure_id", ["single", "customer", "refused", "card"])
async def test_death_at_every_single_point_ends_the_same(erasure_id: str) -> None:
    expected = the_world()
    await Erasure(expected, clock).run(erasure_id)
    for point in range(await crash_points(erasure_id)):
        world = the_world()
        world.crash = die_at(point)
        assert await live_through(world, erasure_id) == 2
        assert world.tables == expected.tables, f"after dying at point {point}"
        assert world.bucket == expected.bucket


@settings(max_examples=60)
@given(st.sets(st.integers(0, 120), max_size=12), st.sampled_from(["single", "customer", "card"]))
async def test_many_deaths_end_the_same(visits: set[int], erasure_id: str) -> None:
    expected = the_world()
    await Erasure(expected, clock).run(erasure_id)
    world = the_world()
    world.crash = die_at(*visits)
    await live_through(world, erasure_id)
    assert world.tables == expected.tables
    assert world.bucket == expected.bucket


async def test_a_slower_worker_undoes_nothing() -> None:
    """A second worker runs the whole erasure inside each crash point of the first one."""
    expected = the_world()
    await Erasure(expected, clock).run("customer")
    for step in ORDER:
        world = the_world()
        erasure = Erasure(world, clock)
        original = getattr(world, step)

        async def overtaken(
            erasure_id: str,
            *rest: object,
            world: MemoryWorld = world,
            step: Step = step,
            original: Callable[..., object] = original,
        ) -> object:
            delattr(world, step)
            await Erasure(world, clock).run(erasure_id)
            return await original(erasure_id, *rest)  # type: ignore[misc]  # a coroutine function

        setattr(world, step, overtaken)
        slow = Erasure(world, clock) if step is not Step.BEGIN else erasure
        await slow.run("customer")
        assert world.tables == expected.tables, step
        assert world.bucket == expected.bucket


def test_the_clock_gives_each_step_its_own_time() -> None:
    ticks = iter(range(100))
    times: list[datetime] = []

    class Watched(MemoryWorld):
        async def certificate(self, erasure_id: str, now: datetime) -> None:
            times.append(now)
            await super().certificate(erasure_id, now)

    world = Watched()
    world.add("r1", OLD)
    world.put_erasure("e", "retention", "recording", "r1")
    asyncio.run(Erasure(world, lambda: NOW + timedelta(seconds=next(ticks))).run("e"))
    assert times == [NOW + timedelta(seconds=6)]
