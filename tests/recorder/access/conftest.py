"""People and sources to try access on."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence

import pytest

from recorder.access import passwords
from recorder.access.accounts import create_account
from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import Role, ScopeKind
from recorder.catalogue.tables import Controller, Source
from recorder.services import Services

CONSOLE = Principal("os", "installer", None)
PASSWORD = "correct horse battery"
MakeAccount = Callable[..., Awaitable[uuid.UUID]]


@pytest.fixture(autouse=True)
def _cheap_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real Argon2id at a price that a hundred sign-ins can pay; test_passwords tries the real price."""
    monkeypatch.setattr(passwords, "CURRENT", passwords.Parameters(memory_kib=64, iterations=1, lanes=1))


@pytest.fixture
def make_account(services: Services, controller: Controller) -> MakeAccount:
    """Factory: an account with one role at the fixture's controller."""

    async def make(
        username: str = "maija.meikalainen",
        role: Role | None = Role.QUALITY,
        scope: ScopeKind = ScopeKind.CONTROLLER,
        values: Sequence[str] = (),
        agent_code: str | None = None,
    ) -> uuid.UUID:
        grants = [] if role is None else [Grant(role, controller.id, scope, frozenset(values))]
        return await create_account(
            services,
            CONSOLE,
            controller_id=controller.id,
            username=username,
            name="Maija Meikäläinen",
            password=PASSWORD,
            grants=grants,
            agent_code=agent_code,
        )

    return make


@pytest.fixture
async def source(services: Services, controller: Controller) -> Source:
    """A telephony system that pushes."""
    row = Source(
        id=uuid.uuid4(),
        controller_id=controller.id,
        name="pbx-1",
        kind="generic",
        default_lawful_basis=None,
        default_media=None,
        max_bytes=None,
        settings={},
        enabled=True,
        created_at=services.clock.now(),
    )
    async with services.database.transaction() as session:
        session.add(row)
    return row
