from __future__ import annotations

import tomllib
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.contradictions import is_shadowed_by
from retention.decision import Decision
from retention.engine import decide
from retention.errors import Misuse, ScheduleError, ScheduleProblem
from retention.model import Choice, ChoiceKind, Condition, Facts, Purpose, Rule, Schedule, TriggerKind
from retention.periods import Period, end_of_period, over_before, zone_of
from retention.positions import locate
from retention.schedule import SHIPPED, check, default_schedule_text, keep_record_until
from tests.retention import strategies

HEAD = '[schedule]\ncontroller = "fi-main"\nversion = 1\n'
BASE = '[[rule]]\nid = "base"\npurposes = ["service_evidence"]\nkeep = "P8Y"\nafter = "last_contact"\n'

TRAINING = 'purposes = ["training"]\nkeep = "P2Y"\nafter = "call_started"\n'


def rule(text: str) -> str:
    return f'{HEAD}{BASE}[[rule]]\nid = "r"\n{text}'


def test_a_whole_schedule_is_read() -> None:
    schedule = check(
        HEAD
        + 'hold_grace = "P14D"\n'
        + BASE
        + """[[rule]]
id = "training"
purposes = ["training"]
keep = "P2Y"
after = "end_of_calendar_year_of(call_started)"
closes_on = ["objection", "consent_withdrawn"]
reason = "why"
[rule.when]
direction = ["inbound"]
tag = ["a", "b"]
duration_at_least = "PT15S"
duration_less_than = "PT2H"
[cap]
training = "P3Y"
[disposition.request]
keep = "P3Y"
after = "decided"
"""
    )
    assert (schedule.controller, schedule.version, schedule.hold_grace) == ("fi-main", 1, Period(days=14))
    training = schedule.rules[1]
    assert training.after.kind is TriggerKind.CALL_STARTED
    assert training.after.calendar_year
    assert str(training.after) == "end_of_calendar_year_of(call_started)"
    assert training.closes_on == {ChoiceKind.OBJECTION, ChoiceKind.CONSENT_WITHDRAWN}
    assert training.when.tag == frozenset({"a", "b"})
    assert training.when.duration_less_than == timedelta(hours=2)
    assert schedule.caps == {Purpose.TRAINING: Period(months=36)}
    assert schedule.dispositions["request"].after == "decided"
    assert hash(schedule) == hash(schedule)


