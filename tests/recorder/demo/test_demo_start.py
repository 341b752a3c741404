"""`recorder demo` as a person meets it: a killed first start, the next one, and one a day later."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recorder.demo.scripts import CALLS, CUSTOMERS

PARTIAL, FINAL = ".demo-accounts.partial.json", "demo-accounts.json"
ROLES = {"agent", "trainer", "quality", "legal", "privacy", "operator", "auditor"}


@contextmanager
def start(data: Path, listen: str) -> Iterator[subprocess.Popen[str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RECORDER_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "recorder", "demo"],
        env={**environment, "RECORDER_DATA_DIR": str(data), "RECORDER_LISTEN": listen},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    while not ready():
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        assert process.stderr is not None
        pytest.fail(f"the demo ended with {process.returncode}: {process.stderr.read()}")


def stop(process: subprocess.Popen[str]) -> str:
    """Ctrl-C; the demo ends well and this returns what it printed."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def ask(document: dict[str, Any], role: str, path: str) -> tuple[int, bytes]:
    token = next(t["token"] for t in document["tokens"] if t["role"] == role)
    request = urllib.request.Request(document["address"] + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def listed(document: dict[str, Any], role: str = "quality") -> list[dict[str, Any]]:
    status, body = ask(document, role, "/api/v1/recordings?tag=demo&limit=50")
    assert status == 200
    items = json.loads(body)["items"]
    assert isinstance(items, list)
    return items


def check_contract(data: Path, address: str) -> dict[str, Any]:
    """What scripts may rely on; see docs/cli.md."""
    path = data / FINAL
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document: dict[str, Any] = json.loads(path.read_text())
    assert set(document) == {"address", "accounts", "tokens", "sources"}
    assert document["address"] == address
    assert {account["role"] for account in document["accounts"]} == ROLES
    assert len(document["accounts"]) == len(ROLES)
    assert sorted(token["role"] for token in document["tokens"]) == sorted({*ROLES, "crm", "telephony"})
    assert document["sources"][0]["kind"] == "generic"
    assert set(document["sources"][0]) == {"name", "kind", "token"}
    return document


def check_calls(document: dict[str, Any]) -> None:
    items = listed(document)
    assert len(items) == len(CALLS) >= 12
    assert {item["state"] for item in items} == {"stored"}
    assert sum(item["held"] for item in items) == 1
    assert sum(item["restricted"] for item in items) == 1
    heard = {}
    for item in items:
        status, body = ask(document, "quality", f"/api/v1/recordings/{item['id']}/audio?purpose=quality")
        assert status in {200, 403}
        said = any(window["purpose"] == "quality" for window in item["playable"])
        assert said == (status == 200)
        if status == 200:
            heard[item["id"]] = body
    assert len(heard) >= 8
    # The newest call, on top of every list, can be heard at once.
    assert max(items, key=lambda item: item["started_at"])["id"] in heard
    assert sum(item["customer"]["id"] is None if item["customer"] else True for item in items) == 1


def check_desk(document: dict[str, Any]) -> None:
    """Something lies on every desk, once."""

    def items(role: str, path: str) -> list[dict[str, Any]]:
        status, body = ask(document, role, path)
        assert status == 200, body
        found = json.loads(body)["items"]
        assert isinstance(found, list)
        return found

    assert sorted(item["type"] for item in items("privacy", "/api/v1/requests")) == ["access", "erasure"]
    [step] = items("legal", "/api/v1/approvals?state=pending")
    assert step["details"]["step"] == "role.grant"
    assert [item["outcome"] for item in items("operator", "/api/v1/completeness/expected")] == ["missing"]
    assert len(items("operator", "/api/v1/quarantine")) == 1
    transferred = [item for item in listed(document) if item["queue"] == "orders" and "sv" in item["tags"]]
    status, body = ask(document, "quality", f"/api/v1/calls/{transferred[0]['call_id']}")
    assert status == 200, body
    ways = {call["way"]: len(call["recordings"]) for call in json.loads(body)["calls"]}
    assert ways == {"from": 2, "self": 1}


def check_sign_in(document: dict[str, Any]) -> None:
    account = next(a for a in document["accounts"] if a["role"] == "quality")
    body = json.dumps({"username": account["username"], "password": account["password"]}).encode()
    request = urllib.request.Request(
        f"{document['address']}/api/v1/session", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.status in {200, 201}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_first_start_is_finished_by_the_next(tmp_path: Path, free_port: Callable[[], int]) -> None:
    data, listen = tmp_path / "data", f"127.0.0.1:{free_port()}"
    calls = data / "objects"

    def some_calls() -> bool:
        return calls.is_dir() and sum(path.is_file() for path in calls.rglob("*")) >= 5

    with start(data, listen) as process:
        wait(process, some_calls)
        process.kill()
    assert not (data / FINAL).exists()
    assert stat.S_IMODE((data / PARTIAL).stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    before = json.loads((data / PARTIAL).read_text())

    with start(data, listen) as process:
        wait(process, (data / FINAL).exists)
        document = check_contract(data, f"http://{listen}")
        # Nothing is made twice, and what the first start gave out stays good.
        assert document["accounts"] == before["accounts"]
        assert document["tokens"][: len(before["tokens"])] == before["tokens"]
        check_calls(document)
        check_desk(document)
        check_sign_in(document)
        ids = {item["id"] for item in listed(document)}
        out = stop(process)
    assert f"http://{listen}" in out
    for account in document["accounts"]:
        assert re.search(rf"^{account['username']} +{re.escape(account['password'])}", out, re.MULTILINE)
    assert not (data / PARTIAL).exists()
    # Nothing that was said or written about anybody lies readable in the data directory.
    personal = [word for c in CUSTOMERS for word in (c.name, c.phone, c.email, c.address)]
    for path in data.rglob("*"):
        if path.is_file() and path.name != FINAL:
            content = path.read_bytes()
            assert not any(word.encode() in content for word in personal), path

    elsewhere = f"127.0.0.1:{free_port()}"
    with start(data, elsewhere) as process:
        wait(process, lambda: json.loads((data / FINAL).read_text())["address"] == f"http://{elsewhere}")
        later = check_contract(data, f"http://{elsewhere}")
        assert later["tokens"] == document["tokens"]
        assert {item["id"] for item in listed(later)} == ids
        stop(process)


def test_without_a_port_it_says_so_in_one_line(tmp_path: Path, free_port: Callable[[], int]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        with start(tmp_path / "data", f"127.0.0.1:{taken.getsockname()[1]}") as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "another program listens there" in err
