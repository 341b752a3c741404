"""``demo``: the whole service on one box, with spoken calls in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from recorder.commands.context import principal, run, run_server
from recorder.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from recorder.catalogue.tables import Controller
    from recorder.demo.accounts import DemoAccounts
    from recorder.services import Services


@click.command(short_help="Start the service with spoken demo calls in it.")
def demo() -> None:
    """Start the service; on the first start make accounts and load a dozen spoken calls.

    The sign-ins are printed, and lie in demo-accounts.json in the data directory once every call is loaded. A
    start that was interrupted is finished by the next one; later starts keep everything. Ctrl-C stops it.
    """
    from recorder import installation, logs
    from recorder.clock import SystemClock

    settings = load_settings()
    # Beside a progress bar only what needs a person is worth a line.
    logs.configure(os.environ.get("RECORDER_LOG_LEVEL", "WARNING"))
    run(installation.refuse_new_keyring(settings))
    installation.prepare_files(settings, SystemClock().now())
    with installation.only_one(settings):
        run_server(_demo(settings))


async def _demo(settings: Settings) -> None:
    from rich.console import Console

    from recorder import app, installation
    from recorder.background import Background
    from recorder.demo.accounts import DemoAccounts

    await installation.migrate(settings)
    await installation.make_ready(settings)
    stop = app.stop_signal()
    console = Console(stderr=True)
    async with contextlib.AsyncExitStack() as stack:
        services, address = await stack.enter_async_context(app.running(settings))
        if not settings.embedded:  # there the service itself does no background work
            await stack.enter_async_context(Background(services).running())
        today = services.clock.now().date()
        accounts = await asyncio.to_thread(DemoAccounts.open, settings.data_dir, today)
        if not accounts.complete and not await _load_unless(stop, services, address, accounts, console):
            console.print("Stopped before everything was loaded; the next start goes on.")
            return
        path = await asyncio.to_thread(accounts.finish, address)
        _show(address, accounts, str(path))
        await stop.wait()


async def _load_unless(
    stop: asyncio.Event, services: Services, address: str, accounts: DemoAccounts, console: Console
) -> bool:
    """Load the demo; False when a signal came first."""
    loading = asyncio.create_task(_load(services, address, accounts, console))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not loading.done():
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        return False
    await loading
    return True


async def _load(services: Services, address: str, accounts: DemoAccounts, console: Console) -> None:
    from zoneinfo import ZoneInfo

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from recorder.demo.loader import STEPS, Loader
    from recorder.demo.setup import set_up

    bar = Progress(
        TextColumn("Loading the demo"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    if not console.is_terminal:
        console.print("Loading the demo: a dozen spoken calls, about half a minute.")
    with bar:
        task = bar.add_task("accounts", total=STEPS)
        controller: Controller = await set_up(services, accounts, principal())
        step = _stepper(bar, task)
        await Loader(services, address, accounts, ZoneInfo(controller.time_zone), step).load()


def _stepper(bar: Progress, task: Any) -> Any:
    def step(what: str) -> None:
        bar.update(task, advance=1, description=what)

    return step


def _show(address: str, accounts: DemoAccounts, path: str) -> None:
    """Print address and sign-ins; the passwords of a demo are no secret to who starts it."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"\nTallenne is at [bold]{address}[/bold] (Ctrl-C stops it)\n", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("sign in as")
    table.add_column("password", no_wrap=True)
    for username, password in accounts.accounts.items():
        table.add_row(username, password)
    console.print(table)
    console.print(f"\nAPI tokens, one for each role: {path}", highlight=False, soft_wrap=True)
