"""What a cookie and a bearer token open, and when they stop."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from recorder.access.policy import Action, Target, decide
from recorder.access.principals import Principal
from recorder.access.sessions import authenticate_session, close_session, sign_in
from recorder.access.tokens import (
    authenticate_bearer,
    authenticate_token,
    issue_token,
    list_tokens,
    revoke_token,
    rotate_source_token,
)
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import ApiToken, Controller, Source, WebSession
from recorder.clock import ManualClock
from recorder.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from recorder.services import Services
from retention.model import Purpose
from tests.recorder.access.conftest import CONSOLE, PASSWORD, MakeAccount
from tests.recorder.conftest import make_controller


async def test_a_session_opens_idles_out_and_ends(
    services: Services, make_account: MakeAccount, clock: ManualClock
) -> None:
    account_id = await make_account("maija")
    opened = await sign_in(services, "maija", PASSWORD)
    found = await authenticate_session(services, opened.cookie)
    assert found is not None
    assert found[0].actor == f"account:{account_id}"
    assert found[1] == opened.csrf
    idle = timedelta(minutes=services.settings.session_idle_minutes)
    for _ in range(int(services.settings.session_hours)):
        clock.advance(idle - timedelta(seconds=1))
        assert await authenticate_session(services, opened.cookie) is not None
    clock.advance(timedelta(minutes=1))
    assert await authenticate_session(services, opened.cookie) is None  # the absolute end
    again = await sign_in(services, "maija", PASSWORD)
    clock.advance(idle)
    assert await authenticate_session(services, again.cookie) is None


async def test_signing_out_ends_the_session_once(services: Services, make_account: MakeAccount) -> None:
    await make_account("maija")
    one, other = await sign_in(services, "maija", PASSWORD), await sign_in(services, "maija", PASSWORD)
    assert one.cookie != other.cookie
    assert one.csrf != other.csrf
    await close_session(services, one.cookie)
    await close_session(services, one.cookie)
    assert await authenticate_session(services, one.cookie) is None
    assert await authenticate_session(services, other.cookie) is not None


@pytest.mark.parametrize("cookie", ["", "x", "é" * 43, "A" * 43, "A" * 100000, "%00", "\x00" * 43])
async def test_made_up_cookies_open_nothing(services: Services, cookie: str) -> None:
    assert await authenticate_session(services, cookie) is None
    await close_session(services, cookie)


async def test_secrets_are_stored_only_as_hashes(
    services: Services, controller: Controller, make_account: MakeAccount
) -> None:
    await make_account("maija")
    opened = await sign_in(services, "maija", PASSWORD)
    issued = await issue_token(services, CONSOLE, controller_id=controller.id, label="bi", role=Role.AUDITOR)
    assert opened.cookie not in repr(opened)
    assert issued.token not in repr(issued)
    async with services.database.snapshot() as session:
        rows = [
            *(await session.execute(sa.select(WebSession.__table__))).all(),
            *(await session.execute(sa.select(ApiToken.__table__))).all(),
        ]
    assert len(rows) == 2
    assert opened.cookie not in repr(rows)
    assert issued.token.split("_", 2)[2] not in repr(rows)


async def test_a_source_token_pushes_and_reads_nothing(
    services: Services, controller: Controller, source: Source
) -> None:
    issued = await issue_token(
        services, CONSOLE, controller_id=controller.id, label="pbx", source_id=source.id
    )
    assert issued.expires_at is None
    who = await authenticate_bearer(services, f"bearer {issued.token}")
    assert (who.kind, who.actor, who.source_id) == ("source", f"source:{source.id}", source.id)
    allowed = {
        a for a in Action if decide(who, a, controller_id=controller.id, purpose=Purpose.QUALITY).allowed
    }
    assert allowed == {Action.PUSH, Action.VIEW_RECEIPT}
    elsewhere = Target(source_id=uuid.uuid4())
    assert not decide(who, Action.PUSH, controller_id=controller.id, target=elsewhere).allowed


async def test_source_tokens_rotate_with_overlap(
    services: Services, controller: Controller, source: Source, clock: ManualClock
) -> None:
    old = await issue_token(services, CONSOLE, controller_id=controller.id, label="pbx", source_id=source.id)
    new = await rotate_source_token(services, CONSOLE, source.id, overlap=timedelta(hours=2))
    await authenticate_token(services, old.token)
    await authenticate_token(services, new.token)
    await rotate_source_token(
        services, CONSOLE, source.id, overlap=timedelta(days=9)
    )  # shortens nothing further
    clock.advance(timedelta(hours=2))
    with pytest.raises(Unauthenticated):
        await authenticate_token(services, old.token)
    await authenticate_token(services, new.token)


async def test_tokens_expire_and_are_revoked(
    services: Services, controller: Controller, clock: ManualClock
) -> None:
    short = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="short",
        role=Role.QUALITY,
        expires_at=clock.now() + timedelta(hours=1),
    )
    year = await issue_token(services, CONSOLE, controller_id=controller.id, label="year", role=Role.LEGAL)
    assert year.expires_at == clock.now() + timedelta(days=365)
    await authenticate_token(services, short.token)
    clock.advance(timedelta(hours=1))
    with pytest.raises(Unauthenticated):
        await authenticate_token(services, short.token)
    await authenticate_token(services, year.token)
    await revoke_token(services, CONSOLE, year.id)
    await revoke_token(services, CONSOLE, year.id)
    with pytest.raises(Unauthenticated):
        await authenticate_token(services, year.token)


async def test_a_source_that_is_switched_off_is_not_let_in(
    services: Services, controller: Controller, source: Source
) -> None:
    issued = await issue_token(
        services, CONSOLE, controller_id=controller.id, label="pbx", source_id=source.id
    )
    async with services.database.transaction() as session:
        await session.execute(sa.update(Source).values(enabled=False))
    with pytest.raises(Unauthenticated):
        await authenticate_token(services, issued.token)


async def test_an_agents_token_reaches_that_agents_calls(services: Services, controller: Controller) -> None:
    issued = await issue_token(
        services,
        CONSOLE,
        controller_id=controller.id,
        label="agent-app",
        role=Role.AGENT,
        scope=ScopeKind.OWN,
        values=["A1"],
    )
    who = await authenticate_token(services, issued.token)
    for agent, allowed in (("A1", True), ("A2", False)):
        verdict = decide(
            who,
            Action.LISTEN,
            controller_id=controller.id,
            purpose=Purpose.QUALITY,
            target=Target(agents=(agent,)),
        )
        assert verdict.allowed is allowed


async def test_a_wrong_secret_or_shape_is_told_nothing(services: Services, controller: Controller) -> None:
    issued = await issue_token(services, CONSOLE, controller_id=controller.id, label="t", role=Role.AUDITOR)
    last = "A" if issued.token[-1] != "A" else "B"
    for token in (
        issued.token[:-1] + last,
        issued.token + "A",
        f"rec_{uuid.uuid4().hex}_{issued.token.split('_', 2)[2]}",
        "",
        "rec__",
        "rec_" + "g" * 32 + "_" + "A" * 43,
        "x" * 100_000,
    ):
        with pytest.raises(Unauthenticated) as refusal:
            await authenticate_token(services, token)
        assert refusal.value.message == "the token is unknown, expired or revoked"
    with pytest.raises(Unauthenticated):
        await authenticate_bearer(services, f"Basic {issued.token}")


async def test_use_is_noted_but_not_at_every_request(
    services: Services, controller: Controller, clock: ManualClock
) -> None:
    issued = await issue_token(services, CONSOLE, controller_id=controller.id, label="t", role=Role.AUDITOR)
    start = clock.now()
    await authenticate_token(services, issued.token)
    clock.advance(timedelta(minutes=9))
    await authenticate_token(services, issued.token)
    [view] = await list_tokens(services, CONSOLE, controller.id)
    assert view.last_used_at == start
    clock.advance(timedelta(minutes=2))
    await authenticate_token(services, issued.token)
    [view] = await list_tokens(services, CONSOLE, controller.id)
    assert view.last_used_at == clock.now()


async def test_tokens_that_make_no_sense(services: Services, controller: Controller, source: Source) -> None:
    async def refused(**arguments: object) -> None:
        with pytest.raises(InvalidInput):
            await issue_token(services, CONSOLE, controller_id=controller.id, **arguments)  # type: ignore[arg-type]

    await refused(label="x")  # telephony without a source
    await refused(label="x", role=Role.QUALITY, source_id=source.id)
    await refused(label="x", role=Role.LEGAL, scope=ScopeKind.TEAM, values=["A1"])
    await refused(label="x", role=Role.AGENT, scope=ScopeKind.OWN)
    await refused(label="\n", role=Role.AUDITOR)
    await refused(label="x", role=Role.AUDITOR, expires_at=services.clock.now())
    with pytest.raises(NotFound):
        await issue_token(services, CONSOLE, controller_id=controller.id, label="x", source_id=uuid.uuid4())
    other = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    with pytest.raises(NotFound):
        await issue_token(services, CONSOLE, controller_id=other.id, label="x", source_id=source.id)
    nobody = Principal("account", str(uuid.uuid4()), controller.id)
    with pytest.raises(Forbidden):
        await issue_token(services, nobody, controller_id=controller.id, label="x", source_id=source.id)
