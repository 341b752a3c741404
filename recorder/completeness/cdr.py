"""Call detail records as CSV: which calls should have a recording. Pure.

Asterisk writes ``Master.csv`` without a header (``cdr_csv``), FreeSWITCH its own order (``mod_cdr_csv``,
template ``example``); exports of their databases have a header, whose usual names are known. Numbers and
names in the records are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PureWindowsPath
from typing import Final
from zoneinfo import ZoneInfo

from recorder.tabular import read_csv

ASTERISK: Final = (
    "accountcode", "src", "dst", "dcontext", "clid", "channel", "dstchannel", "lastapp", "lastdata", "start",
    "answer", "end", "duration", "billsec", "disposition", "amaflags", "uniqueid", "userfield",
)  # fmt: skip
FREESWITCH: Final = (
    "caller_id_name", "caller_id_number", "destination_number", "context", "start_stamp", "answer_stamp",
    "end_stamp", "duration", "billsec", "hangup_cause", "uuid", "bleg_uuid", "accountcode", "read_codec",
    "write_codec",
)  # fmt: skip
FORMATS: Final[Mapping[str, Sequence[str] | None]] = {
    "header": None,
    "asterisk": ASTERISK,
    "freeswitch": FREESWITCH,
}

# What a column is called, the surest name first.
_FILE: Final = ("recordingfile", "recording_file", "recording", "filename", "external_id")
_UNIQUE: Final = ("uniqueid", "uuid", "call_uuid", "callid", "call_id")
_CALL: Final = ("linkedid", "linked_id", "call_external_id", *_UNIQUE)
_START: Final = ("calldate", "start", "start_stamp", "starttime", "started_at", "start_time")
_TALK: Final = ("billsec", "duration", "seconds")
_ANSWERED: Final = ("disposition", "answer_stamp", "answer", "answered")
_NOT: Final = frozenset({"", "no answer", "busy", "failed", "congestion", "no", "false", "0", "cancel"})


@dataclass(frozen=True, slots=True)
class Expected:
    """A call that was answered.

    Attributes:
        line: number of its line, from 1.
        names: ids under which its recording may have been pushed, the likeliest first; personal.
        call: the sender's id of the call.
        seconds: talk time.
        recorded: whether the record itself names a recording; None where it has no such column.
    """

    line: int
    names: tuple[str, ...]
    call: str
    started_at: datetime
    seconds: float
    recorded: bool | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A call that never was one."""

    line: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line that could not be used, and why; without its values, which are personal."""

    line: int
    reason: str


Row = Expected | Unanswered | Unreadable


def read_records(
    lines: Iterable[str], *, zone: ZoneInfo, columns: Sequence[str] | None = None
) -> Iterator[Row]:
    """Read call detail records.

    Args:
        lines: Of the file, each with its end.
        zone: Of times that carry no offset.
        columns: Names of the columns where the file has no header.
    """
    usable = columns is not None
    for number, cells in read_csv(lines, columns=columns):
        if isinstance(cells, str):
            yield Unreadable(number, cells)
            continue
        if not usable and not (cells.keys() & {*_START} and cells.keys() & {*_FILE, *_UNIQUE}):
            yield Unreadable(1, "the header names no start (calldate, start, …) or no id (uniqueid, uuid, …)")
            return
        usable = True
        yield _row(number, cells, zone)


def _row(line: int, cells: Mapping[str, str], zone: ZoneInfo) -> Row:
    answered = _first(cells, _ANSWERED)
    if answered is not None and answered.strip().lower() in _NOT:
        return Unanswered(line)
    started = _instant(_first(cells, _START) or "", zone)
    if started is None:
        return Unreadable(line, "its start is no date and time")
    try:
        seconds = float(_first(cells, _TALK) or 0)
    except ValueError:
        return Unreadable(line, "its duration is no number of seconds")
    if not 0 <= seconds < 1_000_000:
        return Unreadable(line, "its duration is no number of seconds")
    file_name = _first(cells, _FILE)
    names = [] if not file_name else _file_names(file_name.strip())
    unique = (_first(cells, _UNIQUE) or "").strip()
    call = (_first(cells, _CALL) or "").strip() or unique or (names[0] if names else "")
    names += [unique] if unique else []
    if not names or len(call) > 256 or any(len(name) > 256 for name in names):
        return Unreadable(line, "it has no id of the call or of its recording")
    return Expected(
        line,
        tuple(dict.fromkeys(names)),
        call,
        started,
        seconds,
        None if file_name is None else bool(file_name.strip()),
    )


def _first(cells: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((cells[name] for name in names if name in cells), None)


def _file_names(value: str) -> list[str]:
    """A recording's file without its folders, and without its ending: what senders make an id of."""
    if not value:
        return []
    name = PureWindowsPath(value).name  # takes both kinds of slash
    stem, dot, _ = name.rpartition(".")
    return [stem, name] if dot and stem else [name]


def _instant(value: str, zone: ZoneInfo) -> datetime | None:
    value = value.strip()
    try:
        if value.replace(".", "", 1).isdigit():
            seconds = float(value)
            # FreeSWITCH's *_uepoch are microseconds.
            found = datetime.fromtimestamp(seconds / 1e6 if seconds > 1e12 else seconds, UTC)
        else:
            found = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=zone)
    try:
        found = found.astimezone(UTC)
    except OverflowError:
        return None
    return found if 1970 <= found.year <= 9000 else None
