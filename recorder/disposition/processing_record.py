"""The record of processing activities (GDPR art. 30(1)), generated from what is configured and in use.

Names, rules, lawful bases and sources are read from the catalogue, settings and roles from what decides them;
categories and measures are facts of the program, and stand here. What only people know, such as the contact
details of the data protection officer, is listed as missing instead of being made up.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import ROLE_WORDS, TABLE, Action
from recorder.access.principals import Principal
from recorder.catalogue.enums import LawfulBasis, RecordingState
from recorder.catalogue.tables import Controller, Recording, RegisteredRecipient, Source
from recorder.disposition.facts import active_schedule
from recorder.errors import NotFound
from recorder.services import Services
from recorder.settings import Settings
from retention.model import Condition, Disposition, Purpose, Rule, Schedule, Trigger

__all__ = ["PURPOSES", "ProcessingRecord", "condition_in_words", "record_of", "rule_in_words"]

PURPOSES: Final = {
    Purpose.SERVICE_EVIDENCE: "proof of what was agreed and of how a service was given",
    Purpose.LEGAL_PROTECTION: "establishment, exercise or defence of legal claims; statutory duties to keep",
    Purpose.SECURITY: "security of staff, customers and the service",
    Purpose.TRAINING: "training of staff",
    Purpose.QUALITY: "development and assurance of quality",
}
_BASES: Final = {
    LawfulBasis.CUSTOMER_RELATIONSHIP: "customer relationship",
    LawfulBasis.CONSENT: "consent (GDPR art. 6(1)(a))",
    LawfulBasis.ASSIGNMENT: "assignment by the person",
    LawfulBasis.OBJECTIVE_CONNECTION: "other objective connection to the controller",
    LawfulBasis.STATUTORY_OBLIGATION: "statutory obligation (GDPR art. 6(1)(c))",
}
_TRIGGERS: Final = {
    "call_started": "the start of the call",
    "call_ended": "the end of the call",
    "last_contact": "the last service or other contact with the customer",
    "relationship_ended": "the end of the relationship, as a person confirmed it",
    "matter_closed": "the closing of the matter",
    "consent_withdrawn": "the withdrawal of consent",
    "financial_year_end": "the end of the financial year",
}
_EVENTS: Final = {"occurred": "it took place"}
_CLOSED_BY: Final = {
    "objection": "an objection",
    "consent_withdrawn": "withdrawn consent",
    "restriction": "a restriction",
}
_FIELDS: Final = (
    ("direction", "the direction is"),
    ("source", "the source is"),
    ("queue", "the queue is"),
    ("tag", "a tag is"),
    ("service_event", "a service event is"),
    ("basis", "the lawful basis is"),
    ("country", "the controller's country is"),
)
_PEOPLE: Final = (
    "customers and others who call or are called",
    "people spoken of in a call",
    "staff who serve calls",
    "staff who use this service",
)
_DATA: Final = (
    "the voice and the words of the call, which may hold any category of data that somebody speaks of",
    "numbers or addresses of the parties, time, length, direction, queue, agent code, tags, service events",
    "customer number, names, telephone numbers and e-mail addresses, as the customer system delivers them",
    "contacts with the customer: kind and time",
    "choices: consents, objections, restrictions, bans on marketing",
    "requests of the person, how the identity was checked, what was decided",
    "matters, legal holds and their custodians",
    "names and sign-in details of staff, and a log of who did what for which purpose",
)
_NOT_KNOWN: Final = (
    "contact details of the controller, of joint controllers and of a representative (art. 30(1)(a))",
    "the data protection officer and how to reach them (art. 30(1)(a))",
    "recipients that nobody has registered yet, such as processors that run the machines (art. 30(1)(d))",
)


@dataclass(frozen=True, slots=True)
class ProcessingRecord:
    """The record as builtins for JSON and pages; sentences are English and without a full stop."""

    controller: Mapping[str, str]
    made_at: datetime
    schedule: int
    purposes: tuple[Mapping[str, Any], ...]
    lawful_bases: tuple[Mapping[str, Any], ...]
    data_subjects: tuple[str, ...]
    data: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]
    recipients: tuple[Mapping[str, Any], ...]
    transfers: tuple[str, ...]
    retention: tuple[Mapping[str, Any], ...]
    security: tuple[str, ...]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        names = (name for name in self.__slots__ if name != "made_at")
        return {"made_at": self.made_at.isoformat(), **{name: getattr(self, name) for name in names}}


async def record_of(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> ProcessingRecord:
    """Generate a controller's record as of now.

    Raises:
        Forbidden: the caller does not see reports of this controller.
        NotFound: there is no such controller.
        Unavailable: the database is away.
    """
    await permit(services, principal, Action.VIEW_REPORTS, controller_id=controller_id, request_id=request_id)
    async with services.database.snapshot() as session:
        controller = await session.get(Controller, controller_id)
        if controller is None:
            raise NotFound("there is no such controller")
        schedule = await active_schedule(session, controller_id)
        in_use = await _bases(session, controller_id)
        sources = await _sources(session, controller_id)
        outside = await _registered(session, controller_id)
    return ProcessingRecord(
        controller={
            "code": controller.code,
            "name": controller.name,
            "country": controller.country,
            "authority": controller.authority,
            "time_zone": controller.time_zone,
        },
        made_at=services.clock.now(),
        schedule=schedule.version,
        purposes=tuple(_purposes(schedule)),
        lawful_bases=tuple(
            {"basis": basis.value, "words": _BASES[basis], "recordings": in_use[basis]}
            for basis in LawfulBasis
            if basis in in_use
        ),
        data_subjects=_PEOPLE,
        data=_DATA,
        sources=tuple(sources),
        recipients=(*_roles(), *outside),
        transfers=tuple(_transfers(services.settings)),
        retention=tuple(_retention(schedule)),
        security=tuple(_security(services, str(controller_id))),
        missing=_NOT_KNOWN,
    )


def rule_in_words(rule: Rule) -> str:
    """A rule of a schedule as a sentence: how long, after what, for which calls, closed by what."""
    text = f"{rule.keep.in_words()} after {_trigger(rule.after)}"
    if not rule.when.is_empty:
        text += f", where {condition_in_words(rule.when)}"
    if rule.closes_on:
        closers = sorted(_CLOSED_BY.get(c.value, c.value.replace("_", " ")) for c in rule.closes_on)
        text += f"; ended sooner by {_either(closers)}"
    if rule.statutory is not None:
        text += f"; commanded by {rule.statutory}, which nothing shortens"
    return text


def condition_in_words(when: Condition) -> str:
    """To which recordings a rule applies."""
    parts = [
        f"{words} {_either(sorted(str(value) for value in found))}"
        for name, words in _FIELDS
        if (found := getattr(when, name)) is not None
    ]
    if when.duration_at_least is not None:
        parts.append(f"the call lasts {int(when.duration_at_least.total_seconds())} seconds or longer")
    if when.duration_less_than is not None:
        parts.append(f"the call lasts less than {int(when.duration_less_than.total_seconds())} seconds")
    return " and ".join(parts)


def _trigger(trigger: Trigger) -> str:
    words = _TRIGGERS[trigger.kind.value]
    return f"the end of the calendar year of {words}" if trigger.calendar_year else words


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _purposes(schedule: Schedule) -> Iterable[dict[str, Any]]:
    for purpose in Purpose:
        rules = [rule.id for rule in schedule.rules if purpose in rule.purposes]
        if rules:
            yield {"purpose": purpose.value, "words": PURPOSES[purpose], "rules": rules}


def _retention(schedule: Schedule) -> Iterable[dict[str, Any]]:
    for rule in schedule.rules:
        yield {
            "of": "recordings",
            "rule": rule.id,
            "purposes": [purpose.value for purpose in Purpose if purpose in rule.purposes],
            "words": rule_in_words(rule),
            "statutory": rule.statutory,
            "reason": rule.reason,
        }
    for purpose, period in schedule.caps.items():
        words = f"never longer than {period.in_words()} after the call, unless a statute or a hold says so"
        yield _line("recordings", "cap", words, [purpose.value])
    if not schedule.hold_grace.is_zero:
        words = f"at least {schedule.hold_grace.in_words()} after the last legal hold was released"
        yield _line("recordings", "hold_grace", words, [])
    for kind in sorted(schedule.dispositions):
        yield _disposition(schedule.dispositions[kind])


def _disposition(found: Disposition) -> dict[str, Any]:
    after = _TRIGGERS.get(found.after) or _EVENTS.get(found.after, f"it was {found.after.replace('_', ' ')}")
    line = _line(f"{found.record} records", "disposition", f"{found.keep.in_words()} after {after}", [])
    return line | {"reason": found.reason}


def _line(of: str, rule: str, words: str, purposes: list[str]) -> dict[str, Any]:
    return {
        "of": of,
        "rule": rule,
        "purposes": purposes,
        "words": words,
        "statutory": None,
        "reason": "",
    }


def _roles() -> Iterable[dict[str, Any]]:
    """Who hears calls inside the controller, from the table that decides it."""
    for role, words in ROLE_WORDS.items():
        heard = {purpose for rule in TABLE if rule.role is role for purpose in rule.purposes}
        if heard:
            yield {
                "recipient": words,
                "inside": True,
                "purposes": [purpose.value for purpose in Purpose if purpose in heard],
            }


async def _registered(session: AsyncSession, controller_id: uuid.UUID) -> list[dict[str, Any]]:
    """Recipients and processors outside, from their register; a person's name stays sealed."""
    query = (
        sa.select(RegisteredRecipient)
        .where(RegisteredRecipient.controller_id == controller_id, RegisteredRecipient.ended_at.is_(None))
        .order_by(RegisteredRecipient.registered_at, RegisteredRecipient.id)
    )
    found = []
    for row in await session.scalars(query):
        name = row.name or f"a person ({row.kind.value.replace('_', ' ')})"
        safeguard = "" if row.safeguard is None else f", safeguard {row.safeguard.replace('_', ' ')}"
        found.append(
            {"recipient": f"{name}, {row.country}: {row.purpose}{safeguard}", "inside": False, "purposes": []}
        )
    return found


