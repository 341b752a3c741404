"""Erasure on the real catalogue: what goes is gone and proved, what must stay stays readable."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.background import Background
from recorder.catalogue import enums
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import (
    AuditEntry,
    BlindIndex,
    Certificate,
    Contact,
    Customer,
    CustomerBatch,
    Erasure,
    ErasureItem,
    Job,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    StoredObjectRow,
    Subject,
    Tombstone,
)
from recorder.disposition import erasures, holds, ledger
from recorder.disposition.certificates import CERTIFICATE_TYPE, SignatureInvalid, verify
from recorder.disposition.erasure_port import SqlErasurePort
from recorder.disposition.sweeping import sweep
from recorder.errors import Erased, Unavailable
from recorder.jobs.queue import enqueue
from recorder.services import Services
from retention.erasure import ORDER
from retention.erasure import Erasure as Machine
from storage.errors import ObjectMissing, StoreUnavailable
from tests.recorder.disposition_world import World, bytes_of, clock_of, decision_of


async def read(world: World, obj: Any) -> Any:
    async with world.services.vault.read(obj) as pieces:
        return b"".join([piece async for piece in pieces])


async def rows(world: World, query: Any) -> Any:
    async with world.services.database.snapshot() as session:
        return list(await session.scalars(query))


async def one(world: World, query: Any) -> Any:
    (row,) = await rows(world, query)
    return row


async def hold(world: World, **target: Any) -> Any:
    async with world.services.database.transaction() as session:
        matter = await holds.open_matter(
            session,
            world.services,
            controller_id=world.controller.id,
            reference="2026-014",
            ground="legal_claims",
            review_on=world.now + timedelta(days=180),
            actor="os:test",
            now=world.now,
        )
        placed = await holds.place_hold(
            session, world.services, matter, actor="os:test", now=world.now, **target
        )
    await holds.align_store(world.services, placed)
    return matter, placed


async def release(world: World, matter: Any, placed: Any) -> None:
    async with world.services.database.transaction() as session:
        released = await holds.release_hold(
            session, world.services, matter, placed.id, actor="os:test", now=world.now
        )
    await holds.align_store(world.services, released)


async def erase(world: World, customer_id: Any) -> Any:
    return await erasures.erase_customer(
        world.services, customer_id, requested_by="account:7b0c", now=world.now
    )


async def test_a_customer_is_erased_to_the_last_version_with_a_certificate(world: World) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)
    other = await world.recording(await world.customer(last_contact=world.now))
    stored = await world.stored(recording_id)
    async with services.database.transaction() as session:
        enqueue(session, "rendition", recording_id, now=world.now)

    clock_of(world.services).advance(timedelta(minutes=1))
    result = await erase(world, customer_id)

    assert result.erased
    assert result.outcomes[str(recording_id)]["outcome"] == "erased"
    for obj in stored:
        assert [v async for v in services.store.versions(obj.key)] == []
        with pytest.raises(ObjectMissing):
            await read(world, obj)
    row = await world.get(recording_id)
    assert (row.state, row.sealed, row.customer_id, row.agents, row.tags) == ("erased", None, None, [], [])
    assert row.erased_at == world.now
    customer = await one(world, sa.select(Customer).where(Customer.id == customer_id))
    assert (customer.sealed, customer.erased_at) == (None, world.now)
    subject = await one(world, sa.select(Subject).where(Subject.id == customer.subject_id))
    assert (subject.wrapped_key, subject.destroyed_at) == (None, world.now)
    for table, column, value in (
        (Contact, Contact.customer_id, customer_id),
        (CustomerBatch, CustomerBatch.customer_id, customer_id),
        (BlindIndex, BlindIndex.customer_id, customer_id),
        (BlindIndex, BlindIndex.recording_id, recording_id),
        (RecordingAgent, RecordingAgent.recording_id, recording_id),
        (RecordingTag, RecordingTag.recording_id, recording_id),
        (RecordingLink, RecordingLink.recording_id, recording_id),
        (Job, Job.target_id, recording_id),
    ):
        assert await rows(world, sa.select(table).where(column == value)) == []
    assert [
        o.wrapped_key
        for o in await rows(
            world, sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == recording_id)
        )
    ] == [None, None]
    tombstone = await one(world, sa.select(Tombstone))
    assert (tombstone.source_id, tombstone.identity) == (row.source_id, row.identity)

    certificate = await one(world, sa.select(Certificate))
    assert row.certificate_id == tombstone.certificate_id == certificate.id
    public = services.keyring.public_keys()["certificates"]
    document = verify(certificate.signature, public, kind=CERTIFICATE_TYPE)
    assert document == certificate.document
    assert document["ground"] == "request"
    assert document["requested_by"] == "account:7b0c"
    (listed,) = document["recordings"]
    assert {(o["key"], *o["versions"]) for o in listed["objects"]} == {(o.key, o.version_id) for o in stored}
    assert document["subject_keys"] == [{"subject": str(subject.id), "epoch": 1}]
    assert document["backups_expire_on"].startswith("2026-04-09")
    with pytest.raises(SignatureInvalid):
        verify(certificate.signature[:-4] + "AAAA", public, kind=CERTIFICATE_TYPE)

    (entry,) = [e async for e in ledger.read_all(services)]
    assert entry.recordings[0]["identity"] == row.identity.hex()
    assert await read(world, (await world.stored(other))[0])
    with pytest.raises(Erased) as again:
        await erase(world, customer_id)
    assert again.value.certificate_id == str(certificate.id)


async def test_nothing_personal_stays_in_the_proof(world: World) -> None:
    customer_id = await world.customer(last_contact=world.now)
    await world.recording(customer_id)
    await erase(world, customer_id)
    certificate = await one(world, sa.select(Certificate))
    entries = await rows(world, sa.select(AuditEntry))
    entry = next(iter([e async for e in ledger.read_all(world.services)]))
    text = json.dumps(certificate.document) + str(entry) + "".join(e.payload.decode() for e in entries)
    for secret in ("+358401234567", "Aino", "sales", "a7", "vip"):
        assert f'"{secret}"' not in text
        assert secret == "a7" or secret not in text


async def test_what_a_hold_covers_stays_under_a_fresh_key_and_goes_when_it_falls(world: World) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    held_id = await world.recording(customer_id)
    gone_id = await world.recording(customer_id)
    paid_id = await world.recording(customer_id, events=["payment"])
    matter, placed = await hold(world, recording_id=held_id)
    old = await world.stored(held_id)
    clock_of(world.services).advance(timedelta(minutes=1))

    result = await erase(world, customer_id)

    assert {k: (v["outcome"], v["code"]) for k, v in result.outcomes.items()} == {
        str(held_id): ("kept", "hold"),
        str(gone_id): ("erased", "request"),
        str(paid_id): ("kept", "statute"),
    }
    kept = await world.stored(held_id)
    assert kept[0].subject.subject_id != old[0].subject.subject_id
    for obj in [*kept, *(await world.stored(paid_id))]:
        assert len(await read(world, obj)) == obj.size
    row = await world.get(held_id)
    assert (row.state, row.held) == ("stored", True)
    windows = decision_of(row)["windows"].items()
    assert [purpose for purpose, window in windows if window["end"] is None] == ["legal_protection"]
    subject = await one(world, sa.select(Subject).where(Subject.id == row.subject_id))
    assert open_json(services.keyring, subject, RECORDING_METADATA, row.id, bytes_of(row.sealed)) == {
        "caller": "+358401234567"
    }
    customer = await one(world, sa.select(Customer).where(Customer.id == customer_id))
    assert customer.sealed is None

    await release(world, matter, placed)
    sweep_on = (await world.get(held_id)).sweep_on
    assert sweep_on is not None
    assert sweep_on <= world.now
    report = await sweep(services, world.controller.id, world.now)
    assert report.erased == [str(held_id)]
    assert report.failed == {}
    row = await world.get(held_id)
    assert row.state == "erased"
    fresh = await one(world, sa.select(Subject).where(Subject.id == uuid.UUID(kept[0].subject.subject_id)))
    assert fresh.wrapped_key is not None  # the paid call still hangs on it
    assert fresh.rekey_needed
    paid = await world.get(paid_id)
    assert paid.state == "stored"
    clock_of(services).set(datetime(2033, 1, 1, 0, 0, tzinfo=UTC))
    report = await sweep(services, world.controller.id, world.now)
    assert report.erased == [str(paid_id)]
    fresh = await one(world, sa.select(Subject).where(Subject.id == fresh.id))
    assert fresh.wrapped_key is None
    customer = await one(world, sa.select(Customer).where(Customer.id == customer_id))
    assert customer.erased_at is not None


async def test_a_held_or_restricted_recording_is_not_erased_by_the_sweep(world: World) -> None:
    started = datetime(2015, 3, 5, 8, tzinfo=UTC)
    customer_id = await world.customer(last_contact=started)
    held_id = await world.recording(customer_id, started_at=started)
    restricted_id = await world.recording(customer_id, started_at=started)
    due_id = await world.recording(customer_id, started_at=started)
    await hold(world, recording_id=held_id)
    async with world.services.database.transaction() as session:
        await holds.restrict(
            session,
            world.services,
            controller_id=world.controller.id,
            recording_id=restricted_id,
            ground="accuracy",
            actor="os:test",
            now=world.now,
        )
    dry = await sweep(world.services, world.controller.id, world.now, dry_run=True)
    assert [f.recording_id for f in dry.due] == [str(due_id)]
    assert (await world.get(due_id)).state == "stored"
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.erased == [f.recording_id for f in dry.due]
    assert [(await world.get(i)).state for i in (held_id, restricted_id, due_id)] == [
        "stored",
        "stored",
        "erased",
    ]


async def test_one_recording_of_a_living_customer_goes_and_the_subject_is_owed_a_new_key(
    world: World,
) -> None:
    customer_id = await world.customer(last_contact=world.now)
    gone_id, stays_id = await world.recording(customer_id), await world.recording(customer_id)
    result = await erasures.erase_recording(world.services, gone_id, requested_by="os:test", now=world.now)
    assert result.erased
    stays = (await world.stored(stays_id))[0]
    subject = await one(world, sa.select(Subject).where(Subject.id == uuid.UUID(stays.subject.subject_id)))
    assert subject.rekey_needed
    assert len(await read(world, stays)) == stays.size
    assert (await world.get(gone_id)).subject_id == world.controller.subject_id
    certificate = await one(world, sa.select(Certificate))
    assert certificate.document["requested_by"] == "os"
    with pytest.raises(Erased):
        await erasures.erase_recording(world.services, gone_id, requested_by="os:test", now=world.now)


async def kept_aside(world: World, first: uuid.UUID, customer_id: uuid.UUID | None = None) -> uuid.UUID:
    """Other bytes that came under the name of a recording."""
    recording_id = await world.recording(customer_id)
    async with world.services.database.transaction() as session:
        await session.execute(
            sa.update(Recording)
            .where(Recording.id == recording_id)
            .values(conflict_of=first, state=enums.RecordingState.QUARANTINED)
        )
    return recording_id


@pytest.mark.parametrize("whole", [True, False])
async def test_conflicting_bytes_in_quarantine_go_with_the_call(world: World, whole: bool) -> None:
    customer_id, other = await world.customer(last_contact=world.now), await world.customer()
    first = await world.recording(customer_id)
    aside, theirs = await kept_aside(world, first), await kept_aside(world, first, other)
    objects = await world.stored(aside)
    subject_id = (await world.get(aside)).subject_id
    if whole:
        result = await erase(world, customer_id)
    else:
        result = await erasures.erase_recording(world.services, first, requested_by="os:test", now=world.now)
    assert {r: o["outcome"] for r, o in result.outcomes.items()} == {
        str(first): "erased",
        str(aside): "erased",
    }
    for obj in objects:
        assert [v async for v in world.services.store.versions(obj.key)] == []
    subject = await one(world, sa.select(Subject).where(Subject.id == subject_id))
    assert (subject.wrapped_key, subject.destroyed_at) == (None, world.now)
    assert (await world.get(theirs)).state is enums.RecordingState.QUARANTINED
    digests = sa.select(StoredObjectRow.sha256).where(StoredObjectRow.recording_id.in_([first, aside]))
    assert set(await rows(world, digests)) == {b""}


async def test_conflicting_bytes_stay_beside_a_recording_that_is_held(world: World) -> None:
    first = await world.recording()
    aside = await kept_aside(world, first)
    await hold(world, recording_id=first)
    result = await erasures.erase_recording(world.services, first, requested_by="os:test", now=world.now)
    assert {r: o["code"] for r, o in result.outcomes.items()} == {str(first): "hold", str(aside): "hold"}
    assert not result.erased
    assert (await world.get(aside)).state is enums.RecordingState.QUARANTINED


async def test_an_unlinked_callers_key_goes_with_the_last_recording(world: World) -> None:
    recording_id = await world.recording()
    subject_id = (await world.get(recording_id)).subject_id
    await erasures.erase_recording(world.services, recording_id, requested_by="os:test", now=world.now)
    subject = await one(world, sa.select(Subject).where(Subject.id == subject_id))
    assert subject.wrapped_key is None


async def test_an_erasure_that_must_keep_its_recording_is_abandoned_and_stands_as_a_request(
    world: World,
) -> None:
    recording_id = await world.recording(await world.customer(last_contact=world.now))
    matter, placed = await hold(world, recording_id=recording_id)
    result = await erasures.erase_recording(
        world.services, recording_id, requested_by="os:test", now=world.now
    )
    assert not result.erased
    assert (await one(world, sa.select(Erasure))).finished_at == world.now
    await release(world, matter, placed)
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.erased == [str(recording_id)]


async def test_a_call_shared_with_another_customer_waits_for_a_person(world: World) -> None:
    mine, theirs = await world.customer(last_contact=world.now), await world.customer(last_contact=world.now)
    recording_id = await world.recording(mine)
    referenced = await world.recording(theirs)
    async with world.services.database.transaction() as session:
        for recording, customer in ((recording_id, theirs), (referenced, mine)):
            session.add(
                RecordingLink(
                    recording_id=recording,
                    customer_id=customer,
                    role=enums.LinkRole.REFERENCE,
                    matched_by="person",
                    created_at=world.now,
                )
            )
    result = await erase(world, mine)
    assert result.outcomes[str(recording_id)]["code"] == "shared"
    assert str(referenced) not in result.outcomes
    assert len(await read(world, (await world.stored(recording_id))[0])) > 0
    links = await rows(world, sa.select(RecordingLink).where(RecordingLink.recording_id == referenced))
    assert [link.customer_id for link in links] == [theirs]
    principal = (await world.get(referenced)).subject_id
    assert (await one(world, sa.select(Subject).where(Subject.id == principal))).rekey_needed


async def test_card_data_goes_at_once_hold_or_not_and_the_muted_copy_lives_on(world: World) -> None:
    span = {"from_ms": 0, "to_ms": 900, "reason": "card_security"}
    roles = (enums.ObjectRole.ORIGINAL, enums.ObjectRole.REDACTED)
    recording_id = await world.recording(roles=roles, muted=[span])
    waiting_id = await world.recording(muted=[span])
    await hold(world, recording_id=recording_id)
    original, redacted = sorted(await world.stored(recording_id), key=lambda o: o.role)
    assert await world.services.store.legal_hold(original.key, original.version_id)
    report = await sweep(world.services, world.controller.id, world.now)
    assert report.erased == [str(recording_id)]
    assert report.kept == [str(waiting_id)]  # no muted copy yet: destroying it now would lose the call
    assert [v async for v in world.services.store.versions(original.key)] == []
    row = await world.get(recording_id)
    assert (row.state, row.card_data_removed, row.held) == ("stored", True, True)
    assert row.sha256 == redacted.sha256
    assert len(await read(world, redacted)) == redacted.size
    assert await rows(world, sa.select(Tombstone)) == []


async def test_a_hold_comes_too_late_once_erasure_has_begun(world: World) -> None:
    recording_id = await world.recording()
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(state=enums.RecordingState.ERASING))
    with pytest.raises(Erased):
        await hold(world, recording_id=recording_id)


class Killed(BaseException):
    """The process dies here."""


class Fragile(SqlErasurePort):
    """A port whose process dies before or after one step."""

    def __init__(self, services: Services, step: Any, when: Any) -> None:
        super().__init__(services)
        real = getattr(self, step)

        async def dying(*args: Any) -> None:
            if when == "before":
                raise Killed
            await real(*args)
            raise Killed

        setattr(self, step, dying)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [str(s) for s in ORDER])
async def test_killed_between_any_two_steps_it_ends_in_the_same_state(
    world: World, step: Any, when: Any
) -> None:
    customer_id = await world.customer(last_contact=world.now)
    gone_id = await world.recording(customer_id)
    kept_id = await world.recording(customer_id, events=["payment"])
    async with world.services.database.transaction() as session:
        erasure = Erasure(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            customer_id=customer_id,
            scope="customer",
            ground=enums.ErasureGround.REQUEST,
            requested_by="os:test",
            requested_at=world.now,
            detail={},
        )
        session.add(erasure)
    clock = world.services.clock.now
    with pytest.raises(Killed):
        await Machine(Fragile(world.services, step, when), clock).run(str(erasure.id))
    report = await sweep(world.services, world.controller.id, world.now)
    finished_before = step == "finish" and when == "after"
    assert report.resumed == ([] if finished_before else [str(erasure.id)])
    assert (await erasures.run(world.services, erasure.id)).erased

    assert (await world.get(gone_id)).state == "erased"
    kept = await world.stored(kept_id)
    for obj in kept:
        assert len(await read(world, obj)) == obj.size
    keys = {obj.key for obj in kept}
    assert {s.key async for s in world.services.store.list("o/")} == keys
    actions = sorted(
        await rows(world, sa.select(AuditEntry.action).where(AuditEntry.object_id == str(erasure.id)))
    )
    assert actions == sorted(
        [
            "erasure.begun",
            "erasure.certificate",
            "erasure.delete_objects",
            "erasure.destroy_keys",
            "erasure.finished",
            "erasure.prove_absence",
            "erasure.rewrap_kept",
            "erasure.tombstone",
        ]
    )
    certificate = await one(world, sa.select(Certificate))
    listed = {r["id"]: r for r in certificate.document["recordings"]}
    assert len(listed[str(gone_id)]["objects"]) == 2
    assert all(len(o["versions"]) == 1 for o in listed[str(gone_id)]["objects"])
    assert listed[str(kept_id)]["outcome"] == "kept"
    assert len(await rows(world, sa.select(Tombstone))) == 1
    assert len([e async for e in ledger.read_all(world.services)]) == 1


async def test_a_store_that_is_away_leaves_the_erasure_open_and_the_sweep_resumes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer_id = await world.customer(last_contact=world.now)
    recording_id = await world.recording(customer_id)

    async def away(_key: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.services.store, "delete_all", away)
        with pytest.raises(Unavailable):
            await erase(world, customer_id)
        assert (await world.get(recording_id)).state == "erasing"
        report = await sweep(world.services, world.controller.id, world.now)
        assert list(report.failed.values()) == ["Unavailable"]
        for later, count in ((timedelta(days=1), 0), (timedelta(seconds=1), 1)):
            clock_of(world.services).advance(later)
            assert await overdue_gauge(world) == count
    report = await sweep(world.services, world.controller.id, world.now)
    assert len(report.resumed) == 1
    assert (await world.get(recording_id)).state == "erased"
    assert await overdue_gauge(world) == 0


async def overdue_gauge(world: World) -> float | None:
    """The metric that should be zero, as the background sets it; so is that of recordings, as it is begun."""
    await Background(world.services)._gauges()
    told = world.services.metrics.registry.get_sample_value
    assert told("recorder_overdue_recordings") == 0
    return told("recorder_overdue_erasures")


async def test_absence_is_asked_of_the_store_again(world: World) -> None:
    """What turns up under a deleted key, before the store is asked again, is no proof of absence."""
    recording_id = await world.recording()
    keys = [obj.key for obj in await world.stored(recording_id)]
    async with world.services.database.transaction() as session:
        erasure_id = await erasures.open_recording(
            session,
            recording_id,
            ground=enums.ErasureGround.REQUEST,
            requested_by="os:test",
            now=world.now,
        )
    with pytest.raises(Killed):
        await Machine(Fragile(world.services, "delete_objects", "after"), world.services.clock.now).run(
            str(erasure_id)
        )

    async def replica() -> AsyncIterator[bytes]:
        yield b"what a replica brought back"

    await world.services.store.put(keys[0], replica(), size=None)
    assert [v async for v in world.services.store.versions(keys[0])] != []
    assert (await erasures.run(world.services, erasure_id)).erased
    assert [v for key in keys async for v in world.services.store.versions(key)] == []
    assert (await world.get(recording_id)).state == "erased"


async def test_an_object_stored_during_the_erasure_goes_too(world: World) -> None:
    recording_id = await world.recording()
    async with world.services.database.transaction() as session:
        erasure_id = await erasures.open_recording(
            session,
            recording_id,
            ground=enums.ErasureGround.REQUEST,
            requested_by="os:test",
            now=world.now,
        )
    with pytest.raises(Killed):
        await Machine(Fragile(world.services, "certificate", "after"), world.services.clock.now).run(
            str(erasure_id)
        )

    async def source() -> AsyncIterator[Any]:
        yield b"late"

    late = await world.services.vault.write(source(), role="rendition")
    async with world.services.database.transaction() as session:
        session.add(
            StoredObjectRow(
                id=late.object_id,
                recording_id=recording_id,
                role=enums.ObjectRole.RENDITION,
                key=late.key,
                version_id=late.version_id,
                subject_id=world.controller.subject_id,
                wrapped_key=b"wrap",
                size=late.size,
                sealed_size=late.sealed_size,
                sha256=late.sha256,
                content_type="audio/ogg",
                created_at=world.now,
            )
        )
    with pytest.raises(Unavailable):
        await erasures.run(world.services, erasure_id)
    result = await erasures.run(world.services, erasure_id)
    assert result.erased
    assert [v async for v in world.services.store.versions(late.key)] == []
    row = await world.get(recording_id)
    async with world.services.database.snapshot() as session:
        certificate = await session.get_one(Certificate, row.certificate_id)
    assert str(late.object_id) in json.dumps(certificate.document)
    (item,) = await rows(world, sa.select(ErasureItem))
    assert all("key" in o for o in item.detail["objects"])
