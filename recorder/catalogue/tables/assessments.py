"""What listeners for quality thought of a call, and the sums that are left when a call has gone."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class Assessment(Base):
    """Points that one person gave one agent's part of one call; lives no longer than the recording."""

    __tablename__ = "assessments"
    __table_args__ = (sa.Index("ix_assessments_agent", "controller_id", "agent"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    assessor: Mapped[str] = mapped_column(sa.String(120), index=True)  # actor
    agent: Mapped[str] = mapped_column(sa.String(64))  # code, as the call had it
    form: Mapped[str] = mapped_column(sa.String(64))  # which questions were asked, for example greeting-2
    points: Mapped[int]
    out_of: Mapped[int]
    given_at: Mapped[datetime]


class AssessmentTotal(Base):
    """Sums of assessments that have gone: by month, queue and form, without call, agent or assessor."""

    __tablename__ = "assessment_totals"
    __table_args__ = (sa.Index("ix_assessment_totals_month", "controller_id", "month"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    month: Mapped[str] = mapped_column(sa.String(7))  # YYYY-MM in which they were given, UTC
    queue: Mapped[str | None] = mapped_column(sa.String(100))
    form: Mapped[str] = mapped_column(sa.String(64))
    count: Mapped[int]
    points: Mapped[int]
    out_of: Mapped[int]
