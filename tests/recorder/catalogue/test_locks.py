"""Who locks a customer or a recording holds up nobody who only points at it."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest

from recorder.catalogue.enums import ErasureGround
from recorder.catalogue.tables import Controller, Erasure
from recorder.clock import ManualClock
from recorder.customers.records import living
from recorder.disposition import erasure_rows
from recorder.errors import Conflict
from recorder.ingest.pipeline import Intake
from recorder.ingest.probe import check_media
from recorder.services import Services
from tests.recorder.conftest import START
from tests.recorder.ingest.conftest import encode, make_source, request, tone
from tests.recorder.ingest.test_pipeline import customer, push

PATIENCE = 20
"""Seconds after which something waits for what it must not wait for; without that it takes a moment."""


@pytest.fixture
def on_postgres(services: Services) -> Services:
    if services.database.sqlite:
        pytest.skip("on SQLite one writes at a time")
    return services


async def test_a_locked_customer_holds_up_no_media_check_of_a_call(
    on_postgres: Services, controller: Controller, clock: ManualClock
) -> None:
    """A push locks the customer, then other recordings; a check has its recording, and points at both."""
    services = on_postgres
    source = await make_source(services, controller, "pbx")
    number = await customer(services, controller, "K-1")
    asked = request(customer={"number": "K-1"})
    audio = encode(tone(1.0), codec="libmp3lame", container="mp3", sample_format="s16p")
    stored = await push(Intake(services), source, asked, audio)
    assert stored.recording_id is not None
    clock.set(START + timedelta(minutes=1))
    async with services.database.transaction() as session:
        await living(session, controller.id, number)
        finding = await asyncio.wait_for(check_media(services, stored.recording_id), PATIENCE)
    assert finding is not None
    assert finding.decodes


async def test_a_recording_locked_for_its_erasure_holds_up_no_copy_kept_aside(
    on_postgres: Services, controller: Controller
) -> None:
    services = on_postgres
    source = await make_source(services, controller, "pbx")
    first = await push(Intake(services), source, request(), encode(tone(1.0)))
    erasure = Erasure(
        id=uuid.uuid4(),
        controller_id=controller.id,
        recording_id=first.recording_id,
        customer_id=None,
        scope="recording",
        ground=ErasureGround.REQUEST,
        requested_by="account:someone",
        requested_at=START,
        detail={},
    )
    async with services.database.transaction() as session:
        assert [row.id for row in await erasure_rows.lock_targets(session, erasure)] == [first.recording_id]
        with pytest.raises(Conflict):
            await asyncio.wait_for(push(Intake(services), source, request(), encode(tone(2.0))), PATIENCE)
