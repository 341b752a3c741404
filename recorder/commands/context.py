"""What commands share: settings, opened services, the operator's name, tables and ids."""

from __future__ import annotations

import asyncio
import getpass
import json
import re
import sys
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from recorder.commands.failures import Exit, Refused, Usage
from recorder.errors import Unavailable
from recorder.settings import Settings, load_settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from recorder.access.principals import Principal
    from recorder.catalogue.tables import Controller
    from recorder.services import Services

T = TypeVar("T")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
controller_option = click.option(
    "--controller", metavar="CODE", help="Which controller; may be left out where there is only one."
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous part."""
    return asyncio.run(work)


def run_server(work: Coroutine[Any, Any, T]) -> T:
    """Run a long-lived part on uvloop where there is one: the loop itself is what costs most per request."""
    try:
        import uvloop
    except ImportError:  # it has no wheel for every platform
        return asyncio.run(work)
    return uvloop.run(work)


def operator() -> str:
    """Name of the operating-system user, for the log's ``os:…`` actor."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        import os

        name = f"uid{os.getuid()}"
    return _NOT_IN_A_NAME.sub("_", name)[:100] or "unknown"


def principal() -> Principal:
    """The operating-system user as a caller."""
    from recorder.access.principals import Principal

    return Principal(kind="os", id=operator(), controller_id=None)


@asynccontextmanager
async def opened(settings: Settings | None = None) -> AsyncIterator[Services]:
    """Open the services for one command and make sure that the schema is the one this program knows.

    Raises:
        ConfigurationError: A setting cannot work, or nothing is installed yet.
        Unavailable: The database is away, or has another schema than this program.
    """
    from recorder import app
    from recorder.catalogue import migrate

    async with app.open_services(settings or load_settings()) as services:
        await services.database.check()
        revision, head = await migrate.current(services.database)
        if revision != head:
            raise Unavailable(
                "the database does not have this program's schema: run `recorder migrate`",
                dependency="database",
            )
        yield services


async def find_controller(session: AsyncSession, code: str | None) -> Controller:
    """Return the controller that the command means.

    Raises:
        Usage: There is none of this code, or no code was given and there are several.
    """
    import sqlalchemy as sa

    from recorder.catalogue.tables import Controller

    rows = list(await session.scalars(sa.select(Controller).order_by(Controller.code)))
    if code is not None:
        rows = [row for row in rows if row.code == code]
        if not rows:
            raise Usage(f"there is no controller {code}: see `recorder controller list`")
    if not rows:
        raise Usage("there is no controller yet: `recorder controller add CODE --name NAME --country FI`")
    if len(rows) > 1:
        raise Usage(f"name one with --controller: {', '.join(row.code for row in rows)}")
    return rows[0]


def parse_id(value: str, what: str) -> uuid.UUID:
    """Read a random id from the command line.

    Raises:
        Usage: It is not one.
    """
    try:
        return uuid.UUID(value)
    except ValueError:
        raise Usage(f"{what} is not an id of ours") from None


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        Refused: The answer was no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("this needs a person's yes: answer at a terminal, or give --yes")
    if not click.confirm(question, err=True):
        raise Refused("nothing was done")


def show_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows as a table on stdout; without a terminal, one line each with tabs, for scripts."""
    listed = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in listed:
            click.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in listed:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def exit_with(code: Exit) -> None:
    """End the running command with an exit code, without another line."""
    click.get_current_context().exit(int(code))
