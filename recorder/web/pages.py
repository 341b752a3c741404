"""Sign-in, the list of calls, a call with its player: server-rendered, on the same use cases as the API."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access import sessions
from recorder.access.policy import Action, ScopeFilter, decide, visible
from recorder.access.principals import Principal
from recorder.api.framework import PRINCIPAL, REQUEST_ID, SERVICES
from recorder.api.middleware import SESSION_COOKIE, check_same_site
from recorder.api.problems import kind_of
from recorder.catalogue.enums import ObjectRole
from recorder.catalogue.recordings import Filters
from recorder.catalogue.tables import Controller, Recording
from recorder.errors import Forbidden, InvalidInput, NotFound, RecorderError, Unavailable
from recorder.playback import finding
from recorder.playback.calls import CallPart, whole_call
from recorder.playback.decide import Rendition, allowed_recording, choose_role
from recorder.services import Services
from recorder.web import (
    approvals,
    completeness,
    customers,
    desk,
    findings,
    matters,
    registers,
    reports,
    request_steps,
    requests,
    schedules,
    views,
)
from recorder.web.frame import (
    HERE,
    caller,
    capital,
    frame,
    home_of,
    local,
    page,
    path_id,
    read_form,
    render,
)
from retention.model import Purpose

_PAGE: Final = 50
_FILTERS: Final = ("queue", "agent", "tag", "from", "to")


def mount(app: web.Application) -> None:
    """Serve the pages and their static files."""
    app.router.add_get("/", _home)
    app.router.add_get("/app/sign-in", page(sign_in_form, public=True))
    app.router.add_post("/app/sign-in", page(sign_in, public=True))
    app.router.add_post("/app/sign-out", page(sign_out))
    app.router.add_get("/app/calls", page(calls))
    app.router.add_get("/app/calls/{id}", page(recording))
    completeness.mount(app)
    customers.mount(app)
    desk.mount(app)
    reports.mount(app)
    requests.mount(app)
    request_steps.mount(app)
    approvals.mount(app)
    findings.mount(app)
    matters.mount(app)
    registers.mount(app)
    schedules.mount(app)
    app.router.add_get("/app/", page(home))
    app.router.add_get("/app/{other:.+}", page(nothing))
    app.router.add_get("/favicon.ico", _icon)
    app.router.add_static("/static", HERE / "static")


async def _home(request: web.Request) -> web.StreamResponse:
    raise web.HTTPSeeOther("/app/")


async def _icon(request: web.Request) -> web.StreamResponse:
    """Browsers ask here beside documents that name no icon, such as a certificate."""
    raise web.HTTPMovedPermanently("/static/icon.svg")


async def home(request: web.Request) -> web.StreamResponse:
    """The first page that a person may open."""
    _, principal = caller(request)
    href, _ = home_of(principal, finding.controller_of(principal, None))
    raise web.HTTPSeeOther(href)


async def nothing(request: web.Request) -> web.StreamResponse:
    """An address that leads nowhere."""
    raise NotFound("there is no page at this address")


async def sign_in_form(request: web.Request) -> web.StreamResponse:
    """The door."""
    if request.get(PRINCIPAL) is not None:
        raise web.HTTPSeeOther("/app/")
    return render("sign_in.html", {"failure": None, "next": local(request.query.get("next"))})


async def sign_in(request: web.Request) -> web.StreamResponse:
    """Check the password, open a session, go on to where the person wanted to be."""
    check_same_site(request)
    services = request.app[SERVICES]
    form = await read_form(request)
    onward = local(str(form.get("next", "")))
    username, password = str(form.get("username", ""))[:200], str(form.get("password", ""))[:1000]
    try:
        opened = await sessions.sign_in(services, username, password, request_id=request[REQUEST_ID])
    except RecorderError as error:
        kind = kind_of(type(error))
        status = 500 if kind is None else kind.status
        return render("sign_in.html", {"failure": f"{capital(error.message)}.", "next": onward}, status)
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
    services, principal = caller(request)
    shown = await frame(request, "calls")
    controller: Controller = shown["controller"]
    given = {name: request.query.get(name, "").strip() for name in _FILTERS}
    oldest_first = request.query.get("order") == "oldest"
    found = await finding.find(
        services,
        principal,
        controller.id,
        _filters(given, controller),
        cursor=request.query.get("cursor") or None,
        limit=_PAGE,
        oldest_first=oldest_first,
        request_id=request[REQUEST_ID],
    )
    now = services.clock.now()
    kept = {name: value for name, value in given.items() if value} | {"purpose": shown["purpose"] or ""}
    order = {"order": "oldest"} if oldest_first else {}
    return render(
        "calls.html",
        shown
        | {
            "rows": [views.row(each, controller, shown["purpose"], now) for each in found.items],
            "filters": given,
            "filtered": any(given.values()),
            "oldest_first": oldest_first,
            "own": _only_own(principal, controller.id),
            "turned": _address(kept | ({} if oldest_first else {"order": "oldest"})),
            "next": _address(kept | order | {"cursor": found.next}) if found.next else None,
        },
    )


def _only_own(principal: Principal, controller_id: uuid.UUID) -> str | None:
    """The agent code of a person who sees no calls but those that bear it."""
    mine = ScopeFilter(agents=frozenset({principal.agent_code or ""}))
    return principal.agent_code if visible(principal, controller_id) == (mine,) else None


async def recording(request: web.Request) -> web.StreamResponse:
    """One call with its player. Looking is not listening: no audio is fetched before play is pressed."""
    services, principal = caller(request)
    recording_id, request_id = path_id(request), request[REQUEST_ID]
    shown = await frame(request, "calls")
    controller: Controller = shown["controller"]
    viewed = await finding.view(services, principal, recording_id, request_id=request_id)
    row = viewed.found.recording
    if not request.query.get("purpose") and viewed.found.playable:
        # Nothing declared: offer the first purpose for which it can be heard.
        shown["purpose"] = next(iter(viewed.found.playable)).value
    purpose = None if shown["purpose"] is None else Purpose(shown["purpose"])
    hearing = await _hearing(services, principal, row.id, purpose)
    query = urlencode({"purpose": "" if purpose is None else purpose.value})
    addresses = {
        "audio": f"/api/v1/recordings/{row.id}/audio?{query}",
        "peaks": f"/api/v1/recordings/{row.id}/peaks?{query}",
    }
    custody = decide(principal, Action.VIEW_HISTORY, controller_id=row.controller_id).allowed
    return render(
        "recording.html",
        shown
        | {
            "call": views.call(row, controller, services.clock.now()) | addresses,
            "refusal": hearing.refusal,
            "until": _until(purpose, hearing.end, controller) if hearing.refusal is None else None,
            "heard_in_full": hearing.in_full,
            "because": await _because(services, principal, row.id, request_id),
            "facts": views.facts(row, controller, viewed.metadata),
            "custody": f"/app/calls/{row.id}/custody" if custody else None,
            "whole": views.whole(await _whole(services, principal, row, request_id), row.id, purpose),
        },
    )


async def _whole(
    services: Services, principal: Principal, row: Recording, request_id: str
) -> tuple[CallPart, ...]:
    """The rest of the call, for those who see lists; a recording that was handed over stands alone."""
    if not visible(principal, row.controller_id, Action.LIST_RECORDINGS):
        return ()
    try:
        return await whole_call(services, principal, row.call_id, request_id=request_id)
    except NotFound:
        return ()


@dataclass(frozen=True, slots=True)
class _Hearing:
    """Whether a call can be heard now; ``refusal`` says why not."""

    refusal: str | None
    end: datetime | None = None
    in_full: bool = False


async def _hearing(
    services: Services, principal: Principal, recording_id: uuid.UUID, purpose: Purpose | None
) -> _Hearing:
    """Playback's own question, asked without listening; the answer in words."""
    if purpose is None:
        return _Hearing("Your roles have no purpose for which they may hear calls.")
    now = services.clock.now()
    try:
        async with services.database.snapshot() as session:
            allowed = await allowed_recording(session, services, principal, recording_id, purpose, now=now)
        role = choose_role(allowed, principal, purpose, Rendition.PLAYBACK)
    except (Forbidden, Unavailable) as error:
        return _Hearing(capital(error.message))
    return _Hearing(None, allowed.decision.windows[purpose].end, role is not ObjectRole.REDACTED)


