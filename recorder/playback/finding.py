"""Lists, one recording, how long it is kept and who used it: what a caller may know, playable or not."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action, Target, decide, purposes_for, visible
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.audit.query import EntryView
from recorder.audit.query import history as audit_history
from recorder.catalogue import recordings as queries
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.recordings import Filters, Position
from recorder.catalogue.sealed_fields import RECORDING_METADATA
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import Recording, RecordingLink, Subject
from recorder.customers.records import CustomerQuery, query_digests
from recorder.disposition.evaluation import current_decision
from recorder.errors import Erased, FieldError, InvalidInput, NotFound
from recorder.services import Services
from retention.decision import Decision, allows
from retention.explain import explain
from retention.model import Purpose

__all__ = [
    "Explained",
    "Found",
    "Page",
    "Viewed",
    "controller_of",
    "find",
    "history",
    "retention",
    "view",
]


@dataclass(frozen=True, slots=True)
class Found:
    """A recording in a list.

    Attributes:
        playable: for which purposes the caller may hear it now, each with the end of its window.
    """

    recording: Recording
    playable: dict[Purpose, datetime | None]


@dataclass(frozen=True, slots=True)
class Page:
    """One page; ``next`` is the cursor of the following one, None at the end."""

    items: tuple[Found, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Viewed:
    """One recording in full.

    Attributes:
        metadata: what the sender said, personal parts included; None for roles that do not see customers.
    """

    found: Found
    links: tuple[RecordingLink, ...]
    metadata: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Explained:
    """How long a recording is kept and for what it may be used, in data and in sentences."""

    recording: Recording
    decision: Decision
    sentences: tuple[str, ...]
    now: datetime


def controller_of(principal: Principal, named: uuid.UUID | None) -> uuid.UUID:
    """The controller that a request means.

    Raises:
        InvalidInput: the caller has none of their own and named none.
    """
    if named is not None:
        return named
    if principal.controller_id is not None:
        return principal.controller_id
    theirs = {grant.controller_id for grant in principal.grants}
    if len(theirs) == 1:
        return theirs.pop()
    raise InvalidInput(
        "name the controller", fields=[FieldError("controller", "give the id of the controller")]
    )


async def find(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    filters: Filters,
    *,
    personal: CustomerQuery | None = None,
    cursor: str | None = None,
    limit: int = 50,
    oldest_first: bool = False,
    request_id: str | None = None,
) -> Page:
    """List what the caller may know of, the newest call first unless told.

    Args:
        personal: values to search by; such a search is in the audit log, without the values.
        cursor: ``next`` of the page before, which had the same order.

    Raises:
        Forbidden: the caller may not list or search at this controller.
        InvalidInput: the cursor is not ours, or a value cannot be searched by.
    """
    action = Action.LIST_RECORDINGS if personal is None else Action.SEARCH_RECORDINGS
    await permit(services, principal, action, controller_id=controller_id, request_id=request_id)
    after = None if cursor is None else _position(cursor)
    now = services.clock.now()
    scopes = visible(principal, controller_id, action)
    if personal is None:
        async with services.database.snapshot() as session:
            rows = await queries.list_recordings(
                session,
                controller_id,
                scopes,
                filters,
                after=after,
                limit=limit + 1,
                oldest_first=oldest_first,
            )
            items = await _found(session, principal, rows[:limit], now)
    else:
        async with services.database.transaction() as session:
            digests = await query_digests(session, services, controller_id, personal)
            rows = await queries.list_recordings(
                session,
                controller_id,
                scopes,
                _with_digests(filters, digests),
                after=after,
                limit=limit + 1,
                oldest_first=oldest_first,
            )
            items = await _found(session, principal, rows[:limit], now)
            kinds = sorted({kind for kind, _ in digests})
            event = AuditEvent(
                action="recordings.searched",
                actor=principal.actor,
                object_type="controller",
                object_id=str(controller_id),
                controller_id=controller_id,
                request_id=request_id,
                details={"by": kinds, "found": len(items)},
            )
            record(session, event, now=now)
    return Page(items, _cursor(rows[limit - 1]) if len(rows) > limit else None)


async def view(
    services: Services, principal: Principal, recording_id: uuid.UUID, *, request_id: str | None = None
) -> Viewed:
    """One recording. Opening its personal metadata is in the audit log.

    Raises:
        NotFound: there is none.
        Forbidden: not for this caller; in the audit log.
        Erased: it is erased, or on its way.
    """
    recording = await _permitted(
        services, principal, recording_id, Action.VIEW_RECORDING, request_id=request_id
    )
    _refuse_erased(recording)
    now = services.clock.now()
    personal = decide(principal, Action.VIEW_CUSTOMERS, controller_id=recording.controller_id).allowed
    async with services.database.transaction() if personal else services.database.snapshot() as session:
        found = await _found(session, principal, [recording], now)
        links = await queries.links_of(session, recording_id)
        metadata = None
        if personal and recording.sealed is not None:
            subject = await session.get_one(Subject, recording.subject_id)
            metadata = open_json(
                services.keyring, subject, RECORDING_METADATA, recording.id, recording.sealed
            )
            event = AuditEvent(
                action="recording.viewed",
                actor=principal.actor,
                object_type="recording",
                object_id=str(recording_id),
                controller_id=recording.controller_id,
                request_id=request_id,
            )
            record(session, event, now=now)
    return Viewed(found[0], tuple(links), metadata)


async def retention(
    services: Services, principal: Principal, recording_id: uuid.UUID, *, request_id: str | None = None
) -> Explained:
    """How long a recording is kept and why, decided afresh.

    Raises:
        NotFound, Forbidden, Erased: as for `view`.
    """
    recording = await _permitted(
        services, principal, recording_id, Action.VIEW_RETENTION, request_id=request_id
    )
    _refuse_erased(recording)
    now = services.clock.now()
    async with services.database.snapshot() as session:
        decision = await current_decision(session, services, recording, now)
    return Explained(recording, decision, tuple(explain(decision, now)), now)


async def history(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    *,
    limit: int = 1000,
    request_id: str | None = None,
) -> list[EntryView]:
    """The custody of a recording, its objects and its erasure, the oldest first; it outlives the recording.

    Raises:
        NotFound, Forbidden: as for `view`.
    """
    await _permitted(services, principal, recording_id, Action.VIEW_HISTORY, request_id=request_id)
    found: list[EntryView] = []
    async with services.database.snapshot() as session:
        for object_type, object_id in await queries.about(session, recording_id):
            found += await audit_history(session, object_type, object_id, limit=limit)
    # RFC 3339 in UTC with microseconds sorts as text.
    return sorted(found, key=lambda view: str(view.entry["time"]))[:limit]


async def _permitted(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    action: Action,
    *,
    request_id: str | None,
) -> Recording:
    async with services.database.snapshot() as session:
        recording = await session.get(Recording, recording_id)
    if recording is None:
        raise NotFound("there is no such recording")
    await permit(
        services,
        principal,
        action,
        controller_id=recording.controller_id,
        target=_target(recording),
        object_type="recording",
        object_id=str(recording_id),
        request_id=request_id,
    )
    return recording


def _refuse_erased(recording: Recording) -> None:
    if recording.state in (RecordingState.ERASING, RecordingState.ERASED):
        certificate = None if recording.certificate_id is None else str(recording.certificate_id)
        raise Erased("This recording was erased; only its custody is left.", certificate_id=certificate)


async def _found(
    session: AsyncSession, principal: Principal, rows: Sequence[Recording], now: datetime
) -> tuple[Found, ...]:
    given: frozenset[uuid.UUID] = frozenset()
    if principal.kind == "account" and rows:
        given = await queries.given_to(session, uuid.UUID(principal.id), [row.id for row in rows], now)
    return tuple(Found(row, _playable(principal, row, row.id in given, now)) for row in rows)


def _playable(
    principal: Principal, recording: Recording, given: bool, now: datetime
) -> dict[Purpose, datetime | None]:
    """From the stored decision, which can only be more closed than a fresh one; playback asks afresh."""
    if recording.state is not RecordingState.STORED or recording.decision is None:
        return {}
    decision = Decision.from_json(recording.decision)
    purposes = purposes_for(principal, recording.controller_id, _target(recording, feedback=given))
    return {p: decision.windows[p].end for p in purposes if allows(decision, p, now)[0]}


def _target(recording: Recording, *, feedback: bool = False) -> Target:
    return Target(
        agents=tuple(recording.agents),
        queue=recording.queue,
        source_id=recording.source_id,
        feedback=feedback,
    )


def _with_digests(filters: Filters, digests: Sequence[tuple[str, bytes]]) -> Filters:
    return Filters(
        filters.customer_id,
        filters.agent,
        filters.queue,
        filters.since,
        filters.before,
        filters.tag,
        filters.state,
        tuple(digests),
    )


def _cursor(recording: Recording) -> str:
    place = [recording.started_at.astimezone(UTC).isoformat(), recording.id.hex]
    text = json.dumps(place, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> Position:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        at, row_id = json.loads(raw)
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError
        return Position(moment.astimezone(UTC), uuid.UUID(hex=row_id))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
        raise InvalidInput(
            "the cursor is not one of ours", fields=[FieldError("cursor", "use next of the page before")]
        ) from None
