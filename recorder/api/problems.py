"""Problem details (RFC 9457): the one place where errors become HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from recorder import errors
from storage import errors as storage_errors

PROBLEM_BASE = "urn:tallenne:problem:"
CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """Status and stable type of one kind of error."""

    status: int
    type: str
    title: str


KINDS: dict[type[Exception], ProblemKind] = {
    errors.MalformedInput: ProblemKind(400, "malformed-input", "The request cannot be read"),
    errors.Unauthenticated: ProblemKind(401, "unauthenticated", "Sign in, or send a valid token"),
    errors.Forbidden: ProblemKind(403, "forbidden", "You may not do this"),
    errors.NotFound: ProblemKind(404, "not-found", "There is no such thing here"),
    errors.Conflict: ProblemKind(409, "conflict", "It contradicts what is stored"),
    errors.Erased: ProblemKind(410, "erased", "This was erased"),
    errors.Gone: ProblemKind(410, "gone", "This has ended"),
    errors.UnsupportedVersion: ProblemKind(412, "unsupported-version", "Another version is spoken here"),
    errors.TooLarge: ProblemKind(413, "too-large", "The body is too large"),
    errors.UnsupportedMediaType: ProblemKind(415, "unsupported-media-type", "This kind of body is not taken"),
    errors.RangeNotSatisfiable: ProblemKind(
        416, "range-not-satisfiable", "That range is not in the recording"
    ),
    errors.InvalidInput: ProblemKind(422, "invalid-input", "Some of the input is not acceptable"),
    errors.Busy: ProblemKind(423, "busy", "Another request is at work on this"),
    errors.Locked: ProblemKind(429, "locked", "Too many failed sign-ins"),
    errors.TooMany: ProblemKind(429, "too-many", "Too much at once"),
    errors.ChecksumMismatch: ProblemKind(460, "checksum-mismatch", "The bytes are not the announced ones"),
    errors.Corrupt: ProblemKind(502, "corrupt-object", "The stored bytes are not what was written"),
    errors.Unavailable: ProblemKind(503, "unavailable", "A part of the service is away"),
}


def translate(error: Exception) -> errors.RecorderError | None:
    """The service's own error for what ``storage`` raises; None for what nobody expected."""
    if isinstance(error, errors.RecorderError):
        # Without a status (a setting that cannot work) its text is the operator's, not the caller's.
        return error if kind_of(type(error)) is not None else None
    if isinstance(error, storage_errors.StoreUnavailable):
        return errors.Unavailable("the object store is away; try again", dependency="store")
    if isinstance(error, storage_errors.KeyDestroyed):
        return errors.Erased("the key of this recording has been destroyed")
    if isinstance(error, storage_errors.TamperedObject | storage_errors.ObjectMissing):
        return errors.Corrupt("the stored object is not what was written; nothing of it was released")
    if isinstance(error, storage_errors.StorageError):
        return errors.Unavailable("storage cannot answer", dependency="store")
    return None


def kind_of(error: type[Exception]) -> ProblemKind | None:
    """Status and type of an error class, by its nearest mapped ancestor."""
    return next((KINDS[c] for c in error.__mro__ if c in KINDS), None)


def problem_body(error: errors.RecorderError, kind: ProblemKind, request_id: str) -> dict[str, Any]:
    """The members of the problem document."""
    body: dict[str, Any] = {
        "type": PROBLEM_BASE + kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": error.message,
        "request_id": request_id,
    }
    if error.fields:
        body["errors"] = [{"pointer": f.path, "detail": f.message} for f in error.fields]
    match error:
        case errors.Conflict():
            body["type"] = PROBLEM_BASE + error.kind
            if error.recording_id is not None:
                body["recording_id"] = error.recording_id
        case errors.Forbidden():
            body["reason"] = error.reason
        case errors.Erased() if error.certificate_id is not None:
            body["certificate_id"] = error.certificate_id
            body["certificate"] = f"/api/v1/certificates/{error.certificate_id}"
        case errors.Unavailable():
            body["dependency"] = error.dependency
        case _:
            pass
    return body


def problem_response(error: errors.RecorderError, request_id: str) -> web.Response:
    """The HTTP answer to an error of ours."""
    kind = kind_of(type(error))
    if kind is None:
        return internal_problem(request_id)  # its text is the operator's, not the caller's
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable | errors.Locked | errors.TooMany | errors.Busy):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="recorder"'
    if isinstance(error, errors.RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    return _response(kind.status, problem_body(error, kind, request_id), headers)


def http_problem(error: web.HTTPException, request_id: str) -> web.Response:
    """The same form for what aiohttp itself refuses (no route, wrong method, bad framing)."""
    title = HTTPStatus(error.status).phrase
    body = {
        "type": PROBLEM_BASE + title.lower().replace(" ", "-"),
        "title": title,
        "status": error.status,
        "request_id": request_id,
    }
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return _response(error.status, body, headers)


def internal_problem(request_id: str) -> web.Response:
    """What a caller learns of a failure nobody expected: that it happened, and its request id."""
    body = {
        "type": PROBLEM_BASE + "internal",
        "title": "Something failed inside the service",
        "status": 500,
        "detail": "It is logged under this request id; nothing was accepted.",
        "request_id": request_id,
    }
    return _response(500, body, {})


def _response(status: int, body: dict[str, Any], headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(body, ensure_ascii=False).encode(),
        content_type=CONTENT_TYPE,
        headers=headers,
    )
