"""Every route that is not public, asked by every role and by another controller's people: who is let in.

The table below is a second statement of which right each route asks for, beside the handlers' own.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.accounts import create_account
from recorder.access.policy import TABLE, Action
from recorder.access.principals import Grant, Principal
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.app import ROUTES
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Controller, Finding, ResumableUpload, RoleGrant, Source
from recorder.services import Services
from tests.recorder.api.conftest import sqlite_url
from tests.recorder.conftest import make_controller
from tests.recorder.disposition_world import World, world

__all__ = ["world"]

A: Final = Action
_WHEN: Final = "2026-03-05T07:00:00Z"
Client = TestClient[web.Request, web.Application]
Ids = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Door:
    """What a route asks for, and a request that gets as far as the question.

    Attributes:
        rights: any of which lets in; empty for whoever is signed in.
        names: of the objects that stand in the path, in order.
        controller: where the request can name one: ``query`` or ``body``.
    """

    rights: frozenset[Action]
    names: tuple[str, ...] = ()
    body: Mapping[str, Any] | None = None
    query: str = ""
    controller: str | None = None
    raw: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def door(*rights: Action, **said: Any) -> Door:
    return Door(frozenset(rights), **said)


def _register(*rights: Action, **said: Any) -> Door:
    return door(*rights, controller="query", **said)


_PUSHED: Final = (
    b'--x\r\nContent-Disposition: form-data; name="metadata"\r\nContent-Type: application/json\r\n\r\n'
    b'{"external_id": "e-1", "started_at": "2026-03-05T07:00:00Z"}\r\n'
    b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'
)
_PERSON: Final = {"username": "new.one", "name": "New One", "password": "correct horse battery"}

# In an order in which whoever may can take each step: what ends something comes last of its kind.
DOORS: Final[Mapping[tuple[str, str], Door]] = {
    ("POST", "/api/v1/recordings"): door(
        A.PUSH, raw=_PUSHED, headers={"Content-Type": "multipart/form-data; boundary=x"}
    ),
    ("GET", "/api/v1/recordings/{id}/receipt"): door(A.VIEW_RECEIPT, names=("recording",)),
    ("GET", "/api/v1/quarantine"): _register(A.MANAGE_QUARANTINE),
    ("POST", "/api/v1/quarantine/{id}/decision"): door(
        A.MANAGE_QUARANTINE, names=("recording",), body={"decision": "recheck"}
    ),
    ("GET", "/api/v1/recordings"): _register(A.LIST_RECORDINGS),
    ("POST", "/api/v1/recordings/search"): door(A.SEARCH_RECORDINGS, body={}, controller="body"),
    ("GET", "/api/v1/recordings/{id}"): door(A.VIEW_RECORDING, names=("recording",)),
    ("GET", "/api/v1/recordings/{id}/retention"): door(A.VIEW_RETENTION, names=("recording",)),
    ("GET", "/api/v1/recordings/{id}/history"): door(A.VIEW_HISTORY, names=("recording",)),
    ("GET", "/api/v1/calls/{id}"): door(A.LIST_RECORDINGS, names=("call",)),
    ("GET", "/api/v1/recordings/{id}/audio"): door(
        A.LISTEN, names=("recording",), query="purpose=legal_protection"
    ),
    ("GET", "/api/v1/recordings/{id}/peaks"): door(
        A.LISTEN, names=("recording",), query="purpose=legal_protection"
    ),
    ("POST", "/api/v1/recordings/{id}/links"): door(
        A.CREATE_LINK, names=("recording",), body={"purpose": "legal_protection"}
    ),
    ("POST", "/api/v1/recordings/{id}/assessments"): door(
        A.ASSESS, names=("recording",), body={"form": "f", "points": 1, "out_of": 2}
    ),
    ("GET", "/api/v1/recordings/{id}/assessments"): door(A.VIEW_ASSESSMENTS, names=("recording",)),
    ("GET", "/api/v1/assessments/totals"): _register(A.VIEW_ASSESSMENTS),
    ("PUT", "/api/v1/customers"): _register(
        A.MANAGE_CUSTOMERS, body={"number": "C900", "source": "registration"}
    ),
    ("POST", "/api/v1/customers/search"): _register(A.VIEW_CUSTOMERS, body={"number": "C900"}),
    ("POST", "/api/v1/customers/{id}/contacts"): _register(
        A.ADD_CONTACT, names=("customer",), body={"kind": "order", "at": _WHEN}
    ),
    ("POST", "/api/v1/customers/{id}/choices"): _register(
        A.ADD_CHOICE, names=("customer",), body={"kind": "objection", "purposes": ["quality"]}
    ),
    ("GET", "/api/v1/customers/{id}/choices"): _register(A.VIEW_CUSTOMERS, names=("customer",)),
    ("POST", "/api/v1/customers/{id}/relationship-end"): _register(
        A.MANAGE_CUSTOMERS,
        names=("customer",),
        body={"ended_on": "2026-03-01", "cause": "closed", "source": "registration"},
    ),
    ("POST", "/api/v1/customers/{id}/relationship-end/confirmation"): _register(
        A.MANAGE_REQUESTS, names=("customer",), body={"ended_on": "2026-03-01"}
    ),
    ("DELETE", "/api/v1/customers/{id}/relationship-end"): _register(A.MANAGE_REQUESTS, names=("customer",)),
    ("POST", "/api/v1/recordings/{id}/customers"): door(
        A.MANAGE_CUSTOMERS, names=("recording",), body={"customer": "{customer}"}
    ),
    ("POST", "/api/v1/shared-lines"): door(
        A.MANAGE_CUSTOMERS, body={"phone": "+358401234567"}, controller="body"
    ),
    ("POST", "/api/v1/shared-lines/removal"): door(
        A.MANAGE_CUSTOMERS, body={"phone": "+358401234567"}, controller="body"
    ),
    ("GET", "/api/v1/customers/{id}/consultations"): _register(A.MANAGE_REQUESTS, names=("customer",)),
    ("GET", "/api/v1/requests"): _register(A.MANAGE_REQUESTS),
    ("POST", "/api/v1/requests"): _register(A.MANAGE_REQUESTS, body={"type": "access", "channel": "email"}),
    ("GET", "/api/v1/requests/{id}"): door(A.MANAGE_REQUESTS, names=("request",)),
    ("POST", "/api/v1/requests/{id}/customer"): door(
        A.MANAGE_REQUESTS, names=("request",), body={"customer": "{customer}"}
    ),
    ("POST", "/api/v1/requests/{id}/identity"): door(
        A.MANAGE_REQUESTS, names=("request",), body={"method": "document_seen", "outcome": "confirmed"}
    ),
    ("POST", "/api/v1/requests/{id}/extension"): door(
        A.MANAGE_REQUESTS, names=("request",), body={"reason": "complexity"}
    ),
    ("GET", "/api/v1/requests/{id}/reply"): door(A.MANAGE_REQUESTS, names=("request",)),
    ("POST", "/api/v1/requests/{id}/reply"): door(A.MANAGE_REQUESTS, names=("request",)),
    ("POST", "/api/v1/requests/{id}/decision"): door(
        A.MANAGE_REQUESTS, names=("request",), body={"outcome": "granted"}
    ),
    ("POST", "/api/v1/requests/{id}/undo"): door(
        A.MANAGE_REQUESTS, names=("request",), body={"reason": "wrong_person"}
    ),
    ("POST", "/api/v1/requests/{id}/export"): door(A.MANAGE_REQUESTS, names=("request",)),
    ("GET", "/api/v1/requests/{id}/export"): door(A.MANAGE_REQUESTS, names=("request",), query="status=true"),
    ("POST", "/api/v1/requests/{id}/notices/{number}/acknowledgement"): door(
        A.MANAGE_REQUESTS, names=("request", "one")
    ),
    ("GET", "/api/v1/registers/recipients"): _register(A.VIEW_REGISTERS),
    ("POST", "/api/v1/registers/recipients"): door(
        A.MANAGE_RECIPIENTS,
        body={"kind": "authority", "name": "Example Oy", "purpose": "storage", "country": "FI"},
        controller="body",
    ),
    ("PATCH", "/api/v1/registers/recipients/{id}"): door(
        A.MANAGE_RECIPIENTS, names=("recipient",), body={"country": "SE"}
    ),
    ("DELETE", "/api/v1/registers/recipients/{id}"): door(A.MANAGE_RECIPIENTS, names=("recipient",)),
    ("GET", "/api/v1/registers/disclosures"): _register(A.VIEW_REGISTERS),
    ("POST", "/api/v1/registers/disclosures"): door(
        A.DISCLOSE,
        body={"recordings": ["{recording}"], "recipient": "{authority}", "ground": "court_order"},
        controller="body",
    ),
    ("POST", "/api/v1/registers/research-exports"): door(
        A.DISCLOSE,
        body={
            "recipient": "{authority}",
            "reference": "r-1",
            "since": _WHEN,
            "until": "2026-03-06T07:00:00Z",
        },
        controller="body",
    ),
    ("GET", "/api/v1/registers/breaches"): _register(A.VIEW_REGISTERS),
    ("POST", "/api/v1/registers/breaches"): door(
        A.MANAGE_BREACHES,
        body={"aware_at": _WHEN, "seen_from": "2026-03-05T06:00:00Z", "seen_until": _WHEN, "facts": "x"},
        controller="body",
    ),
    ("GET", "/api/v1/registers/breaches/{id}"): door(A.VIEW_REGISTERS, names=("breach",)),
    ("PATCH", "/api/v1/registers/breaches/{id}"): door(
        A.MANAGE_BREACHES, names=("breach",), body={"facts": "y"}
    ),
    ("GET", "/api/v1/registers/breaches/{id}/heard"): door(A.VIEW_REGISTERS, names=("breach",)),
    ("POST", "/api/v1/registers/breaches/{id}/notification"): door(
        A.MANAGE_BREACHES, names=("breach",), body={"notified_at": _WHEN, "reference": "r-1"}
    ),
    ("POST", "/api/v1/registers/breaches/{id}/no-notification"): door(
        A.MANAGE_BREACHES, names=("breach",), body={"reason": "no risk"}
    ),
    ("POST", "/api/v1/registers/breaches/{id}/close"): door(A.MANAGE_BREACHES, names=("breach",)),
    ("GET", "/api/v1/staff/{account}/copy"): door(A.COPY_STAFF, names=("account",)),
    ("GET", "/api/v1/matters"): _register(A.MANAGE_MATTERS),
    ("POST", "/api/v1/matters"): door(
        A.MANAGE_MATTERS,
        body={"reference": "M-9", "ground": "legal_claims", "review_on": "2027-01-01T00:00:00Z"},
        controller="body",
    ),
    ("GET", "/api/v1/matters/{id}"): door(A.MANAGE_MATTERS, names=("matter",)),
    ("PATCH", "/api/v1/matters/{id}"): door(A.MANAGE_MATTERS, names=("matter",), body={"notes": "x"}),
    ("POST", "/api/v1/matters/{id}/holds"): door(
        A.MANAGE_MATTERS, names=("matter",), body={"recording": "{recording}"}
    ),
    ("DELETE", "/api/v1/matters/{id}/holds/{hold}"): door(A.MANAGE_MATTERS, names=("matter", "hold")),
    ("POST", "/api/v1/matters/{id}/close"): door(A.MANAGE_MATTERS, names=("matter",)),
    ("POST", "/api/v1/restrictions"): door(
        A.MANAGE_REQUESTS, body={"recording": "{recording}", "ground": "accuracy"}
    ),
    ("DELETE", "/api/v1/restrictions/{id}"): door(A.MANAGE_REQUESTS, names=("restriction",)),
    ("GET", "/api/v1/schedules"): _register(A.VIEW_SCHEDULES),
    ("GET", "/api/v1/schedules/{version}"): _register(A.VIEW_SCHEDULES, names=("one",)),
    ("GET", "/api/v1/reevaluation"): _register(A.VIEW_SCHEDULES),
    ("POST", "/api/v1/schedules"): door(A.MANAGE_SCHEDULES, body={"document": "x = 1"}, controller="body"),
    ("POST", "/api/v1/schedules/simulate"): door(
        A.VIEW_SCHEDULES, A.MANAGE_SCHEDULES, body={"version": 1}, controller="body"
    ),
    ("POST", "/api/v1/schedules/{version}/activate"): door(
        A.MANAGE_SCHEDULES, names=("one",), body={}, controller="body"
    ),
    ("GET", "/api/v1/reports/retention"): _register(A.VIEW_REPORTS),
    ("GET", "/api/v1/reports/processing-record"): _register(A.VIEW_REPORTS, A.VIEW_REGISTERS),
    ("GET", "/api/v1/findings"): _register(A.VIEW_HEALTH),
    ("POST", "/api/v1/findings/{id}/resolution"): door(
        A.MANAGE_QUARANTINE, names=("finding",), body={"action": "accept"}
    ),
    ("POST", "/uploads"): door(
        A.PUSH,
        headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "external_id ZGVm"},
    ),
    ("GET", "/uploads/{id}"): door(A.PUSH, names=("upload",)),
    ("PATCH", "/uploads/{id}"): door(
        A.PUSH,
        names=("upload",),
        raw=b"x",
        headers={
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
        },
    ),
    ("POST", "/uploads/{id}"): door(
        A.PUSH,
        names=("upload",),
        headers={"Tus-Resumable": "1.0.0", "X-HTTP-Method-Override": "HEAD"},
    ),
    ("DELETE", "/uploads/{id}"): door(A.PUSH, names=("upload",), headers={"Tus-Resumable": "1.0.0"}),
    ("GET", "/api/v1/sources"): _register(A.MANAGE_SOURCES),
    ("POST", "/api/v1/sources"): _register(A.MANAGE_SOURCES, body={"name": "pbx-9"}),
    ("GET", "/api/v1/sources/{id}"): door(A.MANAGE_SOURCES, names=("source",)),
    ("PATCH", "/api/v1/sources/{id}"): door(A.MANAGE_SOURCES, names=("source",), body={"enabled": True}),
    ("POST", "/api/v1/sources/{id}/tokens"): door(A.MANAGE_SOURCES, names=("source",), body={}),
    ("POST", "/api/v1/sources/{id}/tokens/rotate"): door(A.MANAGE_SOURCES, names=("source",), body={}),
    ("DELETE", "/api/v1/sources/{id}/tokens/{token}"): door(
        A.MANAGE_SOURCES, names=("source", "source_token")
    ),
    ("PUT", "/api/v1/sources/{id}/secrets/{name}"): door(
        A.MANAGE_SOURCES, names=("source", "bearer"), body={"value": "x"}
    ),
    ("GET", "/api/v1/sources/{id}/secrets"): door(A.MANAGE_SOURCES, names=("source",)),
    ("DELETE", "/api/v1/sources/{id}/secrets/{name}"): door(A.MANAGE_SOURCES, names=("source", "bearer")),
    ("GET", "/api/v1/completeness"): _register(A.VIEW_HEALTH),
    ("GET", "/api/v1/completeness/expected"): _register(A.VIEW_HEALTH),
    ("POST", "/api/v1/sources/{id}/cdr"): door(
        A.MANAGE_SOURCES, names=("source",), raw=b"uniqueid\n", headers={"Content-Type": "text/csv"}
    ),
    ("POST", "/api/v1/webhooks"): door(
        A.MANAGE_SOURCES, body={"url": "https://crm.example/", "label": "two"}, controller="body"
    ),
    ("GET", "/api/v1/webhooks"): _register(A.MANAGE_SOURCES),
    ("PATCH", "/api/v1/webhooks/{id}"): door(A.MANAGE_SOURCES, names=("webhook",), body={"enabled": True}),
    ("POST", "/api/v1/webhooks/{id}/test"): door(A.MANAGE_SOURCES, names=("webhook",)),
    ("POST", "/api/v1/webhooks/{id}/secret"): door(A.MANAGE_SOURCES, names=("webhook",), body={}),
    ("GET", "/api/v1/webhooks/{id}/messages"): door(A.MANAGE_SOURCES, names=("webhook",)),
    ("POST", "/api/v1/webhooks/{id}/replay"): door(A.MANAGE_SOURCES, names=("webhook",), body={}),
    ("DELETE", "/api/v1/webhooks/{id}"): door(A.MANAGE_SOURCES, names=("webhook",)),
    ("GET", "/api/v1/audit/checkpoint"): door(A.VIEW_AUDIT),
    ("GET", "/api/v1/audit/entries"): _register(A.VIEW_AUDIT),
    ("GET", "/api/v1/audit/proof"): door(A.VIEW_AUDIT, query=f"entry={uuid.UUID(int=1)}"),
    ("GET", "/api/v1/approvals"): _register(A.VIEW_APPROVALS),
    ("POST", "/api/v1/approvals"): door(
        A.MANAGE_MATTERS, body={"action": "hold_release", "target": "{hold}"}, controller="body"
    ),
    ("GET", "/api/v1/approvals/{id}"): door(A.VIEW_APPROVALS, names=("approval",)),
    ("POST", "/api/v1/approvals/{id}/decision"): door(
        A.DECIDE_APPROVAL, names=("approval",), body={"decision": "refuse"}
    ),
    ("GET", "/api/v1/accounts"): _register(A.MANAGE_ACCOUNTS),
    ("POST", "/api/v1/accounts"): door(A.MANAGE_ACCOUNTS, body=_PERSON, controller="body"),
    ("POST", "/api/v1/accounts/{id}/password"): door(
        A.MANAGE_ACCOUNTS, names=("account",), body={"new": "correct horse battery"}
    ),
    ("POST", "/api/v1/accounts/{id}/roles"): door(
        A.MANAGE_ACCOUNTS, names=("account",), body={"role": "auditor"}, controller="body"
    ),
    ("DELETE", "/api/v1/accounts/{id}/roles/{grant}"): door(A.MANAGE_ACCOUNTS, names=("account", "grant")),
    ("DELETE", "/api/v1/accounts/{id}"): door(A.MANAGE_ACCOUNTS, names=("account",)),
    ("GET", "/api/v1/tokens"): _register(A.MANAGE_ACCOUNTS),
    ("POST", "/api/v1/tokens"): door(
        A.MANAGE_ACCOUNTS, body={"label": "c", "role": "crm"}, controller="body"
    ),
    ("DELETE", "/api/v1/tokens/{id}"): door(A.MANAGE_ACCOUNTS, names=("token",)),
    ("POST", "/api/v1/recordings/{id}/redactions"): door(
        A.ERASE, names=("recording",), body={"from": 0, "to": 1, "reason": "accident"}
    ),
    ("DELETE", "/api/v1/recordings/{id}/links/{link}"): door(A.CREATE_LINK, names=("recording", "link")),
}

# Who is asking is all that these ask; or the address itself is the credential, which other tests try.
ELSEWHERE: Final = frozenset(
    {
        ("GET", "/api/v1/session"),
        ("DELETE", "/api/v1/session"),
        ("GET", "/listen/{token}"),
        ("GET", "/api/v1/certificates/{id}"),
    }
)


@dataclass(frozen=True, slots=True)
class House:
    """A controller with one of everything, and a client that asks as anybody."""

    client: Client
    controller: Controller
    ids: Ids
    source: Source

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str], query: str = "", **sent: Any
    ) -> tuple[int, Any]:
        address = f"{path}?{query}" if query else path
        async with self.client.request(
            method, address, headers=headers, allow_redirects=False, **sent
        ) as answer:
            json = answer.content_type.endswith("json")
            return answer.status, await answer.json() if json else await answer.read()

    async def try_door(
        self, route: tuple[str, str], door: Door, principal: Principal, *, elsewhere: bool = False
    ) -> tuple[int, Any]:
        """Go through a door; from elsewhere, with this house's controller named wherever one can be."""
        method, path = route
        for name, value in zip(_blanks(path), door.names, strict=True):
            path = path.replace("{" + name + "}", self.ids.get(value, value))
        body: Any = _filled(door.body, self.ids)
        query = door.query
        if elsewhere and door.controller == "query":
            query = f"{query}&controller={self.controller.id}".lstrip("&")
        if elsewhere and door.controller == "body":
            body = {**(body or {}), "controller": str(self.controller.id)}
        grants = ",".join(f"{g.role.value}" for g in principal.grants)
        headers = {
            "X-Kind": principal.kind,
            "X-Id": principal.id,
            "X-Controller": str(principal.controller_id),
            "X-Roles": grants,
            "X-Source": "" if principal.source_id is None else str(principal.source_id),
            **door.headers,
        }
        sent: dict[str, Any] = {"json": body} if door.raw is None and body is not None else {"data": door.raw}
        return await self.ask(method, path, headers=headers, query=query, **sent)


