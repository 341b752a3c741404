"""What the register of requests takes and answers over HTTP."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall
from recorder.catalogue.enums import (
    IdentityMethod,
    IdentityOutcome,
    PackageState,
    RequestChannel,
    RequestStage,
)
from recorder.catalogue.tables import RequestPackage, RightsRequest
from recorder.customers.records import Text
from recorder.rights import notices
from recorder.rights.register import RequestView
from recorder.rights.reminders import urgency
from retention.model import Purpose, RequestKind
from retention.rights import RefusalGround

Language = Literal["fi", "sv", "en"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ControllerQuery(_Strict):
    """Which controller is meant, where the caller has several."""

    controller: uuid.UUID | None = None


class RequestsQuery(ControllerQuery):
    """What to list."""

    customer: uuid.UUID | None = None
    kind: RequestKind | None = None
    state: RequestStage | None = None
    due: Literal["soon", "overdue"] | None = Field(
        None, description="only those whose answer is owed within a week, or late; soonest first, one page"
    )
    cursor: str | None = Field(None, max_length=80)
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class PersonBody(_Strict):
    """Who asks, in their own words; sealed."""

    name: Annotated[Text, Field(max_length=200)] | None = None
    contact: Annotated[Text, Field(max_length=500)] | None = None
    message: Annotated[Text, Field(max_length=8000)] | None = None


class RequestBody(_Strict):
    """A request as it came in."""

    type: RequestKind
    channel: RequestChannel
    filed_at: AwareDatetime | None = Field(None, description="receipt, which starts the clock; default now")
    customer: uuid.UUID | None = Field(None, description="left out, it is matched later")
    recordings: Annotated[list[uuid.UUID], Field(max_length=1000)] = Field(
        default=[], description="only these; empty means everything of the person"
    )
    purposes: Annotated[list[Purpose], Field(max_length=5)] = []
    language: Language = "en"
    person: PersonBody = PersonBody()


class MatchBody(_Strict):
    """Whose request it is."""

    customer: uuid.UUID


class IdentityBody(_Strict):
    """How the identity was checked, and with what result; never what was shown or said."""

    method: IdentityMethod
    outcome: IdentityOutcome


class ExtensionBody(_Strict):
    """Why two further months are needed (GDPR art. 12(3)); the notice goes out now."""

    reason: Literal["complexity", "number_of_requests"]


class RefusalBody(_Strict):
    """A recording that is left as it is, and why."""

    recording: uuid.UUID
    ground: RefusalGround
    review_on: AwareDatetime | None = None


class DecisionBody(_Strict):
    """The decision."""

    outcome: Literal["granted", "refused", "no_data"]
    ground: RefusalGround | None = Field(None, description="of a refusal as a whole")
    recordings: Annotated[list[RefusalBody], Field(max_length=1000)] = Field(
        default=[], description="what is left out of a grant, with grounds"
    )
    mute_agent: bool = Field(False, description="hand out copies with the agent's channel silent")
    restriction: str = Field("accuracy", max_length=60, description="ground of a restriction")


class UndoBody(_Strict):
    """Why the request is taken off its customer."""

    reason: Literal["wrong_person", "filed_in_error", "withdrawn_by_person"]
    customer: uuid.UUID | None = Field(None, description="whose it is instead")


class ReplyQuery(_Strict):
    """The letter's language and form."""

    language: Language | None = None
    format: Literal["text", "html"] = "text"


class IdentityItem(BaseModel):
    """The identity check."""

    method: IdentityMethod
    outcome: IdentityOutcome
    at: datetime


class DecisionItem(BaseModel):
    """What became of one recording."""

    recording: uuid.UUID
    outcome: str
    ground: str | None
    review_on: datetime | None


class NoticeItem(BaseModel):
    """A recipient who has to be told."""

    number: int
    recipient_id: uuid.UUID
    recipient: str
    created_at: datetime
    acknowledged_at: datetime | None


