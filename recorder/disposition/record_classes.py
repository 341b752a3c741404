"""The records beside the calls: from which date each kind's time counts, what keeps it, how it is destroyed.

A line of :data:`CLASSES` is all that a further kind of record needs. Its schedule is `retention.schedule`'s
``RECORD_EVENTS``; who runs it is `recorder.disposition.other_records`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from recorder.catalogue.enums import ApprovalState, LinkRole, RequestStage
from recorder.catalogue.tables import (
    Account,
    Approval,
    Assessment,
    AuditCheckpoint,
    AuditEntry,
    Breach,
    BreachRecording,
    Contact,
    Customer,
    Disclosure,
    DisclosureRecording,
    ExpectedRecording,
    Hold,
    Listen,
    ListeningLink,
    LoginFailure,
    Matter,
    PackageRecording,
    Recording,
    RecordingAgent,
    RecordingLink,
    RequestItem,
    RequestNotice,
    RequestPackage,
    Restriction,
    RightsRequest,
    RoleGrant,
    ScheduleVersion,
    SpooledReceipt,
    Subject,
    WebSession,
)
from recorder.disposition.facts import ALIVE
from recorder.quality import folding

__all__ = ["CLASSES", "LOG_DISPOSED", "Destroy", "RecordClass"]

Clause = sa.ColumnElement[bool]
Column = sa.SQLColumnExpression[Any]
Destroy = Callable[[AsyncSession, Sequence[uuid.UUID], datetime], Awaitable[None]]
LOG_DISPOSED: Final = "log.disposed"
_COUNTS: Final = ("call", "registration", "order", "visit", "service")


@dataclass(frozen=True, slots=True)
class RecordClass:
    """One kind of record.

    Attributes:
        name: of the class; stable, stands in the log.
        record: which ``[disposition.<record>]`` of the schedule speaks of it.
        key: column of its id.
        events: what the schedule may count from, as an expression over the table.
        mine: the rows of one controller that are still there.
        held: what keeps a row although its time is over: holds, requests, what rests on it. It is given the
            instant since which released holds still count, by the schedule's ``hold_grace``.
        destroy: ends the rows with these ids, in the running transaction; None where each one is an erasure.
        singly: each row gets an entry of its own in the log; others get one together.
        steady: so many end on an ordinary day that only their share, not their number, can be unusual.
    """

    name: str
    record: str
    key: InstrumentedAttribute[uuid.UUID]
    events: Mapping[str, Column]
    mine: Callable[[uuid.UUID], Clause]
    held: Callable[[datetime], Clause]
    destroy: Destroy | None
    singly: bool = True
    steady: bool = False


def _alive(recording: Column) -> Clause:
    return sa.exists().where(Recording.id == recording, Recording.state.in_(ALIVE))


def _held_recording(recording: Column) -> Clause:
    return sa.exists().where(Recording.id == recording, Recording.held)


def _bound_customer(customer: Column) -> Clause:
    """A hold, a restriction or an open request of a customer: nothing of theirs goes by a date meanwhile."""
    return sa.or_(
        sa.exists().where(Hold.customer_id == customer, Hold.released_at.is_(None)),
        sa.exists().where(Restriction.customer_id == customer, Restriction.lifted_at.is_(None)),
        sa.exists().where(RightsRequest.customer_id == customer, RightsRequest.stage == RequestStage.PENDING),
        sa.exists().where(Recording.customer_id == customer, Recording.held),
    )


async def _delete(session: AsyncSession, table: Any, column: Any, ids: Sequence[uuid.UUID]) -> None:
    await session.execute(sa.delete(table).where(column.in_(ids)))


# -- customers and contacts --------------------------------------------------------------------------------


def _customer_held(_grace_from: datetime) -> Clause:
    linked = sa.exists().where(
        RecordingLink.customer_id == Customer.id,
        RecordingLink.role != LinkRole.CANDIDATE,
        _alive(RecordingLink.recording_id),
    )
    own = sa.exists().where(Recording.customer_id == Customer.id, Recording.state.in_(ALIVE))
    return sa.or_(own, linked, _bound_customer(Customer.id))


def _contact_held(_grace_from: datetime) -> Clause:
    later = aliased(Contact)
    newest = ~sa.exists().where(
        later.customer_id == Contact.customer_id, later.kind.in_(_COUNTS), later.at > Contact.at
    )
    # The newest one dates the relationship; it goes with the customer.
    return sa.or_(sa.and_(Contact.kind.in_(_COUNTS), newest), _bound_customer(Contact.customer_id))


async def _destroy_contacts(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    customers = sa.select(Contact.customer_id).where(Contact.id.in_(ids), Contact.sealed.is_not(None))
    subjects = sa.select(Customer.subject_id).where(Customer.id.in_(customers))
    # Their key lives on: in an old backup it would still open the note.
    await _owe_new_keys(session, subjects)
    await _delete(session, Contact, Contact.id, ids)


async def _owe_new_keys(session: AsyncSession, subjects: sa.Select[uuid.UUID]) -> None:
    await session.execute(
        sa.update(Subject)
        .where(Subject.id.in_(subjects), Subject.wrapped_key.is_not(None))
        .values(rekey_needed=True)
    )


async def _destroy_keys(session: AsyncSession, subjects: sa.Select[uuid.UUID], now: datetime) -> None:
    await session.execute(
        sa.update(Subject)
        .where(Subject.id.in_(subjects), Subject.destroyed_at.is_(None))
        .values(wrapped_key=None, destroyed_at=now)
    )


# -- requests ----------------------------------------------------------------------------------------------


def _request_held(_grace_from: datetime) -> Clause:
    items = RequestItem.request_id == RightsRequest.id
    return sa.or_(
        # What a hold or a statute kept goes by this request when they fall.
        sa.exists().where(items, RequestItem.outcome != "refused", _alive(RequestItem.recording_id)),
        sa.exists().where(items, _held_recording(RequestItem.recording_id)),
        sa.exists().where(Hold.customer_id == RightsRequest.customer_id, Hold.released_at.is_(None)),
        sa.exists().where(
            RequestPackage.request_id == RightsRequest.id,
            RequestPackage.key.is_not(None),
            RequestPackage.deleted_at.is_(None),
        ),
    )


async def _destroy_requests(session: AsyncSession, ids: Sequence[uuid.UUID], now: datetime) -> None:
    subjects = sa.select(RightsRequest.subject_id).where(RightsRequest.id.in_(ids))
    await _destroy_keys(session, subjects, now)
    packages = sa.select(RequestPackage.id).where(RequestPackage.request_id.in_(ids))
    await session.execute(sa.delete(PackageRecording).where(PackageRecording.package_id.in_(packages)))
    for table in (RequestPackage, RequestNotice, RequestItem):
        await _delete(session, table, table.request_id, ids)
    await _delete(session, RightsRequest, RightsRequest.id, ids)


# -- matters, disclosures, breaches, approvals -------------------------------------------------------------


def _matter_held(grace_from: datetime) -> Clause:
    # What was due under a hold that was released lately waits out the schedule's grace by its row.
    lately = sa.or_(Hold.released_at.is_(None), Hold.released_at >= grace_from)
    return sa.exists().where(Hold.matter_id == Matter.id, lately)


async def _destroy_matters(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, Hold, Hold.matter_id, ids)
    await _delete(session, Matter, Matter.id, ids)


def _disclosure_held(_grace_from: datetime) -> Clause:
    # Its recipient is still to be told of what becomes of the recording (GDPR art. 19).
    return sa.exists().where(
        DisclosureRecording.disclosure_id == Disclosure.id, _alive(DisclosureRecording.recording_id)
    )


async def _destroy_disclosures(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, DisclosureRecording, DisclosureRecording.disclosure_id, ids)
    await _delete(session, Disclosure, Disclosure.id, ids)


def _breach_held(_grace_from: datetime) -> Clause:
    return sa.exists().where(
        BreachRecording.breach_id == Breach.id, _held_recording(BreachRecording.recording_id)
    )


async def _destroy_breaches(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, BreachRecording, BreachRecording.breach_id, ids)
    await _delete(session, Breach, Breach.id, ids)


_APPROVAL_CLOSED: Final = sa.case(
    (Approval.state.in_([ApprovalState.PENDING, ApprovalState.APPROVED]), Approval.expires_at),
    else_=sa.func.coalesce(Approval.used_at, Approval.decided_at, Approval.expires_at),
)


def _approval_held(_grace_from: datetime) -> Clause:
    return sa.or_(
        sa.exists().where(Disclosure.approval_id == Approval.id),
        sa.exists().where(ScheduleVersion.approval_id == Approval.id),
    )


async def _destroy_approvals(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, Approval, Approval.id, ids)


# -- staff -------------------------------------------------------------------------------------------------


def _account_mine(controller_id: uuid.UUID) -> Clause:
    known = sa.exists().where(Subject.id == Account.subject_id, Subject.destroyed_at.is_(None))
    return sa.and_(Account.controller_id == controller_id, known)


def _account_held(_grace_from: datetime) -> Clause:
    # Who served a call that a hold keeps can be asked about it.
    return sa.exists().where(
        RecordingAgent.controller_id == Account.controller_id,
        RecordingAgent.agent == Account.agent_code,
        _held_recording(RecordingAgent.recording_id),
    )


async def _destroy_profiles(session: AsyncSession, ids: Sequence[uuid.UUID], now: datetime) -> None:
    """A leaver's profile: the key, the sealed names, every hash. The random id stays, for the log's sake."""
    accounts = sa.select(Account.username_index).where(Account.id.in_(ids))
    await session.execute(sa.delete(LoginFailure).where(LoginFailure.username_index.in_(accounts)))
    await _destroy_keys(session, sa.select(Account.subject_id).where(Account.id.in_(ids)), now)
    await _delete(session, WebSession, WebSession.account_id, ids)
    await _delete(session, RoleGrant, RoleGrant.account_id, ids)
    for account_id in ids:  # each needs an index of its own, which no user name has
        await session.execute(
            sa.update(Account)
            .where(Account.id == account_id)
            .values(sealed=b"", username_index=os.urandom(32), password_hash="", agent_code=None)
        )


# -- what counts calls and listening -----------------------------------------------------------------------


def _of_recording(recording: Column, controller_id: uuid.UUID) -> Clause:
    return sa.exists().where(Recording.id == recording, Recording.controller_id == controller_id)


async def _destroy_expected(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, ExpectedRecording, ExpectedRecording.id, ids)


async def _destroy_receipts(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, SpooledReceipt, SpooledReceipt.id, ids)


async def _destroy_assessments(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await folding.fold(session, ids)


async def _destroy_listens(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, Listen, Listen.id, ids)


def _link_held(_grace_from: datetime) -> Clause:
    used = sa.exists().where(Listen.link_id == ListeningLink.id)
    return sa.or_(used, _held_recording(ListeningLink.recording_id))


async def _destroy_links(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    await _delete(session, ListeningLink, ListeningLink.id, ids)


def _entry_mine(controller_id: uuid.UUID) -> Clause:
    return sa.and_(
        AuditEntry.controller_id == controller_id, AuditEntry.payload != b"", AuditEntry.index.is_not(None)
    )


def _entry_held(_grace_from: datetime) -> Clause:
    def bare(column: Column) -> sa.ColumnElement[str]:
        return sa.func.replace(sa.cast(column, sa.String), "-", "")

    covered = sa.exists().where(
        AuditCheckpoint.size > AuditEntry.index, AuditCheckpoint.copied_at.is_not(None)
    )
    held = sa.exists().where(Recording.held, bare(Recording.id) == bare(AuditEntry.object_id))
    return sa.or_(
        sa.not_(covered),  # what no copied checkpoint proves must still be read to be checked
        AuditEntry.action == LOG_DISPOSED,  # says which places are rightly empty
        sa.and_(AuditEntry.object_type == "recording", held),
    )


async def _empty_entries(session: AsyncSession, ids: Sequence[uuid.UUID], _now: datetime) -> None:
    """What an entry said goes; place, time and leaf in the tree stay, so the log still verifies."""
    await session.execute(
        sa.update(AuditEntry)
        .where(AuditEntry.id.in_(ids))
        .values(payload=b"", actor="", action="", object_type="", object_id="", outcome="")
    )


CLASSES: Final[tuple[RecordClass, ...]] = (
    RecordClass(
        "request",
        "request",
        RightsRequest.id,
        {
            "decided": sa.case(
                (
                    RightsRequest.stage != RequestStage.PENDING,
                    sa.func.coalesce(RightsRequest.decided_at, RightsRequest.undone_at),
                )
            )
        },
        lambda controller: RightsRequest.controller_id == controller,
        _request_held,
        _destroy_requests,
    ),
    RecordClass(
        "matter",
        "matter",
        Matter.id,
        {"closed": Matter.closed_at},
        lambda controller: Matter.controller_id == controller,
        _matter_held,
        _destroy_matters,
    ),
    RecordClass(
        "disclosure",
        "disclosure",
        Disclosure.id,
        {"made": Disclosure.disclosed_at},
        lambda controller: Disclosure.controller_id == controller,
        _disclosure_held,
        _destroy_disclosures,
    ),
    RecordClass(
        "breach",
        "breach",
        Breach.id,
        {"closed": Breach.closed_at},
        lambda controller: Breach.controller_id == controller,
        _breach_held,
        _destroy_breaches,
    ),
    RecordClass(
        "approval",
        "approval",
        Approval.id,
        {"closed": _APPROVAL_CLOSED},
        lambda controller: Approval.controller_id == controller,
        _approval_held,
        _destroy_approvals,
        singly=False,
    ),
    RecordClass(
        "account",
        "account",
        Account.id,
        {"disabled": Account.disabled_at},
        _account_mine,
        _account_held,
        _destroy_profiles,
    ),
    RecordClass(
        "contact",
        "contact",
        Contact.id,
        {"occurred": Contact.at},
        lambda controller: sa.exists().where(
            Customer.id == Contact.customer_id, Customer.controller_id == controller
        ),
        _contact_held,
        _destroy_contacts,
        singly=False,
        steady=True,
    ),
    RecordClass(
        "customer",
        "customer",
        Customer.id,
        {
            "last_contact": Customer.last_contact_at,
            "relationship_ended": sa.case(
                (Customer.relationship_end_confirmed_at.is_not(None), Customer.relationship_ended_at)
            ),
        },
        lambda controller: sa.and_(Customer.controller_id == controller, Customer.erased_at.is_(None)),
        _customer_held,
        None,
    ),
    RecordClass(
        "assessment",
        "score",
        Assessment.id,
        {
            "given": Assessment.given_at,
            "call_started": sa.select(Recording.started_at)
            .where(Recording.id == Assessment.recording_id)
            .correlate(Assessment)
            .scalar_subquery(),
        },
        lambda controller: Assessment.controller_id == controller,
        lambda _grace_from: _held_recording(Assessment.recording_id),
        _destroy_assessments,
        singly=False,
        steady=True,
    ),
    RecordClass(
        "expected_recording",
        "cdr",
        ExpectedRecording.id,
        {"call_started": ExpectedRecording.started_at},
        lambda controller: ExpectedRecording.controller_id == controller,
        lambda _grace_from: _held_recording(ExpectedRecording.recording_id),
        _destroy_expected,
        singly=False,
        steady=True,
    ),
    RecordClass(
        # An id given with a 202 that no recording bears: it tells what became of a call.
        "spooled_receipt",
        "cdr",
        SpooledReceipt.id,
        {"call_started": SpooledReceipt.received_at},
        lambda controller: SpooledReceipt.controller_id == controller,
        lambda _grace_from: _held_recording(SpooledReceipt.recording_id),
        _destroy_receipts,
        singly=False,
        steady=True,
    ),
    RecordClass(
        "listen",
        "log",
        Listen.id,
        {"recorded": Listen.closed_at},
        lambda controller: _of_recording(Listen.recording_id, controller),
        lambda _grace_from: _held_recording(Listen.recording_id),
        _destroy_listens,
        singly=False,
        steady=True,
    ),
    RecordClass(
        "listening_link",
        "log",
        ListeningLink.id,
        {"recorded": ListeningLink.expires_at},
        lambda controller: _of_recording(ListeningLink.recording_id, controller),
        _link_held,
        _destroy_links,
        singly=False,
        steady=True,
    ),
    RecordClass(
        "log_entry",
        "log",
        AuditEntry.id,
        {"recorded": AuditEntry.at},
        _entry_mine,
        _entry_held,
        _empty_entries,
        singly=False,
        steady=True,
    ),
)
"""In the order in which they are destroyed: what rests on something before what it rests on."""
