"""Resumable uploads over HTTP: tus 1.0.0 and its extensions.

https://tus.io/protocols/resumable-upload, version 1.0.0 of 2016-03-25. Requests of the IETF draft go to
`recorder.api.resumable_draft` where that is switched on.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Final

from aiohttp import hdrs, web
from pydantic import BaseModel, Field

from recorder.api import resumable_draft
from recorder.api.bodies import raw_body, refuse_encoding, sent_at
from recorder.api.framework import REQUEST_ID, ApiCall, Handler, Other, Route
from recorder.api.ingest import PushAnswer, push_answer
from recorder.api.problems import kind_of, problem_body
from recorder.catalogue.tables import UploadKind, UploadState
from recorder.errors import (
    Busy,
    ChecksumMismatch,
    Conflict,
    Erased,
    Forbidden,
    Gone,
    InvalidInput,
    MalformedInput,
    NotFound,
    RecorderError,
    TooLarge,
    TooMany,
    UnsupportedMediaType,
    UnsupportedVersion,
)
from recorder.ingest.digests import DigestCheck
from recorder.ingest.resumable import finishing, protocol, receiving, rows
from recorder.ingest.resumable.beginning import begin_upload
from recorder.ingest.resumable.creating import Creation
from recorder.ingest.resumable.receiving import Body, Progress

PATH: Final = "/uploads"
_ONE: Final = "/uploads/{id}"
_OVERRIDE: Final = "X-HTTP-Method-Override"


class UploadProblem(BaseModel):
    """Why an upload became no recording."""

    status: int
    type: str
    detail: str
    recording_id: str | None = None
    certificate_id: str | None = None


class UploadAnswer(BaseModel):
    """Where an upload stands, and what it became."""

    id: uuid.UUID
    state: UploadState
    kind: UploadKind
    length: int | None = Field(description="bytes; null while deferred")
    received: int = Field(description="bytes that are durable")
    expires_at: datetime | None
    recording: PushAnswer | None = Field(None, description="as the answer to a push, with the receipt")
    problem: UploadProblem | None = None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: what every answer below ``/uploads`` carries, refusals included."""
    if request.path == PATH or request.path.startswith(PATH + "/"):
        told = request.get(resumable_draft.TOLD)
        response.headers.update({"Tus-Resumable": protocol.VERSION} if told is None else told)
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        if response.status == 412:
            response.headers["Tus-Version"] = protocol.VERSION


def _versioned(handler: Handler) -> Handler:
    """Refuse another version of the protocol, before anything else."""

    async def checked(call: ApiCall) -> BaseModel | web.StreamResponse:
        if call.request.headers.get("Tus-Resumable", "").strip() != protocol.VERSION:
            raise UnsupportedVersion(f"send Tus-Resumable: {protocol.VERSION}")
        return await handler(call)

    return checked


def _either(handler: Handler, draft: Handler) -> Handler:
    """Hand a request of the IETF draft to its own handler."""

    async def chosen(call: ApiCall) -> BaseModel | web.StreamResponse:
        return await (draft if resumable_draft.is_meant(call) else handler)(call)

    return chosen


async def options(call: ApiCall) -> web.Response:
    """What is spoken here."""
    headers = {
        "Tus-Version": protocol.VERSION,
        "Tus-Extension": ",".join(protocol.EXTENSIONS),
        "Tus-Checksum-Algorithm": ",".join(protocol.ALGORITHMS),
        "Tus-Max-Size": str(call.services.settings.max_upload_bytes),
    }
    return web.Response(status=204, headers={**headers, **resumable_draft.offered(call.services.settings)})


