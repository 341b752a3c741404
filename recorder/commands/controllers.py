"""``controller``: the companies that answer for their recordings."""

from __future__ import annotations

import click

from recorder.commands.context import json_option, opened, principal, run, show_json, show_table


@click.group(short_help="The companies that answer for their calls.")
def controller() -> None:
    """Controllers: the companies that answer for their recordings."""


@controller.command()
@click.argument("code")
@click.option("--name", required=True, help="The company's name.")
@click.option("--country", required=True, metavar="CC", help="Where it is established, for example FI or SE.")
@click.option("--time-zone", metavar="ZONE", help="In which its days begin and end; the country's own.")
@click.option("--authority", metavar="NAME", help="Its supervisory authority; the country's own.")
def add(code: str, name: str, country: str, time_zone: str | None, authority: str | None) -> None:
    """Add a controller with keys of its own and its country's default retention schedule."""

    async def work() -> str:
        from recorder.installation import add_controller

        async with opened() as services, services.database.transaction() as session:
            row = await add_controller(
                session,
                services,
                code=code,
                name=name,
                country=country.upper(),
                time_zone=time_zone,
                authority=authority,
                actor=principal().actor,
            )
            return str(row.id)

    click.echo(run(work()))


@controller.command("list")
@json_option
def list_controllers(as_json: bool) -> None:
    """List the controllers."""

    async def work() -> list[dict[str, object]]:
        import sqlalchemy as sa

        from recorder.catalogue.tables import Controller

        async with opened() as services, services.database.snapshot() as session:
            rows = await session.scalars(sa.select(Controller).order_by(Controller.code))
            return [
                {
                    "code": row.code,
                    "name": row.name,
                    "country": row.country,
                    "time_zone": row.time_zone,
                    "authority": row.authority,
                    "id": str(row.id),
                }
                for row in rows
            ]

    listed = run(work())
    if as_json:
        show_json(listed)
    else:
        columns = ("code", "name", "country", "time_zone", "authority", "id")
        show_table("Controllers", columns, [[row[c] for c in columns] for row in listed])
