"""The published vectors of the schedule, one test each."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from retention.decision import allows
from retention.engine import decide, judge
from retention.explain import explain
from retention.model import (
    Case,
    Choice,
    ChoiceKind,
    Facts,
    Ground,
    Hold,
    Purpose,
    Request,
    RequestKind,
    RequestState,
    Schedule,
)
from retention.schedule import check, default_schedule_text
from retention.simulate import Group, compare

SCHEDULE = """
[schedule]
controller = "fi-main"
version    = 3

[[rule]]
id       = "relationship"
purposes = ["service_evidence", "legal_protection", "security"]
keep     = "P8Y"
after    = "last_contact"
reason   = "customer register: last service or other contact plus eight years"

[[rule]]
id       = "training"
purposes = ["training"]
keep     = "P2Y"
after    = "call_started"
when     = { direction = ["inbound"], duration_at_least = "PT15S" }
closes_on = ["objection", "consent_withdrawn", "restriction"]

[[rule]]
id       = "quality"
purposes = ["quality"]
keep     = "P1Y"
after    = "call_started"
closes_on = ["objection", "restriction"]

[[rule]]
id        = "payment-voucher-fi"
purposes  = ["legal_protection"]
when      = { service_event = ["payment"] }
keep      = "P6Y"
after     = "end_of_calendar_year_of(financial_year_end)"
statutory = "FI 1336/1997 2:10"

