"""Browser sessions: a random cookie that is stored only as a hash, with an idle and an absolute end."""

from __future__ import annotations

import binascii
import hashlib
import secrets
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.accounts import authenticate, load_principal
from recorder.access.principals import Grant, Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import Account, RoleGrant, WebSession
from recorder.errors import Unauthenticated
from recorder.services import Services

_SECRET: Final = 32
# How precisely idleness is known: a request writes only when the last note is this share of the limit old.
_NOTE_SHARE: Final = 20


COOKIE: Final = "recorder_session"


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A fresh session. ``cookie`` and ``csrf`` are shown once, to the browser."""

    id: uuid.UUID
    cookie: str = field(repr=False)
    csrf: str = field(repr=False)
    expires_at: datetime
    principal: Principal


async def sign_in(
    services: Services, username: str, password: str, *, request_id: str | None = None
) -> OpenedSession:
    """Check the password and open a session.

    Raises:
        Unauthenticated: the user name or the password is wrong.
        Locked: too many failures for this name.
    """
    account_id = await authenticate(services, username, password, request_id=request_id)
    return await open_session(services, account_id, request_id=request_id)


async def open_session(
    services: Services, account_id: uuid.UUID, *, request_id: str | None = None
) -> OpenedSession:
    """Open a session for an account that has just proved itself.

    Raises:
        Unauthenticated: the account is gone or disabled.
    """
    now = services.clock.now()
    cookie, csrf = secrets.token_urlsafe(_SECRET), secrets.token_urlsafe(_SECRET)
    expires_at = now + timedelta(hours=services.settings.session_hours)
    session_id = uuid.uuid4()
    async with services.database.transaction() as session:
        principal = await load_principal(session, account_id)
        if principal is None:
            raise Unauthenticated("the account is disabled")
        await session.execute(sa.delete(WebSession).where(WebSession.expires_at < now - timedelta(days=1)))
        session.add(
            WebSession(
                id=session_id,
                token_hash=_hash(cookie),
                csrf=csrf,
                account_id=account_id,
                created_at=now,
                last_seen_at=now,
                expires_at=expires_at,
                revoked_at=None,
            )
        )
        record(session, _event("session.opened", principal, session_id, request_id), now=now)
    return OpenedSession(session_id, cookie, csrf, expires_at, principal)


async def authenticate_session(services: Services, cookie: str) -> tuple[Principal, str] | None:
    """Who a cookie belongs to, and the session's CSRF token; None when it opens nothing (any more)."""
    digest = session_digest(cookie)
    if digest is None:
        return None
    now = services.clock.now()
    rows = await services.database.lookup(_BY_DIGEST, session_digest=digest)
    principal = session_principal(services, rows, now)
    if principal is None:
        return None
    if sight_is_due(services, rows[0], now):
        async with services.database.transaction() as session:
            await session.execute(
                sa.update(WebSession).where(WebSession.id == rows[0].session_id).values(last_seen_at=now)
            )
    return principal, rows[0].session_csrf


def session_digest(cookie: str) -> bytes | None:
    """The hash under which a cookie's session is kept; None for what is no cookie of ours."""
    return _hash(cookie) if _plausible(cookie) else None


def session_columns() -> tuple[sa.ColumnElement[Any], ...]:
    """What `session_principal` needs of `WebSession` and `Account`, and of each living `RoleGrant`."""
    return (
        WebSession.id.label("session_id"),
        WebSession.csrf.label("session_csrf"),
        WebSession.last_seen_at.label("session_seen"),
        WebSession.expires_at.label("session_expires"),
        WebSession.revoked_at.label("session_revoked"),
        Account.id.label("account_id"),
        Account.controller_id.label("account_controller"),
        Account.agent_code.label("account_agent_code"),
        Account.language.label("account_language"),
        Account.disabled_at.label("account_disabled"),
        RoleGrant.role.label("grant_role"),
        RoleGrant.controller_id.label("grant_controller"),
        RoleGrant.scope.label("grant_scope"),
        RoleGrant.values.label("grant_values"),
    )


def living_grant() -> sa.ColumnElement[bool]:
    """How `RoleGrant` is left-joined to `Account`: a row for each grant that was not revoked."""
    return sa.and_(RoleGrant.account_id == Account.id, RoleGrant.revoked_at.is_(None))


# Found by the hash of 256 random bits: timing of the index tells nothing that helps to guess one.
_BY_DIGEST: Final = Lookup(
    sa.select(*session_columns())
    .select_from(WebSession)
    .join(Account, Account.id == WebSession.account_id)
    .outerjoin(RoleGrant, living_grant())
    .where(WebSession.token_hash == sa.bindparam("session_digest", type_=sa.LargeBinary()))
)


def session_principal(services: Services, rows: Sequence[Any], now: datetime) -> Principal | None:
    """Whose session it is, with the roles they hold now; None when it is over or the account disabled.

    Args:
        rows: with the columns of `session_columns`, one for each grant.
    """
    if not rows:
        return None
    row = rows[0]
    idle = timedelta(minutes=services.settings.session_idle_minutes)
    if row.session_revoked is not None or row.session_expires <= now or row.session_seen + idle <= now:
        return None
    if row.account_disabled is not None:
        return None
    return Principal(
        kind="account",
        id=str(row.account_id),
        controller_id=row.account_controller,
        grants=tuple(
            Grant(each.grant_role, each.grant_controller, each.grant_scope, frozenset(each.grant_values))
            for each in rows
            if each.grant_role is not None
        ),
        agent_code=row.account_agent_code,
        language=row.account_language,
    )


def sight_is_due(services: Services, row: Any, now: datetime) -> bool:
    """Whether that the session was seen is to be noted again."""
    share = timedelta(minutes=services.settings.session_idle_minutes) / _NOTE_SHARE
    return bool(row.session_seen + share <= now)


async def close_session(services: Services, cookie: str, *, request_id: str | None = None) -> None:
    """Sign out. A cookie that opens nothing is no error."""
    if not _plausible(cookie):
        return
    now = services.clock.now()
    async with services.database.transaction() as session:
        row = await _find(session, cookie)
        if row is None:
            return
        row.revoked_at = now
        principal = await load_principal(session, row.account_id)
        if principal is not None:
            record(session, _event("session.closed", principal, row.id, request_id), now=now)


async def _find(session: AsyncSession, cookie: str) -> WebSession | None:
    # Found by the hash of 256 random bits: timing of the index tells nothing that helps to guess one.
    found = await session.execute(
        sa.select(WebSession).where(WebSession.token_hash == _hash(cookie), WebSession.revoked_at.is_(None))
    )
    return found.scalar_one_or_none()


def _plausible(cookie: str) -> bool:
    try:
        return len(urlsafe_b64decode(cookie.encode("ascii") + b"=")) == _SECRET
    except (UnicodeEncodeError, binascii.Error):
        return False


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()


def _event(action: str, principal: Principal, session_id: uuid.UUID, request_id: str | None) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="session",
        object_id=str(session_id),
        controller_id=principal.controller_id,
        request_id=request_id,
    )
