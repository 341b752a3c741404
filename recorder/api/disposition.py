"""Matters and holds, restrictions, retention schedules, certificates of erasure."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from aiohttp import hdrs, web
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from recorder.access.approvals import ApprovalView
from recorder.api.certificate_page import page
from recorder.api.framework import ApiCall, Route
from recorder.api.pending import ASKED, pending
from recorder.catalogue.enums import Direction, LawfulBasis
from recorder.catalogue.tables import Hold, Restriction, ScheduleVersion
from recorder.disposition import desk
from recorder.disposition.desk import MatterView, NewMatter
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound
from recorder.ingest.receipts import jwk
from recorder.playback.finding import controller_of

_CLEAN: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
Custodians = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200, pattern=_CLEAN)]], Field(max_length=50)
]
Codes = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100, pattern=_CLEAN)]], Field(max_length=100)
]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]*$", max_length=64)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ControllerQuery(_Model):
    """Which controller, where the caller has several."""

    controller: uuid.UUID | None = None


class ReleaseQuery(_Model):
    """A second person's approval of the release."""

    approval: uuid.UUID | None = Field(None, description="without it, the release is asked for")


class MatterBody(_Model):
    """A matter to be opened. Its reference is seen in lists: keep persons out of it."""

    controller: uuid.UUID | None = None
    reference: Reference
    ground: Literal["legal_claims", "authority_request", "legal_obligation"]
    review_on: AwareDatetime = Field(description="when somebody looks whether it is still needed")
    title: Annotated[str, Field(max_length=200, pattern=_CLEAN)] = ""
    notes: Annotated[str, Field(max_length=10_000, pattern=_CLEAN)] = ""
    custodians: Custodians = []


class MatterChange(_Model):
    """What is to be changed of a matter; what is left out stays."""

    review_on: AwareDatetime | None = None
    notes: Annotated[str, Field(max_length=10_000, pattern=_CLEAN)] | None = None
    custodians: Custodians | None = None


class _Target(_Model):
    recording: uuid.UUID | None = None
    customer: uuid.UUID | None = None

    @model_validator(mode="after")
    def _one(self) -> _Target:
        if (self.recording is None) == (self.customer is None):
            raise ValueError("name either a recording or a customer")
        return self


class HoldQueryBody(_Model):
    """Which calls: every given field must match, a list by any of its values; at least one is given."""

    queue: Codes = []
    agent: Codes = []
    tag: Codes = []
    source: Codes = []
    service_event: Codes = []
    direction: list[Direction] = []
    basis: list[LawfulBasis] = []
    started_from: AwareDatetime | None = Field(None, description="calls that began then or later")
    started_before: AwareDatetime | None = None
    duration_at_least: Annotated[float, Field(ge=0, le=172_800)] | None = Field(None, description="seconds")
    duration_less_than: Annotated[float, Field(gt=0, le=172_800)] | None = None


class HoldBody(_Model):
    """What is held: one recording, a customer's, or what matches a query; those still to come included."""

    recording: uuid.UUID | None = None
    customer: uuid.UUID | None = None
    query: HoldQueryBody | None = None

    @model_validator(mode="after")
    def _one(self) -> HoldBody:
        if sum(target is not None for target in (self.recording, self.customer, self.query)) != 1:
            raise ValueError("name either a recording, a customer or a query")
        return self


class RestrictionBody(_Target):
    """What is restricted, and why (GDPR art. 18)."""

    ground: Literal["accuracy", "unlawful", "legal_claims", "objection", "request_pending"]


class HoldAnswer(BaseModel):
    """A legal hold."""

    id: uuid.UUID
    matter: uuid.UUID
    recording: uuid.UUID | None
    customer: uuid.UUID | None
    query: dict[str, Any] | None
    placed_at: datetime
    placed_by: str
    released_at: datetime | None
    released_by: str | None


class MatterAnswer(BaseModel):
    """A matter and its holds."""

    id: uuid.UUID
    reference: str
    ground: str
    review_on: datetime
    review_due: bool = Field(description="the review date has come, and the matter is open")
    opened_at: datetime
    closed_at: datetime | None
    title: str
    notes: str
    custodians: list[str]
    holds: list[HoldAnswer]


class MatterList(BaseModel):
    """Matters, the newest first."""

    items: list[MatterAnswer]


class RestrictionAnswer(BaseModel):
    """A restriction of processing."""

    id: uuid.UUID
    recording: uuid.UUID | None
    customer: uuid.UUID | None
    ground: str
    placed_at: datetime
    lifted_at: datetime | None


class ScheduleItem(BaseModel):
    """A version of a retention schedule."""

    version: int
    state: Literal["stored", "in_force", "past"]
    created_at: datetime
    activated_at: datetime | None


class ScheduleList(BaseModel):
    """Every version, the newest first."""

    items: list[ScheduleItem]