def _why(answer: Any) -> Any:
    return answer.get("detail", answer) if isinstance(answer, dict) else answer


def _blanks(path: str) -> list[str]:
    return [piece.partition("}")[0] for piece in path.split("{")[1:]]


def _filled(value: Any, ids: Ids) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, ids) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, ids) for each in value]
    if isinstance(value, str) and value.startswith("{"):
        return ids[value[1:-1]]
    return value


def person(role: Role, controller: Controller, *, source: Source | None = None) -> Principal:
    """Somebody with one role; for telephony, a source's token."""
    kind: Literal["source", "account"] = "source" if role is Role.TELEPHONY else "account"
    identity = str(source.id) if source is not None else str(uuid.uuid5(uuid.NAMESPACE_OID, role.value))
    grants = (Grant(role, controller.id, ScopeKind.CONTROLLER),)
    return Principal(kind, identity, controller.id, grants, source_id=None if source is None else source.id)


def allowed(door: Door) -> frozenset[Role]:
    return frozenset(rule.role for rule in TABLE if rule.actions & door.rights)


@pytest.fixture
def database_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    return sqlite_url(migrated_sqlite, tmp_path)


@pytest.fixture
async def house(world: World, aiohttp_client: Callable[..., Awaitable[Client]]) -> House:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        told = request.headers
        controller = uuid.UUID(told["X-Controller"])
        grants = tuple(
            Grant(Role(role), controller, ScopeKind.CONTROLLER) for role in told["X-Roles"].split(",")
        )
        source = uuid.UUID(told["X-Source"]) if told["X-Source"] else None
        kind: Any = told["X-Kind"]
        request[PRINCIPAL] = Principal(kind, told["X-Id"], controller, grants, source_id=source)
        answer: web.StreamResponse = await handler(request)
        return answer

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, ROUTES)
    house = House(await aiohttp_client(app), world.controller, {}, world.source)
    return House(house.client, world.controller, await furnish(house, world), world.source)


