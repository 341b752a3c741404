"""``backup`` and ``restore-check``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recorder.commands.context import confirm, json_option, opened, principal, run, show_json, yes_option
from recorder.settings import load_settings

if TYPE_CHECKING:
    from recorder.audit.restores import Accepted
    from recorder.backups import Backup
    from recorder.disposition.restoring import Replayed


@click.command(short_help="Copy the catalogue while it is in use; list the store.")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--keyring-to", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Copy the keyring too, to another place: never beside the database.")  # fmt: skip
@json_option
def backup(directory: Path, keyring_to: Path | None, as_json: bool) -> None:
    """Make a consistent copy of the catalogue in DIRECTORY, with a list of every object in the store.

    The sealed objects themselves never change: copy the bucket or the object directory after this. The
    keyring is not in the backup; whoever had both would have everything.
    """

    async def work() -> Backup:
        from recorder import backups

        async with opened() as services:
            return await backups.make(
                services, directory, keyring_to=keyring_to, actor=principal().actor, progress=_tell
            )

    made = run(work())
    if as_json:
        show_json(
            {
                "directory": made.directory,
                "database": made.database.name,
                "objects": made.objects,
                "bytes": made.bytes,
                "keyring": made.keyring,
            }
        )
        return
    click.echo(f"{made.database} and a list of {made.objects} objects ({made.bytes} bytes)")
    if made.keyring is None:
        click.echo("the keyring is not in it: back it up apart, see --keyring-to")
    else:
        click.echo(f"the keyring is at {made.keyring}: keep it apart from the database")


@click.command("restore-check", short_help="After a restore: erase again what was erased since the backup.")
@click.option("--dry-run", is_flag=True, help="Only say what the restored database has forgotten.")
@yes_option
@json_option
def restore_check(dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make a database that was restored from a backup fit to serve.

    Replays the ledger of erasures, so that what was erased stays erased, and then lets the audit log go on
    from where the backup ended; the stretch that is lost stays provable in the store. `recorder serve`
    refuses to start before this was done.
    """
    settings = load_settings()

    async def work() -> tuple[Replayed, Accepted | None, bool]:
        from recorder.audit import restores
        from recorder.audit.log import Sequencer, refuse_if_rolled_back
        from recorder.disposition import restoring
        from recorder.errors import Corrupt

        async with opened(settings) as services:
            behind = False
            try:
                await refuse_if_rolled_back(services)
            except Corrupt:
                behind = True
            if behind and not dry_run:
                confirm("Was this database restored from a backup, and is the log to go on from it?", yes=yes)
            now = services.clock.now()
            replayed = await restoring.replay(services, now, dry_run=dry_run)
            if dry_run:
                return replayed, None, behind
            accepted = await restores.accept(services, actor=principal().actor, now=now) if behind else None
            # Still refused: then entries were rewritten, and that is no restore.
            await refuse_if_rolled_back(services)
            if accepted is not None:
                log = Sequencer(services)
                await log.run_once()
                await log.copy_checkpoints()
            return replayed, accepted, behind

    from recorder.installation import only_one

    with contextlib.nullcontext() if dry_run else only_one(settings):
        replayed, accepted, behind = run(work())
    if as_json:
        show_json(
            {
                "behind": behind,
                "ledger": replayed.entries,
                "recordings": replayed.recordings,
                "customers": replayed.customers,
                "lost_entries": None if accepted is None else [accepted.lost_from, accepted.lost_to],
            }
        )
        return
    did = "would be erased again" if dry_run else "erased again"
    click.echo(
        f"{replayed.entries} erasures in the ledger; {len(replayed.recordings)} recordings and "
        f"{len(replayed.customers)} customers {did}"
    )
    if accepted is not None:
        click.echo(
            f"audit entries {accepted.lost_from} to {accepted.lost_to - 1} are lost with the old database; "
            "the log goes on"
        )
    elif behind:
        click.echo("the database is older than the store's checkpoints: run it without --dry-run")
    else:
        click.echo("the database is not behind the store")


def _tell(what: str, count: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{what}: {count}", nl=False, err=True)
