"""Data subjects' requests: the register, identity, decisions, replies, notices to recipients."""

from __future__ import annotations

import uuid
from datetime import date, datetime, timedelta
from typing import Annotated, Literal

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.api.framework import STREAMING, ApiCall, Route, json_response, no_content
from recorder.catalogue.enums import (
    IdentityMethod,
    IdentityOutcome,
    PackageState,
    RequestChannel,
    RequestStage,
)
from recorder.catalogue.tables import RequestPackage, RightsRequest
from recorder.customers.records import Text
from recorder.errors import Conflict, Erased, InvalidInput, NotFound
from recorder.playback.finding import controller_of
from recorder.rights import consulting, deciding, notices, packages, register, replies, undoing
from recorder.rights.deciding import Decided, Refusal
from recorder.rights.register import NewRequest, RequestView
from recorder.rights.reminders import SOON, urgency
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


def _summary(row: RightsRequest, now: datetime) -> RequestSummary:
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
    )


def _answer(call: ApiCall, view: RequestView) -> RequestAnswer:
    row = view.row
    identity = None
    if row.identity_method is not None and row.identity_outcome is not None and row.identity_at is not None:
        identity = IdentityItem(method=row.identity_method, outcome=row.identity_outcome, at=row.identity_at)
    opened = [notices.opened(call.services, view.subject, notice) for notice in view.notices]
    return RequestAnswer(
        **_summary(row, call.services.clock.now()).model_dump(),
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


async def post_request(call: ApiCall) -> RequestAnswer:
    """Register a request."""
    body: RequestBody = call.body
    new = NewRequest(
        kind=body.type,
        channel=body.channel,
        filed_at=body.filed_at,
        customer_id=body.customer,
        recording_ids=tuple(body.recordings),
        purposes=tuple(body.purposes),
        language=body.language,
        person=body.person.model_dump(exclude_none=True),
    )
    controller_id = controller_of(call.principal, call.query.controller)
    view = await register.file(call.services, call.principal, controller_id, new, request_id=call.request_id)
    return _answer(call, view)


async def get_requests(call: ApiCall) -> RequestsAnswer:
    """List requests, or what is owed soon."""
    query: RequestsQuery = call.query
    now = call.services.clock.now()
    due = {"soon": now + SOON, "overdue": now, None: None}[query.due]
    rows = await register.listing(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        customer_id=query.customer,
        kind=query.kind,
        stage=query.state,
        due_before=due,
        after=_position(query.cursor),
        limit=query.limit + 1,
        request_id=call.request_id,
    )
    page = rows[: query.limit]
    more = len(rows) > query.limit and query.due is None
    return RequestsAnswer(
        items=[_summary(row, now) for row in page],
        next=f"{(page[-1].filed_at - _EPOCH) // timedelta(microseconds=1)}.{page[-1].id}" if more else None,
    )


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _position(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    if cursor is None:
        return None
    at, _, row_id = cursor.partition(".")
    try:
        return _EPOCH + timedelta(microseconds=int(at)), uuid.UUID(row_id)
    except (ValueError, OverflowError):
        raise InvalidInput("cursor is not one of ours; begin again without it") from None


async def get_request(call: ApiCall) -> RequestAnswer:
    """One request."""
    view = await register.get(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return _answer(call, view)


async def post_match(call: ApiCall) -> RequestAnswer:
    """Say whose request it is."""
    body: MatchBody = call.body
    view = await register.match(
        call.services, call.principal, call.uuid("id"), body.customer, request_id=call.request_id
    )
    return _answer(call, view)


async def post_identity(call: ApiCall) -> RequestAnswer:
    """Note the identity check."""
    body: IdentityBody = call.body
    view = await register.note_identity(
        call.services,
        call.principal,
        call.uuid("id"),
        method=body.method,
        outcome=body.outcome,
        request_id=call.request_id,
    )
    return _answer(call, view)


async def post_extension(call: ApiCall) -> RequestAnswer:
    """Take two further months."""
    body: ExtensionBody = call.body
    view = await register.extend(
        call.services, call.principal, call.uuid("id"), reason=body.reason, request_id=call.request_id
    )
    return _answer(call, view)


async def post_decision(call: ApiCall) -> RequestAnswer:
    """Decide."""
    body: DecisionBody = call.body
    decided = Decided(
        stage=RequestStage(body.outcome),
        ground=body.ground,
        refusals=tuple(Refusal(r.recording, r.ground, r.review_on) for r in body.recordings),
        mute_agent=body.mute_agent,
        restriction=body.restriction,
    )
    view = await deciding.decide(
        call.services, call.principal, call.uuid("id"), decided, request_id=call.request_id
    )
    return _answer(call, view)


async def post_undo(call: ApiCall) -> RequestAnswer:
    """Take a request off its customer."""
    body: UndoBody = call.body
    view = await undoing.undo(
        call.services,
        call.principal,
        call.uuid("id"),
        reason=body.reason,
        customer_id=body.customer,
        request_id=call.request_id,
    )
    return _answer(call, view)


async def post_acknowledgement(call: ApiCall) -> web.StreamResponse:
    """Note that a recipient confirmed."""
    number = call.path["number"]
    if not number.isascii() or not number.isdigit() or len(number) > 6:
        raise NotFound("there is no such notice")
    await notices.acknowledge(
        call.services, call.principal, call.uuid("id"), int(number), request_id=call.request_id
    )
    return no_content()


async def post_export(call: ApiCall) -> web.StreamResponse:
    """Have copies made."""
    package = await packages.order(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return json_response(_package(package), 202)


async def get_export(call: ApiCall) -> web.StreamResponse:
    """The copies, or how far they are."""
    query: ExportQuery = call.query
    package = await packages.status(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    if query.status:
        return json_response(_package(package))
    if package.state in {PackageState.QUEUED, PackageState.BUILDING}:
        return json_response(_package(package), 202, {"Retry-After": "5"})
    found = await packages.open_download(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    # The first segment is verified before anything is promised; a later failure breaks the connection.
    async with call.services.vault.read(found.obj) as pieces:
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/zip",
                "Content-Disposition": f'attachment; filename="{found.file_name}"',
                "Cache-Control": "private, no-store",
            }
        )
        response.content_length = found.obj.size
        call.request[STREAMING] = True
        await response.prepare(call.request)
        async for piece in pieces:
            await response.write(piece)
    await response.write_eof()
    return response


def _package(package: RequestPackage) -> PackageAnswer:
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


async def get_consultations(call: ApiCall) -> ConsultationsAnswer:
    """When and what for a customer's recordings were used, as the person may know it."""
    found = await consulting.of_customer(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        call.uuid("id"),
        request_id=call.request_id,
    )
    return ConsultationsAnswer(
        items=[ConsultationItem.model_validate(use, from_attributes=True) for use in found]
    )


async def get_reply(call: ApiCall) -> web.StreamResponse:
    """The letter."""
    query: ReplyQuery = call.query
    view = await register.get(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    letter = replies.compose(view, call.services.clock.now(), query.language)
    html = query.format == "html"
    return web.Response(
        text=letter.html() if html else letter.text(),
        content_type="text/html" if html else "text/plain",
        charset="utf-8",
        headers={"Cache-Control": "no-store", "Content-Language": letter.language},
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/customers/{id}/consultations",
        get_consultations,
        "When and what for a customer's recordings were used; no staff",
        "requests",
        query=ControllerQuery,
        answer=ConsultationsAnswer,
        raises=(NotFound,),
    ),
    Route(
        "GET",
        "/api/v1/requests",
        get_requests,
        "List data subjects' requests, or those whose answer is owed soon",
        "requests",
        query=RequestsQuery,
        answer=RequestsAnswer,
    ),
    Route(
        "POST",
        "/api/v1/requests",
        post_request,
        "Register a request; its clock runs from receipt",
        "requests",
        query=ControllerQuery,
        body=RequestBody,
        answer=RequestAnswer,
        status=201,
        raises=(NotFound,),
    ),
    Route(
        "GET",
        "/api/v1/requests/{id}",
        get_request,
        "A request, its decision and its notices",
        "requests",
        answer=RequestAnswer,
        raises=(NotFound,),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/customer",
        post_match,
        "Say whose request it is",
        "requests",
        body=MatchBody,
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/identity",
        post_identity,
        "Note how the identity was checked and with what result",
        "requests",
        body=IdentityBody,
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/extension",
        post_extension,
        "Take two further months, within the first",
        "requests",
        body=ExtensionBody,
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/decision",
        post_decision,
        "Grant, refuse, or grant but for named recordings",
        "requests",
        body=DecisionBody,
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/undo",
        post_undo,
        "Take a request off its customer; what it restricted is free again",
        "requests",
        body=UndoBody,
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/notices/{number}/acknowledgement",
        post_acknowledgement,
        "Note that a recipient confirmed having been told",
        "requests",
        status=204,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/requests/{id}/export",
        post_export,
        "Have the copies of a granted access or portability request made",
        "requests",
        answer=PackageAnswer,
        status=202,
        raises=(NotFound, Conflict),
    ),
    Route(
        "GET",
        "/api/v1/requests/{id}/export",
        get_export,
        "The copies as a ZIP file, or how far they are",
        "requests",
        query=ExportQuery,
        answer=PackageAnswer,
        raw=True,
        answer_types=("application/zip",),
        other={202: "They are being made"},
        raises=(NotFound, Conflict, Erased),
    ),
    Route(
        "GET",
        "/api/v1/requests/{id}/reply",
        get_reply,
        "The letter that fits where the request stands",
        "requests",
        query=ReplyQuery,
        raw=True,
        answer_types=("text/plain", "text/html"),
        raises=(NotFound,),
    ),
)
