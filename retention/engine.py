"""The retention calculation: facts, schedule, holds, choices and requests in, one decision out.

The plan, in order of precedence from weakest to strongest:

1. rules that apply open a window per purpose, from their trigger for their period; the longest wins;
2. a cap cuts ordinary windows, counted from the call;
3. objection and withdrawn consent close ordinary windows, a granted erasure closes all of them;
   restriction and pending requests suspend them, and nothing is erased meanwhile;
4. statutory windows stand beside the ordinary ones, out of reach of 2 and 3;
5. a hold opens ``legal_protection`` until released;
6. a card security code destroys the original whatever the rest says.

Each purpose therefore has three layers (ordinary, statutory, hold) and its window is their union.
Pure: no clock, no I/O; the order of holds, choices, requests and rules has no meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from retention.decision import Decision, Reason, Task, Window
from retention.errors import Misuse, Undecidable
from retention.model import (
    CONSENT,
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
    Rule,
    Schedule,
    TriggerKind,
    Verdict,
)
from retention.periods import end_of_period, zone_of
from retention.rights import RESTRICTS_WHILE_PENDING
from retention.rules import NEEDS_CUSTOMER, Waiting, first_failure, standing_withdrawals, trigger_of

__all__ = ["decide", "decide_case", "judge"]

_OBJECTION_FLOOR = frozenset({Purpose.TRAINING, Purpose.QUALITY})
"""Closed by an objection at once, whatever the schedule says (GDPR art. 21)."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A stretch of time that something keeps open."""

    start: datetime
    end: datetime | None
    because: tuple[Reason, ...]
    rule: Rule | None = None

    def reaches_further_than(self, other: _Layer) -> bool:
        if self.end is None or other.end is None:
            return other.end is not None
        return self.end > other.end


class _Notes:
    """Collects reasons and tasks while the calculation runs."""

    def __init__(self) -> None:
        self.considered: list[Reason] = []
        self.tasks: set[Task] = set()

    def note(self, code: str, rule_id: str | None = None, **params: str) -> Reason:
        reason = Reason(code, rule_id, MappingProxyType(params))
        self.considered.append(reason)
        return reason


def decide(
    facts: Facts,
    schedule: Schedule,
    holds: Iterable[Hold],
    choices: Iterable[Choice],
    requests: Iterable[Request],
    now: datetime,
) -> Decision:
    """Decide one recording.

    Args:
        facts: What is known of it.
        schedule: The controller's active schedule, as `retention.schedule.check` made it.
        holds: Holds that reach it, released ones included.
        choices: The customer's ledger entries that reach it.
        requests: Requests that concern it, decided ones included.
        now: The moment; aware.

    Returns:
        Windows with reasons. Missing or contradictory facts become tasks, never exceptions.

    Raises:
        Misuse: A naive datetime or an unknown time zone.
    """
    if now.utcoffset() is None:
        raise Misuse("now has no time zone")
    now = now.astimezone(UTC)
    holds = sorted(holds, key=lambda h: (h.placed_at, h.id))
    choices = sorted(choices, key=lambda c: (c.effective_at, c.kind, sorted(c.purposes)))
    requests = sorted(requests, key=lambda r: (r.filed_at, r.kind, r.state, r.decided_at or r.filed_at))
    notes = _Notes()
    withdrawals = standing_withdrawals(facts, choices)
    erasure = _granted_erasure(facts, requests, now)

    _contradictions(facts, withdrawals, notes)
    ordinary, statutory, closers = _rule_layers(facts, schedule, withdrawals, now, notes)
    if not ordinary and not statutory and not any(task.rule_id for task in notes.tasks):
        notes.tasks.add(Task("no_rule"))
    for purpose, layer in ordinary.items():
        capped = _cap(facts, schedule, purpose, layer, notes)
        ordinary[purpose] = _close(
            purpose,
            capped,
            _closings(facts, purpose, closers.get(purpose, frozenset()), choices, withdrawals, erasure),
            notes,
        )
    if erasure is not None:
        _drop_moot_doubts(schedule, notes)
    held_layers, held = _hold_layers(holds, now, notes)
    restricted, frozen = _standing(choices, requests, erasure, now, notes)

    windows, suspended = _combine(ordinary, statutory, held_layers, restricted, notes.tasks, now)
    erase_on = _erase_on(facts, schedule, [*ordinary.values(), *statutory.values()], held_layers, notes)
    if erasure is not None and not notes.tasks and not (ordinary or statutory or held_layers):
        erase_on = erasure.astimezone(UTC)  # every rule was in doubt, and the doubt is moot now
    if facts.card_security:
        notes.note("card_security")
    return Decision(
        schedule_version=schedule.version,
        zone=facts.zone,
        decided_at=now,
        windows=MappingProxyType(windows),
        suspended=MappingProxyType(suspended),
        erase_on=erase_on,
        due=erase_on is not None and erase_on <= now and not frozen,
        ground=_ground(erasure, [*ordinary.values(), *statutory.values()]),
        destroy_original=facts.card_security,
        held=held,
        restricted=restricted,
        frozen=frozen,
        undecided=tuple(sorted(notes.tasks)),
        considered=tuple(notes.considered),
        reevaluate_at=_next_change(facts, holds, choices, requests, now),
    )


