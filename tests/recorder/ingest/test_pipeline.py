"""The way in: what is stored, what is answered, what is left behind when it fails."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from recorder.access.principals import Principal
from recorder.catalogue.enums import DataSource, LinkRole, RecordingState, SubjectKind
from recorder.catalogue.tables import (
    AuditEntry,
    Base,
    BlindIndex,
    Call,
    Contact,
    Controller,
    Customer,
    IdempotencyKey,
    Job,
    Recording,
    RecordingLink,
    Source,
    StoredObjectRow,
    Subject,
    Tombstone,
)
from recorder.clock import ManualClock
from recorder.customers.records import CustomerUpsert, upsert
from recorder.errors import (
    Conflict,
    Erased,
    Forbidden,
    InvalidInput,
    MalformedInput,
    TooLarge,
    TooMany,
    Unavailable,
)
from recorder.ingest import receipts
from recorder.ingest.digests import DigestCheck
from recorder.ingest.identity import payload_digest
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.storing import stored_document
from recorder.playback.objects import stored_object
from recorder.services import Services
from recorder.settings import Settings
from storage.errors import StoreUnavailable
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from storage.vault import Vault
from tests.recorder.ingest.conftest import body, make_source, principal_of, request


async def push(intake: Intake, source: Source, asked: IngestRequest, data: bytes, **options: Any) -> Outcome:
    return await intake.accept(
        asked, body(data), principal=principal_of(source), request_id=uuid.uuid4().hex, **options
    )


async def rows(services: Services, table: type[Base], *where: Any) -> list[Any]:
    async with services.database.snapshot() as session:
        return list((await session.scalars(sa.select(table).where(*where))).all())


async def keys(services: Services) -> list[str]:
    return [stat.key async for stat in services.store.list()]


async def read(services: Services, recording_id: uuid.UUID) -> bytes:
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == recording_id)
        row = (await session.scalars(query)).one()
        subject = await session.get_one(Subject, row.subject_id)
    async with services.vault.read(stored_object(row, subject)) as pieces:
        return b"".join([piece async for piece in pieces])


async def customer(services: Services, controller: Controller, number: str, **fields: Any) -> uuid.UUID:
    given = CustomerUpsert(number=number, source=DataSource.REGISTRATION, **fields)
    done = await upsert(services, controller.id, given, actor="system:test", request_id="r1")
    return done.id


async def test_a_push_is_stored_whole_and_acknowledged(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    outcome = await push(intake, source, request(queue="sales", agents=["a7"], tags=["fi"]), wav)
    assert outcome.kind is OutcomeKind.CREATED
    assert outcome.state is RecordingState.STORED
    assert (outcome.sha256, outcome.size) == (hashlib.sha256(wav).digest(), len(wav))
    assert outcome.media["codec"] == "pcm_s16le"
    assert outcome.media["duration_ms"] == 500
    assert outcome.recording_id is not None
    assert await read(services, outcome.recording_id) == wav
    public = services.keyring.public_keys()["receipts"]
    assert outcome.receipt is not None
    payload = receipts.verify_receipt(outcome.receipt, {receipts.jwk(public)["kid"]: public})
    assert payload == {
        "id": str(outcome.recording_id),
        "sha256": hashlib.sha256(wav).hexdigest(),
        "size": len(wav),
        "received_at": services.clock.now().isoformat(timespec="microseconds"),
    }
    jobs = await rows(services, Job, Job.target_id == outcome.recording_id)
    assert {job.kind for job in jobs} == {"media_check", "rendition", "peaks"}
    entries = await rows(services, AuditEntry, AuditEntry.object_id == str(outcome.recording_id))
    assert [entry.action for entry in entries] == ["recording.stored"]
    assert outcome.retention is not None
    assert "windows" in outcome.retention


async def test_nothing_personal_lies_in_the_clear(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    asked = request(
        external_id="ext-0401234567",
        caller="+358401234567",
        customer={"number": "C-77001", "email": "maija@example.fi"},
        extra={"note": "Maija Meikäläinen"},
        service_events=[{"type": "order", "ref": "ORD-9911"}],
        file_name="in-0401234567.wav",
    )
    await push(intake, source, asked, wav)
    async with services.database.snapshot() as session:
        text = ""
        for table in Base.metadata.sorted_tables:
            for row in await session.execute(sa.select(table)):
                text += "".join(repr(value) for value in row)
    for secret in ("401234567", "77001", "maija", "Maija", "ORD-9911", "ext-"):
        assert secret not in text, secret
    assert "401234567" not in " ".join(await keys(services))


async def test_the_same_bytes_again_are_a_repeat(
    intake: Intake, services: Services, source: Source, wav: bytes, clock: ManualClock
) -> None:
    first = await push(intake, source, request(queue="sales"), wav)
    clock.advance(timedelta(hours=1))
    again = await push(intake, source, request(queue="sales"), wav)
    assert (again.kind, again.recording_id) == (OutcomeKind.REPEATED, first.recording_id)
    assert again.receipt == first.receipt
    assert again.differences == ()
    other = await push(intake, source, request(queue="support", caller="+358401"), wav)
    assert other.differences == ("/caller", "/queue")
    assert other.recording_id == first.recording_id
    assert len(await keys(services)) == 1
    assert len(await rows(services, Recording)) == 1


async def test_other_bytes_conflict_and_are_kept_once(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    first = await push(intake, source, request(), wav)
    changed = wav[:-2] + b"\x01\x02"
    for _ in range(2):
        with pytest.raises(Conflict) as refused:
            await push(intake, source, request(), changed)
        assert refused.value.kind == "conflict"
        assert refused.value.recording_id == str(first.recording_id)
    aside = await rows(services, Recording, Recording.conflict_of == first.recording_id)
    assert [(row.state, row.reasons) for row in aside] == [(RecordingState.QUARANTINED, ["conflict"])]
    assert await read(services, aside[0].id) == changed
    assert len(await keys(services)) == 2
    with pytest.raises(Conflict):
        await push(intake, source, request(), wav[:-2] + b"\x03\x04")
    assert len(await rows(services, Recording)) == 3


async def test_a_race_of_equal_deliveries_has_one_winner(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    asked = [request(caller="+358401234567", direction="inbound") for _ in range(6)]
    outcomes = await asyncio.gather(*(push(intake, source, each, wav) for each in asked))
    assert len({outcome.recording_id for outcome in outcomes}) == 1
    assert sorted(outcome.kind for outcome in outcomes) == ["created", *["repeated"] * 5]
    assert len(await keys(services)) == 1
    assert len(await rows(services, Call)) == 1


async def test_a_race_of_different_bytes_keeps_all_of_them(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    bodies = [wav[:-1] + bytes([n]) for n in range(4)]
    results = await asyncio.gather(
        *(push(intake, source, request(), data) for data in bodies), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 3 + ["Outcome"]
    kept = await rows(services, Recording)
    assert {row.sha256 for row in kept} == {hashlib.sha256(data).digest() for data in bodies}
    assert len(await keys(services)) == 4


async def test_legs_and_parts_are_recordings_of_one_call(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    call = {"external_id": "c-9"}
    a = await push(intake, source, request(leg="a", call=call), wav)
    b = await push(intake, source, request(leg="b", call=call), wav)
    other = await push(intake, source, request(external_id="x", call=call), wav)
    assert len({a.recording_id, b.recording_id, other.recording_id}) == 3
    assert len({a.call_id, b.call_id, other.call_id}) == 1


async def test_sources_do_not_share_identities(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    second = await make_source(services, controller, "other")
    a = await push(intake, source, request(), wav)
    b = await push(intake, second, request(), wav)
    assert b.kind is OutcomeKind.CREATED
    assert a.recording_id != b.recording_id


async def test_a_digest_that_fits_is_accepted_and_one_that_does_not_keeps_nothing(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    def field(data: bytes, algorithm: str) -> str:
        digest = hashlib.new(algorithm.replace("-", ""), data).digest()
        return f"{algorithm}=:{base64.b64encode(digest).decode()}:"

    for n, algorithm in enumerate(("sha-256", "sha-512")):
        good = DigestCheck.from_fields([("Content-Digest", field(wav, algorithm))])
        await push(intake, source, request(external_id=f"good-{n}", digests=good), wav)
        bad = DigestCheck.from_fields([("Repr-Digest", field(wav + b"x", algorithm))])
        with pytest.raises(MalformedInput) as refused:
            await push(intake, source, request(external_id=f"bad-{n}", digests=bad), wav)
        assert [f.path for f in refused.value.fields] == ["Repr-Digest"]
    assert len(await keys(services)) == 2
    assert len(await rows(services, Recording)) == 2


async def test_a_lenient_delivery_with_a_wrong_digest_is_kept_aside(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    digest = base64.b64encode(hashlib.sha256(wav).digest()).decode()
    field = [("Content-Digest", f"sha-256=:{digest}:")]
    broken = wav[:-4]
    asked = request(digests=DigestCheck.from_fields(field), strict=False)
    outcome = await push(intake, source, asked, broken)
    assert (outcome.state, outcome.reasons) == (RecordingState.QUARANTINED, ("digest-mismatch",))
    again = request(digests=DigestCheck.from_fields(field), strict=False)
    whole = await push(intake, source, again, wav)
    assert (whole.kind, whole.state) == (OutcomeKind.CREATED, RecordingState.STORED)


async def test_a_body_that_breaks_off_leaves_nothing(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield wav[:4000]
        raise MalformedInput("the body broke off")

    with pytest.raises(MalformedInput):
        await intake.accept(
            request(idempotency_key="k"), broken(), principal=principal_of(source), request_id="r"
        )
    assert await keys(services) == []
    assert await rows(services, Recording) == []
    assert await rows(services, IdempotencyKey) == []


async def test_a_client_that_leaves_after_the_last_byte_does_not_undo_the_push(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    sent = asyncio.Event()

    async def whole() -> AsyncIterator[bytes]:
        yield wav
        sent.set()

    handler = asyncio.create_task(
        intake.accept(request(), whole(), principal=principal_of(source), request_id="r")
    )
    await sent.wait()
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    await services.uploads.drain()
    assert [row.state for row in await rows(services, Recording)] == [RecordingState.STORED]


async def test_a_body_over_the_limit_keeps_nothing(
    intake: Intake, services: Services, controller: Controller, wav: bytes
) -> None:
    small = await make_source(services, controller, "small", max_bytes=1000)
    with pytest.raises(TooLarge):
        await push(intake, small, request(), wav)
    assert await keys(services) == []
    ok = await push(intake, small, request(), wav[:1000])
    assert ok.size == 1000


async def test_uploads_at_once_are_limited(services: Services, source: Source, wav: bytes) -> None:
    limited = Services(
        settings=Settings(data_dir=services.settings.data_dir, concurrent_uploads=1),
        clock=services.clock,
        database=services.database,
        keyring=services.keyring,
        store=services.store,
        vault=services.vault,
    )
    intake = Intake(limited)
    go = asyncio.Event()
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go.wait()
        yield wav

    first = asyncio.create_task(
        intake.accept(request(), slow(), principal=principal_of(source), request_id="r")
    )
    await begun.wait()
    with pytest.raises(TooMany):
        await push(intake, source, request(external_id="two"), wav)
    go.set()
    assert (await first).kind is OutcomeKind.CREATED
    assert (await push(intake, source, request(external_id="two"), wav)).kind is OutcomeKind.CREATED


async def test_only_the_source_itself_may_push(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    await make_source(services, controller, "other")
    me = principal_of(source)
    for named in ("other", "nobody"):
        with pytest.raises(Forbidden):
            await intake.accept(request(), body(wav), principal=me, request_id="r", source=named)
    stranger = Principal("token", str(uuid.uuid4()), controller.id)
    with pytest.raises(Forbidden):
        await intake.accept(request(), body(wav), principal=stranger, request_id="r")
    async with services.database.transaction() as session:
        (await session.get_one(Source, source.id)).enabled = False
    with pytest.raises(Forbidden) as refused:
        await intake.accept(request(), body(wav), principal=me, request_id="r", source="pbx")
    assert refused.value.reason == "source-disabled"
    assert await keys(services) == []


async def test_a_lawful_basis_is_needed(
    intake: Intake, services: Services, controller: Controller, wav: bytes
) -> None:
    bare = await make_source(services, controller, "bare", basis=None)
    with pytest.raises(InvalidInput) as refused:
        await push(intake, bare, request(), wav)
    assert [f.path for f in refused.value.fields] == ["/lawful_basis"]
    said = await push(intake, bare, request(lawful_basis="consent"), wav)
    assert said.kind is OutcomeKind.CREATED


async def test_what_was_erased_is_not_taken_again(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    first = await push(intake, source, request(), wav)
    certificate = uuid.uuid4()
    async with services.database.transaction() as session:
        row = await session.get_one(Recording, first.recording_id)
        row.state = RecordingState.ERASING
        identity = row.identity
    with pytest.raises(Erased):
        await push(intake, source, request(), wav)
    async with services.database.transaction() as session:
        row = await session.get_one(Recording, first.recording_id)
        row.identity = b"\x00" * 32
        session.add(
            Tombstone(
                source_id=source.id,
                identity=identity,
                recording_id=row.id,
                certificate_id=certificate,
                erased_at=services.clock.now(),
            )
        )
    with pytest.raises(Erased) as refused:
        await push(intake, source, request(), wav)
    assert refused.value.certificate_id == str(certificate)
    assert len(await keys(services)) == 1


async def test_an_erasure_during_the_upload_wins(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    first = await push(intake, source, request(), wav)

    async def meanwhile() -> AsyncIterator[bytes]:
        yield wav[:5000]
        async with services.database.transaction() as session:
            (await session.get_one(Recording, first.recording_id)).state = RecordingState.ERASED
        yield wav[5000:]

    with pytest.raises(Erased):
        await intake.accept(request(), meanwhile(), principal=principal_of(source), request_id="r")
    assert len(await keys(services)) == 1
    refused = await rows(services, AuditEntry, AuditEntry.action == "recording.refused")
    assert len(refused) == 1


async def test_idempotency_keys(intake: Intake, services: Services, source: Source, wav: bytes) -> None:
    first = await push(intake, source, request(idempotency_key="k1"), wav)
    again = await push(intake, source, request(idempotency_key="k1"), wav)
    assert (again.kind, again.recording_id) == (OutcomeKind.REPEATED, first.recording_id)
    with pytest.raises(InvalidInput):
        await push(intake, source, request(idempotency_key="k1"), wav + b"x")
    with pytest.raises(InvalidInput):
        await push(intake, source, request(idempotency_key="k1", external_id="other"), wav)

    async def slow() -> AsyncIterator[bytes]:
        yield wav[:100]
        with pytest.raises(Conflict) as refused:
            await push(intake, source, request(idempotency_key="k2", external_id="two"), wav)
        assert refused.value.kind == "in-flight"
        yield wav[100:]

    done = await intake.accept(
        request(idempotency_key="k2", external_id="two"),
        slow(),
        principal=principal_of(source),
        request_id="r",
    )
    assert done.kind is OutcomeKind.CREATED
    assert len(await keys(services)) == 2


async def test_what_an_idempotency_key_stood_for_cannot_be_guessed_without_the_keyring(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    asked = request(idempotency_key="k1", caller="+358401234567")
    await push(intake, source, asked, wav)
    [row] = await rows(services, IdempotencyKey)
    told = json.dumps(asked.metadata.document(), sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(wav).digest()
    guesses = {hashlib.sha256(told + b"\x00" + digest).digest(), hashlib.sha256(digest + told).digest()}
    assert row.payload is not None
    assert row.payload not in guesses
    elsewhere = payload_digest(MemoryKeyring(), source.controller_id, asked.sealed_document(), digest)
    ours = payload_digest(services.keyring, source.controller_id, asked.sealed_document(), digest)
    assert row.payload == ours != elsewhere


async def test_the_customer_is_found_by_number_then_phone(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    anna = await customer(services, controller, "C-1", phone="040 123 4567", email="Anna@Example.fi")
    bo = await customer(services, controller, "C-2", phone="+46 70 123 45 67")
    by_number = await push(intake, source, request(external_id="1", customer={"number": " c-1 "}), wav)
    assert by_number.customer == {
        "status": "linked",
        "id": str(anna),
        "matched_by": "number",
        "candidates": 0,
        "confidence": 100,
    }
    inbound = request(external_id="2", direction="inbound", caller="0401234567", callee="+358 9 1234567")
    assert (await push(intake, source, inbound, wav)).customer["id"] == str(anna)
    outbound = request(
        external_id="3", direction="outbound", caller="+358 9 1234567", callee="tel:+46701234567"
    )
    assert (await push(intake, source, outbound, wav)).customer["id"] == str(bo)
    mail = request(external_id="4", customer={"email": "anna@example.FI"})
    assert (await push(intake, source, mail, wav)).customer["matched_by"] == "email"
    # A number that nobody has contradicts the telephone: a person decides.
    odd = request(external_id="5", customer={"number": "C-9", "phone": "+358401234567"})
    assert (await push(intake, source, odd, wav)).customer["status"] == "candidates"
    # No direction, no guess.
    unknown = request(external_id="6", caller="0401234567")
    assert (await push(intake, source, unknown, wav)).customer["status"] == "unlinked"
    async with services.database.snapshot() as session:
        row = await session.get_one(Customer, anna)
        contacts = (await session.scalars(sa.select(Contact).where(Contact.customer_id == anna))).all()
    assert len(contacts) == 3
    assert row.last_contact_at == contacts[0].at


async def test_an_ambiguous_number_is_left_to_a_person(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    people = {
        await customer(services, controller, number, phone="+358401234567") for number in ("C-1", "C-2")
    }
    asked = request(direction="inbound", caller="+358401234567")
    outcome = await push(intake, source, asked, wav)
    assert outcome.customer == {
        "status": "candidates",
        "id": None,
        "matched_by": "phone",
        "candidates": 2,
        "confidence": 45,
    }
    links = await rows(services, RecordingLink)
    assert {(link.customer_id, link.role) for link in links} == {(p, LinkRole.CANDIDATE) for p in people}
    (row,) = await rows(services, Recording)
    assert row.customer_id is None
    assert await rows(services, Contact) == []


async def test_a_later_customer_row_links_the_waiting_call_and_moves_its_keys(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    asked = request(direction="inbound", caller="+358401234567", extra={"note": "hei"})
    outcome = await push(intake, source, asked, wav)
    assert outcome.customer["status"] == "unlinked"
    assert outcome.recording_id is not None
    (before,) = await rows(services, Recording)
    stored = await keys(services)
    anna = await customer(services, controller, "C-1", phone="0401234567")
    (after,) = await rows(services, Recording)
    assert after.customer_id == anna
    assert after.subject_id != before.subject_id
    assert after.sealed != before.sealed
    assert await keys(services) == stored  # the audio was not touched
    assert await read(services, outcome.recording_id) == wav
    async with services.database.snapshot() as session:
        assert (await stored_document(session, services, after))["extra"] == {"note": "hei"}
        old = await session.get_one(Subject, before.subject_id)
        assert (old.kind, old.wrapped_key) == (SubjectKind.UNLINKED, None)
        assert old.destroyed_at == services.clock.now()
        index = (
            await session.scalars(sa.select(BlindIndex).where(BlindIndex.recording_id == after.id))
        ).all()
    assert {(row.subject_id, row.customer_id) for row in index} == {(after.subject_id, anna)}
    (contact,) = await rows(services, Contact)
    assert (contact.customer_id, contact.recording_id) == (anna, after.id)
    assert len(await rows(services, AuditEntry, AuditEntry.action == "recording.linked")) == 1


async def test_a_race_between_the_call_and_the_customer_row_ends_linked(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    async def one(n: int) -> None:
        asked = request(external_id=str(n), direction="inbound", caller=f"+3584012345{n:02}")
        await asyncio.gather(
            push(intake, source, asked, wav),
            customer(services, controller, f"C-{n}", phone=f"+3584012345{n:02}"),
        )

    await asyncio.gather(*(one(n) for n in range(6)))
    linked = await rows(services, Recording)
    assert len({row.customer_id for row in linked} - {None}) == 6


async def test_clocks_that_are_wrong_are_flagged_and_do_not_lengthen_retention(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    anna = await customer(services, controller, "C-1")
    now = services.clock.now()
    asked = request(
        started_at="2031-01-01T00:00:00Z",
        duration=60,
        customer={"number": "C-1"},
        sent_at=now - timedelta(hours=2),
    )
    outcome = await push(intake, source, asked, wav)
    assert outcome.state is RecordingState.STORED
    assert outcome.reasons == ("started-at-future", "ended-at-future", "clock-skew")
    async with services.database.snapshot() as session:
        assert (await session.get_one(Customer, anna)).last_contact_at == now


async def test_media_that_nobody_can_tell_and_nothing_at_all_go_to_quarantine(
    intake: Intake, services: Services, source: Source
) -> None:
    noise = hashlib.shake_256(b"noise").digest(5000)
    odd = await push(intake, source, request(external_id="1"), noise)
    assert (odd.state, odd.reasons) == (RecordingState.QUARANTINED, ("media-unknown",))
    assert odd.recording_id is not None
    assert await read(services, odd.recording_id) == noise
    nothing = await push(intake, source, request(external_id="2"), b"")
    assert (nothing.state, nothing.reasons) == (RecordingState.QUARANTINED, ("empty",))


async def test_media_that_differs_from_what_was_said_goes_to_quarantine(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    asked = request(media={"codec": "opus", "channels": 1, "sample_rate": 16000})
    outcome = await push(intake, source, asked, wav)
    assert outcome.state is RecordingState.QUARANTINED
    assert outcome.reasons == ("media-differs:codec", "sample-rate-differs", "media-differs:channels")


async def test_a_dry_run_checks_all_and_keeps_nothing(
    intake: Intake, services: Services, controller: Controller, source: Source, wav: bytes
) -> None:
    anna = await customer(services, controller, "C-1")

    async def rehearse(asked: IngestRequest, data: bytes) -> Outcome:
        return await intake.rehearse(asked, body(data), principal=principal_of(source), request_id="r")

    told = await rehearse(request(customer={"number": "C-1"}), wav)
    assert (told.kind, told.recording_id, told.receipt) == (OutcomeKind.CREATED, None, None)
    assert told.customer["id"] == str(anna)
    assert told.sha256 == hashlib.sha256(wav).digest()
    assert await keys(services) == []
    assert await rows(services, Recording) == []
    digest = DigestCheck.from_fields(
        [("Content-Digest", f"sha-256=:{base64.b64encode(bytes(32)).decode()}:")]
    )
    with pytest.raises(MalformedInput):
        await rehearse(request(digests=digest), wav)
    await push(intake, source, request(), wav)
    assert (await rehearse(request(), wav)).kind is OutcomeKind.REPEATED
    assert (await rehearse(request(), wav + b"xx")).kind is OutcomeKind.CONFLICT


class _Failing(MemoryStore):
    """A store that goes away once the body is read."""

    async def put(self, key: str, body: Any, *, size: int | None) -> Any:
        async for _ in body:
            pass
        raise StoreUnavailable("away")


async def test_a_store_that_is_away_keeps_nothing(services: Services, source: Source, wav: bytes) -> None:
    store = _Failing()
    broken = Services(
        settings=services.settings,
        clock=services.clock,
        database=services.database,
        keyring=services.keyring,
        store=store,
        vault=Vault(store, services.keyring),
    )
    with pytest.raises(StoreUnavailable):
        await push(Intake(broken), source, request(idempotency_key="k"), wav)
    assert await rows(services, Recording) == []
    assert await rows(services, IdempotencyKey) == []


async def test_a_database_lost_at_the_commit_leaves_an_orphan_and_no_row(
    intake: Intake, services: Services, source: Source, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The transaction fails as it commits; its outcome could as well be unknown.
    async def lost_postgres(_: Any) -> None:
        raise psycopg.OperationalError("gone")

    def lost_sqlite(connection: Any) -> None:
        connection.rollback()
        raise sqlite3.OperationalError("gone")

    if services.database.sqlite:
        monkeypatch.setattr(services.database.engine.dialect, "do_commit", lost_sqlite)
    else:
        monkeypatch.setattr(psycopg.AsyncConnection, "commit", lost_postgres)
    with pytest.raises(Unavailable):
        await push(intake, source, request(), wav)
    monkeypatch.undo()
    assert await rows(services, Recording) == []
    assert len(await keys(services)) == 1
    assert (await push(intake, source, request(), wav)).kind is OutcomeKind.CREATED


async def test_a_database_lost_before_the_commit_leaves_nothing(
    intake: Intake, services: Services, source: Source, wav: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        raise Unavailable("gone", dependency="database")

    monkeypatch.setattr("recorder.ingest.storing._decide", lost)
    with pytest.raises(Unavailable):
        await push(intake, source, request(), wav)
    assert await rows(services, Recording) == []
    assert await keys(services) == []


async def test_extra_of_any_json_is_kept_sealed(
    intake: Intake, services: Services, source: Source, wav: bytes
) -> None:
    extra = {"big": 2**70, "deep": {"a": [1.5, None, True, {"b": "ä"}]}}
    await push(intake, source, request(extra=extra, idempotency_key="k"), wav)
    (row,) = await rows(services, Recording)
    async with services.database.snapshot() as session:
        document = await stored_document(session, services, row)
    assert document["extra"] == json.loads(json.dumps(extra))
