"""A decision in plain English sentences, dates in the controller's zone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime
from zoneinfo import ZoneInfo

from retention.decision import Decision, Reason, Task, Window
from retention.model import Purpose
from retention.periods import zone_of

__all__ = ["explain", "sentence"]

_TRIGGERS = {
    "call_started": "start of the call",
    "call_ended": "end of the call",
    "last_contact": "last contact",
    "relationship_ended": "end of the relationship",
    "matter_closed": "closing of the matter",
    "consent_withdrawn": "withdrawal of consent",
    "financial_year_end": "end of the financial year",
    "confirmation": "confirmation of the end of the relationship by a person",
}

_TASKS = {
    "no_rule": "no rule of the schedule applies",
    "unknown_duration": "its length is not known",
    "unknown_direction": "its direction is not known",
    "unknown_basis": "its lawful basis is not known",
    "unknown_call_ended": "the end of the call is not known",
    "unknown_financial_year_end": "the end of the financial year is not known",
    "contradictory_times": "the times of the call contradict each other",
    "consent_withdrawn_before_call": "it stands on a consent that was withdrawn before the call",
    "date_out_of_range": "a period ends outside the calendar",
}

_PURPOSES = {
    Purpose.SERVICE_EVIDENCE: "service evidence",
    Purpose.LEGAL_PROTECTION: "legal protection",
    Purpose.SECURITY: "security",
    Purpose.TRAINING: "training",
    Purpose.QUALITY: "quality",
}


def explain(decision: Decision, now: datetime) -> list[str]:
    """Say what happens to a recording and why.

    Args:
        decision: Fresh or stored.
        now: The moment of reading; aware.

    Returns:
        Sentences: first what keeps it or when it goes, then each purpose, then what a person has
        to decide. No personal data.
    """
    zone = zone_of(decision.zone)
    return [
        *_fate(decision, now, zone),
        *(_purpose(window, decision, now, zone) for window in decision.windows.values()),
        *(_suspended(window, decision, zone) for window in decision.suspended.values()),
        *(_task(task) for task in decision.undecided),
    ]


def sentence(reason: Reason, zone: str, schedule_version: int | None = None) -> str:
    """One reason in words, without a full stop.

    Args:
        reason: The reason.
        zone: IANA zone in which days are shown.
        schedule_version: Named beside rules, if given.
    """
    words = _SENTENCES.get(reason.code)
    tz = zone_of(zone)
    text = reason.code.replace("_", " ") if words is None else words(reason.params, tz)
    if reason.rule_id is None or reason.code not in _NAMES_RULE:
        return text
    version = "" if schedule_version is None else f", schedule {schedule_version}"
    return f"{text} (rule {reason.rule_id}{version})"


def _fate(decision: Decision, now: datetime, zone: ZoneInfo) -> Iterator[str]:
    if decision.destroy_original:
        yield "The original is destroyed now, hold or not: it contains a card security code."
    if decision.held:
        yield "Kept while a legal hold stands."
    elif decision.undecided:
        yield "Kept until a person has decided."
    elif decision.erase_on is None:
        yield "Kept without an end for now."
    elif decision.erase_on > now:
        yield f"Kept until {_day(decision.erase_on, zone)}: {_last_reason(decision)}."
    elif decision.frozen:
        since = _day(decision.erase_on, zone)
        yield f"Its time ended on {since}, but an open request or a restriction keeps it."
    else:
        yield f"To be erased: its time ended on {_day(decision.erase_on, zone)}, {_last_reason(decision)}."
    if decision.restricted:
        yield "Restricted: stored only, except under a statute or a legal hold."
    for reason in decision.considered:
        if reason.code == "request_pending":
            yield _capital(sentence(reason, decision.zone)) + "."


def _last_reason(decision: Decision) -> str:
    windows = [*decision.windows.values(), *decision.suspended.values()]
    last = next((w for w in windows if w.end == decision.erase_on), None)
    if last is None:
        grace = next((r for r in decision.considered if r.code == "hold_grace"), None)
        return "every window has closed" if grace is None else sentence(grace, decision.zone)
    return _chain(last, decision)


def _chain(window: Window, decision: Decision) -> str:
    first, *others = window.because
    texts = [sentence(first, decision.zone, decision.schedule_version)]
    texts += [
        sentence(reason, decision.zone)
        for reason in others
        if reason.code not in ("rule_applies", "rule_waits")
    ]
    return "; ".join(texts)


def _purpose(window: Window, decision: Decision, now: datetime, zone: ZoneInfo) -> str:
    name = _PURPOSES[window.purpose].capitalize()
    why = _chain(window, decision)
    if now < window.start:
        return f"{name}: opens on {_day(window.start, zone)}: {why}."
    if window.end is None:
        return f"{name}: open without an end for now: {why}."
    return f"{name}: {'open until' if now < window.end else 'closed since'} {_day(window.end, zone)}: {why}."


def _suspended(window: Window, decision: Decision, zone: ZoneInfo) -> str:
    until = "without an end for now" if window.end is None else f"until {_day(window.end, zone)}"
    doubt = any(task.purpose in ("", window.purpose) for task in decision.undecided)
    why = "in doubt" if doubt else "restricted"
    name = _PURPOSES[window.purpose].capitalize()
    return f"{name}: not usable while {why}, kept {until}: {_chain(window, decision)}."


def _task(task: Task) -> str:
    about = f", which matters for {_PURPOSES[Purpose(task.purpose)]}" if task.purpose else ""
    rule = f" (rule {task.rule_id})" if task.rule_id else ""
    return f"A person has to decide: {_TASKS.get(task.code, task.code.replace('_', ' '))}{about}{rule}."


def _day(moment: datetime | date | str, zone: ZoneInfo) -> str:
    if isinstance(moment, str):
        if not moment:
            return "an unknown day"
        moment = datetime.fromisoformat(moment) if "T" in moment else date.fromisoformat(moment)
    day = moment.astimezone(zone) if isinstance(moment, datetime) else moment
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _event(params: Mapping[str, str]) -> str:
    name = params.get("instead") or params.get("trigger", "")
    calendar_year = name.startswith("end_of_calendar_year_of(")
    inner = name.removeprefix("end_of_calendar_year_of(").removesuffix(")")
    event = _TRIGGERS.get(inner, inner.replace("_", " "))
    if "instead" in params:
        event += " (no customer is linked)"
    return f"end of the calendar year of the {event}" if calendar_year else event


def _rule_applies(params: Mapping[str, str], zone: ZoneInfo) -> str:
    statute = f", statute {params['statute']}" if "statute" in params else ""
    return f"{_event(params)} ({_day(params['at'], zone)}) plus {params['words']}{statute}"


def _rule_waits(params: Mapping[str, str], zone: ZoneInfo) -> str:
    waits = _TRIGGERS.get(params["waits_for"], params["waits_for"])
    return f"{params['words']} from the {_event(params)}, waiting for the {waits}"


def _by_rule(params: Mapping[str, str], zone: ZoneInfo) -> str:
    return _rule_waits(params, zone) if "waits_for" in params else _rule_applies(params, zone)


_SENTENCES: Mapping[str, Callable[[Mapping[str, str], ZoneInfo], str]] = {
    "rule_applies": _rule_applies,
    "rule_waits": _rule_waits,
    "rule_won": _by_rule,
    "rule_shorter": lambda p, z: f"{_by_rule(p, z)}, but rule {p['longer']} keeps at least as long",
    "rule_not_applicable": lambda p, z: f"does not apply, because of {p['field'].replace('_', ' ')}",
    "rule_undecided": lambda p, z: f"cannot be decided: {_TASKS.get(p['doubt'], p['doubt'])}",
    "cap_cut": lambda p, z: f"cut by the cap of {p['words']} after the call, {_day(p['until'], z)}",
    "objection": lambda p, z: f"closed by an objection on {_day(p['at'], z)}",
    "restriction": lambda p, z: f"closed by a restriction on {_day(p['at'], z)}",
    "consent_withdrawn": lambda p, z: f"closed by a withdrawn consent on {_day(p['at'], z)}",
    "erasure_granted": lambda p, z: f"closed by a granted erasure on {_day(p['at'], z)}",
    "request_pending": lambda p, z: (
        f"a request ({p['kind'].replace('_', ' ')}) waits since {_day(p['filed_at'], z)}"
    ),
    "restriction_stands": lambda p, z: f"restricted since {_day(p['at'], z)}",
    "hold": lambda p, z: f"legal hold since {_day(p['at'], z)}",
    "hold_released": lambda p, z: (
        f"legal hold from {_day(p['at'], z)}, released on {_day(p['released_at'], z)}"
    ),
    "hold_grace": lambda p, z: f"waiting until {_day(p['until'], z)} after the release of its last hold",
    "card_security": lambda p, z: "a card security code is in the original",
    "no_rule": lambda p, z: "no rule of the schedule applies",
    "no_window": lambda p, z: "no rule opens this purpose",
    "restricted": lambda p, z: "its use is restricted",
    "undecided": lambda p, z: f"a person has to decide: {_TASKS.get(p['task'], p['task'])}",
    "not_yet_open": lambda p, z: f"opens on {_day(p['from'], z)}",
    "window_closed": lambda p, z: f"closed since {_day(p['until'], z)}",
}

_NAMES_RULE = frozenset(
    {
        "rule_applies",
        "rule_waits",
        "rule_won",
        "rule_shorter",
        "rule_not_applicable",
        "rule_undecided",
        "window_closed",
    }
)
