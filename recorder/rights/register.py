"""The register of requests: filing, whose it is, identity, extension, undoing, and finding them again.

The clock starts with receipt on whatever channel (GDPR art. 12(3)). Until it is decided, a request keeps what
it concerns from being erased and, by its kind, from being used; see ``disposition.facts``. The person's own
words are sealed under a key of the request's own, so that the register outlives the customer's erasure.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import (
    ChoiceKind,
    IdentityMethod,
    IdentityOutcome,
    LinkRole,
    RequestChannel,
    RequestStage,
    SubjectKind,
)
from recorder.catalogue.sealed_fields import REQUEST_RECORD
from recorder.catalogue.subjects import add_subject, open_json, seal_json
from recorder.catalogue.tables import (
    Choice,
    Controller,
    Recording,
    RecordingLink,
    RequestItem,
    RequestNotice,
    RequestPackage,
    RightsRequest,
    Subject,
)
from recorder.customers.records import living
from recorder.disposition.evaluation import recordings_of, reevaluate, reevaluate_customer
from recorder.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound
from recorder.rights.workdays import WorkingDay, load
from recorder.services import Services
from retention import rights
from retention.errors import Undecidable
from retention.model import Purpose, RequestKind

EXTENSION_REASONS: Final = ("complexity", "number_of_requests")
"""GDPR art. 12(3): the only reasons for which two further months may be taken."""
_WHOLE_PERSON: Final = frozenset({RequestKind.OBJECTION, RequestKind.CONSENT_WITHDRAWAL})
"""Kinds that go into the choices ledger, which speaks of purposes and never of single recordings."""


@dataclass(frozen=True, slots=True)
class NewRequest:
    """What is filed.

    Attributes:
        filed_at: when it arrived, which may be days before somebody registers it; None for now.
        customer_id: whose it is, when that is known already.
        recording_ids: only these recordings; empty for everything of the person.
        purposes: what an objection or withdrawal speaks of; empty for all it can reach.
        person: ``name``, ``contact``, ``message``; personal, sealed.
    """

    kind: RequestKind
    channel: RequestChannel
    filed_at: datetime | None = None
    customer_id: uuid.UUID | None = None
    recording_ids: tuple[uuid.UUID, ...] = ()
    purposes: tuple[Purpose, ...] = ()
    language: str = "en"
    person: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request with what is sealed of it, and what hangs on it.

    Attributes:
        started: when each of its recordings began.
        package: the newest of its packages of copies.
        candidates: recordings that may be the customer's and wait for a person's word.
        subject: whose key opens it.
    """

    row: RightsRequest
    controller: Controller
    person: Mapping[str, str]
    items: Sequence[RequestItem]
    started: Mapping[uuid.UUID, datetime]
    notices: Sequence[RequestNotice]
    package: RequestPackage | None
    candidates: Sequence[uuid.UUID]
    subject: Subject


async def file(
    services: Services, principal: Principal, controller_id: uuid.UUID, new: NewRequest, *, request_id: str
) -> RequestView:
    """Register a request and start its clock; what it concerns is frozen from here on.

    Raises:
        Forbidden: the caller does not handle requests here.
        NotFound: no such customer or recording.
        InvalidInput: received in the future, or about recordings where it cannot be.
    """
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    filed_at = new.filed_at or now
    _check(services, new, filed_at, now)
    async with services.database.snapshot() as session:
        country = (await session.get_one(Controller, controller_id)).country
    working_day = await load(country)
    async with services.database.transaction() as session:
        if new.customer_id is not None:
            await living(session, controller_id, new.customer_id)
        controller = await session.get_one(Controller, controller_id)
        due = _deadline(filed_at, controller.time_zone, working_day)
        subject = add_subject(session, services.keyring, controller_id, SubjectKind.REQUEST, now=now)
        await session.flush()
        row = RightsRequest(
            id=uuid.uuid4(),
            controller_id=controller_id,
            subject_id=subject.id,
            customer_id=new.customer_id,
            kind=new.kind,
            channel=new.channel,
            stage=RequestStage.PENDING,
            language=new.language,
            purposes=[p.value for p in dict.fromkeys(new.purposes)],
            scoped=bool(new.recording_ids),
            sealed=None,
            filed_at=filed_at,
            registered_at=now,
            registered_by=principal.actor,
            last_day=due.last_day,
            deadline_at=due.ends,
            mute_agent=False,
        )
        row.sealed = seal_json(services.keyring, subject, REQUEST_RECORD, row.id, dict(new.person))
        session.add(row)
        await session.flush()
        await _name_recordings(session, row, new.recording_ids)
        audit(
            session,
            row,
            "request.filed",
            principal.actor,
            now,
            request_id,
            kind=row.kind.value,
            channel=row.channel.value,
            customer=None if row.customer_id is None else str(row.customer_id),
            recordings=len(new.recording_ids),
            last_day=row.last_day.isoformat(),
        )
        await session.flush()
        await reevaluate_reached(session, services, row, now)
        return await view_of(session, services, row)


