"""A database restored from an old backup learns from the ledger what was erased since."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.tables import Customer, Subject
from recorder.disposition import erasures, ledger, restoring
from recorder.errors import Corrupt
from tests.recorder.disposition.test_killed_process import data, lasting, opened
from tests.recorder.disposition_world import World

__all__ = ["data", "lasting", "opened"]


async def test_what_was_erased_after_the_backup_is_erased_again(lasting: Any, data: Path) -> None:
    world, services = lasting, lasting.services
    whole = await world.customer(last_contact=world.now)
    gone, kept = await world.recording(whole), await world.recording(whole, events=["payment"])
    living = await world.customer(last_contact=world.now)
    single, stays = await world.recording(living), await world.recording(living)
    assert await services.database.flush_deleted()
    shutil.copy(data / "catalogue.sqlite3", data / "backup")

    await erasures.erase_customer(services, whole, requested_by="os:test", now=world.now)
    await erasures.erase_recording(services, single, requested_by="os:test", now=world.now)
    assert (await restoring.replay(services, world.now)).recordings == []

    await services.database.close()
    for left in sorted(data.glob("catalogue.sqlite3*")):  # noqa: ASYNC240 - a test's own few files
        left.unlink()
    shutil.copy(data / "backup", data / "catalogue.sqlite3")
    assert (await world.get(gone)).state == "stored"  # it has forgotten
    dry = await restoring.replay(services, world.now, dry_run=True)
    assert (dry.entries, set(dry.recordings), dry.customers) == (2, {gone, single}, [whole])
    done = await restoring.replay(services, world.now)
    assert set(done.recordings) == {gone, single}
    assert [(await world.get(i)).state for i in (gone, single, kept, stays)] == [
        "erased",
        "erased",
        "stored",
        "stored",
    ]
    async with services.database.snapshot() as session:
        customer = await session.get_one(Customer, whole)
        subject = await session.get_one(Subject, customer.subject_id)
        assert (customer.sealed, subject.wrapped_key) == (None, None)
        states = await session.scalars(sa.select(Customer.erased_at).where(Customer.id == living))
        assert list(states) == [None]
    for recording_id in (kept, stays):
        for obj in await world.stored(recording_id):
            async with services.vault.read(obj) as pieces:
                assert sum([len(piece) async for piece in pieces]) == obj.size
    again = await restoring.replay(services, world.now)
    assert (again.recordings, again.customers) == ([], [])


async def test_an_altered_ledger_stops_the_replay(world: World) -> None:
    recording_id = await world.recording()
    await erasures.erase_recording(world.services, recording_id, requested_by="os:test", now=world.now)
    store = world.services.store
    (stat,) = [s async for s in store.list(ledger.PREFIX)]
    async with store.get(stat.key) as body:
        raw = b"".join([piece async for piece in body])

    async def once(altered: Any) -> AsyncIterator[Any]:
        yield altered

    await store.put(stat.key, once(raw[:-6] + b"AAAAAA"), size=len(raw))
    with pytest.raises(Corrupt):
        await restoring.replay(world.services, world.now)
    await store.delete_all(stat.key)
    await store.put(ledger.key_of(uuid.uuid4()), once(raw), size=len(raw))
    with pytest.raises(Corrupt):
        await restoring.replay(world.services, world.now)
