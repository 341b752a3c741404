"""Accounts, sign-in, lock-out, leavers; on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from recorder.access import passwords
from recorder.access.accounts import (
    authenticate,
    change_password,
    create_account,
    disable_account,
    display_name,
    grant_role,
    list_accounts,
    load_principal,
    revoke_role,
)
from recorder.access.principals import Grant, Principal
from recorder.access.sessions import authenticate_session, open_session, sign_in
from recorder.access.tokens import authenticate_token, issue_token
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Account, AuditEntry, Controller, LoginFailure
from recorder.clock import ManualClock
from recorder.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    Locked,
    NotFound,
    TooMany,
    Unauthenticated,
)
from recorder.services import Services
from tests.recorder.access.conftest import CONSOLE, PASSWORD, MakeAccount
from tests.recorder.conftest import make_controller


async def entries(services: Services, action: str) -> list[dict[str, object]]:
    async with services.database.snapshot() as session:
        rows = await session.execute(sa.select(AuditEntry.payload).where(AuditEntry.action == action))
        return [json.loads(payload) for payload in rows.scalars()]


async def principal(services: Services, account_id: uuid.UUID) -> Principal:
    async with services.database.snapshot() as session:
        found = await load_principal(session, account_id)
    assert found is not None
    return found


async def test_a_person_signs_in_whatever_the_case(services: Services, make_account: MakeAccount) -> None:
    account_id = await make_account("Maija.Meikalainen")
    assert await authenticate(services, " maija.MEIKALAINEN ", PASSWORD) == account_id
    with pytest.raises(Unauthenticated):
        await authenticate(services, "maija.meikalainen", PASSWORD + "!")


async def test_nothing_personal_lies_open(services: Services, make_account: MakeAccount) -> None:
    await make_account("maija.meikalainen")
    with pytest.raises(Unauthenticated):
        await authenticate(services, "maija.meikalainen", "not the password")
    with pytest.raises(Unauthenticated):
        await authenticate(services, "maija.tuntematon", "not the password")
    async with services.database.snapshot() as session:
        for table in (Account, AuditEntry, LoginFailure):
            rows = (await session.execute(sa.select(table.__table__))).all()
            assert rows
            assert b"maija" not in repr(rows).casefold().encode()


async def test_no_two_people_share_a_user_name(services: Services, make_account: MakeAccount) -> None:
    await make_account("maija.meikalainen")
    with pytest.raises(Conflict) as refusal:
        await make_account("MAIJA.meikalainen")
    assert refusal.value.kind == "username-taken"
    outcomes = await asyncio.gather(*(make_account("matti") for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(o, uuid.UUID) for o in outcomes) == 1
    assert sum(isinstance(o, Conflict) for o in outcomes) == 2


async def test_an_agent_code_belongs_to_one_person(services: Services, make_account: MakeAccount) -> None:
    first = await make_account("a1", Role.AGENT, ScopeKind.OWN, agent_code="A1")
    with pytest.raises(Conflict):
        await make_account("a2", Role.AGENT, ScopeKind.OWN, agent_code="A1")
    await disable_account(services, CONSOLE, first)
    await make_account("a2", Role.AGENT, ScopeKind.OWN, agent_code="A1")


@pytest.mark.parametrize(
    ("role", "scope", "values"),
    [
        (Role.TELEPHONY, ScopeKind.CONTROLLER, ()),
        (Role.LEGAL, ScopeKind.TEAM, ("A1",)),
        (Role.AGENT, ScopeKind.OWN, ()),  # without an agent code
        (Role.QUALITY, ScopeKind.QUEUE, ()),
        (Role.QUALITY, ScopeKind.CONTROLLER, ("billing",)),
    ],
)
async def test_roles_that_make_no_sense_are_refused(
    services: Services, make_account: MakeAccount, role: Role, scope: ScopeKind, values: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInput):
        await make_account("someone", role, scope, values)


@pytest.mark.parametrize("username", ["", "x", "a b c", "a" * 101, "semi;colon", "nul\x00nul"])
async def test_user_names_that_cannot_be(
    services: Services, make_account: MakeAccount, username: str
) -> None:
    with pytest.raises(InvalidInput):
        await make_account(username)
    with pytest.raises(Unauthenticated):
        await authenticate(services, username, PASSWORD)


async def test_only_operations_manage_accounts_and_only_at_home(
    services: Services, controller: Controller, make_account: MakeAccount
) -> None:
    other = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    operator = await principal(services, await make_account("operator", Role.OPERATOR))
    quality = await principal(services, await make_account("quality", Role.QUALITY))
    grant = Grant(Role.TRAINER, controller.id, ScopeKind.CONTROLLER)
    newcomer = await make_account("newcomer", None)
    with pytest.raises(Forbidden) as refusal:
        await grant_role(services, quality, newcomer, grant)
    assert refusal.value.reason == "role"
    abroad = Grant(Role.TRAINER, other.id, ScopeKind.CONTROLLER)
    with pytest.raises(Forbidden) as refusal:
        await grant_role(services, operator, newcomer, abroad)
    assert refusal.value.reason == "other-controller"
    with pytest.raises(Forbidden):
        await list_accounts(services, quality, controller.id)
    refused = await entries(services, "access.refused")
    assert [e["details"] for e in refused] == [
        {"action": "manage_accounts", "reason": "role"},
        {"action": "manage_accounts", "reason": "other-controller"},
        {"action": "manage_accounts", "reason": "role"},
    ]
    harmless = Grant(Role.AUDITOR, controller.id, ScopeKind.CONTROLLER)
    await grant_role(services, operator, newcomer, harmless)
    assert (await principal(services, newcomer)).grants == (harmless,)


async def test_nobody_promotes_or_disables_themselves(
    services: Services, controller: Controller, make_account: MakeAccount
) -> None:
    account_id = await make_account("operator", Role.OPERATOR)
    operator = await principal(services, account_id)
    with pytest.raises(Forbidden) as refusal:
        await grant_role(
            services, operator, account_id, Grant(Role.LEGAL, controller.id, ScopeKind.CONTROLLER)
        )
    assert refusal.value.reason == "own-account"
    with pytest.raises(Forbidden):
        await disable_account(services, operator, account_id)


async def test_a_revoked_role_is_gone_at_once(
    services: Services, controller: Controller, make_account: MakeAccount
) -> None:
    account_id = await make_account("quality")
    [view] = await list_accounts(services, CONSOLE, controller.id)
    assert (view.username, view.name) == ("quality", "Maija Meikäläinen")
    assert await display_name(services, account_id) == "Maija Meikäläinen"
    await revoke_role(services, CONSOLE, view.grants[0].id)
    await revoke_role(services, CONSOLE, view.grants[0].id)
    assert (await principal(services, account_id)).grants == ()
    assert len(await entries(services, "role.revoked")) == 1


async def test_repeated_failures_lock_known_and_unknown_names_alike(
    services: Services, make_account: MakeAccount, clock: ManualClock
) -> None:
    await make_account("maija")
    for name in ("maija", "nobody.of.us"):
        for _ in range(services.settings.lockout_failures):
            with pytest.raises(Unauthenticated) as wrong:
                await authenticate(services, name, "guess")
            assert wrong.value.message == "the user name or the password is wrong"
        with pytest.raises(Locked) as locked:
            await authenticate(services, name, PASSWORD)
        assert locked.value.retry_after == services.settings.lockout_seconds
    clock.advance(timedelta(seconds=services.settings.lockout_seconds - 1))
    with pytest.raises(Locked) as locked:
        await authenticate(services, "maija", PASSWORD)
    assert locked.value.retry_after == 1
    clock.advance(timedelta(seconds=1))
    await authenticate(services, "maija", PASSWORD)
    reasons = [str(e["details"]) for e in await entries(services, "session.refused")]
    # One entry tells that a name was locked; what came during the lock fills neither log nor disk.
    assert sum("'locks': True" in r for r in reasons) == 2
    assert len(reasons) == 2 * services.settings.lockout_failures
    assert sum("unknown" in r for r in reasons) == 5


async def test_a_flood_of_guesses_finds_the_door_full_and_is_not_counted(
    services: Services, make_account: MakeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = await make_account("maija")
    monkeypatch.setattr(passwords, "TURNS", passwords.Turns(2))
    with passwords.TURNS.one(), passwords.TURNS.one():
        for name in ("maija", "nobody.of.us"):
            with pytest.raises(TooMany) as full:
                await authenticate(services, name, PASSWORD)
            assert full.value.retry_after == 2
    async with services.database.snapshot() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(LoginFailure)) == 0
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await authenticate(services, "nobody.of.us", PASSWORD)
    assert await authenticate(services, "maija", PASSWORD) == account_id  # every place was given back


async def test_guesses_sent_all_at_once_are_counted_before_they_are_tried(
    services: Services, make_account: MakeAccount
) -> None:
    await make_account("maija")
    outcomes = await asyncio.gather(
        *(authenticate(services, "maija", f"guess {n}") for n in range(12)), return_exceptions=True
    )
    tried = sum(isinstance(o, Unauthenticated) for o in outcomes)
    assert tried == services.settings.lockout_failures
    assert sum(isinstance(o, Locked) for o in outcomes) == 12 - tried


async def test_success_forgets_the_failures(services: Services, make_account: MakeAccount) -> None:
    await make_account("maija")
    for _ in range(3):
        for _ in range(services.settings.lockout_failures - 1):
            with pytest.raises(Unauthenticated):
                await authenticate(services, "maija", "guess")
        await authenticate(services, "maija", PASSWORD)


async def test_a_leaver_is_cut_off_at_once(
    services: Services, controller: Controller, make_account: MakeAccount
) -> None:
    account_id = await make_account("maija")
    opened = await sign_in(services, "maija", PASSWORD)
    token = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="reports",
        role=Role.AUDITOR,
        owner_id=account_id,
    )
    assert await authenticate_session(services, opened.cookie) is not None
    await authenticate_token(services, token.token)
    await disable_account(services, CONSOLE, account_id)
    assert await authenticate_session(services, opened.cookie) is None
    with pytest.raises(Unauthenticated):
        await authenticate_token(services, token.token)
    with pytest.raises(Unauthenticated) as wrong:
        await sign_in(services, "maija", PASSWORD)
    assert wrong.value.message == "the user name or the password is wrong"
    with pytest.raises(Unauthenticated):
        await open_session(services, account_id)


async def test_a_new_password_ends_the_sessions(services: Services, make_account: MakeAccount) -> None:
    account_id = await make_account("maija")
    opened = await sign_in(services, "maija", PASSWORD)
    with pytest.raises(Unauthenticated):
        await change_password(services, opened.principal, account_id, new="a longer new one", current="wrong")
    await change_password(services, opened.principal, account_id, new="a longer new one", current=PASSWORD)
    assert await authenticate_session(services, opened.cookie) is None
    assert await authenticate(services, "maija", "a longer new one") == account_id
    with pytest.raises(Unauthenticated):
        await authenticate(services, "maija", PASSWORD)


async def test_an_old_hash_is_made_anew_at_sign_in(
    services: Services, make_account: MakeAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = await make_account("maija")
    dearer = passwords.Parameters(memory_kib=128, iterations=1, lanes=1)
    monkeypatch.setattr(passwords, "CURRENT", dearer)
    await authenticate(services, "maija", PASSWORD)
    async with services.database.snapshot() as session:
        assert (await session.get_one(Account, account_id)).password_hash.startswith(dearer.prefix)
    await authenticate(services, "maija", PASSWORD)


async def test_accounts_that_are_not_there(services: Services, controller: Controller) -> None:
    with pytest.raises(NotFound):
        await disable_account(services, CONSOLE, uuid.uuid4())
    with pytest.raises(NotFound):
        await revoke_role(services, CONSOLE, uuid.uuid4())
    with pytest.raises(InvalidInput):
        await create_account(
            services, CONSOLE, controller_id=controller.id, username="x1", name=" ", password=PASSWORD
        )
