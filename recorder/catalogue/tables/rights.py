"""The register of data subjects' requests: what was asked, decided, told to others, handed out."""

from __future__ import annotations

import uuid
from datetime import date, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import (
    IdentityMethod,
    IdentityOutcome,
    PackageState,
    RequestChannel,
    RequestStage,
)
from retention.model import RequestKind


class RightsRequest(Base):
    """One request of a person (GDPR art. 12 to 22), under a key of its own."""

    __tablename__ = "requests"
    __table_args__ = (
        sa.Index("ix_requests_listing", "controller_id", "filed_at", "id"),
        sa.Index("ix_requests_due", "stage", "deadline_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"), unique=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    kind: Mapped[RequestKind] = mapped_column(enum_column(RequestKind))
    channel: Mapped[RequestChannel] = mapped_column(enum_column(RequestChannel))
    stage: Mapped[RequestStage] = mapped_column(enum_column(RequestStage))
    language: Mapped[str] = mapped_column(sa.String(2))
    purposes: Mapped[list[str]]  # what an objection or a withdrawal speaks of; empty: all it can reach
    scoped: Mapped[bool]  # about the recordings in ``request_items`` only
    sealed: Mapped[bytes | None]
    filed_at: Mapped[datetime]  # receipt, which starts the clock
    registered_at: Mapped[datetime]
    registered_by: Mapped[str] = mapped_column(sa.String(120))
    last_day: Mapped[date] = mapped_column(sa.Date())  # on the controller's calendar
    deadline_at: Mapped[datetime]  # first instant after it
    extended_at: Mapped[datetime | None]
    extension_reason: Mapped[str | None] = mapped_column(sa.String(40))
    identity_method: Mapped[IdentityMethod | None] = mapped_column(enum_column(IdentityMethod))
    identity_outcome: Mapped[IdentityOutcome | None] = mapped_column(enum_column(IdentityOutcome))
    identity_at: Mapped[datetime | None]
    identity_by: Mapped[str | None] = mapped_column(sa.String(120))
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None] = mapped_column(sa.String(120))
    ground: Mapped[str | None] = mapped_column(sa.String(40))  # of a refusal as a whole
    mute_agent: Mapped[bool] = mapped_column(default=False)
    choice_id: Mapped[uuid.UUID | None]  # ledger entry or restriction that granting wrote
    completed_at: Mapped[datetime | None]
    undone_at: Mapped[datetime | None]
    undone_by: Mapped[str | None] = mapped_column(sa.String(120))
    undone_reason: Mapped[str | None] = mapped_column(sa.String(40))
    replied_at: Mapped[datetime | None]  # when the letter with the decision was sent
    replied_by: Mapped[str | None] = mapped_column(sa.String(120))
    reminded: Mapped[str | None] = mapped_column(sa.String(20))  # the last reminder: soon, urgent, overdue


class RequestItem(Base):
    """What was asked or decided for one recording."""

    __tablename__ = "request_items"

    request_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("requests.id"), primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("recordings.id"), primary_key=True, index=True
    )
    outcome: Mapped[str] = mapped_column(sa.String(20))  # pending, granted, refused
    ground: Mapped[str | None] = mapped_column(sa.String(40))
    review_on: Mapped[datetime | None]
    decided_at: Mapped[datetime | None]


class RequestNotice(Base):
    """One recipient who has to be told of a rectification, erasure or restriction (GDPR art. 19)."""

    __tablename__ = "request_notices"

    request_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("requests.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    recipient_id: Mapped[uuid.UUID]
    sealed: Mapped[bytes | None]
    created_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(sa.String(120))


class RequestPackage(Base):
    """A sealed ZIP of copies that answers an access or portability request."""

    __tablename__ = "request_packages"
    __table_args__ = (sa.Index("ix_request_packages_expiry", "state", "expires_at"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    request_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("requests.id"), index=True)
    state: Mapped[PackageState] = mapped_column(enum_column(PackageState))
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(sa.String(80))
    requested_by: Mapped[str] = mapped_column(sa.String(120))
    created_at: Mapped[datetime]
    built_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    # The sealed object, as ``objects`` has it for recordings; ``object_id`` is bound into its bytes.
    object_id: Mapped[uuid.UUID | None]
    key: Mapped[str | None] = mapped_column(sa.String(120), unique=True)
    version_id: Mapped[str | None] = mapped_column(sa.String(200))
    wrapped_key: Mapped[bytes | None]
    size: Mapped[int | None]
    sealed_size: Mapped[int | None]
    sha256: Mapped[bytes | None]
    header: Mapped[bytes | None]
    deleted_at: Mapped[datetime | None]


class PackageRecording(Base):
    """Which recordings a package holds copies of: it goes when one of them is erased."""

    __tablename__ = "request_package_recordings"

    package_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("request_packages.id"), primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("recordings.id"), primary_key=True, index=True
    )
