"""Backup, erasure, restore: the service refuses, restore-check replays, and what was erased stays erased."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from recorder.installation import make_ready
from tests.servers import processes
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.conftest import BOTH
from tests.system.installation import Installation, call_of, client, embedded, production, tone
from tests.system.test_way_of_a_call import stored, with_customer

Make = Callable[..., Installation]


@pytest.fixture
def installation(request: pytest.FixtureRequest, own_installation: Make) -> Installation:
    if request.param == "embedded":
        return own_installation(embedded)
    s3: S3Server = request.getfixturevalue("s3_server")
    postgres: PostgresServer = request.getfixturevalue("postgres")
    return own_installation(production, s3, postgres)


def restore(installation: Installation, backup: Path) -> None:
    """As an operator would, with the database's own tools."""
    if (backup / "catalogue.sqlite3").exists():
        for left in installation.data.glob("catalogue.sqlite3*"):
            left.unlink()
        shutil.copy(backup / "catalogue.sqlite3", installation.data / "catalogue.sqlite3")
        return
    url = sa.make_url(installation.settings["RECORDER_DATABASE_URL"])
    program = shutil.which("pg_restore")
    assert program is not None
    subprocess.run(
        [
            program,
            "--clean",
            "--if-exists",
            "--no-owner",
            f"--host={url.host}",
            f"--port={url.port}",
            f"--username={url.username}",
            f"--dbname={url.database}",
            str(backup / "catalogue.pgdump"),
        ],
        check=True,
        capture_output=True,
        env={**processes.clean_environment(), "PGPASSWORD": url.password or ""},
    )


async def copied(installation: Installation) -> None:
    """Until the log's newest entries are signed in the store, as they are half a minute later at most."""
    from recorder.app import open_services
    from recorder.audit.log import Sequencer

    async with open_services(installation.open_settings()) as services:
        log = Sequencer(services)
        await log.run_once()
        await log.copy_checkpoints()


@pytest.mark.parametrize("installation", BOTH, indirect=True)
async def test_what_was_erased_stays_erased_after_a_restore(installation: Installation) -> None:
    backup, keys = installation.folder / "backup", installation.folder / "apart"
    await asyncio.to_thread(installation.start)
    async with client(installation) as api:
        customer, gone = await with_customer(api, "K-1", "restore-customer")
        single = await stored(api, "restore-single")
        stays = await stored(api, "restore-stays")
        made = await installation.run("backup", str(backup), "--keyring-to", str(keys), "--json")
        assert made.returncode == 0, made.stderr
        for arguments in (["--customer", "K-1"], ["--recording", single["id"]]):
            done = await installation.run("erase", *arguments, "--ground", "request", "--yes")
            assert done.returncode == 0, done.stderr
        late = await stored(api, "restore-late")
        certificate = (await api.audio(gone["id"])).json["certificate"]
    await asyncio.to_thread(installation.stop)
    await copied(installation)

    files = {path.name: path for path in backup.iterdir()}
    assert "keyring.json" not in files
    assert (keys / "keyring.json").read_bytes() == (installation.data / "keyring.json").read_bytes()
    for path in (*files.values(), keys / "keyring.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    manifest = json.loads(files["backup.json"].read_bytes())
    listed = [json.loads(line) for line in files["objects.jsonl"].read_text().splitlines()]
    assert manifest["objects"]["count"] == len(listed) >= 3
    raw = b"".join(path.read_bytes() for path in files.values())
    assert b"K-1" not in raw

    await asyncio.to_thread(restore, installation, backup)
    with pytest.raises(processes.ServerFailedError) as refused:
        await asyncio.to_thread(installation.start)
    assert "restore-check" in str(refused.value)
    await asyncio.to_thread(installation.stop)
    dry = await installation.run("restore-check", "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    found = json.loads(dry.stdout)
    assert found["behind"]
    assert set(found["recordings"]) == {gone["id"], single["id"]}
    assert found["customers"] == [customer]
    unasked = await installation.run("restore-check")
    assert unasked.returncode == 4
    done = await installation.run("restore-check", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["lost_entries"][1] > json.loads(done.stdout)["lost_entries"][0]

    await asyncio.to_thread(installation.start)
    async with client(installation) as api:
        for erased in (gone, single):
            answer = await api.audio(erased["id"])
            assert (answer.status, answer.problem) == (410, "erased")
        assert (await api.audio(stays["id"])).status in {200, 503}
        assert (await api.audio(late["id"])).status == 404  # pushed after the backup: its row is lost
        again = await api.push(call_of("restore-customer", customer={"number": "K-1"}), tone(2.0))
        assert (again.status, again.problem) == (410, "erased")
        assert certificate != (await api.audio(gone["id"])).json["certificate"]  # one of its own
    verified = await installation.run("audit", "verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    nothing = await installation.run("restore-check", "--dry-run", "--json")
    assert (json.loads(nothing.stdout)["behind"], json.loads(nothing.stdout)["recordings"]) == (False, [])
    await asyncio.to_thread(installation.stop)


async def test_a_backup_is_refused_where_keyring_and_database_would_meet(own_installation: Make) -> None:
    installation = own_installation(embedded)
    await make_ready(installation.open_settings())
    used = installation.folder / "used"
    await asyncio.to_thread(used.mkdir)
    await asyncio.to_thread((used / "x").write_text, "x")
    new = installation.folder / "new"
    for arguments in (
        [str(used)],
        [str(installation.data)],
        [str(new), "--keyring-to", str(new)],
        [str(new), "--keyring-to", str(new / "keys")],
        [str(new / "db"), "--keyring-to", str(new)],
        [str(new), "--keyring-to", str(installation.data)],
    ):
        done = await installation.run("backup", *arguments)
        assert done.returncode == 2, done.stdout + done.stderr
    assert not await asyncio.to_thread(os.path.exists, new)
    plain = await installation.run("backup", str(new))
    assert plain.returncode == 0, plain.stderr
    assert "keyring is not in it" in plain.stdout
