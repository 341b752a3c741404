"""Making an installation ready: data directory, keyring, schema, controllers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.database import Database
from recorder.catalogue.enums import JobState, SubjectKind
from recorder.catalogue.migrate import current, upgrade
from recorder.catalogue.subjects import add_subject
from recorder.catalogue.tables import Controller, Job
from recorder.disposition import schedules
from recorder.errors import ConfigurationError, Conflict, FieldError, InvalidInput, Unavailable
from recorder.services import Services
from recorder.settings import Settings
from storage.keyrings.file import FileKeyring

_CATALOGUE: Final = "catalogue.sqlite3"
_CODE_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@dataclass(frozen=True, slots=True)
class Country:
    """What follows from where a controller is established.

    Attributes:
        time_zone: zone in which its days begin and end.
        authority: supervisory authority (GDPR art. 51), as replies to data subjects name it.
    """

    time_zone: str
    authority: str


COUNTRIES: Final = {
    "FI": Country("Europe/Helsinki", "Tietosuojavaltuutetun toimisto"),
    "SE": Country("Europe/Stockholm", "Integritetsskyddsmyndigheten"),
}


def prepare_files(settings: Settings, now: datetime) -> bool:
    """Make the data directory (mode 0700) and the keyring where missing; True when a keyring was made.

    An existing keyring is never touched: losing it loses every recording.

    Raises:
        ConfigurationError: The data directory cannot be made, or is open to other users.
        storage.errors.KeyringError: The keyring cannot be made.
    """
    data = settings.data_dir
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data.stat()
    except OSError as error:
        raise ConfigurationError(f"RECORDER_DATA_DIR {data}: {error.strerror}") from None
    if stat.S_IMODE(found.st_mode) & 0o077:
        if any(data.iterdir()):
            raise ConfigurationError(f"the data directory {data} is open to other users: chmod 700 {data}")
        data.chmod(0o700)  # fresh and empty, made with a wider mask
    keyring = settings.resolved_keyring
    if keyring.exists():
        return False
    if settings.embedded and (data / _CATALOGUE).exists():
        raise ConfigurationError(
            f"there is a catalogue but no keyring at {keyring}: restore it from its backup; "
            "a new keyring could open nothing"
        )
    keyring.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    FileKeyring.create(keyring, now).close()
    return True


async def refuse_new_keyring(settings: Settings) -> None:
    """Return unless the keyring is missing although a database server already holds an installation.

    Raises:
        ConfigurationError: A new keyring could open nothing of what is there.
        Unavailable: The database is away.
    """
    if settings.embedded or settings.resolved_keyring.exists():
        return
    database = Database(settings.resolved_database_url)
    try:
        await database.check()
        revision, _ = await current(database)
    finally:
        await database.close()
    if revision is not None:
        raise ConfigurationError(
            f"the database is in use but there is no keyring at {settings.resolved_keyring}: restore it from "
            "its backup; a new keyring could open nothing"
        )


async def migrate(settings: Settings) -> None:
    """Bring the database to this program's schema.

    Raises:
        Unavailable: The database is away.
    """
    database = Database(settings.resolved_database_url)
    try:
        await database.check()
        await upgrade(database)
    finally:
        await database.close()


async def make_ready(settings: Settings) -> None:
    """Refuse an old schema; let go of work that a service that died here had in hand.

    On an embedded data directory, under :func:`only_one`, nobody else can be at that work, so it need not
    wait for the end of its lease. The attempts it took stay counted.

    Raises:
        ConfigurationError: Nothing is installed here.
        Unavailable: The database is away, or has another schema than this program.
    """
    if settings.database_url is None and not (settings.data_dir / _CATALOGUE).exists():
        # Not opened: SQLite would make an empty one.
        raise ConfigurationError(f"nothing is installed in {settings.data_dir}: run `recorder migrate`")
    database = Database(settings.resolved_database_url)
    try:
        await database.check()
        revision, head = await current(database)
        if revision != head:
            raise Unavailable(
                "the database does not have this program's schema: run `recorder migrate`",
                dependency="database",
            )
        if settings.embedded:
            async with database.transaction() as session:
                await session.execute(
                    sa.update(Job)
                    .where(Job.state == JobState.RUNNING)
                    .values(lease_until=datetime.fromtimestamp(0, UTC))
                )
    finally:
        await database.close()


async def add_controller(
    session: AsyncSession,
    services: Services,
    *,
    code: str,
    name: str,
    country: str,
    time_zone: str | None = None,
    authority: str | None = None,
    actor: str,
) -> Controller:
    """Add a controller with its first key epoch, its own subject and its country's default schedule.

    Args:
        code: Short stable name, for example ``fi-main``.
        name: The company's name.
        country: ISO 3166 code of where it is established.
        time_zone: IANA zone; the country's own where left out.
        authority: Supervisory authority; the country's own where left out.
        actor: Who adds it.

    Raises:
        InvalidInput: A value cannot be used.
        Conflict: There is a controller of this code.
    """
    now = services.clock.now()
    known = COUNTRIES.get(country)
    if known is None and (time_zone is None or authority is None):
        raise _wrong("country", f"only {', '.join(COUNTRIES)} are known; name time zone and authority too")
    if not (2 <= len(code) <= 64 and set(code) <= _CODE_LETTERS and code[0].isalnum()):
        raise _wrong("code", "use lower-case letters, digits and dashes, for example fi-main")
    zone = time_zone or (known.time_zone if known else "")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong("time_zone", "use a name such as Europe/Helsinki") from None
    if await session.scalar(sa.select(Controller.id).where(Controller.code == code)) is not None:
        raise Conflict(f"there is a controller {code} already")
    row = Controller(
        id=uuid.uuid4(),
        code=code,
        name=name,
        country=country,
        time_zone=zone,
        authority=authority or (known.authority if known else ""),
        subject_id=None,
        created_at=now,
    )
    # The keyring first: an epoch that no row names is harmless, a row without its key is not.
    services.keyring.ensure_controller(str(row.id), now)
    session.add(row)
    await session.flush()
    subject = add_subject(session, services.keyring, row.id, SubjectKind.CONTROLLER, now=now)
    await session.flush()
    row.subject_id = subject.id
    record(
        session,
        AuditEvent("controller.created", actor, "controller", str(row.id), controller_id=row.id),
        now=now,
    )
    await schedules.install_default(session, row, actor=actor, now=now)
    return row


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the one place of a running service on an embedded data directory.

    SQLite and the local directory are one process's; commands are not kept out, they are short. The lock is
    the system's (flock), so a killed process leaves none behind.

    Raises:
        AlreadyRunning: Another service runs on this data directory.
    """
    if not settings.embedded:
        yield
        return
    path = settings.data_dir / "service.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"RECORDER_DATA_DIR {settings.data_dir}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _pid(path)
            raise AlreadyRunning(
                f"another recorder{f' (process {pid})' if pid else ''} serves {settings.data_dir} already; "
                "stop it, or give this one a RECORDER_DATA_DIR of its own"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)


class AlreadyRunning(Conflict):
    """A service runs on this data directory already."""


def _pid(path: Path) -> str:
    with contextlib.suppress(OSError):
        text = path.read_text("ascii").strip()
        if text.isdigit():
            return text
    return ""


def _wrong(field: str, message: str) -> InvalidInput:
    return InvalidInput(f"{field}: {message}", fields=[FieldError(field, message)])
