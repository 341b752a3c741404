"""Customers and contacts out of files, shared lines, and how sure a match is."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import LawfulBasis, LinkRole, Role, ScopeKind
from recorder.catalogue.tables import AuditEntry, Controller, Customer, CustomerBatch, RecordingLink, Source
from recorder.customers import normalise
from recorder.customers.importing import ImportReport, Kind, Layout, import_lines
from recorder.customers.lines import mark_line
from recorder.customers.matching import EMAIL, LINE, NUMBER, PHONE, judge
from recorder.customers.records import CustomerQuery, search
from recorder.disposition import schedules
from recorder.errors import Forbidden, InvalidInput
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.services import Services

OPERATOR = Principal(kind="os", id="root", controller_id=None)
Import = Callable[..., Any]

CSV = (
    "number,name,phones,email,language\n"
    'C-1,"Virtanen, Aino",040 123 4567;+358 50 765 4321,aino@example.fi,fi\n'
    "C-2,Åsa Öberg,+46 70 123 45 67,,sv\n"
)


@pytest.fixture
async def schedule(services: Services, controller: Controller) -> None:
    async with services.database.transaction() as session:
        await schedules.install_default(session, controller, actor="os:test", now=services.clock.now())


@pytest.fixture
def load(services: Services, controller: Controller, schedule: None) -> Import:
    async def run(
        text: str | Iterable[str],
        kind: Kind = "customers",
        layout: Layout = "csv",
        **options: Any,
    ) -> ImportReport:
        lines = text.splitlines(keepends=True) if isinstance(text, str) else text
        return await import_lines(
            services,
            OPERATOR,
            controller.id,
            lines,
            kind=kind,
            layout=layout,
            request_id="import-1",
            **options,
        )

    return run


async def count(services: Services, table: Any) -> int:
    async with services.database.snapshot() as session:
        return await session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


async def test_customers_from_csv_are_found_by_every_spelling(
    services: Services, controller: Controller, load: Import
) -> None:
    report = await load(CSV)
    assert (report.created, report.rejected) == (2, [])
    for asked in (
        CustomerQuery(number=" c-1 "),
        CustomerQuery(phone="+358401234567"),
        CustomerQuery(phone="0507654321"),
        CustomerQuery(email="AINO@example.FI"),
        CustomerQuery(name="aino virtanen"),
    ):
        [found] = await search(services, controller.id, asked, actor="os:test", request_id="r")
        assert found.values["name"] == "Virtanen, Aino"


async def test_importing_again_changes_nothing_and_a_change_changes_one(
    services: Services, load: Import
) -> None:
    await load(CSV)
    again = await load(CSV)
    assert (again.created, again.changed, again.unchanged) == (0, 0, 2)
    assert await count(services, CustomerBatch) == 2
    changed = await load(CSV.replace("sv", "fi"))
    assert (changed.created, changed.changed, changed.unchanged) == (0, 1, 1)
    assert await count(services, Customer) == 2


async def test_every_refused_line_is_told_and_the_others_are_taken(services: Services, load: Import) -> None:
    report = await load(
        "number,phone,email,language\n"
        "C-1,040 123 4567,,\n"
        "C-2,not a phone,also not,\n"
        ",0401234567,,\n"
        "131052-308T,,,\n"
        "C-3,,,finnish language\n"
        "C-4,,,,,,\n"
    )
    assert report.created == 1
    told = {(item.line, item.field) for item in report.rejected}
    assert told == {
        (3, "/phones/0"),
        (3, "/emails/0"),
        (4, "/number"),
        (5, "/number"),
        (6, "/language"),
        (7, ""),
    }
    assert report.rejected_lines == 5
    text = " ".join(f"{item.field} {item.reason}" for item in report.rejected)
    assert "not a phone" not in text
    assert "131052" not in text


async def test_ndjson_takes_the_shape_of_the_api(services: Services, load: Import) -> None:
    lines = [
        json.dumps({"number": "N-1", "phones": ["+358401111111"], "source": "relative"}) + "\n",
        "\n",
        "[1, 2]\n",
        "{broken\n",
        json.dumps({"number": "N-2", "unheard_of": 1}) + "\n",
        "[" * 100_000 + "\n",
        "x" * 300_000 + "\n",
    ]
    report = await load(lines, layout="ndjson")
    assert report.created == 1
    assert [(item.line, item.field) for item in report.rejected] == [
        (3, ""),
        (4, ""),
        (6, ""),
        (7, ""),
        (5, "/unheard_of"),
    ]


async def test_contacts_move_the_last_contact_once(
    services: Services, controller: Controller, load: Import
) -> None:
    await load(CSV)
    text = (
        "number,kind,at,reference\n"
        "C-1,visit,2025-03-01T10:00:00+02:00,R1\n"
        "C-1,order,2024-03-01T10:00:00+02:00,R2\n"
        "C-9,visit,2025-03-01T10:00:00+02:00,R3\n"
        "C-2,visit,2025-03-01 10:00,R4\n"
        "C-2,visit,2099-03-01T10:00:00Z,R5\n"
        "C-2,dance,2025-03-01T10:00:00Z,R6\n"
    )
    report = await load(text, kind="contacts")
    assert report.created == 2
    assert sorted((item.line, item.field) for item in report.rejected) == [
        (4, "/number"),
        (5, "/at"),
        (6, "/at"),
        (7, "/kind"),
    ]
    [found] = await search(services, controller.id, CustomerQuery(number="C-1"), actor="os:t", request_id="r")
    assert found.last_contact_at == datetime(2025, 3, 1, 8, 0, tzinfo=UTC)
    again = await load(text, kind="contacts")
    assert (again.created, again.unchanged) == (0, 2)


async def test_a_dry_run_writes_nothing(services: Services, load: Import) -> None:
    before = await count(services, AuditEntry)
    report = await load(CSV + "C-3,,x,,\n", dry_run=True)
    assert len(report.rejected) == 1
    assert await count(services, Customer) == 0
    assert await count(services, AuditEntry) == before


async def test_a_stopped_import_is_run_once_more(services: Services, load: Import) -> None:
    def stopped() -> Iterable[str]:
        yield "number,name\n"
        for number in range(150):
            yield f"S-{number},Nobody {number}\n"
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="disk"):
        await load(stopped())
    before = await count(services, Customer)
    assert 0 < before < 150
    report = await load("number,name\n" + "".join(f"S-{n},Nobody {n}\n" for n in range(150)))
    assert (report.created, report.unchanged) == (150 - before, before)


async def test_progress_counts_lines(load: Import) -> None:
    seen: list[int] = []
    text = "number\n" + "".join(f"P-{n}\n" for n in range(250))
    await load(text, progress=seen.append)
    assert seen == [101, 201, 251]


async def test_only_those_who_keep_the_register_import(services: Services, controller: Controller) -> None:
    trainer = Principal(
        "account",
        str(uuid.uuid4()),
        controller.id,
        grants=(Grant(Role.TRAINER, controller.id, ScopeKind.CONTROLLER),),
    )
    with pytest.raises(Forbidden):
        await import_lines(
            services, trainer, controller.id, [], kind="customers", layout="csv", request_id="r"
        )
    with pytest.raises(Forbidden):
        await mark_line(services, trainer, controller.id, "+358401234567", shared=True)


@pytest.fixture
async def push(services: Services, controller: Controller, schedule: None) -> AsyncIterator[Import]:
    source = Source(
        id=uuid.uuid4(),
        controller_id=controller.id,
        name="pbx",
        kind="generic",
        default_lawful_basis=LawfulBasis.CUSTOMER_RELATIONSHIP,
        settings={},
        enabled=True,
        created_at=services.clock.now(),
    )
    async with services.database.transaction() as session:
        session.add(source)
    grant = Grant(Role.TELEPHONY, controller.id, ScopeKind.CONTROLLER)
    caller = Principal("source", str(source.id), controller.id, grants=(grant,), source_id=source.id)
    intake = Intake(services)

    async def run(**fields: Any) -> dict[str, Any]:
        async def body() -> AsyncIterator[bytes]:
            yield b"RIFF" + uuid.uuid4().bytes

        document = {"external_id": uuid.uuid4().hex, "started_at": "2026-03-05T09:00:00Z", **fields}
        outcome = await intake.accept(
            IngestRequest(RecordingMetadata.model_validate(document), strict=False),
            body(),
            principal=caller,
            request_id="r",
        )
        return outcome.customer

    yield run
    await services.uploads.drain()


async def test_a_shared_line_names_candidates_and_links_nobody(
    services: Services, controller: Controller, load: Import, push: Import
) -> None:
    await load("number,phones\nC-1,+358 9 1234 500;+358 40 1111111\n")
    call = {"direction": "inbound"}
    assert (await push(caller="0912345 00", **call))["status"] == "linked"
    assert await mark_line(services, OPERATOR, controller.id, "09-1234 500", shared=True)
    assert not await mark_line(services, OPERATOR, controller.id, "+35891234500", shared=True)
    said = await push(caller="+358 9 1234500", **call)
    assert (said["status"], said["candidates"], said["confidence"]) == ("candidates", 1, 30)
    # The person's own telephone is as good as ever.
    said = await push(caller="+358401111111", **call)
    assert (said["status"], said["confidence"]) == ("linked", 90)
    assert await mark_line(services, OPERATOR, controller.id, "+358 9 1234 500", shared=False)
    assert (await push(caller="+35891234500", **call))["status"] == "linked"
    with pytest.raises(InvalidInput):
        await mark_line(services, OPERATOR, controller.id, "reception", shared=True)


async def test_how_sure_a_match_is_stands_beside_it(services: Services, load: Import, push: Import) -> None:
    await load(
        "number,phones,emails\nC-1,+358401111111,a@example.fi\nC-2,+358402222222,\nC-3,+358402222222,\n"
    )
    said = await push(customer={"number": "C-1"})
    assert (said["matched_by"], said["confidence"]) == ("number", 100)
    said = await push(customer={"phone": "+358401111111", "email": "a@example.fi"})
    assert (said["status"], said["confidence"]) == ("linked", 98)
    said = await push(customer={"phone": "+358402222222"})
    assert (said["status"], said["candidates"], said["confidence"]) == ("candidates", 2, 45)
    said = await push(customer={"number": "C-77", "phone": "+358401111111"})
    assert (said["status"], said["confidence"]) == ("candidates", 45)
    async with services.database.snapshot() as session:
        links = list(await session.scalars(sa.select(RecordingLink)))
    assert {(link.role, link.confidence) for link in links} == {
        (LinkRole.PRINCIPAL, 100),
        (LinkRole.PRINCIPAL, 98),
        (LinkRole.CANDIDATE, 45),
    }


async def test_the_register_comes_after_the_call(load: Import, push: Import) -> None:
    assert (await push(direction="inbound", caller="0401234567"))["status"] == "unlinked"
    report = await load(CSV)
    assert report.linked == 1


@pytest.mark.parametrize(
    "value",
    ["anonymous", "Anonymous@anonymous.invalid", "+266696687", "266696687", "86282452253", "0", "", "*31#"],
)
def test_a_withheld_number_is_nobodys(value: str) -> None:
    assert normalise.phone(value, "FI") is None


people = st.frozensets(st.uuids(), max_size=3)


@given(number=people, phone=people, email=people, line=people, told=st.booleans())
def test_nobody_is_linked_but_by_one_unshared_value_that_nothing_contradicts(
    number: frozenset[uuid.UUID],
    phone: frozenset[uuid.UUID],
    email: frozenset[uuid.UUID],
    line: frozenset[uuid.UUID],
    told: bool,
) -> None:
    match = judge({NUMBER: number, PHONE: phone, EMAIL: email, LINE: line}, given_number=told or bool(number))
    assert set(match.customers) <= number | phone | email | line
    if match.certain:
        assert len(match.customers) == 1
        assert match.customers[0] in (number or phone | email)
        assert match.confidence >= 90
    elif match.customers:
        assert 0 < match.confidence < 90
