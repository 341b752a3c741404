"""The certificate as a page: complete, escaped, printable, and nothing personal in it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Grant, Principal
from recorder.api import disposition
from recorder.api.certificate_page import page
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Certificate
from recorder.disposition import erasures
from recorder.ingest.receipts import jwk
from tests.recorder.disposition_world import World

Client = TestClient[web.Request, web.Application]


class Text(HTMLParser):
    """What a person reads, and whether every element was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        if tag not in {"meta", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


@pytest.fixture
async def client(world: World, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    @web.middleware
    async def authenticate(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        grant = Grant(Role.AUDITOR, world.controller.id, ScopeKind.CONTROLLER)
        request[PRINCIPAL] = Principal("account", str(world.controller.id), world.controller.id, (grant,))
        return await handler(request)

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, disposition.ROUTES)
    return await aiohttp_client(app)


async def test_a_person_gets_a_page_and_a_program_gets_json(world: World, client: Client) -> None:
    services = world.services
    customer_id = await world.customer(last_contact=world.now)
    gone, kept = await world.recording(customer_id), await world.recording(customer_id, events=["payment"])
    stored = await world.stored(gone)
    await erasures.erase_customer(services, customer_id, requested_by="os:aino", now=world.now)
    certificate_id = (await world.get(gone)).certificate_id
    path = f"/api/v1/certificates/{certificate_id}"
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    async with client.get(path, headers={"Accept": browser}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        assert "style-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Vary"] == "Accept"
        html = await answer.text()
    for accept in ("application/json", "*/*", "application/json, text/html"):
        async with client.get(path, headers={"Accept": accept}) as answer:
            assert answer.content_type == "application/json"
            signature = (await answer.json())["signature"]
    read = Text()
    read.feed(html)
    assert read.open == []
    for shown in (str(certificate_id), str(gone), str(kept), str(customer_id), signature):
        assert shown in read.text
    for obj in stored:
        assert obj.key in read.text
        assert str(obj.version_id) in read.text
    assert "a statutory duty to keep it, until 20" in read.text
    assert jwk(services.keyring.public_keys()["certificates"])["kid"] in read.text
    for secret in ("+358401234567", "Aino", "aino", "sales", "vip", "C1"):
        assert not re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", read.text)
    assert "<style" not in html
    assert "<script" not in html


async def test_the_page_lets_nothing_through_unescaped(world: World) -> None:
    recording_id = await world.recording()
    await erasures.erase_recording(world.services, recording_id, requested_by="os:test", now=world.now)
    async with world.services.database.snapshot() as session:
        certificate = await session.get_one(Certificate, (await world.get(recording_id)).certificate_id)
    document = {**certificate.document, "requested_by": "<script>alert(1)</script>"}
    html = page(document, certificate.signature, {"kid": '"><b>'})
    assert "<script" not in html
    assert "<b>" not in html
