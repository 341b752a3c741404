"""Recordings of one profile are decided alike: grouping by it changes no comparison."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from datetime import date, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from retention.model import Facts, Schedule
from retention.periods import financial_year_end, local_day, start_of_day, zone_of
from retention.profiles import DayVector, Profiler
from retention.simulate import HORIZONS, Group, compare
from tests.retention import strategies

ZONE = "Europe/Helsinki"


@st.composite
def groups(draw: st.DrawFn) -> Group:
    return Group(
        replace(draw(strategies.facts()), zone=ZONE),
        tuple(draw(st.lists(strategies.holds(), max_size=2))),
        tuple(draw(st.lists(strategies.choices, max_size=2))),
        tuple(draw(st.lists(strategies.requests(), max_size=1))),
        count=draw(st.integers(1, 3)),
        audio=timedelta(seconds=draw(st.integers(0, 100))),
        size=draw(st.integers(0, 100)),
    )


def moved(group: Group, by: timedelta) -> Group:
    """Nearly the same recording, so that profiles do meet."""
    facts = group.facts
    return replace(
        group, facts=replace(facts, call_started=facts.call_started + by, last_contact=facts.last_contact)
    )


def grouped(estate: list[Group], keys: list[Hashable]) -> list[Group]:
    found: dict[Hashable, Group] = {}
    for group, key in zip(estate, keys, strict=True):
        known = found.get(key)
        if known is not None:
            group = replace(
                known,
                count=known.count + group.count,
                audio=known.audio + group.audio,
                size=known.size + group.size,
            )
        found[key] = group
    return list(found.values())


@settings(max_examples=300)
@given(
    strategies.schedules,
    strategies.schedules,
    st.lists(groups(), min_size=1, max_size=3),
    st.lists(st.integers(-90_000, 90_000).map(lambda s: timedelta(seconds=s)), max_size=4),
    strategies.moments,
)
def test_one_of_each_profile_speaks_for_all(
    old: Schedule, new: Schedule, estate: list[Group], shifts: list[timedelta], now: datetime
) -> None:
    estate = [*estate, *(moved(estate[0], by) for by in shifts)]
    profiler = Profiler((old, new), ZONE, now, HORIZONS)
    keys = [profiler.of(g.facts, g.holds, g.choices, g.requests) for g in estate]
    assert compare(old, new, grouped(estate, keys), now) == compare(old, new, estate, now)


def days_of(facts: Facts, now: datetime) -> DayVector:
    zone = zone_of(facts.zone)

    def ordinal(moment: datetime | None) -> int | None:
        return None if moment is None else local_day(moment, zone).toordinal()

    ended = facts.call_ended
    if ended is None and facts.duration is not None:
        ended = facts.call_started + facts.duration
    confirmed = facts.relationship_confirmed_at
    over = facts.relationship_ended if confirmed is not None and confirmed <= now else None
    year = facts.financial_year_end
    return DayVector(
        started=local_day(facts.call_started, zone).toordinal(),
        ended=ordinal(ended),
        contact=ordinal(facts.last_contact),
        relationship_ended=None if over is None else local_day(over, zone).toordinal(),
        financial_year_end=None if year is None else year.toordinal(),
    )


@settings(max_examples=300)
@given(
    strategies.schedules,
    strategies.schedules,
    st.lists(strategies.facts(), min_size=1, max_size=3),
    st.lists(st.integers(-90_000, 90_000).map(lambda s: timedelta(seconds=s)), max_size=4),
    strategies.moments,
    st.booleans(),
)
def test_plain_recordings_are_profiled_by_their_days_alone(
    old: Schedule, new: Schedule, drawn: list[Facts], shifts: list[timedelta], now: datetime, alike: bool
) -> None:
    if alike:  # schedules that differ in one rule, as versions of one schedule do
        new = replace(old, rules=(*old.rules[:-1], *new.rules[:1]) if new.rules else old.rules)
    drawn += [replace(drawn[0], call_started=drawn[0].call_started + by) for by in shifts]
    estate = [
        Group(replace(f, zone=ZONE, in_matter=False, matter_closed=None, duration=f.duration or timedelta(3)))
        for f in drawn
        if f.call_started <= now
    ]
    estate = [
        replace(
            g,
            facts=replace(
                g.facts,
                financial_year_end=g.facts.financial_year_end or g.facts.call_started.date(),
            ),
        )
        for g in estate
    ]
    zone = zone_of(ZONE)

    def year_end(day: int) -> int:
        return financial_year_end(date.fromordinal(day), zone, 12, 31).toordinal()

    profiler = Profiler((old, new), ZONE, now, HORIZONS, year_end)
    vectors = [days_of(g.facts, now) for g in estate]
    keys = [profiler.plain(profiler.plan(g.facts), days) for g, days in zip(estate, vectors, strict=True)]
    assert compare(old, new, grouped(estate, keys), now) == compare(old, new, estate, now)

    # Now with other days standing for these: the recordings that stand for a group are made up.
    vectors = standing(profiler, vectors)
    keys = [profiler.plain(profiler.plan(g.facts), days) for g, days in zip(estate, vectors, strict=True)]
    made = [replace(g, facts=dated(g.facts, days)) for g, days in zip(estate, vectors, strict=True)]
    assert compare(old, new, grouped(made, keys), now) == compare(old, new, estate, now)


FIELDS = ("started", "ended", "contact", "relationship_ended", "financial_year_end")


def standing(profiler: Profiler, vectors: list[DayVector]) -> list[DayVector]:
    for name in FIELDS:
        days = [day for v in vectors if (day := getattr(v, name)) is not None]
        spans = profiler.spans(name, range(min(days), max(days) + 1)) if days else None
        if spans is None:
            continue
        if name == "ended":  # no rule asks for it, so nobody need know it
            vectors = [replace(v, ended=None) for v in vectors]
            continue
        vectors = [
            v
            if getattr(v, name) is None
            else replace(v, **{name: [stands for since, stands in spans if since <= getattr(v, name)][-1]})
            for v in vectors
        ]
    return vectors


def dated(facts: Facts, days: DayVector) -> Facts:
    zone = zone_of(facts.zone)

    def midnight(day: int | None) -> datetime | None:
        return None if day is None else start_of_day(date.fromordinal(day), zone)

    started = midnight(days.started)
    assert started is not None
    over, year = days.relationship_ended, days.financial_year_end
    return replace(
        facts,
        call_started=started,
        call_ended=midnight(days.ended),
        last_contact=midnight(days.contact),
        relationship_ended=None if over is None else date.fromordinal(over),
        relationship_confirmed_at=None if over is None else started,
        financial_year_end=None if year is None else date.fromordinal(year),
    )
