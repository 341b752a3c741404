"""Gaps that open and close, placeholders that are closed by what arrives, on both kinds of database."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import LawfulBasis, RecordingState, Role, ScopeKind
from recorder.catalogue.tables import (
    AuditEntry,
    Call,
    ExpectedRecording,
    Recording,
    SourceHour,
    Tombstone,
)
from recorder.completeness import viewing
from recorder.completeness.expecting import falls_short, learned
from recorder.completeness.outcomes import close_arrived, note_outcome
from recorder.completeness.reconciling import Report, reconcile_cdr
from recorder.completeness.watching import watch
from recorder.errors import Forbidden
from recorder.ingest.adapters.base import SenderOutcome
from recorder.ingest.identity import call_identity, recording_identity
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.request import IngestRequest
from tests.recorder.disposition_world import World, clock_of

OPERATOR = Principal(kind="os", id="root", controller_id=None)
HOUR = timedelta(hours=1)


async def came(
    world: World, at: datetime, count: int = 1, *, name: str | None = None, call: str | None = None
) -> uuid.UUID:
    """Recordings of one call that began then; rows only, for nobody listens here."""
    services, source = world.services, world.source
    keyring, owner = services.keyring, world.controller.id
    assert world.controller.subject_id is not None
    async with services.database.transaction() as session:
        identity = call_identity(keyring, owner, source.id, call or name or uuid.uuid4().hex)
        row = Call(
            id=uuid.uuid4(),
            controller_id=owner,
            source_id=source.id,
            identity=identity,
            started_at=at,
            created_at=world.now,
        )
        session.add(row)
        await session.flush()
        for _ in range(count):
            identity = (
                uuid.uuid4().bytes
                if name is None
                else recording_identity(keyring, owner, source.id, name, None)
            )
            session.add(
                Recording(
                    id=uuid.uuid4(),
                    controller_id=owner,
                    source_id=source.id,
                    call_id=row.id,
                    identity=identity,
                    subject_id=world.controller.subject_id,
                    state=RecordingState.STORED,
                    reasons=[],
                    started_at=at,
                    received_at=world.now,
                    agents=[],
                    tags=[],
                    service_events=[],
                    lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
                    muted=[],
                    channels=[],
                    media={},
                    sha256=b"",
                    size=0,
                )
            )
    return row.id


async def hours(world: World, *, gaps_only: bool = False) -> list[SourceHour]:
    found = await viewing.hours(
        world.services,
        OPERATOR,
        world.controller.id,
        since=datetime(2020, 1, 1, tzinfo=UTC),
        before=datetime(2030, 1, 1, tzinfo=UTC),
        gaps_only=gaps_only,
    )
    return [view.row for view in found]


async def told(world: World, action: str) -> int:
    async with world.services.database.snapshot() as session:
        query = sa.select(sa.func.count()).select_from(AuditEntry).where(AuditEntry.action == action)
        return await session.scalar(query) or 0


async def weeks_of(world: World, at: datetime, count: int) -> None:
    for week in range(1, 5):
        await came(world, at - timedelta(weeks=week) + timedelta(minutes=5), count)


async def test_a_quiet_hour_of_a_busy_source_is_a_gap_until_its_recordings_come_late(world: World) -> None:
    clock = clock_of(world.services)
    quiet = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)  # a Wednesday
    await weeks_of(world, quiet, 40)
    clock.set(quiet + HOUR + timedelta(minutes=29))
    assert await watch(world.services) == 0  # its late ones may still come
    clock.advance(timedelta(minutes=1))
    assert await watch(world.services) == 1
    assert await watch(world.services) == 1
    [gap] = await hours(world, gaps_only=True)
    assert (gap.hour, gap.received, gap.expected, gap.basis) == (quiet, 0, 40, "learned")
    assert await told(world, "completeness.gap") == 1
    gauge = world.services.metrics.registry.get_sample_value(
        "recorder_completeness_gap_hours", {"source": "pbx-1"}
    )
    assert gauge == 1
    await came(world, quiet + timedelta(minutes=20), 39)
    assert await watch(world.services) == 0
    assert await watch(world.services) == 0
    assert await told(world, "completeness.closed") == 1
    assert await hours(world, gaps_only=True) == []


async def test_a_gap_that_grew_old_still_closes(world: World) -> None:
    clock = clock_of(world.services)
    quiet = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
    await weeks_of(world, quiet, 40)
    clock.set(quiet + 2 * HOUR)
    await watch(world.services)
    clock.set(quiet + timedelta(days=5))
    assert await watch(world.services) == 1
    await came(world, quiet, 40)
    assert await watch(world.services) == 0
    assert await told(world, "completeness.closed") == 1


@pytest.mark.parametrize(("weeks", "rate"), [(2, 40), (4, 8)])
async def test_too_little_known_or_too_few_calls_are_no_alarm(world: World, weeks: int, rate: int) -> None:
    quiet = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
    for week in range(1, weeks + 1):
        await came(world, quiet - timedelta(weeks=week), rate)
    clock_of(world.services).set(quiet + 3 * HOUR)
    assert await watch(world.services) == 0


async def test_a_call_of_the_records_without_audio_is_a_gap_until_it_comes(world: World) -> None:
    clock = clock_of(world.services)
    began = datetime(2026, 3, 5, 7, 0, tzinfo=UTC)
    clock.set(began + 2 * HOUR)
    await came(world, began, name="here-1")
    await came(world, began, name="part-1", call="call-2")
    text = (
        "start,uniqueid,linkedid,billsec,disposition\n"
        "2026-03-05 09:00:00,here-1,here-1,60,ANSWERED\n"
        "2026-03-05 09:10:00,leg-of-2,call-2,60,ANSWERED\n"
        "2026-03-05 09:20:00,lost-1,lost-1,60,ANSWERED\n"
        "2026-03-05 09:20:00,short-1,short-1,0.4,ANSWERED\n"
        "2026-03-05 09:30:00,not-1,not-1,0,NO ANSWER\n"
        "nonsense,x,x,1,ANSWERED\n"
    )
    report = await reconcile(world, text)
    assert report.to_json() == {
        "lines": 6,
        "answered": 4,
        "unanswered": 1,
        "short": 1,
        "unrecorded": 0,
        "here": 2,
        "erased": 0,
        "missing": 1,
        "missing_lines": [4],
        "unreadable": [{"line": 7, "reason": "its start is no date and time"}],
        "unreadable_count": 1,
    }
    assert await watch(world.services) == 1
    [gap] = await hours(world, gaps_only=True)
    assert (gap.hour, gap.received, gap.missing, gap.expected, gap.basis) == (began, 2, 1, 3, "cdr")
    again = await reconcile(world, text)
    assert again.missing == 1  # told again, it stays the one placeholder
    assert len(await expected(world)) == 1
    call_id = await came(world, began + timedelta(minutes=20), name="lost-1")
    assert await watch(world.services) == 0
    [row] = await expected(world, SenderOutcome.RECEIVED)
    async with world.services.database.snapshot() as session:
        found = await session.get_one(Recording, row.recording_id)
    assert found.call_id == call_id
    assert (await reconcile(world, text)).missing == 0


async def test_what_was_erased_was_here(world: World) -> None:
    identity = recording_identity(
        world.services.keyring, world.controller.id, world.source.id, "gone-1", None
    )
    async with world.services.database.transaction() as session:
        session.add(
            Tombstone(
                source_id=world.source.id,
                identity=identity,
                recording_id=uuid.uuid4(),
                erased_at=world.now,
            )
        )
    text = "start,uniqueid,billsec\n2026-03-05 09:00:00,gone-1,60\n"
    report = await reconcile(world, text)
    assert (report.erased, report.missing) == (1, 0)


async def test_a_placeholder_of_a_call_is_closed_by_any_of_its_recordings(world: World) -> None:
    text = "start,uniqueid,linkedid,billsec\n2026-03-05 09:00:00,u-1,call-9,60\n"
    await reconcile(world, text)
    await came(world, world.now, name="something-else", call="call-9")
    assert await close_arrived(world.services) == 1
    assert await close_arrived(world.services) == 0


async def test_a_senders_word_is_one_row_that_audio_closes(world: World) -> None:
    async def note(outcome: SenderOutcome, code: str | None = None) -> None:
        async with world.services.database.transaction() as session:
            await note_outcome(
                session,
                world.services.keyring,
                controller_id=world.controller.id,
                source_id=world.source.id,
                request=IngestRequest(
                    metadata=RecordingMetadata(external_id="RE1", started_at=world.now), strict=False
                ),
                outcome=outcome,
                code=code,
                now=world.now,
            )

    await note(SenderOutcome.FETCHING)
    assert await told(world, "recording.absent") == 0
    await note(SenderOutcome.SILENT, "16102")
    await note(SenderOutcome.SILENT, "16102")
    assert await told(world, "recording.absent") == 1
    [row] = await expected(world)
    assert (row.outcome, row.code) == ("silent", "16102")
    await came(world, world.now, name="RE1")
    await close_arrived(world.services)
    await note(SenderOutcome.FAILED)  # a late word changes nothing
    [row] = await expected(world, SenderOutcome.RECEIVED)
    assert row.outcome == "received"


async def test_only_those_who_look_after_sources_see_it(world: World) -> None:
    trainer = Principal(
        kind="account",
        id=str(uuid.uuid4()),
        controller_id=world.controller.id,
        grants=(Grant(Role.TRAINER, world.controller.id, ScopeKind.CONTROLLER),),
    )
    with pytest.raises(Forbidden):
        await viewing.expected(world.services, trainer, world.controller.id, outcome=None, limit=10)
    with pytest.raises(Forbidden):
        await reconcile_cdr(world.services, trainer, world.source.id, [])


async def reconcile(world: World, text: str) -> Report:
    return await reconcile_cdr(world.services, OPERATOR, world.source.id, text.splitlines(keepends=True))


async def expected(world: World, outcome: SenderOutcome | None = None) -> list[ExpectedRecording]:
    found = await viewing.expected(world.services, OPERATOR, world.controller.id, outcome=outcome, limit=100)
    return list(found)


def no_holiday(_: Any) -> bool:
    return False


HELSINKI = ZoneInfo("Europe/Helsinki")
hour_of_2026 = st.integers(24 * 60, 24 * 360).map(lambda n: datetime(2026, 1, 1, tzinfo=UTC) + n * HOUR)


@given(hour=hour_of_2026, rate=st.integers(0, 500))
def test_a_steady_rate_is_expected_through_every_change_of_the_clock(hour: datetime, rate: int) -> None:
    history = {hour - n * HOUR: rate for n in range(1, 24 * 30)}
    assert learned(hour, history, HELSINKI, no_holiday) == rate


@given(hour=hour_of_2026)
def test_the_same_hour_on_the_clock_is_compared(hour: datetime) -> None:
    """A source that brings one recording at ten past noon each day, local time."""
    history = {
        then: int(then.astimezone(HELSINKI).hour == 12)
        for then in (hour - n * HOUR for n in range(1, 24 * 30))
    }
    assert learned(hour, history, HELSINKI, no_holiday) == int(hour.astimezone(HELSINKI).hour == 12)


def test_a_public_holiday_is_compared_with_sundays() -> None:
    may_day = datetime(2026, 5, 1, 9, 0, tzinfo=UTC)  # a Friday
    history = {
        then: 0 if then.weekday() == 6 else 50 for then in (may_day - n * HOUR for n in range(1, 24 * 30))
    }
    assert learned(may_day, history, HELSINKI, lambda day: day == may_day.date()) == 0
    assert learned(may_day, history, HELSINKI, no_holiday) == 50


@given(expected=st.integers(0, 10_000), received=st.integers(0, 10_000))
def test_more_is_never_a_gap_and_fewer_of_the_same_never_closes_one(expected: int, received: int) -> None:
    if received >= expected:
        assert not falls_short(received, expected)
    if falls_short(received, expected) and received:
        assert falls_short(received - 1, expected)
    assert not falls_short(received, None)
