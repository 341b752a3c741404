"""Importing, reconciling, webhooks and moving the store at the command line."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest

from tests.recorder.cli.conftest import Recorder


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: a command has its event loop for itself."""


@pytest.fixture
def pbx(installed: Recorder) -> Recorder:
    installed.run("source", "add", "old-pbx", "--lawful-basis", "customer_relationship")
    return installed


def spoken(path: Path, seconds: float = 0.2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\x10\x20" * int(8000 * seconds))
    return path


def test_an_archive_is_imported_and_a_second_run_skips_it(pbx: Recorder, tmp_path: Path) -> None:
    root, report = tmp_path / "old", tmp_path / "report.ndjson"
    for number in range(3):
        spoken(root / "2025" / f"q-600-040123456{number}-20250305-09000{number}-1741158000.{number}.wav")
    command = (
        "import",
        str(root),
        "--source",
        "old-pbx",
        "--zone",
        "Europe/Helsinki",
        "--report",
        str(report),
    )
    said = json.loads(pbx.run(*command, "--json").stdout)
    assert said["imported"] == 3
    assert "settled by an earlier run\t3" in pbx.run(*command).stdout
    manifest = tmp_path / "calls.csv"
    manifest.write_text("file,started_at\nnot-there.wav,2025-01-01 10:00\n")
    other = (*command[:-1], str(tmp_path / "other.ndjson"), "--manifest", str(manifest))
    assert "file not there\t1" in pbx.run(*other, expect=1).stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("import", "/nowhere", "--source", "old-pbx", "--report", "r"), "PLACE"),
        (("import", "s3://b/p", "--source", "old-pbx", "--report", "r"), "RECORDER_IMPORT_ENDPOINT"),
        (("import", ".", "--source", "no-such", "--report", "r"), "source"),
        (("import", ".", "--source", "old-pbx", "--report", "r", "--zone", "Mars/Olympus"), "--zone"),
        (("import", ".", "--source", "old-pbx", "--report", "r", "--pattern", "{what}"), "--pattern"),
        (("store", "copy", "--to", "ftp://x"), "--to"),
        (("store", "copy", "--to", "s3://new"), "RECORDER_TARGET_ENDPOINT"),
        (("reconcile", "cdr", __file__, "--source", "old-pbx", "--zone", "Nowhere"), "--zone"),
        (("customer", "import", __file__), "--format"),
        (("customer", "end", "C-1", "--on", "2026-03-05"), "--cause"),
        (("customer", "end", "C-1", "--confirm"), "--on"),
        (("customer", "end", "C-1", "--on", "5.3.2026", "--cause", "death"), "--on"),
        (("customer", "end", "C-1", "--on", "2026-03-05", "--cause", "rumour"), "--cause"),
    ],
)
def test_wrong_usage_is_one_line(
    pbx: Recorder, arguments: tuple[str, ...], word: str, tmp_path: Path
) -> None:
    given = tuple(str(tmp_path / "r") if a == "r" else str(tmp_path) if a == "." else a for a in arguments)
    result = pbx.run(*given, expect=2)
    assert word in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_customers_and_contacts_from_files(pbx: Recorder, tmp_path: Path) -> None:
    customers, refused = tmp_path / "customers.csv", tmp_path / "refused.csv"
    customers.write_text("number,phones\nC-1,040 123 4567\nC-2,nonsense\n", encoding="utf-8")
    result = pbx.run("customer", "import", str(customers), "--rejected", str(refused), expect=1)
    assert "new\t1" in result.stdout
    assert refused.read_text().splitlines()[1:] == ["3,/phones/0,is not a telephone number; give it as +358…"]
    contacts = tmp_path / "contacts.ndjson"
    contacts.write_text('{"number": "C-1", "kind": "visit", "at": "2025-01-01T10:00:00Z"}\n')
    assert "new\t1" in pbx.run("customer", "import", str(contacts), "--kind", "contacts").stdout
    said = pbx.run("customer", "import", "-", "--format", "csv", "--json", text="number\nC-1\n").stdout
    assert json.loads(said)["unchanged"] == 1
    assert pbx.run("customer", "line", text="+358 9 1234 500\n").stdout.strip() == "done"
    assert pbx.run("customer", "line", text="+35891234500\n").stdout.strip() == "known already"


