"""Sign-in, the list of calls, a call with its player: server-rendered, on the same use cases as the API."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from zoneinfo import ZoneInfo

import jinja2
from aiohttp import web

from recorder.access import sessions
from recorder.access.accounts import display_name
from recorder.access.principals import Principal
from recorder.api.framework import CSRF, PRINCIPAL, REQUEST_ID, SERVICES
from recorder.api.middleware import SESSION_COOKIE, check_csrf, check_same_site
from recorder.api.problems import kind_of, translate
from recorder.catalogue.recordings import Filters
from recorder.catalogue.tables import Controller
from recorder.errors import Erased, Forbidden, InvalidInput, NotFound, RecorderError, Unauthenticated
from recorder.playback import finding
from recorder.playback.decide import open_window
from recorder.services import Services
from recorder.web import views
from retention.model import Purpose

_HERE: Final = Path(__file__).parent
_PAGE: Final = 50
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def mount(app: web.Application) -> None:
    """Serve the pages and their static files."""
    app.router.add_get("/", _home)
    app.router.add_get("/app/sign-in", _page(sign_in_form, public=True))
    app.router.add_post("/app/sign-in", _page(sign_in, public=True))
    app.router.add_post("/app/sign-out", _page(sign_out))
    app.router.add_get("/app/calls", _page(calls))
    app.router.add_get("/app/calls/{id}", _page(recording))
    app.router.add_static("/static", _HERE / "static")


def _page(handler: Handler, *, public: bool = False) -> Handler:
    """Errors become pages in words; whoever is not signed in is shown the door."""

    @functools.wraps(handler)
    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            if not public and request.get(PRINCIPAL) is None:
                raise Unauthenticated("sign in")
            if request.method == "POST" and not public:
                form = await request.post()
                check_csrf(request, str(form.get("csrf", "")))
            return await handler(request)
        except Unauthenticated:
            here = request.path_qs if request.method == "GET" else "/app/calls"
            raise web.HTTPSeeOther("/app/sign-in?" + urlencode({"next": here})) from None
        except Exception as error:
            known = translate(error)
            if known is None or request.get(PRINCIPAL) is None:
                raise
            return await _message(request, known)

    return serve


async def _home(request: web.Request) -> web.StreamResponse:
    raise web.HTTPSeeOther("/app/calls")


async def sign_in_form(request: web.Request) -> web.StreamResponse:
    """The door."""
    if request.get(PRINCIPAL) is not None:
        raise web.HTTPSeeOther("/app/calls")
    return _render("sign_in.html", {"failure": None, "next": _local(request.query.get("next"))})


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Check the password, open a session, go on to where the person wanted to be."""
    check_same_site(request)
    services = request.app[SERVICES]
    form = await request.post()
    onward = _local(str(form.get("next", "")))
    username, password = str(form.get("username", ""))[:200], str(form.get("password", ""))[:1000]
    try:
        opened = await sessions.sign_in(services, username, password, request_id=request[REQUEST_ID])
    except RecorderError as error:
        kind = kind_of(type(error))
        status = 500 if kind is None else kind.status
        return _render("sign_in.html", {"failure": _capital(error.message), "next": onward}, status)
    answer = web.HTTPSeeOther(onward)
    answer.set_cookie(
        SESSION_COOKIE,
        opened.cookie,
        httponly=True,
        samesite="Strict",
        secure=services.settings.resolved_public_url.startswith("https:"),
        path="/",
    )
    raise answer


async def sign_out(request: web.Request) -> web.StreamResponse:
    """End the session."""
    cookie = request.cookies.get(SESSION_COOKIE, "")
    await sessions.close_session(request.app[SERVICES], cookie, request_id=request[REQUEST_ID])
    answer = web.HTTPSeeOther("/app/sign-in")
    answer.del_cookie(SESSION_COOKIE, path="/")
    raise answer


async def calls(request: web.Request) -> web.StreamResponse:
    """The list of calls that the person may know of."""
    services, principal = request.app[SERVICES], request[PRINCIPAL]
    if principal is None:
        raise Unauthenticated("sign in")
    frame = await _frame(request, "calls")
    controller: Controller = frame["controller"]
    given = {name: request.query.get(name, "").strip() for name in ("queue", "agent", "tag", "from", "to")}
    page = await finding.find(
        services,
        principal,
        controller.id,
        _filters(given, controller),
        cursor=request.query.get("cursor") or None,
        limit=_PAGE,
        request_id=request[REQUEST_ID],
    )
    now = services.clock.now()
    onward = {k: v for k, v in given.items() if v} | {
        "cursor": page.next or "",
        "purpose": frame["purpose"] or "",
    }
    return _render(
        "calls.html",
        frame
        | {
            "rows": [views.row(found, controller, now) for found in page.items],
            "filters": given,
            "filtered": any(given.values()),
            "next": f"/app/calls?{urlencode(onward)}" if page.next else None,
        },
    )


