"""Call detail records: from a growing CSV file, or from a database by one configured SELECT.

A record is looked up by what the file's name tells of its call: Asterisk's ``uniqueid``, ``linkedid``, or the
name of the file as the switchboard noted it (``recordingfile``). Columns are told by their usual names.
"""

from __future__ import annotations

import csv
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from zoneinfo import ZoneInfo

from recorder.errors import ConfigurationError, Unavailable
from recorder.spooling.config import CsvRecords, Records, SqlRecords, read_secret

if TYPE_CHECKING:
    import sqlalchemy as sa

# cdr_csv writes these, the last two by loguniqueid and loguserfield in cdr.conf.
MASTER_CSV: Final = (
    "accountcode", "src", "dst", "dcontext", "clid", "channel", "dstchannel", "lastapp", "lastdata", "start",
    "answer", "end", "duration", "billsec", "disposition", "amaflags", "uniqueid", "userfield",
)  # fmt: skip
_MYSQL_MISSING: Final = "to ask MySQL or MariaDB, install the extra: pip install 'tallenne[mysql]'"
_KEYS: Final = ("uniqueid", "linkedid", "recordingfile")
_TIMES: Final = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f")
_KEPT: Final = ("disposition", "dcontext", "duration", "billsec", "lastapp", "channel", "dstchannel", "did",
                "accountcode", "userfield", "clid", "cnam", "uniqueid", "linkedid", "sequence")  # fmt: skip
_MAX_ROW: Final = 64 * 1024
_LIMIT: Final = 16
"""Rows that are taken of one call; a call queued through many agents has many."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sought:
    """What a file's name tells of its call.

    Attributes:
        recordingfile: the file's name without folders.
        stem: the same without its extension.
    """

    recordingfile: str
    stem: str
    uniqueid: str | None = None
    linkedid: str | None = None


class Book(Protocol):
    """Where records are looked up; methods block."""

    def find(self, sought: Sought) -> Sequence[Row]:
        """Return the call's rows, the one that is about this very file first; empty when there is none yet.

        Raises:
            Unavailable: The book cannot be read now.
        """
        ...

    def close(self) -> None:
        """Give back what it holds open."""
        ...


def open_book(records: Records, environment: Mapping[str, str]) -> Book:
    """Open the configured book.

    Raises:
        ConfigurationError: It cannot work; the message says how to mend it.
    """
    if records.csv is not None:
        return CsvBook(records.csv)
    assert records.sql is not None  # noqa: S101 - Records holds one of them
    return SqlBook(records.sql, environment)


class CsvBook:
    """A CSV file that a switchboard appends to; only what was added is read, and the newest rows are kept."""

    def __init__(self, settings: CsvRecords) -> None:
        """Nothing is read before the first question."""
        self._settings = settings
        self._columns = MASTER_CSV if settings.columns == "asterisk" else tuple(settings.columns)
        self._inode: int | None = None
        self._at = 0
        self._header: tuple[str, ...] = ()
        self._rows: OrderedDict[int, dict[str, str]] = OrderedDict()
        self._index: dict[tuple[str, str], list[int]] = {}
        self._number = 0

    def find(self, sought: Sought) -> Sequence[Row]:
        """Return the call's rows; see :class:`Book`."""
        try:
            self._read_on()
        except OSError as error:
            raise Unavailable(f"the CDR file: {error.strerror}", dependency="cdr") from None
        numbers: list[int] = []
        for key, value in _questions(sought):
            numbers += self._index.get((key, value), [])
        return _best_first((self._rows[number] for number in dict.fromkeys(numbers)), sought)

    def close(self) -> None:
        """Nothing is held open."""

    def _read_on(self) -> None:
        with self._settings.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._at:  # rotated, or begun anew
                first = self._inode is None
                self._inode, self._at = status.st_ino, 0
                header = b"" if self._columns else file.readline()
                if header:
                    self._header = tuple(_cells(header.decode(self._settings.encoding, "replace"),
                                                self._settings.delimiter))  # fmt: skip
                    self._at = len(header)
                if first and status.st_size - self._at > self._settings.tail:
                    file.seek(status.st_size - self._settings.tail)
                    file.readline()  # the rest of a line
                    self._at = file.tell()
            file.seek(self._at)
            # Row by row, so that memory is bounded by what is kept, not by what the file holds.
            pending, size, quotes = [], 0, 0
            for line in file:
                pending.append(line)
                size += len(line)
                quotes += line.count(b'"')
                if not line.endswith(b"\n"):
                    return  # still being written: read again next time
                if quotes % 2 and size < _MAX_ROW:
                    continue  # a line break inside quotes
                # A stray quote must not swallow the file: what follows its line are rows of their own.
                whole = pending if quotes % 2 == 0 else pending[1:]
                for one in [b"".join(whole)] if quotes % 2 == 0 else whole:
                    self._take(one.decode(self._settings.encoding, "replace"))
                self._at += size
                pending, size, quotes = [], 0, 0

    def _take(self, line: str) -> None:
        names = self._columns or self._header
        cells = _cells(line, self._settings.delimiter)
        row = {name.strip().lower(): cell for name, cell in zip(names, cells, strict=False) if cell != ""}
        if not row:
            return
        self._number += 1
        self._rows[self._number] = row
        for key, value in _answers(row):
            self._index.setdefault((key, value), []).append(self._number)
        if len(self._rows) > self._settings.keep:
            number, old = self._rows.popitem(last=False)
            for key, value in _answers(old):
                left = [one for one in self._index[key, value] if one != number]
                if left:
                    self._index[key, value] = left
                else:
                    del self._index[key, value]


