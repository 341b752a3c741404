"""The registers of recipients and of disclosures: who may get data, and what was given to whom."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access.policy import Action, decide
from recorder.api.framework import REQUEST_ID
from recorder.api.register_models import RecipientBody, RecipientTerms
from recorder.catalogue.tables import Controller, RegisteredRecipient
from recorder.errors import Conflict, InvalidInput, NotFound, RecorderError
from recorder.registers import disclosures, recipients
from recorder.registers.recipients import TERMS, NewRecipient
from recorder.web import forms, registers_breaches
from recorder.web import registers_words as words
from recorder.web.frame import caller, frame, page, read_form, render
from recorder.web.registers_forms import Names, Reading, failure, given, the_id, wrong
from recorder.web.views import day, exact

_PAGE: Final = 50
_LAST_PAGE: Final = 200
_RECORDINGS: Final = 12
_FIELDS: Final = ("kind", "name", "purpose", *sorted(TERMS))
_DAYS: Final = frozenset({"contract_expires_at", "safeguard_expires_at"})
_DONE: Final = {
    "new": "The recipient is in the register.",
    "terms": "The new terms are entered.",
    "end": "The recipient is ended: nothing more is given to it.",
}
_Step = Callable[[web.Request, Mapping[str, Any], Controller], Awaitable[None]]


def mount(app: web.Application) -> None:
    """Serve the pages of all registers."""
    registers_breaches.mount(app)
    app.router.add_get("/app/recipients", page(recipient_list))
    app.router.add_post("/app/recipients", page(register))
    app.router.add_get("/app/recipients/{id}", page(recipient))
    app.router.add_post("/app/recipients/{id}/terms", page(_carried_out("terms", _amend)))
    app.router.add_post("/app/recipients/{id}/end", page(_carried_out("end", _end)))
    app.router.add_get("/app/disclosures", page(disclosure_list))


async def recipient_list(request: web.Request) -> web.StreamResponse:
    """All recipients, what has run out first, what was ended last."""
    return await _list(request, {}, None)


async def _list(
    request: web.Request, form: Mapping[str, Any], error: RecorderError | None
) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "registers")
    controller: Controller = shown["controller"]
    found = await recipients.list_recipients(
        services, principal, controller.id, request_id=request[REQUEST_ID]
    )
    zone, now = ZoneInfo(controller.time_zone), services.clock.now()
    rows = sorted((words.recipient(view, zone, now) for view in found), key=lambda row: int(row["rank"]))
    sentence, status = (None, 200) if error is None else failure(error)
    return render(
        "recipients.html",
        shown
        | {
            "tabs": words.TABS,
            "tab": "recipients",
            "failure": sentence,
            "may": decide(principal, Action.MANAGE_RECIPIENTS, controller_id=controller.id).allowed,
            "rows": rows,
            "shut": sum(1 for row in rows if row["rank"] == 0),
            "soon": sum(1 for row in rows if row["rank"] == 1),
            "within": words.RENEW_WITHIN.days,
            "kinds": words.KINDS,
            "safeguards": words.SAFEGUARDS,
            "personal": "personal" in form,
            "typed": {
                "values": {
                    "new": dict.fromkeys(_FIELDS, "")
                    | {name: str(form[name]) for name in _FIELDS if name in form}
                },
                "wrong": wrong("new", error),
            },
        },
        status,
    )


async def register(request: web.Request) -> web.StreamResponse:
    """Enter a recipient."""
    services, principal = caller(request)
    form = await read_form(request)
    controller: Controller = (await frame(request, "registers"))["controller"]
    reading = Reading(form, controller.time_zone)
    try:
        values = {name: _term(reading, name) for name in _FIELDS}
        body = reading.body(RecipientBody, given(values) | {"personal": "personal" in form})
        view = await recipients.register(
            services,
            principal,
            controller.id,
            NewRecipient(**body.model_dump(exclude={"controller"})),
            request_id=request[REQUEST_ID],
        )
    except InvalidInput as error:
        return await _list(request, form, error)
    raise forms.see(f"/app/recipients/{view.row.id}?done=new")


def _term(reading: Reading, name: str) -> Any:
    if name in _DAYS:
        return reading.end_of_day(name)
    typed = reading.text(name)
    return typed.upper() if name == "country" and typed is not None else typed


async def recipient(request: web.Request) -> web.StreamResponse:
    """One recipient with its terms."""
    return await _one(request)


async def _one(
    request: web.Request, posted: Mapping[str, Any] | None = None, error: RecorderError | None = None
) -> web.StreamResponse:
    services, principal = caller(request)
    recipient_id = the_id(request, "recipient")
    shown = await frame(request, "registers")
    controller: Controller = shown["controller"]
    found = await recipients.list_recipients(
        services, principal, controller.id, request_id=request[REQUEST_ID]
    )
    view = next((each for each in found if each.row.id == recipient_id), None)
    if view is None:
        raise NotFound("there is no such recipient")
    zone = ZoneInfo(controller.time_zone)
    known = _terms(view.row, zone)
    sentence, status = (None, 200) if error is None else failure(error)
    return render(
        "recipient.html",
        shown
        | words.recipient(view, zone, services.clock.now())
        | {
            "failure": sentence,
            "done": _DONE.get(request.query.get("done", "")),
            "may": decide(principal, Action.MANAGE_RECIPIENTS, controller_id=controller.id).allowed,
            "safeguards": {**words.SAFEGUARDS, **_named(known["safeguard"])},
            "registered_by": await Names(services).of(view.row.registered_by),
            # What the page had shown goes with the form: only what somebody changed is entered.
            "was": known | {name: str(value) for name, value in _was(posted).items()},
            "typed": {
                "values": {
                    "terms": known | {name: str(posted[name]) for name in known if posted and name in posted}
                },
                "wrong": wrong("terms", error),
            },
        },
        status,
    )


def _terms(row: RegisteredRecipient, zone: ZoneInfo) -> dict[str, str]:
    """Terms as the form has them."""
    return {
        "country": row.country,
        "contract_reference": row.contract_reference or "",
        "contract_expires_at": words.last_day_iso(row.contract_expires_at, zone),
        "safeguard": row.safeguard or "",
        "safeguard_expires_at": words.last_day_iso(row.safeguard_expires_at, zone),
    }


def _was(posted: Mapping[str, Any] | None) -> dict[str, Any]:
    given_back = {} if posted is None else posted
    return {name: given_back[f"was_{name}"] for name in TERMS if f"was_{name}" in given_back}


def _named(code: str) -> dict[str, str]:
    """A safeguard that was entered, to be chosen again even where it is not of the list."""
    return {code: words.safeguard(code) or code} if code else {}


def _carried_out(name: str, step: _Step) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Do a step, then show the recipient: as it is now, or with what was in the way at its field."""

    async def serve(request: web.Request) -> web.StreamResponse:
        form = await read_form(request)
        controller: Controller = (await frame(request, "registers"))["controller"]
        try:
            await step(request, form, controller)
        except (Conflict, InvalidInput) as error:
            return await _one(request, form, error)
        raise forms.see(f"/app/recipients/{the_id(request, 'recipient')}?done={name}")

    return serve


