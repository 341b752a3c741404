"""``doctor``: is everything that recordings need there, and what to do when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from recorder.commands.context import exit_with, json_option, run, show_json
from recorder.commands.failures import Exit
from recorder.settings import load_settings

if TYPE_CHECKING:
    from recorder.doctor import Finding


@click.command(short_help="Try every part that the service needs.")
@json_option
def doctor(as_json: bool) -> None:
    """Try every part the service needs and say what to do about each that is red.

    A random probe object is written to the store and removed again. Exits with 1 when a line is red.
    """
    settings = load_settings()

    async def work() -> list[Finding]:
        from recorder.clock import SystemClock
        from recorder.doctor import Doctor

        return [finding async for finding in Doctor(settings, SystemClock().now).examine()]

    findings = run(work())
    if as_json:
        show_json([{"part": f.part, "ok": f.ok, "found": f.found, "remedy": f.remedy} for f in findings])
    else:
        _show(findings)
    if not all(finding.ok for finding in findings):
        exit_with(Exit.WRONG)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {True: Text("ok", "bold green"), False: Text("RED", "bold red"), None: Text("-", "yellow")}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "part", "what was found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.remedy:
            text.append(f"\ndo: {finding.remedy}", "bold")
        table.add_row(marks[finding.ok], Text(finding.part), text)
    Console().print(table)
