"""``simulate``: a telephony system that is none."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recorder.commands.context import exit_with, json_option, run, show_json, show_table
from recorder.commands.failures import Exit, Usage
from recorder.simulate.senders import FETCHED, SENDERS

if TYPE_CHECKING:
    from recorder.simulate.hosting import Shelf
    from recorder.simulate.running import Tally

_TOKEN, _SECRET = "RECORDER_TOKEN", "RECORDER_SIMULATE_SECRET"


@click.command()
@click.argument("kind", type=click.Choice(sorted(SENDERS)))
@click.option("--server", default="http://127.0.0.1:8080", show_default=True, help="Address of the service.")
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="Calls.")
@click.option("--rate", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Calls a second; 0 for as fast as they are answered.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(1, 512), default=8, show_default=True)
@click.option("--seconds", type=(float, float), default=(2.0, 20.0), show_default=True,
              help="Shortest and longest call.")  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(0), help="Attempts after the first; default as the system does."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same calls.")
@click.option("--audio", "audio", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Speech: WAV, 16 bits, 8 kHz. Several. Default synthesised (extra demo).")  # fmt: skip
@click.option("--ledger", type=click.Path(dir_okay=False, path_type=Path),
              help="One line of JSON for each call: identities, digests, answers, receipts.")  # fmt: skip
@click.option("--media", "media", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT",
              help="Where audio is offered to kinds that fetch it.")  # fmt: skip
@click.option("--media-address", metavar="URL", help="The same as the service reaches it.")
@json_option
def simulate(
    kind: str,
    server: str,
    count: int,
    rate: float,
    concurrency: int,
    seconds: tuple[float, float],
    retries: int | None,
    seed: int,
    audio: tuple[Path, ...],
    ledger: Path | None,
    media: str,
    media_address: str | None,
    as_json: bool,
) -> None:
    """Play a telephony system of a KIND against a running service; nothing of it is real but the bytes.

    The token is RECORDER_TOKEN; what the system signs with (Twilio's auth token, Zoom's secret token)
    is RECORDER_SIMULATE_SECRET. Exit code 1 if a call was not accepted, or its receipt does not prove it.
    """
    token = os.environ.get(_TOKEN)
    if not token:
        raise Usage(f"set {_TOKEN} to the source's token")
    if not 0 < seconds[0] <= seconds[1] <= 3600:
        raise Usage("--seconds: the shortest comes first, and an hour is the most")

    async def work() -> tuple[Tally, int]:
        import aiohttp

        from recorder.simulate.calls import Calls, from_files, spoken
        from recorder.simulate.running import Pace, play
        from recorder.simulate.senders import Target

        speech = from_files(audio) if audio else spoken()
        calls = Calls(speech, seed=seed, start=datetime.now(UTC).replace(microsecond=0), seconds=seconds)
        timeout = aiohttp.ClientTimeout(total=None, connect=15, sock_read=120)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            _shelf(kind, media, media_address) as shelf,
        ):
            target = Target(session, server.rstrip("/"), token, os.environ.get(_SECRET, ""), shelf)
            opened = nullcontext(None) if ledger is None else ledger.open("w", encoding="utf-8")
            with opened as lines, _progress(count, wanted=not as_json) as told:
                tally = await play(
                    SENDERS[kind](),
                    target,
                    calls,
                    Pace(count, rate, concurrency, retries),
                    ledger=lines,
                    progress=told,
                )
            return tally, await _fetched(shelf)

    tally, waiting = run(work())
    if as_json:
        show_json({**tally.to_json(), "not_fetched": waiting})
    else:
        _show(tally, waiting)
    if tally.accepted < count or tally.problems or waiting:
        exit_with(Exit.WRONG)


@asynccontextmanager
async def _shelf(kind: str, media: str, address: str | None) -> AsyncIterator[Shelf | None]:
    if kind not in FETCHED:
        yield None
        return
    from recorder.simulate.hosting import hosted

    host, _, port = media.rpartition(":")
    if not host or not port.isdigit():
        raise Usage("--media is HOST:PORT")
    async with hosted(host, int(port), address=address) as shelf:
        yield shelf


async def _fetched(shelf: Shelf | None) -> int:
    """Wait for the service to fetch what was offered, for a minute after the last one."""
    if shelf is None:
        return 0
    import asyncio

    quiet, before = 0, shelf.waiting
    while shelf.waiting and quiet < 60:
        await asyncio.sleep(1)
        quiet = 0 if shelf.waiting < before else quiet + 1
        before = shelf.waiting
    return shelf.waiting


@contextmanager
def _progress(count: int, *, wanted: bool) -> Iterator[Callable[[Tally], None] | None]:
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=count, words="")

        def told(tally: Tally) -> None:
            words = ", ".join(
                f"{n} x {status or 'no answer'}" for status, n in sorted(tally.statuses.items())
            )
            progress.update(task, completed=sum(tally.statuses.values()), words=words)

        yield told


def _show(tally: Tally, waiting: int) -> None:
    rows: list[tuple[object, ...]] = [
        (f"answered {status}" if status else "no answer", number)
        for status, number in sorted(tally.statuses.items())
    ]
    rows += [(f"state {state}", number) for state, number in sorted(tally.states.items())]
    rows += [(f"problem {problem}", number) for problem, number in sorted(tally.problems.items())]
    rows += [("not fetched by the service", waiting)] if waiting else []
    rows += [
        ("receipts that prove the bytes", tally.receipts),
        ("bytes", f"{tally.bytes:,}"),
        ("calls a second", f"{tally.accepted / max(tally.seconds, 1e-9):,.1f}"),
        ("half answered within", f"{tally.percentile(0.5) * 1000:,.0f} ms"),
        ("95 % within", f"{tally.percentile(0.95) * 1000:,.0f} ms"),
        ("99 % within", f"{tally.percentile(0.99) * 1000:,.0f} ms"),
    ]
    show_table("Simulated calls", ("what", "calls"), rows)
