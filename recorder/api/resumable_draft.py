"""Resumable uploads by the IETF draft, over the same uploads as tus; off unless a setting switches it on.

draft-ietf-httpbis-resumable-upload-12 of July 2026, without its interim answers (104), which aiohttp cannot
send. Fields are Structured Fields (RFC 9651); one that cannot be read counts as not there, as in the draft.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from email.message import Message
from typing import Any, Final

from aiohttp import hdrs, web
from multidict import CIMultiDictProxy
from pydantic import BaseModel

from recorder.api.bodies import raw_body, refuse_encoding, sent_at
from recorder.api.framework import ApiCall, Handler, json_response
from recorder.api.ingest import push_answer
from recorder.api.problems import CONTENT_TYPE as PROBLEM
from recorder.catalogue.tables import ResumableUpload, UploadKind, UploadState
from recorder.errors import (
    Busy,
    ChecksumMismatch,
    Conflict,
    Forbidden,
    MalformedInput,
    RecorderError,
    TooLarge,
    UnsupportedMediaType,
)
from recorder.ingest.digests import DigestCheck
from recorder.ingest.request import Outcome
from recorder.ingest.resumable import creating, protocol, receiving, rows
from recorder.ingest.resumable.beginning import begin_upload
from recorder.ingest.resumable.creating import Creation
from recorder.ingest.resumable.protocol import Checksum
from recorder.ingest.resumable.receiving import Body, Progress
from recorder.settings import Settings
from storage.errors import StorageError

CONTENT_TYPE: Final = "application/partial-upload"
TOLD: web.RequestKey[dict[str, str]] = web.RequestKey("resumable_draft", dict)
"""Of a request of the draft: what its answer carries, a refusal too."""
_PROBLEMS: Final = "https://iana.org/assignments/http-problem-types#"
# RFC 9651 section 3.1.2: parameters are allowed on every item, and mean nothing here.
_PARAMETERS: Final = (
    r"(?:; *[a-z*][a-z0-9_.*-]*(?:=(?:\?[01]|-?[0-9]{1,15}(?:\.[0-9]{1,3})?"
    r"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*|\"(?:[ !#-\[\]-~]|\\[\"\\])*\"))?)*"
)
_BOOLEAN: Final = re.compile(r"\?([01])" + _PARAMETERS)
_INTEGER: Final = re.compile(r"(-?[0-9]{1,15})" + _PARAMETERS)
_ALGORITHMS: Final = {"sha-256": "sha256", "sha-512": "sha512"}


def is_meant(call: ApiCall) -> bool:
    """Whether a request is one of the draft. HEAD and DELETE of the draft carry no field of its own."""
    request = call.request
    if not call.services.settings.resumable_draft or "Tus-Resumable" in request.headers:
        return False
    if request.method in ("HEAD", "DELETE"):
        return True
    return "Upload-Complete" in request.headers or request.content_type == CONTENT_TYPE


def offered(settings: Settings) -> dict[str, str]:
    """What OPTIONS says of the draft; nothing where it is not spoken."""
    if not settings.resumable_draft:
        return {}
    return {"Accept-Patch": CONTENT_TYPE, "Upload-Limit": f"max-size={settings.max_upload_bytes}"}


def recording_headers(outcome: Outcome) -> dict[str, str]:
    """What an upload became, as header fields."""
    headers = {"Recording-Id": str(outcome.recording_id), "Recording-State": outcome.state.value}
    return headers if outcome.receipt is None else {**headers, "Upload-Receipt": outcome.receipt}


def boolean(fields: CIMultiDictProxy[str], name: str) -> bool | None:
    """A Boolean item; None when it is not there, or no such item."""
    found = _BOOLEAN.fullmatch(", ".join(fields.getall(name, [])).strip(" "))
    return None if found is None else found.group(1) == "1"


def integer(fields: CIMultiDictProxy[str], name: str) -> int | None:
    """An Integer item that is not negative; None when it is not there, or no such item."""
    found = _INTEGER.fullmatch(", ".join(fields.getall(name, [])).strip(" "))
    return None if found is None or (value := int(found.group(1))) < 0 else value


def _spoken(handler: Handler) -> Handler:
    """Tell of the upload in refusals as well."""

    async def told(call: ApiCall) -> BaseModel | web.StreamResponse:
        call.request[TOLD] = {}
        try:
            return await handler(call)
        except ChecksumMismatch:
            raise MalformedInput("the bytes do not fit Content-Digest; nothing of them was kept") from None
        except Busy:
            raise
        except (RecorderError, StorageError) as error:
            await _tell(call, error)
            raise

    return told


async def _tell(call: ApiCall, error: Exception) -> None:
    source_id = call.principal.source_id
    if source_id is None:
        return
    told = call.request[TOLD]
    with contextlib.suppress(RecorderError):
        if isinstance(error, TooLarge):
            told["Upload-Limit"] = f"max-size={await creating.limit_for(call.services, source_id)}"
        if "id" in call.path:
            row = await rows.find(call.services, source_id, call.uuid("id"))
            if row.state in (UploadState.FINISHING, UploadState.REFUSED, UploadState.DONE):
                told["Upload-Complete"] = "?1"  # what failed is the recording, not its way here


@_spoken
async def create(call: ApiCall) -> web.StreamResponse:
    """Begin an upload with all of its bytes, some, or none."""
    fields = call.request.headers
    complete, size = _complete(fields), _size(call.request)
    length = integer(fields, "Upload-Length")
    if size is not None:
        if length is not None and (size > length or (complete and size != length)):
            return _inconsistent(call)
        length = size if complete else length
    if length == 0 and not (complete and size == 0):
        length = None  # nothing has said yet that it is complete
    values = fields.getall("Repr-Digest", [])
    creation = Creation(
        length=length,
        deferred=length is None,
        metadata=_metadata(call.request),
        concat=None,
        digests=DigestCheck.from_fields([("Repr-Digest", ", ".join(values) if values else None)]),
        sent_at=sent_at(fields),
    )
    body = None if size == 0 else _body(call, 0, size, None, last=complete)
    progress = await begin_upload(call.services, call.principal, creation, body, request_id=call.request_id)
    if complete and progress.outcome is None:
        if progress.row.length not in (None, progress.row.received):
            await _terminate(call, progress.row.id)
            return _inconsistent(call)
        progress = await _close(call, progress.row)
    return await _answer(call, progress, 201, f"{call.request.path}/{progress.row.id}")


@_spoken
async def patch(call: ApiCall) -> web.StreamResponse:
    """Take the next bytes in; what says that it completes the upload makes it a recording."""
    fields = call.request.headers
    if call.request.content_type != CONTENT_TYPE:
        raise UnsupportedMediaType(f"send bytes as {CONTENT_TYPE}")
    complete, size = _complete(fields), _size(call.request)
    offset, length = integer(fields, "Upload-Offset"), integer(fields, "Upload-Length")
    if offset is None:
        raise MalformedInput("Upload-Offset is missing, or is no Structured Field with a number of bytes")
    row = await rows.find(call.services, call.principal.source_id, call.uuid("id"))
    rows.refuse_ended(row, call.services.clock.now())
    if row.kind is not UploadKind.WHOLE:
        raise Forbidden("parts that are put together are for tus alone", reason="tus-upload")
    over = row.state is not UploadState.OPEN
    if over and offset != row.received:
        return _mismatch(call, row, offset)
    if row.state is UploadState.DONE and size == 0:
        return _refusal(call, 400, "completed-upload", "Upload Is Completed", Upload_Complete="?1")
    if offset == row.received and (
        (over and size != 0) or not _fits(row.length, length, offset, size, complete=complete)
    ):
        return _inconsistent(call)
    if complete and size is not None:
        length = offset + size
    try:
        body = _body(call, offset, size, length, last=complete)
        progress = await receiving.patch(
            call.services, row.source_id, row.id, body, request_id=call.request_id
        )
    except Conflict as error:
        if error.kind != "wrong-offset":
            raise
        return _mismatch(call, await rows.find(call.services, row.source_id, row.id), offset)
    if complete and progress.outcome is None:
        if progress.row.length not in (None, progress.row.received):
            return _inconsistent(call)
        progress = await _close(call, progress.row)
    return await _answer(call, progress, 204, call.request.path)


def _fits(known: int | None, said: int | None, offset: int, size: int | None, *, complete: bool) -> bool:
    """Whether every indication of the length is of the same one."""
    end = offset + (size or 0)
    told = (known, said, end if complete and size is not None else None)
    lengths = {value for value in told if value is not None}
    return len(lengths) <= 1 and all(value >= end for value in lengths)


@_spoken
async def head(call: ApiCall) -> web.StreamResponse:
    """Where to go on."""
    progress = await receiving.standing(
        call.services, call.principal.source_id, call.uuid("id"), request_id=call.request_id
    )
    headers = await _headers(call, progress)
    if progress.row.length is not None:
        headers["Upload-Length"] = str(progress.row.length)
    return web.Response(status=204, headers=headers)


@_spoken
async def cancel(call: ApiCall) -> web.StreamResponse:
    """End an upload; what has become a recording stays one."""
    await _terminate(call, call.uuid("id"))
    return web.Response(status=204)


async def _terminate(call: ApiCall, upload_id: uuid.UUID) -> None:
    principal = call.principal
    await receiving.terminate(
        call.services, principal.source_id, upload_id, actor=principal.actor, request_id=call.request_id
    )


async def _close(call: ApiCall, row: ResumableUpload) -> Progress:
    """Complete an upload whose length nobody knew before its last byte."""
    empty = Body(_nothing(), 0, row.received, row.received)
    return await receiving.patch(call.services, row.source_id, row.id, empty, request_id=call.request_id)


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


def _complete(fields: CIMultiDictProxy[str]) -> bool:
    complete = boolean(fields, "Upload-Complete")
    if complete is None:
        raise MalformedInput("Upload-Complete is missing, or is no Structured Field that says ?1 or ?0")
    return complete


def _size(request: web.Request) -> int | None:
    if request.content_length is not None:
        return request.content_length
    return None if request.can_read_body else 0


def _body(call: ApiCall, offset: int, size: int | None, length: int | None, *, last: bool) -> Body:
    fields = call.request.headers
    refuse_encoding(fields)
    values = fields.getall("Content-Digest", [])
    announced = DigestCheck.from_fields([("Content-Digest", ", ".join(values) if values else None)]).announced
    checksum = None
    for _, algorithm, digest in announced:  # several are of the same bytes: the strongest will do
        if checksum is None or len(digest) > len(checksum.digest):
            checksum = Checksum(_ALGORITHMS[algorithm], digest)
    chunks = raw_body(call.request, idle=call.services.settings.upload_idle_seconds)
    # Without a Content-Length only the end of the body tells that it is all: `_close` completes it then.
    return Body(chunks, size, offset, length, checksum, last=last and size is not None)


def _metadata(request: web.Request) -> str | None:
    """``Upload-Metadata`` as tus has it, with name and type from the fields of HTTP where it gives none."""
    said = request.headers.get("Upload-Metadata")
    given = {key for key, _ in protocol.metadata_pairs(said)}
    pairs = [] if said is None or not said.strip() else [said]
    name = _file_name(request.headers.get(hdrs.CONTENT_DISPOSITION, ""))
    if name and not given & {"filename", "name"}:
        pairs.append(f"filename {base64.b64encode(name.encode(errors='replace')).decode()}")
    typed = request.content_type not in ("application/octet-stream", CONTENT_TYPE, protocol.CONTENT_TYPE)
    if typed and not given & {"filetype", "type", "content_type"}:
        pairs.append(f"filetype {base64.b64encode(request.content_type.encode(errors='replace')).decode()}")
    return ",".join(pairs) or None


def _file_name(disposition: str) -> str | None:
    message = Message()
    message[hdrs.CONTENT_DISPOSITION] = disposition.encode(errors="replace").decode()
    return message.get_filename()


async def _headers(call: ApiCall, progress: Progress) -> dict[str, str]:
    row, outcome = progress.row, progress.outcome
    headers = {"Upload-Offset": str(row.received), "Upload-Complete": "?0" if outcome is None else "?1"}
    if outcome is not None:
        return {**headers, **recording_headers(outcome)}
    most = await creating.limit_for(call.services, row.source_id)
    age = max(0, int((row.expires_at - call.services.clock.now()).total_seconds()))
    return {**headers, "Upload-Limit": f"max-size={most}, max-age={age}"}


async def _answer(call: ApiCall, progress: Progress, status: int, location: str) -> web.Response:
    headers = await _headers(call, progress)
    if progress.outcome is not None:
        answer = push_answer(progress.outcome, dry_run=False)
        return json_response(answer, 201, {**headers, "Location": location})
    if status == 201:
        headers["Location"] = location
    return web.Response(status=status, headers=headers)


def _mismatch(call: ApiCall, row: ResumableUpload, offset: int) -> web.Response:
    members = {"expected-offset": row.received, "provided-offset": offset}
    return _refusal(
        call,
        409,
        "mismatching-upload-offset",
        "Mismatching Upload Offset",
        members,
        Upload_Offset=str(row.received),
        Upload_Complete="?0" if row.state is UploadState.OPEN else "?1",
    )


def _inconsistent(call: ApiCall) -> web.Response:
    return _refusal(call, 400, "inconsistent-upload-length", "Inconsistent Upload Length Values")


def _refusal(
    call: ApiCall,
    status: int,
    kind: str,
    title: str,
    members: Mapping[str, Any] | None = None,
    **headers: str,
) -> web.Response:
    body = {"type": _PROBLEMS + kind, "title": title, "status": status, "request_id": call.request_id}
    return web.Response(
        status=status,
        body=json.dumps({**body, **(members or {})}).encode(),
        content_type=PROBLEM,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
