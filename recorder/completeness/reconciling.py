"""Call detail records against the catalogue: what should be here, is it?

Each answered call is looked for by the names that its recording may have been pushed under, then by the call.
What is not here becomes a placeholder, closed when its audio arrives; what was erased was here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Call, Controller, Recording, Source, Tombstone
from recorder.completeness.cdr import Expected, Row, Unanswered, Unreadable, read_records
from recorder.completeness.outcomes import BY_CDR, note_outcome
from recorder.errors import NotFound
from recorder.ingest.adapters.base import SenderOutcome
from recorder.ingest.identity import call_identity, recording_identity
from recorder.ingest.metadata import CallRef, RecordingMetadata
from recorder.ingest.request import IngestRequest
from recorder.services import Services

_BATCH: Final = 500
_MOST_TOLD: Final = 1000


@dataclass(slots=True)
class Report:
    """What a file of call detail records came to.

    Attributes:
        answered: calls that should have a recording.
        unanswered: calls that never were one.
        short: answered calls shorter than what is recorded.
        unrecorded: calls whose own record says that nothing was recorded.
        erased: their recordings were here and were erased.
        missing: calls without any recording; each has a placeholder now.
        missing_lines: numbers of their lines, the first thousand.
        unreadable: numbers of lines that could not be used, and why; the first thousand.
    """

    lines: int = 0
    answered: int = 0
    unanswered: int = 0
    short: int = 0
    unrecorded: int = 0
    here: int = 0
    erased: int = 0
    missing: int = 0
    missing_lines: list[int] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    unreadable_count: int = 0

    def to_json(self) -> dict[str, Any]:
        """As an answer shows it."""
        return {
            "lines": self.lines,
            "answered": self.answered,
            "unanswered": self.unanswered,
            "short": self.short,
            "unrecorded": self.unrecorded,
            "here": self.here,
            "erased": self.erased,
            "missing": self.missing,
            "missing_lines": self.missing_lines,
            "unreadable": [{"line": line, "reason": reason} for line, reason in self.unreadable],
            "unreadable_count": self.unreadable_count,
        }


async def reconcile_cdr(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    lines: Iterable[str],
    *,
    columns: Sequence[str] | None = None,
    zone: str | None = None,
    shortest: float = 1.0,
    progress: Callable[[int], None] | None = None,
    request_id: str | None = None,
) -> Report:
    """Compare call detail records with what is here. Running it again changes nothing.

    Args:
        services: Parts of the service.
        principal: Who asks.
        source_id: The source whose calls these are.
        lines: Of the file, read as they are needed.
        columns: Names of the columns where the file has no header.
        zone: IANA name of the zone of times without an offset; the controller's by default.
        shortest: Seconds of talk below which nothing is expected.
        progress: Called with the number of lines read so far.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        Forbidden: the caller does not manage this source.
        NotFound: there is no such source.
    """
    async with services.database.snapshot() as session:
        source = await session.get(Source, source_id)
        if source is None:
            raise NotFound("there is no such source")
        controller = await session.get_one(Controller, source.controller_id)
    await permit(
        services,
        principal,
        Action.MANAGE_SOURCES,
        controller_id=controller.id,
        object_type="source",
        object_id=str(source_id),
        request_id=request_id,
    )
    report = Report()
    rows = read_records(
        lines, zone=await asyncio.to_thread(ZoneInfo, zone or controller.time_zone), columns=columns
    )
    while batch := await asyncio.to_thread(_take, rows):
        expected = _sort(report, batch, shortest)
        async with services.database.transaction() as session:
            for row in await _not_here(session, services, source, expected, report):
                await _placeholder(session, services, source, row)
        if progress is not None:
            progress(report.lines)
    async with services.database.transaction() as session:
        event = AuditEvent(
            action="completeness.reconciled",
            actor=principal.actor,
            object_type="source",
            object_id=str(source_id),
            controller_id=controller.id,
            request_id=request_id,
            details={"answered": report.answered, "here": report.here, "missing": report.missing},
        )
        record(session, event, now=services.clock.now())
    return report


def _take(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _BATCH))


def _sort(report: Report, batch: Sequence[Row], shortest: float) -> list[Expected]:
    expected: list[Expected] = []
    for row in batch:
        report.lines += 1
        match row:
            case Unreadable():
                report.unreadable_count += 1
                if len(report.unreadable) < _MOST_TOLD:
                    report.unreadable.append((row.line, row.reason))
            case Unanswered():
                report.unanswered += 1
            case Expected():
                report.answered += 1
                if row.recorded is False:
                    report.unrecorded += 1
                elif row.seconds < shortest:
                    report.short += 1
                else:
                    expected.append(row)
    return expected


async def _not_here(
    session: AsyncSession, services: Services, source: Source, rows: Sequence[Expected], report: Report
) -> list[Expected]:
    keyring, owner = services.keyring, source.controller_id
    names = {
        row.line: [recording_identity(keyring, owner, source.id, name, None) for name in row.names]
        for row in rows
    }
    calls = {row.line: call_identity(keyring, owner, source.id, row.call) for row in rows}
    every = [digest for digests in names.values() for digest in digests]
    here = set(
        await session.scalars(
            sa.select(Recording.identity).where(
                Recording.source_id == source.id, Recording.identity.in_(every)
            )
        )
    )
    known_calls = set(
        await session.scalars(
            sa.select(Call.identity).where(
                Call.source_id == source.id, Call.identity.in_(list(calls.values()))
            )
        )
    )
    gone = set(
        await session.scalars(
            sa.select(Tombstone.identity).where(
                Tombstone.source_id == source.id, Tombstone.identity.in_(every)
            )
        )
    )
    missing: list[Expected] = []
    for row in rows:
        digests = set(names[row.line])
        if digests & gone:
            report.erased += 1
        elif digests & here or calls[row.line] in known_calls:
            report.here += 1
        else:
            missing.append(row)
            report.missing += 1
            if len(report.missing_lines) < _MOST_TOLD:
                report.missing_lines.append(row.line)
    return missing


async def _placeholder(session: AsyncSession, services: Services, source: Source, row: Expected) -> None:
    metadata = RecordingMetadata(
        external_id=row.names[0],
        started_at=row.started_at,
        duration=min(row.seconds, 48 * 3600),
        call=CallRef(external_id=row.call),
    )
    await note_outcome(
        session,
        services.keyring,
        controller_id=source.controller_id,
        source_id=source.id,
        request=IngestRequest(metadata=metadata, strict=False),
        outcome=SenderOutcome.MISSING,
        told_by=BY_CDR,
        now=services.clock.now(),
    )
