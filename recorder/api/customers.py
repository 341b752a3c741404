"""Customer records, contacts and choices: from the CRM, looked up by legal and privacy."""

from __future__ import annotations

import uuid
from datetime import date, datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.api.framework import ApiCall, Route, json_response
from recorder.catalogue.enums import ChoiceKind, ContactKind, DataSource, LinkRole
from recorder.customers import contacts, ledger, lines, linking, records, relationship
from recorder.customers.choices import state_as_of
from recorder.customers.records import CustomerQuery, CustomerUpsert, ServiceBought, Text
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.playback.finding import controller_of
from retention.model import Purpose


class ControllerQuery(BaseModel):
    """Which controller is meant, where the caller has several."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = None


class CustomerAnswer(BaseModel):
    """An upsert's answer; nothing that was sent is sent back."""

    id: uuid.UUID
    created: bool
    linked: int = Field(description="recordings that had waited for this customer")


class CustomerItem(BaseModel):
    """A customer, to those who may look customers up."""

    id: uuid.UUID
    number: str
    name: str | None = None
    form_of_address: str | None = None
    phones: list[str] = []
    emails: list[str] = []
    address: str | dict[str, str] | None = None
    language: str | None = None
    gender: str | None = None
    other_contacts: list[str] = []
    wishes: str | None = None
    services_bought: list[ServiceBought] = []
    last_contact_at: datetime | None
    created_at: datetime
    updated_at: datetime


class CustomersAnswer(BaseModel):
    """Customers that have the value; at most fifty."""

    items: list[CustomerItem]


class ContactBody(BaseModel):
    """A contact with a customer."""

    model_config = ConfigDict(extra="forbid")

    kind: ContactKind
    at: AwareDatetime
    reference: Annotated[Text, Field(max_length=200)] | None = None
    note: Annotated[Text, Field(max_length=2000)] | None = None


class ContactAnswer(BaseModel):
    """The contact, and what the last one is now."""

    id: uuid.UUID
    counts: bool = Field(description="whether contacts of this kind move the last contact")
    last_contact_at: datetime | None


class EndBody(BaseModel):
    """The end of the relationship, as a source tells of it."""

    model_config = ConfigDict(extra="forbid")

    ended_on: date = Field(description="the day, in the controller's time zone")
    cause: relationship.Cause
    source: DataSource
    source_ref: Annotated[Text, Field(max_length=200)] | None = Field(
        None, description="the source's own reference; default the request id"
    )


class EndConfirmation(BaseModel):
    """Which day is confirmed."""

    model_config = ConfigDict(extra="forbid")

    ended_on: date


class EndAnswer(BaseModel):
    """What is known of the end; it counts once it is confirmed."""

    ended_on: date | None
    confirmed_at: datetime | None


class ChoiceBody(BaseModel):
    """A consent, objection, restriction or marketing choice."""

    model_config = ConfigDict(extra="forbid")

    kind: ChoiceKind
    purposes: Annotated[list[Purpose], Field(max_length=5)] = Field(
        default=[], description="what it speaks of; empty means all that its kind can reach"
    )
    channel: Annotated[str, Field(max_length=40, pattern=r"^[a-z_]+$")] | None = None
    effective_at: AwareDatetime | None = Field(None, description="default now")
    told_at: AwareDatetime | None = Field(
        None, description="when the person was told that a restriction will be lifted (GDPR art. 18(3))"
    )
    source: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z_]+$")] = "crm"


class ChoiceItem(BaseModel):
    """One entry of the ledger."""

    id: uuid.UUID
    kind: ChoiceKind
    purposes: list[Purpose]
    channel: str | None
    effective_at: datetime
    source: str
    recorded_at: datetime


class ChoiceState(BaseModel):
    """What the choices come to at a moment; most restrictive wins."""

    as_of: datetime
    objected: list[Purpose]
    consented: list[Purpose]
    consent_withdrawn: list[Purpose]
    restricted: list[Purpose]
    marketing: dict[str, bool]


class ChoicesAnswer(BaseModel):
    """The ledger, and what it comes to."""

    items: list[ChoiceItem]
    state: ChoiceState


class ChoicesQuery(ControllerQuery):
    """As of when."""

    as_of: AwareDatetime | None = None


class SharedLineBody(ControllerQuery):
    """A line that many people call from."""

    phone: Annotated[Text, Field(min_length=1, max_length=64)]


class SharedLineAnswer(BaseModel):
    """Whether that was news."""

    changed: bool


class Created(BaseModel):
    """A new row's id."""

    id: uuid.UUID