def decide_case(case: Case, now: datetime) -> Decision:
    """`decide` for a `Case`."""
    return decide(case.facts, case.schedule, case.holds, case.choices, case.requests, now)


def judge(case: Case, ground: str, now: datetime) -> Verdict:
    """Whether a recording may be erased on `ground` at `now`: the question `begin` asks under lock.

    ``retention`` and ``relationship_ended`` want it due. ``request`` counts as a granted erasure
    request; hold, statute, doubt about either and other pending requests stop it. ``court_order``
    is stopped by a hold alone, ``card_security`` by nothing.

    Raises:
        Misuse: A naive datetime.
        ValueError: `ground` is not a `Ground`.
    """
    ground = Ground(ground)
    if ground is Ground.CARD_SECURITY:
        return Verdict(True, "card_security") if case.facts.card_security else Verdict(False, "not_due")
    if ground in (Ground.REQUEST, Ground.COURT_ORDER):
        # The erasure that is being carried out answers a pending erasure request, not waits for it.
        others = [r for r in case.requests if not (r.kind is RequestKind.ERASURE and r.pending(now))]
        grant = Request(RequestKind.ERASURE, RequestState.GRANTED, now, max(now, case.facts.call_started))
        decision = decide(case.facts, case.schedule, case.holds, case.choices, (*others, grant), now)
    else:
        decision = decide_case(case, now)
    if decision.held:
        return Verdict(False, "hold")
    if ground is Ground.COURT_ORDER:
        return Verdict(True, "court_order")
    if ground is Ground.REQUEST:
        return _judge_request(decision, now)
    if decision.undecided:
        return Verdict(False, "undecided")
    if decision.frozen:
        return Verdict(False, "frozen")
    return Verdict(True, "due") if decision.due else Verdict(False, "not_due", decision.erase_on)


def _judge_request(decision: Decision, now: datetime) -> Verdict:
    """An erasure that was granted: doubts about ordinary rules no longer matter, statutes do."""
    if any(task.code != "no_rule" for task in decision.undecided):
        return Verdict(False, "undecided")
    if decision.frozen:
        return Verdict(False, "frozen")
    open_ends = [w.end for w in (*decision.windows.values(), *decision.suspended.values()) if w.contains(now)]
    if open_ends:
        return Verdict(False, "statute", decision.erase_on)
    return Verdict(True, "request")


# -- rules -------------------------------------------------------------------------------------


def _contradictions(facts: Facts, withdrawals: Sequence[Choice], notes: _Notes) -> None:
    if facts.call_ended is not None and facts.call_ended < facts.call_started:
        notes.tasks.add(Task("contradictory_times"))
    if facts.duration is not None and facts.duration < timedelta(0):
        notes.tasks.add(Task("contradictory_times"))
    if facts.lawful_basis == CONSENT and any(w.effective_at < facts.call_started for w in withdrawals):
        # A call that stands on a consent withdrawn before it: a wrong basis, or a wrong customer.
        notes.tasks.add(Task("consent_withdrawn_before_call"))


