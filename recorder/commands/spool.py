"""``spool``: the agent beside a switchboard."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from recorder.commands.context import exit_with, json_option, run, show_json, show_table
from recorder.commands.failures import Exit, Usage

if TYPE_CHECKING:
    from recorder.spooling.journal import Summary
    from recorder.spooling.running import Show
    from recorder.spooling.telling import Progress

_PATH: Final = click.Path(path_type=Path)
_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def _rate(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    number, unit = (value[:-1], value[-1].lower()) if value[-1:].isalpha() else (value, "")
    if not number.isdigit() or unit not in _UNITS:
        raise click.BadParameter("give bytes a second, as in 500k or 2M")
    return int(number) * _UNITS[unit]


@click.command(short_help="Push a directory's recordings as they come.")
@click.argument("directory", required=False, type=_PATH)
@click.option("--config", "config_file", type=_PATH, metavar="FILE",
              help="TOML; see docs/spool-agent.md. Options win over it.")  # fmt: skip
@click.option("--server", envvar="RECORDER_SERVER", metavar="URL",
              help="Address of the service; RECORDER_SERVER. [default: http://127.0.0.1:8080]")  # fmt: skip
@click.option("--token-file", type=_PATH, metavar="FILE",
              help="Holds the source's token; else RECORDER_TOKEN.")  # fmt: skip
@click.option("--time-zone", metavar="ZONE", help="Of the switchboard's local times, as in Europe/Helsinki.")
@click.option("--pattern", "patterns", multiple=True, metavar="PATTERN",
              help="How file names carry metadata: freepbx, or fields in braces. Repeatable.")  # fmt: skip
@click.option("--settle", type=click.FloatRange(0, 86400), metavar="SECONDS",
              help="A file is complete when it did not change for so long. [default: 10]")  # fmt: skip
@click.option("--archive", type=_PATH, metavar="DIR", help="Move what is accepted here, by date.")
@click.option("--keep", is_flag=True, help="Leave what is accepted where it is.")
@click.option("--parallel", type=click.IntRange(1, 64), help="Pushes at once. [default: 2]")
@click.option("--bandwidth", callback=_rate, metavar="RATE", help="Bytes a second in all, as in 500k or 2M.")
@click.option("--metrics", type=_PATH, metavar="FILE", help="Write a Prometheus text file.")
@click.option("--notify", metavar="HOST:PORT", help="Take hints of new files on a loopback address.")
@click.option("--once", is_flag=True, help="Push what is there and end.")
@click.option("--retry", is_flag=True, help="Try again what the service refused before.")
@click.option("--status", is_flag=True, help="Say where the journal stands and end; works beside an agent.")
@json_option
def spool(
    directory: Path | None,
    config_file: Path | None,
    *,
    keep: bool,
    once: bool,
    retry: bool,
    status: bool,
    as_json: bool,
    settle: float | None,
    **given: Any,
) -> None:
    """Push every recording that appears in DIRECTORY; delete or archive it only against a verified receipt.

    Runs beside a switchboard until SIGTERM. Survives kill -9 and power cuts by a journal in
    DIRECTORY/.recorder-spool. With --once, ends when the directory is drained: 0 all is held by the service,
    1 something was refused, 3 the service is away, 4 it refuses the token.
    """
    from recorder import logs
    from recorder.spooling.config import load_config, read_token
    from recorder.spooling.running import look, run_agent

    if keep and given.get("archive") is not None:
        raise Usage("--keep and --archive exclude each other")
    if directory is None and config_file is None:
        raise Usage("name the directory, or a --config that does")
    options = {**given, "directory": directory, "complete.settle": settle, "after": "keep" if keep else None}
    if given.get("archive") is not None:
        options["after"] = "archive"
    if status and directory is not None:
        _print_status(look(directory), as_json=as_json)
        return
    config = load_config(config_file, options)
    if status:
        _print_status(look(config.directory), as_json=as_json)
        return
    token = read_token(config, os.environ)
    logs.configure("INFO")
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it has a line for every change
    with _display() as show:
        summary = run(run_agent(config, token, os.environ, once=once, retry=retry, show=show))
    if once:
        _print_end(summary, as_json=as_json)


def _print_end(summary: Summary, *, as_json: bool) -> None:
    from recorder.spooling.journal import LISTED

    counts = {state.value: count for state, count in sorted(summary.counts.items())}
    if as_json:
        show_json({"states": counts, "waiting": summary.waiting})
    else:
        click.echo(", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to push")
    if any(summary.counts.get(state, 0) for state in LISTED):
        exit_with(Exit.WRONG)


def _print_status(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    waiting = found["waiting"]
    age = "" if waiting["oldest_seconds"] is None else f", oldest {waiting['oldest_seconds']:.0f} s"
    running = "an agent is running" if found["running"] else "no agent is running"
    click.echo(f"{running}; {waiting['files']} waiting ({waiting['bytes']} bytes{age})")
    click.echo(", ".join(f"{count} {state}" for state, count in found["states"].items() if count) or "empty")
    rows = [
        (line["number"], line["state"], line["problem"] or "", line["attempts"], line["file"])
        for line in (*found["refused"], *found["next"])
    ]
    if rows:
        show_table("Files", ("number", "state", "problem", "attempts", "file"), rows)


@contextmanager
def _display() -> Iterator[Show | None]:
    """A live table at a terminal; None elsewhere, where the log has a line now and then."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from recorder.spooling.telling import human, status_line

    with Live(console=Console(stderr=True), refresh_per_second=2, transient=True) as live:

        def show(summary: Summary, progress: Progress, unsettled: int) -> None:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in ("file", "sent", "of"):
                table.add_column(column, overflow="ellipsis")
            for upload in list(progress.active.values()):
                table.add_row(Text(upload.name), human(upload.sent), human(upload.size))
            live.update(Group(Text(status_line(summary, progress, unsettled)), table))

        yield show
