"""Where store and catalogue differ, and what a person does about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.tables import Controller, Finding
from recorder.errors import Conflict, Erased, NotFound, Unavailable
from recorder.jobs import findings
from recorder.jobs.findings import Resolution
from recorder.web import forms
from recorder.web.frame import caller, frame, page, path_id, read_form, render
from recorder.web.views import exact

_KINDS: Final = {
    "missing": ("An object is missing", "The catalogue has it, the store does not."),
    "resized": ("An object has another size", "The store's copy is longer or shorter than what was written."),
    "tampered": ("An object is not what was written", "Its bytes do not pass their seal."),
    "unreadable": ("An object cannot be read", "The store answers, but not with the whole object."),
    "extra_version": (
        "There are versions too many",
        "Somebody else wrote or deleted under the object's key.",
    ),
    "locked": ("A lock keeps what was erased", "The store refuses to delete it until the lock ends."),
}
_ADVICE: Final = {
    "recheck": "Look again",
    "repair": "Repair",
    "adopt": "Adopt an intact copy",
    "accept": "It is known, and stays",
}
_WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "missing": ("recheck", "repair", "adopt", "accept"),
    "resized": ("recheck", "repair", "adopt", "accept"),
    "tampered": ("recheck", "repair", "adopt", "accept"),
    "unreadable": ("recheck", "repair", "adopt", "accept"),
    "extra_version": ("recheck", "repair", "accept"),
    "locked": ("recheck", "repair", "accept"),
}
_REPAIRS: Final = {
    "extra_version": "Delete the foreign versions",
    "locked": "Try to delete it",
}
_DONE: Final = {
    "recheck": "It was looked at again, and all is well: the finding is closed.",
    "repair": "It is repaired.",
    "adopt": "The intact copy is the object now.",
    "accept": "It is noted as known.",
}
_VIEWS: Final = {"open": "Open", "accepted": "Known", "resolved": "Settled", "gone": "Gone by themselves"}


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/findings", page(show))
    app.router.add_post("/app/findings/{id}", page(settle))


async def show(request: web.Request) -> web.StreamResponse:
    """What differs, the oldest first."""
    return await _list(request)


async def _list(request: web.Request, failure: str | None = None, status: int = 200) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "findings")
    controller: Controller = shown["controller"]
    state = request.query.get("state", "open")
    if state not in _VIEWS:
        raise NotFound("there is no such list of findings")
    rows = await findings.listing(
        services, principal, controller.id, state=state, limit=100, request_id=request[REQUEST_ID]
    )
    return render(
        "findings.html",
        shown
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "items": [_card(row, controller) for row in rows],
            "views": _VIEWS,
            "view": state,
            "may_settle": decide(principal, Action.MANAGE_QUARANTINE, controller_id=controller.id).allowed,
        },
        status,
    )


def _card(row: Finding, controller: Controller) -> dict[str, Any]:
    zone = ZoneInfo(controller.time_zone)
    title, words = _KINDS.get(row.kind, (row.kind.replace("_", " ").capitalize(), ""))
    ways = _WAYS.get(row.kind, ("recheck", "accept")) if row.state == findings.OPEN else ()
    return {
        "id": row.id,
        "title": title,
        "words": words,
        "key": row.key,
        "recording": row.recording_id,
        "first": exact(row.first_seen_at, zone),
        "last": exact(row.last_seen_at, zone),
        "detail": [(name.replace("_", " ").capitalize(), value) for name, value in row.detail.items()],
        "ways": [
            (way, _REPAIRS.get(row.kind, _ADVICE[way]) if way == "repair" else _ADVICE[way]) for way in ways
        ],
        "settled": None if row.resolved_at is None else exact(row.resolved_at, zone),
        "how": _ADVICE.get(row.resolution or "", row.resolution),
    }


async def settle(request: web.Request) -> web.StreamResponse:
    """Look again at a finding, repair, adopt or accept it."""
    services, principal = caller(request)
    shown = await frame(request, "findings")
    controller: Controller = shown["controller"]
    way = forms.one_of(await read_form(request), "action", get_args(Resolution))
    chosen: Resolution = next(each for each in get_args(Resolution) if each == way)
    try:
        await findings.resolve(
            services,
            principal,
            path_id(request),
            chosen,
            controller_id=controller.id,
            request_id=request[REQUEST_ID],
        )
    except (Conflict, Erased, Unavailable) as error:
        return await _list(request, *forms.told(error))
    raise forms.see(f"/app/findings?done={way}")
