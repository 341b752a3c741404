"""A card security code found late is destroyed at once, hold or not; anything else is muted as an overlay."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Principal
from recorder.background import Background
from recorder.catalogue.enums import ErasureGround, ObjectRole, Role
from recorder.catalogue.tables import AuditEntry, Certificate, Erasure, StoredObjectRow, Subject, Tombstone
from recorder.disposition import erasures, holds, redaction
from recorder.disposition.evaluation import reevaluate
from recorder.disposition.redaction import Redaction, redact
from recorder.disposition.sweeping import sweep
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound, Unavailable
from recorder.playback.renditions import make_peaks, make_rendition
from recorder.services import Services
from storage.errors import StoreUnavailable
from tests.recorder.playback.conftest import World, decoded, make_audio
from tests.recorder.playback.test_renditions import G722, content, loudness

RATE, HEADER = 8000, 44


@pytest.fixture
async def privacy(world: World) -> Principal:
    return await world.person(Role.PRIVACY)


async def objects(services: Services, recording_id: uuid.UUID) -> list[StoredObjectRow]:
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == recording_id)
        return list(await session.scalars(query.order_by(StoredObjectRow.created_at)))


async def decided(world: World, recording_id: uuid.UUID) -> None:
    async with world.services.database.transaction() as session:
        await reevaluate(session, world.services, [recording_id], world.services.clock.now())


async def held(world: World, recording_id: uuid.UUID) -> None:
    services, now = world.services, world.services.clock.now()
    async with services.database.transaction() as session:
        matter = await holds.open_matter(
            session,
            services,
            controller_id=world.controller.id,
            reference="2026-014",
            ground="legal_claims",
            review_on=now + timedelta(days=180),
            actor="os:test",
            now=now,
        )
        hold = await holds.place_hold(
            session, services, matter, recording_id=recording_id, actor="os:test", now=now
        )
    await holds.align_store(services, hold)


async def code(
    world: World, principal: Principal, recording_id: uuid.UUID, *, start: int = 1000, end: int = 2000
) -> Redaction:
    return await redact(
        world.services, principal, recording_id, from_ms=start, to_ms=end, reason="card_security"
    )


async def test_a_code_found_late_is_gone_before_the_answer_hold_or_not(
    world: World, privacy: Principal
) -> None:
    services, audio = world.services, await make_audio(4)
    recording_id = await world.recording(audio)
    await make_peaks(services, recording_id)
    await held(world, recording_id)
    before = await objects(services, recording_id)
    assert await services.store.legal_hold(before[0].key, before[0].version_id)
    services.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # the tests' clock

    done = await code(world, privacy, recording_id)

    assert done.destroyed
    for row in before:
        assert [v async for v in services.store.versions(row.key)] == []
    rows = {row.id: row for row in await objects(services, recording_id)}
    assert [rows[row.id].wrapped_key for row in before] == [None, None]
    kept = await content(services, recording_id, ObjectRole.ORIGINAL)
    # Byte for byte the original, but for the span on both channels.
    start, end = HEADER + 1000 * RATE // 1000 * 4, HEADER + 2000 * RATE // 1000 * 4
    assert kept == audio[:start] + bytes(end - start) + audio[end:]
    recording = await _recording(services, recording_id)
    assert (recording.state, recording.held, recording.card_data_removed) == ("stored", True, True)
    assert recording.size == len(audio)
    assert recording.received_sha256 is not None
    assert recording.sha256 != recording.received_sha256
    assert "original_destroyed" in recording.reasons
    async with services.database.snapshot() as session:
        certificate = await session.get_one(Certificate, done.certificate_id)
        subject = await session.get_one(Subject, recording.subject_id)
        assert list(await session.scalars(sa.select(Tombstone))) == []
        actions = set(
            await session.scalars(
                sa.select(AuditEntry.action).where(AuditEntry.object_id == str(recording_id))
            )
        )
    assert subject.rekey_needed
    assert (certificate.document["ground"], certificate.document["scope"]) == ("card_security", "original")
    (listed,) = certificate.document["recordings"]
    assert {o["key"] for o in listed["objects"]} == {row.key for row in before}
    assert {"recording.redacted", "recording.muted_copy", "recording.original_destroyed"} <= actions
    # What was drawn before showed the code; it is drawn anew from what is left.
    assert await make_peaks(services, recording_id)
    assert ObjectRole.PEAKS in {row.role for row in await objects(services, recording_id) if row.wrapped_key}
    await Background(services).worker.drain()
    assert await redaction.destroy_original(services, recording_id) is None


async def _recording(services: Services, recording_id: uuid.UUID) -> Any:
    from recorder.catalogue.tables import Recording

    async with services.database.snapshot() as session:
        return await session.get_one(Recording, recording_id)


async def test_a_codec_without_a_fixed_rate_is_kept_as_pcm_and_a_second_code_goes_too(
    world: World, privacy: Principal
) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(4, channels=1, codec="g722"), G722)
    await make_rendition(services, recording_id)
    first = await code(world, privacy, recording_id)
    second = await code(world, privacy, recording_id, start=3000, end=3500)
    assert first.certificate_id != second.certificate_id
    living = [row for row in await objects(services, recording_id) if row.wrapped_key is not None]
    assert [row.role for row in living] == [ObjectRole.ORIGINAL]
    assert {s.key async for s in services.store.list("o/")} == {living[0].key}
    kept = await content(services, recording_id, ObjectRole.ORIGINAL)
    recording = await _recording(services, recording_id)
    assert recording.media["codec"] == "pcm_s16le"
    pcm = kept[HEADER:]
    assert loudness(pcm, 1, 1000, 2000, 16000) == loudness(pcm, 1, 3000, 3500, 16000) == 0
    assert loudness(pcm, 1, 2100, 2900, 16000) > 8000


async def test_any_other_reason_is_an_overlay_and_old_renditions_go_at_once(
    world: World, privacy: Principal
) -> None:
    services = world.services
    recording_id = await world.recording(
        await make_audio(4), muted=[{"from_ms": 0, "to_ms": 500, "reason": "payment"}]
    )
    await make_rendition(services, recording_id)
    await make_peaks(services, recording_id)
    old = [r for r in await objects(services, recording_id) if r.role is not ObjectRole.ORIGINAL]
    done = await redact(services, privacy, recording_id, from_ms=2000, to_ms=3000, reason="third_party")
    assert (done.destroyed, done.certificate_id) == (False, None)
    for row in old:
        assert [v async for v in services.store.versions(row.key)] == []
    rows = {row.id: row for row in await objects(services, recording_id)}
    assert [rows[row.id].wrapped_key for row in old] == [None, None]
    await Background(services).worker.drain()
    assert await make_rendition(services, recording_id) == ()  # the background made it anew
    living = {r.role for r in await objects(services, recording_id) if r.wrapped_key is not None}
    assert living == {ObjectRole.ORIGINAL, ObjectRole.REDACTED, ObjectRole.PEAKS}
    original = await content(services, recording_id, ObjectRole.ORIGINAL)
    assert loudness(original[HEADER:], 2, 2000, 3000) > 8000
    # A code in the same call leaves the other stretch to those who may hear the original.
    await code(world, privacy, recording_id)
    pcm = (await content(services, recording_id, ObjectRole.ORIGINAL))[HEADER:]
    assert loudness(pcm, 2, 1000, 2000) == 0
    assert loudness(pcm, 2, 2000, 3000) > 8000


async def test_what_died_in_the_middle_is_finished_by_the_background(
    world: World, privacy: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(4))
    await decided(world, recording_id)
    (original,) = await objects(services, recording_id)

    async def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "put", away)
        with pytest.raises(StoreUnavailable):
            await code(world, privacy, recording_id)
    recording = await _recording(services, recording_id)
    assert recording.decision["destroy_original"]  # nobody hears the original from here on
    with monkeypatch.context() as patch:
        patch.setattr(services.store, "delete_all", away)
        with pytest.raises(Unavailable):
            await redaction.destroy_original(services, recording_id)
    assert [v async for v in services.store.versions(original.key)] != []
    services.clock.advance(timedelta(minutes=3))  # type: ignore[attr-defined]  # the tests' clock
    await Background(services).worker.drain()
    assert [v async for v in services.store.versions(original.key)] == []
    assert (await _recording(services, recording_id)).card_data_removed
    async with services.database.snapshot() as session:
        (erasure,) = await session.scalars(sa.select(Erasure))
    assert (erasure.ground, erasure.finished_at) == (ErasureGround.CARD_SECURITY, services.clock.now())
    assert (await sweep(services, world.controller.id, services.clock.now())).due == []


async def test_what_cannot_be_muted_is_said_and_never_played(world: World, privacy: Principal) -> None:
    services = world.services
    media = {"container": "unknown", "codec": "unknown"}
    recording_id = await world.recording(b"\x00\x01not audio at all" * 500, media)
    await decided(world, recording_id)
    with pytest.raises(Conflict) as refused:
        await code(world, privacy, recording_id)
    assert refused.value.kind == "cannot-be-muted"
    assert (await _recording(services, recording_id)).decision["destroy_original"]
    await erasures.erase_recording(
        services, recording_id, requested_by=privacy.actor, now=services.clock.now()
    )
    with pytest.raises(Erased):
        await code(world, privacy, recording_id)


async def test_who_may_redact_and_where(world: World, privacy: Principal, quality: Principal) -> None:
    recording_id = await world.recording(await make_audio(4))
    with pytest.raises(Forbidden):
        await code(world, quality, recording_id)
    with pytest.raises(NotFound):
        await code(world, privacy, uuid.uuid4())
    for start, end in ((2000, 2000), (3000, 2000), (-1, 5), (4000, 5000)):
        with pytest.raises(InvalidInput):
            await code(world, privacy, recording_id, start=start, end=end)
    assert (await _recording(world.services, recording_id)).muted == []


@pytest.mark.parametrize("by", ["redaction", "sweep"])
async def test_an_overlay_on_what_outlived_its_original(world: World, privacy: Principal, by: str) -> None:
    services = world.services
    span = {"from_ms": 1000, "to_ms": 2000, "reason": "card_security"}
    recording_id = await world.recording(await make_audio(4), muted=[span] if by == "sweep" else None)
    if by == "sweep":
        await make_rendition(services, recording_id)
        await decided(world, recording_id)
        report = await sweep(services, world.controller.id, services.clock.now())
        assert report.erased
    else:
        await code(world, privacy, recording_id)
    services.clock.advance(timedelta(minutes=1))  # type: ignore[attr-defined]  # the tests' clock
    done = await redact(services, privacy, recording_id, from_ms=2500, to_ms=3500, reason="third_party")
    assert not done.destroyed
    await make_rendition(services, recording_id)
    muted = await decoded(await content(services, recording_id, ObjectRole.REDACTED))
    heard = [(200, 800, True), (1200, 1800, False), (2100, 2400, True), (2700, 3300, False)]
    for start, end, audible in heard:
        assert (loudness(muted, 2, start, end) > 4000) is audible
    # For legal ears the stretch is still there, the code is not.
    kept = await decoded(await content(services, recording_id, ObjectRole.ORIGINAL))
    assert loudness(kept, 2, 2700, 3300) > 4000
    assert loudness(kept, 2, 1200, 1800) < 400
    living = {row.role for row in await objects(services, recording_id) if row.wrapped_key is not None}
    assert living == {ObjectRole.ORIGINAL, ObjectRole.REDACTED}
