"""Precedence, restriction, doubt, and the properties that hold for every case."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retention.decision import Decision, allows
from retention.engine import decide, decide_case, judge
from retention.errors import Misuse
from retention.explain import explain, sentence
from retention.model import (
    CONSENT,
    Case,
    Choice,
    ChoiceKind,
    Condition,
    Facts,
    Ground,
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
from tests.retention import strategies

CALL = datetime(2026, 3, 5, 8, tzinfo=UTC)
NOW = CALL + timedelta(days=10)
SERVICE, LEGAL, SECURITY = Purpose.SERVICE_EVIDENCE, Purpose.LEGAL_PROTECTION, Purpose.SECURITY
TRAINING, QUALITY = Purpose.TRAINING, Purpose.QUALITY

EVIDENCE = Rule(
    "evidence", frozenset({SERVICE, LEGAL, SECURITY}), Period(months=96), Trigger(TriggerKind.LAST_CONTACT)
)
QUALITY_RULE = Rule("quality", frozenset({QUALITY}), Period(months=12), Trigger(TriggerKind.CALL_STARTED))
STATUTE = Rule(
    "statute", frozenset({LEGAL}), Period(months=72), Trigger(TriggerKind.CALL_STARTED), statutory="XX 1"
)
PLAIN = Schedule("fi-main", 1, (EVIDENCE, QUALITY_RULE))
WITH_STATUTE = Schedule("fi-main", 1, (EVIDENCE, QUALITY_RULE, STATUTE))
FACTS = Facts(zone="Europe/Helsinki", country="FI", call_started=CALL, linked=True)
ERASURE = Request(RequestKind.ERASURE, RequestState.GRANTED, NOW, NOW)
FAR = datetime(2050, 1, 1, tzinfo=UTC)


def changed(**changes: object) -> Facts:
    known = {name: getattr(FACTS, name) for name in Facts.__dataclass_fields__}
    return Facts(**{**known, **changes})


def usable(decision: Decision, now: datetime = NOW) -> set[Purpose]:
    return {purpose for purpose in Purpose if allows(decision, purpose, now)[0]}


# -- precedence: card-security destruction > hold > statute > erasure/objection/restriction > cap > rule ----


def test_card_security_beats_a_hold_for_the_original_only() -> None:
    decision = decide(changed(card_security=True), PLAIN, [Hold("h1", CALL)], [], [], NOW)
    assert decision.destroy_original
    assert not decision.due
    assert allows(decision, LEGAL, NOW, original=True)[1].code == "card_security"
    assert allows(decision, LEGAL, NOW)[0], "the muted derivative inherits the windows"
    case = Case(changed(card_security=True), PLAIN, (Hold("h1", CALL),))
    assert judge(case, "card_security", NOW).erase
    assert judge(case, "request", NOW).code == "hold"
    assert not judge(Case(FACTS, PLAIN), "card_security", NOW).erase


def test_a_hold_beats_erasure_and_the_end_of_every_rule() -> None:
    decision = decide(FACTS, WITH_STATUTE, [Hold("h1", CALL)], [], [ERASURE], FAR)
    assert usable(decision, FAR) == {LEGAL}
    assert not decision.due
    for ground in ("retention", "request", "court_order", "relationship_ended"):
        assert judge(Case(FACTS, PLAIN, (Hold("h1", CALL),)), ground, FAR).code == "hold"


def test_a_statute_beats_erasure_objection_and_restriction() -> None:
    choices = [
        Choice(ChoiceKind.OBJECTION, NOW),
        Choice(ChoiceKind.CONSENT_WITHDRAWN, NOW),
        Choice(ChoiceKind.RESTRICTION, NOW),
    ]
    decision = decide(changed(lawful_basis=CONSENT), WITH_STATUTE, [], choices, [ERASURE], NOW)
    assert usable(decision) == {LEGAL}
    assert decision.erase_on == datetime(2032, 3, 5, 22, tzinfo=UTC)
    verdict = judge(Case(FACTS, WITH_STATUTE), "request", NOW)
    assert (verdict.erase, verdict.code, verdict.until) == (False, "statute", decision.erase_on)


def test_a_statute_beats_a_cap() -> None:
    capped = Schedule("fi-main", 1, WITH_STATUTE.rules, {LEGAL: Period(months=12)})
    assert decide(FACTS, capped, [], [], [], NOW).windows[LEGAL].end == datetime(2032, 3, 5, 22, tzinfo=UTC)
    without = Schedule("fi-main", 1, PLAIN.rules, {LEGAL: Period(months=12)})
    assert decide(FACTS, without, [], [], [], NOW).windows[LEGAL].end == datetime(2027, 3, 5, 22, tzinfo=UTC)


def test_erasure_beats_cap_and_rule_but_not_calls_after_it() -> None:
    decision = decide(FACTS, PLAIN, [], [], [ERASURE], NOW)
    assert decision.due
    assert decision.ground is Ground.REQUEST
    later = changed(call_started=NOW + timedelta(seconds=1))
    assert not decide(later, PLAIN, [], [], [ERASURE], NOW + timedelta(days=1)).due


def test_a_court_order_is_stopped_by_a_hold_alone() -> None:
    assert judge(Case(FACTS, WITH_STATUTE), "court_order", NOW).erase
    pending = Request(RequestKind.ACCESS, RequestState.PENDING, CALL)
    assert judge(Case(FACTS, PLAIN, (), (), (pending,)), "court_order", NOW).erase


# -- choices, requests -------------------------------------------------------------------------------------


def test_objection_closes_training_and_quality_whatever_the_schedule_says() -> None:
    choice = Choice(ChoiceKind.OBJECTION, NOW)
    assert usable(decide(FACTS, PLAIN, [], [choice], [], NOW)) == {SERVICE, LEGAL, SECURITY}
    only = Choice(ChoiceKind.OBJECTION, NOW, frozenset({TRAINING}))
    assert QUALITY in usable(decide(FACTS, PLAIN, [], [only], [], NOW))


def test_withdrawn_consent_closes_what_stood_on_it() -> None:
    choice = Choice(ChoiceKind.CONSENT_WITHDRAWN, NOW)
    assert usable(decide(changed(lawful_basis=CONSENT), PLAIN, [], [choice], [], NOW)) == set()
    assert usable(decide(changed(lawful_basis="assignment"), PLAIN, [], [choice], [], NOW)) != set()


def test_consent_given_again_before_the_call_covers_it_and_after_it_does_not() -> None:
    facts = changed(lawful_basis=CONSENT)
    withdrawn = Choice(ChoiceKind.CONSENT_WITHDRAWN, CALL - timedelta(days=9))
    given_before = Choice(ChoiceKind.CONSENT_GIVEN, CALL - timedelta(days=1))
    given_after = Choice(ChoiceKind.CONSENT_GIVEN, CALL + timedelta(days=1))
    assert QUALITY in usable(decide(facts, PLAIN, [], [withdrawn, given_before], [], NOW))
    contradiction = decide(facts, PLAIN, [], [withdrawn, given_after], [], NOW)
    assert usable(contradiction) == set()
    assert "consent_withdrawn_before_call" in {task.code for task in contradiction.undecided}
    assert not contradiction.due


@pytest.mark.parametrize("kind", list(RequestKind))
def test_pending_requests_freeze_and_some_restrict(kind: RequestKind) -> None:
    pending = Request(kind, RequestState.PENDING, NOW)
    over = decide(FACTS, PLAIN, [], [], [pending], FAR)
    assert over.frozen
    assert not over.due
    assert over.erase_on is not None
    assert over.erase_on <= FAR
    assert judge(Case(FACTS, PLAIN, (), (), (pending,)), "retention", FAR).code == "frozen"
    decision = decide(FACTS, PLAIN, [], [], [pending], NOW)
    restricts = kind in {
        RequestKind.ERASURE,
        RequestKind.RECTIFICATION,
        RequestKind.OBJECTION,
        RequestKind.RESTRICTION,
    }
    assert decision.restricted == restricts
    assert usable(decision) == (set() if restricts else {SERVICE, LEGAL, SECURITY, QUALITY})
    before = decide(FACTS, PLAIN, [], [], [pending], NOW - timedelta(seconds=1))
    assert not before.frozen
    refused = Request(kind, RequestState.REFUSED, NOW, NOW + timedelta(days=1))
    assert decide(FACTS, PLAIN, [], [], [refused], NOW).frozen, "not yet decided at that time"
    assert decide(FACTS, PLAIN, [], [], [refused], FAR).due


def test_restriction_leaves_statute_and_hold_and_keeps_everything() -> None:
    restriction = Choice(ChoiceKind.RESTRICTION, NOW)
    decision = decide(FACTS, WITH_STATUTE, [], [restriction], [], NOW)
    assert usable(decision) == {LEGAL}
    assert allows(decision, SERVICE, NOW)[1].code == "restricted"
    assert usable(decide(FACTS, PLAIN, [], [restriction], [], NOW)) == set()
    assert usable(decide(FACTS, PLAIN, [Hold("h1", NOW)], [restriction], [], NOW)) == {LEGAL}
    over = decide(FACTS, PLAIN, [], [restriction], [], FAR)
    assert over.frozen
    assert not over.due
    lifted = Choice(ChoiceKind.RESTRICTION_LIFTED, NOW + timedelta(days=1))
    assert decide(FACTS, PLAIN, [], [restriction, lifted], [], FAR).due
    assert usable(decide(FACTS, PLAIN, [], [restriction, lifted], [], NOW + timedelta(days=1))) == usable(
        decide(FACTS, PLAIN, [], [], [], NOW)
    )
    same_time = Choice(ChoiceKind.RESTRICTION_LIFTED, NOW)
    assert decide(FACTS, PLAIN, [], [same_time, restriction], [], NOW).restricted
    # the person's own erasure request ends what their restriction kept
    assert decide(FACTS, PLAIN, [], [restriction], [ERASURE], NOW).due


def test_release_does_not_reopen_what_a_choice_closed_and_grace_follows_it() -> None:
    released = datetime(2040, 1, 1, 12, tzinfo=UTC)
    hold = Hold("h1", CALL, released)
    assert decide(FACTS, PLAIN, [hold], [], [ERASURE], released).due
    patient = Schedule("fi-main", 1, PLAIN.rules, hold_grace=Period(days=14))
    waiting = decide(FACTS, patient, [hold], [], [ERASURE], released)
    assert not waiting.due
    assert usable(waiting, released) == set()
    assert waiting.erase_on == datetime(2040, 1, 15, 22, tzinfo=UTC)
    assert decide(FACTS, patient, [hold], [], [], datetime(2040, 1, 15, 22, tzinfo=UTC)).due


def test_hold_placed_after_everything_closed_opens_from_then() -> None:
    placed = FAR
    decision = decide(FACTS, PLAIN, [Hold("h1", placed)], [], [], FAR + timedelta(days=1))
    assert decision.windows[LEGAL].start == placed
    assert decision.windows[LEGAL].end is None
    assert not allows(decision, LEGAL, placed - timedelta(seconds=1))[0]


# -- doubt -------------------------------------------------------------------------------------------------


def with_rule(rule: Rule) -> Schedule:
    return Schedule("fi-main", 1, (EVIDENCE, rule))


@pytest.mark.parametrize(
    ("rule", "task"),
    [
        (
            Rule("r", frozenset({QUALITY}), Period(days=1), Trigger(TriggerKind.FINANCIAL_YEAR_END)),
            "unknown_financial_year_end",
        ),
        (
            Rule("r", frozenset({QUALITY}), Period(days=1), Trigger(TriggerKind.CALL_ENDED)),
            "unknown_call_ended",
        ),
        (
            Rule(
                "r",
                frozenset({QUALITY}),
                Period(days=1),
                Trigger(TriggerKind.CALL_STARTED),
                Condition(duration_at_least=timedelta(seconds=5)),
            ),
            "unknown_duration",
        ),
        (
            Rule(
                "r",
                frozenset({QUALITY}),
                Period(days=1),
                Trigger(TriggerKind.CALL_STARTED),
                Condition(direction=frozenset({"inbound"})),
            ),
            "unknown_direction",
        ),
        (
            Rule(
                "r",
                frozenset({QUALITY}),
                Period(days=1),
                Trigger(TriggerKind.CALL_STARTED),
                Condition(basis=frozenset({CONSENT})),
            ),
            "unknown_basis",
        ),
        (
            Rule("r", frozenset({QUALITY}), Period(months=99_999_9), Trigger(TriggerKind.CALL_STARTED)),
            "date_out_of_range",
        ),
    ],
)
def test_what_is_unknown_keeps_and_closes_the_doubtful_purpose(rule: Rule, task: str) -> None:
    decision = decide(FACTS, with_rule(rule), [], [], [], FAR)
    assert [(t.code, t.purpose, t.rule_id) for t in decision.undecided] == [(task, "quality", "r")]
    assert not decision.due
    assert decision.erase_on is None
    assert judge(Case(FACTS, with_rule(rule)), "retention", FAR).code == "undecided"
    now = decide(FACTS, with_rule(rule), [], [], [], NOW)
    assert allows(now, QUALITY, NOW)[1].code == "undecided"
    assert allows(now, SERVICE, NOW)[0]
    # an erasure that was granted makes an ordinary doubt moot
    assert decide(FACTS, with_rule(rule), [], [], [ERASURE], NOW).due
    assert judge(Case(FACTS, with_rule(rule)), "request", NOW).erase
    assert any("person has to decide" in line for line in explain(now, NOW))


def test_a_cap_counts_from_the_call_whatever_came_after() -> None:
    schedule = Schedule("fi-main", 1, PLAIN.rules, caps={SECURITY: Period(months=36)})
    decision = decide(changed(last_contact=CALL + timedelta(days=700)), schedule, [], [], [], NOW)
    assert decision.windows[SECURITY].end == datetime(2029, 3, 5, 22, tzinfo=UTC)
    evidence = decision.windows[SERVICE].end
    assert evidence is not None
    assert evidence > datetime(2036, 1, 1, tzinfo=UTC)


def test_doubt_about_a_purpose_closes_a_statutory_window_as_well_and_a_hold_opens_it() -> None:
    in_doubt = Rule("r", frozenset({LEGAL}), Period(days=1), Trigger(TriggerKind.CALL_ENDED))
    schedule = Schedule("fi-main", 1, (*WITH_STATUTE.rules, in_doubt))
    decision = decide(FACTS, schedule, [], [], [], NOW)
    assert usable(decision) == {SERVICE, SECURITY, QUALITY}
    assert decision.suspended[LEGAL].contains(NOW), "it is kept, and shown as kept"
    assert not decision.due
    assert LEGAL in usable(decide(FACTS, schedule, [Hold("h1", CALL)], [], [], NOW))


def test_a_doubtful_statute_stops_even_a_request() -> None:
    rule = Rule(
        "r", frozenset({LEGAL}), Period(days=1), Trigger(TriggerKind.FINANCIAL_YEAR_END), statutory="XX 1"
    )
    assert judge(Case(FACTS, with_rule(rule)), "request", NOW).code == "undecided"
    assert not decide(FACTS, with_rule(rule), [], [], [ERASURE], NOW).due


def test_contradictory_times_close_everything_but_a_hold() -> None:
    facts = changed(call_ended=CALL - timedelta(seconds=1))
    decision = decide(facts, PLAIN, [], [], [], NOW)
    assert usable(decision) == set()
    assert allows(decision, SERVICE, NOW)[1].code == "undecided"
    assert usable(decide(facts, PLAIN, [Hold("h1", CALL)], [], [], NOW)) == {LEGAL}
    assert not decide(facts, PLAIN, [], [], [], FAR).due
    assert decide(changed(duration=timedelta(seconds=-1)), PLAIN, [], [], [], NOW).undecided


def test_a_known_mismatch_beats_an_unknown_condition() -> None:
    rule = Rule(
        "r",
        frozenset({QUALITY}),
        Period(days=1),
        Trigger(TriggerKind.CALL_STARTED),
        Condition(direction=frozenset({"inbound"}), queue=frozenset({"sales"})),
    )
    decision = decide(FACTS, with_rule(rule), [], [], [], NOW)
    assert decision.undecided == ()
    assert allows(decision, QUALITY, NOW)[1].code == "no_window"


def test_matter_closed_applies_only_to_recordings_in_a_matter() -> None:
    rule = Rule("r", frozenset({QUALITY}), Period(days=1), Trigger(TriggerKind.MATTER_CLOSED))
    assert QUALITY not in decide(FACTS, with_rule(rule), [], [], [], NOW).windows
    waiting = decide(changed(in_matter=True), with_rule(rule), [], [], [], NOW)
    assert waiting.windows[QUALITY].end is None
    closed = decide(changed(in_matter=True, matter_closed=NOW), with_rule(rule), [], [], [], NOW)
    assert closed.windows[QUALITY].end == datetime(2026, 3, 16, 22, tzinfo=UTC)


def test_consent_withdrawn_as_a_trigger() -> None:
    rule = Rule("r", frozenset({QUALITY}), Period(days=1), Trigger(TriggerKind.CONSENT_WITHDRAWN))
    assert decide(FACTS, with_rule(rule), [], [], [], NOW).windows[QUALITY].end is None
    withdrawn = Choice(ChoiceKind.CONSENT_WITHDRAWN, NOW)
    decision = decide(FACTS, with_rule(rule), [], [withdrawn], [], NOW)
    assert decision.windows[QUALITY].end == datetime(2026, 3, 16, 22, tzinfo=UTC)


def test_reasons_name_winners_and_losers() -> None:
    longer = Rule("longer", frozenset({QUALITY}), Period(months=24), Trigger(TriggerKind.CALL_STARTED))
    decision = decide(FACTS, Schedule("fi-main", 7, (*PLAIN.rules, longer)), [], [], [], NOW)
    codes = {(r.rule_id, r.code) for r in decision.considered if r.params.get("purpose") == "quality"}
    assert codes == {("longer", "rule_won"), ("quality", "rule_shorter")}
    assert all(sentence(reason, decision.zone, 7) for reason in decision.considered)


def test_misuse_is_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 -- the point of the test
    with pytest.raises(Misuse):
        changed(call_started=naive)
    with pytest.raises(Misuse):
        Hold("h", naive)
    with pytest.raises(Misuse):
        Choice(ChoiceKind.OBJECTION, naive)
    with pytest.raises(Misuse):
        Request(RequestKind.ERASURE, RequestState.GRANTED, NOW)
    with pytest.raises(Misuse):
        decide(changed(zone="Mars/Olympus"), PLAIN, [], [], [], NOW)
    with pytest.raises(Misuse):
        decide(FACTS, PLAIN, [], [], [], naive)
    with pytest.raises(ValueError, match="whim"):
        judge(Case(FACTS, PLAIN), "whim", NOW)


# -- properties --------------------------------------------------------------------------------------------

cases = st.builds(
    Case,
    strategies.facts(),
    strategies.schedules,
    st.lists(strategies.holds(), max_size=2).map(tuple),
    st.lists(strategies.choices, max_size=3).map(tuple),
    st.lists(strategies.requests(), max_size=2).map(tuple),
)


def not_earlier(end: datetime | None, other: datetime | None) -> bool:
    return end is None or (other is not None and end >= other)


@given(cases, strategies.holds(), strategies.moments)
def test_a_hold_never_shortens(case: Case, hold: Hold, now: datetime) -> None:
    plain = decide_case(case, now)
    held = decide(case.facts, case.schedule, (*case.holds, hold), case.choices, case.requests, now)
    assert usable(plain, now) <= usable(held, now)
    assert not (held.due and not plain.due)
    if plain.erase_on is not None or held.erase_on is None:
        assert not_earlier(held.erase_on, plain.erase_on)
    if hold.stands(now):
        assert LEGAL in usable(held, now)
        assert not held.due


@given(cases, strategies.moments, strategies.moments)
def test_an_objection_never_lengthens(case: Case, at: datetime, now: datetime) -> None:
    plain = decide_case(case, now)
    choice = Choice(ChoiceKind.OBJECTION, at)
    objected = decide(case.facts, case.schedule, case.holds, (*case.choices, choice), case.requests, now)
    assert usable(objected, now) <= usable(plain, now)
    assert not (plain.due and not objected.due)
    assert not_earlier(plain.erase_on, objected.erase_on)


@given(cases, strategies.moments)
def test_a_restriction_never_opens_and_never_erases(case: Case, now: datetime) -> None:
    plain = decide_case(case, now)
    choice = Choice(ChoiceKind.RESTRICTION, now)
    restricted = decide(case.facts, case.schedule, case.holds, (*case.choices, choice), case.requests, now)
    assert usable(restricted, now) <= usable(plain, now)
    assert not (restricted.due and not plain.due and restricted.ground is not Ground.REQUEST)


@given(cases, strategies.moments, st.randoms(use_true_random=False))
def test_order_has_no_meaning(case: Case, now: datetime, random: object) -> None:
    def shuffled(items: tuple[object, ...]) -> list[object]:
        mixed = list(items)
        random.shuffle(mixed)  # type: ignore[attr-defined]  # hypothesis' Random
        return mixed

    rules = tuple(shuffled(case.schedule.rules))
    schedule = Schedule(
        case.schedule.controller,
        case.schedule.version,
        rules,  # type: ignore[arg-type]  # the same rules
        case.schedule.caps,
        case.schedule.dispositions,
        case.schedule.hold_grace,
    )
    again = decide(
        case.facts,
        schedule,
        shuffled(case.holds),  # type: ignore[arg-type]  # the same holds
        shuffled(case.choices),  # type: ignore[arg-type]  # the same choices
        shuffled(case.requests),  # type: ignore[arg-type]  # the same requests
        now,
    )
    assert again == decide_case(case, now)


@given(cases, strategies.moments)
def test_a_decision_survives_its_column(case: Case, now: datetime) -> None:
    decision = decide_case(case, now)
    assert Decision.from_json(json.loads(json.dumps(decision.to_json()))) == decision
    assert all(explain(decision, now))
    assert all(sentence(reason, decision.zone) for reason in decision.considered)


def test_an_unreadable_decision_is_refused() -> None:
    data = decide(FACTS, PLAIN, [], [], [], NOW).to_json()
    for broken in ({**data, "format": 2}, {**data, "windows": {"marketing": {}}}, {"format": 1}):
        with pytest.raises(Misuse):
            Decision.from_json(broken)


@given(cases, strategies.moments)
def test_due_means_that_nothing_keeps_it(case: Case, now: datetime) -> None:
    decision = decide_case(case, now)
    if decision.due:
        assert not decision.held
        assert not decision.frozen
        assert not decision.undecided
        assert usable(decision, now) == set()
    if not decision.windows and not decision.suspended and decision.ground is not Ground.REQUEST:
        assert not decision.due


@given(cases, strategies.moments, strategies.moments)
def test_a_stored_decision_is_never_more_open_than_a_fresh_one(case: Case, a: datetime, b: datetime) -> None:
    then, now = sorted((a, b))
    stored, fresh = decide_case(case, then), decide_case(case, now)
    if stored.reevaluate_at is None or now < stored.reevaluate_at:
        assert usable(stored, now) <= usable(fresh, now)
        assert stored.erase_on == fresh.erase_on


@given(cases, strategies.moments)
def test_boundaries_are_exact(case: Case, now: datetime) -> None:
    decision = decide_case(case, now)
    for purpose, window in decision.windows.items():
        if window.end is not None and window.start < window.end:
            assert allows(decision, purpose, window.end - timedelta(seconds=1))[0] or (
                window.end - timedelta(seconds=1) < window.start
            )
            assert not allows(decision, purpose, window.end)[0]
        assert not allows(decision, purpose, window.start - timedelta(seconds=1))[0]


@given(cases, strategies.moments)
def test_what_is_judged_to_go_on_request_is_under_no_hold_and_no_statute(case: Case, now: datetime) -> None:
    verdict = judge(case, "request", now)
    if verdict.erase:
        assert not any(hold.stands(now) for hold in case.holds)
        statutes = tuple(rule for rule in case.schedule.rules if rule.statutory is not None)
        only = Schedule("fi-main", 1, statutes)
        assert usable(decide(case.facts, only, [], [], [], now), now) == set()
