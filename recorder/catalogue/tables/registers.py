"""Registers of those who get data, of what they were given, and of breaches."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import BreachState, RecipientKind


class RegisteredRecipient(Base):
    """A processor or another recipient (GDPR art. 4(9), 28). A person's name is sealed, a company's not."""

    __tablename__ = "recipients"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    kind: Mapped[RecipientKind] = mapped_column(enum_column(RecipientKind))
    name: Mapped[str | None] = mapped_column(sa.String(200))  # of an organisation
    sealed: Mapped[bytes | None]  # {name} of a person, under the controller's subject
    purpose: Mapped[str] = mapped_column(sa.String(200))
    country: Mapped[str] = mapped_column(sa.String(2))  # ISO 3166-1 alpha-2
    contract_reference: Mapped[str | None] = mapped_column(sa.String(64))
    contract_expires_at: Mapped[datetime | None]
    safeguard: Mapped[str | None] = mapped_column(sa.String(40))
    safeguard_expires_at: Mapped[datetime | None]
    registered_at: Mapped[datetime]
    registered_by: Mapped[str] = mapped_column(sa.String(120))
    ended_at: Mapped[datetime | None]


class Disclosure(Base):
    """Recordings that were given to a recipient, on which ground, approved by whom."""

    __tablename__ = "disclosures"
    __table_args__ = (sa.Index("ix_disclosures_listing", "controller_id", "disclosed_at", "id"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    recipient_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recipients.id"), index=True)
    ground: Mapped[str] = mapped_column(sa.String(40))
    reference: Mapped[str] = mapped_column(sa.String(64))  # the order's or request's number
    approval_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("approvals.id"), unique=True)
    disclosed_at: Mapped[datetime]
    disclosed_by: Mapped[str] = mapped_column(sa.String(120))


class DisclosureRecording(Base):
    """Which recordings a disclosure was of; kept after their erasure, which leaves their ids only."""

    __tablename__ = "disclosure_recordings"

    disclosure_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("disclosures.id"), primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("recordings.id"), primary_key=True, index=True
    )


class Breach(Base):
    """A personal data breach (GDPR art. 33(5)); what happened may name persons and is sealed."""

    __tablename__ = "breaches"
    __table_args__ = (sa.Index("ix_breaches_due", "controller_id", "state", "due_at"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    state: Mapped[BreachState] = mapped_column(enum_column(BreachState))
    sealed: Mapped[bytes]  # {facts, effects, measures, delay, reason}, under the controller's subject
    aware_at: Mapped[datetime]  # starts the clock
    due_at: Mapped[datetime]
    seen_from: Mapped[datetime]  # when data lay open
    seen_until: Mapped[datetime]
    actor: Mapped[str | None] = mapped_column(sa.String(120))  # whose access was misused, if one's
    opened_at: Mapped[datetime]
    opened_by: Mapped[str] = mapped_column(sa.String(120))
    notified_at: Mapped[datetime | None]  # the authority
    notified_by: Mapped[str | None] = mapped_column(sa.String(120))
    notification_reference: Mapped[str | None] = mapped_column(sa.String(64))
    persons_told_at: Mapped[datetime | None]  # GDPR art. 34
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None] = mapped_column(sa.String(120))
    reminded: Mapped[str | None] = mapped_column(sa.String(20))  # the last reminder: soon, urgent, overdue


class BreachRecording(Base):
    """A recording that a breach is about, where it is about some only."""

    __tablename__ = "breach_recordings"

    breach_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("breaches.id"), primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("recordings.id"), primary_key=True, index=True
    )
