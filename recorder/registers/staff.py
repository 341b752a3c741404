"""Staff are data subjects, too (GDPR art. 15): calls that carry their code, scores, listening."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.accounts import display_name
from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import Account, Assessment, AuditEntry, Recording, RecordingAgent, RoleGrant
from recorder.errors import NotFound
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class StaffCall:
    """A call that somebody served; nothing of the customer."""

    recording_id: uuid.UUID
    started_at: datetime
    state: str


@dataclass(frozen=True, slots=True)
class StaffUse:
    """Something that somebody did to a recording, as the log has it."""

    at: datetime
    action: str
    outcome: str
    recording_id: str
    purpose: str | None


@dataclass(frozen=True, slots=True)
class StaffScore:
    """Points that somebody was given for a call, or gave; nothing of whoever else was concerned."""

    recording_id: uuid.UUID
    given_at: datetime
    form: str
    points: int
    out_of: int
    given: bool


@dataclass(frozen=True, slots=True)
class StaffCopy:
    """Everything kept of a member of staff, and of nobody else."""

    account_id: uuid.UUID
    name: str
    agent_code: str | None
    language: str
    created_at: datetime
    disabled_at: datetime | None
    roles: tuple[tuple[str, datetime, datetime | None], ...]
    calls: tuple[StaffCall, ...]
    listening: tuple[StaffUse, ...]
    scores: tuple[StaffScore, ...]


async def copy_of(
    services: Services, principal: Principal, account_id: uuid.UUID, *, request_id: str
) -> StaffCopy:
    """What is kept of a member of staff at their own controller; that it was copied is in the log.

    Calls are found by the account's agent code: whoever had the code before is found by it as well.

    Raises:
        NotFound: there is no such account.
        Forbidden: the caller does not answer staff's requests there.
        Erased: the person's key has been destroyed.
    """
    async with services.database.snapshot() as session:
        account = await session.get(Account, account_id)
    if account is None:
        raise NotFound("no such account")
    await permit(
        services,
        principal,
        Action.COPY_STAFF,
        controller_id=account.controller_id,
        object_type="account",
        object_id=str(account_id),
        request_id=request_id,
    )
    name = await display_name(services, account_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        grants = sa.select(RoleGrant).where(RoleGrant.account_id == account_id)
        roles = [
            (grant.role.value, grant.granted_at, grant.revoked_at)
            for grant in await session.scalars(grants.order_by(RoleGrant.granted_at, RoleGrant.id))
        ]
        served = (
            sa.select(Recording.id, Recording.started_at, Recording.state)
            .join(RecordingAgent, RecordingAgent.recording_id == Recording.id)
            .where(
                RecordingAgent.controller_id == account.controller_id,
                RecordingAgent.agent == account.agent_code,
            )
            .order_by(Recording.started_at, Recording.id)
        )
        calls = [StaffCall(row.id, row.started_at, row.state.value) for row in await session.execute(served)]
        uses = (
            sa.select(AuditEntry.payload)
            .where(
                AuditEntry.actor == f"account:{account_id}",
                AuditEntry.action.startswith("listen.", autoescape=True),
                AuditEntry.object_type == "recording",
            )
            .order_by(AuditEntry.at, AuditEntry.id)
        )
        listening = [_use(payload) for payload in await session.scalars(uses)]
        scores = await _scores(session, account)
        event = AuditEvent(
            action="staff.copied",
            actor=principal.actor,
            object_type="account",
            object_id=str(account_id),
            controller_id=account.controller_id,
            request_id=request_id,
            details={"calls": len(calls), "listening": len(listening), "scores": len(scores)},
        )
        record(session, event, now=now)
    return StaffCopy(
        account_id=account.id,
        name=name,
        agent_code=account.agent_code,
        language=account.language,
        created_at=account.created_at,
        disabled_at=account.disabled_at,
        roles=tuple(roles),
        calls=tuple(calls),
        listening=tuple(listening),
        scores=tuple(scores),
    )


async def _scores(session: AsyncSession, account: Account) -> list[StaffScore]:
    actor = f"account:{account.id}"
    about = sa.and_(Assessment.controller_id == account.controller_id, Assessment.agent == account.agent_code)
    query = sa.select(Assessment).where(sa.or_(about, Assessment.assessor == actor))
    return [
        StaffScore(
            row.recording_id, row.given_at, row.form, row.points, row.out_of, given=row.assessor == actor
        )
        for row in await session.scalars(query.order_by(Assessment.given_at, Assessment.id))
    ]


def _use(payload: bytes) -> StaffUse:
    entry = json.loads(payload)
    return StaffUse(
        at=datetime.fromisoformat(entry["time"]),
        action=entry["action"],
        outcome=entry["outcome"],
        recording_id=entry["object"]["id"],
        purpose=entry.get("purpose"),
    )
