"""Around every request: id, authentication, CSRF, errors to problems, headers, log line, metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from aiohttp import hdrs, web

from recorder.access import sessions, tokens
from recorder.access.principals import Principal
from recorder.api.addresses import peer_address, sender_token
from recorder.api.framework import CSRF, PRINCIPAL, REQUEST_ID, SERVICES, STREAMING
from recorder.api.playback import AUDIO_PATH, continued
from recorder.api.problems import http_problem, internal_problem, problem_response, translate
from recorder.api.system import DRAINING, HEALTH
from recorder.errors import Forbidden, NotFound, RecorderError, Unavailable
from recorder.ingest.senders import allowed
from recorder.ingest.spooling import whereabouts

SESSION_COOKIE: Final = sessions.COOKIE
SENDERS: Final = ("/ingest/", "/uploads")
"""Where telephony systems push; their credentials come in more ways than one."""
CSRF_HEADER: Final = "X-CSRF-Token"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READING: Final = frozenset({"GET", "HEAD"})
_RECORDING: Final = "/api/v1/recordings/{id}"
# Only what looks random is taken over into logs: sixteen digits could be a card's, dashes make a telephone's.
_REQUEST_ID: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger("recorder.http")

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: request id, one log line, metrics, security headers.

    The line names the route's pattern, never the path: a sender's path may carry a number or a token.
    """
    offered = request.headers.get("X-Request-Id", "")
    request_id = offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
    request[REQUEST_ID] = request_id
    metrics = request.app[SERVICES].metrics
    started = time.perf_counter()
    status = 500
    with metrics.in_flight.track_inprogress(), _counted(request):
        try:
            response = await handler(request)
            status = response.status
        except asyncio.CancelledError:
            status = 499
            raise
        finally:
            route = route_name(request)
            seconds = time.perf_counter() - started
            metrics.observe_request(request.method, route, status, seconds)
            principal = request.get(PRINCIPAL)
            log.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": request.method,
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "actor": None if principal is None else principal.actor,
                },
            )
    return response


def _counted(request: web.Request) -> AbstractContextManager[None]:
    """Count a request as running work, which a stopping service waits for."""
    draining = request.app.get(DRAINING)
    if draining is None or route_name(request) in HEALTH:
        return nullcontext()
    return draining.counted()


