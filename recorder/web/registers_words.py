"""The registers in words: kinds, safeguards, where a recipient stands, and the clock of a breach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.catalogue.enums import BreachState
from recorder.catalogue.tables import Breach, RegisteredRecipient
from recorder.registers.breach_reminders import urgency
from recorder.registers.breaches import NOTIFY_WITHIN
from recorder.registers.recipients import RecipientView
from recorder.registers.regions import EEA
from recorder.web.views import Mark, day, exact

TABS: Final = (
    ("breaches", "/app/breaches", "Breaches"),
    ("recipients", "/app/recipients", "Recipients"),
    ("disclosures", "/app/disclosures", "Disclosures"),
)
KINDS: Final[Mapping[str, str]] = {
    "processor": "Processor, art. 28",
    "group_company": "Company of the group",
    "research": "Research partner",
    "authority": "Authority",
    "person": "Person",
    "other": "Other recipient",
}
SAFEGUARDS: Final[Mapping[str, str]] = {
    "standard_contractual_clauses": "Standard contractual clauses, art. 46(2)(c)",
    "adequacy_decision": "Adequacy decision, art. 45",
    "binding_corporate_rules": "Binding corporate rules, art. 47",
    "derogation": "Derogation, art. 49",
}
GROUNDS: Final[Mapping[str, str]] = {
    "customer_request": "The person's own request",
    "authority_request": "An authority's request",
    "court_order": "A court's order",
    "research": "Research, pseudonymised",
}
STATES: Final[Mapping[BreachState, Mark]] = {
    BreachState.OPEN: Mark("restricted", "Authority to be told"),
    BreachState.NOTIFIED: Mark("shut", "Authority told"),
    BreachState.NOT_REQUIRED: Mark("shut", "No notice needed"),
    BreachState.CLOSED: Mark("stored", "Closed"),
}
# A contract is negotiated for weeks: whoever keeps the register hears of its end in time for that.
RENEW_WITHIN: Final = timedelta(days=60)
_INSTANT: Final = timedelta(microseconds=1)
_HOUR: Final = timedelta(hours=1)
_EXCERPT: Final = 120


@dataclass(frozen=True, slots=True)
class Clock:
    """The 72 hours of a breach (GDPR art. 33(1)), to be drawn as a bar and said in words.

    Attributes:
        stage: ``in-time``, ``soon``, ``urgent``, ``overdue``; ``told``, ``late`` once the authority knows;
            ``none`` where it need not.
        left: how long there is, or how it ended.
        since: how long ago it was noticed.
        noticed, deadline: in the controller's time zone.
        spent, over: lengths of the bar's parts before and after the deadline, in per cent of its width.
        line: where the deadline stands, in per cent of its width.
        hours: label and place of each full day.
    """

    stage: str
    left: Mark
    since: str
    noticed: str
    deadline: str
    spent: float
    over: float
    line: float
    hours: tuple[tuple[str, float], ...]


def clock(row: Breach, zone: ZoneInfo, now: datetime) -> Clock:
    """The clock of a breach at an instant.

    What took very long is drawn no longer than twice the 72 hours; the words say how long it took.
    """
    end = now if row.notified_at is None else row.notified_at
    stage, left = _stage(row, end)
    running = stage != "none"
    elapsed = min(max(end - row.aware_at, timedelta()), 2 * NOTIFY_WITHIN) if running else timedelta()
    whole = max(elapsed, NOTIFY_WITHIN)
    return Clock(
        stage=stage,
        left=left,
        since=f"{span(now - row.aware_at)} ago",
        noticed=exact(row.aware_at, zone),
        deadline=exact(row.due_at, zone),
        spent=_share(min(elapsed, NOTIFY_WITHIN), whole),
        over=_share(max(elapsed - NOTIFY_WITHIN, timedelta()), whole),
        line=_share(NOTIFY_WITHIN, whole),
        hours=tuple((f"{hours} h", _share(hours * _HOUR, whole)) for hours in (24, 48, 72)),
    )


def _stage(row: Breach, end: datetime) -> tuple[str, Mark]:
    if row.notified_at is not None:
        if end > row.due_at:
            return "late", Mark("due", f"Told {span(end - row.due_at)} late")
        return "told", Mark("stored", f"Told after {span(end - row.aware_at)}")
    if row.state is not BreachState.OPEN:
        return "none", Mark("stored", "No notice needed")
    found = urgency(row.due_at, end)
    if found == "overdue":
        return "overdue", Mark("due", f"{span(end - row.due_at)} overdue")
    kind = {"urgent": "due", "soon": "restricted"}.get(found or "", "shut")
    return found or "in-time", Mark(kind, f"{span(row.due_at - end)} left")


def span(length: timedelta) -> str:
    """A length of time, no finer than helps: minutes of the last hours, hours of the last days, days."""
    minutes = max(0, length // timedelta(minutes=1))
    hours, rest = divmod(minutes, 60)
    if hours == 0:
        return f"{rest} min"
    if hours < 10:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    if hours <= 96:
        return f"{hours} h"
    return f"{hours // 24} days"


def _share(part: timedelta, whole: timedelta) -> float:
    return round(100 * (part / whole), 2)


def excerpt(words: str) -> str:
    """The beginning of a longer text, on one line."""
    line = " ".join(words.split())
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1].rstrip()}…"


def last_day(expires_at: datetime | None, zone: ZoneInfo) -> str | None:
    """The last day on which something still holds that ends at an instant."""
    return None if expires_at is None else day(expires_at - _INSTANT, zone.key)


def last_day_iso(expires_at: datetime | None, zone: ZoneInfo) -> str:
    """The same, as a form has it; empty where there is no end."""
    return "" if expires_at is None else f"{(expires_at - _INSTANT).astimezone(zone):%Y-%m-%d}"


def standing(view: RecipientView, zone: ZoneInfo, now: datetime) -> tuple[int, Mark]:
    """Whether a recipient may be given anything, and what runs out soon: a rank to sort by, and its word."""
    row = view.row
    if row.ended_at is not None:
        return 3, Mark("stored", f"Ended {day(row.ended_at, zone.key)}")
    if view.problem is not None:
        return 0, Mark("due", _problem(view.problem[0], row, zone, now))
    ends = [("Contract", row.contract_expires_at)]
    if row.country not in EEA:
        ends.append(("Safeguard", row.safeguard_expires_at))
    soon = [(end, name) for name, end in ends if end is not None and end - now <= RENEW_WITHIN]
    if soon:
        end, name = min(soon)
        return 1, Mark("restricted", f"{name} ends in {span(end - now)}")
    return 2, Mark("stored", "In order")


def _problem(code: str, row: RegisteredRecipient, zone: ZoneInfo, now: datetime) -> str:
    if code == "contract-missing":
        return "No contract with an end"
    if code == "contract-expired":
        return f"Contract ended {last_day(row.contract_expires_at, zone)}"
    if row.safeguard and row.safeguard_expires_at is not None and row.safeguard_expires_at <= now:
        return f"Safeguard ended {last_day(row.safeguard_expires_at, zone)}"
    return "No safeguard with an end"


def country(code: str) -> str:
    """A country by its code, and whether data there needs a safeguard."""
    return code if code in EEA else f"{code}, outside the EEA"


def safeguard(code: str | None) -> str | None:
    """A safeguard in words; one that is not of the list is said as it was entered."""
    return None if code is None else SAFEGUARDS.get(code, code.replace("_", " ").capitalize())


def recipient(view: RecipientView, zone: ZoneInfo, now: datetime) -> dict[str, Any]:
    """A recipient as the register shows it."""
    row = view.row
    rank, mark = standing(view, zone, now)
    return {
        "id": row.id,
        "rank": rank,
        "mark": mark,
        "name": view.name or "Name removed",
        "kind": KINDS[row.kind.value],
        # Not "purpose": that one is what the reader listens for, on every page.
        "gets_for": row.purpose,
        "country": country(row.country),
        "abroad": row.country not in EEA,
        "contract": row.contract_reference,
        "contract_end": last_day(row.contract_expires_at, zone),
        "safeguard": safeguard(row.safeguard),
        "safeguard_end": last_day(row.safeguard_expires_at, zone),
        "registered": exact(row.registered_at, zone),
        "ended": None if row.ended_at is None else exact(row.ended_at, zone),
        "personal": row.sealed is not None,
    }
