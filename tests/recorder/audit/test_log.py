"""The leader: every entry gets a place, once; what was tampered with is not built upon."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid

import pytest
import sqlalchemy as sa

from recorder.audit import log, merkle, notes
from recorder.audit.events import AuditEvent, record
from recorder.audit.log import Sequencer, copy_key, log_key, newest_copy, refuse_if_rolled_back
from recorder.catalogue.tables import AuditCheckpoint, AuditEntry, AuditNode, Controller
from recorder.errors import Corrupt
from recorder.services import Services
from tests.recorder.audit.conftest import Write


async def payloads(services: Services) -> list[bytes]:
    async with services.database.snapshot() as session:
        rows = await session.execute(
            sa.select(AuditEntry.payload).where(AuditEntry.index.is_not(None)).order_by(AuditEntry.index)
        )
        return list(rows.scalars())


def root_of(entries: list[bytes]) -> bytes:
    tree = merkle.GrowingTree()
    for entry in entries:
        tree.append(merkle.leaf_hash(entry))
    return tree.root()


async def test_an_empty_log_signs_nothing(services: Services) -> None:
    assert await Sequencer(services).run_once() is None
    assert await Sequencer(services).copy_checkpoints() is None
    await refuse_if_rolled_back(services)


async def test_entries_get_places_in_order_and_a_signature(services: Services, write: Write) -> None:
    for count in (1, 2, 3, 5):
        await write(count)
        checkpoint = await Sequencer(services).run_once()
        entries = await payloads(services)
        assert checkpoint == notes.Checkpoint(
            notes.origin_of(log_key(services)), len(entries), root_of(entries)
        )
        async with services.database.snapshot() as session:
            row = await session.get_one(AuditCheckpoint, len(entries))
        assert notes.open_note(row.note, log_key(services)) == checkpoint
    assert len(entries) == 11
    assert await Sequencer(services).run_once() is None


async def test_more_than_a_batch_at_once(
    services: Services, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_BATCH", 4)
    await write(10)
    checkpoint = await Sequencer(services).run_once()
    assert checkpoint is not None
    assert (checkpoint.size, checkpoint.root) == (10, root_of(await payloads(services)))


async def test_entries_of_one_instant_keep_their_order(services: Services, write: Write) -> None:
    ids = await write(40)
    assert {i.version for i in ids} == {7}
    await Sequencer(services).run_once()
    assert [json.loads(payload)["details"]["n"] for payload in await payloads(services)] == list(range(40))


async def test_an_entry_committed_late_is_not_passed_over(
    services: Services, controller: Controller, write: Write
) -> None:
    """A slow transaction's entry is older than entries that have their place already."""
    if services.database.sqlite:
        early = services.clock.now()  # one writer at a time: the late entry is only dated earlier
        await write(3)
        await Sequencer(services).run_once()
        async with services.database.transaction() as session:
            late = record(session, AuditEvent("x.y", "system:test", "t", "o"), now=early.replace(year=2000))
    else:
        async with services.database.transaction() as session:
            late = record(session, AuditEvent("x.y", "system:test", "t", "o"), now=services.clock.now())
            await session.flush()
            await write(3)
            await Sequencer(services).run_once()
    checkpoint = await Sequencer(services).run_once()
    assert checkpoint is not None
    assert checkpoint.size == 4
    async with services.database.snapshot() as session:
        assert (await session.get_one(AuditEntry, late)).index == 3


async def test_an_entry_rolled_back_leaves_nothing(services: Services) -> None:
    async def fail() -> None:
        async with services.database.transaction() as session:
            record(session, AuditEvent("x.y", "system:test", "t", "o"), now=services.clock.now())
            await session.flush()
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await fail()
    assert await Sequencer(services).run_once() is None


