# ruff: noqa: S608 - statements are put together from constants of this module
"""What the agent knows of every file, on disk before it acts on it: SQLite with a write-ahead log.

Every change is one transaction that is on the disk (``synchronous=FULL``) before the agent goes on, so the
agent may be killed, and the machine lose power, between any two steps. Beside the file's own name the journal
holds nothing that a file was not known by before: no numbers, no metadata.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from recorder.errors import ConfigurationError, Corrupt, RecorderError, Unavailable
from recorder.spooling.folder import Identity

T = TypeVar("T")
VERSION: Final = 1
RESERVE: Final = 2 * 1024 * 1024
"""Bytes kept back on the disk, given up when it is full: the journal must still learn of receipts."""

_SCHEMA: Final = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    sha256 BLOB, key TEXT, url TEXT, sent INTEGER NOT NULL DEFAULT 0,
    recording_id TEXT, receipt TEXT, outcome TEXT,
    companions BLOB,
    attempts INTEGER NOT NULL DEFAULT 0, next_at REAL NOT NULL DEFAULT 0, problem TEXT,
    seen_at REAL NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE INDEX files_by_path ON files (path, id);
CREATE INDEX files_by_state ON files (state, next_at);
"""


class State(StrEnum):
    """How far a file has come; docs/spool-agent.md draws it."""

    SEEN = "seen"
    HASHED = "hashed"
    UPLOADING = "uploading"
    ACCEPTED = "accepted"
    DONE = "done"
    FAILED = "failed"
    CONFLICT = "conflict"
    ERASED = "erased"
    GONE = "gone"


PENDING: Final = (State.SEEN, State.HASHED, State.UPLOADING, State.ACCEPTED)
LISTED: Final = (State.FAILED, State.CONFLICT, State.ERASED)
_REFUSED: Final = frozenset({State.FAILED, State.CONFLICT, State.ERASED, State.GONE})
MOVES: Final[dict[State, frozenset[State]]] = {
    State.SEEN: frozenset({State.HASHED, State.FAILED, State.GONE}),
    State.HASHED: frozenset({State.UPLOADING, State.ACCEPTED, *_REFUSED}),
    State.UPLOADING: frozenset({State.HASHED, State.ACCEPTED, *_REFUSED}),
    State.ACCEPTED: frozenset({State.DONE}),
    State.DONE: frozenset(),
    State.FAILED: frozenset({State.SEEN}),
    State.CONFLICT: frozenset({State.SEEN}),
    State.ERASED: frozenset({State.SEEN}),
    State.GONE: frozenset(),
}
"""Which state may follow which: nothing is done without having been accepted."""


