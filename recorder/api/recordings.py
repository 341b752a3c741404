"""Finding recordings, and what is known of one: facts, retention in words and data, custody."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from recorder.api.framework import ApiCall, Route
from recorder.catalogue.enums import Direction, LawfulBasis, LinkRole, RecordingState
from recorder.catalogue.recordings import Filters
from recorder.customers.records import CustomerQuery, Email, Number, Phone, Text
from recorder.errors import Erased, Forbidden, InvalidInput, NotFound
from recorder.playback import finding
from recorder.playback.finding import Explained, Found
from retention.decision import Reason, Window
from retention.explain import sentence
from retention.model import Purpose


def _storable(value: str) -> str:
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("contains a character that cannot be stored")
    return value


def _in_calendar(value: datetime) -> datetime:
    # Far enough from the calendar's ends for any zone and any database.
    if not 1900 <= value.year <= 9000:
        raise ValueError("give a time between the years 1900 and 9000")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_in_calendar)]
Code = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_storable)]
Limit = Annotated[int, Field(ge=1, le=200)]
Cursor = Annotated[str, Field(max_length=200)]


class _Filters(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    controller: uuid.UUID | None = Field(None, description="where the caller has several")
    customer: uuid.UUID | None = Field(None, description="id of the customer, never the number")
    call: uuid.UUID | None = Field(None, description="id of the call")
    agent: Code | None = None
    queue: Code | None = None
    from_: Moment | None = Field(None, alias="from", description="calls that began then or later")
    to: Moment | None = Field(None, description="calls that began before")
    tag: Code | None = None
    state: RecordingState | None = Field(None, description="without it, what is erased is left out")
    cursor: Cursor | None = Field(None, description="next of the page before")
    limit: Limit = 50

    def filters(self) -> Filters:
        """As the catalogue takes them."""
        return Filters(
            self.customer,
            self.agent,
            self.queue,
            self.from_,
            self.to,
            self.tag,
            self.state,
            call_id=self.call,
        )


class ListQuery(_Filters):
    """Filters of a listing. What is personal goes into the body of a search, never into an address."""


class SearchBody(_Filters):
    """The same filters, and exact personal values; everything given must fit."""

    number: Number | None = None
    phone: Phone | None = None
    email: Email | None = None
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = None

    def personal(self) -> CustomerQuery | None:
        """The personal values; None when there are none."""
        given = (self.number, self.phone, self.email, self.name)
        if all(value is None for value in given):
            return None
        return CustomerQuery(number=self.number, phone=self.phone, email=self.email, name=self.name)


class CustomerRef(BaseModel):
    """The customer that a recording is linked to, by random id."""

    id: uuid.UUID | None


class Playable(BaseModel):
    """A purpose for which the caller may hear the recording now."""

    purpose: Purpose
    until: datetime | None = Field(description="end of the window; null while it is open-ended")


class RecordingItem(BaseModel):
    """A recording in a list."""

    id: uuid.UUID
    call_id: uuid.UUID
    state: RecordingState
    held: bool
    restricted: bool
    started_at: datetime
    ended_at: datetime | None
    duration: float | None = Field(description="seconds")
    direction: Direction | None
    queue: str | None
    agents: list[str]
    tags: list[str]
    customer: CustomerRef
    erase_on: datetime | None
    playable: list[Playable]


class RecordingPage(BaseModel):
    """One page; ``next`` is null at the end."""

    items: list[RecordingItem]
    next: str | None


class LinkedCustomer(BaseModel):
    """A customer on the recording, and how sure that is."""

    id: uuid.UUID
    role: LinkRole
    matched_by: str
    confidence: int | None = Field(description="percent, when it was matched")


class MutedAnswer(BaseModel):
    """A muted stretch, in seconds."""

    model_config = ConfigDict(populate_by_name=True)

    from_: float = Field(serialization_alias="from")
    to: float | None
    reason: str


class RecordingDetail(RecordingItem):
    """Everything of one recording. ``metadata`` is there only for roles that see customers."""

    source_id: uuid.UUID
    received_at: datetime
    lawful_basis: LawfulBasis
    notice_version: str | None
    service_events: list[str]
    reasons: list[str]
    channels: list[dict[str, Any]]
    media: dict[str, Any]
    muted: list[MutedAnswer]
    size: int
    sha256: str
    card_data_removed: bool
    schedule_version: int | None
    customers: list[LinkedCustomer]
    metadata: dict[str, Any] | None


class ReasonAnswer(BaseModel):
    """One step of the calculation."""

    code: str
    rule: str | None
    text: str
    params: dict[str, str]


class WindowAnswer(BaseModel):
    """When the recording may be used for one purpose."""

    model_config = ConfigDict(populate_by_name=True)

    purpose: Purpose
    state: Literal["open", "not_yet", "closed", "suspended"]
    from_: datetime = Field(serialization_alias="from")
    until: datetime | None
    because: list[ReasonAnswer]


class RetentionAnswer(BaseModel):
    """How long a recording is kept and why, in words and in data."""

    recording_id: uuid.UUID
    explanation: list[str]
    schedule_version: int
    decided_at: datetime
    erase_on: datetime | None
    due: bool
    held: bool
    restricted: bool
    frozen: bool
    windows: list[WindowAnswer]
    undecided: list[str]
    considered: list[ReasonAnswer]


class HistoryQuery(BaseModel):
    """How much of the custody."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


class HistoryEntry(BaseModel):
    """One entry of the audit log; ``index`` is null for the second before it is sequenced."""

    index: int | None
    entry: dict[str, Any]


class HistoryAnswer(BaseModel):
    """The custody of a recording, the oldest entry first."""

    items: list[HistoryEntry]


