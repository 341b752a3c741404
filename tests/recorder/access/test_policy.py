"""The whole matrix: every role, action, purpose, scope and kind of call, against a table written apart.

The expectation below is typed from docs/access.md, not derived from the code's table: one line per right, one
letter per reach. What has no line is expected to be refused.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from recorder.access.policy import (
    ACTION_WORDS,
    AUDIO,
    ROLE_WORDS,
    Action,
    ScopeFilter,
    Target,
    decide,
    purposes_for,
    require,
    scopes_for,
    visible,
)
from recorder.access.principals import Grant, Principal, PrincipalKind
from recorder.catalogue.enums import Role, ScopeKind
from recorder.errors import Forbidden
from retention.model import Purpose

HERE, ELSEWHERE = uuid.UUID(int=1), uuid.UUID(int=2)
SOURCE, OTHER_SOURCE = uuid.UUID(int=3), uuid.UUID(int=4)

# o own calls, f own calls given as feedback, s the grant's scope, c whole controller, t the token's source
RIGHTS = """
telephony  t  push view_receipt
crm        c  manage_customers add_contact add_choice
agent      o  list_recordings search_recordings view_recording view_retention view_assessments
agent      o  listen:quality
agent      f  listen:training
trainer    s  list_recordings search_recordings view_recording view_retention manage_collections
trainer    s  listen:training create_link:training
quality    s  list_recordings search_recordings view_recording view_retention assess view_assessments
quality    s  listen:quality create_link:quality
legal      c  list_recordings search_recordings view_recording view_retention view_history view_customers
legal      c  view_schedules manage_matters disclose view_reports view_approvals decide_approval
legal      c  view_registers manage_recipients manage_breaches
legal      c  listen:service_evidence listen:legal_protection create_link:service_evidence
legal      c  create_link:legal_protection export_audio:service_evidence export_audio:legal_protection
privacy    c  list_recordings search_recordings view_recording view_retention view_history view_customers
privacy    c  manage_customers add_contact add_choice manage_requests disclose erase view_schedules
privacy    c  manage_schedules view_reports view_approvals decide_approval
privacy    c  view_registers manage_recipients manage_breaches copy_staff
privacy    c  listen:service_evidence listen:security create_link:service_evidence create_link:security
privacy    c  export_audio:service_evidence export_audio:security
auditor    c  view_registers
operator   c  manage_sources manage_accounts manage_quarantine view_health rotate_keys
auditor    c  view_audit view_history view_retention view_schedules view_reports view_approvals
"""
EXPECTED: dict[tuple[str, str], str] = {}
for line in RIGHTS.strip().splitlines():
    role_name, reach, *rights = line.split()
    for right in rights:
        assert (role_name, right) not in EXPECTED
        EXPECTED[role_name, right] = reach


@dataclass(frozen=True)
class Case:
    """A call (or source) and the scopes that reach it."""

    name: str
    target: Target | None
    inside: frozenset[str]  # of own, feedback, team, queue, source


CASES = (
    Case("own", Target(agents=("A1",), queue="other"), frozenset({"own"})),
    Case("feedback", Target(agents=("A1",), queue="other", feedback=True), frozenset({"own", "feedback"})),
    Case("given, not own", Target(agents=("Z9",), feedback=True), frozenset()),
    Case("team", Target(agents=("Z9", "A2"), queue="other"), frozenset({"team"})),
    Case("queue", Target(agents=("Z9",), queue="billing"), frozenset({"queue"})),
    Case("elsewhere", Target(agents=("Z9",), queue="other"), frozenset()),
    Case("nobody's", Target(), frozenset()),
    Case("own source", Target(source_id=SOURCE), frozenset({"source"})),
    Case("other source", Target(source_id=OTHER_SOURCE), frozenset()),
    Case("unnamed", None, frozenset({"source", "unnamed"})),
)
VALUES = {ScopeKind.TEAM: frozenset({"A2", "A3"}), ScopeKind.QUEUE: frozenset({"billing"})}


def principal(role: Role, scope: ScopeKind, kind: PrincipalKind = "account") -> Principal:
    grant = Grant(role, HERE, scope, VALUES.get(scope, frozenset()))
    source = SOURCE if role is Role.TELEPHONY else None
    return Principal(kind, "p", HERE, (grant,), agent_code="A1", source_id=source)


def expected(role: Role, action: Action, purpose: Purpose | None, scope: ScopeKind, case: Case) -> str:
    """The verdict's code, by the hand-written rights."""
    if not any(who == role and right.split(":")[0] == action for who, right in EXPECTED):
        return "role"
    if action in ("listen", "create_link", "export_audio"):
        if purpose is None:
            return "purpose-missing"
        reach = EXPECTED.get((role, f"{action}:{purpose}"))
        if reach is None:
            return "purpose"
    else:
        reach = EXPECTED[role, action]
    listed = "unnamed" in case.inside and action in ("list_recordings", "search_recordings")
    by_scope = {
        ScopeKind.OWN: "own" in case.inside or listed,
        ScopeKind.TEAM: "team" in case.inside or listed,
        ScopeKind.QUEUE: "queue" in case.inside or listed,
        ScopeKind.CONTROLLER: True,
    }
    reached = {
        "o": by_scope[ScopeKind.OWN],
        "f": "feedback" in case.inside,
        "s": by_scope[scope],
        "c": scope is ScopeKind.CONTROLLER,
        "t": "source" in case.inside,
    }[reach]
    return "ok" if reached else "scope"


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("scope", ScopeKind)
def test_every_right_and_every_refusal(role: Role, scope: ScopeKind) -> None:
    who = principal(role, scope)
    for action in Action:
        for purpose in (None, *Purpose):
            for case in CASES:
                verdict = decide(who, action, controller_id=HERE, purpose=purpose, target=case.target)
                want = expected(role, action, purpose, scope, case)
                assert verdict.code == want, (role, scope, action, purpose, case.name, verdict.text)
                assert verdict.allowed is (want == "ok")
                assert verdict.text.endswith(".")


