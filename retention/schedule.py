"""Reads a retention schedule, a TOML document, and refuses what it could not keep to.

`check` reports every problem of a document at once, each with line, column and a hint. What one
document cannot tell (that versions grow by one, that sources and queues exist) is for its caller.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from importlib.resources import files
from types import MappingProxyType
from typing import Any, TypeVar

from retention.contradictions import Finding, contradictions
from retention.errors import Misuse, PeriodError, ScheduleError, ScheduleProblem
from retention.model import (
    ChoiceKind,
    Condition,
    Direction,
    Disposition,
    Purpose,
    Rule,
    Schedule,
    Trigger,
    TriggerKind,
)
from retention.periods import (
    Period,
    end_of_period,
    over_before,
    parse_duration,
    zone_of,
)
from retention.positions import Path, locate

__all__ = [
    "RECORD_EVENTS",
    "SHIPPED",
    "check",
    "default_schedule_text",
    "keep_record_until",
    "records_due_before",
]

SHIPPED = ("FI", "SE")
"""Countries for which a default schedule is shipped."""

RECORD_EVENTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "account": frozenset({"disabled"}),
        "approval": frozenset({"closed"}),
        "breach": frozenset({"closed"}),
        "cdr": frozenset({"call_started"}),
        "contact": frozenset({"occurred"}),
        "customer": frozenset({"last_contact", "relationship_ended"}),
        "disclosure": frozenset({"made"}),
        "log": frozenset({"recorded"}),
        "matter": frozenset({"closed"}),
        "request": frozenset({"decided"}),
        "score": frozenset({"given", "call_started"}),
    }
)
"""The records beside the calls, and the events from which their time is counted."""

_CONTROLLER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_RULE_ID = _CONTROLLER
_LONGEST = Period(months=12 * 200)
_CLOSERS = (ChoiceKind.OBJECTION, ChoiceKind.CONSENT_WITHDRAWN, ChoiceKind.RESTRICTION)
_LISTS = ("direction", "source", "queue", "tag", "service_event", "basis", "country")
_DURATIONS = ("duration_at_least", "duration_less_than")
_CALENDAR_YEAR = re.compile(r"end_of_calendar_year_of\(\s*([a-z_]+)\s*\)", re.ASCII)
_SYNTAX = re.compile(r"^(.*) \(at (?:line (\d+), column (\d+)|end of document)\)$", re.DOTALL)

_T = TypeVar("_T")


def default_schedule_text(country: str, controller: str) -> str:
    """The shipped default schedule of a country, as version 1 of a controller.

    Args:
        country: ISO 3166 alpha-2, one of `SHIPPED`.
        controller: The controller's short name.

    Raises:
        Misuse: No default for this country, or a name that cannot stand in a schedule.
    """
    if country not in SHIPPED:
        raise Misuse(f"no default schedule for this country; there is one for {', '.join(SHIPPED)}")
    if not _CONTROLLER.fullmatch(controller):
        raise Misuse("a controller's name is lower-case letters, digits, dot, dash and underscore")
    name = f"default-{country.lower()}.toml"
    text = (files("retention") / "schedules" / name).read_text("utf-8")
    return re.sub(r'^(controller *= *)"[^"]*"', rf'\g<1>"{controller}"', text, count=1, flags=re.MULTILINE)


def check(text: str, *, controller: str | None = None, country: str | None = None) -> Schedule:
    """Read and check a schedule.

    Args:
        text: The TOML document.
        controller: The controller it must name, if known.
        country: That controller's country, if known: a rule for another country never applies.

    Raises:
        ScheduleError: Everything that is wrong with it, in order of position.
    """
    return _Reader(text, controller, country).read()


def keep_record_until(
    schedule: Schedule, record: str, event: datetime | date | None, zone: str
) -> datetime | None:
    """When a record that is not a call has lived long enough.

    Args:
        schedule: The active schedule.
        record: Its kind, one of `RECORD_EVENTS`.
        event: When its event happened (`Disposition.after` names it), or None if it has not yet.
        zone: The controller's IANA zone.

    Returns:
        The first instant at which it goes; None to keep it: its event has not happened, or the
        schedule says nothing about this kind.

    Raises:
        Misuse: No such kind of record, or a naive datetime.
    """
    if record not in RECORD_EVENTS:
        raise Misuse("no such kind of record")
    disposition = schedule.dispositions.get(record)
    if disposition is None or event is None:
        return None
    return end_of_period(event, disposition.keep, zone_of(zone))


def records_due_before(schedule: Schedule, record: str, now: datetime, zone: str) -> datetime | None:
    """Before which instant a record's event must lie for its time to be over.

    This is `keep_record_until` turned round, so that a database can answer it for all of them.

    Args:
        schedule: The active schedule.
        record: Its kind, one of `RECORD_EVENTS`.
        now: The present instant.
        zone: The controller's IANA zone.

    Returns:
        A UTC instant: what happened before it has lived long enough, what happened at it or later has
        not. None where the schedule says nothing about this kind.

    Raises:
        Misuse: No such kind of record, or a naive datetime.
    """
    if record not in RECORD_EVENTS:
        raise Misuse("no such kind of record")
    disposition = schedule.dispositions.get(record)
    return None if disposition is None else over_before(disposition.keep, now, zone_of(zone))


class _Reader:
    """One pass over one document; collects problems instead of stopping at the first."""

    def __init__(self, text: str, controller: str | None, country: str | None) -> None:
        self.text = text
        self.controller = controller
        self.country = country
        self.problems: list[ScheduleProblem] = []
        self.places: dict[Path, tuple[int, int]] = {(): (1, 1)}

    def read(self) -> Schedule:
        try:
            data = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            raise ScheduleError((self._syntax(str(error)),)) from None
        if not data:
            raise ScheduleError(
                (ScheduleProblem(1, 1, "the schedule is empty", "an empty one keeps nothing safe"),)
            )
        self.places = locate(self.text)
        self._only((), data, ("schedule", "rule", "cap", "disposition"))
        controller, version, grace = self._head(data)
        rules = self._rules(data)
        caps = self._caps(data)
        dispositions = self._dispositions(data)
        for finding in contradictions(rules, caps, self.country):
            self._contradiction(finding)
        if self.problems:
            raise ScheduleError(tuple(self.problems))
        return Schedule(
            controller,
            version,
            tuple(rule for _, rule in rules),
            MappingProxyType(caps),
            MappingProxyType(dispositions),
            grace,
        )

    # -- problems ------------------------------------------------------------------------------

    def _wrong(self, path: Path, message: str, hint: str = "") -> None:
        at = path
        while at not in self.places:
            at = at[:-1]
        line, column = self.places[at]
        self.problems.append(ScheduleProblem(line, column, message, hint))

    def _contradiction(self, finding: Finding) -> None:
        self._wrong(finding.path, finding.message, finding.hint)

    def _syntax(self, message: str) -> ScheduleProblem:
        match = _SYNTAX.match(message)
        if match is None or match[2] is None:
            lines = self.text.split("\n")
            told = match[1] if match else message
            return ScheduleProblem(len(lines), len(lines[-1]) + 1, f"not TOML: {told}")
        return ScheduleProblem(int(match[2]), int(match[3]), f"not TOML: {match[1]}")

    def _only(self, path: Path, table: Mapping[str, Any], known: Iterable[str]) -> None:
        allowed = sorted(known)
        for key in table:
            if key not in allowed:
                self._wrong((*path, key), f"unknown key {key!r}", f"known here: {', '.join(allowed)}")

    # -- typed getters: None means that a problem was noted --------------------------------------

    def _text_of(
        self, path: Path, table: Mapping[str, Any], key: str, *, required: bool = True
    ) -> str | None:
        value = table.get(key)
        if value is None:
            if required:
                self._wrong(path, f"{key} is missing")
            return None
        if not isinstance(value, str) or not value.strip():
            self._wrong((*path, key), f"{key} is not a text")
            return None
        return value

    def _parsed(
        self, path: Path, table: Mapping[str, Any], key: str, parse: Callable[[str], _T]
    ) -> _T | None:
        text = self._text_of(path, table, key)
        if text is None:
            return None
        try:
            return parse(text)
        except (PeriodError, ValueError) as error:
            self._wrong((*path, key), f"{key}: {error}")
            return None

    def _period(self, path: Path, table: Mapping[str, Any], key: str) -> Period | None:
        period = self._parsed(path, table, key, Period.parse)
        if period is None:
            return None
        if period.is_zero:
            self._wrong((*path, key), f"{key} is a period of no time", "leave the rule out instead")
            return None
        if not _LONGEST.never_shorter_than(period):
            self._wrong((*path, key), f"{key} is longer than two hundred years")
            return None
        return period

    def _words(self, path: Path, table: Mapping[str, Any], key: str) -> list[str] | None:
        """A non-empty list of distinct texts."""
        value = table.get(key)
        if value is None:
            self._wrong(path, f"{key} is missing")
            return None
        if not isinstance(value, list):
            self._wrong((*path, key), f"{key} is not a list", f'for example {key} = ["..."]')
            return None
        if not value:
            self._wrong((*path, key), f"{key} is an empty list, so this never applies")
            return None
        words: list[str] = []
        for index, word in enumerate(value):
            if not isinstance(word, str) or not word:
                self._wrong((*path, key, index), f"{key}: not a text")
            elif word in words:
                self._wrong((*path, key, index), f"{key}: {word!r} stands twice")
            else:
                words.append(word)
        return words

    def _members(
        self, path: Path, table: Mapping[str, Any], key: str, known: Iterable[_T]
    ) -> frozenset[_T] | None:
        words = self._words(path, table, key)
        if words is None:
            return None
        by_name = {str(member): member for member in known}
        for index, word in enumerate(table[key]):
            if isinstance(word, str) and word and word not in by_name:
                self._wrong((*path, key, index), f"unknown {key} {word!r}", f"known: {', '.join(by_name)}")
        return frozenset(by_name[word] for word in words if word in by_name)

    # -- the parts of the document ---------------------------------------------------------------

    def _head(self, data: Mapping[str, Any]) -> tuple[str, int, Period]:
        head = data.get("schedule")
        if not isinstance(head, dict):
            self._wrong((), "the table [schedule] is missing", 'with controller = "..." and version = 1')
            return "", 0, Period()
        path: Path = ("schedule",)
        self._only(path, head, ("controller", "version", "hold_grace"))
        controller = self._text_of(path, head, "controller") or ""
        if controller and not _CONTROLLER.fullmatch(controller):
            self._wrong((*path, "controller"), "controller is not a short name", "like fi-main")
        elif controller and self.controller is not None and controller != self.controller:
            self._wrong(
                (*path, "controller"), f"this schedule is for {controller!r}, not for {self.controller!r}"
            )
        version = head.get("version")
        if version is None:
            self._wrong(path, "version is missing")
        elif not isinstance(version, int) or isinstance(version, bool) or version < 1:
            self._wrong((*path, "version"), "version is not a whole number from 1")
        grace = self._period(path, head, "hold_grace") if "hold_grace" in head else None
        return controller, version if isinstance(version, int) else 0, grace or Period()

    def _rules(self, data: Mapping[str, Any]) -> list[tuple[int, Rule]]:
        tables = data.get("rule")
        if tables is None:
            self._wrong((), "the schedule has no rule", "add a [[rule]]")
            return []
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong(("rule",), "rule is not a list of tables", "write [[rule]] with two brackets")
            return []
        rules: list[tuple[int, Rule]] = []
        seen: dict[str, int] = {}
        for index, table in enumerate(tables):
            rule_id = self._rule_id(index, table, seen)
            rule = self._rule(index, table, rule_id)
            if rule is not None:
                rules.append((index, rule))
        if not tables:
            self._wrong(("rule",), "the schedule has no rule", "add a [[rule]]")
        return rules

    def _rule_id(self, index: int, table: Mapping[str, Any], seen: dict[str, int]) -> str | None:
        path: Path = ("rule", index)
        rule_id = self._text_of(path, table, "id")
        if rule_id is None:
            return None
        if not _RULE_ID.fullmatch(rule_id):
            self._wrong(
                (*path, "id"), "id is not a short name", "lower-case letters, digits, dot, dash, underscore"
            )
            return None
        if rule_id in seen:
            line, _ = self.places[("rule", seen[rule_id], "id")]
            self._wrong(
                (*path, "id"), f"a second rule with the id {rule_id!r}", f"the first is on line {line}"
            )
            return None
        seen[rule_id] = index
        return rule_id

    def _rule(self, index: int, table: Mapping[str, Any], rule_id: str | None) -> Rule | None:
        path: Path = ("rule", index)
        self._only(
            path, table, ("id", "purposes", "keep", "after", "when", "closes_on", "statutory", "reason")
        )
        before = len(self.problems)
        purposes = self._members(path, table, "purposes", Purpose)
        keep = self._period(path, table, "keep")
        after = self._parsed(path, table, "after", _trigger)
        when = self._condition((*path, "when"), table.get("when", {}))
        closes_on: frozenset[ChoiceKind] | None = frozenset()
        if "closes_on" in table:
            closes_on = self._members(path, table, "closes_on", _CLOSERS)
        statutory = self._text_of(path, table, "statutory", required=False)
        reason = self._text_of(path, table, "reason", required=False) or ""
        if rule_id is None or purposes is None or keep is None or after is None or closes_on is None:
            return None
        if len(self.problems) > before:
            return None
        return Rule(rule_id, purposes, keep, after, when, closes_on, statutory, reason)

    def _condition(self, path: Path, table: object) -> Condition:
        if not isinstance(table, dict):
            self._wrong(path, "when is not a table", 'for example when = { direction = ["inbound"] }')
            return Condition()
        self._only(path, table, (*_LISTS, *_DURATIONS))
        lists: dict[str, frozenset[str]] = {}
        for key in _LISTS:
            if key in table:
                known: frozenset[str] | None
                if key == "direction":
                    known = self._members(path, table, key, [str(d) for d in Direction])
                else:
                    known = frozenset(self._words(path, table, key) or ())
                lists[key] = known or frozenset()
        spans: dict[str, timedelta] = {}
        for key in _DURATIONS:
            if key in table and (span := self._parsed(path, table, key, parse_duration)) is not None:
                spans[key] = span
        return Condition(
            **lists,
            duration_at_least=spans.get("duration_at_least"),
            duration_less_than=spans.get("duration_less_than"),
        )

    def _caps(self, data: Mapping[str, Any]) -> dict[Purpose, Period]:
        table = data.get("cap", {})
        if not isinstance(table, dict):
            self._wrong(("cap",), "cap is not a table", "write [cap] with one bracket")
            return {}
        self._only(("cap",), table, [str(purpose) for purpose in Purpose])
        caps: dict[Purpose, Period] = {}
        for purpose in Purpose:
            if purpose in table and (cap := self._period(("cap",), table, str(purpose))) is not None:
                caps[purpose] = cap
        return caps

    def _dispositions(self, data: Mapping[str, Any]) -> dict[str, Disposition]:
        table = data.get("disposition", {})
        if not isinstance(table, dict):
            self._wrong(("disposition",), "disposition is not a table", "write [disposition.customer]")
            return {}
        self._only(("disposition",), table, RECORD_EVENTS)
        found: dict[str, Disposition] = {}
        for record, events in RECORD_EVENTS.items():
            entry = table.get(record)
            if entry is None:
                continue
            path: Path = ("disposition", record)
            if not isinstance(entry, dict):
                self._wrong(path, f"{record} is not a table", f"write [disposition.{record}]")
                continue
            self._only(path, entry, ("keep", "after", "reason"))
            keep = self._period(path, entry, "keep")
            after = self._text_of(path, entry, "after")
            reason = self._text_of(path, entry, "reason", required=False) or ""
            if after is not None and after not in events:
                self._wrong(
                    (*path, "after"), f"unknown event {after!r}", f"known: {', '.join(sorted(events))}"
                )
            elif keep is not None and after is not None:
                found[record] = Disposition(record, keep, after, reason)
        return found


def _trigger(text: str) -> Trigger:
    match = _CALENDAR_YEAR.fullmatch(text)
    name = match[1] if match else text
    try:
        return Trigger(TriggerKind(name), calendar_year=match is not None)
    except ValueError:
        known = ", ".join(str(kind) for kind in TriggerKind)
        raise PeriodError(
            f"unknown trigger {name!r}; known: {known}, or end_of_calendar_year_of(...)"
        ) from None
