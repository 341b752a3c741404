"""Ending packages: their keys with what they hold copies of, their objects in the store after that.

A package is a copy of recordings, so it goes when one of them goes, and when its customer is erased;
otherwise when it expires. Its key is destroyed in the transaction that decides this; the request's subject is
owed a new key then, because the old one, in an old backup, would still open it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import PackageState
from recorder.catalogue.tables import PackageRecording, RequestPackage, RightsRequest, Subject
from recorder.services import Services

__all__ = ["count_left", "delete_dead", "expire", "forget"]

ACTOR: Final = "system:rights"
_PAGE: Final = 400


async def forget(
    session: AsyncSession,
    recording_ids: Sequence[uuid.UUID],
    customer_id: uuid.UUID | None,
    now: datetime,
) -> list[uuid.UUID]:
    """Destroy the keys of packages that hold a copy of any of these, in the running transaction.

    Returns:
        Ids of the packages that ended.
    """
    ended: list[uuid.UUID] = []
    for start in range(0, len(recording_ids), _PAGE):
        page = recording_ids[start : start + _PAGE]
        holding = sa.select(PackageRecording.package_id).where(PackageRecording.recording_id.in_(page))
        ended += await _end(session, RequestPackage.id.in_(holding), "package.forgotten", now)
    if customer_id is not None:
        theirs = sa.select(RightsRequest.id).where(RightsRequest.customer_id == customer_id)
        ended += await _end(session, RequestPackage.request_id.in_(theirs), "package.forgotten", now)
    return ended


async def _end(
    session: AsyncSession, which: sa.ColumnElement[bool], action: str, now: datetime
) -> list[uuid.UUID]:
    query = (
        sa.select(RequestPackage, RightsRequest)
        .join(RightsRequest, RightsRequest.id == RequestPackage.request_id)
        .where(which, RequestPackage.wrapped_key.is_not(None))
        .order_by(RequestPackage.id)
    )
    rows = (await session.execute(query)).all()
    for package, request in rows:
        package.wrapped_key, package.state = None, PackageState.EXPIRED
        await session.execute(
            sa.update(Subject)
            .where(Subject.id == request.subject_id, Subject.wrapped_key.is_not(None))
            .values(rekey_needed=True)
        )
        event = AuditEvent(
            action=action,
            actor=ACTOR,
            object_type="request",
            object_id=str(request.id),
            controller_id=request.controller_id,
            details={"package": str(package.id)},
        )
        record(session, event, now=now)
    await session.flush()
    return [package.id for package, _ in rows]


async def expire(services: Services) -> int:
    """End packages whose time is over, and delete what is dead from the store.

    Returns:
        How many ended now.
    """
    now = services.clock.now()
    over = sa.and_(RequestPackage.state == PackageState.READY, RequestPackage.expires_at <= now)
    async with services.database.transaction() as session:
        ended = await _end(session, over, "package.expired", now)
    await delete_dead(services)
    return len(ended)


async def count_left(services: Services, package_ids: Sequence[uuid.UUID]) -> int:
    """How many versions of packages that ended the store still has.

    Raises:
        storage.errors.StorageError: the store is away.
    """
    async with services.database.snapshot() as session:
        query = sa.select(RequestPackage.key).where(
            RequestPackage.id.in_(package_ids), RequestPackage.key.is_not(None)
        )
        keys = list(await session.scalars(query))
    left = 0
    for key in keys:
        left += len([version async for version in services.store.versions(str(key)) if version.key == key])
    return left


async def delete_dead(services: Services, again: Sequence[uuid.UUID] = ()) -> int:
    """Delete every version of packages whose keys are gone; the store is asked again whether any is left.

    Args:
        again: packages to delete although they were deleted before: something of them turned up.

    Returns:
        How many were deleted.

    Raises:
        storage.errors.StorageError: the store is away, holds on to one, or still has one.
    """
    async with services.database.snapshot() as session:
        query = sa.select(RequestPackage.id, RequestPackage.key).where(
            RequestPackage.wrapped_key.is_(None),
            RequestPackage.key.is_not(None),
            sa.or_(RequestPackage.deleted_at.is_(None), RequestPackage.id.in_(again)),
        )
        dead = (await session.execute(query.order_by(RequestPackage.id))).all()
    for package_id, key in dead:
        if key is None:
            continue
        await services.vault.destroy(key)
        async with services.database.transaction() as session:
            await session.execute(
                sa.update(RequestPackage)
                .where(RequestPackage.id == package_id)
                .values(deleted_at=services.clock.now())
            )
    return len(dead)
