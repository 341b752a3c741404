"""What is revoked while an answer is sent ends it within seconds; bad objects met there are findings."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access import accounts, sessions, tokens
from recorder.access.principals import Grant, Principal
from recorder.api import playback
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import authenticate, observe, problems
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Finding, Recording, RoleGrant, StoredObjectRow, WebSession
from recorder.clock import ManualClock
from recorder.disposition.evaluation import reevaluate
from recorder.disposition.redaction import redact
from recorder.errors import Corrupt, Forbidden, Unavailable
from recorder.playback import links, serve
from recorder.playback.decide import Rendition
from recorder.playback.renditions import make_rendition
from recorder.playback.serve import open_listen, stream
from retention.model import Purpose
from tests.recorder.playback.conftest import World, make_audio

Client = TestClient[web.Request, web.Application]
CONSOLE = Principal("os", "installer", None)


@pytest.fixture
async def client(world: World, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    mount(app, playback.ROUTES)
    return await aiohttp_client(app)


async def actions(world: World, action: str) -> int:
    async with world.services.database.snapshot() as session:
        query = sa.select(sa.func.count()).where(AuditEntry.action == action)
        return int(await session.scalar(query) or 0)


async def long_call(world: World, seconds: float = 60) -> tuple[uuid.UUID, bytes]:
    source = await make_audio(seconds)
    recording_id = await world.recording(source, customer=await world.customer(), days_ago=1)
    async with world.services.database.transaction() as session:
        await reevaluate(session, world.services, [recording_id], world.services.clock.now())
    return recording_id, source


Change = Callable[[World], Awaitable[None]]


async def _sign_out(world: World) -> None:
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(WebSession).values(revoked_at=world.services.clock.now()))


async def _take_role(world: World) -> None:
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(RoleGrant).values(revoked_at=world.services.clock.now()))


async def _mute(world: World) -> None:
    spans = [{"from_ms": 100, "to_ms": 200, "reason": "payment"}]
    async with world.services.database.transaction() as session:
        await session.execute(sa.update(Recording).values(muted=spans))


@pytest.mark.parametrize("change", [_sign_out, _take_role, _mute])
@pytest.mark.parametrize("way", ["recording", "link"])
async def test_an_answer_is_broken_off(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch, change: Change, way: str
) -> None:
    services = world.services
    recording_id, source = await long_call(world)
    account_id = await world.account()
    grant = Grant(Role.QUALITY, world.controller.id, ScopeKind.CONTROLLER)
    await accounts.grant_role(services, CONSOLE, account_id, grant)
    url = f"/api/v1/recordings/{recording_id}/audio?purpose=quality"
    if way == "link":
        maker = Principal("account", str(account_id), world.controller.id, (grant,))
        made = await links.create_link(services, maker, recording_id, Purpose.QUALITY)
        url = made.url[made.url.index("/listen/") :]
    opened = await sessions.open_session(services, account_id)
    headers = {"Cookie": f"recorder_session={opened.cookie}"}
    async with client.get(url, headers=headers) as answer:
        assert (answer.status, await answer.read()) == (200, source)

    asked, original = 0, sessions.authenticate_session

    async def authenticate_session(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:  # at the door, before the first piece, before the second one
            await change(world)
        return await original(*arguments)

    monkeypatch.setattr(sessions, "authenticate_session", authenticate_session)
    monkeypatch.setattr(serve, "CHECK_AGAIN", timedelta(0))
    got = bytearray()

    async def hear() -> None:
        # Worded differently, so that it goes the full way again.
        again = url if way == "link" else f"{url}&rendition=playback"
        async with client.get(again, headers=headers) as answer:
            assert answer.status == 200
            async for piece in answer.content.iter_any():
                got.extend(piece)

    with pytest.raises(aiohttp.ClientPayloadError):
        await hear()
    assert asked == 3
    assert len(got) < len(source) / 2
    assert await actions(world, "listen.cut") == (0 if change is _sign_out else 1)


async def test_a_revoked_token_ends_its_answer(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = world.services
    recording_id, source = await long_call(world)
    issued = await tokens.issue_token(
        services, CONSOLE, controller_id=world.controller.id, label="player", role=Role.QUALITY
    )
    original = tokens.authenticate_bearer
    asked = 0

    async def authenticate_bearer(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            await tokens.revoke_token(services, CONSOLE, issued.id)
        return await original(*arguments)

    monkeypatch.setattr(tokens, "authenticate_bearer", authenticate_bearer)
    monkeypatch.setattr(serve, "CHECK_AGAIN", timedelta(0))
    url = f"/api/v1/recordings/{recording_id}/audio?purpose=quality"
    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.get(url, headers={"Authorization": f"Bearer {issued.token}"}) as answer:
            await answer.read()
    assert asked == 3
    assert source


async def test_it_is_asked_every_few_seconds_and_an_outage_is_borne_for_half_a_minute(
    world: World, quality: Principal, clock: ManualClock
) -> None:
    services = world.services
    recording_id, _ = await long_call(world, 400)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    asked: list[int] = []

    async def again() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise Unavailable("away", dependency="database")

    async with stream(services, audio, again=again) as pieces:
        await anext(pieces)
        await anext(pieces)
        assert asked == []
        for seconds, expected in ((4, 0), (1, 1), (4, 1), (25, 2)):
            clock.advance(timedelta(seconds=seconds))
            await anext(pieces)
            assert len(asked) == expected
        clock.advance(timedelta(seconds=5))
        with pytest.raises(Unavailable):
            await anext(pieces)


async def test_a_stretch_muted_during_a_listen_is_not_in_the_next_range(
    world: World, quality: Principal
) -> None:
    """Of the original, and of a silenced copy that was made without it."""
    services = world.services
    recording_id, _ = await long_call(world)
    heard = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    for number in range(2):
        await redact(
            services,
            CONSOLE,
            recording_id,
            from_ms=1000 * number,
            to_ms=1000 * number + 500,
            reason="payment",
        )
        with pytest.raises((Forbidden, Unavailable)):
            await serve.check_again(services, quality, heard, Purpose.QUALITY, Rendition.PLAYBACK)
        with pytest.raises(Unavailable):  # it is being made
            await open_listen(services, quality, recording_id, Purpose.QUALITY)
        await make_rendition(services, recording_id)
        after = await open_listen(services, quality, recording_id, Purpose.QUALITY)
        assert after.obj.role == "redacted"
        assert after.obj.object_id != heard.obj.object_id
        heard = after


@pytest.mark.parametrize("kind", ["missing", "tampered"])
async def test_a_bad_object_met_while_playing_is_a_finding(
    world: World, quality: Principal, kind: str
) -> None:
    services = world.services
    recording_id, _ = await long_call(world)
    audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    async with services.store.get(audio.obj.key) as body:
        sealed = bytearray(b"".join([piece async for piece in body]))
    await services.store.delete_all(audio.obj.key)
    if kind == "tampered":
        sealed[1000] ^= 1

        async def pieces() -> Any:
            yield bytes(sealed)

        stat = await services.store.put(audio.obj.key, pieces(), size=len(sealed))
        async with services.database.transaction() as session:
            await session.execute(sa.update(StoredObjectRow).values(version_id=stat.version_id))
        audio = await open_listen(services, quality, recording_id, Purpose.QUALITY)
    for _ in range(2):
        with pytest.raises(Corrupt):
            async with stream(services, audio):
                pytest.fail("nothing may be handed out")
    async with services.database.snapshot() as session:
        finding = (await session.scalars(sa.select(Finding))).one()
        assert (finding.kind, finding.state, finding.recording_id) == (kind, "open", recording_id)
        assert finding.detail == {"role": "original", "met": "playback"}
    assert services.metrics.registry.get_sample_value("recorder_corrupt_objects_total") == 2
