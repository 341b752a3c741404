"""Webhooks: where events go, and each message on its way."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from recorder.catalogue.base import Base, enum_column
from recorder.catalogue.enums import WebhookState


class WebhookEndpoint(Base):
    """A system of the controller's that is told of events. Address and secrets are sealed.

    ``position`` is the place in the audit log up to which events have become messages.
    """

    __tablename__ = "webhook_endpoints"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    controller_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("controllers.id"), index=True)
    sealed: Mapped[bytes]  # {url, secrets}, under the controller's subject
    host: Mapped[str] = mapped_column(sa.String(255))
    label: Mapped[str] = mapped_column(sa.String(64))
    events: Mapped[list[str]]  # event types; empty: all of them
    position: Mapped[int]
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None] = mapped_column(sa.String(40))
    previous_until: Mapped[datetime | None]  # until when the secret before the newest signs as well
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sa.String(120))
    removed_at: Mapped[datetime | None]


class WebhookMessage(Base):
    """One event for one endpoint. The payload has ids, codes and times only."""

    __tablename__ = "webhook_messages"
    __table_args__ = (
        sa.UniqueConstraint("endpoint_id", "entry_id"),
        sa.Index("ix_webhook_messages_due", "state", "not_before"),
        sa.Index("ix_webhook_messages_listing", "endpoint_id", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    endpoint_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("webhook_endpoints.id"))
    entry_id: Mapped[uuid.UUID]  # of the log's entry it tells of; random for a test message
    type: Mapped[str] = mapped_column(sa.String(60))
    payload: Mapped[dict[str, Any]]
    state: Mapped[WebhookState] = mapped_column(enum_column(WebhookState))
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(sa.String(40))
    created_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]