def _transfers(settings: Settings) -> Iterable[str]:
    """Where data and keys are, and the named exception where that is outside the EU and the EEA."""
    yield (
        f"audio is written to {_store(settings)} in {settings.store_country}, the keys are in "
        f"{settings.key_country}; the service sends personal data nowhere else by itself"
    )
    if settings.transfer_exception is not None:
        until = settings.transfer_exception_until
        ends = "" if until is None else f", until {until:%Y-%m-%d}"
        yield f"exception for what is outside the EU and the EEA: {settings.transfer_exception}{ends}"


async def _bases(session: AsyncSession, controller_id: uuid.UUID) -> dict[LawfulBasis, int]:
    """Lawful bases with how many kept recordings stand on each, and those that sources give by default."""
    query = (
        sa.select(Recording.lawful_basis, sa.func.count())
        .where(Recording.controller_id == controller_id, Recording.state != RecordingState.ERASED)
        .group_by(Recording.lawful_basis)
    )
    found = {basis: int(count) for basis, count in await session.execute(query)}
    defaults = await session.scalars(
        sa.select(Source.default_lawful_basis).where(
            Source.controller_id == controller_id, Source.default_lawful_basis.is_not(None)
        )
    )
    for basis in defaults:
        if basis is not None:
            found.setdefault(basis, 0)
    return found


