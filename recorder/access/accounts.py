"""People's accounts: making them, granting roles, signing in, letting people go.

One person, one account. The user name and the name are sealed under a key of that person's own; sign-in finds
the account by a keyed hash of the folded name, so neither the database nor the log tells who works here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access import credentials, passwords
from recorder.access.credentials import fold_username, username_index
from recorder.access.guard import permit
from recorder.access.listening import ListeningStep, listening_step, spend, wait_for_second
from recorder.access.policy import Action, scopes_for
from recorder.access.principals import Grant, Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import Role, ScopeKind, SubjectKind
from recorder.catalogue.locks import lock_values
from recorder.catalogue.subjects import add_subject, open_json, seal_json
from recorder.catalogue.tables import (
    Account,
    ApiToken,
    ListeningLink,
    RoleGrant,
    Subject,
    WebSession,
)
from recorder.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound, Unauthenticated
from recorder.services import Services

PROFILE: Final = "account.profile"


@dataclass(frozen=True, slots=True)
class GrantView:
    """A living grant, as lists show it."""

    id: uuid.UUID
    grant: Grant


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account, opened for those who manage accounts; the names are empty once a leaver's are destroyed."""

    id: uuid.UUID
    controller_id: uuid.UUID
    username: str
    name: str
    agent_code: str | None
    language: str
    created_at: datetime
    disabled_at: datetime | None
    grants: tuple[GrantView, ...]


