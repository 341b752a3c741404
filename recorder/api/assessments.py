"""Assessments of calls for quality, and their anonymous sums."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recorder.api.framework import ApiCall, Route
from recorder.catalogue.tables import Assessment
from recorder.errors import Erased, Forbidden, InvalidInput, NotFound, Unavailable
from recorder.playback.finding import controller_of
from recorder.quality import assessments

Points = Annotated[int, Field(ge=0, le=10_000)]


class AssessmentBody(BaseModel):
    """Points for one agent's part of a call."""

    model_config = ConfigDict(extra="forbid")

    form: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        description="which questions were asked; names no person"
    )
    points: Points
    out_of: Annotated[int, Field(ge=1, le=10_000)]
    agent: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="where the call had several"
    )

    @model_validator(mode="after")
    def _within(self) -> AssessmentBody:
        if self.points > self.out_of:
            raise ValueError("no more points than there are")
        return self


class AssessmentAnswer(BaseModel):
    """An assessment."""

    id: uuid.UUID
    recording: uuid.UUID
    assessor: str
    agent: str
    form: str
    points: int
    out_of: int
    given_at: datetime


class AssessmentList(BaseModel):
    """The assessments of a call, the oldest first."""

    items: list[AssessmentAnswer]


class TotalsQuery(BaseModel):
    """Which controller, where the caller has several."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = None


class TotalAnswer(BaseModel):
    """A month's assessments of one queue by one form."""

    month: str = Field(description="YYYY-MM, UTC")
    queue: str | None
    form: str
    count: int
    points: int
    out_of: int


class TotalList(BaseModel):
    """Sums; those of fewer than five assessments are left out."""

    items: list[TotalAnswer]


async def assess(call: ApiCall) -> AssessmentAnswer:
    """POST /api/v1/recordings/{id}/assessments."""
    body: AssessmentBody = call.body
    new = assessments.NewAssessment(body.form, body.points, body.out_of, body.agent)
    row = await assessments.assess(
        call.services, call.principal, call.uuid("id"), new, request_id=call.request_id
    )
    return _answer(row)


async def list_assessments(call: ApiCall) -> AssessmentList:
    """GET /api/v1/recordings/{id}/assessments."""
    rows = await assessments.list_of(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    return AssessmentList(items=[_answer(row) for row in rows])


async def totals(call: ApiCall) -> TotalList:
    """GET /api/v1/assessments/totals."""
    query: TotalsQuery = call.query
    found = await assessments.totals(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        request_id=call.request_id,
    )
    return TotalList(
        items=[
            TotalAnswer(
                month=line.month,
                queue=line.queue,
                form=line.form,
                count=line.count,
                points=line.points,
                out_of=line.out_of,
            )
            for line in found
        ]
    )


def _answer(row: Assessment) -> AssessmentAnswer:
    return AssessmentAnswer(
        id=row.id,
        recording=row.recording_id,
        assessor=row.assessor,
        agent=row.agent,
        form=row.form,
        points=row.points,
        out_of=row.out_of,
        given_at=row.given_at,
    )


_TAG: Final = "quality"
_OF: Final = "/api/v1/recordings/{id}/assessments"

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        _OF,
        assess,
        summary="Assess a call for quality",
        tag=_TAG,
        body=AssessmentBody,
        answer=AssessmentAnswer,
        status=201,
        raises=(NotFound, Erased, Forbidden, InvalidInput, Unavailable),
    ),
    Route(
        "GET",
        _OF,
        list_assessments,
        summary="Assessments of a call; an agent's own",
        tag=_TAG,
        answer=AssessmentList,
        raises=(NotFound, Forbidden),
    ),
    Route(
        "GET",
        "/api/v1/assessments/totals",
        totals,
        summary="Sums of assessments by month, queue and form, also of calls that have gone",
        tag=_TAG,
        query=TotalsQuery,
        answer=TotalList,
        raises=(Forbidden, InvalidInput),
    ),
)
