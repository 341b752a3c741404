"""The dry run of the sweep says exactly what the sweep then does."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from recorder.app import open_services
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import Certificate, Erasure, Recording, StoredObjectRow
from recorder.jobs.reconcile import reconcile
from recorder.services import Services
from tests.servers.processes import Daemon
from tests.system.installation import ROOT, Installation, call_of, client, embedded, production, tone

AUDIO = tone(0.5)
OLD = 9 * 366  # days: past the eight years of every purpose
BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


@pytest.fixture(params=BOTH)
def own(request: pytest.FixtureRequest, own_installation: Callable[..., Installation]) -> Installation:
    # A handful of calls are soon more than the usual share.
    brake = {"RECORDER_SWEEP_BRAKE_SHARE": "1.0"}
    if request.param == "embedded":
        made = own_installation(embedded, **brake)
    else:
        servers = (request.getfixturevalue("s3_server"), request.getfixturevalue("postgres"))
        made = own_installation(production, *servers, **brake)
    made.start()
    return made


async def swept(own: Installation, *options: str, codes: tuple[int, ...] = (0,)) -> dict[str, list[str]]:
    done = await own.run("sweep", "--json", *options)
    assert done.returncode in codes, done.stderr
    report = json.loads(done.stdout)["fi-main"]
    return {"due": [item["recording"] for item in report["due"]], "erased": report["erased"]}


async def test_the_sweep_does_what_its_dry_run_said(own: Installation) -> None:
    async with client(own) as api:
        old, new = set(), set()
        for number in range(3):
            answer = await api.push(call_of(f"old-{number}", days_ago=OLD), AUDIO)
            assert answer.status == 201, answer.body
            old.add(answer.json["id"])
            new.add((await api.push(call_of(f"new-{number}"), AUDIO)).json["id"])
        held = min(old)
        matter = {"reference": "R-1", "ground": "legal_claims", "review_on": "2030-01-01T00:00:00Z"}
        opened = await api.post("/api/v1/matters", "legal", json=matter)
        hold = await api.post(f"/api/v1/matters/{opened.json['id']}/holds", "legal", json={"recording": held})
        assert hold.status == 201, hold.body

        said = await swept(own, "--dry-run")
        assert (set(said["due"]), said["erased"]) == (old - {held}, [])
        listed = (await api.get("/api/v1/recordings", "quality")).json["items"]
        assert {item["id"] for item in listed} == old | new, "a dry run changes nothing"

        did = await swept(own)
        assert set(did["due"]) == set(said["due"])
        for recording in old - {held}:
            assert (await api.audio(recording, "legal", "legal_protection")).status == 410
        assert (await api.audio(held, "legal", "legal_protection")).status == 200, "held"
        for recording in new:
            assert (await api.audio(recording)).status == 200
        assert (await swept(own, "--dry-run"))["due"] == []


async def test_the_brake_asks_a_second_person(own_installation: Callable[..., Installation]) -> None:
    own = own_installation(embedded, RECORDER_SWEEP_BRAKE_COUNT="1", RECORDER_SWEEP_BRAKE_SHARE="0.01")
    own.start()
    async with client(own) as api:
        for number in range(3):
            assert (await api.push(call_of(f"old-{number}", days_ago=OLD), AUDIO)).status == 201
        done = await own.run("sweep")
        assert done.returncode == 4, done.stderr
        assert "second person" in done.stderr
        assert len((await api.get("/api/v1/recordings", "quality")).json["items"]) == 3


async def counted(services: Services) -> tuple[int, int]:
    """How many certificates there are, and how many erasures that are not finished."""
    async with services.database.snapshot() as session:
        proofs = await session.scalar(sa.select(sa.func.count()).select_from(Certificate))
        unfinished = sa.select(sa.func.count()).select_from(Erasure).where(Erasure.finished_at.is_(None))
        return proofs or 0, await session.scalar(unfinished) or 0


async def test_kill_9_amid_a_sweep_and_two_that_go_on(own: Installation) -> None:
    """A worker dies as by a power cut; two others share what is left: nothing twice, nothing missed."""
    calls = 16
    async with client(own) as api:
        made = set()
        for number in range(calls):
            made.add((await api.push(call_of(f"old-{number}", days_ago=OLD), AUDIO)).json["id"])
        kept = (await api.push(call_of("new"), AUDIO)).json["id"]
    await asyncio.to_thread(own.stop)

    worker = Daemon(
        "recorder sweep",
        [sys.executable, "-m", "recorder", "sweep"],
        own.folder / "sweep.log",
        environment={**own.environment, "PYTHONPATH": str(ROOT)},
    )
    async with open_services(own.open_settings()) as services:
        worker.start()
        try:
            while (await counted(services))[0] < 2:
                assert worker.running, worker.log_tail()
        finally:
            await asyncio.to_thread(worker.stop, how=signal.SIGKILL)
        proofs, _ = await counted(services)
        assert 2 <= proofs < calls, "it died before its end"

    # SQLite has no lock that would leave an erasure to one of two processes: both walk through its steps, of
    # which each is done once, and may meet where deleted bytes leave the log; then one of them says 3.
    codes = (0, 3) if own.name == "embedded" else (0,)
    first, second = await asyncio.gather(swept(own, codes=codes), swept(own, codes=codes))
    last = await swept(own)  # should the database have noticed the dead worker only now
    if own.name != "embedded":
        assert not set(first["erased"]) & set(second["erased"])
    assert not set(last["erased"]) & {*first["erased"], *second["erased"]}
    async with open_services(own.open_settings()) as services, services.database.snapshot() as session:
        assert await counted(services) == (calls, 0)
        finished = list(await session.scalars(sa.select(Erasure.recording_id)))
        assert sorted(map(str, finished)) == sorted(made), "one erasure each"
        left = sa.select(StoredObjectRow.key).where(StoredObjectRow.deleted_at.is_(None))
        keys = set(await session.scalars(left))
        # What background work had begun to store when it was stopped is nobody's: the reconciler's to delete.
        await reconcile(services, services.clock.now() + timedelta(hours=1), grace=timedelta(0))
        assert {found.key async for found in services.store.list("o/")} == keys
        owners = sa.select(StoredObjectRow.recording_id).where(StoredObjectRow.key.in_(keys)).distinct()
        assert [str(owner) for owner in await session.scalars(owners)] == [kept]
        gone = sa.select(Recording.id).where(Recording.state == RecordingState.ERASED)
        assert {str(recording_id) for recording_id in await session.scalars(gone)} == made
