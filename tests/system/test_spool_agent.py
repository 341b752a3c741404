"""``recorder spool`` as a process of its own, beside the running service, with real telephony speech."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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
        """Files in the directory, without the agent's own.

        A running agent makes and removes folders of its own meanwhile; ``os.walk`` does not mind.
        """
        found = []
        for folder, folders, files in os.walk(self.directory):
            folders[:] = [name for name in folders if name != ".recorder-spool"]
            found += [str((Path(folder) / name).relative_to(self.directory)) for name in files]
        return sorted(found)

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


def make_calls(spool: Spool, prompts: Prompts, count: int, prefix: str) -> dict[str, bytes]:
    """Put recordings of all formats into the directory, some of many chunks; return them by name."""
    paths = [path for forms in zip(*prompts.sample(count // 3).values(), strict=True) for path in forms]
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
    options = ("--settle", "0", "--bandwidth", "200k", "--parallel", "3")
    kills = 0
    while len(spool.left) > 0 and kills < 60:
        agent = spool.daemon(*options)
        agent.start()
        try:
            journal = spool.directory / ".recorder-spool/journal.sqlite"
            before = len(spool.left)
            # At a random moment of its life, which begins once it has a journal.
            await asyncio.to_thread(processes.wait_until, journal.exists, "no journal")
            moment = chance.random()
            await asyncio.to_thread(wait_for_fewer, spool, agent, before, moment)
        finally:
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


# What can be odd about files


async def test_odd_files_and_names(spool: Spool, prompts: Prompts) -> None:
    audio = prompts.sample(1)["wav"][0].read_bytes()
    made = {
        "odd/plain.wav": audio,
        "odd/caf\udce9 åäö 電話.wav": audio + b"\0\0",  # a byte that is no UTF-8
        "odd/a\\b'\"; rm -rf $(x).wav": audio + b"\0\0\0\0",
        "odd/" + "n" * 240 + ".wav": audio + b"\0\0\0\0\0\0",
    }
    for name, content in made.items():
        spool.put(name, content)
    spool.put("odd/empty.wav", b"")
    spool.put("odd/notes.txt", b"left alone")
    spool.put("odd/.hidden.wav", b"left alone")
    outside = spool.folder / "outside.wav"
    outside.write_bytes(audio)
    (spool.directory / "odd/link.wav").symlink_to(outside)
    done = await asyncio.to_thread(spool.once)
    assert done.returncode == 0, (done.stdout, done.stderr, spool.rows())
    # A link is no recording: neither it nor what it leads to is touched.
    assert spool.left == ["odd/.hidden.wav", "odd/link.wav", "odd/notes.txt"]
    async with client(spool.service) as api:
        await check_service(api, spool, made)
    empty = next(row for row in spool.rows() if row["path"] == b"odd/empty.wav")
    assert (empty["state"], empty["outcome"]) == ("done", "quarantined")
    log = spool.log.read_text()
    assert "quarantined by the service (empty" in log
    assert "plain" not in log  # names of files may hold telephone numbers


async def test_metadata_of_name_record_and_sidecar_arrives(spool: Spool, prompts: Prompts) -> None:
    name = "external-2001-0401234567-20260305-101500-1772698500.42"
    spool.put(f"2026/03/05/{name}.wav", prompts.sample(1)["wav"][0].read_bytes())
    spool.put(f"2026/03/05/{name}.json", json.dumps({"queue": "support", "tags": ["vip"]}).encode())
    (spool.folder / "Master.csv").write_text(
        '"","+358401234567","2001","from-trunk","""M"" <0401>","SIP/a","SIP/b","Dial","x",'
        '"2026-03-05 10:15:00","2026-03-05 10:15:08","2026-03-05 10:20:00",300,292,'
        '"ANSWERED","DOCUMENTATION","1772698500.42",""\n'
    )
    (spool.folder / "spool.toml").write_text(
        'time_zone = "Europe/Helsinki"\npatterns = "freepbx"\n'
        f'[cdr.csv]\npath = "{spool.folder}/Master.csv"\ncolumns = "asterisk"\n'
    )
    done = await asyncio.to_thread(spool.once, "--config", str(spool.folder / "spool.toml"))
    assert done.returncode == 0, done.stderr
    assert spool.left == []  # the sidecar goes with its audio
    row = spool.rows()[0]
    async with client(spool.service) as api:
        answer = await api.get(f"/api/v1/recordings/{row['recording_id']}", "legal")
        assert answer.status == 200, answer.body
        detail = answer.json
    assert detail["metadata"]["caller"] == "+358401234567"
    assert detail["metadata"]["callee"] == "2001"
    assert detail["metadata"]["extra"]["cdr"]["billsec"] == "292"
    assert (detail["queue"], detail["direction"]) == ("support", "inbound")
    assert detail["started_at"].startswith("2026-03-05T08:15:00")


