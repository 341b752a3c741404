"""Facts, schedules and events for the tests, made by hand and by hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from retention.model import (
    Choice,
    ChoiceKind,
    Condition,
    Facts,
    Hold,
    Purpose,
    Request,
    RequestKind,
    RequestState,
    Rule,
    Schedule,
    Trigger,
    TriggerKind,
)
from retention.periods import Period

ZONES = (
    "Europe/Helsinki",
    "Europe/Stockholm",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
    "UTC",
)

FIRST = datetime(2015, 1, 1, tzinfo=UTC)
LAST = datetime(2045, 1, 1, tzinfo=UTC)

moments = st.integers(0, int((LAST - FIRST).total_seconds())).map(lambda s: FIRST + timedelta(seconds=s))
periods = st.one_of(
    st.builds(Period, months=st.integers(1, 120)),
    st.builds(Period, days=st.integers(1, 4000)),
)
purposes = st.frozensets(st.sampled_from(list(Purpose)), min_size=1)
triggers = st.builds(Trigger, st.sampled_from(list(TriggerKind)), st.booleans())
closers = st.frozensets(
    st.sampled_from([ChoiceKind.OBJECTION, ChoiceKind.CONSENT_WITHDRAWN, ChoiceKind.RESTRICTION])
)
conditions = st.one_of(
    st.just(Condition()),
    st.builds(Condition, service_event=st.just(frozenset({"payment"}))),
    st.builds(Condition, direction=st.just(frozenset({"inbound"}))),
    st.builds(Condition, duration_at_least=st.just(timedelta(seconds=15))),
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    statutory = draw(st.sampled_from([None, None, "FI 1336/1997 2:10"]))
    return Rule(
        id=draw(st.sampled_from("abcdefgh")),
        purposes=draw(purposes),
        keep=draw(periods),
        after=draw(triggers),
        when=draw(conditions),
        closes_on=frozenset() if statutory else draw(closers),
        statutory=statutory,
    )


schedules = st.builds(
    Schedule,
    controller=st.just("fi-main"),
    version=st.integers(1, 9),
    rules=st.lists(rules(), max_size=4, unique_by=lambda rule: rule.id).map(tuple),
    caps=st.dictionaries(st.sampled_from(list(Purpose)), periods, max_size=2),
    hold_grace=st.sampled_from([Period(), Period(days=14)]),
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    started = draw(moments)
    return Facts(
        zone=draw(st.sampled_from(ZONES)),
        country="FI",
        call_started=started,
        duration=draw(st.one_of(st.none(), st.integers(0, 3600).map(lambda s: timedelta(seconds=s)))),
        direction=draw(st.sampled_from([None, "inbound", "outbound"])),
        service_events=draw(st.frozensets(st.sampled_from(["payment", "order"]))),
        lawful_basis=draw(st.sampled_from(["consent", "customer_relationship", None])),
        linked=draw(st.booleans()),
        last_contact=draw(st.one_of(st.none(), moments)),
        relationship_ended=draw(st.one_of(st.none(), moments)),
        relationship_confirmed_at=draw(st.one_of(st.none(), moments)),
        financial_year_end=draw(st.one_of(st.none(), moments.map(lambda m: m.date()))),
        in_matter=draw(st.booleans()),
        matter_closed=draw(st.one_of(st.none(), moments)),
    )


@st.composite
def holds(draw: st.DrawFn) -> Hold:
    placed = draw(moments)
    released = draw(st.one_of(st.none(), moments.filter(lambda m: m > placed)))
    return Hold(draw(st.sampled_from(["h1", "h2", "h3"])), placed, released, "m1")


@st.composite
def requests(draw: st.DrawFn) -> Request:
    filed = draw(moments)
    state = draw(st.sampled_from(list(RequestState)))
    decided = None if state is RequestState.PENDING else filed + timedelta(days=draw(st.integers(0, 90)))
    return Request(draw(st.sampled_from(list(RequestKind))), state, filed, decided)


choices = st.builds(
    Choice, st.sampled_from(list(ChoiceKind)), moments, st.one_of(st.just(frozenset()), purposes)
)
