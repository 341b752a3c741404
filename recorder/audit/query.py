"""Reading the log: pages of entries, the history of one object, proofs that others can check."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit import merkle
from recorder.audit.log import load_nodes
from recorder.catalogue.tables import AuditCheckpoint, AuditEntry
from recorder.errors import Corrupt, Erased, FieldError, InvalidInput, NotFound, Unavailable

MAX_PAGE: Final = 500
LOOK: Final = 5000
"""Places that `recent` looks through at once, however few of their entries it is asked for."""
_SLACK: Final = timedelta(minutes=10)
"""By how much entries may stand out of the order of their times: they are written a moment after it."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry: its place, if it has one yet, and what its payload says.

    Attributes:
        payload: exactly the bytes that are hashed (JCS, RFC 8785); empty once the entry's time was over.
    """

    id: uuid.UUID
    index: int | None
    payload: bytes

    @property
    def entry(self) -> dict[str, Any]:
        """The payload, parsed; of an entry that was disposed of nothing but its id."""
        if not self.payload:
            return {"id": str(self.id), "disposed": True}
        parsed = json.loads(self.payload)
        if not isinstance(parsed, dict):
            raise Corrupt("an audit entry is not an object; run recorder audit verify")
        return parsed


@dataclass(frozen=True, slots=True)
class Page:
    """Entries with a place, and the cursor of the next page; None at the end."""

    items: tuple[EntryView, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Proof that an entry stands at its place under a signed checkpoint (RFC 6962 section 2.1.1)."""

    entry: EntryView
    leaf_hash: bytes
    size: int
    root: bytes
    path: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Proof that a checkpoint continues an earlier one (RFC 6962 section 2.1.2)."""

    first: str
    second: str
    path: tuple[bytes, ...]


async def history(
    session: AsyncSession, object_type: str, object_id: str, *, limit: int = 1000
) -> list[EntryView]:
    """What was done to one object, the oldest first; entries that wait for their place included."""
    rows = await session.execute(
        sa.select(AuditEntry.id, AuditEntry.index, AuditEntry.payload)
        .where(AuditEntry.object_id == object_id, AuditEntry.object_type == object_type)
        .order_by(AuditEntry.at, AuditEntry.index.asc().nulls_last(), AuditEntry.id)
        .limit(limit)
    )
    return [EntryView(*row) for row in rows]


async def entries_page(
    session: AsyncSession,
    *,
    controller_ids: Collection[uuid.UUID] | None,
    after: int | None = None,
    limit: int = 100,
    newest_first: bool = True,
    object_id: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    outcome: str | None = None,
) -> Page:
    """One page of the entries that have a place.

    Args:
        session: For reading.
        controller_ids: Entries of these controllers and of the installation as a whole; None for all.
        after: Cursor of the page before.
        limit: At most this many, up to ``MAX_PAGE``.
        newest_first: The order.
        object_id: Only what was done to this.
        actor: Only what this actor did.
        action: Only this action; ``listen.`` with a dot at the end means every action that begins so.
        outcome: Only ``ok``, ``refused`` or ``failed``.
    """
    query = sa.select(AuditEntry.id, AuditEntry.index, AuditEntry.payload).where(
        AuditEntry.index.is_not(None)
    )
    if controller_ids is not None:
        theirs = AuditEntry.controller_id.in_(list(controller_ids))
        query = query.where(sa.or_(theirs, AuditEntry.controller_id.is_(None)))
    for column, value in (
        (AuditEntry.object_id, object_id),
        (AuditEntry.actor, actor),
        (AuditEntry.outcome, outcome),
    ):
        if value is not None:
            query = query.where(column == value)
    if action is not None:
        query = query.where(_is_action(action))
    if after is not None:
        query = query.where(AuditEntry.index < after if newest_first else AuditEntry.index > after)
    query = query.order_by(AuditEntry.index.desc() if newest_first else AuditEntry.index)
    limit = max(1, min(limit, MAX_PAGE))
    rows = await session.execute(query.limit(limit + 1))
    found = [EntryView(*row) for row in rows]
    items = tuple(found[:limit])
    return Page(items, items[-1].index if len(found) > limit else None)


async def recent(
    session: AsyncSession,
    object_type: str,
    *,
    controller_id: uuid.UUID,
    before: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    action: str | None = None,
    limit: int = 25,
    look: int = LOOK,
) -> Page:
    """The newest entries about objects of one type, by place: never the whole log for one page.

    Args:
        session: For reading.
        object_type: For example ``recording``.
        controller_id: Whose.
        before: Cursor of the page before.
        since: Only from this instant on.
        until: Only before this instant.
        action: As for `entries_page`.
        limit: At most this many, up to ``MAX_PAGE``.
        look: At most so many places are looked through; a page may have few entries, or none, and a next one.
    """
    limit = max(1, min(limit, MAX_PAGE))
    last = await session.scalar(sa.select(sa.func.max(AuditEntry.index)))
    top = 0 if last is None else last + 1
    if until is not None:
        top = await _place(session, until + _SLACK, top)
    if before is not None:
        top = min(top, before)
    end = 0 if since is None else await _place(session, since - _SLACK, top)
    bottom = max(end, top - look)
    query = sa.select(AuditEntry.id, AuditEntry.index, AuditEntry.payload).where(
        AuditEntry.index >= bottom,
        AuditEntry.index < top,
        AuditEntry.controller_id == controller_id,
        AuditEntry.object_type == object_type,
        sa.func.length(AuditEntry.payload) > 0,  # what was disposed of tells nothing any more
    )
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    if until is not None:
        query = query.where(AuditEntry.at < until)
    if action is not None:
        query = query.where(_is_action(action))
    rows = await session.execute(query.order_by(AuditEntry.index.desc()).limit(limit + 1))
    found = [EntryView(*row) for row in rows]
    items = tuple(found[:limit])
    if len(found) > limit:
        return Page(items, items[-1].index)
    return Page(items, bottom if bottom > end else None)


async def _place(session: AsyncSession, moment: datetime, size: int) -> int:
    """The first of ``size`` places whose entry is not before a moment, found by halving."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        query = sa.select(AuditEntry.at).where(AuditEntry.index >= middle).order_by(AuditEntry.index).limit(1)
        at = await session.scalar(query)
        if at is not None and at < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _is_action(action: str) -> sa.ColumnElement[bool]:
    if action.endswith("."):
        return AuditEntry.action.startswith(action, autoescape=True)
    return AuditEntry.action == action


