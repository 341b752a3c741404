"""Which recordings are decided alike: the profile of a case under a set of schedules.

`simulate.compare` looks at instants only by asking which of two is earlier. So two recordings whose
rules apply alike, whose choices, holds and requests are of the same kinds, and all of whose instants
(ends of periods, the call, now, the horizons) stand in the same order add the same to a comparison.
A profile is that shape and that order. A million recordings have some hundreds of profiles, and the
engine, which stays the only definition, decides one recording of each.

`Profiler.of` takes anything; `Profiler.plain` takes recordings around which nothing happened (no
hold, choice or request), as day numbers, because those are nearly all and come by the million.
`Profiler.spans` goes one step further for them: of most days it does not matter which one of a long
span it was, so whoever groups by day can group by span.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from retention.errors import Undecidable
from retention.model import (
    CONSENT,
    Choice,
    Facts,
    Hold,
    Purpose,
    Request,
    Rule,
    Schedule,
    TriggerKind,
)
from retention.periods import Period, end_of_calendar_year, end_of_period, start_of_day, zone_of
from retention.rules import NEEDS_CUSTOMER, Waiting, first_failure, standing_withdrawals, trigger_of

__all__ = ["DayVector", "Profiler"]

_OUT = -1
"""Instead of an end: the rule does not apply."""


_FIELDS = {
    TriggerKind.CALL_STARTED: ("started",),
    TriggerKind.CALL_ENDED: ("ended",),
    TriggerKind.LAST_CONTACT: ("contact", "started"),
    TriggerKind.RELATIONSHIP_ENDED: ("relationship_ended", "started"),
    TriggerKind.CONSENT_WITHDRAWN: ("started",),
    TriggerKind.FINANCIAL_YEAR_END: ("financial_year_end", "started"),
}
"""From which days of a plain recording a trigger may be taken; a matter's closing is not among them."""

_Cluster = tuple[tuple[tuple[bool, Period], ...], tuple[Period, ...]]


