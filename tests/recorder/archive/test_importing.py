"""An old archive: from a folder and from a real bucket, stopped and resumed, lying and hostile manifests."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from recorder.access.principals import Principal
from recorder.archive.importing import Journal, Summary, gathered, import_archive
from recorder.archive.manifest import IMPORTED, Entry, Unusable, read_manifest, read_names
from recorder.archive.places import Bucket, Folder, Place
from recorder.catalogue.enums import ObjectRole
from recorder.catalogue.tables import AuditEntry, Controller, Recording, Source
from recorder.disposition import schedules
from recorder.errors import InvalidInput, NotFound, Unavailable
from recorder.ingest.adapters.filenames import FREEPBX, FileNames
from recorder.playback.objects import living_objects, stored_object
from recorder.services import Services
from storage.foreign import open_foreign
from tests.recorder.ingest.conftest import encode, source, tone
from tests.servers.s3 import S3Server

__all__ = ["source"]

OPERATOR = Principal(kind="os", id="root", controller_id=None)
NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
HELSINKI = ZoneInfo("Europe/Helsinki")
NAMES = FileNames((FREEPBX,), time_zone="Europe/Helsinki")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    (root / "2019" / "03").mkdir(parents=True)
    for number in range(6):
        name = f"2019/03/q-600-040123456{number}-20250305-09000{number}-1741158000.{number}.wav"
        (root / name).write_bytes(encode(tone(0.1 + number / 100)))
    return root


async def bring(
    services: Services,
    source: Source,
    place: Place,
    entries: Iterator[Entry | Unusable],
    report: Path,
    **options: Any,
) -> Summary:
    async with Journal(report) as journal:
        return await import_archive(services, OPERATOR, source, entries, place, journal, **options)


def lines_of(report: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in report.read_text().splitlines()]


async def from_names(services: Services, source: Source, root: Path, report: Path) -> Summary:
    place = Folder(root)
    found = await gathered(place.names())
    return await bring(services, source, place, read_names(found, now=NOW, names=NAMES), report)


async def recordings(services: Services) -> list[Recording]:
    async with services.database.snapshot() as session:
        return list(await session.scalars(sa.select(Recording).order_by(Recording.started_at)))


async def content(services: Services, recording: Recording) -> bytes:
    async with services.database.snapshot() as session:
        row, subject = (await living_objects(session, recording.id))[ObjectRole.ORIGINAL]
    async with services.vault.read(stored_object(row, subject)) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_file_names_alone_make_an_archive(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    summary = await from_names(services, source, archive, report)
    assert (summary.results, summary.wrong) == ({"imported": 6}, 0)
    rows = await recordings(services)
    assert [row.queue for row in rows] == ["600"] * 6
    assert rows[0].started_at == datetime(2025, 3, 5, 7, 0, tzinfo=UTC)
    assert rows[0].tags == [IMPORTED]
    files = sorted(archive.rglob("*.wav"))  # noqa: ASYNC240 - a handful of names
    assert [await content(services, row) for row in rows] == [path.read_bytes() for path in files]
    said = lines_of(report)
    assert {line["sha256"] for line in said} == {hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    assert all(line["receipt"] for line in said)
    # The report may be handed around: nobody's number stands in it.
    assert "040123456" not in report.read_text()
    assert report.stat().st_mode & 0o077 == 0
    # Files are only read.
    assert len(files) == 6
    async with services.database.snapshot() as session:
        query = sa.select(sa.func.count()).where(AuditEntry.action == "archive.imported")
        assert await session.scalar(query) == 1


async def test_again_is_skipped_and_without_the_report_a_repeat(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    await from_names(services, source, archive, report)
    again = await from_names(services, source, archive, report)
    assert (again.skipped, again.results) == (6, {})
    fresh = await from_names(services, source, archive, tmp_path / "another.ndjson")
    assert fresh.results == {"repeated": 6}
    assert len(await recordings(services)) == 6


@pytest.mark.parametrize("cut", [1, 10, 200])
async def test_a_run_that_died_goes_on(
    services: Services, source: Source, archive: Path, tmp_path: Path, cut: int
) -> None:
    """Its report ends inside a line, as after a power cut."""
    report = tmp_path / "report.ndjson"
    await from_names(services, source, archive, report)
    whole = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(b"".join(whole[:3]) + whole[3][:cut])
    summary = await from_names(services, source, archive, report)
    assert (summary.skipped, summary.results) == (3, {"repeated": 3})
    assert len(lines_of(report)) == 6
    assert len(await recordings(services)) == 6


async def test_a_cancelled_run_leaves_nothing_half_done(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    task: asyncio.Task[Summary] | None = None

    def stop(summary: Summary) -> None:
        if sum(summary.results.values()) == 2:
            assert task is not None
            task.cancel()

    place = Folder(archive)
    entries = read_names(await gathered(place.names()), now=NOW, names=NAMES)
    task = asyncio.create_task(bring(services, source, place, entries, report, progress=stop, concurrency=1))
    with pytest.raises(asyncio.CancelledError):
        await task
    summary = await from_names(services, source, archive, report)
    assert summary.skipped >= 2
    assert len(await recordings(services)) == 6


async def test_a_manifest_says_what_names_do_not(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    files = await gathered(Folder(archive).names())
    good = hashlib.sha256((archive / files[0]).read_bytes()).hexdigest()
    text = (
        "file,sha256,started_at,from,number,agent,lawful_basis\n"
        f"{files[0]},{good},2024-01-02 10:00:00,+358401111111,C-1,A7,consent\n"
        f"{files[1]},{'00' * 32},2024-01-02T10:00:00+02:00,,,,\n"
        f"{files[2]},abc,2024-01-02T10:00:00+02:00,,,,\n"
        "not/there.wav,,2024-01-02T10:00:00+02:00,,,,\n"
        "../../../etc/passwd,,2024-01-02T10:00:00+02:00,,,,\n"
        ",,2024-01-02T10:00:00+02:00,,,,\n"
        f"{files[3]},,yesterday,,,,\n"
    )
    entries = read_manifest(text.splitlines(keepends=True), "csv", now=NOW, names=NAMES, zone=HELSINKI)
    report = tmp_path / "report.ndjson"
    summary = await bring(services, source, Folder(archive), entries, report, concurrency=1)
    assert summary.results == {"imported": 1, "quarantined": 2, "unusable": 2, "missing": 1, "failed": 1}
    said = {line["line"]: line for line in lines_of(report)}
    assert said[2]["result"] == "imported"
    assert "digest-mismatch" in said[3]["reasons"]
    assert "sha256" in said[4]["reason"]
    assert said[5]["result"] == "missing"
    assert said[6]["result"] == "failed"
    assert said[8]["result"] == "quarantined"
    first = next(row for row in await recordings(services) if str(row.id) == said[2]["id"])
    assert first.started_at == datetime(2024, 1, 2, 8, 0, tzinfo=UTC)
    assert (first.agents, first.lawful_basis.value, first.queue) == (["A7"], "consent", "600")


async def test_what_failed_is_tried_again_by_the_next_run(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    text = ["file,started_at\n", "late.wav,2025-01-02T10:00:00Z\n"]
    report = tmp_path / "report.ndjson"

    async def run() -> Summary:
        entries = read_manifest(text, "csv", now=NOW)
        return await bring(services, source, Folder(archive), entries, report)

    assert (await run()).results == {"missing": 1}
    (archive / "late.wav").write_bytes(encode(tone(0.1)))
    assert (await run()).results == {"imported": 1}
    assert (await run()).skipped == 1


async def test_what_is_past_its_time_is_told(
    services: Services, controller: Controller, source: Source, archive: Path, tmp_path: Path
) -> None:
    async with services.database.transaction() as session:
        await schedules.install_default(session, controller, actor="os:test", now=services.clock.now())
    file, *_ = await gathered(Folder(archive).names())
    text = ["file,started_at\n", f"{file},1999-01-02T10:00:00Z\n"]
    summary = await bring(
        services, source, Folder(archive), read_manifest(text, "csv", now=NOW), tmp_path / "r.ndjson"
    )
    assert summary.due == 1


async def test_a_store_that_stays_away_stops_the_run_and_nothing_is_lost(
    services: Services, source: Source, archive: Path, tmp_path: Path
) -> None:
    class Away:
        def __init__(self) -> None:
            self.folder = Folder(archive)

        def names(self) -> Iterator[str]:
            return self.folder.names()

        def open(self, name: str) -> Any:
            raise Unavailable("the archive's bucket is away", dependency="archive")

    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    report = tmp_path / "report.ndjson"
    entries = read_names(await gathered(Folder(archive).names()), now=NOW, names=NAMES)
    with pytest.raises(Unavailable):
        await bring(services, source, Away(), entries, report, sleep=sleep, concurrency=1)
    assert waits == [2, 4, 8, 16]
    assert (await from_names(services, source, archive, report)).results == {"imported": 6}


@pytest.mark.s3
async def test_a_bucket_of_another_system(
    services: Services, source: Source, archive: Path, tmp_path: Path, s3_server: S3Server
) -> None:
    """Keys as others write them: spaces, umlauts, plus signs."""
    name = await asyncio.to_thread(s3_server.new_bucket)
    client = s3_server.client()
    odd = ["old calls/Väinö & co/a+b (1).wav", "old calls/plain.wav"]
    data = encode(tone(0.2))
    for key in odd:
        await asyncio.to_thread(
            client.put_object, name, key, io.BytesIO(data + key.encode()), -1, part_size=5 * 2**20
        )
    bucket = open_foreign(
        name, endpoint=s3_server.url, access_key=s3_server.access_key, secret_key=s3_server.secret_key
    )
    try:
        place = Bucket(bucket, "old calls/")
        assert [key async for key in place.names()] == [key.removeprefix("old calls/") for key in odd]
        text = [
            json.dumps(
                {
                    "file": key.removeprefix("old calls/"),
                    "metadata": {"started_at": "2025-01-01T00:00:00Z", "queue": "sales"},
                }
            )
            + "\n"
            for key in (*odd, "old calls/gone.wav")
        ]
        entries = read_manifest(text, "ndjson", now=NOW)
        summary = await bring(services, source, place, entries, tmp_path / "r.ndjson")
        assert summary.results == {"imported": 2, "missing": 1}
        kept = {await content(services, row) for row in await recordings(services)}
        assert kept == {data + key.encode() for key in odd}
        assert {row.queue for row in await recordings(services)} == {"sales"}
    finally:
        await bucket.aclose()


async def refused(place: Folder, name: str) -> type[Exception]:
    try:
        async with place.open(name):
            return AssertionError
    except (InvalidInput, NotFound) as error:
        return type(error)


async def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.wav").write_bytes(b"x")
    (root / "link.wav").symlink_to(outside / "secret.wav")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "pipe.wav")
    place = Folder(root)
    for name in (
        "../out/secret.wav",
        "/etc/passwd",
        "link.wav",
        "folder/secret.wav",
        "pipe.wav",
        "folder/../../out/secret.wav",
        "..\\out\\secret.wav",
        "./x",
        "",
        ".",
    ):
        assert await refused(place, name) is not AssertionError, name
    assert await gathered(place.names()) == ["link.wav", "pipe.wav"]


@given(text=st.text(max_size=300), layout=st.sampled_from(["csv", "ndjson"]))
def test_any_manifest_is_read_without_an_exception(text: str, layout: Any) -> None:
    for head in ("", "file,started_at,muted\n"):
        for item in read_manifest((head + text).splitlines(keepends=True), layout, now=NOW, names=NAMES):
            assert isinstance(item, (Entry, Unusable))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["file", "sha256", "external_id", "started_at", "call", "muted", "metadata", "tags", "extra", "queue"]
)


@given(document=st.dictionaries(fields, values, max_size=6))
def test_any_object_is_read_without_an_exception(document: dict[str, Any]) -> None:
    [item] = read_manifest([json.dumps(document) + "\n"], "ndjson", now=NOW, names=NAMES, zone=HELSINKI)
    assert isinstance(item, (Entry, Unusable))
