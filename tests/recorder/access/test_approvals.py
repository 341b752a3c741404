"""Two persons: one asks, another decides, and the approval is spent once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.accounts import load_principal
from recorder.access.approvals import (
    LIFE,
    ApprovalView,
    ask,
    decide_approval,
    get_approval,
    list_approvals,
    use_approval,
)
from recorder.access.principals import Grant, Principal
from recorder.access.tokens import authenticate_token, issue_token
from recorder.catalogue.enums import ApprovalState, Role, ScopeKind
from recorder.catalogue.tables import ApiToken, Approval, Controller
from recorder.clock import ManualClock
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.services import Services
from tests.recorder.access.conftest import CONSOLE, MakeAccount
from tests.recorder.conftest import make_controller

People = dict[Role, Principal]
DETAILS = {"count": 3}


@pytest.fixture
async def people(services: Services, make_account: MakeAccount) -> People:
    found: People = {}
    for role in (Role.LEGAL, Role.PRIVACY, Role.QUALITY):
        account_id = await make_account(role.value, role)
        async with services.database.snapshot() as session:
            loaded = await load_principal(session, account_id)
        assert loaded is not None
        found[role] = loaded
    return found


Ask = Callable[..., Awaitable[ApprovalView]]


@pytest.fixture
def asked(services: Services, controller: Controller, people: People) -> Ask:
    """Factory: legal asks to release a hold."""

    async def make(who: Principal | None = None, target: str = "hold-1") -> ApprovalView:
        return await ask(
            services,
            who or people[Role.LEGAL],
            controller_id=controller.id,
            action="hold_release",
            target=target,
            details=DETAILS,
        )

    return make


async def use(services: Services, view: ApprovalView, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "actor": view.requested_by,
        "controller_id": view.controller_id,
        "action": view.action,
        "target": view.target,
        "details": DETAILS,
    }
    async with services.database.transaction() as session:
        await use_approval(session, view.id, now=services.clock.now(), **(arguments | changes))


async def test_asked_decided_used_once(services: Services, people: People, asked: Ask) -> None:
    view = await asked()
    assert view.state is ApprovalState.PENDING
    with pytest.raises(Forbidden) as refusal:
        await use(services, view)
    assert refusal.value.reason == "approval-mismatch"  # nobody has decided
    decided = await decide_approval(services, people[Role.PRIVACY], view.id, approve=True)
    assert (decided.state, decided.decided_by) == (ApprovalState.APPROVED, people[Role.PRIVACY].actor)
    await use(services, view)
    with pytest.raises(Forbidden) as refusal:
        await use(services, view)
    assert refusal.value.reason == "approval-missing"
    with pytest.raises(Conflict):
        await decide_approval(services, people[Role.PRIVACY], view.id, approve=False)


async def test_nobody_approves_their_own_request(
    services: Services, controller: Controller, people: People, asked: Ask
) -> None:
    view = await asked()
    with pytest.raises(Forbidden) as refusal:
        await decide_approval(services, people[Role.LEGAL], view.id, approve=True)
    assert refusal.value.reason == "own-request"
    # Nor through a token of theirs.
    issued = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="script",
        role=Role.LEGAL,
        owner_id=uuid.UUID(people[Role.LEGAL].id),
    )
    token = await authenticate_token(services, issued.token)
    theirs = await asked(token, "hold-2")
    with pytest.raises(Forbidden) as refusal:
        await decide_approval(services, people[Role.LEGAL], theirs.id, approve=True)
    assert refusal.value.reason == "own-request"
    with pytest.raises(Forbidden) as refusal:
        await decide_approval(services, token, view.id, approve=True)
    assert refusal.value.reason == "not-a-person"


async def test_a_token_that_nobody_answers_for_asks_for_nothing(
    services: Services, controller: Controller, people: People, asked: Ask
) -> None:
    issued = await issue_token(
        services, CONSOLE, controller_id=controller.id, label="script", role=Role.LEGAL
    )
    token = await authenticate_token(services, issued.token)
    with pytest.raises(Forbidden) as refusal:
        await asked(token, "hold-2")
    assert refusal.value.reason == "token-without-owner"
    # One that was asked for by such a token before cannot be approved by whoever may hold it.
    view = await asked()
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(Approval).where(Approval.id == view.id).values(requested_by=token.actor)
        )
    with pytest.raises(Forbidden) as refusal:
        await decide_approval(services, people[Role.PRIVACY], view.id, approve=True)
    assert refusal.value.reason == "own-request"


async def test_only_who_has_the_right_decides_or_asks(
    services: Services, controller: Controller, people: People, asked: Ask
) -> None:
    view = await asked()
    for who, reason in ((people[Role.QUALITY], "role"), (CONSOLE, "not-a-person")):
        with pytest.raises(Forbidden) as refusal:
            await decide_approval(services, who, view.id, approve=True)
        assert refusal.value.reason == reason
    with pytest.raises(Forbidden):
        await asked(people[Role.QUALITY], "hold-3")
    with pytest.raises(Forbidden):
        await list_approvals(services, people[Role.QUALITY], controller.id)
    with pytest.raises(Forbidden):
        await get_approval(services, people[Role.QUALITY], view.id)
    with pytest.raises(NotFound):
        await decide_approval(services, people[Role.PRIVACY], uuid.uuid4(), approve=True)
    with pytest.raises(InvalidInput):
        await ask(services, CONSOLE, controller_id=controller.id, action="tea", target="t")


@pytest.mark.parametrize(
    "change",
    [{"target": "hold-9"}, {"action": "disclosure"}, {"details": {"count": 4}}, {"controller_id": None}],
)
async def test_it_fits_what_was_approved_and_nothing_else(
    services: Services, people: People, asked: Ask, change: dict[str, Any]
) -> None:
    view = await asked()
    await decide_approval(services, people[Role.PRIVACY], view.id, approve=True)
    if "controller_id" in change:
        change = {"controller_id": (await make_controller(services, "se", "SE", "Europe/Stockholm")).id}
    with pytest.raises(Forbidden) as refusal:
        await use(services, view, **change)
    assert refusal.value.reason == "approval-mismatch"
    await use(services, view)


async def test_a_refused_or_expired_one_opens_nothing(
    services: Services, controller: Controller, people: People, asked: Ask, clock: ManualClock
) -> None:
    refused = await asked()
    await decide_approval(services, people[Role.PRIVACY], refused.id, approve=False)
    with pytest.raises(Forbidden):
        await use(services, refused)
    late, unused = await asked(target="late"), await asked(target="unused")
    await decide_approval(services, people[Role.PRIVACY], unused.id, approve=True)
    clock.advance(LIFE)
    with pytest.raises(Conflict):
        await decide_approval(services, people[Role.PRIVACY], late.id, approve=True)
    with pytest.raises(Forbidden):
        await use(services, unused)
    assert (await get_approval(services, people[Role.LEGAL], late.id)).state is ApprovalState.EXPIRED
    by_state = {
        state: [
            v.target for v in await list_approvals(services, people[Role.PRIVACY], controller.id, state=state)
        ]
        for state in ApprovalState
    }
    assert sorted(by_state[ApprovalState.EXPIRED]) == ["late", "unused"]
    assert by_state[ApprovalState.REFUSED] == ["hold-1"]
    assert by_state[ApprovalState.PENDING] == by_state[ApprovalState.APPROVED] == []


async def test_asking_again_finds_the_first_request(asked: Ask) -> None:
    assert (await asked()).id == (await asked()).id
    assert (await asked()).id != (await asked(target="hold-2")).id


async def test_of_two_who_use_it_at_once_one_does(services: Services, people: People, asked: Ask) -> None:
    view = await asked()
    await decide_approval(services, people[Role.PRIVACY], view.id, approve=True)
    outcomes = await asyncio.gather(*(use(services, view) for _ in range(4)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(o, Forbidden) for o in outcomes) == 3


async def test_whoever_made_a_token_is_behind_it_like_its_owner(
    services: Services, controller: Controller, people: People, asked: Ask
) -> None:
    privacy = people[Role.PRIVACY]
    issued = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="script",
        role=Role.LEGAL,
        owner_id=uuid.UUID(people[Role.LEGAL].id),
    )
    again = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="script-2",
        role=Role.LEGAL,
        owner_id=uuid.UUID(people[Role.LEGAL].id),
    )
    async with services.database.transaction() as session:
        assert (await session.get_one(ApiToken, issued.id)).issued_by == CONSOLE.actor
        # Made by the second person, directly and through a token that they made.
        (await session.get_one(ApiToken, issued.id)).issued_by = privacy.actor
        (await session.get_one(ApiToken, again.id)).issued_by = f"token:{issued.id}"
    for number, made in enumerate((issued, again)):
        view = await asked(await authenticate_token(services, made.token), f"hold-by-token-{number}")
        with pytest.raises(Forbidden) as refusal:
            await decide_approval(services, privacy, view.id, approve=True)
        assert refusal.value.reason == "own-request"
    # A third person may.
    grant = Grant(Role.PRIVACY, controller.id, ScopeKind.CONTROLLER)
    third = Principal("account", str(uuid.uuid4()), controller.id, (grant,))
    decided = await decide_approval(services, third, view.id, approve=True)
    assert decided.state is ApprovalState.APPROVED
