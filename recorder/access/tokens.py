"""Bearer tokens of machines: ``rec_<id>_<secret>``, hashed at rest, scoped, expiring, revocable.

A token belongs to a source (it pushes, and reads nothing but its own receipts) or is an API client with one
role. The prefix and the id let a leaked one be recognised and revoked; the secret is 256 random bits, so a
plain SHA-256 is enough at rest.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.listening import listening_step, spend, wait_for_second
from recorder.access.policy import Action, scopes_for
from recorder.access.principals import Grant, Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import Account, ApiToken, Source
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound, Unauthenticated, Unavailable
from recorder.services import Services

DEFAULT_LIFETIME: Final = timedelta(days=365)
DEFAULT_OVERLAP: Final = timedelta(days=7)
_TOKEN: Final = re.compile(r"rec_([0-9a-f]{32})_([A-Za-z0-9_-]{43})")
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:-]{0,99}")
_NOTE_USE_EVERY: Final = timedelta(minutes=10)
_INVALID: Final = "the token is unknown, expired or revoked"
log = logging.getLogger("recorder.access")


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A fresh token. ``token`` is shown once and stored nowhere."""

    id: uuid.UUID
    token: str = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as lists show it."""

    id: uuid.UUID
    label: str
    role: Role
    scope: ScopeKind
    values: tuple[str, ...]
    source_id: uuid.UUID | None
    owner_id: uuid.UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


async def issue_token(
    services: Services,
    principal: Principal,
    *,
    controller_id: uuid.UUID,
    label: str,
    role: Role = Role.TELEPHONY,
    scope: ScopeKind = ScopeKind.CONTROLLER,
    values: Sequence[str] = (),
    source_id: uuid.UUID | None = None,
    owner_id: uuid.UUID | None = None,
    expires_at: datetime | None = None,
    approval_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> IssuedToken:
    """Make a token for a source (role telephony) or for an API client (any other role).

    A role that hears calls is given only on a second person's approval.

    Args:
        services: The service.
        principal: Who makes it: manages sources, or accounts.
        controller_id: Whose calls it reaches.
        label: What it is for; a system's name, never a person's.
        role: What its bearer may do.
        scope: How far; ``own`` needs the agent code as its one value.
        values: Agent codes of a team or an agent, or queues.
        source_id: The source it pushes for; telephony only.
        owner_id: The person who answers for it: it ends with their account.
        expires_at: Its end. API clients get a year where none is given; a source's token may have none, so
            that no forgotten date loses calls.
        approval_id: The second person's approval of this very request.
        request_id: Ties the audit entry to the service's logs.

    Raises:
        SecondPersonNeeded: the role hears calls, and no approval was given; it is asked for now.
        Forbidden: the caller may not, or the approval does not cover this.
        NotFound: no such source or owner at this controller.
        InvalidInput: role, scope, values, source, label or date do not fit together.
    """
    now = services.clock.now()
    action = Action.MANAGE_SOURCES if role is Role.TELEPHONY else Action.MANAGE_ACCOUNTS
    await permit(services, principal, action, controller_id=controller_id, request_id=request_id)
    _check(label, role, scope, values, source_id, expires_at, now)
    step = listening_step(
        services,
        principal,
        "token.issue",
        [Grant(role, controller_id, scope, frozenset(values))],
        target=str(owner_id or controller_id),
        label=label,
        expires_at=None if expires_at is None else expires_at.astimezone(UTC).isoformat(),
    )
    if step is not None and approval_id is None:
        async with services.database.snapshot() as session:
            await _check_owner(session, owner_id)
        raise await wait_for_second(services, principal, step, request_id=request_id)
    if expires_at is None and role is not Role.TELEPHONY:
        expires_at = now + DEFAULT_LIFETIME
    async with services.database.transaction() as session:
        if source_id is not None:
            await _source(session, source_id, controller_id)
        await _check_owner(session, owner_id)
        await spend(session, services, principal, step, approval_id, request_id=request_id)
        row, secret = _new(controller_id, label, role, scope, values, source_id, owner_id, expires_at, now)
        row.issued_by = principal.actor
        session.add(row)
        record(session, _event("token.issued", principal, row, request_id), now=now)
    return IssuedToken(row.id, f"rec_{row.id.hex}_{secret}", expires_at)


async def rotate_source_token(
    services: Services,
    principal: Principal,
    source_id: uuid.UUID,
    *,
    overlap: timedelta = DEFAULT_OVERLAP,
    request_id: str | None = None,
) -> IssuedToken:
    """Issue a source's next token; those it has stay valid for the overlap, then end.

    Raises:
        Forbidden: the caller may not manage the controller's sources.
        NotFound: no such source.
        InvalidInput: a negative overlap.
    """
    if overlap < timedelta(0):
        raise InvalidInput(
            "the overlap is negative", fields=[FieldError("/overlap", "give zero or more seconds")]
        )
    async with services.database.snapshot() as session:
        source = await session.get(Source, source_id)
    if source is None:
        raise NotFound("there is no such source")
    controller_id = source.controller_id
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    now = services.clock.now()
    async with services.database.transaction() as session:
        living = await session.execute(
            sa.select(ApiToken).where(ApiToken.source_id == source_id, ApiToken.revoked_at.is_(None))
        )
        label = source.name
        for old in living.scalars():
            old.expires_at = min(filter(None, (old.expires_at, now + overlap)))
        row, secret = _new(
            controller_id, label, Role.TELEPHONY, ScopeKind.CONTROLLER, (), source_id, None, None, now
        )
        row.issued_by = principal.actor
        session.add(row)
        record(session, _event("token.rotated", principal, row, request_id), now=now)
    return IssuedToken(row.id, f"rec_{row.id.hex}_{secret}", None)


async def revoke_token(
    services: Services, principal: Principal, token_id: uuid.UUID, *, request_id: str | None = None
) -> None:
    """End a token at once. Revoking twice is no error.

    Raises:
        Forbidden: the caller may not.
        NotFound: no such token.
    """
    async with services.database.snapshot() as session:
        row = await session.get(ApiToken, token_id)
    if row is None:
        raise NotFound("there is no such token")
    action = Action.MANAGE_SOURCES if row.role is Role.TELEPHONY else Action.MANAGE_ACCOUNTS
    await permit(services, principal, action, controller_id=row.controller_id, request_id=request_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        changed = await session.execute(
            sa.update(ApiToken)
            .where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(ApiToken.id)
        )
        if changed.scalar() is not None:
            record(session, _event("token.revoked", principal, row, request_id), now=now)


async def list_tokens(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> list[TokenView]:
    """A controller's tokens that the caller manages, the newest first.

    Raises:
        Forbidden: the caller may not manage accounts.
    """
    await permit(
        services, principal, Action.MANAGE_ACCOUNTS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        rows = await session.execute(
            sa.select(ApiToken)
            .where(ApiToken.controller_id == controller_id)
            .order_by(ApiToken.created_at.desc(), ApiToken.id)
        )
        return [_view(row) for row in rows.scalars()]


async def authenticate_bearer(services: Services, header: str) -> Principal:
    """Who an ``Authorization: Bearer`` header belongs to (RFC 6750 section 2.1).

    Raises:
        Unauthenticated: unknown, expired or revoked; or its source is switched off.
    """
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("send Authorization: Bearer with a token")
    return await authenticate_token(services, token.strip())


async def authenticate_token(services: Services, token: str) -> Principal:
    """Who a token belongs to, wherever the sender could put it (header, Basic password, URL).

    Raises:
        Unauthenticated: unknown, expired or revoked; or its source is switched off.
    """
    claim = read_token(token)
    if claim is None:
        raise Unauthenticated(_INVALID)
    now = services.clock.now()
    try:
        rows = await services.database.lookup(_BY_ID, token_id=claim.id)
    except Unavailable:
        # A source may go on pushing into the spool, by a copy that is minutes old at most.
        known = services.offline.token(claim.id, now)
        if known is None:
            raise
        offline = token_principal(known, claim, now)
        if offline is None:
            raise Unauthenticated(_INVALID) from None
        return offline
    row = rows[0] if rows else None
    principal = token_principal(row, claim, now)
    if principal is None:
        raise Unauthenticated(_INVALID)
    if use_is_due(row, now):
        await _note_use(services, claim.id, now)
    return principal


@dataclass(frozen=True, slots=True)
class TokenClaim:
    """What a token says of itself; whether it is true is in the catalogue.

    Attributes:
        digest: SHA-256 of the secret, as it is kept.
    """

    id: uuid.UUID
    digest: bytes = field(repr=False)


def read_token(token: str) -> TokenClaim | None:
    """The claim of a well-formed token; None for anything else."""
    parts = _TOKEN.fullmatch(token)
    return None if parts is None else TokenClaim(uuid.UUID(hex=parts[1]), _hash(parts[2]))


def token_columns() -> tuple[sa.ColumnElement[Any], ...]:
    """What `token_principal` needs of `ApiToken` left-joined with its `Source` and its owner's `Account`."""
    return (
        ApiToken.id.label("token_id"),
        ApiToken.secret_hash.label("token_hash"),
        ApiToken.role.label("token_role"),
        ApiToken.controller_id.label("token_controller"),
        ApiToken.scope.label("token_scope"),
        ApiToken.values.label("token_values"),
        ApiToken.source_id.label("token_source"),
        ApiToken.expires_at.label("token_expires"),
        ApiToken.revoked_at.label("token_revoked"),
        ApiToken.last_used_at.label("token_used"),
        Source.enabled.label("token_source_enabled"),
        Source.settings.label("token_source_settings"),
        Account.disabled_at.label("token_owner_left"),
    )