class RequestSummary(BaseModel):
    """A request without anything personal."""

    id: uuid.UUID
    type: RequestKind
    channel: RequestChannel
    state: RequestStage
    customer: uuid.UUID | None
    filed_at: datetime
    last_day: date = Field(description="last day for the answer, on the controller's calendar")
    deadline_at: datetime = Field(description="the first instant after it")
    extended: bool
    urgency: str | None = Field(description="soon, urgent or overdue, while an answer is owed")
    decided_at: datetime | None
    completed_at: datetime | None
    replied_at: datetime | None = Field(description="when the letter with the decision was sent")


class RequestAnswer(RequestSummary):
    """A request with everything that hangs on it."""

    registered_at: datetime
    language: str
    purposes: list[Purpose]
    person: PersonBody
    identity: IdentityItem | None
    extension_reason: str | None
    ground: str | None
    mute_agent: bool
    undone_at: datetime | None
    undone_reason: str | None
    recordings: list[DecisionItem]
    notices: list[NoticeItem]
    candidates: list[uuid.UUID] = Field(
        description="calls that may be the customer's and wait for a person's word; not part of the request"
    )


class ExportQuery(_Strict):
    """The copies themselves, or only how far they are."""

    status: bool = Field(False, description="only say how far they are, also when they are finished")


class PackageAnswer(BaseModel):
    """A package of copies."""

    id: uuid.UUID
    state: PackageState
    done: int = Field(description="recordings copied so far")
    total: int
    size: int | None
    error: str | None
    created_at: datetime
    built_at: datetime | None
    expires_at: datetime | None


class ConsultationItem(BaseModel):
    """One time that a recording was used; never by whom."""

    recording: uuid.UUID
    at: datetime
    purpose: Purpose | None
    what: str


class ConsultationsAnswer(BaseModel):
    """Every use of a customer's recordings, the oldest first."""

    items: list[ConsultationItem]


class RequestsAnswer(BaseModel):
    """Requests, page by page."""

    items: list[RequestSummary]
    next: str | None


def _urgency(row: RightsRequest, now: datetime) -> str | None:
    owed = row.completed_at is None and row.stage is not RequestStage.UNDONE
    return urgency(row.deadline_at, now) if owed else None


def summary(row: RightsRequest, now: datetime) -> RequestSummary:
    """A request for a list."""
    return RequestSummary(
        id=row.id,
        type=row.kind,
        channel=row.channel,
        state=row.stage,
        customer=row.customer_id,
        filed_at=row.filed_at,
        last_day=row.last_day,
        deadline_at=row.deadline_at,
        extended=row.extended_at is not None,
        urgency=_urgency(row, now),
        decided_at=row.decided_at,
        completed_at=row.completed_at,
        replied_at=row.replied_at,
    )


def answer(call: ApiCall, view: RequestView) -> RequestAnswer:
    """A request in full, opened."""
    row = view.row
    identity = None
    if row.identity_method is not None and row.identity_outcome is not None and row.identity_at is not None:
        identity = IdentityItem(method=row.identity_method, outcome=row.identity_outcome, at=row.identity_at)
    opened = [notices.opened(call.services, view.subject, notice) for notice in view.notices]
    return RequestAnswer(
        **summary(row, call.services.clock.now()).model_dump(),
        registered_at=row.registered_at,
        language=row.language,
        purposes=[Purpose(p) for p in row.purposes],
        person=PersonBody(**view.person),
        identity=identity,
        extension_reason=row.extension_reason,
        ground=row.ground,
        mute_agent=row.mute_agent,
        undone_at=row.undone_at,
        undone_reason=row.undone_reason,
        recordings=[
            DecisionItem(
                recording=item.recording_id,
                outcome=item.outcome,
                ground=item.ground,
                review_on=item.review_on,
            )
            for item in view.items
        ],
        notices=[NoticeItem.model_validate(notice, from_attributes=True) for notice in opened],
        candidates=list(view.candidates),
    )


def package_answer(package: RequestPackage) -> PackageAnswer:
    """A package of copies and how far it is."""
    return PackageAnswer(
        id=package.id,
        state=package.state,
        done=package.done,
        total=package.total,
        size=package.size,
        error=package.error,
        created_at=package.created_at,
        built_at=package.built_at,
        expires_at=package.expires_at,
    )
