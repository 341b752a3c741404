"""What became of recordings that were acknowledged from a spool, and what spools hold. No personal data."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class SpooledReceipt(Base):
    """An id that a sender was given with a 202, and that no recording bears in the end.

    Whatever drained into a recording of its own needs no row: its id is the recording's.
    """

    __tablename__ = "spooled_receipts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    outcome: Mapped[str] = mapped_column(sa.String(20))  # repeated, conflict, erased
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"))
    certificate_id: Mapped[uuid.UUID | None]
    received_at: Mapped[datetime]
    drained_at: Mapped[datetime]


class SpoolState(Base):
    """What one host's spool held when it last told: a key epoch that it needs is not destroyed."""

    __tablename__ = "spool_states"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)  # random, kept in the spool's directory
    items: Mapped[int]
    size: Mapped[int]
    oldest_at: Mapped[datetime | None]
    damaged: Mapped[int]
    epochs: Mapped[dict[str, Any]]  # controller id -> {epoch: deliveries}
    told_at: Mapped[datetime]
