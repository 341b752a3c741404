"""Signing in, accounts, tokens, approvals and the log, through HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recorder.access import passwords
from recorder.access.accounts import create_account
from recorder.access.principals import Grant, Principal
from recorder.access.tokens import issue_token
from recorder.api import accounts, audit
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import SESSION_COOKIE, add_headers, authenticate, observe, problems
from recorder.audit import merkle, notes
from recorder.audit.log import Sequencer
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Controller
from recorder.services import Services

Client = TestClient[web.Request, web.Application]
CONSOLE = Principal("os", "installer", None)
PASSWORD = "correct horse battery"
BAD = "application/problem+json"


@pytest.fixture(autouse=True)
def _cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "CURRENT", passwords.Parameters(memory_kib=64, iterations=1, lanes=1))


@pytest.fixture
async def client(services: Services, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = services
    app.on_response_prepare.append(add_headers)
    mount(app, (*accounts.ROUTES, *audit.ROUTES))
    return await aiohttp_client(app)


@pytest.fixture
def person(services: Services, controller: Controller) -> Callable[..., Awaitable[uuid.UUID]]:
    async def make(role: Role, username: str | None = None) -> uuid.UUID:
        return await create_account(
            services,
            CONSOLE,
            controller_id=controller.id,
            username=username or role.value,
            name="Maija Meikäläinen",
            password=PASSWORD,
            grants=[Grant(role, controller.id, ScopeKind.CONTROLLER)],
        )

    return make


@pytest.fixture
def bearer(services: Services, controller: Controller) -> Callable[..., Awaitable[dict[str, str]]]:
    async def make(role: Role, owner: uuid.UUID | None = None) -> dict[str, str]:
        issued = await issue_token(
            services, CONSOLE, controller_id=controller.id, label="t", role=role, owner_id=owner
        )
        return {"Authorization": f"Bearer {issued.token}"}

    return make


async def sign_in(client: Client, username: str, password: str = PASSWORD) -> dict[str, str]:
    """Headers of a signed-in browser; the cookie stays in the client's jar."""
    answer = await client.post("/api/v1/session", json={"username": username, "password": password})
    assert answer.status == 201, await answer.text()
    return {"X-CSRF-Token": (await answer.json())["csrf"]}


Person = Callable[..., Awaitable[uuid.UUID]]
Bearer = Callable[..., Awaitable[dict[str, str]]]


