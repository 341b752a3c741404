"""Pages of the few: the quarantine for operators, custody for those who answer for the calls."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.accounts import load_principal
from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.audit.query import EntryView, recent
from recorder.catalogue.tables import Controller
from recorder.errors import InvalidInput, NotFound
from recorder.ingest import quarantine
from recorder.playback import finding
from recorder.services import Services
from recorder.web import custody, views
from recorder.web.frame import caller, frame, page, path_id, render

_PAGE = 25


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/quarantine", page(quarantined))
    app.router.add_post("/app/quarantine/{id}", page(judge))
    app.router.add_get("/app/custody", page(find_custody))
    app.router.add_get("/app/calls/{id}/custody", page(show_custody))


async def quarantined(request: web.Request) -> web.StreamResponse:
    """What waits for a person, the oldest first."""
    services, principal = caller(request)
    shown = await frame(request, "quarantine")
    controller: Controller = shown["controller"]
    found = await quarantine.list_quarantined(
        services,
        principal,
        controller.id,
        cursor=request.query.get("cursor") or None,
        limit=_PAGE,
        request_id=request[REQUEST_ID],
    )
    return render(
        "quarantine.html",
        shown
        | {
            "items": [views.quarantined(row, controller) for row in found.items],
            "done": {"accept": "Accepted.", "recheck": "It is being checked again."}.get(
                request.query.get("done", "")
            ),
            "next": f"/app/quarantine?{urlencode({'cursor': found.next})}" if found.next else None,
        },
    )


async def judge(request: web.Request) -> web.StreamResponse:
    """Take a recording in as it is, or have it checked again."""
    services, principal = caller(request)
    decision = str((await request.post()).get("decision", ""))
    if decision not in ("accept", "recheck"):
        raise InvalidInput("decide: accept it, or check it again")
    await quarantine.decide(
        services,
        principal,
        path_id(request),
        "accept" if decision == "accept" else "recheck",
        request_id=request[REQUEST_ID],
    )
    raise web.HTTPSeeOther(f"/app/quarantine?done={decision}")


async def find_custody(request: web.Request) -> web.StreamResponse:
    """The newest entries about recordings, for whoever reads the log, or a recording by its id."""
    shown = await frame(request, "custody")
    asked = request.query.get("recording", "").strip()
    if not asked:
        return render(
            "custody_find.html", shown | {"asked": "", "failure": None, **await _newest(request, shown)}
        )
    try:
        recording_id = uuid.UUID(asked)
    except ValueError:
        failure = "That is not the id of a recording. It has 32 hexadecimal digits, with or without dashes."
        return render(
            "custody_find.html", shown | {"asked": asked[:100], "failure": failure, "log": None}, 422
        )
    raise web.HTTPSeeOther(f"/app/calls/{recording_id}/custody")


async def _newest(request: web.Request, shown: dict[str, Any]) -> dict[str, Any]:
    """A page of the newest entries about recordings; nothing for those who do not read the log."""
    services, principal = caller(request)
    controller: Controller = shown["controller"]
    if not decide(principal, Action.VIEW_AUDIT, controller_id=controller.id).allowed:
        return {"log": None}
    chosen, action = request.query.get("day", "").strip(), request.query.get("action", "")
    if action and action not in custody.KINDS:
        raise InvalidInput("choose one of the listed acts")
    since, until = _day(chosen, ZoneInfo(controller.time_zone)) if chosen else (None, None)
    cursor = request.query.get("before", "")
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 16):
        raise InvalidInput("before: give the number of an entry")
    async with services.database.snapshot() as session:
        found = await recent(
            session,
            "recording",
            controller_id=controller.id,
            before=int(cursor) if cursor else None,
            since=since,
            until=until,
            action=action or None,
            limit=_PAGE,
        )
    kept = {name: value for name, value in (("day", chosen), ("action", action)) if value}
    onward = None if found.next is None else f"/app/custody?{urlencode(kept | {'before': str(found.next)})}"
    return {
        "log": custody.lines(found.items, controller.time_zone),
        "day": chosen,
        "action": action,
        "kinds": custody.KINDS,
        "narrowed": bool(kept),
        "later": bool(cursor),
        "first": f"/app/custody?{urlencode(kept)}",
        "next": onward,
    }


def _day(chosen: str, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The beginning of a day and of the next one.

    Raises:
        InvalidInput: it is none.
    """
    try:
        first = date.fromisoformat(chosen)
        if not 1900 <= first.year <= 9000:
            raise ValueError
    except ValueError:
        raise InvalidInput("day: give a date, for example 2026-03-05") from None
    after = first + timedelta(days=1)
    return datetime(first.year, first.month, first.day, tzinfo=zone), datetime(
        after.year, after.month, after.day, tzinfo=zone
    )


async def show_custody(request: web.Request) -> web.StreamResponse:
    """Who did what with a recording, when and for which purpose. It outlives the recording."""
    services, principal = caller(request)
    recording_id = path_id(request)
    shown = await frame(request, "custody")
    controller: Controller = shown["controller"]
    entries = await finding.history(services, principal, recording_id, request_id=request[REQUEST_ID])
    if not entries:
        raise NotFound("there is no such call")
    acts = custody.acts(entries, await _people(services, entries), controller.time_zone)
    return render("custody.html", shown | {"recording": recording_id, "acts": acts})


async def _people(services: Services, entries: Sequence[EntryView]) -> dict[str, str]:
    """The roles that the people in a history hold now; names are not what custody is about."""
    accounts = {str(view.entry["actor"]) for view in entries}
    found: dict[str, str] = {}
    async with services.database.snapshot() as session:
        for actor in sorted(a for a in accounts if a.startswith("account:")):
            who = await load_principal(session, uuid.UUID(actor.partition(":")[2]))
            roles = [] if who is None else sorted({grant.role.value for grant in who.grants})
            found[actor] = ", ".join(roles).capitalize() or "A former colleague"
    return found
