"""Who may push: the token's own source, while it is switched on. And what is known before the first byte."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
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
NEVER_RETRY: Final = frozenset({"freeswitch", "httapi", "jambonz", "kazoo", "rtpengine"})
"""Kinds of senders that push once (or hold a retry in memory only); they are spooled before anything else."""


@dataclass(frozen=True, slots=True)
class PushingSource:
    """What a push needs to know of its source."""

    id: uuid.UUID
    name: str
    default_lawful_basis: LawfulBasis | None
    default_media: dict[str, Any] | None
    max_bytes: int | None
    kind: str = "generic"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tee(self) -> bool:
        """Whether its pushes are made durable on local disk first: as set, else by its kind."""
        chosen = self.settings.get("tee")
        return chosen if isinstance(chosen, bool) else self.kind in NEVER_RETRY

    def share(self, usual: int) -> int:
        """Uploads that it may have at once: as set, else as usual."""
        chosen = self.settings.get("uploads")
        return chosen if isinstance(chosen, int) and chosen > 0 else usual


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
        offline: the catalogue was away; a local copy of tokens and sources was believed.
    """

    source: PushingSource
    controller: PushedTo
    actor: str
    identity: bytes
    erased: bool
    certificate: uuid.UUID | None
    offline: bool = False

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
        Source.kind,
        Source.settings,
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
    return _admitted(found, principal.actor, identity)


async def admit_again(
    services: Services, source_id: uuid.UUID, controller_id: uuid.UUID, actor: str, identity: bytes
) -> Admitted:
    """What there is to know of a push that was admitted, and acknowledged, before.

    Raises:
        Forbidden: the catalogue does not have this source any more.
    """
    rows = await services.database.lookup(_ADMISSION, source_id=source_id, identity=identity)
    if not rows or rows[0].controller_id != controller_id:
        raise Forbidden("the source of a spooled recording is not in the catalogue", reason="role")
    return _admitted(rows[0], actor, identity)


async def admit_offline(
    services: Services,
    principal: Principal,
    named: str | None,
    *,
    external_id: str,
    leg: str | None,
    request_id: str,
) -> Admitted | None:
    """Admit from the local copy of sources; None where it does not know the caller, or is too old.

    Identity, tombstones and customer settle when the catalogue is back.

    Raises:
        Forbidden: the source was switched off, or another one is named.
        Unavailable: the policy refuses, and the refusal cannot be recorded.
    """
    found = services.offline.source(principal.source_id, services.clock.now())
    if found is None or found.controller_id != _controller_id(principal):
        return None
    if not found.enabled:
        raise Forbidden("this source is switched off", reason="source-disabled")
    mine = named in (None, found.name, str(found.source_id))
    await permit(
        services,
        principal,
        Action.PUSH,
        controller_id=found.controller_id,
        target=Target(source_id=found.source_id if mine else uuid.UUID(int=0)),
        object_type="source",
        object_id=str(found.source_id),
        request_id=request_id,
    )
    identity = recording_identity(services.keyring, found.controller_id, found.source_id, external_id, leg)
    return Admitted(
        _source(found),
        _controller(found),
        principal.actor,
        identity,
        erased=False,
        certificate=None,
        offline=True,
    )


def _admitted(found: Any, actor: str, identity: bytes) -> Admitted:
    tombstone = found.tombstone is not None
    return Admitted(
        source=_source(found),
        controller=_controller(found),
        actor=actor,
        identity=identity,
        erased=tombstone or found.state in GONE,
        certificate=found.tombstone_certificate if tombstone else found.recording_certificate,
    )


def _source(found: Any) -> PushingSource:
    return PushingSource(
        found.source_id,
        found.name,
        found.default_lawful_basis,
        found.default_media,
        found.max_bytes,
        found.kind,
        found.settings or {},
    )


def _controller(found: Any) -> PushedTo:
    return PushedTo(found.controller_id, found.country, found.time_zone, found.financial_year_end)


def _controller_id(principal: Principal) -> uuid.UUID:
    if principal.controller_id is not None:
        return principal.controller_id
    for grant in principal.grants:
        return grant.controller_id
    raise Forbidden("the caller belongs to no controller", reason="other-controller")