def _refuse_when_stopping(request: web.Request) -> None:
    draining = request.app.get(DRAINING)
    if draining is not None and draining.on and route_name(request) not in HEALTH:
        raise Unavailable("the service is stopping; another one will answer", dependency="service")
    if request.app[SERVICES].uploads.unproven:
        name = route_name(request)
        pushes = name.startswith(SENDERS) or (request.method, name) == ("POST", "/api/v1/recordings")
        if not pushes and name not in HEALTH:
            raise Unavailable("the service waits for its object store", dependency="store")


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: security headers and the request id on every answer, streams included."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    request_id = request.get(REQUEST_ID)
    if request_id is not None:
        response.headers["X-Request-Id"] = request_id


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors become problem details; after the first byte they break the connection instead."""
    request_id = request[REQUEST_ID]
    try:
        _refuse_when_stopping(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return http_problem(error, request_id)
    except Exception as error:
        if isinstance(error, NotFound):
            try:
                if (elsewhere := await _led_elsewhere(request)) is not None:
                    return elsewhere
            except RecorderError as instead:
                error = instead
        known = translate(error)
        if known is None:
            log.exception(
                "unexpected failure", extra={"request_id": request_id, "route": route_name(request)}
            )
        else:
            note_dependency(error, known, request_id)
        if request.get(STREAMING):
            raise  # headers are out: only a broken connection tells the client
        response = internal_problem(request_id) if known is None else problem_response(known, request_id)
        if response.status == 401 and route_name(request).startswith(SENDERS):
            # Senders on libcurl show a password only when they are asked for one (RFC 7617).
            response.headers.add(hdrs.WWW_AUTHENTICATE, 'Basic realm="recorder", charset="UTF-8"')
        return response


def note_dependency(error: Exception, known: RecorderError, request_id: str) -> None:
    """Log what ended a request in a store or database; the caller learns no more than that it did."""
    if known is not error or (isinstance(error, Unavailable) and error.__cause__ is not None):
        log.warning("refused by a dependency", extra={"request_id": request_id}, exc_info=error)


async def _led_elsewhere(request: web.Request) -> web.Response | None:
    """Where the id of a spooled push led to another recording: the way there; None for other ids.

    Raises:
        Unavailable: the recording still waits in the spool.
        Erased: it was erased before it came.
    """
    principal: Principal | None = request.get(PRINCIPAL)
    if principal is None or request.method not in _READING or not route_name(request).startswith(_RECORDING):
        return None
    given = request.match_info["id"]
    try:
        controllers = {grant.controller_id for grant in principal.grants}
        there = await whereabouts(request.app[SERVICES], uuid.UUID(given), controllers)
    except ValueError:
        return None
    if there is None:
        return None
    location = request.rel_url.raw_path.replace(given, str(there), 1)
    query = request.rel_url.raw_query_string
    return web.Response(status=307, headers={"Location": location + (f"?{query}" if query else "")})


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who is asking: a bearer token, else a browser session (with CSRF protection)."""
    services = request.app[SERVICES]
    request[PRINCIPAL] = None
    authorization = request.headers.get(hdrs.AUTHORIZATION, "")
    bearer = authorization[:7].lower() == "bearer "
    cookie = None if bearer else request.cookies.get(SESSION_COOKIE)
    if route_name(request) == AUDIO_PATH:
        # The next range of an open listen: who asks is found out together with everything else about it.
        next_range = await continued(request, authorization, cookie)
        if next_range is not None:
            request[PRINCIPAL] = next_range.principal
            try:
                return await handler(request)
            finally:
                await next_range.fetch.aclose()
    if route_name(request).startswith(SENDERS):
        # Machines that often cannot set a header; a browser's session never pushes.
        token = sender_token(request)
        if token is not None:
            request[PRINCIPAL] = await tokens.authenticate_token(services, token)
    elif bearer:
        request[PRINCIPAL] = await tokens.authenticate_bearer(services, authorization)
    elif cookie is not None:
        found = await sessions.authenticate_session(services, cookie)
        if found is not None:
            request[PRINCIPAL], request[CSRF] = found
            if request.method not in _SAFE:
                check_same_site(request)
                # Pages post forms; those carry the token in a field, which the page handler checks.
                if not request.path.startswith("/app/"):
                    check_csrf(request, request.headers.get(CSRF_HEADER, ""))
    _check_network(request, request[PRINCIPAL])
    return await handler(request)


def _check_network(request: web.Request, principal: Principal | None) -> None:
    """Refuse a source's token from elsewhere than the source.

    Raises:
        Forbidden: the source has a list of networks, and the request comes from none of them.
    """
    if principal is None or not principal.networks:
        return
    trusted = request.app[SERVICES].settings.trusted_proxies
    if not allowed(principal.networks, peer_address(request, trusted)):
        raise Forbidden("this source does not push from this address", reason="address")


def check_same_site(request: web.Request) -> None:
    """Refuse a state-changing request that another site made (Fetch Metadata).

    Raises:
        Forbidden: the browser says it came from elsewhere.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        raise Forbidden("the request came from another site", reason="cross-site")


def check_csrf(request: web.Request, given: str) -> None:
    """Compare the CSRF token of a request with its session's.

    Raises:
        Forbidden: it is missing or another session's.
    """
    expected = request.get(CSRF)
    offered = given.encode(errors="surrogateescape")  # as it came: header bytes need not be UTF-8
    if expected is None or not secrets.compare_digest(expected.encode(), offered):
        raise Forbidden(f"send the session's CSRF token in {CSRF_HEADER}", reason="csrf")


def route_name(request: web.Request) -> str:
    """The pattern of the matched route; ``unmatched`` where there is none."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
