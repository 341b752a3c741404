"""Webhook endpoints: made, changed, listed and tested by the operator; their dead letters and replay."""

from __future__ import annotations

import ipaddress
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import WebhookState
from recorder.catalogue.sealed_fields import WEBHOOK_ENDPOINT
from recorder.catalogue.subjects import open_json, seal_json
from recorder.catalogue.tables import WebhookEndpoint, WebhookMessage
from recorder.errors import Conflict, FieldError, InvalidInput, NotFound
from recorder.outgoing import signing
from recorder.outgoing.client import is_private_address
from recorder.outgoing.events import EVENT_TYPES
from recorder.outgoing.following import new_message, newest_index
from recorder.registers.sealing import controller_subject
from recorder.services import Services

MOST_ENDPOINTS: Final = 20
"""Of one controller; each of them reads the log by itself."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What is sealed of an endpoint; the newest secret first."""

    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as the operator sees it: its host, never the whole address, which may hold a secret.

    Attributes:
        waiting: messages on their way.
        dead: messages that were given up and can be replayed.
    """

    row: WebhookEndpoint
    waiting: int
    dead: int


async def open_endpoint(session: AsyncSession, services: Services, row: WebhookEndpoint) -> Opened:
    """Unseal an endpoint's address and secrets.

    Raises:
        storage.errors.TamperedObject: they are not what was sealed.
    """
    subject = await controller_subject(session, row.controller_id)
    said = open_json(services.keyring, subject, WEBHOOK_ENDPOINT, row.id, row.sealed)
    return Opened(said["url"], tuple(said["secrets"]))


async def create_endpoint(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    url: str,
    label: str,
    events: Sequence[str] = (),
    randomness: Callable[[int], bytes] = os.urandom,
    request_id: str | None = None,
) -> tuple[WebhookEndpoint, str]:
    """Add an endpoint; it is told of what happens from now on.

    Returns:
        The endpoint, and its secret: shown this once.

    Raises:
        Forbidden: the caller does not manage sources and webhooks.
        InvalidInput: the address or an event type is not usable.
        Conflict: there are too many.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    host = checked_host(url, private=principal.kind == "os")
    _check_events(events)
    secret = signing.new_secret(randomness)
    now = services.clock.now()
    endpoint_id = uuid.uuid4()
    async with services.database.transaction() as session:
        subject = await controller_subject(session, controller_id)
        count = await session.scalar(
            sa.select(sa.func.count())
            .select_from(WebhookEndpoint)
            .where(WebhookEndpoint.controller_id == controller_id, WebhookEndpoint.removed_at.is_(None))
        )
        if (count or 0) >= MOST_ENDPOINTS:
            raise Conflict(f"there are {MOST_ENDPOINTS} webhooks already; remove one")
        said = {"url": url, "secrets": [secret]}
        row = WebhookEndpoint(
            id=endpoint_id,
            controller_id=controller_id,
            sealed=seal_json(services.keyring, subject, WEBHOOK_ENDPOINT, endpoint_id, said),
            host=host,
            label=label,
            events=sorted(set(events)),
            position=await newest_index(session),
            enabled=True,
            disabled_reason=None,
            previous_until=None,
            created_at=now,
            created_by=principal.actor,
            removed_at=None,
        )
        session.add(row)
        _audit(session, "webhook.created", row, principal, now, request_id, host=host)
    return row, secret


async def change_endpoint(
    services: Services,
    principal: Principal,
    endpoint_id: uuid.UUID,
    *,
    events: Sequence[str] | None = None,
    enabled: bool | None = None,
    request_id: str | None = None,
) -> WebhookEndpoint:
    """Change what an endpoint is told of, or switch it off or on; off, it misses nothing: it catches up.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
        InvalidInput: an event type is unknown.
    """
    await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    _check_events(events or ())
    async with services.database.transaction() as session:
        row = await session.get_one(WebhookEndpoint, endpoint_id, with_for_update=True)
        if events is not None:
            row.events = sorted(set(events))
        if enabled is not None:
            row.enabled, row.disabled_reason = enabled, None if enabled else "operator"
        now = services.clock.now()
        _audit(session, "webhook.changed", row, principal, now, request_id, enabled=row.enabled)
    return row