def _rule_layers(
    facts: Facts, schedule: Schedule, withdrawals: Sequence[Choice], now: datetime, notes: _Notes
) -> tuple[dict[Purpose, _Layer], dict[Purpose, _Layer], dict[Purpose, frozenset[ChoiceKind]]]:
    """The longest ordinary and the longest statutory layer per purpose, and what closes the former."""
    ordinary: dict[Purpose, list[_Layer]] = {}
    statutory: dict[Purpose, list[_Layer]] = {}
    closers: dict[Purpose, frozenset[ChoiceKind]] = {}
    for rule in sorted(schedule.rules, key=lambda r: r.id):
        layer = _layer_of(rule, facts, withdrawals, now, notes)
        if layer is None:
            continue
        for purpose in rule.purposes:
            (ordinary if rule.statutory is None else statutory).setdefault(purpose, []).append(layer)
            closers[purpose] = closers.get(purpose, frozenset()) | rule.closes_on
    return _longest(ordinary, notes), _longest(statutory, notes), closers


def _layer_of(
    rule: Rule, facts: Facts, withdrawals: Sequence[Choice], now: datetime, notes: _Notes
) -> _Layer | None:
    failed, unknown = first_failure(rule.when, facts)
    if failed is not None:
        notes.note("rule_not_applicable", rule.id, field=failed)
        return None
    try:
        if unknown is not None:
            raise Undecidable(f"unknown_{unknown}")
        point = trigger_of(rule, facts, withdrawals, now)
        if point is None:
            notes.note("rule_not_applicable", rule.id, field=str(rule.after))
            return None
        end = None if isinstance(point, Waiting) else end_of_period(point, rule.keep, zone_of(facts.zone))
    except Undecidable as doubt:
        notes.tasks.update(Task(doubt.code, str(purpose), rule.id) for purpose in rule.purposes)
        notes.note("rule_undecided", rule.id, doubt=doubt.code)
        return None
    params = {"trigger": str(rule.after), "keep": str(rule.keep), "words": rule.keep.in_words()}
    if isinstance(point, Waiting):
        params["waits_for"] = point.on
    else:
        params["at"] = point.isoformat() if not isinstance(point, datetime) else _text(point)
        params["until"] = _text(end)
    if rule.after.kind in NEEDS_CUSTOMER and not facts.linked:
        params["instead"] = "call_started"
    if rule.statutory is not None:
        params["statute"] = rule.statutory
    code = "rule_waits" if end is None else "rule_applies"
    start = facts.call_started.astimezone(UTC)
    reason = Reason(code, rule.id, MappingProxyType(params))
    return _Layer(start, end if end is None else max(start, end), (reason,), rule)


def _longest(layers: Mapping[Purpose, list[_Layer]], notes: _Notes) -> dict[Purpose, _Layer]:
    best: dict[Purpose, _Layer] = {}
    for purpose in Purpose:
        for layer in layers.get(purpose, ()):
            if purpose not in best or layer.reaches_further_than(best[purpose]):
                best[purpose] = layer
        for layer in layers.get(purpose, ()):
            won = layer is best[purpose]
            params = {**layer.because[0].params, "purpose": str(purpose)}
            if not won:
                params["longer"] = best[purpose].because[0].rule_id or ""
            notes.note("rule_won" if won else "rule_shorter", layer.because[0].rule_id, **params)
    return best


def _cap(facts: Facts, schedule: Schedule, purpose: Purpose, layer: _Layer, notes: _Notes) -> _Layer:
    cap = schedule.caps.get(purpose)
    if cap is None:
        return layer
    try:
        end = end_of_period(facts.call_started, cap, zone_of(facts.zone))
    except Undecidable:
        return layer  # a cap beyond the calendar's end cuts nothing
    if layer.end is not None and layer.end <= end:
        return layer
    reason = notes.note(
        "cap_cut",
        layer.because[0].rule_id,
        purpose=str(purpose),
        keep=str(cap),
        words=cap.in_words(),
        until=_text(end),
    )
    return _Layer(layer.start, end, (*layer.because, reason), layer.rule)


