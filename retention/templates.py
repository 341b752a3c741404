"""Decisions by the million: the engine decides one of a kind, and the others are filled in from it.

The engine looks at instants only by asking which of two is earlier, and what it writes down are
texts that do not depend on them, and some of those very instants. So two recordings whose rules,
choices, holds and requests are alike, and all of whose instants stand in the same order, have the
same decision but for the instants in it. `Templates` keeps one decision of each such kind, with
places where the instants go; ``test_templates`` compares with the engine, whose answer alone counts.

Whatever in a decision looks like an instant without being one of those compared makes its kind one
that is always decided by the engine: slower, never wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import itemgetter
from typing import Any, Final

from retention.decision import Decision
from retention.engine import decide_case
from retention.errors import Undecidable
from retention.model import CONSENT, Case, Choice, Facts, Rule, Schedule
from retention.periods import Period, end_of_period, local_day, zone_of
from retention.rules import Waiting, first_failure, standing_withdrawals, trigger_of

__all__ = ["Outcome", "Templates"]

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_SIZE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision in the form in which it is stored.

    Attributes:
        document: The text of `Decision.to_json`.
        schedule_version: As in `Decision`.
        erase_on: As in `Decision`.
        reevaluate_at: As in `Decision`.
        destroy_original: As in `Decision`.
        held: As in `Decision`.
        restricted: As in `Decision`.
    """

    document: str
    schedule_version: int
    erase_on: datetime | None
    reevaluate_at: datetime | None
    destroy_original: bool
    held: bool
    restricted: bool


