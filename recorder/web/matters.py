"""Matters and their holds: what is kept for a dispute or an enquiry, by whom, until when it is looked at."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.approvals import ApprovalView
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.tables import Controller, Hold
from recorder.disposition import desk
from recorder.disposition.desk import MatterView, NewMatter
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.web import forms
from recorder.web.frame import caller, frame, page, path_id, read_form, render
from recorder.web.requests import customer_of
from recorder.web.views import Mark, day, exact

GROUNDS: Final = {
    "legal_claims": "Legal claims, art. 17(3)(e)",
    "authority_request": "An authority's request",
    "legal_obligation": "A legal obligation, art. 17(3)(b)",
}
_DIRECTIONS: Final = {"inbound": "Inbound", "outbound": "Outbound", "internal": "Internal"}
_DONE: Final = {
    "opened": "The matter is open. Say now what it holds.",
    "held": "It is held: nothing of it is erased while the hold stands.",
    "asked": "The release is asked for. Another person has to approve it; see Approvals.",
    "amended": "The matter is changed.",
    "closed": "The matter is closed.",
}
_QUERY_WORDS: Final = {
    "queue": "queue",
    "agent": "agent code",
    "tag": "tag",
    "source": "source",
    "service_event": "service event",
    "direction": "direction",
    "basis": "ground",
    "started_from": "begun on or after",
    "started_before": "begun before",
    "duration_at_least": "seconds at least",
    "duration_less_than": "seconds less than",
}
_REFUSALS: Final = (Conflict, Erased, Forbidden, InvalidInput, NotFound)


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/matters", page(matters))
    app.router.add_post("/app/matters", page(open_matter))
    app.router.add_get("/app/matters/{id}", page(show))
    app.router.add_post("/app/matters/{id}/change", page(change))
    app.router.add_post("/app/matters/{id}/holds", page(hold))
    app.router.add_post("/app/matters/{id}/holds/{hold}", page(release))
    app.router.add_post("/app/matters/{id}/close", page(close))


async def matters(request: web.Request) -> web.StreamResponse:
    """All matters, the newest first."""
    return await _list(request, {}, None, 200)


async def _list(
    request: web.Request, given: Mapping[str, Any], failure: str | None, status: int
) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "matters")
    controller: Controller = shown["controller"]
    found = await desk.list_matters(services, principal, controller.id, request_id=request[REQUEST_ID])
    now = services.clock.now()
    names = ("reference", "ground", "review_on", "title", "custodians", "notes")
    return render(
        "matters.html",
        shown
        | {
            "failure": failure,
            "given": dict.fromkeys(names, "") | {name: str(given[name]) for name in names if name in given},
            "grounds": GROUNDS,
            "rows": [
                {
                    "id": view.matter.id,
                    "reference": view.matter.reference,
                    "ground": GROUNDS.get(view.matter.ground, view.matter.ground),
                    "title": view.title,
                    "custodians": ", ".join(view.custodians) or "–",
                    "review": day(view.matter.review_on, controller.time_zone),
                    "mark": _mark(view, now),
                    "holds": sum(1 for each in view.holds if each.released_at is None),
                }
                for view in found
            ],
        },
        status,
    )


def _mark(view: MatterView, now: Any) -> Mark:
    if view.matter.closed_at is not None:
        return Mark("stored", "Closed")
    if view.matter.review_on <= now:
        return Mark("due", "Review is due")
    return Mark("held", "Open")


async def open_matter(request: web.Request) -> web.StreamResponse:
    """Open a matter."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "matters"))["controller"]
    try:
        review = forms.moment(forms.text(form, "review_on"), "review_on", controller.time_zone)
        reference = forms.text(form, "reference", limit=64)
        if review is None or not reference:
            raise InvalidInput("give a reference, and the day on which somebody looks at the matter again")
        new = NewMatter(
            reference,
            forms.one_of(form, "ground", GROUNDS),
            review,
            forms.text(form, "title"),
            forms.text(form, "notes", limit=10_000),
            tuple(forms.words(forms.text(form, "custodians", limit=2000))),
        )
        view = await desk.open_matter(services, principal, controller.id, new, request_id=request[REQUEST_ID])
    except InvalidInput as error:
        return await _list(request, form, *forms.told(error))
    raise forms.see(f"/app/matters/{view.matter.id}?done=opened")


async def show(request: web.Request) -> web.StreamResponse:
    """One matter with its holds."""
    return await _one(request)


