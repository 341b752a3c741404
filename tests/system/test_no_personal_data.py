"""No name, number, address or free text leaves its seal: not into the database, object keys, logs, the audit
log, addresses or error texts, in whatever coding; and nothing of an erased customer stays anywhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from recorder.app import open_services
from recorder.catalogue.enums import Role
from tests.system.installation import (
    PASSWORD,
    Api,
    Installation,
    call_of,
    client,
    embedded,
    production,
    tone,
)
from tests.system.personal import Finder, forms

NAME = "Ansgar Puolakkainen"
VALUES = {
    "first": "Ansgar",
    "last": "Puolakkainen",
    "non_ascii": "Väinämöisenpoika",
    "number": "ASI-90817263",
    "phone": "+358407654321",
    "phone_national": "040 7654321",
    "phone_core": "407654321",
    "caller": "0503344556",
    "callee": "0915566778",
    "email": "ansgar.p@puolakka.example",
    "address": "Kuusipolku 47 B 12",
    "other_contact": "signal ansgar.pihl",
    "wishes": "soittakaa vasta iltapuolella",
    "bought": "hautakiven kaiverrus",
    "external_id": "pbxcall-7788-zulu",
    "put_id": "20260305-q-0445566778-u",
    "call_id": "callgroup-9911-yankee",
    "leg": "leg-of-quebec",
    "file": "nauhoite-herra-pihlaja.wav",
    "extra": "mainitsi kissanallergian",
    "ref": "TILAUS-55667788",
    "note": "soitti aidin puolesta",
    "contact_ref": "kirje-123321-x",
    "matter_title": "riita laskusta Honkavaara",
    "matter_notes": "vastapuolen asiamies Seppala",
    "username": "taavetti.tutkija",
    "staff": "Taavetti Tutkija",
    "idempotency": "idem-of-romeo-4455",
    "wrong_user": "ulpukka.unohtaja",
}
FINDER = Finder(VALUES.values())
AUDIO = tone(1.0)
BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


@pytest.fixture(params=BOTH)
def own(request: pytest.FixtureRequest, own_installation: Callable[..., Installation]) -> Installation:
    """An installation whose log tells everything that it can tell."""
    if request.param == "embedded":
        made = own_installation(embedded, RECORDER_LOG_LEVEL="DEBUG")
    else:
        servers = (request.getfixturevalue("s3_server"), request.getfixturevalue("postgres"))
        made = own_installation(production, *servers, RECORDER_LOG_LEVEL="DEBUG")
    made.add_account(VALUES["username"], VALUES["staff"], Role.LEGAL)
    made.start()
    return made


def metadata() -> dict[str, Any]:
    return call_of(
        VALUES["external_id"],
        leg=VALUES["leg"],
        call={"external_id": VALUES["call_id"], "part": 1},
        caller=VALUES["caller"],
        callee=VALUES["callee"],
        customer={"number": VALUES["number"], "phone": VALUES["phone_national"], "email": VALUES["email"]},
        service_events=[{"type": "order", "ref": VALUES["ref"]}],
        extra={"memo": VALUES["extra"], "deep": {"who": [VALUES["non_ascii"]]}},
    )


def ok(answer: Any) -> Any:
    assert answer.status in {200, 201, 204}, answer.body
    return answer.json if answer.body else None


async def live(api: Api) -> tuple[str, str]:
    """A customer, calls, a contact, choices, a matter, listening, a link: what fills a catalogue."""
    upsert = {
        "number": VALUES["number"],
        "source": "registration",
        "source_ref": VALUES["contact_ref"],
        "name": f"{NAME} {VALUES['non_ascii']}",
        "phones": [VALUES["phone_national"]],
        "email": VALUES["email"],
        "address": VALUES["address"],
        "form_of_address": "herra " + VALUES["last"],
        "other_contacts": [VALUES["other_contact"]],
        "wishes": VALUES["wishes"],
        "services_bought": [{"name": VALUES["bought"], "amount": "120.50", "currency": "EUR"}],
    }
    customer = ok(await api.request("PUT", "/api/v1/customers", role="crm", json=upsert))["id"]
    pushed = ok(await api.push(metadata(), AUDIO, file_name=VALUES["file"]))
    assert pushed["customer"]["id"] == customer
    at = call_of("x")["started_at"]
    contact = {"kind": "visit", "at": at, "reference": VALUES["contact_ref"], "note": VALUES["note"]}
    ok(await api.post(f"/api/v1/customers/{customer}/contacts", "crm", json=contact))
    choice = {"kind": "marketing_ban", "channel": "phone"}
    answer = await api.post(f"/api/v1/customers/{customer}/choices", "crm", json=choice)
    assert answer.status in {201, 422}, answer.body
    put = await api.request(
        "PUT",
        f"/ingest/pbx/{VALUES['put_id']}.wav",
        role="telephony",
        params={"from": VALUES["caller"], "number": VALUES["number"], "whatever": VALUES["extra"]},
        headers={"Idempotency-Key": VALUES["idempotency"]},
        data=AUDIO,
    )
    ok(put)
    ended = {"ended_on": "2026-01-02", "cause": "death", "source": "relative", "source_ref": VALUES["ref"]}
    ok(await api.post(f"/api/v1/customers/{customer}/relationship-end", "crm", json=ended))
    matter = {
        "reference": "R-1",
        "ground": "legal_claims",
        "review_on": "2030-01-01T00:00:00Z",
        "title": VALUES["matter_title"],
        "notes": VALUES["matter_notes"],
    }
    ok(await api.post("/api/v1/matters", "legal", json=matter))
    assert (await api.audio(pushed["id"])).status == 200
    ok(await api.post(f"/api/v1/recordings/{pushed['id']}/links", "quality", json={"purpose": "quality"}))
    return customer, pushed["id"]


async def lookups_find(api: Api) -> None:
    """Sealed, not lost: those who may, find and read it."""
    for key, value in [
        ("number", VALUES["number"]),
        ("phone", VALUES["phone"]),
        ("email", VALUES["email"].upper()),
        ("name", VALUES["last"]),
    ]:
        found = ok(await api.post("/api/v1/customers/search", "privacy", json={key: value}))["items"]
        assert [item["address"] for item in found] == [VALUES["address"]], key
        assert [item["wishes"] for item in found] == [VALUES["wishes"]], key
    items = ok(await api.post("/api/v1/recordings/search", "legal", json={"number": VALUES["number"]}))[
        "items"
    ]
    assert len(items) == 2
    for item in items:
        detail = ok(await api.get(f"/api/v1/recordings/{item['id']}", "legal"))
        assert detail["metadata"]["caller"] == VALUES["caller"]


async def provoke(api: Api, recording: str) -> None:
    """Everything wrong that still carries personal data: each answer is an error."""
    number, email = VALUES["number"], VALUES["email"]
    in_path = quote(VALUES["put_id"])
    elsewhere = f"/ingest/{VALUES['last']}/{in_path}.wav"
    errors = [
        await api.push({**metadata(), "external_id": "e-1", "direction": VALUES["last"]}, AUDIO),
        await api.push({**metadata(), "external_id": "e-2", "started_at": VALUES["phone"]}, AUDIO),
        await api.push({**metadata(), "external_id": "e-3", "customer": {"number": [number]}}, AUDIO),
        await api.push({**metadata(), "external_id": "e-4", "lawful_basis": email}, AUDIO),
        await api.push(metadata(), tone(0.5), file_name=VALUES["file"]),
        await api.post("/api/v1/recordings", "telephony", data=VALUES["note"].encode()),
        await api.get(f"/api/v1/recordings?number={quote(number)}", "quality"),
        await api.get(f"/api/v1/recordings?from={quote(VALUES['email'])}", "quality"),
        await api.get(f"/api/v1/recordings?state={quote(VALUES['last'])}", "quality"),
        await api.get(f"/api/v1/recordings?cursor={quote(VALUES['email'])}", "quality"),
        await api.get(f"/api/v1/recordings/{in_path}", "quality"),
        await api.get(f"/api/v1/recordings/{recording}/audio?purpose={quote(VALUES['last'])}", "quality"),
        await api.get(f"/listen/{in_path}", "quality"),
        await api.get(f"/nowhere/{in_path}?caller={quote(VALUES['caller'])}"),
        await api.request("TRACE", f"/ingest/pbx/{in_path}"),
        await api.request("PUT", elsewhere, role="telephony", data=AUDIO),
        await api.get("/api/v1/recordings", headers={"Authorization": f"Bearer {number}"}),
        await api.get("/api/v1/recordings", headers={"Authorization": f"Basic {email}"}),
        await api.get("/api/v1/recordings", headers={"Cookie": f"recorder_session={number}"}),
        await api.post("/api/v1/customers/search", "privacy", json={"phone": VALUES["last"] * 40}),
        await api.post("/api/v1/customers/search", "privacy", json={"number": number, "mail": email}),
        await api.post("/api/v1/customers/search", "quality", json={"number": number}),
        await api.request("PUT", "/api/v1/customers", role="crm", json={"number": number, "source": email}),
        await api.request(
            "PUT",
            "/api/v1/customers",
            role="crm",
            json={"number": number, "source": "call", "phone": VALUES["last"], "email": VALUES["address"]},
        ),
        await api.request("PUT", "/api/v1/customers", role="crm", data=f'{{"name": "{NAME}'.encode(),
                          headers={"Content-Type": "application/json"}),
        await api.post("/api/v1/session", json={"username": VALUES["wrong_user"], "password": PASSWORD}),
        await api.post("/api/v1/session", json={"username": VALUES["username"], "password": VALUES["note"]}),
    ]  # fmt: skip
    assert [i for i, e in enumerate(errors) if e.status >= 500] == []
    assert [i for i, e in enumerate(errors) if e.status < 400] == []
    referer = f"https://crm.example/{number}"
    headers = {"X-Request-Id": VALUES["number"], "Referer": referer, "User-Agent": NAME}
    assert (await api.get("/healthz", headers=headers)).status == 200
    signed_in = await api.post("/api/v1/session", json={"username": VALUES["username"], "password": PASSWORD})
    assert signed_in.status in {200, 201, 204}, signed_in.body


# Where it must not be


def database_bytes(installation: Installation) -> Iterator[tuple[str, bytes]]:
    """The whole database as an intruder reads it."""
    url = installation.settings.get("RECORDER_DATABASE_URL")
    if url is None:
        for path in sorted(installation.data.glob("catalogue.sqlite3*")):
            yield path.name, path.read_bytes()
        return
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        assert len(tables) > 20
        for (table,) in tables:
            query = sql.SQL("COPY {} TO STDOUT (FORMAT binary)").format(sql.Identifier(table))
            with connection.cursor() as cursor, cursor.copy(query) as copy:
                yield table, b"".join(bytes(piece) for piece in copy)


async def store_bytes(installation: Installation) -> list[tuple[str, bytes]]:
    """Every object with its key."""
    found: list[tuple[str, bytes]] = []
    async with open_services(installation.open_settings()) as services:
        keys = [version.key async for version in services.store.versions()]
        for key in dict.fromkeys(keys):
            async with services.store.get(key) as body:
                found.append((key, b"".join([bytes(piece) async for piece in body])))
    return found


async def audit_bytes(api: Api) -> bytes:
    pages: list[bytes] = []
    cursor = ""
    while True:
        answer = await api.get(f"/api/v1/audit/entries?order=oldest&limit=200{cursor}", "auditor")
        pages += [json.dumps(item["entry"], ensure_ascii=False).encode() for item in answer.json["items"]]
        if answer.json["next"] is None:
            return b"\n".join(pages)
        cursor = f"&cursor={answer.json['next']}"


async def leaks(api: Api, installation: Installation) -> list[str]:
    found: list[str] = []
    for table, data in await asyncio.to_thread(lambda: list(database_bytes(installation))):
        found += FINDER.found(f"database {table}", data)
    objects = await store_bytes(installation)
    assert objects
    for key, data in objects:
        found += FINDER.found("an object's key", key.encode())
        found += FINDER.found(f"object {key}", data)
    logs = await asyncio.to_thread(lambda: {path.name: path.read_bytes() for path in installation.logs})
    assert b'"event": "request"' in logs["serve.log"]
    for name, data in logs.items():
        found += FINDER.found(f"log {name}", data)
    entries = await audit_bytes(api)
    assert b"recording.stored" in entries
    found += FINDER.found("the audit log", entries)
    found += FINDER.found("metrics", (await api.get("/metrics")).body)
    assert api.seen is not None
    for answer in api.seen:
        found += FINDER.found("an answer's headers", repr(dict(answer.headers)).encode())
        if answer.status >= 400:
            found += FINDER.found(f"the text of a {answer.status}", answer.body)
    return found


@pytest.mark.parametrize("where", ["{}", "before {} after", '{{"a":"{}"}}'])
def test_the_finder_finds_every_value_in_every_form(where: str) -> None:
    for value in VALUES.values():
        for form in forms(value):
            planted = bytes(99) + where.format("|").encode().replace(b"|", form) + bytes(99)
            assert FINDER.found("here", planted), (value, form)
    assert FINDER.found("here", bytes(range(256)) * 100) == []


async def test_nothing_personal_leaves_its_seal(own: Installation) -> None:
    async with client(own) as api:
        api.seen = []
        customer, recording = await live(api)
        await lookups_find(api)
        await provoke(api, recording)
        await api.until(
            lambda: api.get(f"/api/v1/audit/entries?object={recording}", "auditor"),
            lambda a: a.status == 200 and len(a.json["items"]) >= 2,
        )
        assert await leaks(api, own) == []

        # Erased, nothing of it is anywhere, and what is left says so without saying who.
        erased = await own.run(
            "erase", "--customer", "-", "--ground", "request", "--yes", "--json", given=VALUES["number"]
        )
        assert erased.returncode == 0, erased.stderr
        assert FINDER.found("the command's output", erased.stdout.encode()) == []
        gone = await api.audio(recording)
        assert gone.status == 410
        certificate = await api.get(gone.json["certificate"], "privacy")
        assert certificate.status == 200
        assert FINDER.found("the certificate", certificate.body) == []
        for key, value in [("number", VALUES["number"]), ("phone", VALUES["phone"]), ("name", NAME)]:
            found = ok(await api.post("/api/v1/customers/search", "privacy", json={key: value}))
            assert found["items"] == [], key
        shown = await api.get(f"/api/v1/recordings/{recording}", "legal")
        assert FINDER.found("an erased recording's record", shown.body) == []
        history = await api.get(f"/api/v1/recordings/{recording}/history", "auditor")
        assert FINDER.found("its history", history.body) == []
        assert await leaks(api, own) == []
        assert customer in (await audit_bytes(api)).decode()


def test_what_is_scanned_lies_where_it_is_looked_for(own: Installation) -> None:
    """The scan reads the real places: what is plain by design is found there."""
    names = [name for name, _ in database_bytes(own)]
    joined = b"".join(data for _, data in database_bytes(own))
    assert b"Example Oy" in joined
    assert names
    assert Path(own.logs[0]).stat().st_size > 0