class SqlBook:
    """A database that is asked by one SELECT, in sessions that cannot write."""

    def __init__(self, settings: SqlRecords, environment: Mapping[str, str]) -> None:
        """Prepare; nothing is connected before the first question.

        Raises:
            ConfigurationError: The driver or the password is missing, or the SELECT has no parameter of ours.
        """
        import sqlalchemy as sa

        url = sa.make_url(settings.url)
        mysql = url.get_backend_name() in {"mysql", "mariadb"}
        driver = "pymysql" if mysql else "psycopg"
        url = url.set(drivername=f"{'mysql' if mysql else 'postgresql'}+{driver}")
        if settings.password_file is not None:
            url = url.set(password=read_secret(settings.password_file))
        elif settings.password_env and environment.get(settings.password_env):
            url = url.set(password=environment[settings.password_env])
        self._query = sa.text(settings.query)
        self._names = set(self._query.compile().params)
        if not self._names & {*_KEYS, "stem"} or self._names - {*_KEYS, "stem"}:
            raise ConfigurationError(
                "cdr.sql.query: use :uniqueid, :linkedid, :recordingfile or :stem, nothing else"
            )
        seconds = max(1, int(settings.timeout))
        options: dict[str, Any] = {"connect_timeout": seconds}
        if mysql:
            options |= {"read_timeout": seconds, "write_timeout": seconds, "charset": "utf8mb4",
                        "init_command": "SET SESSION TRANSACTION READ ONLY"}  # fmt: skip
        else:
            options["options"] = f"-c default_transaction_read_only=on -c statement_timeout={seconds * 1000}"
        try:
            self._engine: sa.Engine = sa.create_engine(
                url,
                connect_args=options,
                pool_size=1,
                max_overflow=0,
                pool_pre_ping=True,
                hide_parameters=True,
            )
        except ModuleNotFoundError:
            raise ConfigurationError(_MYSQL_MISSING if mysql else "psycopg is not installed") from None

    def find(self, sought: Sought) -> Sequence[Row]:
        """Return the call's rows; see :class:`Book`."""
        import sqlalchemy as sa

        known = {"uniqueid": sought.uniqueid, "linkedid": sought.linkedid,
                 "recordingfile": sought.recordingfile, "stem": sought.stem}  # fmt: skip
        try:
            with self._engine.connect() as connection:
                result = connection.execute(self._query, {name: known[name] for name in self._names})
                rows = [
                    {str(name).lower(): value for name, value in row.items() if value is not None}
                    for row in result.mappings().fetchmany(_LIMIT)
                ]
        except sa.exc.SQLAlchemyError as error:
            # Texts of drivers quote values and addresses: the type is what may be told.
            kind = type(getattr(error, "orig", None) or error).__name__
            raise Unavailable(f"the CDR database did not answer ({kind})", dependency="cdr") from None
        return _best_first(rows, sought)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def metadata_of(rows: Sequence[Row], zone: ZoneInfo, directions: Mapping[str, str]) -> dict[str, Any]:
    """Turn a call's rows into metadata; the first row is the one about the file.

    ``duration`` and ``billsec`` are the call's, not the recording's: they are kept in ``extra`` only.
    """
    if not rows:
        return {}
    row = rows[0]
    document: dict[str, Any] = {}
    started = next(
        (row[n] for n in ("started_at", "start", "calldate") if row.get(n) not in (None, "")), None
    )
    if (instant := _instant(started, zone)) is not None:
        document["started_at"] = instant.isoformat()
    for field, names in (("caller", ("caller", "cnum", "src")), ("callee", ("callee", "dst"))):
        value = next((str(row[n]).strip() for n in names if str(row.get(n) or "").strip()), None)
        if value is not None:
            document[field] = value[:256]
    direction = str(row.get("direction") or "").strip().lower() or directions.get(
        str(row.get("dcontext") or "")
    )
    if direction in {"inbound", "outbound", "internal"}:
        document["direction"] = direction
    if queue := str(row.get("queue") or "").strip():
        document["queue"] = queue[:100]
    agents = [part.strip() for part in str(row.get("agents") or row.get("agent") or "").split(",")]
    if agents := [part for part in agents if part]:
        document["agents"] = agents[:32]
    if number := str(row.get("customer_number") or "").strip():
        document["customer"] = {"number": number[:64]}
    call = str(row.get("linkedid") or row.get("uniqueid") or "").strip()
    if call:
        document["call"] = {"external_id": call[:256]}
    kept = {name: _plain(row[name]) for name in _KEPT if row.get(name) not in (None, "")}
    if len(rows) > 1:
        kept["rows"] = len(rows)
    if kept:
        document["extra"] = {"cdr": kept}
    return document


