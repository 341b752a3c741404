"""Health, readiness, metrics, the API's own description."""

from __future__ import annotations

import asyncio
import contextlib
import html
import logging
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

import prometheus_client
from aiohttp import web
from pydantic import BaseModel, Field

from recorder.access import policy
from recorder.api.framework import ApiCall, Route, json_response
from recorder.errors import Forbidden, RecorderError
from recorder.services import Services
from storage.errors import StorageError

log = logging.getLogger("recorder.health")
OPENAPI: web.AppKey[dict[str, object]] = web.AppKey("openapi", dict)
_CHECK_SECONDS = 5.0
_VERSION = metadata.version("tallenne")  # read from disk, so once


@dataclass(slots=True)
class Draining:
    """How the service stops: readiness fails first, new work is refused, what runs comes to its end.

    Attributes:
        on: the service is stopping.
        active: requests being answered now, those about health apart.
    """

    on: bool = False
    active: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what runs inside as work to wait for."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._changed.set()

    async def finish(self, seconds: float) -> None:
        """Begin to stop; return when nothing runs any more, or after so many seconds."""
        self.on = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.active:
                    self._changed.clear()
                    await self._changed.wait()


# Answered while the service stops: a load balancer learns from them that it does.
HEALTH: Final = frozenset({"/healthz", "/readyz", "/metrics"})
DRAINING: web.AppKey[Draining] = web.AppKey("draining", Draining)


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"
    version: str


class Readiness(BaseModel):
    """Whether a push would be accepted durably now."""

    ready: bool
    parts: dict[str, str] = Field(description="ok, away, full, unproven or stopping, by part")
    degraded: list[str] = Field(
        default=[], description="parts without which pushes are still taken, into the local spool"
    )
    spooled: int | None = Field(None, description="deliveries that wait in this host's spool")


async def healthz(call: ApiCall) -> Health:
    """Liveness: nothing but the process itself."""
    del call
    return Health(version=_VERSION)


async def readyz(call: ApiCall) -> web.StreamResponse:
    """Readiness: can a push be accepted durably?"""
    parts = await check_parts(call.services)
    if call.request.app[DRAINING].on:
        parts["service"] = "stopping"
    degraded = _bearable(call.services, parts)
    ready = all(state == "ok" or part in degraded for part, state in parts.items())
    call.services.metrics.ready.set(ready)
    spool = call.services.spool
    spooled = None if spool is None else spool.figures().items
    answer = Readiness(ready=ready, parts=parts, degraded=degraded, spooled=spooled)
    return json_response(answer, 200 if ready else 503)


_SPOOLED: Final = frozenset({"database", "store", "log"})
"""Parts without which a push can still be spooled; the log's copies lie in the store."""


def _bearable(services: Services, parts: dict[str, str]) -> list[str]:
    """What is away and does not keep a push from being accepted durably."""
    wrong = [part for part, state in parts.items() if state != "ok"]
    if services.spool is None:
        return []
    if parts["database"] == "ok" and parts["store"] == "ok":
        return [part for part in wrong if part == "spool"]  # pushes are stored without it
    offline = parts["database"] == "ok" or services.offline.fresh(services.clock.now())
    return [part for part in wrong if part in _SPOOLED and offline and parts["spool"] == "ok"]


async def check_parts(services: Services) -> dict[str, str]:
    """Ask each dependency once, all at the same time."""

    async def keyring() -> None:
        services.keyring.public_keys()

    async def state(name: str, check: Awaitable[object]) -> tuple[str, str]:
        try:
            await asyncio.wait_for(check, _CHECK_SECONDS)
        except (RecorderError, StorageError, TimeoutError) as error:
            log.warning("part is away", extra={"part": name}, exc_info=error)
            return name, "away"
        return name, "ok"

    found = dict(
        await asyncio.gather(
            state("database", services.database.check()),
            state("store", services.store.check()),
            state("keyring", keyring()),
        )
    )
    if services.uploads.unproven:
        found["log"] = "unproven"
    if services.spool is not None:
        found["spool"] = "full" if services.spool.figures().full else "ok"
    return found


async def metrics(call: ApiCall) -> web.StreamResponse:
    """Prometheus metrics, for whoever watches the service: on this host, or signed in as an operator."""
    forwarded = "X-Forwarded-For" in call.request.headers or "Forwarded" in call.request.headers
    if call.request.remote not in {"127.0.0.1", "::1"} or forwarded:
        principal = call.principal
        controllers = {g.controller_id for g in principal.grants}
        verdicts = [policy.decide(principal, policy.Action.VIEW_HEALTH, controller_id=c) for c in controllers]
        if not any(v.allowed for v in verdicts):
            # Somebody without any role holds no verdict at all, and is refused as well.
            text = verdicts[0].text if verdicts else "only operators watch the service"
            raise Forbidden(text, reason=verdicts[0].code if verdicts else "no-role")
    return web.Response(
        body=prometheus_client.generate_latest(call.services.metrics.registry),
        headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )


async def openapi_json(call: ApiCall) -> web.StreamResponse:
    """The OpenAPI document that this process serves by."""
    return web.json_response(call.request.app[OPENAPI])


async def docs(call: ApiCall) -> web.StreamResponse:
    """The same document as a page, without anything fetched from elsewhere."""
    document = call.request.app[OPENAPI]
    return web.Response(text=render_docs(document), content_type="text/html")


def render_docs(document: dict[str, object]) -> str:
    """A plain page of every operation."""
    paths = document["paths"]
    if not isinstance(paths, dict):
        raise TypeError("an OpenAPI document has paths")
    rows: list[str] = []
    for path, operations in paths.items():
        for method, operation in operations.items():
            answers = ", ".join(
                f"<span title='{html.escape(r['description'])}'>{code}</span>"
                for code, r in sorted(operation["responses"].items())
            )
            parameters = ", ".join(
                f"<code>{html.escape(p['name'])}</code>" + ("*" if p["required"] else "")
                for p in operation["parameters"]
            )
            rows.append(
                f"<tr id='{operation['operationId']}'><td><b>{method.upper()}</b></td>"
                f"<td><code>{html.escape(path)}</code><br><small>{html.escape(operation['summary'])}</small></td>"
                f"<td>{parameters}</td><td>{answers}</td></tr>"
            )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Tallenne API</title>"
        "<meta name='viewport' content='width=device-width'>"
        "<link rel='stylesheet' href='/static/app.css'><body class='docs'><main><h1>Tallenne API</h1>"
        "<p>Machine-readable: <a href='/api/openapi.json'>openapi.json</a> (OpenAPI 3.1). "
        "Errors are problem+json (RFC 9457).</p>"
        "<table><thead><tr><th scope='col'>Method</th><th scope='col'>Path</th>"
        "<th scope='col'>Parameters</th><th scope='col'>Answers</th></tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></main></body></html>"
    )


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", healthz, "The process answers", "service", answer=Health, auth="public"),
    Route(
        "GET",
        "/readyz",
        readyz,
        "A push would be accepted durably",
        "service",
        answer=Readiness,
        other={503: "Not now; the body says which part is away"},
        auth="public",
    ),
    Route(
        "GET",
        "/metrics",
        metrics,
        "Prometheus metrics",
        "service",
        auth="public",
        answer_types=("text/plain",),
    ),
    Route(
        "GET",
        "/api/openapi.json",
        openapi_json,
        "This API, machine-readable",
        "service",
        auth="public",
        answer_types=("application/json",),
    ),
    Route(
        "GET", "/api/docs", docs, "This API, as a page", "service", auth="public", answer_types=("text/html",)
    ),
)
