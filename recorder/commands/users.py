"""``user``: people's accounts. One person, one account."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Any

import click

from recorder.catalogue.enums import Role, ScopeKind
from recorder.commands.context import (
    controller_option,
    find_controller,
    json_option,
    opened,
    principal,
    run,
    show_json,
    show_table,
)
from recorder.commands.failures import Usage

if TYPE_CHECKING:
    import uuid

    from recorder.access.accounts import AccountView
    from recorder.access.principals import Grant
    from recorder.services import Services

ROLES = tuple(role.value for role in Role if role not in {Role.TELEPHONY, Role.CRM})
SCOPES = tuple(scope.value for scope in ScopeKind)
role_option = click.option("--role", type=click.Choice(ROLES), required=True, help="What the person does.")
scope_option = click.option(
    "--scope", type=click.Choice(SCOPES), help="How far it reaches; the role's widest where left out."
)
values_option = click.option(
    "--value",
    "values",
    multiple=True,
    metavar="CODE",
    help="An agent code of a team, or a queue. Repeatable.",
)


@click.group(short_help="People's accounts and roles.")
def user() -> None:
    """People's accounts: one person, one account, roles as narrow as possible."""


@user.command()
@click.argument("username")
@click.option("--name", required=True, help="The person's name, as colleagues see it.")
@role_option
@scope_option
@values_option
@click.option("--agent-code", metavar="CODE", help="Maps the person to the calls they served.")
@click.option("--language", type=click.Choice(["en", "fi", "sv"]), default="en", show_default=True)
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin; else one is made and shown."
)
@controller_option
def add(
    username: str,
    name: str,
    role: str,
    scope: str | None,
    values: tuple[str, ...],
    agent_code: str | None,
    language: str,
    password_stdin: bool,
    controller: str | None,
) -> None:
    """Make a person's account with one role."""
    password, shown = _password(password_stdin)

    async def work() -> None:
        from recorder.access.accounts import create_account

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            await create_account(
                services,
                principal(),
                controller_id=owner.id,
                username=username,
                name=name,
                password=password,
                grants=[make_grant(owner.id, role, scope, values)],
                agent_code=agent_code,
                language=language,
            )

    run(work())
    _tell(username, password, shown=shown)


@user.command()
@click.argument("username")
def disable(username: str) -> None:
    """Let a person go: account, sessions, tokens and links end at once."""

    async def work() -> None:
        from recorder.access.accounts import disable_account

        async with opened() as services:
            await disable_account(services, principal(), await _find(services, username))

    run(work())
    click.echo(f"{username} can no longer sign in")


@user.command()
@click.argument("username")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin; else one is made and shown."
)
def password(username: str, password_stdin: bool) -> None:
    """Set a person's password; every session of theirs ends."""
    new, shown = _password(password_stdin)

    async def work() -> None:
        from recorder.access.accounts import change_password

        async with opened() as services:
            await change_password(services, principal(), await _find(services, username), new=new)

    run(work())
    _tell(username, new, shown=shown)


@user.command()
@click.argument("username")
@role_option
@scope_option
@values_option
@click.option("--revoke", is_flag=True, help="Take the role back instead.")
@controller_option
def grant(
    username: str,
    role: str,
    scope: str | None,
    values: tuple[str, ...],
    revoke: bool,
    controller: str | None,
) -> None:
    """Give a person a further role, or take one back."""

    async def work() -> None:
        from recorder.access.accounts import grant_role, revoke_role

        async with opened() as services:
            account = await _account(services, username)
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            if not revoke:
                await grant_role(services, principal(), account.id, make_grant(owner.id, role, scope, values))
                return
            mine = [g for g in account.grants if g.grant.role == role and g.grant.controller_id == owner.id]
            if not mine:
                raise Usage(f"the account does not have the role {role} there")
            for found in mine:
                await revoke_role(services, principal(), found.id)

    run(work())
    click.echo(f"{username}: {role} {'taken back' if revoke else 'given'}")


@user.command("list")
@controller_option
@json_option
def list_users(controller: str | None, as_json: bool) -> None:
    """List accounts with their roles."""

    async def work() -> list[dict[str, Any]]:
        from recorder.access.accounts import list_accounts

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return [_row(view) for view in await list_accounts(services, principal(), owner.id)]

    listed = run(work())
    if as_json:
        show_json(listed)
        return
    columns = ("username", "name", "roles", "agent_code", "language", "state", "id")
    show_table(
        "Accounts",
        columns,
        [[", ".join(row[c]) if c == "roles" else row[c] for c in columns] for row in listed],
    )


def make_grant(controller_id: uuid.UUID, role: str, scope: str | None, values: tuple[str, ...]) -> Grant:
    """Build a grant; without a scope the widest that the role can have.

    Raises:
        Usage: No scope of this role is the widest.
    """
    from recorder.access.policy import scopes_for
    from recorder.access.principals import Grant

    allowed = scopes_for(Role(role))
    if scope is None:
        widest = ScopeKind.CONTROLLER if ScopeKind.CONTROLLER in allowed else ScopeKind.OWN
        scope = widest.value
    return Grant(Role(role), controller_id, ScopeKind(scope), frozenset(values))


def _password(from_stdin: bool) -> tuple[str, bool]:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n"), False
    return secrets.token_urlsafe(15), True


def _tell(username: str, password: str, *, shown: bool) -> None:
    # The one time that this password is readable.
    click.echo(f"{username}\t{password}" if shown else username)


async def _find(services: Services, username: str) -> uuid.UUID:
    return (await _account(services, username)).id


async def _account(services: Services, username: str) -> AccountView:
    """Find an account by user name.

    Raises:
        Usage: Nobody has this user name.
    """
    import sqlalchemy as sa

    from recorder.access.accounts import list_accounts
    from recorder.access.credentials import fold_username, username_index
    from recorder.catalogue.tables import Account

    index = username_index(services.keyring, fold_username(username))
    async with services.database.snapshot() as session:
        found = await session.scalar(sa.select(Account).where(Account.username_index == index))
    if found is None:
        raise Usage(f"nobody has the user name {username}")
    views = await list_accounts(services, principal(), found.controller_id)
    return next(view for view in views if view.id == found.id)


def _row(view: AccountView) -> dict[str, Any]:
    roles = [
        f"{g.grant.role.value} ({g.grant.scope.value}{': ' if g.grant.values else ''}"
        f"{' '.join(sorted(g.grant.values))})"
        for g in view.grants
    ]
    return {
        "username": view.username,
        "name": view.name,
        "roles": roles,
        "agent_code": view.agent_code,
        "language": view.language,
        "state": "disabled" if view.disabled_at else "active",
        "id": str(view.id),
    }
