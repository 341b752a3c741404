"""People's accounts, role grants, sessions, machine tokens, approvals."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import ApprovalState, Role, ScopeKind


class Account(Base):
    """One person's account; no shared ones. The user name and display name are sealed."""

    __tablename__ = "accounts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"))
    username_index: Mapped[bytes] = mapped_column(unique=True)  # keyed HMAC of the folded user name
    sealed: Mapped[bytes]  # JSON {username, name}
    password_hash: Mapped[str] = mapped_column(sa.String(255))  # Argon2id, PHC string
    agent_code: Mapped[str | None] = mapped_column(sa.String(64))
    language: Mapped[str] = mapped_column(sa.String(8), default="en")
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class RoleGrant(Base):
    """A role of an account at a controller, as narrow as its scope."""

    __tablename__ = "role_grants"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    account_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("accounts.id"), index=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    role: Mapped[Role] = mapped_column(enum_column(Role))
    scope: Mapped[ScopeKind] = mapped_column(enum_column(ScopeKind))
    values: Mapped[list[str]]  # agent codes of a team, or queues; empty for own and controller
    granted_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class WebSession(Base):
    """A signed-in browser. The cookie's value is stored only as a hash."""

    __tablename__ = "web_sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    csrf: Mapped[str] = mapped_column(sa.String(64))
    account_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("accounts.id"), index=True)
    created_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class ApiToken(Base):
    """A machine's bearer token: hashed, scoped, expiring, revocable.

    Belongs either to a source (role telephony: pushes, reads nothing but its own receipts) or is
    an API client with one role. Several live tokens of one source let it rotate with overlap.
    """

    __tablename__ = "api_tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    secret_hash: Mapped[bytes]
    label: Mapped[str] = mapped_column(sa.String(100))
    role: Mapped[Role] = mapped_column(enum_column(Role))
    source_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("sources.id"), index=True)
    # The person who answers for it: when they leave, it dies with their account.
    owner_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("accounts.id"), index=True)
    # Who made it, as the log names them: they saw the secret, so they count as its holder as well.
    issued_by: Mapped[str | None] = mapped_column(sa.String(120))
    scope: Mapped[ScopeKind] = mapped_column(enum_column(ScopeKind))
    values: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class LoginFailure(Base):
    """Failed sign-ins of one user name, known or not, so that guessing tells nothing."""

    __tablename__ = "login_failures"

    username_index: Mapped[bytes] = mapped_column(primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]


class Approval(Base):
    """A step that needs a second person: asked for by one account, decided by another."""

    __tablename__ = "approvals"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    action: Mapped[str] = mapped_column(sa.String(60))
    target: Mapped[str] = mapped_column(sa.String(120))  # random ids only
    details: Mapped[dict[str, Any]]
    state: Mapped[ApprovalState] = mapped_column(enum_column(ApprovalState))
    requested_by: Mapped[str] = mapped_column(sa.String(120))
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    decided_by: Mapped[str | None] = mapped_column(sa.String(120))
    decided_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
