"""``request``: the register of requests. What is personal comes from stdin or a prompt, never from argv."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from recorder.catalogue.enums import IdentityMethod, IdentityOutcome, RequestChannel, RequestStage
from recorder.commands import personal
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
from recorder.commands.failures import Usage
from retention.model import Purpose, RequestKind
from retention.rights import RefusalGround

if TYPE_CHECKING:
    from recorder.catalogue.tables import RightsRequest
    from recorder.rights.register import RequestView
    from recorder.services import Services

T = TypeVar("T")
_OUTCOMES = {"granted": "granted", "refused": "refused", "no-data": "no_data"}


def _choices(kind: type[Any]) -> click.Choice[str]:
    return click.Choice([member.value for member in kind])


@click.group(short_help="Data subjects' requests.")
def request() -> None:
    """The register of data subjects' requests: file, look, decide, answer."""


@request.command("list")
@click.option("--due", type=click.Choice(["soon", "overdue"]), help="Only those owed within a week, or late.")
@click.option("--type", "kind", type=_choices(RequestKind), help="Only of this type.")
@click.option("--state", type=_choices(RequestStage), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@controller_option
@json_option
def list_requests(
    due: str | None, kind: str | None, state: str | None, limit: int, controller: str | None, as_json: bool
) -> None:
    """List requests, the newest first; those owed, soonest first."""

    async def work() -> list[dict[str, Any]]:
        from recorder.rights import register
        from recorder.rights.reminders import SOON

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            now = services.clock.now()
            rows = await register.listing(
                services,
                principal(),
                owner.id,
                kind=None if kind is None else RequestKind(kind),
                stage=None if state is None else RequestStage(state),
                due_before={"soon": now + SOON, "overdue": now, None: None}[due],
                limit=limit,
                request_id=_tie(),
            )
            return [_line(row) for row in rows]

    rows = run(work())
    if as_json:
        show_json(rows)
        return
    columns = ("id", "type", "state", "last_day", "filed_at", "channel", "customer")
    show_table("Requests", columns, [[row[column] for column in columns] for row in rows])


@request.command()
@click.argument("identifier", metavar="ID")
@json_option
def show(identifier: str, as_json: bool) -> None:
    """Show a request: what was asked, what it concerns and what granting it would do."""

    async def work(services: Services) -> dict[str, Any]:
        from recorder.rights import previewing, register

        rights_id = parse_id(identifier, "the request")
        view = await register.get(services, principal(), rights_id, request_id=_tie())
        foreseen = await previewing.foresee(services, principal(), rights_id, request_id=_tie())
        return {
            **_whole(view),
            "recordings": [
                {
                    "recording": item.recording_id,
                    "started_at": item.started_at,
                    "outcome": item.outcome,
                    "ground": item.ground,
                    "review_on": item.review_on,
                }
                for item in foreseen
            ],
        }

    found = _opened(work)
    if as_json:
        show_json(found)
        return
    recordings = found.pop("recordings")
    person = found.pop("person")
    show_table("Request", ("field", "value"), [*found.items(), *person.items()])
    columns = ("recording", "started_at", "outcome", "ground", "review_on")
    show_table("Recordings", columns, [[item[column] for column in columns] for item in recordings])


@request.command()
@click.option("--type", "kind", type=_choices(RequestKind), required=True)
@click.option("--channel", type=_choices(RequestChannel), required=True, help="How it came in.")
@click.option("--received", metavar="TIME", help="When it arrived, with a time zone; now where left out.")
@click.option("--language", type=click.Choice(["fi", "sv", "en"]), default="en", show_default=True)
@click.option("--purpose", "purposes", type=_choices(Purpose), multiple=True, help="Of an objection.")
@click.option("--recording", "recordings", multiple=True, metavar="ID", help="Only this one. Repeatable.")
@click.option(
    "--person-stdin",
    is_flag=True,
    help="Read customer (a number), name, contact, message as a JSON object from stdin.",
)
@controller_option
def new(
    kind: str,
    channel: str,
    received: str | None,
    language: str,
    purposes: tuple[str, ...],
    recordings: tuple[str, ...],
    person_stdin: bool,
    controller: str | None,
) -> None:
    """File a request; its clock runs from receipt. Prints its id and the last day for the answer."""
    from datetime import datetime

    person = personal.person() if person_stdin else personal.prompted()
    number = person.pop("customer", "")
    try:
        filed_at = None if received is None else datetime.fromisoformat(received)
    except ValueError:
        raise Usage("--received: a time such as 2026-03-05T10:00:00+02:00") from None
    if filed_at is not None and filed_at.tzinfo is None:
        raise Usage("--received: name the time zone as well, for example +02:00")
    named = tuple(parse_id(value, "the recording") for value in recordings)

    async def work(services: Services) -> RequestView:
        from recorder.rights import register

        async with services.database.snapshot() as session:
            owner = await find_controller(session, controller)
        return await register.file(
            services,
            principal(),
            owner.id,
            register.NewRequest(
                kind=RequestKind(kind),
                channel=RequestChannel(channel),
                filed_at=filed_at,
                customer_id=await personal.customer_of(services, owner.id, number) if number else None,
                recording_ids=named,
                purposes=tuple(Purpose(value) for value in purposes),
                language=language,
                person=person,
            ),
            request_id=_tie(),
        )

    row = _opened(work).row
    click.echo(f"{row.id}\t{row.last_day}")


@request.command()
@click.argument("identifier", metavar="ID")
def customer(identifier: str) -> None:
    """Say whose request it is: the customer's number is read from stdin, or asked for."""
    rights_id, number = parse_id(identifier, "the request"), personal.secretly("Customer number")

    async def work(services: Services) -> RequestView:
        from recorder.rights import register

        view = await register.get(services, principal(), rights_id, request_id=_tie())
        customer_id = await personal.customer_of(services, view.row.controller_id, number)
        return await register.match(services, principal(), rights_id, customer_id, request_id=_tie())

    _told(_opened(work))


@request.command()
@click.argument("identifier", metavar="ID")
@click.option("--method", type=_choices(IdentityMethod), required=True)
@click.option("--outcome", type=_choices(IdentityOutcome), required=True)
def identity(identifier: str, method: str, outcome: str) -> None:
    """Note how the identity was checked and with what result; never what was shown."""

    async def work(services: Services) -> RequestView:
        from recorder.rights import register

        return await register.note_identity(
            services,
            principal(),
            parse_id(identifier, "the request"),
            method=IdentityMethod(method),
            outcome=IdentityOutcome(outcome),
            request_id=_tie(),
        )

    _told(_opened(work))


@request.command()
@click.argument("identifier", metavar="ID")
@click.option("--reason", type=click.Choice(["complexity", "number_of_requests"]), required=True)
def extend(identifier: str, reason: str) -> None:
    """Take two further months, within the first; the notice of it goes out now."""

    async def work(services: Services) -> RequestView:
        from recorder.rights import register

        return await register.extend(
            services,
            principal(),
            parse_id(identifier, "the request"),
            reason=reason,
            request_id=_tie(),
        )

    _told(_opened(work))


@request.command()
@click.argument("identifier", metavar="ID")
@click.argument("outcome", type=click.Choice(list(_OUTCOMES)))
@click.option("--ground", type=_choices(RefusalGround), help="Of a refusal as a whole.")
@click.option(
    "--leave-out", multiple=True, metavar="RECORDING=GROUND", help="Left as it is by a grant. Repeatable."
)
@click.option("--mute-agent", is_flag=True, help="Copies have the agent's channel silent.")
@click.option("--restriction", default="accuracy", show_default=True, help="Ground of a restriction.")
@yes_option
def decide(
    identifier: str,
    outcome: str,
    ground: str | None,
    leave_out: tuple[str, ...],
    mute_agent: bool,
    restriction: str,
    yes: bool,
) -> None:
    """Grant or refuse a request, or say that no data is held. Granting an erasure erases."""
    rights_id = parse_id(identifier, "the request")
    pairs = [_left_out(value) for value in leave_out]

    async def work(services: Services) -> RequestView:
        from recorder.rights import deciding, previewing, register

        view = await register.get(services, principal(), rights_id, request_id=_tie())
        if outcome == "granted" and view.row.kind is RequestKind.ERASURE:
            foreseen = await previewing.foresee(services, principal(), rights_id, request_id=_tie())
            goes = sum(1 for item in foreseen if item.outcome == "granted")
            confirm(f"Erase {goes} of {len(foreseen)} recordings for good?", yes=yes)
        return await deciding.decide(
            services,
            principal(),
            rights_id,
            deciding.Decided(
                stage=RequestStage(_OUTCOMES[outcome]),
                ground=None if ground is None else RefusalGround(ground),
                refusals=tuple(deciding.Refusal(recording, why) for recording, why in pairs),
                mute_agent=mute_agent,
                restriction=restriction,
            ),
            request_id=_tie(),
        )

    _told(_opened(work))


@request.command()
@click.argument("identifier", metavar="ID")
@click.option(
    "--reason", type=click.Choice(["wrong_person", "filed_in_error", "withdrawn_by_person"]), required=True
)
@yes_option
def undo(identifier: str, reason: str, yes: bool) -> None:
    """Take a request off its customer; what it froze or restricted is as it was before."""
    rights_id = parse_id(identifier, "the request")
    confirm("Take this request off its customer?", yes=yes)

    async def work(services: Services) -> RequestView:
        from recorder.rights import undoing

        return await undoing.undo(services, principal(), rights_id, reason=reason, request_id=_tie())

    _told(_opened(work))


@request.command()
@click.argument("identifier", metavar="ID")
@click.option("--language", type=click.Choice(["fi", "sv", "en"]), help="The request's own where left out.")
@click.option("--sent", is_flag=True, help="Also note that the letter with the decision was sent.")
def reply(identifier: str, language: str | None, sent: bool) -> None:
    """Print the letter that fits where the request stands."""
    rights_id = parse_id(identifier, "the request")

    async def work(services: Services) -> str:
        from recorder.rights import register, replies, sending

        if sent:
            view = await sending.note_sent(services, principal(), rights_id, request_id=_tie())
        else:
            view = await register.get(services, principal(), rights_id, request_id=_tie())
        return replies.compose(view, services.clock.now(), language).text()

    click.echo(_opened(work), nl=False)


def _opened(work: Callable[[Services], Awaitable[T]]) -> T:
    async def inside() -> T:
        async with opened() as services:
            return await work(services)

    return run(inside())


def _left_out(value: str) -> tuple[uuid.UUID, RefusalGround]:
    recording, _, ground = value.partition("=")
    try:
        return parse_id(recording, "the recording"), RefusalGround(ground)
    except ValueError:
        raise Usage(f"--leave-out: RECORDING=GROUND with one of {', '.join(RefusalGround)}") from None


def _line(row: RightsRequest) -> dict[str, Any]:
    return {
        "id": row.id,
        "type": row.kind.value,
        "state": row.stage.value,
        "channel": row.channel.value,
        "filed_at": row.filed_at,
        "last_day": row.last_day,
        "customer": row.customer_id,
        "completed_at": row.completed_at,
        "replied_at": row.replied_at,
    }


def _whole(view: RequestView) -> dict[str, Any]:
    row = view.row
    return {
        **_line(row),
        "identity": None if row.identity_outcome is None else row.identity_outcome.value,
        "extended_at": row.extended_at,
        "decided_at": row.decided_at,
        "ground": row.ground,
        "person": dict(view.person),
    }


def _told(view: RequestView) -> None:
    click.echo(f"{view.row.id}\t{view.row.stage.value}\t{view.row.last_day}")


def _tie() -> str:
    """Ties what one step writes to the log together."""
    return str(uuid.uuid4())
