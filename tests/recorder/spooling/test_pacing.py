"""Settling, bandwidth and back-off, on time that moves when told to."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import given

from recorder.spooling.folder import Identity
from recorder.spooling.pacing import Backoff, Bandwidth, Gate, Settling
from tests.recorder.spooling.conftest import ManualTime

FILE = b"2026/03/05/a.wav"


def test_a_file_is_settled_when_it_stayed_the_same_for_long_enough() -> None:
    settling = Settling(10)
    assert not settling.look(FILE, Identity(1, 100, 1), 0)
    assert not settling.look(FILE, Identity(1, 200, 2), 9)
    assert not settling.look(FILE, Identity(1, 200, 2), 18.9)
    assert settling.wait(18.9) == pytest.approx(0.1)
    assert settling.look(FILE, Identity(1, 200, 2), 19)


def test_another_file_in_its_place_or_a_writer_begins_anew() -> None:
    settling = Settling(10)
    settling.look(FILE, Identity(1, 100, 1), 0)
    assert not settling.look(FILE, Identity(2, 100, 1), 10)
    assert not settling.look(FILE, Identity(2, 100, 1), 20, writing=True)
    assert not settling.look(FILE, Identity(2, 100, 1), 29.9)
    assert settling.look(FILE, Identity(2, 100, 1), 30)
    settling.look(FILE, None, 31)
    assert settling.unsettled == ()


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 2), st.booleans()), max_size=30))
def test_no_file_settles_before_its_time(looks: list[tuple[float, int, bool]]) -> None:
    settling, now, since, last = Settling(10), 0.0, 0.0, None
    for step, size, writing in looks:
        now += step
        if size != last or writing:
            since, last = now, size
        assert settling.look(FILE, Identity(1, size, 1), now, writing=writing) == (
            now - since >= 10 and not writing
        )


async def test_no_second_carries_more_than_the_rate(manual_time: ManualTime) -> None:
    start = manual_time.steady()
    bandwidth = Bandwidth(100_000, manual_time, burst=10_000)

    async def push(pieces: int) -> None:
        for _ in range(pieces):
            await bandwidth.take(10_000)

    await asyncio.gather(push(50), push(50))
    # A million bytes; the burst is free.
    assert manual_time.steady() - start == pytest.approx((1_000_000 - 10_000) / 100_000, rel=0.01)


async def test_idle_time_is_not_saved_up_beyond_a_burst(manual_time: ManualTime) -> None:
    bandwidth = Bandwidth(1000, manual_time, burst=500)
    manual_time.advance(3600)
    await bandwidth.take(500)
    assert manual_time.slept == []
    await bandwidth.take(500)
    assert sum(manual_time.slept) == pytest.approx(0.5)


async def test_without_a_limit_nothing_waits(manual_time: ManualTime) -> None:
    bandwidth = Bandwidth(None, manual_time)
    for _ in range(100):
        await bandwidth.take(10**9)
    assert manual_time.slept == []


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e9), st.floats(0, 0.999))
def test_a_wait_is_bounded_and_never_undercuts_what_the_service_asked(
    attempt: int, asked: float | None, chance: float
) -> None:
    delay = Backoff(1.0, 300.0).delay(attempt, asked, chance)
    assert 0.5 <= delay <= 3600 * 1.1
    if asked is None:
        assert delay <= 300
    else:
        assert delay >= min(asked, 3600)


def test_waits_double_and_are_spread() -> None:
    backoff = Backoff(1.0, 300.0)
    assert [backoff.delay(n, None, 0.999999) for n in (1, 2, 3)] == pytest.approx([1, 2, 4], rel=1e-3)
    assert backoff.delay(3, None, 0.0) == 2.0


def test_the_gate_closes_longer_with_each_failure_and_opens_at_once(manual_time: ManualTime) -> None:
    gate = Gate(Backoff(1.0, 300.0), manual_time, lambda: 0.999999)
    gate.failed("service-away", None)
    first = gate.closed_for
    gate.failed("service-away", None)  # of a push that began before: says nothing new
    assert (gate.closed_for, gate.failures) == (first, 1)
    manual_time.advance(first)
    assert gate.closed_for == 0
    gate.failed("service-away", None)
    assert gate.closed_for == pytest.approx(2 * first)
    gate.failed("service-away", 60.0)
    assert gate.closed_for >= 60
    gate.passed()
    assert (gate.closed_for, gate.failures, gate.reason) == (0, 0, None)