def test_the_expectation_speaks_of_things_that_exist() -> None:
    assert {role for role, _ in EXPECTED} == set(Role)
    named = {right.split(":")[0] for _, right in EXPECTED}
    assert named == set(Action)
    assert {right.split(":")[1] for _, right in EXPECTED if ":" in right} == set(Purpose)
    assert set(ACTION_WORDS) == set(Action)
    assert set(ROLE_WORDS) == set(Role)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("scope", ScopeKind)
def test_nothing_crosses_to_another_controller_without_a_grant(role: Role, scope: ScopeKind) -> None:
    who = principal(role, scope)
    for action in Action:
        for purpose in (None, *Purpose):
            for case in CASES:
                verdict = decide(who, action, controller_id=ELSEWHERE, purpose=purpose, target=case.target)
                assert (verdict.allowed, verdict.code) == (False, "other-controller")
        assert visible(who, ELSEWHERE, action) == ()


def test_nobody_may_do_anything_without_a_grant() -> None:
    nobody = Principal("account", "p", HERE)
    assert not any(decide(nobody, action, controller_id=HERE).allowed for action in Action)


@pytest.mark.parametrize("kind", ["os", "system"])
def test_the_console_administers_but_neither_hears_nor_approves(kind: PrincipalKind) -> None:
    who = Principal(kind, "root", None)
    refused = {a for a in Action if not decide(who, a, controller_id=HERE, purpose=Purpose.QUALITY).allowed}
    assert refused == AUDIO | {Action.DECIDE_APPROVAL}


@pytest.mark.parametrize("role", [Role.LEGAL, Role.PRIVACY])
def test_a_token_is_not_a_second_person(role: Role) -> None:
    who = principal(role, ScopeKind.CONTROLLER, "token")
    assert decide(who, Action.DECIDE_APPROVAL, controller_id=HERE).code == "not-a-person"
    assert decide(who, Action.VIEW_APPROVALS, controller_id=HERE).allowed


