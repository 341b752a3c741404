"""Moving to another object store: what has been copied there and verified."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class MovedObject(Base):
    """An object that lies in another store too, read back from there. The store is known by a digest."""

    __tablename__ = "moved_objects"

    target: Mapped[str] = mapped_column(
        sa.String(64), primary_key=True
    )  # SHA-256 of its address, hexadecimal
    key: Mapped[str] = mapped_column(sa.String(200), primary_key=True)
    version_id: Mapped[str | None] = mapped_column(sa.String(200))
    size: Mapped[int]  # bytes as they lie there
    verified_at: Mapped[datetime]