def _check(services: Services, new: NewRequest, filed_at: datetime, now: datetime) -> None:
    if (filed_at - now).total_seconds() > services.settings.clock_skew_seconds:
        raise InvalidInput(
            "/filed_at: lies in the future", fields=[FieldError("/filed_at", "lies in the future")]
        )
    if new.recording_ids and new.kind in _WHOLE_PERSON:
        text = "an objection or withdrawal speaks of purposes, not of single recordings"
        raise InvalidInput(f"/recordings: {text}", fields=[FieldError("/recordings", text)])
    if new.recording_ids and new.customer_id is None:
        text = "name the customer as well"
        raise InvalidInput(f"/recordings: {text}", fields=[FieldError("/recordings", text)])


def _deadline(filed_at: datetime, zone: str, working_day: WorkingDay) -> rights.Deadline:
    try:
        return rights.deadline(filed_at, zone, working_day)
    except Undecidable:
        text = "lies outside the calendar"
        raise InvalidInput(f"/filed_at: {text}", fields=[FieldError("/filed_at", text)]) from None


async def _name_recordings(session: AsyncSession, row: RightsRequest, ids: Sequence[uuid.UUID]) -> None:
    if row.customer_id is None or not ids:
        return
    theirs = set(await recordings_of(session, row.customer_id))
    if not theirs.issuperset(ids):
        raise NotFound("one of the recordings is not this customer's, or was erased")
    for recording_id in dict.fromkeys(ids):
        session.add(RequestItem(request_id=row.id, recording_id=recording_id, outcome="pending"))


async def match(
    services: Services, principal: Principal, rights_id: uuid.UUID, customer_id: uuid.UUID, *, request_id: str
) -> RequestView:
    """Say whose request it is, where nobody knew when it was filed.

    Raises:
        NotFound: no such request or customer.
        Conflict: it has a customer already, or was decided; undo it first.
    """
    async with changing(services, principal, rights_id, request_id) as (session, row, now):
        refuse_decided(row)
        if row.customer_id is not None:
            raise Conflict("the request has a customer; undo it first", kind="request-matched")
        await attach(session, services, row, customer_id, principal.actor, now, request_id)
        return await view_of(session, services, row)


async def attach(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    customer_id: uuid.UUID,
    actor: str,
    now: datetime,
    request_id: str,
) -> None:
    """Hang a pending request on a living customer, in the running transaction.

    Raises:
        NotFound: no such customer.
    """
    await living(session, row.controller_id, customer_id)
    row.customer_id = customer_id
    audit(session, row, "request.matched", actor, now, request_id, customer=str(customer_id))
    await session.flush()
    await reevaluate_reached(session, services, row, now)


async def note_identity(
    services: Services,
    principal: Principal,
    rights_id: uuid.UUID,
    *,
    method: IdentityMethod,
    outcome: IdentityOutcome,
    request_id: str,
) -> RequestView:
    """Note how and whether the person's identity was made sure; never what they showed.

    Raises:
        NotFound: no such request.
        Conflict: it was decided.
    """
    async with changing(services, principal, rights_id, request_id) as (session, row, now):
        refuse_decided(row)
        row.identity_method, row.identity_outcome = method, outcome
        row.identity_at, row.identity_by = now, principal.actor
        audit(
            session,
            row,
            "request.identity_checked",
            principal.actor,
            now,
            request_id,
            method=method.value,
            result=outcome.value,
        )
        return await view_of(session, services, row)