def test_a_record_that_does_not_come_is_waited_for_and_then_done_without(
    spool: Spool, prompts: Prompts
) -> None:
    spool.put("late/late-1.wav", prompts.sample(1)["wav"][0].read_bytes())
    (spool.folder / "cdr.csv").write_text("uniqueid,recordingfile\n")
    config = spool.folder / "spool.toml"
    config.write_text(
        f'time_zone = "UTC"\n[cdr]\nwait = 1.5\npoll = 0.2\n[cdr.csv]\npath = "{spool.folder}/cdr.csv"\n'
    )
    done = spool.once("--config", str(config))
    assert done.returncode == 0, done.stderr
    row = spool.rows()[0]
    assert row["state"] == "done"
    assert row["changed_at"] - row["seen_at"] >= 1.5


# What the service may say


async def test_other_bytes_under_the_same_name_stay_and_are_listed(spool: Spool, prompts: Prompts) -> None:
    first, second = (path.read_bytes() for path in prompts.sample(2)["wav"])
    spool.put("same/same-name.wav", first)
    assert (await asyncio.to_thread(spool.once)).returncode == 0
    spool.put("same/same-name.wav", second)
    done = await asyncio.to_thread(spool.once)
    assert (done.returncode, spool.left) == (1, ["same/same-name.wav"]), done.stderr
    assert spool.rows()[-1]["state"] == "conflict"
    shown = await asyncio.to_thread(spool.run, "--status", "--json")
    status = json.loads(shown.stdout)
    assert status["running"] is False
    assert [line["file"] for line in status["refused"]] == ["same/same-name.wav"]
    # A person who renamed the recording's identity away may have it tried again; here it is refused again.
    again = await asyncio.to_thread(spool.once, "--retry")
    assert (again.returncode, spool.left) == (1, ["same/same-name.wav"])
    text = await asyncio.to_thread(spool.run, "--status")
    assert "conflict" in text.stdout
    assert "no agent is running" in text.stdout


def test_the_same_bytes_again_are_deleted_against_the_first_receipt(spool: Spool, prompts: Prompts) -> None:
    audio = prompts.sample(1)["gsm"][0].read_bytes()
    ids = set()
    for _ in range(2):
        spool.put("again/again-1.gsm", audio)
        assert spool.once().returncode == 0
        assert spool.left == []
        ids.add(spool.rows()[-1]["recording_id"])
    assert len(ids) == 1
    assert len(spool.rows()) == 2


def test_a_token_that_is_refused_holds_everything_and_loses_nothing(spool: Spool, prompts: Prompts) -> None:
    spool.put("kept/a.wav", prompts.sample(1)["wav"][0].read_bytes())
    right, spool.service.tokens["telephony"] = spool.service.tokens["telephony"], "rec_wrong"
    try:
        done = spool.once()
    finally:
        spool.service.tokens["telephony"] = right
    assert done.returncode == 4, done.stderr
    assert "rec_wrong" not in done.stderr
    assert spool.left == ["kept/a.wav"]
    assert spool.once().returncode == 0
    assert spool.left == []


def test_without_a_service_the_end_is_3_and_everything_stays(tmp_path: Path, prompts: Prompts) -> None:
    nowhere = Installation("nowhere", tmp_path, processes.free_port(), {}, tokens={"telephony": "rec_x"})
    spool = Spool(nowhere, tmp_path / "spool")
    spool.put("a.wav", prompts.sample(1)["wav"][0].read_bytes())
    config = tmp_path / "spool.toml"
    config.write_text("[backoff]\nbase = 0.01\nlongest = 0.05\n")
    done = spool.once("--config", str(config))
    assert done.returncode == 3, done.stderr
    assert "service-away" in done.stderr
    assert spool.left == ["a.wav"]