async def test_several_leaders_and_writers_at_once(services: Services, write: Write) -> None:
    async def lead() -> None:
        sequencer = Sequencer(services)
        for _ in range(6):
            await sequencer.run_once()

    await asyncio.gather(lead(), lead(), lead(), *(write(7) for _ in range(6)))
    await Sequencer(services).run_once()
    entries = await payloads(services)
    assert len(entries) == 42
    async with services.database.snapshot() as session:
        rows = (await session.execute(sa.select(AuditCheckpoint).order_by(AuditCheckpoint.size))).scalars()
        heads = [(row.size, row.root) for row in rows]
    assert heads[-1][0] == 42
    for size, root in heads:
        assert root == root_of(entries[:size])


async def test_copies_are_plain_signed_notes(grown: Services) -> None:
    copy = await newest_copy(grown)
    assert copy is not None
    assert copy.size == 9
    sequencer = Sequencer(grown)
    newest = await sequencer.copy_checkpoints()
    assert newest is not None
    assert newest.size == 11
    assert await sequencer.copy_checkpoints() is None
    assert await Sequencer(grown).copy_checkpoints() is None
    key = copy_key(newest.size, newest.root)
    assert await grown.store.legal_hold(key, (await grown.store.stat(key)).version_id)
    async with grown.database.snapshot() as session:
        rows = await session.execute(sa.select(AuditCheckpoint.size, AuditCheckpoint.copied_at.is_not(None)))
        assert dict(rows.all()) == {4: False, 9: True, 11: True}


async def test_a_changed_tail_is_not_built_upon(grown: Services, write: Write) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditEntry).where(AuditEntry.index == 10))
    await write(1)
    with pytest.raises(Corrupt, match="disagree"):
        await Sequencer(grown).run_once()
    assert len(await payloads(grown)) == 10


@pytest.mark.parametrize("size", [11, 9])
async def test_a_changed_tree_is_not_built_upon(grown: Services, write: Write, size: int) -> None:
    at = merkle.cover(0, size)[0]
    async with grown.database.transaction() as session:
        await session.execute(
            sa.update(AuditNode)
            .where(AuditNode.level == at.level, AuditNode.position == at.position)
            .values(hash=bytes(32))
        )
    await write(1)
    with pytest.raises(Corrupt, match="not what was signed"):
        await Sequencer(grown).run_once()
    with pytest.raises(Corrupt, match="not those that were copied"):
        await Sequencer(grown).copy_checkpoints()


async def test_missing_nodes_are_not_built_upon(grown: Services, write: Write) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditNode))
    await write(1)
    with pytest.raises(Corrupt, match="missing"):
        await Sequencer(grown).run_once()


async def test_an_older_database_is_refused(grown: Services) -> None:
    """What a restored backup looks like: entries, nodes and checkpoints end earlier than the store's copy."""
    await refuse_if_rolled_back(grown)
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditEntry).where(AuditEntry.index >= 4))
        await session.execute(sa.delete(AuditCheckpoint).where(AuditCheckpoint.size > 4))
    with pytest.raises(Corrupt, match="restore-check"):
        await refuse_if_rolled_back(grown)
    with pytest.raises(Corrupt, match="restore-check"):
        await Sequencer(grown).copy_checkpoints()


async def test_a_forged_copy_is_named(grown: Services) -> None:
    body = b"not a note"

    async def pieces() -> object:
        yield body

    key = copy_key(99, bytes(32))
    await grown.store.put(key, pieces(), size=len(body))  # type: ignore[arg-type]  # an async generator
    with pytest.raises(Corrupt, match=key):
        await newest_copy(grown)


def test_keys_of_copies_sort_by_size_and_hold_no_personal_data() -> None:
    keys = [copy_key(size, bytes(32)) for size in (0, 9, 10, 10**12)]
    assert keys == sorted(keys)
    assert all(len(key) <= 200 for key in keys)
    assert all(a != b for a, b in itertools.pairwise(keys))
    assert copy_key(1, bytes(32)) != copy_key(1, uuid.UUID(int=1).bytes * 2)
