"""Signs of life for systemd, metrics, the status line; hints of new files."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import aiohttp
import pytest

from recorder.spooling.folder import Folder
from recorder.spooling.journal import State, Summary
from recorder.spooling.notifying import listening
from recorder.spooling.telling import Progress, Systemd, Uploading, human, status_line, write_metrics
from recorder.spooling.watching import wait_for
from tests.recorder.spooling.conftest import ManualTime

SUMMARY = Summary({State.SEEN: 2, State.FAILED: 1, State.DONE: 7}, 2, 3 * 1024 * 1024, 12.4)


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_what_sd_notify_would_send(tmp_path: Path, abstract: bool) -> None:
    name = f"@tln-notify-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        Systemd({"NOTIFY_SOCKET": name}).tell(READY="1", STATUS="2 waiting")
        assert manager.recv(1000) == b"READY=1\nSTATUS=2 waiting"


def test_without_systemd_nothing_happens() -> None:
    Systemd({}).tell(READY="1")
    Systemd({"NOTIFY_SOCKET": "/nowhere/at/all"}).tell(READY="1")
    assert Systemd({}).watchdog is None


def test_the_watchdog_is_fed_twice_as_often_as_it_wants() -> None:
    assert Systemd({"WATCHDOG_USEC": "30000000"}).watchdog == 15.0
    assert Systemd({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}).watchdog == 15.0
    assert Systemd({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog is None


def test_the_status_line_counts_and_names_nobody() -> None:
    progress = Progress(
        pushed=7, pushed_bytes=2048, active={1: Uploading("0401234567.wav", 10)}, problem="journal"
    )
    line = status_line(SUMMARY, progress, 3)
    assert line == (
        "2 waiting (3.0 MiB), oldest 12 s, 1 uploading, 3 being written, 7 pushed since start (2.0 KiB)"
        ", 1 failed, held up: journal"
    )


def test_sizes() -> None:
    assert [human(n) for n in (0, 1023, 1024, 5 * 1024**3)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]


def test_the_metrics_file(tmp_path: Path) -> None:
    write_metrics(tmp_path / "spool.prom", SUMMARY, Progress(pushed=7, last_success=1_772_700_000.0))
    text = (tmp_path / "spool.prom").read_text()
    for line in (
        'recorder_spool_files{state="failed"} 1.0',
        "recorder_spool_waiting_bytes 3.145728e+06",
        "recorder_spool_oldest_seconds 12.4",
        "recorder_spool_pushed_total 7.0",
        "recorder_spool_held_up 0.0",
        "recorder_spool_last_success_timestamp_seconds 1.7727e+09",
    ):
        assert line in text.splitlines(), line
    assert [path.name for path in tmp_path.iterdir()] == ["spool.prom"]


async def test_a_hint_names_a_file_below_the_directory_and_nothing_else(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(Folder, tmp_path)
    told: list[bytes] = []
    root = str(tmp_path)
    async with listening("127.0.0.1:0", folder, told.append) as port, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{port}"

        async def ask(method: str, path: str = "/", **options: object) -> int:
            async with session.request(method, base + path, **options) as answer:  # type: ignore[arg-type]  # test options
                return answer.status

        assert await ask("POST", headers={"X-Recording-Full-File-Name": f"{root}/2026/a.wav"}) == 202
        assert await ask("GET", "/?file=b.wav") == 202
        assert await ask("POST", "/notify", data=f"{root}/c d.wav\n".encode()) == 202
        assert told == [b"2026/a.wav", b"b.wav", b"c d.wav"]
        for path in ("/etc/passwd", f"{root}/../x.wav", "../x.wav", ".recorder-spool/lock", ""):
            assert await ask("POST", data=path.encode()) == 404, path
        assert await ask("GET", "/?other=b.wav") == 404
        assert len(told) == 3
    async with listening(None, folder, told.append) as none:
        assert none is None


async def test_waiting_ends_with_the_event_or_the_time(manual_time: ManualTime) -> None:
    event = asyncio.Event()
    before = manual_time.steady()
    await wait_for(event, 7.0, manual_time)
    assert manual_time.steady() - before == 7.0
    asyncio.get_running_loop().call_soon(event.set)
    await wait_for(event, None, manual_time)
    assert event.is_set()
