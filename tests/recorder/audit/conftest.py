"""A log with some history in it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import pytest

from recorder.audit.events import AuditEvent, record
from recorder.audit.log import Sequencer
from recorder.catalogue.tables import Controller
from recorder.services import Services

Write = Callable[[int], Awaitable[list[uuid.UUID]]]


@pytest.fixture
def write(services: Services, controller: Controller) -> Write:
    """Factory: add some entries, without places."""

    async def add(count: int) -> list[uuid.UUID]:
        ids: list[uuid.UUID] = []
        async with services.database.transaction() as session:
            for n in range(count):
                event = AuditEvent(
                    action="recording.stored",
                    actor="system:test",
                    object_type="recording",
                    object_id=str(uuid.UUID(int=n)),
                    controller_id=controller.id,
                    details={"n": n},
                )
                ids.append(record(session, event, now=services.clock.now()))
        return ids

    return add


@pytest.fixture
async def grown(services: Services, write: Write) -> Services:
    """Eleven entries under three checkpoints (4, 9 and 11), the middle one copied to the store."""
    sequencer = Sequencer(services)
    for count in (4, 5):
        await write(count)
        assert await sequencer.run_once() is not None
    assert await sequencer.copy_checkpoints() is not None
    await write(2)
    assert await sequencer.run_once() is not None
    return services
