"""``serve``, ``worker`` and ``migrate``."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import click

from recorder.commands.context import run, run_server
from recorder.settings import Settings, load_settings


@click.command()
def serve() -> None:
    """Serve HTTP on RECORDER_LISTEN until SIGTERM or SIGINT.

    With the embedded database the background work (sweep, renditions, log) runs in this process too.
    """
    from recorder import app, logs
    from recorder.installation import only_one

    settings = load_settings()
    logs.configure(settings.log_level)
    with only_one(settings):
        run_server(_ready(settings, app.serve(settings)))


@click.command(short_help="Do background work: sweep, renditions, log.")
def worker() -> None:
    """Do background work: sweep, erasures, renditions, the log's checkpoints."""
    from recorder import app, logs
    from recorder.installation import only_one

    settings = load_settings()
    logs.configure(settings.log_level)
    with only_one(settings):
        run_server(_ready(settings, app.work(settings)))


async def _ready(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    from recorder.installation import make_ready

    try:
        await make_ready(settings)
    except BaseException:
        work.close()
        raise
    await work


@click.command(short_help="Make or update database and keyring.")
def migrate() -> None:
    """Make data directory and keyring where they are missing, and bring the database to the newest schema."""
    from recorder import installation
    from recorder.clock import SystemClock

    settings = load_settings()
    run(installation.refuse_new_keyring(settings))
    if installation.prepare_files(settings, SystemClock().now()):
        click.echo(f"made a new keyring at {settings.resolved_keyring}: back it up, apart from the database")
    run(installation.migrate(settings))
    click.echo("the database has the newest schema")
