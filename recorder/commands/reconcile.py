"""``reconcile``: what other systems know, against what is here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from zoneinfo import ZoneInfo

import click

from recorder.commands.context import exit_with, json_option, opened, principal, run, show_json, show_table
from recorder.commands.failures import Exit, Usage
from recorder.commands.sources import find_source

if TYPE_CHECKING:
    from recorder.completeness.reconciling import Report


@click.group(short_help="Is everything here that should be?")
def reconcile() -> None:
    """Compare what other systems know with what is here."""


@reconcile.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option(
    "--source", "source_name", required=True, metavar="NAME", help="The source whose calls these are."
)
@click.option("--format", "layout", type=click.Choice(["header", "asterisk", "freeswitch"]), default="header",
              show_default=True, help="A header names the columns, or a system's own order.")  # fmt: skip
@click.option("--zone", metavar="ZONE", help="Of times without an offset; default the controller's.")
@click.option("--shortest", type=click.FloatRange(0), default=1.0, show_default=True,
              help="Seconds of talk below which nothing is expected.")  # fmt: skip
@json_option
def cdr(file: Path, source_name: str, layout: str, zone: str | None, shortest: float, as_json: bool) -> None:
    """Compare call detail records (CSV; - for standard input) with what is here.

    Every answered call without a recording becomes a placeholder, closed by itself when its audio arrives.
    Exit code 1 when there are any. Running it again changes nothing.
    """
    if zone is not None:
        try:
            ZoneInfo(zone)
        except (ValueError, OSError, KeyError):
            raise Usage("--zone is an IANA time zone, such as Europe/Helsinki") from None

    async def work() -> Report:
        from recorder.completeness.cdr import FORMATS
        from recorder.completeness.reconciling import reconcile_cdr

        async with opened() as services:
            async with services.database.snapshot() as session:
                found = await find_source(session, source_name)
            with _lines(file) as lines, _progress(not as_json) as told:
                return await reconcile_cdr(
                    services,
                    principal(),
                    found.id,
                    lines,
                    columns=FORMATS[layout],
                    zone=zone,
                    shortest=shortest,
                    progress=told,
                )

    report = run(work())
    if as_json:
        show_json(report.to_json())
    else:
        _show(report)
    if report.missing:
        exit_with(Exit.WRONG)


@contextmanager
def _lines(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as opened_file:
        yield opened_file


@contextmanager
def _progress(wanted: bool) -> Iterator[Callable[[int], None] | None]:
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} records"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("")
        yield lambda done: progress.update(task, completed=done)


def _show(report: Report) -> None:
    show_table(
        "Call detail records",
        ("what", "records"),
        [
            ("here", report.here),
            ("missing", report.missing),
            ("erased since", report.erased),
            ("too short to be recorded", report.short),
            ("not recorded, says the record", report.unrecorded),
            ("not answered", report.unanswered),
            ("unreadable", report.unreadable_count),
        ],
    )
    for line, reason in report.unreadable[:20]:
        click.echo(f"line {line}: {reason}", err=True)
    if report.missing_lines:
        listed = ", ".join(map(str, report.missing_lines[:50]))
        click.echo(f"missing: lines {listed}{' …' if report.missing > 50 else ''}", err=True)