class ScheduleAnswer(ScheduleItem):
    """A version with its document."""

    document: str = Field(description="TOML, as it was stored")


class CertificateAnswer(BaseModel):
    """A certificate of erasure: what went, when, on which ground, and what stays. No personal data."""

    id: uuid.UUID
    issued_at: datetime
    document: dict[str, Any]
    signature: str = Field(description="compact JWS (RFC 7515, EdDSA) over the JCS form of the document")


async def list_matters(call: ApiCall) -> MatterList:
    """GET /api/v1/matters."""
    found = await desk.list_matters(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        request_id=call.request_id,
    )
    return MatterList(items=[_matter(view, call) for view in found])


async def open_matter(call: ApiCall) -> MatterAnswer:
    """POST /api/v1/matters."""
    body: MatterBody = call.body
    new = NewMatter(
        body.reference, body.ground, body.review_on, body.title, body.notes, tuple(body.custodians)
    )
    controller_id = controller_of(call.principal, body.controller)
    view = await desk.open_matter(
        call.services, call.principal, controller_id, new, request_id=call.request_id
    )
    return _matter(view, call)


async def amend_matter(call: ApiCall) -> MatterAnswer:
    """PATCH /api/v1/matters/{id}."""
    body: MatterChange = call.body
    view = await desk.amend_matter(
        call.services,
        call.principal,
        call.uuid("id"),
        review_on=body.review_on,
        notes=body.notes,
        custodians=body.custodians,
        request_id=call.request_id,
    )
    return _matter(view, call)