async def remove_endpoint(
    services: Services, principal: Principal, endpoint_id: uuid.UUID, *, request_id: str | None = None
) -> None:
    """Remove an endpoint, its address and secrets; what was on its way to it is dropped.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
    """
    await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    async with services.database.transaction() as session:
        row = await session.get_one(WebhookEndpoint, endpoint_id, with_for_update=True)
        now = services.clock.now()
        row.enabled, row.disabled_reason, row.removed_at, row.sealed = False, "removed", now, b""
        await session.execute(sa.delete(WebhookMessage).where(WebhookMessage.endpoint_id == row.id))
        _audit(session, "webhook.removed", row, principal, now, request_id)


async def rotate_secret(
    services: Services,
    principal: Principal,
    endpoint_id: uuid.UUID,
    *,
    overlap: timedelta,
    randomness: Callable[[int], bytes] = os.urandom,
    request_id: str | None = None,
) -> str:
    """Give an endpoint its next secret; until the overlap ends, messages carry both signatures.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
    """
    await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    secret = signing.new_secret(randomness)
    async with services.database.transaction() as session:
        row = await session.get_one(WebhookEndpoint, endpoint_id, with_for_update=True)
        opened = await open_endpoint(session, services, row)
        subject = await controller_subject(session, row.controller_id)
        said = {"url": opened.url, "secrets": [secret, *opened.secrets[:1]]}
        row.sealed = seal_json(services.keyring, subject, WEBHOOK_ENDPOINT, row.id, said)
        now = services.clock.now()
        row.previous_until = now + overlap
        _audit(session, "webhook.secret_rotated", row, principal, now, request_id)
    return secret


async def send_test(
    services: Services, principal: Principal, endpoint_id: uuid.UUID, *, request_id: str | None = None
) -> uuid.UUID:
    """Send a ``webhook.test`` message, whatever the endpoint asked for.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
    """
    row = await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    now = services.clock.now()
    payload = {
        "type": "webhook.test",
        "timestamp": now.isoformat(timespec="microseconds"),
        "data": {"controller": str(row.controller_id), "webhook": str(row.id), "request_id": request_id},
    }
    message = new_message(services, row.id, "webhook.test", payload)
    async with services.database.transaction() as session:
        session.add(message)
        _audit(session, "webhook.tested", row, principal, now, request_id, message=str(message.id))
    return message.id


async def list_endpoints(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str | None = None
) -> list[EndpointView]:
    """A controller's endpoints by label, with how many messages wait and how many are dead.

    Raises:
        Forbidden: the caller does not manage sources and webhooks.
    """
    await permit(
        services, principal, Action.MANAGE_SOURCES, controller_id=controller_id, request_id=request_id
    )
    query = (
        sa.select(
            WebhookEndpoint,
            sa.func.count().filter(WebhookMessage.state == WebhookState.PENDING),
            sa.func.count().filter(WebhookMessage.state == WebhookState.DEAD),
        )
        .outerjoin(WebhookMessage, WebhookMessage.endpoint_id == WebhookEndpoint.id)
        .where(WebhookEndpoint.controller_id == controller_id, WebhookEndpoint.removed_at.is_(None))
        .group_by(WebhookEndpoint.id)
        .order_by(WebhookEndpoint.label, WebhookEndpoint.id)
    )
    async with services.database.snapshot() as session:
        return [EndpointView(*row) for row in (await session.execute(query)).all()]


async def find_endpoint(
    services: Services, principal: Principal, endpoint_id: uuid.UUID, *, request_id: str | None = None
) -> WebhookEndpoint:
    """One endpoint.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
    """
    async with services.database.snapshot() as session:
        row = await session.get(WebhookEndpoint, endpoint_id)
    if row is None or row.removed_at is not None:
        raise NotFound("there is no such webhook")
    await permit(
        services,
        principal,
        Action.MANAGE_SOURCES,
        controller_id=row.controller_id,
        object_type="webhook",
        object_id=str(endpoint_id),
        request_id=request_id,
    )
    return row


