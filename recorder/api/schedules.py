"""Retention schedules: store, simulate, activate; how far the re-evaluation after a change is."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recorder.access.approvals import ApprovalView
from recorder.api.framework import ApiCall, Other, Route, json_response
from recorder.api.pending import ApprovalPending
from recorder.disposition import reevaluation, scheduling
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.playback.finding import controller_of

Document = Annotated[str, Field(min_length=1, max_length=500_000, description="TOML; see docs/retention.md")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ControllerQuery(_Model):
    """Which controller, where the caller has several."""

    controller: uuid.UUID | None = None


class NewSchedule(_Model):
    """A schedule to be stored as the next version."""

    controller: uuid.UUID | None = None
    document: Document


class SimulationBody(_Model):
    """What is simulated: a document, or a stored version."""

    controller: uuid.UUID | None = None
    document: Document | None = None
    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = None

    @model_validator(mode="after")
    def _one(self) -> SimulationBody:
        if (self.document is None) == (self.version is None):
            raise ValueError("give either a document or a version")
        return self


class ActivationBody(_Model):
    """A second person's approval, where one is needed; without it, it is asked for."""

    controller: uuid.UUID | None = None
    approval: uuid.UUID | None = None


class StoredSchedule(BaseModel):
    """A version as it stands."""

    version: int
    state: Literal["stored", "in_force"]
    created_at: datetime
    activated_at: datetime | None


class Counted(BaseModel):
    """A number of recordings, with their audio and bytes."""

    count: int
    seconds: float
    bytes: int


class MovementAnswer(BaseModel):
    """What becomes of the windows of one purpose, by the rule that decides them."""

    purpose: str
    rule: str = Field(description="id of the rule that decides from now on, or that decided; may be empty")
    opened: Counted
    closed: Counted
    longer: Counted
    shorter: Counted


class RecordMovement(BaseModel):
    """How many other records of one kind are due now."""

    record: str
    due_old: int
    due_new: int


class StricterAnswer(BaseModel):
    """A rule, cap, choice or grace by which something may go earlier, now or one day."""

    what: str = Field(description="rule, cap, closes_on or hold_grace")
    purpose: str = Field(description="whose window; may be empty")
    rule: str = Field(description="the rule that nothing replaces, or that closes more; may be empty")


class SimulationAnswer(BaseModel):
    """What a schedule would change if it came into force now."""

    controller: uuid.UUID
    against: int = Field(description="version in force that it was compared with; 0 for none")
    version: int
    document_sha256: str
    digest: str = Field(description="of this report; an approval is bound to it")
    now: datetime
    recordings: Counted
    due_old: dict[str, Counted] = Field(description="due in so many days under the version in force")
    due_new: dict[str, Counted] = Field(description="the same under the simulated one")
    movements: list[MovementAnswer]
    records: list[RecordMovement] = Field(description="the other records: what is due now")
    shortens_records: bool = Field(description="other records would go earlier than by the version in force")
    held: Counted = Field(description="what a legal hold keeps; not counted as due")
    frozen: Counted = Field(description="what a pending request or a restriction keeps; not counted as due")
    stricter: list[StricterAnswer] = Field(
        description="what of the rules cannot be shown to keep as long as before, whatever there is"
    )
    undecided_new: Counted = Field(description="what a person would have to decide")
    shortens: bool
    needs_approval: bool


class ActivationPending(ApprovalPending):
    """An activation that waits for a second person, with what they are asked to approve."""

    simulation: SimulationAnswer


class ReevaluationAnswer(BaseModel):
    """How far stored decisions follow the version in force."""

    version: int
    recordings: int
    outstanding: int = Field(
        description="still decided by an older version; playback and sweep decide afresh"
    )


async def store(call: ApiCall) -> StoredSchedule:
    """POST /api/v1/schedules."""
    body: NewSchedule = call.body
    row = await scheduling.store(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        body.document,
        request_id=call.request_id,
    )
    return _stored(row)


async def simulate(call: ApiCall) -> SimulationAnswer:
    """POST /api/v1/schedules/simulate."""
    body: SimulationBody = call.body
    controller_id = controller_of(call.principal, body.controller)
    if body.document is not None:
        found = await scheduling.simulate_document(
            call.services, call.principal, controller_id, body.document, request_id=call.request_id
        )
    else:
        found = await scheduling.simulate_version(
            call.services, call.principal, controller_id, body.version or 0, request_id=call.request_id
        )
    return SimulationAnswer(**found.to_json())


async def activate(call: ApiCall) -> StoredSchedule | web.Response:
    """POST /api/v1/schedules/{version}/activate."""
    body: ActivationBody = call.body
    text = call.path["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFound("no such schedule version")
    found, simulation = await scheduling.activate(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        int(text),
        approval_id=body.approval,
        request_id=call.request_id,
    )
    if isinstance(found, ApprovalView) and simulation is not None:
        waiting = ActivationPending(
            approval=found.id,
            state=found.state,
            expires_at=found.expires_at,
            simulation=SimulationAnswer(**simulation.to_json()),
        )
        return json_response(waiting, 202)
    return _stored(found)


async def progress(call: ApiCall) -> ReevaluationAnswer:
    """GET /api/v1/reevaluation."""
    found = await reevaluation.read_progress(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        request_id=call.request_id,
    )
    return ReevaluationAnswer(
        version=found.version, recordings=found.recordings, outstanding=found.outstanding
    )


def _stored(row: Any) -> StoredSchedule:
    return StoredSchedule(
        version=row.version,
        state="stored" if row.activated_at is None else "in_force",
        created_at=row.created_at,
        activated_at=row.activated_at,
    )


_TAG: Final = "disposition"

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/v1/schedules",
        store,
        summary="Store the next version of the retention schedule; nothing changes yet",
        tag=_TAG,
        body=NewSchedule,
        answer=StoredSchedule,
        status=201,
        raises=(Forbidden, InvalidInput, Conflict, NotFound),
    ),
    Route(
        "POST",
        "/api/v1/schedules/simulate",
        simulate,
        summary="What a schedule would erase, open and close, over all recordings",
        tag=_TAG,
        body=SimulationBody,
        answer=SimulationAnswer,
        raises=(Forbidden, InvalidInput, NotFound),
    ),
    Route(
        "POST",
        "/api/v1/schedules/{version}/activate",
        activate,
        summary="Put a version in force, with a second person where it shortens anything",
        tag=_TAG,
        body=ActivationBody,
        answer=StoredSchedule,
        other={202: Other("it shortens something: a second person has to approve it", ActivationPending)},
        raises=(Forbidden, InvalidInput, Conflict, NotFound),
    ),
    Route(
        "GET",
        "/api/v1/reevaluation",
        progress,
        summary="How far the re-evaluation after a change of schedule is",
        tag=_TAG,
        query=ControllerQuery,
        answer=ReevaluationAnswer,
        raises=(Forbidden, InvalidInput),
    ),
)
