"""Sending webhook messages: signed, retried for about three days, and kept as dead letters after that.

A message is claimed by moving its next attempt past the longest time that one attempt can take. A process
that dies while it sends therefore loses nothing; the receiver may see the message twice, under one
``webhook-id``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import WebhookState
from recorder.catalogue.tables import WebhookEndpoint, WebhookMessage
from recorder.errors import Erased
from recorder.outgoing import signing
from recorder.outgoing.client import FetchFailed, Guarded, is_private_address
from recorder.outgoing.endpoints import open_endpoint
from recorder.services import Services
from storage.errors import TamperedObject

log = logging.getLogger("recorder.webhooks")

# Waits after each failed attempt, as the Standard Webhooks specification recommends; then it is dead.
WAITS: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
_TIMEOUT: Final = 15.0
_CLAIM: Final = timedelta(seconds=60)
_AT_ONCE: Final = 8
_BATCH: Final = 64
_GONE: Final = 410  # the receiver says: never again
_KEEP_DELIVERED: Final = timedelta(days=7)
_KEEP_DEAD: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class _Order:
    """One attempt.

    Attributes:
        trusted: the endpoint was made on the host itself; others reach public addresses only.
    """

    message_id: uuid.UUID
    endpoint_id: uuid.UUID
    url: str
    secrets: tuple[str, ...]
    body: bytes
    attempt: int
    trusted: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """What an attempt came to: an HTTP status, or the kind of failure."""

    status: int | None
    error: str | None
    retry_after: timedelta | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


async def deliver_due(services: Services, *, chance: Callable[[], float]) -> int:
    """Send every message whose time has come.

    Args:
        services: Parts of the service.
        chance: Random numbers in [0, 1), which spread the next attempts of messages that failed together.

    Returns:
        How many attempts were made.
    """
    count = 0
    slots = asyncio.Semaphore(_AT_ONCE)
    async with _client(None) as anywhere, _client(Guarded()) as outside:

        async def one(order: _Order) -> None:
            async with slots:
                answer = await _send(anywhere if order.trusted else outside, order, services.clock.now())
            await _settle(services, order, answer, chance())

        while orders := await _claim(services):
            count += len(orders)
            async with asyncio.TaskGroup() as group:
                for order in orders:
                    group.create_task(one(order))
    return count


def _client(resolver: Guarded | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"User-Agent": "tallenne-webhooks"},
    )


async def _claim(services: Services) -> list[_Order]:
    now = services.clock.now()
    due = sa.and_(WebhookMessage.state == WebhookState.PENDING, WebhookMessage.not_before <= now)
    async with services.database.snapshot() as session:
        if not await session.scalar(sa.select(sa.exists().where(due))):
            return []
    orders: list[_Order] = []
    async with services.database.transaction() as session:
        query = (
            sa.select(WebhookMessage, WebhookEndpoint)
            .join(WebhookEndpoint, WebhookEndpoint.id == WebhookMessage.endpoint_id)
            .where(due, WebhookEndpoint.enabled)
            .order_by(WebhookMessage.not_before, WebhookMessage.id)
            .limit(_BATCH)
            .with_for_update(of=WebhookMessage, skip_locked=True)
        )
        for message, endpoint in (await session.execute(query)).all():
            try:
                opened = await open_endpoint(session, services, endpoint)
            except (TamperedObject, Erased):
                # One that cannot be opened must not hold up the others: a person has to make it anew.
                endpoint.enabled, endpoint.disabled_reason = False, "unreadable"
                log.error("a webhook's address cannot be unsealed", extra={"webhook": str(endpoint.id)})
                continue
            previous = endpoint.previous_until is not None and endpoint.previous_until > now
            message.attempts += 1
            message.not_before = now + _CLAIM
            orders.append(
                _Order(
                    message.id,
                    endpoint.id,
                    opened.url,
                    opened.secrets[: 2 if previous else 1],
                    json.dumps(message.payload, separators=(",", ":"), ensure_ascii=False).encode(),
                    message.attempts,
                    endpoint.created_by.startswith("os:"),
                )
            )
    return orders


async def _send(client: aiohttp.ClientSession, order: _Order, now: datetime) -> _Answer:
    headers = signing.headers(order.secrets, f"msg_{order.message_id.hex}", now, order.body)
    headers["Content-Type"] = "application/json"
    if not order.trusted and is_private_address(urlsplit(order.url).hostname or ""):
        return _Answer(None, "private-address")
    try:
        # Redirects are not followed: the address is the one that the operator allowed.
        async with client.post(order.url, data=order.body, headers=headers, allow_redirects=False) as answer:
            return _Answer(answer.status, None, _retry_after(answer.headers.get("Retry-After")))
    except FetchFailed:  # what the name resolves to now
        return _Answer(None, "private-address")
    except TimeoutError:
        return _Answer(None, "timeout")
    except aiohttp.ClientConnectorCertificateError:
        return _Answer(None, "certificate")
    except (aiohttp.ClientError, OSError, ValueError):
        return _Answer(None, "unreachable")


def _retry_after(value: str | None) -> timedelta | None:
    return timedelta(seconds=min(int(value), 86_400)) if value is not None and value.isdigit() else None


async def _settle(services: Services, order: _Order, answer: _Answer, chance: float) -> None:
    now = services.clock.now()
    services.metrics.webhooks.labels("delivered" if answer.ok else "failed").inc()
    async with services.database.transaction() as session:
        message = await session.get(WebhookMessage, order.message_id, with_for_update=True)
        if message is None or message.state is not WebhookState.PENDING:
            return  # a second process sent it as well, after this one's claim had run out
        message.last_status, message.last_error = answer.status, answer.error
        if answer.ok:
            message.state, message.settled_at = WebhookState.DELIVERED, now
            return
        endpoint = await session.get_one(WebhookEndpoint, order.endpoint_id)
        if answer.status == _GONE:
            endpoint.enabled, endpoint.disabled_reason = False, "gone"
        if answer.status == _GONE or order.attempt > len(WAITS):
            message.state, message.settled_at = WebhookState.DEAD, now
            event = AuditEvent(
                action="webhook.dead",
                actor="system:webhooks",
                object_type="webhook",
                object_id=str(endpoint.id),
                outcome="failed",
                controller_id=endpoint.controller_id,
                details={"message": str(message.id), "type": message.type, "status": answer.status},
            )
            record(session, event, now=now)
            log.warning("a webhook message is dead", extra={"webhook": str(endpoint.id)})
            return
        wait = WAITS[order.attempt - 1] * (1 + chance / 4)
        message.not_before = now + max(wait, answer.retry_after or wait)


async def forget_old(services: Services) -> int:
    """Delete delivered messages after a week, and dead ones after ninety days.

    Returns:
        How many were deleted.
    """
    now = services.clock.now()
    old = sa.or_(
        sa.and_(
            WebhookMessage.state == WebhookState.DELIVERED,
            WebhookMessage.settled_at < now - _KEEP_DELIVERED,
        ),
        sa.and_(WebhookMessage.state == WebhookState.DEAD, WebhookMessage.settled_at < now - _KEEP_DEAD),
    )
    async with services.database.transaction() as session:
        gone = await session.scalars(sa.delete(WebhookMessage).where(old).returning(WebhookMessage.id))
        return len(gone.all())


async def dead_letters(session: AsyncSession) -> int:
    """How many messages were given up and wait for a person."""
    query = sa.select(sa.func.count()).where(WebhookMessage.state == WebhookState.DEAD)
    return await session.scalar(query) or 0
