"""The source behind a delivery, and what a sender says of audio that is not in it."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action, Target
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import Recording, Source, Tombstone
from recorder.completeness.outcomes import note_outcome
from recorder.errors import Forbidden, Unavailable
from recorder.ingest.adapters.base import NoAudio, SenderOutcome
from recorder.ingest.identity import recording_identity
from recorder.services import Services

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Sender:
    """The source that a request comes from.

    Attributes:
        settings: as the operator set them; not the secrets.
    """

    id: uuid.UUID
    controller_id: uuid.UUID
    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_BY_ID: Final = Lookup(
    sa.select(Source.id, Source.controller_id, Source.name, Source.kind, Source.settings).where(
        Source.id == sa.bindparam("source_id", type_=sa.Uuid())
    )
)


async def sender_of(
    services: Services, principal: Principal, named: str | None, *, request_id: str
) -> Sender:
    """The source that a caller pushes for.

    Args:
        named: name or id of the source in the URL; None where the token alone says.

    Raises:
        Forbidden: the caller is no source, or another one is named.
    """
    source_id = principal.source_id
    row: Any = None
    try:
        rows = [] if source_id is None else await services.database.lookup(_BY_ID, source_id=source_id)
        row = rows[0] if rows else None
    except Unavailable:
        known = services.offline.source(source_id, services.clock.now())
        if known is None or named not in (None, known.name, str(source_id)):
            raise
        return Sender(known.source_id, known.controller_id, known.name, known.kind, known.settings)
    if row is not None and named in (None, row.name, str(source_id)):
        return Sender(row.id, row.controller_id, row.name, row.kind, row.settings)
    controller_id = next((g.controller_id for g in principal.grants), principal.controller_id)
    if controller_id is not None:
        await permit(
            services,
            principal,
            Action.PUSH,
            controller_id=controller_id,
            target=Target(source_id=uuid.UUID(int=0)),
            object_type="source",
            object_id=None if source_id is None else str(source_id),
            request_id=request_id,
        )
    raise Forbidden("the token belongs to another source, or to none", reason="other-source")


def allowed(networks: tuple[str, ...], address: Address | None) -> bool:
    """Whether an address lies in one of the networks; without networks, any does."""
    if not networks:
        return True
    if address is None:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in ipaddress.ip_network(network) for network in networks)


async def note(services: Services, sender: Sender, told: NoAudio, *, actor: str, request_id: str) -> NoAudio:
    """Keep what a sender says of a recording whose audio is not in this request.

    Returns:
        What is true of it: ``received`` where the recording is here already, or was and is erased.
    """
    now, metadata = services.clock.now(), told.request.metadata
    identity = recording_identity(
        services.keyring, sender.controller_id, sender.id, metadata.external_id, metadata.leg
    )
    async with services.database.transaction() as session:
        here = await session.scalar(
            sa.select(Recording.id).where(Recording.source_id == sender.id, Recording.identity == identity)
        )
        gone = await session.scalar(
            sa.select(Tombstone.source_id).where(
                Tombstone.source_id == sender.id, Tombstone.identity == identity
            )
        )
        settled = here is not None or gone is not None
        outcome = SenderOutcome.RECEIVED if settled else told.outcome
        noted = await note_outcome(
            session,
            services.keyring,
            controller_id=sender.controller_id,
            source_id=sender.id,
            request=told.request,
            outcome=outcome,
            code=told.code,
            now=now,
        )
        record(
            session,
            AuditEvent(
                action="recording.told",
                actor=actor,
                object_type="expected_recording",
                object_id=str(noted),
                controller_id=sender.controller_id,
                request_id=request_id,
                details={"outcome": outcome.value, "code": told.code},
            ),
            now=now,
        )
    return NoAudio(told.request, outcome, told.code)
