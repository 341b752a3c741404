"""The register of processors and recipients: who may be given personal data, under which contract, where.

A contract or a safeguard counts until the instant it expires, and is looked at anew at each use.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecipientKind
from recorder.catalogue.sealed_fields import RECIPIENT_NAME
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import RegisteredRecipient
from recorder.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound
from recorder.registers.regions import transfer_problem
from recorder.registers.sealing import controller_subject
from recorder.services import Services

# Those who work on data for the controller do so under a contract that ends (GDPR art. 28(3)).
UNDER_CONTRACT: Final = frozenset(
    {RecipientKind.PROCESSOR, RecipientKind.GROUP_COMPANY, RecipientKind.RESEARCH}
)
TERMS: Final = frozenset(
    {"contract_reference", "contract_expires_at", "safeguard", "safeguard_expires_at", "country"}
)


@dataclass(frozen=True, slots=True)
class NewRecipient:
    """What a recipient is registered with.

    Attributes:
        personal: the name is a person's, so it is sealed; a recipient of kind ``person`` always is one.
    """

    kind: RecipientKind
    name: str
    purpose: str
    country: str
    personal: bool = False
    contract_reference: str | None = None
    contract_expires_at: datetime | None = None
    safeguard: str | None = None
    safeguard_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RecipientView:
    """A recipient with its name.

    Attributes:
        problem: why nothing may be given to it now, as ``(code, text)``; None when it may.
    """

    row: RegisteredRecipient
    name: str
    problem: tuple[str, str] | None


async def register(
    services: Services, principal: Principal, controller_id: uuid.UUID, new: NewRecipient, *, request_id: str
) -> RecipientView:
    """Enter a recipient.

    Raises:
        Forbidden: the caller does not keep this register here.
        InvalidInput: no contract with an end where one is needed, or no safeguard with an end.
        NotFound: there is no such controller.
    """
    await permit(
        services, principal, Action.MANAGE_RECIPIENTS, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    recipient_id = uuid.uuid4()
    personal = new.personal or new.kind is RecipientKind.PERSON
    row = RegisteredRecipient(
        id=recipient_id,
        controller_id=controller_id,
        kind=new.kind,
        name=None if personal else new.name,
        sealed=None,
        purpose=new.purpose,
        country=new.country,
        contract_reference=new.contract_reference,
        contract_expires_at=new.contract_expires_at,
        safeguard=new.safeguard,
        safeguard_expires_at=new.safeguard_expires_at,
        registered_at=now,
        registered_by=principal.actor,
        ended_at=None,
    )
    _refuse_unusable(row, now)
    async with services.database.transaction() as session:
        subject = await controller_subject(session, controller_id)
        if personal:
            row.sealed = seal_json(
                services.keyring, subject, RECIPIENT_NAME, recipient_id, {"name": new.name}
            )
        session.add(row)
        _audit(session, "recipient.registered", row, principal.actor, now, request_id)
    return RecipientView(row, new.name, None)


async def amend(
    services: Services,
    principal: Principal,
    recipient_id: uuid.UUID,
    terms: Mapping[str, Any],
    *,
    request_id: str,
) -> RecipientView:
    """Enter a renewed contract, another safeguard or another country.

    Args:
        services: Parts of the service.
        principal: Who does it.
        recipient_id: Which.
        terms: New values by name, of ``TERMS``; what is not named stays.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        NotFound: there is none of this id.
        Forbidden: the caller does not keep this register there.
        Conflict: the recipient was ended.
        InvalidInput: as for :func:`register`.
    """
    await _permit(services, principal, recipient_id, request_id)
    if "country" in terms and terms["country"] is None:
        raise InvalidInput("a recipient has a country", fields=[FieldError("/country", "not null")])
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await _locked(session, recipient_id)
        for name in sorted(TERMS & terms.keys()):
            setattr(row, name, terms[name])
        _refuse_unusable(row, now)
        changed = sorted(TERMS & terms.keys())
        _audit(session, "recipient.amended", row, principal.actor, now, request_id, changed=changed)
        return await _view(session, services, row, now)


async def end(
    services: Services,
    principal: Principal,
    recipient_id: uuid.UUID,
    *,
    forget: bool = False,
    request_id: str,
) -> RecipientView:
    """End a recipient: nothing more is given to it, and it stays in the register.

    Args:
        services: Parts of the service.
        principal: Who does it.
        recipient_id: Which.
        forget: Remove the name where it is a person's; they get no notices any more.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        NotFound, Forbidden, Conflict: as for :func:`amend`.
    """
    await _permit(services, principal, recipient_id, request_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await _locked(session, recipient_id)
        row.ended_at = now
        if forget:
            row.sealed = None
        _audit(session, "recipient.ended", row, principal.actor, now, request_id, forgotten=forget)
        return await _view(session, services, row, now)


async def list_recipients(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> list[RecipientView]:
    """Every recipient of a controller, in the order they were entered.

    Raises:
        Forbidden: the caller may not see the registers here.
    """
    await permit(
        services, principal, Action.VIEW_REGISTERS, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    async with services.database.snapshot() as session:
        query = sa.select(RegisteredRecipient).where(RegisteredRecipient.controller_id == controller_id)
        rows = list(
            await session.scalars(query.order_by(RegisteredRecipient.registered_at, RegisteredRecipient.id))
        )
        return [await _view(session, services, row, now) for row in rows]


async def require_recipient(
    session: AsyncSession, recipient_id: uuid.UUID, now: datetime
) -> RegisteredRecipient:
    """A recipient that may be given personal data now; locked until the transaction ends.

    Raises:
        NotFound: there is none of this id.
        Forbidden: ended, its contract has expired, or its country needs a safeguard that holds.
    """
    row = await session.get(
        RegisteredRecipient, recipient_id, with_for_update={"read": True}, populate_existing=True
    )
    if row is None:
        raise NotFound("no such recipient")
    problem = problem_of(row, now)
    if problem is not None:
        code, text = problem
        raise Forbidden(f"Nothing may be given to this recipient: {text}.", reason=code)
    return row


def problem_of(row: RegisteredRecipient, now: datetime) -> tuple[str, str] | None:
    """Why a recipient may not be given anything now, as code and text; None when it may."""
    if row.ended_at is not None:
        return "recipient-ended", "it was ended"
    if row.kind in UNDER_CONTRACT and (not row.contract_reference or row.contract_expires_at is None):
        return "contract-missing", "it works under a contract, and none with an end is named"
    if row.contract_expires_at is not None and row.contract_expires_at <= now:
        return "contract-expired", f"its contract expired on {row.contract_expires_at:%Y-%m-%d}"
    transfer = transfer_problem(row.country, row.safeguard, row.safeguard_expires_at, now)
    return None if transfer is None else ("transfer", transfer)


async def name_of(session: AsyncSession, services: Services, row: RegisteredRecipient) -> str:
    """A recipient's name, opened where it is a person's.

    Raises:
        Erased: the controller's key has been destroyed.
    """
    if row.sealed is None:
        return row.name or ""
    subject = await controller_subject(session, row.controller_id)
    return str(open_json(services.keyring, subject, RECIPIENT_NAME, row.id, row.sealed)["name"])


def _refuse_unusable(row: RegisteredRecipient, now: datetime) -> None:
    problem = problem_of(row, now)
    if problem is not None:
        code, text = problem
        pointer = {"transfer": "/safeguard"}.get(code, "/contract_expires_at")
        raise InvalidInput("the recipient could not be given anything", fields=[FieldError(pointer, text)])


async def _view(
    session: AsyncSession, services: Services, row: RegisteredRecipient, now: datetime
) -> RecipientView:
    return RecipientView(row, await name_of(session, services, row), problem_of(row, now))


async def _permit(services: Services, principal: Principal, recipient_id: uuid.UUID, request_id: str) -> None:
    async with services.database.snapshot() as session:
        row = await session.get(RegisteredRecipient, recipient_id)
    if row is None:
        raise NotFound("no such recipient")
    await permit(
        services,
        principal,
        Action.MANAGE_RECIPIENTS,
        controller_id=row.controller_id,
        object_type="recipient",
        object_id=str(recipient_id),
        request_id=request_id,
    )


async def _locked(session: AsyncSession, recipient_id: uuid.UUID) -> RegisteredRecipient:
    row = await session.get_one(
        RegisteredRecipient, recipient_id, with_for_update=True, populate_existing=True
    )
    if row.ended_at is not None:
        raise Conflict("the recipient was ended", kind="recipient-ended")
    return row


def _audit(
    session: AsyncSession,
    action: str,
    row: RegisteredRecipient,
    actor: str,
    now: datetime,
    request_id: str | None,
    **details: Any,
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="recipient",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"kind": row.kind.value, "country": row.country, **details},
    )
    record(session, event, now=now)