def _plain(value: Any) -> str | int | float | bool:
    return value if isinstance(value, (int, float, bool)) else str(value)[:1000]


def _instant(value: Any, zone: ZoneInfo) -> datetime | None:
    """A record's time: local to the switchboard unless it says otherwise; Unix seconds are taken too."""
    if isinstance(value, str):
        text = value.strip()
        for form in _TIMES:
            with suppress(ValueError):
                return datetime.strptime(text, form).replace(tzinfo=zone).astimezone(UTC)
        with suppress(ValueError):
            parsed = datetime.fromisoformat(text)
            return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=zone)).astimezone(UTC)
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(float(text), UTC)
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).astimezone(UTC)
    if isinstance(value, (int, float)):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(float(value), UTC)
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter), [])
    except csv.Error:  # a cell past csv's limit
        return []


def _questions(sought: Sought) -> Iterable[tuple[str, str]]:
    yield "recordingfile", sought.recordingfile
    yield "recordingfile", sought.stem
    if sought.uniqueid is not None:
        yield "uniqueid", sought.uniqueid
    if (call := sought.linkedid or sought.uniqueid) is not None:
        yield "linkedid", call


def _answers(row: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for key in _KEYS:
        if value := row.get(key, "").strip():
            # Asterisk notes the name with folders in some set-ups.
            yield key, Path(value).name if key == "recordingfile" else value


def _best_first(rows: Iterable[Row], sought: Sought) -> list[Row]:
    def rank(row: Row) -> int:
        if Path(str(row.get("recordingfile") or "")).name in {sought.recordingfile, sought.stem}:
            return 0
        return 1 if sought.uniqueid is not None and str(row.get("uniqueid")) == sought.uniqueid else 2

    return sorted(rows, key=rank)[:_LIMIT]
