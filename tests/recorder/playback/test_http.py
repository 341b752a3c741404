"""The HTTP face of playback and finding, over real sockets, with its real middlewares."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiohttp
import jwt
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access.principals import Principal
from recorder.api import playback, recordings
from recorder.api.framework import PRINCIPAL, SERVICES, mount
from recorder.api.middleware import add_headers, observe, problems
from recorder.catalogue.enums import ChoiceKind, RecordingState, Role, ScopeKind
from recorder.catalogue.tables import Account, AuditEntry, ListeningLink, Recording, StoredObjectRow
from recorder.clock import ManualClock
from recorder.disposition.evaluation import reevaluate
from recorder.playback.renditions import make_peaks
from tests.recorder.conftest import make_controller
from tests.recorder.playback.conftest import World, chunks, make_audio

Client = TestClient[web.Request, web.Application]
As = Callable[[Principal], dict[str, str]]


@pytest.fixture
def people() -> dict[str, Principal]:
    return {}


@pytest.fixture
async def client(
    world: World, people: dict[str, Principal], aiohttp_client: Callable[..., Awaitable[Client]]
) -> Client:
    """The routes with the service's own middlewares; only who is asking is decided by the test."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        request[PRINCIPAL] = people.get(request.headers.get("X-Test-Person", ""))
        response: web.StreamResponse = await handler(request)
        return response

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(add_headers)
    mount(app, (*recordings.ROUTES, *playback.ROUTES))
    return await aiohttp_client(app)


@pytest.fixture
def by(people: dict[str, Principal]) -> As:
    def headers(person: Principal) -> dict[str, str]:
        people[person.id] = person
        return {"X-Test-Person": person.id}

    return headers


async def test_whole_range_and_head(client: Client, world: World, quality: Principal, by: As) -> None:
    source = await make_audio(4)
    recording_id = await world.recording(source)
    url = f"/api/v1/recordings/{recording_id}/audio?purpose=quality"
    async with client.get(url, headers=by(quality)) as answer:
        assert answer.status == 200
        assert await answer.read() == source
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Type"] == "audio/wav"
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert answer.headers["Content-Disposition"] == f'inline; filename="{recording_id}.wav"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        etag = answer.headers["ETag"]
    async with client.head(url, headers=by(quality)) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(source)))
        assert answer.headers["ETag"] == etag
        assert await answer.read() == b""
    for value, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=65000-70000", 65000, 70001),
        ("bytes=-7", -7, None),
    ):
        async with client.get(url, headers=by(quality) | {"Range": value, "If-Range": etag}) as answer:
            assert answer.status == 206
            assert await answer.read() == source[start:end]
            assert answer.headers["Content-Range"].endswith(f"/{len(source)}")
    async with client.get(url, headers=by(quality) | {"Range": "bytes=5-9", "If-Range": '"other"'}) as answer:
        assert (answer.status, len(await answer.read())) == (200, len(source))
    async with client.get(url, headers=by(quality) | {"Range": "bytes=-0"}) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{len(source)}"
        assert answer.content_type == "application/problem+json"
    async with client.get(url, headers=by(quality) | {"If-None-Match": etag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    async with client.get(url, headers=by(quality) | {"If-Match": '"other"'}) as answer:
        assert answer.status == 412
    async with world.services.database.snapshot() as session:
        opened = sa.select(sa.func.count()).where(AuditEntry.action == "listen.opened")
        assert await session.scalar(opened) == 1


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?purpose=marketing", 422),
        ("?purpose=quality&rendition=loud", 422),
        ("?purpose=quality&download=1", 422),
        ("?purpose=training", 403),
    ],
)
async def test_what_is_refused(
    client: Client, world: World, quality: Principal, by: As, query: str, status: int
) -> None:
    recording_id = await world.recording(await make_audio(1))
    async with client.get(f"/api/v1/recordings/{recording_id}/audio{query}", headers=by(quality)) as answer:
        assert answer.status == status
        problem = await answer.json(content_type="application/problem+json")
        assert problem["type"].startswith("urn:tallenne:problem:")