async def _amend(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """Enter those terms that somebody changed."""
    services, principal = caller(request)
    reading = Reading(form, controller.time_zone)
    changed = {
        name: _term(reading, name)
        for name in sorted(TERMS)
        if (reading.text(name) or "") != str(form.get(f"was_{name}", ""))
    }
    body = reading.body(RecipientTerms, changed)
    await recipients.amend(
        services,
        principal,
        the_id(request, "recipient"),
        body.model_dump(exclude_unset=True),
        request_id=request[REQUEST_ID],
    )


async def _end(request: web.Request, form: Mapping[str, Any], controller: Controller) -> None:
    """End it; a person's name goes too, where that was ticked."""
    services, principal = caller(request)
    await recipients.end(
        services,
        principal,
        the_id(request, "recipient"),
        forget="forget" in form,
        request_id=request[REQUEST_ID],
    )


async def disclosure_list(request: web.Request) -> web.StreamResponse:
    """What was given to whom, when, on which ground; the newest first."""
    services, principal = caller(request)
    shown = await frame(request, "registers")
    controller: Controller = shown["controller"]
    request_id = request[REQUEST_ID]
    number = _page_number(request.query.get("page"))
    wanted = request.query.get("recipient")
    of: uuid.UUID | None = None if wanted is None else forms.identifier(wanted, "a recipient")
    before = (number - 1) * _PAGE
    found = await disclosures.list_disclosures(
        services,
        principal,
        controller.id,
        recipient_id=of,
        limit=before + _PAGE + 1,
        request_id=request_id,
    )
    known = await recipients.list_recipients(services, principal, controller.id, request_id=request_id)
    names = {view.row.id: view.name or "Name removed" for view in known}
    zone, people = ZoneInfo(controller.time_zone), Names(services)
    rows = [
        {
            "day": day(view.row.disclosed_at, zone.key),
            "exact": exact(view.row.disclosed_at, zone),
            "iso": view.row.disclosed_at.isoformat(),
            "recipient": view.row.recipient_id,
            "name": names.get(view.row.recipient_id, "–"),
            "ground": words.GROUNDS.get(view.row.ground, view.row.ground.replace("_", " ").capitalize()),
            "reference": view.row.reference,
            "count": len(view.recording_ids),
            "recordings": [(item, str(item)[:8]) for item in view.recording_ids[:_RECORDINGS]],
            "by": await people.of(view.row.disclosed_by),
        }
        for view in found[before : before + _PAGE]
    ]
    one = {} if of is None else {"recipient": str(of)}
    return render(
        "disclosures.html",
        shown
        | {
            "tabs": words.TABS,
            "tab": "disclosures",
            "rows": rows,
            "only": None if of is None else names.get(of, "nobody who is in the register"),
            "number": number,
            "newer": _address(one, number - 1) if number > 1 else None,
            "older": _address(one, number + 1) if len(found) > before + _PAGE else None,
        },
    )


def _page_number(typed: str | None) -> int:
    try:
        number = 1 if typed is None else int(typed)
    except ValueError:
        number = 0
    if not 1 <= number <= _LAST_PAGE:
        raise InvalidInput("there is no such page of the register; begin again")
    return number


def _address(one: Mapping[str, str], number: int) -> str:
    query = {**one, **({"page": str(number)} if number > 1 else {})}
    return "/app/disclosures" + (f"?{urlencode(query)}" if query else "")
