"""Finding recordings: filters, what the caller may know of, newest first, page by page."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from recorder.access.policy import ScopeFilter
from recorder.catalogue.enums import LinkRole, RecordingState
from recorder.catalogue.tables import (
    BlindIndex,
    Call,
    CallLink,
    Customer,
    Erasure,
    ErasureItem,
    ListeningLink,
    Recording,
    RecordingAgent,
    RecordingLink,
    RecordingTag,
    StoredObjectRow,
)

__all__ = [
    "Filters",
    "Position",
    "about",
    "given_to",
    "linked_calls",
    "links_of",
    "list_recordings",
]

_LINKED = (LinkRole.PRINCIPAL, LinkRole.REFERENCE)
_GONE = (RecordingState.ERASING, RecordingState.ERASED)


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look for; everything given must fit.

    Attributes:
        since: calls that began then or later.
        before: calls that began earlier.
        state: without it, what is erased or being erased is left out.
        digests: (kind, blind index) pairs of personal values, which all must be met by the call itself or by
            one of its customers.
    """

    customer_id: uuid.UUID | None = None
    agent: str | None = None
    queue: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    tag: str | None = None
    state: RecordingState | None = None
    digests: tuple[tuple[str, bytes], ...] = ()
    call_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order of a listing: after this recording."""

    started_at: datetime
    id: uuid.UUID


async def list_recordings(
    session: AsyncSession,
    controller_id: uuid.UUID,
    scopes: Sequence[ScopeFilter],
    filters: Filters,
    *,
    after: Position | None = None,
    limit: int,
    oldest_first: bool = False,
) -> list[Recording]:
    """Recordings of one controller that the scopes reach, the newest call first unless told.

    Args:
        scopes: from `recorder.access.policy.visible`; none at all reaches nothing.
        after: continue behind this place, in the same order.
        limit: how many at most.
    """
    if not scopes:
        return []
    query = sa.select(Recording).where(Recording.controller_id == controller_id, *_conditions(filters))
    if not any(scope.everything for scope in scopes):
        query = query.where(sa.or_(*(_reached(controller_id, scope) for scope in scopes)))
    time, row_id = Recording.started_at, Recording.id
    if after is not None:
        later = time > after.started_at if oldest_first else time < after.started_at
        beside = row_id > after.id if oldest_first else row_id < after.id
        query = query.where(sa.or_(later, sa.and_(time == after.started_at, beside)))
    order = (time, row_id) if oldest_first else (time.desc(), row_id.desc())
    return list(await session.scalars(query.order_by(*order).limit(limit)))


def _conditions(filters: Filters) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if filters.customer_id is not None:
        found.append(_of_customers([filters.customer_id]))
    if filters.call_id is not None:
        found.append(Recording.call_id == filters.call_id)
    if filters.agent is not None:
        found.append(_served_by(None, [filters.agent]))
    if filters.queue is not None:
        found.append(Recording.queue == filters.queue)
    if filters.since is not None:
        found.append(Recording.started_at >= filters.since)
    if filters.before is not None:
        found.append(Recording.started_at < filters.before)
    if filters.tag is not None:
        found.append(
            sa.exists().where(RecordingTag.recording_id == Recording.id, RecordingTag.tag == filters.tag)
        )
    found.append(Recording.state.not_in(_GONE) if filters.state is None else Recording.state == filters.state)
    found += [_has_value(kind, digest) for kind, digest in filters.digests]
    return found


def _reached(controller_id: uuid.UUID, scope: ScopeFilter) -> sa.ColumnElement[bool]:
    """The calls of one scope. SQL for `ScopeFilter.covers`."""
    parts: list[sa.ColumnElement[bool]] = []
    if scope.agents:
        parts.append(_served_by(controller_id, sorted(scope.agents)))
    if scope.queues:
        parts.append(Recording.queue.in_(sorted(scope.queues)))
    return sa.or_(*parts) if parts else sa.false()


def _served_by(controller_id: uuid.UUID | None, agents: Sequence[str]) -> sa.ColumnElement[bool]:
    found = sa.exists().where(RecordingAgent.recording_id == Recording.id, RecordingAgent.agent.in_(agents))
    return found if controller_id is None else found.where(RecordingAgent.controller_id == controller_id)


def _of_customers(customers: sa.Select[Any] | list[uuid.UUID]) -> sa.ColumnElement[bool]:
    linked = sa.exists().where(
        RecordingLink.recording_id == Recording.id,
        RecordingLink.customer_id.in_(customers),
        RecordingLink.role.in_(_LINKED),
    )
    return sa.or_(Recording.customer_id.in_(customers), linked)


def _has_value(kind: str, digest: bytes) -> sa.ColumnElement[bool]:
    """The value came with the call, or stands in the record of a living customer of the call."""
    same = sa.and_(
        BlindIndex.controller_id == Recording.controller_id,
        # The other party's line is digested as a phone and filed apart: searched by, never matched by.
        BlindIndex.kind.in_((kind, "line") if kind == "phone" else (kind,)),
        BlindIndex.digest == digest,
    )
    own = sa.exists().where(same, BlindIndex.recording_id == Recording.id)
    customers = (
        sa.select(Customer.id)
        .join(BlindIndex, BlindIndex.customer_id == Customer.id)
        .where(
            BlindIndex.kind == kind,
            BlindIndex.digest == digest,
            BlindIndex.recording_id.is_(None),
            Customer.erased_at.is_(None),
        )
    )
    return sa.or_(own, _of_customers(customers))


async def links_of(session: AsyncSession, recording_id: uuid.UUID) -> list[RecordingLink]:
    """The customers on a recording, candidates included."""
    query = sa.select(RecordingLink).where(RecordingLink.recording_id == recording_id)
    return list(await session.scalars(query.order_by(RecordingLink.created_at, RecordingLink.customer_id)))


async def linked_calls(session: AsyncSession, call_id: uuid.UUID) -> list[tuple[uuid.UUID, str]]:
    """The calls that an attended transfer ties to a call: id, and ``from`` or ``to``, the earliest first."""
    before = (
        sa.select(Call.id, sa.literal("from").label("way"), Call.started_at)
        .join(CallLink, sa.and_(CallLink.source_id == Call.source_id, CallLink.other == Call.identity))
        .where(CallLink.call_id == call_id)
    )
    me = aliased(Call)
    after = (
        sa.select(Call.id, sa.literal("to").label("way"), Call.started_at)
        .join(CallLink, CallLink.call_id == Call.id)
        .join(me, sa.and_(CallLink.source_id == me.source_id, CallLink.other == me.identity))
        .where(me.id == call_id)
    )
    rows = await session.execute(sa.union_all(before, after).order_by("started_at"))
    return [(row.id, row.way) for row in rows.all()]


async def given_to(
    session: AsyncSession, account_id: uuid.UUID, recording_ids: Sequence[uuid.UUID], now: datetime
) -> frozenset[uuid.UUID]:
    """Which of the recordings were handed to an account by a listening link that still works."""
    query = sa.select(ListeningLink.recording_id).where(
        ListeningLink.recipient_id == account_id,
        ListeningLink.recording_id.in_(recording_ids),
        ListeningLink.revoked_at.is_(None),
        ListeningLink.expires_at > now,
    )
    return frozenset(await session.scalars(query))


async def about(session: AsyncSession, recording_id: uuid.UUID) -> list[tuple[str, str]]:
    """What the audit log may name when it speaks of a recording: (object type, id), the recording first."""
    objects = await session.scalars(
        sa.select(StoredObjectRow.id).where(StoredObjectRow.recording_id == recording_id)
    )
    items = sa.select(ErasureItem.erasure_id).where(ErasureItem.recording_id == recording_id)
    erasures = await session.scalars(
        sa.select(Erasure.id).where(sa.or_(Erasure.recording_id == recording_id, Erasure.id.in_(items)))
    )
    return [
        ("recording", str(recording_id)),
        *(("object", str(object_id)) for object_id in objects),
        *(("erasure", str(erasure_id)) for erasure_id in erasures),
    ]
