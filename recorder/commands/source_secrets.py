"""``source secret``: what proves a sender or opens its doors; values from stdin, never from arguments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from recorder.commands.context import json_option, opened, principal, run, show_json, show_table
from recorder.commands.failures import Usage
from recorder.commands.sources import find_source

if TYPE_CHECKING:
    import uuid
    from typing import TextIO

    from recorder.services import Services


@click.command("secret")
@click.argument("name")
@click.argument("key", required=False)
@click.option("--file", "file", type=click.File("r"), help="Read the value from a file; - is standard input.")
@click.option("--remove", is_flag=True, help="Forget the secret.")
@json_option
def secret(name: str, key: str | None, file: TextIO | None, remove: bool, as_json: bool) -> None:
    """Set the secret KEY of the source NAME; without KEY, list which it has.

    The value is asked for, or read from standard input or --file, so that no process list shows it.
    KEY is auth_token, auth_token_next, basic, bearer, secret_token, trust_anchors, vcon_key or key:NAME.
    """
    if key is None:
        _list(name, as_json)
        return
    value = "" if remove else _value(file, whole=key.startswith(("key:", "vcon_key", "trust_anchors")))

    async def work() -> None:
        from recorder.ingest.secrets import remove_secret, set_secret

        async with opened() as services:
            source_id = await _source(services, name)
            if remove:
                await remove_secret(services, principal(), source_id, key)
            else:
                await set_secret(services, principal(), source_id, key, value)

    run(work())
    click.echo(f"{name}: {key} {'removed' if remove else 'set'}")


def _list(name: str, as_json: bool) -> None:
    async def work() -> list[dict[str, Any]]:
        from recorder.ingest.secrets import list_secrets

        async with opened() as services:
            found = await list_secrets(services, principal(), await _source(services, name))
            return [{"name": one.name, "changed_at": one.changed_at.isoformat()} for one in found]

    listed = run(work())
    if as_json:
        show_json(listed)
    else:
        show_table("Secrets", ("name", "changed_at"), [[row["name"], row["changed_at"]] for row in listed])


def _value(file: TextIO | None, *, whole: bool) -> str:
    """The value: a whole PEM text, or one line without its end."""
    if file is not None:
        text = file.read()
    elif sys.stdin.isatty() and not whole:
        text = str(click.prompt("Value", hide_input=True))
    else:
        text = sys.stdin.read()
    if not text.strip():
        raise Usage("there is no value: give it on standard input or by --file")
    return text if whole else text.rstrip("\r\n")


async def _source(services: Services, name: str) -> uuid.UUID:
    async with services.database.snapshot() as session:
        return (await find_source(session, name)).id
