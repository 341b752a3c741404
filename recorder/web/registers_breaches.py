"""The register of breaches: what is open with its 72 hours, a breach being reported, and the page of one."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.api.register_models import BreachBody, BreachWords, NoNoticeBody, NotificationBody
from recorder.catalogue.enums import BreachState
from recorder.catalogue.tables import Controller
from recorder.errors import Conflict, InvalidInput, NotFound, RecorderError
from recorder.registers import breaches
from recorder.registers.breaches import BreachView, NewBreach
from recorder.web import forms
from recorder.web import registers_words as words
from recorder.web.frame import caller, frame, page, read_form, render
from recorder.web.registers_forms import Names, Reading, failure, given, the_id, wrong
from recorder.web.views import PURPOSES, exact, short

_HEARD: Final = 50
_WRITTEN: Final = ("facts", "effects", "measures")
_LONG: Final = 10_000
_TYPED: Final[Mapping[str, tuple[str, ...]]] = {
    "report": ("aware_at", "seen_from", "seen_until", "facts", "actor", "recordings"),
    "words": _WRITTEN,
    "persons": ("persons_told_at",),
    "notification": ("notified_at", "reference", "delay"),
    "no-notice": ("reason",),
    "close": (),
}
_DONE: Final = {
    "report": "The breach is in the register, and its clock runs. Look now at who heard what.",
    "words": "It is written down.",
    "persons": "It is noted that the persons were told.",
    "notification": "It is noted that the authority was told.",
    "no-notice": "It is noted why the authority need not be told.",
    "close": "The breach is closed.",
}
_Step = Callable[[web.Request, Mapping[str, Any], Controller], Awaitable[None]]


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/breaches", page(listing))
    app.router.add_post("/app/breaches", page(report))
    app.router.add_get("/app/breaches/{id}", page(show))
    for name, step in _STEPS.items():
        app.router.add_post(f"/app/breaches/{{id}}/{name}", page(_carried_out(name, step)))


async def listing(request: web.Request) -> web.StreamResponse:
    """All breaches, what is open first."""
    return await _list(request, {}, None)


async def _list(
    request: web.Request, form: Mapping[str, Any], error: RecorderError | None
) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "registers")
    controller: Controller = shown["controller"]
    found = await breaches.list_breaches(services, principal, controller.id, request_id=request[REQUEST_ID])
    zone, now = ZoneInfo(controller.time_zone), services.clock.now()
    rows = [_row(view, zone, now) for view in sorted(found, key=_order)]
    sentence, status = (None, 200) if error is None else failure(error)
    noticed = {"aware_at": f"{now.astimezone(zone):%Y-%m-%dT%H:%M}"}
    return render(
        "breaches.html",
        shown
        | {
            "tabs": words.TABS,
            "tab": "breaches",
            "failure": sentence,
            "may": decide(principal, Action.MANAGE_BREACHES, controller_id=controller.id).allowed,
            "rows": rows,
            "late": sum(1 for row in rows if row["clock"].stage == "overdue"),
            "typed": {
                "values": {"report": _typed("report", noticed, form)},
                "wrong": wrong("report", error),
            },
        },
        status,
    )


def _order(view: BreachView) -> tuple[int, float]:
    """What is owed first, then what only has to be closed, then the newest of the others."""
    state = view.row.state
    if state is BreachState.OPEN:
        return 0, view.row.due_at.timestamp()
    return (2 if state is BreachState.CLOSED else 1), -view.row.due_at.timestamp()


def _row(view: BreachView, zone: ZoneInfo, now: datetime) -> dict[str, Any]:
    row = view.row
    return {
        "id": row.id,
        "reference": str(row.id)[:8],
        "clock": words.clock(row, zone, now),
        "deadline": short(row.due_at, zone, now),
        "state": words.STATES[row.state],
        "facts": words.excerpt(view.words.get("facts", "")),
    }


def _typed(form: str, known: Mapping[str, str], posted: Mapping[str, Any]) -> dict[str, str]:
    """What a form shows: what was typed where it was refused, otherwise what is known."""
    empty = dict.fromkeys(_TYPED[form], "")
    return {**empty, **known, **{name: str(posted[name]) for name in empty if name in posted}}


async def report(request: web.Request) -> web.StreamResponse:
    """Enter a breach: its clock runs from when it was noticed."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "registers"))["controller"]
    reading = Reading(form, controller.time_zone)
    try:
        values = {name: reading.moment(name) for name in ("aware_at", "seen_from", "seen_until")} | {
            "facts": reading.text("facts", limit=_LONG),
            "actor": reading.text("actor"),
            "recordings": reading.identifiers("recordings", "a recording"),
        }
        body = reading.body(BreachBody, given(values))
        new = NewBreach(
            aware_at=body.aware_at,
            seen_from=body.seen_from,
            seen_until=body.seen_until,
            facts=body.facts,
            actor=body.actor,
            recording_ids=tuple(body.recordings),
        )
        view = await breaches.open_breach(
            services, principal, controller.id, new, request_id=request[REQUEST_ID]
        )
    except (InvalidInput, NotFound) as error:
        return await _list(request, form, error)
    raise forms.see(f"/app/breaches/{view.row.id}?done=report")


