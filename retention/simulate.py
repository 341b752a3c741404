"""What would a new schedule change? Pure: the caller brings the estate, grouped or one by one.

A million recordings are a few thousand distinct fact vectors; the catalogue groups them, and each
group is decided once under either schedule.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from retention.decision import Decision, Window
from retention.engine import decide
from retention.model import Choice, Facts, Hold, Purpose, Request, Schedule

__all__ = ["HORIZONS", "Comparison", "Group", "Movement", "Total", "compare"]

HORIZONS = (0, 30, 90, 365)
"""Days from now for which the report tells what falls due."""


@dataclass(frozen=True, slots=True)
class Group:
    """Recordings that are decided alike.

    Attributes:
        facts: Their common facts.
        holds: Their common holds.
        choices: Their common choices.
        requests: Their common requests.
        count: How many there are.
        audio: Their length together.
        size: Their bytes together.
    """

    facts: Facts
    holds: tuple[Hold, ...] = ()
    choices: tuple[Choice, ...] = ()
    requests: tuple[Request, ...] = ()
    count: int = 1
    audio: timedelta = timedelta(0)
    size: int = 0


@dataclass(slots=True)
class Total:
    """A number of recordings, their audio and their bytes."""

    count: int = 0
    audio: timedelta = timedelta(0)
    size: int = 0

    def add(self, group: Group) -> None:
        """Count a group in."""
        self.count += group.count
        self.audio += group.audio
        self.size += group.size

    def to_json(self) -> dict[str, Any]:
        """As builtins: ``count``, ``seconds``, ``bytes``."""
        return {"count": self.count, "seconds": self.audio.total_seconds(), "bytes": self.size}


@dataclass(slots=True)
class Movement:
    """What one rule (or hold, or nothing) does to the windows of one purpose.

    Attributes:
        opened: Open now under the new schedule, not under the old one.
        closed: Open now under the old schedule, not under the new one.
        longer: Open under both or neither, but ends later.
        shorter: The same, but ends earlier.
    """

    opened: Total = field(default_factory=Total)
    closed: Total = field(default_factory=Total)
    longer: Total = field(default_factory=Total)
    shorter: Total = field(default_factory=Total)


@dataclass(slots=True)
class Comparison:
    """The effect of a new schedule on an estate.

    Attributes:
        now: The instant of the comparison.
        recordings: All that were looked at.
        due_old: By horizon in days, what is due by then under the old schedule.
        due_new: The same under the new one.
        movements: By (purpose, id of the rule that decides under the new schedule or, where it has
            none, decided under the old one).
        held: What a legal hold keeps under either; it is due under none.
        frozen: What a pending request or a restriction keeps, and no hold; not due either.
        undecided_new: What a person would have to decide under the new schedule.
        shortens: Whether any recording would go, or any purpose close, earlier than before. Then
            activation needs a second person.
    """

    now: datetime
    recordings: Total = field(default_factory=Total)
    due_old: dict[int, Total] = field(default_factory=dict)
    due_new: dict[int, Total] = field(default_factory=dict)
    movements: dict[tuple[Purpose, str], Movement] = field(default_factory=dict)
    held: Total = field(default_factory=Total)
    frozen: Total = field(default_factory=Total)
    undecided_new: Total = field(default_factory=Total)
    shortens: bool = False

    def to_json(self) -> dict[str, Any]:
        """As builtins for an API answer."""
        return {
            "now": self.now.isoformat(),
            "recordings": self.recordings.to_json(),
            "due_old": {str(days): total.to_json() for days, total in self.due_old.items()},
            "due_new": {str(days): total.to_json() for days, total in self.due_new.items()},
            "movements": [
                {
                    "purpose": str(purpose),
                    "rule": rule,
                    "opened": m.opened.to_json(),
                    "closed": m.closed.to_json(),
                    "longer": m.longer.to_json(),
                    "shorter": m.shorter.to_json(),
                }
                for (purpose, rule), m in sorted(self.movements.items())
            ],
            "held": self.held.to_json(),
            "frozen": self.frozen.to_json(),
            "undecided_new": self.undecided_new.to_json(),
            "shortens": self.shortens,
        }


def compare(
    old: Schedule, new: Schedule, estate: Iterable[Group], now: datetime, horizons: Iterable[int] = HORIZONS
) -> Comparison:
    """Decide every group under both schedules and count the differences.

    Args:
        old: The active schedule.
        new: The proposed one.
        estate: The recordings, grouped; consumed once, so it may be a stream.
        now: The instant at which both would apply.
        horizons: Days ahead for the due counts, with everything else standing still.
    """
    days = tuple(horizons)
    result = Comparison(now, due_old={d: Total() for d in days}, due_new={d: Total() for d in days})
    for group in estate:
        before = decide(group.facts, old, group.holds, group.choices, group.requests, now)
        after = decide(group.facts, new, group.holds, group.choices, group.requests, now)
        result.recordings.add(group)
        for day in days:
            if _due_by(before, now + timedelta(days=day)):
                result.due_old[day].add(group)
            if _due_by(after, now + timedelta(days=day)):
                result.due_new[day].add(group)
        if after.held:
            result.held.add(group)
        elif after.frozen:
            result.frozen.add(group)
        if after.undecided:
            result.undecided_new.add(group)
        # What is due under the old schedule as well is no longer anybody's to lose.
        overdue = before.erase_on is not None and before.erase_on <= now
        if _ends_earlier(after.erase_on, before.erase_on) and not after.undecided and not overdue:
            result.shortens = True
        for purpose in Purpose:
            _move(result, group, purpose, before, after, now)
    return result


def _due_by(decision: Decision, moment: datetime) -> bool:
    return decision.erase_on is not None and decision.erase_on <= moment and not decision.frozen


def _ends_earlier(end: datetime | None, other: datetime | None) -> bool:
    return end is not None and (other is None or end < other)


def _move(
    result: Comparison, group: Group, purpose: Purpose, before: Decision, after: Decision, now: datetime
) -> None:
    old, new = _window(before, purpose), _window(after, purpose)
    if (old is None and new is None) or (old is not None and new is not None and _same(old, new)):
        return
    was, stays = old is not None and old.contains(now), new is not None and new.contains(now)
    movement = result.movements.setdefault((purpose, _rule_of(new) or _rule_of(old)), Movement())
    if stays and not was:
        movement.opened.add(group)
    elif was and not stays:
        movement.closed.add(group)
        result.shortens = True
    elif old is None or (new is not None and _ends_earlier(old.end, new.end)):
        movement.longer.add(group)
    else:
        movement.shorter.add(group)
        result.shortens = result.shortens or stays


def _window(decision: Decision, purpose: Purpose) -> Window | None:
    return decision.windows.get(purpose) or decision.suspended.get(purpose)


def _same(old: Window, new: Window) -> bool:
    return old.start == new.start and old.end == new.end


def _rule_of(window: Window | None) -> str:
    return "" if window is None else window.because[0].rule_id or ""
