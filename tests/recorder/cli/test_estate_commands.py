"""schedule simulate, activate and progress, sweep --dry-run and report over an estate of recordings."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench.rows import fill
from recorder.app import open_services
from recorder.catalogue.database import Database
from recorder.disposition.reevaluation import follow
from recorder.settings import Settings
from tests.recorder.cli.conftest import Recorder

CALLS = 200
TEXT = Path("retention/schedules/default-fi.toml").read_text()


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: a command reads its own files, in a loop that serves nobody else."""


@pytest.fixture
def estate(installed: Recorder) -> Recorder:
    """Calls of nine years and forty customers, decided by the version in force."""
    installed.run("source", "add", "pbx", "--lawful-basis", "customer_relationship")
    catalogue = installed.data / "catalogue.sqlite3"
    with closing(sqlite3.connect(catalogue)) as connection:
        ((owner, source),) = connection.execute("SELECT controller_id, id FROM sources").fetchall()
    database = Database(f"sqlite+aiosqlite:///{catalogue}")
    asyncio.run(fill(database, uuid.UUID(owner), uuid.UUID(source), CALLS, datetime.now(UTC)))
    asyncio.run(followed(installed, uuid.UUID(owner)))
    return installed


async def followed(recorder: Recorder, controller_id: uuid.UUID) -> int:
    async with open_services(Settings(data_dir=recorder.data)) as services:
        return await follow(services, controller_id)


def told(recorder: Recorder, *arguments: str, expect: int = 0) -> Any:
    return json.loads(recorder.run(*arguments, "--json", expect=expect).stdout)


def version(folder: Path, number: int, *edits: tuple[str, str]) -> str:
    text = TEXT.replace("version    = 1", f"version    = {number}")
    for before, after in edits:
        assert before in text
        text = text.replace(before, after, 1)
    path = folder / f"{number}.toml"
    path.write_text(text)
    return str(path)


def test_a_simulation_counts_what_a_dry_run_names_and_a_report_keeps(
    estate: Recorder, tmp_path: Path
) -> None:
    same = told(estate, "schedule", "simulate", version(tmp_path, 2))
    assert (same["recordings"]["count"], same["needs_approval"], same["stricter"]) == (CALLS, False, [])
    due = {item["recording"] for item in told(estate, "sweep", "--dry-run")["fi-main"]["due"]}
    assert same["due_new"]["0"]["count"] == len(due) > 0
    assert same["held"]["count"] > 0

    report = told(estate, "report", "retention")
    assert report["overdue"]["count"] == 0, "their time is long over, but no sweep has left them behind yet"
    with closing(sqlite3.connect(estate.data / "catalogue.sqlite3")) as connection, connection:
        connection.execute("UPDATE recordings SET evaluated_at = datetime('now', '-2 days')")
    report = told(estate, "report", "retention", expect=1)  # so much is overdue that the exit code tells
    assert report["overdue"]["count"] > 0
    assert (report["schedule"], report["total"]["count"]) == (1, CALLS)
    assert report["held"]["count"] == same["held"]["count"]
    assert report["due"]["count"] + report["overdue"]["count"] == len(due)
    assert sum(line["count"] for line in report["why"]) == CALLS
    assert {line["rule"] for line in report["why"] if line["why"] == "rule"} >= {"relationship"}
    shown = estate.run("report", "retention", expect=1).stdout
    assert f"all\t{CALLS}\t" in shown
    assert f"held\t{report['held']['count']}\t" in shown
    assert f"overdue\t{report['overdue']['count']}\t" in shown


def test_a_longer_version_comes_into_force_and_decisions_follow(estate: Recorder, tmp_path: Path) -> None:
    longer = version(tmp_path, 2, ('"P8Y"', '"P12Y"'))
    simulated = told(estate, "schedule", "simulate", longer)
    assert simulated["due_new"]["0"]["count"] < simulated["due_old"]["0"]["count"]
    estate.run("schedule", "add", longer)
    said = estate.run("schedule", "activate", "2", "--yes").stdout
    assert "version 2 is in force" in said
    assert f"{simulated['held']['count']} recordings are kept by a legal hold" in said
    assert told(estate, "schedule", "progress") == {"version": 2, "recordings": CALLS, "outstanding": CALLS}
    assert asyncio.run(followed(estate, uuid.UUID(simulated["controller"]))) == CALLS
    assert told(estate, "schedule", "progress") == {"version": 2, "recordings": CALLS, "outstanding": 0}
    report = told(estate, "report", "retention")
    assert report["due"]["count"] + report["overdue"]["count"] == simulated["due_new"]["0"]["count"]


def test_a_stricter_rule_for_no_call_yet_waits_for_a_second_person(estate: Recorder, tmp_path: Path) -> None:
    rule = '[[rule]]\nid = "fraud"\npurposes = ["security"]\nwhen = { queue = ["fraud"] }\n'
    rule += 'keep = "P20Y"\nafter = "last_contact"\n\n[cap]'
    estate.run("schedule", "add", version(tmp_path, 2, ("[cap]", rule)))
    estate.run("schedule", "activate", "2", "--yes")
    shorter = version(tmp_path, 3, ("[cap]", rule.replace("P20Y", "P19Y")))
    simulated = told(estate, "schedule", "simulate", shorter, expect=4)
    assert (simulated["shortens"], simulated["needs_approval"]) == (False, True)
    assert (
        "may keep less: rule fraud security" in estate.run("schedule", "simulate", shorter, expect=4).stdout
    )
    estate.run("schedule", "add", shorter)
    refused = estate.run("schedule", "activate", "3", "--yes", expect=4).stderr
    assert "a second person must approve" in refused


def test_the_record_of_processing_names_what_is_there(estate: Recorder) -> None:
    found = told(estate, "report", "article30")
    bases = {line["basis"]: line["recordings"] for line in found["lawful_bases"]}
    assert bases["customer_relationship"] == CALLS
    shown = estate.run("report", "article30").stdout
    assert "purpose\t" in shown
    assert "relationship" in shown
    estate.run("report", "retention", "--controller", "nobody", expect=2)