@_versioned
async def create(call: ApiCall) -> web.Response:
    """Begin an upload; take its first bytes, or all of them, where the request brings any."""
    request, fields = call.request, call.request.headers
    with_body = _brings_bytes(request)
    body = _body(call, offset=0, length=None) if with_body else None
    deferred = fields.get("Upload-Defer-Length")
    if deferred is not None and deferred.strip() != "1":
        raise MalformedInput("Upload-Defer-Length is 1, or left out")
    values = fields.getall("Repr-Digest", [])
    creation = Creation(
        length=protocol.number("Upload-Length", fields.get("Upload-Length")),
        deferred=deferred is not None,
        metadata=fields.get("Upload-Metadata"),
        concat=protocol.concat(fields.get("Upload-Concat"), below=PATH + "/"),
        digests=DigestCheck.from_fields([("Repr-Digest", ", ".join(values) if values else None)]),
        sent_at=sent_at(fields),
    )
    if with_body and creation.concat is not None and creation.concat.final:
        raise MalformedInput("a final upload takes no bytes of its own")
    progress = await begin_upload(call.services, call.principal, creation, body, request_id=call.request_id)
    return _created(progress)


def _created(progress: Progress) -> web.Response:
    headers = _headers(progress)
    headers["Location"] = f"{PATH}/{progress.row.id}"
    return web.Response(status=201, headers=headers)


def _brings_bytes(request: web.Request) -> bool:
    if not request.can_read_body or request.content_length == 0:
        return False
    if request.content_type != protocol.CONTENT_TYPE:
        raise UnsupportedMediaType(f"send bytes as {protocol.CONTENT_TYPE}")
    return True


def _body(call: ApiCall, *, offset: int, length: int | None) -> Body:
    request = call.request
    refuse_encoding(request.headers)
    chunks: AsyncIterator[bytes] = raw_body(request, idle=call.services.settings.upload_idle_seconds)
    checksum = protocol.checksum(request.headers.get("Upload-Checksum"))
    return Body(chunks, request.content_length, offset, length, checksum)


@_versioned
async def patch(call: ApiCall) -> web.Response:
    """Take the next bytes in; the last ones make it a recording."""
    headers = call.request.headers
    if call.request.content_type != protocol.CONTENT_TYPE:
        raise UnsupportedMediaType(f"send bytes as {protocol.CONTENT_TYPE}")
    offset = protocol.number("Upload-Offset", headers.get("Upload-Offset"))
    if offset is None:
        raise MalformedInput("Upload-Offset is missing")
    length = protocol.number("Upload-Length", headers.get("Upload-Length"))
    progress = await receiving.patch(
        call.services,
        call.principal.source_id,
        call.uuid("id"),
        _body(call, offset=offset, length=length),
        request_id=call.request_id,
    )
    return web.Response(status=204, headers=_headers(progress))


@_versioned
async def head(call: ApiCall) -> web.Response:
    """Where to go on."""
    progress = await receiving.standing(
        call.services, call.principal.source_id, call.uuid("id"), request_id=call.request_id
    )
    row = progress.row
    headers = _headers(progress)
    if row.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(row.length)
    if row.kind is UploadKind.PARTIAL:
        headers["Upload-Concat"] = "partial"
    elif row.parts is not None:
        headers["Upload-Concat"] = "final;" + " ".join(f"{PATH}/{part}" for part in row.parts)
    if row.state is UploadState.OPEN:
        said = (await rows.opened(call.services, row)).header
        if said is not None:
            headers["Upload-Metadata"] = said
    return web.Response(status=200, headers=headers)


async def show(call: ApiCall) -> BaseModel | web.StreamResponse:
    """Where an upload stands, and what it became; for HEAD as the protocol has it."""
    if call.request.method == "HEAD":
        return await _either(head, resumable_draft.head)(call)
    row = await rows.find(call.services, call.principal.source_id, call.uuid("id"))
    answer = UploadAnswer(
        id=row.id,
        state=row.state,
        kind=row.kind,
        length=row.length,
        received=row.received,
        expires_at=row.expires_at if row.state is UploadState.OPEN else None,
    )
    try:
        rows.refuse_ended(row, call.services.clock.now())
        if row.state is UploadState.DONE:
            answer.recording = push_answer(await finishing.outcome(call.services, row), dry_run=False)
    except (Gone, Conflict, Erased, InvalidInput, MalformedInput, TooLarge, UnsupportedMediaType) as error:
        answer.problem = _problem(error, call.request[REQUEST_ID])
    return answer