REFUSED = [
    ("", 1, 1, "empty"),
    ("# only a comment\n", 1, 1, "empty"),
    ("[schedule\n", 1, 10, "not TOML"),
    ('[schedule]\ncontroller = "x', 2, 16, "not TOML"),
    (HEAD, 1, 1, "no rule"),
    (BASE, 1, 1, "[schedule] is missing"),
    (f"[schedule]\nversion = 1\n{BASE}", 1, 1, "controller is missing"),
    (f'[schedule]\ncontroller = "fi-main"\n{BASE}', 1, 1, "version is missing"),
    (HEAD.replace("version = 1", "version = 0") + BASE, 3, 1, "whole number"),
    (HEAD.replace("version = 1", "version = true") + BASE, 3, 1, "whole number"),
    (HEAD.replace("fi-main", "FI Main") + BASE, 2, 1, "short name"),
    (HEAD.replace("fi-main", "other") + BASE, 2, 1, "not for 'fi-main'"),
    (f"{HEAD}retain = 1\n{BASE}", 4, 1, "unknown key 'retain'"),
    (f"{HEAD}[ruel]\n{BASE}", 4, 1, "unknown key 'ruel'"),
    (f'{HEAD}[rule]\nid = "x"\n', 4, 1, "not a list of tables"),
    (HEAD + BASE + BASE.replace("P8Y", "P9Y"), 10, 1, "second rule with the id 'base'"),
    (HEAD + BASE.replace("base", "Base rule"), 5, 1, "short name"),
    (rule('purposes = ["training"]\nkeep = "P2Y"\n'), 9, 1, "after is missing"),
    (rule('purposes = ["training"]\nkeep = "P2Y"\nafter = "moon"\n'), 13, 1, "unknown trigger 'moon'"),
    (rule('purposes = ["training"]\nkeep = "PT5S"\nafter = "call_started"\n'), 12, 1, "not a period"),
    (rule('purposes = ["training"]\nkeep = "P0D"\nafter = "call_started"\n'), 12, 1, "no time"),
    (rule('purposes = ["training"]\nkeep = "P900Y"\nafter = "call_started"\n'), 12, 1, "two hundred"),
    (rule('purposes = ["training"]\nkeep = 5\nafter = "call_started"\n'), 12, 1, "not a text"),
    (
        rule('purposes = ["training", "sales"]\nkeep = "P2Y"\nafter = "call_started"\n'),
        11,
        25,
        "sales",
    ),
    (rule('purposes = []\nkeep = "P2Y"\nafter = "call_started"\n'), 11, 1, "empty list"),
    (rule('purposes = "training"\nkeep = "P2Y"\nafter = "call_started"\n'), 11, 1, "not a list"),
    (
        rule('purposes = ["training", "training"]\nkeep = "P2Y"\nafter = "call_started"\n'),
        11,
        25,
        "stands twice",
    ),
    (
        rule(TRAINING + 'when = { colour = ["red"] }\n'),
        14,
        10,
        "unknown key 'colour'",
    ),
    (
        rule(TRAINING + "when = { queue = [] }\n"),
        14,
        10,
        "never applies",
    ),
    (
        rule(
            'purposes = ["training"]\nkeep = "P2Y"\nafter = "call_started"\nwhen = { direction = ["up"] }\n'
        ),
        14,
        23,
        "unknown direction 'up'",
    ),
    (
        rule(TRAINING + 'when = { country = ["SE"] }\n'),
        14,
        10,
        "can never apply",
    ),
    (
        rule(TRAINING + 'when = { duration_at_least = "PT1H", duration_less_than = "PT1M" }\n'),
        14,
        10,
        "can never apply",
    ),
    (
        rule(
            'purposes = ["training"]\nkeep = "P2Y"\nafter = "consent_withdrawn"\n'
            'when = { basis = ["assignment"] }\n'
        ),
        13,
        1,
        "only to other bases",
    ),
    (
        rule(
            'purposes = ["training"]\nkeep = "P2Y"\nafter = "consent_withdrawn"\n'
            'closes_on = ["consent_withdrawn"]\n'
        ),
        14,
        1,
        "from which it counts",
    ),
    (
        rule(TRAINING + 'closes_on = ["whim"]\n'),
        14,
        14,
        "unknown closes_on 'whim'",
    ),
    (
        rule(TRAINING + 'closes_on = ["objection"]\nstatutory = "XX 1"\n'),
        14,
        1,
        "is statutory",
    ),
    (
        rule(
            'purposes = ["training"]\nkeep = "P2Y"\nafter = "call_started"\nstatutory = "XX 1"\n'
            '[cap]\nsecurity = "P1Y"\ntraining = "P23M"\n'
        ),
        17,
        1,
        "below what statute",
    ),
    (rule('purposes = ["service_evidence"]\nkeep = "P7Y"\nafter = "last_contact"\n'), 9, 1, "never decide"),
    (rule('purposes = ["service_evidence"]\nkeep = "P8Y"\nafter = "last_contact"\n'), 9, 1, "never decide"),
    (
        rule(
            'purposes = ["service_evidence"]\nkeep = "P8Y"\nafter = "call_started"\n'
            'when = { queue = ["x"] }\n'
        ),
        9,
        1,
        "'base' always keeps at least as long",
    ),
    (HEAD + BASE + 'when = { queue = ["sales"] }\n', 4, 1, "no rule is unconditional"),
    (HEAD + BASE.replace("last_contact", "matter_closed"), 4, 1, "no rule is unconditional"),
    (f'{HEAD}{BASE}[cap]\nmarketing = "P1Y"\n', 10, 1, "unknown key 'marketing'"),
    (f'{HEAD}{BASE}[disposition.request]\nkeep = "P1Y"\nafter = "whenever"\n', 11, 1, "unknown event"),
    (f'{HEAD}{BASE}[disposition.dreams]\nkeep = "P1Y"\nafter = "x"\n', 9, 1, "unknown key 'dreams'"),
    (f"{HEAD}{BASE}[disposition]\nrequest = 1\n", 10, 1, "not a table"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), REFUSED)
