"""The whole service as an operator runs it: processes of its own, commands, tokens and a client for it."""

from __future__ import annotations

import asyncio
import io
import json
import math
import signal
import struct
import subprocess
import sys
import threading
import uuid
import wave
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from recorder.access import passwords, tokens
from recorder.access.accounts import create_account
from recorder.access.principals import Grant, Principal
from recorder.app import open_services
from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from recorder.catalogue.tables import Source
from recorder.clock import SystemClock
from recorder.installation import add_controller, migrate, prepare_files
from recorder.settings import Settings
from tests.servers import processes
from tests.servers.postgres import PostgresServer
from tests.servers.processes import Daemon
from tests.servers.s3 import S3Server

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a long enough sentence"
CLIENTS = tuple(role for role in Role if role is not Role.TELEPHONY)
T = TypeVar("T")


def in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread with a loop of its own: fixtures of a session live outside any test's."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - handed on to the caller
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


@dataclass
class Installation:
    """One data directory, database and bucket, with the processes that serve it."""

    name: str
    folder: Path
    port: int
    settings: dict[str, str]
    with_worker: bool = False
    tokens: dict[str, str] = field(default_factory=dict)
    """Bearer tokens by role; of the source by ``telephony``."""
    controller_id: uuid.UUID | None = None
    source_id: uuid.UUID | None = None
    _serve: Daemon | None = None
    _worker: Daemon | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def logs(self) -> tuple[Path, ...]:
        return tuple(sorted(self.folder.glob("*.log")))

    @property
    def environment(self) -> dict[str, str]:
        return {
            **processes.clean_environment(),
            "RECORDER_LISTEN": f"127.0.0.1:{self.port}",
            "RECORDER_DATA_DIR": str(self.data),
            **self.settings,
        }

    @property
    def serve(self) -> Daemon:
        assert self._serve is not None
        return self._serve

    @property
    def worker(self) -> Daemon:
        assert self._worker is not None
        return self._worker

    def open_settings(self) -> Settings:
        given = {k: v for k, v in self.environment.items() if k.startswith("RECORDER_")}
        read = {k: json.loads(v) if v.startswith("[") else v for k, v in given.items()}
        return Settings(**{k.removeprefix("RECORDER_").lower(): v for k, v in read.items()})  # type: ignore[arg-type]  # pydantic converts

    def install(self) -> None:
        """Install into the empty folder, database and bucket; make a source, and a token for every role."""
        in_own_loop(self._install())

    async def _install(self) -> None:
        settings = self.open_settings()
        prepare_files(settings, SystemClock().now())
        await migrate(settings)
        async with open_services(settings) as services:
            now = services.clock.now()
            async with services.database.transaction() as session:
                controller = await add_controller(
                    session, services, code="fi-main", name="Example Oy", country="FI", actor="os:tests"
                )
                source = Source(
                    id=uuid.uuid4(),
                    controller_id=controller.id,
                    name="pbx",
                    kind="generic",
                    default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
                    default_media=None,
                    max_bytes=None,
                    settings={},
                    enabled=True,
                    created_at=now,
                )
                session.add(source)
            self.controller_id, self.source_id = controller.id, source.id
            operator = Principal("os", "tests", None)
            issued = await tokens.issue_token(
                services, operator, controller_id=controller.id, label="pbx", source_id=source.id
            )
            self.tokens["telephony"] = issued.token
            for role in CLIENTS:
                own = role is Role.AGENT
                issued = await tokens.issue_token(
                    services,
                    operator,
                    controller_id=controller.id,
                    label=role.value,
                    role=role,
                    scope=ScopeKind.OWN if own else ScopeKind.CONTROLLER,
                    values=("a-17",) if own else (),
                )
                self.tokens[role.value] = issued.token

    def add_account(self, username: str, name: str, role: Role) -> None:
        """Make a person's account; its password is ``PASSWORD``."""

        async def work() -> None:
            assert self.controller_id is not None
            async with open_services(self.open_settings()) as services:
                await create_account(
                    services,
                    Principal("os", "tests", None),
                    controller_id=self.controller_id,
                    username=username,
                    name=name,
                    password=PASSWORD,
                    grants=[Grant(role, self.controller_id, ScopeKind.CONTROLLER)],
                )

        usual = passwords.CURRENT
        passwords.CURRENT = passwords.Parameters(memory_kib=64, iterations=1, lanes=1)
        try:
            in_own_loop(work())
        finally:
            passwords.CURRENT = usual

    def start(self) -> None:
        """Start ``recorder serve``, and ``recorder worker`` where the database is no embedded one.

        What runs already is left alone.
        """
        if self._serve is None or not self._serve.running:
            self._serve = self._daemon("serve")
            self._serve.start()
        if self.with_worker and (self._worker is None or not self._worker.running):
            self._worker = self._daemon("worker")
            self._worker.start()
        try:
            processes.wait_until(self._listens, f"recorder serve on {self.url} did not listen")
        except processes.ServerFailedError as error:
            raise processes.ServerFailedError(f"{error}\n{self._serve.log_tail()}") from error

    def _listens(self) -> bool:
        if not self.serve.running:
            raise processes.ServerFailedError("recorder serve ended")
        return processes.accepts(self.port)

    def _daemon(self, command: str) -> Daemon:
        return Daemon(
            f"recorder {command}",
            [sys.executable, "-m", "recorder", command],
            self.folder / f"{command}.log",
            environment={**self.environment, "PYTHONPATH": str(ROOT)},
        )

    def stop(self, *, how: int = signal.SIGTERM) -> None:
        """End the processes."""
        for daemon in (self._serve, self._worker):
            if daemon is not None:
                daemon.stop(how=how, seconds=40.0)

    def kill(self) -> None:
        """End them as a power cut would."""
        self.stop(how=signal.SIGKILL)

    def command(
        self, *arguments: str, given: str = "", more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``recorder …`` to its end, its standard error kept with the other logs."""
        done = subprocess.run(
            [sys.executable, "-m", "recorder", *arguments],
            env={**self.environment, "PYTHONPATH": str(ROOT), **(more or {})},
            cwd="/",
            input=given,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        with (self.folder / "commands.log").open("a") as log:
            log.write(done.stderr)
        return done

    async def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """The same, beside the test's event loop."""
        return await asyncio.to_thread(self.command, *arguments, given=given)


def embedded(folder: Path, **settings: str) -> Installation:
    """SQLite, a local directory and a file keyring: what one box starts with."""
    return Installation("embedded", folder, processes.free_port(), settings)


def production(folder: Path, s3: S3Server, postgres: PostgresServer, **settings: str) -> Installation:
    """PostgreSQL and S3, background work in a process of its own."""
    parts = {
        "RECORDER_DATABASE_URL": postgres.new_database(),
        "RECORDER_OBJECT_STORE": f"s3://{s3.new_bucket(versioned=True)}",
        "RECORDER_S3_ENDPOINT": s3.url,
        "RECORDER_S3_ACCESS_KEY": s3.access_key,
        "RECORDER_S3_SECRET_KEY": s3.secret_key,
    }
    return Installation("production", folder, processes.free_port(), {**parts, **settings}, with_worker=True)


# The client


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The stable suffix of the problem's type."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body[:300]
        return str(self.json["type"]).removeprefix("urn:tallenne:problem:")


class Api:
    """An HTTP client with the installation's tokens; remembers every answer in ``seen`` when asked to."""

    def __init__(self, session: aiohttp.ClientSession, installation: Installation) -> None:
        self._session = session
        self._installation = installation
        self.seen: list[Answer] | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        role: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Answer:
        sent = dict(headers or {})
        if role is not None:
            sent["Authorization"] = f"Bearer {self._installation.tokens[role]}"
        async with self._session.request(
            method, self._installation.url + path, headers=sent, allow_redirects=False, **options
        ) as response:
            answer = Answer(response.status, response.headers.copy(), await response.read())
        if self.seen is not None:
            self.seen.append(answer)
        return answer

    async def get(self, path: str, role: str | None = None, **options: Any) -> Answer:
        return await self.request("GET", path, role=role, **options)

    async def post(self, path: str, role: str | None = None, **options: Any) -> Answer:
        return await self.request("POST", path, role=role, **options)

    async def push(
        self,
        metadata: Mapping[str, Any],
        audio: bytes,
        *,
        file_name: str = "call.wav",
        content_type: str = "audio/wav",
        query: str = "",
    ) -> Answer:
        """POST /api/v1/recordings as a telephony system would."""
        with aiohttp.MultipartWriter("form-data") as form:
            part = form.append_json(dict(metadata))
            part.set_content_disposition("form-data", name="metadata")
            part = form.append(io.BytesIO(audio), {"Content-Type": content_type})
            part.set_content_disposition("form-data", name="audio", filename=file_name)
            return await self.post(f"/api/v1/recordings{query}", "telephony", data=form)

    async def put(self, external_id: str, audio: bytes, **query: str) -> Answer:
        """PUT /ingest/… as a telephony system would."""
        return await self.request(
            "PUT", f"/ingest/pbx/{external_id}", role="telephony", params=query, data=io.BytesIO(audio)
        )

    async def audio(
        self, recording: str, role: str = "quality", purpose: str = "quality", **options: Any
    ) -> Answer:
        rendition = options.pop("rendition", None)
        more = {} if rendition is None else {"rendition": rendition}
        method = options.pop("method", "GET")
        return await self.request(
            method,
            f"/api/v1/recordings/{recording}/audio",
            role=role,
            params={"purpose": purpose, **more},
            **options,
        )

    async def until(
        self, ask: Callable[[], Coroutine[Any, Any, Answer]], holds: Callable[[Answer], bool]
    ) -> Answer:
        """Ask again until the answer is the wanted one; background work takes its time."""
        answer = await ask()
        for _ in range(1800):
            if holds(answer):
                return answer
            await asyncio.sleep(0.05)
            answer = await ask()
        raise AssertionError(f"the last answer was {answer.status}: {answer.body[:500]!r}")


@asynccontextmanager
async def client(installation: Installation) -> AsyncIterator[Api]:
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        yield Api(session, installation)


def tone(seconds: float = 1.0, *, channels: int = 2, rate: int = 8000, pitch: float = 440.0) -> bytes:
    """A WAV file of a tone that never falls silent, another pitch on each channel."""
    frames = bytearray()
    for index in range(int(seconds * rate)):
        for channel in range(channels):
            angle = 2 * math.pi * (pitch + 200 * channel) * index / rate
            frames += struct.pack("<h", int(12000 * math.sin(angle)) or 1)
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(frames))
    return made.getvalue()


def call_of(external_id: str, *, days_ago: int = 1, **more: Any) -> dict[str, Any]:
    """Metadata of a call that was made so many days ago."""
    started = SystemClock().now() - timedelta(days=days_ago)
    return {
        "external_id": external_id,
        "started_at": started.isoformat(timespec="seconds"),
        "direction": "inbound",
        "queue": "support",
        "agents": ["a-17"],
        "channels": [{"party": "agent"}, {"party": "customer"}],
        **more,
    }