def test_what_a_list_shows_is_what_may_be_seen() -> None:
    """A row passes the list's filters exactly when its page would open."""
    for role in Role:
        for scope in ScopeKind:
            who = principal(role, scope)
            filters = visible(who, HERE)
            for case in CASES:
                if case.target is None or role is Role.TELEPHONY:
                    continue
                shown = any(f.covers(case.target) for f in filters)
                opens = decide(who, Action.VIEW_RECORDING, controller_id=HERE, target=case.target).allowed
                assert shown is opens, (role, scope, case.name)


def test_filters_of_several_grants_add_up() -> None:
    team = Grant(Role.QUALITY, HERE, ScopeKind.TEAM, frozenset({"A2"}))
    queue = Grant(Role.TRAINER, HERE, ScopeKind.QUEUE, frozenset({"billing"}))
    whole = Grant(Role.LEGAL, HERE, ScopeKind.CONTROLLER)
    both = Principal("account", "p", HERE, (team, queue))
    assert set(visible(both, HERE)) == {
        ScopeFilter(agents=frozenset({"A2"})),
        ScopeFilter(queues=frozenset({"billing"})),
    }
    assert visible(Principal("account", "p", HERE, (team, whole)), HERE) == (ScopeFilter(everything=True),)
    # A purpose of one grant does not borrow the scope of another.
    call = Target(agents=("A2",), queue="other")
    assert purposes_for(both, HERE, call) == (Purpose.QUALITY,)


def test_grants_with_nothing_in_them_reach_nothing() -> None:
    for scope in (ScopeKind.TEAM, ScopeKind.QUEUE):
        who = Principal("account", "p", HERE, (Grant(Role.QUALITY, HERE, scope),), agent_code="A1")
        assert visible(who, HERE) == ()
    agent = Principal("account", "p", HERE, (Grant(Role.AGENT, HERE, ScopeKind.OWN),), agent_code=None)
    assert visible(agent, HERE) == ()
    assert not decide(
        agent, Action.LISTEN, controller_id=HERE, purpose=Purpose.QUALITY, target=Target()
    ).allowed


def test_an_agent_code_is_somebody_elses_at_another_controller() -> None:
    visiting = Principal(
        "account", "p", ELSEWHERE, (Grant(Role.AGENT, HERE, ScopeKind.OWN),), agent_code="A1"
    )
    assert visible(visiting, HERE) == ()
    assert decide(visiting, Action.VIEW_RECORDING, controller_id=HERE, target=CASES[0].target).code == "scope"


def test_a_telephony_role_without_a_source_pushes_nothing() -> None:
    who = Principal("token", "p", HERE, (Grant(Role.TELEPHONY, HERE, ScopeKind.CONTROLLER),))
    assert not decide(who, Action.PUSH, controller_id=HERE, target=Target(source_id=None)).allowed
    assert not decide(who, Action.PUSH, controller_id=HERE).allowed


def test_a_refusal_says_so_in_plain_words() -> None:
    trainer = principal(Role.TRAINER, ScopeKind.TEAM)
    with pytest.raises(Forbidden) as refusal:
        require(trainer, Action.LISTEN, controller_id=HERE, purpose=Purpose.LEGAL_PROTECTION, target=Target())
    assert refusal.value.reason == "purpose"
    assert refusal.value.message == "Training may not listen to calls for legal protection."
    outside = decide(
        trainer, Action.LISTEN, controller_id=HERE, purpose=Purpose.TRAINING, target=CASES[0].target
    )
    assert outside.text == "Training may listen to calls for training only among the calls of the team."
    require(trainer, Action.LISTEN, controller_id=HERE, purpose=Purpose.TRAINING, target=CASES[3].target)


def test_grants_that_would_give_nothing_are_known() -> None:
    assert scopes_for(Role.AGENT) == {ScopeKind.OWN}
    assert scopes_for(Role.LEGAL) == {ScopeKind.CONTROLLER}
    assert scopes_for(Role.QUALITY) == set(ScopeKind)