async def show(request: web.Request) -> web.StreamResponse:
    """One breach: its clock, what is known of it, who heard what, and what can be done now."""
    return await _one(request)


async def _one(
    request: web.Request,
    step: str = "",
    posted: Mapping[str, Any] | None = None,
    error: RecorderError | None = None,
) -> web.StreamResponse:
    services, principal = caller(request)
    breach_id = the_id(request, "breach")
    shown = await frame(request, "registers")
    controller: Controller = shown["controller"]
    view = await breaches.get_breach(services, principal, breach_id, request_id=request[REQUEST_ID])
    may = decide(principal, Action.MANAGE_BREACHES, controller_id=view.row.controller_id).allowed
    row, zone, now = view.row, ZoneInfo(controller.time_zone), services.clock.now()
    names = Names(services)
    known = {name: view.words.get(name, "") for name in breaches.WORDS}
    here = {"notified_at": f"{now.astimezone(zone):%Y-%m-%dT%H:%M}"}
    start = {"words": {name: known[name] for name in _WRITTEN}, "notification": here}
    sentence, status = (None, 200) if error is None else failure(error)
    moments = {
        name: None if moment is None else exact(moment, zone)
        for name, moment in (
            ("seen_from", row.seen_from),
            ("seen_until", row.seen_until),
            ("opened", row.opened_at),
            ("notified", row.notified_at),
            ("persons_told", row.persons_told_at),
            ("closed", row.closed_at),
        )
    }
    return render(
        "breach.html",
        shown
        | moments
        | {
            "failure": sentence,
            "done": _DONE.get(request.query.get("done", "")),
            "may": may,
            "id": row.id,
            "reference": str(row.id)[:8],
            "clock": words.clock(row, zone, now),
            "state": row.state.value,
            "mark": words.STATES[row.state],
            "late": now > row.due_at,
            "known": known,
            "stamps": {name: _stamp(known[name]) for name in _WRITTEN},
            "authority_reference": row.notification_reference,
            "actor": row.actor,
            "actor_name": None if row.actor is None else await names.of(row.actor),
            "recordings": [(item, str(item)[:8]) for item in view.recording_ids],
            "opened_by": await names.of(row.opened_by),
            "notified_by": None if row.notified_by is None else await names.of(row.notified_by),
            "closed_by": None if row.closed_by is None else await names.of(row.closed_by),
            "heard": await _heard(request, breach_id, zone, names) if may else None,
            "typed": {
                "values": {
                    name: _typed(name, start.get(name, {}), (posted or {}) if name == step else {})
                    for name in _STEPS
                },
                "wrong": wrong(step, error),
            },
        },
        status,
    )