async def test_a_browser_signs_in_and_out(client: Client, person: Person) -> None:
    account_id = await person(Role.QUALITY)
    answer = await client.post("/api/v1/session", json={"username": "Quality", "password": PASSWORD})
    cookie = answer.cookies[SESSION_COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    body = await answer.json()
    assert body["actor"] == f"account:{account_id}"
    assert [r["role"] for r in body["roles"]] == ["quality"]
    me = await (await client.get("/api/v1/session")).json()
    assert me["csrf"] == body["csrf"]
    refused = await client.delete("/api/v1/session")
    assert (refused.status, (await refused.json())["reason"]) == (403, "csrf")
    ended = await client.delete("/api/v1/session", headers={"X-CSRF-Token": body["csrf"]})
    assert ended.status == 204
    client.session.cookie_jar.update_cookies({SESSION_COOKIE: cookie.value})
    assert (await client.get("/api/v1/session")).status == 401


async def test_wrong_passwords_lock(client: Client, services: Services, person: Person) -> None:
    await person(Role.QUALITY)
    guess = {"username": "quality", "password": "guess"}
    for _ in range(services.settings.lockout_failures):
        answer = await client.post("/api/v1/session", json=guess)
        assert (answer.status, answer.content_type) == (401, BAD)
        assert "quality" not in await answer.text()
    locked = await client.post("/api/v1/session", json=guess | {"password": PASSWORD})
    assert locked.status == 429
    assert int(locked.headers["Retry-After"]) == services.settings.lockout_seconds


async def test_another_site_cannot_sign_anybody_in(client: Client, person: Person) -> None:
    await person(Role.QUALITY)
    answer = await client.post(
        "/api/v1/session",
        json={"username": "quality", "password": PASSWORD},
        headers={"Sec-Fetch-Site": "cross-site"},
    )
    assert answer.status == 403


async def test_operations_manage_accounts_end_to_end(client: Client, bearer: Bearer) -> None:
    operator = await bearer(Role.OPERATOR)
    new = {"username": "matti", "name": "Matti", "password": PASSWORD, "roles": [{"role": "auditor"}]}
    made = await client.post("/api/v1/accounts", json=new, headers=operator)
    assert made.status == 201, await made.text()
    account_id = (await made.json())["id"]
    assert (await client.post("/api/v1/accounts", json=new, headers=operator)).status == 409
    roles = f"/api/v1/accounts/{account_id}/roles"
    granted = await client.post(roles, json={"role": "crm"}, headers=operator)
    assert granted.status == 201
    grant_id = (await granted.json())["id"]
    [listed] = (await (await client.get("/api/v1/accounts", headers=operator)).json())["items"]
    assert (listed["username"], {r["role"] for r in listed["roles"]}) == ("matti", {"auditor", "crm"})
    assert "password" not in json.dumps(listed)
    wrong = await client.delete(f"/api/v1/accounts/{uuid.uuid4()}/roles/{grant_id}", headers=operator)
    assert wrong.status == 404
    assert (await client.delete(f"{roles}/{grant_id}", headers=operator)).status == 204
    browser = await sign_in(client, "matti")
    changed = await client.post(
        f"/api/v1/accounts/{account_id}/password",
        json={"new": "another long one", "current": PASSWORD},
        headers=browser,
    )
    assert changed.status == 204
    assert (await client.get("/api/v1/session")).status == 401
    assert (await client.delete(f"/api/v1/accounts/{account_id}", headers=operator)).status == 204
    gone = await client.post("/api/v1/session", json={"username": "matti", "password": "another long one"})
    assert gone.status == 401


async def test_tokens_end_to_end(client: Client, bearer: Bearer) -> None:
    operator = await bearer(Role.OPERATOR)
    made = await client.post("/api/v1/tokens", json={"label": "bi", "role": "auditor"}, headers=operator)
    assert made.status == 201
    issued = await made.json()
    header = {"Authorization": f"Bearer {issued['token']}"}
    assert (await (await client.get("/api/v1/session", headers=header)).json())["roles"][0][
        "role"
    ] == "auditor"
    listing = await (await client.get("/api/v1/tokens", headers=operator)).text()
    assert issued["id"] in listing
    assert issued["token"].split("_", 2)[2] not in listing
    assert (await client.delete(f"/api/v1/tokens/{issued['id']}", headers=operator)).status == 204
    dead = await client.get("/api/v1/session", headers=header)
    assert (dead.status, dead.headers["WWW-Authenticate"]) == (401, 'Bearer realm="recorder"')


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/accounts", None),
        ("POST", "/accounts", {"username": "x1", "name": "X", "password": PASSWORD}),
        ("GET", "/tokens", None),
        ("POST", "/tokens", {"label": "x", "role": "auditor"}),
        ("GET", "/approvals", None),
        ("POST", "/approvals", {"action": "disclosure", "target": "t"}),
        ("GET", "/audit/checkpoint", None),
        ("GET", "/audit/entries", None),
        ("GET", "/audit/proof?first=0", None),
    ],
)
async def test_the_wrong_role_is_refused_in_words(
    client: Client, bearer: Bearer, method: str, path: str, body: Any
) -> None:
    assert (await client.request(method, "/api/v1" + path, json=body)).status == 401
    answer = await client.request(method, "/api/v1" + path, json=body, headers=await bearer(Role.TRAINER))
    assert (answer.status, answer.content_type) == (403, BAD)
    problem = await answer.json()
    assert problem["reason"] == "role"
    assert problem["detail"].startswith("Training may not ")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/session", {"username": "x"}),
        ("/session", {"username": "x", "password": "y" * 1001}),
        ("/session", {"username": "x", "password": "y", "admin": True}),
        ("/accounts", {"username": "x y", "name": "X", "password": PASSWORD}),
        ("/accounts", {"username": "xy", "name": "X\n", "password": PASSWORD}),
        ("/accounts", {"username": "xy", "name": "X", "password": "short"}),
        ("/accounts", {"username": "xy", "name": "X", "password": PASSWORD, "roles": [{"role": "god"}]}),
        ("/accounts", {"username": "xy", "name": "X", "password": PASSWORD, "roles": [{"role": "agent"}]}),
        ("/tokens", {"label": "\x00", "role": "auditor"}),
        ("/tokens", {"label": "x", "role": "telephony"}),
        ("/tokens", {"label": "x", "role": "auditor", "expires_at": "2020-01-01T00:00:00Z"}),
        ("/tokens", {"label": "x", "role": "auditor", "expires_at": "2030-01-01T00:00:00"}),
    ],
)
async def test_bad_input_names_the_field_and_never_the_value(
    client: Client, bearer: Bearer, path: str, body: dict[str, Any]
) -> None:
    answer = await client.post("/api/v1" + path, json=body, headers=await bearer(Role.OPERATOR))
    assert (answer.status, answer.content_type) == (422, BAD), await answer.text()
    text = await answer.text()
    assert json.loads(text)["errors"][0]["pointer"].startswith("/")
    assert PASSWORD not in text
    assert "y" * 1001 not in text


