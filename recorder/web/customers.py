"""A customer, found by number, and the end of the relationship: reported, confirmed, withdrawn."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.accounts import display_name
from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.enums import DataSource
from recorder.catalogue.tables import Controller
from recorder.customers import relationship
from recorder.customers.relationship import Cause, EndReport
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.services import Services
from recorder.web import forms
from recorder.web.frame import caller, frame, page, path_id, read_form, render
from recorder.web.request_words import calendar_day
from recorder.web.requests import customer_of
from recorder.web.views import exact
from retention.periods import local_day

_WAITING: Final = 100
_CAUSES: Final = {"closed": "Closed by the customer or by us", "death": "The person has died"}
_SOURCES: Final = {
    "relative": "A relative",
    "public_register": "A public register",
    "registration": "The customer, or our own register",
    "call": "A call",
    "credit_register": "A credit register",
}
_DONE: Final = {
    "reported": "The end is reported. It counts once somebody has confirmed it here.",
    "confirmed": "The end is confirmed. What follows the end of the relationship counts from its day now.",
    "withdrawn": "The end is taken back. Everything counts as it did before.",
}
_Step = Callable[[web.Request, Mapping[str, Any], Controller], Awaitable[str]]


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/customers", page(customers))
    app.router.add_post("/app/customers", page(find))
    app.router.add_get("/app/customers/{id}", page(show))
    app.router.add_post("/app/customers/{id}/end", page(_carried_out(report)))
    app.router.add_post("/app/customers/{id}/end/confirmation", page(_carried_out(confirm)))
    app.router.add_post("/app/customers/{id}/end/withdrawal", page(_carried_out(withdraw)))


async def customers(request: web.Request) -> web.StreamResponse:
    """Find a customer; and the ends that wait for a person."""
    return await _list(request)


async def _list(request: web.Request, failure: str | None = None, status: int = 200) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "requests")
    controller: Controller = shown["controller"]
    waiting = await relationship.waiting_ends(
        services, principal, controller.id, limit=_WAITING + 1, request_id=request[REQUEST_ID]
    )
    rows = [{"id": row, "reference": str(row)[:8], "day": calendar_day(ended)} for row, ended in waiting]
    values = {"failure": failure, "waiting": rows[:_WAITING], "capped": len(rows) > _WAITING}
    return render("customers.html", shown | values, status)


async def find(request: web.Request) -> web.StreamResponse:
    """Go to the page of the customer with a number; the number is in no address."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "requests"))["controller"]
    try:
        number = forms.text(form, "customer")
        if not number:
            raise InvalidInput("give the customer's number")
        found = await customer_of(services, principal, controller, number, request)
    except InvalidInput as error:
        return await _list(request, *forms.told(error))
    except NotFound:
        return await _list(request, "No living customer has this number.", 404)
    raise forms.see(f"/app/customers/{found}")


async def show(request: web.Request) -> web.StreamResponse:
    """A customer, and what is known of the end of the relationship."""
    return await _one(request)


async def _one(request: web.Request, failure: str | None = None, status: int = 200) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "requests")
    controller: Controller = shown["controller"]
    known = await relationship.known_end(
        services, principal, controller.id, path_id(request), request_id=request[REQUEST_ID]
    )
    zone, end, report = ZoneInfo(controller.time_zone), known.end, known.report
    return render(
        "customer.html",
        shown
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "id": known.id,
            "reference": str(known.id)[:8],
            "number": known.number,
            "name": known.name,
            "last_contact": None if known.last_contact_at is None else exact(known.last_contact_at, zone),
            "ended": None if end.ended_on is None else calendar_day(end.ended_on),
            "ended_iso": end.ended_on,
            "confirmed": None if end.confirmed_at is None else exact(end.confirmed_at, zone),
            "report": None if report is None else await _told(services, report, zone),
            "may_report": decide(principal, Action.MANAGE_CUSTOMERS, controller_id=controller.id).allowed,
            "today": local_day(services.clock.now(), zone),
            "causes": _CAUSES,
            "sources": _SOURCES,
        },
        status,
    )


async def _told(services: Services, report: EndReport, zone: ZoneInfo) -> dict[str, str | None]:
    return {
        "cause": _CAUSES[report.cause.value],
        "source": _SOURCES[report.source.value],
        "reference": report.reference,
        "at": exact(report.reported_at, zone),
        "by": await _name(services, report.reported_by),
        "confirmed_by": await _name(services, report.confirmed_by),
    }


async def _name(services: Services, actor: str | None) -> str | None:
    kind, _, identity = (actor or "").partition(":")
    if kind != "account":
        return {"os": "the command line", "token": "an API client", "system": "the service"}.get(kind)
    try:
        return await display_name(services, uuid.UUID(identity))
    except (Erased, NotFound):
        return "a former colleague"


def _carried_out(step: _Step) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Do a step, then show the customer: as it is now, or with what was in the way."""

    async def serve(request: web.Request) -> web.StreamResponse:
        form = await read_form(request)
        controller: Controller = (await frame(request, "requests"))["controller"]
        try:
            done = await step(request, form, controller)
        except (Conflict, Forbidden, InvalidInput) as error:
            return await _one(request, *_failed(error))
        raise forms.see(f"/app/customers/{path_id(request)}?done={done}")

    return serve


def _failed(error: Conflict | Forbidden | InvalidInput) -> tuple[str, int]:
    sentence, status = forms.told(error)
    if isinstance(error, Conflict):
        sentence = "The end of this relationship has changed since the page was opened; look at it again."
    elif isinstance(error, InvalidInput) and error.fields:
        sentence = "The day of the end lies in the future; give one that has come."
    return sentence, status


def _day(form: Mapping[str, Any]) -> date:
    try:
        return date.fromisoformat(forms.text(form, "ended_on"))
    except ValueError:
        raise InvalidInput("give the day of the end, for example 2026-03-05") from None


async def report(request: web.Request, form: Mapping[str, Any], controller: Controller) -> str:
    """Note what a source told."""
    services, principal = caller(request)
    await relationship.report_end(
        services,
        principal,
        controller.id,
        path_id(request),
        ended_on=_day(form),
        cause=forms.code(form, "cause", Cause),
        source=forms.code(form, "source", DataSource),
        source_ref=forms.text(form, "reference") or None,
        request_id=request[REQUEST_ID],
    )
    return "reported"


async def confirm(request: web.Request, form: Mapping[str, Any], controller: Controller) -> str:
    """Confirm the day that the page had shown."""
    services, principal = caller(request)
    await relationship.confirm_end(
        services,
        principal,
        controller.id,
        path_id(request),
        ended_on=_day(form),
        request_id=request[REQUEST_ID],
    )
    return "confirmed"


async def withdraw(request: web.Request, form: Mapping[str, Any], controller: Controller) -> str:
    """Take back what was told in error."""
    services, principal = caller(request)
    await relationship.withdraw_end(
        services, principal, controller.id, path_id(request), request_id=request[REQUEST_ID]
    )
    return "withdrawn"