async def furnish(house: House, world: World) -> dict[str, str]:
    """One of everything, made as its people make it."""
    services, controller = world.services, world.controller
    customer = await world.customer()
    recording = await world.recording(customer)
    row = await world.get(recording)
    ids = {"customer": str(customer), "recording": str(recording), "call": str(row.call_id), "one": "1"}
    ids["source"] = str(world.source.id)
    account = await create_account(
        services,
        Principal("os", "installer", None),
        controller_id=controller.id,
        username="maija.meikalainen",
        name="Maija Meikalainen",
        password="correct horse battery",
        grants=[Grant(Role.AUDITOR, controller.id, ScopeKind.CONTROLLER)],
    )
    ids["account"] = str(account)
    finding = Finding(
        id=uuid.uuid4(),
        kind="missing",
        key="k",
        recording_id=recording,
        controller_id=controller.id,
        state="open",
        detail={},
        first_seen_at=world.now,
        last_seen_at=world.now,
    )
    async with services.database.transaction() as session:
        session.add(finding)
        grant = await session.scalar(sa.select(RoleGrant.id).where(RoleGrant.account_id == account))
    ids["finding"], ids["grant"] = str(finding.id), str(grant)

    async def make(name: str, role: Role, method: str, path: str, body: Any, field: str = "id") -> None:
        asker = person(role, controller, source=world.source if role is Role.TELEPHONY else None)
        said = Door(frozenset(), names=tuple(_blanks(path)), body=body)
        path = path.format(**ids)
        status, answer = await house.try_door((method, path), replace(said, names=()), asker)
        assert status in (200, 201, 202), (name, status, answer)
        ids[name] = answer[field]

    recipient = {"kind": "authority", "name": "Example Oy", "purpose": "storage", "country": "FI"}
    breach = DOORS["POST", "/api/v1/registers/breaches"].body
    matter = DOORS["POST", "/api/v1/matters"].body
    await make("recipient", Role.LEGAL, "POST", "/api/v1/registers/recipients", recipient)
    authority = {**recipient, "name": "Court"}
    await make("authority", Role.LEGAL, "POST", "/api/v1/registers/recipients", authority)
    await make("breach", Role.PRIVACY, "POST", "/api/v1/registers/breaches", breach)
    await make("matter", Role.LEGAL, "POST", "/api/v1/matters", {**(matter or {}), "reference": "M-1"})
    hold = {"recording": str(recording)}
    await make("hold", Role.LEGAL, "POST", "/api/v1/matters/{matter}/holds", hold)
    link = {"purpose": "legal_protection"}
    await make("link", Role.LEGAL, "POST", "/api/v1/recordings/{recording}/links", link)
    restriction = {"recording": str(await world.recording()), "ground": "accuracy"}
    await make("restriction", Role.PRIVACY, "POST", "/api/v1/restrictions", restriction)
    access = {"type": "access", "channel": "email", "customer": str(customer)}
    await make("request", Role.PRIVACY, "POST", "/api/v1/requests", access)
    step = {"action": "hold_release", "target": ids["hold"]}
    await make("approval", Role.LEGAL, "POST", "/api/v1/approvals", step)
    hook = {"url": "https://crm.example/hook", "label": "crm"}
    await make("webhook", Role.OPERATOR, "POST", "/api/v1/webhooks", hook)
    await make("token", Role.OPERATOR, "POST", "/api/v1/tokens", {"label": "crm", "role": "crm"})
    await make("source_token", Role.OPERATOR, "POST", "/api/v1/sources/{source}/tokens", {})
    upload = Door(frozenset(), headers={"Tus-Resumable": "1.0.0", "Upload-Length": "5", **_NAMED})
    asker = person(Role.TELEPHONY, controller, source=world.source)
    before = set(await uploads_of(services))
    assert (await house.try_door(("POST", "/uploads"), upload, asker))[0] == 201
    [ids["upload"]] = set(await uploads_of(services)) - before
    return ids


