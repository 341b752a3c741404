"""Is everything here that was accepted? Looked at from outside: HTTP, plain SQL, the bucket, the disk.

Nothing of the service is imported. Receipts are verified with PyJWT alone, the catalogue is read with the
databases' own drivers and without leave to write, the bucket with minio.

    python -m tests.system.chaos.checker CONFIG.json      exit code 1 on any finding
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import psycopg
from minio import Minio

_QUARANTINE_EXPLAINED = frozenset({"conflict"})
_ABREAST = 6


@dataclass(frozen=True)
class Config:
    """Where everything is.

    Attributes:
        ledger: NDJSON of what the senders were told.
        listener, operator: bearer tokens of a role that may listen, and of one that sees the quarantine.
        database: ``sqlite:PATH``, or a connection string of libpq.
        store: ``{"folder"}``, or ``{"endpoint", "access_key", "secret_key", "bucket"}``.
        environment: of the command ``recorder audit verify``.
        wait: seconds to wait for what is still under way.
        in_hand: seconds that an object may be there before its row.
    """

    ledger: str
    server: str
    listener: str
    operator: str
    database: str
    store: dict[str, str]
    spool: str
    environment: dict[str, str]
    wait: float = 120.0
    in_hand: float = 20.0


@dataclass
class Report:
    """What was counted, and what is wrong: kind of finding and what about."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[str, str]] = field(default_factory=list)

    def wrong(self, kind: str, about: object) -> None:
        self.findings.append((kind, str(about)))

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.findings}

    def to_json(self) -> dict[str, Any]:
        return {"counts": dict(self.counts), "findings": self.findings}

    def table(self) -> str:
        rows = [*sorted(self.counts.items()), *sorted(Counter(kind for kind, _ in self.findings).items())]
        lines = [f"{name:<42}{count:>9,}" for name, count in rows]
        lines.insert(len(self.counts), "-" * 51 if self.findings else "nothing is lost")
        return "\n".join([*lines, *(f"  {kind}: {about}" for kind, about in self.findings[:40])])


# The catalogue, the bucket, the disk


class Catalogue:
    """Rows as dictionaries; UUIDs as text, bytes as bytes."""

    def __init__(self, where: str) -> None:
        self._where = where

    def rows(self, query: str) -> list[dict[str, Any]]:
        if self._where.startswith("sqlite:"):
            with sqlite3.connect(f"file:{self._where.removeprefix('sqlite:')}?mode=ro", uri=True) as light:
                found = light.execute(query)
                names = [column[0] for column in found.description]
                rows = found.fetchall()
            light.close()
        else:
            options = "-c default_transaction_read_only=on"
            with psycopg.connect(self._where, options=options) as connection:
                answer = connection.execute(query)
                assert answer.description is not None
                names = [column.name for column in answer.description]
                rows = answer.fetchall()
        return [dict(zip(names, map(_plain, row), strict=True)) for row in rows]


def _plain(value: Any) -> Any:
    return (
        str(value)
        if isinstance(value, uuid.UUID)
        else bytes(value)
        if isinstance(value, memoryview)
        else value
    )


def _id(value: str | None) -> str | None:
    """SQLite keeps UUIDs as 32 digits."""
    return None if value is None else str(uuid.UUID(value))


@dataclass(frozen=True)
class Stored:
    """A version of an object."""

    key: str
    version: str | None
    size: int
    marker: bool = False


def stored_objects(store: dict[str, str]) -> tuple[list[Stored], int]:
    """What lies under ``o/``, and how many uploads are unfinished."""
    if "folder" in store:
        root = Path(store["folder"])
        found = [p for p in (root / "objects" / "o").rglob("*") if p.is_file()]
        keys = [Stored(str(p.relative_to(root / "objects")), None, p.stat().st_size) for p in found]
        uploads = root / "uploads"
        return keys, len(list(uploads.iterdir())) if uploads.exists() else 0
    client = Minio(
        store["endpoint"],
        access_key=store["access_key"],
        secret_key=store["secret_key"],
        secure=False,
        region="us-east-1",
    )
    bucket = store["bucket"]
    listed = client.list_objects(bucket, prefix="o/", recursive=True, include_version=True)
    keys = [Stored(o.object_name or "", o.version_id, o.size or 0, o.is_delete_marker) for o in listed]
    return keys, len(client._list_multipart_uploads(bucket, prefix="o/").uploads)