async def test_passwords_of_any_characters_are_just_wrong(client: Client) -> None:
    for raw in (b'{"username":"x1","password":"\\ud800"}', b'{"username":"\\u0000","password":"\\u0000"}'):
        answer = await client.post("/api/v1/session", data=raw, headers={"Content-Type": "application/json"})
        assert answer.status in {400, 401}


async def test_two_persons(client: Client, person: Person, bearer: Bearer) -> None:
    await person(Role.PRIVACY)
    legal = await bearer(Role.LEGAL, await person(Role.LEGAL))
    step = {"action": "hold_release", "target": str(uuid.uuid4()), "details": {"recordings": 3}}
    asked = await client.post("/api/v1/approvals", json=step, headers=legal)
    assert asked.status == 201
    approval_id = (await asked.json())["id"]
    decision = f"/api/v1/approvals/{approval_id}/decision"
    as_token = await client.post(decision, json={"decision": "approve"}, headers=legal)
    assert (as_token.status, (await as_token.json())["reason"]) == (403, "not-a-person")
    privacy = await sign_in(client, "privacy")
    approved = await client.post(decision, json={"decision": "approve"}, headers=privacy)
    assert (approved.status, (await approved.json())["state"]) == (200, "approved")
    assert (await client.post(decision, json={"decision": "refuse"}, headers=privacy)).status == 409
    listed = await (await client.get("/api/v1/approvals?state=approved", headers=legal)).json()
    assert [a["id"] for a in listed["items"]] == [approval_id]
    assert (await (await client.get(f"/api/v1/approvals/{approval_id}", headers=legal)).json())[
        "details"
    ] == {"recordings": 3}


async def test_an_operator_gives_no_ears_without_a_second_person(
    client: Client, person: Person, bearer: Bearer
) -> None:
    operator_id, listener = await person(Role.OPERATOR), await person(Role.QUALITY)
    await person(Role.PRIVACY)
    operator = await bearer(Role.OPERATOR, operator_id)
    requests: list[tuple[str, dict[str, Any], int]] = [
        ("/tokens", {"label": "bi", "role": "legal"}, 201),
        (
            "/accounts",
            {"username": "matti", "name": "Matti", "password": PASSWORD, "roles": [{"role": "trainer"}]},
            201,
        ),
        (f"/accounts/{operator_id}/roles", {"role": "quality", "scope": "queue", "values": ["billing"]}, 201),
        (f"/accounts/{listener}/password", {"new": "another long one"}, 204),
    ]
    asked: list[str] = []
    for path, body, _ in requests:
        answer = await client.post("/api/v1" + path, json=body, headers=operator)
        assert answer.status == 202, await answer.text()
        waiting = await answer.json()
        assert (waiting.keys(), waiting["state"]) == ({"approval", "state", "expires_at"}, "pending")
        asked.append(waiting["approval"])
        early = await client.post(
            "/api/v1" + path, params={"approval": asked[-1]}, json=body, headers=operator
        )
        assert (early.status, (await early.json())["reason"]) == (403, "approval-mismatch")
    assert len(set(asked)) == len(asked)
    privacy = await sign_in(client, "privacy")
    listed = await (await client.get("/api/v1/approvals")).text()
    assert "matti" not in listed.casefold()
    assert "billing" in listed
    for approval in asked:
        decision = await client.post(
            f"/api/v1/approvals/{approval}/decision", json={"decision": "approve"}, headers=privacy
        )
        assert decision.status == 200
    client.session.cookie_jar.clear()
    for (path, body, status), approval in zip(requests, asked, strict=True):
        query = {"approval": approval}
        done = await client.post("/api/v1" + path, params=query, json=body, headers=operator)
        assert done.status == status, await done.text()
        again = await client.post("/api/v1" + path, params=query, json=body, headers=operator)
        assert again.status in (403, 409), await again.text()
    await sign_in(client, "quality", "another long one")


