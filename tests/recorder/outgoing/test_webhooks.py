"""Webhooks from the log to a receiver that verifies them with the specification's own library."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from recorder.access.principals import Grant, Principal
from recorder.audit.events import AuditEvent, record
from recorder.audit.log import Sequencer
from recorder.catalogue.enums import Role, ScopeKind, WebhookState
from recorder.catalogue.sealed_fields import WEBHOOK_ENDPOINT
from recorder.catalogue.subjects import seal_json
from recorder.catalogue.tables import AuditEntry, Controller, WebhookEndpoint, WebhookMessage
from recorder.clock import ManualClock, SystemClock
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.outgoing import endpoints, signing
from recorder.outgoing.delivering import WAITS, deliver_due, forget_old
from recorder.outgoing.events import EVENT_TYPES, event_of
from recorder.outgoing.following import follow_log
from recorder.registers.sealing import controller_subject
from recorder.services import Services
from tests.recorder.conftest import make_controller

OPERATOR = Principal(kind="os", id="root", controller_id=None)


@dataclass
class Receiver:
    """Somebody else's system: keeps what came, answers as told."""

    url: str = ""
    answers: list[int] = field(default_factory=list)  # the rest is 204
    headers: dict[str, str] = field(default_factory=dict)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, headers=self.headers)

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/hook", found.take)
    server = TestServer(app)
    await server.start_server()
    found.url = str(server.make_url("/hook"))
    yield found
    await server.close()


async def happen(
    services: Services, controller: Controller, action: str, outcome: str = "ok", **details: Any
) -> str:
    """Something that the log tells of."""
    object_id = str(uuid.uuid4())
    event = AuditEvent(
        action=action,
        actor="system:test",
        object_type="recording",
        object_id=object_id,
        outcome=outcome,
        controller_id=controller.id,
        details=details,
    )
    async with services.database.transaction() as session:
        record(session, event, now=services.clock.now())
    await Sequencer(services).run_once()
    return object_id


async def told(services: Services) -> int:
    await follow_log(services)
    return await deliver_due(services, chance=lambda: 0.0)


async def messages(services: Services) -> list[WebhookMessage]:
    async with services.database.snapshot() as session:
        return list(await session.scalars(sa.select(WebhookMessage).order_by(WebhookMessage.created_at)))


async def test_an_event_arrives_signed_once_in_a_form_that_the_library_verifies(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    await happen(services, controller, "recording.stored")  # before the endpoint: not told
    row, secret = await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url=receiver.url, label="crm"
    )
    stored = await happen(services, controller, "recording.stored", sha256="00" * 32)
    await happen(services, controller, "listen.opened")  # nobody's business outside
    assert await told(services) == 1
    assert await told(services) == 0
    [(headers, body)] = receiver.got
    # The library compares the timestamp with the real clock, so verify over a message of now.
    now = SystemClock().now()
    fresh = signing.headers([secret], headers["webhook-id"], now, body)
    said = Webhook(secret).verify(body, fresh)
    assert said["type"] == "recording.stored"
    assert said["data"]["recording"] == stored
    assert said["data"]["log_index"] == 2  # after the first event and the making of the endpoint
    sent_at = services.clock.now()
    assert headers["webhook-signature"] == signing.sign(secret, headers["webhook-id"], sent_at, body)
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.new_secret(lambda n: b"\x01" * n)).verify(body, fresh)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"stored", b"erased"), fresh)
    assert row.host == "127.0.0.1"


async def test_address_and_secret_are_sealed(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    url = receiver.url + "?key=hunter2"
    row, secret = await endpoints.create_endpoint(services, OPERATOR, controller.id, url=url, label="crm")
    async with services.database.snapshot() as session:
        kept = await session.get_one(WebhookEndpoint, row.id)
        entries = b"".join(await session.scalars(sa.select(AuditEntry.payload)))
        assert "hunter2" not in repr(await endpoints.open_endpoint(session, services, kept))
    assert b"hunter2" not in kept.sealed
    assert secret.encode() not in kept.sealed
    assert b"hunter2" not in entries


async def test_a_failed_message_waits_as_the_specification_says_and_dies_after_the_last_wait(
    services: Services, controller: Controller, receiver: Receiver, clock: ManualClock
) -> None:
    row, _ = await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    await happen(services, controller, "recording.quarantined")
    receiver.answers = [500] * 40
    assert await told(services) == 1
    for wait in WAITS:
        clock.advance(wait - timedelta(seconds=1))
        assert await told(services) == 0
        clock.advance(timedelta(seconds=1))
        assert await told(services) == 1
    [message] = await messages(services)
    assert (message.state, message.attempts, message.last_status) == (WebhookState.DEAD, len(WAITS) + 1, 500)
    clock.advance(timedelta(days=1))
    assert await told(services) == 0
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    # The dead letter is on record, and goes again, under its old id, when a person says so.
    async with services.database.snapshot() as session:
        dead = sa.select(AuditEntry.object_id).where(AuditEntry.action == "webhook.dead")
        assert await session.scalar(dead) == str(row.id)
    receiver.answers = []
    assert await endpoints.replay(services, OPERATOR, row.id) == 1
    assert await told(services) == 1
    [message] = await messages(services)
    assert message.state is WebhookState.DELIVERED
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    with pytest.raises(NotFound):
        await endpoints.replay(services, OPERATOR, row.id, message_id=message.id)


async def test_a_receiver_that_is_away_or_asks_for_time_gets_it(
    services: Services, controller: Controller, receiver: Receiver, clock: ManualClock
) -> None:
    await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url="http://127.0.0.1:9/hook", label="away"
    )
    await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="busy")
    receiver.answers, receiver.headers = [503], {"Retry-After": "900"}
    await happen(services, controller, "recording.stored")
    assert await told(services) == 2
    away, busy = sorted(await messages(services), key=lambda m: m.not_before)
    assert (away.last_error, away.not_before - clock.now()) == ("unreachable", WAITS[0])
    assert (busy.last_status, busy.not_before - clock.now()) == (503, timedelta(minutes=15))


