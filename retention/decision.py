"""What the engine answers: windows per purpose, when to erase, and why.

A decision goes into a JSON column as builtins (`Decision.to_json`) and comes back equal. Reading a
stored decision is safe at any later moment: it can only be more closed than a fresh one would be,
and `Decision.reevaluate_at` says when its own inputs will change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from retention.errors import Misuse
from retention.model import Ground, Purpose

__all__ = ["FORMAT", "Decision", "Reason", "Task", "Window", "allows"]

FORMAT = 1
"""Version of the JSON form; a reader refuses what it does not know."""


def _no_params() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of the calculation, as a stable code with parameters; `retention.explain` words it.

    Attributes:
        code: For example ``rule_won``, ``cap_cut``, ``hold``, ``objection``.
        rule_id: The rule that is meant, if any.
        params: Texts to be filled in; instants are RFC 3339 in UTC. No personal data.
    """

    code: str
    rule_id: str | None = None
    params: Mapping[str, str] = field(default_factory=_no_params)

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        return {"code": self.code, "rule": self.rule_id, "params": dict(self.params)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reason:
        """The reverse of `to_json`."""
        return cls(data["code"], data["rule"], MappingProxyType(dict(data["params"])))


@dataclass(frozen=True, slots=True)
class Window:
    """A purpose's window of availability, ``[start, end)``.

    Attributes:
        purpose: The purpose.
        start: First instant, UTC.
        end: First instant after it, UTC; None while it is open-ended.
        because: What made it as it is, the deciding rule or hold first.
    """

    purpose: Purpose
    start: datetime
    end: datetime | None
    because: tuple[Reason, ...]

    def contains(self, moment: datetime) -> bool:
        """Whether the window is open at `moment`."""
        return self.start <= moment and (self.end is None or moment < self.end)

    def to_json(self) -> dict[str, Any]:
        """As builtins."""
        return {
            "start": _text(self.start),
            "end": _text(self.end),
            "because": [reason.to_json() for reason in self.because],
        }

    @classmethod
    def from_json(cls, purpose: str, data: Mapping[str, Any]) -> Window:
        """The reverse of `to_json`."""
        return cls(
            Purpose(purpose),
            datetime.fromisoformat(data["start"]),
            _moment(data["end"]),
            tuple(Reason.from_json(reason) for reason in data["because"]),
        )


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """Something only a person can decide; until then the recording is kept.

    Attributes:
        code: For example ``no_rule``, ``unknown_duration``, ``contradictory_times``.
        purpose: The doubtful purpose, or an empty string when it is all of them.
        rule_id: The rule in doubt, or an empty string.
    """

    code: str
    purpose: str = ""
    rule_id: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome for one recording.

    Attributes:
        schedule_version: The schedule that decided.
        zone: The controller's zone, for showing dates.
        decided_at: The `now` of the calculation.
        windows: Usable windows by purpose; past ones are kept for the explanation.
        suspended: Windows that exist but may not be used: restricted, or in doubt.
        erase_on: Latest end of everything that keeps it; None while open-ended or undecided.
        due: It must go now: windows existed, all have closed, nothing freezes it.
        ground: On which ground it would be swept.
        destroy_original: A card security code is in the original: it goes at once, the muted
            derivative inherits the windows.
        held: A legal hold stands.
        restricted: Stored only, but for statutory and hold windows.
        frozen: No erasure while a request is pending or a restriction stands.
        undecided: Tasks for a person.
        considered: Every rule, choice, request and hold looked at, losers included.
        reevaluate_at: The earliest later instant at which these same inputs decide differently in
            a way that stored windows do not show.
    """

    schedule_version: int
    zone: str
    decided_at: datetime
    windows: Mapping[Purpose, Window]
    suspended: Mapping[Purpose, Window]
    erase_on: datetime | None
    due: bool
    ground: Ground
    destroy_original: bool
    held: bool
    restricted: bool
    frozen: bool
    undecided: tuple[Task, ...]
    considered: tuple[Reason, ...]
    reevaluate_at: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """As builtins for a JSON column."""
        return {
            "format": FORMAT,
            "schedule": self.schedule_version,
            "zone": self.zone,
            "decided_at": _text(self.decided_at),
            "windows": {str(p): w.to_json() for p, w in self.windows.items()},
            "suspended": {str(p): w.to_json() for p, w in self.suspended.items()},
            "erase_on": _text(self.erase_on),
            "due": self.due,
            "ground": str(self.ground),
            "destroy_original": self.destroy_original,
            "held": self.held,
            "restricted": self.restricted,
            "frozen": self.frozen,
            "undecided": [[task.code, task.purpose, task.rule_id] for task in self.undecided],
            "considered": [reason.to_json() for reason in self.considered],
            "reevaluate_at": _text(self.reevaluate_at),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """The reverse of `to_json`.

        Raises:
            Misuse: The format is not one this version knows, or the data is not a decision.
        """
        if data.get("format") != FORMAT:
            raise Misuse("a stored decision of an unknown format")
        try:
            return cls(
                schedule_version=data["schedule"],
                zone=data["zone"],
                decided_at=datetime.fromisoformat(data["decided_at"]),
                windows=_windows(data["windows"]),
                suspended=_windows(data["suspended"]),
                erase_on=_moment(data["erase_on"]),
                due=data["due"],
                ground=Ground(data["ground"]),
                destroy_original=data["destroy_original"],
                held=data["held"],
                restricted=data["restricted"],
                frozen=data["frozen"],
                undecided=tuple(Task(*task) for task in data["undecided"]),
                considered=tuple(Reason.from_json(reason) for reason in data["considered"]),
                reevaluate_at=_moment(data["reevaluate_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Misuse("a stored decision that cannot be read") from error


def allows(
    decision: Decision, purpose: Purpose, now: datetime, *, original: bool = False
) -> tuple[bool, Reason]:
    """Whether the recording may be used for `purpose` at `now`, as far as time decides.

    Role and scope are decided elsewhere; both must agree. Works on stored decisions.

    Args:
        decision: Fresh or stored.
        purpose: The declared purpose.
        now: The moment of use.
        original: The untouched original is asked for, not a rendition with its mutes.

    Returns:
        The answer and the one reason for it.
    """
    if original and decision.destroy_original:
        return False, Reason("card_security")
    if (
        not decision.windows
        and not decision.suspended
        and any(t.code == "no_rule" for t in decision.undecided)
    ):
        return False, Reason("no_rule")
    window = decision.windows.get(purpose)
    if window is not None and window.contains(now):
        return True, window.because[0]
    if (waiting := decision.suspended.get(purpose)) is not None and waiting.contains(now):
        doubt = next((t for t in decision.undecided if t.purpose in ("", purpose)), None)
        if doubt is not None:
            return False, Reason("undecided", doubt.rule_id or None, {"task": doubt.code})
        return False, Reason("restricted")
    past = window or waiting
    if past is None:
        doubt = next((t for t in decision.undecided if t.purpose in ("", purpose)), None)
        if doubt is not None:
            return False, Reason("undecided", doubt.rule_id or None, {"task": doubt.code})
        return False, Reason("no_window", None, {"purpose": str(purpose)})
    if now < past.start:
        return False, Reason("not_yet_open", None, {"purpose": str(purpose), "from": _text(past.start) or ""})
    closed = past.because[-1]
    return False, Reason(
        "window_closed",
        closed.rule_id,
        {"purpose": str(purpose), "until": _text(past.end) or "", "by": closed.code},
    )


def _windows(data: Mapping[str, Any]) -> Mapping[Purpose, Window]:
    return MappingProxyType({Purpose(p): Window.from_json(p, window) for p, window in data.items()})


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
