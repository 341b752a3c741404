"""Every simulated sender against the running service: accepted, kept byte for byte, proved by its receipt."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Principal
from recorder.access.tokens import issue_token
from recorder.app import open_services
from recorder.catalogue.enums import LawfulBasis, ObjectRole
from recorder.catalogue.tables import Recording
from recorder.ingest.identity import recording_identity
from recorder.ingest.secrets import set_secret
from recorder.ingest.sources import NewSource, create_source
from recorder.playback.objects import living_objects, stored_object
from recorder.simulate.senders import FETCHED, SENDERS
from tests.servers.prompts import Prompts
from tests.system.installation import Installation, embedded

OPERATOR = Principal("os", "tests", None)
SECRET = "a secret that both sides know"
SETTINGS: dict[str, dict[str, Any]] = {
    "twilio": {"fetch_hosts": ["127.0.0.1:*"], "credential": "none"},
    "signalwire": {"fetch_hosts": ["127.0.0.1:*"], "credential": "none"},
    "zoom": {"fetch_hosts": ["127.0.0.1:*"]},
    "vcon": {"unsigned": True},
    "siprec": {"parties": {"1": "customer", "2": "agent"}},
}
SECRETS = {"twilio": "auth_token", "signalwire": "auth_token", "zoom": "secret_token"}
COUNT = 3


@pytest.fixture(scope="module")
def voices(prompts: Prompts) -> tuple[Path, ...]:
    """Real telephone speech, whether or not anything here can synthesise it."""
    return tuple(sorted(prompts.files["wav"], key=lambda path: -path.stat().st_size)[:6])


async def source_of(installation: Installation, name: str, port: int) -> str:
    kind = SENDERS[name].kind
    settings = json.loads(json.dumps(SETTINGS.get(kind, {})).replace("127.0.0.1:*", f"127.0.0.1:{port}"))
    async with open_services(installation.open_settings()) as services:
        assert installation.controller_id is not None
        made = await create_source(
            services,
            OPERATOR,
            installation.controller_id,
            NewSource(
                name=f"sim-{name}",
                kind=kind,
                default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
                settings=settings,
            ),
        )
        if kind in SECRETS:
            await set_secret(services, OPERATOR, made.id, SECRETS[kind], SECRET)
        issued = await issue_token(
            services, OPERATOR, controller_id=installation.controller_id, label=name, source_id=made.id
        )
    return issued.token


async def kept(installation: Installation, name: str) -> dict[str, bytes]:
    """Audio of a source by identity, in hexadecimal."""
    async with open_services(installation.open_settings()) as services:
        from recorder.catalogue.tables import Source

        async with services.database.snapshot() as session:
            rows = list(
                await session.scalars(
                    sa.select(Recording)
                    .join(Source, Source.id == Recording.source_id)
                    .where(Source.name == f"sim-{name}")
                )
            )
            found = {}
            for row in rows:
                obj = stored_object(*(await living_objects(session, row.id))[ObjectRole.ORIGINAL])
                async with services.vault.read(obj) as pieces:
                    found[row.identity.hex()] = b"".join([piece async for piece in pieces])
    return found


async def identity(installation: Installation, name: str, external_id: str, leg: str | None) -> str:
    async with open_services(installation.open_settings()) as services:
        from recorder.catalogue.tables import Source

        async with services.database.snapshot() as session:
            source = (await session.scalars(sa.select(Source).where(Source.name == f"sim-{name}"))).one()
        return recording_identity(services.keyring, source.controller_id, source.id, external_id, leg).hex()


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Any:
    from tests.servers import processes

    made = embedded(processes.work_folder("simulate"), RECORDER_FETCH_PRIVATE_HOSTS='["127.0.0.1"]')
    made.install()
    made.start()
    yield made
    made.stop()
    processes.remove_folder(made.folder)


@pytest.mark.parametrize("name", sorted(SENDERS))
async def test_a_sender_of_each_kind(
    running: Installation, name: str, voices: tuple[Path, ...], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    token = await source_of(running, name, port)
    ledger = tmp_path / "ledger.ndjson"
    command = [sys.executable, "-m", "recorder", "simulate", name, "--server", running.url, "--json"]
    command += ["--count", str(COUNT), "--seconds", "1", "3", "--ledger", str(ledger)]
    command += ["--media", f"127.0.0.1:{port}"]
    for voice in voices:
        command += ["--audio", str(voice)]
    environment = {
        **os.environ,
        **running.environment,
        "RECORDER_TOKEN": token,
        "RECORDER_SIMULATE_SECRET": SECRET,
    }
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = json.loads(done.stdout)
    assert said["accepted"] == COUNT
    assert said["not_fetched"] == 0
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    pieces = [piece for line in lines for piece in line["pieces"]]
    if name in FETCHED:
        await settled(running, name, len(pieces))
    audio = await kept(running, name)
    assert len(audio) == len(pieces)
    for piece in pieces:
        if piece["external_id"] is None:  # the service names what is streamed
            assert piece["sha256"] in {hashlib.sha256(body).hexdigest() for body in audio.values()}
            continue
        body = audio[await identity(running, name, piece["external_id"], piece["leg"])]
        assert hashlib.sha256(body).hexdigest() == piece["sha256"]


async def settled(installation: Installation, name: str, count: int) -> None:
    """What was fetched is stored a moment after its last byte was sent."""
    async with asyncio.timeout(60):
        while len(await kept(installation, name)) < count:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.2)


def test_the_same_seed_makes_the_same_calls(voices: tuple[Path, ...]) -> None:
    from datetime import UTC, datetime

    from recorder.simulate.calls import Calls, from_files

    speech = from_files(voices)
    start = datetime(2026, 3, 5, tzinfo=UTC)
    one, two = Calls(speech, seed=7, start=start), Calls(speech, seed=7, start=start)
    assert one.make(3) == two.make(3)
    assert len({one.make(n).pcm for n in range(50)}) == 50
    assert Calls(speech, seed=8, start=start).make(3).pcm != one.make(3).pcm
