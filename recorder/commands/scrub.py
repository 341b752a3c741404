"""``scrub``: read what is stored and see that it is what was written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from recorder.commands.context import json_option, opened, run, show_json
from recorder.commands.failures import Found

if TYPE_CHECKING:
    from recorder.jobs.scrub import Scrubbed


@click.command(short_help="Re-read stored objects and verify them.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
              help="How much of everything; the next share goes on where this one ends.")  # fmt: skip
@json_option
def scrub(share: float, as_json: bool) -> None:
    """Read stored objects whole and check every tag, size and digest.

    May be stopped and run again: it goes on where it stood. What is wrong becomes a finding, see
    GET /api/v1/findings; the exit code is then 1.
    """

    async def work() -> Scrubbed:
        from recorder.jobs import scrub as scrubbing

        async with opened() as services:
            return await scrubbing.scrub(services, share, progress=_tell)

    done = run(work())
    if sys.stderr.isatty():
        click.echo(err=True)
    if as_json:
        show_json(
            {"objects": done.done, "bytes": done.bytes, "wrong": done.wrong, "complete_rounds": done.rounds}
        )
    else:
        click.echo(f"{done.done} objects read and verified ({done.bytes} bytes)")
    if done.wrong:
        raise Found(f"{len(done.wrong)} objects are not what was written; see GET /api/v1/findings")


def _tell(done: int, goal: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {goal} objects", nl=False, err=True)
