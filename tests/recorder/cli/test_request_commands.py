"""``request`` and ``matter``: the register from the command line, and nothing personal in its arguments."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.recorder.cli.conftest import Recorder

PERSON = {"name": "Aino Esimerkki", "contact": "aino@example.fi", "message": "Mitä minusta on tallessa?"}
FILED = ("request", "new", "--type", "access", "--channel", "post", "--received", "2026-01-05T10:00:00+02:00")


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """A command has its event loop to itself: it may read a file where a service may not."""


def filed(recorder: Recorder, **person: Any) -> str:
    result = recorder.run(*FILED, "--language", "fi", "--person-stdin", text=json.dumps(person or PERSON))
    rights_id, last_day = result.stdout.strip().split("\t")
    assert last_day == "2026-02-05"
    return rights_id


def test_a_request_is_filed_listed_and_shown(installed: Recorder) -> None:
    rights_id = filed(installed)
    [listed] = json.loads(installed.run("request", "list", "--json").stdout)
    assert (listed["id"], listed["type"], listed["state"]) == (rights_id, "access", "pending")
    assert "Aino" not in json.dumps(listed), "lists say nothing personal"
    shown = json.loads(installed.run("request", "show", rights_id, "--json").stdout)
    assert shown["person"] == PERSON
    assert shown["recordings"] == []
    overdue = installed.run("request", "list", "--due", "overdue").stdout
    assert overdue.startswith(rights_id)
    assert installed.run("request", "list", "--due", "overdue", "--type", "erasure").stdout == ""


def test_identity_refusal_letter_and_that_it_was_sent(installed: Recorder) -> None:
    rights_id = filed(installed)
    early = installed.run("request", "reply", rights_id, "--sent", expect=4)
    assert "no decision" in early.stderr
    installed.run("request", "identity", rights_id, "--method", "document_seen", "--outcome", "not_shown")
    ungrounded = installed.run("request", "decide", rights_id, "refused", expect=2)
    assert "ground" in ungrounded.stderr
    told = installed.run("request", "decide", rights_id, "refused", "--ground", "identity_not_shown")
    assert told.stdout.split("\t")[1] == "refused"
    assert "Aino Esimerkki" in installed.run("request", "reply", rights_id).stdout
    swedish = installed.run("request", "reply", rights_id, "--language", "sv", "--sent").stdout
    assert "Din begäran" in swedish
    again = installed.run("request", "reply", rights_id, "--sent", expect=4)
    assert "before" in again.stderr
    shown = json.loads(installed.run("request", "show", rights_id, "--json").stdout)
    assert shown["replied_at"] is not None
    installed.run("request", "decide", rights_id, "no-data", expect=4)


def test_what_is_late_is_not_extended_and_what_is_undone_ends(installed: Recorder) -> None:
    rights_id = filed(installed)
    late = installed.run("request", "extend", rights_id, "--reason", "complexity", expect=4)
    assert late.stderr.count("\n") == 1
    recent = installed.run("request", "new", "--type", "erasure", "--channel", "web").stdout.split("\t")[0]
    longer = installed.run("request", "extend", recent, "--reason", "complexity").stdout
    assert longer.startswith(recent)
    asked = installed.run("request", "undo", recent, "--reason", "filed_in_error", expect=4)
    assert "--yes" in asked.stderr
    undone = installed.run("request", "undo", recent, "--reason", "filed_in_error", "--yes")
    assert undone.stdout.split("\t")[1] == "undone"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "JSON object"),
        ('["a list"]', "JSON object"),
        ('{"colour": "red"}', "JSON object"),
        ('{"name": 7}', "name is a text"),
        (json.dumps({"name": "x" * 201}), "name is a text"),
        (json.dumps({"customer": "no-such"}), "no living customer"),
    ],
)
def test_what_stdin_may_say_of_a_person(installed: Recorder, text: str, says: str) -> None:
    refused = installed.run(*FILED, "--person-stdin", text=text, expect=2)
    assert says in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert installed.run("request", "list").stdout == ""


def test_what_is_not_there_or_cannot_be_read_is_said_in_one_line(installed: Recorder) -> None:
    nobody = str(uuid.uuid4())
    for arguments, code in (
        (("request", "show", "nonsense"), 2),
        (("request", "show", nobody), 2),
        (("request", "decide", nobody, "granted", "--leave-out", "x=y"), 2),
        ((*FILED[:-1], "yesterday"), 2),
        ((*FILED[:-1], "2026-01-05T10:00:00"), 2),
        ((*FILED[:-1], "2999-01-05T10:00:00Z"), 2),
        (("matter", "show", nobody), 2),
        (("matter", "open", "R-1", "--ground", "legal_claims", "--review-on", "soon"), 2),
        (("matter", "hold", nobody), 2),
        (("matter", "hold", nobody, "--where", "colour=red"), 2),
    ):
        assert installed.run(*arguments, expect=code).stderr.count("\n") == 1, arguments


def test_a_customer_is_named_on_stdin_only(installed: Recorder) -> None:
    rights_id = filed(installed)
    unknown = installed.run("request", "customer", rights_id, text="100201\n", expect=2)
    assert "no living customer" in unknown.stderr
    assert "100201" not in unknown.stderr
    installed.run("request", "customer", rights_id, "100201", expect=2)


def test_a_matter_holds_and_its_release_waits_for_a_person(installed: Recorder) -> None:
    words = {"title": "Claim of A. Esimerkki", "custodians": ["Leena Legal"]}
    opened = installed.run(
        "matter", "open", "2026-014", "--ground", "legal_claims", "--review-on", "2030-01-01T00:00:00Z",
        "--words-stdin", text=json.dumps(words),
    )  # fmt: skip
    matter = opened.stdout.strip()
    hold = installed.run(
        "matter", "hold", matter, "--where", "queue=support", "--where", "queue=sales", "--where",
        "started_from=2026-01-01T00:00:00Z",
    ).stdout.strip()  # fmt: skip
    [shown] = json.loads(installed.run("matter", "list", "--json").stdout)
    assert (shown["title"], shown["custodians"]) == (words["title"], words["custodians"])
    assert shown["holds"][0]["query"]["queue"] == ["support", "sales"]
    assert "Esimerkki" not in installed.run("matter", "list").stdout

    waits = installed.run("matter", "release", matter, hold, expect=4)
    assert "second person" in waits.stderr
    approval = waits.stderr.strip().rpartition(" ")[2]
    unapproved = installed.run("matter", "release", matter, hold, "--approval", approval, expect=4)
    assert unapproved.stderr.count("\n") == 1
    assert "hold" in installed.run("matter", "close", matter, expect=4).stderr
    assert (
        json.loads(installed.run("matter", "show", matter, "--json").stdout)["holds"][0]["released_at"]
        is None
    )
