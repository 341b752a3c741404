"""What ``recorder doctor`` looks at: each part is tried, and says what to do when it is red."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import stat
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa

from recorder.audit import log, merkle, notes
from recorder.catalogue import migrate
from recorder.catalogue.database import Database
from recorder.catalogue.tables import AuditEntry, Controller
from recorder.clock import SystemClock
from recorder.errors import RecorderError
from recorder.services import Services
from recorder.settings import Settings
from storage.errors import Misuse, ObjectMissing, StorageError
from storage.keyrings.file import FileKeyring
from storage.objects import ObjectStore
from storage.spool import Spool
from storage.stores import open_store
from storage.vault import Vault

if TYPE_CHECKING:
    from storage.keys import Keyring

_MIN_FREE: Final = 2 * 1024**3
_MIN_SPOOL: Final = 64 * 1024**2
_MIN_FREE_SHARE: Final = 0.05
_MAX_SKEW: Final = timedelta(seconds=30)
_PROBE_SIZE: Final = 200_000
DECODERS: Final = (
    "pcm_s16le", "pcm_u8", "pcm_mulaw", "pcm_alaw", "gsm", "gsm_ms", "g722", "mp3", "opus", "flac", "amrnb",
)  # fmt: skip
"""ffmpeg decoders of what telephony systems push."""
ENCODERS: Final = ("libopus", "libmp3lame", "pcm_s16le")
"""ffmpeg encoders of what browsers play."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        part: what was looked at.
        ok: None where it could not be looked at because another part is red.
        found: what was seen.
        remedy: what to do when it is red; empty else.
    """

    part: str
    ok: bool | None
    found: str
    remedy: str = ""


class Doctor:
    """Examines one installation. Changes nothing but a probe object, which it removes."""

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings = settings
        self._now = now
        self._database: Database | None = None
        self._keyring: Keyring | None = None
        self._store: ObjectStore | None = None

    async def examine(self) -> AsyncIterator[Finding]:
        """Look at every part in turn."""
        settings = self._settings
        embedded = "embedded database" if settings.embedded else "PostgreSQL"
        scheme = settings.resolved_object_store.partition(":")[0]
        yield Finding("settings", True, f"readable; {embedded}, {scheme} store, listen {settings.listen}")
        parts: tuple[tuple[str, Callable[[], Awaitable[Finding]], str], ...] = (
            ("data directory", self._data_directory, "make it: recorder migrate"),
            ("database", self._reach_database, "start the database; check RECORDER_DATABASE_URL"),
            ("migrations", self._migrations, "recorder migrate"),
            ("keyring", self._open_keyring, "restore the keyring from its backup; a new one opens nothing"),
            (
                "object store",
                self._probe_store,
                "start the store; check RECORDER_OBJECT_STORE and RECORDER_S3_*",
            ),
            ("spool", self._spool, "let it drain: start the store and the database, and recorder serve"),
            ("ffmpeg", self._ffmpeg, "reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"),
            ("clock", self._clock, "turn time synchronisation on (chrony, systemd-timesyncd)"),
            ("audit log", self._log, "recorder audit verify, and treat a false log as an incident"),
        )
        try:
            for part, look, remedy in parts:
                try:
                    yield await look()
                except (RecorderError, StorageError, OSError, sa.exc.SQLAlchemyError) as error:
                    yield Finding(part, False, _words(error), remedy)
        finally:
            if self._database is not None:
                await self._database.close()
            if self._store is not None:
                await self._store.aclose()

    async def _data_directory(self) -> Finding:
        data = self._settings.data_dir

        def look() -> Finding:
            found = data.stat()
            usage = shutil.disk_usage(data)
            free = f"{usage.free / 1024**3:.1f} GiB free"
            mode = stat.S_IMODE(found.st_mode)
            if mode & 0o077:
                return Finding(
                    "data directory", False, f"{data}: mode {mode:04o}, open to others", f"chmod 700 {data}"
                )
            if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
                return Finding(
                    "data directory", False, f"{data} is not writable", f"chown it to {os.geteuid()}"
                )
            if usage.free < _MIN_FREE or usage.free < usage.total * _MIN_FREE_SHARE:
                return Finding(
                    "data directory", False, f"{data}: only {free}", "make room before the disk is full"
                )
            return Finding("data directory", True, f"{data}: mode {mode:04o}, {free}")

        return await asyncio.to_thread(look)

    async def _reach_database(self) -> Finding:
        settings = self._settings
        if settings.database_url is None:
            path = settings.data_dir / "catalogue.sqlite3"
            if not await asyncio.to_thread(path.exists):
                # Not opened: SQLite would make an empty one.
                return Finding("database", False, f"there is no {path}", "make it: recorder migrate")
        database = Database(settings.resolved_database_url)
        self._database = database
        await database.check()
        async with database.snapshot() as session:
            query = "SELECT sqlite_version()" if database.sqlite else "SHOW server_version"
            version = await session.scalar(sa.text(query))
        return Finding("database", True, f"{'SQLite' if database.sqlite else 'PostgreSQL'} {version} answers")

    async def _migrations(self) -> Finding:
        if self._database is None:
            return _unseen("migrations", "database")
        revision, head = await migrate.current(self._database)
        if revision != head:
            state = "no schema" if revision is None else f"schema {revision}"
            return Finding("migrations", False, f"{state}, this program knows {head}", "recorder migrate")
        return Finding("migrations", True, f"at the newest schema, {head}")

    async def _open_keyring(self) -> Finding:
        path = self._settings.resolved_keyring
        if self._database is None and not await asyncio.to_thread(path.exists):
            return Finding("keyring", False, f"there is no {path}", "a new installation: recorder migrate")
        keyring = await asyncio.to_thread(FileKeyring.open, path)
        self._keyring = keyring
        key = keyring.signing_key("log")
        message = secrets.token_bytes(32)
        key.public_key().verify(key.sign(message), message)
        controllers = await self._controllers()
        for controller in controllers:
            identity = str(controller)
            epoch = keyring.current_epoch(identity)
            wrapped = keyring.wrap(identity, epoch, message, b"recorder doctor")
            if keyring.unwrap(identity, epoch, wrapped, b"recorder doctor") != message:
                return Finding("keyring", False, f"controller {identity}: a wrap does not open", "restore it")
        found = f"mode 0600, opens, signs, wraps for {len(controllers)} controllers"
        return Finding("keyring", True, found)

    async def _controllers(self) -> list[uuid.UUID]:
        if self._database is None:
            return []
        revision, head = await migrate.current(self._database)
        if revision != head:
            return []
        async with self._database.snapshot() as session:
            return list(await session.scalars(sa.select(Controller.id)))

    async def _probe_store(self) -> Finding:
        settings = self._settings
        address = urlsplit(settings.resolved_object_store)
        if address.scheme == "file":
            above = Path(unquote(address.path)).parent
            if not await asyncio.to_thread(above.is_dir):
                return Finding("object store", False, f"there is no {above}", "make it: recorder migrate")
        secret = settings.s3_secret_key
        try:
            store = open_store(
                settings.resolved_object_store,
                s3_endpoint=settings.s3_endpoint,
                access_key=settings.s3_access_key,
                secret_key=None if secret is None else secret.get_secret_value(),
                region=settings.s3_region,
            )
        except Misuse as error:
            return Finding("object store", False, str(error), "correct RECORDER_OBJECT_STORE, RECORDER_S3_*")
        self._store = store
        await store.check()
        began = time.monotonic()
        problem = await _try_store(store)
        if problem is not None:
            return Finding("object store", False, problem, "the store does not do what recordings need")
        took = (time.monotonic() - began) * 1000
        able = await store.capabilities()
        names = (
            ("versions", able.versions),
            ("Object Lock", able.object_lock),
            ("legal hold", able.legal_hold),
            ("conditional put", able.conditional_put),
        )
        has = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in names)
        return Finding("object store", True, f"write, read, range, delete in {took:.0f} ms; {has}")

    async def _spool(self) -> Finding:
        settings = self._settings
        if settings.spool_max_bytes == 0:
            return Finding("spool", True, "switched off: without store or database, pushes are refused")
        if self._keyring is None:
            return _unseen("spool", "keyring")
        spool = Spool(
            settings.resolved_spool,
            self._keyring,
            max_bytes=settings.spool_max_bytes,
            max_items=settings.spool_max_items,
        )
        await spool.load()
        figures = spool.figures()
        found = f"{figures.items} deliveries wait, {figures.size / 1024**2:.1f} MiB"
        if figures.oldest is not None:
            found += f", the oldest for {_seconds(self._now() - figures.oldest)}"
        if figures.damaged:
            remedy = f"keep {settings.resolved_spool}, and restore the keyring's backup if keys are missing"
            return Finding("spool", False, f"{found}; {figures.damaged} cannot be read", remedy)
        room = settings.spool_max_bytes - figures.size
        above = settings.resolved_spool
        while not await asyncio.to_thread(above.exists):
            above = above.parent
        free = (await asyncio.to_thread(shutil.disk_usage, above)).free
        found += f"; room for {min(room, free) / 1024**2:.1f} MiB"
        if min(room, free) < _MIN_SPOOL:
            return Finding("spool", False, found, "make room, or raise RECORDER_SPOOL_MAX_BYTES")
        return Finding("spool", True, found)

    async def _ffmpeg(self) -> Finding:
        from recorder.playback.ffmpeg import ffmpeg_path

        path = await asyncio.to_thread(ffmpeg_path)
        version = (await _output(path, "-hide_banner", "-version")).splitlines()[0]
        words = version.split()
        decoders = _codecs(await _output(path, "-hide_banner", "-decoders"))
        encoders = _codecs(await _output(path, "-hide_banner", "-encoders"))
        missing = [f"decoder {n}" for n in DECODERS if n not in decoders]
        missing += [f"encoder {n}" for n in ENCODERS if n not in encoders]
        name = words[2] if len(words) > 2 else "of unknown version"
        if missing:
            return Finding("ffmpeg", False, f"{name} lacks {', '.join(missing)}", "install a complete ffmpeg")
        counts = f"{len(DECODERS)} decoders and {len(ENCODERS)} encoders needed are there"
        return Finding("ffmpeg", True, f"{name}; {counts}")

    async def _clock(self) -> Finding:
        compared: list[tuple[str, timedelta]] = []
        if self._database is not None and not self._database.sqlite:
            async with self._database.snapshot() as session:
                theirs = await session.scalar(sa.text("SELECT clock_timestamp()"))
            if isinstance(theirs, datetime):
                compared.append(("the database", self._now() - theirs.astimezone(UTC)))
        endpoint = self._settings.s3_endpoint
        if endpoint is not None:
            theirs = await _date_of(endpoint)
            if theirs is not None:
                compared.append(("the object store", self._now() - theirs))
        newest = await self._newest_entry()
        if newest is not None and newest - self._now() > _MAX_SKEW:
            ahead = f"the newest audit entry lies {_seconds(newest - self._now())} in the future"
            return Finding("clock", False, ahead, "set the clock; it has run backwards, or ran ahead before")
        wrong = [f"{_seconds(by)} off from {name}" for name, by in compared if abs(by) > _MAX_SKEW]
        if wrong:
            return Finding("clock", False, "; ".join(wrong), "turn time synchronisation on")
        zone = self._now().isoformat(timespec="seconds")
        agrees = " and ".join(name for name, _ in compared)
        return Finding("clock", True, f"{zone}{f', agrees with {agrees}' if agrees else ''}")

    async def _newest_entry(self) -> datetime | None:
        if self._database is None:
            return None
        revision, head = await migrate.current(self._database)
        if revision != head:
            return None
        async with self._database.snapshot() as session:
            newest: datetime | None = await session.scalar(sa.select(sa.func.max(AuditEntry.at)))
        return newest

    async def _log(self) -> Finding:
        if self._database is None:
            return _unseen("audit log", "database")
        if self._keyring is None:
            return _unseen("audit log", "keyring")
        if self._store is None:
            return _unseen("audit log", "object store")
        revision, head = await migrate.current(self._database)
        if revision != head:
            return _unseen("audit log", "database's schema")
        services = Services(
            settings=self._settings,
            clock=SystemClock(),
            database=self._database,
            keyring=self._keyring,
            store=self._store,
            vault=Vault(self._store, self._keyring),
        )
        remedy = "recorder audit verify, and treat a false log as an incident"
        async with self._database.snapshot() as session:
            row = await log.newest_checkpoint(session)
            if row is None:
                return Finding("audit log", True, "no checkpoint yet: nothing was sequenced")
            try:
                signed = notes.open_note(row.note, log.log_key(services))
                nodes = await log.load_nodes(session, merkle.cover(0, row.size))
                root = merkle.range_hash(0, row.size, nodes)
            except (notes.BadNote, KeyError):
                return Finding("audit log", False, "the last checkpoint does not verify", remedy)
        if (signed.size, signed.root) != (row.size, root):
            return Finding("audit log", False, "the last checkpoint does not fit the log", remedy)
        await log.refuse_if_rolled_back(services)
        age = _seconds(self._now() - row.signed_at)
        found = (
            f"the last checkpoint, {row.size} entries, signed {age} ago, verifies and continues the store's"
        )
        return Finding("audit log", True, found)


async def _try_store(store: ObjectStore) -> str | None:
    """Write, read, read a range and delete a random object; return what went wrong."""
    key = f"probe/{uuid.uuid4()}"
    body = secrets.token_bytes(_PROBE_SIZE)

    async def pieces() -> AsyncIterator[bytes]:
        yield body[: _PROBE_SIZE // 2]
        yield body[_PROBE_SIZE // 2 :]

    try:
        await store.put(key, pieces(), size=_PROBE_SIZE)
        if (await store.stat(key)).size != _PROBE_SIZE:
            return "an object has another size than was written"
        async with store.get(key) as whole:
            if b"".join([bytes(piece) async for piece in whole]) != body:
                return "an object reads back other bytes than were written"
        async with store.get(key, start=70_001, end=70_101) as part:
            if b"".join([bytes(piece) async for piece in part]) != body[70_001:70_101]:
                return "a range reads back other bytes than were written"
        if len([version async for version in store.versions(key)]) != 1:
            return "a fresh object does not have exactly one version"
    finally:
        await store.delete_all(key)
    try:
        await store.stat(key)
    except ObjectMissing:
        pass
    else:
        return "an object is still there after it was deleted"
    if [version async for version in store.versions(key)]:
        return "versions of an object are still there after it was deleted"
    return None


async def _output(path: str, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        path,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await process.communicate()
    return out.decode("utf-8", "replace")


def _codecs(listing: str) -> frozenset[str]:
    """Names in the output of ``ffmpeg -decoders``: the second column below the ruler."""
    lines: Iterable[list[str]] = (line.split() for line in listing.splitlines())
    return frozenset(words[1] for words in lines if len(words) > 1)


async def _date_of(endpoint: str) -> datetime | None:
    """The time that the S3 server's answers carry (RFC 9110 section 6.6.1)."""
    import aiohttp

    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.head(url) as response:
            value = response.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError):
        return None
    try:
        return None if value is None else parsedate_to_datetime(value).astimezone(UTC)
    except ValueError:
        return None


def _seconds(by: timedelta) -> str:
    return f"{abs(by.total_seconds()):.0f} s"


def _unseen(part: str, because: str) -> Finding:
    return Finding(part, None, f"not looked at: the {because} is red")


def _words(error: BaseException) -> str:
    if isinstance(error, (RecorderError, StorageError)):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return type(error).__name__  # a driver's message may quote the URL with its password
