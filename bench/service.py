"""A service as an operator would run it: its own process on PostgreSQL and S3."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from recorder.access import tokens
from recorder.access.principals import Grant, Principal
from recorder.app import open_services
from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from recorder.catalogue.tables import Source
from recorder.installation import add_controller, migrate, prepare_files
from recorder.settings import Settings
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server


@dataclass(frozen=True, slots=True)
class Access:
    """What a client needs: one token to push with, one to play with, the source's name."""

    source: str
    push: str
    play: str


class Service:
    """``recorder serve`` in a process of its own, without a worker: only requests count."""

    def __init__(self, folder: Path, s3: S3Server, postgres: PostgresServer, port: int) -> None:
        self._log = folder / "service.log"
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "RECORDER_LISTEN": f"127.0.0.1:{port}",
            "RECORDER_DATA_DIR": str(folder / "data"),
            "RECORDER_DATABASE_URL": postgres.new_database(),
            "RECORDER_OBJECT_STORE": f"s3://{s3.new_bucket()}",
            "RECORDER_S3_ENDPOINT": s3.url,
            "RECORDER_S3_ACCESS_KEY": s3.access_key,
            "RECORDER_S3_SECRET_KEY": s3.secret_key,
            "RECORDER_MAX_UPLOAD_BYTES": str(8 << 30),
            "RECORDER_CONCURRENT_UPLOADS": "256",
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def prepare(self) -> Access:
        """Install into the empty database and make one source and one listener."""
        settings = Settings(**{k.removeprefix("RECORDER_").lower(): v for k, v in self.environment.items()})  # type: ignore[arg-type]  # pydantic converts
        from recorder.clock import SystemClock

        now = SystemClock().now()
        await asyncio.to_thread(prepare_files, settings, now)
        await migrate(settings)
        async with open_services(settings) as services:
            async with services.database.transaction() as session:
                controller = await add_controller(
                    session, services, code="bench", name="Bench", country="FI", actor="os:bench"
                )
                source = Source(
                    id=uuid.uuid4(),
                    controller_id=controller.id,
                    name="bench",
                    kind="generic",
                    default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
                    default_media=None,
                    max_bytes=None,
                    settings={},
                    enabled=True,
                    created_at=now,
                )
                session.add(source)
            operator = Principal(
                "os", "bench", controller.id, (Grant(Role.OPERATOR, controller.id, ScopeKind.CONTROLLER),)
            )
            push = await tokens.issue_token(
                services, operator, controller_id=controller.id, label="push", source_id=source.id
            )
            play = await tokens.issue_token(
                services, operator, controller_id=controller.id, label="play", role=Role.QUALITY
            )
        return Access("bench", push.token, play.token)

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        log = self._log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "recorder", "serve"],
            env={**os.environ, **self.environment},
            stdout=log,
            stderr=log,
        )
        async with aiohttp.ClientSession() as session:
            for _ in range(300):
                try:
                    async with session.get(f"{self.url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                if self._process.poll() is not None:
                    break
                await asyncio.sleep(0.1)
        raise RuntimeError(f"the service did not start: {self._log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    @property
    def pid(self) -> int:
        """Process id."""
        if self._process is None:
            raise RuntimeError("the service is not running")
        return self._process.pid


def resident(pid: int) -> int:
    """Resident bytes of a process now."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """Peak resident bytes since :func:`reset_peak`."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    """Let the peak begin anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in the process's status")
