"""The tour of the README, pasted into a shell beside a fresh demo."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import processes
from tests.servers.processes import Daemon

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:8080"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def checkout() -> Iterator[tuple[Path, int]]:
    """A folder that looks like a checkout in which ``make run`` is up, and the port of the service."""
    folder, port = processes.work_folder("readme"), processes.free_port()
    # Beside the test's own interpreter lie the commands of its environment.
    (folder / ".venv").symlink_to(sys.prefix)
    environment = processes.clean_environment(
        RECORDER_LISTEN=f"127.0.0.1:{port}", RECORDER_DATA_DIR=str(folder / "data"), PYTHONPATH=str(ROOT)
    )
    command = [sys.executable, "-m", "recorder", "demo"]
    daemon = Daemon("recorder demo", command, folder / "log", environment=environment)
    daemon.start()
    try:
        accounts = folder / "data" / "demo-accounts.json"
        processes.wait_until(lambda: accounts.exists() or not daemon.running, "no demo", 240)
        assert accounts.exists(), daemon.log_tail()
        yield folder, port
    finally:
        daemon.stop()
        processes.remove_folder(folder)


def tour() -> list[str]:
    """The lines of the README's one shell block."""
    (block,) = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block).splitlines()


def test_the_readme_opens_with_the_two_commands() -> None:
    head = (ROOT / "README.md").read_text("utf-8").splitlines()[:10]
    assert [line.split()[:2] for line in head if line.startswith("    ")] == [
        ["make", "run"],
        ["make", "test"],
    ]


def test_the_tour_has_ten_lines() -> None:
    assert len(tour()) == 10


@pytest.mark.slow
def test_the_tour_works_when_pasted(checkout: tuple[Path, int]) -> None:
    folder, port = checkout
    lines = tour()
    assert ADDRESS in lines[0]
    mark = "=== end of line"
    script = "set -o pipefail\n" + "".join(
        line.replace(ADDRESS, f"127.0.0.1:{port}") + f'\necho "{mark} $?"\n' for line in lines
    )
    environment = processes.clean_environment(PYTHONPATH=str(ROOT), HOME=str(folder))
    done = subprocess.run(
        ["bash"],
        input=script,
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
    )
    *parts, rest = re.split(rf"^{mark} (?=\d+$)", done.stdout, flags=re.MULTILINE)
    statuses = [part.split("\n", 1)[0] for part in [*parts[1:], rest]]
    assert statuses == ["0"] * len(lines), done.stdout + done.stderr
    assert done.stderr == ""
    said = [parts[0], *(part.partition("\n")[2] for part in parts[1:])]
    _, _, listed, _, kept, heard, pushed, refused, custody, verified = said

    assert len(json.loads(listed)["items"]) == 3
    assert json.loads(kept)["explanation"][0].startswith("Kept until ")
    assert heard.startswith("HTTP/1.1 206 ")
    size = (folder / "data" / "tour.wav").stat().st_size
    assert f"Content-Range: bytes 0-{size - 1}/{size}" in heard
    answer = json.loads(pushed)
    assert answer["state"] == "stored", answer
    assert answer["receipt"].count(".") == 2
    problem = json.loads(refused)
    assert (problem["status"], problem["reason"]) == (403, "purpose")
    assert problem["detail"] == "Quality may not listen to calls for training."
    actions = [item["entry"]["action"] for item in json.loads(custody)["items"]]
    assert {"recording.stored", "listen.opened", "listen.refused"} <= set(actions)
    assert verified.strip() != ""