async def test_strangers_and_unknown_ids(client: Client, world: World, quality: Principal, by: As) -> None:
    recording_id = await world.recording(await make_audio(1))
    for path in ("audio?purpose=quality", "peaks", "retention", "history"):
        async with client.get(f"/api/v1/recordings/{recording_id}/{path}") as answer:
            assert answer.status == 401
    for other in (uuid.uuid4(), "1"):
        async with client.get(
            f"/api/v1/recordings/{other}/audio?purpose=quality", headers=by(quality)
        ) as answer:
            assert answer.status == 404


async def test_erased_names_its_certificate(client: Client, world: World, quality: Principal, by: As) -> None:
    recording_id = await world.recording(await make_audio(1), state=RecordingState.ERASED)
    for path in ("/audio?purpose=quality", "", "/peaks"):
        async with client.get(f"/api/v1/recordings/{recording_id}{path}", headers=by(quality)) as answer:
            assert answer.status == 410


async def test_damage_behind_the_first_segment_breaks_the_connection(
    client: Client, world: World, quality: Principal, by: As
) -> None:
    services = world.services
    recording_id = await world.recording(await make_audio(60))
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(StoredObjectRow))).one()
    async with services.store.get(row.key) as body:
        sealed = bytearray(b"".join([piece async for piece in body]))
    sealed[-1] ^= 1
    await services.store.delete_all(row.key)
    stat = await services.store.put(row.key, chunks(bytes(sealed)), size=len(sealed))
    async with services.database.transaction() as session:
        await session.execute(sa.update(StoredObjectRow).values(version_id=stat.version_id))
    url = f"/api/v1/recordings/{recording_id}/audio?purpose=quality"
    async with client.get(url, headers=by(quality)) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    async with client.get(url, headers=by(quality) | {"Range": "bytes=-10"}) as answer:
        assert answer.status == 502


async def test_links(client: Client, world: World, quality: Principal, by: As, clock: ManualClock) -> None:
    source = await make_audio(1)
    recording_id = await world.recording(source, agents=("a-17",))
    base = f"/api/v1/recordings/{recording_id}/links"
    async with client.post(base, json={"purpose": "quality"}, headers=by(quality)) as answer:
        assert answer.status == 201
        made = await answer.json()
    path = "/listen/" + made["url"].rpartition("/listen/")[2]
    assert str(recording_id) not in made["url"]
    colleague = await world.person(Role.QUALITY)
    async with client.get(path, headers=by(colleague) | {"Range": "bytes=0-9"}) as answer:
        assert (answer.status, await answer.read()) == (206, source[:10])
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "private, no-store"
    async with client.head(path, headers=by(colleague)) as answer:
        assert answer.status == 200
    async with client.get(path) as answer:
        assert answer.status == 401
    # A link is no ticket past role, scope and purpose.
    for other in (
        await world.person(Role.TRAINER),
        await world.person(Role.QUALITY, ScopeKind.QUEUE, "sales"),
    ):
        async with client.get(path, headers=by(other)) as answer:
            assert answer.status == 403
    async with client.delete(f"{base}/{made['id']}", headers=by(colleague)) as answer:
        assert answer.status == 404  # not theirs
    for _ in range(2):
        async with client.delete(f"{base}/{made['id']}", headers=by(quality)) as answer:
            assert answer.status == 204
    async with client.get(path, headers=by(colleague)) as answer:
        assert (await answer.json(content_type=None))["reason"] == "link-revoked"
    async with client.post(base, json={"purpose": "quality", "minutes": 5}, headers=by(quality)) as answer:
        path = "/listen/" + (await answer.json())["url"].rpartition("/listen/")[2]
    clock.advance(timedelta(minutes=5))
    async with client.get(path, headers=by(colleague)) as answer:
        assert (await answer.json(content_type=None))["reason"] == "link-expired"