@dataclass(frozen=True, slots=True)
class DayVector:
    """When things happened around a plain recording, as ordinals of days in the controller's zone.

    Attributes:
        started: Day of the call's beginning; not in the future.
        ended: Day of its end, or None while unknown.
        contact: Day of the customer's last contact, if known.
        relationship_ended: Day of the relationship's end, if one is reported and confirmed by now.
        financial_year_end: Last day of the financial year.
    """

    started: int
    ended: int | None = None
    contact: int | None = None
    relationship_ended: int | None = None
    financial_year_end: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is left of the rules for recordings of one kind: which count, from what, for how long."""

    shape: Hashable
    timed: tuple[tuple[str, bool, Period], ...]


class Profiler:
    """Profiles under some schedules at one instant.

    Args:
        schedules: All under which the recordings will be decided.
        zone: The controller's IANA zone.
        now: The instant of the decisions; aware.
        horizons: Days ahead that matter besides.
        year_end: The last day of the financial year in which a day lies, as ordinals; where a
            customer has no financial year of its own.
    """

    def __init__(
        self,
        schedules: Sequence[Schedule],
        zone: str,
        now: datetime,
        horizons: Iterable[int] = (),
        year_end: Callable[[int], int] | None = None,
    ) -> None:
        self._schedules = tuple(schedules)
        self._zone = zone_of(zone)
        self._now = now.astimezone(UTC)
        moments = {now, *(now + timedelta(days=day) for day in horizons)}
        self._moments = tuple(sorted(moment.timestamp() for moment in moments))
        self._caps = tuple(dict.fromkeys(cap for s in self._schedules for cap in s.caps.values()))
        self._year_end = year_end
        self._by_day, self._ordered = self._entangled()
        self._ends: dict[tuple[int, bool, Period], float | None] = {}
        self._starts: dict[int, float] = {}

    # -- anything ----------------------------------------------------------------------------------

    def of(
        self,
        facts: Facts,
        holds: Iterable[Hold] = (),
        choices: Iterable[Choice] = (),
        requests: Iterable[Request] = (),
    ) -> Hashable:
        """The profile of any recording of this zone and these schedules' country."""
        choices = sorted(choices, key=lambda c: (c.effective_at, c.kind, sorted(c.purposes)))
        holds = sorted(
            holds, key=lambda h: (h.placed_at, h.released_at is None, h.released_at or h.placed_at)
        )
        requests = sorted(requests, key=lambda r: (r.filed_at, r.kind, r.state, r.decided_at or r.filed_at))
        instants: list[float | None] = [*self._moments, facts.call_started.timestamp()]
        shape: list[Hashable] = [facts.country, facts.lawful_basis == CONSENT, _contradicts(facts)]
        withdrawals = standing_withdrawals(facts, choices)
        for schedule in self._schedules:
            for rule in schedule.rules:
                state, end = self._rule(rule, facts, withdrawals)
                shape.append(state)
                instants.append(end)
        instants += [self._cap(facts, cap) for cap in self._caps]
        for choice in choices:
            shape.append((choice.kind, choice.purposes))
            instants.append(choice.effective_at.timestamp())
        for request in requests:
            shape.append((request.kind, request.state))
            instants += [request.filed_at.timestamp(), _seconds(request.decided_at)]
        for hold in holds:
            shape.append("hold")
            instants += [hold.placed_at.timestamp(), _seconds(hold.released_at)]
            instants += [self._grace(schedule, hold) for schedule in self._schedules]
        return (tuple(shape), _order(instants))

    def _rule(self, rule: Rule, facts: Facts, withdrawals: Sequence[Choice]) -> tuple[Hashable, float | None]:
        failed, unknown = first_failure(rule.when, facts)
        if failed is not None:
            return _OUT, None
        try:
            if unknown is not None:
                raise Undecidable(f"unknown_{unknown}")
            point = trigger_of(rule, facts, withdrawals, self._now)
            if point is None or isinstance(point, Waiting):
                return (_OUT if point is None else "waits"), None
            return "ends", end_of_period(point, rule.keep, self._zone).timestamp()
        except Undecidable as doubt:
            return doubt.code, None

    def _cap(self, facts: Facts, cap: Period) -> float | None:
        try:
            return end_of_period(facts.call_started, cap, self._zone).timestamp()
        except Undecidable:
            return None

    def _grace(self, schedule: Schedule, hold: Hold) -> float | None:
        if hold.released_at is None or schedule.hold_grace.is_zero:
            return None
        return end_of_period(hold.released_at, schedule.hold_grace, self._zone).timestamp()

    # -- plain recordings by the million -----------------------------------------------------------

    def plan(self, facts: Facts) -> _Plan:
        """What `plain` needs to know of one kind of recording; dates in `facts` do not matter.

        Recordings are of one kind if they are equal in everything but their instants, and each of
        their lengths meets the same conditions on the duration.
        """
        shape: list[Hashable] = [facts.country, facts.linked]
        timed: list[tuple[str, bool, Period]] = []
        for schedule in self._schedules:
            for rule in schedule.rules:
                failed, unknown = first_failure(rule.when, facts)
                if failed is not None or unknown is not None:
                    shape.append(_OUT if failed is not None else f"unknown_{unknown}")
                    continue
                shape.append("applies")
                timed.append((self._source(rule, facts), rule.after.calendar_year, rule.keep))
        return _Plan(tuple(shape), tuple(timed))

    @staticmethod
    def _source(rule: Rule, facts: Facts) -> str:
        kind = rule.after.kind
        if kind in NEEDS_CUSTOMER and not facts.linked:
            kind = TriggerKind.CALL_STARTED
        return str(kind)

    def plain(self, plan: _Plan, days: DayVector) -> Hashable:
        """The profile of a plain recording; profiles of `of` are never equal to it."""
        started = days.started
        contact = started if days.contact is None or days.contact < started else days.contact
        sources = {
            "call_started": started,
            "call_ended": days.ended,
            "last_contact": contact,
            "relationship_ended": days.relationship_ended,
            "financial_year_end": days.financial_year_end,
            "matter_closed": None,
            "consent_withdrawn": None,
        }
        # The call began after its day did, and nothing else lies within the day.
        begin = self._begin(started) + 1
        values: list[float | None] = [*self._moments, begin]
        for source, calendar_year, keep in plan.timed:
            day = sources[source]
            end = None if day is None else self._end(day, calendar_year, keep)
            values.append(end if end is None or end > begin else begin)
        values += [self._end(started, False, cap) for cap in self._caps]
        return (plan, _order(values))

    # -- days that need not be told apart ----------------------------------------------------------

    def spans(self, name: str, days: Iterable[int]) -> list[tuple[int, int]] | None:
        """Which days stand for which: ``(from this day on, this one stands for it)``, in order.

        Replacing each day of a `DayVector` by the one that stands for it changes no comparison of
        the profiler's schedules.

        Args:
            name: A field of `DayVector`.
            days: The days there are, in order; ones that nothing lies on may be among them or left out.

        Returns:
            None if every day of this field has to be told apart: a purpose that the schedules treat
            differently weighs periods from different events against each other.
        """
        if name in self._by_day:
            return None
        known: dict[Hashable, int] = {}
        found: list[tuple[int, int]] = []
        for day in days:
            stands = known.setdefault(self._feature(name, day), day)
            if not found or found[-1][1] != stands:
                found.append((day, stands))
        return found

    def _feature(self, name: str, day: int) -> Hashable:
        """All that a day decides: how its periods lie to now and the horizons, and to each other."""
        ends = [self._end(at, rule.after.calendar_year, rule.keep) for rule, at in self._from(name, day)]
        if name == "started":
            ends += [self._end(day, False, cap) for cap in self._caps]
        places = tuple(_OUT if end is None else bisect_left(self._moments, end) for end in ends)
        return places, tuple(_order(self._cluster(cluster, day)) for cluster in self._ordered.get(name, ()))

    def _from(self, name: str, day: int) -> Iterator[tuple[Rule, int]]:
        """The rules that may count from this day, and from which day they then count."""
        for schedule in self._schedules:
            for rule in schedule.rules:
                kind = rule.after.kind
                if name in _FIELDS.get(kind, ()):
                    year = kind is TriggerKind.FINANCIAL_YEAR_END and name == "started"
                    if not year:
                        yield rule, day
                    elif self._year_end is not None:
                        yield rule, self._year_end(day)

    def _cluster(self, cluster: _Cluster, day: int) -> list[float | None]:
        periods = [self._end(day, calendar_year, keep) for calendar_year, keep in cluster[0]]
        return periods + [self._end(day, False, cap) for cap in cluster[1]]

    def _entangled(self) -> tuple[frozenset[str], dict[str, list[_Cluster]]]:
        """Fields that are needed to the day, and by field the periods whose order matters."""
        # A call may not end before it begins, so neither of the two can be stood for alone.
        kinds = {rule.after.kind for schedule in self._schedules for rule in schedule.rules}
        by_day = {"started", "ended"} if TriggerKind.CALL_ENDED in kinds else set()
        ordered: dict[str, list[_Cluster]] = {}
        for purpose in Purpose:
            if len({_treatment(schedule, purpose) for schedule in self._schedules}) == 1:
                continue  # treated alike, so no window of it moves
            rules = {r for s in self._schedules for r in s.rules if purpose in r.purposes}
            caps = tuple(dict.fromkeys(s.caps[purpose] for s in self._schedules if purpose in s.caps))
            fields = {f for rule in rules for f in _FIELDS.get(rule.after.kind, ())}
            fields |= {"started"} if caps else set()
            periods = tuple({(rule.after.calendar_year, rule.keep) for rule in rules})
            if len(fields) == 1:
                ordered.setdefault(fields.pop(), []).append((periods, caps))
            elif len(periods) + len(caps) > 1 and not (
                len({rule.after.kind for rule in rules}) == 1 and not caps and _always_ordered(periods)
            ):
                by_day |= fields
        return frozenset(by_day), ordered

    def _begin(self, day: int) -> float:
        found = self._starts.get(day)
        if found is None:
            found = self._starts[day] = start_of_day(date.fromordinal(day), self._zone).timestamp()
        return found

    def _end(self, day: int, calendar_year: bool, keep: Period) -> float | None:
        key = (day, calendar_year, keep)
        try:
            return self._ends[key]
        except KeyError:
            point = date.fromordinal(day)
            if calendar_year:
                point = end_of_calendar_year(point, self._zone)
            try:
                end: float | None = end_of_period(point, keep, self._zone).timestamp()
            except Undecidable:
                end = None
            self._ends[key] = end
            return end


def _treatment(schedule: Schedule, purpose: Purpose) -> Hashable:
    rules = frozenset(
        (rule.keep, rule.after, rule.when, rule.statutory is None)
        for rule in schedule.rules
        if purpose in rule.purposes
    )
    return rules, schedule.caps.get(purpose)


def _always_ordered(periods: Sequence[tuple[bool, Period]]) -> bool:
    """Whether of periods from one and the same event it is known from the start which are longer."""
    if len({calendar_year for calendar_year, _ in periods}) > 1:
        return False
    keeps = [keep for _, keep in periods]
    # Strictly: months, or years, or days alone; P1M and P30D change places from month to month.
    return len({keep.days for keep in keeps}) == 1 or len({keep.months for keep in keeps}) == 1


def _contradicts(facts: Facts) -> bool:
    backwards = facts.call_ended is not None and facts.call_ended < facts.call_started
    return backwards or (facts.duration is not None and facts.duration < timedelta(0))


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _order(values: Sequence[float | None]) -> tuple[int, ...]:
    """Each value's place among all of them; equal values share one, and None has its own."""
    places = {value: place for place, value in enumerate(sorted({v for v in values if v is not None}))}
    return tuple(_OUT if value is None else places[value] for value in values)
