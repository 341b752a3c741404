"""What the registers of recipients, disclosures, breaches and staff take and answer over HTTP."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recorder.catalogue.enums import BreachState, RecipientKind
from recorder.registers import breaches
from recorder.registers.breaches import BreachView
from recorder.registers.disclosures import DisclosureView
from recorder.registers.recipients import RecipientView

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


class ResearchBody(_Model):
    """Which calls are in a set for research, and for whom."""

    controller: uuid.UUID | None = None
    recipient: uuid.UUID = Field(description="entered with kind research, under contract")
    reference: Reference = Field(description="of the research plan or permission")
    since: AwareDatetime
    until: AwareDatetime = Field(description="first instant after")
    queue: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    approval: uuid.UUID | None = Field(None, description="without it, the set is asked for")


class ResearchRow(BaseModel):
    """One call, under a pseudonym of this set; no audio, nobody's name, number or code."""

    id: str
    month: str
    queue: str | None
    direction: str | None
    minutes: str | None = Field(description="how long, roughly")


class ResearchAnswer(BaseModel):
    """A set, entered as a disclosure."""

    disclosure: uuid.UUID
    recipient: uuid.UUID
    rows: list[ResearchRow]
    left_out: int = Field(description="calls of months and queues with fewer than five")


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


def recipient_answer(view: RecipientView) -> RecipientAnswer:
    """A recipient with its terms."""
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


def disclosure_answer(view: DisclosureView) -> DisclosureAnswer:
    """A disclosure."""
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


def breach_answer(view: BreachView) -> BreachAnswer:
    """A breach and its clock."""
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
