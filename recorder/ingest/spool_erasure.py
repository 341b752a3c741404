"""Erasure reaches into this host's spool: what waits there of an erased person or call goes as well."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import SpooledReceipt
from recorder.customers import matching
from recorder.errors import Forbidden
from recorder.ingest.admission import admit_again
from recorder.ingest.spooling import Spooled
from recorder.ingest.storing import customer_keys
from recorder.services import Services
from storage.errors import KeyDestroyed, ObjectMissing, TamperedObject
from storage.spool import SpoolItem


async def doom_spooled(
    session: AsyncSession,
    services: Services,
    controller_id: uuid.UUID,
    *,
    customer_id: uuid.UUID | None,
    identities: Collection[bytes],
    now: datetime,
) -> list[SpoolItem]:
    """Find what waits of them, and write down that it is erased; in the transaction that begins the erasure.

    From its commit on nothing of it is stored, whoever drains it; the caller removes the files then.

    Args:
        customer_id: whose calls are erased; what would be linked to them for certain counts as theirs.
        identities: of erased recordings.
    """
    spool = services.spool
    if spool is None:
        return []
    await spool.load()
    doomed: list[SpoolItem] = []
    for item in spool.of_controller(str(controller_id)):
        try:
            spooled = await Spooled.read(spool, item)
            theirs = item.identity in identities or (
                customer_id is not None and await _is_of(session, services, item, spooled, customer_id)
            )
        except (TamperedObject, KeyDestroyed, ObjectMissing):
            continue  # nobody can open it; whoever looks at damaged items removes it
        if not theirs:
            continue
        doomed.append(item)
        if await session.get(SpooledReceipt, item.id) is None:
            session.add(
                SpooledReceipt(
                    id=item.id,
                    controller_id=controller_id,
                    source_id=spooled.source_id,
                    outcome="erased",
                    recording_id=None,
                    certificate_id=None,
                    received_at=item.received_at,
                    drained_at=now,
                )
            )
            event = AuditEvent(
                action="recording.erased_in_spool",
                actor="system:erasure",
                object_type="recording",
                object_id=str(item.id),
                controller_id=controller_id,
                request_id=spooled.request_id,
                details={"source": str(spooled.source_id)},
            )
            record(session, event, now=now)
    return doomed


async def _is_of(
    session: AsyncSession, services: Services, item: SpoolItem, spooled: Spooled, customer_id: uuid.UUID
) -> bool:
    controller_id = uuid.UUID(item.controller_id)
    try:
        admitted = await admit_again(services, spooled.source_id, controller_id, spooled.actor, item.identity)
    except Forbidden:
        return False
    keys = customer_keys(services.keyring, spooled.request, admitted)
    match = await matching.resolve(session, controller_id, keys)
    return match.certain and match.customers == (customer_id,)
