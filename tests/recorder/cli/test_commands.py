"""Every command on a real embedded installation, good and bad."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.rows import fill
from recorder import app
from recorder.audit.log import Sequencer
from recorder.catalogue.database import Database
from recorder.settings import Settings
from tests.recorder.cli.conftest import Recorder
from tests.servers.postgres import PostgresServer


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """A command has its event loop to itself: it may read a file where a service may not."""


def one_line(text: str) -> str:
    """What stderr says, which is one line."""
    assert text.count("\n") == 1, text
    return text


# Installing


def test_migrate_makes_a_private_installation_and_may_be_repeated(recorder: Recorder) -> None:
    first = recorder.run("migrate")
    assert "new keyring" in first.output
    assert stat.S_IMODE(recorder.data.stat().st_mode) == 0o700
    keyring = recorder.data / "keyring.json"
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o600
    before = keyring.read_bytes()
    assert "new keyring" not in recorder.run("migrate").output
    assert keyring.read_bytes() == before


def test_a_lost_keyring_is_never_replaced_by_a_new_one(installed: Recorder) -> None:
    (installed.data / "keyring.json").unlink()
    result = installed.run("migrate", expect=2)
    assert "restore it from its backup" in one_line(result.stderr)
    assert not (installed.data / "keyring.json").exists()


def test_a_service_without_an_installation_is_told_what_to_do(recorder: Recorder) -> None:
    one_line(recorder.run("serve", expect=2).stderr)
    recorder.data.mkdir(mode=0o700)
    assert "recorder migrate" in one_line(recorder.run("worker", expect=2).stderr)
    recorder.run("migrate")  # what was tried before does not stand in its way


@pytest.mark.postgres
def test_a_lost_keyring_of_a_server_database_is_not_replaced_either(
    recorder: Recorder, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    try:
        server = Recorder({**recorder.environment, "RECORDER_DATABASE_URL": url})
        server.run("migrate")
        server.run("controller", "add", "fi-main", "--name", "Esimerkki Oy", "--country", "FI")
        assert parts(server, 0)["database"]["found"].startswith("PostgreSQL")
        (server.data / "keyring.json").unlink()
        assert "restore it" in one_line(server.run("migrate", expect=2).stderr)
        assert not (server.data / "keyring.json").exists()
    finally:
        postgres.drop_database(url)


def test_an_open_data_directory_is_refused(installed: Recorder) -> None:
    installed.data.chmod(0o755)
    assert "chmod 700" in one_line(installed.run("migrate", expect=2).stderr)


def test_commands_say_what_to_do_before_anything_is_installed(recorder: Recorder) -> None:
    assert "recorder migrate" in one_line(recorder.run("controller", "list", expect=2).stderr)
    assert not recorder.data.exists()


def test_an_old_schema_is_named(installed: Recorder) -> None:
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    assert "recorder migrate" in one_line(installed.run("user", "list", expect=3).stderr)


# Failures


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nonsense"], "nonsense"),
        (["user", "add"], "USERNAME"),
        (["user", "add", "x", "--name", "X", "--role", "king"], "--role"),
        (["erase", "--ground", "request"], "--customer"),
        (["erase", "--recording", "x", "--ground", "request"], "not an id"),
        (["erase", "--customer", "1", "--ground", "retention"], "--ground"),
        (["keys", "destroy-epoch", "7", "--yes"], "no key epoch 7"),
        (["token", "revoke", "x"], "not an id"),
        (["source", "add", "UPPER"], "name"),
        (["source", "add", "pbx", "--media", "{"], "--media"),
        (["user", "list", "--controller", "xx"], "no controller xx"),
        (["user", "disable", "nobody"], "nobody"),
        (["source", "disable", "none"], "no source none"),
    ],
)
def test_wrong_usage_is_one_line_and_2(installed: Recorder, arguments: list[str], word: str) -> None:
    assert word in one_line(installed.run(*arguments, expect=2).stderr)


def test_no_command_shows_the_help(recorder: Recorder) -> None:
    assert "Commands:" in recorder.run(expect=2).stderr


def test_wrong_settings_are_named_without_their_value(recorder: Recorder) -> None:
    bad = Recorder({**recorder.environment, "RECORDER_LISTEN": "secret-value"})
    line = one_line(bad.run("serve", expect=2).stderr)
    assert "RECORDER_LISTEN" in line
    assert "secret-value" not in line


def test_a_database_that_is_away_is_3(recorder: Recorder, unused_port: int) -> None:
    recorder.run("migrate")
    url = f"postgresql://nobody:secret-word@127.0.0.1:{unused_port}/none"
    away = Recorder({**recorder.environment, "RECORDER_DATABASE_URL": url})
    line = one_line(away.run("controller", "list", expect=3).stderr)
    assert "secret-word" not in line


def test_a_damaged_keyring_is_one_line(installed: Recorder) -> None:
    (installed.data / "keyring.json").write_text("{")
    assert "keyring" in one_line(installed.run("controller", "list", expect=2).stderr)


def test_an_unexpected_error_is_one_line_and_its_traceback_is_asked_for(
    installed: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("number 100201 lives here")

    monkeypatch.setattr(app, "open_services", broken)
    line = one_line(installed.run("controller", "list", expect=1).stderr)
    assert "--debug" in line
    assert "100201" not in line
    from click.testing import CliRunner

    from recorder.cli import cli

    told = CliRunner().invoke(cli, ["--debug", "controller", "list"], env=installed.environment)
    assert (told.exit_code, "Traceback" in told.stderr) == (1, True)


@pytest.fixture
def unused_port(free_port: object) -> int:
    assert callable(free_port)
    return int(free_port())


# Controllers, people, sources, tokens


def test_controllers(installed: Recorder) -> None:
    installed.run("controller", "add", "se-main", "--name", "Exempel AB", "--country", "SE")
    listed = json.loads(installed.run("controller", "list", "--json").output)
    assert [(one["code"], one["time_zone"]) for one in listed] == [
        ("fi-main", "Europe/Helsinki"),
        ("se-main", "Europe/Stockholm"),
    ]
    schedules = json.loads(installed.run("schedule", "list", "--controller", "se-main", "--json").output)
    assert [(one["version"], one["state"]) for one in schedules] == [(1, "in force")]
    again = installed.run("controller", "add", "se-main", "--name", "X", "--country", "SE", expect=4)
    assert "already" in one_line(again.stderr)
    one_line(
        installed.run("controller", "add", "Bad Code", "--name", "X", "--country", "SE", expect=2).stderr
    )
    one_line(installed.run("controller", "add", "de", "--name", "X", "--country", "DE", expect=2).stderr)
    # Two of them: a command must say which.
    assert "--controller" in one_line(installed.run("user", "list", expect=2).stderr)


def test_a_person_comes_changes_and_goes(installed: Recorder) -> None:
    made = installed.run("user", "add", "aino", "--name", "Aino A", "--role", "quality").output
    name, password = made.strip().split("\t")
    assert (name, len(password)) == ("aino", 20)
    installed.run("user", "grant", "aino", "--role", "trainer", "--scope", "queue", "--value", "orders")
    (row,) = json.loads(installed.run("user", "list", "--json").output)
    assert row["roles"] == ["quality (controller)", "trainer (queue: orders)"]
    installed.run("user", "grant", "aino", "--role", "quality", "--revoke")
    one_line(installed.run("user", "grant", "aino", "--role", "quality", "--revoke", expect=2).stderr)
    installed.run("user", "password", "AINO", "--password-stdin", text="correct horse battery\n")
    one_line(installed.run("user", "password", "aino", "--password-stdin", text="short\n", expect=2).stderr)
    assert "taken" in one_line(
        installed.run("user", "add", "Aino", "--name", "B", "--role", "legal", expect=4).stderr
    )
    installed.run("user", "disable", "aino")
    (row,) = json.loads(installed.run("user", "list", "--json").output)
    assert (row["state"], row["roles"]) == ("disabled", ["trainer (queue: orders)"])


def test_an_agent_has_a_code(installed: Recorder) -> None:
    one_line(installed.run("user", "add", "ari", "--name", "Ari", "--role", "agent", expect=2).stderr)
    installed.run("user", "add", "ari", "--name", "Ari", "--role", "agent", "--agent-code", "A-17")
    (row,) = json.loads(installed.run("user", "list", "--json").output)
    assert (row["agent_code"], row["roles"]) == ("A-17", ["agent (own)"])


def test_sources_and_their_tokens(installed: Recorder) -> None:
    made = installed.run("source", "add", "pbx", "--lawful-basis", "customer_relationship").output
    assert made.startswith("pbx\trec_")
    assert "exists" in one_line(installed.run("source", "add", "pbx", expect=4).stderr)
    rotated = installed.run("source", "rotate", "pbx", "--overlap-hours", "1").output.strip()
    assert rotated.startswith("rec_")
    listed = json.loads(installed.run("token", "list", "--json").output)
    assert [one["state"] for one in listed] == ["living", "living"]
    assert sum(one["expires_at"] is not None for one in listed) == 1
    installed.run("source", "disable", "pbx")
    (row,) = json.loads(installed.run("source", "list", "--json").output)
    assert (row["state"], row["lawful_basis"]) == ("off", "customer_relationship")
    installed.run("source", "disable", "pbx", "--enable")


def test_what_may_be_set_of_a_source(installed: Recorder) -> None:
    kinds = json.loads(installed.run("source", "kinds", "--json").output)
    assert {"generic", "freeswitch", "rtpengine"} < kinds.keys()
    assert "parties" in kinds["rtpengine"]
    given = '{"allow": ["10.0.0.1"]}'
    installed.run("source", "add", "rtp", "--kind", "rtpengine", "--settings", given)
    (row,) = json.loads(installed.run("source", "list", "--json").output)
    assert (row["kind"], row["settings"]) == ("rtpengine", {"allow": ["10.0.0.1/32"]})
    changed = installed.run("source", "set", "rtp", '{"parties": {"caller": "customer"}}').output
    assert json.loads(changed) == {"parties": {"caller": "customer"}}
    for wrong, said in (
        (["set", "rtp", '{"wat": 1}'], "is none of allow, "),
        (["set", "rtp", '{"allow": ["x"]}'], "/settings/allow/0"),
        (["set", "rtp", "[]"], "JSON object"),
        (["set", "nobody", "{}"], "no source nobody"),
        (["add", "x", "--kind", "pigeon"], "freeswitch"),
        (["add", "x", "--settings", "{"], "--settings"),
    ):
        assert said in one_line(installed.run("source", *wrong, expect=2).stderr)


def test_secrets_of_sources(installed: Recorder, tmp_path: Path) -> None:
    installed.run("source", "add", "tw", "--kind", "twilio", "--lawful-basis", "consent")
    said = installed.run("source", "secret", "tw", "auth_token", text="tw-secret\n").output
    assert "tw-secret" not in said
    (tmp_path / "basic").write_text("SK1:s3cret\n")
    installed.run("source", "secret", "tw", "basic", "--file", str(tmp_path / "basic"))
    listed = installed.run("source", "secret", "tw", "--json").output
    assert [row["name"] for row in json.loads(listed)] == ["auth_token", "basic"]
    assert "cret" not in listed.replace("secret", "")
    installed.run("source", "secret", "tw", "basic", "--remove")
    assert len(json.loads(installed.run("source", "secret", "tw", "--json").output)) == 1
    assert "no value" in one_line(
        installed.run("source", "secret", "tw", "auth_token", text="", expect=2).stderr
    )
    one_line(installed.run("source", "secret", "tw", "password", text="x", expect=2).stderr)
    one_line(installed.run("source", "secret", "nobody", "auth_token", text="x", expect=2).stderr)


def test_tokens(installed: Recorder) -> None:
    made = json.loads(installed.run("token", "issue", "crm link", "--role", "crm", "--json").output)
    assert made["token"].startswith("rec_")
    assert made["expires_at"] is not None
    installed.run("token", "revoke", made["id"])
    assert json.loads(installed.run("token", "list", "--json").output) == []
    (row,) = json.loads(installed.run("token", "list", "--all", "--json").output)
    assert row["state"] == "revoked"
    one_line(installed.run("token", "issue", "x", "--role", "telephony", expect=2).stderr)
    one_line(installed.run("token", "revoke", str(uuid.uuid4()), expect=2).stderr)


# Schedules, keys, sweep, erasure


def test_a_schedule_is_checked_with_line_and_column(installed: Recorder, tmp_path: Path) -> None:
    good = Path("retention/schedules/default-fi.toml")
    assert "no problems" in installed.run("schedule", "check", str(good)).output
    bad = tmp_path / "bad.toml"
    bad.write_text(good.read_text().replace('keep     = "P8Y"', 'keep     = "8 years"').replace("P8Y", "8Y"))
    result = installed.run("schedule", "check", str(bad), expect=1)
    assert f"{bad}:" in result.stderr
    line, column = result.stderr.removeprefix(f"{bad}:").split(":")[:2]
    assert (int(line) > 1, int(column) > 0) == (True, True)
    bad.write_bytes(b"\xff\xfe")
    assert "UTF-8" in one_line(installed.run("schedule", "check", str(bad), expect=2).stderr)


def test_a_new_schedule_waits_for_a_second_person(installed: Recorder, tmp_path: Path) -> None:
    second = tmp_path / "second.toml"
    text = Path("retention/schedules/default-fi.toml").read_text()
    lines = ["version = 2" if line.startswith("version") else line for line in text.splitlines()]
    same = tmp_path / "same.toml"
    same.write_text("\n".join(lines) + "\n")
    told = installed.run("schedule", "simulate", str(same)).output
    assert "version 2 against version 1: needs no second person" in told
    installed.run("source", "add", "pbx", "--lawful-basis", "customer_relationship")
    catalogue = installed.data / "catalogue.sqlite3"
    with closing(sqlite3.connect(catalogue)) as connection:
        (ids,) = connection.execute("SELECT controller_id, id FROM sources").fetchall()
    owner, source = (uuid.UUID(found) for found in ids)
    database = Database(f"sqlite+aiosqlite:///{catalogue}")
    asyncio.run(fill(database, owner, source, 50, datetime.now(UTC)))
    second.write_text(same.read_text().replace('"P8Y"', '"P1Y"', 1))
    result = installed.run("schedule", "simulate", str(second), "--json", expect=4)
    report = json.loads(result.stdout)
    assert (report["against"], report["version"], report["needs_approval"]) == (1, 2, True)
    assert report["recordings"]["count"] == 50
    assert report["due_new"]["0"]["count"] > report["due_old"]["0"]["count"]
    table = installed.run("schedule", "simulate", str(second), expect=4).stdout
    assert f"0\t{report['due_old']['0']['count']}\t{report['due_new']['0']['count']}\t" in table
    installed.run("schedule", "add", str(second))
    (behind,) = [json.loads(installed.run("schedule", "progress", "--json").output)]
    assert behind == {"version": 1, "recordings": 50, "outstanding": 50}
    assert "next version" in one_line(installed.run("schedule", "add", str(second), expect=4).stderr)
    refused = one_line(installed.run("schedule", "activate", "2", "--yes", expect=4).stderr)
    approval = refused.split("--approval ")[1].strip()
    uuid.UUID(approval)
    # Asked for is not given; and nobody approves at the command line.
    one_line(installed.run("schedule", "activate", "2", "--yes", "--approval", approval, expect=4).stderr)
    listed = json.loads(installed.run("schedule", "list", "--json").output)
    assert [(one["version"], one["state"]) for one in listed] == [(2, "stored"), (1, "in force")]
    installed.run("schedule", "activate", "1", "--yes")  # repeating changes nothing


def test_keys_rotate_and_the_old_epoch_waits_for_the_backups(installed: Recorder) -> None:
    assert "epoch 2" in installed.run("keys", "rotate").output
    listed = json.loads(installed.run("keys", "list", "--json").output)
    assert [(one["epoch"], one["state"], one["keys"] > 0) for one in listed] == [
        (1, "old", False),
        (2, "current", True),
    ]
    assert "backups" in one_line(installed.run("keys", "destroy-epoch", "1", "--yes", expect=4).stderr)
    # Without a terminal nobody can say yes.
    assert "--yes" in one_line(installed.run("keys", "destroy-epoch", "1", expect=4).stderr)
    one_line(installed.run("keys", "destroy-epoch", "2", "--yes", expect=4).stderr)
    installed.run("keys", "destroy-epoch", "1", "--yes", "--before-backups-expire")
    states = [one["state"] for one in json.loads(installed.run("keys", "list", "--json").output)]
    assert states == ["destroyed", "current"]


def test_an_empty_sweep_and_erasures_of_nothing(installed: Recorder) -> None:
    report = json.loads(installed.run("sweep", "--dry-run", "--json").output)
    assert (report["fi-main"]["dry_run"], report["fi-main"]["due"]) == (True, [])
    installed.run("sweep")
    missing = ["erase", "--recording", str(uuid.uuid4()), "--ground", "request", "--yes"]
    assert "no such recording" in one_line(installed.run(*missing, expect=2).stderr)
    nobody = ["erase", "--customer", "-", "--ground", "request", "--yes"]
    assert "no living customer" in one_line(installed.run(*nobody, text="4711\n", expect=2).stderr)


# The log and the doctor


async def _sequence(data: Path) -> None:
    async with app.open_services(Settings(data_dir=data)) as services:
        await Sequencer(services).run_once()
        await Sequencer(services).copy_checkpoints()


def test_the_log_verifies_and_names_what_was_changed(installed: Recorder) -> None:
    assert "wait for their place" in installed.run("audit", "verify").output
    asyncio.run(_sequence(installed.data))
    report = json.loads(installed.run("audit", "verify", "--json").output)
    assert (report["ok"], report["first_bad_index"], report["copies"]) == (True, None, 1)
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        (payload,) = database.execute('SELECT payload FROM audit_entries WHERE "index" = 1').fetchone()
        changed = payload.replace(b'"ok"', b'"no"')
        database.execute('UPDATE audit_entries SET payload = ? WHERE "index" = 1', (changed,))
    database.close()
    assert "from index 1 on" in one_line(installed.run("audit", "verify", expect=1).stderr)
    told = installed.run("audit", "verify", "--json", expect=1)
    assert json.loads(told.stdout)["first_bad_index"] == 1


def test_actors_are_operating_system_users(installed: Recorder) -> None:
    installed.run("user", "add", "aino", "--name", "Aino A", "--role", "quality")
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        actors = {actor for (actor,) in database.execute("SELECT actor FROM audit_entries")}
        payloads = b"".join(row[0] for row in database.execute("SELECT payload FROM audit_entries"))
    database.close()
    from recorder.commands.context import operator

    assert actors == {f"os:{operator()}"}
    assert b"aino" not in payloads.lower()


def parts(recorder: Recorder, expect: int) -> dict[str, dict[str, Any]]:
    listed = json.loads(recorder.run("doctor", "--json", expect=expect).stdout)
    return {one["part"]: one for one in listed}


def test_the_doctor_is_content_and_leaves_nothing(installed: Recorder) -> None:
    asyncio.run(_sequence(installed.data))
    before = {path for path in (installed.data / "objects").rglob("*") if path.is_file()}
    found = parts(installed, 0)
    assert [one["ok"] for one in found.values()] == [True] * 10
    assert {path for path in (installed.data / "objects").rglob("*") if path.is_file()} == before
    assert "verifies" in str(found["audit log"]["found"])
    assert "0 deliveries wait" in str(found["spool"]["found"])
    assert not (installed.data / "spool").exists()
    table = installed.run("doctor").output
    assert "object store" in table
    assert "RED" not in table


def test_the_doctor_of_nothing_changes_nothing(recorder: Recorder) -> None:
    found = parts(recorder, 1)
    for part in ("data directory", "database", "keyring", "object store"):
        assert found[part]["ok"] is False
        assert "recorder migrate" in str(found[part]["remedy"])
    assert found["migrations"]["ok"] is None
    assert found["ffmpeg"]["ok"] is True
    assert not recorder.data.exists()


def test_the_doctor_sees_what_is_wrong(installed: Recorder) -> None:
    asyncio.run(_sequence(installed.data))
    keyring = installed.data / "keyring.json"
    keyring.chmod(0o644)
    found = parts(installed, 1)
    assert "chmod 600" in str(found["keyring"]["found"])
    assert found["audit log"]["ok"] is None
    keyring.chmod(0o600)
    installed.data.chmod(0o755)
    assert "chmod 700" in str(parts(installed, 1)["data directory"]["remedy"])
    installed.data.chmod(0o700)
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        database.execute("UPDATE audit_nodes SET hash = zeroblob(32)")
    database.close()
    assert parts(installed, 1)["audit log"]["ok"] is False
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        database.execute("UPDATE alembic_version SET version_num = '0000'")
    database.close()
    found = parts(installed, 1)
    assert (found["migrations"]["ok"], found["migrations"]["remedy"]) == (False, "recorder migrate")


def test_the_doctor_sees_a_clock_that_ran_backwards(installed: Recorder) -> None:
    with sqlite3.connect(installed.data / "catalogue.sqlite3") as database:
        database.execute("UPDATE audit_entries SET at = '2999-01-01 00:00:00.000000'")
    database.close()
    assert "future" in str(parts(installed, 1)["clock"]["found"])


def test_the_doctor_sees_an_ffmpeg_that_lacks_codecs(
    installed: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recorder.playback import ffmpeg

    poor = tmp_path / "ffmpeg"
    poor.write_text("#!/bin/sh\necho 'ffmpeg version 0.1 poor'\necho ' A....D pcm_s16le PCM'\n")
    poor.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "ffmpeg_path", lambda: str(poor))
    found = str(parts(installed, 1)["ffmpeg"]["found"])
    assert found.startswith("0.1 lacks decoder pcm_u8")
    assert "encoder libopus" in found
