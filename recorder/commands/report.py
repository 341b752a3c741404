"""``report``: what is kept, why and until when; the record of processing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

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
from recorder.commands.failures import Exit

if TYPE_CHECKING:
    from recorder.disposition.processing_record import ProcessingRecord
    from recorder.disposition.reporting import Counted, RetentionReport


@click.group(short_help="Reports.")
def report() -> None:
    """Reports: the retention report, the record of processing activities."""


@report.command()
@controller_option
@json_option
def retention(controller: str | None, as_json: bool) -> None:
    """Tell what is kept, why, until when, what was erased, what is overdue.

    Exit code 1 if anything is overdue.
    """

    async def work() -> RetentionReport:
        from recorder.disposition import reporting

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return await reporting.report(services, principal(), owner.id)

    found = run(work())
    if as_json:
        show_json(found.to_json())
    else:
        _show(found)
    if found.overdue.count or found.overdue_erasures:
        exit_with(Exit.WRONG)


@report.command()
@controller_option
@json_option
def article30(controller: str | None, as_json: bool) -> None:
    """Print the record of processing activities (GDPR art. 30). The page to print is /app/article-30."""

    async def work() -> ProcessingRecord:
        from recorder.disposition import processing_record

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return await processing_record.record_of(services, principal(), owner.id)

    found = run(work())
    if as_json:
        show_json(found.to_json())
        return
    rows = [("controller", f"{found.controller['name']}, {found.controller['country']}")]
    rows += [("purpose", f"{line['purpose']}: {line['words']}") for line in found.purposes]
    rows += [("lawful basis", f"{line['words']}: {line['recordings']}") for line in found.lawful_bases]
    rows += [("data subjects", text) for text in found.data_subjects]
    rows += [("data", text) for text in found.data]
    rows += [("source", f"{line['name']} ({line['kind']})") for line in found.sources]
    rows += [
        ("recipient", f"{line['recipient']}: {', '.join(line['purposes']) or 'outside the controller'}")
        for line in found.recipients
    ]
    rows += [("transfers", text) for text in found.transfers]
    rows += [
        ("retention", ", ".join((line["of"], line["rule"], *line["purposes"])) + f": {line['words']}")
        for line in found.retention
    ]
    rows += [("security", text) for text in found.security]
    rows += [("to be added", text) for text in found.missing]
    show_table("Record of processing activities", ("part", "content"), rows)


def _show(found: RetentionReport) -> None:
    def cells(what: Counted) -> tuple[str, str, str]:
        return str(what.count), f"{what.seconds / 3600:.1f}", str(what.bytes)

    columns = ("recordings", "hours", "bytes")
    kept = [("all", found.total), *found.by_state.items(), ("held", found.held)]
    kept += [("restricted", found.restricted), ("for the next sweep", found.due)]
    kept += [("waiting for a request", found.waiting), ("overdue", found.overdue)]
    show_table(
        f"Kept, schedule {found.schedule}", ("what", *columns), [(n, *cells(what)) for n, what in kept]
    )
    why = [(k.why, k.rule, *cells(k.what)) for k in found.why]
    show_table("Why", ("why", "rule", *columns), why)
    dated = [(d.month, d.rule, *cells(d.what)) for d in found.dated]
    show_table("Until when", ("month", "rule", *columns), dated)
    records = [tuple(line.values()) for line in found.records if line["total"] or line["destroyed"]]
    show_table("Other records", ("record", "there", "due", "kept", "destroyed in a year"), records)
    erased = [(e.month, e.ground, e.recordings, e.certificates) for e in found.erased]
    show_table("Erased", ("month", "ground", "recordings", "certificates"), erased)
    if found.overdue_erasures:
        click.echo(f"{found.overdue_erasures} erasures are overdue")
