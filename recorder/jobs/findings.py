"""What drifted between catalogue and store, kept for a person until it is settled.

One row per kind and key of the store. Seen again it stays the same finding; gone by itself it is closed; seen
once more after it was closed, it opens again. Every change is in the audit log.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ObjectRole
from recorder.catalogue.tables import Finding, Recording, StoredObjectRow, Subject
from recorder.errors import Conflict, Erased, NotFound
from recorder.jobs.queue import enqueue
from recorder.playback.objects import living_objects, stored_object
from recorder.services import Services
from storage.errors import KeyDestroyed, ObjectLocked, ObjectMissing, TamperedObject, Unsupported

ACTOR: Final = "system:reconciler"
KINDS: Final = ("missing", "resized", "tampered", "unreadable", "extra_version", "locked")
OPEN: Final = "open"
_REMADE: Final = {
    ObjectRole.RENDITION: "rendition",
    ObjectRole.REDACTED: "rendition",
    ObjectRole.PEAKS: "peaks",
}
Resolution = Literal["recheck", "repair", "adopt", "accept"]


@dataclass(frozen=True, slots=True)
class Seen:
    """Something that was found.

    Attributes:
        kind: one of ``KINDS``.
        key: the object's key in the store.
        row: the catalogue's row of it, if there is one.
        detail: sizes, versions and the like; nothing personal.
    """

    kind: str
    key: str
    row: StoredObjectRow | None = None
    detail: Mapping[str, Any] | None = None


async def report(services: Services, seen: Sequence[Seen], now: datetime) -> list[Finding]:
    """Write down what was found.

    Returns:
        The findings that are new, or open again.
    """
    fresh = []
    for one in seen:
        async with services.database.transaction() as session:
            found = await _report_one(session, one, now)
            if found is not None:
                fresh.append(found)
    return fresh


async def _report_one(session: AsyncSession, seen: Seen, now: datetime) -> Finding | None:
    query = sa.select(Finding).where(Finding.kind == seen.kind, Finding.key == seen.key)
    known = (await session.scalars(query.with_for_update())).one_or_none()
    if known is not None:
        known.last_seen_at, known.detail = now, dict(seen.detail or {})
        if known.state in {OPEN, "accepted"}:
            return None
        known.state, known.resolved_at, known.resolved_by, known.resolution = OPEN, None, None, None
    else:
        recording_id = None if seen.row is None else seen.row.recording_id
        owner = sa.select(Recording.controller_id).where(Recording.id == recording_id)
        known = Finding(
            id=uuid.uuid4(),
            kind=seen.kind,
            key=seen.key,
            object_id=None if seen.row is None else seen.row.id,
            recording_id=recording_id,
            controller_id=None if recording_id is None else await session.scalar(owner),
            state=OPEN,
            detail=dict(seen.detail or {}),
            first_seen_at=now,
            last_seen_at=now,
            resolved_at=None,
            resolved_by=None,
            resolution=None,
        )
        session.add(known)
    _audit(session, known, "finding.opened", ACTOR, now, outcome="failed")
    return known


async def close_gone(services: Services, kinds: Sequence[str], before: datetime, now: datetime) -> int:
    """Close findings that a complete look has not seen again.

    Args:
        kinds: what was looked for.
        before: when the look began.

    Returns:
        How many were closed.
    """
    async with services.database.transaction() as session:
        query = sa.select(Finding).where(
            Finding.kind.in_(kinds), Finding.state == OPEN, Finding.last_seen_at < before
        )
        gone = list(await session.scalars(query.with_for_update()))
        for finding in gone:
            _settle(session, finding, "gone", ACTOR, now)
    return len(gone)


async def close_object(services: Services, object_id: uuid.UUID, now: datetime) -> None:
    """An object was read whole and is what was written: what was held against its bytes is settled."""
    query = sa.select(Finding).where(
        Finding.object_id == object_id,
        Finding.kind.in_(["tampered", "unreadable", "missing", "resized"]),
        Finding.state == OPEN,
    )
    async with services.database.snapshot() as session:
        if not list(await session.scalars(query)):
            return
    async with services.database.transaction() as session:
        for finding in await session.scalars(query.with_for_update()):
            _settle(session, finding, "gone", ACTOR, now)


async def count_open(session: AsyncSession) -> dict[str, int]:
    """Open findings by kind, for the metric."""
    query = (
        sa.select(Finding.kind, sa.func.count().label("found"))
        .where(Finding.state == OPEN)
        .group_by(Finding.kind)
    )
    found: dict[str, int] = {row.kind: row.found for row in await session.execute(query)}
    return {kind: found.get(kind, 0) for kind in KINDS}


async def listing(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    state: str | None,
    limit: int,
    request_id: str | None = None,
) -> list[Finding]:
    """A controller's findings and those of nobody's objects, the oldest first.

    Raises:
        Forbidden: the caller does not see the service's health there.
    """
    await permit(services, principal, Action.VIEW_HEALTH, controller_id=controller_id, request_id=request_id)
    query = sa.select(Finding).where(
        sa.or_(Finding.controller_id == controller_id, Finding.controller_id.is_(None))
    )
    if state is not None:
        query = query.where(Finding.state == state)
    async with services.database.snapshot() as session:
        return list(await session.scalars(query.order_by(Finding.first_seen_at, Finding.id).limit(limit)))


async def resolve(
    services: Services,
    principal: Principal,
    finding_id: uuid.UUID,
    resolution: Resolution,
    *,
    controller_id: uuid.UUID,
    request_id: str | None = None,
) -> Finding:
    """Settle a finding.

    Args:
        resolution: ``recheck``: look again, and close it if all is well. ``repair``: delete foreign versions
            or an orphan, or have a rendition made again. ``adopt``: take an intact copy that was put back
            under the key (from a copy of the bucket) as the object. ``accept``: it is known, and stays.
        controller_id: whose right is asked where the finding is nobody's.

    Raises:
        NotFound: there is no such finding.
        Forbidden: the caller does not handle what was put aside there.
        Conflict: it is settled already, or cannot be settled this way.
        storage.errors.StoreUnavailable: the store is away.
    """
    async with services.database.snapshot() as session:
        finding = await session.get(Finding, finding_id)
    if finding is None:
        raise NotFound("no such finding")
    await permit(
        services,
        principal,
        Action.MANAGE_QUARANTINE,
        controller_id=finding.controller_id or controller_id,
        object_type="finding",
        object_id=str(finding_id),
        request_id=request_id,
    )
    if finding.state != OPEN:
        raise Conflict("the finding is settled already", kind="finding-settled")
    if resolution == "recheck":
        await _recheck(services, finding)
    elif resolution == "repair":
        await _repair(services, finding)
    elif resolution == "adopt":
        await _adopt(services, finding)
    now = services.clock.now()
    async with services.database.transaction() as session:
        locked = await session.get_one(Finding, finding_id, with_for_update=True, populate_existing=True)
        if locked.state == OPEN:
            _settle(session, locked, resolution, principal.actor, now, request_id)
        return locked


async def _recheck(services: Services, finding: Finding) -> None:
    if finding.kind in {"extra_version", "locked"}:
        wanted = await _version_of(services, finding)
        async for version in services.store.versions(finding.key):
            if version.key == finding.key and (wanted is None or version.version_id != wanted[0]):
                raise Conflict("it is as it was found", kind="finding-stands")
        return
    row, subject = await _living(services, finding)
    try:
        await services.vault.verify(stored_object(row, subject))
    except (TamperedObject, ObjectMissing, KeyDestroyed):
        raise Conflict("it is as it was found", kind="finding-stands") from None


async def _repair(services: Services, finding: Finding) -> None:
    if finding.kind == "extra_version":
        wanted = await _version_of(services, finding)
        if wanted is None:
            raise Conflict("the catalogue does not know this object any more; recheck", kind="finding-gone")
        async for version in services.store.versions(finding.key):
            if version.key == finding.key and version.version_id != wanted[0]:
                await _delete(services, version.key, version.version_id, marker=version.is_delete_marker)
        return
    if finding.kind == "locked":
        async for version in services.store.versions(finding.key):
            if version.key == finding.key:
                await _delete(services, version.key, version.version_id, marker=version.is_delete_marker)
        return
    async with services.database.transaction() as session:
        row = await session.get(StoredObjectRow, finding.object_id)
        recording = (
            None
            if row is None
            else await session.get(
                Recording, row.recording_id, with_for_update={"key_share": True}, populate_existing=True
            )
        )
        if row is None or recording is None or row.wrapped_key is None:
            raise Conflict("the object is gone; recheck", kind="finding-gone")
        objects = await living_objects(session, recording.id)
        if row.role not in _REMADE or ObjectRole.ORIGINAL not in objects:
            raise Conflict(
                "it cannot be made again: put the object back from a copy of the bucket and adopt it",
                kind="not-repairable",
            )
        now = services.clock.now()
        row.wrapped_key, row.deleted_at = None, now
        enqueue(session, _REMADE[row.role], recording.id, now=now)
    await _forget(services, finding.key)


async def _adopt(services: Services, finding: Finding) -> None:
    """Find a version under the object's key that is what was written, and make it the object."""
    row, subject = await _living(services, finding)
    async for version in services.store.versions(row.key):
        if version.key != row.key or version.is_delete_marker or version.size != row.sealed_size:
            continue
        candidate = StoredObjectRow(
            id=row.id,
            role=row.role,
            key=row.key,
            version_id=version.version_id,
            size=row.size,
            sha256=row.sha256,
            wrapped_key=row.wrapped_key,
            header=None,
        )
        try:
            await services.vault.verify(stored_object(candidate, subject))
        except (TamperedObject, ObjectMissing):
            continue
        async with services.database.transaction() as session:
            await session.execute(
                sa.update(StoredObjectRow)
                .where(StoredObjectRow.id == row.id)
                .values(version_id=version.version_id, held_in_store=False)
            )
        return
    raise Conflict("no intact copy lies under the object's key", kind="nothing-to-adopt")