async def test_a_link_hands_an_agent_their_own_call_as_feedback(client: Client, world: World, by: As) -> None:
    recording_id = await world.recording(await make_audio(1), agents=("a-17",))
    url = f"/api/v1/recordings/{recording_id}/audio?purpose=training"
    agent = await world.person(Role.AGENT, ScopeKind.OWN, agent_code="a-17")
    trainer = await world.person(Role.TRAINER)
    async with client.get(url, headers=by(agent)) as answer:
        assert answer.status == 403
    async with client.post(
        f"/api/v1/recordings/{recording_id}/links",
        json={"purpose": "training", "recipient": agent.id},
        headers=by(trainer),
    ) as answer:
        path = "/listen/" + (await answer.json())["url"].rpartition("/listen/")[2]
    async with client.get(path, headers=by(agent)) as answer:
        assert answer.status == 200
    async with client.get(path, headers=by(trainer)) as answer:
        assert (await answer.json(content_type=None))["reason"] == "link-recipient"
    async with world.services.database.transaction() as session:
        await session.execute(
            sa.update(Account)
            .where(Account.id == uuid.UUID(trainer.id))
            .values(disabled_at=world.services.clock.now())
        )
    async with client.get(path, headers=by(agent)) as answer:
        assert (await answer.json(content_type=None))["reason"] == "link-maker"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"purpose": "marketing"},
        {"purpose": "quality", "minutes": 0},
        {"purpose": "quality", "minutes": 100_000},
        {"purpose": "quality", "recipient": str(uuid.uuid4())},
        {"purpose": "quality", "extra": 1},
    ],
)
async def test_bad_links(
    client: Client, world: World, quality: Principal, by: As, body: dict[str, Any]
) -> None:
    recording_id = await world.recording(await make_audio(1))
    async with client.post(
        f"/api/v1/recordings/{recording_id}/links", json=body, headers=by(quality)
    ) as answer:
        assert answer.status == 422


async def test_forged_tokens(client: Client, world: World, quality: Principal, by: As) -> None:
    recording_id = await world.recording(await make_audio(1))
    async with client.post(
        f"/api/v1/recordings/{recording_id}/links", json={"purpose": "quality"}, headers=by(quality)
    ) as answer:
        made = await answer.json()
    token = made["url"].rpartition("/")[2]
    link = uuid.UUID(made["id"]).hex
    other = world.services.keyring.signing_key("receipts")
    forged = [
        token[:-4] + "AAAA",
        token + "A" * 600,
        jwt.encode({"link": link}, "", algorithm="none", headers={"typ": "tallenne-link+jwt"}),
        jwt.encode({"link": link}, other, algorithm="EdDSA", headers={"typ": "tallenne-link+jwt"}),
        jwt.encode({"link": link}, world.services.keyring.signing_key("links"), algorithm="EdDSA"),
        "x",
    ]
    for each in forged:
        async with client.get(f"/listen/{each}", headers=by(quality)) as answer:
            assert answer.status == 404, each
    async with client.get(f"/listen/{token}", headers=by(quality)) as answer:
        assert answer.status == 200


async def test_peaks_over_http(client: Client, world: World, quality: Principal, by: As) -> None:
    recording_id = await world.recording(await make_audio(1))
    url = f"/api/v1/recordings/{recording_id}/peaks"
    async with client.get(url, headers=by(quality)) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    await make_peaks(world.services, recording_id)
    async with client.get(url, headers=by(quality)) as answer:
        assert (await answer.json())["length"] == 100


# Finding


async def evaluated(world: World, *recording_ids: uuid.UUID) -> None:
    async with world.services.database.transaction() as session:
        await reevaluate(session, world.services, recording_ids, world.services.clock.now())


