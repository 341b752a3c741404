"""Pages of the few: the quarantine for operators, custody for those who answer for the calls."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from urllib.parse import urlencode

from aiohttp import web

from recorder.access.accounts import load_principal
from recorder.api.framework import REQUEST_ID
from recorder.audit.query import EntryView
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
    """Ask for a recording by its id: auditors know no list of calls."""
    shown = await frame(request, "custody")
    asked = request.query.get("recording", "").strip()
    if not asked:
        return render("custody_find.html", shown | {"asked": "", "failure": None})
    try:
        recording_id = uuid.UUID(asked)
    except ValueError:
        failure = "That is not the id of a recording. It has 32 hexadecimal digits, with or without dashes."
        return render("custody_find.html", shown | {"asked": asked[:100], "failure": failure}, 422)
    raise web.HTTPSeeOther(f"/app/calls/{recording_id}/custody")


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