def test_refused_with_line_and_column(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check(text, controller="fi-main", country="FI")
    first = caught.value
    assert message in str(first)
    assert [(p.line, p.column) for p in first.problems if message in str(p)] == [(line, column)]


def test_every_problem_is_told_at_once_in_order() -> None:
    text = (
        HEAD.replace("1", '"one"')
        + BASE.replace("P8Y", "eight")
        + 'colour = "red"\n[cap]\ntraining = "long"\n'
    )
    with pytest.raises(ScheduleError) as caught:
        check(text)
    assert [problem.line for problem in caught.value.problems] == [3, 7, 9, 11]
    assert (caught.value.line, caught.value.column) == (3, 1)
    assert caught.value.message
    assert str(caught.value).count("\n") == 3


@given(st.text(alphabet="[]{}=\"#\n rulecaschedipurposes1'\\", max_size=80))
def test_any_text_is_either_a_schedule_or_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        check(text)


@given(
    st.integers(0, 400),
    st.sampled_from(["", "x", "[", "]", '"', "\n", "= 1\n", "{}", "'''", "\\"]),
    st.booleans(),
)
def test_a_damaged_schedule_raises_nothing_else(at: int, piece: str, cut: bool) -> None:
    text = default_schedule_text("FI", "fi-main")[:1200]
    at = min(len(text), at * 3)
    damaged = text[:at] + piece + text[at + (7 if cut else 0) :]
    problems: tuple[ScheduleProblem, ...] = ()
    try:
        check(damaged)
    except ScheduleError as error:
        problems = error.problems
    lines = damaged.split("\n")
    assert all(1 <= p.line <= len(lines) and 1 <= p.column <= len(lines[p.line - 1]) + 1 for p in problems)


@pytest.mark.parametrize("country", SHIPPED)
def test_shipped_defaults_pass_their_own_check(country: str) -> None:
    schedule = check(default_schedule_text(country, "some-one"), controller="some-one", country=country)
    assert schedule.controller == "some-one"
    covered = {purpose for rule in schedule.rules for purpose in rule.purposes}
    assert covered == set(Purpose)
    assert any(rule.statutory for rule in schedule.rules)
    assert set(schedule.dispositions) >= {"customer", "request", "account", "log"}


def test_how_long_other_records_live() -> None:
    schedule = check(default_schedule_text("FI", "fi-main"))
    decided = datetime.fromisoformat("2026-03-05T23:30+02:00")
    until = keep_record_until(schedule, "request", decided, "Europe/Helsinki")
    assert until == datetime.fromisoformat("2029-03-06T00:00+02:00")
    assert keep_record_until(schedule, "request", None, "Europe/Helsinki") is None
    assert keep_record_until(check(HEAD + BASE), "request", decided, "Europe/Helsinki") is None
    with pytest.raises(Misuse):
        keep_record_until(schedule, "dream", decided, "Europe/Helsinki")


def test_no_default_for_elsewhere_or_for_an_impossible_name() -> None:
    with pytest.raises(Misuse):
        default_schedule_text("NO", "no-main")
    with pytest.raises(Misuse):
        default_schedule_text("FI", 'x"\nversion = 2')


def test_positions_follow_the_grammar() -> None:
    text = r'''# a [comment] = 1
a . "b.c" = 1  # = 2
[t]
  long = """
[[rule]]
x = 1 \"""
"""
list = [ 'a]', # ]
   { k = 1, l.m = [1] },
]
[[rule]]
[[rule]]
when = {z=1}
[rule.more]
y = 2026-01-01T00:00:00Z'''
    tomllib.loads(text)
    places = locate(text)
    assert places["a", "b.c"] == (2, 1)
    assert places["t",] == (3, 1)
    assert places["t", "long"] == (4, 3)
    assert places["t", "list", 0] == (8, 10)
    assert places["t", "list", 1, "l", "m", 0] == (9, 20)
    assert places["rule", 0] == (11, 1)
    assert places["rule", 1] == (12, 1)
    assert places["rule", 1, "when", "z"] == (13, 9)
    assert places["rule", 1, "more", "y"] == (15, 1)


def outcome(decision: Decision) -> tuple[object, ...]:
    spans = {purpose: (window.start, window.end) for purpose, window in decision.windows.items()}
    return spans, decision.erase_on, decision.due


@st.composite
def rule_pairs(draw: st.DrawFn) -> tuple[Rule, Rule]:
    """Two rules of which the second is often a wider form of the first."""
    a, b = draw(strategies.rules()), draw(strategies.rules())
    wider = Rule(
        id="wider",
        purposes=draw(st.sampled_from([a.purposes | b.purposes, b.purposes])),
        keep=draw(st.sampled_from([a.keep, b.keep, Period(months=240)])),
        after=draw(st.sampled_from([a.after, b.after])),
        when=draw(st.sampled_from([a.when, Condition()])),
        closes_on=draw(st.sampled_from([a.closes_on, b.closes_on])),
        statutory=draw(st.sampled_from([a.statutory, b.statutory])),
    )
    return a, wider


@given(rule_pairs(), strategies.facts(), strategies.choices, strategies.moments)
def test_a_shadowed_rule_really_changes_nothing(
    pair: tuple[Rule, Rule], facts: Facts, choice: Choice, now: datetime
) -> None:
    """What `check` refuses as shadowed is never a rule that decides something."""
    hidden, wider = pair
    if is_shadowed_by(hidden, wider):
        both = decide(facts, Schedule("c", 1, (hidden, wider)), [], [choice], [], now)
        alone = decide(facts, Schedule("c", 1, (wider,)), [], [choice], [], now)
        if not both.undecided:  # what is unknown can still put a hidden rule in doubt
            assert outcome(both) == outcome(alone)


@given(
    now=strategies.moments,
    months=st.integers(0, 30),
    days=st.integers(0, 70),
    offset=st.integers(-3, 3),
    second=st.sampled_from([timedelta(0), timedelta(seconds=-1), timedelta(hours=13)]),
)
def test_what_is_over_is_the_same_asked_from_either_end(
    now: datetime, months: int, days: int, offset: int, second: timedelta
) -> None:
    zone, period = zone_of("Europe/Helsinki"), Period(months, days)
    before = over_before(period, now, zone)
    event = before + timedelta(days=offset) + second
    assert (event < before) == (end_of_period(event, period, zone) <= now)
