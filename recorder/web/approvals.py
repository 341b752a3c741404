"""Steps that need a second person: what waits for whom, deciding as the second, carrying out the approved."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.access import approvals
from recorder.access.accounts import display_name
from recorder.access.approvals import ApprovalView
from recorder.access.policy import Action, decide
from recorder.access.principals import Principal
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.enums import ApprovalState
from recorder.catalogue.tables import Controller
from recorder.disposition import desk, released_sweep, scheduling
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.registers.recipients import list_recipients
from recorder.services import Services
from recorder.web import approval_words, forms
from recorder.web.approval_words import STEPS
from recorder.web.frame import caller, frame, page, path_id, read_form, render
from recorder.web.views import exact

# What the page itself can carry out; the others are sent again where they were asked for.
_HERE: Final = ("hold_release", "schedule_activate", "sweep_brake")
_BUTTONS: Final = {
    "hold_release": "Release the hold",
    "schedule_activate": "Put it in force",
    "sweep_brake": "Let the sweep go on",
}
_STATES: Final = {
    "pending": "Waits",
    "approved": "Approved",
    "refused": "Refused",
    "used": "Carried out",
    "expired": "Expired",
}
_DONE: Final = {
    "approved": "You approved it. Whoever asked can carry it out now.",
    "refused": "You refused it.",
    "carried": "It is carried out.",
    "sweeping": "The sweep goes on in the background.",
}
_LATELY: Final = 30


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/approvals", page(show))
    app.router.add_post("/app/approvals/{id}/decision", page(judge))
    app.router.add_post("/app/approvals/{id}/step", page(carry_out))


async def show(request: web.Request) -> web.StreamResponse:
    """What waits, what was approved and not yet carried out, what was decided lately."""
    return await _list(request)


async def _list(request: web.Request, failure: str | None = None, status: int = 200) -> web.StreamResponse:
    services, principal = caller(request)
    shown = await frame(request, "approvals")
    controller: Controller = shown["controller"]
    found = await approvals.list_approvals(services, principal, controller.id, request_id=request[REQUEST_ID])
    names: dict[str, str] = {}
    for view in found:
        for actor in (view.requested_by, view.decided_by):
            if actor is not None and actor not in names:
                names[actor] = await _name(services, actor)
    names |= await _targets(services, principal, found, request[REQUEST_ID])
    may = decide(principal, Action.DECIDE_APPROVAL, controller_id=controller.id).allowed
    cards = [_card(view, principal, controller, names, may_decide=may) for view in found]
    return render(
        "approvals.html",
        shown
        | {
            "failure": failure,
            "done": _DONE.get(request.query.get("done", "")),
            "waiting": [c for c in cards if c["state"] == "pending" and not c["own"]],
            "own": [c for c in cards if c["state"] == "pending" and c["own"]],
            "approved": [c for c in cards if c["state"] == "approved"],
            "past": [c for c in cards if c["state"] not in ("pending", "approved")][:_LATELY],
            "may_decide": may,
        },
        status,
    )


def _card(
    view: ApprovalView,
    principal: Principal,
    controller: Controller,
    names: Mapping[str, str],
    *,
    may_decide: bool,
) -> dict[str, Any]:
    zone = ZoneInfo(controller.time_zone)
    taken = approvals.STEPS.get(view.action)  # None: nobody takes it but the service
    right = taken is not None and decide(principal, taken, controller_id=controller.id).allowed
    # Who let the brake go must not be who starts the sweep that it held: the service had asked, nobody else.
    second = view.action != released_sweep.BRAKE_ACTION or view.decided_by != principal.actor
    told = approval_words.words(view, names, zone)
    return {
        "id": view.id,
        "step": STEPS.get(view.action, view.action.replace("_", " ").capitalize()),
        "what": told.what,
        "effect": told.effect,
        "state": view.state.value,
        "word": _STATES[view.state.value],
        "own": view.requested_by == principal.actor,
        "asked_by": names[view.requested_by],
        "asked": exact(view.requested_at, zone),
        "until": exact(view.expires_at, zone),
        "decided_by": None if view.decided_by is None else names[view.decided_by],
        "decided": None if view.decided_at is None else exact(view.decided_at, zone),
        "facts": approval_words.facts(view, principal),
        "button": _BUTTONS.get(view.action) if right and second else None,
        "other": view.action in _HERE and right and not second,
        "itself": taken is None,
        "may_decide": may_decide,
    }


async def _targets(
    services: Services, principal: Principal, found: Sequence[ApprovalView], request_id: str
) -> dict[str, str]:
    """Names of the accounts and recipients that approvals are about."""
    names: dict[str, str] = {}
    for view in found:
        if view.action == approvals.LISTENING_ROLE and approval_words.is_account(view.target):
            if view.target == str(view.controller_id):  # a token for which nobody answers
                continue
            names[view.target] = await _name(services, f"account:{view.target}")
    given = [view.controller_id for view in found if view.action in approval_words.GIVEN_TO]
    if given and decide(principal, Action.VIEW_REGISTERS, controller_id=given[0]).allowed:
        for known in await list_recipients(services, principal, given[0], request_id=request_id):
            names[str(known.row.id)] = known.name
    return names


async def _name(services: Services, actor: str) -> str:
    kind, _, identity = actor.partition(":")
    if kind == "account":
        try:
            return await display_name(services, uuid.UUID(identity))
        except (Erased, NotFound):
            return "A former colleague"
    words = {"system": "The service", "os": "The command line", "token": "An API client"}
    return words.get(kind, kind)


async def judge(request: web.Request) -> web.StreamResponse:
    """Approve or refuse, as the second person."""
    services, principal = caller(request)
    decision = forms.one_of(await read_form(request), "decision", ("approve", "refuse"))
    try:
        view = await approvals.decide_approval(
            services,
            principal,
            path_id(request),
            approve=decision == "approve",
            request_id=request[REQUEST_ID],
        )
    except (Conflict, Forbidden) as error:
        return await _list(request, *forms.told(error))
    raise forms.see(
        f"/app/approvals?done={'approved' if view.state is ApprovalState.APPROVED else 'refused'}"
    )


async def carry_out(request: web.Request) -> web.StreamResponse:
    """Take a step that was approved."""
    services, principal = caller(request)
    approval_id, request_id = path_id(request), request[REQUEST_ID]
    view = await approvals.get_approval(services, principal, approval_id, request_id=request_id)
    done = "carried"
    try:
        match view.action:
            case "hold_release":
                await desk.release_hold(
                    services,
                    principal,
                    uuid.UUID(str(view.details.get("matter"))),
                    uuid.UUID(view.target),
                    approval_id=approval_id,
                    request_id=request_id,
                )
            case "schedule_activate":
                await scheduling.activate(
                    services,
                    principal,
                    view.controller_id,
                    int(view.target.rpartition(":")[2]),
                    approval_id=approval_id,
                    request_id=request_id,
                )
            case "sweep_brake":
                await released_sweep.order(services, principal, view, request_id=request_id)
                done = "sweeping"
            case _:
                raise InvalidInput("carry this out where it was asked for; the approval is given with it")
    except (Conflict, Forbidden, InvalidInput, NotFound) as error:
        return await _list(request, *forms.told(error))
    except ValueError:
        return await _list(request, "This approval names nothing that can be carried out.", 422)
    raise forms.see(f"/app/approvals?done={done}")