async def _one(request: web.Request, failure: str | None = None, status: int = 200) -> web.StreamResponse:
    services, principal = caller(request)
    matter_id = path_id(request)
    shown = await frame(request, "matters")
    view = await desk.get_matter(services, principal, matter_id, request_id=request[REQUEST_ID])
    controller: Controller = shown["controller"]
    zone, matter = ZoneInfo(controller.time_zone), view.matter
    standing = [each for each in view.holds if each.released_at is None]
    return render(
        "matter.html",
        shown
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "id": matter.id,
            "reference": matter.reference,
            "title": view.title,
            "notes": view.notes,
            "custodians": list(view.custodians),
            "ground": GROUNDS.get(matter.ground, matter.ground),
            "review": day(matter.review_on, zone.key),
            "review_iso": f"{matter.review_on.astimezone(zone):%Y-%m-%d}",
            "opened": exact(matter.opened_at, zone),
            "closed": None if matter.closed_at is None else exact(matter.closed_at, zone),
            "mark": _mark(view, services.clock.now()),
            "holds": [_hold(each, zone) for each in view.holds],
            "standing": len(standing),
            "directions": _DIRECTIONS,
        },
        status,
    )


def _hold(hold: Hold, zone: ZoneInfo) -> dict[str, Any]:
    if hold.recording_id is not None:
        what, where = f"Recording {str(hold.recording_id)[:8]}", f"/app/calls/{hold.recording_id}"
    elif hold.customer_id is not None:
        what, where = f"All of customer {str(hold.customer_id)[:8]}", None
    else:
        what, where = f"Calls with {_query(hold.query or {}, zone)}; new ones join", None
    return {
        "id": hold.id,
        "what": what,
        "where": where,
        "placed": exact(hold.placed_at, zone),
        "released": None if hold.released_at is None else exact(hold.released_at, zone),
    }


def _query(query: Mapping[str, Any], zone: ZoneInfo) -> str:
    parts = []
    for name, value in query.items():
        if not value:
            continue
        said = " or ".join(map(str, value)) if isinstance(value, list) else str(value)
        if name in ("started_from", "started_before"):
            said = day(said, zone.key)
        parts.append(f"{_QUERY_WORDS.get(name, name)} {said}")
    return ", ".join(parts)


async def change(request: web.Request) -> web.StreamResponse:
    """Set another review date, notes or custodians."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "matters"))["controller"]
    try:
        await desk.amend_matter(
            services,
            principal,
            path_id(request),
            review_on=forms.moment(forms.text(form, "review_on"), "review_on", controller.time_zone),
            notes=forms.text(form, "notes", limit=10_000),
            custodians=forms.words(forms.text(form, "custodians", limit=2000)),
            request_id=request[REQUEST_ID],
        )
    except (Conflict, InvalidInput) as error:
        return await _one(request, *forms.told(error))
    raise forms.see(f"/app/matters/{path_id(request)}?done=amended")


async def hold(request: web.Request) -> web.StreamResponse:
    """Hold a recording, all of a customer's, or what matches a query."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "matters"))["controller"]
    try:
        number, recording = forms.text(form, "customer"), forms.text(form, "recording")
        query = _asked(form, controller.time_zone)
        if sum((bool(number), bool(recording), bool(query))) != 1:
            raise InvalidInput("name either a recording, a customer, or what the calls have in common")
        customer_id = None
        if number:
            customer_id = await customer_of(services, principal, controller, number, request)
        await desk.place_hold(
            services,
            principal,
            path_id(request),
            recording_id=forms.identifier(recording, "a recording") if recording else None,
            customer_id=customer_id,
            query=query or None,
            request_id=request[REQUEST_ID],
        )
    except _REFUSALS as error:
        return await _one(request, *forms.told(error))
    raise forms.see(f"/app/matters/{path_id(request)}?done=held")


def _asked(form: Mapping[str, Any], zone: str) -> dict[str, Any]:
    query: dict[str, Any] = {
        name: found for name in ("queue", "agent", "tag") if (found := forms.words(forms.text(form, name)))
    }
    if direction := forms.text(form, "direction"):
        query["direction"] = [direction]
    for name, field, days in (("from", "started_from", 0), ("to", "started_before", 1)):
        if (moment := forms.moment(forms.text(form, name), name, zone, days=days)) is not None:
            query[field] = moment.isoformat()
    return query


async def release(request: web.Request) -> web.StreamResponse:
    """Ask for the release of a hold: a second person approves it."""
    services, principal = caller(request)
    try:
        hold_id = uuid.UUID(request.match_info["hold"])
    except ValueError:
        raise NotFound("no such hold") from None
    try:
        found = await desk.release_hold(
            services,
            principal,
            path_id(request),
            hold_id,
            approval_id=None,
            request_id=request[REQUEST_ID],
        )
    except _REFUSALS as error:
        return await _one(request, *forms.told(error))
    assert isinstance(found, ApprovalView)  # noqa: S101 - without an approval nothing is released
    raise forms.see(f"/app/matters/{path_id(request)}?done=asked")


async def close(request: web.Request) -> web.StreamResponse:
    """Close a matter whose holds are released."""
    services, principal = caller(request)
    try:
        await desk.close_matter(services, principal, path_id(request), request_id=request[REQUEST_ID])
    except Conflict as error:
        return await _one(request, *forms.told(error))
    raise forms.see(f"/app/matters/{path_id(request)}?done=closed")
