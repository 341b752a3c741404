"""What a second person is asked to approve, in words; whatever is long can be opened."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from recorder.access import approvals
from recorder.access.approvals import ApprovalView
from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import ApprovalState, Role, ScopeKind
from recorder.web.approval_words import STEPS, Fact, Words, facts, words

HERE, SOMEBODY, TARGET = uuid.UUID(int=1), uuid.UUID(int=2), str(uuid.UUID(int=3))
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
DIGEST = "5ad9ee96" * 8
HELSINKI = ZoneInfo("Europe/Helsinki")


def asked(action: str, target: str = TARGET, **details: Any) -> ApprovalView:
    return ApprovalView(
        uuid.uuid4(), HERE, action, target, details, ApprovalState.PENDING, f"account:{SOMEBODY}", NOW,
        NOW + timedelta(days=7), None, None, None,
    )  # fmt: skip


def told(view: ApprovalView, **names: str) -> Words:
    return words(view, names, HELSINKI)


def person(role: Role) -> Principal:
    return Principal("account", str(SOMEBODY), HERE, (Grant(role, HERE, ScopeKind.CONTROLLER),))


@pytest.mark.parametrize(
    ("step", "spelt", "agent", "what", "effect"),
    [
        (
            "role.grant", f"trainer:{HERE}:queue:invoicing,orders", "A-17",
            "Give Alex Agent the role trainer, for the calls of the queues invoicing and orders.",
            "Alex Agent may then hear the calls of the queues invoicing and orders for training.",
        ),
        (
            "password.set", f"legal:{HERE}:controller", None,
            "Set another password for Alex Agent, who has the role legal, for all calls of the controller.",
            "Whoever knows the new password signs in as Alex Agent and may then hear all calls of the "
            "controller for service evidence and legal protection.",
        ),
        (
            "account.create", f"agent:{HERE}:own", "A-17",
            "Make a new account with the role agent, for the calls of agent A-17.",
            "Whoever gets the account may then hear the calls of agent A-17 for training and quality.",
        ),
        (
            "token.issue", f"quality:{HERE}:team:A-17", None,
            "Issue an API token, for which Alex Agent answers, with the role quality, for the calls of the "
            "agent A-17.",
            "A program that has the token may then hear the calls of the agent A-17 for quality.",
        ),
    ],
)  # fmt: skip
def test_who_may_hear_what_is_told(step: str, spelt: str, agent: str | None, what: str, effect: str) -> None:
    view = asked("listening_role", step=step, roles=[spelt], request=DIGEST, agent_code=agent)
    found = told(view, **{TARGET: "Alex Agent"})
    assert (found.what, found.effect) == (what, effect)
    [only] = facts(view, person(Role.PRIVACY))
    assert only == Fact("Fingerprint of the request", "5ad9ee96…", (DIGEST,), None, code=True)


def test_a_disclosure_tells_what_goes_to_whom() -> None:
    ids = [str(uuid.UUID(int=n)) for n in (7, 8)]
    view = asked("disclosure", ground="court_order", reference="R 26/117", recordings=ids)
    assert (
        told(view, **{TARGET: "Käräjäoikeus"}).what == "Give Käräjäoikeus 2 recordings, by a court's order."
    )
    assert facts(view, person(Role.LEGAL)) == [
        Fact("Reference", "R 26/117"),
        Fact("Recordings", "2", tuple(ids), code=True),
    ]
    research = asked(
        "research_export",
        reference="Study 4",
        since="2026-01-31T22:00:00+00:00",
        until="2026-02-28T22:00:00+00:00",
        queue=None,
    )
    assert told(research).what == (
        "Give a recipient of the register the recordings from 1 Feb 2026 until 1 Mar 2026 for research, "
        "under pseudonyms."
    )


def test_a_schedule_and_the_brakes_tell_their_numbers() -> None:
    schedule = asked(
        "schedule_activate", f"{HERE}:4", document_sha256=DIGEST, simulation=DIGEST, against=3,
        erased_now=1204, closed_now=0, records_now=2,
    )  # fmt: skip
    assert told(schedule).what == ("Put version 4 of the retention schedule in force, in place of version 3.")
    assert [(fact.label, fact.short) for fact in facts(schedule, person(Role.PRIVACY))] == [
        ("Document", "Version 4"),
        ("Recordings due at once", "1,204"),
        ("Windows closed at once", "0"),
        ("Other records that go at once", "2"),
        ("Fingerprint of the document", "5ad9ee96…"),
        ("Fingerprint of the simulation", "5ad9ee96…"),
    ]
    brake = asked("sweep_brake", count=2100, population=9000)
    assert told(brake).what == "Let the sweep erase 2,100 of 9,000 recordings at once."
    records = asked("records_brake", f"{HERE}:listen", record="listen", count=50, population=60)
    assert told(records).what == "Let the sweep destroy 50 of 60 records that are over: listens."
    assert facts(brake, person(Role.PRIVACY)) == facts(records, person(Role.PRIVACY)) == []


def test_the_matter_is_a_link_for_whom_it_opens() -> None:
    view = asked("hold_release", TARGET, matter=str(uuid.UUID(int=9)))
    for role, href in ((Role.LEGAL, f"/app/matters/{uuid.UUID(int=9)}"), (Role.PRIVACY, None)):
        matter, hold = facts(view, person(role))
        assert (matter.short, matter.href) == ("00000000…", href)
        assert hold.whole == (TARGET,)


@pytest.mark.parametrize("action", [*approvals.STEPS, "records_brake", "something_new"])
def test_details_that_are_missing_or_odd_break_nothing(action: str) -> None:
    odd: dict[str, Any] = {"roles": "trainer", "recordings": 3, "count": "many", "since": "soon"}
    for details in ({}, odd, {"step": "role.grant", "roles": [":", ""]}):
        view = asked(action, "nobody", **details)
        assert told(view).what.endswith(".")
        facts(view, person(Role.AUDITOR))


def test_every_step_has_its_words() -> None:
    assert set(approvals.STEPS) < set(STEPS)