# A running agent


async def test_an_agent_pushes_what_comes_archives_it_and_stops_when_told(
    spool: Spool, prompts: Prompts
) -> None:
    archive, metrics = spool.folder / "archive", spool.folder / "spool.prom"
    audio = prompts.sample(1)["wav"][0].read_bytes()
    agent = spool.daemon("--settle", "0.3", "--archive", str(archive), "--metrics", str(metrics))
    agent.start()
    try:
        private = spool.directory / ".recorder-spool/journal.sqlite"
        await asyncio.to_thread(processes.wait_until, private.exists, "no journal")
        path = spool.directory / "new/2026/growing.wav"
        path.parent.mkdir(parents=True)
        half = len(audio) // 2
        with path.open("wb") as writer:  # as MixMonitor writes: the file is there long before it is whole
            writer.write(audio[:half])
            writer.flush()
            other = spool.put("other.wav", audio + b"\0\0")
            await asyncio.to_thread(processes.wait_until, lambda: not other.exists(), "not pushed")
            assert path.exists()
            writer.write(audio[half:])
        await asyncio.to_thread(processes.wait_until, lambda: not path.exists(), "not pushed")
        second = await asyncio.to_thread(spool.once)
        assert second.returncode == 4
        assert "another agent works on this directory" in second.stderr
        shown = await asyncio.to_thread(spool.run, "--status", "--json")
        assert json.loads(shown.stdout)["running"] is True
        await asyncio.to_thread(
            processes.wait_until,
            lambda: metrics.exists() and 'recorder_spool_files{state="done"} 2.0' in metrics.read_text(),
            "no metrics",
        )
        pid = agent.pid
        os.kill(pid, signal.SIGTERM)
        await asyncio.to_thread(processes.wait_until, lambda: not agent.running, "it did not stop")
    finally:
        agent.kill()
    assert spool.left == []
    assert sorted(p.read_bytes() for p in archive.rglob("*.wav")) == sorted([audio, audio + b"\0\0"])
    async with client(spool.service) as api:
        await check_service(api, spool, {"new/2026/growing.wav": audio, "other.wav": audio + b"\0\0"})


