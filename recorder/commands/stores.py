"""``store``: moving to another object store."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import click

from recorder.commands.context import confirm, exit_with, opened, principal, run, yes_option
from recorder.commands.failures import Exit, Usage

if TYPE_CHECKING:
    from recorder.archive.moving import Moved
    from storage.objects import ObjectStore

_NEEDED = ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY")
_to = click.option(
    "--to", "address", required=True, metavar="ADDRESS", help="file:///directory or s3://bucket."
)


@click.group(short_help="Moving to another object store.")
def store() -> None:
    """The object store: move everything to another one, each object read back and verified.

    A bucket's address and keys are RECORDER_TARGET_ENDPOINT, RECORDER_TARGET_ACCESS_KEY and
    RECORDER_TARGET_SECRET_KEY.
    """


@store.command()
@_to
def copy(address: str) -> None:
    """Copy what the new store does not have yet; beside the running service, as often as wanted."""

    async def work() -> Moved:
        from recorder.archive import moving

        async with opened() as services, _target(address) as target:
            with _progress() as told:
                return await moving.copy(services, target, moving.name_of(address), progress=told)

    _tell(run(work()))


@store.command()
@_to
@yes_option
def switch(address: str, yes: bool) -> None:
    """Copy the rest and let the catalogue point into the new store. Stop `serve` and `worker` first."""
    confirm("Are `serve` and `worker` stopped everywhere?", yes=yes)

    async def work() -> Moved:
        from recorder.archive import moving

        async with opened() as services, _target(address) as target:
            with _progress() as told:
                return await moving.switch(
                    services, principal(), target, moving.name_of(address), progress=told
                )

    _tell(run(work()))
    click.echo(
        f"now set RECORDER_OBJECT_STORE={address} and what belongs to it, then start `serve` and `worker`"
    )


@asynccontextmanager
async def _target(address: str) -> AsyncIterator[ObjectStore]:
    from storage.errors import Misuse
    from storage.stores import open_store

    said = {name: os.environ.get(f"RECORDER_TARGET_{name}") for name in _NEEDED}
    missing = [f"RECORDER_TARGET_{name}" for name, value in said.items() if not value]
    if address.startswith("s3:") and missing:
        raise Usage(f"--to: a bucket needs {', '.join(missing)}")
    try:
        found = open_store(
            address,
            s3_endpoint=said["ENDPOINT"],
            access_key=said["ACCESS_KEY"],
            secret_key=said["SECRET_KEY"],
            region=os.environ.get("RECORDER_TARGET_REGION"),
        )
    except Misuse as error:
        raise Usage(f"--to: {error}") from None
    try:
        yield found
    finally:
        await found.aclose()


@contextmanager
def _progress() -> Iterator[Callable[[Moved], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", words="")
        yield lambda done: progress.update(
            task, words=f"{done.copied:,} copied ({done.bytes / 1e6:,.0f} MB), {done.known:,} known"
        )


def _tell(done: Moved) -> None:
    click.echo(f"{done.copied} copied, {done.known} were there, {done.removed} taken away")
    if done.damaged:
        click.echo(f"{len(done.damaged)} objects open neither here nor there: see `recorder scrub`", err=True)
    if done.failed:
        click.echo(f"{len(done.failed)} copies failed and were removed: run it again", err=True)
        exit_with(Exit.WRONG)