class JournalMisuse(RecorderError):
    """A step that the file's state does not allow: a mistake in this program."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, as the journal knows it.

    Attributes:
        path: relative to the directory.
        key: names this delivery to the service, however often it is tried.
        url: of the resumable upload.
        sent: bytes that the service confirmed of it.
        outcome: what the service made of it: ``stored``, ``quarantined``, ``spooled``, ``repeated``.
        companions: sidecars that go the way of the audio, as the agent wrote them.
        next_at: not tried again before; seconds since 1970.
        problem: stable code of what went wrong last.
    """

    id: int
    path: bytes
    identity: Identity
    state: State
    sha256: bytes | None
    key: str | None
    url: str | None
    sent: int
    recording_id: str | None
    receipt: str | None
    outcome: str | None
    companions: bytes | None
    attempts: int
    next_at: float
    problem: str | None
    seen_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts for a status line.

    Attributes:
        counts: files by state.
        waiting: files that are still to be pushed or removed.
        waiting_bytes: their size together.
        oldest: seconds since the oldest of them was first seen; None without any.
    """

    counts: dict[State, int]
    waiting: int
    waiting_bytes: int
    oldest: float | None


class Journal:
    """The journal of one directory. Methods block on the disk; call them in a thread."""

    def __init__(self, folder: Path, *, read_only: bool = False, reserve: int = RESERVE) -> None:
        """Open it, or make it.

        Args:
            folder: The agent's private folder.
            read_only: For a look from outside while an agent runs.
            reserve: Bytes to keep back on the disk.

        Raises:
            ConfigurationError: There is none to read, or another version of this program wrote it.
            Corrupt: It is damaged.
            Unavailable: It cannot be written.
        """
        self._lock = threading.Lock()
        self._reserve = folder / "reserve"
        self._reserve_size = 0 if read_only else reserve
        path = folder / "journal.sqlite"
        if read_only and not path.is_file():
            raise ConfigurationError("no agent has worked on this directory yet")
        if not read_only:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}"
        with _translated():
            self._db = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30
            )
            self._db.execute("PRAGMA synchronous = FULL")
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA journal_size_limit = 1048576")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0 and not read_only:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            elif version != VERSION:
                raise ConfigurationError("the journal is of another version of this program")
        self.keep_reserve()

    def close(self) -> None:
        """Close it in good order."""
        with self._lock:
            self._db.close()

    # Steps

    def note(self, path: bytes, identity: Identity, now: float, *, keeps: bool = False) -> tuple[int, bool]:
        """Note a complete file and return its number and whether it is new.

        Args:
            path: Relative to the directory.
            identity: Of the file.
            now: Seconds since 1970.
            keeps: Files stay where they are once they are accepted: a file that is done is then not new.
        """
        same = (path, identity.inode, identity.size, identity.mtime_ns)

        def work(db: sqlite3.Connection) -> tuple[int, bool]:
            row = db.execute(
                "SELECT id, state FROM files WHERE path = ? AND inode = ? AND size = ? AND mtime_ns = ?"
                " ORDER BY id DESC LIMIT 1",
                same,
            ).fetchone()
            if row is not None:
                state = State(row[1])
                if state is not State.GONE and (state is not State.DONE or keeps):
                    return int(row[0]), False
            made = db.execute(
                "INSERT INTO files (path, inode, size, mtime_ns, state, seen_at, changed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*same, State.SEEN, now, now),
            )
            assert made.lastrowid is not None  # noqa: S101 - an INSERT has one
            return made.lastrowid, True

        return self._write(work)

    def hashed(self, number: int, sha256: bytes, key: str, now: float) -> None:
        """The file's digest is known; a delivery begins."""
        self._move(number, State.HASHED, now, sha256=sha256, key=key, url=None, sent=0)

    def uploading(self, number: int, url: str, now: float) -> None:
        """The service made a resumable upload."""
        self._move(number, State.UPLOADING, now, url=url, sent=0)

    def sent(self, number: int, offset: int) -> None:
        """The service confirmed that many bytes of it; for the status only, the service knows better."""
        self._execute(
            "UPDATE files SET sent = ? WHERE id = ? AND state = ?", (offset, number, State.UPLOADING)
        )

    def restart(self, number: int, now: float) -> None:
        """The resumable upload is no more; another begins."""
        self._move(number, State.HASHED, now, url=None, sent=0)

    def accepted(
        self,
        number: int,
        *,
        recording_id: str,
        receipt: str,
        outcome: str,
        companions: bytes | None,
        now: float,
    ) -> None:
        """The service holds it, by a receipt that was verified."""
        self._move(number, State.ACCEPTED, now, recording_id=recording_id, receipt=receipt, outcome=outcome,
                   companions=companions, problem=None, attempts=0, next_at=0.0)  # fmt: skip

    def finish(self, number: int, state: State, now: float, problem: str | None = None) -> None:
        """The file is done with, one way or another."""
        self._move(number, state, now, problem=problem, next_at=0.0)

    def postpone(self, number: int, until: float, problem: str | None, *, attempt: bool = True) -> None:
        """Try again later.

        Args:
            number: Of the file.
            until: Seconds since 1970.
            problem: Stable code of the reason.
            attempt: Count it as a failed attempt.
        """
        self._execute(
            "UPDATE files SET next_at = ?, problem = ?, attempts = attempts + ? WHERE id = ?",
            (until, problem, int(attempt), number),
        )

    def wake(self) -> None:
        """Nothing waits any longer: after a start, or when the service is back."""
        self._execute(f"UPDATE files SET next_at = 0 WHERE next_at > 0 AND state IN {_PENDING_SQL}")

    def retry(self, now: float) -> int:
        """Begin again with everything that was refused, and return how many that are."""
        return self._execute(
            "UPDATE files SET state = 'seen', sha256 = NULL, key = NULL, url = NULL, sent = 0,"
            f" problem = NULL, attempts = 0, next_at = 0, changed_at = ? WHERE state IN {_LISTED_SQL}",
            (now,),
        )

    def forget(self, before: float, *, keep: Collection[bytes] = ()) -> int:
        """Drop what was done before an instant, except files that are still there, and return how many."""

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT id, path FROM files WHERE state IN ('done', 'gone') AND changed_at < ?", (before,)
            ).fetchall()
            gone = [(number,) for number, path in rows if path not in keep]
            db.executemany("DELETE FROM files WHERE id = ?", gone)
            return len(gone)

        return self._write(work)

    # Questions

    def knows(self, path: bytes, identity: Identity, *, keeps: bool) -> bool:
        """Whether :meth:`note` would find the file known already."""
        with self._lock, _translated():
            row = self._db.execute(
                "SELECT state FROM files WHERE path = ? AND inode = ? AND size = ? AND mtime_ns = ?"
                " ORDER BY id DESC LIMIT 1",
                (path, identity.inode, identity.size, identity.mtime_ns),
            ).fetchone()
        if row is None:
            return False
        state = State(row[0])
        return state is not State.GONE and (state is not State.DONE or keeps)

    def has(self, number: int, state: State) -> bool:
        """Whether the file of this number is in this state."""
        return bool(self._read("id = ? AND state = ?", (number, state)))

    def entry(self, number: int) -> Entry:
        """Return one file.

        Raises:
            JournalMisuse: There is none of this number.
        """
        found = self._read("id = ?", (number,))
        if not found:
            raise JournalMisuse("the journal has no such file")
        return found[0]

    def due(
        self, now: float, limit: int, busy: Collection[int] = (), *, only_accepted: bool = False
    ) -> list[Entry]:
        """Return files to work on; those whose receipt is here come before all.

        Then the least often tried, of these the longest known: a file that the service fails on every time
        holds up no other.
        """
        without = ",".join(str(int(number)) for number in busy)
        states = "('accepted')" if only_accepted else _PENDING_SQL
        return self._read(
            f"state IN {states} AND next_at <= ? AND id NOT IN ({without})"
            " ORDER BY state != 'accepted', attempts, id LIMIT ?",
            (now, limit),
        )

    def next_due(self, busy: Collection[int] = ()) -> float | None:
        """When the next file may be tried, but for those; None when none waits."""
        without = ",".join(str(int(number)) for number in busy)
        with self._lock, _translated():
            (when,) = self._db.execute(
                f"SELECT min(next_at) FROM files WHERE state IN {_PENDING_SQL} AND id NOT IN ({without})"
            ).fetchone()
        return None if when is None else float(when)

    def listed(self, states: Sequence[State] = LISTED, limit: int = 1000) -> list[Entry]:
        """Return files in these states, newest first."""
        marks = ",".join("?" * len(states))
        return self._read(f"state IN ({marks}) ORDER BY id DESC LIMIT ?", (*states, limit))

    def summary(self, now: float) -> Summary:
        """Count everything."""
        with self._lock, _translated():
            rows = self._db.execute(
                "SELECT state, count(*), sum(size), min(seen_at) FROM files GROUP BY state"
            ).fetchall()
        counts = {State(row[0]): int(row[1]) for row in rows}
        pending = [row for row in rows if row[0] in PENDING]
        return Summary(
            counts,
            sum(int(row[1]) for row in pending),
            sum(int(row[2]) for row in pending),
            max(0.0, now - min(float(row[3]) for row in pending)) if pending else None,
        )

    def keep_reserve(self) -> None:
        """Take the reserve again where there is room for it."""
        if self._reserve_size == 0:
            return
        with suppress(OSError):  # no room: then there is nothing to keep back
            fd = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < self._reserve_size:
                    os.posix_fallocate(fd, 0, self._reserve_size)
            finally:
                os.close(fd)

    # Inside

    def _move(self, number: int, to: State, now: float, **columns: Any) -> None:
        sources = [state for state in State if to in MOVES[state]]
        marks = ",".join("?" * len(sources))
        sets = "".join(f", {name} = ?" for name in columns)
        moved = self._execute(
            f"UPDATE files SET state = ?, changed_at = ?{sets} WHERE id = ? AND state IN ({marks})",
            (to, now, *columns.values(), number, *sources),
        )
        if moved != 1:
            raise JournalMisuse(f"no file of this number can become {to}")

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self._write(lambda db: db.execute(statement, values).rowcount)

    def _read(self, where: str, values: Sequence[Any]) -> list[Entry]:
        with self._lock, _translated():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM files WHERE {where}", values).fetchall()
        return [Entry(r[0], r[1], Identity(r[2], r[3], r[4]), State(r[5]), *r[6:]) for r in rows]

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run one transaction; on a full disk once more, in the room of the reserve."""
        with self._lock, _translated():
            try:
                return self._transaction(work)
            except sqlite3.OperationalError as error:
                if not _is_full(error) or not self._reserve.exists():
                    raise
            self._reserve.unlink(missing_ok=True)
            return self._transaction(work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._db)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back after some errors
                self._db.execute("ROLLBACK")
            raise
        return result


_PENDING_SQL: Final = "({})".format(", ".join(f"'{state}'" for state in PENDING))
_LISTED_SQL: Final = "({})".format(", ".join(f"'{state}'" for state in LISTED))
_COLUMNS: Final = (
    "id, path, inode, size, mtime_ns, state, sha256, key, url, sent, recording_id, receipt, outcome,"
    " companions, attempts, next_at, problem, seen_at, changed_at"
)


def _is_full(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_FULL


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        why = "the disk is full" if _is_full(error) else "it cannot be read or written"
        raise Unavailable(f"the journal: {why}", dependency="journal") from error
    except sqlite3.DatabaseError as error:
        raise Corrupt(
            "the journal is damaged: stop the agent, move .recorder-spool away and start it again; what the "
            "service holds already is recognised and not stored twice"
        ) from error
