"""``sweep`` and ``erase``: what ends, by its date or by a person's decision."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

import click

from recorder.catalogue.enums import ErasureGround
from recorder.commands.context import (
    confirm,
    controller_option,
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
from recorder.commands.failures import Refused, Usage
from recorder.errors import Unavailable

if TYPE_CHECKING:
    from recorder.disposition.other_records import ClassCount, Outcome
    from recorder.services import Services
    from retention.erasure import ErasureResult
    from retention.sweep import SweepReport

# The sweep acts on retention, and card data is destroyed where it arrives: no person gives these grounds.
GROUNDS = tuple(
    ground.value
    for ground in ErasureGround
    if ground not in {ErasureGround.RETENTION, ErasureGround.CARD_SECURITY}
)


@click.command(short_help="Erase what is due.")
@click.option("--dry-run", is_flag=True, help="Decide and report, change nothing.")
@click.option(
    "--approval", metavar="ID", help="A second person's approval of more than the brake lets through."
)
@controller_option
@json_option
def sweep(dry_run: bool, approval: str | None, controller: str | None, as_json: bool) -> None:
    """Erase what is due, of every controller or of one; bring unfinished erasures to their end."""
    others: dict[str, list[dict[str, Any]]] = {}

    async def work() -> dict[str, SweepReport]:
        import sqlalchemy as sa

        from recorder.catalogue.tables import Controller
        from recorder.disposition import other_records, sweeping

        async with opened() as services:
            async with services.database.snapshot() as session:
                if controller is not None or approval is not None:
                    chosen = [await find_controller(session, controller)]
                else:
                    chosen = list(await session.scalars(sa.select(Controller).order_by(Controller.code)))
            reports = {
                owner.code: await sweeping.sweep(
                    services,
                    owner.id,
                    services.clock.now(),
                    dry_run=dry_run,
                    actor=principal().actor,
                    approval=approval if approval is None else str(parse_id(approval, "the approval")),
                )
                for owner in chosen
            }
            for owner in chosen:
                async with services.database.snapshot() as session:
                    counts = await other_records.count(session, owner.id, services.clock.now())
                done: dict[str, other_records.Outcome] = {}
                if not dry_run:
                    outcomes = await other_records.dispose(services, owner.id, actor=principal().actor)
                    done = {outcome.name: outcome for outcome in outcomes}
                others[owner.code] = [_other(found, done.get(found.name)) for found in counts]
            return reports

    reports = run(work())
    if as_json:
        show_json({code: {**_report(report), "records": others[code]} for code, report in reports.items()})
    else:
        _show_sweep(reports, dry_run=dry_run)
        _show_others(others, dry_run=dry_run)
    braked = [
        f"{code}: {len(report.due)} due at once; approval {report.approval_id} waits for a second person"
        for code, report in reports.items()
        if report.braked and not dry_run
    ]
    braked += [
        f"{code}: {line['due']} of {line['record']} due at once; approval {line['approval']} waits"
        for code, lines in others.items()
        for line in lines
        if line["approval"] is not None
    ]
    if braked:
        raise Refused("; ".join(braked))
    failed = sum(len(report.failed) for report in reports.values())
    if failed:
        raise Unavailable(
            f"{failed} erasures are not finished; the next sweep resumes them", dependency="store"
        )


@click.command(short_help="Erase a customer, or one recording.")
@click.option("--customer", "number", metavar="NUMBER",
              help="The customer's number; - reads it from stdin, out of the process list.")  # fmt: skip
@click.option("--recording", metavar="ID", help="One recording.")
@click.option("--request", "asked", metavar="ID", help="What a granted request for erasure takes.")
@click.option("--ground", type=click.Choice(GROUNDS), help="Why; of a request it is known.")
@controller_option
@yes_option
@json_option
def erase(
    number: str | None,
    recording: str | None,
    asked: str | None,
    ground: str | None,
    controller: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase a customer with all calls, one recording, or what a granted request takes.

    Keys and objects go, a certificate stays. What a legal hold or a statute keeps stays, and is listed with
    its reason.
    """
    if sum(target is not None for target in (number, recording, asked)) != 1:
        raise Usage("name either --customer NUMBER, --recording ID or --request ID")
    if asked is not None:
        if ground not in {None, ErasureGround.REQUEST.value}:
            raise Usage("the ground of a request is the request")
        _erase_request(parse_id(asked, "the request"), yes=yes, as_json=as_json)
        return
    if ground is None:
        raise Usage("say why: --ground")
    if number == "-":
        number = sys.stdin.readline().strip()
    recording_id = None if recording is None else parse_id(recording, "the recording")

    async def look(services: Services) -> tuple[uuid.UUID, str]:
        if recording_id is not None:
            return recording_id, "Erase this recording for good?"
        customer_id = await _customer(services, controller, number or "")
        from recorder.disposition.evaluation import recordings_of

        async with services.database.snapshot() as session:
            count = len(await recordings_of(session, customer_id))
        return customer_id, f"Erase this customer and {count} recordings for good?"

    async def work() -> ErasureResult:
        from recorder.disposition import erasures

        async with opened() as services:
            target, question = await look(services)
            confirm(question, yes=yes)
            erase_it = erasures.erase_customer if recording_id is None else erasures.erase_recording
            return await erase_it(
                services,
                target,
                ground=ErasureGround(ground),
                requested_by=principal().actor,
                now=services.clock.now(),
            )

    result = run(work())
    rows = [
        (recording_id, outcome["outcome"], outcome.get("code", ""), outcome.get("until", ""))
        for recording_id, outcome in sorted(result.outcomes.items())
    ]
    if as_json:
        show_json({"erasure": result.erasure_id, "erased": result.erased, "outcomes": dict(result.outcomes)})
    else:
        show_table(f"Erasure {result.erasure_id}", ("recording", "outcome", "reason", "until"), rows)
    if not result.erased:
        raise Refused("nothing was erased: everything is kept, for the reasons listed")


