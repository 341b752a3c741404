"""An old archive through the one pipeline: every recording sealed, linked, dated; resumable, with a report.

The report is the journal: one line of JSON for each recording, written before the next is counted. A run that
was stopped reads it and goes on; what it had stored without having written it is met again as a repeat.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from recorder.access.principals import Grant, Principal
from recorder.archive.manifest import Entry, Unusable
from recorder.archive.places import Place
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState, Role, ScopeKind
from recorder.catalogue.subjects import blind_index
from recorder.catalogue.tables import Source
from recorder.errors import Conflict, Erased, RecorderError, Unavailable
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import Outcome
from recorder.services import Services

_ATTEMPTS: Final = 5
DONE: Final = frozenset({"imported", "repeated", "quarantined", "conflict", "erased"})
"""Results that another run need not look at again."""


class Journal:
    """The report of an import, which is also how far it has come. Use as an asynchronous context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._file.close)

    def _open(self) -> None:
        whole = b""
        if self._path.exists():
            whole = self._path.read_bytes()
        kept = whole[
            : whole.rfind(b"\n") + 1
        ]  # a line that was cut off when the power went was never counted
        for line in kept.splitlines():
            try:
                said = json.loads(line)
                self._seen[said["key"]] = said["result"]
            except (ValueError, KeyError, TypeError):
                continue
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, len(kept))
        os.lseek(descriptor, 0, os.SEEK_END)
        self._file = os.fdopen(descriptor, "ab", buffering=0)

    def done(self, key: str) -> bool:
        """Whether an earlier run settled this recording."""
        return self._seen.get(key) in DONE

    async def write(self, line: dict[str, Any]) -> None:
        """Add a line and make it last."""
        # A line is written whole even when its task is cancelled meanwhile.
        await asyncio.shield(asyncio.to_thread(self._write, line))

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n")
        os.fsync(self._file.fileno())


@dataclass(slots=True)
class Summary:
    """What a run came to.

    Attributes:
        results: how many came to what: ``imported``, ``repeated``, ``quarantined``, ``conflict``, ``erased``,
            ``missing``, ``unusable``, ``failed``.
        skipped: settled by an earlier run.
        bytes: of audio taken in.
        due: imported, and past their retention already: the next sweep erases them.
    """

    results: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    bytes: int = 0
    due: int = 0

    @property
    def wrong(self) -> int:
        """Recordings that are not here, or not as they should be."""
        return sum(
            self.results[name] for name in ("missing", "unusable", "failed", "conflict", "quarantined")
        )

    def to_json(self) -> dict[str, Any]:
        """As a report shows it."""
        return {**self.results, "skipped": self.skipped, "bytes": self.bytes, "due": self.due}