# -- choices and requests ----------------------------------------------------------------------


def _granted_erasure(facts: Facts, requests: Sequence[Request], now: datetime) -> datetime | None:
    """When erasure was granted; a call that began after the decision is not concerned by it."""
    granted = [
        r.decided_at
        for r in requests
        if r.kind is RequestKind.ERASURE
        and r.state is RequestState.GRANTED
        and r.decided_at is not None
        and facts.call_started <= r.decided_at <= now
    ]
    return min(granted, default=None)


def _closings(
    facts: Facts,
    purpose: Purpose,
    closes_on: frozenset[ChoiceKind],
    choices: Sequence[Choice],
    withdrawals: Sequence[Choice],
    erasure: datetime | None,
) -> list[tuple[datetime, str]]:
    closings = [(erasure, "erasure_granted")] if erasure is not None else []
    if ChoiceKind.OBJECTION in closes_on or purpose in _OBJECTION_FLOOR:
        closings += [
            (c.effective_at, "objection")
            for c in choices
            if c.kind is ChoiceKind.OBJECTION and c.reaches(purpose)
        ]
    if ChoiceKind.RESTRICTION in closes_on:
        closings += [
            (c.effective_at, "restriction")
            for c in choices
            if c.kind is ChoiceKind.RESTRICTION and c.reaches(purpose)
        ]
    if ChoiceKind.CONSENT_WITHDRAWN in closes_on or facts.lawful_basis == CONSENT:
        closings += [(c.effective_at, "consent_withdrawn") for c in withdrawals if c.reaches(purpose)]
    return closings


def _close(purpose: Purpose, layer: _Layer, closings: list[tuple[datetime, str]], notes: _Notes) -> _Layer:
    if not closings:
        return layer
    at, code = min(closings)
    if layer.end is not None and layer.end <= at:
        return layer
    at = max(at.astimezone(UTC), layer.start)
    reason = notes.note(code, layer.because[0].rule_id, purpose=str(purpose), at=_text(at))
    return _Layer(layer.start, at, (*layer.because, reason), layer.rule)


def _drop_moot_doubts(schedule: Schedule, notes: _Notes) -> None:
    """A granted erasure closes every ordinary window, so how long it would have been is moot."""
    ordinary = {rule.id for rule in schedule.rules if rule.statutory is None}
    notes.tasks = {task for task in notes.tasks if task.rule_id not in ordinary}


def _standing(
    choices: Sequence[Choice],
    requests: Sequence[Request],
    erasure: datetime | None,
    now: datetime,
    notes: _Notes,
) -> tuple[bool, bool]:
    """Whether use is restricted and whether erasure is frozen, at `now`."""
    restricted = frozen = False
    for request in requests:
        if request.pending(now):
            notes.note("request_pending", None, kind=str(request.kind), filed_at=_text(request.filed_at))
            frozen = True
            restricted = restricted or request.kind in RESTRICTS_WHILE_PENDING
    restrictions = [
        c
        for c in choices
        if c.kind in (ChoiceKind.RESTRICTION, ChoiceKind.RESTRICTION_LIFTED) and c.effective_at <= now
    ]
    # Equal times: the restriction wins, as always the more restrictive entry does.
    last = max(restrictions, key=lambda c: (c.effective_at, c.kind is ChoiceKind.RESTRICTION), default=None)
    if last is not None and last.kind is ChoiceKind.RESTRICTION:
        notes.note("restriction_stands", None, at=_text(last.effective_at))
        restricted = True
        # GDPR art. 18(1)(b) and (c): the person wants it kept. Their own erasure request ends that.
        frozen = frozen or erasure is None
    return restricted, frozen


# -- holds and the union -----------------------------------------------------------------------


