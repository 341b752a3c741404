"""Everything that an administrator of the database might do to history, and what the verification says."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import rfc8785
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit import merkle, notes
from recorder.audit.log import Sequencer, log_key
from recorder.audit.verify import Report, verify_log
from recorder.catalogue.tables import AuditCheckpoint, AuditEntry, AuditNode
from recorder.services import Services
from tests.recorder.audit.conftest import Write

LAST = 10


async def at(session: AsyncSession, index: int) -> AuditEntry:
    return (await session.execute(sa.select(AuditEntry).where(AuditEntry.index == index))).scalar_one()


def altered(payload: bytes, **changes: object) -> bytes:
    entry: dict[str, Any] = json.loads(payload)
    return rfc8785.dumps(entry | changes)


async def flip(services: Services, index: int) -> None:
    """Change one bit of a payload, and nothing that repeats it."""
    async with services.database.transaction() as session:
        row = await at(session, index)
        row.payload = row.payload[:-2] + bytes([row.payload[-2] ^ 1]) + row.payload[-1:]


async def rebuild(services: Services) -> None:
    """Make the stored nodes fit the payloads as they are now: a thorough forger without the log's key."""
    async with services.database.transaction() as session:
        rows = await session.execute(
            sa.select(AuditEntry.payload).where(AuditEntry.index.is_not(None)).order_by(AuditEntry.index)
        )
        await session.execute(sa.delete(AuditNode))
        tree = merkle.GrowingTree()
        for payload in rows.scalars():
            for node in tree.append(merkle.leaf_hash(payload)):
                session.add(AuditNode(level=node.at.level, position=node.at.position, hash=node.hash))


async def resign(services: Services) -> None:
    """Sign the present state anew: a forger with the log's key, too."""
    key = services.keyring.signing_key("log")
    async with services.database.transaction() as session:
        rows = await session.execute(
            sa.select(AuditEntry.payload).where(AuditEntry.index.is_not(None)).order_by(AuditEntry.index)
        )
        heads = {row.size: row for row in (await session.execute(sa.select(AuditCheckpoint))).scalars()}
        tree = merkle.GrowingTree()
        for payload in rows.scalars():
            tree.append(merkle.leaf_hash(payload))
            if (head := heads.pop(tree.size, None)) is not None:
                checkpoint = notes.Checkpoint(notes.origin_of(log_key(services)), tree.size, tree.root())
                head.root, head.note = tree.root(), notes.sign(checkpoint, key)
        for beyond in heads.values():
            await session.delete(beyond)


def first(report: Report) -> tuple[str, int | None]:
    assert not report.ok
    return report.problems[0].kind, report.first_bad_index


async def test_an_untouched_log_is_whole(grown: Services, write: Write) -> None:
    seen: list[tuple[int, int]] = []
    report = await verify_log(grown, progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert report.first_bad_index is None
    assert (report.size, report.checkpoints, report.copies, report.waiting) == (11, 3, 1, 0)
    assert seen == [(11, 11)]
    await write(2)
    assert (await verify_log(grown)).waiting == 2


async def test_an_empty_log_is_whole(services: Services) -> None:
    report = await verify_log(services)
    assert (report.ok, report.size, report.root) == (True, 0, merkle.EMPTY_ROOT)


async def test_pages_join(grown: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (1, 2, 3, 4, 10, 11):
        monkeypatch.setattr("recorder.audit.verify._PAGE", page)
        assert (await verify_log(grown)).ok


async def test_a_flipped_entry_is_named(grown: Services) -> None:
    for index in range(LAST + 1):
        await flip(grown, index)
        assert first(await verify_log(grown)) == ("changed", index)
        await flip(grown, index)
    assert (await verify_log(grown)).ok


@pytest.mark.parametrize("index", [0, 4, LAST])
async def test_an_inserted_entry_is_named(grown: Services, index: int) -> None:
    async with grown.database.transaction() as session:
        for later in range(LAST, index - 1, -1):
            await session.execute(
                sa.update(AuditEntry).where(AuditEntry.index == later).values(index=later + 1)
            )
        model = await at(session, index + 1)
        forged = {c.key: getattr(model, c.key) for c in sa.inspect(AuditEntry).columns}
        forged |= {"id": uuid.uuid4(), "index": index, "actor": "account:forged"}
        forged["payload"] = altered(model.payload, id=str(forged["id"]), actor="account:forged")
        session.add(AuditEntry(**forged))
    assert first(await verify_log(grown)) == ("changed", index)


async def test_an_entry_put_at_the_end_is_named(grown: Services) -> None:
    async with grown.database.transaction() as session:
        model = await at(session, LAST)
        forged = {c.key: getattr(model, c.key) for c in sa.inspect(AuditEntry).columns}
        forged |= {"id": uuid.uuid4(), "index": LAST + 1}
        forged["payload"] = altered(model.payload, id=str(forged["id"]))
        session.add(AuditEntry(**forged))
    assert (await verify_log(grown)).first_bad_index == LAST + 1
    await rebuild(grown)
    assert first(await verify_log(grown)) == ("uncovered", LAST + 1)


@pytest.mark.parametrize("index", [0, 3, 8, LAST])
@pytest.mark.parametrize("close_the_gap", [False, True])
async def test_a_deleted_entry_is_named(grown: Services, index: int, close_the_gap: bool) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditEntry).where(AuditEntry.index == index))
        if close_the_gap:
            for later in range(index + 1, LAST + 1):
                await session.execute(
                    sa.update(AuditEntry).where(AuditEntry.index == later).values(index=later - 1)
                )
    kind, bad = first(await verify_log(grown))
    assert bad == index
    assert kind in {"missing", "changed", "cut-off"}