async def listed(client: Client, headers: dict[str, str], query: str = "") -> list[str]:
    async with client.get(f"/api/v1/recordings{query}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return [item["id"] for item in (await answer.json())["items"]]


async def test_filters_scopes_and_pages(client: Client, world: World, quality: Principal, by: As) -> None:
    audio = await make_audio(1)
    customer = await world.customer()
    new = str(await world.recording(audio, days_ago=1, agents=("a-1", "a-2"), queue="support", tags=("vip",)))
    mid = str(await world.recording(audio, days_ago=2, agents=("a-2",), queue="sales", customer=customer))
    old = str(
        await world.recording(audio, days_ago=3, agents=(), queue=None, state=RecordingState.QUARANTINED)
    )
    gone = str(await world.recording(audio, days_ago=4, state=RecordingState.ERASED))
    everyone = by(quality)
    assert await listed(client, everyone) == [new, mid, old]
    assert await listed(client, everyone, "?agent=a-2") == [new, mid]
    assert await listed(client, everyone, "?queue=sales") == [mid]
    assert await listed(client, everyone, f"?customer={customer.id}") == [mid]
    assert await listed(client, everyone, "?state=erased") == [gone]
    assert await listed(client, everyone, "?from=2026-03-03T00:00:00Z&to=2026-03-04T00:00:00%2B00:00") == [
        mid
    ]
    assert await listed(client, everyone, "?tag=none") == []
    team = by(await world.person(Role.QUALITY, ScopeKind.TEAM, "a-1"))
    assert await listed(client, team) == [new]
    queue = by(await world.person(Role.TRAINER, ScopeKind.QUEUE, "sales", "nowhere"))
    assert await listed(client, queue) == [mid]
    assert await listed(client, by(await world.person(Role.AGENT, ScopeKind.OWN, agent_code="a-2"))) == [
        new,
        mid,
    ]
    async with client.get(
        "/api/v1/recordings", headers=by(await world.person(Role.AGENT, ScopeKind.OWN))
    ) as answer:
        assert answer.status == 403  # an agent without a code has no calls

    seen, query = [], "?limit=1"
    while True:
        async with client.get(f"/api/v1/recordings{query}", headers=everyone) as answer:
            page = await answer.json()
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        query = f"?limit=1&cursor={page['next']}"
    assert seen == [new, mid, old]


async def test_calls_of_the_same_second_are_all_paged(
    client: Client, world: World, quality: Principal, by: As
) -> None:
    audio = await make_audio(1)
    ids = {str(await world.recording(audio)) for _ in range(5)}
    first = await listed(client, by(quality), "?limit=2")
    async with client.get("/api/v1/recordings?limit=2", headers=by(quality)) as answer:
        cursor = (await answer.json())["next"]
    rest = await listed(client, by(quality), f"?cursor={cursor}")
    assert (len(first), len(rest), {*first, *rest}) == (2, 3, ids)


@pytest.mark.parametrize(
    "query",
    [
        "?cursor=nonsense",
        "?cursor=W10",
        "?limit=0",
        "?limit=9999",
        "?customer=K-1001",
        "?from=yesterday",
        "?from=2026-03-03T00:00:00",
        "?from=0001-01-01T00:00:00%2B14:00",
        "?to=9999-12-31T23:59:59-12:00",
        "?state=lost",
        "?phone=040",
        "?queue=a&queue=b",
        "?queue=%00",
    ],
)
async def test_bad_filters(client: Client, quality: Principal, by: As, query: str) -> None:
    async with client.get(f"/api/v1/recordings{query}", headers=by(quality)) as answer:
        assert answer.status == 422


async def test_lists_are_refused_to_others(client: Client, world: World, by: As) -> None:
    for role in (Role.OPERATOR, Role.AUDITOR, Role.CRM):
        async with client.get("/api/v1/recordings", headers=by(await world.person(role))) as answer:
            assert answer.status == 403
    other = await make_controller(world.services, "se-main", "SE", "Europe/Stockholm")
    person = await world.person(Role.LEGAL)
    async with client.get(f"/api/v1/recordings?controller={other.id}", headers=by(person)) as answer:
        assert (await answer.json(content_type=None))["reason"] == "other-controller"


async def test_playable_follows_role_and_window(
    client: Client, world: World, quality: Principal, by: As, clock: ManualClock
) -> None:
    customer = await world.customer()
    recording_id = await world.recording(await make_audio(1), customer=customer)
    await evaluated(world, recording_id)
    url = f"/api/v1/recordings/{recording_id}"
    async with client.get(url, headers=by(quality)) as answer:
        detail = await answer.json()
    assert [p["purpose"] for p in detail["playable"]] == ["quality"]
    assert detail["metadata"] is None
    assert detail["customer"] == {"id": str(customer.id)}
    assert [c["id"] for c in detail["customers"]] == [str(customer.id)]
    await world.choose(customer, ChoiceKind.OBJECTION)
    clock.advance(timedelta(seconds=1))
    await evaluated(world, recording_id)
    async with client.get(url, headers=by(quality)) as answer:
        assert (await answer.json())["playable"] == []
    async with client.get(f"{url}/retention", headers=by(quality)) as answer:
        explained = await answer.json()
    windows = {w["purpose"]: w for w in explained["windows"]}
    assert windows["quality"]["state"] == "closed"
    assert windows["legal_protection"]["state"] == "open"
    assert any("objection" in text for text in explained["explanation"])
    assert explained["erase_on"] is not None


async def test_a_link_to_an_erased_call_says_that_it_is_gone(
    client: Client, world: World, quality: Principal, by: As, clock: ManualClock
) -> None:
    recording_id = await world.recording(await make_audio(1))
    async with client.post(
        f"/api/v1/recordings/{recording_id}/links", json={"purpose": "quality"}, headers=by(quality)
    ) as answer:
        path = "/listen/" + (await answer.json())["url"].rpartition("/listen/")[2]
    async with world.services.database.transaction() as session:
        # As an erasure leaves them: the links are revoked as well.
        await session.execute(sa.update(ListeningLink).values(revoked_at=clock.now()))
        await session.execute(sa.update(Recording).values(state=RecordingState.ERASED))
    async with client.get(path, headers=by(quality)) as answer:
        assert answer.status == 410


async def test_custody_outlives_the_recording(
    client: Client, world: World, quality: Principal, legal: Principal, by: As
) -> None:
    recording_id = await world.recording(await make_audio(1))
    async with client.get(
        f"/api/v1/recordings/{recording_id}/audio?purpose=quality", headers=by(quality)
    ) as answer:
        await answer.read()
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(state=RecordingState.ERASED))
    url = f"/api/v1/recordings/{recording_id}/history"
    async with client.get(url, headers=by(legal)) as answer:
        assert answer.status == 200
        items = (await answer.json())["items"]
    assert [item["entry"]["action"] for item in items] == ["listen.opened"]
    assert json.dumps(items).count(quality.actor) == 1
    async with client.get(url, headers=by(quality)) as answer:
        assert answer.status == 403


