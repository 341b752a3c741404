"""The register of requests: the list with its clocks, a request being filed, and the page of one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.guard import permit
from recorder.access.policy import Action, decide
from recorder.access.principals import Principal
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.enums import PackageState, RequestChannel, RequestStage
from recorder.catalogue.tables import Controller
from recorder.customers.records import CustomerQuery, search
from recorder.errors import InvalidInput, NotFound, RecorderError
from recorder.rights import deciding, notices, packages, previewing, register, replies
from recorder.rights.register import NewRequest, RequestView
from recorder.rights.reminders import SOON
from recorder.services import Services
from recorder.web import forms
from recorder.web import request_words as words
from recorder.web.frame import caller, frame, page, path_id, read_form, render
from recorder.web.views import PURPOSES, day, exact
from retention.model import Purpose, RequestKind

_PAGE: Final = 50
_OWED: Final = 200
_SHOWN: Final = 200
_FAR: Final = datetime(9000, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VIEWS: Final = {
    "open": "Open, due first",
    "soon": "Due within a week",
    "overdue": "Overdue",
    "all": "All, newest first",
}
_FIELDS: Final = ("type", "channel", "customer", "name", "contact", "message", "recordings")
_DONE: Final = {
    "filed": "The request is in the register. What it concerns is frozen from now on.",
    "matched": "The request has its customer.",
    "identity": "The identity check is noted.",
    "extended": "Two further months are taken. Send the notice of it: the letter below is written.",
    "decided": "The decision stands. Send the letter below.",
    "sent": "The letter is noted as sent.",
    "undone": "The request was taken off its customer.",
    "ordered": "The copies are being made.",
    "acknowledged": "The recipient's word is noted.",
}


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/requests", page(requests))
    app.router.add_get("/app/requests/new", page(new))
    app.router.add_post("/app/requests/new", page(file))
    app.router.add_get("/app/requests/{id}", page(show))
    app.router.add_get("/app/requests/{id}/progress", page(progress))


async def requests(request: web.Request) -> web.StreamResponse:
    """What is owed, soonest first; or all of it."""
    services, principal = caller(request)
    shown = await frame(request, "requests")
    controller: Controller = shown["controller"]
    now = services.clock.now()
    view = request.query.get("view", "open")
    if view not in _VIEWS:
        raise InvalidInput("view: choose one that is listed")
    kind = forms.maybe_code(request.query, "type", RequestKind)
    stage = forms.maybe_code(request.query, "state", RequestStage)
    due = {"open": _FAR, "soon": now + SOON, "overdue": now, "all": None}[view]
    limit = _PAGE if due is None else _OWED
    rows = await register.listing(
        services,
        principal,
        controller.id,
        kind=kind,
        stage=stage,
        due_before=due,
        after=_position(request.query.get("cursor")),
        limit=limit + (due is None),
        request_id=request[REQUEST_ID],
    )
    more = due is None and len(rows) > limit
    rows = rows[:limit]
    chosen = {"view": view, "type": kind or "", "state": stage or ""}
    cursor = {"cursor": _cursor(rows[-1].filed_at, rows[-1].id)} if more else None
    return render(
        "requests.html",
        shown
        | {
            "rows": [words.row(each, controller, now) for each in rows],
            "views": _VIEWS,
            "view": view,
            "kinds": words.KINDS,
            "kind": kind or "",
            "stages": words.STAGES,
            "stage": stage or "",
            "late": sum(1 for each in rows if each.completed_at is None and each.deadline_at <= now),
            "capped": due is not None and len(rows) == _OWED,
            "filtered": bool(kind or stage or view in ("soon", "overdue")),
            "next": f"/app/requests?{urlencode(chosen | cursor)}" if cursor else None,
        },
    )


def _cursor(filed_at: datetime, row_id: uuid.UUID) -> str:
    return f"{(filed_at - _EPOCH) // timedelta(microseconds=1)}.{row_id}"


def _position(cursor: str | None) -> tuple[datetime, uuid.UUID] | None:
    if not cursor:
        return None
    at, _, row_id = cursor.partition(".")
    try:
        return _EPOCH + timedelta(microseconds=int(at)), uuid.UUID(row_id)
    except (ValueError, OverflowError):
        raise InvalidInput("this page of the list is not one of ours; begin again") from None


async def new(request: web.Request) -> web.StreamResponse:
    """A form for a request that came in."""
    return await _form(request, {}, None, 200)


async def file(request: web.Request) -> web.StreamResponse:
    """Register it; what was wrong is said beside what was typed."""
    services, principal = caller(request)
    form = await read_form(request)
    shown = await frame(request, "requests")
    controller: Controller = shown["controller"]
    try:
        number = forms.text(form, "customer")
        customer_id = (
            None if not number else await customer_of(services, principal, controller, number, request)
        )
        new_request = NewRequest(
            kind=forms.code(form, "type", RequestKind),
            channel=forms.code(form, "channel", RequestChannel),
            filed_at=forms.moment(forms.text(form, "received"), "received", controller.time_zone),
            customer_id=customer_id,
            recording_ids=forms.identifiers(forms.text(form, "recordings", limit=40_000), "a recording"),
            purposes=_purposes(form),
            language=forms.one_of(form, "language", words.LANGUAGES),
            person={
                name: value
                for name, limit in (("name", 200), ("contact", 500), ("message", 8000))
                if (value := forms.text(form, name, limit=limit))
            },
        )
        view = await register.file(
            services, principal, controller.id, new_request, request_id=request[REQUEST_ID]
        )
    except RecorderError as error:
        sentence, status = forms.told(error)
        return await _form(request, form, sentence, status)
    raise forms.see(f"/app/requests/{view.row.id}?done=filed")


def _purposes(form: Any) -> tuple[Purpose, ...]:
    try:
        return tuple(Purpose(value) for value in form.getall("purpose", ()))
    except ValueError:
        raise InvalidInput("purpose: choose those that are listed") from None


async def _form(
    request: web.Request, given: Mapping[str, Any], failure: str | None, status: int
) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "requests")
    controller: Controller = shown["controller"]
    await permit(
        services,
        principal,
        Action.MANAGE_REQUESTS,
        controller_id=controller.id,
        request_id=request[REQUEST_ID],
    )
    local = services.clock.now().astimezone(ZoneInfo(controller.time_zone))
    language = {"FI": "fi", "SE": "sv"}.get(controller.country, "en")
    return render(
        "request_new.html",
        shown
        | {
            "failure": failure,
            "given": dict.fromkeys(_FIELDS, "")
            | {"received": f"{local:%Y-%m-%dT%H:%M}", "language": language}
            | {name: str(value) for name, value in given.items() if name != "purpose"},
            "chosen": list(given.getall("purpose", ())) if hasattr(given, "getall") else [],
            "latest": f"{local:%Y-%m-%dT23:59}",
            "kinds": words.KINDS,
            "channels": words.CHANNELS,
            "languages": words.LANGUAGES,
            "all_purposes": PURPOSES,
        },
        status,
    )


async def customer_of(
    services: Services, principal: Principal, controller: Controller, number: str, request: web.Request
) -> uuid.UUID:
    """The customer with a number, for somebody who may look customers up.

    Raises:
        NotFound: nobody living has it.
        Forbidden: the caller may not look customers up here.
    """
    request_id = request[REQUEST_ID]
    await permit(
        services, principal, Action.VIEW_CUSTOMERS, controller_id=controller.id, request_id=request_id
    )
    if len(number) > 64:
        raise InvalidInput("a customer's number has at most 64 characters")
    found = await search(
        services, controller.id, CustomerQuery(number=number), actor=principal.actor, request_id=request_id
    )
    if not found:
        raise NotFound("no living customer has this number; leave it empty to say later whose it is")
    return found[0].id


async def show(request: web.Request) -> web.StreamResponse:
    """One request: what was asked, what it reaches, and what can be done now."""
    return await one(request, path_id(request))


async def one(
    request: web.Request, rights_id: uuid.UUID, failure: str | None = None, status: int = 200
) -> web.StreamResponse:
    """The page of a request; with what went wrong, where a form was refused."""
    services, principal = caller(request)
    request_id = request[REQUEST_ID]
    shown = await frame(request, "requests")
    view = await register.get(services, principal, rights_id, request_id=request_id)
    foreseen = await previewing.foresee(services, principal, rights_id, request_id=request_id)
    row, controller, now = view.row, view.controller, services.clock.now()
    pending = row.stage is RequestStage.PENDING
    zone = ZoneInfo(controller.time_zone)
    items = [words.foreseen(i, row.kind, controller, decided=not pending) for i in foreseen]
    language = request.query.get("language", row.language)
    letter = replies.compose(view, now, language if language in words.LANGUAGES else row.language)
    return render(
        "request.html",
        shown
        | words.row(row, controller, now)
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "code": row.kind.value,
            "registered": exact(row.registered_at, zone),
            "person": dict.fromkeys(("name", "contact", "message"), "") | dict(view.person),
            "purposes_asked": [PURPOSES[p] for p in row.purposes],
            "language": letter.language,
            "languages": words.LANGUAGES,
            "letter": letter.text(),
            "replied": None if row.replied_at is None else exact(row.replied_at, zone),
            "decided": None if row.decided_at is None else exact(row.decided_at, zone),
            "completed": row.completed_at is not None,
            "ground": words.GROUNDS.get(row.ground or ""),
            "items": items[:_SHOWN],
            "beyond": max(0, len(items) - _SHOWN),
            "goes": sum(1 for i in foreseen if i.outcome == "granted"),
            "stays": sum(1 for i in foreseen if i.outcome == "refused"),
            "candidates": len(view.candidates),
            "customer": row.customer_id,
            "gone": row.kind is RequestKind.ERASURE and row.stage is RequestStage.GRANTED and not row.scoped,
            "scoped": row.scoped,
            "identity_method": words.METHODS.get(row.identity_method or ""),
            "identity_at": None if row.identity_at is None else exact(row.identity_at, zone),
            "confirmed": row.identity_outcome == "confirmed",
            "extension": words.EXTENSIONS.get(row.extension_reason or ""),
            "undone": words.UNDOINGS.get(row.undone_reason or ""),
            "notices": [_notice(services, view, notice, zone.key) for notice in view.notices],
            "package": _package(view, now, zone),
        }
        | _forms(principal, view, now),
        status,
    )


def _forms(principal: Principal, view: RequestView, now: datetime) -> dict[str, Any]:
    """What can be done with a request now, with the words to choose from."""
    row = view.row
    pending = row.stage is RequestStage.PENDING
    granted = row.stage in {RequestStage.GRANTED, RequestStage.PARTLY_GRANTED}
    may_erase = decide(principal, Action.ERASE, controller_id=row.controller_id).allowed
    return {
        "pending": pending,
        "working": granted and row.kind is RequestKind.ERASURE and row.completed_at is None,
        "may_match": pending and row.customer_id is None,
        "may_extend": pending and row.extended_at is None and now < row.deadline_at,
        "may_decide": pending and (row.kind is not RequestKind.ERASURE or may_erase),
        "may_undo": row.stage is not RequestStage.UNDONE
        and not (granted and row.kind is RequestKind.ERASURE)
        and view.package is None,
        "may_send": row.stage not in {RequestStage.PENDING, RequestStage.UNDONE} and row.replied_at is None,
        "may_order": granted and row.kind in {RequestKind.ACCESS, RequestKind.PORTABILITY},
        "leave_out": forms.options(words.GROUNDS, deciding.PER_RECORDING.get(row.kind, frozenset()))
        if row.kind is not RequestKind.ERASURE
        else [],
        "refusals": forms.options(words.GROUNDS, deciding.GROUNDS[row.kind]),
        "restrictions": words.RESTRICTIONS,
        "methods": words.METHODS,
        "outcomes": words.OUTCOMES,
        "extensions": words.EXTENSIONS,
        "undoings": words.UNDOINGS,
    }


def _notice(services: Services, view: RequestView, row: Any, zone: str) -> dict[str, Any]:
    opened = notices.opened(services, view.subject, row)
    told = opened.acknowledged_at
    return {
        "number": opened.number,
        "recipient": opened.recipient or "Not known any more",
        "since": day(opened.created_at, zone),
        "told": None if told is None else day(told, zone),
    }


def _package(view: RequestView, now: datetime, zone: ZoneInfo) -> dict[str, Any] | None:
    package = view.package
    if package is None:
        return None
    ready = packages.is_ready(package, now)
    state = package.state.value
    if package.state is PackageState.READY and not ready:
        state = "expired"
    return {
        "state": state,
        "words": words.PACKAGES[state],
        "ready": ready,
        "making": state in ("queued", "building"),
        "again": state in ("failed", "expired"),
        "done": package.done,
        "total": package.total,
        "size": None if package.size is None else f"{package.size / 1e6:,.1f} MB",
        "until": None if package.expires_at is None else exact(package.expires_at, zone),
    }


async def progress(request: web.Request) -> web.StreamResponse:
    """How far background work for a request is, for the page that shows it."""
    services, principal = caller(request)
    rights_id = path_id(request)
    async with register.changing(services, principal, rights_id, request[REQUEST_ID], lock=False) as (
        session,
        row,
        _,
    ):
        package = await packages.newest_package(session, rights_id)
        found = {
            "busy": package.state in {PackageState.QUEUED, PackageState.BUILDING}
            if package is not None
            else row.completed_at is None and row.kind is RequestKind.ERASURE,
            "done": 0 if package is None else package.done,
            "total": 0 if package is None else package.total,
        }
    return web.json_response(found, headers={"Cache-Control": "no-store"})
