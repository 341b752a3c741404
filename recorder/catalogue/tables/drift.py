"""Where store and catalogue differ: findings for a person, and how far the scrub has come."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class Finding(Base):
    """Something that drifted. One row per kind and key; seen again, it stays the same one."""

    __tablename__ = "findings"
    __table_args__ = (
        sa.UniqueConstraint("kind", "key"),
        sa.Index("ix_findings_state", "state", "first_seen_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(
        sa.String(40)
    )  # missing, resized, tampered, unreadable, extra_version, ...
    key: Mapped[str] = mapped_column(sa.String(200))  # the object's key in the store: random
    object_id: Mapped[uuid.UUID | None]
    recording_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    controller_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(sa.String(20))  # open, repaired, resolved
    detail: Mapped[dict[str, Any]]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None] = mapped_column(sa.String(120))
    resolution: Mapped[str | None] = mapped_column(sa.String(40))


class ScrubCursor(Base):
    """How far the present round of re-reading has come; one row."""

    __tablename__ = "scrub_cursors"

    name: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    after: Mapped[uuid.UUID]  # the last object that was read
    round_started_at: Mapped[datetime]
    night: Mapped[str | None] = mapped_column(sa.String(10))  # local date of the share that is being read
    done: Mapped[int] = mapped_column(default=0)  # objects read of that share
    goal: Mapped[int] = mapped_column(default=0)
    rounds: Mapped[int] = mapped_column(default=0)  # complete rounds
