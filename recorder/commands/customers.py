"""``customer``: the register, from files; ends of relationships; lines that say nothing of who calls."""

from __future__ import annotations

import csv
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

import click

from recorder.catalogue.enums import DataSource
from recorder.commands import personal
from recorder.commands.context import (
    controller_option,
    exit_with,
    find_controller,
    json_option,
    opened,
    principal,
    run,
    show_json,
    show_table,
)
from recorder.commands.failures import Exit, Usage

if TYPE_CHECKING:
    from datetime import datetime

    from recorder.customers.importing import ImportReport, Rejected
    from recorder.customers.relationship import RelationshipEnd


@click.group(short_help="The register of customers.")
def customer() -> None:
    """Customers: import them and their contacts, report an end, and tell which lines are shared."""


@customer.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--kind", type=click.Choice(["customers", "contacts"]), default="customers", show_default=True,
              help="What a line is.")  # fmt: skip
@click.option("--format", "layout", type=click.Choice(["csv", "ndjson"]),
              help="Default by the file's name: .csv, or .ndjson and .jsonl.")  # fmt: skip
@click.option("--source", type=click.Choice([s.value for s in DataSource]), default="registration",
              show_default=True, help="Where the data are from, where a line does not say.")  # fmt: skip
@click.option("--rejected", "rejected_to", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="Write line, field and reason of every line that was refused (CSV).")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check the file and write nothing.")
@controller_option
@json_option
def import_file(
    file: Path,
    kind: str,
    layout: str | None,
    source: str,
    rejected_to: Path | None,
    dry_run: bool,
    controller: str | None,
    as_json: bool,
) -> None:
    """Import customers or contacts (- for standard input). Exit code 1 when a line was refused.

    Importing a file again changes nothing, so a stopped import is simply run once more.
    """
    form = cast("Literal['csv', 'ndjson']", layout or _layout(file))
    total = 0 if str(file) == "-" else file.stat().st_size

    async def work() -> ImportReport:
        from recorder.customers.importing import import_lines

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            with _opened(file) as lines, _progress(lines, total, wanted=not as_json) as told:
                return await import_lines(
                    services,
                    principal(),
                    owner.id,
                    lines,
                    kind=cast("Literal['customers', 'contacts']", kind),
                    layout=form,
                    source=DataSource(source),
                    request_id=f"import-{uuid.uuid4()}",
                    dry_run=dry_run,
                    progress=told,
                )

    report = run(work())
    if rejected_to is not None:
        _write(rejected_to, report.rejected)
    if as_json:
        show_json(_document(report))
    else:
        _show(report, told_in=rejected_to)
    if report.rejected:
        exit_with(Exit.WRONG)


@customer.command()
@click.option("--end", is_flag=True, help="The line is no longer shared.")
@controller_option
def line(end: bool, controller: str | None) -> None:
    """Say that a telephone line is shared: calls from it are linked to nobody without a person's word.

    The number is read from standard input, out of the shell's history and the list of processes.
    """
    phone = click.prompt("number", err=True).strip()

    async def work() -> bool:
        from recorder.customers.lines import mark_line

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return await mark_line(services, principal(), owner.id, phone, shared=not end)

    click.echo("done" if run(work()) else "known already")


@customer.command()
@click.argument("number")
@click.option("--on", "ended_on", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE",
              help="The day, in the controller's time zone.")  # fmt: skip
@click.option("--cause", type=click.Choice(["closed", "death"]), help="Why it ended.")
@click.option("--source", type=click.Choice([s.value for s in DataSource]), help="Who told of it.")
@click.option("--reference", metavar="TEXT", help="The source's own reference; nothing personal.")
@click.option("--confirm", "step", flag_value="confirm", help="Confirm the day that was reported.")
@click.option("--withdraw", "step", flag_value="withdraw", help="Take back what was reported in error.")
@controller_option
@json_option
def end(
    number: str,
    ended_on: datetime | None,
    cause: str | None,
    source: str | None,
    reference: str | None,
    step: str | None,
    controller: str | None,
    as_json: bool,
) -> None:
    """Report the end of the relationship with the customer of a NUMBER; - reads it from stdin.

    Reported, it changes nothing: it counts once a person who is signed in has confirmed it, on the
    customer's page. Here nobody is, so --confirm and --withdraw are refused (exit code 4).
    """
    if step is None and (ended_on is None or cause is None or source is None):
        raise Usage("say when, why and who told of it: --on, --cause and --source")
    if step == "confirm" and ended_on is None:
        raise Usage("say which day is confirmed: --on")
    if number == "-":
        number = sys.stdin.readline().strip()

    async def work() -> RelationshipEnd:
        from recorder.customers import relationship

        tie = f"end-{uuid.uuid4()}"
        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            customer_id = await personal.customer_of(services, owner.id, number)
            at = (services, principal(), owner.id, customer_id)
            if step == "withdraw":
                return await relationship.withdraw_end(*at, request_id=tie)
            day = cast("datetime", ended_on).date()
            if step == "confirm":
                return await relationship.confirm_end(*at, ended_on=day, request_id=tie)
            return await relationship.report_end(
                *at,
                ended_on=day,
                cause=relationship.Cause(str(cause)),
                source=DataSource(str(source)),
                source_ref=reference,
                request_id=tie,
            )

    found = run(work())
    if as_json:
        show_json({"ended_on": found.ended_on, "confirmed_at": found.confirmed_at})
    else:
        state = "waits for a person's confirmation" if found.confirmed_at is None else "confirmed"
        click.echo(f"{found.ended_on}\t{state}")


def _layout(file: Path) -> str:
    if file.suffix.lower() == ".csv":
        return "csv"
    if file.suffix.lower() in {".ndjson", ".jsonl"}:
        return "ndjson"
    raise Usage("name the file's format with --format csv or --format ndjson")


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    if str(file) == "-":
        yield sys.stdin
        return
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        yield lines


@contextmanager
def _progress(lines: TextIO, total: int, *, wanted: bool) -> Iterator[Callable[[int], None] | None]:
    if not wanted or not total or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.fields[read]:,} lines"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, read=0)

        def told(read: int) -> None:
            # What is read ahead is little beside a file that is worth a bar.
            progress.update(task, completed=lines.buffer.tell(), read=read)

        yield told


def _write(path: Path, rejected: Sequence[Rejected]) -> None:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("line", "field", "reason"))
        writer.writerows((item.line, item.field, item.reason) for item in rejected)


def _document(report: ImportReport) -> dict[str, Any]:
    return {
        "read": report.read,
        "created": report.created,
        "changed": report.changed,
        "unchanged": report.unchanged,
        "linked": report.linked,
        "rejected": [
            {"line": item.line, "field": item.field, "reason": item.reason} for item in report.rejected
        ],
    }


def _show(report: ImportReport, *, told_in: Path | None) -> None:
    show_table(
        "Import",
        ("what", "number"),
        [
            ("new", report.created),
            ("changed", report.changed),
            ("nothing new", report.unchanged),
            ("recordings linked", report.linked),
            ("lines refused", report.rejected_lines),
        ],
    )
    if told_in is None:
        for item in report.rejected[:20]:
            click.echo(f"line {item.line}: {item.field} {item.reason}".replace("  ", " "), err=True)
        if len(report.rejected) > 20:
            click.echo(f"and {len(report.rejected) - 20} more: --rejected FILE lists them all", err=True)
