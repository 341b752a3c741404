"""Listening: who hears what, what the log says of it, and that nothing wrong is ever handed out."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Principal
from recorder.catalogue.database import Database
from recorder.catalogue.enums import ChoiceKind, JobState, ObjectRole, RecordingState, Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Hold, Job, Listen, Matter, Recording, StoredObjectRow
from recorder.clock import ManualClock
from recorder.errors import Conflict, Corrupt, Erased, Forbidden, NotFound, Unavailable
from recorder.playback.decide import Rendition
from recorder.playback.renditions import make_peaks, make_rendition
from recorder.playback.serve import Audio, close_idle_listens, open_listen, open_peaks, stream
from recorder.services import Services
from retention.model import Purpose
from tests.recorder.conftest import make_controller
from tests.recorder.playback.conftest import World, chunks, make_audio

GSM = {"container": "raw", "codec": "gsm", "sample_rate": 8000, "channels": 1}
MUTED = [{"from_ms": 100, "to_ms": 200, "reason": "payment"}]


async def entries(services: Services, action: str) -> list[dict[str, Any]]:
    import json

    async with services.database.snapshot() as session:
        query = sa.select(AuditEntry.payload).where(AuditEntry.action == action).order_by(AuditEntry.at)
        return [json.loads(payload) for payload in await session.scalars(query)]


async def hear(services: Services, audio: Audio, start: int = 0, end: int | None = None) -> bytes:
    async with stream(services, audio, start, end) as pieces:
        return b"".join([piece async for piece in pieces])


async def hear_into(services: Services, audio: Audio, got: bytearray) -> None:
    async with stream(services, audio) as pieces:
        async for piece in pieces:
            got += piece


async def listen_row(services: Services, audio: Audio) -> Listen:
    await services.counts.flush(services.database)
    async with services.database.snapshot() as session:
        return await session.get_one(Listen, audio.listen_id)


async def test_one_entry_for_many_ranges(world: World, quality: Principal, clock: ManualClock) -> None:
    services = world.services
    source = await make_audio(4)
    recording_id = await world.recording(source)
    first = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert len(await entries(services, "listen.opened")) == 1  # before any byte
    assert await hear(services, first) == source
    clock.advance(timedelta(seconds=services.settings.listen_idle_seconds - 1))
    second = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert second.listen_id == first.listen_id
    assert await hear(services, second, 100, 70_000) == source[100:70_000]
    (opened,) = await entries(services, "listen.opened")
    assert (opened["actor"], opened["purpose"]) == (quality.actor, "quality")
    assert opened["object"] == {"type": "recording", "id": str(recording_id)}
    row = await listen_row(services, first)
    assert row.bytes_sent == len(source) + 69_900
    assert row.seconds == pytest.approx(4 * row.bytes_sent / len(source))

    assert await close_idle_listens(services, clock.now()) == 0
    clock.advance(timedelta(seconds=services.settings.listen_idle_seconds + 1))
    assert await close_idle_listens(services, clock.now()) == 1
    assert await close_idle_listens(services, clock.now()) == 0
    (closed,) = await entries(services, "listen.closed")
    assert closed["details"]["seconds"] == round(row.seconds)
    again = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert again.listen_id != first.listen_id
    assert len(await entries(services, "listen.opened")) == 2


async def test_another_person_or_purpose_is_another_listen(
    world: World, quality: Principal, legal: Principal
) -> None:
    recording_id = await world.recording(await make_audio(1))
    services = world.services
    ids = {
        (await open_listen(services, quality, recording_id, Purpose.QUALITY)).listen_id,
        (await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION)).listen_id,
        (await open_listen(services, legal, recording_id, Purpose.SERVICE_EVIDENCE)).listen_id,
    }
    assert len(ids) == 3


async def test_a_head_opens_no_listen(world: World, quality: Principal) -> None:
    recording_id = await world.recording(await make_audio(1))
    audio = await open_listen(world.services, quality, recording_id, Purpose.QUALITY, counted=False)
    assert audio.listen_id is None
    assert await entries(world.services, "listen.opened") == []


@pytest.mark.parametrize(
    ("role", "purpose", "code"),
    [
        (Role.QUALITY, Purpose.TRAINING, "purpose"),
        (Role.TRAINER, Purpose.QUALITY, "purpose"),
        (Role.AUDITOR, Purpose.QUALITY, "role"),
        (Role.OPERATOR, Purpose.SECURITY, "role"),
        (Role.AGENT, Purpose.QUALITY, "scope"),
    ],
)
async def test_a_refusal_is_on_record(world: World, role: Role, purpose: Purpose, code: str) -> None:
    recording_id = await world.recording(await make_audio(1))
    person = await world.person(role)
    with pytest.raises(Forbidden) as caught:
        await open_listen(world.services, person, recording_id, purpose)
    assert caught.value.reason == code
    (refused,) = await entries(world.services, "listen.refused")
    assert refused["details"] == {"reason": code}
    assert (refused["outcome"], refused["purpose"]) == ("refused", purpose.value)


async def test_scope(world: World) -> None:
    recording_id = await world.recording(await make_audio(1), agents=("a-17",), queue="support")
    services = world.services
    inside = await world.person(Role.QUALITY, ScopeKind.TEAM, "a-16", "a-17")
    await open_listen(services, inside, recording_id, Purpose.QUALITY)
    own = await world.person(Role.AGENT, ScopeKind.OWN, agent_code="a-17")
    await open_listen(services, own, recording_id, Purpose.QUALITY)
    outside = await world.person(Role.QUALITY, ScopeKind.QUEUE, "sales")
    with pytest.raises(Forbidden, match="queue"):
        await open_listen(services, outside, recording_id, Purpose.QUALITY)


async def test_another_controllers_call(world: World) -> None:
    other = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    recording_id = await world.recording(await make_audio(1), state=RecordingState.ERASED)
    stranger = await World(world.services, other, world.source).person(Role.LEGAL)
    with pytest.raises(Forbidden) as caught:  # and not that it was erased
        await open_listen(world.services, stranger, recording_id, Purpose.LEGAL_PROTECTION)
    assert caught.value.reason == "other-controller"


async def test_an_objection_closes_training_and_quality_at_once(
    world: World, quality: Principal, legal: Principal, clock: ManualClock
) -> None:
    services = world.services
    customer = await world.customer()
    recording_id = await world.recording(await make_audio(1), customer=customer)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert await hear(services, audio, 0, 10)
    await world.choose(customer, ChoiceKind.OBJECTION)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Forbidden) as caught:  # a later range of the same listen, too
        await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert caught.value.message == "Quality may not use this call: the customer objected on 5 Mar 2026."
    assert caught.value.reason == "window-closed"
    await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION)


async def test_a_window_that_ran_out(world: World, quality: Principal) -> None:
    recording_id = await world.recording(await make_audio(1), days_ago=365 * 5)
    with pytest.raises(
        Forbidden, match=r"Quality may not use this call: its time for this ended on \d+ \w+ 20"
    ):
        await open_listen(world.services, quality, recording_id, Purpose.QUALITY)


async def test_a_restriction_leaves_legal_only_under_a_hold(
    world: World, quality: Principal, legal: Principal, clock: ManualClock
) -> None:
    services = world.services
    customer = await world.customer()
    recording_id = await world.recording(await make_audio(1), customer=customer)
    await world.choose(customer, ChoiceKind.RESTRICTION)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Forbidden, match="restricted"):
        await open_listen(services, quality, recording_id, Purpose.QUALITY)
    now = clock.now()
    async with services.database.transaction() as session:
        matter = Matter(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            reference="2026-014",
            ground="legal_claims",
            sealed=None,
            review_on=now,
            opened_at=now,
            closed_at=None,
        )
        session.add(matter)
        await session.flush()
        session.add(
            Hold(
                id=uuid.uuid4(),
                matter_id=matter.id,
                recording_id=recording_id,
                customer_id=None,
                placed_at=now,
                placed_by="system:test",
            )
        )
    await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION)


@pytest.mark.parametrize("state", [RecordingState.ERASING, RecordingState.ERASED])
async def test_what_is_erased_is_gone(world: World, quality: Principal, state: RecordingState) -> None:
    recording_id = await world.recording(await make_audio(1), state=state)
    with pytest.raises(Erased):
        await open_listen(world.services, quality, recording_id, Purpose.QUALITY)
    with pytest.raises(Erased):
        await open_peaks(world.services, quality, recording_id)
    assert [e["details"]["reason"] for e in await entries(world.services, "listen.refused")] == ["erased"] * 2


async def test_quarantine_is_heard_by_nobody(world: World, legal: Principal) -> None:
    recording_id = await world.recording(await make_audio(1), state=RecordingState.QUARANTINED)
    with pytest.raises(Forbidden) as caught:
        await open_listen(world.services, legal, recording_id, Purpose.LEGAL_PROTECTION)
    assert caught.value.reason == "quarantined"


async def test_nothing_there(world: World, quality: Principal) -> None:
    with pytest.raises(NotFound):
        await open_listen(world.services, quality, uuid.uuid4(), Purpose.QUALITY)


async def test_muted_spans_are_for_legal_purposes_only(
    world: World, quality: Principal, legal: Principal
) -> None:
    services = world.services
    source = await make_audio(1)
    recording_id = await world.recording(source, muted=MUTED)
    await make_rendition(services, recording_id)
    silenced = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert silenced.obj.role == "redacted"
    with pytest.raises(Forbidden) as caught:
        await open_listen(services, quality, recording_id, Purpose.QUALITY, Rendition.ORIGINAL)
    assert caught.value.reason == "muted"
    for rendition, role in (
        (Rendition.PLAYBACK, "original"),
        (Rendition.ORIGINAL, "original"),
        (Rendition.REDACTED, "redacted"),
    ):
        audio = await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION, rendition)
        assert audio.obj.role == role
    privacy = await world.person(Role.PRIVACY)
    assert (await open_listen(services, privacy, recording_id, Purpose.SECURITY)).obj.role == "redacted"
    audio = await open_listen(services, privacy, recording_id, Purpose.SERVICE_EVIDENCE)
    assert audio.obj.role == "original"


async def test_a_card_code_that_is_still_there_is_for_nobody(world: World, legal: Principal) -> None:
    services = world.services
    recording_id = await world.recording(
        await make_audio(1), muted=[{"from_ms": 0, "to_ms": 500, "reason": "card_security"}]
    )
    await make_rendition(services, recording_id)
    audio = await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION)
    assert audio.obj.role == "redacted"
    with pytest.raises(Forbidden) as caught:
        await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION, Rendition.ORIGINAL)
    assert caught.value.reason == "card-security"


async def test_a_destroyed_card_span_needs_no_overlay(world: World, quality: Principal) -> None:
    recording_id = await world.recording(
        await make_audio(1), muted=[{"from_ms": 0, "to_ms": 500, "reason": "card_security"}]
    )
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(card_data_removed=True))
    audio = await open_listen(world.services, quality, recording_id, Purpose.QUALITY)
    assert audio.obj.role == "original"


async def test_a_missing_rendition_is_ordered_once_and_then_served(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(1), muted=MUTED)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await open_listen(services, quality, recording_id, Purpose.QUALITY)
        assert (caught.value.dependency, caught.value.retry_after) == ("media", 2)
    async with services.database.snapshot() as session:
        jobs = (await session.scalars(sa.select(Job))).all()
    assert [(job.kind, job.target_id) for job in jobs] == [("rendition", recording_id)]
    await make_rendition(services, recording_id)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert audio.content_type == "audio/ogg; codecs=opus"
    assert (await hear(services, audio))[:4] == b"OggS"


async def test_what_cannot_be_converted_says_so(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(b"\xd0" * 330, GSM)
    with pytest.raises(Unavailable):
        await open_listen(services, quality, recording_id, Purpose.QUALITY)
    async with services.database.transaction() as session:
        await session.execute(sa.update(Job).values(state=JobState.FAILED))
        await session.execute(sa.update(Job).values(kind="peaks"))
    with pytest.raises(Conflict, match="cannot be drawn"):
        await open_peaks(services, quality, recording_id)
    async with services.database.transaction() as session:
        await session.execute(sa.update(Job).values(kind="rendition"))
    with pytest.raises(Conflict, match="ask for rendition=original") as caught:
        await open_listen(services, quality, recording_id, Purpose.QUALITY)
    assert caught.value.kind == "not-playable"
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY, Rendition.ORIGINAL)
    assert (audio.content_type, await hear(services, audio)) == ("audio/GSM", b"\xd0" * 330)


async def test_peaks(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(1))
    with pytest.raises(Unavailable):
        await open_peaks(services, quality, recording_id)
    await make_peaks(services, recording_id)
    audio = await open_peaks(services, quality, recording_id)
    assert (audio.content_type, audio.listen_id) == ("application/json", None)
    assert (await hear(services, audio))[:12] == b'{"version":1'
    assert await entries(services, "listen.opened") == []
    with pytest.raises(Forbidden):
        await open_peaks(services, await world.person(Role.AUDITOR), recording_id)


async def corrupt(services: Services, offset: int) -> None:
    """Flip a bit of the only object in the store."""
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(StoredObjectRow))).one()
    async with services.store.get(row.key) as body:
        sealed = bytearray(b"".join([piece async for piece in body]))
    sealed[offset] ^= 1
    await services.store.delete_all(row.key)
    stat = await services.store.put(row.key, chunks(bytes(sealed)), size=len(sealed))
    async with services.database.transaction() as session:
        await session.execute(sa.update(StoredObjectRow).values(version_id=stat.version_id))


async def test_an_altered_first_segment_is_refused_before_any_byte(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(4))
    await corrupt(services, 1000)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    with pytest.raises(Corrupt):
        async with stream(services, audio):
            pytest.fail("nothing may be handed out")
    (alarm,) = await entries(services, "object.corrupt")
    assert alarm["object"]["id"] == str(audio.obj.object_id)
    assert services.metrics.registry.get_sample_value("recorder_corrupt_objects_total") == 1


async def test_an_altered_later_segment_ends_the_stream_with_an_error(
    world: World, quality: Principal
) -> None:
    services = world.services
    source = await make_audio(4)
    recording_id = await world.recording(source)
    await corrupt(services, -1)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    got = bytearray()
    with pytest.raises(Corrupt):
        await hear_into(services, audio, got)
    assert 0 < len(got) < len(source)
    assert source.startswith(bytes(got))
    assert (await listen_row(services, audio)).bytes_sent == len(got)


async def test_a_missing_object_is_an_alarm(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(1))
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    await services.store.delete_all(audio.obj.key)
    with pytest.raises(Corrupt):
        await hear(services, audio)


async def test_a_destroyed_key_is_an_erasure(world: World, quality: Principal) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(1))
    async with services.database.transaction() as session:
        from recorder.catalogue.tables import Subject

        row = await session.get_one(Recording, recording_id)
        await session.execute(sa.update(Subject).where(Subject.id == row.subject_id).values(wrapped_key=None))
    with pytest.raises(Erased):
        await open_listen(services, quality, recording_id, Purpose.QUALITY)


async def test_a_long_stream_is_written_down_as_it_goes_and_stops_at_an_erasure(
    world: World, quality: Principal, clock: ManualClock
) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(90), duration_ms=90_000)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    step = timedelta(seconds=services.settings.listen_idle_seconds / 2)
    async with stream(services, audio) as pieces:
        first = await anext(pieces)
        clock.advance(step)
        second = await anext(pieces)
        row = await listen_row(services, audio)
        assert row.bytes_sent == len(first) + len(second)
        assert row.last_active_at == clock.now()
        async with services.database.transaction() as session:
            await session.execute(sa.update(Recording).values(state=RecordingState.ERASING))
        clock.advance(step)
        with pytest.raises(Erased):
            await anext(pieces)


async def test_counts_wait_for_a_database_that_is_away(
    world: World, quality: Principal, clock: ManualClock
) -> None:
    services = world.services
    source = await make_audio(1)
    audio = await open_listen(services, quality, await world.recording(source), Purpose.QUALITY)
    await hear(services, audio)
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    await services.counts.flush(away)
    assert services.counts.active_at(audio.listen_id or uuid.uuid4()) == clock.now()
    await hear(services, audio, 0, 10)
    assert (await listen_row(services, audio)).bytes_sent == len(source) + 10
    await services.counts.close(services.database)
    assert (await listen_row(services, audio)).bytes_sent == len(source) + 10
    await away.close()


async def test_no_entry_no_audio(world: World, quality: Principal) -> None:
    """With the log away, nothing is opened, and a refusal is not given either."""
    services = world.services
    recording_id = await world.recording(await make_audio(1))
    async with services.database.transaction() as session:
        if services.database.sqlite:
            await session.execute(sa.text("DROP TABLE audit_entries"))
        else:
            await session.execute(sa.text("DROP TABLE audit_entries CASCADE"))
    with pytest.raises(Exception, match=r"audit_entries|away"):
        await open_listen(services, quality, recording_id, Purpose.QUALITY)
    async with services.database.snapshot() as session:
        assert (await session.scalars(sa.select(Listen))).all() == []


async def test_two_first_ranges_at_once_are_one_listen(world: World, quality: Principal) -> None:
    import asyncio

    recording_id = await world.recording(await make_audio(1))
    both = await asyncio.gather(
        *(open_listen(world.services, quality, recording_id, Purpose.QUALITY) for _ in range(4))
    )
    assert len({audio.listen_id for audio in both}) == 1
    assert len(await entries(world.services, "listen.opened")) == 1


async def test_an_unmuted_rendition_exists_only_where_needed(world: World, legal: Principal) -> None:
    services = world.services
    mulaw = {"container": "raw", "codec": "pcm_mulaw", "sample_rate": 8000, "channels": 2}
    recording_id = await world.recording(await make_audio(1, codec="mulaw"), mulaw, muted=MUTED)
    assert set(await make_rendition(services, recording_id)) == {ObjectRole.RENDITION, ObjectRole.REDACTED}
    audio = await open_listen(services, legal, recording_id, Purpose.LEGAL_PROTECTION)
    assert audio.obj.role == "rendition"


async def test_the_silenced_rendition_takes_the_place_of_a_destroyed_original(
    world: World, quality: Principal, legal: Principal
) -> None:
    services = world.services
    recording_id = await world.recording(
        await make_audio(1), muted=[{"from_ms": 0, "to_ms": 500, "reason": "card_security"}]
    )
    await make_rendition(services, recording_id)
    async with services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(card_data_removed=True))
        await session.execute(
            sa.update(StoredObjectRow)
            .where(StoredObjectRow.role == ObjectRole.ORIGINAL)
            .values(wrapped_key=None, deleted_at=services.clock.now())
        )
    for person, purpose, rendition in (
        (quality, Purpose.QUALITY, Rendition.PLAYBACK),
        (legal, Purpose.LEGAL_PROTECTION, Rendition.ORIGINAL),
    ):
        audio = await open_listen(services, person, recording_id, purpose, rendition)
        assert audio.obj.role == "redacted"
    assert await make_rendition(services, recording_id) == ()
    assert await make_peaks(services, recording_id) is True
