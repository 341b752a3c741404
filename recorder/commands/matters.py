"""``matter``: disputes and enquiries, and the legal holds that they place."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

import click

from recorder.commands.context import (
    controller_option,
    find_controller,
    json_option,
    opened,
    parse_id,
    principal,
    run,
    show_json,
    show_table,
)
from recorder.commands.failures import Refused, Usage
from recorder.commands.personal import customer_of, read_words

if TYPE_CHECKING:
    from datetime import datetime

    from recorder.access.approvals import ApprovalView
    from recorder.catalogue.tables import Hold
    from recorder.disposition.desk import MatterView

GROUNDS = ("legal_claims", "authority_request", "legal_obligation")
_LISTS = ("queue", "agent", "tag", "source", "service_event", "direction", "basis")
_SINGLE = ("started_from", "started_before", "duration_at_least", "duration_less_than")


@click.group(short_help="Matters and legal holds.")
def matter() -> None:
    """Disputes and enquiries: what they hold is not erased. Releasing a hold takes two people."""


@matter.command("list")
@controller_option
@json_option
def list_matters(controller: str | None, as_json: bool) -> None:
    """List matters with their holds, the newest first."""

    async def work() -> list[MatterView]:
        from recorder.disposition import desk

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return await desk.list_matters(services, principal(), owner.id, request_id=str(uuid.uuid4()))

    views = run(work())
    if as_json:
        show_json([_document(view) for view in views])
        return
    rows = [
        (
            view.matter.id,
            view.matter.reference,
            view.matter.ground,
            view.matter.review_on,
            "closed" if view.matter.closed_at else "open",
            sum(1 for hold in view.holds if hold.released_at is None),
        )
        for view in views
    ]
    show_table("Matters", ("id", "reference", "ground", "review", "state", "holds"), rows)


@matter.command()
@click.argument("identifier", metavar="ID")
@json_option
def show(identifier: str, as_json: bool) -> None:
    """Show one matter with its custodians and holds."""

    async def work() -> MatterView:
        from recorder.disposition import desk

        async with opened() as services:
            return await desk.get_matter(
                services, principal(), parse_id(identifier, "the matter"), request_id=str(uuid.uuid4())
            )

    found = _document(run(work()))
    if as_json:
        show_json(found)
        return
    holds = found.pop("holds")
    show_table("Matter", ("field", "value"), found.items())
    columns = ("id", "recording", "customer", "query", "placed_at", "released_at")
    show_table("Holds", columns, [[hold[column] for column in columns] for hold in holds])


@matter.command("open")
@click.argument("reference")
@click.option("--ground", type=click.Choice(GROUNDS), required=True)
@click.option(
    "--review-on", metavar="TIME", required=True, help="When somebody looks again, with a time zone."
)
@click.option(
    "--words-stdin", is_flag=True, help="Read title, notes, custodians as a JSON object from stdin; sealed."
)
@controller_option
def open_matter(
    reference: str, ground: str, review_on: str, words_stdin: bool, controller: str | None
) -> None:
    """Open a matter; prints its id. The reference is seen in lists: keep names out of it."""
    review = _moment(review_on)
    words = read_words(frozenset({"title", "notes", "custodians"})) if words_stdin else {}
    custodians = words.get("custodians", [])
    texts = [
        words.get("title", ""),
        words.get("notes", ""),
        *(custodians if isinstance(custodians, list) else [0]),
    ]
    if not all(isinstance(text, str) for text in texts):
        raise Usage("stdin: title and notes are texts, custodians a list of names")
    if not 1 <= len(reference) <= 64:
        raise Usage("a reference has 1 to 64 characters")

    async def work() -> MatterView:
        from recorder.disposition import desk

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            new = desk.NewMatter(reference, ground, review, texts[0], texts[1], tuple(texts[2:]))
            return await desk.open_matter(services, principal(), owner.id, new, request_id=str(uuid.uuid4()))

    click.echo(run(work()).matter.id)


@matter.command()
@click.argument("identifier", metavar="ID")
@click.option("--recording", metavar="ID", help="Hold one recording.")
@click.option("--customer-stdin", is_flag=True, help="Hold a customer's; the number is read from stdin.")
@click.option(
    "--where",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Hold what matches, also what is still to come, for example queue=support. Repeatable.",
)
def hold(identifier: str, recording: str | None, customer_stdin: bool, where: tuple[str, ...]) -> None:
    """Hold a recording, all of a customer's, or what matches a query; prints the hold's id."""
    if sum((recording is not None, customer_stdin, bool(where))) != 1:
        raise Usage("name either --recording, --customer-stdin or --where")
    matter_id, query = parse_id(identifier, "the matter"), _query(where)
    number = sys.stdin.readline().strip() if customer_stdin else ""

    async def work() -> Hold:
        from recorder.disposition import desk

        async with opened() as services:
            tie = str(uuid.uuid4())
            view = await desk.get_matter(services, principal(), matter_id, request_id=tie)
            customer_id = None
            if customer_stdin:
                customer_id = await customer_of(services, view.matter.controller_id, number)
            return await desk.place_hold(
                services,
                principal(),
                matter_id,
                recording_id=None if recording is None else parse_id(recording, "the recording"),
                customer_id=customer_id,
                query=query,
                request_id=tie,
            )

    click.echo(run(work()).id)


@matter.command()
@click.argument("identifier", metavar="ID")
@click.argument("hold_identifier", metavar="HOLD")
@click.option("--approval", metavar="ID", help="A second person's approval; without it, it is asked for.")
def release(identifier: str, hold_identifier: str, approval: str | None) -> None:
    """Release a hold. A signed-in person has to approve it first: exit code 4 while that is waited for."""

    async def work() -> Hold | ApprovalView:
        from recorder.disposition import desk

        async with opened() as services:
            return await desk.release_hold(
                services,
                principal(),
                parse_id(identifier, "the matter"),
                parse_id(hold_identifier, "the hold"),
                approval_id=None if approval is None else parse_id(approval, "the approval"),
                request_id=str(uuid.uuid4()),
            )

    found = run(work())
    if approval is None:
        raise Refused(
            f"a second person must approve {found.id}; then run this again with --approval {found.id}"
        )
    click.echo(f"{found.id} is released")


@matter.command()
@click.argument("identifier", metavar="ID")
def close(identifier: str) -> None:
    """Close a matter whose holds are all released."""

    async def work() -> None:
        from recorder.disposition import desk

        async with opened() as services:
            await desk.close_matter(
                services, principal(), parse_id(identifier, "the matter"), request_id=str(uuid.uuid4())
            )

    run(work())
    click.echo("closed")


def _document(view: MatterView) -> dict[str, Any]:
    found = view.matter
    return {
        "id": found.id,
        "reference": found.reference,
        "ground": found.ground,
        "review_on": found.review_on,
        "opened_at": found.opened_at,
        "closed_at": found.closed_at,
        "title": view.title,
        "notes": view.notes,
        "custodians": list(view.custodians),
        "holds": [
            {
                "id": hold.id,
                "recording": hold.recording_id,
                "customer": hold.customer_id,
                "query": hold.query,
                "placed_at": hold.placed_at,
                "released_at": hold.released_at,
            }
            for hold in view.holds
        ],
    }


def _moment(value: str) -> datetime:
    from datetime import datetime

    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Usage("--review-on: a time with its zone, for example 2027-03-01T00:00:00+02:00")
    return found


def _query(where: tuple[str, ...]) -> dict[str, Any] | None:
    query: dict[str, Any] = {}
    for pair in where:
        name, _, value = pair.partition("=")
        if name in _LISTS and value:
            query.setdefault(name, []).append(value)
        elif name in _SINGLE and value:
            query[name] = value
        else:
            raise Usage(f"--where: FIELD=VALUE with one of {', '.join((*_LISTS, *_SINGLE))}")
    return query or None
