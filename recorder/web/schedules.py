"""Retention schedules: their versions, what a proposed one would do to all there is, putting one in force."""

from __future__ import annotations

import base64
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.approvals import ApprovalView
from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.tables import Controller
from recorder.disposition import desk, reevaluation, scheduling
from recorder.disposition.scheduling import Simulation
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.web import forms
from recorder.web.frame import caller, frame, page, read_form, render
from recorder.web.plot import Theme, stacked_bars
from recorder.web.views import PURPOSES, exact
from retention.simulate import Comparison, Total

_LIMIT: Final = 500_000
_DONE: Final = {
    "stored": "The version is stored. Nothing changes until it is put in force.",
    "active": "The version is in force. Stored decisions follow in the background.",
    "asked": "It shortens something, so a second person has to approve it; see Approvals.",
}
_HORIZONS: Final = {0: "Now", 30: "In 30 days", 90: "In 90 days", 365: "In a year"}


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/schedules", page(show))
    app.router.add_post("/app/schedules", page(propose))
    app.router.add_get("/app/schedules/{version}", page(one))
    app.router.add_post("/app/schedules/{version}", page(activate))


async def show(request: web.Request) -> web.StreamResponse:
    """The versions, and a place to try another one."""
    return await _page(request)


async def _page(
    request: web.Request,
    *,
    document: str = "",
    problems: list[str] | None = None,
    failure: str | None = None,
    found: Simulation | None = None,
    status: int = 200,
) -> web.StreamResponse:
    services, principal = caller(request)
    request_id = request[REQUEST_ID]
    shown = await frame(request, "schedules")
    controller: Controller = shown["controller"]
    zone = ZoneInfo(controller.time_zone)
    rows = await desk.list_schedules(services, principal, controller.id, request_id=request_id)
    progress = await reevaluation.read_progress(services, principal, controller.id, request_id=request_id)
    in_force = max((row.version for row in rows if row.activated_at is not None), default=0)
    return render(
        "schedules.html",
        shown
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "problems": problems or [],
            "document": document,
            "limit": _LIMIT,
            "in_force": in_force,
            "may_change": decide(principal, Action.MANAGE_SCHEDULES, controller_id=controller.id).allowed,
            "followed": progress.recordings - progress.outstanding,
            "recordings": progress.recordings,
            "outstanding": progress.outstanding,
            "rows": [
                {
                    "version": row.version,
                    "state": "In force"
                    if row.version == in_force
                    else "Past"
                    if row.activated_at
                    else "Stored",
                    "created": exact(row.created_at, zone),
                    "activated": None if row.activated_at is None else exact(row.activated_at, zone),
                    "ahead": row.activated_at is None and row.version > in_force,
                }
                for row in rows
            ],
            "result": None if found is None else _result(found),
        },
        status,
    )


async def propose(request: web.Request) -> web.StreamResponse:
    """Simulate a document, or store it as the next version."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "schedules"))["controller"]
    request_id = request[REQUEST_ID]
    step = forms.one_of(form, "step", ("simulate", "store"))
    document = str(form.get("document", "")).replace("\r\n", "\n")
    try:
        if not document.strip() or len(document) > _LIMIT:
            raise InvalidInput(f"paste a schedule of at most {_LIMIT:,} characters")
        if step == "store":
            await scheduling.store(services, principal, controller.id, document, request_id=request_id)
        else:
            found = await scheduling.simulate_document(
                services, principal, controller.id, document, request_id=request_id
            )
            return await _page(request, document=document, found=found)
    except InvalidInput as error:
        problems = [f"{field.path.lstrip('/')}: {field.message}".lstrip(": ") for field in error.fields]
        sentence, status = forms.told(error)
        failure = "The schedule cannot be used as it is." if problems else sentence
        return await _page(request, document=document, problems=problems, failure=failure, status=status)
    except (Conflict, NotFound) as error:
        sentence, status = forms.told(error)
        return await _page(request, document=document, failure=sentence, status=status)
    raise forms.see("/app/schedules?done=stored")


async def one(request: web.Request) -> web.StreamResponse:
    """A version's document and what it would do now."""
    services, principal = caller(request)
    controller: Controller = (await frame(request, "schedules"))["controller"]
    request_id, version = request[REQUEST_ID], _version(request)
    row = await desk.get_schedule(services, principal, controller.id, version, request_id=request_id)
    found = None
    if row.activated_at is None:
        found = await scheduling.simulate_version(
            services, principal, controller.id, version, request_id=request_id
        )
    return await _page(request, document=row.document, found=found)


async def activate(request: web.Request) -> web.StreamResponse:
    """Put a version in force, or ask a second person where it shortens anything."""
    services, principal = caller(request)
    controller: Controller = (await frame(request, "schedules"))["controller"]
    try:
        found, _ = await scheduling.activate(
            services, principal, controller.id, _version(request), request_id=request[REQUEST_ID]
        )
    except (Conflict, Forbidden) as error:
        sentence, status = forms.told(error)
        return await _page(request, failure=sentence, status=status)
    raise forms.see(f"/app/schedules?done={'asked' if isinstance(found, ApprovalView) else 'active'}")


def _version(request: web.Request) -> int:
    text = request.match_info["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFound("there is no such version")
    return int(text)


def _result(found: Simulation) -> dict[str, Any]:
    """What a simulation says, as tables and as a plot in either theme."""
    comparison = found.comparison
    return {
        "version": found.version,
        "against": found.against,
        "needs_approval": found.needs_approval,
        "shortens": comparison.shortens,
        "recordings": f"{comparison.recordings.count:,}",
        "undecided": comparison.undecided_new.count,
        "due": [
            (_HORIZONS.get(days, f"In {days} days"), f"{comparison.due_old[days].count:,}", *_cells(new))
            for days, new in comparison.due_new.items()
        ],
        "movements": [
            (
                PURPOSES[purpose].capitalize(),
                rule or "No rule",
                *(f"{total.count:,}" for total in (m.opened, m.closed, m.longer, m.shorter)),
                *_cells(m.closed)[1:],
            )
            for (purpose, rule), m in sorted(comparison.movements.items())
        ],
        "light": _plot(comparison, "light"),
        "dark": _plot(comparison, "dark"),
    }


def _cells(total: Total) -> tuple[str, str, str]:
    """Count, hours and bytes."""
    size, units = float(total.size), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{total.count:,}", f"{total.audio.total_seconds() / 3600:,.1f}", f"{size:,.0f} {units[0]}"


def _plot(comparison: Comparison, theme: Theme) -> str:
    """Bars, before and after, as an address of its own: the page's rules allow no style inside it."""
    columns, series = [], {"in force": [0] * 8, "proposed": [0] * 8}
    for index, days in enumerate(comparison.due_new):
        columns += [_HORIZONS.get(days, f"In {days} days"), ""]
        series["in force"][2 * index] = comparison.due_old[days].count
        series["proposed"][2 * index + 1] = comparison.due_new[days].count
    width = len(columns)
    svg = stacked_bars(
        "Recordings due under the schedule in force and under the proposed one",
        columns,
        {name: values[:width] for name, values in series.items()},
        theme,
        unit="recordings due",
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
