"""User names and the proof of a password, with the lock that repeated failures shut."""

from __future__ import annotations

import math
import re
import unicodedata
import uuid
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from recorder.access import passwords
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.locks import lock_values
from recorder.catalogue.subjects import blind_index
from recorder.catalogue.tables import Account, LoginFailure
from recorder.errors import FieldError, InvalidInput, Locked, Unauthenticated
from recorder.services import Services
from storage.keys import Keyring

WRONG: Final = "the user name or the password is wrong"
# Sign-in names no controller, so user names are indexed for the installation as a whole.
_INSTALLATION: Final = uuid.UUID(int=0)
_USERNAME: Final = re.compile(r"[\w.@+-]{2,100}")
_FORGET_FAILURES: Final = timedelta(days=1)


def fold_username(username: str) -> str:
    """The form in which user names are compared: NFKC, without case and outer blanks.

    Raises:
        InvalidInput: letters, digits and . _ @ + - only, 2 to 100 of them.
    """
    folded = unicodedata.normalize("NFKC", username.strip()).casefold()
    if _USERNAME.fullmatch(folded) is None:
        problem = "2 to 100 letters, digits or . _ @ + -"
        raise InvalidInput("the user name is not acceptable", fields=[FieldError("/username", problem)])
    return folded


def username_index(keyring: Keyring, folded: str) -> bytes:
    """The keyed hash by which an account is found."""
    return blind_index(keyring, _INSTALLATION, "username", folded)


async def prove(
    services: Services, index: bytes, account: Account | None, password: str, request_id: str | None
) -> None:
    """Check a password, counting the attempt before it is looked at.

    Counting first means that a hundred guesses sent at once are still at most ``lockout_failures``.

    Args:
        services: The service.
        index: Keyed hash of the folded user name, known or not.
        account: The account of that name, if there is one.
        password: As typed.
        request_id: Ties the audit entries to the service's logs; they name the account's id, never the name.

    Raises:
        Unauthenticated: the password is wrong, or there is no such living account.
        Locked: too many failures for this name.
        TooMany: too many sign-ins wait already; this one was not counted.
    """
    with passwords.TURNS.one():
        last = await _count_attempt(services, index)
        living = account is not None and account.disabled_at is None
        stored = account.password_hash if account is not None and living else None
        good = await passwords.verify(password, stored)
    if not good:
        reason = "password" if living else ("unknown" if account is None else "disabled")
        await _refused(services, account, reason, request_id, locks=last)
        raise Unauthenticated(WRONG)
    rehashed = await passwords.hash_password(password) if stored and passwords.needs_rehash(stored) else None
    async with services.database.transaction() as session:
        await session.execute(sa.delete(LoginFailure).where(LoginFailure.username_index == index))
        if rehashed is not None and account is not None:
            await session.execute(
                sa.update(Account)
                .where(Account.id == account.id, Account.password_hash == stored)
                .values(password_hash=rehashed)
            )


async def _count_attempt(services: Services, index: bytes) -> bool:
    """Count an attempt before it is looked at; return whether the name is locked should it fail.

    What comes while the name is locked is only read and refused, so that it fills neither disk nor log: the
    log has the attempt that locked.

    Raises:
        Locked: the name is locked.
    """
    now = services.clock.now()
    settings = services.settings
    quiet = timedelta(seconds=settings.lockout_seconds)
    async with services.database.snapshot() as session:
        _refuse_locked(await session.get(LoginFailure, index), now)
    async with services.database.transaction() as session:
        await lock_values(session, [index])
        await session.execute(sa.delete(LoginFailure).where(LoginFailure.last_at < now - _FORGET_FAILURES))
        row = await session.get(LoginFailure, index)
        _refuse_locked(row, now)
        if row is None:
            row = LoginFailure(username_index=index, failures=0, last_at=now, locked_until=None)
            session.add(row)
        if row.last_at + quiet <= now:
            row.failures = 0
        row.failures += 1
        row.last_at = now
        row.locked_until = now + quiet if row.failures >= settings.lockout_failures else None
        return row.locked_until is not None


def _refuse_locked(row: LoginFailure | None, now: datetime) -> None:
    if row is not None and row.locked_until is not None and row.locked_until > now:
        wait = max(1, math.ceil((row.locked_until - now).total_seconds()))
        raise Locked("too many failed sign-ins; wait and try again", retry_after=wait)


async def _refused(
    services: Services, account: Account | None, reason: str, request_id: str | None, *, locks: bool
) -> None:
    async with services.database.transaction() as session:
        event = AuditEvent(
            action="session.refused",
            actor="system:sign-in",
            object_type="account",
            object_id="unknown" if account is None else str(account.id),
            outcome="refused",
            controller_id=None if account is None else account.controller_id,
            request_id=request_id,
            details={"reason": reason, "locks": locks},
        )
        record(session, event, now=services.clock.now())
