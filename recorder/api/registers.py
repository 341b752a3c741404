"""Registers of recipients, disclosures and breaches; copies of what is kept of staff."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.access.approvals import ApprovalView
from recorder.api.framework import ApiCall, Route, json_response
from recorder.catalogue.enums import BreachState, RecipientKind
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.playback.finding import controller_of
from recorder.registers import breaches, disclosures, recipients, staff
from recorder.registers.breaches import BreachView, NewBreach
from recorder.registers.disclosures import DisclosureView, NewDisclosure
from recorder.registers.recipients import NewRecipient, RecipientView

_CLEAN: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_SHOWN: Final = r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_SHOWN)]
Words = Annotated[str, Field(min_length=1, max_length=10_000, pattern=_CLEAN)]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]*$", max_length=64)]
Safeguard = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RegisterQuery(_Model):
    """Which controller, where the caller has several."""

    controller: uuid.UUID | None = None


class DisclosureQuery(RegisterQuery):
    """Which disclosures."""

    recording: uuid.UUID | None = None
    recipient: uuid.UUID | None = None


class BreachQuery(RegisterQuery):
    """Which breaches."""

    due_within_hours: Annotated[int, Field(ge=0, le=8760)] | None = Field(
        None, description="only open ones whose clock runs out by then; 0: has run out"
    )


class HeardQuery(_Model):
    """Which page."""

    after: uuid.UUID | None = Field(None, description="the last listen of the page before")
    limit: Annotated[int, Field(ge=1, le=1000)] = 500


class EndQuery(_Model):
    """What happens to a person's name."""

    forget: bool = Field(False, description="a person's name is removed; they get no notices any more")


class RecipientBody(_Model):
    """A processor or another recipient. Outside the EU and the EEA it needs a safeguard with an end."""

    controller: uuid.UUID | None = None
    kind: RecipientKind
    name: Name
    personal: bool = Field(False, description="the name is a person's; always so for kind person")
    purpose: Name = Field(description="what it gets data for; names no person")
    country: Country
    contract_reference: Reference | None = None
    contract_expires_at: AwareDatetime | None = None
    safeguard: Safeguard | None = Field(None, description="for example standard_contractual_clauses")
    safeguard_expires_at: AwareDatetime | None = None


class RecipientTerms(_Model):
    """New terms; what is left out stays."""

    country: Country | None = None
    contract_reference: Reference | None = None
    contract_expires_at: AwareDatetime | None = None
    safeguard: Safeguard | None = None
    safeguard_expires_at: AwareDatetime | None = None


class RecipientAnswer(BaseModel):
    """A recipient, and whether anything may be given to it now."""

    id: uuid.UUID
    kind: RecipientKind
    name: str
    purpose: str
    country: str
    contract_reference: str | None
    contract_expires_at: datetime | None
    safeguard: str | None
    safeguard_expires_at: datetime | None
    registered_at: datetime
    ended_at: datetime | None
    usable: bool
    reason: str | None = Field(description="code of why nothing may be given to it")


class RecipientList(BaseModel):
    """Recipients in the order they were entered."""

    items: list[RecipientAnswer]


class DisclosureBody(_Model):
    """What is given to whom. Without ground, reference or recipient it is refused."""

    controller: uuid.UUID | None = None
    recordings: Annotated[list[uuid.UUID], Field(min_length=1, max_length=500)]
    ground: Annotated[str, Field(max_length=40)] | None = Field(
        None, description="customer_request, authority_request or court_order"
    )
    reference: Reference | None = None
    recipient: uuid.UUID | None = None
    approval: uuid.UUID | None = Field(None, description="without it, the disclosure is asked for")


class DisclosureAnswer(BaseModel):
    """A disclosure."""

    id: uuid.UUID
    recipient: uuid.UUID
    ground: str
    reference: str
    recordings: list[uuid.UUID]
    approval: uuid.UUID
    disclosed_at: datetime
    disclosed_by: str


class DisclosureList(BaseModel):
    """Disclosures, the newest first, at most 200."""

    items: list[DisclosureAnswer]


class DisclosurePending(BaseModel):
    """A disclosure that waits for a second person."""

    approval: uuid.UUID
    state: str
    expires_at: datetime


class BreachBody(_Model):
    """A personal data breach."""

    controller: uuid.UUID | None = None
    aware_at: AwareDatetime = Field(description="when it was known; starts the 72 hours")
    seen_from: AwareDatetime
    seen_until: AwareDatetime
    facts: Words
    actor: (
        Annotated[str, Field(pattern=r"^(account|token|source|link|os|system):[A-Za-z0-9_.@-]{1,100}$")]
        | None
    ) = None
    recordings: Annotated[list[uuid.UUID], Field(max_length=500)] = []


class BreachWords(_Model):
    """What is found out later; what is left out stays."""

    facts: Words | None = None
    effects: Words | None = None
    measures: Words | None = None
    persons_told_at: AwareDatetime | None = None


class NotificationBody(_Model):
    """That the authority was told."""

    notified_at: AwareDatetime
    reference: Reference
    delay: Annotated[str, Field(max_length=10_000, pattern=_CLEAN)] = Field(
        "", description="why it took longer than 72 hours"
    )


class NoNoticeBody(_Model):
    """Why the authority need not be told."""

    reason: Words


class BreachAnswer(BaseModel):
    """A breach and its clock."""

    id: uuid.UUID
    state: BreachState
    aware_at: datetime
    due_at: datetime
    overdue: bool
    seen_from: datetime
    seen_until: datetime
    actor: str | None
    recordings: list[uuid.UUID]
    facts: str
    effects: str
    measures: str
    delay: str
    reason: str
    opened_at: datetime
    notified_at: datetime | None
    notification_reference: str | None
    persons_told_at: datetime | None
    closed_at: datetime | None