async def _because(
    services: Services, principal: Principal, recording_id: uuid.UUID, request_id: str
) -> list[str]:
    explained = await finding.retention(services, principal, recording_id, request_id=request_id)
    return list(explained.sentences)


def _until(purpose: Purpose | None, end: datetime | None, controller: Controller) -> str:
    words = "" if purpose is None else views.PURPOSES[purpose.value]
    if end is None:
        return f"You may hear this for {words}; the end is still open."
    return f"You may hear this for {words} until {views.day(end, controller.time_zone)}."


def _address(query: Mapping[str, Any]) -> str:
    return f"/app/calls?{urlencode(query)}"


def _filters(given: Mapping[str, str], controller: Controller) -> Filters:
    zone = ZoneInfo(controller.time_zone)

    def moment(name: str, days: int) -> datetime | None:
        if not given[name]:
            return None
        try:
            chosen = date.fromisoformat(given[name])
            if not 1900 <= chosen.year <= 9000:
                raise ValueError
        except ValueError:
            raise InvalidInput(f"{name}: give a date, for example 2026-03-05") from None
        chosen += timedelta(days=days)
        return datetime(chosen.year, chosen.month, chosen.day, tzinfo=zone)

    for name, value in given.items():
        if "\x00" in value or len(value) > 100:
            raise InvalidInput(f"{name}: give at most 100 characters")
    return Filters(
        agent=given["agent"] or None,
        queue=given["queue"] or None,
        since=moment("from", 0),
        before=moment("to", 1),
        tag=given["tag"] or None,
    )