async def create_account(
    services: Services,
    principal: Principal,
    *,
    controller_id: uuid.UUID,
    username: str,
    name: str,
    password: str,
    grants: Sequence[Grant] = (),
    agent_code: str | None = None,
    language: str = "en",
    approval_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> uuid.UUID:
    """Make one person's account; with a role that hears calls, on a second person's approval.

    Args:
        services: The service.
        principal: Who makes it; must manage accounts at every controller concerned.
        controller_id: The account's own controller.
        username: Personal and unique in the whole installation, whatever its case.
        name: The person's name, shown to colleagues.
        password: Checked for strength, stored as Argon2id.
        grants: Roles from the start.
        agent_code: Maps the person to the calls they served; unique among living accounts of the controller.
        language: Of the pages: en, fi or sv.
        approval_id: The second person's approval of this very request.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        SecondPersonNeeded: a role hears calls, and no approval was given; it is asked for now.
        Forbidden: the caller may not manage accounts there, or the approval does not cover this.
        InvalidInput: a name, password or grant is not acceptable.
        Conflict: the user name or the agent code is taken.
    """
    for controller in {controller_id, *(g.controller_id for g in grants)}:
        await permit(
            services, principal, Action.MANAGE_ACCOUNTS, controller_id=controller, request_id=request_id
        )
    folded = fold_username(username)
    if not name.strip() or len(name) > 200:
        raise InvalidInput(
            "the name is missing or too long", fields=[FieldError("/name", "1 to 200 characters")]
        )
    passwords.check_strength(password, unlike=(folded,))
    for grant in grants:
        _check_grant(grant, controller_id, agent_code)
    index = username_index(services.keyring, folded)
    step = listening_step(
        services,
        principal,
        "account.create",
        grants,
        target=index.hex(),
        agent_code=agent_code,
        home=str(controller_id),
        language=language,
    )
    if step is not None and approval_id is None:
        async with services.database.snapshot() as session:
            await _check_free(session, index, controller_id, agent_code)
        raise await wait_for_second(services, principal, step, request_id=request_id)
    password_hash = await passwords.hash_password(password)
    now = services.clock.now()
    account_id = uuid.uuid4()
    try:
        async with services.database.transaction() as session:
            await lock_values(session, [index])
            await _check_free(session, index, controller_id, agent_code)
            await spend(session, services, principal, step, approval_id, request_id=request_id)
            subject = add_subject(session, services.keyring, controller_id, SubjectKind.STAFF, now=now)
            await session.flush()
            profile = {"username": username.strip(), "name": name.strip()}
            session.add(
                Account(
                    id=account_id,
                    controller_id=controller_id,
                    subject_id=subject.id,
                    username_index=index,
                    sealed=seal_json(services.keyring, subject, PROFILE, account_id, profile),
                    password_hash=password_hash,
                    agent_code=agent_code,
                    language=language,
                    created_at=now,
                    disabled_at=None,
                )
            )
            await session.flush()
            event = _event("account.created", principal, account_id, controller_id, request_id)
            record(session, event, now=now)
            for grant in grants:
                _add_grant(session, principal, account_id, grant, request_id, now)
    except IntegrityError:
        raise Conflict("this user name is taken", kind="username-taken") from None
    return account_id


async def grant_role(
    services: Services,
    principal: Principal,
    account_id: uuid.UUID,
    grant: Grant,
    *,
    approval_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> uuid.UUID:
    """Give an account a role at a controller; it counts from the next request on.

    Raises:
        SecondPersonNeeded: the role hears calls, and no approval was given; it is asked for now.
        Forbidden: the caller may not manage accounts there, it is their own account, or the approval does not
            cover this.
        NotFound: no such account.
        InvalidInput: a role and a scope that give nothing together.
    """
    await permit(
        services, principal, Action.MANAGE_ACCOUNTS, controller_id=grant.controller_id, request_id=request_id
    )
    if principal.kind == "account" and principal.id == str(account_id):
        raise Forbidden("Nobody grants roles to themselves.", reason="own-account")
    async with services.database.snapshot() as session:
        account = await _account(session, account_id)
    _check_grant(grant, account.controller_id, account.agent_code)
    step = listening_step(
        services,
        principal,
        "role.grant",
        [grant],
        target=str(account_id),
        agent_code=account.agent_code,
    )
    if step is not None and approval_id is None:
        raise await wait_for_second(services, principal, step, request_id=request_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        await spend(session, services, principal, step, approval_id, request_id=request_id)
        return _add_grant(session, principal, account_id, grant, request_id, now)


async def revoke_role(
    services: Services,
    principal: Principal,
    grant_id: uuid.UUID,
    *,
    account_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> None:
    """Take a role back, at once. Taking it back twice is no error.

    Args:
        services: The service.
        principal: Who takes it back.
        grant_id: Which grant.
        account_id: The account it must belong to, where the caller named one.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        Forbidden: the caller may not manage accounts there.
        NotFound: no such grant.
    """
    async with services.database.snapshot() as session:
        row = await session.get(RoleGrant, grant_id)
    if row is None or account_id not in (None, row.account_id):
        raise NotFound("there is no such grant")
    await permit(
        services, principal, Action.MANAGE_ACCOUNTS, controller_id=row.controller_id, request_id=request_id
    )
    now = services.clock.now()
    async with services.database.transaction() as session:
        changed = await session.execute(
            sa.update(RoleGrant)
            .where(RoleGrant.id == grant_id, RoleGrant.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(RoleGrant.id)
        )
        if changed.scalar() is not None:
            event = _event(
                "role.revoked", principal, row.account_id, row.controller_id, request_id, role=row.role.value
            )
            record(session, event, now=now)


async def disable_account(
    services: Services, principal: Principal, account_id: uuid.UUID, *, request_id: str | None = None
) -> None:
    """Let a person go: account, sessions, tokens and listening links end in one transaction.

    Raises:
        Forbidden: the caller may not manage accounts there, or it is their own account.
        NotFound: no such account.
    """
    account = await _managed(services, principal, account_id, request_id)
    if principal.kind == "account" and principal.id == str(account_id):
        raise Forbidden("Nobody disables their own account.", reason="own-account")
    now = services.clock.now()
    async with services.database.transaction() as session:
        await session.execute(
            sa.update(Account)
            .where(Account.id == account_id, Account.disabled_at.is_(None))
            .values(disabled_at=now)
        )
        await end_sessions(session, account_id, now)
        await session.execute(
            sa.update(ApiToken)
            .where(ApiToken.owner_id == account_id, ApiToken.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        await session.execute(
            sa.update(ListeningLink)
            .where(
                sa.or_(
                    ListeningLink.created_by == f"account:{account_id}",
                    ListeningLink.recipient_id == account_id,
                ),
                ListeningLink.revoked_at.is_(None),
            )
            .values(revoked_at=now)
        )
        event = _event("account.disabled", principal, account_id, account.controller_id, request_id)
        record(session, event, now=now)


async def change_password(
    services: Services,
    principal: Principal,
    account_id: uuid.UUID,
    *,
    new: str,
    current: str | None = None,
    approval_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> None:
    """Set a password: one's own with the current one, or another's as a manager of accounts.

    Every session of the account ends.

    Raises:
        SecondPersonNeeded: it is another's account, a role of which hears calls, and no approval was given;
            it is asked for now.
        Forbidden: it is another's account and the caller may not manage accounts there, or the approval does
            not cover this.
        Unauthenticated: the current password is wrong.
        Locked: too many failures.
        InvalidInput: the new one is too weak.
    """
    own = principal.kind == "account" and principal.id == str(account_id)
    if own:
        async with services.database.snapshot() as session:
            account = await _account(session, account_id)
        await credentials.prove(services, account.username_index, account, current or "", request_id)
    else:
        account = await _managed(services, principal, account_id, request_id)
    passwords.check_strength(new, path="/new")
    if not own and approval_id is None:
        async with services.database.snapshot() as session:
            step = await _password_step(session, services, principal, account)
        if step is not None:
            raise await wait_for_second(services, principal, step, request_id=request_id)
    hashed = await passwords.hash_password(new)
    now = services.clock.now()
    async with services.database.transaction() as session:
        if not own:
            step = await _password_step(session, services, principal, account)
            await spend(session, services, principal, step, approval_id, request_id=request_id)
        await session.execute(sa.update(Account).where(Account.id == account_id).values(password_hash=hashed))
        await end_sessions(session, account_id, now)
        event = _event("account.password_changed", principal, account_id, account.controller_id, request_id)
        record(session, event, now=now)


async def authenticate(
    services: Services, username: str, password: str, *, request_id: str | None = None
) -> uuid.UUID:
    """Check a user name and a password; answers and takes time alike for names known and unknown.

    Returns:
        The account's id.

    Raises:
        Unauthenticated: one of them is wrong, or the account is disabled.
        Locked: too many failures for this name, known or not.
    """
    try:
        folded = fold_username(username)
    except InvalidInput:
        folded = "\x00"  # no account can have it; takes the same way as any unknown name
    index = username_index(services.keyring, folded)
    async with services.database.snapshot() as session:
        found = await session.execute(sa.select(Account).where(Account.username_index == index))
        account = found.scalar_one_or_none()
    await credentials.prove(services, index, account, password, request_id)
    if account is None:
        raise Unauthenticated(credentials.WRONG)
    return account.id


async def load_principal(session: AsyncSession, account_id: uuid.UUID) -> Principal | None:
    """The account with the roles it holds now; None when it is gone or disabled."""
    account = await session.get(Account, account_id)
    if account is None or account.disabled_at is not None:
        return None
    rows = await session.execute(
        sa.select(RoleGrant).where(RoleGrant.account_id == account_id, RoleGrant.revoked_at.is_(None))
    )
    return Principal(
        kind="account",
        id=str(account.id),
        controller_id=account.controller_id,
        grants=tuple(_grant(row) for row in rows.scalars()),
        agent_code=account.agent_code,
        language=account.language,
    )


async def list_accounts(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> list[AccountView]:
    """Every account of a controller, with names and living grants, in the order they were made.

    Raises:
        Forbidden: the caller may not manage accounts there.
    """
    await permit(
        services, principal, Action.MANAGE_ACCOUNTS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        rows = await session.execute(
            sa.select(Account, Subject)
            .join(Subject, Subject.id == Account.subject_id)
            .where(Account.controller_id == controller_id)
            .order_by(Account.created_at, Account.id)
        )
        accounts = [(account, subject) for account, subject in rows]
        grants = await session.execute(
            sa.select(RoleGrant)
            .join(Account, Account.id == RoleGrant.account_id)
            .where(Account.controller_id == controller_id, RoleGrant.revoked_at.is_(None))
            .order_by(RoleGrant.granted_at, RoleGrant.id)
        )
        by_account: dict[uuid.UUID, list[GrantView]] = {}
        for row in grants.scalars():
            by_account.setdefault(row.account_id, []).append(GrantView(row.id, _grant(row)))
    return [_view(services, a, s, by_account.get(a.id, [])) for a, s in accounts]


async def display_name(services: Services, account_id: uuid.UUID) -> str:
    """A colleague's name, for pages and certificates of use.

    Raises:
        NotFound: no such account.
        Erased: the person's key has been destroyed.
    """
    async with services.database.snapshot() as session:
        account = await _account(session, account_id)
        subject = await session.get_one(Subject, account.subject_id)
    return str(open_json(services.keyring, subject, PROFILE, account.id, account.sealed)["name"])


async def end_sessions(session: AsyncSession, account_id: uuid.UUID, now: datetime) -> None:
    """End every browser session of an account, in the running transaction."""
    await session.execute(
        sa.update(WebSession)
        .where(WebSession.account_id == account_id, WebSession.revoked_at.is_(None))
        .values(revoked_at=now)
    )


async def _managed(
    services: Services, principal: Principal, account_id: uuid.UUID, request_id: str | None
) -> Account:
    async with services.database.snapshot() as session:
        account = await _account(session, account_id)
    await permit(
        services,
        principal,
        Action.MANAGE_ACCOUNTS,
        controller_id=account.controller_id,
        object_type="account",
        object_id=str(account_id),
        request_id=request_id,
    )
    return account


async def _password_step(
    session: AsyncSession, services: Services, principal: Principal, account: Account
) -> ListeningStep | None:
    """Setting the password opens every role that the account holds now; its own controller decides."""
    rows = await session.execute(
        sa.select(RoleGrant).where(RoleGrant.account_id == account.id, RoleGrant.revoked_at.is_(None))
    )
    return listening_step(
        services,
        principal,
        "password.set",
        [_grant(row) for row in rows.scalars()],
        target=str(account.id),
        decided_at=account.controller_id,
        agent_code=account.agent_code,
    )


async def _account(session: AsyncSession, account_id: uuid.UUID) -> Account:
    account = await session.get(Account, account_id)
    if account is None:
        raise NotFound("there is no such account")
    return account


async def _check_free(
    session: AsyncSession, index: bytes, controller_id: uuid.UUID, agent_code: str | None
) -> None:
    taken = await session.execute(sa.select(Account.id).where(Account.username_index == index))
    if taken.first() is not None:
        raise Conflict("this user name is taken", kind="username-taken")
    if agent_code is None:
        return
    same = await session.execute(
        sa.select(Account.id).where(
            Account.controller_id == controller_id,
            Account.agent_code == agent_code,
            Account.disabled_at.is_(None),
        )
    )
    if same.first() is not None:
        raise Conflict("this agent code belongs to another account", kind="agent-code-taken")


def _check_grant(grant: Grant, home: uuid.UUID, agent_code: str | None) -> None:
    def refuse(path: str, message: str) -> None:
        raise InvalidInput("the role cannot be granted like this", fields=[FieldError(path, message)])

    if grant.role is Role.TELEPHONY:
        refuse("/role", "telephony belongs to a source's token, not to a person")
    allowed = scopes_for(grant.role)
    if grant.scope not in allowed:
        refuse("/scope", f"for {grant.role.value} give {' or '.join(sorted(allowed))}")
    if (grant.scope in (ScopeKind.TEAM, ScopeKind.QUEUE)) != bool(grant.values):
        refuse("/values", "give the agent codes of a team or the queues, and nothing for other scopes")
    if grant.scope is ScopeKind.OWN and (agent_code is None or grant.controller_id != home):
        refuse("/scope", "own needs an agent code, at the account's own controller")


def _add_grant(
    session: AsyncSession,
    principal: Principal,
    account_id: uuid.UUID,
    grant: Grant,
    request_id: str | None,
    now: datetime,
) -> uuid.UUID:
    grant_id = uuid.uuid4()
    session.add(
        RoleGrant(
            id=grant_id,
            account_id=account_id,
            controller_id=grant.controller_id,
            role=grant.role,
            scope=grant.scope,
            values=sorted(grant.values),
            granted_at=now,
            revoked_at=None,
        )
    )
    event = _event(
        "role.granted",
        principal,
        account_id,
        grant.controller_id,
        request_id,
        role=grant.role.value,
        scope=grant.scope.value,
    )
    record(session, event, now=now)
    return grant_id


def _grant(row: RoleGrant) -> Grant:
    return Grant(row.role, row.controller_id, row.scope, frozenset(row.values))


def _view(services: Services, account: Account, subject: Subject, grants: list[GrantView]) -> AccountView:
    if account.sealed:
        profile = open_json(services.keyring, subject, PROFILE, account.id, account.sealed)
    else:  # a leaver whose time was over by the schedule
        profile = {"username": "", "name": ""}
    return AccountView(
        id=account.id,
        controller_id=account.controller_id,
        username=str(profile["username"]),
        name=str(profile["name"]),
        agent_code=account.agent_code,
        language=account.language,
        created_at=account.created_at,
        disabled_at=account.disabled_at,
        grants=tuple(grants),
    )


def _event(
    action: str,
    principal: Principal,
    account_id: uuid.UUID,
    controller_id: uuid.UUID,
    request_id: str | None,
    **details: str,
) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="account",
        object_id=str(account_id),
        controller_id=controller_id,
        request_id=request_id,
        details=details,
    )
