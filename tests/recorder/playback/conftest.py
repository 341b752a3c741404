"""Stored recordings with real audio, without the way in: sealed through the vault, put in the catalogue."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import (
    ChoiceKind,
    Direction,
    LawfulBasis,
    LinkRole,
    ObjectRole,
    RecordingState,
    Role,
    ScopeKind,
    SubjectKind,
)
from recorder.catalogue.subjects import add_subject
from recorder.catalogue.tables import (
    Account,
    Call,
    Choice,
    Controller,
    Customer,
    Recording,
    RecordingAgent,
    RecordingLink,
    Source,
)
from recorder.disposition import schedules
from recorder.playback.ffmpeg import ffmpeg_path
from recorder.playback.objects import add_object
from recorder.services import Services

WAV = {
    "container": "wav",
    "codec": "pcm_s16le",
    "sample_rate": 8000,
    "channels": 2,
    "content_type": "audio/wav",
}


def run_ffmpeg(*arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(
        [ffmpeg_path(), "-hide_banner", "-loglevel", "error", *arguments, "pipe:1"],
        input=given,
        capture_output=True,
        check=True,
    )
    return done.stdout


async def make_audio(seconds: float, *, channels: int = 2, rate: int = 8000, codec: str = "wav") -> bytes:
    """A tone that never falls silent, another pitch on each channel, in a telephony format."""
    return await asyncio.to_thread(_tone, seconds, channels, rate, codec)


@functools.cache
def _tone(seconds: float, channels: int, rate: int, codec: str) -> bytes:
    exprs = "|".join(f"0.5*sin(2*PI*{400 + 300 * c}*t)" for c in range(channels))
    source = f"aevalsrc={exprs}:s={rate}:d={seconds}"
    options = {
        "wav": ("-c:a", "pcm_s16le", "-f", "wav"),
        "mulaw": ("-c:a", "pcm_mulaw", "-f", "mulaw"),
        "g722": ("-c:a", "g722", "-ar", "16000", "-ac", "1", "-f", "g722"),
        "amr": ("-c:a", "libopencore_amrnb", "-ar", "8000", "-ac", "1", "-f", "amr"),
        "mp3": ("-c:a", "libmp3lame", "-f", "mp3"),
        "flac": ("-c:a", "flac", "-f", "flac"),
        "webm": ("-c:a", "libopus", "-f", "webm"),
    }[codec]
    return run_ffmpeg("-f", "lavfi", "-i", source, "-bitexact", *options)


async def decoded(audio: bytes, *options: str, rate: int = 8000) -> bytes:
    """What a player hears: 16-bit PCM."""
    return await asyncio.to_thread(
        run_ffmpeg, *options, "-i", "pipe:0", "-ar", str(rate), "-f", "s16le", given=audio
    )


async def chunks(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@dataclass
class World:
    """One controller with a schedule and a source, and ways to fill it."""

    services: Services
    controller: Controller
    source: Source

    async def recording(
        self,
        audio: bytes,
        media: dict[str, Any] = WAV,
        *,
        muted: list[dict[str, Any]] | None = None,
        agents: tuple[str, ...] = ("a-17",),
        queue: str | None = "support",
        days_ago: int = 1,
        duration_ms: int | None = 4000,
        state: RecordingState = RecordingState.STORED,
        customer: Customer | None = None,
        tags: tuple[str, ...] = (),
    ) -> uuid.UUID:
        services = self.services
        written = await services.vault.write(chunks(audio), role="original")
        now = services.clock.now()
        started = now - timedelta(days=days_ago)
        recording_id, call_id = uuid.uuid4(), uuid.uuid4()
        async with services.database.transaction() as session:
            if customer is None:
                subject = add_subject(
                    session, services.keyring, self.controller.id, SubjectKind.UNLINKED, now=now
                )
                await session.flush()
                subject_id = subject.id
            else:
                subject_id = customer.subject_id
            session.add(
                Call(
                    id=call_id,
                    controller_id=self.controller.id,
                    source_id=self.source.id,
                    identity=os.urandom(32),
                    started_at=started,
                    created_at=now,
                )
            )
            await session.flush()
            row = Recording(
                id=recording_id,
                controller_id=self.controller.id,
                source_id=self.source.id,
                call_id=call_id,
                identity=os.urandom(32),
                subject_id=subject_id,
                customer_id=None if customer is None else customer.id,
                state=state,
                reasons=[],
                held=False,
                restricted=False,
                started_at=started,
                ended_at=started + timedelta(seconds=4),
                received_at=now,
                duration_ms=duration_ms,
                direction=Direction.INBOUND,
                queue=queue,
                agents=list(agents),
                tags=list(tags),
                service_events=[],
                lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
                muted=muted or [],
                channels=[{"party": "agent"}, {"party": "customer"}],
                media=media,
                sha256=hashlib.sha256(audio).digest(),
                size=len(audio),
                card_data_removed=False,
            )
            session.add(row)
            await session.flush()
            for agent in agents:
                session.add(
                    RecordingAgent(recording_id=recording_id, agent=agent, controller_id=self.controller.id)
                )
            if customer is not None:
                session.add(
                    RecordingLink(
                        recording_id=recording_id,
                        customer_id=customer.id,
                        role=LinkRole.PRINCIPAL,
                        matched_by="number",
                        created_at=now,
                    )
                )
            await add_object(
                session,
                services,
                row,
                written,
                role=ObjectRole.ORIGINAL,
                content_type=media.get("content_type", "application/octet-stream"),
                now=now,
            )
        return recording_id

    async def customer(self) -> Customer:
        services = self.services
        now = services.clock.now()
        async with services.database.transaction() as session:
            subject = add_subject(
                session, services.keyring, self.controller.id, SubjectKind.CUSTOMER, now=now
            )
            await session.flush()
            row = Customer(
                id=uuid.uuid4(),
                controller_id=self.controller.id,
                subject_id=subject.id,
                sealed=None,
                created_at=now,
                updated_at=now,
            )
            session.add(row)
        return row

    async def choose(self, customer: Customer, kind: ChoiceKind, purposes: tuple[str, ...] = ()) -> None:
        now = self.services.clock.now()
        async with self.services.database.transaction() as session:
            session.add(
                Choice(
                    id=uuid.uuid4(),
                    customer_id=customer.id,
                    kind=kind,
                    purposes=list(purposes),
                    channel=None,
                    effective_at=now,
                    source="call",
                    recorded_at=now,
                    actor="system:test",
                )
            )

    async def account(self) -> uuid.UUID:
        services = self.services
        now = services.clock.now()
        async with services.database.transaction() as session:
            subject = add_subject(session, services.keyring, self.controller.id, SubjectKind.STAFF, now=now)
            await session.flush()
            row = Account(
                id=uuid.uuid4(),
                controller_id=self.controller.id,
                subject_id=subject.id,
                username_index=os.urandom(32),
                sealed=b"",
                password_hash="",
                agent_code=None,
                language="en",
                created_at=now,
                disabled_at=None,
            )
            session.add(row)
        return row.id

    async def person(
        self, role: Role, scope: ScopeKind = ScopeKind.CONTROLLER, *values: str, agent_code: str | None = None
    ) -> Principal:
        return Principal(
            "account",
            str(await self.account()),
            self.controller.id,
            (Grant(role, self.controller.id, scope, frozenset(values)),),
            agent_code=agent_code,
        )


@pytest.fixture
async def world(services: Services, controller: Controller) -> World:
    now = services.clock.now()
    async with services.database.transaction() as session:
        await schedules.install_default(session, controller, actor="system:test", now=now)
        source = Source(
            id=uuid.uuid4(),
            controller_id=controller.id,
            name=f"pbx-{uuid.uuid4().hex[:8]}",
            kind="generic",
            default_lawful_basis=None,
            default_media=None,
            max_bytes=None,
            settings={},
            enabled=True,
            created_at=now,
        )
        session.add(source)
    return World(services, controller, source)


@pytest.fixture
async def quality(world: World) -> Principal:
    return await world.person(Role.QUALITY)


@pytest.fixture
async def legal(world: World) -> Principal:
    return await world.person(Role.LEGAL)