@pytest.mark.parametrize(("one", "other"), [(0, 1), (2, 10)])
async def test_swapped_entries_are_named(grown: Services, one: int, other: int) -> None:
    async with grown.database.transaction() as session:
        a, b = await at(session, one), await at(session, other)
        a.index = None
        await session.flush()
        b.index = one
        await session.flush()
        a.index = other
    assert first(await verify_log(grown)) == ("changed", one)


@pytest.mark.parametrize("size", [0, 4, 10])
async def test_a_log_cut_off_is_named(grown: Services, size: int) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditEntry).where(AuditEntry.index >= size))
    assert first(await verify_log(grown)) == ("cut-off", size)


@pytest.mark.parametrize("size", [0, 8])
async def test_a_log_cut_off_with_its_checkpoints_shows_against_the_store(grown: Services, size: int) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditEntry).where(AuditEntry.index >= size))
        await session.execute(sa.delete(AuditCheckpoint).where(AuditCheckpoint.size > size))
    await rebuild(grown)
    await resign(grown)
    report = await verify_log(grown)
    kind, bad = first(report)
    assert kind == "cut-off"
    assert bad == size
    assert "object store" in report.problems[0].text


async def test_a_forger_who_rewrites_the_nodes_is_caught_by_the_signature(grown: Services) -> None:
    await flip(grown, 6)
    await rebuild(grown)
    # The bad entry lies between the last checkpoint that fits (4) and the first that does not (9).
    assert first(await verify_log(grown)) == ("changed", 4)


async def test_a_forger_with_the_key_is_caught_by_the_store(grown: Services, write: Write) -> None:
    await flip(grown, 2)
    await rebuild(grown)
    await resign(grown)
    report = await verify_log(grown)
    assert (
        report.first_bad_index == 4
    )  # the re-signed checkpoint of 4 fits, so the bad stretch seems to be 4..8
    assert any("object store's copy of 9" in p.text for p in report.problems)
    await write(1)
    await Sequencer(grown).run_once()  # within the database nothing shows
    assert not (await verify_log(grown)).ok


async def test_the_stated_limit(grown: Services) -> None:
    """With the key, what the store has not copied yet can be rewritten unseen."""
    async with grown.database.transaction() as session:
        row = await at(session, 10)
        row.payload, row.outcome = altered(row.payload, outcome="refused"), "refused"
    await rebuild(grown)
    await resign(grown)
    assert (await verify_log(grown)).ok


async def test_columns_that_say_something_else_are_named(grown: Services) -> None:
    forgeries: dict[str, object] = dict.fromkeys(
        ("actor", "action", "object_id", "object_type", "outcome"), "other"
    )
    forgeries |= {"controller_id": None, "at": grown.clock.now().replace(year=2001)}
    for column, forged in forgeries.items():
        async with grown.database.transaction() as session:
            row = await at(session, 7)
            true = getattr(row, column)
            setattr(row, column, forged)
        assert first(await verify_log(grown)) == ("columns", 7), column
        async with grown.database.transaction() as session:
            setattr(await at(session, 7), column, true)
    assert (await verify_log(grown)).ok


@pytest.mark.parametrize("field", ["size", "root", "note", "signature"])
async def test_a_forged_checkpoint_is_named(grown: Services, field: str) -> None:
    async with grown.database.transaction() as session:
        row = await session.get_one(AuditCheckpoint, 9)
        if field == "size":
            row.size = 8
        elif field == "root":
            row.root = bytes(32)
        elif field == "note":
            row.note = row.note.replace("\n9\n", "\n8\n")
        else:
            row.note = (await session.get_one(AuditCheckpoint, 4)).note
    assert first(await verify_log(grown)) == ("checkpoint", None)


async def test_changed_nodes_are_told_from_changed_entries(grown: Services) -> None:
    async with grown.database.transaction() as session:
        await session.execute(
            sa.update(AuditNode).where(AuditNode.level == 0, AuditNode.position == 5).values(hash=bytes(32))
        )
    report = await verify_log(grown)
    assert [p.kind for p in report.problems] == ["node"]
    assert "the entry itself was not" in report.problems[0].text


async def test_changed_inner_nodes_are_named(grown: Services) -> None:
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditNode).where(AuditNode.level == 2, AuditNode.position == 1))
    report = await verify_log(grown)
    assert [(p.kind, p.index) for p in report.problems] == [("node", None)]


async def test_a_payload_that_is_no_json_is_named(grown: Services) -> None:
    async with grown.database.transaction() as session:
        (await at(session, 1)).payload = b"\xff"
    report = await verify_log(grown)
    assert {(p.kind, p.index) for p in report.problems} == {("changed", 1), ("columns", 1)}


async def test_a_forged_copy_is_a_problem_of_its_own(grown: Services) -> None:
    async def pieces() -> Any:
        yield b"?"

    await grown.store.put("log/checkpoints/" + "0" * 20, pieces(), size=1)
    report = await verify_log(grown)
    assert [p.kind for p in report.problems] == ["copy"]
    assert report.copies == 1