def _erase_request(rights_id: uuid.UUID, *, yes: bool, as_json: bool) -> None:
    """Carry out a request that was granted; safe to repeat."""

    async def work() -> dict[str, Any]:
        import sqlalchemy as sa

        from recorder.catalogue.enums import RequestStage
        from recorder.catalogue.tables import RequestItem, RightsRequest
        from recorder.rights import deciding
        from retention.model import RequestKind

        async with opened() as services:
            async with services.database.snapshot() as session:
                row = await session.get(RightsRequest, rights_id)
            if row is None or row.kind is not RequestKind.ERASURE:
                raise Usage("there is no request for erasure of this id")
            if row.stage not in {RequestStage.GRANTED, RequestStage.PARTLY_GRANTED}:
                raise Refused("the request is not granted; decide it first")
            confirm("Erase what this request takes for good?", yes=yes)
            await deciding.carry_out(services, rights_id)
            async with services.database.snapshot() as session:
                items = sa.select(RequestItem).where(RequestItem.request_id == rights_id)
                return {
                    str(item.recording_id): item.outcome
                    for item in await session.scalars(items.order_by(RequestItem.recording_id))
                }

    outcomes = run(work())
    if as_json:
        show_json({"request": rights_id, "outcomes": outcomes})
    else:
        show_table(f"Request {rights_id}", ("recording", "outcome"), outcomes.items())


async def _customer(services: Services, controller: str | None, number: str) -> uuid.UUID:
    """Find a customer by number.

    Raises:
        Usage: Nobody has it.
    """
    from recorder.customers.records import CustomerQuery, search

    if not 1 <= len(number) <= 64:
        raise Usage("a customer's number has 1 to 64 characters")
    async with services.database.snapshot() as session:
        owner = await find_controller(session, controller)
    found = await search(
        services,
        owner.id,
        CustomerQuery(number=number),
        actor=principal().actor,
        request_id=str(uuid.uuid4()),
    )
    if not found:
        raise Usage("no living customer has this number")
    return found[0].id


def _report(report: SweepReport) -> dict[str, Any]:
    return {
        "now": report.now,
        "dry_run": report.dry_run,
        "considered": report.considered,
        "due": [{"recording": f.recording_id, "ground": f.ground, "scope": f.scope} for f in report.due],
        "erased": report.erased,
        "kept": report.kept,
        "resumed": report.resumed,
        "failed": report.failed,
        "braked": report.braked,
        "approval": report.approval_id,
    }


def _other(found: ClassCount, outcome: Outcome | None) -> dict[str, Any]:
    return {
        **found.to_json(),
        "destroyed": 0 if outcome is None else outcome.destroyed,
        "approval": None if outcome is None else outcome.approval,
    }


def _show_others(others: dict[str, list[dict[str, Any]]], *, dry_run: bool) -> None:
    rows = [
        (
            code,
            line["record"],
            line["total"],
            line["due"],
            line["kept"],
            line["due" if dry_run else "destroyed"],
        )
        for code, lines in others.items()
        for line in lines
        if line["due"] or line["kept"]
    ]
    columns = ("controller", "record", "there", "due", "kept", "would go" if dry_run else "destroyed")
    if rows:
        show_table("Other records", columns, rows)


def _show_sweep(reports: dict[str, SweepReport], *, dry_run: bool) -> None:
    columns = ("controller", "considered", "due", "would go" if dry_run else "erased", "kept", "failed")
    show_table(
        "Sweep, dry run" if dry_run else "Sweep",
        columns,
        [
            (
                code,
                report.considered,
                len(report.due),
                len(report.due) if dry_run else len(report.erased),
                len(report.kept),
                len(report.failed),
            )
            for code, report in reports.items()
        ],
    )
    for report in reports.values():
        for finding in report.due:
            click.echo(f"due\t{finding.recording_id}\t{finding.ground}")