async def list_recordings(call: ApiCall) -> RecordingPage:
    """What the caller may know of, playable or not."""
    query: ListQuery = call.query
    return await _page(call, query, None)


async def search_recordings(call: ApiCall) -> RecordingPage:
    """The same by number, telephone, e-mail or name, which never stand in an address."""
    body: SearchBody = call.body
    return await _page(call, body, body.personal())


async def _page(call: ApiCall, asked: _Filters, personal: CustomerQuery | None) -> RecordingPage:
    page = await finding.find(
        call.services,
        call.principal,
        finding.controller_of(call.principal, asked.controller),
        asked.filters(),
        personal=personal,
        cursor=asked.cursor,
        limit=asked.limit,
        request_id=call.request_id,
    )
    return RecordingPage(items=[RecordingItem(**item_of(found)) for found in page.items], next=page.next)


async def get_recording(call: ApiCall) -> RecordingDetail:
    """One recording."""
    viewed = await finding.view(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    row = viewed.found.recording
    return RecordingDetail(
        **item_of(viewed.found),
        source_id=row.source_id,
        received_at=row.received_at,
        lawful_basis=row.lawful_basis,
        notice_version=row.notice_version,
        service_events=row.service_events,
        reasons=row.reasons,
        channels=row.channels,
        media=row.media,
        muted=[_muted(span) for span in row.muted],
        size=row.size,
        sha256=row.sha256.hex(),
        card_data_removed=row.card_data_removed,
        schedule_version=row.schedule_version,
        customers=[
            LinkedCustomer(
                id=link.customer_id,
                role=link.role,
                matched_by=link.matched_by,
                confidence=link.confidence,
            )
            for link in viewed.links
        ],
        metadata=viewed.metadata,
    )


async def get_retention(call: ApiCall) -> RetentionAnswer:
    """How long it is kept, for what it may be used until when, and why."""
    explained = await finding.retention(
        call.services, call.principal, call.uuid("id"), request_id=call.request_id
    )
    decision = explained.decision
    windows = [_window(w, explained) for w in decision.windows.values()]
    windows += [_window(w, explained, suspended=True) for w in decision.suspended.values()]
    return RetentionAnswer(
        recording_id=explained.recording.id,
        explanation=list(explained.sentences),
        schedule_version=decision.schedule_version,
        decided_at=decision.decided_at,
        erase_on=decision.erase_on,
        due=decision.due,
        held=decision.held,
        restricted=decision.restricted,
        frozen=decision.frozen,
        windows=windows,
        undecided=[task.code for task in decision.undecided],
        considered=[_reason(reason, decision.zone) for reason in decision.considered],
    )


async def get_history(call: ApiCall) -> HistoryAnswer:
    """Who did what with it; the custody outlives the recording."""
    query: HistoryQuery = call.query
    found = await finding.history(
        call.services, call.principal, call.uuid("id"), limit=query.limit, request_id=call.request_id
    )
    return HistoryAnswer(items=[HistoryEntry(index=view.index, entry=view.entry) for view in found])


def item_of(found: Found) -> dict[str, Any]:
    """A recording as lists show it."""
    row = found.recording
    return {
        "id": row.id,
        "call_id": row.call_id,
        "state": row.state,
        "held": row.held,
        "restricted": row.restricted,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
        "duration": None if row.duration_ms is None else row.duration_ms / 1000,
        "direction": row.direction,
        "queue": row.queue,
        "agents": row.agents,
        "tags": row.tags,
        "customer": CustomerRef(id=row.customer_id),
        "erase_on": row.erase_on,
        "playable": [Playable(purpose=p, until=until) for p, until in found.playable.items()],
    }


def _muted(span: dict[str, Any]) -> MutedAnswer:
    end = span.get("to_ms")
    return MutedAnswer(
        from_=(span.get("from_ms") or 0) / 1000,
        to=None if end is None else end / 1000,
        reason=str(span.get("reason") or ""),
    )


def _window(window: Window, explained: Explained, *, suspended: bool = False) -> WindowAnswer:
    state: Literal["open", "not_yet", "closed", "suspended"]
    if suspended:
        state = "suspended"
    elif window.contains(explained.now):
        state = "open"
    else:
        state = "not_yet" if explained.now < window.start else "closed"
    return WindowAnswer(
        purpose=window.purpose,
        state=state,
        from_=window.start,
        until=window.end,
        because=[_reason(reason, explained.decision.zone) for reason in window.because],
    )


def _reason(reason: Reason, zone: str) -> ReasonAnswer:
    return ReasonAnswer(
        code=reason.code, rule=reason.rule_id, text=sentence(reason, zone), params=dict(reason.params)
    )


_ONE: Final = (NotFound, Forbidden, Erased)

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/recordings",
        list_recordings,
        summary="List recordings",
        query=ListQuery,
        answer=RecordingPage,
        raises=(Forbidden, InvalidInput),
    ),
    Route(
        "POST",
        "/api/v1/recordings/search",
        search_recordings,
        summary="Search recordings by what is personal",
        body=SearchBody,
        answer=RecordingPage,
        raises=(Forbidden, InvalidInput),
    ),
    Route(
        "GET",
        "/api/v1/recordings/{id}",
        get_recording,
        summary="One recording",
        answer=RecordingDetail,
        raises=_ONE,
    ),
    Route(
        "GET",
        "/api/v1/recordings/{id}/retention",
        get_retention,
        summary="How long it is kept, and why",
        answer=RetentionAnswer,
        raises=_ONE,
    ),
    Route(
        "GET",
        "/api/v1/recordings/{id}/history",
        get_history,
        summary="Its custody: who did what with it",
        query=HistoryQuery,
        answer=HistoryAnswer,
        raises=(NotFound, Forbidden),
    ),
)
