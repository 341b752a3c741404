"""A second person for whoever gives ears: tokens, accounts, roles and passwords that let calls be heard.

Who manages accounts hears nothing, and must not be able to make themselves somebody who does. So when a role
that hears calls is concerned, the first request only asks for an approval (``listening_role``) and the same
request with that approval does it. The operating-system user and the service itself need none: they hold the
keyring anyway.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.approvals import LISTENING_ROLE, ApprovalView, request_approval, use_approval
from recorder.access.policy import hears
from recorder.access.principals import Grant, Principal
from recorder.catalogue.subjects import blind_index
from recorder.errors import FieldError, Forbidden, InvalidInput
from recorder.services import Services

_EXEMPT: Final = ("os", "system")


class SecondPersonNeeded(Forbidden):
    """The step was asked for and waits for a second person.

    Attributes:
        approval: what has to be approved before the same request is sent again with it.
    """

    def __init__(self, approval: ApprovalView) -> None:
        super().__init__("A second person has to approve this.", reason="approval-missing")
        self.approval = approval


@dataclass(frozen=True, slots=True)
class ListeningStep:
    """A request that needs an approval, in the form in which it is approved.

    Attributes:
        controller_id: whose legal or privacy decides.
        target: account id, or keyed hash of a user name; the controller for a token that nobody owns.
        details: what is done, the roles, and a keyed hash of everything asked for that is not personal.
    """

    controller_id: uuid.UUID
    target: str
    details: Mapping[str, Any]


def listening_step(
    services: Services,
    principal: Principal,
    step: str,
    grants: Iterable[Grant],
    *,
    target: str,
    decided_at: uuid.UUID | None = None,
    agent_code: str | None = None,
    **request: str | None,
) -> ListeningStep | None:
    """The approval that a request needs; None where no role concerned hears calls, or the caller is exempt.

    Args:
        services: The service.
        principal: Who asks.
        step: What is to be done, for example ``token.issue``.
        grants: Every role concerned.
        target: Whom or what it is about: a random id or a keyed hash.
        decided_at: The controller that decides; None for the one whose calls are to be heard.
        agent_code: Whose calls a role of scope ``own`` reaches.
        request: Whatever else is asked for and is not personal.

    Raises:
        InvalidInput: the calls of several controllers, of which none may decide for another.
    """
    asked = sorted(grants, key=_spelt)
    audible = [grant for grant in asked if hears(grant.role)]
    if not audible or principal.kind in _EXEMPT:
        return None
    if decided_at is None:
        decided_at, *others = {grant.controller_id for grant in audible}
        if others:
            problem = "make the account first, then grant the roles that hear calls one by one"
            raise InvalidInput("no controller approves for another", fields=[FieldError("/roles", problem)])
    roles = [_spelt(grant) for grant in asked]
    told = {"step": step, "roles": roles, "target": target, "agent_code": agent_code, **request}
    digest = blind_index(services.keyring, decided_at, "approval", json.dumps(told, sort_keys=True))
    details: dict[str, Any] = {"step": step, "roles": roles, "request": digest.hex()}
    if agent_code is not None:
        details["agent_code"] = agent_code
    return ListeningStep(decided_at, target, details)


async def wait_for_second(
    services: Services, principal: Principal, step: ListeningStep, *, request_id: str | None = None
) -> SecondPersonNeeded:
    """Ask for the approval in a transaction of its own; the answer is to be raised.

    Raises:
        Forbidden: a token asks that no person answers for.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        view = await request_approval(
            session,
            principal,
            controller_id=step.controller_id,
            action=LISTENING_ROLE,
            target=step.target,
            details=step.details,
            now=now,
            request_id=request_id,
        )
    return SecondPersonNeeded(view)


async def spend(
    session: AsyncSession,
    services: Services,
    principal: Principal,
    step: ListeningStep | None,
    approval_id: uuid.UUID | None,
    *,
    request_id: str | None = None,
) -> None:
    """Spend the approval in the step's own transaction; nothing where the step needs none.

    Raises:
        Forbidden: there is none, or it is for another request or another requester, used, or expired.
    """
    if step is None:
        return
    if approval_id is None:  # what needs none came to need one since it was looked at
        raise Forbidden("A second person has to approve this.", reason="approval-missing")
    await use_approval(
        session,
        approval_id,
        actor=principal.actor,
        controller_id=step.controller_id,
        action=LISTENING_ROLE,
        target=step.target,
        details=step.details,
        now=services.clock.now(),
        request_id=request_id,
    )


def _spelt(grant: Grant) -> str:
    words = [grant.role.value, str(grant.controller_id), grant.scope.value]
    return ":".join([*words, ",".join(sorted(grant.values))] if grant.values else words)