async def _heard(request: web.Request, breach_id: uuid.UUID, zone: ZoneInfo, names: Names) -> dict[str, Any]:
    services, principal = caller(request)
    after = request.query.get("after")
    found = await breaches.heard(
        services,
        principal,
        breach_id,
        after=None if after is None else forms.identifier(after, "a listen"),
        limit=_HEARD + 1,
        request_id=request[REQUEST_ID],
    )
    rows = [
        {
            "recording": item.recording_id,
            "reference": str(item.recording_id)[:8],
            "who": await names.of(item.actor),
            "purpose": PURPOSES.get(item.purpose, item.purpose),
            "at": exact(item.opened_at, zone),
            "seconds": f"{item.seconds:.0f} s",
        }
        for item in found[:_HEARD]
    ]
    more = found[_HEARD - 1].listen_id if len(found) > _HEARD else None
    return {"rows": rows, "later": more, "first": after is None}


def _carried_out(name: str, step: _Step) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Do a step, then show the breach: as it is now, or with what was in the way at its field."""

    async def serve(request: web.Request) -> web.StreamResponse:
        form = await read_form(request)
        controller: Controller = (await frame(request, "registers"))["controller"]
        try:
            await step(request, form, controller)
        except (Conflict, InvalidInput) as error:
            return await _one(request, name, form, error)
        raise forms.see(f"/app/breaches/{the_id(request, 'breach')}?done={name}")

    return serve


def _stamp(text: str) -> str:
    """What tells whether a text is still the one that a page had shown."""
    return hashlib.sha256(text.strip().replace("\r\n", "\n").encode()).hexdigest()


async def _describe(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Write down what is known by now; what the page had shown and nobody changed is left alone."""
    services, principal = caller(request)
    breach_id, request_id = the_id(request, "breach"), request[REQUEST_ID]
    reading = Reading(form, controller.time_zone)
    typed = {name: reading.text(name, limit=_LONG) for name in _WRITTEN}
    changed = {
        name: text for name, text in typed.items() if _stamp(text or "") != str(form.get(f"was_{name}", ""))
    }
    view = await breaches.get_breach(services, principal, breach_id, request_id=request_id)
    for name, text in changed.items():
        if text is None:
            reading.wrong.setdefault(name, "This was written down and cannot be emptied; correct it instead.")
        elif _stamp(view.words.get(name, "")) != str(form.get(f"was_{name}", "")):
            reading.wrong[name] = "Somebody has written here since the page was opened: look at it again."
    body = reading.body(BreachWords, given(changed))
    await breaches.describe(
        services, principal, breach_id, words=body.model_dump(exclude_none=True), request_id=request_id
    )


async def _tell_persons(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Note when the persons were told (GDPR art. 34)."""
    services, principal = caller(request)
    reading = Reading(form, controller.time_zone)
    told_at = reading.moment("persons_told_at")
    if told_at is None:
        reading.wrong.setdefault("persons_told_at", "Give the day and time at which they were told.")
    reading.raise_wrong()
    await breaches.describe(
        services,
        principal,
        the_id(request, "breach"),
        words={},
        persons_told_at=told_at,
        request_id=request[REQUEST_ID],
    )


async def _notify(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Note that the authority was told (GDPR art. 33(1))."""
    services, principal = caller(request)
    reading = Reading(form, controller.time_zone)
    values = {
        "notified_at": reading.moment("notified_at"),
        "reference": reading.text("reference"),
        "delay": reading.text("delay", limit=_LONG),
    }
    body = reading.body(NotificationBody, given(values))
    await breaches.notify(
        services,
        principal,
        the_id(request, "breach"),
        notified_at=body.notified_at,
        reference=body.reference,
        delay=body.delay,
        request_id=request[REQUEST_ID],
    )


async def _need_no_notice(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Note why nobody is at risk, so that the authority need not be told."""
    services, principal = caller(request)
    reading = Reading(form, controller.time_zone)
    body = reading.body(NoNoticeBody, given({"reason": reading.text("reason", limit=_LONG)}))
    await breaches.need_no_notice(
        services, principal, the_id(request, "breach"), reason=body.reason, request_id=request[REQUEST_ID]
    )


async def _close(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Close it."""
    services, principal = caller(request)
    await breaches.close(services, principal, the_id(request, "breach"), request_id=request[REQUEST_ID])


_STEPS: Final[Mapping[str, _Step]] = {
    "words": _describe,
    "persons": _tell_persons,
    "notification": _notify,
    "no-notice": _need_no_notice,
    "close": _close,
}
