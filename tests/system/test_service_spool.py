"""Store or catalogue away: pushes are acknowledged from local disk, and are recordings when both are back."""

from __future__ import annotations

import asyncio
import base64
import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from recorder.ingest.receipts import verify_receipt
from tests.servers import processes
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.installation import Answer, Api, Installation, client, production, tone
from tests.system.test_faults import compared, refused_for_now

Make = Callable[..., Installation]
SMALL = tone(2.0)
pytestmark = [pytest.mark.s3, pytest.mark.postgres]


@pytest.fixture
async def store(own_s3_server: Callable[[], S3Server]) -> S3Server:
    return await asyncio.to_thread(own_s3_server)


@pytest.fixture
async def database(own_postgres: Callable[..., PostgresServer]) -> PostgresServer:
    return await asyncio.to_thread(own_postgres)


async def started(
    own_installation: Make, store: S3Server, database: PostgresServer, **settings: str
) -> Installation:
    own = await asyncio.to_thread(own_installation, production, store, database, **settings)
    await asyncio.to_thread(own.start)
    return own


async def keys(api: Api) -> Mapping[str, Ed25519PublicKey]:
    listed = (await api.get("/api/v1/keys")).json["keys"]
    return {
        key["kid"]: Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
        for key in listed
        if key["kty"] == "OKP"
    }


async def spooled(api: Api, external_id: str, audio: bytes = SMALL, **query: str) -> Answer:
    answer = await api.put(f"{external_id}.wav", audio, **query)
    assert answer.status == 202, answer.body
    assert answer.json["state"] == "spooled"
    assert answer.json["receipt"]
    return answer


async def waiting(api: Api) -> int:
    return int((await api.get("/readyz")).json["spooled"])


async def drained(api: Api) -> None:
    async def look() -> Answer:
        return await api.get("/readyz")

    await api.until(
        look, lambda a: bool(a.json["spooled"] == 0 and a.json["ready"] and not a.json["degraded"])
    )


async def logged(own: Installation, event: str, times: int = 1) -> None:
    """The worker lives, and has said so that often."""
    log = own.folder / "worker.log"

    def said() -> bool:
        assert own.worker.running, own.worker.log_tail()
        events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
        return events.count(event) >= times

    await asyncio.to_thread(processes.wait_until, said, event)


async def proved(own: Installation, api: Api, answers: Mapping[str, tuple[Answer, bytes]]) -> None:
    """Each acknowledgement names a recording that plays back, and each receipt is the one given again."""
    public = await keys(api)
    for name, (answer, audio) in answers.items():
        given = answer.json
        heard = await api.audio(given["id"])
        if name == "repeat":
            assert heard.status == 307
            heard = await api.get(heard.headers["Location"], "quality")
        assert (heard.status, heard.body == audio) == (200, True), (name, heard.status, heard.body[:200])
        told = verify_receipt(given["receipt"], public)
        assert (told["id"], told["size"]) == (given["id"], len(audio)), name
        again = await api.get(f"/api/v1/recordings/{given['id']}/receipt", "telephony")
        assert again.json["receipt"] == given["receipt"], name
    items = (await api.get("/api/v1/recordings?limit=200", "quality")).json["items"]
    assert len({item["id"] for item in items}) == len(items)
    assert files(own) == []
    found = await compared(own)
    assert not found.alarming, found
    verified = await own.run("audit", "verify")
    assert verified.returncode == 0, verified.stderr


def files(own: Installation) -> list[Path]:
    return sorted((own.data / "spool" / "items").iterdir())


async def test_nothing_is_lost_while_the_store_is_away_and_the_service_is_killed(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database)
    answers: dict[str, tuple[Answer, bytes]] = {}
    large = tone(60.0)
    async with client(own) as api:
        before = await api.put("before.wav", SMALL)
        assert before.status == 201
        await asyncio.to_thread(store.stop)
        for number in range(5):
            answers[f"s{number}"] = await spooled(api, f"s{number}"), SMALL
        # The store is known to be away now: what is too large to hold in memory goes to the spool at once.
        assert len(large) > 1_500_000
        answers["large"] = await spooled(api, "large", large), large
        again = await spooled(api, "s0")
        assert again.json["id"] == answers["s0"][0].json["id"], "the same bytes again are one delivery"
        assert again.json["receipt"] == answers["s0"][0].json["receipt"]
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["degraded"], ready.json["spooled"]) == (200, ["store"], 6)
        for path in files(own):
            assert SMALL[100:200] not in path.read_bytes()
        await asyncio.to_thread(own.kill)
    # It comes back before its store: whether the database is an old one cannot be told, so nothing is played.
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["degraded"]) == (200, ["store", "log"])
        refused_for_now(await api.audio(before.json["id"]), "store")
        answers["early"] = await spooled(api, "early"), SMALL
        await logged(own, "the object store is away: work begins when it is back")
        await asyncio.to_thread(store.start)
        await drained(api)
        await logged(own, "working", times=2)
        await proved(own, api, answers)
        repeat = await api.put("s0.wav", SMALL)
        assert (repeat.status, repeat.json["id"]) == (200, answers["s0"][0].json["id"])