_BY_ID: Final = Lookup(
    sa.select(*token_columns())
    .select_from(ApiToken)
    .outerjoin(Source, Source.id == ApiToken.source_id)
    .outerjoin(Account, Account.id == ApiToken.owner_id)
    .where(ApiToken.id == sa.bindparam("token_id", type_=sa.Uuid()))
)


def token_principal(row: Any, claim: TokenClaim, now: datetime) -> Principal | None:
    """Who a claim belongs to; None when it is false, expired or revoked, or its source or owner is off.

    Args:
        row: with the columns of `token_columns`; None where there is no token of this id.
    """
    # Compared even when there is no such token, so that ids cannot be told apart by time.
    same = hmac.compare_digest(claim.digest, row.token_hash if row is not None else bytes(32))
    if row is None or not same:
        return None
    over = row.token_expires is not None and row.token_expires <= now
    if over or row.token_revoked is not None:
        return None
    if row.token_source_enabled is False or row.token_owner_left is not None:
        return None
    values = row.token_values
    own = row.token_scope is ScopeKind.OWN and len(values) == 1
    return Principal(
        kind="token" if row.token_source is None else "source",
        id=str(row.token_source or row.token_id),
        controller_id=row.token_controller,
        grants=(Grant(row.token_role, row.token_controller, row.token_scope, frozenset(values)),),
        agent_code=values[0] if own else None,
        source_id=row.token_source,
        networks=tuple((row.token_source_settings or {}).get("allow", ())),
    )