async def checkpoint_note(session: AsyncSession, size: int | None = None) -> AuditCheckpoint:
    """The newest checkpoint, or that of a size.

    Raises:
        NotFound: there is none (yet).
    """
    query = sa.select(AuditCheckpoint).order_by(AuditCheckpoint.size.desc()).limit(1)
    if size is not None:
        query = query.where(AuditCheckpoint.size == size)
    found = (await session.execute(query)).scalar_one_or_none()
    if found is None:
        raise NotFound("there is no such checkpoint" if size is not None else "nothing has been signed yet")
    return found


async def inclusion_proof(
    session: AsyncSession,
    entry_id: uuid.UUID,
    *,
    controller_ids: Collection[uuid.UUID] | None,
    size: int | None = None,
) -> InclusionProof:
    """Prove an entry under the newest checkpoint, or under that of a size.

    Raises:
        NotFound: no such entry, or none of these controllers; no such checkpoint.
        Erased: the entry was disposed of by the retention schedule.
        InvalidInput: the checkpoint is older than the entry.
        Unavailable: the entry has no place yet; try again in a second.
        Corrupt: nodes of the tree are missing.
    """
    rows = await session.execute(
        sa.select(
            AuditEntry.id, AuditEntry.index.label("place"), AuditEntry.payload, AuditEntry.controller_id
        ).where(AuditEntry.id == entry_id)
    )
    row = rows.one_or_none()
    hidden = row is not None and row.controller_id is not None and controller_ids is not None
    if row is None or (hidden and row.controller_id not in (controller_ids or ())):
        raise NotFound("there is no such audit entry")
    if not row.payload:
        raise Erased("what the entry said was disposed of by the retention schedule")
    if row.place is None:
        raise Unavailable("the entry is about to get its place; try again", dependency="log", retry_after=2)
    head = await checkpoint_note(session, size)
    if row.place >= head.size:
        problem = FieldError("size", f"give a checkpoint of more than {row.place} entries")
        raise InvalidInput("that checkpoint is older than the entry", fields=[problem])
    path = await _hashes(session, merkle.inclusion_ranges(row.place, head.size))
    entry = EntryView(row.id, row.place, row.payload)
    return InclusionProof(entry, merkle.leaf_hash(row.payload), head.size, head.root, path, head.note)


async def consistency_proof(session: AsyncSession, first: int, second: int | None = None) -> ConsistencyProof:
    """Prove that a checkpoint (the newest unless told) continues an earlier one.

    Raises:
        NotFound: no such checkpoint.
        InvalidInput: the first is larger than the second.
        Corrupt: nodes of the tree are missing.
    """
    old, new = await checkpoint_note(session, first), await checkpoint_note(session, second)
    if old.size > new.size:
        problem = FieldError("first", "give the smaller of the two sizes")
        raise InvalidInput("a log continues smaller checkpoints only", fields=[problem])
    path = await _hashes(session, merkle.consistency_ranges(old.size, new.size))
    return ConsistencyProof(old.note, new.note, path)


async def _hashes(session: AsyncSession, ranges: Sequence[tuple[int, int]]) -> tuple[bytes, ...]:
    nodes = await load_nodes(session, merkle.needed(ranges))
    try:
        return tuple(merkle.range_hash(start, end, nodes) for start, end in ranges)
    except KeyError:
        raise Corrupt("nodes of the audit log are missing; run recorder audit verify") from None
