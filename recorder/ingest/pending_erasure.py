"""Erasure reaches what is still on its way: unfinished uploads, and orders to fetch."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import Fetch, FetchState, ResumableUpload, Subject
from recorder.customers import matching
from recorder.errors import Forbidden
from recorder.ingest import fetching
from recorder.ingest.admission import admit_again
from recorder.ingest.request import IngestRequest
from recorder.ingest.resumable import ending
from recorder.ingest.resumable.asking import SEALED_AS, Asked
from recorder.ingest.resumable.rows import UNDER_WAY
from recorder.ingest.storing import customer_keys
from recorder.services import Services


async def forget_pending(
    session: AsyncSession,
    services: Services,
    controller_id: uuid.UUID,
    *,
    customer_id: uuid.UUID | None,
    identities: Collection[bytes],
    now: datetime,
) -> int:
    """Destroy what waits of them, in the transaction that begins the erasure.

    Args:
        customer_id: whose calls are erased; what would be linked to them for certain counts as theirs.
        identities: of erased recordings.

    Returns:
        How many uploads and orders ended.
    """
    count = 0
    uploads = sa.select(ResumableUpload).where(
        ResumableUpload.controller_id == controller_id, ResumableUpload.state.in_(UNDER_WAY)
    )
    orders = sa.select(Fetch).where(Fetch.controller_id == controller_id, Fetch.state == FetchState.WAITING)
    if customer_id is None:  # then names alone tell, and nothing needs to be opened
        uploads = uploads.where(ResumableUpload.identity.in_(identities))
        orders = orders.where(Fetch.identity.in_(identities))
    # Only what is theirs is locked: the others go on being written.
    for upload in list(await session.scalars(uploads.where(ResumableUpload.identity.is_not(None)))):
        asked = await _asked(session, services, upload)
        who = _Whose(upload.source_id, controller_id, upload.identity or b"", asked)
        if await who.is_of(session, services, customer_id, identities):
            await session.refresh(upload, with_for_update=True)
            if upload.state in UNDER_WAY:
                await ending.forget_one(session, upload, now)
                count += 1
    for order in list(await session.scalars(orders)):
        intent = await fetching.opened(session, services, order)
        asked = None if intent is None else intent.request
        who = _Whose(order.source_id, controller_id, order.identity, asked)
        if await who.is_of(session, services, customer_id, identities):
            await session.refresh(order, with_for_update=True)
            if order.state is FetchState.WAITING:
                await _end(session, order, now)
                count += 1
    return count


async def _end(session: AsyncSession, order: Fetch, now: datetime) -> None:
    order.state, order.error = FetchState.DONE, "erased"
    await fetching.forget(session, order, now)
    event = AuditEvent(
        action="fetch.erased",
        actor="system:erasure",
        object_type="fetch",
        object_id=str(order.id),
        controller_id=order.controller_id,
        details={"source": str(order.source_id)},
    )
    record(session, event, now=now)


async def _asked(session: AsyncSession, services: Services, row: ResumableUpload) -> IngestRequest | None:
    subject = None if row.subject_id is None else await session.get(Subject, row.subject_id)
    if row.sealed is None or subject is None or subject.wrapped_key is None:
        return None
    document = open_json(services.keyring, subject, SEALED_AS, row.id, row.sealed)
    return Asked.of(document, size=row.length).request


class _Whose:
    """Something on its way, and what it says of itself."""

    def __init__(
        self, source_id: uuid.UUID, controller_id: uuid.UUID, identity: bytes, asked: IngestRequest | None
    ) -> None:
        self._source_id, self._controller_id = source_id, controller_id
        self._identity, self._asked = identity, asked

    async def is_of(
        self,
        session: AsyncSession,
        services: Services,
        customer_id: uuid.UUID | None,
        identities: Collection[bytes],
    ) -> bool:
        """Whether it would be one of these recordings, or linked to this customer for certain."""
        if self._identity in identities:
            return True
        if customer_id is None or self._asked is None:
            return False
        try:
            admitted = await admit_again(
                services, self._source_id, self._controller_id, "system:erasure", self._identity
            )
        except Forbidden:
            return False
        keys = customer_keys(services.keyring, self._asked, admitted)
        match = await matching.resolve(session, self._controller_id, keys)
        return match.certain and match.customers == (customer_id,)
