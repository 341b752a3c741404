"""Data subjects' requests: the register, identity, decisions, replies, notices to recipients."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from aiohttp import web

from recorder.api.framework import STREAMING, ApiCall, Route, json_response, no_content
from recorder.api.request_models import (
    ConsultationItem,
    ConsultationsAnswer,
    ControllerQuery,
    DecisionBody,
    ExportQuery,
    ExtensionBody,
    IdentityBody,
    MatchBody,
    PackageAnswer,
    ReplyQuery,
    RequestAnswer,
    RequestBody,
    RequestsAnswer,
    RequestsQuery,
    UndoBody,
    answer,
    package_answer,
    summary,
)
from recorder.catalogue.enums import (
    PackageState,
    RequestStage,
)
from recorder.errors import Conflict, Erased, InvalidInput, NotFound
from recorder.playback.finding import controller_of
from recorder.rights import consulting, deciding, notices, packages, register, replies, sending, undoing
from recorder.rights.deciding import Decided, Refusal
from recorder.rights.register import NewRequest
from recorder.rights.reminders import SOON


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
    return answer(call, view)


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
        items=[summary(row, now) for row in page],
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
    return answer(call, view)


async def post_match(call: ApiCall) -> RequestAnswer:
    """Say whose request it is."""
    body: MatchBody = call.body
    view = await register.match(
        call.services, call.principal, call.uuid("id"), body.customer, request_id=call.request_id
    )
    return answer(call, view)


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
    return answer(call, view)


async def post_extension(call: ApiCall) -> RequestAnswer:
    """Take two further months."""
    body: ExtensionBody = call.body
    view = await register.extend(
        call.services, call.principal, call.uuid("id"), reason=body.reason, request_id=call.request_id
    )
    return answer(call, view)


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
    return answer(call, view)


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
    return answer(call, view)


async def post_reply(call: ApiCall) -> RequestAnswer:
    """Note that the letter with the decision was sent."""
    view = await sending.note_sent(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return answer(call, view)


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
    return json_response(package_answer(package), 202)


async def get_export(call: ApiCall) -> web.StreamResponse:
    """The copies, or how far they are."""
    query: ExportQuery = call.query
    package = await packages.status(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    if query.status:
        return json_response(package_answer(package))
    if package.state in {PackageState.QUEUED, PackageState.BUILDING}:
        return json_response(package_answer(package), 202, {"Retry-After": "5"})
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
        "POST",
        "/api/v1/requests/{id}/reply",
        post_reply,
        "Note that the letter with the decision was sent",
        "requests",
        answer=RequestAnswer,
        raises=(NotFound, Conflict),
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
