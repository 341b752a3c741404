"""The checker can fail: everything that may go wrong is done to an installation, and each of it is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.servers.processes import wait_until
from tests.servers.prompts import Prompts
from tests.system.chaos.checker import Config, check
from tests.system.chaos.run import Plan, embedded_run, speech_of
from tests.system.installation import Installation

# About a minute each on two idle cores.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KINDS = ("freeswitch", "generic", "jambonz", "rtpengine", "tus", "twilio")


def text_of(row_id: str) -> str:
    return uuid.UUID(row_id).hex


class Vandal:
    """Changes what only the service may change; every victim is another one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.objects = Path(config.store["folder"]) / "objects"
        self.lines = [json.loads(line) for line in Path(config.ledger).read_text().splitlines()]
        named = {
            line["id"]: line
            for line in self.lines
            if line["receipt"] and line["source"] in ("sim-generic", "sim-freeswitch")
        }
        self.victims = list(named)

    def take(self) -> str:
        """The id of a recording to which nothing was done, and with which the service is done.

        A check of its media that is still queued would judge it again and so undo what is done to it.
        """
        name = str(self.victims.pop())
        query = "SELECT count(*) FROM jobs WHERE target_id = ? AND state IN ('queued', 'running')"
        connection = self.connected()

        def at_rest() -> bool:
            (left,) = connection.execute(query, (text_of(name),)).fetchone()
            return bool(left == 0)

        try:
            wait_until(at_rest, "the background work on a recording did not end", seconds=300.0)
        finally:
            connection.close()
        return name

    def connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.config.database.removeprefix("sqlite:"), timeout=30)
        connection.execute("PRAGMA foreign_keys = OFF")
        return connection

    def sql(self, statement: str, *values: object) -> None:
        connection = self.connected()
        with connection:
            assert connection.execute(statement, values).rowcount > 0, statement
        connection.close()

    def object_of(self, name: str) -> Path:
        connection = self.connected()
        query = "SELECT key FROM objects WHERE recording_id = ? AND role = 'original'"
        (key,) = connection.execute(query, (text_of(name),)).fetchone()
        connection.close()
        return self.objects / str(key)

    def line_of(self, name: str) -> dict[str, object]:
        return next(line for line in self.lines if line["id"] == name)

    def write_ledger(self) -> None:
        Path(self.config.ledger).write_text("".join(json.dumps(line) + "\n" for line in self.lines))


async def test_it_finds_each_thing_that_may_go_wrong(
    own_installation: Callable[..., Installation], prompts: Prompts, tmp_path: Path
) -> None:
    plan = Plan(seed=5, count=84, faults=0, kinds=KINDS)
    run = await embedded_run(plan, speech_of(prompts.files["wav"]), tmp_path, own_installation)
    result = await run.go()
    assert (result.report["findings"], result.code) == ([], 0)
    config = replace(run.config(), in_hand=1.0, wait=5.0)
    wanted = await asyncio.to_thread(_vandalise, Vandal(config))
    report = await check(config)
    for kind, about in wanted:
        assert any(k == kind and about in text for k, text in report.findings), (kind, about, report.findings)
    assert "nothing is lost" not in report.table()


def _vandalise(vandal: Vandal) -> list[tuple[str, str]]:
    """Do it all.

    Returns:
        The findings that there have to be: kind, and a part of what it is about.
    """
    gone, flipped, cut, dropped, doubled, forged, swapped, aside = (vandal.take() for _ in range(8))
    wanted = [("ghost row", gone), ("does not play", gone), ("lost", gone)]
    vandal.object_of(gone).unlink()

    path = vandal.object_of(flipped)
    sealed = bytearray(path.read_bytes())
    sealed[len(sealed) // 2] ^= 1
    path.write_bytes(sealed)
    wanted += [("does not play", flipped), ("lost", flipped)]

    path = vandal.object_of(cut)
    path.write_bytes(path.read_bytes()[:-1])
    wanted += [("object of another size", path.name), ("lost", cut)]

    orphan = vandal.object_of(dropped).name
    for table, column in (("objects", "recording_id"), ("recordings", "id")):
        vandal.sql(f"DELETE FROM {table} WHERE {column} = ?", text_of(dropped))
    wanted += [("lost", dropped), ("id names nothing", dropped), ("orphan", orphan)]

    twin = uuid.uuid4()
    connection = vandal.connected()
    with connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(recordings)")]
        others = ", ".join(f'"{name}"' for name in columns if name not in ("id", "identity"))
        connection.execute(
            f"INSERT INTO recordings (id, identity, {others})"
            f" SELECT ?, ?, {others} FROM recordings WHERE id = ?",
            (twin.hex, b"another", text_of(doubled)),
        )
    connection.close()
    wanted += [("duplicate", "sha256"), ("recording without an object", str(twin))]

    line = vandal.line_of(forged)
    head, _, signature = str(line["receipt"]).rpartition(".")
    line["receipt"] = f"{head}.{signature[::-1]}"
    other = vandal.line_of(swapped)
    other["receipt"] = vandal.line_of(aside)["receipt"]
    vandal.write_ledger()
    wanted += [("receipt does not verify", f"{line['source']} #{line['number']}")]
    wanted += [("receipt proves something else", f"{other['source']} #{other['number']}")]

    vandal.sql("UPDATE recordings SET state = 'quarantined', reasons = '[]' WHERE id = ?", text_of(aside))
    wanted += [("quarantine without a cause", aside)]

    (vandal.objects / "o" / "zz").mkdir()
    (vandal.objects / "o" / "zz" / "stray").write_bytes(b"nobody knows me")
    (Path(vandal.config.spool) / "items" / "left").write_bytes(b"")
    wanted += [("orphan", "o/zz/stray"), ("left in the spool", "left"), ("not drained", "")]

    for table, state in (("fetches", "waiting"), ("resumable_uploads", "finishing")):
        vandal.sql(f"UPDATE {table} SET state = ? WHERE id = (SELECT min(id) FROM {table})", state)
    wanted += [("fetch not done", ""), ("uploads finishing", "")]

    vandal.sql("UPDATE audit_entries SET actor = 'somebody' WHERE id = (SELECT min(id) FROM audit_entries)")
    wanted += [("audit log", "")]
    return wanted
