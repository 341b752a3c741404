"""redact, erase --request, scrub: what they say and how they end."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.recorder.cli.conftest import Recorder

NOBODY = str(uuid.uuid4())


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Off: a command reads its own files, in a loop that serves nobody else."""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("erase", "--request", NOBODY, "--yes"), "no request for erasure"),
        (("erase", "--request", NOBODY, "--ground", "retention", "--yes"), "--ground"),
        (("erase", "--request", NOBODY, "--ground", "court_order", "--yes"), "ground of a request"),
        (("erase", "--request", NOBODY, "--recording", NOBODY, "--yes"), "name either"),
        (("erase", "--recording", NOBODY, "--yes"), "say why"),
        (("redact", NOBODY, "--from", "1", "--to", "2", "--reason", "payment"), "no such recording"),
        (("redact", NOBODY, "--from", "soon", "--to", "2", "--reason", "payment"), "a time is"),
        (("redact", NOBODY, "--from", "1", "--to", "2", "--reason", "Card!"), "a reason is"),
        (("redact", "x", "--from", "1", "--to", "2", "--reason", "payment"), "not an id"),
        (("scrub", "--share", "0"), "--share"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    installed: Recorder, arguments: tuple[str, ...], why: str
) -> None:
    result = installed.run(*arguments, expect=2)
    assert why in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_code_is_not_destroyed_unasked(installed: Recorder) -> None:
    arguments = ("redact", NOBODY, "--from", "1:02.5", "--to", "1:03", "--reason", "card_security")
    installed.run(*arguments, expect=4)


def test_an_empty_store_is_scrubbed_at_once(installed: Recorder) -> None:
    done = json.loads(installed.run("scrub", "--json").stdout)
    assert (done["objects"], done["wrong"]) == (0, [])


def test_a_dry_run_counts_the_other_records(installed: Recorder) -> None:
    found = json.loads(installed.run("sweep", "--dry-run", "--json").stdout)
    lines = {line["record"]: line for line in found["fi-main"]["records"]}
    assert {"request", "matter", "account", "customer", "log_entry", "assessment"} <= set(lines)
    assert all(line["due"] == line["destroyed"] == 0 for line in lines.values())
    report = json.loads(installed.run("report", "retention", "--json").stdout)
    assert {line["record"] for line in report["records"]} == set(lines)