async def import_archive(
    services: Services,
    principal: Principal,
    source: Source,
    entries: Iterator[Entry | Unusable],
    place: Place,
    journal: Journal,
    *,
    concurrency: int = 4,
    progress: Callable[[Summary], None] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Summary:
    """Bring recordings in.

    Args:
        services: Parts of the service.
        principal: The person who imports.
        source: The source that the recordings count as.
        entries: Of the manifest, read as they are needed.
        place: Where the audio is.
        journal: Report and memory.
        concurrency: Recordings at a time.
        progress: Called after each recording.
        sleep: Waits while a dependency is away.

    Raises:
        Unavailable: a dependency stayed away; what was done is in the journal.
    """
    # No spool: whoever imports waits, and the archive stays where it is until the report says it is here.
    run = _Run(replace(services, spool=None), _as_source(source), place, journal, sleep)
    queue: asyncio.Queue[Entry | Unusable | None] = asyncio.Queue(maxsize=2 * concurrency)

    async def work() -> None:
        while (entry := await queue.get()) is not None:
            await run.one(entry)
            if progress is not None:
                progress(run.summary)

    async def feed() -> None:
        while (entry := await asyncio.to_thread(next, entries, None)) is not None:
            if isinstance(entry, Entry) and journal.done(run.key_of(entry)):
                run.summary.skipped += 1
            else:
                await queue.put(entry)
        for _ in range(concurrency):
            await queue.put(None)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise _first(errors) from None
    finally:
        await services.uploads.drain()
        await _tell(services, principal, source, run.summary)
    return run.summary


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    found = errors.exceptions[0]
    return _first(found) if isinstance(found, ExceptionGroup) else found


def _as_source(source: Source) -> Principal:
    grant = Grant(Role.TELEPHONY, source.controller_id, ScopeKind.CONTROLLER)
    return Principal("source", str(source.id), source.controller_id, (grant,), source_id=source.id)


@dataclass(slots=True)
class _Run:
    services: Services
    pusher: Principal
    place: Place
    journal: Journal
    sleep: Callable[[float], Awaitable[None]]
    summary: Summary = field(default_factory=Summary)

    async def one(self, entry: Entry | Unusable) -> None:
        if isinstance(entry, Unusable):
            await self._settle({"line": entry.line, "key": "", "result": "unusable", "reason": entry.reason})
            return
        line: dict[str, Any] = {"line": entry.line, "key": self.key_of(entry)}
        try:
            outcome = await self._push(entry)
        except Unavailable:
            raise
        except Conflict as error:
            line |= {"result": "conflict", "reason": error.message, "id": error.recording_id}
        except Erased as error:
            line |= {"result": "erased", "certificate": error.certificate_id}
        except RecorderError as error:
            missing = type(error).__name__ == "NotFound"
            line |= {"result": "missing" if missing else "failed", "reason": error.message}
        else:
            line |= self._said(outcome)
        await self._settle(line)

    def key_of(self, entry: Entry) -> str:
        """Under which the report knows an entry: keyed, for a short line is found by trying them all."""
        controller_id = self.pusher.controller_id or uuid.UUID(int=0)
        return blind_index(self.services.keyring, controller_id, "import", entry.key).hex()

    async def _push(self, entry: Entry) -> Outcome:
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self.place.open(entry.file) as (size, pieces):
                    request = replace(entry.request, size=size)
                    return await Intake(self.services).accept(
                        request, pieces, principal=self.pusher, request_id=f"import-{uuid.uuid4()}"
                    )
            except Unavailable:
                if attempt == _ATTEMPTS:
                    raise
                await self.sleep(2.0**attempt)

    def _said(self, outcome: Outcome) -> dict[str, Any]:
        repeated = outcome.kind.value == "repeated"
        result = "repeated" if repeated else "imported"
        if outcome.state is RecordingState.QUARANTINED:
            result = "quarantined"
        if not repeated:
            self.summary.bytes += outcome.size
        erase_on = (outcome.retention or {}).get("erase_on")
        if erase_on is not None and datetime.fromisoformat(erase_on) <= self.services.clock.now():
            self.summary.due += 1
        return {
            "result": result,
            "id": outcome.recording_id,
            "sha256": outcome.sha256.hex(),
            "size": outcome.size,
            "reasons": list(outcome.reasons),
            "customer": outcome.customer.get("status"),
            "erase_on": erase_on,
            "receipt": outcome.receipt,
        }

    async def _settle(self, line: dict[str, Any]) -> None:
        await self.journal.write(line)
        self.summary.results[line["result"]] += 1


async def _tell(services: Services, principal: Principal, source: Source, summary: Summary) -> None:
    event = AuditEvent(
        action="archive.imported",
        actor=principal.actor,
        object_type="source",
        object_id=str(source.id),
        controller_id=source.controller_id,
        details={name: int(value) for name, value in summary.to_json().items()},
    )
    async with services.database.transaction() as session:
        record(session, event, now=services.clock.now())


async def gathered(names: Iterator[str] | AsyncIterator[str]) -> list[str]:
    """Every name of a place."""
    if isinstance(names, AsyncIterator):
        return [name async for name in names]
    return await asyncio.to_thread(list, names)