async def _living(services: Services, finding: Finding) -> tuple[StoredObjectRow, Subject]:
    async with services.database.snapshot() as session:
        row = None if finding.object_id is None else await session.get(StoredObjectRow, finding.object_id)
        if row is None or row.wrapped_key is None:
            raise Conflict("the object is gone; nothing is to be settled", kind="finding-gone")
        subject = await session.get_one(Subject, row.subject_id)
    if subject.wrapped_key is None:
        raise Erased("the data subject's key has been destroyed")
    return row, subject


async def _version_of(services: Services, finding: Finding) -> tuple[str | None] | None:
    """The version that the catalogue means; None when it knows no such object any more."""
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow.version_id).where(
            StoredObjectRow.key == finding.key, StoredObjectRow.deleted_at.is_(None)
        )
        found = (await session.execute(query)).one_or_none()
    return None if found is None else (found.version_id,)


async def _delete(services: Services, key: str, version_id: str | None, *, marker: bool) -> None:
    try:
        await services.store.delete_version(key, version_id)
    except ObjectLocked:
        if marker:
            raise
        try:
            await services.store.set_legal_hold(key, version_id, False)
        except Unsupported:
            raise ObjectLocked(key, version_id) from None
        await services.store.delete_version(key, version_id)


async def _forget(services: Services, key: str) -> None:
    async for version in services.store.versions(key):
        if version.key == key:
            await _delete(services, key, version.version_id, marker=version.is_delete_marker)


def _settle(
    session: AsyncSession,
    finding: Finding,
    resolution: str,
    actor: str,
    now: datetime,
    request_id: str | None = None,
) -> None:
    finding.state = {"gone": "gone", "accept": "accepted"}.get(resolution, "resolved")
    finding.resolved_at, finding.resolved_by, finding.resolution = now, actor, resolution
    _audit(session, finding, "finding.settled", actor, now, request_id=request_id)


def _audit(
    session: AsyncSession,
    finding: Finding,
    action: str,
    actor: str,
    now: datetime,
    *,
    outcome: str = "ok",
    request_id: str | None = None,
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="finding",
        object_id=str(finding.id),
        outcome=outcome,
        controller_id=finding.controller_id,
        request_id=request_id,
        details={
            "kind": finding.kind,
            "key": finding.key,
            "recording": None if finding.recording_id is None else str(finding.recording_id),
            "resolution": finding.resolution,
        },
    )
    record(session, event, now=now)
