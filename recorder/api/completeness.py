"""Whether every recording that should be here is here."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall, Route, read_bounded
from recorder.api.recordings import Moment
from recorder.completeness import viewing
from recorder.completeness.cdr import FORMATS
from recorder.completeness.reconciling import reconcile_cdr
from recorder.errors import Forbidden, InvalidInput, MalformedInput, NotFound, TooLarge
from recorder.ingest.adapters.base import SenderOutcome
from recorder.playback.finding import controller_of

_LARGEST: Final = 32 * 1024 * 1024
_ZONES: Final = frozenset(available_timezones())  # read from disk once, outside the event loop


def _zone(value: str) -> str:
    if value not in _ZONES:
        raise ValueError("is no IANA time zone, such as Europe/Helsinki")
    return value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class HoursQuery(_Model):
    """Which hours."""

    controller: uuid.UUID | None = None
    source: uuid.UUID | None = None
    from_: Moment | None = Field(None, alias="from", description="default: 48 hours ago")
    to: Moment | None = None
    gaps: bool = Field(False, description="only hours with a gap")


class HourAnswer(BaseModel):
    """One hour of one source; ``expected`` is null where nothing is known to compare with."""

    hour: datetime
    source_id: uuid.UUID
    source: str
    received: int
    expected: int | None
    missing: int = Field(description="calls of a CDR without any recording")
    basis: Literal["cdr", "learned"] | None
    gap: bool
    opened_at: datetime | None
    closed_at: datetime | None


class HoursAnswer(BaseModel):
    """Hours in order."""

    items: list[HourAnswer]


class ExpectedQuery(_Model):
    """Which placeholders."""

    controller: uuid.UUID | None = None
    outcome: SenderOutcome | None = Field(None, description="default: all whose audio is not here")
    limit: Annotated[int, Field(ge=1, le=1000)] = 200


class ExpectedAnswer(BaseModel):
    """A recording that was told of."""

    id: uuid.UUID
    source_id: uuid.UUID
    outcome: SenderOutcome
    code: str | None
    told_by: str
    started_at: datetime
    duration: float | None
    recording: uuid.UUID | None


class ExpectedList(BaseModel):
    """Placeholders, the newest call first."""

    items: list[ExpectedAnswer]


class CdrQuery(_Model):
    """How a file of call detail records is read."""

    format: Literal["header", "asterisk", "freeswitch"] = "header"
    zone: Annotated[str, AfterValidator(_zone)] | None = Field(
        None, description="of times without an offset; default the controller's"
    )
    shortest: Annotated[float, Field(ge=0, le=3600)] = Field(
        1.0, description="seconds of talk below which nothing is expected"
    )


class UnreadableLine(BaseModel):
    """A line that could not be used."""

    line: int
    reason: str


class CdrReport(BaseModel):
    """What the records came to."""

    lines: int
    answered: int
    unanswered: int
    short: int
    unrecorded: int
    here: int
    erased: int
    missing: int
    missing_lines: list[int]
    unreadable: list[UnreadableLine]
    unreadable_count: int


async def list_hours(call: ApiCall) -> HoursAnswer:
    """GET /api/v1/completeness."""
    query: HoursQuery = call.query
    now = call.services.clock.now()
    found = await viewing.hours(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        since=query.from_ or now - timedelta(hours=48),
        before=query.to or now,
        source_id=query.source,
        gaps_only=query.gaps,
        request_id=call.request_id,
    )
    return HoursAnswer(items=[_hour(view) for view in found])


def _hour(view: viewing.HourView) -> HourAnswer:
    row = view.row
    facts: dict[str, Any] = {
        name: getattr(row, name)
        for name in ("hour", "source_id", "received", "expected", "missing", "basis", "gap")
    }
    return HourAnswer(**facts, source=view.source, opened_at=row.opened_at, closed_at=row.closed_at)


async def list_expected(call: ApiCall) -> ExpectedList:
    """GET /api/v1/completeness/expected."""
    rows = await viewing.expected(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        outcome=call.query.outcome,
        limit=call.query.limit,
        request_id=call.request_id,
    )
    return ExpectedList(
        items=[
            ExpectedAnswer(
                id=row.id,
                source_id=row.source_id,
                outcome=SenderOutcome(row.outcome),
                code=row.code,
                told_by=row.told_by,
                started_at=row.started_at,
                duration=None if row.duration_ms is None else row.duration_ms / 1000,
                recording=row.recording_id,
            )
            for row in rows
        ]
    )


async def reconcile(call: ApiCall) -> CdrReport:
    """POST /api/v1/sources/{id}/cdr."""
    query: CdrQuery = call.query
    raw = await read_bounded(call.request, _LARGEST, seconds=call.services.settings.upload_idle_seconds)
    report = await reconcile_cdr(
        call.services,
        call.principal,
        call.uuid("id"),
        raw.decode(errors="replace").splitlines(keepends=True),
        columns=FORMATS[query.format],
        zone=query.zone,
        shortest=query.shortest,
        request_id=call.request_id,
    )
    return CdrReport.model_validate(report.to_json())


_TAG: Final = "completeness"

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/completeness",
        list_hours,
        "Recordings received and expected, by source and hour",
        _TAG,
        query=HoursQuery,
        answer=HoursAnswer,
        raises=(Forbidden,),
    ),
    Route(
        "GET",
        "/api/v1/completeness/expected",
        list_expected,
        "Recordings that were told of and whose audio is not here",
        _TAG,
        query=ExpectedQuery,
        answer=ExpectedList,
        raises=(Forbidden,),
    ),
    Route(
        "POST",
        "/api/v1/sources/{id}/cdr",
        reconcile,
        "Compare call detail records (CSV, at most 32 MiB) with what is here",
        _TAG,
        query=CdrQuery,
        answer=CdrReport,
        raises=(NotFound, Forbidden, InvalidInput, MalformedInput, TooLarge),
        raw=True,
        request_types=("text/csv",),
    ),
)
