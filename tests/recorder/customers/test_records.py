"""Customer records: batches, look-up, contacts, and moving calls between people."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import ContactKind, DataSource, LawfulBasis, LinkRole, Role, ScopeKind
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import (
    Base,
    BlindIndex,
    Contact,
    Controller,
    Customer,
    CustomerBatch,
    Recording,
    RecordingLink,
    Source,
    Subject,
)
from recorder.clock import ManualClock
from recorder.customers.contacts import add_contact
from recorder.customers.linking import link_by_person
from recorder.customers.records import CustomerQuery, CustomerUpsert, search, upsert
from recorder.errors import Conflict, Forbidden, InvalidInput, NotFound
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.services import Services
from tests.recorder.conftest import make_controller

ACTOR = "system:test"


async def put(services: Services, controller: Controller, number: str, **fields: Any) -> uuid.UUID:
    fields.setdefault("source", DataSource.REGISTRATION)
    given = CustomerUpsert(number=number, **fields)
    return (await upsert(services, controller.id, given, actor=ACTOR, request_id="req-1")).id


async def found(services: Services, controller: Controller, **asked: str) -> list[dict[str, Any]]:
    items = await search(services, controller.id, CustomerQuery(**asked), actor=ACTOR, request_id="r")
    return [item.values for item in items]


async def rows(services: Services, table: type[Base], *where: Any) -> list[Any]:
    async with services.database.snapshot() as session:
        return list((await session.scalars(sa.select(table).where(*where))).all())


async def push(services: Services, controller: Controller, external_id: str, **fields: Any) -> uuid.UUID:
    async with services.database.transaction() as session:
        source = (await session.scalars(sa.select(Source))).one_or_none()
        if source is None:
            source = Source(
                id=uuid.uuid4(),
                controller_id=controller.id,
                name="pbx",
                kind="generic",
                default_lawful_basis=LawfulBasis.CONSENT,
                default_media=None,
                max_bytes=None,
                settings={},
                enabled=True,
                created_at=services.clock.now(),
            )
            session.add(source)

    async def audio() -> AsyncIterator[bytes]:
        yield external_id.encode() * 100

    document = {"external_id": external_id, "started_at": "2026-03-04T09:00:00Z", **fields}
    grant = Grant(Role.TELEPHONY, controller.id, ScopeKind.CONTROLLER)
    outcome = await Intake(services).accept(
        IngestRequest(metadata=RecordingMetadata.model_validate(document)),
        audio(),
        principal=Principal("source", str(source.id), controller.id, (grant,), source_id=source.id),
        request_id="r",
    )
    assert outcome.recording_id is not None
    return outcome.recording_id


async def test_batches_merge_and_each_stays_as_delivered(
    services: Services, controller: Controller, clock: ManualClock
) -> None:
    first = await put(
        services, controller, "c-1", name="Maija Meikäläinen", phone="0401234567", language="fi"
    )
    clock.advance(timedelta(days=1))
    again = await put(
        services,
        controller,
        "C-1",
        source=DataSource.PUBLIC_REGISTER,
        source_ref="dvv-77",
        address={"street": "Katu 1", "city": "Turku"},
        language=None,
        emails=["M@x.fi", "m@X.fi"],
    )
    assert first == again
    (values,) = await found(services, controller, number="C-1")
    assert values == {
        "number": "C-1",
        "name": "Maija Meikäläinen",
        "phones": ["+358401234567"],
        "emails": ["m@x.fi"],
        "address": {"street": "Katu 1", "city": "Turku"},
    }
    async with services.database.snapshot() as session:
        query = sa.select(CustomerBatch).order_by(CustomerBatch.stored_at)
        batches = (await session.scalars(query)).all()
        customer = await session.get_one(Customer, first)
        subject = await session.get_one(Subject, customer.subject_id)
    opened = [
        open_json(services.keyring, subject, CUSTOMER_BATCH, batch.id, batch.sealed or b"")
        for batch in batches
    ]
    assert [batch.source for batch in batches] == [DataSource.REGISTRATION, DataSource.PUBLIC_REGISTER]
    assert [document["source_ref"] for document in opened] == ["req-1", "dvv-77"]
    assert opened[0]["fields"]["language"] == "fi"
    assert opened[1]["fields"]["language"] is None
    assert batches[1].stored_at - batches[0].stored_at == timedelta(days=1)


async def test_every_field_of_the_register_is_kept(services: Services, controller: Controller) -> None:
    bought = {
        "name": "Moving boxes",
        "on": "2026-02-01",
        "amount": "49.90",
        "currency": "EUR",
        "paid_by": "invoice",
        "reference": "L-1",
    }
    fields: dict[str, Any] = {
        "name": "Maija Meikäläinen",
        "form_of_address": "rouva",
        "gender": "female",
        "language": "fi",
        "address": "Katu 1, Turku",
        "phones": ["+358401234567"],
        "emails": ["m@x.fi"],
        "other_contacts": ["Signal: maija.42"],
        "wishes": "Only in the mornings",
        "services_bought": [bought, {"name": "Storage"}],
    }
    await put(services, controller, "C-1", **fields)
    assert await found(services, controller, number="C-1") == [{"number": "C-1", **fields}]
    await put(services, controller, "C-1", wishes=None, services_bought=[])
    (values,) = await found(services, controller, number="C-1")
    assert set(fields) - values.keys() == {"wishes", "services_bought"}
    for wrong in ({"name": "Boxes", "card": "4111"}, {"name": "Boxes", "amount": "-1"}, {"name": ""}):
        with pytest.raises(ValueError, match="services_bought"):
            CustomerUpsert(number="C-1", source=DataSource.CALL, services_bought=[wrong])


async def test_look_up_follows_the_record(services: Services, controller: Controller) -> None:
    await put(services, controller, "C-1", name="Anna Åberg", phones=["0401234567", "0507654321"])
    await put(services, controller, "C-2", name="Anna Berg")
    assert len(await found(services, controller, name="anna")) == 2
    assert len(await found(services, controller, name="ANNA aberg")) == 1
    assert len(await found(services, controller, phone="+358507654321", name="anna")) == 1
    assert await found(services, controller, phone="+358507654321", number="C-2") == []
    await put(services, controller, "C-1", phones=["0401234567"])
    assert await found(services, controller, phone="0507654321") == []
    assert len(await found(services, controller, phone="0401234567")) == 1
    for asked in ({}, {"phone": "x"}, {"name": "!"}, {"email": "none"}):
        with pytest.raises(InvalidInput):
            await found(services, controller, **asked)


async def test_controllers_do_not_see_each_others_customers(
    services: Services, controller: Controller
) -> None:
    sweden = await make_controller(services, "se-main", "SE", "Europe/Stockholm")
    ours = await put(services, controller, "C-1", phone="+46701234567")
    theirs = await put(services, sweden, "C-1", phone="070-123 45 67")
    assert ours != theirs
    assert len(await found(services, sweden, phone="+46701234567")) == 1
    with pytest.raises(NotFound):
        await add_contact(
            services,
            sweden.id,
            ours,
            kind=ContactKind.VISIT,
            at=services.clock.now(),
            note=None,
            actor=ACTOR,
            request_id="r",
        )
    digests = {row.digest for row in await rows(services, BlindIndex, BlindIndex.kind == "number")}
    assert len(digests) == 2  # the index key is the controller's


async def test_a_race_of_upserts_makes_one_customer(services: Services, controller: Controller) -> None:
    ids = await asyncio.gather(*(put(services, controller, "C-1", name=f"N{n}") for n in range(5)))
    assert len(set(ids)) == 1
    assert len(await rows(services, Customer)) == 1
    assert len(await rows(services, CustomerBatch)) == 5


async def test_a_second_person_with_the_number_makes_candidates(
    services: Services, controller: Controller
) -> None:
    waiting = await push(services, controller, "1", customer={"phone": "+358401234567", "email": "a@b.fi"})
    anna = await put(services, controller, "C-1", email="other@b.fi")
    assert await rows(services, RecordingLink) == []
    async with services.database.transaction() as session:
        (await session.get_one(Recording, waiting)).customer_id = None
    bo = await put(services, controller, "C-2", phone="+358401234567")
    (link,) = await rows(services, RecordingLink)
    assert (link.customer_id, link.role, link.matched_by) == (bo, LinkRole.PRINCIPAL, "phone")
    later = await push(services, controller, "2", customer={"phone": "+358500000001"})
    await asyncio.gather(
        put(services, controller, "C-3", phone="+358500000009"),
        put(services, controller, "C-4", phone="+358500000008"),
    )
    assert (await rows(services, Recording, Recording.id == later))[0].customer_id is None
    assert anna != bo


async def test_a_person_corrects_a_link_and_the_dates_follow(
    services: Services, controller: Controller
) -> None:
    anna = await put(services, controller, "C-1")
    bo = await put(services, controller, "C-2")
    recording_id = await push(services, controller, "1", customer={"number": "C-1"})
    (row,) = await rows(services, Recording)
    assert row.customer_id == anna
    grants = (Grant(Role.PRIVACY, controller.id, ScopeKind.CONTROLLER),)
    person = Principal("account", str(uuid.uuid4()), controller.id, grants)
    machine = Principal("token", str(uuid.uuid4()), controller.id, grants)

    async def link(who: Principal, customer_id: uuid.UUID, role: LinkRole) -> None:
        await link_by_person(services, who, recording_id, customer_id, role=role, request_id="r")

    with pytest.raises(Forbidden):
        await link(machine, bo, LinkRole.PRINCIPAL)
    with pytest.raises(Conflict):
        await link(person, anna, LinkRole.REFERENCE)
    await link(person, bo, LinkRole.PRINCIPAL)
    (moved,) = await rows(services, Recording)
    assert moved.customer_id == bo
    assert {contact.customer_id for contact in await rows(services, Contact)} == {bo}
    customers = {customer.id: customer for customer in await rows(services, Customer)}
    assert customers[anna].last_contact_at is None
    assert customers[bo].last_contact_at == moved.started_at
    subjects = {s.id: s for s in await rows(services, Subject)}
    assert subjects[customers[anna].subject_id].rekey_needed
    assert subjects[customers[anna].subject_id].wrapped_key is not None
    assert not subjects[customers[bo].subject_id].rekey_needed
    await link(person, anna, LinkRole.REFERENCE)
    links = {link.customer_id: link.role for link in await rows(services, RecordingLink)}
    assert links == {bo: LinkRole.PRINCIPAL, anna: LinkRole.REFERENCE}
    (still,) = await rows(services, Recording)
    assert still.subject_id == customers[bo].subject_id


async def test_contacts_that_count_move_the_date_forward_only(
    services: Services, controller: Controller, clock: ManualClock
) -> None:
    anna = await put(services, controller, "C-1")
    now = clock.now()

    async def contact(kind: ContactKind, days: int) -> Any:
        _, last = await add_contact(
            services,
            controller.id,
            anna,
            kind=kind,
            at=now - timedelta(days=days),
            note={"note": "käynti"},
            actor=ACTOR,
            request_id="r",
        )
        return last

    assert await contact(ContactKind.MAILING, 1) is None
    assert await contact(ContactKind.VISIT, 10) == now - timedelta(days=10)
    assert await contact(ContactKind.ORDER, 20) == now - timedelta(days=10)
    assert await contact(ContactKind.PRIVACY_REQUEST, 0) == now - timedelta(days=10)
    assert all(b"k\xc3\xa4ynti" not in row.sealed for row in await rows(services, Contact))
