"""Resumable uploads and the sealed pieces in which they wait for their end."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column


class UploadKind(StrEnum):
    """What an upload is to become."""

    WHOLE = "whole"
    PARTIAL = "partial"  # a part for a later concatenation
    FINAL = "final"  # the concatenation of parts


class UploadState(StrEnum):
    """Where an upload stands."""

    OPEN = "open"
    FINISHING = "finishing"  # every byte is here; it is not a recording yet
    DONE = "done"
    REFUSED = "refused"  # the pipeline said no, and always would
    ENDED = "ended"  # expired, terminated, erased, or used up by a concatenation


class ResumableUpload(Base):
    """One upload of one source. What it says of the call is in ``sealed``, under the upload's own subject.

    ``holder`` and ``lease_until`` say which request may change it; whoever writes names the holder, so that
    one whose lease was taken over cannot.
    """

    __tablename__ = "resumable_uploads"
    __table_args__ = (
        sa.Index("ix_resumable_uploads_state", "state", "expires_at"),
        sa.Index("ix_resumable_uploads_source", "source_id", "state"),
        sa.Index("ix_resumable_uploads_identity", "source_id", "identity"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    # NULL for one that came whole and was never kept unfinished.
    subject_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("subjects.id"), index=True)
    identity: Mapped[bytes | None]  # as recordings have it; None for a part, which is of nothing yet
    kind: Mapped[UploadKind] = mapped_column(enum_column(UploadKind))
    state: Mapped[UploadState] = mapped_column(enum_column(UploadState))
    length: Mapped[int | None]  # None while it is deferred
    received: Mapped[int]  # bytes that are durable
    parts: Mapped[list[str] | None]  # ids of a final upload's parts, in order
    sealed: Mapped[bytes | None]  # what is asked of the pipeline; NULL once it has ended
    holder: Mapped[str | None] = mapped_column(sa.String(120))
    lease_until: Mapped[datetime | None]
    recording_id: Mapped[uuid.UUID | None] = mapped_column(index=True)  # in the spool it has no row yet
    problem: Mapped[dict[str, Any] | None]  # why it was refused, how it ended, or what the spool took
    created_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class UploadPiece(Base):
    """A sealed piece of an upload.

    ``wrapped_key`` is NULL once its key is destroyed; the row goes with the object.
    """

    __tablename__ = "upload_pieces"
    __table_args__ = (sa.UniqueConstraint("upload_id", "position"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    upload_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("resumable_uploads.id"))
    position: Mapped[int]  # of its first byte
    key: Mapped[str] = mapped_column(sa.String(120), unique=True)
    version_id: Mapped[str | None] = mapped_column(sa.String(200))
    wrapped_key: Mapped[bytes | None]
    size: Mapped[int]
    sealed_size: Mapped[int]
    sha256: Mapped[bytes]
    header: Mapped[bytes | None]
    created_at: Mapped[datetime]
