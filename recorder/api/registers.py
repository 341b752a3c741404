"""Registers of recipients, disclosures and breaches; copies of what is kept of staff."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aiohttp import web

from recorder.access.approvals import ApprovalView
from recorder.api.framework import ApiCall, Route
from recorder.api.pending import ASKED, pending
from recorder.api.register_models import (
    BreachAnswer,
    BreachBody,
    BreachList,
    BreachQuery,
    BreachWords,
    DisclosureAnswer,
    DisclosureBody,
    DisclosureList,
    DisclosureQuery,
    EndQuery,
    HeardItem,
    HeardList,
    HeardQuery,
    NoNoticeBody,
    NotificationBody,
    RecipientAnswer,
    RecipientBody,
    RecipientList,
    RecipientTerms,
    RegisterQuery,
    ResearchAnswer,
    ResearchBody,
    ResearchRow,
    StaffAnswer,
    StaffCallItem,
    StaffRole,
    StaffScoreItem,
    StaffUseItem,
    breach_answer,
    disclosure_answer,
    recipient_answer,
)
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.playback.finding import controller_of
from recorder.registers import breaches, disclosures, recipients, research, staff
from recorder.registers.breaches import NewBreach
from recorder.registers.disclosures import NewDisclosure
from recorder.registers.recipients import NewRecipient
from recorder.registers.research import NewResearch


async def list_recipients(call: ApiCall) -> RecipientList:
    """GET /api/v1/registers/recipients."""
    controller_id = controller_of(call.principal, call.query.controller)
    found = await recipients.list_recipients(
        call.services, call.principal, controller_id, request_id=call.request_id
    )
    return RecipientList(items=[recipient_answer(view) for view in found])


async def register_recipient(call: ApiCall) -> RecipientAnswer:
    """POST /api/v1/registers/recipients."""
    body: RecipientBody = call.body
    new = NewRecipient(**body.model_dump(exclude={"controller"}))
    controller_id = controller_of(call.principal, body.controller)
    return recipient_answer(
        await recipients.register(
            call.services, call.principal, controller_id, new, request_id=call.request_id
        )
    )


async def amend_recipient(call: ApiCall) -> RecipientAnswer:
    """PATCH /api/v1/registers/recipients/{id}."""
    terms = call.body.model_dump(exclude_unset=True)
    return recipient_answer(
        await recipients.amend(
            call.services, call.principal, call.uuid("id"), terms, request_id=call.request_id
        )
    )


async def end_recipient(call: ApiCall) -> RecipientAnswer:
    """DELETE /api/v1/registers/recipients/{id}."""
    return recipient_answer(
        await recipients.end(
            call.services,
            call.principal,
            call.uuid("id"),
            forget=call.query.forget,
            request_id=call.request_id,
        )
    )


async def list_disclosures(call: ApiCall) -> DisclosureList:
    """GET /api/v1/registers/disclosures."""
    query: DisclosureQuery = call.query
    found = await disclosures.list_disclosures(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        recording_id=query.recording,
        recipient_id=query.recipient,
        request_id=call.request_id,
    )
    return DisclosureList(items=[disclosure_answer(view) for view in found])


async def disclose(call: ApiCall) -> DisclosureAnswer | web.Response:
    """POST /api/v1/registers/disclosures."""
    body: DisclosureBody = call.body
    new = NewDisclosure(tuple(body.recordings), body.ground, body.reference, body.recipient)
    found = await disclosures.disclose(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        new,
        approval_id=body.approval,
        request_id=call.request_id,
    )
    if isinstance(found, ApprovalView):
        return pending(found)
    return disclosure_answer(found)


async def export_research(call: ApiCall) -> ResearchAnswer | web.Response:
    """POST /api/v1/registers/research-exports."""
    body: ResearchBody = call.body
    found = await research.export(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        NewResearch(body.recipient, body.reference, body.since, body.until, body.queue),
        approval_id=body.approval,
        request_id=call.request_id,
    )
    if isinstance(found, ApprovalView):
        return pending(found)
    return ResearchAnswer(
        disclosure=found.disclosure.id,
        recipient=found.disclosure.recipient_id,
        rows=[ResearchRow.model_validate(row) for row in found.rows],
        left_out=found.left_out,
    )


async def list_breaches(call: ApiCall) -> BreachList:
    """GET /api/v1/registers/breaches."""
    query: BreachQuery = call.query
    hours = query.due_within_hours
    found = await breaches.list_breaches(
        call.services,
        call.principal,
        controller_of(call.principal, query.controller),
        due_within=None if hours is None else timedelta(hours=hours),
        request_id=call.request_id,
    )
    return BreachList(items=[breach_answer(view) for view in found])


async def open_breach(call: ApiCall) -> BreachAnswer:
    """POST /api/v1/registers/breaches."""
    body: BreachBody = call.body
    new = NewBreach(
        aware_at=body.aware_at,
        seen_from=body.seen_from,
        seen_until=body.seen_until,
        facts=body.facts,
        actor=body.actor,
        recording_ids=tuple(body.recordings),
    )
    controller_id = controller_of(call.principal, body.controller)
    return breach_answer(
        await breaches.open_breach(
            call.services, call.principal, controller_id, new, request_id=call.request_id
        )
    )


async def get_breach(call: ApiCall) -> BreachAnswer:
    """GET /api/v1/registers/breaches/{id}."""
    return breach_answer(
        await breaches.get_breach(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    )


async def describe_breach(call: ApiCall) -> BreachAnswer:
    """PATCH /api/v1/registers/breaches/{id}."""
    body: BreachWords = call.body
    return breach_answer(
        await breaches.describe(
            call.services,
            call.principal,
            call.uuid("id"),
            words=body.model_dump(exclude={"persons_told_at"}, exclude_none=True),
            persons_told_at=body.persons_told_at,
            request_id=call.request_id,
        )
    )


async def heard(call: ApiCall) -> HeardList:
    """GET /api/v1/registers/breaches/{id}/heard."""
    query: HeardQuery = call.query
    found = await breaches.heard(
        call.services,
        call.principal,
        call.uuid("id"),
        after=query.after,
        limit=query.limit,
        request_id=call.request_id,
    )
    return HeardList(
        items=[
            HeardItem(
                id=item.listen_id,
                recording=item.recording_id,
                actor=item.actor,
                purpose=item.purpose,
                link=item.link_id,
                opened_at=item.opened_at,
                last_active_at=item.last_active_at,
                seconds=item.seconds,
            )
            for item in found
        ]
    )


async def notify(call: ApiCall) -> BreachAnswer:
    """POST /api/v1/registers/breaches/{id}/notification."""
    body: NotificationBody = call.body
    return breach_answer(
        await breaches.notify(
            call.services,
            call.principal,
            call.uuid("id"),
            notified_at=body.notified_at,
            reference=body.reference,
            delay=body.delay,
            request_id=call.request_id,
        )
    )


async def need_no_notice(call: ApiCall) -> BreachAnswer:
    """POST /api/v1/registers/breaches/{id}/no-notification."""
    return breach_answer(
        await breaches.need_no_notice(
            call.services,
            call.principal,
            call.uuid("id"),
            reason=call.body.reason,
            request_id=call.request_id,
        )
    )


async def close_breach(call: ApiCall) -> BreachAnswer:
    """POST /api/v1/registers/breaches/{id}/close."""
    return breach_answer(
        await breaches.close(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    )


async def copy_staff(call: ApiCall) -> StaffAnswer:
    """GET /api/v1/staff/{account}/copy."""
    found = await staff.copy_of(
        call.services, call.principal, call.uuid("account"), request_id=call.request_id
    )
    return StaffAnswer(
        account=found.account_id,
        name=found.name,
        agent_code=found.agent_code,
        language=found.language,
        created_at=found.created_at,
        disabled_at=found.disabled_at,
        roles=[StaffRole(role=r, granted_at=start, revoked_at=end) for r, start, end in found.roles],
        calls=[
            StaffCallItem(recording=c.recording_id, started_at=c.started_at, state=c.state)
            for c in found.calls
        ],
        listening=[
            StaffUseItem(
                at=u.at, action=u.action, outcome=u.outcome, recording=u.recording_id, purpose=u.purpose
            )
            for u in found.listening
        ],
        scores=[
            StaffScoreItem(
                recording=s.recording_id,
                given_at=s.given_at,
                form=s.form,
                points=s.points,
                out_of=s.out_of,
                given=s.given,
            )
            for s in found.scores
        ],
    )


_TAG: Final = "registers"
_RECIPIENTS: Final = "/api/v1/registers/recipients"
_DISCLOSURES: Final = "/api/v1/registers/disclosures"
_BREACHES: Final = "/api/v1/registers/breaches"
_ONE: Final = (NotFound, Forbidden)
_CHANGED: Final = (*_ONE, Conflict, InvalidInput)

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("GET", _RECIPIENTS, list_recipients, summary="List processors and recipients", tag=_TAG,
          query=RegisterQuery, answer=RecipientList, raises=(Forbidden, InvalidInput)),
    Route("POST", _RECIPIENTS, register_recipient, summary="Enter a processor or recipient", tag=_TAG,
          body=RecipientBody, answer=RecipientAnswer, status=201, raises=(*_ONE, InvalidInput)),
    Route("PATCH", _RECIPIENTS + "/{id}", amend_recipient, summary="Renew a recipient's terms", tag=_TAG,
          body=RecipientTerms, answer=RecipientAnswer, raises=_CHANGED),
    Route("DELETE", _RECIPIENTS + "/{id}", end_recipient, summary="End a recipient; it stays listed",
          tag=_TAG, query=EndQuery, answer=RecipientAnswer, raises=(*_ONE, Conflict)),
    Route("GET", _DISCLOSURES, list_disclosures, summary="List disclosures", tag=_TAG,
          query=DisclosureQuery, answer=DisclosureList, raises=(Forbidden, InvalidInput)),
    Route("POST", _DISCLOSURES, disclose, summary="Disclose recordings, with a second person's approval",
          tag=_TAG, body=DisclosureBody, answer=DisclosureAnswer,
          other=ASKED, raises=(*_ONE, Erased, InvalidInput)),
    Route("POST", "/api/v1/registers/research-exports", export_research, tag=_TAG,
          summary="A pseudonymised set for research, with a second person's approval",
          body=ResearchBody, answer=ResearchAnswer,
          other=ASKED, raises=(*_ONE, InvalidInput)),
    Route("GET", _BREACHES, list_breaches, summary="List breaches, what is due first", tag=_TAG,
          query=BreachQuery, answer=BreachList, raises=(Forbidden, InvalidInput)),
    Route("POST", _BREACHES, open_breach, summary="Enter a personal data breach", tag=_TAG,
          body=BreachBody, answer=BreachAnswer, status=201, raises=(*_ONE, InvalidInput)),
    Route("GET", _BREACHES + "/{id}", get_breach, summary="One breach and its clock", tag=_TAG,
          answer=BreachAnswer, raises=_ONE),
    Route("PATCH", _BREACHES + "/{id}", describe_breach, summary="Write down facts, effects and measures",
          tag=_TAG, body=BreachWords, answer=BreachAnswer, raises=_CHANGED),
    Route("GET", _BREACHES + "/{id}/heard", heard, summary="Who heard what, and when", tag=_TAG,
          query=HeardQuery, answer=HeardList, raises=(*_ONE, InvalidInput)),
    Route("POST", _BREACHES + "/{id}/notification", notify, summary="Record that the authority was told",
          tag=_TAG, body=NotificationBody, answer=BreachAnswer, raises=_CHANGED),
    Route("POST", _BREACHES + "/{id}/no-notification", need_no_notice, tag=_TAG,
          summary="Record why the authority need not be told", body=NoNoticeBody, answer=BreachAnswer,
          raises=_CHANGED),
    Route("POST", _BREACHES + "/{id}/close", close_breach, summary="Close a breach", tag=_TAG,
          answer=BreachAnswer, raises=(*_ONE, Conflict)),
    Route("GET", "/api/v1/staff/{account}/copy", copy_staff, summary="What is kept of a member of staff",
          tag=_TAG, answer=StaffAnswer, raises=(*_ONE, Erased)),
)
# fmt: on
