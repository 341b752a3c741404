"""The transparency log: entries, tree nodes, checkpoints."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base


class AuditEntry(Base):
    """One entry. ``payload`` (JCS, RFC 8785) is what is hashed; the other columns repeat it for queries.

    ``index`` is NULL until the log's leader sequences the entry, about a second after it was written.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        sa.Index("ix_audit_entries_object", "object_id", "at"),
        sa.Index(
            "ix_audit_entries_unsequenced",
            "at",
            sqlite_where=sa.text('"index" IS NULL'),
            postgresql_where=sa.text('"index" IS NULL'),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    index: Mapped[int | None] = mapped_column(unique=True)
    payload: Mapped[bytes]
    controller_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(sa.String(120), index=True)
    action: Mapped[str] = mapped_column(sa.String(60))
    object_type: Mapped[str] = mapped_column(sa.String(40))
    object_id: Mapped[str] = mapped_column(sa.String(64))
    outcome: Mapped[str] = mapped_column(sa.String(40))


class AuditNode(Base):
    """The hash of a complete subtree (RFC 6962): ``level`` 0 is a leaf."""

    __tablename__ = "audit_nodes"

    level: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[bytes]


class AuditCheckpoint(Base):
    """A signed tree head, as a C2SP signed note."""

    __tablename__ = "audit_checkpoints"

    size: Mapped[int] = mapped_column(primary_key=True)
    root: Mapped[bytes]
    note: Mapped[str] = mapped_column(sa.Text)
    signed_at: Mapped[datetime]
    copied_at: Mapped[datetime | None]  # when the object store got its copy