@dataclass(frozen=True, eq=False, slots=True)
class _Kind:
    """What of a recording's facts is no instant: which rules apply, and what reasons say of it."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class _Template:
    """A decision with places for texts of instants, by their rank."""

    form: str
    texts: Callable[[Sequence[str]], tuple[str, ...]]
    erase_on: int | None
    reevaluate_at: int | None
    destroy_original: bool
    held: bool
    restricted: bool


class Templates:
    """Decides recordings of one controller by one schedule.

    Safe to share between threads: what two of them learn at once is the same.

    Args:
        schedule: The schedule; cases of another one are refused.
        zone: The controller's IANA zone.
        size: So many kinds are remembered, then all are forgotten.
    """

    def __init__(self, schedule: Schedule, zone: str, size: int = _SIZE) -> None:
        self.schedule = schedule
        self.zone = zone
        self.decided = 0
        """How many were decided by the engine itself."""
        self._size = size
        self._days = zone_of(zone)
        self._rules = tuple(sorted(schedule.rules, key=lambda rule: rule.id))
        self._graced = not schedule.hold_grace.is_zero
        self._lengths = sorted(
            {
                length
                for rule in schedule.rules
                for length in (rule.when.duration_at_least, rule.when.duration_less_than)
                if length is not None
            }
        )
        self._kinds: dict[Hashable, _Kind] = {}
        self._canonical: dict[Hashable, _Kind] = {}
        self._templates: dict[Hashable, _Template | None] = {}
        self._ends: dict[tuple[date, Period], datetime | None] = {}

    def decide(self, case: Case, now: datetime) -> Outcome:
        """What `engine.decide_case` answers, in the form in which it is stored.

        Args:
            case: A recording of this schedule and zone.
            now: The moment; aware.

        Raises:
            ValueError: The case is of another schedule or zone.
        """
        if case.schedule is not self.schedule and case.schedule != self.schedule:
            raise ValueError("a case of another schedule")
        if case.facts.zone != self.zone:
            raise ValueError("a case of another zone")
        now = now.astimezone(UTC)
        shape, moments, days = self._read(case, now)
        order = sorted(set(moments))
        ranks = {moment: rank for rank, moment in enumerate(order)}
        calendar = sorted(set(days))
        key = (shape, tuple([ranks[moment] for moment in moments]), tuple([calendar.index(d) for d in days]))
        try:
            template = self._templates[key]
        except KeyError:
            self.decided += 1
            decision = decide_case(case, now)
            if len(self._templates) >= self._size:
                self._forget()
            self._templates[key] = _template(decision, order, calendar)
            return _outcome(decision)
        if template is None:
            self.decided += 1
            return _outcome(decide_case(case, now))
        texts = [*map(_text, order), *map(str, calendar)]
        return Outcome(
            template.form % template.texts(texts),
            self.schedule.version,
            None if template.erase_on is None else order[template.erase_on],
            None if template.reevaluate_at is None else order[template.reevaluate_at],
            template.destroy_original,
            template.held,
            template.restricted,
        )

    def _forget(self) -> None:
        for known in (self._kinds, self._canonical, self._templates, self._ends):
            known.clear()

    # -- everything that a decision depends on -------------------------------------------------------

    def _read(self, case: Case, now: datetime) -> tuple[Hashable, list[datetime], list[date]]:
        """A case as what is no instant, and its instants and days, each of them in a fixed place."""
        facts, started = case.facts, case.facts.call_started
        kind = self._kind(facts)
        moments, days = [now, started], list[date]()
        shape: list[Hashable] = [kind]
        for known in (facts.call_ended, facts.relationship_confirmed_at):
            shape.append(known is None)
            if known is not None:
                moments.append(known)
        choices = sorted(case.choices, key=lambda c: (c.effective_at, c.kind, sorted(c.purposes)))
        shape += [self._counted(rule, facts, choices, now, moments, days) for rule in kind.rules]
        on = local_day(started, self._days)
        for cap in self.schedule.caps.values():
            end = self._end(on, cap)
            shape.append(end is None)
            if end is not None:
                moments.append(end)
        if choices or case.requests or case.holds:
            self._circumstances(case, choices, shape, moments)
        return tuple(shape), moments, days

    def _kind(self, facts: Facts) -> _Kind:
        length = facts.duration
        if length is None and facts.call_ended is not None:
            length = facts.call_ended - facts.call_started
        raw = (
            facts.country,
            facts.direction,
            facts.source,
            facts.queue,
            facts.tags,
            facts.service_events,
            facts.lawful_basis,
            facts.linked,
            facts.card_security,
            None if length is None else sum(length >= limit for limit in self._lengths),
            facts.duration is not None and facts.duration.days < 0,
        )
        known = self._kinds.get(raw)
        if known is None:
            failures = tuple(first_failure(rule.when, facts) for rule in self._rules)
            same = (failures, facts.lawful_basis == CONSENT, facts.linked, facts.card_security, raw[-1])
            apply = [r for r, failed in zip(self._rules, failures, strict=True) if failed == (None, None)]
            known = self._kinds[raw] = self._canonical.setdefault(same, _Kind(tuple(apply)))
        return known

    def _counted(
        self,
        rule: Rule,
        facts: Facts,
        choices: Sequence[Choice],
        now: datetime,
        moments: list[datetime],
        days: list[date],
    ) -> Hashable:
        """What a rule that applies counts from; its instants are added to the lists."""
        withdrawals = standing_withdrawals(facts, choices) if choices else ()
        try:
            point = trigger_of(rule, facts, withdrawals, now)
        except Undecidable as doubt:
            return doubt.code
        if point is None or isinstance(point, Waiting):
            return point
        end = self._end(local_day(point, self._days), rule.keep)
        if end is None:
            return "date_out_of_range"
        moments.append(end)
        if isinstance(point, datetime):
            moments.append(point)
            return True
        days.append(point)
        return False

    def _circumstances(
        self, case: Case, choices: Sequence[Choice], shape: list[Hashable], moments: list[datetime]
    ) -> None:
        for choice in choices:
            shape.append((choice.kind, choice.purposes))
            moments.append(choice.effective_at)
        for request in sorted(
            case.requests, key=lambda r: (r.filed_at, r.kind, r.state, r.decided_at or r.filed_at)
        ):
            shape.append((request.kind, request.state, request.decided_at is None))
            moments.append(request.filed_at)
            if request.decided_at is not None:
                moments.append(request.decided_at)
        for hold in sorted(case.holds, key=lambda h: (h.placed_at, h.id)):
            shape.append((hold.id, hold.matter, hold.released_at is None))
            moments.append(hold.placed_at)
            if hold.released_at is not None:
                moments.append(hold.released_at)
                if self._graced:
                    released = max(hold.placed_at, hold.released_at)
                    moments.append(end_of_period(released, self.schedule.hold_grace, self._days))

    def _end(self, day: date, keep: Period) -> datetime | None:
        key = (day, keep)
        try:
            return self._ends[key]
        except KeyError:
            try:
                end: datetime | None = end_of_period(day, keep, self._days)
            except Undecidable:
                end = None
            self._ends[key] = end
            return end


def _outcome(decision: Decision) -> Outcome:
    return Outcome(
        json.dumps(decision.to_json(), separators=(",", ":")),
        decision.schedule_version,
        decision.erase_on,
        decision.reevaluate_at,
        decision.destroy_original,
        decision.held,
        decision.restricted,
    )


def _template(decision: Decision, order: Sequence[datetime], calendar: Sequence[date]) -> _Template | None:
    """What a decision says of any recording of its kind; None where it cannot be told."""
    places = {text: place for place, text in enumerate([*map(_text, order), *map(str, calendar)])}
    if len(places) != len(order) + len(calendar):
        return None
    form: list[str] = []
    found: list[int] = []
    _write(decision.to_json(), places, form, found)
    text = "".join(form)
    erase_on, again = (
        None if moment is None else places.get(_text(moment))
        for moment in (decision.erase_on, decision.reevaluate_at)
    )
    lost = (decision.erase_on is None) != (erase_on is None) or (decision.reevaluate_at is None) != (
        again is None
    )
    if lost or _UNKNOWN in found:
        return None
    return _Template(
        text,
        # At least the instant of the decision and the beginning of its windows; see `_several`.
        _several(found),
        erase_on,
        again,
        decision.destroy_original,
        decision.held,
        decision.restricted,
    )


_UNKNOWN: Final = -1


def _several(places: list[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda texts: tuple(texts[place] for place in places)


def _write(value: Any, places: Mapping[str, int], form: list[str], found: list[int]) -> None:
    """Append a value's JSON to a form for ``%``, and the places of its instants to a list."""
    if isinstance(value, str) and value in places:
        form.append('"%s"')
        found.append(places[value])
    elif isinstance(value, dict):
        for number, (name, item) in enumerate(value.items()):
            form.append(("," if number else "{") + json.dumps(name).replace("%", "%%") + ":")
            _write(item, places, form, found)
        form.append("}" if value else "{}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            form.append("," if number else "[")
            _write(item, places, form, found)
        form.append("]" if value else "[]")
    else:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            found.append(_UNKNOWN)
        form.append(json.dumps(value).replace("%", "%%"))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