def use_is_due(row: Any, now: datetime) -> bool:
    """Whether the last use of a token is to be noted again."""
    return row.token_used is None or bool(row.token_used + _NOTE_USE_EVERY <= now)


async def _note_use(services: Services, token_id: uuid.UUID, now: datetime) -> None:
    try:
        async with services.database.transaction() as session:
            await session.execute(sa.update(ApiToken).where(ApiToken.id == token_id).values(last_used_at=now))
    except Unavailable:
        log.warning("the last use of a token could not be noted", extra={"token": str(token_id)})


async def _check_owner(session: AsyncSession, owner_id: uuid.UUID | None) -> None:
    if owner_id is None:
        return
    owner = await session.get(Account, owner_id)
    if owner is None or owner.disabled_at is not None:
        raise NotFound("there is no such living account to own the token")


async def _source(session: AsyncSession, source_id: uuid.UUID, controller_id: uuid.UUID) -> Source:
    source = await session.get(Source, source_id)
    if source is None or source.controller_id != controller_id:
        raise NotFound("there is no such source at this controller")
    if not source.enabled:
        raise Conflict("the source is switched off", kind="source-disabled")
    return source


def _check(
    label: str,
    role: Role,
    scope: ScopeKind,
    values: Sequence[str],
    source_id: uuid.UUID | None,
    expires_at: datetime | None,
    now: datetime,
) -> None:
    problems: list[FieldError] = []
    if _LABEL.fullmatch(label) is None:
        problems.append(FieldError("/label", "1 to 100 letters, digits, blanks or . _ : -"))
    if (role is Role.TELEPHONY) != (source_id is not None):
        problems.append(
            FieldError("/source_id", "a telephony token names its source, and no other token does")
        )
    if role is not Role.TELEPHONY and scope not in scopes_for(role):
        problems.append(
            FieldError("/scope", f"for {role.value} give {' or '.join(sorted(scopes_for(role)))}")
        )
    if scope is ScopeKind.OWN and len(values) != 1:
        problems.append(FieldError("/values", "own needs exactly the one agent code"))
    if (scope is ScopeKind.CONTROLLER) == bool(values):
        problems.append(FieldError("/values", "needed for own, team and queue, and for nothing else"))
    if expires_at is not None and expires_at <= now:
        problems.append(FieldError("/expires_at", "give a time to come"))
    if problems:
        raise InvalidInput("the token cannot be made like this", fields=problems)


def _new(
    controller_id: uuid.UUID,
    label: str,
    role: Role,
    scope: ScopeKind,
    values: Sequence[str],
    source_id: uuid.UUID | None,
    owner_id: uuid.UUID | None,
    expires_at: datetime | None,
    now: datetime,
) -> tuple[ApiToken, str]:
    secret = secrets.token_urlsafe(32)
    row = ApiToken(
        id=uuid.uuid4(),
        controller_id=controller_id,
        secret_hash=_hash(secret),
        label=label,
        role=role,
        source_id=source_id,
        owner_id=owner_id,
        scope=scope,
        values=sorted(values),
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    return row, secret


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _view(row: ApiToken) -> TokenView:
    return TokenView(
        id=row.id,
        label=row.label,
        role=row.role,
        scope=row.scope,
        values=tuple(row.values),
        source_id=row.source_id,
        owner_id=row.owner_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def _event(action: str, principal: Principal, row: ApiToken, request_id: str | None) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="token",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details={"role": row.role.value, "source": None if row.source_id is None else str(row.source_id)},
    )