async def recording(request: web.Request) -> web.StreamResponse:
    """One call with its player. Looking is not listening: no audio is fetched before play is pressed."""
    services, principal = request.app[SERVICES], request[PRINCIPAL]
    if principal is None:
        raise Unauthenticated("sign in")
    try:
        recording_id = uuid.UUID(request.match_info["id"])
    except ValueError:
        raise NotFound("there is no such call") from None
    request_id = request[REQUEST_ID]
    frame = await _frame(request, "calls")
    controller: Controller = frame["controller"]
    viewed = await finding.view(services, principal, recording_id, request_id=request_id)
    row = viewed.found.recording
    if not request.query.get("purpose") and viewed.found.playable:
        # Nothing declared: offer the first purpose for which it can be heard.
        frame["purpose"] = next(iter(viewed.found.playable)).value
    purpose = None if frame["purpose"] is None else Purpose(frame["purpose"])
    because, refusal = await _explained(services, principal, row.id, purpose, request_id)
    playable = purpose in viewed.found.playable
    until = viewed.found.playable.get(purpose) if purpose is not None else None
    shown = views.call(row, controller, services.clock.now())
    query = urlencode({"purpose": "" if purpose is None else purpose.value})
    shown |= {
        "audio": f"/api/v1/recordings/{row.id}/audio?{query}",
        "peaks": f"/api/v1/recordings/{row.id}/peaks?{query}",
    }
    return _render(
        "recording.html",
        frame
        | {
            "call": shown,
            "playable": playable,
            "refusal": refusal,
            "until": _until(frame["purpose"], until, controller) if playable else None,
            "because": because,
            "facts": views.facts(row, controller, viewed.metadata),
        },
    )


async def _explained(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose | None,
    request_id: str,
) -> tuple[list[str], str]:
    """Why it is kept, and why it cannot be played; the roles that may not see the first see less."""
    try:
        explained = await finding.retention(services, principal, recording_id, request_id=request_id)
    except Forbidden:
        return [], "Your role and its scope do not reach this call for this purpose."
    refusal = "Your roles have no purpose for which they may hear calls."
    if purpose is not None:
        try:
            open_window(explained.decision, purpose, explained.now)
            refusal = "Your role and its scope do not reach this call for this purpose."
        except Forbidden as error:
            refusal = error.message
    return list(explained.sentences), refusal


def _until(purpose: str | None, end: datetime | None, controller: Controller) -> str:
    words = views.PURPOSES[purpose or ""]
    if end is None:
        return f"You may hear this for {words}; the end is still open."
    return f"You may hear this for {words} until {views.last_day(end, controller.time_zone)}."


async def _frame(request: web.Request, section: str) -> dict[str, Any]:
    """What every page shows around its content."""
    services, principal = request.app[SERVICES], request[PRINCIPAL]
    if principal is None:
        raise Unauthenticated("sign in")
    controller_id = finding.controller_of(principal, None)
    async with services.database.snapshot() as session:
        controller = await session.get_one(Controller, controller_id)
    name = (
        await display_name(services, uuid.UUID(principal.id)) if principal.kind == "account" else "API client"
    )
    purposes = views.declarable(principal, controller)
    asked = request.query.get("purpose")
    return {
        "controller": controller,
        "section": section,
        "me": {"name": name, "roles": sorted(role.value for role in principal.roles(controller.id))},
        "csrf": request.get(CSRF, ""),
        "purposes": purposes,
        "purpose": asked if asked in purposes else next(iter(purposes), None),
        "purpose_words": views.PURPOSES,
    }


async def _message(request: web.Request, error: RecorderError) -> web.StreamResponse:
    kind = kind_of(type(error))
    certificate = error.certificate_id if isinstance(error, Erased) else None
    words = {
        "heading": "Something failed" if kind is None else kind.title,
        "words": _capital(error.message),
        "certificate": None if certificate is None else f"/api/v1/certificates/{certificate}",
        "request_id": request[REQUEST_ID],
    }
    return _render(
        "message.html", await _frame(request, "calls") | words, 500 if kind is None else kind.status
    )


def _filters(given: Mapping[str, str], controller: Controller) -> Filters:
    zone = ZoneInfo(controller.time_zone)

    def moment(name: str, days: int) -> datetime | None:
        if not given[name]:
            return None
        try:
            chosen = date.fromisoformat(given[name]) + timedelta(days=days)
        except (ValueError, OverflowError):
            raise InvalidInput(f"{name}: give a date, for example 2026-03-05") from None
        return datetime(chosen.year, chosen.month, chosen.day, tzinfo=zone)

    return Filters(
        agent=given["agent"] or None,
        queue=given["queue"] or None,
        since=moment("from", 0),
        before=moment("to", 1),
        tag=given["tag"] or None,
    )


def _local(target: str | None) -> str:
    """Where to go after signing in: only ever a page of ours."""
    if target is None or not target.startswith("/app/") or urlsplit(target).netloc or "\\" in target:
        return "/app/calls"
    return target


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _render(template: str, values: Mapping[str, Any], status: int = 200) -> web.Response:
    text = _TEMPLATES.get_template(template).render(**values)
    return web.Response(
        text=text, status=status, content_type="text/html", headers={"Cache-Control": "no-store"}
    )
