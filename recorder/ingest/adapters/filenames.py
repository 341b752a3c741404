"""What the file names of switchboards tell: Asterisk and FreePBX, and patterns of one's own. Pure.

FreePBX names its files ``{type}-{dest}-{fromexten}-{YYYYMMDD}-{HHMMSS}-{UNIQUEID}``. A pattern of one's own
is written the same way: literal text, and fields in braces. A field holds anything but the character that
follows it in the pattern (and no slash), so that reading takes linear time; one field before a date or a time
may hold that character too. The fields of `TYPED` have a form of their own. ``{}`` is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.catalogue.enums import Direction
from recorder.ingest.adapters.common import base_name, bounded, code, storable
from recorder.ingest.metadata import MAX_EXTERNAL_ID
from recorder.ingest.sniff import extension_of

FREEPBX: Final = "{type}-{dest}-{from}-{date}-{time}-{uniqueid}"
TYPED: Final[Mapping[str, str]] = {
    "type": r"[a-z][a-z_]{0,31}",
    "date": r"\d{8}|\d{4}-\d\d-\d\d",
    "time": r"\d{6}|\d\d[.:_-]\d\d[.:_-]\d\d",
    "datetime": r"\d{14}|\d{8}[T_-]\d{6}",
    "epoch": r"\d{9,11}(?:\.\d{1,9})?",
    "uniqueid": r"(?:[A-Za-z0-9_]{1,64}-)?\d{9,11}\.\d{1,9}",
    "linkedid": r"(?:[A-Za-z0-9_]{1,64}-)?\d{9,11}\.\d{1,9}",
    "duration": r"\d{1,6}",
    "leg": r"[A-Za-z0-9_]{1,32}",
}
"""Fields with a form of their own, as regular expressions."""
FREE: Final = frozenset(
    {"from", "dest", "caller", "callee", "queue", "agent", "direction", "call", "customer"}
)
"""Fields of any text."""
_ANCHORS: Final = frozenset({"date", "datetime", "epoch"})
MAX_PATTERN: Final = 500
MAX_NAME: Final = 1024

_FIELD: Final = re.compile(r"\{([a-z]*)\}")
_OUT: Final = frozenset({"out", "outbound"})
_IN: Final = frozenset({"in", "inbound", "external"})
_WITHIN: Final = frozenset({"internal", "page", "local"})
_LEG: Final = re.compile(r"(.+)-(in|out|rx|tx|r|t)")
_INTERNAL_DIGITS: Final = 5


class PatternError(ValueError):
    """A pattern that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What a file name tells.

    Attributes:
        document: metadata in the form of a push, as far as the name carries it; with ``external_id``.
        uniqueid: of the channel, in Asterisk's sense.
        linkedid: of the call, where the pattern has it.
        kind: FreePBX's type of the recording (``out``, ``q``, ``rg``, …).
        matched: whether one of the patterns fitted; else the document holds the external id alone.
    """

    document: Mapping[str, Any] = field(repr=False)
    uniqueid: str | None = None
    linkedid: str | None = None
    kind: str | None = None
    matched: bool = True


class FileNames:
    """Reads the file names of one switchboard."""

    def __init__(
        self,
        patterns: Sequence[str] = (FREEPBX,),
        *,
        time_zone: str = "UTC",
        extension_digits: int = _INTERNAL_DIGITS,
    ) -> None:
        """Compile the patterns.

        Args:
            patterns: tried in order.
            time_zone: IANA name of the switchboard's zone; Asterisk writes local times.
            extension_digits: a number of at most so many digits is an extension of the house. It tells
                inbound from internal calls, which the name does not.

        Raises:
            PatternError: a pattern cannot be used.
        """
        self._patterns = tuple(compile_pattern(pattern) for pattern in patterns)
        self._zone: tzinfo = UTC if time_zone == "UTC" else ZoneInfo(time_zone)
        self._digits = extension_digits

    def read(self, path: str) -> NameFacts:
        """What a file name tells; directories before it are ignored."""
        name = base_name(path)[-MAX_NAME:]
        stem = extension_of(name)[0]
        external_id = bounded(stem, MAX_EXTERNAL_ID) or "unnamed"
        for pattern in self._patterns:
            if (found := pattern.fullmatch(stem)) is not None:
                return self._facts(external_id, found.groupdict(), None)
            if (split := _LEG.fullmatch(stem)) is not None and (
                found := pattern.fullmatch(split[1])
            ) is not None:
                # MixMonitor's r() and t() write a file for each direction beside the mix.
                return self._facts(bounded(split[1], MAX_EXTERNAL_ID), found.groupdict(), split[2])
        return NameFacts({"external_id": external_id}, matched=False)

    def _facts(self, external_id: str, groups: Mapping[str, str | None], leg: str | None) -> NameFacts:
        found = {name: value for name, value in groups.items() if value}
        kind = found.get("type")
        document: dict[str, Any] = {"external_id": external_id}
        leg = leg or found.get("leg")
        if leg is not None:
            document["leg"] = leg
        call = found.get("linkedid") or found.get("call") or found.get("uniqueid")
        if call is not None:
            document["call"] = {"external_id": bounded(call, MAX_EXTERNAL_ID)}
        started = started_at(found, self._zone)
        if started is not None:
            document["started_at"] = started
        if "duration" in found:
            document["duration"] = float(found["duration"])
        document |= self._parties(kind, found)
        return NameFacts(document, found.get("uniqueid"), found.get("linkedid"), kind)

    def _parties(self, kind: str | None, found: Mapping[str, str]) -> dict[str, Any]:
        caller, callee = found.get("caller", found.get("from")), found.get("callee", found.get("dest"))
        document: dict[str, Any] = {}
        for name, value in (("caller", caller), ("callee", callee)):
            if value is not None:
                document[name] = storable(value)[:256]
        direction = self._direction(found.get("direction", kind or ""), caller, callee)
        if direction is not None:
            document["direction"] = direction
        queue = code(found["queue"]) if "queue" in found else None
        if queue is None and kind in ("q", "rg") and callee is not None:
            queue = code(callee)
        if queue is not None:
            document["queue"] = queue
        agent = code(found["agent"]) if "agent" in found else None
        if agent is None and direction is Direction.OUTBOUND and kind in _OUT and self._inside(caller):
            agent = caller
        if agent is not None:
            document["agents"] = [agent]
        if "customer" in found:
            document["customer"] = {"number": storable(found["customer"])[:64]}
        return document

    def _direction(self, said: str, caller: str | None, callee: str | None) -> Direction | None:
        said = said.lower()
        if said in _OUT:
            return Direction.OUTBOUND
        if said in _IN:
            return Direction.INBOUND
        if said in _WITHIN or (self._inside(caller) and self._inside(callee)):
            return Direction.INTERNAL
        if caller is None or self._inside(caller):
            return None
        return Direction.INBOUND

    def _inside(self, number: str | None) -> bool:
        return number is not None and number.isdecimal() and len(number) <= self._digits


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern as a regular expression without choices that backtrack into each other.

    Raises:
        PatternError: an unknown or repeated field, two fields with nothing between them, or too long.
    """
    if not pattern or len(pattern) > MAX_PATTERN:
        raise PatternError(f"a pattern has 1 to {MAX_PATTERN} characters")
    pieces = _FIELD.split(pattern)
    if any("{" in literal or "}" in literal for literal in pieces[::2]):
        raise PatternError("a field is a lower-case name in braces")
    out = [re.escape(pieces[0])]
    seen: set[str] = set()
    wide = False
    for place in range(1, len(pieces), 2):
        name, literal = pieces[place], pieces[place + 1]
        if name and name not in TYPED and name not in FREE:
            raise PatternError(
                f"there is no field {{{name}}}; there are {', '.join(sorted({*TYPED, *FREE}))}"
            )
        if name in seen:
            raise PatternError(f"the field {{{name}}} stands twice")
        if not literal and place + 2 < len(pieces):
            raise PatternError(f"nothing stands between {{{name}}} and the field after it")
        seen |= {name} if name else set()
        form = TYPED.get(name) or (f"[^{re.escape(literal[0])}/]*" if literal else "[^/]*")
        if not wide and name not in TYPED and pieces[place + 2 : place + 3] and pieces[place + 2] in _ANCHORS:
            form, wide = "[^/]*", True
        out.append(f"(?P<{name}>{form})" if name else f"(?:{form})")
        out.append(re.escape(literal))
    return re.compile("".join(out))


def started_at(found: Mapping[str, str], zone: tzinfo) -> datetime | None:
    """The time a name tells, UTC; None without one, or with one that is no time.

    Local times that a clock shows twice, when summer time ends, are told apart by the Unix time at the
    beginning of Asterisk's unique id.
    """
    if "epoch" in found:
        return _at(float(found["epoch"]))
    digits = re.sub(r"\D", "", found.get("datetime", found.get("date", "") + found.get("time", "")))
    near = re.search(r"(\d{9,11})\.\d+$", found.get("uniqueid", ""))
    around = None if near is None else _at(float(near[1]))
    if len(digits) != 14:
        return around
    try:
        local = datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - the zone follows
        first, second = (local.replace(tzinfo=zone, fold=n).astimezone(UTC) for n in (0, 1))
    except (ValueError, OverflowError):
        return around
    if around is not None and abs(second - around) < abs(first - around) - timedelta(minutes=1):
        return second
    return first


def _at(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
