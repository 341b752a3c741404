"""What a person reads: whole sentences for the situations that matter."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from retention.decision import Reason, allows
from retention.engine import decide
from retention.explain import explain, sentence
from retention.model import (
    Choice,
    ChoiceKind,
    Facts,
    Hold,
    Purpose,
    Request,
    RequestKind,
    RequestState,
    Schedule,
)
from retention.schedule import check, default_schedule_text

CALL = datetime(2026, 3, 5, 8, tzinfo=UTC)
NOW = CALL + timedelta(days=10)
FAR = datetime(2050, 1, 1, tzinfo=UTC)
FACTS = Facts(
    zone="Europe/Helsinki",
    country="FI",
    call_started=CALL,
    linked=True,
    service_events=frozenset({"payment"}),
    financial_year_end=date(2030, 3, 31),
)


@pytest.fixture
def schedule() -> Schedule:
    return check(default_schedule_text("FI", "fi-main"))


def test_a_plain_recording(schedule: Schedule) -> None:
    lines = explain(decide(FACTS, schedule, [], [], [], NOW), NOW)
    assert lines == [
        "Kept until 1 Jan 2037: end of the calendar year of the end of the financial year (31 Dec 2030) "
        "plus 6 years, statute FI 1336/1997 2:10 (rule payment-voucher-fi, schedule 1).",
        "Service evidence: open until 6 Mar 2034: last contact (5 Mar 2026) plus 8 years "
        "(rule relationship, schedule 1).",
        "Legal protection: open until 1 Jan 2037: end of the calendar year of the end of the financial year "
        "(31 Dec 2030) plus 6 years, statute FI 1336/1997 2:10 (rule payment-voucher-fi, schedule 1).",
        "Security: open until 6 Mar 2034: last contact (5 Mar 2026) plus 8 years "
        "(rule relationship, schedule 1).",
        "Training: open until 6 Mar 2028: start of the call (5 Mar 2026) plus 2 years "
        "(rule training, schedule 1).",
        "Quality: open until 6 Mar 2027: start of the call (5 Mar 2026) plus 1 year "
        "(rule quality, schedule 1).",
    ]


def test_held_due_frozen_restricted_and_in_doubt(schedule: Schedule) -> None:
    def first(now: datetime, *extra: object, facts: Facts = FACTS) -> str:
        decision = decide(
            facts,
            schedule,
            [e for e in extra if isinstance(e, Hold)],
            [e for e in extra if isinstance(e, Choice)],
            [e for e in extra if isinstance(e, Request)],
            now,
        )
        return " ".join(explain(decision, now))

    assert "Kept while a legal hold stands." in first(NOW, Hold("h", NOW))
    assert first(FAR).startswith("To be erased: its time ended on 1 Jan 2037")
    pending = Request(RequestKind.ACCESS, RequestState.PENDING, NOW)
    assert "an open request or a restriction keeps it" in first(FAR, pending)
    assert "A request (access) waits since 15 Mar 2026." in first(NOW, pending)
    restricted = first(NOW, Choice(ChoiceKind.RESTRICTION, NOW))
    assert "Restricted: stored only" in restricted
    assert "Service evidence: not usable while restricted, kept until 6 Mar 2034" in restricted
    assert "closed by an objection on 15 Mar 2026" in first(NOW, Choice(ChoiceKind.OBJECTION, NOW))
    doubtful = Facts(
        zone="Europe/Helsinki", country="FI", call_started=CALL, service_events=frozenset({"payment"})
    )
    told = first(NOW, facts=doubtful)
    assert "Kept until a person has decided." in told
    assert "the end of the financial year is not known, which matters for legal protection" in told
    assert "(no customer is linked)" in told
    card = Facts(zone="Europe/Helsinki", country="FI", call_started=CALL, card_security=True)
    assert first(NOW, facts=card).startswith("The original is destroyed now")
    future = Facts(zone="Europe/Helsinki", country="FI", call_started=FAR)
    assert "opens on 1 Jan 2050" in first(NOW, facts=future)


def test_waiting_and_grace(schedule: Schedule) -> None:
    text = default_schedule_text("FI", "fi-main").replace('"last_contact"', '"relationship_ended"', 1)
    waiting = check(text.replace('# hold_grace = "P14D"', 'hold_grace = "P14D"'))
    plain = Facts(zone="Europe/Helsinki", country="FI", call_started=CALL, linked=True)
    lines = explain(decide(plain, waiting, [], [], [], NOW), NOW)
    assert lines[0] == "Kept without an end for now."
    assert "8 years from the end of the relationship, waiting for the end of the relationship" in lines[1]
    erased = Request(RequestKind.ERASURE, RequestState.GRANTED, NOW, NOW)
    released = Hold("h", CALL, FAR)
    lines = explain(decide(plain, waiting, [released], [], [erased], FAR), FAR)
    assert lines[0] == "Kept until 16 Jan 2050: waiting until 16 Jan 2050 after the release of its last hold."
    assert "released on 1 Jan 2050" in " ".join(lines)


def test_every_refusal_has_words(schedule: Schedule) -> None:
    decision = decide(FACTS, schedule, [], [], [], NOW)
    late = allows(decision, Purpose.QUALITY, FAR)[1]
    assert sentence(late, decision.zone, 1) == "closed since 6 Mar 2027 (rule quality, schedule 1)"
    early = allows(decision, Purpose.QUALITY, CALL - timedelta(days=1))[1]
    assert sentence(early, decision.zone) == "opens on 5 Mar 2026"
    assert sentence(Reason("something_new"), "UTC") == "something new"
