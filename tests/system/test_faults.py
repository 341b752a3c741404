"""Processes killed, store or database away, full disks: nothing acknowledged is lost, nothing half-done."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from recorder.app import open_services
from recorder.jobs.reconcile import Findings, reconcile
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Server
from tests.system.installation import Answer, Api, Installation, client, embedded, production, tone

AUDIO = tone(2.0)
Make = Callable[..., Installation]
NO_SPOOL = {"RECORDER_SPOOL_MAX_BYTES": "0"}
BOTH = ["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.s3])]


@pytest.fixture
def own(request: pytest.FixtureRequest, own_installation: Make) -> Installation:
    """A running installation that the test may kill; its parameter says of which kind."""
    if request.param == "embedded":
        made = own_installation(embedded)
    else:
        s3: S3Server = request.getfixturevalue("s3_server")
        postgres: PostgresServer = request.getfixturevalue("postgres")
        made = own_installation(production, s3, postgres)
    made.start()
    return made


async def compared(installation: Installation) -> Findings:
    """Catalogue and store compared, however young the leftovers are."""
    async with open_services(installation.open_settings()) as services:
        now = services.clock.now() + timedelta(hours=1)
        return await reconcile(services, now, grace=timedelta(0))


async def accepted(api: Api, external_id: str) -> str:
    answer = await api.put(f"{external_id}.wav", AUDIO)
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


def refused_for_now(answer: Answer, dependency: str) -> None:
    assert (answer.status, answer.problem) == (503, "unavailable"), answer.body
    assert answer.json["dependency"] == dependency
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("own", BOTH, indirect=True)
async def test_what_was_acknowledged_survives_kill_9(own: Installation) -> None:
    acknowledged: dict[str, str] = {}
    enough = asyncio.Event()

    async def push_on(api: Api, worker: int) -> None:
        for number in range(1000):
            external_id = f"killed-{worker}-{number}"
            try:
                answer = await api.put(f"{external_id}.wav", AUDIO)
            except aiohttp.ClientError:
                return
            assert answer.status == 201, answer.body
            acknowledged[external_id] = answer.json["id"]
            if len(acknowledged) >= 12:
                enough.set()

    async with client(own) as api:
        pushing = [asyncio.create_task(push_on(api, worker)) for worker in range(4)]
        await enough.wait()
        await asyncio.to_thread(own.kill)
        await asyncio.gather(*pushing)

    found = await compared(own)
    assert not found.alarming, found
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        for external_id, recording in acknowledged.items():
            heard = await api.audio(recording)
            assert (heard.status, heard.body) == (200, AUDIO), external_id
            again = await api.put(f"{external_id}.wav", AUDIO)
            assert (again.status, again.json["id"]) == (200, recording)
        # Whatever was under way: the sender tries again and gets its receipt, once.
        for worker in range(4):
            mine = sum(1 for name in acknowledged if name.startswith(f"killed-{worker}-"))
            answer = await api.put(f"killed-{worker}-{mine}.wav", AUDIO)
            assert answer.status in {200, 201}
    verified = await own.run("audit", "verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("own", BOTH, indirect=True)
async def test_a_push_killed_in_its_middle_never_was(own: Installation) -> None:
    half_sent = asyncio.Event()
    killed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield AUDIO[: len(AUDIO) // 2]
        yield bytes(4 * 1024 * 1024)
        half_sent.set()
        await killed.wait()

    async with client(own) as api:
        push = asyncio.create_task(api.request("PUT", "/ingest/pbx/half.wav", role="telephony", data=body()))
        await half_sent.wait()
        await asyncio.to_thread(own.kill)
        killed.set()
        with pytest.raises(aiohttp.ClientError):
            await push
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        assert (await api.get("/api/v1/recordings", "quality")).json["items"] == []
        assert (await api.get("/api/v1/quarantine", "operator")).json["items"] == []
        found = await compared(own)
        assert not found.alarming, found
        again = await compared(own)
        assert (again.orphans, again.uploads) == ([], []), "the leftovers are gone"
        await accepted(api, "half")


@pytest.mark.s3
@pytest.mark.postgres
async def test_the_store_away_and_back(
    own_installation: Make, own_s3_server: Callable[[], S3Server], postgres: PostgresServer
) -> None:
    store = await asyncio.to_thread(own_s3_server)
    # Without a spool; tests/system/test_service_spool.py is about one with it.
    own = await asyncio.to_thread(own_installation, production, store, postgres, **NO_SPOOL)
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        before = await accepted(api, "before")
        await asyncio.to_thread(store.stop)
        refused_for_now(await api.put("meanwhile.wav", AUDIO), "store")
        refused_for_now(await api.audio(before), "store")
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["parts"]["store"]) == (503, "away")
        assert ready.json["parts"]["database"] == "ok"
        assert (await api.get("/healthz")).status == 200
        listed = await api.get("/api/v1/recordings", "quality")
        assert [item["id"] for item in listed.json["items"]] == [before], "nothing half-stored shows"

        await asyncio.to_thread(store.start)
        heard = await api.until(lambda: api.audio(before), lambda a: a.status != 503)
        assert heard.body == AUDIO
        await accepted(api, "meanwhile")
        assert (await api.get("/readyz")).status == 200


@pytest.mark.s3
@pytest.mark.postgres
async def test_the_database_away_and_back(
    own_installation: Make, s3_server: S3Server, own_postgres: Callable[..., PostgresServer]
) -> None:
    database = await asyncio.to_thread(own_postgres)
    own = await asyncio.to_thread(own_installation, production, s3_server, database, **NO_SPOOL)
    await asyncio.to_thread(own.start)
    async with client(own) as api:
        before = await accepted(api, "before")
        await asyncio.to_thread(database.kill)
        refused_for_now(await api.put("meanwhile.wav", AUDIO), "database")
        # No listen without its entry in the log.
        refused_for_now(await api.audio(before), "database")
        refused_for_now(await api.get("/api/v1/recordings", "quality"), "database")
        ready = await api.get("/readyz")
        assert (ready.status, ready.json["parts"]["database"]) == (503, "away")

        await asyncio.to_thread(database.start)
        heard = await api.until(lambda: api.audio(before), lambda a: a.status != 503)
        assert heard.body == AUDIO
        await accepted(api, "meanwhile")
        assert own.serve.running
    verified = await own.run("audit", "verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.parametrize("own", ["embedded"], indirect=True)
async def test_a_disk_without_room_refuses_and_keeps_nothing_half(own: Installation) -> None:
    # No file of the process may pass four megabytes: writes fail as they do on a full disk.
    resource.prlimit(own.serve.pid, resource.RLIMIT_FSIZE, (4 << 20, resource.RLIM_INFINITY))
    large = tone(40.0, channels=8)
    assert len(large) > 5_000_000
    async with client(own) as api:
        answer = await api.put("large.wav", large)
        refused_for_now(answer, "store")
        assert (await api.get("/api/v1/recordings", "quality")).json["items"] == []
        assert _files(own.data / "objects" / "uploads") == []
        await accepted(api, "small")
        resource.prlimit(own.serve.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        again = await api.put("large.wav", large)
        assert again.status == 201
    assert not (await compared(own)).orphans


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@pytest.mark.parametrize("own", BOTH, indirect=True)
async def test_stopping_fails_readiness_first_and_lets_streams_end(own: Installation) -> None:
    long = tone(600.0, channels=1)
    async with client(own) as api, aiohttp.ClientSession(read_bufsize=2**12) as session:
        pushed = await api.put("long.wav", long)
        assert pushed.status == 201, pushed.body
        path = f"/api/v1/recordings/{pushed.json['id']}/audio?purpose=quality"
        bearer = {"Authorization": f"Bearer {own.tokens['quality']}"}
        async with session.get(own.url + path, headers=bearer) as stream:
            assert stream.status == 200
            heard = bytearray(await stream.content.readexactly(1000))
            process = own.serve
            stopping = asyncio.create_task(asyncio.to_thread(process.stop, how=signal.SIGTERM, seconds=60))
            not_ready = await api.until(lambda: api.get("/readyz"), lambda a: a.status == 503)
            assert not_ready.json["parts"]["service"] == "stopping"
            refused_for_now(await api.put("late.wav", AUDIO), "service")
            async for piece in stream.content.iter_any():
                heard += piece
        assert bytes(heard) == long
        await stopping
