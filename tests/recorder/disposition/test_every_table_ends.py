"""Nothing is kept without saying until when: each table of the catalogue has a way in which its rows end."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from recorder.catalogue.base import Base
from recorder.catalogue.tables import SpooledReceipt
from recorder.disposition import other_records
from recorder.disposition.record_classes import CLASSES
from retention.schedule import RECORD_EVENTS
from tests.recorder.disposition_world import World

# Go with the recording, the customer, or another row that is named here, in the same transaction.
WITH_ANOTHER = {
    "blind_indexes": "customer or recording",
    "breach_recordings": "breach",
    "call_links": "recording",
    "choices": "customer",
    "customer_batches": "customer",
    "disclosure_recordings": "disclosure",
    "holds": "matter",
    "recording_agents": "recording",
    "recording_links": "recording",
    "recording_tags": "recording",
    "request_items": "request",
    "request_notices": "request",
    "request_package_recordings": "request",
    "request_packages": "request, and fourteen days before that its key and bytes",
    "upload_pieces": "upload",
}
# Erased by the machine of erasure; what stays of the row is random ids, times and keyed hashes.
ERASED = {"objects", "recordings", "subjects"}
# Deleted by chores some time after they have done their work.
HOUSEKEEPING = {
    "fetches": "what it was about at once, the row after 30 days",
    "idempotency_keys": "after a day",
    "jobs": "a day after they are done",
    "login_failures": "after 30 days",
    "resumable_uploads": "7 days after their end",
    "web_sessions": "a day after they expired",
    "webhook_messages": "delivered after 7 days, dead after 90",
}
# Kept, for they prove what was done; no personal data in them.
PROOFS = {
    "audit_checkpoints",
    "audit_nodes",
    "certificates",
    "erasure_items",
    "erasures",
    "schedules",
    "tombstones",
}
# Settings and figures of the installation, without personal data, or sealed under the controller's own key
# and ended by a person.
INSTALLATION = {
    "api_tokens",
    "assessment_totals",
    "calls",
    "controllers",
    "findings",
    "moved_objects",
    "recipients",
    "restrictions",
    "role_grants",
    "scrub_cursors",
    "shared_lines",
    "source_hours",
    "source_secrets",
    "sources",
    "spool_states",
    "webhook_endpoints",
}


def test_no_table_is_forgotten() -> None:
    disposed = {kind.key.class_.__table__.name for kind in CLASSES}
    groups = [disposed, set(WITH_ANOTHER), ERASED, set(HOUSEKEEPING), PROOFS, INSTALLATION]
    known = set().union(*groups)
    assert known == set(Base.metadata.tables), known ^ set(Base.metadata.tables)
    assert sum(map(len, groups)) == len(known), "each table ends in one way"


def test_every_record_of_the_schedule_has_its_class_and_event() -> None:
    assert {kind.record for kind in CLASSES} == set(RECORD_EVENTS)
    for record, events in RECORD_EVENTS.items():
        offered = [set(kind.events) for kind in CLASSES if kind.record == record]
        assert all(events >= names for names in offered)
        assert set().union(*offered) == events


@pytest.mark.parametrize("held", [False, True])
async def test_receipts_of_spooled_calls_end_with_the_records_of_calls(world: World, held: bool) -> None:
    recording_id = await world.recording()
    long_ago = datetime(2010, 3, 5, 8, tzinfo=UTC)
    async with world.services.database.transaction() as session:
        (await session.get_one(type(await world.get(recording_id)), recording_id)).held = held
        for received in (long_ago, world.now):
            session.add(
                SpooledReceipt(
                    id=uuid.uuid4(),
                    controller_id=world.controller.id,
                    source_id=world.source.id,
                    outcome="repeated",
                    recording_id=recording_id,
                    certificate_id=None,
                    received_at=received,
                    drained_at=received,
                )
            )
    done = await other_records.dispose(world.services, world.controller.id)
    assert {outcome.name: outcome.destroyed for outcome in done} == ({} if held else {"spooled_receipt": 1})
    async with world.services.database.snapshot() as session:
        left = await session.scalar(sa.select(sa.func.count()).select_from(SpooledReceipt))
    assert left == (2 if held else 1)
