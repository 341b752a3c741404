"""The demo's controllers, accounts, tokens and source. Every step may find its work done already."""

from __future__ import annotations

import secrets
import uuid
from typing import Final

import sqlalchemy as sa

from recorder.access.accounts import change_password, create_account
from recorder.access.credentials import fold_username, username_index
from recorder.access.principals import Grant, Principal
from recorder.access.tokens import issue_token, revoke_token
from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from recorder.catalogue.tables import Account, ApiToken, Controller, Source
from recorder.demo.accounts import DemoAccounts
from recorder.ingest.sources import NewSource, create_source
from recorder.installation import add_controller
from recorder.services import Services

AGENT_CODE: Final = "A-17"
SOURCE: Final = "demo-pbx"
CONTROLLERS: Final = (
    ("fi-main", "Esimerkki Oy", "FI"),
    ("se-main", "Exempel AB", "SE"),
)
"""Code, name and country; the demo's calls and sign-ins belong to the first."""
PEOPLE: Final = {
    Role.AGENT: "Alex Agent",
    Role.TRAINER: "Toni Trainer",
    Role.QUALITY: "Quinn Quality",
    Role.LEGAL: "Leo Legal",
    Role.PRIVACY: "Priya Privacy",
    Role.OPERATOR: "Otto Operator",
    Role.AUDITOR: "Aura Auditor",
}


async def set_up(services: Services, demo: DemoAccounts, principal: Principal) -> Controller:
    """Make what the demo's calls need, and note each credential as soon as it exists.

    Returns:
        The controller to which the calls belong.
    """
    controller = await _controllers(services, principal)
    for role, name in PEOPLE.items():
        await _account(services, demo, principal, controller.id, role, name)
    source_id = await _source(services, principal, controller.id)
    for role in Role:
        await _token(services, demo, principal, controller.id, role, source_id)
    demo.sources = [{"name": SOURCE, "kind": "generic", "token": demo.tokens[Role.TELEPHONY.value]}]
    demo.save()
    return controller


async def _controllers(services: Services, principal: Principal) -> Controller:
    for code, name, country in CONTROLLERS:
        async with services.database.transaction() as session:
            if await session.scalar(sa.select(Controller).where(Controller.code == code)) is None:
                await add_controller(
                    session, services, code=code, name=name, country=country, actor=principal.actor
                )
    async with services.database.snapshot() as session:
        return (
            await session.scalars(sa.select(Controller).where(Controller.code == CONTROLLERS[0][0]))
        ).one()


async def _account(
    services: Services,
    demo: DemoAccounts,
    principal: Principal,
    controller_id: uuid.UUID,
    role: Role,
    name: str,
) -> None:
    username = role.value
    known = username in demo.accounts
    if not known:
        demo.accounts[username] = secrets.token_urlsafe(12)
        demo.save()  # before the account exists: a password that was set is never forgotten
    index = username_index(services.keyring, fold_username(username))
    async with services.database.snapshot() as session:
        found = await session.scalar(sa.select(Account).where(Account.username_index == index))
    if found is not None:
        if not known:  # the file of an earlier start was lost
            await change_password(services, principal, found.id, new=demo.accounts[username])
        return
    own = role is Role.AGENT
    await create_account(
        services,
        principal,
        controller_id=controller_id,
        username=username,
        name=name,
        password=demo.accounts[username],
        grants=[Grant(role, controller_id, ScopeKind.OWN if own else ScopeKind.CONTROLLER)],
        agent_code=AGENT_CODE if own else None,
    )


async def _source(services: Services, principal: Principal, controller_id: uuid.UUID) -> uuid.UUID:
    async with services.database.snapshot() as session:
        found = await session.scalar(sa.select(Source.id).where(Source.name == SOURCE))
    if found is not None:
        return found
    given = NewSource(name=SOURCE, default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP)
    return (await create_source(services, principal, controller_id, given)).id


async def _token(
    services: Services,
    demo: DemoAccounts,
    principal: Principal,
    controller_id: uuid.UUID,
    role: Role,
    source_id: uuid.UUID,
) -> None:
    if role.value in demo.tokens:
        return
    label = f"demo {role.value}"
    async with services.database.snapshot() as session:
        lost = await session.scalars(
            sa.select(ApiToken.id).where(
                ApiToken.controller_id == controller_id,
                ApiToken.label == label,
                ApiToken.revoked_at.is_(None),
            )
        )
        forgotten = list(lost)
    for token_id in forgotten:  # issued, and the start was interrupted before it was noted
        await revoke_token(services, principal, token_id)
    own = role is Role.AGENT
    issued = await issue_token(
        services,
        principal,
        controller_id=controller_id,
        label=label,
        role=role,
        scope=ScopeKind.OWN if own else ScopeKind.CONTROLLER,
        values=(AGENT_CODE,) if own else (),
        source_id=source_id if role is Role.TELEPHONY else None,
    )
    demo.tokens[role.value] = issued.token
    demo.save()