async def test_a_file_that_is_replaced_while_it_is_pushed_is_pushed_again_of_its_own(
    spool: Spool, prompts: Prompts
) -> None:
    one, two = (path.read_bytes() for path in prompts.sample(2)["wav"])
    one = one * (400_000 // len(one) + 1)
    spool.put("busy/replaced.wav", one)
    agent = spool.daemon("--settle", "0", "--bandwidth", "100k")
    agent.start()
    try:

        def uploading() -> bool:
            try:
                return any(row["state"] == "uploading" for row in spool.rows())
            except sqlite3.Error:
                return False

        await asyncio.to_thread(processes.wait_until, uploading, "no upload began")
        spool.put("busy/replaced.wav", two)
        await asyncio.to_thread(
            processes.wait_until,
            lambda: any(row["state"] in {"done", "conflict"} and row["sha256"] == hashlib.sha256(two).digest()
                        for row in spool.rows()),
            "the second file was not dealt with",
        )  # fmt: skip
    finally:
        agent.kill()
    # Both are held: the first was pushed before it was replaced, the second is another recording under the
    # same name, which a person is to judge; so it stays here too.
    states = {row["sha256"]: row["state"] for row in spool.rows() if row["sha256"] is not None}
    assert states[hashlib.sha256(two).digest()] == "conflict"
    assert spool.left == ["busy/replaced.wav"]
    assert (spool.directory / "busy/replaced.wav").read_bytes() == two


async def test_an_erased_call_stays_here_until_told_otherwise(spool: Spool, prompts: Prompts) -> None:
    audio = prompts.sample(1)["wav"][0].read_bytes()
    spool.put("gone/erased-1.wav", audio)
    assert (await asyncio.to_thread(spool.once)).returncode == 0
    recording = spool.rows()[0]["recording_id"]
    erased = await spool.service.run("erase", "--recording", recording, "--ground", "request", "--yes")
    assert erased.returncode == 0, erased.stderr
    spool.put("gone/erased-1.wav", audio)
    done = await asyncio.to_thread(spool.once)
    assert (done.returncode, spool.left) == (1, ["gone/erased-1.wav"]), done.stderr
    assert spool.rows()[-1]["state"] == "erased"
    config = spool.folder / "spool.toml"
    config.write_text('on_erased = "delete"\n')
    done = await asyncio.to_thread(spool.once, "--retry", "--config", str(config))
    assert (done.returncode, spool.left) == (1, []), done.stderr


async def test_what_is_kept_is_pushed_once_and_deleted_when_that_is_wanted(
    spool: Spool, prompts: Prompts
) -> None:
    spool.put("kept/kept-1.gsm", prompts.sample(1)["gsm"][0].read_bytes())
    for _ in range(2):
        assert (await asyncio.to_thread(spool.once, "--keep")).returncode == 0
        assert spool.left == ["kept/kept-1.gsm"]
        assert len(spool.rows()) == 1
    assert (await asyncio.to_thread(spool.once)).returncode == 0
    assert spool.left == []
    assert len({row["recording_id"] for row in spool.rows()}) == 1


def fewer(spool: Spool, before: int) -> bool:
    return len(spool.left) < max(before, 1)


@pytest.mark.slow
async def test_a_service_that_is_killed_again_and_again_gets_every_file_in_the_end(
    own_installation: Callable[..., Installation], tmp_path: Path, prompts: Prompts
) -> None:
    service = own_installation(embedded)
    service.start()
    spool = Spool(service, tmp_path / "spool")
    made = make_calls(spool, prompts, 16, "service")
    config = tmp_path / "spool.toml"
    config.write_text("chunk = 65536\n[backoff]\nbase = 0.1\nlongest = 1.0\n")
    agent = spool.daemon("--settle", "0", "--bandwidth", "400k", "--config", str(config))
    agent.start()
    try:
        for _ in range(4):
            before = len(spool.left)
            await asyncio.to_thread(processes.wait_until, partial(fewer, spool, before), "stuck")
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
        await asyncio.to_thread(processes.wait_until, lambda: spool.left == [], "not all were pushed", 120.0)
        await asyncio.to_thread(
            processes.wait_until, lambda: all(r["state"] == "done" for r in spool.rows()), "not all done"
        )
    finally:
        agent.kill()
    async with client(service) as api:
        await check_service(api, spool, made)


async def test_whole_pushes_for_a_service_without_uploads_and_for_metadata_too_long_for_a_header(
    spool: Spool, prompts: Prompts
) -> None:
    first, second = (path.read_bytes() for path in prompts.sample(2)["g722"])
    spool.put("whole/whole-1.g722", first)
    config = spool.folder / "spool.toml"
    config.write_text('transport = "multipart"\n')
    done = await asyncio.to_thread(spool.once, "--config", str(config))
    assert (done.returncode, spool.left) == (0, []), done.stderr
    spool.put("whole/long-1.g722", second)
    spool.put("whole/long-1.json", json.dumps({"extra": {"note": "ä" * 20_000}}).encode())
    done = await asyncio.to_thread(spool.once)
    assert (done.returncode, spool.left) == (0, []), done.stderr
    async with client(spool.service) as api:
        await check_service(api, spool, {"whole/whole-1.g722": first, "whole/long-1.g722": second})


def test_a_terminal_sees_a_table_and_a_log_sees_lines(spool: Spool, prompts: Prompts) -> None:
    import pty

    spool.put("shown/a.wav", prompts.sample(1)["wav"][0].read_bytes())
    ours, theirs = pty.openpty()
    agent = subprocess.Popen(
        spool.command("--once", "--settle", "0"), env=spool.environment | {"TERM": "xterm"}, cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # the terminal is closed: the agent has ended
        pass
    finally:
        os.close(ours)
        out, _ = agent.communicate(timeout=60)
    assert agent.returncode == 0
    assert out == b"1 done\n"
    assert b"waiting" in shown


_PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    " print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(spool: Spool) -> None:
    peaks = []
    for n, size in enumerate((1_000_000, 150_000_000)):
        # No audio, so that nobody spends hours of speech on decoding it.
        spool.put(f"big/big-{n}.wav", bytes(size))
        # A small process between: a child's peak counts what its parent had when it was forked.
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *spool.command("--once", "--settle", "0")],
            env=spool.environment, cwd="/", capture_output=True, text=True, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert spool.left == []
    assert peaks[1] < peaks[0] + 32, peaks  # MiB