async def extend(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, reason: str, request_id: str
) -> RequestView:
    """Take two further months; the notice of it goes out now, so now must lie in the first month.

    Raises:
        NotFound: no such request.
        InvalidInput: an unknown reason.
        Conflict: the first month is over, it was extended before, or it was decided.
    """
    if reason not in EXTENSION_REASONS:
        raise InvalidInput(f"reason is one of {', '.join(EXTENSION_REASONS)}")
    async with services.database.snapshot() as session:
        country = (await _found(session, rights_id))[1].country
    working_day = await load(country)
    async with changing(services, principal, rights_id, request_id) as (session, row, now):
        refuse_decided(row)
        if row.extended_at is not None:
            raise Conflict("the request was extended before", kind="extension-refused")
        zone = (await session.get_one(Controller, row.controller_id)).time_zone
        try:
            due = rights.extend(row.filed_at, now, zone, working_day)
        except rights.ExtensionRefused as error:
            raise Conflict(str(error), kind="extension-refused") from None
        row.extended_at, row.extension_reason = now, reason
        row.last_day, row.deadline_at, row.reminded = due.last_day, due.ends, None
        audit(
            session,
            row,
            "request.extended",
            principal.actor,
            now,
            request_id,
            reason=reason,
            last_day=due.last_day.isoformat(),
        )
        return await view_of(session, services, row)


def write_choice(
    session: AsyncSession,
    row: RightsRequest,
    kind: ChoiceKind,
    actor: str,
    effective_at: datetime,
    now: datetime,
    request_id: str | None,
    *,
    source: str = "request",
) -> uuid.UUID:
    """Append what a request comes to, or a correction of it, to the customer's choices ledger."""
    if row.customer_id is None:
        raise Conflict("the request has no customer yet", kind="request-unmatched")
    choice = Choice(
        id=uuid.uuid4(),
        customer_id=row.customer_id,
        kind=kind,
        purposes=list(row.purposes),
        channel=None,
        effective_at=effective_at,
        source=source,
        recorded_at=now,
        actor=actor,
    )
    session.add(choice)
    event = AuditEvent(
        action="choice.recorded",
        actor=actor,
        object_type="customer",
        object_id=str(row.customer_id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"choice": str(choice.id), "kind": kind.value, "purposes": list(row.purposes)},
    )
    record(session, event, now=now)
    return choice.id


