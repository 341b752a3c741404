"""Customers, recordings with real sealed audio, holds: the material of disposition."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from recorder.catalogue import enums
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH, CUSTOMER_RECORD, RECORDING_METADATA
from recorder.catalogue.subjects import add_subject, blind_index, seal_json, subject_ref
from recorder.catalogue.tables import (
    BlindIndex,
    Call,
    Contact,
    Controller,
    Customer,
    CustomerBatch,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    Source,
    StoredObjectRow,
    Subject,
)
from recorder.clock import ManualClock
from recorder.disposition import schedules
from recorder.disposition.evaluation import reevaluate
from recorder.services import Services
from storage.keys import wrap_data_key
from storage.memory import MemoryStore
from storage.vault import StoredObject

AUDIO = b"RIFF....spoken words of a person...." * 5000


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 50_000):
        yield data[start : start + 50_000]


@dataclass
class World:
    """One controller with a source and the default schedule."""

    services: Services
    controller: Controller
    source: Source
    number: int = 0
    made: list[uuid.UUID] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.services.clock.now()

    async def customer(self, *, last_contact: datetime | None = None) -> uuid.UUID:
        services = self.services
        self.number += 1
        async with services.database.transaction() as session:
            subject = add_subject(
                session, services.keyring, self.controller.id, enums.SubjectKind.CUSTOMER, now=self.now
            )
            await session.flush()
            customer_id = uuid.uuid4()
            session.add(
                Customer(
                    id=customer_id,
                    controller_id=self.controller.id,
                    subject_id=subject.id,
                    sealed=seal_json(
                        services.keyring, subject, CUSTOMER_RECORD, customer_id, {"name": "Aino V"}
                    ),
                    last_contact_at=last_contact,
                    created_at=self.now,
                    updated_at=self.now,
                )
            )
            await session.flush()
            batch_id, contact_id = uuid.uuid4(), uuid.uuid4()
            session.add(
                CustomerBatch(
                    id=batch_id,
                    customer_id=customer_id,
                    source=enums.DataSource.REGISTRATION,
                    sealed=seal_json(services.keyring, subject, CUSTOMER_BATCH, batch_id, {"name": "Aino V"}),
                    stored_at=self.now,
                )
            )
            session.add(
                Contact(
                    id=contact_id,
                    customer_id=customer_id,
                    kind=enums.ContactKind.REGISTRATION,
                    at=last_contact or self.now,
                    sealed=None,
                    recorded_at=self.now,
                )
            )
            session.add(
                BlindIndex(
                    id=uuid.uuid4(),
                    controller_id=self.controller.id,
                    kind="number",
                    digest=blind_index(services.keyring, self.controller.id, "number", f"C{self.number}"),
                    subject_id=subject.id,
                    customer_id=customer_id,
                )
            )
        return customer_id

    async def recording(
        self,
        customer_id: uuid.UUID | None = None,
        *,
        started_at: datetime | None = None,
        events: Sequence[str] = (),
        roles: Sequence[enums.ObjectRole] = (enums.ObjectRole.ORIGINAL, enums.ObjectRole.PEAKS),
        muted: Sequence[dict[str, Any]] = (),
        audio: bytes = AUDIO,
    ) -> uuid.UUID:
        services = self.services
        self.number += 1
        recording_id, started = uuid.uuid4(), started_at or self.now
        written = [(role, await services.vault.write(chunks(audio), role=role)) for role in roles]
        async with services.database.transaction() as session:
            if customer_id is None:
                subject = add_subject(
                    session, services.keyring, self.controller.id, enums.SubjectKind.UNLINKED, now=self.now
                )
                await session.flush()
            else:
                customer = await session.get_one(Customer, customer_id)
                subject = await session.get_one(Subject, customer.subject_id)
            call = Call(
                id=uuid.uuid4(),
                controller_id=self.controller.id,
                source_id=self.source.id,
                identity=uuid.uuid4().bytes,
                started_at=started,
                created_at=self.now,
            )
            session.add(call)
            await session.flush()
            session.add(
                Recording(
                    id=recording_id,
                    controller_id=self.controller.id,
                    source_id=self.source.id,
                    call_id=call.id,
                    identity=uuid.uuid4().bytes,
                    subject_id=subject.id,
                    customer_id=customer_id,
                    state=enums.RecordingState.STORED,
                    reasons=[],
                    started_at=started,
                    received_at=self.now,
                    duration_ms=60_000,
                    direction=enums.Direction.INBOUND,
                    queue="sales",
                    agents=["a7"],
                    tags=["vip"],
                    service_events=list(events),
                    lawful_basis=enums.LawfulBasis.CUSTOMER_RELATIONSHIP,
                    muted=list(muted),
                    channels=[],
                    media={"codec": "pcm_s16le"},
                    sha256=written[0][1].sha256,
                    size=len(audio),
                    sealed=seal_json(
                        services.keyring,
                        subject,
                        RECORDING_METADATA,
                        recording_id,
                        {"caller": "+358401234567"},
                    ),
                )
            )
            await session.flush()
            for role, made in written:
                session.add(
                    StoredObjectRow(
                        id=made.object_id,
                        recording_id=recording_id,
                        role=role,
                        key=made.key,
                        version_id=made.version_id,
                        subject_id=subject.id,
                        wrapped_key=wrap_data_key(
                            services.keyring,
                            subject_ref(subject),
                            made.data_key,
                            object_id=made.object_id,
                            size=made.size,
                            sha256=made.sha256,
                        ),
                        size=made.size,
                        sealed_size=made.sealed_size,
                        sha256=made.sha256,
                        content_type="audio/wav",
                        header=made.header,
                        created_at=self.now,
                    )
                )
            session.add(
                RecordingAgent(recording_id=recording_id, agent="a7", controller_id=self.controller.id)
            )
            session.add(RecordingTag(recording_id=recording_id, tag="vip"))
            if customer_id is not None:
                session.add(
                    RecordingLink(
                        recording_id=recording_id,
                        customer_id=customer_id,
                        role=enums.LinkRole.PRINCIPAL,
                        matched_by="number",
                        created_at=self.now,
                    )
                )
            session.add(
                BlindIndex(
                    id=uuid.uuid4(),
                    controller_id=self.controller.id,
                    kind="phone",
                    digest=blind_index(services.keyring, self.controller.id, "phone", "+358401234567"),
                    subject_id=subject.id,
                    customer_id=None,
                    recording_id=recording_id,
                )
            )
            await session.flush()
            await reevaluate(session, services, [recording_id], self.now)
        self.made.append(recording_id)
        return recording_id

    async def get(self, recording_id: uuid.UUID) -> Recording:
        async with self.services.database.snapshot() as session:
            return await session.get_one(Recording, recording_id)

    async def stored(self, recording_id: uuid.UUID) -> list[StoredObject]:
        """The recording's objects, as playback opens them."""
        async with self.services.database.snapshot() as session:
            import sqlalchemy as sa

            query = sa.select(StoredObjectRow).where(StoredObjectRow.recording_id == recording_id)
            found = []
            for row in await session.scalars(query):
                subject = await session.get_one(Subject, row.subject_id)
                assert row.wrapped_key is not None
                found.append(
                    StoredObject(
                        object_id=row.id,
                        role=row.role,
                        key=row.key,
                        version_id=row.version_id,
                        size=row.size,
                        sha256=row.sha256,
                        wrapped_key=row.wrapped_key,
                        subject=subject_ref(subject),
                    )
                )
            return found


@pytest.fixture
async def world(services: Services, controller: Controller) -> World:
    async with services.database.transaction() as session:
        source = Source(
            id=uuid.uuid4(),
            controller_id=controller.id,
            name="pbx-1",
            kind="generic",
            default_lawful_basis=enums.LawfulBasis.CUSTOMER_RELATIONSHIP,
            settings={},
            enabled=True,
            created_at=services.clock.now(),
        )
        session.add(source)
        await session.flush()
        await schedules.install_default(session, controller, actor="os:test", now=services.clock.now())
    return World(services, controller, source)


def clock_of(services: Services) -> ManualClock:
    """The clock that a test moves."""
    assert isinstance(services.clock, ManualClock)
    return services.clock


def bytes_of(value: bytes | None) -> bytes:
    """Sealed bytes that must be there."""
    assert value is not None
    return value


def decision_of(recording: Recording) -> dict[str, Any]:
    """The stored decision, which must be there."""
    assert recording.decision is not None
    return recording.decision


def memory_of(services: Services) -> MemoryStore:
    """The store that a test copies."""
    assert isinstance(services.store, MemoryStore)
    return services.store
