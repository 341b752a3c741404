"""``source``: the telephony systems that push."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from recorder.catalogue.enums import LawfulBasis
from recorder.commands.context import (
    controller_option,
    find_controller,
    json_option,
    opened,
    principal,
    run,
    show_json,
    show_table,
)
from recorder.commands.failures import Usage

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from recorder.catalogue.tables import Source
    from recorder.ingest.sources import NewSource


@click.group(short_help="The telephony systems that push.")
def source() -> None:
    """Sources: the telephony systems that push recordings."""


@source.command()
@click.argument("name")
@click.option("--kind", default="generic", show_default=True,
              help="How it pushes; `recorder source kinds` lists them.")  # fmt: skip
@click.option("--lawful-basis", type=click.Choice([b.value for b in LawfulBasis]),
              help="Of recordings that name none; without it, each must.")  # fmt: skip
@click.option("--media", metavar="JSON", help='Of headerless audio: {"codec": "g722", "sample_rate": 16000}.')
@click.option("--max-bytes", type=click.IntRange(1), help="Largest recording it may push.")
@click.option("--settings", metavar="JSON", help='Of its kind: {"allow": ["10.0.0.0/8"]}.')
@controller_option
@json_option
def add(
    name: str,
    kind: str,
    lawful_basis: str | None,
    media: str | None,
    max_bytes: int | None,
    settings: str | None,
    controller: str | None,
    as_json: bool,
) -> None:
    """Add a source and print its first token, this once."""
    given = _new_source(
        {
            "name": name,
            "kind": kind,
            "default_lawful_basis": lawful_basis,
            "default_media": _object("--media", media),
            "max_bytes": max_bytes,
            "settings": _object("--settings", settings),
        }
    )

    async def work() -> dict[str, Any]:
        from recorder.access.tokens import issue_token
        from recorder.ingest.sources import create_source

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            made = await create_source(services, principal(), owner.id, given)
            token = await issue_token(
                services, principal(), controller_id=owner.id, label=name, source_id=made.id
            )
            return {"id": str(made.id), "name": name, "token": token.token}

    made = run(work())
    if as_json:
        show_json(made)
    else:
        click.echo(f"{made['name']}\t{made['token']}")


@source.command()
@click.argument("name")
@click.option("--overlap-hours", type=click.FloatRange(0), default=168.0, show_default=True,
              help="How long the tokens it has stay valid.")  # fmt: skip
def rotate(name: str, overlap_hours: float) -> None:
    """Issue a source's next token and print it; the old ones end after the overlap."""

    async def work() -> str:
        from recorder.access.tokens import rotate_source_token

        async with opened() as services:
            async with services.database.snapshot() as session:
                found = await find_source(session, name)
            issued = await rotate_source_token(
                services, principal(), found.id, overlap=timedelta(hours=overlap_hours)
            )
            return issued.token

    click.echo(run(work()))


@source.command()
@click.argument("name")
@click.option("--enable", is_flag=True, help="Switch it on again.")
def disable(name: str, enable: bool) -> None:
    """Switch a source off: its tokens open nothing until it is on again."""

    async def work() -> None:
        from recorder.ingest.sources import SourceChange, change_source

        async with opened() as services:
            async with services.database.snapshot() as session:
                found = await find_source(session, name)
            await change_source(services, principal(), found.id, SourceChange(enabled=enable))

    run(work())
    click.echo(f"{name} is {'on' if enable else 'off'}")


@source.command("set")
@click.argument("name")
@click.argument("settings", metavar="JSON")
def set_settings(name: str, settings: str) -> None:
    """Set a source's settings, all of them at once: '{"allow": ["10.0.0.0/8"]}'."""
    given = _object("the settings", settings)

    async def work() -> dict[str, Any]:
        from recorder.ingest.sources import SourceChange, change_source

        async with opened() as services:
            async with services.database.snapshot() as session:
                found = await find_source(session, name)
            row = await change_source(services, principal(), found.id, SourceChange(settings=given))
            return row.settings

    show_json(run(work()))


@source.command()
@json_option
def kinds(as_json: bool) -> None:
    """List the kinds of sources, and what may be set of each."""
    from recorder.ingest.adapters.registry import KINDS, settings_of

    fields = {kind: settings_of(kind).model_fields for kind in KINDS}
    if as_json:
        show_json({kind: {n: f.description for n, f in of.items()} for kind, of in fields.items()})
        return
    show_table(
        "Kinds of sources", ("kind", "settings"), [[kind, ", ".join(of)] for kind, of in fields.items()]
    )


@source.command("list")
@controller_option
@json_option
def list_sources(controller: str | None, as_json: bool) -> None:
    """List a controller's sources."""

    async def work() -> list[dict[str, Any]]:
        from recorder.ingest.sources import list_sources as rows_of

        async with opened() as services:
            async with services.database.snapshot() as session:
                owner = await find_controller(session, controller)
            return [
                {
                    "name": row.name,
                    "kind": row.kind,
                    "state": "on" if row.enabled else "off",
                    "lawful_basis": row.default_lawful_basis,
                    "media": row.default_media,
                    "max_bytes": row.max_bytes,
                    "settings": row.settings,
                    "id": str(row.id),
                }
                for row in await rows_of(services, principal(), owner.id)
            ]

    listed = run(work())
    if as_json:
        show_json(listed)
        return
    columns = ("name", "kind", "state", "lawful_basis", "max_bytes", "id")
    show_table("Sources", columns, [[row[c] for c in columns] for row in listed])


async def find_source(session: AsyncSession, name: str) -> Source:
    """Find a source by name.

    Raises:
        Usage: There is none.
    """
    import sqlalchemy as sa

    from recorder.catalogue.tables import Source

    found = await session.scalar(sa.select(Source).where(Source.name == name))
    if found is None:
        raise Usage(f"there is no source {name}: see `recorder source list`")
    return found


def _new_source(values: dict[str, Any]) -> NewSource:
    from pydantic import ValidationError

    from recorder.ingest.metadata import field_errors
    from recorder.ingest.sources import NewSource

    try:
        return NewSource.model_validate(values)
    except ValidationError as error:
        raise Usage("; ".join(f"{f.path[1:]}: {f.message}" for f in field_errors(error))) from None


def _object(option: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        raise Usage(f"{option}: not JSON") from None
    if not isinstance(value, dict):
        raise Usage(f"{option}: give a JSON object")
    return value
