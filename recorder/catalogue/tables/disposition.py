"""Schedules, matters, holds, restrictions; erasures, certificates, tombstones."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import ErasureGround


class ScheduleVersion(Base):
    """One version of a controller's retention schedule; the document is stored for ever."""

    __tablename__ = "schedules"

    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sa.String(120))
    activated_at: Mapped[datetime | None]
    approval_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("approvals.id"))


class Matter(Base):
    """A dispute or an enquiry that holds recordings."""

    __tablename__ = "matters"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    reference: Mapped[str] = mapped_column(sa.String(64))  # the matter's number, for example 2026-014
    ground: Mapped[str] = mapped_column(sa.String(40))  # legal_claims, authority_request, legal_obligation
    sealed: Mapped[bytes | None]  # title, notes and custodians, under the controller's subject
    review_on: Mapped[datetime]
    reminded_at: Mapped[datetime | None]  # when the log said that the review is due
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]


class Hold(Base):
    """A legal hold of a matter on one recording, on all of a customer's, or on whatever matches a query."""

    __tablename__ = "holds"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    matter_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("matters.id"), index=True)
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    controller_id: Mapped[uuid.UUID | None] = mapped_column(index=True)  # where a query looks; else NULL
    query: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    placed_at: Mapped[datetime]
    placed_by: Mapped[str] = mapped_column(sa.String(120))
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None] = mapped_column(sa.String(120))


class Restriction(Base):
    """Restriction of processing (GDPR art. 18) of one recording or of a customer."""

    __tablename__ = "restrictions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    ground: Mapped[str] = mapped_column(sa.String(60))
    placed_at: Mapped[datetime]
    placed_by: Mapped[str] = mapped_column(sa.String(120))
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[str | None] = mapped_column(sa.String(120))


class Erasure(Base):
    """One erasure, step by step; ``step`` is the last step that is complete."""

    __tablename__ = "erasures"
    __table_args__ = (
        # One open erasure per target and scope: of two workers one opens it, the other finds it.
        sa.Index(
            "uq_erasures_open_recording",
            "recording_id",
            "scope",
            unique=True,
            sqlite_where=sa.text("finished_at IS NULL AND recording_id IS NOT NULL"),
            postgresql_where=sa.text("finished_at IS NULL AND recording_id IS NOT NULL"),
        ),
        sa.Index(
            "uq_erasures_open_customer",
            "customer_id",
            unique=True,
            sqlite_where=sa.text("finished_at IS NULL AND customer_id IS NOT NULL"),
            postgresql_where=sa.text("finished_at IS NULL AND customer_id IS NOT NULL"),
        ),
        sa.Index("ix_erasures_unfinished", "finished_at", "requested_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    scope: Mapped[str] = mapped_column(sa.String(20))  # recording, customer, original
    ground: Mapped[ErasureGround] = mapped_column(enum_column(ErasureGround))
    requested_by: Mapped[str] = mapped_column(sa.String(120))
    requested_at: Mapped[datetime]
    step: Mapped[str | None] = mapped_column(sa.String(40))
    detail: Mapped[dict[str, Any]]
    finished_at: Mapped[datetime | None]
    certificate_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("certificates.id"))


class ErasureItem(Base):
    """What became of one recording of an erasure: erased, or kept and why."""

    __tablename__ = "erasure_items"

    erasure_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("erasures.id"), primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("recordings.id"), primary_key=True, index=True
    )
    outcome: Mapped[str] = mapped_column(sa.String(20))
    detail: Mapped[dict[str, Any]]


class Certificate(Base):
    """A signed certificate of erasure; no personal data in it."""

    __tablename__ = "certificates"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    erasure_id: Mapped[uuid.UUID] = mapped_column(sa.Uuid(), index=True)
    document: Mapped[dict[str, Any]]
    signature: Mapped[str] = mapped_column(sa.Text)  # compact JWS over the JCS form of the document
    issued_at: Mapped[datetime]


class Tombstone(Base):
    """What is left of an erased call: a keyed hash that stops a late push from resurrecting it."""

    __tablename__ = "tombstones"

    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"), primary_key=True)
    identity: Mapped[bytes] = mapped_column(primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(index=True)
    certificate_id: Mapped[uuid.UUID | None]
    erased_at: Mapped[datetime]
