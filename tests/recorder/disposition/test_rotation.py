"""Old copies of database and bucket, with today's keys, open nothing that was erased."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.sealed_fields import CUSTOMER_RECORD, RECORDING_METADATA
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import AuditEntry, Customer, Subject
from recorder.disposition import erasures, rotation
from recorder.errors import Conflict, NotFound
from storage.errors import KeyDestroyed, TamperedObject
from storage.keys import SubjectKeyRef
from storage.vault import Vault
from tests.recorder.disposition_world import World, bytes_of, clock_of, memory_of


async def read(vault: Any, obj: Any) -> Any:
    async with vault.read(obj) as pieces:
        return b"".join([piece async for piece in pieces])


async def rotated(world: World) -> Any:
    """Rotate, and let the background finish."""
    services, controller_id = world.services, world.controller.id
    epoch = await rotation.rotate(services, controller_id, actor="os:test", now=world.now)
    while await rotation.rewrap_outdated(services, controller_id, world.now, limit=2):
        pass
    return epoch


async def subject_of(world: World, recording_id: Any) -> Any:
    async with world.services.database.snapshot() as session:
        return await session.get_one(Subject, (await world.get(recording_id)).subject_id)


async def test_old_copies_and_todays_keyring_open_nothing_that_was_erased(world: World) -> None:
    services = world.services
    alive = await world.customer(last_contact=world.now)
    single_gone, single_stays = await world.recording(alive), await world.recording(alive)
    whole = await world.customer(last_contact=world.now)
    whole_gone = await world.recording(whole)
    whole_kept = await world.recording(whole, events=["payment"])

    # A copy of the bucket, and what a copy of the database says of each object.
    old_store = copy.copy(memory_of(services))
    old_store._objects = copy.deepcopy(memory_of(services)._objects)
    old_vault = Vault(old_store, services.keyring)
    old = {i: (await world.stored(i))[0] for i in (single_gone, single_stays, whole_gone, whole_kept)}
    for obj in old.values():
        assert len(await read(old_vault, obj)) == obj.size

    await erasures.erase_recording(services, single_gone, requested_by="os:test", now=world.now)
    await erasures.erase_customer(services, whole, requested_by="os:test", now=world.now)
    # The stated limit: until the epoch is destroyed, the two old copies together still open.
    assert len(await read(old_vault, old[whole_gone])) == old[whole_gone].size

    clock_of(services).advance(timedelta(days=1))
    assert await rotated(world) == 2
    with pytest.raises(Conflict):
        await rotation.destroy_epoch(services, world.controller.id, 1, actor="os:test", now=world.now)
    clock_of(services).advance(timedelta(days=services.settings.backup_window_days))
    await rotation.destroy_epoch(services, world.controller.id, 1, actor="os:test", now=world.now)

    for gone in (single_gone, whole_gone):
        with pytest.raises(KeyDestroyed):
            await read(old_vault, old[gone])
        # Nor with any key of today's database put in the old one's place.
        for living in (single_stays, whole_kept):
            today = (await world.stored(living))[0].subject
            for ref in (today, replace(today, subject_id=old[gone].subject.subject_id)):
                with pytest.raises(TamperedObject):
                    await read(old_vault, replace(old[gone], subject=ref))
    for living in (single_stays, whole_kept):
        for obj in await world.stored(living):
            assert obj.subject.epoch == 2
            assert len(await read(services.vault, obj)) == obj.size


async def test_a_subject_that_lost_a_recording_gets_a_new_key_with_everything_remade(world: World) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    gone_id, stays_id = await world.recording(customer_id), await world.recording(customer_id)
    bystander = await world.recording(await world.customer(last_contact=world.now))
    wraps = {i: [o.wrapped_key for o in await world.stored(i)] for i in (stays_id, bystander)}
    await erasures.erase_recording(services, gone_id, requested_by="os:test", now=world.now)
    await rotated(world)
    assert not (set(wraps[stays_id]) & {o.wrapped_key for o in await world.stored(stays_id)})
    assert wraps[bystander] == [o.wrapped_key for o in await world.stored(bystander)]
    subject = await subject_of(world, stays_id)
    assert (subject.epoch, subject.rekey_needed) == (2, False)
    row = await world.get(stays_id)
    assert open_json(services.keyring, subject, RECORDING_METADATA, row.id, bytes_of(row.sealed))["caller"]
    async with services.database.snapshot() as session:
        customer = await session.get_one(Customer, customer_id)
    record = open_json(services.keyring, subject, CUSTOMER_RECORD, customer_id, bytes_of(customer.sealed))
    assert record == {"name": "Aino V"}


class Killed(BaseException):
    """The process dies here."""


async def test_a_rotation_that_dies_goes_on_where_it_stood(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, controller_id = world.services, world.controller.id
    made = [await world.recording(audio=b"x") for _ in range(4)]
    await rotation.rotate(services, controller_id, actor="os:test", now=world.now)
    real, calls = rotation._move, []

    async def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        await real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rotation, "_move", dying)
        with pytest.raises(Killed):
            await rotation.rewrap_outdated(services, controller_id, world.now)
    states = await rotation.epochs(services, controller_id)
    assert [s.subjects for s in states] == [3, 2]
    assert states[0].destroyable_on is None
    with pytest.raises(Conflict):
        await rotation.destroy_epoch(services, controller_id, 1, actor="os:test", now=world.now)
    assert await rotation.rewrap_outdated(services, controller_id, world.now) == 3
    assert await rotation.rewrap_outdated(services, controller_id, world.now) == 0
    for recording_id in made:
        assert await read(services.vault, (await world.stored(recording_id))[0]) == b"x"
    await rotation.destroy_epoch(
        services, controller_id, 1, actor="os:test", now=world.now, before_backups_expire=True
    )
    await rotation.destroy_epoch(services, controller_id, 1, actor="os:test", now=world.now)
    with pytest.raises(Conflict):
        await rotation.destroy_epoch(services, controller_id, 2, actor="os:test", now=world.now)
    with pytest.raises(NotFound):
        await rotation.destroy_epoch(services, controller_id, 9, actor="os:test", now=world.now)
    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry.action).where(AuditEntry.action.like("keys.%"))
        assert sorted(await session.scalars(query)) == [
            "keys.epoch_destroyed",
            "keys.epoch_destruction_begun",
            "keys.rewrapped",
            "keys.rotated",
        ]


async def test_a_wrap_does_not_open_for_another_subject(world: World) -> None:
    one, other = await world.recording(audio=b"x"), await world.recording(audio=b"y")
    mine, theirs = (await world.stored(one))[0], (await world.stored(other))[0]
    forged = SubjectKeyRef(
        mine.subject.controller_id, str(uuid.uuid4()), mine.subject.epoch, mine.subject.wrapped
    )
    for ref in (theirs.subject, forged):
        with pytest.raises(TamperedObject):
            await read(world.services.vault, replace(mine, subject=ref))