def _hold_layers(holds: Sequence[Hold], now: datetime, notes: _Notes) -> tuple[list[_Layer], bool]:
    layers: list[_Layer] = []
    held = False
    for hold in holds:
        if hold.placed_at > now:
            continue
        stands = hold.stands(now)
        held = held or stands
        released = hold.released_at
        params = {"hold": hold.id, "matter": hold.matter, "at": _text(hold.placed_at)}
        if not stands:
            params["released_at"] = _text(released)
        reason = notes.note("hold" if stands else "hold_released", None, **params)
        start = hold.placed_at.astimezone(UTC)
        # A release that is set for later is not yet an end: it can be withdrawn.
        end = None if stands or released is None else max(start, released.astimezone(UTC))
        layers.append(_Layer(start, end, (reason,)))
    return layers, held


def _combine(
    ordinary: Mapping[Purpose, _Layer],
    statutory: Mapping[Purpose, _Layer],
    holds: Sequence[_Layer],
    restricted: bool,
    tasks: Iterable[Task],
    now: datetime,
) -> tuple[dict[Purpose, Window], dict[Purpose, Window]]:
    doubtful = {task.purpose for task in tasks}
    windows: dict[Purpose, Window] = {}
    suspended: dict[Purpose, Window] = {}
    for purpose in Purpose:
        usable: list[_Layer] = list(holds) if purpose is Purpose.LEGAL_PROTECTION else []
        waiting: list[_Layer] = []
        in_doubt = "" in doubtful or purpose in doubtful
        if (layer := statutory.get(purpose)) is not None:
            (waiting if in_doubt else usable).append(layer)
        if (layer := ordinary.get(purpose)) is not None:
            (waiting if in_doubt or restricted else usable).append(layer)
        if usable:
            windows[purpose] = _union(purpose, usable, now)
        if waiting:
            suspended[purpose] = _union(purpose, waiting, now)
    return windows, suspended


def _union(purpose: Purpose, layers: Sequence[_Layer], now: datetime) -> Window:
    """Join overlapping layers; of what is left apart, take the one open now, or else the last."""
    joined: list[_Layer] = []
    for layer in sorted(layers, key=lambda item: item.start):
        if joined and (joined[-1].end is None or layer.start <= joined[-1].end):
            before = joined[-1]
            longer = layer if layer.reaches_further_than(before) else before
            joined[-1] = _Layer(before.start, longer.end, longer.because)
        else:
            joined.append(layer)
    chosen = next((i for i in joined if i.start <= now and (i.end is None or now < i.end)), joined[-1])
    return Window(purpose, chosen.start, chosen.end, chosen.because)


def _erase_on(
    facts: Facts, schedule: Schedule, layers: Sequence[_Layer], holds: Sequence[_Layer], notes: _Notes
) -> datetime | None:
    if notes.tasks or not layers or any(layer.end is None for layer in (*layers, *holds)):
        return None
    latest = max(layer.end for layer in (*layers, *holds) if layer.end is not None)
    if holds and not schedule.hold_grace.is_zero:
        released = max(layer.end for layer in holds if layer.end is not None)
        grace = end_of_period(released, schedule.hold_grace, zone_of(facts.zone))
        if grace > latest:
            notes.note("hold_grace", None, keep=str(schedule.hold_grace), until=_text(grace))
            return grace
    return latest


def _ground(erasure: datetime | None, layers: Sequence[_Layer]) -> Ground:
    if erasure is not None:
        return Ground.REQUEST
    last: _Layer | None = None
    for layer in layers:
        if last is None or layer.reaches_further_than(last):
            last = layer
    if last is not None and last.rule is not None and last.rule.after.kind is TriggerKind.RELATIONSHIP_ENDED:
        return Ground.RELATIONSHIP_ENDED
    return Ground.RETENTION


def _next_change(
    facts: Facts, holds: Sequence[Hold], choices: Sequence[Choice], requests: Sequence[Request], now: datetime
) -> datetime | None:
    moments = [facts.relationship_confirmed_at]
    moments += [moment for hold in holds for moment in (hold.placed_at, hold.released_at)]
    moments += [choice.effective_at for choice in choices]
    moments += [moment for request in requests for moment in (request.filed_at, request.decided_at)]
    later = [moment for moment in moments if moment is not None and moment > now]
    return min(later).astimezone(UTC) if later else None


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
