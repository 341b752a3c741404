"""Sources, calls, recordings, their sealed objects, links and listens."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import Direction, LawfulBasis, LinkRole, ObjectRole, RecordingState


class Source(Base):
    """A telephony system that pushes. Its credentials are rows of ``api_tokens``."""

    __tablename__ = "sources"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    kind: Mapped[str] = mapped_column(sa.String(40))
    default_lawful_basis: Mapped[LawfulBasis | None] = mapped_column(enum_column(LawfulBasis))
    default_media: Mapped[dict[str, Any] | None]  # {codec, sample_rate, channels} of headerless audio
    max_bytes: Mapped[int | None]
    settings: Mapped[dict[str, Any]]
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]


class Call(Base):
    """One call; groups the recordings that a telephony system made of it."""

    __tablename__ = "calls"
    __table_args__ = (sa.UniqueConstraint("source_id", "identity"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    identity: Mapped[bytes]  # keyed HMAC of the sender's call id
    started_at: Mapped[datetime]
    created_at: Mapped[datetime]


class CallLink(Base):
    """A call that came out of another one, which is named by its identity: it may come later, or never."""

    __tablename__ = "call_links"
    __table_args__ = (sa.Index("ix_call_links_other", "source_id", "other"),)

    call_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("calls.id"), primary_key=True)
    other: Mapped[bytes] = mapped_column(primary_key=True)  # keyed HMAC of the sender's id of the other call
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    created_at: Mapped[datetime]


class Recording(Base):
    """One recording. Personal metadata as pushed is in ``sealed``; what sorts and filters is plain."""

    __tablename__ = "recordings"
    __table_args__ = (
        sa.UniqueConstraint("source_id", "identity"),
        sa.Index("ix_recordings_listing", "controller_id", "started_at", "id"),
        sa.Index("ix_recordings_due", "controller_id", "erase_on"),
        sa.Index("ix_recordings_sweep", "controller_id", "sweep_on"),
        sa.Index(
            "ix_recordings_decided",  # finds what an older schedule decided, or none yet
            "controller_id",
            "schedule_version",
            sqlite_where=sa.text("erased_at IS NULL"),
            postgresql_where=sa.text("erased_at IS NULL"),
        ),
        sa.Index("ix_recordings_queue", "controller_id", "queue", "started_at"),
        sa.Index("ix_recordings_held", "id", sqlite_where=sa.text("held"), postgresql_where=sa.text("held")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"))
    call_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("calls.id"), index=True)
    part: Mapped[int | None]  # its place among the parts of the call, as the sender counts them
    # Keyed HMAC of (external id, leg). A conflicting delivery kept in quarantine gets a random one.
    identity: Mapped[bytes]
    conflict_of: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"))
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"), index=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)

    state: Mapped[RecordingState] = mapped_column(enum_column(RecordingState), index=True)
    reasons: Mapped[list[str]]  # stable codes: why quarantined, what was estimated or skewed
    held: Mapped[bool] = mapped_column(default=False)
    restricted: Mapped[bool] = mapped_column(default=False)

    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    received_at: Mapped[datetime]
    duration_ms: Mapped[int | None]
    direction: Mapped[Direction | None] = mapped_column(enum_column(Direction))
    queue: Mapped[str | None] = mapped_column(sa.String(100))
    agents: Mapped[list[str]]  # agent codes, in order of service
    tags: Mapped[list[str]]
    service_events: Mapped[list[str]]  # types only; their references are personal and sealed
    lawful_basis: Mapped[LawfulBasis] = mapped_column(enum_column(LawfulBasis))
    notice_version: Mapped[str | None] = mapped_column(sa.String(64))
    notice_offset_ms: Mapped[int | None]
    muted: Mapped[list[Any]]  # [{from_ms, to_ms, reason}]
    channels: Mapped[list[Any]]  # [{party: agent|customer|mixed|...}] by channel
    media: Mapped[dict[str, Any]]  # {container, codec, sample_rate, channels, content_type}
    sha256: Mapped[bytes]  # of the kept original's plaintext
    size: Mapped[int]
    sealed: Mapped[bytes | None]  # JSON of the personal metadata, under the subject's key
    card_data_removed: Mapped[bool] = mapped_column(default=False)
    received_sha256: Mapped[bytes | None]  # where card data was removed before keeping
    received_size: Mapped[int | None]

    decision: Mapped[dict[str, Any] | None]  # retention.model.Decision.to_json()
    schedule_version: Mapped[int | None]
    erase_on: Mapped[datetime | None]
    sweep_on: Mapped[datetime | None]  # when the sweep must look: erase_on, or sooner
    evaluated_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    certificate_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("certificates.id"))


class RecordingAgent(Base):
    """Which agent codes served a recording; one row each, so that scopes are an indexed join."""

    __tablename__ = "recording_agents"
    __table_args__ = (sa.Index("ix_recording_agents_code", "controller_id", "agent"),)

    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), primary_key=True)
    agent: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))


class RecordingTag(Base):
    """Controlled tags of a recording, one row each, for indexed filtering."""

    __tablename__ = "recording_tags"
    __table_args__ = (sa.Index("ix_recording_tags_tag", "tag"),)

    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(sa.String(64), primary_key=True)


class RecordingLink(Base):
    """A customer on a recording: principal (whose key wraps), reference, or candidate for a person."""

    __tablename__ = "recording_links"

    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), primary_key=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(
        sa.ForeignKey("customers.id"), primary_key=True, index=True
    )
    role: Mapped[LinkRole] = mapped_column(enum_column(LinkRole))
    matched_by: Mapped[str] = mapped_column(sa.String(20))  # number, phone, email, person
    confidence: Mapped[int | None]  # percent, when it was matched
    created_at: Mapped[datetime]


class StoredObjectRow(Base):
    """One sealed object in the store. ``wrapped_key`` is NULL once its key is destroyed."""

    __tablename__ = "objects"
    __table_args__ = (
        sa.Index(
            "ix_objects_held",
            "recording_id",
            sqlite_where=sa.text("held_in_store"),
            postgresql_where=sa.text("held_in_store"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    role: Mapped[ObjectRole] = mapped_column(enum_column(ObjectRole))
    key: Mapped[str] = mapped_column(sa.String(120), unique=True)
    version_id: Mapped[str | None] = mapped_column(sa.String(200))
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"), index=True)
    wrapped_key: Mapped[bytes | None]
    size: Mapped[int]  # plaintext bytes
    sealed_size: Mapped[int]
    sha256: Mapped[bytes]  # of the plaintext
    content_type: Mapped[str] = mapped_column(sa.String(100))
    held_in_store: Mapped[bool] = mapped_column(default=False)  # the store's own legal hold, as last set
    header: Mapped[bytes | None]  # the sealed object's public first 40 bytes; spares each seek a request
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A sender's Idempotency-Key, hashed: in flight, or settled on a recording."""

    __tablename__ = "idempotency_keys"

    source_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("sources.id"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    payload: Mapped[bytes | None]  # digest of metadata and audio, once known
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class ListeningLink(Base):
    """A short-lived, revocable permission to hear one recording for one purpose."""

    __tablename__ = "listening_links"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    purpose: Mapped[str] = mapped_column(sa.String(40))
    rendition: Mapped[str] = mapped_column(sa.String(20))
    created_by: Mapped[str] = mapped_column(sa.String(120))  # actor: a person's account or an API client
    recipient_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("accounts.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Listen(Base):
    """One listen: person, recording, purpose. Opened in the log before the first byte."""

    __tablename__ = "listens"
    __table_args__ = (sa.Index("ix_listens_open", "closed_at", "last_active_at"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    recording_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    object_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("objects.id"))
    actor: Mapped[str] = mapped_column(sa.String(120), index=True)
    purpose: Mapped[str] = mapped_column(sa.String(40))
    rendition: Mapped[str] = mapped_column(sa.String(20))
    link_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("listening_links.id"))
    opened_at: Mapped[datetime]
    last_active_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    bytes_sent: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float] = mapped_column(default=0.0)
