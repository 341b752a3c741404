"""Reports: what is kept, why and until when; the record of processing activities."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall, Route
from recorder.disposition import processing_record, reporting
from recorder.errors import Forbidden, InvalidInput, NotFound
from recorder.playback.finding import controller_of


class ReportQuery(BaseModel):
    """Which controller, where the caller has several."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = None


class CountedAnswer(BaseModel):
    """A number of recordings, with the seconds of their audio and the bytes of their originals."""

    count: int
    seconds: float
    bytes: int


class KeptAnswer(CountedAnswer):
    """What one reason keeps."""

    why: str = Field(
        description="rule, hold, restriction, person, open_ended, not_decided or erasing; see docs/reports.md"
    )
    rule: str | None = Field(description="id of the rule whose window ends last")


class DueAnswer(CountedAnswer):
    """What falls due in a month by a rule."""

    month: str = Field(description="YYYY-MM in the controller's time zone")
    rule: str | None


class RecordAnswer(BaseModel):
    """One kind of record that is no call."""

    record: str
    total: int
    due: int = Field(description="its time is over; the next sweep takes it")
    kept: int = Field(description="its time is over, but a hold, a request or what rests on it keeps it")
    destroyed: int = Field(description="within the last year")


class ErasedAnswer(BaseModel):
    """What was erased in a month on a ground."""

    month: str
    ground: str
    recordings: int
    certificates: int


class RetentionReportAnswer(BaseModel):
    """What is kept, why, until when, what was erased, what is overdue."""

    controller: uuid.UUID
    name: str
    time_zone: str
    made_at: datetime
    schedule: int = Field(description="version in force; 0 where none is")
    total: CountedAnswer
    by_state: dict[str, CountedAnswer]
    held: CountedAnswer
    restricted: CountedAnswer
    why: list[KeptAnswer]
    dated: list[DueAnswer]
    undated: CountedAnswer
    due: CountedAnswer = Field(description="its time has ended; the next sweep takes it")
    waiting: CountedAnswer = Field(description="its time has ended, but a request of the person is open")
    overdue: CountedAnswer = Field(description="should be none")
    overdue_erasures: int = Field(description="begun more than a day ago and not finished: should be none")
    records: list[RecordAnswer] = Field(description="requests, matters, accounts and so on")
    erased: list[ErasedAnswer]


class ControllerAnswer(BaseModel):
    """Who answers for the processing."""

    code: str
    name: str
    country: str
    authority: str
    time_zone: str


class PurposeAnswer(BaseModel):
    """A purpose that a rule of the schedule keeps calls for."""

    purpose: str
    words: str
    rules: list[str]


class BasisAnswer(BaseModel):
    """A lawful basis in use; no recordings where only a source's default names it."""

    basis: str
    words: str
    recordings: int


class SourceAnswer(BaseModel):
    """A telephony system that delivers."""

    name: str
    kind: str
    enabled: bool
    default_basis: str | None


class RecipientAnswer(BaseModel):
    """Who hears calls, and for what."""

    recipient: str
    inside: bool
    purposes: list[str]


class RetentionLine(BaseModel):
    """How long something is kept."""

    of: str
    rule: str
    purposes: list[str]
    words: str
    statutory: str | None
    reason: str


class ProcessingRecordAnswer(BaseModel):
    """The record of processing activities (GDPR art. 30(1)), from the live configuration."""

    made_at: datetime
    controller: ControllerAnswer
    schedule: int
    purposes: list[PurposeAnswer]
    lawful_bases: list[BasisAnswer]
    data_subjects: list[str]
    data: list[str]
    sources: list[SourceAnswer]
    recipients: list[RecipientAnswer]
    transfers: list[str]
    retention: list[RetentionLine]
    security: list[str]
    missing: list[str] = Field(description="what article 30 asks for and only people know")


async def retention(call: ApiCall) -> RetentionReportAnswer:
    """GET /api/v1/reports/retention."""
    query: ReportQuery = call.query
    found = await reporting.report(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        request_id=call.request_id,
    )
    return RetentionReportAnswer.model_validate(found.to_json())


async def processing(call: ApiCall) -> ProcessingRecordAnswer:
    """GET /api/v1/reports/processing-record."""
    query: ReportQuery = call.query
    found = await processing_record.record_of(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        request_id=call.request_id,
    )
    return ProcessingRecordAnswer.model_validate(found.to_json())


_RAISES: Final = (Forbidden, InvalidInput, NotFound)

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/reports/retention",
        retention,
        summary="What is kept, why, until when, what was erased, what is overdue",
        tag="reports",
        query=ReportQuery,
        answer=RetentionReportAnswer,
        raises=_RAISES,
    ),
    Route(
        "GET",
        "/api/v1/reports/processing-record",
        processing,
        summary="Record of processing activities (GDPR art. 30)",
        tag="reports",
        query=ReportQuery,
        answer=ProcessingRecordAnswer,
        raises=_RAISES,
    ),
)
