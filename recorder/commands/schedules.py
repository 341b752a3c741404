"""``schedule``: how long what is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recorder.commands.context import (
    confirm,
    controller_option,
    exit_with,
    find_controller,
    json_option,
    opened,
    parse_id,
    principal,
    run,
    show_json,
    show_table,
    yes_option,
)
from recorder.commands.failures import Exit, Refused, Usage

if TYPE_CHECKING:
    from recorder.disposition.scheduling import Simulation

_LIMIT = 1024 * 1024
document = click.argument("document", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group(short_help="Retention schedules.")
def schedule() -> None:
    """Retention schedules: which purpose is open how long, and why."""


@schedule.command()
@document
@click.option("--controller", metavar="CODE", help="The controller it must name.")
@click.option("--country", metavar="CC", help="That controller's country.")
def check(document: Path, controller: str | None, country: str | None) -> None:
    """Check a schedule; print each problem as FILE:LINE:COLUMN. Nothing is stored."""
    from retention import schedule as documents
    from retention.errors import ScheduleError

    try:
        found = documents.check(
            _read(document), controller=controller, country=None if country is None else country.upper()
        )
    except ScheduleError as error:
        for problem in error.problems:
            hint = f" ({problem.hint})" if problem.hint else ""
            click.echo(f"{document}:{problem.line}:{problem.column}: {problem.message}{hint}", err=True)
        exit_with(Exit.WRONG)
    else:
        rules = len(found.rules)
        click.echo(f"{document}: version {found.version} of {found.controller}, {rules} rules, no problems")


@schedule.command("list")
@controller_option
@json_option
def list_schedules(controller: str | None, as_json: bool) -> None:
    """List a controller's versions, the newest first."""

    async def work() -> list[dict[str, Any]]:
        from recorder.disposition import schedules

        async with opened() as services, services.database.snapshot() as session:
            owner = await find_controller(session, controller)
            rows = await schedules.listing(session, owner.id)
        in_force = max((row.version for row in rows if row.activated_at is not None), default=None)
        return [
            {
                "version": row.version,
                "state": "in force" if row.version == in_force else "past" if row.activated_at else "stored",
                "created_at": row.created_at,
                "created_by": row.created_by,
                "activated_at": row.activated_at,
            }
            for row in rows
        ]

    listed = run(work())
    if as_json:
        show_json(listed)
        return
    columns = ("version", "state", "created_at", "created_by", "activated_at")
    show_table("Schedules", columns, [[row[c] for c in columns] for row in listed])


@schedule.command()
@document
@controller_option
def add(document: Path, controller: str | None) -> None:
    """Store a new version; nothing changes until it is activated."""
    text = _read(document)

    async def work() -> int:
        from recorder.disposition import schedules

        async with opened() as services, services.database.transaction() as session:
            owner = await find_controller(session, controller)
            row = await schedules.add_version(
                session, owner.id, text, actor=principal().actor, now=services.clock.now()
            )
            return row.version

    click.echo(f"stored as version {run(work())}; `recorder schedule activate` puts it in force")


@schedule.command()
@document
@controller_option
@json_option
def simulate(document: Path, controller: str | None, as_json: bool) -> None:
    """Tell what a schedule would erase, open and close, over all recordings. Nothing is stored.

    Exit code 0 if it shortens nothing, 4 if it would need a second person.
    """
    text = _read(document)

    async def work() -> Simulation:
        from recorder.disposition import scheduling

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            with _progress("simulating") as told:
                return await scheduling.simulate_document(
                    services, principal(), owner.id, text, progress=told
                )

    found = run(work())
    if as_json:
        show_json(found.to_json())
    else:
        _show_simulation(found)
    if found.needs_approval:
        exit_with(Exit.REFUSED)


@schedule.command()
@click.argument("version", type=click.IntRange(1))
@click.option("--approval", metavar="ID", help="The second person's approval; without it, it is asked for.")
@controller_option
@yes_option
def activate(version: int, approval: str | None, controller: str | None, yes: bool) -> None:
    """Put a stored version in force. Where it shortens anything, a second person must approve."""
    approval_id = None if approval is None else parse_id(approval, "the approval")

    async def work() -> tuple[str | None, Simulation | None]:
        from recorder.access.approvals import ApprovalView
        from recorder.disposition import scheduling

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            confirm(f"Put version {version} of {owner.code} in force?", yes=yes)
            with _progress("simulating") as told:
                found, simulation = await scheduling.activate(
                    services, principal(), owner.id, version, approval_id=approval_id, progress=told
                )
            return (str(found.id) if isinstance(found, ApprovalView) else None), simulation

    waiting, simulation = run(work())
    if simulation is not None:
        _show_simulation(simulation)
    if waiting is not None:
        raise Refused(
            f"a second person must approve {waiting}; then run this again with --approval {waiting}"
        )
    click.echo(f"version {version} is in force; stored decisions follow: `recorder schedule progress`")


@schedule.command()
@controller_option
@json_option
def progress(controller: str | None, as_json: bool) -> None:
    """Tell how far stored decisions follow the version in force."""

    async def work() -> dict[str, int]:
        from recorder.disposition import reevaluation

        async with opened() as services, services.database.snapshot() as session:
            owner = await find_controller(session, controller)
            found = await reevaluation.progress_of(session, owner.id)
        return {
            "version": found.version,
            "recordings": found.recordings,
            "outstanding": found.outstanding,
        }

    told = run(work())
    if as_json:
        show_json(told)
        return
    show_table("Re-evaluation", tuple(told), [tuple(told.values())])


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr while something is counted; nothing without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)


def _show_simulation(found: Simulation) -> None:
    comparison = found.comparison
    show_table(
        f"Due, of {comparison.recordings.count} recordings",
        ("in days", "version in force", "this one", "hours of audio", "bytes"),
        [
            (days, comparison.due_old[days].count, new.count, _hours(new.audio.total_seconds()), new.size)
            for days, new in comparison.due_new.items()
        ],
    )
    columns = ("opened", "closed", "longer", "shorter")
    show_table(
        "Windows, by purpose and rule",
        ("purpose", "rule", *columns, "hours closed", "bytes closed"),
        [
            (
                purpose,
                rule or "-",
                *(getattr(movement, column).count for column in columns),
                _hours(movement.closed.audio.total_seconds()),
                movement.closed.size,
            )
            for (purpose, rule), movement in sorted(comparison.movements.items())
        ],
    )
    for total, by in ((comparison.held, "a legal hold"), (comparison.frozen, "a request or a restriction")):
        if total.count:
            click.echo(f"{total.count} recordings are kept by {by}")
    for one in found.stricter:
        named = (one.what, one.rule, one.purpose)
        click.echo(f"may keep less: {' '.join(name for name in named if name)}")
    if comparison.undecided_new.count:
        click.echo(f"{comparison.undecided_new.count} recordings would wait for a person's decision")
    words = "needs a second person" if found.needs_approval else "needs no second person"
    click.echo(f"version {found.version} against version {found.against}: {words}")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f}"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_LIMIT + 1)
        if len(raw) > _LIMIT:
            raise Usage(f"{path} is over a mebibyte: that is no schedule")
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Usage(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from None