async def test_the_log_is_verified_by_a_stranger(
    client: Client, services: Services, person: Person, bearer: Bearer
) -> None:
    """Keys, checkpoints, entries and proofs from the API, checked with nothing of the service's own state."""
    auditor = await bearer(Role.AUDITOR)
    assert (await client.get("/api/v1/audit/checkpoint", headers=auditor)).status == 404
    await person(Role.QUALITY)
    await Sequencer(services).run_once()
    early = await (await client.get("/api/v1/audit/checkpoint", headers=auditor)).text()
    await sign_in(client, "quality")
    await Sequencer(services).run_once()

    published = {k["name"]: k for k in (await (await client.get("/api/v1/keys")).json())["keys"]}
    assert set(published) == {"log", "receipts", "links", "certificates"}
    raw = base64.urlsafe_b64decode(published["log"]["x"] + "=")
    key = Ed25519PublicKey.from_public_bytes(raw)
    origin = notes.origin_of(key)
    assert published["log"]["note_verifier"] == notes.verifier_key(origin, key)
    assert published["receipts"]["note_verifier"] is None

    answer = await client.get("/api/v1/audit/checkpoint", headers=auditor)
    assert answer.content_type == "text/plain"
    head = notes.open_note(await answer.text(), key)
    old = notes.open_note(early, key)
    grown = await (await client.get(f"/api/v1/audit/proof?first={old.size}", headers=auditor)).json()
    path = [base64.b64decode(h) for h in grown["path"]]
    assert merkle.verify_consistency(old.size, old.root, head.size, head.root, path)

    page = await (await client.get("/api/v1/audit/entries?limit=2&order=oldest", headers=auditor)).json()
    seen = list(page["items"])
    while page["next"] is not None:
        page = await (
            await client.get(
                f"/api/v1/audit/entries?limit=2&order=oldest&cursor={page['next']}", headers=auditor
            )
        ).json()
        seen += page["items"]
    assert [e["index"] for e in seen] == list(range(head.size))
    for item in seen:
        payload = base64.b64decode(item["payload"])
        assert json.loads(payload) == item["entry"]
        proof = await (await client.get(f"/api/v1/audit/proof?entry={item['id']}", headers=auditor)).json()
        leaf = hashlib.sha256(b"\x00" + payload).digest()
        assert base64.b64decode(proof["leaf_hash"]) == leaf
        path = [base64.b64decode(h) for h in proof["path"]]
        assert merkle.verify_inclusion(leaf, item["index"], head.size, path, head.root)
    opened = await (await client.get("/api/v1/audit/entries?action=session.", headers=auditor)).json()
    assert [e["entry"]["action"] for e in opened["items"]] == ["session.opened"]


async def test_entries_of_other_controllers_stay_there(
    client: Client, services: Services, bearer: Bearer, person: Person
) -> None:
    from tests.recorder.conftest import make_controller

    other = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    auditor = await bearer(Role.AUDITOR)
    issued = await issue_token(services, CONSOLE, controller_id=other.id, label="t", role=Role.AUDITOR)
    await person(Role.QUALITY)
    await Sequencer(services).run_once()
    abroad = {"Authorization": f"Bearer {issued.token}"}
    mine = (await (await client.get("/api/v1/audit/entries", headers=auditor)).json())["items"]
    theirs = (await (await client.get("/api/v1/audit/entries", headers=abroad)).json())["items"]
    assert len(mine) == 3  # a token, an account, a role
    assert len(theirs) == 1
    hidden = await client.get(f"/api/v1/audit/proof?entry={mine[0]['id']}", headers=abroad)
    assert hidden.status == 404
    crossing = await client.get(f"/api/v1/audit/entries?controller={other.id}", headers=auditor)
    assert (crossing.status, (await crossing.json())["reason"]) == (403, "other-controller")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("entries?limit=0", 422),
        ("entries?limit=x", 422),
        ("entries?cursor=-1", 422),
        ("entries?actor=%00", 422),
        ("entries?colour=red", 422),
        ("proof", 422),
        ("proof?entry=x", 422),
        (f"proof?entry={uuid.UUID(int=1)}", 404),
        (f"proof?entry={uuid.UUID(int=1)}&first=1", 422),
        ("proof?first=99999", 404),
        ("checkpoint?size=7", 404),
        ("checkpoint?size=9007199254740993", 422),
    ],
)
async def test_bad_queries(client: Client, bearer: Bearer, query: str, status: int) -> None:
    answer = await client.get(f"/api/v1/audit/{query}", headers=await bearer(Role.AUDITOR))
    assert (answer.status, answer.content_type) == (status, BAD), await answer.text()


async def test_an_entry_without_a_place_is_asked_for_again(
    client: Client, services: Services, bearer: Bearer
) -> None:
    auditor = await bearer(Role.AUDITOR)
    await Sequencer(services).run_once()
    await bearer(Role.QUALITY)
    async with services.database.snapshot() as session:
        from sqlalchemy import select

        from recorder.catalogue.tables import AuditEntry

        waiting = (
            await session.execute(select(AuditEntry.id).where(AuditEntry.index.is_(None)))
        ).scalar_one()
    answer = await client.get(f"/api/v1/audit/proof?entry={waiting}", headers=auditor)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