async def get(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> RequestView:
    """One request; opening it is in the audit log, for it says who asked what.

    Raises:
        NotFound: no such request.
        Forbidden: the caller does not handle requests there.
    """
    async with changing(services, principal, rights_id, request_id, lock=False) as (session, row, now):
        audit(session, row, "request.viewed", principal.actor, now, request_id)
        return await view_of(session, services, row)


async def listing(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    customer_id: uuid.UUID | None = None,
    kind: RequestKind | None = None,
    stage: RequestStage | None = None,
    due_before: datetime | None = None,
    after: tuple[datetime, uuid.UUID] | None = None,
    limit: int = 50,
    request_id: str,
) -> list[RightsRequest]:
    """Requests, the newest first, without what is sealed; or those still owed that fall due, soonest first.

    Raises:
        Forbidden: the caller does not handle requests here.
    """
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    query = sa.select(RightsRequest).where(RightsRequest.controller_id == controller_id)
    for column, value in (
        (RightsRequest.customer_id, customer_id),
        (RightsRequest.kind, kind),
        (RightsRequest.stage, stage),
    ):
        if value is not None:
            query = query.where(column == value)
    if due_before is not None:
        query = query.where(*open_conditions(due_before)).order_by(
            RightsRequest.deadline_at, RightsRequest.id
        )
    else:
        query = query.order_by(RightsRequest.filed_at.desc(), RightsRequest.id.desc())
        if after is not None:
            at, row_id = after
            beside = sa.and_(RightsRequest.filed_at == at, RightsRequest.id < row_id)
            query = query.where(sa.or_(RightsRequest.filed_at < at, beside))
    async with services.database.snapshot() as session:
        return list(await session.scalars(query.limit(limit)))


def open_conditions(due_before: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    """Requests whose answer is still owed and falls due before a moment."""
    return (
        RightsRequest.completed_at.is_(None),
        RightsRequest.stage != RequestStage.UNDONE,
        RightsRequest.deadline_at <= due_before,
    )


# -- shared by the other modules of this package ---------------------------------------------------


@asynccontextmanager
async def changing(
    services: Services,
    principal: Principal,
    rights_id: uuid.UUID,
    request_id: str,
    *,
    lock: bool = True,
    action: Action = Action.MANAGE_REQUESTS,
) -> AsyncIterator[tuple[AsyncSession, RightsRequest, datetime]]:
    """Permission, then one transaction with the request's row locked: session, row, now.

    Raises:
        NotFound: no such request.
        Forbidden: the caller may not do this there.
    """
    async with services.database.snapshot() as session:
        row, _ = await _found(session, rights_id)
    await permit(
        services,
        principal,
        action,
        controller_id=row.controller_id,
        object_type="request",
        object_id=str(row.id),
        request_id=request_id,
    )
    async with services.database.transaction() as session:
        if lock:
            row = await lock_request(session, rights_id)
        else:
            row = await session.get_one(RightsRequest, rights_id)
        yield session, row, services.clock.now()


async def _found(session: AsyncSession, rights_id: uuid.UUID) -> tuple[RightsRequest, Controller]:
    row = await session.get(RightsRequest, rights_id)
    if row is None:
        raise NotFound("there is no such request")
    return row, await session.get_one(Controller, row.controller_id)


async def lock_request(session: AsyncSession, rights_id: uuid.UUID) -> RightsRequest:
    """The request's row, locked. Lock order everywhere: request, customer, recordings, subject."""
    return await session.get_one(RightsRequest, rights_id, with_for_update=True, populate_existing=True)


def refuse_decided(row: RightsRequest) -> None:
    """Return while a request waits for its decision.

    Raises:
        Conflict: it does not.
    """
    if row.stage is not RequestStage.PENDING:
        raise Conflict("the request was decided or undone before", kind="request-decided")


def require_identity(row: RightsRequest) -> uuid.UUID:
    """The customer of a request that may be acted on.

    Raises:
        Conflict: nobody knows yet whose request it is.
        Forbidden: the identity was not made sure.
    """
    if row.customer_id is None:
        raise Conflict("say first whose request it is", kind="request-unmatched")
    if row.identity_outcome is not IdentityOutcome.CONFIRMED:
        raise Forbidden("make sure of the person's identity first", reason="identity-not-confirmed")
    return row.customer_id


async def reevaluate_reached(
    session: AsyncSession, services: Services, row: RightsRequest, now: datetime
) -> None:
    """Decide afresh what a request concerns."""
    if row.customer_id is None:
        return
    if row.scoped:
        named = sa.select(RequestItem.recording_id).where(RequestItem.request_id == row.id)
        await reevaluate(session, services, list(await session.scalars(named)), now)
    else:
        await reevaluate_customer(session, services, row.customer_id, now)


async def view_of(session: AsyncSession, services: Services, row: RightsRequest) -> RequestView:
    """A request with everything that hangs on it, opened."""
    subject = await session.get_one(Subject, row.subject_id, populate_existing=True)
    person = {}
    if row.sealed is not None and subject.wrapped_key is not None:
        person = open_json(services.keyring, subject, REQUEST_RECORD, row.id, row.sealed)
    items = sa.select(RequestItem, Recording.started_at).join(
        Recording, Recording.id == RequestItem.recording_id
    )
    found = (
        await session.execute(
            items.where(RequestItem.request_id == row.id).order_by(
                Recording.started_at, RequestItem.recording_id
            )
        )
    ).all()
    notices = sa.select(RequestNotice).where(RequestNotice.request_id == row.id)
    packages = sa.select(RequestPackage).where(RequestPackage.request_id == row.id)
    maybe = sa.select(RecordingLink.recording_id).where(
        RecordingLink.customer_id == row.customer_id, RecordingLink.role == LinkRole.CANDIDATE
    )
    return RequestView(
        row=row,
        controller=await session.get_one(Controller, row.controller_id),
        person=person,
        items=[item for item, _ in found],
        started={item.recording_id: at for item, at in found},
        notices=list(await session.scalars(notices.order_by(RequestNotice.number))),
        package=await session.scalar(packages.order_by(RequestPackage.created_at.desc()).limit(1)),
        candidates=[] if row.customer_id is None else list(await session.scalars(maybe)),
        subject=subject,
    )


def audit(
    session: AsyncSession,
    row: RightsRequest,
    action: str,
    actor: str,
    now: datetime,
    request_id: str | None,
    **details: Detail,
) -> None:
    """Write an entry about a request to the log, in the running transaction."""
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="request",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details=details,
    )
    record(session, event, now=now)