[cap]
training = "P3Y"
"""

SERVICE, LEGAL, SECURITY = Purpose.SERVICE_EVIDENCE, Purpose.LEGAL_PROTECTION, Purpose.SECURITY
TRAINING, QUALITY = Purpose.TRAINING, Purpose.QUALITY

CALL = datetime.fromisoformat("2026-03-05T10:00+02:00")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def schedule() -> Schedule:
    return check(SCHEDULE, controller="fi-main", country="FI")


def facts(**changes: object) -> Facts:
    known: dict[str, object] = {
        "zone": "Europe/Helsinki",
        "country": "FI",
        "call_started": CALL,
        "duration": timedelta(minutes=4),
        "direction": "inbound",
        "linked": True,
        "last_contact": CALL,
    }
    return Facts(**{**known, **changes})  # type: ignore[arg-type]  # built from keywords for brevity


def test_call_and_last_contact_plus_eight_years() -> None:
    decision = decide(facts(), schedule(), [], [], [], CALL)
    end = at("2034-03-06T00:00+02:00")
    for purpose in (SERVICE, LEGAL, SECURITY):
        assert decision.windows[purpose].end == end
        assert allows(decision, purpose, end - timedelta(seconds=1))[0]
        assert not allows(decision, purpose, end)[0]
    assert decision.erase_on == end
    assert not decide(facts(), schedule(), [], [], [], end - timedelta(seconds=1)).due
    assert decide(facts(), schedule(), [], [], [], end).due
    assert (
        explain(decision, CALL)[0]
        == "Kept until 6 Mar 2034: last contact (5 Mar 2026) plus 8 years (rule relationship, schedule 3)."
    )


def test_contact_on_a_leap_day() -> None:
    contact = at("2092-02-29T15:00+02:00")
    decision = decide(facts(call_started=contact, last_contact=contact), schedule(), [], [], [], contact)
    assert decision.windows[SERVICE].end == at("2100-03-01T00:00+02:00")


def test_contact_before_midnight_on_the_day_the_clock_changes() -> None:
    contact = at("2026-10-25T23:30+02:00")  # 21:30 UTC, 25 hours long
    decision = decide(facts(call_started=contact, last_contact=contact), schedule(), [], [], [], contact)
    assert decision.windows[SERVICE].end == at("2034-10-26T00:00+03:00")
    contact = at("2026-03-29T23:30+03:00")
    decision = decide(facts(call_started=contact, last_contact=contact), schedule(), [], [], [], contact)
    assert decision.windows[SERVICE].end == at("2034-03-30T00:00+03:00")


def test_a_new_contact_moves_evidence_but_not_training() -> None:
    contact = at("2028-01-10T09:00+02:00")
    decision = decide(facts(last_contact=contact), schedule(), [], [], [], contact)
    assert decision.windows[SERVICE].end == at("2036-01-11T00:00+02:00")
    assert decision.windows[TRAINING].end == at("2028-03-06T00:00+02:00")


def test_objection_on_day_ten() -> None:
    objected = CALL + timedelta(days=10)
    plain = decide(facts(), schedule(), [], [], [], objected)
    decision = decide(facts(), schedule(), [], [Choice(ChoiceKind.OBJECTION, objected)], [], objected)
    for purpose in (TRAINING, QUALITY):
        assert allows(decision, purpose, objected - timedelta(seconds=1))[0]
        allowed, reason = allows(decision, purpose, objected)
        assert not allowed
        assert reason.params["by"] == "objection"
    for purpose in (SERVICE, LEGAL, SECURITY):
        assert decision.windows[purpose] == plain.windows[purpose]
    assert decision.erase_on == plain.erase_on


def test_hold_then_erasure_request() -> None:
    placed, asked = CALL + timedelta(days=1), CALL + timedelta(days=2)
    granted, released = CALL + timedelta(days=3), CALL + timedelta(days=30)
    erasure = Request(RequestKind.ERASURE, RequestState.GRANTED, asked, granted)
    held = decide(facts(), schedule(), [Hold("h1", placed)], [], [erasure], granted)
    assert {p for p in Purpose if allows(held, p, granted)[0]} == {LEGAL}
    assert held.held
    assert not held.due
    assert held.erase_on is None
    assert not judge(
        Case(facts(), schedule(), (Hold("h1", placed),), (), (erasure,)), "request", granted
    ).erase
    after = decide(facts(), schedule(), [Hold("h1", placed, released)], [], [erasure], released)
    assert not any(allows(after, p, released)[0] for p in Purpose)
    assert after.due
    assert after.ground is Ground.REQUEST


def test_finnish_voucher() -> None:
    voucher = facts(
        call_started=at("2024-02-01T10:00+02:00"),
        last_contact=at("2024-02-01T10:00+02:00"),
        service_events=frozenset({"payment"}),
        financial_year_end=date(2024, 3, 31),
    )
    now = at("2024-02-02T00:00+02:00")
    erasure = Request(RequestKind.ERASURE, RequestState.GRANTED, now, now)
    decision = decide(voucher, schedule(), [], [], [erasure], now)
    assert decision.windows[LEGAL].end == at("2031-01-01T00:00+02:00")
    assert decision.erase_on == at("2031-01-01T00:00+02:00")
    assert {p for p in Purpose if allows(decision, p, now)[0]} == {LEGAL}
    assert judge(Case(voucher, schedule(), (), (), (erasure,)), "request", now).code == "statute"


def test_finnish_ledger() -> None:
    shipped = check(default_schedule_text("FI", "fi-main"), country="FI")
    ledger = facts(
        call_started=at("2024-02-01T10:00+02:00"),
        last_contact=at("2024-02-01T10:00+02:00"),
        service_events=frozenset({"ledger"}),
        financial_year_end=date(2024, 3, 31),
    )
    decision = decide(ledger, shipped, [], [], [], at("2024-02-02T00:00+02:00"))
    assert decision.windows[LEGAL].end == at("2034-04-01T00:00+03:00")


def test_swedish_ledger() -> None:
    shipped = check(default_schedule_text("SE", "se-main"), country="SE")
    call = at("2009-05-01T10:00+02:00")
    ledger = facts(
        zone="Europe/Stockholm",
        country="SE",
        call_started=call,
        last_contact=call,
        service_events=frozenset({"ledger"}),
        financial_year_end=date(2009, 12, 31),
    )
    erasure = Request(RequestKind.ERASURE, RequestState.GRANTED, call, call)
    decision = decide(ledger, shipped, [], [], [erasure], call)
    assert decision.windows[LEGAL].end == at("2017-01-01T00:00+01:00")
    assert decision.erase_on == at("2017-01-01T00:00+01:00")


def test_death_counts_from_its_day_once_confirmed() -> None:
    text = SCHEDULE.replace('after    = "last_contact"', 'after    = "relationship_ended"')
    died, confirmed = date(2026, 4, 20), at("2026-05-02T12:00+03:00")
    reported = facts(relationship_ended=died, relationship_confirmed_at=confirmed)
    before = decide(reported, check(text), [], [], [], confirmed - timedelta(seconds=1))
    assert before.windows[SERVICE].end is None
    assert before.windows[SERVICE].because[0].params["waits_for"] == "confirmation"
    assert before.reevaluate_at == confirmed
    after = decide(reported, check(text), [], [], [], confirmed)
    assert after.windows[SERVICE].end == at("2034-04-21T00:00+03:00")
    assert after.ground is Ground.RELATIONSHIP_ENDED
    # the last contact is unchanged by it
    by_contact = decide(reported, schedule(), [], [], [], confirmed)
    assert by_contact.windows[SERVICE].end == at("2034-03-06T00:00+02:00")
    alive = decide(facts(), check(text), [], [], [], confirmed)
    assert alive.windows[SERVICE].because[0].params["waits_for"] == "relationship_ended"


def test_no_rule_matches() -> None:
    only = Schedule("fi-main", 1, tuple(r for r in schedule().rules if r.statutory))
    far = at("2100-01-01T00:00+02:00")
    decision = decide(facts(), only, [], [], [], far)
    assert not decision.windows
    assert [task.code for task in decision.undecided] == ["no_rule"]
    assert not decision.due
    assert decision.erase_on is None
    for purpose in Purpose:
        assert allows(decision, purpose, far)[1].code == "no_rule"


def test_cap_beats_a_longer_rule_and_is_named() -> None:
    longer = check(SCHEDULE.replace('keep     = "P2Y"', 'keep     = "P5Y"'))
    window = decide(facts(), longer, [], [], [], CALL).windows[TRAINING]
    assert window.end == at("2029-03-06T00:00+02:00")
    assert window.because[-1].code == "cap_cut"
    assert window.because[-1].params["keep"] == "P3Y"


def test_simulation_of_a_shorter_quality_window() -> None:
    shorter = check(SCHEDULE.replace('keep     = "P1Y"', 'keep     = "P90D"').replace("= 3", "= 4"))
    now = CALL + timedelta(days=100)
    young = facts(call_started=now - timedelta(days=1), last_contact=now - timedelta(days=1))
    estate = [
        Group(facts(), count=7, audio=timedelta(hours=2), size=700),
        Group(young, count=5, audio=timedelta(hours=1), size=500),
    ]
    result = compare(schedule(), shorter, estate, now)
    moved = result.movements[QUALITY, "quality"]
    assert (moved.closed.count, moved.closed.audio, moved.closed.size) == (7, timedelta(hours=2), 700)
    assert moved.shorter.count == 5
    assert set(result.movements) == {(QUALITY, "quality")}
    assert result.shortens
    assert result.recordings.count == 12
    assert all(total.count == 0 for total in (*result.due_old.values(), *result.due_new.values()))
    # nothing happened to the estate itself
    assert allows(decide(facts(), schedule(), [], [], [], now), QUALITY, now)[0]


def test_two_holds_one_released() -> None:
    far = at("2040-01-01T00:00+02:00")
    holds = [Hold("h1", CALL, CALL + timedelta(days=5)), Hold("h2", CALL + timedelta(days=2))]
    decision = decide(facts(), schedule(), holds, [], [], far)
    assert decision.held
    assert not decision.due
    assert {p for p in Purpose if allows(decision, p, far)[0]} == {LEGAL}


def test_unlinked_uses_the_start_of_the_call_until_it_is_linked() -> None:
    contact = at("2028-01-10T09:00+02:00")
    unlinked = decide(facts(linked=False, last_contact=None), schedule(), [], [], [], contact)
    assert unlinked.windows[SERVICE].end == at("2034-03-06T00:00+02:00")
    assert unlinked.windows[SERVICE].because[0].params["instead"] == "call_started"
    linked = decide(facts(last_contact=contact), schedule(), [], [], [], contact)
    assert linked.windows[SERVICE].end == at("2036-01-11T00:00+02:00")


def test_time_of_day_in_utc_does_not_matter() -> None:
    local = decide(facts(), schedule(), [], [], [], CALL)
    started = CALL.astimezone(UTC)
    utc = decide(facts(call_started=started, last_contact=started), schedule(), [], [], [], CALL)
    assert utc == local
