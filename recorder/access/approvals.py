"""Steps that need a second person: asked for by one, decided by another who has the right, used once.

What is approved is an action on a target with its details; :func:`use_approval` spends it in the transaction
of the step itself, so a step is never done twice on one approval, nor another step on it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ApprovalState
from recorder.catalogue.tables import ApiToken, Approval
from recorder.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound
from recorder.services import Services

LIFE: Final = timedelta(days=7)
LISTENING_ROLE: Final = "listening_role"
# The steps that need a second person, and the right to take each, which whoever asks must have.
STEPS: Final[Mapping[str, Action]] = {
    "hold_release": Action.MANAGE_MATTERS,
    "disclosure": Action.DISCLOSE,
    "research_export": Action.DISCLOSE,
    "schedule_activate": Action.MANAGE_SCHEDULES,
    "sweep_brake": Action.ERASE,
    "erase_principal": Action.ERASE,
    "destroy_epoch": Action.ROTATE_KEYS,
    LISTENING_ROLE: Action.MANAGE_ACCOUNTS,
}
# Steps that bring what no approval covers (a password, say): only whoever asked takes them.
_ASKERS_OWN: Final = frozenset({LISTENING_ROLE})
_OPEN: Final = (ApprovalState.PENDING, ApprovalState.APPROVED)


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval as it stands now; ``state`` is ``expired`` from its end on, whatever the row says yet."""

    id: uuid.UUID
    controller_id: uuid.UUID
    action: str
    target: str
    details: Mapping[str, Any]
    state: ApprovalState
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    used_at: datetime | None


async def request_approval(
    session: AsyncSession,
    principal: Principal,
    *,
    controller_id: uuid.UUID,
    action: str,
    target: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
    life: timedelta = LIFE,
    request_id: str | None = None,
) -> ApprovalView:
    """Ask for a second person, in the running transaction; asking again for the same finds the first request.

    The caller has checked that the principal may take the step itself.

    Args:
        session: The running transaction.
        principal: Who asks.
        controller_id: Whose matter it is.
        action: The step, one of ``STEPS``.
        target: What it is about; random ids only.
        now: The present instant.
        details: What exactly is approved: counts, codes, random ids and times only.
        life: How long it may be decided and used.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        Forbidden: a token asks that no person answers for, so nobody can be told from its holder.
    """
    if principal.kind == "token" and await _owner(session, principal.id) is None:
        raise Forbidden(
            "Nobody answers for this token, so its holder could approve; ask with an account.",
            reason="token-without-owner",
        )
    asked = dict(details or {})
    known = await session.execute(
        sa.select(Approval).where(
            Approval.controller_id == controller_id,
            Approval.action == action,
            Approval.target == target,
            Approval.requested_by == principal.actor,
            Approval.state.in_(_OPEN),
            Approval.expires_at > now,
        )
    )
    for row in known.scalars():
        if row.details == asked:
            return _view(row, now)
    row = Approval(
        id=uuid.uuid4(),
        controller_id=controller_id,
        action=action,
        target=target,
        details=asked,
        state=ApprovalState.PENDING,
        requested_by=principal.actor,
        requested_at=now,
        expires_at=now + life,
        decided_by=None,
        decided_at=None,
        used_at=None,
    )
    session.add(row)
    record(session, _event("approval.requested", principal.actor, row, request_id), now=now)
    return _view(row, now)


