"""Pages, histories and proofs, on SQLite and on PostgreSQL."""

from __future__ import annotations

import uuid

import pytest
import sqlalchemy as sa

from recorder.audit import merkle, notes, query
from recorder.audit.events import AuditEvent, record
from recorder.audit.log import Sequencer, log_key
from recorder.catalogue.tables import AuditNode, Controller
from recorder.errors import Corrupt, InvalidInput, NotFound, Unavailable
from recorder.services import Services
from tests.recorder.audit.conftest import Write


async def test_every_proof_of_every_checkpoint(grown: Services) -> None:
    key = log_key(grown)
    async with grown.database.snapshot() as session:
        page = await query.entries_page(session, controller_ids=None, newest_first=False)
        for size in (4, 9, 11):
            for view in page.items[:size]:
                proof = await query.inclusion_proof(session, view.id, controller_ids=None, size=size)
                head = notes.open_note(proof.checkpoint, key)
                assert (head.size, head.root) == (proof.size, proof.root) == (size, proof.root)
                assert view.index is not None
                assert merkle.verify_inclusion(proof.leaf_hash, view.index, size, proof.path, head.root)
                assert proof.leaf_hash == merkle.leaf_hash(view.payload)
            for later in (4, 9, 11):
                if later < size:
                    with pytest.raises(InvalidInput):
                        await query.consistency_proof(session, size, later)
                    continue
                grown_proof = await query.consistency_proof(session, size, later)
                first, second = (notes.open_note(n, key) for n in (grown_proof.first, grown_proof.second))
                assert merkle.verify_consistency(
                    first.size, first.root, second.size, second.root, grown_proof.path
                )


async def test_proofs_that_cannot_be(grown: Services, write: Write) -> None:
    [waiting] = await write(1)
    async with grown.database.snapshot() as session:
        page = await query.entries_page(session, controller_ids=None)
        newest = page.items[0]
        with pytest.raises(InvalidInput):
            await query.inclusion_proof(session, newest.id, controller_ids=None, size=9)
        with pytest.raises(NotFound):
            await query.inclusion_proof(session, newest.id, controller_ids=None, size=10)
        with pytest.raises(NotFound):
            await query.inclusion_proof(session, newest.id, controller_ids=[uuid.uuid4()])
        with pytest.raises(NotFound):
            await query.inclusion_proof(session, uuid.uuid4(), controller_ids=None)
        with pytest.raises(Unavailable):
            await query.inclusion_proof(session, waiting, controller_ids=None)
    async with grown.database.transaction() as session:
        await session.execute(sa.delete(AuditNode))
    async with grown.database.snapshot() as session:
        with pytest.raises(Corrupt):
            await query.inclusion_proof(session, newest.id, controller_ids=None)


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_join_without_gap_or_repeat(grown: Services, newest_first: bool) -> None:
    seen: list[int | None] = []
    after: int | None = None
    async with grown.database.snapshot() as session:
        while True:
            page = await query.entries_page(
                session, controller_ids=None, after=after, limit=3, newest_first=newest_first
            )
            seen += [view.index for view in page.items]
            if page.next is None:
                break
            after = page.next
    assert seen == (list(range(10, -1, -1)) if newest_first else list(range(11)))


async def test_filters(services: Services, controller: Controller) -> None:
    async with services.database.transaction() as session:
        for action, actor, outcome, owner in (
            ("listen.opened", "account:a", "ok", controller.id),
            ("listen.refused", "account:b", "refused", controller.id),
            ("listenXopened", "account:a", "ok", controller.id),
            ("session.refused", "system:sign-in", "refused", None),
            ("listen.opened", "account:z", "ok", uuid.uuid4()),
        ):
            event = AuditEvent(action, actor, "recording", "r1", outcome=outcome, controller_id=owner)
            record(session, event, now=services.clock.now())
    await Sequencer(services).run_once()

    async def count(**filters: object) -> int:
        async with services.database.snapshot() as session:
            page = await query.entries_page(session, controller_ids=[controller.id], **filters)  # type: ignore[arg-type]
        return len(page.items)

    assert await count() == 4
    assert await count(action="listen.") == 2
    assert await count(action="listen.opened") == 1
    assert await count(actor="account:a") == 2
    assert await count(outcome="refused") == 2
    assert await count(object_id="r1") == 4
    assert await count(object_id="r2") == 0
    assert await count(limit=0) == 1  # at least one, so that a cursor always moves


async def test_the_history_of_an_object_includes_what_waits(grown: Services, write: Write) -> None:
    await write(1)
    async with grown.database.snapshot() as session:
        views = await query.history(session, "recording", str(uuid.UUID(int=0)))
        assert await query.history(session, "customer", str(uuid.UUID(int=0))) == []
    assert [view.index is None for view in views] == [False, False, False, True]
    assert {view.entry["details"]["n"] for view in views} == {0}
