"""Audio that is still at its sender: orders to fetch it, and the secrets that open a sender's doors."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column


class FetchState(StrEnum):
    """Where an order to fetch stands."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


class SourceSecret(Base):
    """A named secret of a source, sealed under the controller's subject key; written, never read back."""

    __tablename__ = "source_secrets"
    __table_args__ = (sa.UniqueConstraint("source_id", "name"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    name: Mapped[str] = mapped_column(sa.String(100))
    sealed: Mapped[bytes]  # {"value": text}
    changed_at: Mapped[datetime]


class Fetch(Base):
    """An order to fetch one recording. What it was about is forgotten as soon as it is settled."""

    __tablename__ = "fetches"
    __table_args__ = (
        sa.UniqueConstraint("source_id", "identity"),
        sa.Index("ix_fetches_due", "state", "due_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    identity: Mapped[bytes]  # keyed HMAC of (external id, leg), as recordings have it
    sealed: Mapped[bytes | None]  # address, headers, request and encryption; None once settled
    state: Mapped[FetchState] = mapped_column(enum_column(FetchState))
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None] = mapped_column(sa.String(60))  # code of the last failure
    request_id: Mapped[str] = mapped_column(sa.String(64))
    created_at: Mapped[datetime]
    due_at: Mapped[datetime]
    give_up_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
    recording_id: Mapped[uuid.UUID | None]  # no foreign key: a fact of the past, which outlives the row
