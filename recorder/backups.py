"""A consistent copy of the catalogue, a list of what the store holds, and never the keyring beside them.

Whoever has the database and the keyring has everything, so one backup never holds both. The sealed objects
are not copied: they never change, and a copy of the bucket made after the database's is complete for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.migrate import current
from recorder.catalogue.tables import AuditCheckpoint
from recorder.errors import ConfigurationError, Unavailable
from recorder.services import Services
from recorder.settings import Settings

MANIFEST: Final = "backup.json"
LISTING: Final = "objects.jsonl"
SQLITE_COPY: Final = "catalogue.sqlite3"
POSTGRES_COPY: Final = "catalogue.pgdump"
KEYRING_COPY: Final = "keyring.json"
FORMAT: Final = 1
_PAGES: Final = 2000

Progress = Callable[[str, int], None]
"""``(what, how much so far)``; for a person who waits."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was made.

    Attributes:
        database: the copy of the catalogue.
        objects: how many objects the store listed.
        bytes: their size in the store.
        keyring: the keyring's copy, where one was asked for.
    """

    directory: Path
    database: Path
    objects: int
    bytes: int
    keyring: Path | None


def check_places(settings: Settings, target: Path, keyring_to: Path | None) -> None:
    """Refuse places in which the keyring and the database would lie together.

    Raises:
        ConfigurationError: a place is not empty, or the keyring is or would be in the same one.
    """
    keyring = settings.resolved_keyring.resolve()
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} is not an empty directory: name a new one for each backup")
    if keyring.parent == target or target in keyring.parents:
        raise ConfigurationError(
            f"the keyring lies in {target}: never in one place with the database's backup"
        )
    if keyring_to is None:
        return
    apart = keyring_to.resolve()
    if apart == target or target in apart.parents or apart in target.parents:
        raise ConfigurationError("the keyring's copy must not lie in, or around, the database's backup")
    if (apart / KEYRING_COPY).exists():
        raise ConfigurationError(f"there is a keyring in {apart} already; it is never overwritten")


async def make(
    services: Services,
    target: Path,
    *,
    keyring_to: Path | None = None,
    actor: str,
    progress: Progress = lambda _what, _count: None,
) -> Backup:
    """Copy the catalogue while it is in use, and list the store.

    Args:
        target: a directory that is empty or does not exist; made with mode 0700.
        keyring_to: another directory, for a copy of the keyring.

    Raises:
        ConfigurationError: see :func:`check_places`; or PostgreSQL's ``pg_dump`` is not installed.
        Unavailable: the database or the store is away, or the copy failed.
    """
    settings = services.settings
    await asyncio.to_thread(check_places, settings, target, keyring_to)
    await asyncio.to_thread(lambda: target.mkdir(mode=0o700, parents=True, exist_ok=True))
    await asyncio.to_thread(target.chmod, 0o700)
    now = services.clock.now()
    async with services.database.snapshot() as session:
        newest = await session.scalar(sa.select(sa.func.max(AuditCheckpoint.size)))
    revision, _ = await current(services.database)
    # The database first: every object that it names was stored before it named it.
    if services.database.sqlite:
        database = target / SQLITE_COPY
        source = services.database.url.database or ""
        await asyncio.to_thread(_copy_sqlite, source, database, progress)
    else:
        database = target / POSTGRES_COPY
        await _dump_postgres(services.database.url, database)
    count, size, listing = await _list_objects(services, target / LISTING, progress)
    copied = None
    if keyring_to is not None:
        copied = await asyncio.to_thread(_copy_keyring, settings.resolved_keyring, keyring_to)
    digest = await asyncio.to_thread(_sha256, database)
    manifest = {
        "v": FORMAT,
        "made_at": now.astimezone(UTC).isoformat(),
        "schema": revision,
        "database": {"file": database.name, "sha256": digest},
        "log": {"signed_entries": int(newest or 0)},
        "objects": {"file": LISTING, "count": count, "bytes": size, "sha256": listing},
        "keyring": "apart" if copied is not None else "not copied",
    }
    raw = json.dumps(manifest, indent=2).encode() + b"\n"
    await asyncio.to_thread(_write, target / MANIFEST, raw)  # last: what lacks it is not complete
    async with services.database.transaction() as session:
        details: dict[str, Detail] = {"sha256": digest, "objects": count, "keyring": copied is not None}
        event = AuditEvent("backup.made", actor, "installation", "installation", details=details)
        record(session, event, now=services.clock.now())
    return Backup(target, database, count, size, copied)


def _copy_sqlite(source: str, target: Path, progress: Progress) -> None:
    """SQLite's online backup: a consistent copy of a database that is being written."""
    _write(target, b"")
    try:
        reader = sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=15)
        writer = sqlite3.connect(target)
        try:
            reader.backup(
                writer, pages=_PAGES, progress=lambda _s, left, total: progress("pages", total - left)
            )
            writer.execute("PRAGMA journal_mode=DELETE")
            (whole,) = writer.execute("PRAGMA quick_check").fetchone()
        finally:
            writer.close()
            reader.close()
    except sqlite3.Error as error:
        raise Unavailable(f"the copy of the database failed: {error}", dependency="database") from error
    if whole != "ok":
        raise Unavailable("the copy of the database is damaged; make it again", dependency="database")
    with target.open("rb") as made:
        os.fsync(made.fileno())


async def _dump_postgres(url: sa.URL, target: Path) -> None:
    program = await asyncio.to_thread(shutil.which, "pg_dump")
    if program is None:
        raise ConfigurationError(
            "pg_dump is not installed here: install PostgreSQL's client programs of the server's version, or "
            "back the database up where it runs"
        )
    await asyncio.to_thread(_write, target, b"")
    # The password travels in the environment: a command line is everybody's to read.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    parts: dict[str, object] = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username}
    parts["PGDATABASE"] = url.database
    parts |= {"PGPASSWORD": url.password, "PGSSLMODE": url.query.get("sslmode")}
    environment |= {name: str(value) for name, value in parts.items() if value}
    process = await asyncio.create_subprocess_exec(
        program,
        "--format=custom",
        "--no-owner",
        "--no-privileges",
        f"--file={target}",
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode != 0:
        why = " ".join(said.decode(errors="replace").split())[:300]
        raise Unavailable(f"pg_dump failed: {why}", dependency="database")


async def _list_objects(services: Services, target: Path, progress: Progress) -> tuple[int, int, str]:
    count = size = 0
    digest = hashlib.sha256()
    await asyncio.to_thread(_write, target, b"")
    lines: list[bytes] = []
    async for version in services.store.versions(""):
        entry: dict[str, Any] = {
            "key": version.key,
            "version": version.version_id,
            "size": version.size,
            "modified": version.modified.astimezone(UTC).isoformat(),
            "deleted": version.is_delete_marker,
        }
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        digest.update(line)
        lines.append(line)
        count, size = count + 1, size + version.size
        if len(lines) == _PAGES:
            await asyncio.to_thread(_append, target, b"".join(lines))
            lines.clear()
            progress("objects", count)
    await asyncio.to_thread(_append, target, b"".join(lines))
    progress("objects", count)
    return count, size, digest.hexdigest()


def _copy_keyring(keyring: Path, folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / KEYRING_COPY
    _write(target, keyring.read_bytes())
    return target


def _write(target: Path, raw: bytes) -> None:
    """A new file of mode 0600, on the disk when this returns."""
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{target}: {error.strerror}") from None
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _append(target: Path, raw: bytes) -> None:
    with target.open("ab") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