_NAMED: Final = {"Upload-Metadata": "external_id YWJj"}


async def uploads_of(services: Services) -> list[str]:
    async with services.database.snapshot() as session:
        return [str(each) for each in await session.scalars(sa.select(ResumableUpload.id))]


def test_every_route_has_its_place_here() -> None:
    known = set(DOORS) | ELSEWHERE
    asked = {(route.method, route.path) for route in ROUTES if route.auth == "required"}
    assert {each for each in asked - known if not each[1].startswith("/ingest/")} == set()


async def test_a_role_without_the_right_is_refused(house: House, world: World) -> None:
    let_in = []
    elsewhere = await other_source(world, world.controller)
    for role in Role:
        asker = person(role, world.controller, source=elsewhere if role is Role.TELEPHONY else None)
        for route, said in DOORS.items():
            # Another source's token may push, but has nothing to do with what is here.
            if role in allowed(said) and not (role is Role.TELEPHONY and said.names):
                continue
            status, answer = await house.try_door(route, said, asker)
            # Of what a role never knows of, it may also not know that it is there.
            if status not in (403, 404):
                let_in.append((role.value, *route, status, _why(answer)))
    assert not let_in, "\n".join(map(str, let_in))


async def test_another_controllers_people_find_nothing(house: House, world: World) -> None:
    """With every role at home, and a source's token of their own."""
    elsewhere = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    source = await other_source(world, elsewhere)
    let_in = []
    everybody = tuple(Grant(role, elsewhere.id, ScopeKind.CONTROLLER) for role in Role)
    kinds: tuple[Any, ...] = ("account", "source")
    for kind in kinds:
        asker = Principal(kind, str(source.id), elsewhere.id, everybody, source_id=source.id)
        for route, said in DOORS.items():
            if not said.names and said.controller is None:
                continue  # it speaks of nothing here
            status, answer = await house.try_door(route, said, asker, elsewhere=True)
            if status not in (403, 404):
                let_in.append((kind, *route, status, _why(answer)))
    assert not let_in, "\n".join(map(str, let_in))