class LinkBody(BaseModel):
    """Which customer hangs on the recording, and how."""

    model_config = ConfigDict(extra="forbid")

    customer: uuid.UUID
    role: Literal["principal", "reference"] = "principal"


class LinkedAnswer(BaseModel):
    """The link."""

    recording: uuid.UUID
    customer: uuid.UUID
    role: LinkRole


async def _controller(call: ApiCall, action: Action) -> uuid.UUID:
    named: uuid.UUID | None = None if call.query is None else call.query.controller
    controller_id = controller_of(call.principal, named)
    await permit(
        call.services, call.principal, action, controller_id=controller_id, request_id=call.request_id
    )
    return controller_id


async def put_customer(call: ApiCall) -> web.StreamResponse:
    """Create or change a customer."""
    controller_id = await _controller(call, Action.MANAGE_CUSTOMERS)
    body: CustomerUpsert = call.body
    done = await records.upsert(
        call.services, controller_id, body, actor=call.principal.actor, request_id=call.request_id
    )
    answer = CustomerAnswer(id=done.id, created=done.created, linked=len(done.linked))
    return json_response(answer, 201 if done.created else 200)


async def search_customers(call: ApiCall) -> CustomersAnswer:
    """Look customers up by number, phone, e-mail or name."""
    controller_id = await _controller(call, Action.VIEW_CUSTOMERS)
    body: CustomerQuery = call.body
    found = await records.search(
        call.services, controller_id, body, actor=call.principal.actor, request_id=call.request_id
    )
    return CustomersAnswer(items=[_item(one) for one in found])


def _item(found: records.CustomerRecord) -> CustomerItem:
    values: dict[str, Any] = found.values
    return CustomerItem(
        id=found.id,
        last_contact_at=found.last_contact_at,
        created_at=found.created_at,
        updated_at=found.updated_at,
        **values,
    )


async def post_contact(call: ApiCall) -> ContactAnswer:
    """Record a contact."""
    controller_id = await _controller(call, Action.ADD_CONTACT)
    body: ContactBody = call.body
    note = {n: v for n, v in (("note", body.note), ("reference", body.reference)) if v is not None}
    contact_id, last = await contacts.add_contact(
        call.services,
        controller_id,
        call.uuid("id"),
        kind=body.kind,
        at=body.at,
        note=note or None,
        actor=call.principal.actor,
        request_id=call.request_id,
    )
    return ContactAnswer(id=contact_id, counts=body.kind.counts, last_contact_at=last)


async def report_end(call: ApiCall) -> EndAnswer:
    """Tell of the end of a relationship."""
    body: EndBody = call.body
    found = await relationship.report_end(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        call.uuid("id"),
        ended_on=body.ended_on,
        cause=body.cause,
        source=body.source,
        source_ref=body.source_ref,
        request_id=call.request_id,
    )
    return EndAnswer.model_validate(found, from_attributes=True)


async def confirm_end(call: ApiCall) -> EndAnswer:
    """A person confirms it."""
    body: EndConfirmation = call.body
    found = await relationship.confirm_end(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        call.uuid("id"),
        ended_on=body.ended_on,
        request_id=call.request_id,
    )
    return EndAnswer.model_validate(found, from_attributes=True)


async def withdraw_end(call: ApiCall) -> EndAnswer:
    """A person takes it back."""
    found = await relationship.withdraw_end(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        call.uuid("id"),
        request_id=call.request_id,
    )
    return EndAnswer.model_validate(found, from_attributes=True)


async def post_choice(call: ApiCall) -> Created:
    """Append a choice to the ledger."""
    body: ChoiceBody = call.body
    # The person's own choices come from wherever they make them; a restriction is lifted by who handles it.
    lifts = body.kind is ChoiceKind.RESTRICTION_LIFTED
    controller_id = await _controller(call, Action.MANAGE_REQUESTS if lifts else Action.ADD_CHOICE)
    choice_id = await ledger.add_choice(
        call.services,
        controller_id,
        call.uuid("id"),
        kind=body.kind,
        purposes=body.purposes,
        channel=body.channel,
        effective_at=body.effective_at,
        source=body.source,
        actor=call.principal.actor,
        request_id=call.request_id,
        told_at=body.told_at,
    )
    return Created(id=choice_id)