# The ledger


@dataclass(frozen=True)
class Said:
    """What a sender was told of one call.

    Attributes:
        pieces: SHA-256 (hexadecimal) and size of each file.
    """

    source: str
    number: int
    accepted: bool
    pieces: tuple[tuple[str, int], ...]
    id: str | None
    receipt: str | None

    def __str__(self) -> str:
        return f"{self.source} #{self.number}"


def ledger_of(path: str) -> Iterator[Said]:
    for text in Path(path).read_text().splitlines():
        line = json.loads(text)
        yield Said(
            line["source"],
            line["number"],
            line["accepted"],
            tuple((piece["sha256"], piece["size"]) for piece in line["pieces"] if piece["sha256"]),
            line["id"],
            line["receipt"],
        )


# The look


class Checker:
    """One look at one installation."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.report = Report()
        self._catalogue = Catalogue(config.database)
        self._heard: dict[str, tuple[str, int]] = {}  # id -> SHA-256 of what played, and its size

    async def run(self) -> Report:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            self._session = session
            await self._settled()
            said = await asyncio.to_thread(lambda: list(ledger_of(self.config.ledger)))
            recordings = await self._recordings()
            await self._listen(recordings)
            await self._accepted(said, recordings)
            self._duplicates(recordings)
            self._foreign(said, recordings)
            await self._quarantine()
        await asyncio.to_thread(self._objects, recordings)
        await asyncio.to_thread(self._left_over)
        await asyncio.to_thread(self._audit)
        return self.report

    async def _get(
        self, path: str, token: str | None = None, **options: Any
    ) -> tuple[int, bytes, str | None]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = self.config.server + path
        async with self._session.get(url, headers=headers, allow_redirects=False, **options) as response:
            return response.status, await response.read(), response.headers.get("Location")

    async def _settled(self) -> None:
        """Wait until nothing is under way any more: spool, fetches, uploads that end."""
        deadline = time.monotonic() + self.config.wait
        while left := await self._under_way():
            if time.monotonic() > deadline:
                self.report.wrong("not drained", left)
                return
            await asyncio.sleep(0.2)

    async def _under_way(self) -> dict[str, Any]:
        _, body, _ = await self._get("/readyz")
        ready = json.loads(body)
        left: dict[str, Any] = {} if ready["ready"] and not ready["degraded"] else {"parts": ready["parts"]}
        if ready["spooled"]:
            left["spooled"] = ready["spooled"]
        for name, query in {
            "fetches": "SELECT count(*) AS n FROM fetches WHERE state = 'waiting'",
            "uploads": "SELECT count(*) AS n FROM resumable_uploads WHERE state = 'finishing'",
            "pieces": "SELECT count(*) AS n FROM upload_pieces p"
            " JOIN resumable_uploads u ON u.id = p.upload_id WHERE u.state <> 'open'",
        }.items():
            count = (await asyncio.to_thread(self._catalogue.rows, query))[0]["n"]
            if count:
                left[name] = count
        return left

    async def _recordings(self) -> dict[str, dict[str, Any]]:
        query = (
            "SELECT r.id, r.source_id, s.name AS source, s.kind, r.identity, r.state, r.sha256, r.size"
            " FROM recordings r JOIN sources s ON s.id = r.source_id"
        )
        rows = await asyncio.to_thread(self._catalogue.rows, query)
        self.report.counts["recordings"] = len(rows)
        return {str(_id(row["id"])): row for row in rows}

    async def _listen(self, recordings: dict[str, dict[str, Any]]) -> None:
        """Play every recording, whatever the ledger says."""
        slots = asyncio.Semaphore(_ABREAST)

        async def one(name: str) -> None:
            async with slots:
                path = f"/api/v1/recordings/{name}/audio"
                try:
                    status, body, _ = await self._get(
                        path, self.config.listener, params={"purpose": "quality"}
                    )
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.report.wrong("does not play", f"{name}: {type(error).__name__}")
                    return
            if status != 200:
                self.report.wrong("does not play", f"{name}: {status} {body[:160]!r}")
                return
            self._heard[name] = (hashlib.sha256(body).hexdigest(), len(body))
            self.report.counts["recordings played"] += 1
            self.report.counts["bytes played"] += len(body)

        stored = [name for name, row in recordings.items() if row["state"] == "stored"]
        await asyncio.gather(*(one(name) for name in stored))

    async def _accepted(self, said: list[Said], recordings: dict[str, dict[str, Any]]) -> None:
        keys = {}
        for key in json.loads((await self._get("/api/v1/keys"))[1])["keys"]:
            if key["kty"] == "OKP":
                keys[key["kid"]] = jwt.PyJWK(key, "EdDSA").key
        by_digest: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, (digest, _) in self._heard.items():
            by_digest[recordings[name]["source"], digest].append(name)
        kept = {
            (row["source"], row["sha256"].hex())
            for row in recordings.values()
            if row["state"] == "quarantined"
        }
        counts = self.report.counts
        for one in said:
            counts["calls told of"] += 1
            if not one.accepted:
                counts["calls not accepted"] += 1
                continue
            counts["calls accepted"] += 1
            found: list[str] = []
            for digest, size in one.pieces:
                counts["files accepted"] += 1
                names = by_digest.get((one.source, digest), [])
                found += names
                if names and any(self._heard[name][1] == size for name in names):
                    counts["files byte for byte"] += 1
                elif (one.source, digest) in kept:
                    counts["files in quarantine"] += 1
                else:
                    self.report.wrong("lost", f"{one} {digest[:16]} {one.id}")
            await self._told(one, found, keys, recordings)

    async def _told(
        self, one: Said, found: list[str], keys: dict[str, Any], recordings: dict[str, dict[str, Any]]
    ) -> None:
        """The id that the sender was given leads to its audio, and its receipt proves the bytes."""
        if one.id is not None:
            name: str | None = one.id
            if one.id not in recordings:
                status, _, location = await self._get(f"/api/v1/recordings/{one.id}", self.config.listener)
                name = (location or "").rpartition("/")[2] if status == 307 else None
                self.report.counts["ids that lead elsewhere"] += 1
            if name is None or name not in recordings:
                self.report.wrong("id names nothing", f"{one} {one.id}")
            elif found and name not in found and recordings[name]["state"] == "stored":
                self.report.wrong("id names another", f"{one} {one.id} {found}")
        if one.receipt is None:
            return
        self.report.counts["receipts"] += 1
        try:
            kid = jwt.get_unverified_header(one.receipt)["kid"]
            payload = json.loads(jwt.PyJWS().decode(one.receipt, keys[kid], algorithms=["EdDSA"]))
        except (jwt.InvalidTokenError, KeyError, ValueError) as error:
            self.report.wrong("receipt does not verify", f"{one}: {type(error).__name__}")
            return
        if (payload["sha256"], payload["size"]) not in one.pieces or payload["id"] != one.id:
            self.report.wrong("receipt proves something else", f"{one} {payload}")
            return
        self.report.counts["receipts verified"] += 1

    def _duplicates(self, recordings: dict[str, dict[str, Any]]) -> None:
        """Every file of a run is its own, so the same bytes twice from one source are a duplicate."""
        for about in ("identity", "sha256"):
            seen = Counter((row["source_id"], row[about]) for row in recordings.values())
            for (_, value), count in seen.items():
                if count > 1:
                    self.report.wrong("duplicate", f"{count} recordings with {about} {value.hex()[:16]}")

    def _foreign(self, said: list[Said], recordings: dict[str, dict[str, Any]]) -> None:
        """Recordings that nobody pushed. What a sender pushed and was not told of may be there."""
        pushed = {(one.source, digest) for one in said for digest, _ in one.pieces}
        told = {one.id for one in said}
        for name, (digest, _) in self._heard.items():
            if (recordings[name]["source"], digest) in pushed:
                continue
            if recordings[name]["kind"] == "jambonz":
                self.report.counts["streams that broke off, kept so far"] += 1
            elif name not in told:
                self.report.wrong("nobody pushed", name)

    async def _quarantine(self) -> None:
        cursor: str | None = None
        while True:
            params = {"limit": "200", **({} if cursor is None else {"cursor": cursor})}
            _, body, _ = await self._get("/api/v1/quarantine", self.config.operator, params=params)
            page = json.loads(body)
            for item in page["items"]:
                self.report.counts["in quarantine"] += 1
                if not _QUARANTINE_EXPLAINED & set(item["reasons"]):
                    self.report.wrong("quarantine without a cause", f"{item['id']} {item['reasons']}")
            cursor = page["next"]
            if cursor is None:
                return

    def _objects(self, recordings: dict[str, dict[str, Any]]) -> None:
        query = (
            "SELECT id, recording_id, role, key, version_id, sealed_size FROM objects"
            " WHERE deleted_at IS NULL AND wrapped_key IS NOT NULL"
        )
        rows = self._catalogue.rows(query)
        here, uploads = stored_objects(self.config.store)
        self.report.counts["rows of objects"], self.report.counts["objects"] = len(rows), len(here)
        versioned = "bucket" in self.config.store
        found = {(one.key, one.version if versioned else None): one for one in here if not one.marker}
        wanted: set[tuple[str, str | None]] = set()
        originals = set()
        for row in rows:
            place = row["key"], row["version_id"] if versioned else None
            wanted.add(place)
            if row["role"] == "original":
                originals.add(str(_id(row["recording_id"])))
            if place not in found:
                self.report.wrong("ghost row", f"{row['role']} of {_id(row['recording_id'])}")
            elif found[place].size != row["sealed_size"]:
                self.report.wrong("object of another size", row["key"])
        for name in recordings.keys() - originals:
            self.report.wrong("recording without an object", name)
        pieces = {row["key"] for row in self._catalogue.rows("SELECT key FROM upload_pieces")}
        pieces |= {row["key"] for row in self._catalogue.rows("SELECT key FROM request_packages")}
        suspects = {
            one.key: one
            for one in here
            if (one.key, one.version if versioned else None) not in wanted and one.key not in pieces
        }
        self._orphans(suspects)
        self._unfinished(uploads)

    def _unfinished(self, uploads: int) -> None:
        """Nothing is being stored any more, once background work has stored what it has in hand."""
        deadline = time.monotonic() + self.config.in_hand
        while uploads and time.monotonic() < deadline:
            time.sleep(0.5)
            uploads = stored_objects(self.config.store)[1]
        if uploads:
            self.report.wrong("upload left in the store", uploads)

    def _orphans(self, suspects: dict[str, Stored]) -> None:
        """An object comes before its row: what background work has in hand gets its row in a moment."""
        deadline = time.monotonic() + self.config.in_hand
        while suspects and time.monotonic() < deadline:
            time.sleep(0.5)
            rows = {
                row["key"] for row in self._catalogue.rows("SELECT key FROM objects WHERE deleted_at IS NULL")
            }
            here = {one.key for one in stored_objects(self.config.store)[0]}
            suspects = {
                key: one for key, one in suspects.items() if key in here and (one.marker or key not in rows)
            }
        for one in suspects.values():
            self.report.wrong("orphan", f"{one.key} {'marker' if one.marker else one.size}")

    def _left_over(self) -> None:
        for path in (Path(self.config.spool) / "items").glob("*"):
            self.report.wrong("left in the spool", path.name)
        query = "SELECT state, count(*) AS n FROM resumable_uploads GROUP BY state"
        for row in self._catalogue.rows(query):
            self.report.counts[f"uploads {row['state']}"] = row["n"]
            if row["state"] in ("finishing", "refused"):
                self.report.wrong(f"uploads {row['state']}", row["n"])
        for row in self._catalogue.rows("SELECT state, count(*) AS n FROM fetches GROUP BY state"):
            self.report.counts[f"fetches {row['state']}"] = row["n"]
            if row["state"] != "done":
                self.report.wrong("fetch not done", row["n"])
        for row in self._catalogue.rows(
            "SELECT outcome, count(*) AS n FROM spooled_receipts GROUP BY outcome"
        ):
            self.report.counts[f"spooled, then {row['outcome']}"] = row["n"]

    def _audit(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "recorder", "audit", "verify"],
            env=self.config.environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            self.report.wrong("audit log", (done.stdout + done.stderr)[-600:])


async def check(config: Config) -> Report:
    """Look once."""
    return await Checker(config).run()


def main() -> int:
    config = Config(**json.loads(Path(sys.argv[1]).read_text()))
    report = asyncio.run(check(config))
    print(report.table(), file=sys.stderr)
    print(json.dumps(report.to_json()))
    return 1 if report.findings else 0


def write_config(config: Config, path: Path) -> None:
    """For a process of the checker's own."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(config)))


if __name__ == "__main__":
    sys.exit(main())
