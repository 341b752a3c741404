"""``token``: bearer tokens of machines."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from recorder.catalogue.enums import Role, ScopeKind
from recorder.commands.context import (
    controller_option,
    find_controller,
    json_option,
    opened,
    parse_id,
    principal,
    run,
    show_json,
    show_table,
)
from recorder.commands.sources import find_source

ROLES = tuple(role.value for role in Role)
SCOPES = tuple(scope.value for scope in ScopeKind)


@click.group(short_help="Bearer tokens of machines.")
def token() -> None:
    """Bearer tokens: of API clients with one role, and of sources."""


@token.command()
@click.argument("label")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its bearer may do.")
@click.option("--source", metavar="NAME", help="The source it pushes for; with --role telephony.")
@click.option("--scope", type=click.Choice(SCOPES), default="controller", show_default=True)
@click.option(
    "--value", "values", multiple=True, metavar="CODE", help="An agent code, or a queue. Repeatable."
)
@click.option("--days", type=click.IntRange(1, 3650), help="Until it expires; a year for API clients.")
@controller_option
@json_option
def issue(
    label: str,
    role: str,
    source: str | None,
    scope: str,
    values: tuple[str, ...],
    days: int | None,
    controller: str | None,
    as_json: bool,
) -> None:
    """Make a token and print it, this once. LABEL says which system it is for, never which person."""

    async def work() -> dict[str, Any]:
        from recorder.access.tokens import issue_token

        async with opened() as services:
            async with services.database.snapshot() as session:
                if source is None:
                    owner, pushes_for = (await find_controller(session, controller)).id, None
                else:
                    found = await find_source(session, source)
                    owner, pushes_for = found.controller_id, found.id
            issued = await issue_token(
                services,
                principal(),
                controller_id=owner,
                label=label,
                role=Role(role),
                scope=ScopeKind(scope),
                values=values,
                source_id=pushes_for,
                expires_at=None if days is None else services.clock.now() + timedelta(days=days),
            )
            return {"id": str(issued.id), "token": issued.token, "expires_at": issued.expires_at}

    made = run(work())
    if as_json:
        show_json(made)
    else:
        click.echo(made["token"])


@token.command()
@click.argument("token_id", metavar="ID")
def revoke(token_id: str) -> None:
    """End a token at once."""

    async def work() -> None:
        from recorder.access.tokens import revoke_token

        async with opened() as services:
            await revoke_token(services, principal(), parse_id(token_id, "the token's id"))

    run(work())
    click.echo("the token no longer opens anything")


@token.command("list")
@click.option("--all", "everything", is_flag=True, help="Show revoked and expired ones too.")
@controller_option
@json_option
def list_tokens(everything: bool, controller: str | None, as_json: bool) -> None:
    """List tokens; their secrets are stored nowhere."""

    async def work() -> list[dict[str, Any]]:
        from recorder.access import tokens

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            now = services.clock.now()
            rows = []
            for view in await tokens.list_tokens(services, principal(), owner.id):
                expired = view.expires_at is not None and view.expires_at <= now
                state = "revoked" if view.revoked_at else "expired" if expired else "living"
                if state == "living" or everything:
                    rows.append(
                        {
                            "label": view.label,
                            "role": view.role.value,
                            "scope": " ".join([view.scope.value, *view.values]),
                            "state": state,
                            "expires_at": view.expires_at,
                            "last_used_at": view.last_used_at,
                            "id": str(view.id),
                        }
                    )
            return rows

    listed = run(work())
    if as_json:
        show_json(listed)
        return
    columns = ("label", "role", "scope", "state", "expires_at", "last_used_at", "id")
    show_table("Tokens", columns, [[row[c] for c in columns] for row in listed])