async def list_messages(
    services: Services,
    principal: Principal,
    endpoint_id: uuid.UUID,
    *,
    state: WebhookState | None,
    limit: int,
    request_id: str | None = None,
) -> Sequence[WebhookMessage]:
    """An endpoint's messages, the newest first.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is none of this id.
    """
    await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    query = sa.select(WebhookMessage).where(WebhookMessage.endpoint_id == endpoint_id)
    if state is not None:
        query = query.where(WebhookMessage.state == state)
    query = query.order_by(WebhookMessage.created_at.desc(), WebhookMessage.id).limit(limit)
    async with services.database.snapshot() as session:
        return (await session.scalars(query)).all()


async def replay(
    services: Services,
    principal: Principal,
    endpoint_id: uuid.UUID,
    *,
    message_id: uuid.UUID | None = None,
    request_id: str | None = None,
) -> int:
    """Send dead messages again: one, or all of an endpoint's. A message keeps its ``webhook-id``.

    Returns:
        How many are on their way again.

    Raises:
        Forbidden: the caller does not manage it.
        NotFound: there is no such endpoint, or no such dead message.
    """
    await find_endpoint(services, principal, endpoint_id, request_id=request_id)
    now = services.clock.now()
    which = sa.and_(WebhookMessage.endpoint_id == endpoint_id, WebhookMessage.state == WebhookState.DEAD)
    if message_id is not None:
        which = sa.and_(which, WebhookMessage.id == message_id)
    async with services.database.transaction() as session:
        row = await session.get_one(WebhookEndpoint, endpoint_id, with_for_update=True)
        again = await session.scalars(
            sa.update(WebhookMessage)
            .where(which)
            .values(state=WebhookState.PENDING, attempts=0, not_before=now, settled_at=None)
            .returning(WebhookMessage.id)
        )
        count = len(again.all())
        if message_id is not None and count == 0:
            raise NotFound("there is no such dead message")
        _audit(session, "webhook.replayed", row, principal, now, request_id, messages=count)
    return count


def checked_host(url: str, *, private: bool) -> str:
    """The host of an address that messages may go to.

    What a name resolves to is looked at when a message is sent, by then it may be another address.

    Args:
        private: whoever asks has a shell on this machine, and may name it or its network.

    Raises:
        InvalidInput: it is not https, except on this very machine; it carries a user name; or it is none that
            the caller may have messages sent to.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        host, parts = None, None
    if parts is None or not host or len(url) > 2000 or parts.username is not None or parts.fragment:
        problem = "give https://host[:port]/path, without a user name or a fragment"
    elif not private and (_loopback(host) or is_private_address(host)):
        problem = "is on a private network: whoever runs the service adds it, with recorder webhook add"
    elif parts.scheme == "https" or (parts.scheme == "http" and _loopback(host)):
        return host.lower()[:255]
    else:
        problem = "give an https address; http is for this machine's own (127.0.0.1, localhost)"
    raise InvalidInput(f"/url: {problem}", fields=[FieldError("/url", problem)])


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_events(events: Sequence[str]) -> None:
    unknown = sorted(set(events) - set(EVENT_TYPES))
    if unknown:
        told = f"unknown event type; known are {', '.join(EVENT_TYPES)}"
        raise InvalidInput(f"/events: {told}", fields=[FieldError("/events", told)])


def _audit(
    session: AsyncSession,
    action: str,
    row: WebhookEndpoint,
    principal: Principal,
    now: datetime,
    request_id: str | None,
    **details: Detail,
) -> None:
    event = AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="webhook",
        object_id=str(row.id),
        controller_id=row.controller_id,
        request_id=request_id,
        details=details,
    )
    record(session, event, now=now)