END = ("--on", "2026-03-05", "--cause", "death", "--source", "relative")


def test_an_end_is_reported_at_the_console_and_confirmed_elsewhere(pbx: Recorder, tmp_path: Path) -> None:
    customers = tmp_path / "customers.csv"
    customers.write_text("number\nC-1\n", encoding="utf-8")
    pbx.run("customer", "import", str(customers))
    told = pbx.run("customer", "end", "C-1", *END, "--reference", "letter 7").stdout
    assert told == "2026-03-05\twaits for a person's confirmation\n"
    again = pbx.run("customer", "end", "-", *END, "--json", text="C-1\n").stdout
    assert json.loads(again) == {"ended_on": "2026-03-05", "confirmed_at": None}
    for step in (("--confirm", "--on", "2026-03-05"), ("--withdraw",)):
        refused = pbx.run("customer", "end", "C-1", *step, expect=4)
        assert refused.stderr == "recorder: only a person who is signed in may say so\n"
    unknown = pbx.run("customer", "end", "-", *END, text="C-2\n", expect=2)
    assert "no living customer" in unknown.stderr
    future = pbx.run("customer", "end", "C-1", "--on", "2999-01-01", *END[2:], expect=2)
    assert "lies in the future" in future.stderr


def test_missing_calls_are_told_by_the_exit_code(pbx: Recorder, tmp_path: Path) -> None:
    records = tmp_path / "Master.csv"
    records.write_text("start,uniqueid,billsec\n2026-03-05 09:00:00,u-1,60\nnonsense,u-2,1\n")
    result = pbx.run("reconcile", "cdr", str(records), "--source", "old-pbx", expect=1)
    assert "missing\t1" in result.stdout
    assert "line 3: its start is no date and time" in result.stderr
    records.write_text("start,uniqueid,billsec,disposition\n2026-03-05 09:00:00,u-1,0,NO ANSWER\n")
    said = pbx.run("reconcile", "cdr", str(records), "--source", "old-pbx", "--json").stdout
    assert json.loads(said)["unanswered"] == 1


def test_the_address_of_a_webhook_is_not_an_argument(pbx: Recorder) -> None:
    made = pbx.run("webhook", "add", "crm", "--event", "recording.erased", text="https://crm.example/x\n")
    endpoint, secret = made.stdout.strip().split("\t")
    assert secret.startswith("whsec_")
    [line] = pbx.run("webhook", "list").stdout.splitlines()
    assert line.split("\t")[1:5] == ["crm", "crm.example", "recording.erased", "on"]
    assert pbx.run("webhook", "rotate", endpoint).stdout.strip() != secret
    pbx.run("webhook", "test", endpoint)
    pbx.run("webhook", "enable", endpoint, "--off")
    assert json.loads(pbx.run("webhook", "list", "--json").stdout)[0]["enabled"] is False
    assert pbx.run("webhook", "replay", endpoint).stdout.strip() == "0"
    pbx.run("webhook", "remove", endpoint, expect=4)  # nobody to ask
    pbx.run("webhook", "remove", endpoint, "--yes")
    assert pbx.run("webhook", "list").stdout == ""
    assert "/url" in pbx.run("webhook", "add", "crm", text="http://crm.example/\n", expect=2).stderr


def test_the_store_moves(pbx: Recorder, tmp_path: Path) -> None:
    spoken(tmp_path / "old" / "a.wav")
    pbx.run("import", str(tmp_path / "old"), "--source", "old-pbx", "--report", str(tmp_path / "r"), expect=0)
    target = (tmp_path / "new-store").as_uri()
    assert " copied, 0 were there" in pbx.run("store", "copy", "--to", target).stdout
    pbx.run("store", "switch", "--to", target, expect=4)
    assert f"RECORDER_OBJECT_STORE={target}" in pbx.run("store", "switch", "--to", target, "--yes").stdout
    moved = Recorder({**pbx.environment, "RECORDER_OBJECT_STORE": target})
    assert moved.run("scrub", "--share", "1").stdout.startswith("1 objects read and verified")
    moved.run("audit", "verify")