def _problem(error: RecorderError, request_id: str) -> UploadProblem | None:
    kind = kind_of(type(error))
    if kind is None:
        return None
    body: dict[str, Any] = problem_body(error, kind, request_id)
    return UploadProblem.model_validate({k: v for k, v in body.items() if k in UploadProblem.model_fields})


@_versioned
async def terminate(call: ApiCall) -> web.Response:
    """End an upload; what has become a recording stays one."""
    await receiving.terminate(
        call.services,
        call.principal.source_id,
        call.uuid("id"),
        actor=call.principal.actor,
        request_id=call.request_id,
    )
    return web.Response(status=204)


@_versioned
async def overridden(call: ApiCall) -> BaseModel | web.StreamResponse:
    """A request for clients that can send nothing but POST."""
    meant = {"PATCH": patch, "HEAD": head, "DELETE": terminate}
    handler = meant.get(call.request.headers.get(_OVERRIDE, "").strip().upper())
    if handler is None:
        raise MalformedInput(f"send {_OVERRIDE}: PATCH, HEAD or DELETE")
    return await handler(call)


def _headers(progress: Progress) -> dict[str, str]:
    row, outcome = progress.row, progress.outcome
    headers = {"Upload-Offset": str(row.received)}
    if row.state is UploadState.OPEN:
        headers["Upload-Expires"] = format_datetime(row.expires_at, usegmt=True)
    return headers if outcome is None else {**headers, **resumable_draft.recording_headers(outcome)}


_ALL: Final = (MalformedInput, UnsupportedVersion, Gone, Conflict, Busy, TooMany)
_BYTES: Final = (*_ALL, Forbidden, InvalidInput, TooLarge, UnsupportedMediaType, ChecksumMismatch)
_SECURITY: Final = ("bearer", "basic")
_TYPES: Final = (protocol.CONTENT_TYPE,)
_DRAFT: Final = Other("By the IETF draft: the last bytes came, and it is a recording", PushAnswer)

ROUTES: tuple[Route, ...] = (
    Route(
        "OPTIONS", PATH, options, "What of tus is spoken here", "uploads", status=204, auth="public", raw=True
    ),
    Route(
        "POST",
        PATH,
        _either(create, resumable_draft.create),
        "Begin a resumable upload (tus 1.0.0)",
        "uploads",
        status=201,
        raises=(*_BYTES, NotFound, Erased),
        raw=True,
        request_types=(*_TYPES, "*/*"),
        security=_SECURITY,
    ),
    Route(
        "OPTIONS", _ONE, options, "What of tus is spoken here", "uploads", status=204, auth="public", raw=True
    ),
    Route(
        "GET",
        _ONE,
        show,
        "Where an upload stands, and what it became",
        "uploads",
        answer=UploadAnswer,
        other={204: "The answer to HEAD by the IETF draft"},
        raises=(NotFound, *_ALL),
        head=True,
        security=_SECURITY,
    ),
    Route(
        "PATCH",
        _ONE,
        _either(patch, resumable_draft.patch),
        "Send the next bytes of an upload",
        "uploads",
        status=204,
        other={201: _DRAFT},
        raises=(*_BYTES, NotFound, Erased),
        raw=True,
        request_types=(*_TYPES, resumable_draft.CONTENT_TYPE),
        security=_SECURITY,
    ),
    Route(
        "POST",
        _ONE,
        overridden,
        "PATCH, HEAD or DELETE for clients that can only POST",
        "uploads",
        status=204,
        other={200: "The answer to HEAD"},
        raises=(*_BYTES, NotFound, Erased),
        raw=True,
        request_types=_TYPES,
        security=_SECURITY,
    ),
    Route(
        "DELETE",
        _ONE,
        _either(terminate, resumable_draft.cancel),
        "End an upload",
        "uploads",
        status=204,
        raises=(NotFound, *_ALL),
        raw=True,
        security=_SECURITY,
    ),
)