async def _sources(session: AsyncSession, controller_id: uuid.UUID) -> list[dict[str, Any]]:
    rows = await session.scalars(
        sa.select(Source).where(Source.controller_id == controller_id).order_by(Source.name)
    )
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "enabled": row.enabled,
            "default_basis": None if row.default_lawful_basis is None else row.default_lawful_basis.value,
        }
        for row in rows
    ]


def _store(settings: Settings) -> str:
    """Kind and host of the object store; never a name or a secret in its address."""
    if settings.resolved_object_store.startswith("s3:"):
        host = urlsplit(settings.s3_endpoint or "").hostname
        place = "Amazon S3" if host is None else f"the S3 server {host}"
        return f"{place} (region {settings.s3_region})"
    return "a directory of the service's own machine"


def _security(services: Services, controller_id: str) -> Iterable[str]:
    settings = services.settings
    epochs = services.keyring.epochs(controller_id)
    yield (
        "audio is sealed with AES-256-GCM in authenticated segments under a key of its own; decrypted "
        "audio is never written to a disk"
    )
    yield (
        "each person has a key that wraps the keys of their calls and seals their personal fields; erasure "
        "destroys it, and with it every copy"
    )
    yield (
        f"the controller's own key is in epoch {services.keyring.current_epoch(controller_id)}, "
        f"{len(epochs)} so far; an older epoch's key can be destroyed after rotation"
    )
    yield "numbers, addresses and names are found by keyed hashes; none is readable in the catalogue"
    yield (
        "access follows role, scope and declared purpose; a call is heard only while a window of the "
        "schedule is open for that purpose"
    )
    yield "releasing a legal hold and activating a schedule that shortens anything take two people"
    yield (
        "every use, refusal and change is in a log whose entries are chained in a Merkle tree, so that a "
        "later change shows"
    )
    yield (
        f"sessions end after {settings.session_hours:g} hours or {settings.session_idle_minutes:g} idle "
        f"minutes; {settings.lockout_failures} failed sign-ins lock for {settings.lockout_seconds} seconds"
    )
    yield (
        f"backups of the database are kept for {settings.backup_window_days} days; what was erased meanwhile "
        "is erased again after a restore"
    )
    yield "each erasure is proven by a listing of the store and a signed certificate"
