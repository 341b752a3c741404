"""Memory does not grow with the recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# A process of its own, so that its peak is its own. The store throws the ciphertext away.
PROGRAM = """
import asyncio, json, resource, sys, uuid
from datetime import UTC, datetime
from pathlib import Path
from recorder.access.principals import Grant, Principal
from recorder.catalogue.database import Database
from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from recorder.catalogue.tables import Base, Controller, Source
from recorder.clock import SystemClock
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.memory import MemoryKeyring
from storage.memory import MemoryStore
from storage.objects import Stat
from storage.vault import Vault

folder, mebibytes, muted = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "muted"

class Sink(MemoryStore):
    async def put(self, key, body, *, size):
        total = 0
        async for piece in body:
            total += len(piece)
        return Stat(key, None, total, datetime.now(UTC))

async def main():
    database = Database(f"sqlite+aiosqlite:///{folder / 'catalogue.sqlite'}")
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    store, keyring = Sink(), MemoryKeyring()
    vault = Vault(store, keyring)
    services = Services(Settings(data_dir=folder), SystemClock(), database, keyring, store, vault)
    now, controller, source = datetime.now(UTC), uuid.uuid4(), uuid.uuid4()
    keyring.ensure_controller(str(controller))
    async with database.transaction() as session:
        session.add(Controller(id=controller, code="x", name="x", country="FI", time_zone="Europe/Helsinki",
                               authority="x", financial_year_end="12-31", created_at=now))
        await session.flush()
        session.add(Source(id=source, controller_id=controller, name="s", kind="generic",
                           default_lawful_basis=LawfulBasis.CONSENT, settings={}, enabled=True,
                           created_at=now))
    principal = Principal("source", str(source), controller,
                          (Grant(Role.TELEPHONY, controller, ScopeKind.CONTROLLER),), source_id=source)

    async def body(count):
        for n in range(count * 16):
            yield bytes([n % 251]) * 65536
    spans = [{"from": 1, "to": 60, "reason": "card_security"}] if muted else []

    async def push(name, count):
        metadata = RecordingMetadata.model_validate({"external_id": name, "started_at": now, "muted": spans,
            "media": {"codec": "pcm_s16le", "sample_rate": 8000, "channels": 1}})
        outcome = await Intake(services).accept(IngestRequest(metadata=metadata), body(count),
                                                principal=principal, request_id="r")
        return outcome.size

    await push("warm", 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = await push("big", mebibytes)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await database.close()
    print(json.dumps({"size": size, "grown_kib": after - before}))

asyncio.run(main())
"""


def grown(folder: Path, kind: str) -> dict[str, int]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), "256", kind],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        text=True,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, int] = json.loads(run.stdout)
    return answer


def test_a_large_body_passes_in_constant_memory(tmp_path: Path) -> None:
    answer = grown(tmp_path, "plain")
    assert answer["size"] == 256 * 1024**2
    assert answer["grown_kib"] < 16 * 1024


def test_destroying_card_data_takes_no_more_memory(tmp_path: Path) -> None:
    answer = grown(tmp_path, "muted")
    assert answer["size"] == 256 * 1024**2
    assert answer["grown_kib"] < 16 * 1024
