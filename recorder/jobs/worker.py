"""Doing the queued work: claim with a lease, run, settle; safe to kill at any moment.

Correctness comes from handlers being idempotent. A lease only keeps two workers from doing the same work at
the same time; one that runs out, because its process died, is claimed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import JobState
from recorder.catalogue.tables import Job
from recorder.errors import RecorderError, Unavailable
from recorder.services import Services

log = logging.getLogger("recorder.jobs")

Handler = Callable[[uuid.UUID, Mapping[str, Any]], Awaitable[object]]
"""Does one piece of work: ``(target id, payload)``. It may run any number of times, and twice at once."""

ACTOR: Final = "system:worker"
_LONGEST_PAUSE: Final = timedelta(hours=1)


class GiveUp(RecorderError):
    """Raised by a handler when trying again cannot help; the job fails at once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How a worker works.

    Attributes:
        concurrency: jobs at a time.
        attempts: tries until a job has failed for good.
        lease: for how long a claim holds without being renewed.
        pause: wait after the first failure; doubles with each further one.
        idle_seconds: time between two looks at an empty queue.
    """

    concurrency: int = 2
    attempts: int = 6
    lease: timedelta = timedelta(minutes=5)
    pause: timedelta = timedelta(seconds=10)
    idle_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in hand."""

    id: uuid.UUID
    kind: str
    target_id: uuid.UUID
    payload: Mapping[str, Any]
    attempts: int
    holder: str


class Worker:
    """Works off the queue. Any number of them may run on one database.

    Args:
        handlers: by kind; jobs of other kinds are left to other workers.
    """

    def __init__(
        self, services: Services, handlers: Mapping[str, Handler], *, limits: Limits | None = None
    ) -> None:
        self._services = services
        self._handlers = dict(handlers)
        self._limits = limits or Limits()
        self._name = f"{socket.gethostname()[:40]}:{os.getpid()}"

    async def run(self) -> None:
        """Work until cancelled; what is in hand then is released to others."""
        async with asyncio.TaskGroup() as group:
            slots = asyncio.Semaphore(self._limits.concurrency)
            while True:
                await slots.acquire()
                claims = await self._claim_quietly()
                if not claims:
                    slots.release()
                    await asyncio.sleep(self._limits.idle_seconds)
                    continue
                task = group.create_task(self._work(claims[0]))
                task.add_done_callback(lambda _: slots.release())

    async def drain(self) -> int:
        """Do everything that is ready, until nothing is.

        Returns:
            How many jobs were taken in hand.
        """
        count = 0
        while claims := await self.claim(self._limits.concurrency):
            count += len(claims)
            async with asyncio.TaskGroup() as group:
                for claim in claims:
                    group.create_task(self._work(claim))
        return count

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Take up to ``limit`` ready jobs in hand, the oldest first.

        Ready is what waits and is due, and what somebody let go of without a word. A job that took its last
        allowed worker down with it is failed here, where nobody else can.
        """
        now = self._services.clock.now()
        ready = sa.and_(
            Job.kind.in_(self._handlers),
            sa.or_(
                sa.and_(Job.state == JobState.QUEUED, Job.not_before <= now),
                sa.and_(Job.state == JobState.RUNNING, Job.lease_until < now),
            ),
        )
        async with self._services.database.snapshot() as session:
            # Looking does not need SQLite's one writing slot.
            if await session.scalar(sa.select(sa.exists().where(ready))) is not True:
                return []
        claims = []
        async with self._services.database.transaction() as session:
            query = (
                sa.select(Job)
                .where(ready)
                .order_by(Job.not_before, Job.id)
                .limit(limit)
                .with_for_update(skip_locked=True, key_share=True)
            )
            for job in await session.scalars(query):
                if job.attempts >= self._limits.attempts:
                    self._fail(session, job, "LeaseExpired", now)
                    continue
                job.state, job.attempts = JobState.RUNNING, job.attempts + 1
                job.leased_by = f"{self._name}:{uuid.uuid4().hex[:12]}"
                job.lease_until = now + self._limits.lease
                claims.append(
                    Claim(job.id, job.kind, job.target_id, dict(job.payload), job.attempts, job.leased_by)
                )
        return claims

    async def _claim_quietly(self) -> Sequence[Claim]:
        try:
            return await self.claim(1)
        except Unavailable:
            log.warning("the database is away; the queue waits")
        except Exception as error:  # noqa: BLE001 - one bad row must not end the work on all others
            log.error("the queue cannot be read", extra={"error": _name(error)})
        return []

    async def _work(self, claim: Claim) -> None:
        renewing = asyncio.create_task(self._renew(claim))
        try:
            await self._handlers[claim.kind](claim.target_id, claim.payload)
        except asyncio.CancelledError:
            await asyncio.shield(self._release(claim))
            raise
        except Exception as error:  # noqa: BLE001 - a handler's failure is the job's, never the worker's
            await self._settle(claim, error)
        else:
            await self._settle(claim, None)
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._limits.lease.total_seconds() / 3)
            with contextlib.suppress(Unavailable):
                until = self._services.clock.now() + self._limits.lease
                await self._update(claim, lease_until=until)

    async def _release(self, claim: Claim) -> None:
        """Interrupted, not failed: the attempt does not count."""
        with contextlib.suppress(Unavailable):
            await self._update(
                claim,
                state=JobState.QUEUED,
                attempts=claim.attempts - 1,
                lease_until=None,
                leased_by=None,
            )

    async def _settle(self, claim: Claim, error: Exception | None) -> None:
        now = self._services.clock.now()
        try:
            if error is None:
                await self._update(
                    claim, state=JobState.DONE, finished_at=now, error=None, lease_until=None, leased_by=None
                )
                return
            # Only the error's type is kept: its text could quote what the job was about.
            log.warning("job failed", extra={"kind": claim.kind, "job": str(claim.id), "error": _name(error)})
            if isinstance(error, GiveUp) or claim.attempts >= self._limits.attempts:
                await self._bury(claim, _name(error), now)
                return
            pause = min(self._limits.pause * 2 ** (claim.attempts - 1), _LONGEST_PAUSE)
            await self._update(
                claim,
                state=JobState.QUEUED,
                not_before=now + pause,
                error=_name(error),
                lease_until=None,
                leased_by=None,
            )
        except Unavailable:
            log.warning("the database is away; the lease runs out and the job is claimed again")
        except Exception as failure:  # noqa: BLE001 - as above: the lease runs out
            log.error("a job cannot be settled", extra={"error": _name(failure)})

    async def _bury(self, claim: Claim, name: str, now: datetime) -> None:
        async with self._services.database.transaction() as session:
            job = await session.get(Job, claim.id, with_for_update=True)
            if job is not None and job.leased_by == claim.holder:
                self._fail(session, job, name, now)

    def _fail(self, session: Any, job: Job, name: str, now: datetime) -> None:
        job.state, job.error, job.finished_at = JobState.FAILED, name[:200], now
        job.lease_until = job.leased_by = None
        event = AuditEvent(
            action="job.failed",
            actor=ACTOR,
            object_type="job",
            object_id=str(job.id),
            outcome="failed",
            details={"kind": job.kind, "target": str(job.target_id), "error": name[:200]},
        )
        record(session, event, now=now)

    async def _update(self, claim: Claim, **values: Any) -> None:
        """Change a job that is still ours; one whose lease somebody else took over is theirs."""
        async with self._services.database.transaction() as session:
            await session.execute(
                sa.update(Job).where(Job.id == claim.id, Job.leased_by == claim.holder).values(**values)
            )


def _name(error: Exception) -> str:
    return type(error).__name__
