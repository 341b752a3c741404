"""Whoever manages accounts makes nobody hear calls without a second person."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from recorder.access.accounts import (
    authenticate,
    change_password,
    create_account,
    grant_role,
    list_accounts,
    load_principal,
    revoke_role,
)
from recorder.access.approvals import LIFE, decide_approval
from recorder.access.listening import SecondPersonNeeded
from recorder.access.policy import hears
from recorder.access.principals import Grant, Principal
from recorder.access.tokens import authenticate_token, issue_token, list_tokens
from recorder.catalogue.enums import ApprovalState, Role, ScopeKind
from recorder.catalogue.tables import Controller
from recorder.clock import ManualClock
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from recorder.services import Services
from tests.recorder.access.conftest import CONSOLE, PASSWORD, MakeAccount
from tests.recorder.conftest import make_controller

WHOLE = ScopeKind.CONTROLLER
NEW = "another long password"
Person = Callable[..., Awaitable[Principal]]


@pytest.fixture
def person(services: Services, make_account: MakeAccount) -> Person:
    """Factory: somebody with an account, as they are when signed in."""

    async def make(username: str, role: Role | None, **more: Any) -> Principal:
        account_id = await make_account(username, role, **more)
        async with services.database.snapshot() as session:
            found = await load_principal(session, account_id)
        assert found is not None
        return found

    return make


@pytest.fixture
async def operator(person: Person) -> Principal:
    return await person("operator", Role.OPERATOR)


@pytest.fixture
async def privacy(person: Person) -> Principal:
    return await person("privacy", Role.PRIVACY)


async def approved(services: Services, by: Principal, step: Awaitable[object]) -> uuid.UUID:
    """Take the step for the first time, and have a second person approve it."""
    with pytest.raises(SecondPersonNeeded) as needed:
        await step
    view = needed.value.approval
    assert (view.action, view.state) == ("listening_role", ApprovalState.PENDING)
    await decide_approval(services, by, view.id, approve=True)
    return view.id


async def refused(step: Awaitable[object], reason: str = "approval-mismatch") -> None:
    with pytest.raises(Forbidden) as refusal:
        await step
    assert not isinstance(refusal.value, SecondPersonNeeded)
    assert refusal.value.reason == reason


def test_the_roles_that_hear_calls() -> None:
    assert {role for role in Role if hears(role)} == {
        Role.AGENT,
        Role.TRAINER,
        Role.QUALITY,
        Role.LEGAL,
        Role.PRIVACY,
    }


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.TELEPHONY])
async def test_exactly_roles_that_hear_need_a_second_person(
    services: Services, controller: Controller, person: Person, operator: Principal, role: Role
) -> None:
    own = role is Role.AGENT
    scope = ScopeKind.OWN if own else WHOLE
    other = await person("other", role, scope=scope, agent_code="A1" if own else None)
    newcomer = await person("newcomer", None)
    steps: list[Callable[[Principal], Awaitable[object]]] = [
        lambda who: issue_token(
            services,
            who,
            controller_id=controller.id,
            label="t",
            role=role,
            scope=scope,
            values=["A1"] if own else [],
        ),
        lambda who: create_account(
            services,
            who,
            controller_id=controller.id,
            username=f"made.by.{who.kind}",
            name="M",
            password=PASSWORD,
            grants=[Grant(role, controller.id, scope)],
            agent_code=f"by-{who.kind}" if own else None,
        ),
        lambda who: change_password(services, who, uuid.UUID(other.id), new=NEW),
    ]
    if not own:  # the newcomer has no agent code
        grant = Grant(role, controller.id, WHOLE)
        steps.append(lambda who: grant_role(services, who, uuid.UUID(newcomer.id), grant))
    for step in steps:
        if hears(role):
            with pytest.raises(SecondPersonNeeded):
                await step(operator)
        else:
            await step(operator)
        await step(CONSOLE)
    if hears(role):
        assert {t.label for t in await list_tokens(services, CONSOLE, controller.id)} == {"t"}
        names = {a.username for a in await list_accounts(services, CONSOLE, controller.id)}
        assert "made.by.account" not in names
        assert "made.by.os" in names


async def test_a_token_is_issued_as_it_was_approved(
    services: Services, controller: Controller, operator: Principal, privacy: Principal, clock: ManualClock
) -> None:
    asked: dict[str, Any] = {
        "controller_id": controller.id,
        "label": "bi",
        "role": Role.QUALITY,
        "scope": ScopeKind.QUEUE,
        "values": ["billing", "sales"],
        "owner_id": uuid.UUID(operator.id),
        "expires_at": clock.now() + timedelta(days=3),
    }
    approval = await approved(services, privacy, issue_token(services, operator, **asked))
    for change in (
        {"label": "bi-2"},
        {"role": Role.TRAINER},
        {"scope": WHOLE, "values": []},
        {"values": ["billing"]},
        {"owner_id": None},
        {"owner_id": uuid.UUID(privacy.id)},
        {"expires_at": None},
    ):
        await refused(issue_token(services, operator, **(asked | change), approval_id=approval))
    assert await list_tokens(services, CONSOLE, controller.id) == []
    issued = await issue_token(services, operator, **asked, approval_id=approval)
    assert (await authenticate_token(services, issued.token)).roles(controller.id) == {Role.QUALITY}
    await refused(issue_token(services, operator, **asked, approval_id=approval), "approval-missing")


async def test_an_account_is_made_as_it_was_approved(
    services: Services, controller: Controller, operator: Principal, privacy: Principal
) -> None:
    asked: dict[str, Any] = {
        "controller_id": controller.id,
        "username": "matti",
        "name": "Matti Meikäläinen",
        "password": PASSWORD,
        "grants": [Grant(Role.AGENT, controller.id, ScopeKind.OWN)],
        "agent_code": "A1",
    }
    with pytest.raises(SecondPersonNeeded) as needed:
        await create_account(services, operator, **asked)
    view = needed.value.approval
    assert "matti" not in repr((view.target, view.details)).casefold()
    assert view.details["roles"] == [f"agent:{controller.id}:own"]
    assert view.details["agent_code"] == "A1"
    await decide_approval(services, privacy, view.id, approve=True)
    trainer = Grant(Role.TRAINER, controller.id, WHOLE)
    for change in ({"username": "maija"}, {"agent_code": "A2"}, {"grants": [*asked["grants"], trainer]}):
        await refused(create_account(services, operator, **(asked | change), approval_id=view.id))
    await create_account(services, operator, **asked, approval_id=view.id)
    with pytest.raises(Conflict):
        await create_account(services, operator, **asked, approval_id=view.id)
    with pytest.raises(Conflict):  # told before anybody is asked
        await create_account(services, operator, **asked)


async def test_a_role_is_granted_as_it_was_approved(
    services: Services, controller: Controller, person: Person, operator: Principal, privacy: Principal
) -> None:
    one, other = await person("one", None), await person("other", None)
    grant = Grant(Role.QUALITY, controller.id, ScopeKind.QUEUE, frozenset({"billing"}))
    wider = Grant(Role.QUALITY, controller.id, WHOLE)
    approval = await approved(services, privacy, grant_role(services, operator, uuid.UUID(one.id), grant))
    await refused(grant_role(services, operator, uuid.UUID(one.id), wider, approval_id=approval))
    await refused(grant_role(services, operator, uuid.UUID(other.id), grant, approval_id=approval))
    await grant_role(services, operator, uuid.UUID(one.id), grant, approval_id=approval)
    again = grant_role(services, operator, uuid.UUID(one.id), grant, approval_id=approval)
    await refused(again, "approval-missing")


async def test_a_listeners_password_is_set_by_who_asked_while_the_roles_are_those_approved(
    services: Services, controller: Controller, person: Person, operator: Principal, privacy: Principal
) -> None:
    listener = await person("listener", Role.QUALITY)
    account_id = uuid.UUID(listener.id)
    step = change_password(services, operator, account_id, new=NEW)
    approval = await approved(services, privacy, step)
    second = await person("second.operator", Role.OPERATOR)
    await refused(change_password(services, second, account_id, new=NEW, approval_id=approval))
    more = await grant_role(services, CONSOLE, account_id, Grant(Role.LEGAL, controller.id, WHOLE))
    await refused(change_password(services, operator, account_id, new=NEW, approval_id=approval))
    await revoke_role(services, CONSOLE, more)
    with pytest.raises(Unauthenticated):
        await authenticate(services, "listener", NEW)
    await change_password(services, operator, account_id, new=NEW, approval_id=approval)
    assert await authenticate(services, "listener", NEW) == account_id
    again = change_password(services, operator, account_id, new=PASSWORD, approval_id=approval)
    await refused(again, "approval-missing")
    # One's own needs the current one, and nobody else.
    await change_password(services, listener, account_id, new=PASSWORD, current=NEW)


async def test_neither_oneself_nor_a_refusal_nor_an_old_approval_opens_it(
    services: Services, controller: Controller, person: Person, operator: Principal, privacy: Principal
) -> None:
    clock = services.clock
    assert isinstance(clock, ManualClock)
    # Somebody who operates and decides is still one person.
    await grant_role(services, CONSOLE, uuid.UUID(operator.id), Grant(Role.LEGAL, controller.id, WHOLE))
    async with services.database.snapshot() as session:
        both = await load_principal(session, uuid.UUID(operator.id))
    assert both is not None
    asked: dict[str, Any] = {"controller_id": controller.id, "label": "t", "role": Role.LEGAL}
    with pytest.raises(SecondPersonNeeded) as needed:
        await issue_token(services, both, **asked)
    first = needed.value.approval.id
    await refused(decide_approval(services, both, first, approve=True), "own-request")
    with pytest.raises(SecondPersonNeeded) as needed:
        await issue_token(services, both, **asked)
    assert needed.value.approval.id == first
    await decide_approval(services, privacy, first, approve=False)
    await refused(issue_token(services, both, **asked, approval_id=first), "approval-missing")
    late = await approved(services, privacy, issue_token(services, both, **asked))
    clock.advance(LIFE)
    await refused(issue_token(services, both, **asked, approval_id=late), "approval-missing")
    ownerless = await issue_token(
        services, CONSOLE, controller_id=controller.id, label="script", role=Role.OPERATOR
    )
    script = await authenticate_token(services, ownerless.token)
    await refused(issue_token(services, script, **asked), "token-without-owner")
    with pytest.raises(NotFound):  # told before anybody is asked
        await issue_token(services, both, **asked, owner_id=uuid.uuid4())


async def test_the_controller_whose_calls_are_heard_decides(
    services: Services, controller: Controller, person: Person, operator: Principal, privacy: Principal
) -> None:
    abroad = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    await grant_role(services, CONSOLE, uuid.UUID(operator.id), Grant(Role.OPERATOR, abroad.id, WHOLE))
    async with services.database.snapshot() as session:
        both = await load_principal(session, uuid.UUID(operator.id))
    assert both is not None
    there = Grant(Role.QUALITY, abroad.id, WHOLE)
    asked: dict[str, Any] = {
        "controller_id": controller.id,
        "username": "matti",
        "name": "M",
        "password": PASSWORD,
    }
    with pytest.raises(SecondPersonNeeded) as needed:
        await create_account(services, both, **asked, grants=[there])
    assert needed.value.approval.controller_id == abroad.id
    await refused(
        decide_approval(services, privacy, needed.value.approval.id, approve=True), "other-controller"
    )
    here = Grant(Role.QUALITY, controller.id, WHOLE)
    with pytest.raises(InvalidInput):
        await create_account(services, both, **asked, grants=[here, there])
