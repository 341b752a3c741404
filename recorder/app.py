"""The composition root: parts from settings, the HTTP application from the parts, and running them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Final

from aiohttp import web

from recorder.api import (
    accounts,
    assessments,
    audit,
    calls,
    completeness,
    customers,
    disposition,
    findings,
    ingest,
    jambonz,
    openapi,
    playback,
    recordings,
    redactions,
    registers,
    reports,
    requests,
    schedules,
    senders,
    source_secrets,
    sources,
    system,
    tus,
    webhooks,
)
from recorder.api.framework import SERVICES, Route, mount
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.audit.log import refuse_if_rolled_back
from recorder.background import Background
from recorder.catalogue import migrate
from recorder.catalogue.database import Database
from recorder.clock import Clock, SystemClock
from recorder.errors import ConfigurationError, Unavailable
from recorder.ingest.draining import Drainer
from recorder.registers.regions import check_regions
from recorder.services import Services
from recorder.settings import Settings
from recorder.web import pages
from storage.errors import KeyringError, Misuse, StoreUnavailable
from storage.keyrings.file import FileKeyring
from storage.keys import Keyring
from storage.spool import Spool
from storage.stores import open_store
from storage.vault import Vault

log = logging.getLogger("recorder.service")
_STORE_PAUSE_SECONDS: Final = 5.0

ROUTES: tuple[Route, ...] = (
    *system.ROUTES,
    *ingest.ROUTES,
    *jambonz.ROUTES,
    *senders.ROUTES,
    *recordings.ROUTES,
    *calls.ROUTES,
    *redactions.ROUTES,
    *playback.ROUTES,
    *assessments.ROUTES,
    *customers.ROUTES,
    *requests.ROUTES,
    *registers.ROUTES,
    *disposition.ROUTES,
    *schedules.ROUTES,
    *reports.ROUTES,
    *findings.ROUTES,
    *tus.ROUTES,
    *sources.ROUTES,
    *source_secrets.ROUTES,
    *accounts.ROUTES,
    *completeness.ROUTES,
    *webhooks.ROUTES,
    *audit.ROUTES,
)


@asynccontextmanager
async def open_services(settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Services]:
    """Open database, keyring and object store; close them at the end.

    Raises:
        ConfigurationError: a setting cannot work, or there is no keyring yet.
    """
    try:
        keyring = FileKeyring.open(settings.resolved_keyring)
    except KeyringError as error:
        raise ConfigurationError(f"{error}; `recorder migrate` makes a new installation's keyring") from error
    secret = settings.s3_secret_key
    try:
        store = open_store(
            settings.resolved_object_store,
            s3_endpoint=settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=None if secret is None else secret.get_secret_value(),
            region=settings.s3_region,
        )
    except Misuse as error:
        raise ConfigurationError(f"RECORDER_OBJECT_STORE: {error}") from error
    database = Database(settings.resolved_database_url)
    services = Services(
        settings=settings,
        clock=clock or SystemClock(),
        database=database,
        keyring=keyring,
        store=store,
        vault=Vault(store, keyring),
        spool=open_spool(settings, keyring),
    )
    try:
        yield services
    finally:
        await services.counts.close(database)
        await database.close()
        await store.aclose()
        keyring.close()


def open_spool(settings: Settings, keyring: Keyring) -> Spool | None:
    """The spool of this host; nothing is read or made yet. None where there is room for nothing."""
    if settings.spool_max_bytes == 0:
        return None
    return Spool(
        settings.resolved_spool,
        keyring,
        max_bytes=settings.spool_max_bytes,
        max_items=settings.spool_max_items,
    )


def build_app(services: Services) -> web.Application:
    """The HTTP application over already opened services."""
    app = web.Application(
        middlewares=[observe, problems, authenticate],
        # Bodies are counted where they are read; see framework.read_bounded and ingest.
        client_max_size=services.settings.max_metadata_bytes,
    )
    app[SERVICES] = services
    app[system.DRAINING] = system.Draining()
    app[system.OPENAPI] = openapi.build(ROUTES, version=metadata.version("tallenne"))
    app.on_response_prepare.append(add_headers)
    app.on_response_prepare.append(tus.add_headers)
    mount(app, ROUTES)
    pages.mount(app)
    return app


async def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; in the embedded default, do the background work as well.

    Args:
        ready: called with the address once connections are accepted.
    """
    stop = stop_signal()
    async with running(settings) as (_services, address):
        log.info("serving", extra={"address": address})
        if ready is not None:
            ready(address)
        await stop.wait()
        log.info("stopping")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[tuple[Services, str]]:
    """A running service: on leaving, readiness fails first, then streams drain, then everything closes."""
    async with open_services(settings) as services:
        await check_startup(services, spool=not settings.embedded)
        app = build_app(services)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            # Compressed bodies are refused; inflating one to discard it would stop the loop for seconds.
            auto_decompress=False,
            shutdown_timeout=settings.shutdown_seconds / 10,  # aiohttp waits this long twice
        )
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            taken = error.errno == errno.EADDRINUSE
            why = (
                "another program listens there" if taken else (error.strerror or "the address is not usable")
            )
            raise ConfigurationError(f"RECORDER_LISTEN {settings.listen}: {why}") from error
        port = runner.addresses[0][1] if runner.addresses else settings.port
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        async with contextlib.AsyncExitStack() as stack:
            if services.spool is not None:
                await services.spool.load()
                await stack.enter_async_context(Drainer(services, services.spool).running())
            if settings.embedded:
                await stack.enter_async_context(Background(services).running())
            try:
                yield services, settings.public_url or f"http://{host}:{port}"
            finally:
                services.metrics.ready.set(0)
                # Still listening, so that readiness can say no; then the rest of the time to hang up.
                await app[system.DRAINING].finish(settings.shutdown_seconds * 0.8)
                await runner.cleanup()
                # A push whose client left after its last byte is still being settled.
                await services.resumable.drain()
                await services.uploads.drain()


async def work(settings: Settings) -> None:
    """Do background work until SIGTERM or SIGINT; a store that is away at the start is waited for."""
    stop = stop_signal()
    async with open_services(settings) as services:
        if not await _startable(services, stop):
            return
        async with Background(services).running():
            log.info("working")
            await stop.wait()


async def _startable(services: Services, stop: asyncio.Event) -> bool:
    """Check the start-up until the object store answers; False when told to stop first."""
    while not stop.is_set():
        try:
            await check_startup(services)
        except StoreUnavailable:
            log.warning("the object store is away: work begins when it is back")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _STORE_PAUSE_SECONDS)
        else:
            return True
    return False


async def check_startup(services: Services, *, spool: bool = False) -> None:
    """Refuse to start on a database that this program does not fit, or that is older than its log's copies.

    Args:
        spool: start without the store, which holds those copies, and do nothing but spool until it is back.

    Raises:
        ConfigurationError: store or keys are where personal data may not be.
        Unavailable: database or store is away, or the schema is another one.
        Corrupt: an older database was restored, or the log was rewritten.
    """
    check_regions(services.settings, services.clock.now())
    await services.database.check()
    revision, head = await migrate.current(services.database)
    if revision != head:
        raise Unavailable("the database's schema is another one: run recorder migrate", dependency="database")
    try:
        await refuse_if_rolled_back(services)
    except StoreUnavailable:
        if not spool or services.spool is None:
            raise
        log.warning("the object store is away: nothing but pushes is taken, and those are spooled")
        services.uploads.unproven = True
        services.uploads.suspect_store()


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
