"""The agent in this process, on time that moves when told to; tests/system has it against the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from recorder.errors import Conflict, Unavailable
from recorder.spooling.config import SpoolConfig, load_config
from recorder.spooling.folder import Folder
from recorder.spooling.journal import Journal, State
from recorder.spooling.running import locked, look, run_agent
from recorder.spooling.watching import Watcher
from tests.recorder.spooling.conftest import ManualTime
from tests.servers import processes


def config(directory: Path, **more: Any) -> SpoolConfig:
    port = processes.free_port()  # nobody listens there
    return load_config(None, {"directory": directory, "server": f"http://127.0.0.1:{port}", **more})


async def test_a_service_that_stays_away_is_tried_with_growing_pauses_and_nothing_is_lost(
    tmp_path: Path, manual_time: ManualTime
) -> None:
    (tmp_path / "call.wav").write_bytes(b"speech")
    (tmp_path / "sidecar.wav").write_bytes(b"speech")
    (tmp_path / "sidecar.json").write_text("{")
    started = manual_time.steady()
    with pytest.raises(Unavailable, match="service-away"):
        await run_agent(config(tmp_path, transport="tus"), "rec_x", {}, once=True, clock=manual_time)
    # Five failures: pauses of at least 0.5, 1, 2 and 4 seconds lie between them.
    assert manual_time.steady() - started >= 7.5
    found = await asyncio.to_thread(look, tmp_path, manual_time)
    assert found["running"] is False
    assert [(line["file"], line["state"], line["problem"]) for line in found["next"]] == [
        ("call.wav", "hashed", "service-away")
    ]
    assert [(line["file"], line["problem"]) for line in found["refused"]] == [
        ("sidecar.wav", "sidecar-json-unreadable")
    ]
    assert sorted(await asyncio.to_thread(os.listdir, tmp_path)) == [
        ".recorder-spool", "call.wav", "sidecar.json", "sidecar.wav",
    ]  # fmt: skip


async def test_a_required_sidecar_is_waited_for(tmp_path: Path, manual_time: ManualTime) -> None:
    (tmp_path / "call.wav").write_bytes(b"speech")
    settings = config(tmp_path, transport="tus", sidecar={"required": True, "wait": 30})
    summary = await run_agent(settings, "rec_x", {}, once=True, clock=manual_time)
    assert summary.counts == {State.FAILED: 1}
    found = await asyncio.to_thread(look, tmp_path)
    assert found["refused"][0]["problem"] == "sidecar-missing"
    assert sum(manual_time.slept) >= 30


def test_one_agent_works_on_a_directory(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert look(tmp_path)["running"] is True
        with pytest.raises(Conflict, match="another agent"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("complete", "files", "expected"),
    [
        ({"policy": "rename"}, ["a.wav", "b.wav.part", ".c.wav"], [b"a.wav"]),
        ({"policy": "marker"}, ["a.wav", "a.wav.done", "b.wav"], [b"a.wav"]),
        ({"policy": "settle", "settle": 0}, ["a.wav", "x/y/b.gsm", "notes.txt"], [b"a.wav", b"x/y/b.gsm"]),
        ({"policy": "settle", "settle": 10}, ["a.wav"], []),
    ],
)
async def test_when_a_file_is_complete(
    tmp_path: Path, manual_time: ManualTime, complete: dict[str, Any], files: list[str], expected: list[bytes]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"speech")
    folder = await asyncio.to_thread(Folder, tmp_path)
    journal = await asyncio.to_thread(Journal, tmp_path / ".recorder-spool")
    settings = config(tmp_path, complete=complete)
    watcher = Watcher(settings, folder, journal, manual_time, lambda: None)
    await watcher._look_at_all()
    due = await asyncio.to_thread(journal.due, manual_time.wall(), 100)
    assert [entry.path for entry in due] == expected
    await asyncio.to_thread(journal.close)


async def test_the_kernel_tells_of_new_files_in_new_folders(tmp_path: Path, manual_time: ManualTime) -> None:
    folder = await asyncio.to_thread(Folder, tmp_path)
    journal = await asyncio.to_thread(Journal, tmp_path / ".recorder-spool")
    heard = asyncio.Event()
    changed: set[bytes] = set()
    watcher = Watcher(config(tmp_path), folder, journal, manual_time, lambda: None)

    def note(path: bytes) -> None:
        changed.add(path)
        heard.set()

    watcher.changed = note  # type: ignore[method-assign]  # listened to instead of looked at
    listening = asyncio.ensure_future(watcher.listen())

    async def appear() -> None:
        number = 0
        while b"2026/03/new.wav" not in changed:  # the first may come before the kernel was asked
            number += 1
            await asyncio.to_thread(os.makedirs, tmp_path / "2026/03", exist_ok=True)
            await asyncio.to_thread((tmp_path / "2026/03/new.wav").write_bytes, b"x" * number)
            heard.clear()
            await asyncio.wait([asyncio.ensure_future(heard.wait())], timeout=2)

    await appear()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await asyncio.to_thread(journal.close)


async def test_systemd_is_told_of_the_start_and_the_end(tmp_path: Path, manual_time: ManualTime) -> None:
    (tmp_path / "monitor").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    told.append(manager.recv(1000))

        # As the manager does: the kernel holds ten messages, and a sender does not wait for room.
        asyncio.get_running_loop().add_reader(manager, read)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "4000000"}
        settings = config(tmp_path / "monitor")
        summary = await run_agent(settings, "rec_x", environment, once=True, clock=manual_time)
        asyncio.get_running_loop().remove_reader(manager)
        read()
    assert summary.counts == {}
    assert told[-1] == b"STOPPING=1"
    assert b"READY=1" in told
    assert b"WATCHDOG=1" in told


async def test_an_address_that_is_no_recorder_holds_everything_and_blames_no_file(
    tmp_path: Path, manual_time: ManualTime
) -> None:
    (tmp_path / "call.wav").write_bytes(b"speech")
    runner = web.AppRunner(web.Application())  # a web server that knows none of our routes
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        settings = load_config(None, {"directory": tmp_path, "server": server})
        with pytest.raises(Unavailable, match="service-away"):
            await run_agent(settings, "rec_x", {}, once=True, clock=manual_time)
    finally:
        await runner.cleanup()
    found = await asyncio.to_thread(look, tmp_path)
    assert (found["refused"], found["waiting"]["files"]) == ([], 1)
