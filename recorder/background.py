"""The background work of one process: which handler does which job, and what recurs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from recorder.audit.log import Sequencer
from recorder.catalogue.tables import Job
from recorder.completeness.watching import watch
from recorder.disposition import released_sweep
from recorder.disposition.redaction import destroy_original
from recorder.disposition.sweeping import overdue
from recorder.errors import Conflict, Erased
from recorder.ingest.fetching import FETCH_JOB, Fetcher, tend
from recorder.ingest.probe import check_media
from recorder.ingest.resumable.finishing import tend_uploads
from recorder.jobs.chores import standard_chores
from recorder.jobs.clockwork import Chore, Clockwork
from recorder.jobs.findings import count_open
from recorder.jobs.worker import GiveUp, Handler, Limits, Worker
from recorder.outgoing.delivering import dead_letters, deliver_due, forget_old
from recorder.outgoing.following import follow_log
from recorder.playback.ffmpeg import MediaError
from recorder.playback.renditions import make_peaks, make_rendition
from recorder.playback.serve import close_idle_listens
from recorder.rights import packages
from recorder.rights.deciding import ERASURE_JOB, carry_out
from recorder.rights.reminders import remind
from recorder.rights.shredding import expire
from recorder.services import Services


class Background:
    """A worker and a clock on the same services. Any number of processes may have one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sequencer = Sequencer(services)
        self.worker = Worker(services, self._handlers())
        # A worker of its own: a sender that drips must not hold up anything else.
        self.fetcher = Worker(services, {FETCH_JOB: Fetcher(services).run}, limits=Limits(concurrency=4))
        chores = standard_chores(
            services,
            sequence_log=self._sequencer.run_once,
            copy_checkpoints=self._sequencer.copy_checkpoints,
            close_idle_listens=lambda: close_idle_listens(services, services.clock.now()),
        )
        own = (
            Chore("gauges", timedelta(seconds=15), self._gauges),
            Chore("request-reminders", timedelta(minutes=15), lambda: remind(services)),
            Chore("uploads", timedelta(minutes=1), lambda: tend_uploads(services)),
            Chore("packages", timedelta(minutes=5), lambda: expire(services)),
            Chore("fetches", timedelta(minutes=1), lambda: tend(services)),
            Chore("completeness", timedelta(minutes=1), lambda: watch(services)),
            Chore("webhook-events", timedelta(seconds=1), lambda: follow_log(services)),
            Chore("webhooks", timedelta(seconds=1), lambda: deliver_due(services, chance=random.random)),
            Chore("webhooks-past", timedelta(hours=1), lambda: forget_old(services)),
        )
        self._clockwork = Clockwork([*chores, *own])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work inside; on leaving, what is in hand goes back to the queue."""
        async with self._clockwork.running():
            tasks = [asyncio.create_task(worker.run()) for worker in (self.worker, self.fetcher)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # The far end of a download that was cut off is discarding what had come.
                await self._services.uploads.drain()
        with contextlib.suppress(Exception):
            # Best effort: whoever starts next sequences what is left.
            await self._sequencer.run_once()

    def _handlers(self) -> dict[str, Handler]:
        services = self._services

        async def media_check(recording_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            await check_media(services, recording_id)

        async def rendition(recording_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            try:
                await make_rendition(services, recording_id)
            except MediaError as error:
                raise GiveUp(error.message) from error

        async def peaks(recording_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            try:
                await make_peaks(services, recording_id)
            except MediaError as error:
                raise GiveUp(error.message) from error

        async def redaction(recording_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            try:
                await destroy_original(services, recording_id)
            except Erased:
                return  # it went altogether meanwhile
            except Conflict as error:
                raise GiveUp(error.message) from error

        async def rights_package(package_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            try:
                await packages.build(services, package_id)
            except MediaError as error:
                await packages.fail(services, package_id, "media")
                raise GiveUp(error.message) from error

        async def rights_erasure(rights_id: uuid.UUID, _payload: Mapping[str, Any]) -> None:
            await carry_out(services, rights_id)

        return {
            "media_check": media_check,
            "rendition": rendition,
            "peaks": peaks,
            "redaction": redaction,
            ERASURE_JOB: rights_erasure,
            released_sweep.JOB: lambda approval_id, _payload: released_sweep.run(services, approval_id),
            packages.PACKAGE_JOB: rights_package,
        }

    async def _gauges(self) -> None:
        metrics = self._services.metrics
        query = sa.select(Job.kind, Job.state, sa.func.count()).group_by(Job.kind, Job.state)
        async with self._services.database.snapshot() as session:
            late = await overdue(session, self._services.clock.now())
            metrics.overdue_erasures.set(late.erasures)
            metrics.overdue_recordings.set(late.recordings)
            counts = (await session.execute(query)).all()
            metrics.webhooks_dead.set(await dead_letters(session))
            for kind, found in (await count_open(session)).items():
                metrics.findings.labels(kind).set(found)
        metrics.jobs.clear()
        for kind, state, count in counts:
            metrics.jobs.labels(kind, state.value).set(count)
