"""What every page shares: who asks, the frame around the content, errors in words."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import jinja2
from aiohttp import web

from recorder.access.accounts import display_name
from recorder.access.policy import Action, Target, decide, purposes_for, visible
from recorder.access.principals import Principal
from recorder.api.framework import CSRF, PRINCIPAL, REQUEST_ID, SERVICES
from recorder.api.middleware import check_csrf, note_dependency, route_name
from recorder.api.problems import kind_of, translate
from recorder.catalogue.tables import Controller
from recorder.errors import Erased, Forbidden, MalformedInput, NotFound, RecorderError, Unauthenticated
from recorder.playback import finding
from recorder.services import Services
from recorder.web.views import PURPOSES
from retention.model import Purpose

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = logging.getLogger("recorder.http")

HERE: Final = Path(__file__).parent
_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# The rail: what a role may not open is not there.
_SECTIONS: Final = (
    ("calls", "/app/calls", "Calls", Action.LIST_RECORDINGS),
    ("quarantine", "/app/quarantine", "Quarantine", Action.MANAGE_QUARANTINE),
    ("custody", "/app/custody", "Custody", Action.VIEW_HISTORY),
    ("requests", "/app/requests", "Requests", Action.MANAGE_REQUESTS),
    ("matters", "/app/matters", "Matters", Action.MANAGE_MATTERS),
    ("approvals", "/app/approvals", "Approvals", Action.VIEW_APPROVALS),
    ("registers", "/app/breaches", "Registers", Action.VIEW_REGISTERS),
    ("retention", "/app/retention", "Retention", Action.VIEW_REPORTS),
    ("schedules", "/app/schedules", "Schedules", Action.VIEW_SCHEDULES),
    ("findings", "/app/findings", "Findings", Action.VIEW_HEALTH),
    ("completeness", "/app/completeness", "Completeness", Action.VIEW_HEALTH),
)


def page(handler: Handler, *, public: bool = False) -> Handler:
    """Errors become pages in words; whoever is not signed in is shown the door."""

    @functools.wraps(handler)
    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            if not public:
                caller(request)
                if request.method == "POST":
                    await _check_form(request)
            return await handler(request)
        except Unauthenticated:
            here = request.path_qs if request.method == "GET" else "/app/calls"
            raise web.HTTPSeeOther("/app/sign-in?" + urlencode({"next": here})) from None
        except Exception as error:
            if isinstance(error, web.HTTPException) or request.get(PRINCIPAL) is None:
                raise
            known = translate(error)
            if known is None:
                details = {"request_id": request[REQUEST_ID], "route": route_name(request)}
                log.exception("unexpected failure", extra=details)
            else:
                note_dependency(error, known, request[REQUEST_ID])
            return await _message(request, known)

    return serve


def caller(request: web.Request) -> tuple[Services, Principal]:
    """The services, and who asks.

    Raises:
        Unauthenticated: nobody is signed in.
    """
    principal: Principal | None = request.get(PRINCIPAL)
    if principal is None:
        raise Unauthenticated("sign in")
    return request.app[SERVICES], principal


def path_id(request: web.Request) -> uuid.UUID:
    """The id in the address.

    Raises:
        NotFound: it is none.
    """
    try:
        return uuid.UUID(request.match_info["id"])
    except ValueError:
        raise NotFound("there is no such call") from None


async def frame(request: web.Request, section: str) -> dict[str, Any]:
    """What every page shows around its content."""
    services, principal = caller(request)
    controller_id = finding.controller_of(principal, None)
    async with services.database.snapshot() as session:
        controller = await session.get_one(Controller, controller_id)
    is_person = principal.kind == "account"
    name = await display_name(services, uuid.UUID(principal.id)) if is_person else "API client"
    purposes = declarable(principal, controller.id)
    asked = request.query.get("purpose")
    return {
        "controller": controller,
        "section": section,
        "sections": sections(principal, controller.id),
        "me": {"name": name, "roles": sorted(role.value for role in principal.roles(controller.id))},
        "csrf": request.get(CSRF, ""),
        "purposes": purposes,
        "purpose": asked if asked in purposes else next(iter(purposes), None),
        "purpose_words": PURPOSES,
    }


def sections(principal: Principal, controller_id: uuid.UUID) -> list[tuple[str, str, str]]:
    """The parts of the application that a person may open: name, address, word."""
    return [
        (name, href, word)
        for name, href, word, action in _SECTIONS
        if (
            visible(principal, controller_id, action)
            if action is Action.LIST_RECORDINGS
            else decide(principal, action, controller_id=controller_id).allowed
        )
    ]


def declarable(principal: Principal, controller_id: uuid.UUID) -> list[str]:
    """The purposes that a person may declare at all, for some call of this controller.

    First those that need nothing else, so that the one that is offered opens calls; then those that hold only
    for what was given to the person as feedback.
    """
    found = _declarable(principal, controller_id, feedback=False)
    given = _declarable(principal, controller_id, feedback=True) - found
    return [purpose.value for some in (found, given) for purpose in Purpose if purpose in some]


def _declarable(principal: Principal, controller_id: uuid.UUID, *, feedback: bool) -> set[Purpose]:
    found: set[Purpose] = set()
    for grant in principal.grants:
        if grant.controller_id != controller_id:
            continue
        agents = tuple(sorted({*grant.values, *([principal.agent_code] if principal.agent_code else [])}))
        for queue in (None, *sorted(grant.values)):
            target = Target(agents=agents, queue=queue, source_id=None, feedback=feedback)
            found.update(purposes_for(principal, controller_id, target))
    return found


def local(target: str | None) -> str:
    """Where to go after signing in: only ever a page of ours."""
    if target is None or not target.startswith("/app/") or urlsplit(target).netloc or "\\" in target:
        return "/app/"
    return target


def capital(text: str) -> str:
    """The text with a capital letter first."""
    return text[:1].upper() + text[1:]


def render(template: str, values: Mapping[str, Any], status: int = 200) -> web.Response:
    """A page; never kept by a cache, so that the back button shows nothing after signing out."""
    text = _TEMPLATES.get_template(template).render(**values)
    return web.Response(
        text=text, status=status, content_type="text/html", headers={"Cache-Control": "no-store"}
    )


async def read_form(request: web.Request) -> Mapping[str, Any]:
    """The fields of a form that was posted.

    Raises:
        MalformedInput: it did not arrive in time; a sender that drips holds nothing for longer.
    """
    try:
        async with asyncio.timeout(request.app[SERVICES].settings.upload_idle_seconds):
            return await request.post()
    except TimeoutError:
        raise MalformedInput("the form did not arrive in time") from None


async def _check_form(request: web.Request) -> None:
    form = await read_form(request)
    try:
        check_csrf(request, str(form.get("csrf", "")))
    except Forbidden as error:
        text = "This form was not opened in this session. Go back, reload the page and try once more."
        raise Forbidden(text, reason=error.reason) from None


async def _message(request: web.Request, error: RecorderError | None) -> web.StreamResponse:
    """A page for an error; None is one that nobody expected."""
    kind = None if error is None else kind_of(type(error))
    shown = await frame(request, "")
    _, principal = caller(request)
    links = []
    if isinstance(error, Erased) and any(name == "custody" for name, *_ in shown["sections"]):
        if error.certificate_id is not None:
            links.append((f"/api/v1/certificates/{quote(error.certificate_id)}", "Certificate of erasure"))
        if "id" in request.match_info:
            links.append((f"/app/calls/{quote(request.match_info['id'])}/custody", "Its custody"))
    words = {
        "heading": "Something failed" if kind is None else kind.title,
        "words": "The service has noted it. Try again in a moment."
        if error is None
        else capital(error.message),
        "links": links,
        "back": home_of(principal, shown["controller"].id),
        "request_id": request[REQUEST_ID],
    }
    return render("message.html", shown | words, 500 if kind is None else kind.status)


def home_of(principal: Principal, controller_id: uuid.UUID) -> tuple[str, str]:
    """The first page that a person may open: address and word."""
    return next(((href, word) for _, href, word in sections(principal, controller_id)), ("/api/docs", "API"))