async def test_a_receiver_that_is_gone_is_switched_off_and_catches_up_when_on_again(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    row, _ = await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    await happen(services, controller, "recording.stored")
    receiver.answers = [410]
    await told(services)
    await happen(services, controller, "recording.quarantined")
    assert await told(services) == 0
    [view] = await endpoints.list_endpoints(services, OPERATOR, controller.id)
    assert (view.row.enabled, view.row.disabled_reason, view.dead) == (False, "gone", 1)
    await endpoints.change_endpoint(services, OPERATOR, row.id, enabled=True)
    assert await told(services) == 1
    assert receiver.types == ["recording.stored", "recording.quarantined"]


async def test_redirects_are_not_followed(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    receiver.answers, receiver.headers = [307], {"Location": receiver.url}
    await happen(services, controller, "recording.stored")
    await told(services)
    assert len(receiver.got) == 1
    [message] = await messages(services)
    assert (message.state, message.last_status) == (WebhookState.PENDING, 307)


async def test_only_chosen_events_of_the_own_controller_are_told(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    other = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url=receiver.url, label="dpo", events=["recording.erased"]
    )
    await happen(services, controller, "recording.stored")
    await happen(services, other, "erasure.finished")
    await happen(services, controller, "erasure.finished")
    assert await told(services) == 1
    assert receiver.types == ["recording.erased"]


async def test_what_a_process_left_claimed_when_it_died_is_sent_by_another(
    services: Services, controller: Controller, receiver: Receiver, clock: ManualClock
) -> None:
    await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    await happen(services, controller, "recording.stored")
    await follow_log(services)
    async with services.database.transaction() as session:  # claimed, and nothing came of it
        await session.execute(
            sa.update(WebhookMessage).values(attempts=1, not_before=clock.now() + timedelta(seconds=60))
        )
    assert await told(services) == 0
    clock.advance(timedelta(seconds=60))
    assert await told(services) == 1
    assert receiver.types == ["recording.stored"]


async def test_both_secrets_sign_while_they_rotate(
    services: Services, controller: Controller, receiver: Receiver, clock: ManualClock
) -> None:
    row, old = await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url=receiver.url, label="crm"
    )
    new = await endpoints.rotate_secret(services, OPERATOR, row.id, overlap=timedelta(hours=1))
    await happen(services, controller, "recording.stored")
    await told(services)
    clock.advance(timedelta(hours=1))
    await happen(services, controller, "recording.stored")
    await told(services)
    counts = [len(headers["webhook-signature"].split(" ")) for headers, _ in receiver.got]
    assert counts == [2, 1]
    headers, body = receiver.got[0]
    now = SystemClock().now()
    fresh = signing.headers([new, old], headers["webhook-id"], now, body)
    for secret in (old, new):
        Webhook(secret).verify(body, fresh)
    headers, body = receiver.got[1]
    assert headers["webhook-signature"] == signing.sign(new, headers["webhook-id"], clock.now(), body)


async def test_a_removed_endpoint_leaves_neither_address_nor_messages(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    row, _ = await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    await happen(services, controller, "recording.stored")
    await follow_log(services)
    await endpoints.remove_endpoint(services, OPERATOR, row.id)
    assert await told(services) == 0
    assert await messages(services) == []
    async with services.database.snapshot() as session:
        assert (await session.get_one(WebhookEndpoint, row.id)).sealed == b""
    with pytest.raises(NotFound):
        await endpoints.send_test(services, OPERATOR, row.id)


async def test_an_endpoint_that_cannot_be_unsealed_holds_up_nobody(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    row, _ = await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url=receiver.url, label="broken"
    )
    await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    async with services.database.transaction() as session:
        broken = await session.get_one(WebhookEndpoint, row.id)
        broken.sealed = broken.sealed[:-1] + bytes([broken.sealed[-1] ^ 1])
    await happen(services, controller, "recording.stored")
    assert await told(services) == 1
    views = await endpoints.list_endpoints(services, OPERATOR, controller.id)
    assert [view.row.disabled_reason for view in views] == ["unreadable", None]


async def test_a_test_message_goes_whatever_was_chosen(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    row, _ = await endpoints.create_endpoint(
        services, OPERATOR, controller.id, url=receiver.url, label="x", events=["recording.erased"]
    )
    await endpoints.send_test(services, OPERATOR, row.id)
    await told(services)
    assert receiver.types == ["webhook.test"]


async def test_settled_messages_are_forgotten_after_their_time(
    services: Services, controller: Controller, receiver: Receiver, clock: ManualClock
) -> None:
    await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    await happen(services, controller, "recording.stored")
    await told(services)
    clock.advance(timedelta(days=7))
    assert await forget_old(services) == 0
    clock.advance(timedelta(seconds=1))
    assert await forget_old(services) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://crm.example/hook",
        "ftp://127.0.0.1/",
        "https://user:pass@crm.example/",
        "https:///nothing",
        "https://crm.example:port/",
        "javascript:alert(1)",
        "http://127.0.0.1.example/",
        "https://crm.example/#fragment",
    ],
)
async def test_addresses_that_nothing_may_be_sent_to(
    services: Services, controller: Controller, url: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        await endpoints.create_endpoint(services, OPERATOR, controller.id, url=url, label="x")
    assert raised.value.fields[0].path == "/url"
    assert url not in str(raised.value)


async def test_only_the_operator_manages_webhooks_and_only_so_many(
    services: Services, controller: Controller, receiver: Receiver
) -> None:
    trainer = Principal(
        kind="account",
        id=str(uuid.uuid4()),
        controller_id=controller.id,
        grants=(Grant(Role.TRAINER, controller.id, ScopeKind.CONTROLLER),),
    )
    with pytest.raises(Forbidden):
        await endpoints.create_endpoint(services, trainer, controller.id, url=receiver.url, label="x")
    with pytest.raises(InvalidInput):
        await endpoints.create_endpoint(
            services, OPERATOR, controller.id, url=receiver.url, label="x", events=["everything"]
        )
    for number in range(endpoints.MOST_ENDPOINTS):
        await endpoints.create_endpoint(
            services, OPERATOR, controller.id, url=receiver.url, label=f"n{number}"
        )
    with pytest.raises(Conflict):
        await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="x")


@given(
    body=st.binary(max_size=200),
    secret=st.binary(min_size=32, max_size=32),
    message=st.from_regex(r"msg_[0-9a-f]{32}", fullmatch=True),
)
def test_every_signature_is_the_librarys(body: bytes, secret: bytes, message: str) -> None:
    written = signing.new_secret(lambda _: secret)
    now = SystemClock().now()
    text = body.hex()
    ours = signing.sign(written, message, now, text.encode())
    assert ours == Webhook(written).sign(message, now, text)


def test_every_type_has_an_entry_that_becomes_it() -> None:
    entry = {
        "action": "recording.stored",
        "outcome": "ok",
        "controller": None,
        "time": "2026-03-05T08:00:00Z",
        "object": {"type": "recording", "id": "x"},
        "request": None,
        "details": {},
    }
    found = event_of(json.dumps(entry).encode(), index=3)
    assert found is not None
    assert found.type in EVENT_TYPES
    entry["action"] = "account.created"
    assert event_of(json.dumps(entry).encode(), index=3) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9000/",
        "http://localhost/",
        "https://localhost/",
        "https://10.0.0.7/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:10.0.0.7]/",
        "https://[fd00::7]/",
        "https://[64:ff9b::a00:7]/",
    ],
)
async def test_an_operator_has_nothing_sent_to_private_addresses(
    services: Services, controller: Controller, url: str
) -> None:
    """Only who has a shell on the host: the answer's status would tell what listens there."""
    grant = Grant(Role.OPERATOR, controller.id, ScopeKind.CONTROLLER)
    operator = Principal("account", str(uuid.uuid4()), controller.id, (grant,))
    with pytest.raises(InvalidInput, match="/url"):
        await endpoints.create_endpoint(services, operator, controller.id, url=url, label="crm")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_what_a_name_leads_to_is_looked_at_when_a_message_is_sent(
    services: Services, controller: Controller, receiver: Receiver, host: str
) -> None:
    row, _ = await endpoints.create_endpoint(services, OPERATOR, controller.id, url=receiver.url, label="crm")
    url = receiver.url.replace("127.0.0.1", host)
    async with services.database.transaction() as session:
        # As an operator's endpoint whose name led outside when it was made.
        endpoint = await session.get_one(WebhookEndpoint, row.id)
        endpoint.created_by = f"account:{uuid.uuid4()}"
        subject = await controller_subject(session, controller.id)
        secrets = (await endpoints.open_endpoint(session, services, endpoint)).secrets
        endpoint.sealed = seal_json(
            services.keyring, subject, WEBHOOK_ENDPOINT, row.id, {"url": url, "secrets": list(secrets)}
        )
    await happen(services, controller, "recording.stored")
    assert await told(services) == 1
    assert receiver.got == []
    [message] = await messages(services)
    assert (message.state, message.last_error) == (WebhookState.PENDING, "private-address")
