"""``schedule``: how long what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
@click.argument("version", type=click.IntRange(1))
@click.option("--approval", metavar="ID", help="The second person's approval; without it, it is asked for.")
@controller_option
@yes_option
def activate(version: int, approval: str | None, controller: str | None, yes: bool) -> None:
    """Put a stored version in force. Where one is in force already, a second person must approve."""
    approval_id = None if approval is None else parse_id(approval, "the approval")

    async def work() -> str | None:
        from recorder.access import approvals
        from recorder.disposition import schedules

        who = principal()
        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            confirm(f"Put version {version} of {owner.code} in force?", yes=yes)
            now = services.clock.now()
            async with services.database.transaction() as session:
                stored = await schedules.get(session, owner.id, version)
                if stored.activated_at is not None:
                    return None
                step, target = "schedule_activate", f"{owner.id}:{version}"
                rows = await schedules.listing(session, owner.id)
                if any(row.activated_at is not None for row in rows):
                    if approval_id is None:
                        asked = await approvals.request_approval(
                            session, who, controller_id=owner.id, action=step, target=target, now=now
                        )
                        return str(asked.id)
                    await approvals.use_approval(
                        session,
                        approval_id,
                        actor=who.actor,
                        controller_id=owner.id,
                        action=step,
                        target=target,
                        now=now,
                    )
                await schedules.activate(
                    session, owner.id, version, actor=who.actor, now=now, approval_id=approval_id
                )
            return None

    waiting = run(work())
    if waiting is not None:
        raise Refused(
            f"a second person must approve {waiting}; then run this again with --approval {waiting}"
        )
    click.echo(f"version {version} is in force")


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