async def get_choices(call: ApiCall) -> ChoicesAnswer:
    """The ledger of a customer and what held at a moment."""
    controller_id = await _controller(call, Action.VIEW_CUSTOMERS)
    query: ChoicesQuery = call.query
    moment = query.as_of or call.services.clock.now()
    entries = await ledger.choices_of(call.services, controller_id, call.uuid("id"))
    state = state_as_of(entries, moment)
    return ChoicesAnswer(
        items=[ChoiceItem.model_validate(entry, from_attributes=True) for entry in entries],
        state=ChoiceState(
            as_of=moment,
            objected=sorted(state.objected),
            consented=sorted(state.consented),
            consent_withdrawn=sorted(state.consent_withdrawn),
            restricted=sorted(state.restricted),
            marketing=state.marketing,
        ),
    )


async def link_customer(call: ApiCall) -> LinkedAnswer:
    """A person says whose call it is."""
    body: LinkBody = call.body
    recording_id = call.uuid("id")
    role = await linking.link_by_person(
        call.services,
        call.principal,
        recording_id,
        body.customer,
        role=LinkRole(body.role),
        request_id=call.request_id,
    )
    return LinkedAnswer(recording=recording_id, customer=body.customer, role=role)


async def share_line(call: ApiCall) -> SharedLineAnswer:
    """POST /api/v1/shared-lines."""
    return await _mark_line(call, shared=True)


async def unshare_line(call: ApiCall) -> SharedLineAnswer:
    """POST /api/v1/shared-lines/removal: a number stands in no address."""
    return await _mark_line(call, shared=False)


async def _mark_line(call: ApiCall, *, shared: bool) -> SharedLineAnswer:
    body: SharedLineBody = call.body
    changed = await lines.mark_line(
        call.services,
        call.principal,
        controller_of(call.principal, body.controller),
        body.phone,
        shared=shared,
        request_id=call.request_id,
    )
    return SharedLineAnswer(changed=changed)


ROUTES: tuple[Route, ...] = (
    Route(
        "PUT",
        "/api/v1/customers",
        put_customer,
        "Create or change the customer of a number",
        "customers",
        query=ControllerQuery,
        body=CustomerUpsert,
        answer=CustomerAnswer,
        other={201: "The customer was not known before"},
    ),
    Route(
        "POST",
        "/api/v1/customers/search",
        search_customers,
        "Look customers up by exact value, in the body",
        "customers",
        query=ControllerQuery,
        body=CustomerQuery,
        answer=CustomersAnswer,
    ),
    Route(
        "POST",
        "/api/v1/customers/{id}/contacts",
        post_contact,
        "Record a contact; those that count move the last contact",
        "customers",
        query=ControllerQuery,
        body=ContactBody,
        answer=ContactAnswer,
        status=201,
        raises=(NotFound,),
    ),
    Route(
        "POST",
        "/api/v1/customers/{id}/relationship-end",
        report_end,
        "Tell of the end of the relationship, a death for example; it counts once a person has confirmed it",
        "customers",
        query=ControllerQuery,
        body=EndBody,
        answer=EndAnswer,
        raises=(NotFound,),
    ),
    Route(
        "POST",
        "/api/v1/customers/{id}/relationship-end/confirmation",
        confirm_end,
        "Confirm the end of the relationship, as a person",
        "customers",
        query=ControllerQuery,
        body=EndConfirmation,
        answer=EndAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "DELETE",
        "/api/v1/customers/{id}/relationship-end",
        withdraw_end,
        "Take back an end that was reported in error",
        "customers",
        query=ControllerQuery,
        answer=EndAnswer,
        raises=(NotFound, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/customers/{id}/choices",
        post_choice,
        "Append a consent, objection, restriction or marketing choice",
        "customers",
        query=ControllerQuery,
        body=ChoiceBody,
        answer=Created,
        status=201,
        raises=(NotFound, Conflict),
    ),
    Route(
        "GET",
        "/api/v1/customers/{id}/choices",
        get_choices,
        "A customer's choices and what they come to at a moment",
        "customers",
        query=ChoicesQuery,
        answer=ChoicesAnswer,
        raises=(NotFound,),
    ),
    Route(
        "POST",
        "/api/v1/recordings/{id}/customers",
        link_customer,
        "Say whose call it is, or who else is on it",
        "customers",
        body=LinkBody,
        answer=LinkedAnswer,
        raises=(NotFound, Conflict, Erased),
    ),
    Route(
        "POST",
        "/api/v1/shared-lines",
        share_line,
        "Say that many people call from a line: nobody is linked by it without a person's word",
        "customers",
        body=SharedLineBody,
        answer=SharedLineAnswer,
        raises=(InvalidInput, Forbidden),
    ),
    Route(
        "POST",
        "/api/v1/shared-lines/removal",
        unshare_line,
        "Say that a line is no longer shared",
        "customers",
        body=SharedLineBody,
        answer=SharedLineAnswer,
        raises=(InvalidInput, Forbidden),
    ),
)