async def get_matter(call: ApiCall) -> MatterAnswer:
    """GET /api/v1/matters/{id}."""
    view = await desk.get_matter(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return _matter(view, call)


async def close_matter(call: ApiCall) -> MatterAnswer:
    """POST /api/v1/matters/{id}/close."""
    view = await desk.close_matter(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return _matter(view, call)


async def place_hold(call: ApiCall) -> HoldAnswer:
    """POST /api/v1/matters/{id}/holds."""
    body: HoldBody = call.body
    hold = await desk.place_hold(
        call.services,
        call.principal,
        call.uuid("id"),
        recording_id=body.recording,
        customer_id=body.customer,
        query=None if body.query is None else body.query.model_dump(mode="json", exclude_defaults=True),
        request_id=call.request_id,
    )
    return _hold(hold)


async def release_hold(call: ApiCall) -> HoldAnswer | web.Response:
    """DELETE /api/v1/matters/{id}/holds/{hold}."""
    query: ReleaseQuery = call.query
    found = await desk.release_hold(
        call.services,
        call.principal,
        call.uuid("id"),
        call.uuid("hold"),
        approval_id=query.approval,
        request_id=call.request_id,
    )
    if isinstance(found, ApprovalView):
        return pending(found)
    return _hold(found)


async def restrict(call: ApiCall) -> RestrictionAnswer:
    """POST /api/v1/restrictions."""
    body: RestrictionBody = call.body
    row = await desk.restrict(
        call.services,
        call.principal,
        recording_id=body.recording,
        customer_id=body.customer,
        ground=body.ground,
        request_id=call.request_id,
    )
    return _restriction(row)


async def lift_restriction(call: ApiCall) -> RestrictionAnswer:
    """DELETE /api/v1/restrictions/{id}."""
    return _restriction(
        await desk.lift_restriction(
            call.services, call.principal, call.uuid("id"), request_id=call.request_id
        )
    )


async def list_schedules(call: ApiCall) -> ScheduleList:
    """GET /api/v1/schedules."""
    rows = await desk.list_schedules(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        request_id=call.request_id,
    )
    in_force = max((row.version for row in rows if row.activated_at is not None), default=None)
    return ScheduleList(items=[ScheduleItem(**_schedule(row, in_force)) for row in rows])


async def get_schedule(call: ApiCall) -> ScheduleAnswer:
    """GET /api/v1/schedules/{version}."""
    controller_id = controller_of(call.principal, call.query.controller)
    text = call.path["version"]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFound("no such schedule version")
    row = await desk.get_schedule(
        call.services, call.principal, controller_id, int(text), request_id=call.request_id
    )
    rows = await desk.list_schedules(call.services, call.principal, controller_id, request_id=call.request_id)
    in_force = max((r.version for r in rows if r.activated_at is not None), default=None)
    return ScheduleAnswer(**_schedule(row, in_force), document=row.document)


async def get_certificate(call: ApiCall) -> CertificateAnswer | web.Response:
    """GET /api/v1/certificates/{id}: JSON, or a page to print for a browser."""
    row = await desk.get_certificate(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    if _wants_page(call.request.headers.get(hdrs.ACCEPT, "")):
        key = jwk(call.services.keyring.public_keys()["certificates"])
        return web.Response(
            text=page(row.document, row.signature, key),
            content_type="text/html",
            headers={"Cache-Control": "no-store", "Vary": "Accept"},
        )
    return CertificateAnswer(
        id=row.id, issued_at=row.issued_at, document=row.document, signature=row.signature
    )


def _wants_page(accept: str) -> bool:
    """Whether HTML is named, and named before JSON: browsers do that, programs do not."""
    types = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    return "text/html" in types and "application/json" not in types[: types.index("text/html")]


def _matter(view: MatterView, call: ApiCall) -> MatterAnswer:
    matter = view.matter
    return MatterAnswer(
        id=matter.id,
        reference=matter.reference,
        ground=matter.ground,
        review_on=matter.review_on,
        review_due=matter.closed_at is None and matter.review_on <= call.services.clock.now(),
        opened_at=matter.opened_at,
        closed_at=matter.closed_at,
        title=view.title,
        notes=view.notes,
        custodians=list(view.custodians),
        holds=[_hold(hold) for hold in view.holds],
    )


def _hold(hold: Hold) -> HoldAnswer:
    return HoldAnswer(
        id=hold.id,
        matter=hold.matter_id,
        recording=hold.recording_id,
        customer=hold.customer_id,
        query=hold.query,
        placed_at=hold.placed_at,
        placed_by=hold.placed_by,
        released_at=hold.released_at,
        released_by=hold.released_by,
    )


def _restriction(row: Restriction) -> RestrictionAnswer:
    return RestrictionAnswer(
        id=row.id,
        recording=row.recording_id,
        customer=row.customer_id,
        ground=row.ground,
        placed_at=row.placed_at,
        lifted_at=row.lifted_at,
    )


def _schedule(row: ScheduleVersion, in_force: int | None) -> dict[str, Any]:
    past = "stored" if row.activated_at is None else "past"
    return {
        "version": row.version,
        "state": "in_force" if row.version == in_force else past,
        "created_at": row.created_at,
        "activated_at": row.activated_at,
    }


_TAG: Final = "disposition"
_ONE: Final = (NotFound, Forbidden)

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/matters",
        list_matters,
        summary="List matters with their holds",
        tag=_TAG,
        query=ControllerQuery,
        answer=MatterList,
        raises=(Forbidden, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/matters",
        open_matter,
        summary="Open a matter",
        tag=_TAG,
        body=MatterBody,
        answer=MatterAnswer,
        status=201,
        raises=(NotFound, Forbidden, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/matters/{id}",
        get_matter,
        summary="One matter with its holds",
        tag=_TAG,
        answer=MatterAnswer,
        raises=_ONE,
    ),
    Route(
        "PATCH",
        "/api/v1/matters/{id}",
        amend_matter,
        summary="Set another review date, notes or custodians",
        tag=_TAG,
        body=MatterChange,
        answer=MatterAnswer,
        raises=(*_ONE, Conflict, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/matters/{id}/close",
        close_matter,
        summary="Close a matter whose holds are released",
        tag=_TAG,
        answer=MatterAnswer,
        raises=(*_ONE, Conflict),
    ),
    Route(
        "POST",
        "/api/v1/matters/{id}/holds",
        place_hold,
        summary="Hold a recording, all of a customer's, or all that matches a query",
        tag=_TAG,
        body=HoldBody,
        answer=HoldAnswer,
        status=201,
        raises=(*_ONE, Conflict, Erased, InvalidInput),
    ),
    Route(
        "DELETE",
        "/api/v1/matters/{id}/holds/{hold}",
        release_hold,
        summary="Release a hold, with a second person's approval",
        tag=_TAG,
        query=ReleaseQuery,
        answer=HoldAnswer,
        other=ASKED,
        raises=(*_ONE, Conflict, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/restrictions",
        restrict,
        summary="Restrict processing of a recording or a customer",
        tag=_TAG,
        body=RestrictionBody,
        answer=RestrictionAnswer,
        status=201,
        raises=(*_ONE, Erased, InvalidInput),
    ),
    Route(
        "DELETE",
        "/api/v1/restrictions/{id}",
        lift_restriction,
        summary="Lift a restriction, after telling the person",
        tag=_TAG,
        answer=RestrictionAnswer,
        raises=(*_ONE, Conflict),
    ),
    Route(
        "GET",
        "/api/v1/schedules",
        list_schedules,
        summary="List retention schedule versions",
        tag=_TAG,
        query=ControllerQuery,
        answer=ScheduleList,
        raises=(Forbidden, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/schedules/{version}",
        get_schedule,
        summary="One version of the retention schedule",
        tag=_TAG,
        query=ControllerQuery,
        answer=ScheduleAnswer,
        raises=(*_ONE, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/certificates/{id}",
        get_certificate,
        summary="A certificate of erasure; a page to print where HTML is asked for",
        tag=_TAG,
        answer=CertificateAnswer,
        raises=_ONE,
    ),
)
