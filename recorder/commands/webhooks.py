"""``webhook``: where the controller's systems are told of events."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from recorder.commands.context import (
    confirm,
    controller_option,
    find_controller,
    json_option,
    opened,
    parse_id,
    principal,
    run,
    show_json,
    show_table,
    yes_option,
)
from recorder.outgoing.events import EVENT_TYPES


@click.group(short_help="Telling other systems of events.")
def webhook() -> None:
    """Webhooks: signed messages (Standard Webhooks) that tell other systems of events."""


@webhook.command()
@click.argument("label")
@click.option("--event", "events", multiple=True, type=click.Choice(EVENT_TYPES),
              help="May be given several times; without it, all events.")  # fmt: skip
@controller_option
@json_option
def add(label: str, events: tuple[str, ...], controller: str | None, as_json: bool) -> None:
    """Add a webhook and print its secret, this once.

    The address is read from standard input, for it may hold a secret: it belongs neither into the shell's
    history nor into the list of processes.
    """
    url = click.prompt("address", err=True).strip()

    async def work() -> dict[str, Any]:
        from recorder.outgoing.endpoints import create_endpoint

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            row, secret = await create_endpoint(
                services, principal(), owner.id, url=url, label=label, events=events
            )
            return {"id": str(row.id), "host": row.host, "secret": secret}

    made = run(work())
    if as_json:
        show_json(made)
    else:
        click.echo(f"{made['id']}\t{made['secret']}")


@webhook.command("list")
@controller_option
@json_option
def listing(controller: str | None, as_json: bool) -> None:
    """List webhooks, with how many messages wait and how many are dead."""

    async def work() -> list[dict[str, Any]]:
        from recorder.outgoing.endpoints import list_endpoints

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return [
                {
                    "id": str(view.row.id),
                    "label": view.row.label,
                    "host": view.row.host,
                    "events": view.row.events,
                    "enabled": view.row.enabled,
                    "disabled_reason": view.row.disabled_reason,
                    "waiting": view.waiting,
                    "dead": view.dead,
                }
                for view in await list_endpoints(services, principal(), owner.id)
            ]

    rows = run(work())
    if as_json:
        show_json(rows)
        return
    show_table(
        "Webhooks",
        ("id", "label", "host", "events", "state", "waiting", "dead"),
        [
            (
                row["id"],
                row["label"],
                row["host"],
                ", ".join(row["events"]) or "all",
                "on" if row["enabled"] else f"off ({row['disabled_reason']})",
                row["waiting"],
                row["dead"],
            )
            for row in rows
        ],
    )


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@yes_option
def remove(webhook_id: str, yes: bool) -> None:
    """Remove a webhook, and what is on its way to it."""
    endpoint_id = parse_id(webhook_id, "ID")
    confirm("Remove this webhook and every message that waits for it?", yes=yes)

    async def work() -> None:
        from recorder.outgoing.endpoints import remove_endpoint

        async with opened() as services:
            await remove_endpoint(services, principal(), endpoint_id)

    run(work())


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--off", is_flag=True, help="Switch it off; it catches up when it is on again.")
def enable(webhook_id: str, off: bool) -> None:
    """Switch a webhook on again, or off."""
    endpoint_id = parse_id(webhook_id, "ID")

    async def work() -> None:
        from recorder.outgoing.endpoints import change_endpoint

        async with opened() as services:
            await change_endpoint(services, principal(), endpoint_id, enabled=not off)

    run(work())


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--overlap-hours", type=click.FloatRange(0, 720), default=24.0, show_default=True,
              help="How long messages carry the old signature as well.")  # fmt: skip
def rotate(webhook_id: str, overlap_hours: float) -> None:
    """Give a webhook its next secret and print it."""
    endpoint_id = parse_id(webhook_id, "ID")

    async def work() -> str:
        from recorder.outgoing.endpoints import rotate_secret

        async with opened() as services:
            return await rotate_secret(
                services, principal(), endpoint_id, overlap=timedelta(hours=overlap_hours)
            )

    click.echo(run(work()))


@webhook.command()
@click.argument("webhook_id", metavar="ID")
def test(webhook_id: str) -> None:
    """Send a test message."""
    endpoint_id = parse_id(webhook_id, "ID")

    async def work() -> str:
        from recorder.outgoing.endpoints import send_test

        async with opened() as services:
            return str(await send_test(services, principal(), endpoint_id))

    click.echo(run(work()))


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--message", help="One dead message; without it, all of them.")
def replay(webhook_id: str, message: str | None) -> None:
    """Send dead messages again and print how many."""
    endpoint_id = parse_id(webhook_id, "ID")
    message_id = None if message is None else parse_id(message, "--message")

    async def work() -> int:
        from recorder.outgoing.endpoints import replay as send_again

        async with opened() as services:
            return await send_again(services, principal(), endpoint_id, message_id=message_id)

    click.echo(str(run(work())))
