"""``recorder spool`` as a process of its own, beside the running service, with real telephony speech."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import processes
from tests.servers.processes import Daemon
from tests.servers.prompts import Prompts
from tests.system.installation import ROOT, Api, Installation, client, embedded


class Spool:
    """A directory of a switchboard, and agents on it."""

    def __init__(self, service: Installation, folder: Path) -> None:
        self.service = service
        self.folder = folder
        self.directory = folder / "monitor"
        self.directory.mkdir(parents=True)
        self.log = folder / "agent.log"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **processes.clean_environment(),
            "PYTHONPATH": str(ROOT),
            "RECORDER_SERVER": self.service.url,
            "RECORDER_TOKEN": self.service.tokens["telephony"],
        }

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "recorder", "spool", str(self.directory), *options]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*options), env=self.environment, cwd="/", capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        with self.log.open("a") as log:
            log.write(done.stderr)
        return done

    def once(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("--once", "--settle", "0", *options)

    def daemon(self, *options: str) -> Daemon:
        return Daemon("recorder spool", self.command(*options), self.log, environment=self.environment)

    def put(self, name: str | bytes, audio: bytes) -> Path:
        """Write a file as a switchboard that renames it into place."""
        path = self.directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}")
        scratch.write_bytes(audio)
        scratch.rename(path)
        return path

    @property
    def left(self) -> list[str]:
        """Files in the directory, without the agent's own."""
        return sorted(
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if path.is_file() and ".recorder-spool" not in path.parts
        )

    def rows(self) -> list[dict[str, Any]]:
        with sqlite3.connect(
            f"{(self.directory / '.recorder-spool/journal.sqlite').as_uri()}?mode=ro", uri=True
        ) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM files ORDER BY id")]


@pytest.fixture
def spool(_embedded: Installation, tmp_path: Path) -> Spool:
    return Spool(_embedded, tmp_path / "spool")


def test_what_is_there_is_pushed_and_deleted_against_its_receipt(spool: Spool, prompts: Prompts) -> None:
    for form, paths in prompts.sample(3).items():
        for path in paths:
            spool.put(f"2026/03/05/first-{form}-{path.name}", path.read_bytes())
    done = spool.once()
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert spool.left == []
    rows = spool.rows()
    assert len(rows) == 9
    assert {row["state"] for row in rows} == {"done"}, spool.log.read_text()


def sha256(audio: bytes) -> str:
    return hashlib.sha256(audio).hexdigest()


async def stored(api: Api, row: dict[str, Any]) -> bytes:
    """What the service plays back of a file."""
    answer = await api.audio(row["recording_id"], rendition="original")
    assert answer.status == 200, answer.body
    return answer.body


async def metadata_of(api: Api, row: dict[str, Any]) -> dict[str, Any]:
    answer = await api.get(
        f"/api/v1/recordings/{row['recording_id']}", "legal", params={"purpose": "dispute"}
    )
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    return found


def make_calls(spool: Spool, prompts: Prompts, count: int, prefix: str) -> dict[str, bytes]:
    """Put recordings of all formats into the directory, every fourth of several chunks; return them by name."""
    paths = [path for form in prompts.sample(count).values() for path in form][:count]
    made = {}
    for n, path in enumerate(paths):
        audio = path.read_bytes()
        if n % 4 == 0 and path.suffix == ".gsm":  # frames of 33 bytes: as many as one likes make a recording
            audio = audio * (300_000 // len(audio) + 1)
        name = f"{prefix}/2026/0{n % 3 + 1}/{prefix}-{n}{path.suffix}"
        made[name] = audio
        spool.put(name, audio)
    return made


def check_journal(spool: Spool, made: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Every file is done once, against a receipt about its own bytes."""
    done = {os.fsdecode(row["path"]): row for row in spool.rows() if row["state"] == "done"}
    assert set(made) <= set(done)
    for name, audio in made.items():
        assert done[name]["sha256"].hex() == sha256(audio), name
        assert done[name]["receipt"] is not None
    ids = [done[name]["recording_id"] for name in made]
    assert len(set(ids)) == len(ids)
    return done


async def check_service(api: Api, spool: Spool, made: dict[str, bytes]) -> None:
    """The service plays each file back byte for byte."""
    done = check_journal(spool, made)
    for name, audio in made.items():
        assert await stored(api, done[name]) == audio, name


@pytest.mark.slow
async def test_killed_at_any_moment_every_file_arrives_once_and_none_goes_before_its_receipt(
    spool: Spool, prompts: Prompts
) -> None:
    chance = random.Random(4)
    made = make_calls(spool, prompts, 24, "killed")
    copies = {name: sha256(audio) for name, audio in made.items()}
    options = ("--settle", "0", "--bandwidth", "600k", "--parallel", "3")
    kills = 0
    while len(spool.left) > 0 and kills < 60:
        agent = spool.daemon(*options)
        agent.start()
        journal = spool.directory / ".recorder-spool/journal.sqlite"
        before = len(spool.left)
        # At a random moment of its life, which begins once it has a journal.
        await asyncio.to_thread(processes.wait_until, lambda: journal.exists(), "no journal")
        moment = chance.random() * 3.0
        await asyncio.to_thread(wait_for_fewer, spool, agent, before, moment)
        agent.kill()
        kills += 1
        kept = {row["sha256"] for row in spool.rows() if row["receipt"] is not None}
        held = {digest.hex() for digest in kept if digest is not None}
        gone = copies.keys() - set(spool.left) - in_the_way_out(spool)
        assert {copies[name] for name in gone} <= held
    assert kills > 3
    done = await asyncio.to_thread(spool.once)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert spool.left == []
    async with client(spool.service) as api:
        await check_service(api, spool, made)
        rows = [row for row in spool.rows() if row["recording_id"] is not None]
        assert len({row["recording_id"] for row in rows}) == len(made)


def in_the_way_out(spool: Spool) -> set[str]:
    """Names that a killed agent had taken aside, with a receipt, on their way out."""
    leaving = spool.directory / ".recorder-spool/leaving"
    numbers = {int(path.parent.name) for path in leaving.glob("*/*")} if leaving.exists() else set()
    return {os.fsdecode(row["path"]) for row in spool.rows() if row["id"] in numbers}


def wait_for_fewer(spool: Spool, agent: Daemon, before: int, seconds: float) -> None:
    """Until a file has gone, or a stretch of time, whichever comes first: so that kills make progress."""
    import time

    until = time.monotonic() + seconds

    def over() -> bool:
        return (len(spool.left) < before and time.monotonic() > until) or not agent.running

    processes.wait_until(over, "the agent did nothing")
