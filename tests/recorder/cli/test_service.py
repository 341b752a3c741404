"""`serve`, `worker` and `push` as processes, against each other."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.recorder.cli.conftest import Recorder


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """The services are processes of their own; a command has its event loop to itself."""


def address(recorder: Recorder) -> str:
    return f"http://{recorder.environment['RECORDER_LISTEN']}"


def answers(recorder: Recorder, path: str = "/readyz") -> bool:
    try:
        with urllib.request.urlopen(address(recorder) + path, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def tone(path: Path, pitch: int = 40) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(
            b"".join((((i % pitch) * 300) - 6000).to_bytes(2, "little", signed=True) for i in range(16000))
        )
    return path


def get(recorder: Recorder, path: str, token: str) -> dict[str, Any]:
    request = urllib.request.Request(address(recorder) + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        document = json.load(response)
    assert isinstance(document, dict)
    return document


def test_one_service_on_one_data_directory(installed: Recorder) -> None:
    with installed.process("serve", ready=lambda: answers(installed)) as process:
        for command in ("serve", "worker", "demo"):
            line = installed.run(command, expect=4).stderr
            assert f"process {process.pid}" in line
            assert line.count("\n") == 1
        # Commands are not kept out.
        installed.run("user", "add", "aino", "--name", "Aino", "--role", "quality")
        installed.run("audit", "verify")
        installed.run("doctor")
    # The lock ends with its process.
    with installed.process("serve", ready=lambda: answers(installed)):
        pass


def test_a_taken_port_is_one_line(installed: Recorder, tmp_path: Path) -> None:
    with installed.process("serve", ready=lambda: answers(installed)):
        other = Recorder({**installed.environment, "RECORDER_DATA_DIR": str(tmp_path / "other")})
        other.run("migrate")
        line = other.run("serve", expect=2).stderr.splitlines()[-1]
        assert "RECORDER_LISTEN" in line


def test_push_proves_what_it_delivered(installed: Recorder, tmp_path: Path) -> None:
    token = installed.run("source", "add", "pbx", "--lawful-basis", "consent").output.strip().split("\t")[1]
    reader = json.loads(installed.run("token", "issue", "reader", "--role", "quality", "--json").output)[
        "token"
    ]
    first, second = tone(tmp_path / "call-1.wav"), tone(tmp_path / "call-2.wav", 55)
    to = ["--server", address(installed), "--token", token]
    with installed.process("serve", ready=lambda: answers(installed)):
        assert "checked" in installed.run("push", *to, "--dry-run", str(first)).output
        meta = ["--meta", "agents=A-17,A-21", "--meta", "queue=orders", "--meta", "customer.number=100"]
        pushed = installed.run("push", *to, *meta, "--json", str(first), str(second)).output
        lines = [json.loads(line) for line in pushed.splitlines()]
        assert [(line["state"], line["repeat"]) for line in lines] == [("stored", False)] * 2
        again = json.loads(installed.run("push", *to, *meta, "--json", str(first)).output)
        assert (again["id"], again["repeat"]) == (lines[0]["id"], True)
        listed = get(installed, f"/api/v1/recordings/{lines[0]['id']}", reader)
        assert (listed["agents"], listed["queue"]) == (["A-17", "A-21"], "orders")
        raw = ["--source", "pbx", "--meta", "external_id=call 3"]
        installed.run("push", *to, *raw, str(first))

        # One bad file does not keep the others back; the exit code tells of it.
        other = tone(tmp_path / "call-9.wav", 33)
        mixed = installed.run("push", *to, "--meta", "direction=sideways", str(other), expect=2)
        assert "call-9.wav" in mixed.stderr
        assert "direction" in mixed.stderr
        conflict = installed.run("push", *to, "--meta", "external_id=call-1", str(second), expect=4)
        assert "quarantine" in conflict.stderr
        wrong = installed.run(
            "push", "--server", address(installed), "--token", "rec_wrong", str(first), expect=4
        )
        assert "token" in wrong.stderr
        installed.run("source", "disable", "pbx")
        installed.run("push", *to, str(other), expect=4)
    assert "Connection refused" in installed.run("push", *to, "--retries", "0", str(first), expect=3).stderr


def test_push_wants_sensible_arguments(recorder: Recorder, tmp_path: Path) -> None:
    file, other = str(tone(tmp_path / "a.wav")), str(tone(tmp_path / "b.wav"))
    for arguments, word in (
        ([file], "--token"),
        (["--token", "t", str(tmp_path / "none.wav")], "none.wav"),
        (["--token", "t", "--meta", "queue", file], "KEY=VALUE"),
        (["--token", "t", "--meta", "queue.name=x", file], "queue.name"),
        (["--token", "t", "--meta", "duration=long", file], "number"),
        (["--token", "t", "--meta", "extra={", file], "JSON"),
        (["--token", "t", "--meta", "external_id=x", file, other], "external_id"),
        (["--token", "t", "--server", "nowhere", file], "http"),
    ):
        line = recorder.run("push", *arguments, expect=2).stderr
        assert word in line
        assert line.count("\n") == 1


def test_erasing_by_hand_leaves_a_certificate(installed: Recorder, tmp_path: Path) -> None:
    token = installed.run("source", "add", "pbx", "--lawful-basis", "consent").output.strip().split("\t")[1]
    crm = json.loads(installed.run("token", "issue", "crm", "--role", "crm", "--json").output)["token"]
    privacy = json.loads(installed.run("token", "issue", "dpo", "--role", "privacy", "--json").output)[
        "token"
    ]
    with installed.process("serve", ready=lambda: answers(installed)):
        body = json.dumps({"number": "4711", "source": "registration", "name": "Aino A"}).encode()
        request = urllib.request.Request(
            f"{address(installed)}/api/v1/customers",
            body,
            {"Authorization": f"Bearer {crm}", "Content-Type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=10).close()
        to = ["--server", address(installed), "--token", token, "--meta", "customer.number=4711", "--json"]
        ids = [
            json.loads(installed.run("push", *to, str(tone(tmp_path / f"{n}.wav", 30 + n))).output)["id"]
            for n in range(3)
        ]
        one = json.loads(
            installed.run("erase", "--recording", ids[0], "--ground", "request", "--yes", "--json").output
        )
        assert one["outcomes"][ids[0]]["outcome"] == "erased"
        rest = ["erase", "--customer", "-", "--ground", "request", "--json"]
        # Nobody at a terminal, and no --yes: nothing happens.
        installed.run(*rest, text="4711\n", expect=4)
        gone = json.loads(installed.run(*rest, "--yes", text="4711\n").stdout)
        assert {gone["outcomes"][i]["outcome"] for i in ids[1:]} == {"erased"}
        for recording in ids:
            with pytest.raises(urllib.error.HTTPError) as refused:
                get(installed, f"/api/v1/recordings/{recording}/audio?purpose=security", privacy)
            assert refused.value.code == 410
            refused.value.close()
        installed.run(*rest, "--yes", text="4711\n", expect=2)
        installed.run("erase", "--recording", ids[0], "--ground", "request", "--yes", expect=4)
        assert json.loads(installed.run("audit", "verify", "--json").output)["ok"]
