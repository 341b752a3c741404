"""The words of the retention calculation: facts go in, windows and their reasons come out.

Everything here is a frozen value without a clock, an identity or a person's name in it. Two
recordings with equal facts, holds, choices and requests have equal decisions, which is what lets a
catalogue evaluate a million of them by their distinct fact vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from retention.errors import Misuse
from retention.periods import Period

__all__ = [
    "CONSENT",
    "Case",
    "Choice",
    "ChoiceKind",
    "Condition",
    "Direction",
    "Disposition",
    "Facts",
    "Ground",
    "Hold",
    "Purpose",
    "Request",
    "RequestKind",
    "RequestState",
    "Rule",
    "Schedule",
    "Trigger",
    "TriggerKind",
    "Verdict",
]

CONSENT = "consent"
"""The lawful basis whose withdrawal closes windows (GDPR art. 6(1)(a), 7(3))."""


class Purpose(StrEnum):
    """What a call may be played or exported for. The list is closed."""

    SERVICE_EVIDENCE = "service_evidence"
    LEGAL_PROTECTION = "legal_protection"
    SECURITY = "security"
    TRAINING = "training"
    QUALITY = "quality"


class Direction(StrEnum):
    """Which way a call went, seen from the controller."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"
    INTERNAL = "internal"


class Ground(StrEnum):
    """Why a recording is erased."""

    REQUEST = "request"
    RELATIONSHIP_ENDED = "relationship_ended"
    RETENTION = "retention"
    COURT_ORDER = "court_order"
    CARD_SECURITY = "card_security"


class TriggerKind(StrEnum):
    """The events from which a period may be counted."""

    CALL_STARTED = "call_started"
    CALL_ENDED = "call_ended"
    LAST_CONTACT = "last_contact"
    RELATIONSHIP_ENDED = "relationship_ended"
    MATTER_CLOSED = "matter_closed"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    FINANCIAL_YEAR_END = "financial_year_end"


class ChoiceKind(StrEnum):
    """Entries of the choices ledger that move windows."""

    OBJECTION = "objection"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    CONSENT_GIVEN = "consent_given"
    RESTRICTION = "restriction"
    RESTRICTION_LIFTED = "restriction_lifted"


class RequestKind(StrEnum):
    """The rights a person can call on (GDPR art. 15 to 18, 20, 21, 7(3))."""

    ACCESS = "access"
    RECTIFICATION = "rectification"
    ERASURE = "erasure"
    RESTRICTION = "restriction"
    PORTABILITY = "portability"
    OBJECTION = "objection"
    CONSENT_WITHDRAWAL = "consent_withdrawal"


class RequestState(StrEnum):
    """Where a request stands for one recording."""

    PENDING = "pending"
    GRANTED = "granted"
    REFUSED = "refused"


def _aware(**moments: datetime | None) -> None:
    for name, moment in moments.items():
        if moment is not None and moment.utcoffset() is None:
            raise Misuse(f"{name} has no time zone")


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event, or 31 December of the local year in which it lies.

    Attributes:
        kind: The event.
        calendar_year: Count from the end of the event's calendar year instead.
    """

    kind: TriggerKind
    calendar_year: bool = False

    def __str__(self) -> str:
        return f"end_of_calendar_year_of({self.kind})" if self.calendar_year else str(self.kind)


@dataclass(frozen=True, slots=True)
class Condition:
    """To which recordings a rule applies: every given field must match; none given is all.

    Attributes:
        direction: Any of these directions.
        source: Any of these sources.
        queue: Any of these queues.
        tag: At least one of these tags.
        service_event: At least one service event of these types.
        basis: Any of these lawful bases.
        country: The controller lies in one of these countries (ISO 3166 alpha-2).
        duration_at_least: Calls of this length or longer.
        duration_less_than: Calls shorter than this.
    """

    direction: frozenset[str] | None = None
    source: frozenset[str] | None = None
    queue: frozenset[str] | None = None
    tag: frozenset[str] | None = None
    service_event: frozenset[str] | None = None
    basis: frozenset[str] | None = None
    country: frozenset[str] | None = None
    duration_at_least: timedelta | None = None
    duration_less_than: timedelta | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the rule applies to everything."""
        return self == _ALWAYS


