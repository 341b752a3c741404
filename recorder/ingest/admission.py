"""Who may push: the token's own source, while it is switched on."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from recorder.access.guard import permit
from recorder.access.policy import Action, Target
from recorder.access.principals import Principal
from recorder.catalogue.tables import Controller, Source
from recorder.errors import Forbidden
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class Admitted:
    """A source that may push, and whose it is."""

    source: Source
    controller: Controller
    actor: str


async def admit(services: Services, principal: Principal, named: str | None, *, request_id: str) -> Admitted:
    """Look the caller's source up and ask the policy.

    Args:
        named: name or id of the source in the URL; None where the token alone says.

    Raises:
        Forbidden: the caller is no source, another one is named, or it is switched off.
    """
    source: Source | None = None
    controller: Controller | None = None
    if principal.source_id is not None:
        async with services.database.snapshot() as session:
            source = await session.get(Source, principal.source_id)
            if source is not None:
                controller = await session.get(Controller, source.controller_id)
    mine = source is not None and named in (None, source.name, str(source.id))
    target = Target(source_id=source.id if source is not None and mine else uuid.UUID(int=0))
    await permit(
        services,
        principal,
        Action.PUSH,
        controller_id=_controller_id(principal, source),
        target=target,
        object_type="source",
        object_id=None if source is None else str(source.id),
        request_id=request_id,
    )
    if source is None or controller is None:
        raise Forbidden("the token belongs to no source", reason="role")
    if not source.enabled:
        raise Forbidden("this source is switched off", reason="source-disabled")
    return Admitted(source, controller, principal.actor)


def _controller_id(principal: Principal, source: Source | None) -> uuid.UUID:
    if source is not None:
        return source.controller_id
    if principal.controller_id is not None:
        return principal.controller_id
    for grant in principal.grants:
        return grant.controller_id
    raise Forbidden("the caller belongs to no controller", reason="other-controller")
