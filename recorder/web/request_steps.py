"""What is done with a request on its page: matching, identity, time, decision, letter, copies, undoing."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from recorder.access.principals import Principal
from recorder.api.framework import REQUEST_ID
from recorder.catalogue.enums import IdentityMethod, IdentityOutcome, RequestStage
from recorder.catalogue.tables import Controller
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.rights import deciding, notices, packages, previewing, register, sending, undoing
from recorder.rights.deciding import Decided, Refusal
from recorder.services import Services
from recorder.web import forms
from recorder.web import request_words as words
from recorder.web.frame import caller, frame, page, path_id, read_form
from recorder.web.requests import customer_of, one
from retention.rights import RefusalGround

_WHOLE = {"granted", "refused", "no_data"}


@dataclass(frozen=True, slots=True)
class At:
    """A form that was posted about a request."""

    request: web.Request
    services: Services
    principal: Principal
    rights_id: uuid.UUID
    form: Mapping[str, Any]

    @property
    def request_id(self) -> str:
        """Ties what is written to the log to the service's own."""
        return str(self.request[REQUEST_ID])


_Step = Callable[[At], Awaitable[str]]


def mount(app: web.Application) -> None:
    """Serve these forms."""
    for name, step in (
        ("customer", match),
        ("identity", identity),
        ("extension", extend),
        ("decision", decide),
        ("letter", letter),
        ("copies", order),
        ("notice", acknowledge),
        ("undo", undo),
    ):
        app.router.add_post(f"/app/requests/{{id}}/{name}", page(_carried_out(step)))


def _carried_out(step: _Step) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Do a step, then show the request: as it is now, or with what was in the way."""

    @functools.wraps(step)
    async def serve(request: web.Request) -> web.StreamResponse:
        services, principal = caller(request)
        at = At(request, services, principal, path_id(request), await read_form(request))
        try:
            done = await step(at)
        except (Conflict, Forbidden, InvalidInput, NotFound) as error:
            return await one(request, at.rights_id, *forms.told(error))
        raise forms.see(f"/app/requests/{at.rights_id}?done={done}")

    return serve


async def match(at: At) -> str:
    """Say whose request it is, by the customer's number."""
    controller: Controller = (await frame(at.request, "requests"))["controller"]
    number = forms.text(at.form, "customer")
    if not number:
        raise InvalidInput("give the customer's number")
    customer_id = await customer_of(at.services, at.principal, controller, number, at.request)
    await register.match(at.services, at.principal, at.rights_id, customer_id, request_id=at.request_id)
    return "matched"


async def identity(at: At) -> str:
    """Note the identity check."""
    await register.note_identity(
        at.services,
        at.principal,
        at.rights_id,
        method=forms.code(at.form, "method", IdentityMethod),
        outcome=forms.code(at.form, "outcome", IdentityOutcome),
        request_id=at.request_id,
    )
    return "identity"


async def extend(at: At) -> str:
    """Take two further months."""
    reason = forms.one_of(at.form, "reason", register.EXTENSION_REASONS)
    await register.extend(at.services, at.principal, at.rights_id, reason=reason, request_id=at.request_id)
    return "extended"


async def decide(at: At) -> str:
    """Decide, as long as a grant takes what the page had said that it takes."""
    outcome = forms.one_of(at.form, "outcome", _WHOLE)
    stage = RequestStage(outcome)
    ground = forms.code(at.form, "ground", RefusalGround) if stage is RequestStage.REFUSED else None
    refusals: tuple[Refusal, ...] = ()
    if stage is RequestStage.GRANTED:
        foreseen = await previewing.foresee(at.services, at.principal, at.rights_id, request_id=at.request_id)
        goes = sum(1 for item in foreseen if item.outcome == "granted")
        if forms.text(at.form, "goes") != str(goes):
            raise Conflict(
                "what this request takes has changed since the page was opened; look at it again",
                kind="request-changed",
            )
        controller: Controller = (await frame(at.request, "requests"))["controller"]
        refusals = _refusals(at.form, controller)
    decided = Decided(
        stage=stage,
        ground=ground,
        refusals=refusals,
        mute_agent=forms.text(at.form, "mute_agent") == "yes",
        restriction=forms.text(at.form, "restriction") or "accuracy",
    )
    await deciding.decide(at.services, at.principal, at.rights_id, decided, request_id=at.request_id)
    return "decided"


def _refusals(form: Mapping[str, Any], controller: Controller) -> tuple[Refusal, ...]:
    """What is left out, and when what a hold keeps is looked at again."""
    found = []
    for name in form:
        field, _, recording = name.partition(".")
        if field not in ("ground", "review") or not recording or not form[name]:
            continue
        recording_id = forms.identifier(recording, "a recording")
        if field == "ground":
            found.append(Refusal(recording_id, forms.code(form, name, RefusalGround)))
        else:
            review = forms.moment(forms.text(form, name), "review", controller.time_zone)
            found.append(Refusal(recording_id, RefusalGround.LEGAL_CLAIMS, review))
    return tuple(found)


async def letter(at: At) -> str:
    """Note that the letter with the decision was sent."""
    await sending.note_sent(at.services, at.principal, at.rights_id, request_id=at.request_id)
    return "sent"


async def order(at: At) -> str:
    """Have the copies made."""
    await packages.order(at.services, at.principal, at.rights_id, request_id=at.request_id)
    return "ordered"


async def acknowledge(at: At) -> str:
    """Note that a recipient confirmed."""
    number = forms.text(at.form, "number")
    if not number.isascii() or not number.isdigit() or len(number) > 6:
        raise InvalidInput("there is no such notice")
    await notices.acknowledge(at.services, at.principal, at.rights_id, int(number), request_id=at.request_id)
    return "acknowledged"


async def undo(at: At) -> str:
    """Take the request off its customer."""
    reason = forms.one_of(at.form, "reason", words.UNDOINGS)
    number = forms.text(at.form, "customer")
    customer_id = None
    if number:
        controller: Controller = (await frame(at.request, "requests"))["controller"]
        customer_id = await customer_of(at.services, at.principal, controller, number, at.request)
    await undoing.undo(
        at.services,
        at.principal,
        at.rights_id,
        reason=reason,
        customer_id=customer_id,
        request_id=at.request_id,
    )
    return "undone"
