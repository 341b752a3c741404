"""Between two ranges of one listen something changes: the very next range is refused, the short way or not.

Over real sockets, with the service's own middlewares, tokens and session cookies. Every case first shows that
a second range does go the short way, so that what refuses the third one is the statement in its place.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestClient

from recorder.access import accounts, sessions, tokens
from recorder.access.principals import Grant, Principal
from recorder.api import playback
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import authenticate, observe, problems
from recorder.api.playback import CONTINUED
from recorder.catalogue.enums import ChoiceKind, RecordingState, Role, ScopeKind
from recorder.catalogue.tables import (
    Account,
    ApiToken,
    AuditEntry,
    Listen,
    ListeningLink,
    Recording,
    RoleGrant,
    StoredObjectRow,
    Subject,
    WebSession,
)
from recorder.clock import ManualClock
from recorder.customers import ledger
from recorder.disposition import holds, schedules
from recorder.disposition.evaluation import reevaluate
from recorder.playback.serve import close_idle_listens
from retention.decision import Decision
from retention.model import Purpose
from tests.recorder.playback.conftest import World, make_audio

Client = TestClient[web.Request, web.Application]
CONSOLE = Principal("os", "installer", None)
SHORT = "short"  # the answer went the short way


@dataclass
class Heard:
    """A listen in the middle: who hears what, and how its next range is asked for."""

    world: World
    client: Client
    short: list[bool]
    recording_id: uuid.UUID
    customer_id: uuid.UUID
    source: bytes
    headers: dict[str, str]
    purpose: str = "quality"
    account_id: uuid.UUID | None = None
    token_id: uuid.UUID | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    async def range(self, start: int = 100, end: int = 70_000) -> int | str:
        """Status of the next range; SHORT for one that was heard without going the full way."""
        url = f"/api/v1/recordings/{self.recording_id}/audio?purpose={self.purpose}"
        headers = self.headers | {"Range": f"bytes={start}-{end - 1}"}
        self.short.clear()
        async with self.client.get(url, headers=headers) as answer:
            body = await answer.read()
            if answer.status == 206:
                assert body == self.source[start:end]
            else:
                assert self.source[start:end] not in body
            return SHORT if answer.status == 206 and self.short == [True] else answer.status

    async def begin(self) -> None:
        assert await self.range() == 206
        assert await self.range(65_000, 66_000) == SHORT

    async def change(self, statement: sa.Update) -> None:
        async with self.world.services.database.transaction() as session:
            await session.execute(statement)


@pytest.fixture
async def client(world: World, short: list[bool], aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    async def note(request: web.Request, _response: web.StreamResponse) -> None:
        short.append(CONTINUED in request)

    app = web.Application(middlewares=[observe, problems, authenticate])
    app[SERVICES] = world.services
    app.on_response_prepare.append(note)
    mount(app, playback.ROUTES)
    return await aiohttp_client(app)


@pytest.fixture
def short() -> list[bool]:
    return []


Begin = Callable[..., Awaitable[Heard]]


@pytest.fixture
def begin(world: World, client: Client, short: list[bool]) -> Begin:
    """Factory: a listen with its first range heard and a second one heard the short way."""

    async def make(
        by: str = "token",
        role: Role = Role.QUALITY,
        purpose: Purpose = Purpose.QUALITY,
        scope: ScopeKind = ScopeKind.CONTROLLER,
        agent_code: str | None = None,
        days_ago: int = 1,
        before: Callable[[Heard], Awaitable[None]] | None = None,
    ) -> Heard:
        services = world.services
        source = await make_audio(8)
        customer = await world.customer()
        recording_id = await world.recording(source, customer=customer, days_ago=days_ago)
        heard = Heard(world, client, short, recording_id, customer.id, source, {}, purpose.value)
        async with services.database.transaction() as session:
            await reevaluate(session, services, [recording_id], services.clock.now())
        if before is not None:
            await before(heard)
        controller_id = world.controller.id
        heard.account_id = await world.account()
        if by == "token":
            issued = await tokens.issue_token(
                services,
                CONSOLE,
                controller_id=controller_id,
                label="player",
                role=role,
                owner_id=heard.account_id,
            )
            heard.token_id = issued.id
            heard.headers = {"Authorization": f"Bearer {issued.token}"}
        else:
            await heard.change(
                sa.update(Account).where(Account.id == heard.account_id).values(agent_code=agent_code)
            )
            heard.extra["grant"] = await accounts.grant_role(
                services, CONSOLE, heard.account_id, Grant(role, controller_id, scope)
            )
            opened = await sessions.open_session(services, heard.account_id)
            heard.extra["cookie"] = opened.cookie
            heard.headers = {"Cookie": f"recorder_session={opened.cookie}"}
            if role is Role.AGENT:
                await hand_over(heard)
        await heard.begin()
        return heard

    return make


async def hand_over(heard: Heard) -> None:
    now = heard.world.services.clock.now()
    async with heard.world.services.database.transaction() as session:
        session.add(
            ListeningLink(
                id=uuid.uuid4(),
                recording_id=heard.recording_id,
                purpose=heard.purpose,
                rendition="playback",
                created_by=f"account:{uuid.uuid4()}",
                recipient_id=heard.account_id,
                created_at=now,
                expires_at=now + timedelta(minutes=5),
                revoked_at=None,
            )
        )


async def opened_entries(heard: Heard) -> int:
    async with heard.world.services.database.snapshot() as session:
        query = sa.select(sa.func.count()).where(AuditEntry.action == "listen.opened")
        return int(await session.scalar(query) or 0)


@pytest.mark.parametrize("by", ["token", "session"])
async def test_many_short_ranges_are_one_listen_and_all_are_counted(begin: Begin, by: str) -> None:
    heard = await begin(by)
    services = heard.world.services
    for start in (0, 64_000, 100_000):
        assert await heard.range(start, start + 1000) == SHORT
    assert await opened_entries(heard) == 1
    await services.counts.close(services.database)
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(Listen))).one()
    assert row.bytes_sent == 69_900 + 1000 + 3 * 1000


# The credential


async def test_a_revoked_token(begin: Begin) -> None:
    heard = await begin()
    assert heard.token_id is not None
    await tokens.revoke_token(heard.world.services, CONSOLE, heard.token_id)
    assert await heard.range() == 401


async def test_an_expired_token(begin: Begin, clock: ManualClock) -> None:
    heard = await begin()
    end = clock.now() + timedelta(seconds=5)
    await heard.change(sa.update(ApiToken).where(ApiToken.id == heard.token_id).values(expires_at=end))
    assert await heard.range() == SHORT
    clock.set(end)
    assert await heard.range() == 401


async def test_another_secret_of_the_same_token(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(ApiToken).values(secret_hash=bytes(32)))
    assert await heard.range() == 401


async def test_a_token_whose_owner_left(begin: Begin) -> None:
    heard = await begin()
    assert heard.account_id is not None
    await accounts.disable_account(heard.world.services, CONSOLE, heard.account_id)
    assert await heard.range() == 401


async def test_a_token_that_got_another_role(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(ApiToken).values(role=Role.TRAINER))
    assert await heard.range() == 403


async def test_a_token_that_was_narrowed(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(ApiToken).values(scope=ScopeKind.QUEUE, values=["sales"]))
    assert await heard.range() == 403


async def test_a_closed_session(begin: Begin) -> None:
    heard = await begin("session")
    await sessions.close_session(heard.world.services, heard.extra["cookie"])
    assert await heard.range() == 401


async def test_an_idle_session(begin: Begin, clock: ManualClock) -> None:
    heard = await begin("session")
    idle = timedelta(minutes=heard.world.services.settings.session_idle_minutes)
    await heard.change(sa.update(WebSession).values(last_seen_at=clock.now() - idle))
    assert await heard.range() == 401


async def test_a_disabled_account(begin: Begin) -> None:
    heard = await begin("session")
    assert heard.account_id is not None
    # Not by `disable_account`, which ends the sessions as well: the account alone must suffice.
    now = heard.world.services.clock.now()
    await heard.change(sa.update(Account).where(Account.id == heard.account_id).values(disabled_at=now))
    assert await heard.range() == 401


async def test_a_revoked_role(begin: Begin) -> None:
    heard = await begin("session")
    await accounts.revoke_role(heard.world.services, CONSOLE, heard.extra["grant"])
    assert await heard.range() == 403


async def test_a_role_with_another_scope(begin: Begin) -> None:
    heard = await begin("session")
    await heard.change(sa.update(RoleGrant).values(scope=ScopeKind.QUEUE, values=["sales"]))
    assert await heard.range() == 403


async def test_a_listening_link_that_was_revoked(begin: Begin) -> None:
    heard = await begin("session", Role.AGENT, Purpose.TRAINING, ScopeKind.OWN, "a-17")
    await heard.change(sa.update(ListeningLink).values(revoked_at=heard.world.services.clock.now()))
    assert await heard.range() == 403


async def test_a_listening_link_that_ran_out(begin: Begin, clock: ManualClock) -> None:
    heard = await begin("session", Role.AGENT, Purpose.TRAINING, ScopeKind.OWN, "a-17")
    await heard.change(sa.update(ListeningLink).values(expires_at=clock.now()))
    assert await heard.range() == 403


# The decision


async def object_to(heard: Heard, kind: ChoiceKind, *, in_seconds: int = 0) -> None:
    services = heard.world.services
    await ledger.add_choice(
        services,
        heard.world.controller.id,
        heard.customer_id,
        kind=kind,
        purposes=[],
        channel=None,
        effective_at=services.clock.now() + timedelta(seconds=in_seconds),
        source="call",
        actor="system:test",
        request_id=uuid.uuid4().hex,
    )


@pytest.mark.parametrize("by", ["token", "session"])
@pytest.mark.parametrize("kind", [ChoiceKind.OBJECTION, ChoiceKind.RESTRICTION])
async def test_an_objection_or_a_restriction(begin: Begin, by: str, kind: ChoiceKind) -> None:
    heard = await begin(by)
    await object_to(heard, kind)
    assert await heard.range() == 403


@pytest.mark.parametrize("kind", [ChoiceKind.OBJECTION, ChoiceKind.RESTRICTION])
async def test_a_choice_that_begins_later(begin: Begin, clock: ManualClock, kind: ChoiceKind) -> None:
    heard = await begin()
    await object_to(heard, kind, in_seconds=30)
    assert await heard.range() == SHORT
    clock.advance(timedelta(seconds=30))
    assert await heard.range() == 403


async def test_a_restriction_of_one_recording(begin: Begin) -> None:
    heard = await begin()
    services = heard.world.services
    async with services.database.transaction() as session:
        await holds.restrict(
            session,
            services,
            controller_id=heard.world.controller.id,
            recording_id=heard.recording_id,
            ground="accuracy",
            actor="system:test",
            now=services.clock.now(),
        )
    assert await heard.range() == 403


async def test_a_hold_that_was_released(begin: Begin) -> None:
    async def place(heard: Heard) -> None:
        services, now = heard.world.services, heard.world.services.clock.now()
        async with services.database.transaction() as session:
            matter = await holds.open_matter(
                session,
                services,
                controller_id=heard.world.controller.id,
                reference="2026-014",
                ground="legal_claims",
                review_on=now + timedelta(days=90),
                actor="system:test",
                now=now,
            )
            hold = await holds.place_hold(
                session, services, matter, recording_id=heard.recording_id, actor="system:test", now=now
            )
        heard.extra |= {"matter": matter, "hold": hold.id}

    # So old that nothing but the hold keeps it open.
    heard = await begin("session", Role.LEGAL, Purpose.LEGAL_PROTECTION, days_ago=365 * 30, before=place)
    services = heard.world.services
    async with services.database.transaction() as session:
        matter = await holds.get_matter(session, heard.extra["matter"].id)
        await holds.release_hold(
            session, services, matter, heard.extra["hold"], actor="system:test", now=services.clock.now()
        )
    assert await heard.range() == 403


async def test_a_window_that_closes(begin: Begin, clock: ManualClock) -> None:
    async def shortly_before_its_end(heard: Heard) -> None:
        async with heard.world.services.database.snapshot() as session:
            row = await session.get_one(Recording, heard.recording_id)
        end = Decision.from_json(row.decision or {}).windows[Purpose.QUALITY].end
        assert end is not None
        heard.extra["end"] = end
        clock.set(end - timedelta(seconds=10))

    heard = await begin(before=shortly_before_its_end)
    clock.set(heard.extra["end"] - timedelta(microseconds=1))
    assert await heard.range() == SHORT
    clock.set(heard.extra["end"])
    assert await heard.range() == 403


async def test_a_new_schedule_before_anything_was_evaluated_again(begin: Begin) -> None:
    heard = await begin(days_ago=5)
    services, controller = heard.world.services, heard.world.controller
    now = services.clock.now()
    async with services.database.transaction() as session:
        (first,) = await schedules.listing(session, controller.id)
        text = first.document.replace("version    = 1\n", "version    = 2\n").replace('"P1Y"', '"P1D"')
        row = await schedules.add_version(session, controller.id, text, actor="system:test", now=now)
        await schedules.activate(session, controller.id, row.version, actor="system:test", now=now)
    assert await heard.range() == 403


async def test_a_decision_that_is_not_there(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(Recording).values(decision=None))
    assert await heard.range() == 206  # the full way


# The recording


@pytest.mark.parametrize("by", ["token", "session"])
@pytest.mark.parametrize(
    ("state", "status"),
    [
        (RecordingState.ERASING, 410),
        (RecordingState.ERASED, 410),
        (RecordingState.QUARANTINED, 403),
        (RecordingState.SPOOLED, 503),
    ],
)
async def test_another_state(begin: Begin, by: str, state: RecordingState, status: int) -> None:
    heard = await begin(by)
    await heard.change(sa.update(Recording).values(state=state))
    assert await heard.range() == status


async def test_a_destroyed_key(begin: Begin) -> None:
    heard = await begin()
    subject = sa.select(StoredObjectRow.subject_id).scalar_subquery()
    await heard.change(sa.update(Subject).where(Subject.id == subject).values(wrapped_key=None))
    assert await heard.range() == 410


async def test_a_destroyed_object_key(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(StoredObjectRow).values(wrapped_key=None))
    assert await heard.range() == 502  # stored, and its original is nowhere


async def test_a_deleted_object(begin: Begin) -> None:
    heard = await begin()
    await heard.change(sa.update(StoredObjectRow).values(deleted_at=heard.world.services.clock.now()))
    assert await heard.range() == 502


@pytest.mark.parametrize("reason", ["payment", "card_security"])
async def test_spans_that_are_muted_now(begin: Begin, reason: str) -> None:
    heard = await begin()
    spans = [{"from_ms": 100, "to_ms": 200, "reason": reason}]
    await heard.change(sa.update(Recording).values(muted=spans))
    assert await heard.range() == 503  # its silenced rendition is not made yet


# The listen


async def test_a_listen_that_was_closed_opens_anew(begin: Begin, clock: ManualClock) -> None:
    heard = await begin()
    services = heard.world.services
    clock.advance(timedelta(seconds=services.settings.listen_idle_seconds + 1))
    assert await heard.range() == 206
    assert await opened_entries(heard) == 2
    assert await heard.range() == SHORT
    await heard.change(sa.update(Listen).values(closed_at=clock.now()))
    assert await heard.range() == 206
    assert await opened_entries(heard) == 3


async def test_what_is_sent_keeps_a_listen_open(begin: Begin, clock: ManualClock) -> None:
    heard = await begin()
    services = heard.world.services
    for _ in range(3):
        clock.advance(timedelta(seconds=services.settings.listen_idle_seconds - 1))
        assert await heard.range() in (206, SHORT)
        assert await close_idle_listens(services, clock.now()) == 0
    assert await opened_entries(heard) == 1


async def test_another_caller_does_not_continue_it(begin: Begin, short: list[bool]) -> None:
    first, second = await begin(), await begin()
    stolen = Heard(
        second.world,
        second.client,
        short,
        first.recording_id,
        first.customer_id,
        first.source,
        second.headers,
    )
    assert await stolen.range() == 206
    assert await opened_entries(first) == 3


async def test_preconditions_and_heads_take_the_full_way(begin: Begin) -> None:
    heard = await begin()
    url = f"/api/v1/recordings/{heard.recording_id}/audio?purpose=quality"
    for method, extra, status in (
        ("GET", {"If-None-Match": "*"}, 304),
        ("GET", {"If-Match": '"other"'}, 412),
        ("GET", {"Range": "bytes=-0"}, 416),
        ("HEAD", {}, 200),
    ):
        heard.short.clear()
        async with heard.client.request(method, url, headers=heard.headers | extra) as answer:
            assert answer.status == status
        assert heard.short == [False]


async def test_altered_ciphertext_is_refused_on_the_short_way(begin: Begin) -> None:
    heard = await begin()
    services = heard.world.services
    async with services.database.snapshot() as session:
        row = (await session.scalars(sa.select(StoredObjectRow))).one()
    async with services.store.get(row.key) as body:
        sealed = bytearray(b"".join([piece async for piece in body]))
    sealed[1000] ^= 1

    async def altered() -> Any:
        yield bytes(sealed)

    await services.store.delete_all(row.key)
    stat = await services.store.put(row.key, altered(), size=len(sealed))
    await heard.change(sa.update(StoredObjectRow).values(version_id=stat.version_id))
    assert await heard.range() == 502
