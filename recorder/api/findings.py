"""What drifted between catalogue and store, and settling it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall, Route
from recorder.catalogue.tables import Finding
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from recorder.jobs import findings
from recorder.playback.finding import controller_of


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FindingsQuery(_Model):
    """Which findings."""

    controller: uuid.UUID | None = None
    state: Literal["open", "accepted", "resolved", "gone"] | None = "open"
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class ResolutionBody(_Model):
    """How a finding is settled."""

    controller: uuid.UUID | None = None
    action: Literal["recheck", "repair", "adopt", "accept"] = Field(
        description="recheck: look again. repair: delete what is foreign, or make a rendition again. "
        "adopt: take an intact copy that was put back. accept: known, and stays"
    )


class FindingAnswer(BaseModel):
    """Something that is not in the store as the catalogue says."""

    id: uuid.UUID
    kind: str
    key: str = Field(description="of the object in the store; random")
    recording: uuid.UUID | None
    state: str
    detail: dict[str, Any]
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution: str | None


class FindingList(BaseModel):
    """Findings, the oldest first."""

    items: list[FindingAnswer]


async def list_findings(call: ApiCall) -> FindingList:
    """GET /api/v1/findings."""
    query: FindingsQuery = call.query
    found = await findings.listing(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        state=query.state,
        limit=query.limit,
        request_id=call.request_id,
    )
    return FindingList(items=[_answer(row) for row in found])


async def resolve_finding(call: ApiCall) -> FindingAnswer:
    """POST /api/v1/findings/{id}/resolution."""
    body: ResolutionBody = call.body
    row = await findings.resolve(
        call.services,
        call.principal,
        call.uuid("id"),
        body.action,
        controller_id=controller_of(call.principal, body.controller),
        request_id=call.request_id,
    )
    return _answer(row)


def _answer(row: Finding) -> FindingAnswer:
    return FindingAnswer(
        id=row.id,
        kind=row.kind,
        key=row.key,
        recording=row.recording_id,
        state=row.state,
        detail=row.detail,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        resolved_at=row.resolved_at,
        resolved_by=row.resolved_by,
        resolution=row.resolution,
    )


_TAG: Final = "operations"

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/findings",
        list_findings,
        summary="What is not in the store as the catalogue says",
        tag=_TAG,
        query=FindingsQuery,
        answer=FindingList,
        raises=(Forbidden, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/findings/{id}/resolution",
        resolve_finding,
        summary="Look again at a finding, repair, adopt or accept it",
        tag=_TAG,
        body=ResolutionBody,
        answer=FindingAnswer,
        raises=(NotFound, Forbidden, Conflict, InvalidInput, Unavailable),
    ),
)
