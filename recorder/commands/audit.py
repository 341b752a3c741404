"""``audit``: the transparency log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recorder.commands.context import json_option, opened, run, show_json
from recorder.commands.failures import Found

if TYPE_CHECKING:
    from recorder.audit.verify import Report


@click.group(short_help="The audit log: verify it.")
def audit() -> None:
    """The audit log: a transparency log that nobody rewrites unseen."""


@audit.command()
@json_option
def verify(as_json: bool) -> None:
    """Check every entry, every checkpoint and every copy in the object store.

    Exits with 1 and names the first bad entry when the log is not what was signed.
    """
    report = run(_verify())
    if as_json:
        show_json(
            {
                "ok": report.ok,
                "entries": report.size,
                "root": report.root.hex(),
                "checkpoints": report.checkpoints,
                "copies": report.copies,
                "waiting": report.waiting,
                "first_bad_index": report.first_bad_index,
                "problems": [{"kind": p.kind, "index": p.index, "text": p.text} for p in report.problems],
            }
        )
    if not report.ok:
        index = report.first_bad_index
        first = "" if index is None else f" from index {index} on"
        raise Found(
            f"the audit log is not what was signed{first}: {'; '.join(p.text for p in report.problems)}"
        )
    if not as_json:
        waiting = f", {report.waiting} wait for their place" if report.waiting else ""
        click.echo(
            f"{report.size} entries are what was signed: {report.checkpoints} checkpoints, "
            f"{report.copies} copies in the object store{waiting}"
        )


async def _verify() -> Report:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from recorder.audit.verify import verify_log

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("checking entries"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    async with opened() as services:
        with bar:
            task = bar.add_task("entries", total=None)

            def moved(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            return await verify_log(services, progress=moved)