async def test_search_by_what_is_personal(client: Client, world: World, by: As, legal: Principal) -> None:
    from recorder.catalogue.subjects import blind_index
    from recorder.catalogue.tables import BlindIndex

    audio = await make_audio(1)
    customer = await world.customer()
    linked = str(await world.recording(audio, days_ago=1, customer=customer))
    unknown_id = await world.recording(audio, days_ago=2)
    await world.recording(audio, days_ago=3)
    keyring, controller_id = world.services.keyring, world.controller.id
    async with world.services.database.transaction() as session:
        row = await session.get_one(Recording, unknown_id)
        for kind, value, customer_id, recording_id, subject_id in (
            ("number", "K-1001", customer.id, None, customer.subject_id),
            ("phone", "+358401234567", customer.id, None, customer.subject_id),
            ("phone", "+358401234567", None, unknown_id, row.subject_id),
        ):
            session.add(
                BlindIndex(
                    id=uuid.uuid4(),
                    controller_id=controller_id,
                    kind=kind,
                    digest=blind_index(keyring, controller_id, kind, value),
                    subject_id=subject_id,
                    customer_id=customer_id,
                    recording_id=recording_id,
                )
            )

    async def search(body: dict[str, str]) -> list[str]:
        async with client.post("/api/v1/recordings/search", json=body, headers=by(legal)) as answer:
            assert answer.status == 200, await answer.text()
            return [item["id"] for item in (await answer.json())["items"]]

    assert await search({"phone": "040 123 4567"}) == [linked, str(unknown_id)]
    assert await search({"number": "k-1001"}) == [linked]
    assert await search({"number": "K-1001", "phone": "0401234567"}) == [linked]
    assert await search({"number": "K-9"}) == []
    async with world.services.database.snapshot() as session:
        query = sa.select(AuditEntry.payload).where(AuditEntry.action == "recordings.searched")
        payloads = b"".join(await session.scalars(query))
    assert payloads.count(b"recordings.searched") == 4
    assert b"1001" not in payloads
    assert b"4567" not in payloads
    for blank in ("number", "phone", "name"):
        async with client.post("/api/v1/recordings/search", json={blank: " "}, headers=by(legal)) as answer:
            assert answer.status == 422
    async with client.post("/api/v1/recordings/search", json={"phone": "x"}, headers=by(legal)) as answer:
        assert answer.status == 422
        assert "x" not in (await answer.json(content_type=None))["detail"].split()
