"""Background work: enqueued in the transaction that makes it necessary."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import JobState


class Job(Base):
    """One piece of work with a lease; correctness comes from the work being idempotent."""

    __tablename__ = "jobs"
    __table_args__ = (sa.Index("ix_jobs_ready", "state", "not_before"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(40))
    target_id: Mapped[uuid.UUID] = mapped_column(index=True)
    payload: Mapped[dict[str, Any]]
    state: Mapped[JobState] = mapped_column(enum_column(JobState))
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    lease_until: Mapped[datetime | None]
    leased_by: Mapped[str | None] = mapped_column(sa.String(80))
    error: Mapped[str | None] = mapped_column(sa.String(200))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
