"""What should have come: recordings told of whose audio is not here, and each hour of each source.

No personal data: digests, times, codes and counts only, so that a row may outlive what it stood for.
"""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class ExpectedRecording(Base):
    """A recording that was told of; closed (``received``) when its audio arrives."""

    __tablename__ = "expected_recordings"
    __table_args__ = (
        sa.UniqueConstraint("source_id", "identity"),
        sa.Index("ix_expected_recordings_open", "controller_id", "outcome", "started_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    identity: Mapped[bytes]  # keyed HMAC of (external id, leg), as recordings have it
    call_identity: Mapped[bytes]  # keyed HMAC of the sender's call id
    outcome: Mapped[str] = mapped_column(sa.String(20))  # ingest.adapters.base.SenderOutcome
    code: Mapped[str | None] = mapped_column(sa.String(40))  # the sender's own
    told_by: Mapped[str] = mapped_column(sa.String(20))  # sender, cdr
    started_at: Mapped[datetime]
    duration_ms: Mapped[int | None]
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"))


class SourceHour(Base):
    """One hour (UTC) of a source: how many recordings came of those that should have."""

    __tablename__ = "source_hours"
    __table_args__ = (
        sa.Index("ix_source_hours_listing", "controller_id", "hour"),
        sa.Index(
            "ix_source_hours_gaps",
            "source_id",
            "hour",
            sqlite_where=sa.text("gap"),
            postgresql_where=sa.text("gap"),
        ),
    )

    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    received: Mapped[int]
    missing: Mapped[int]  # told of by a CDR and not here
    expected: Mapped[int | None]  # None: nothing is known to compare with
    basis: Mapped[str | None] = mapped_column(sa.String(10))  # cdr, learned
    gap: Mapped[bool]
    opened_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]