async def test_whoever_has_the_right_gets_past_the_question(house: House, world: World) -> None:
    """Else the refusals above would say nothing."""
    kept_out = []
    for route, said in DOORS.items():
        role = min(allowed(said) - {Role.AGENT} or allowed(said), key=lambda each: (each != "legal", each))
        asker = person(role, world.controller, source=world.source if role is Role.TELEPHONY else None)
        status, answer = await house.try_door(route, said, asker)
        reason = answer.get("reason") if status == 403 else None
        unasked = status in (404, 422) and route not in _SAID_LATER
        if reason in _ROLES or unasked or status in (401, 405, 500):
            kept_out.append((role.value, *route, status, _why(answer)))
    assert not kept_out, "\n".join(map(str, kept_out))


_ROLES: Final = ("role", "other-controller", "scope", "purpose", "not-a-person")
# Here the right is asked before what is said of the rest: nothing was ordered, signed or written yet.
_SAID_LATER: Final = frozenset(
    {
        ("GET", "/api/v1/requests/{id}/export"),
        ("POST", "/api/v1/requests/{id}/notices/{number}/acknowledgement"),
        ("POST", "/api/v1/schedules"),
        ("GET", "/api/v1/audit/checkpoint"),
        ("GET", "/api/v1/audit/proof"),
    }
)


async def other_source(world: World, controller: Controller) -> Source:
    async with world.services.database.transaction() as session:
        source = Source(
            id=uuid.uuid4(),
            controller_id=controller.id,
            name="pbx-other",
            kind="generic",
            settings={},
            enabled=True,
            created_at=world.now,
        )
        session.add(source)
    return source


async def test_only_a_sources_token_pushes_and_only_for_its_source(house: House, world: World) -> None:
    elsewhere = await other_source(world, world.controller)
    askers = [person(role, world.controller) for role in Role if role is not Role.TELEPHONY]
    askers.append(person(Role.TELEPHONY, world.controller, source=elsewhere))
    pushing = [(route.method, route.path) for route in ROUTES if route.path.startswith("/ingest/{source}")]
    assert pushing
    for method, pattern in pushing:
        path = pattern.replace("{source}", "pbx-1").replace("{tail:.*}", "x")
        path = path.replace("{external_id}", "x").replace("{vendor}", "x")
        said = Door(frozenset(), raw=None if method == "GET" else b"RIFF")
        for asker in askers:
            status, answer = await house.try_door((method, path), said, asker)
            assert status == 403, (method, pattern, asker.grants, status, answer)
