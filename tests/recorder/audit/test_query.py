"""Pages, histories and proofs, on SQLite and on PostgreSQL."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

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


@pytest.fixture
async def log_of_days(services: Services, controller: Controller) -> datetime:
    """Two entries an hour for two days about recordings and others; the beginning of the first day."""
    begin = datetime(2026, 3, 5, tzinfo=UTC)
    async with services.database.transaction() as session:
        for number in range(96):
            action = "listen.opened" if number % 32 == 0 else "recording.viewed"
            kind, owner = ("source", controller.id) if number % 4 == 1 else ("recording", controller.id)
            owner = uuid.UUID(int=5) if number % 4 == 2 else owner
            event = AuditEvent(action, "account:a", kind, f"r{number}", controller_id=owner)
            record(session, event, now=begin + timedelta(minutes=30 * number))
    await Sequencer(services).run_once()
    return begin


async def told(services: Services, controller: Controller, **asked: Any) -> tuple[list[int], list[int]]:
    """The numbers of all entries of all pages, and how many each page had."""
    numbers, pages, before = [], [], None
    async with services.database.snapshot() as session:
        while True:
            page = await query.recent(
                session, "recording", controller_id=controller.id, before=before, **asked
            )
            numbers += [int(view.entry["object"]["id"][1:]) for view in page.items]
            pages.append(len(page.items))
            if page.next is None:
                return numbers, pages
            assert before is None or page.next < before
            before = page.next


async def test_the_newest_about_a_type_page_by_place(
    services: Services, controller: Controller, log_of_days: datetime
) -> None:
    fitting = [number for number in range(95, -1, -1) if number % 4 in (0, 3)]
    assert await told(services, controller, limit=20) == (fitting, [20, 20, 8])
    # Few places at once: no page misses or repeats an entry, and pages may be empty.
    assert (await told(services, controller, look=3))[0] == fitting
    numbers, pages = await told(services, controller, look=10, action="listen.")
    assert numbers == [64, 32, 0]
    assert 0 in pages
    assert (await told(services, controller, action="listen"))[0] == []


async def test_a_day_of_the_log_is_found_without_reading_the_others(
    services: Services, controller: Controller, log_of_days: datetime
) -> None:
    noon, evening = log_of_days + timedelta(hours=12), log_of_days + timedelta(hours=20)
    fitting = [number for number in range(39, 23, -1) if number % 4 in (0, 3)]
    assert (await told(services, controller, since=noon, until=evening))[0] == fitting
    # Looked for at the day itself, not page by page from the end of the log
    assert (await told(services, controller, since=noon, until=evening, look=20))[1] == [len(fitting)]
    for outside in (log_of_days - timedelta(days=1), log_of_days + timedelta(days=3)):
        assert await told(services, controller, since=outside, until=outside + timedelta(days=1)) == ([], [0])


async def test_the_newest_of_an_empty_log(services: Services, controller: Controller) -> None:
    assert await told(services, controller) == ([], [0])


async def test_the_history_of_an_object_includes_what_waits(grown: Services, write: Write) -> None:
    await write(1)
    async with grown.database.snapshot() as session:
        views = await query.history(session, "recording", str(uuid.UUID(int=0)))
        assert await query.history(session, "customer", str(uuid.UUID(int=0))) == []
    assert [view.index is None for view in views] == [False, False, False, True]
    assert {view.entry["details"]["n"] for view in views} == {0}
