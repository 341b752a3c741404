"""Who may push: the token's own source, while it is switched on. And what is known before the first byte."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from recorder.access.guard import permit
from recorder.access.policy import Action, Target
from recorder.access.principals import Principal
from recorder.catalogue.enums import LawfulBasis, RecordingState
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import Controller, Recording, Source, Tombstone
from recorder.errors import Erased, Forbidden
from recorder.ingest.identity import recording_identity
from recorder.services import Services

GONE: Final = frozenset({RecordingState.ERASING, RecordingState.ERASED})


@dataclass(frozen=True, slots=True)
class PushingSource:
    """What a push needs to know of its source."""

    id: uuid.UUID
    name: str
    default_lawful_basis: LawfulBasis | None
    default_media: dict[str, Any] | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class PushedTo:
    """What a push needs to know of its controller."""

    id: uuid.UUID
    country: str
    time_zone: str
    financial_year_end: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A source that may push, whose it is, and what stood under the identity before the body came.

    Attributes:
        identity: of (source, external id, leg).
        erased: this recording was erased, or is being erased.
        certificate: of that erasure, once there is one.
    """

    source: PushingSource
    controller: PushedTo
    actor: str
    identity: bytes
    erased: bool
    certificate: uuid.UUID | None

    def refuse_erased(self) -> None:
        """Spare a sender the upload of what was erased; the transaction that stores looks again.

        Raises:
            Erased: it was.
        """
        if self.erased:
            raise erased(self.certificate)


def erased(certificate: uuid.UUID | None) -> Erased:
    """The error for a recording that is not taken again."""
    named = None if certificate is None else str(certificate)
    return Erased("this call was erased and is not taken again", certificate_id=named)


_IDENTITY: Final = sa.bindparam("identity", type_=sa.LargeBinary())
_ADMISSION: Final = Lookup(
    sa.select(
        Source.id.label("source_id"),
        Source.name,
        Source.default_lawful_basis,
        Source.default_media,
        Source.max_bytes,
        Source.enabled,
        Controller.id.label("controller_id"),
        Controller.country,
        Controller.time_zone,
        Controller.financial_year_end,
        Tombstone.source_id.label("tombstone"),
        Tombstone.certificate_id.label("tombstone_certificate"),
        Recording.state,
        Recording.certificate_id.label("recording_certificate"),
    )
    .join(Controller, Controller.id == Source.controller_id)
    .outerjoin(Tombstone, sa.and_(Tombstone.source_id == Source.id, Tombstone.identity == _IDENTITY))
    .outerjoin(Recording, sa.and_(Recording.source_id == Source.id, Recording.identity == _IDENTITY))
    .where(Source.id == sa.bindparam("source_id", type_=sa.Uuid()))
)


async def admit(
    services: Services,
    principal: Principal,
    named: str | None,
    *,
    external_id: str,
    leg: str | None,
    request_id: str,
) -> Admitted:
    """Look the caller's source up, with what stands under the identity, and ask the policy.

    Args:
        named: name or id of the source in the URL; None where the token alone says.
        external_id: the sender's id of the recording.
        leg: which of its recordings under this id.

    Raises:
        Forbidden: the caller is no source, another one is named, or it is switched off.
    """
    source_id, controller_id = principal.source_id, _controller_id(principal)
    found: Any = None
    identity = b""
    if source_id is not None:
        identity = recording_identity(services.keyring, controller_id, source_id, external_id, leg)
        rows = await services.database.lookup(_ADMISSION, source_id=source_id, identity=identity)
        found = rows[0] if rows and rows[0].controller_id == controller_id else None
    mine = found is not None and named in (None, found.name, str(source_id))
    await permit(
        services,
        principal,
        Action.PUSH,
        controller_id=controller_id,
        target=Target(source_id=source_id if mine else uuid.UUID(int=0)),
        object_type="source",
        object_id=None if source_id is None else str(source_id),
        request_id=request_id,
    )
    if found is None:
        raise Forbidden("the token belongs to no source", reason="role")
    if not found.enabled:
        raise Forbidden("this source is switched off", reason="source-disabled")
    gone = found.state in GONE
    return Admitted(
        source=PushingSource(
            found.source_id, found.name, found.default_lawful_basis, found.default_media, found.max_bytes
        ),
        controller=PushedTo(found.controller_id, found.country, found.time_zone, found.financial_year_end),
        actor=principal.actor,
        identity=identity,
        erased=found.tombstone is not None or gone,
        certificate=found.tombstone_certificate
        if found.tombstone is not None
        else found.recording_certificate,
    )


def _controller_id(principal: Principal) -> uuid.UUID:
    if principal.controller_id is not None:
        return principal.controller_id
    for grant in principal.grants:
        return grant.controller_id
    raise Forbidden("the caller belongs to no controller", reason="other-controller")
