"""kill -9 on a real process between any two steps: SQLite on disk, a directory of objects, a file keyring."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.catalogue.base import Base
from recorder.catalogue.enums import ErasureGround, SubjectKind
from recorder.catalogue.subjects import add_subject
from recorder.catalogue.tables import Certificate, Controller, Erasure, Source, Subject, Tombstone
from recorder.disposition import erasures, schedules
from retention.erasure import ORDER
from storage.keyrings.file import FileKeyring
from tests.recorder.disposition.dying_process import open_services
from tests.recorder.disposition_world import World

CONTROLLER = uuid.UUID("7d1f0c52-3c1e-4a57-9a44-0f6f3c4b2a11")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    now = datetime.now(UTC)
    keyring = FileKeyring.create(tmp_path / "keyring.json", now)
    keyring.ensure_controller(str(CONTROLLER), now)
    keyring.close()
    return tmp_path


@pytest.fixture
def opened(data: Path) -> Any:
    return open_services(data)


@pytest.fixture
async def lasting(opened: Any) -> AsyncIterator[Any]:
    """The world, on disk."""
    async with opened.database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    now = opened.clock.now()
    controller = Controller(
        id=CONTROLLER,
        code="fi-main",
        name="Example FI",
        country="FI",
        time_zone="Europe/Helsinki",
        authority="Tietosuojavaltuutettu",
        subject_id=None,
        created_at=now,
    )
    async with opened.database.transaction() as session:
        session.add(controller)
        await session.flush()
        subject = add_subject(session, opened.keyring, CONTROLLER, SubjectKind.CONTROLLER, now=now)
        await session.flush()
        controller.subject_id = subject.id
        source = Source(
            id=uuid.uuid4(),
            controller_id=controller.id,
            name="pbx-1",
            kind="generic",
            settings={},
            enabled=True,
            created_at=opened.clock.now(),
        )
        session.add(source)
        await session.flush()
        await schedules.install_default(session, controller, actor="os:test", now=opened.clock.now())
    try:
        yield World(opened, controller, source)
    finally:
        await opened.database.close()


def on_disk(data: Path) -> Any:
    return b"".join(path.read_bytes() for path in sorted(data.glob("catalogue.sqlite3*")))


@pytest.mark.parametrize("step", [str(step) for step in ORDER])
async def test_after_kill_9_the_next_run_finishes_the_erasure(lasting: Any, data: Path, step: Any) -> None:
    world, services = lasting, lasting.services
    customer_id = await world.customer(last_contact=world.now)
    gone_id = await world.recording(customer_id)
    kept_id = await world.recording(customer_id, events=["payment"])
    secrets = [obj.wrapped_key for obj in await world.stored(gone_id)]
    row = await world.get(gone_id)
    async with services.database.snapshot() as session:
        subject = await session.get_one(Subject, row.subject_id)
    secrets += [subject.wrapped_key, row.sealed]
    async with services.database.transaction() as session:
        erasure = Erasure(
            id=uuid.uuid4(),
            controller_id=world.controller.id,
            customer_id=customer_id,
            scope="customer",
            ground=ErasureGround.REQUEST,
            requested_by="os:test",
            requested_at=world.now,
            detail={},
        )
        session.add(erasure)

    assert all(secret in on_disk(data) for secret in secrets)

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("dying_process.py")),
        str(data),
        str(erasure.id),
        step,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"here\n"
    finally:
        process.kill()
        await process.wait()

    result = await erasures.run(services, erasure.id)
    assert result.erased
    assert (await world.get(gone_id)).state == "erased"
    kept = await world.stored(kept_id)
    for obj in kept:
        async with services.vault.read(obj) as pieces:
            assert sum([len(piece) async for piece in pieces]) == obj.size
    assert {s.key async for s in services.store.list("o/")} == {obj.key for obj in kept}
    async with services.database.snapshot() as session:
        assert len(list(await session.scalars(sa.select(Certificate)))) == 1
        assert len(list(await session.scalars(sa.select(Tombstone)))) == 1
    # Neither the database's file nor its write-ahead log still hold what would open the audio.
    assert [secret for secret in secrets if secret in on_disk(data)] == []
