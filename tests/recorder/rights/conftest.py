"""A controller's recordings, and the routes of requests with the service's own middlewares."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import customers, playback, requests
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import AuditEntry
from tests.recorder.disposition_world import World, world

__all__ = ["Desk", "desk", "world"]


class Desk:
    """Somebody at the privacy desk, over HTTP."""

    def __init__(self, client: TestClient[web.Request, web.Application], world: World) -> None:
        self.client, self.world = client, world

    async def ask(
        self, method: str, path: str, *, role: str = "privacy", status: int = 200, **options: Any
    ) -> Any:
        async with self.client.request(method, path, headers={"X-Role": role}, **options) as answer:
            text = (await answer.read()).decode(errors="replace")
            assert answer.status == status, text
            return await answer.json() if "json" in answer.content_type else text

    async def file(self, kind: str, customer_id: uuid.UUID | None, **more: Any) -> dict[str, Any]:
        body = {"type": kind, "channel": "email", **more}
        if customer_id is not None:
            body["customer"] = str(customer_id)
        return cast("dict[str, Any]", await self.ask("POST", "/api/v1/requests", status=201, json=body))

    async def identify(self, rights_id: str) -> None:
        body = {"method": "document_seen", "outcome": "confirmed"}
        await self.ask("POST", f"/api/v1/requests/{rights_id}/identity", json=body)

    async def grant(self, kind: str, customer_id: uuid.UUID, **more: Any) -> dict[str, Any]:
        """Filed, identified and granted; ``more`` goes into the decision."""
        filed = await self.file(kind, customer_id)
        await self.identify(filed["id"])
        return await self.decide(filed["id"], outcome="granted", **more)

    async def decide(self, rights_id: str, *, status: int = 200, **body: Any) -> dict[str, Any]:
        path = f"/api/v1/requests/{rights_id}/decision"
        return cast("dict[str, Any]", await self.ask("POST", path, status=status, json=body))

    async def plays(self, recording_id: uuid.UUID, purpose: str, role: str) -> int:
        """The status of the very next playback request."""
        path = f"/api/v1/recordings/{recording_id}/audio"
        query = {"purpose": purpose, "rendition": "original"}
        async with self.client.get(path, params=query, headers={"X-Role": role}) as answer:
            await answer.read()
            return answer.status

    async def actions(self, object_id: object) -> list[str]:
        async with self.world.services.database.snapshot() as session:
            query = sa.select(AuditEntry.action).where(AuditEntry.object_id == str(object_id))
            return list(await session.scalars(query.order_by(AuditEntry.at, AuditEntry.id)))


@pytest.fixture
async def desk(
    world: World, aiohttp_client: Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
) -> Desk:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        role = request.headers["X-Role"]
        controller = world.controller.id
        grant = Grant(Role(role), controller, ScopeKind.CONTROLLER)
        request[PRINCIPAL] = Principal("account", str(uuid.UUID(int=len(role))), controller, (grant,))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, (*requests.ROUTES, *customers.ROUTES, *playback.ROUTES))
    return Desk(await aiohttp_client(app), world)