_ALWAYS = Condition()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a schedule.

    Attributes:
        id: Unique in its schedule.
        purposes: What it keeps for.
        keep: How long.
        after: From which event.
        when: To which recordings it applies.
        closes_on: Choices that close its purposes early.
        statutory: The statute that commands it, or None. A statutory window survives objection,
            withdrawn consent, restriction, caps and erasure requests.
        reason: For the reader of an explanation.
    """

    id: str
    purposes: frozenset[Purpose]
    keep: Period
    after: Trigger
    when: Condition = _ALWAYS
    closes_on: frozenset[ChoiceKind] = frozenset()
    statutory: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Disposition:
    """How long a record that is not a call lives.

    Attributes:
        record: Kind of record, for example ``request``.
        keep: How long.
        after: The record's own event, for example ``decided``.
        reason: For the reader.
    """

    record: str
    keep: Period
    after: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One version of a controller's retention schedule; made by `retention.schedule.check`.

    Attributes:
        controller: Whose it is.
        version: Grows by one with each activation.
        rules: In the order of the document; the order has no meaning.
        caps: Per purpose, the longest time after the call, whatever ordinary rules say.
        dispositions: For the other records, by kind.
        hold_grace: How long a recording stays, unplayable, after its last hold was released.
    """

    controller: str
    version: int
    rules: tuple[Rule, ...]
    caps: Mapping[Purpose, Period] = field(default_factory=lambda: MappingProxyType({}))
    dispositions: Mapping[str, Disposition] = field(default_factory=lambda: MappingProxyType({}))
    hold_grace: Period = field(default_factory=Period)

    def __hash__(self) -> int:
        return hash((self.controller, self.version, self.rules))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one recording, its controller and its customer.

    Attributes:
        zone: The controller's IANA time zone.
        country: The controller's country, ISO 3166 alpha-2.
        call_started: When the call began.
        call_ended: When it ended, if known.
        duration: How long it was, if known.
        direction: A `Direction`, or None while unknown.
        source: Name of the source that delivered it.
        queue: The queue, or None for a call without one.
        tags: Controlled tags.
        service_events: Types of the service events it belongs to.
        lawful_basis: On what the recording stands, or None while unknown.
        linked: Whether a customer is linked.
        card_security: A card security code was found in the original audio (PCI DSS 3.3.1).
        last_contact: The customer's last service contact; the call itself counts as one.
        relationship_ended: When the relationship ended, as reported.
        relationship_confirmed_at: When a person confirmed that end.
        financial_year_end: Last day of the financial year the call's business belongs to.
        in_matter: Whether the recording belongs to a matter, open or closed.
        matter_closed: When its last matter closed; None while one is open.
    """

    zone: str
    country: str
    call_started: datetime
    call_ended: datetime | None = None
    duration: timedelta | None = None
    direction: str | None = None
    source: str | None = None
    queue: str | None = None
    tags: frozenset[str] = frozenset()
    service_events: frozenset[str] = frozenset()
    lawful_basis: str | None = None
    linked: bool = False
    card_security: bool = False
    last_contact: datetime | None = None
    relationship_ended: datetime | date | None = None
    relationship_confirmed_at: datetime | None = None
    financial_year_end: date | None = None
    in_matter: bool = False
    matter_closed: datetime | None = None

    def __post_init__(self) -> None:
        ended = self.relationship_ended
        _aware(
            call_started=self.call_started,
            call_ended=self.call_ended,
            last_contact=self.last_contact,
            relationship_ended=ended if isinstance(ended, datetime) else None,
            relationship_confirmed_at=self.relationship_confirmed_at,
            matter_closed=self.matter_closed,
        )


@dataclass(frozen=True, slots=True)
class Hold:
    """A legal hold that reaches this recording (on itself, its customer, or a query).

    Attributes:
        id: Random id of the hold.
        placed_at: From when.
        released_at: Until when, or None while it stands.
        matter: Random id of its matter.
    """

    id: str
    placed_at: datetime
    released_at: datetime | None = None
    matter: str = ""

    def __post_init__(self) -> None:
        _aware(placed_at=self.placed_at, released_at=self.released_at)

    def stands(self, now: datetime) -> bool:
        """Whether it is in force at `now`."""
        return self.placed_at <= now and (self.released_at is None or now < self.released_at)


@dataclass(frozen=True, slots=True)
class Choice:
    """An entry of the choices ledger that reaches this recording.

    Attributes:
        kind: What was chosen.
        effective_at: From when.
        purposes: Limited to these purposes; empty means every purpose the choice can reach.
    """

    kind: ChoiceKind
    effective_at: datetime
    purposes: frozenset[Purpose] = frozenset()

    def __post_init__(self) -> None:
        _aware(effective_at=self.effective_at)

    def reaches(self, purpose: Purpose) -> bool:
        """Whether the choice speaks of this purpose."""
        return not self.purposes or purpose in self.purposes


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the person that concerns this recording, as it was decided for it.

    Granted requests of restriction, objection and consent withdrawal act through the `Choice`
    that granting them writes; only a granted erasure acts by itself.

    Attributes:
        kind: The right called on.
        state: Where it stands for this recording.
        filed_at: When it arrived.
        decided_at: When it was granted or refused.
    """

    kind: RequestKind
    state: RequestState
    filed_at: datetime
    decided_at: datetime | None = None

    def __post_init__(self) -> None:
        _aware(filed_at=self.filed_at, decided_at=self.decided_at)
        if self.state is not RequestState.PENDING and self.decided_at is None:
            raise Misuse("a decided request has the time of its decision")

    def pending(self, now: datetime) -> bool:
        """Whether it waits for a decision at `now`."""
        if self.state is RequestState.PENDING:
            return self.filed_at <= now
        return self.decided_at is not None and self.filed_at <= now < self.decided_at


@dataclass(frozen=True, slots=True)
class Case:
    """Everything the engine needs for one recording; equal cases have equal decisions."""

    facts: Facts
    schedule: Schedule
    holds: tuple[Hold, ...] = ()
    choices: tuple[Choice, ...] = ()
    requests: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a recording may be erased on a ground, now.

    Attributes:
        erase: The answer.
        code: Why: ``due``, ``request``, ``court_order``, ``card_security``, or, where it is kept,
            ``hold``, ``statute``, ``not_due``, ``undecided``, ``frozen``, ``restricted``.
        until: When the obstacle falls, if that is known.
    """

    erase: bool
    code: str
    until: datetime | None = None

    def __post_init__(self) -> None:
        _aware(until=self.until)
        if self.until is not None:
            object.__setattr__(self, "until", self.until.astimezone(UTC))