class BreachList(BaseModel):
    """Breaches, what is due first."""

    items: list[BreachAnswer]


class HeardItem(BaseModel):
    """One listen."""

    id: uuid.UUID
    recording: uuid.UUID
    actor: str
    purpose: str
    link: uuid.UUID | None
    opened_at: datetime
    last_active_at: datetime
    seconds: float


class HeardList(BaseModel):
    """Listens, the first first."""

    items: list[HeardItem]


class StaffRole(BaseModel):
    """A role that somebody has or had."""

    role: str
    granted_at: datetime
    revoked_at: datetime | None


class StaffCallItem(BaseModel):
    """A call that somebody served."""

    recording: uuid.UUID
    started_at: datetime
    state: str


class StaffUseItem(BaseModel):
    """A use of a recording."""

    at: datetime
    action: str
    outcome: str
    recording: str
    purpose: str | None


class StaffScoreItem(BaseModel):
    """Points for a call that somebody was given, or gave."""

    recording: uuid.UUID
    given_at: datetime
    form: str
    points: int
    out_of: int
    given: bool = Field(description="given by this person, not to them")


class StaffAnswer(BaseModel):
    """What is kept of a member of staff; nothing of customers."""

    account: uuid.UUID
    name: str
    agent_code: str | None
    language: str
    created_at: datetime
    disabled_at: datetime | None
    roles: list[StaffRole]
    calls: list[StaffCallItem]
    listening: list[StaffUseItem]
    scores: list[StaffScoreItem]


async def list_recipients(call: ApiCall) -> RecipientList:
    """GET /api/v1/registers/recipients."""
    controller_id = controller_of(call.principal, call.query.controller)
    found = await recipients.list_recipients(
        call.services, call.principal, controller_id, request_id=call.request_id
    )
    return RecipientList(items=[_recipient(view) for view in found])


async def register_recipient(call: ApiCall) -> RecipientAnswer:
    """POST /api/v1/registers/recipients."""
    body: RecipientBody = call.body
    new = NewRecipient(**body.model_dump(exclude={"controller"}))
    controller_id = controller_of(call.principal, body.controller)
    return _recipient(
        await recipients.register(
            call.services, call.principal, controller_id, new, request_id=call.request_id
        )
    )


async def amend_recipient(call: ApiCall) -> RecipientAnswer:
    """PATCH /api/v1/registers/recipients/{id}."""
    terms = call.body.model_dump(exclude_unset=True)
    return _recipient(
        await recipients.amend(
            call.services, call.principal, call.uuid("id"), terms, request_id=call.request_id
        )
    )


async def end_recipient(call: ApiCall) -> RecipientAnswer:
    """DELETE /api/v1/registers/recipients/{id}."""
    return _recipient(
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
    return DisclosureList(items=[_disclosure(view) for view in found])


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
        waiting = DisclosurePending(approval=found.id, state=str(found.state), expires_at=found.expires_at)
        return json_response(waiting, 202)
    return _disclosure(found)


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
    return BreachList(items=[_breach(view) for view in found])


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
    return _breach(
        await breaches.open_breach(
            call.services, call.principal, controller_id, new, request_id=call.request_id
        )
    )


async def get_breach(call: ApiCall) -> BreachAnswer:
    """GET /api/v1/registers/breaches/{id}."""
    return _breach(
        await breaches.get_breach(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    )


async def describe_breach(call: ApiCall) -> BreachAnswer:
    """PATCH /api/v1/registers/breaches/{id}."""
    body: BreachWords = call.body
    return _breach(
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
    return _breach(
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
    return _breach(
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
    return _breach(
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


def _recipient(view: RecipientView) -> RecipientAnswer:
    row = view.row
    return RecipientAnswer(
        id=row.id,
        kind=row.kind,
        name=view.name,
        purpose=row.purpose,
        country=row.country,
        contract_reference=row.contract_reference,
        contract_expires_at=row.contract_expires_at,
        safeguard=row.safeguard,
        safeguard_expires_at=row.safeguard_expires_at,
        registered_at=row.registered_at,
        ended_at=row.ended_at,
        usable=view.problem is None,
        reason=None if view.problem is None else view.problem[0],
    )


def _disclosure(view: DisclosureView) -> DisclosureAnswer:
    row = view.row
    return DisclosureAnswer(
        id=row.id,
        recipient=row.recipient_id,
        ground=row.ground,
        reference=row.reference,
        recordings=list(view.recording_ids),
        approval=row.approval_id,
        disclosed_at=row.disclosed_at,
        disclosed_by=row.disclosed_by,
    )


def _breach(view: BreachView) -> BreachAnswer:
    row = view.row
    words: dict[str, Any] = {name: view.words.get(name, "") for name in breaches.WORDS}
    return BreachAnswer(
        id=row.id,
        state=row.state,
        aware_at=row.aware_at,
        due_at=row.due_at,
        overdue=view.overdue,
        seen_from=row.seen_from,
        seen_until=row.seen_until,
        actor=row.actor,
        recordings=list(view.recording_ids),
        opened_at=row.opened_at,
        notified_at=row.notified_at,
        notification_reference=row.notification_reference,
        persons_told_at=row.persons_told_at,
        closed_at=row.closed_at,
        **words,
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
          other={202: "asked for; a second person has to approve it"}, raises=(*_ONE, Erased, InvalidInput)),
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