async def ask(
    services: Services,
    principal: Principal,
    *,
    controller_id: uuid.UUID,
    action: str,
    target: str,
    details: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> ApprovalView:
    """Ask for a second person ahead of the step; see :func:`request_approval` for the arguments.

    Raises:
        Forbidden: the caller may not take that step, or is a token that no person answers for.
        InvalidInput: no step of this name needs a second person.
    """
    if action not in STEPS:
        raise InvalidInput(
            "no such step needs a second person", fields=[FieldError("/action", f"one of {', '.join(STEPS)}")]
        )
    await permit(services, principal, STEPS[action], controller_id=controller_id, request_id=request_id)
    async with services.database.transaction() as session:
        return await request_approval(
            session,
            principal,
            controller_id=controller_id,
            action=action,
            target=target,
            details=details,
            now=services.clock.now(),
            request_id=request_id,
        )


async def decide_approval(
    services: Services,
    principal: Principal,
    approval_id: uuid.UUID,
    *,
    approve: bool,
    request_id: str | None = None,
) -> ApprovalView:
    """Approve or refuse, as a second person.

    Raises:
        NotFound: no such approval.
        Forbidden: the caller has no right to decide, is no person, or is the one who asked.
        Conflict: it was decided already, or has expired.
    """
    async with services.database.snapshot() as session:
        row = await _approval(session, approval_id)
    await permit(
        services,
        principal,
        Action.DECIDE_APPROVAL,
        controller_id=row.controller_id,
        object_type="approval",
        object_id=str(approval_id),
        request_id=request_id,
    )
    now = services.clock.now()
    async with services.database.transaction() as session:
        if await _same_person(session, principal, row.requested_by):
            raise Forbidden(
                "Whoever asked for it cannot approve it; another person must.", reason="own-request"
            )
        state = ApprovalState.APPROVED if approve else ApprovalState.REFUSED
        changed = await session.execute(
            sa.update(Approval)
            .where(
                Approval.id == approval_id,
                Approval.state == ApprovalState.PENDING,
                Approval.expires_at > now,
            )
            .values(state=state, decided_by=principal.actor, decided_at=now)
            .returning(Approval.id)
        )
        if changed.scalar() is None:
            raise Conflict("this was decided already, or has expired", kind="approval-closed")
        action = "approval.granted" if approve else "approval.refused"
        record(session, _event(action, principal.actor, row, request_id), now=now)
        decided = await session.get_one(Approval, approval_id, populate_existing=True)
        return _view(decided, now)


async def use_approval(
    session: AsyncSession,
    approval_id: uuid.UUID,
    *,
    actor: str,
    controller_id: uuid.UUID,
    action: str,
    target: str,
    now: datetime,
    details: Mapping[str, Any] | None = None,
    request_id: str | None = None,
) -> None:
    """Spend an approval in the transaction of the step that it allows.

    Args:
        session: The running transaction.
        approval_id: Which.
        actor: Who takes the step; for ``listening_role`` it must be who asked.
        controller_id: Must be that of the approval, as must action, target and details.
        action: The step.
        target: What it is about.
        now: The present instant.
        details: What is done; None where the target says everything.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        Forbidden: it is for something else, not (yet) approved, used, or expired.
    """
    row = await session.get(Approval, approval_id)
    fits = (
        row is not None
        and (row.controller_id, row.action, row.target) == (controller_id, action, target)
        and (details is None or row.details == dict(details))
        and row.decided_by not in (None, row.requested_by)
        and (action not in _ASKERS_OWN or row.requested_by == actor)
    )
    if row is None or not fits:
        raise Forbidden("The approval is for something else.", reason="approval-mismatch")
    spent = await session.execute(
        sa.update(Approval)
        .where(
            Approval.id == approval_id, Approval.state == ApprovalState.APPROVED, Approval.expires_at > now
        )
        .values(state=ApprovalState.USED, used_at=now)
        .returning(Approval.id)
    )
    if spent.scalar() is None:
        raise Forbidden("The approval is not given, used up, or expired.", reason="approval-missing")
    record(session, _event("approval.used", actor, row, request_id), now=now)


async def list_approvals(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    state: ApprovalState | None = None,
    request_id: str | None = None,
    limit: int = 200,
) -> Sequence[ApprovalView]:
    """A controller's approvals, the newest first.

    Raises:
        Forbidden: the caller may not see them.
    """
    await permit(
        services, principal, Action.VIEW_APPROVALS, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    query = sa.select(Approval).where(Approval.controller_id == controller_id)
    if state is ApprovalState.EXPIRED:
        query = query.where(Approval.state.in_((*_OPEN, state)), Approval.expires_at <= now)
    elif state is not None:
        query = query.where(Approval.state == state)
        query = query.where(Approval.expires_at > now) if state in _OPEN else query
    async with services.database.snapshot() as session:
        rows = await session.execute(query.order_by(Approval.requested_at.desc(), Approval.id).limit(limit))
        return [_view(row, now) for row in rows.scalars()]


async def get_approval(
    services: Services, principal: Principal, approval_id: uuid.UUID, *, request_id: str | None = None
) -> ApprovalView:
    """One approval; whoever asked for it may always see it.

    Raises:
        NotFound: no such approval.
        Forbidden: the caller may not see it.
    """
    async with services.database.snapshot() as session:
        row = await _approval(session, approval_id)
    if row.requested_by != principal.actor:
        await permit(
            services, principal, Action.VIEW_APPROVALS, controller_id=row.controller_id, request_id=request_id
        )
    return _view(row, services.clock.now())


async def _approval(session: AsyncSession, approval_id: uuid.UUID) -> Approval:
    row = await session.get(Approval, approval_id)
    if row is None:
        raise NotFound("there is no such approval")
    return row


async def _same_person(session: AsyncSession, principal: Principal, actor: str) -> bool:
    """Whether a person may be who asked, with an account or through a token.

    A token may be in the hands of who answers for it, and of who made it and saw its secret; where that was
    done with another token, of the people behind that one. A token that nobody answers for may be anybody's.
    """
    seen: set[str] = set()
    while actor not in seen:
        seen.add(actor)
        if actor == principal.actor:
            return True
        kind, _, identity = actor.partition(":")
        if kind != "token":
            return False
        query = sa.select(ApiToken.owner_id, ApiToken.issued_by).where(ApiToken.id == uuid.UUID(identity))
        row = (await session.execute(query)).one_or_none()
        if row is None or row.owner_id is None or str(row.owner_id) == principal.id:
            return True
        actor = row.issued_by or ""
    return False


async def _owner(session: AsyncSession, token_id: str) -> uuid.UUID | None:
    return await session.scalar(sa.select(ApiToken.owner_id).where(ApiToken.id == uuid.UUID(token_id)))


def _view(row: Approval, now: datetime) -> ApprovalView:
    expired = row.state in _OPEN and row.expires_at <= now
    return ApprovalView(
        id=row.id,
        controller_id=row.controller_id,
        action=row.action,
        target=row.target,
        details=row.details,
        state=ApprovalState.EXPIRED if expired else row.state,
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        used_at=row.used_at,
    )


def _event(action: str, actor: str, row: Approval, request_id: str | None) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=actor,
        object_type="approval",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"action": row.action, "target": row.target},
    )
