"""Of what is due now the engine, the simulation, the dry run and the sweep say the same."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from recorder.catalogue import enums
from recorder.catalogue.tables import Recording
from recorder.disposition.estate import simulate
from recorder.disposition.facts import active_schedule, load_cases
from recorder.disposition.reevaluation import follow
from recorder.disposition.sweeping import sweep
from recorder.settings import Settings
from retention.engine import decide_case
from retention.erasure import Scope
from retention.simulate import HORIZONS
from tests.recorder.disposition.test_bulk import everything, living
from tests.recorder.disposition.test_estate import query_hold
from tests.recorder.disposition_world import World, clock_of


@pytest.mark.parametrize("seed", range(10, 13))
async def test_a_simulation_counts_what_a_sweep_takes(world: World, seed: int) -> None:
    services, controller = world.services, world.controller
    free = Settings(data_dir=services.settings.data_dir, sweep_brake_count=10**6, sweep_brake_share=1)
    object.__setattr__(services, "settings", free)
    await everything(world, seed)
    clock_of(services).advance(timedelta(days=1500))
    await follow(services, controller.id)
    taken = 0
    for _ in range(2):  # a second time, when years have passed and much has gone
        async with services.database.snapshot() as session:
            schedule = await active_schedule(session, controller.id)
            cases = await load_cases(session, await living(world), world.now)
        decisions = {recording_id: decide_case(case, world.now) for recording_id, case in cases.items()}
        due = {recording_id for recording_id, decision in decisions.items() if decision.due}

        simulated = await simulate(services, controller, schedule, schedule, world.now)
        assert simulated.due_new[0].count == simulated.due_old[0].count == len(due)
        assert simulated.held.count == sum(d.held for d in decisions.values())
        assert simulated.frozen.count == sum(d.frozen and not d.held for d in decisions.values())
        assert not any(decisions[recording_id].held or decisions[recording_id].frozen for recording_id in due)
        for days in HORIZONS:  # what is held or frozen today is due on no day
            counted = simulated.due_new[days].count
            assert counted <= simulated.recordings.count - simulated.held.count - simulated.frozen.count

        said = await sweep(services, controller.id, world.now, dry_run=True)
        assert {uuid.UUID(f.recording_id) for f in said.due if f.scope is Scope.RECORDING} == due
        did = await sweep(services, controller.id, world.now)
        assert [f.recording_id for f in did.due] == [f.recording_id for f in said.due]
        # An original with a card security code waits for its muted copy; the recording lives on.
        originals = {f.recording_id for f in said.due if f.scope is Scope.ORIGINAL}
        assert {uuid.UUID(recording_id) for recording_id in did.erased} == due
        assert (set(did.kept), did.failed, did.elsewhere) == (originals, {}, [])
        taken += len(due)
        async with services.database.snapshot() as session:
            gone = sa.select(Recording.id).where(
                Recording.id.in_(list(cases)), Recording.state == enums.RecordingState.ERASED
            )
            assert set(await session.scalars(gone)) == due
        clock_of(services).advance(timedelta(days=1200))
    assert taken > 5


async def test_what_only_a_query_holds_is_not_counted_as_due(world: World) -> None:
    """The query is all that reaches it: no row of a hold names the recording or its customer."""
    long_ago = world.now - timedelta(days=365 * 12)
    held = await world.recording(started_at=long_ago, audio=b"x")
    async with world.services.database.transaction() as session:
        (await session.get_one(Recording, held)).queue = "claims"
    free = await world.recording(started_at=long_ago, audio=b"x")
    await query_hold(world, {"queue": ["claims"]}, 1)
    async with world.services.database.snapshot() as session:
        schedule = await active_schedule(session, world.controller.id)
    found = await simulate(world.services, world.controller, schedule, schedule, world.now)
    assert (found.due_new[0].count, found.due_new[365].count, found.held.count) == (1, 1, 1)
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.erased == [str(free)]