async def test_nothing_is_lost_while_the_database_is_away(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database)
    answers: dict[str, tuple[Answer, bytes]] = {}
    async with client(own) as api:
        first = await api.put("before.wav", SMALL, leg="a")
        assert first.status == 201
        await asyncio.to_thread(database.kill)
        for number in range(4):
            answers[f"d{number}"] = await spooled(api, f"d{number}"), SMALL
        # What is in the catalogue already is not known to be a repeat, or another call's bytes, until later.
        answers["repeat"] = await spooled(api, "before", leg="a"), SMALL
        other = tone(1.0)
        answers["conflict"] = await spooled(api, "before", other, leg="a"), other
        answers["keyed"] = (
            await api.request(
                "PUT",
                "/ingest/pbx/keyed.wav",
                role="telephony",
                data=SMALL,
                headers={"Idempotency-Key": "k1"},
            ),
            SMALL,
        )
        assert answers["keyed"][0].status == 202
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["degraded"]) == (200, ["database"])
        unknown = await api.request(
            "PUT",
            "/ingest/pbx/x.wav",
            headers={"Authorization": f"Bearer {own.tokens['telephony'][:-2]}xx"},
            data=SMALL,
        )
        assert unknown.status == 401
        refused_for_now(await api.get("/api/v1/recordings", "quality"), "database")
        await asyncio.to_thread(database.start)
        await drained(api)
        conflict = answers.pop("conflict")[0].json["id"]
        alias = await api.get(f"/api/v1/recordings/{answers['repeat'][0].json['id']}", "quality")
        assert alias.status == 307
        assert alias.headers["Location"] == f"/api/v1/recordings/{first.json['id']}"
        await proved(own, api, answers)
        kept = (await api.get("/api/v1/quarantine", "operator")).json["items"]
        assert [(item["id"], item["conflict_of"]) for item in kept] == [(conflict, first.json["id"])]
        key = await api.request(
            "PUT", "/ingest/pbx/keyed.wav", role="telephony", data=SMALL, headers={"Idempotency-Key": "k1"}
        )
        assert (key.status, key.json["id"]) == (200, answers["keyed"][0].json["id"])


async def test_past_the_quota_it_is_503_with_retry_after(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database, RECORDER_SPOOL_MAX_BYTES=str(3 * len(SMALL)))
    answers: dict[str, tuple[Answer, bytes]] = {}
    async with client(own) as api:
        await asyncio.to_thread(store.stop)
        answers["q0"] = await spooled(api, "q0"), SMALL
        answers["q1"] = await spooled(api, "q1"), SMALL
        full = await api.put("q2.wav", SMALL)
        refused_for_now(full, "spool")
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["parts"]["spool"]) == (503, "full")
        assert len(files(own)) == 4, "nothing half"
        doctor = await own.run("doctor")
        assert doctor.returncode != 0
        assert "2 deliveries wait" in doctor.stdout, doctor.stdout
        await asyncio.to_thread(store.start)
        await drained(api)
        await proved(own, api, answers)
        assert (await api.put("q2.wav", SMALL)).status == 201


async def test_a_disk_without_room_for_the_spool_is_503_and_leaves_nothing_half(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database)
    large = tone(60.0)
    async with client(own) as api:
        await asyncio.to_thread(store.stop)
        # No file of the process may pass a megabyte: its writes fail as they do on a full disk.
        resource.prlimit(own.serve.pid, resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        answers = {"small": (await spooled(api, "small"), SMALL)}
        refused_for_now(await api.put("large.wav", large), "spool")
        assert len(files(own)) == 2
        assert (await api.get("/readyz")).json["parts"]["spool"] == "full"
        resource.prlimit(own.serve.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        answers["large"] = await spooled(api, "large", large), large
        await asyncio.to_thread(store.start)
        await drained(api)
        await proved(own, api, answers)


async def test_killed_while_it_drains_it_goes_on_where_it_was(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database)
    answers: dict[str, tuple[Answer, bytes]] = {}
    async with client(own) as api:
        await asyncio.to_thread(store.stop)
        for number in range(12):
            audio = tone(1.0 + number / 10)
            answers[f"k{number}"] = await spooled(api, f"k{number}", audio), audio
        await asyncio.to_thread(store.start)

        async def look() -> Answer:
            return await api.get("/readyz")

        await api.until(look, lambda a: bool(a.json["spooled"] < 12))
        await asyncio.to_thread(own.kill)
    left = len(files(own))
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        await drained(api)
        await proved(own, api, answers)
        items = (await api.get("/api/v1/recordings?limit=200", "quality")).json["items"]
        assert {item["id"] for item in items} == {answer.json["id"] for answer, _ in answers.values()}
    assert left > 0, "it was killed before the end"


async def test_a_sender_that_never_retries_is_spooled_first(
    own_installation: Make, store: S3Server, database: PostgresServer
) -> None:
    own = await started(own_installation, store, database)
    async with client(own) as api:
        assert own.source_id is not None
        await tee(own)
        answers = {}
        for number in range(3):
            answer = await api.put(f"t{number}.wav", SMALL)
            assert answer.status == 201, answer.body
            answers[f"t{number}"] = answer, SMALL
        await drained(api)
        large = tone(60.0)
        await asyncio.to_thread(store.stop)
        answers["first"] = await spooled(api, "first", large), large
        await asyncio.to_thread(store.start)
        await drained(api)
        await proved(own, api, answers)


async def tee(own: Installation) -> None:
    from recorder.app import open_services
    from recorder.catalogue.tables import Source

    async with open_services(own.open_settings()) as services, services.database.transaction() as session:
        source = await session.get_one(Source, own.source_id)
        source.settings = {"tee": True}
