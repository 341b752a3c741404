"""Controllers, data subjects and their keys, customers, contacts, choices, blind indexes."""

from __future__ import annotations

import uuid
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import ChoiceKind, ContactKind, DataSource, SubjectKind


class Controller(Base):
    """A group company that answers for its recordings (GDPR art. 4(7))."""

    __tablename__ = "controllers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(64), unique=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    country: Mapped[str] = mapped_column(sa.String(2))
    time_zone: Mapped[str] = mapped_column(sa.String(64))
    authority: Mapped[str] = mapped_column(sa.String(200))
    # Month and day on which its financial years end; accounting statutes count from there.
    financial_year_end: Mapped[str] = mapped_column(sa.String(5), default="12-31")
    # Seals what belongs to the controller rather than to one person (staff names, source settings).
    subject_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("subjects.id", use_alter=True))
    created_at: Mapped[datetime]


class Subject(Base):
    """One person's key: wraps the data keys and seals the personal fields of that person.

    ``wrapped_key`` becomes NULL when the key is destroyed; the row stays as proof.
    ``rekey_needed`` is set when a single recording or link of a living subject was erased: at the
    next rotation the subject gets a *new* key, because the old one in an old backup would still
    open the erased object's key.
    """

    __tablename__ = "subjects"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    kind: Mapped[SubjectKind] = mapped_column(enum_column(SubjectKind))
    wrapped_key: Mapped[bytes | None]
    epoch: Mapped[int]
    rekey_needed: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    destroyed_at: Mapped[datetime | None]


class Customer(Base):
    """A customer record. Everything personal is in ``sealed`` (JSON under the subject's key)."""

    __tablename__ = "customers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"), unique=True)
    sealed: Mapped[bytes | None]
    last_contact_at: Mapped[datetime | None]
    relationship_ended_at: Mapped[datetime | None]
    relationship_end_confirmed_at: Mapped[datetime | None]
    financial_year_end: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    erased_at: Mapped[datetime | None]


class SharedLine(Base):
    """A telephone line that many people call from, such as a switchboard: it tells nobody's name."""

    __tablename__ = "shared_lines"

    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)  # blind index of the number, as of phones
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sa.String(120))


class CustomerBatch(Base):
    """One delivery of customer data: where it came from and when it was stored. Immutable."""

    __tablename__ = "customer_batches"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    source: Mapped[DataSource] = mapped_column(enum_column(DataSource))
    sealed: Mapped[bytes | None]  # source_ref and the fields as delivered
    stored_at: Mapped[datetime]


class Contact(Base):
    """A contact with a customer; those that count move the retention trigger."""

    __tablename__ = "contacts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    kind: Mapped[ContactKind] = mapped_column(enum_column(ContactKind))
    at: Mapped[datetime]
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
    sealed: Mapped[bytes | None]
    recorded_at: Mapped[datetime]


class Choice(Base):
    """One entry of the append-only choices ledger; read at every playback."""

    __tablename__ = "choices"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    customer_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    kind: Mapped[ChoiceKind] = mapped_column(enum_column(ChoiceKind))
    purposes: Mapped[list[str]]
    channel: Mapped[str | None] = mapped_column(sa.String(40))
    effective_at: Mapped[datetime]
    source: Mapped[str] = mapped_column(sa.String(40))
    recorded_at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(sa.String(120))


class BlindIndex(Base):
    """Keyed HMAC of something personal, for exact look-up without readable values.

    ``kind``: number, phone, email, name (one whole token), external_id, file_name.
    ``owner``: the subject the value belongs to, and the recording where it came with one.
    """

    __tablename__ = "blind_indexes"
    __table_args__ = (sa.Index("ix_blind_lookup", "controller_id", "kind", "digest"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"))
    kind: Mapped[str] = mapped_column(sa.String(20))
    digest: Mapped[bytes]
    subject_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("subjects.id"), index=True)
    customer_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("customers.id"), index=True)
    recording_id: Mapped[uuid.UUID | None] = mapped_column(sa.ForeignKey("recordings.id"), index=True)
