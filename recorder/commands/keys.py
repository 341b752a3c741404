"""``keys``: epochs of the controllers' key-encryption keys."""

from __future__ import annotations

from typing import Any

import click

from recorder.commands.context import (
    confirm,
    controller_option,
    find_controller,
    json_option,
    opened,
    principal,
    run,
    show_json,
    show_table,
    yes_option,
)
from recorder.commands.failures import Usage


@click.group(short_help="Key epochs: list, rotate, destroy.")
def keys() -> None:
    """Key epochs: rotate, and destroy old ones for good once no backup needs them."""


@keys.command("list")
@controller_option
@json_option
def list_epochs(controller: str | None, as_json: bool) -> None:
    """List a controller's epochs and how many keys still hang on each."""

    async def work() -> list[dict[str, Any]]:
        from recorder.disposition import rotation

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            states = await rotation.epochs(services, owner.id)
        return [
            {
                "epoch": one.epoch,
                "state": "destroyed" if one.destroyed else "current" if one.is_current else "old",
                "created": one.created,
                "keys": one.subjects,
                "destroyable_on": one.destroyable_on,
                "destroyed": one.destroyed,
            }
            for one in states
        ]

    listed = run(work())
    if as_json:
        show_json(listed)
        return
    columns = ("epoch", "state", "created", "keys", "destroyable_on", "destroyed")
    show_table("Key epochs", columns, [[row[c] for c in columns] for row in listed])


@keys.command()
@click.option("--no-wait", is_flag=True, help="Leave moving the living keys to the service.")
@controller_option
def rotate(no_wait: bool, controller: str | None) -> None:
    """Begin a new epoch and move every living key under it. May be stopped and run again."""

    async def work() -> tuple[int, int]:
        from recorder.disposition import rotation

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            now = services.clock.now()
            epoch = await rotation.rotate(services, owner.id, actor=principal().actor, now=now)
            moved = 0
            while not no_wait:
                step = await rotation.rewrap_outdated(services, owner.id, services.clock.now())
                if step == 0:
                    break
                moved += step
            return epoch, moved

    epoch, moved = run(work())
    rest = "the service moves the living keys" if no_wait else f"{moved} living keys moved under it"
    click.echo(f"epoch {epoch} has begun; {rest}. Back up the keyring, apart from the database.")


@keys.command("destroy-epoch")
@click.argument("epoch", type=click.IntRange(1))
@click.option("--before-backups-expire", is_flag=True,
              help="Even though backups of the window still need it: they become useless.")  # fmt: skip
@controller_option
@yes_option
def destroy_epoch(epoch: int, before_backups_expire: bool, controller: str | None, yes: bool) -> None:
    """Destroy an old epoch for good: what only it opens, in any backup, stays unreadable."""

    async def work() -> None:
        from recorder.disposition import rotation

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            state = {one.epoch: one for one in await rotation.epochs(services, owner.id)}.get(epoch)
            if state is None:
                raise Usage(f"{owner.code} has no key epoch {epoch}: see `recorder keys list`")
            confirm(f"Destroy key epoch {epoch} of {owner.code} for good?", yes=yes)
            await rotation.destroy_epoch(
                services,
                owner.id,
                epoch,
                actor=principal().actor,
                now=services.clock.now(),
                before_backups_expire=before_backups_expire,
            )

    run(work())
    click.echo(f"epoch {epoch} is destroyed; replace older copies of the keyring too")
