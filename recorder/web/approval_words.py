"""What a second person is asked to approve, in words: the step, what follows, and the facts beside it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from recorder.access.approvals import LISTENING_ROLE, ApprovalView
from recorder.access.policy import TABLE, Action, decide
from recorder.access.principals import Principal
from recorder.disposition.other_records import BRAKE as RECORDS_BRAKE
from recorder.disposition.released_sweep import BRAKE_ACTION
from recorder.web.reports import RECORDS
from recorder.web.views import PURPOSES, day

STEPS: Final = {
    "hold_release": "Release a legal hold",
    "disclosure": "Disclose recordings",
    "research_export": "Export recordings for research",
    "schedule_activate": "Put a retention schedule in force",
    BRAKE_ACTION: "Let the sweep erase more than usual",
    RECORDS_BRAKE: "Let the sweep destroy more records than usual",
    "erase_principal": "Erase a customer",
    "destroy_epoch": "Destroy an epoch of keys",
    LISTENING_ROLE: "Give a role that hears calls",
}
GIVEN_TO: Final = ("disclosure", "research_export")
"""Steps whose target is a recipient of the register."""
_TOLD_WHOLE: Final = (*GIVEN_TO, BRAKE_ACTION, RECORDS_BRAKE, LISTENING_ROLE)
_GROUNDS: Final = {
    "customer_request": "at the person's own request",
    "authority_request": "at an authority's request",
    "court_order": "by a court's order",
}
_LABELS: Final = {
    "population": "Of all recordings",
    "erased_now": "Recordings due at once",
    "closed_now": "Windows closed at once",
    "records_now": "Other records that go at once",
    "document_sha256": "Fingerprint of the document",
    "simulation": "Fingerprint of the simulation",
    "request": "Fingerprint of the request",
}
_GONE: Final = "What was erased cannot be brought back."
_LONG: Final = re.compile(r"[0-9a-fA-F]{32,}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SHORT: Final = 8


@dataclass(frozen=True, slots=True)
class Words:
    """A step in words.

    Attributes:
        what: exactly what is to be done.
        effect: what follows from it, for whoever weighs it; empty where only the facts tell.
        told: the details that these words tell already.
    """

    what: str
    effect: str = ""
    told: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Fact:
    """One line beside the words.

    Attributes:
        short: what is shown at once, where the whole is long: its first digits, or a number of things.
        whole: everything, line by line.
        href: where it is shown.
        code: whether it is an id or a fingerprint, to be compared and not read.
    """

    label: str
    short: str
    whole: tuple[str, ...] = ()
    href: str | None = None
    code: bool = False


def words(view: ApprovalView, names: Mapping[str, str], zone: ZoneInfo) -> Words:
    """The step and its consequence.

    Args:
        view: the approval. Its details are what somebody asked for: any of them may be missing.
        names: words for targets that have a name: accounts and recipients.
        zone: in which days begin.
    """
    told = view.details
    match view.action:
        case "hold_release":
            return Words(
                "Release one legal hold of a matter.",
                f"What only this hold keeps goes once its time is over, at the earliest with the next sweep. "
                f"{_GONE}",
            )
        case "schedule_activate":
            against = f", in place of version {told['against']}" if told.get("against") else ""
            return Words(
                f"Put version {view.target.rpartition(':')[2]} of the retention schedule in force{against}.",
                f"What it makes due is erased by the next sweep; a closed window ends a use. {_GONE}",
                frozenset({"against"}),
            )
        case "sweep_brake":
            return Words(
                f"Let the sweep erase {_number(told.get('count'))} of {_number(told.get('population'))} "
                "recordings at once.",
                f"The sweep stopped because that is unusually much. {_GONE}",
                frozenset({"count", "population"}),
            )
        case "records_brake":
            kind = RECORDS.get(str(told.get("record")), "other records").lower()
            return Words(
                f"Let the sweep destroy {_number(told.get('count'))} of {_number(told.get('population'))} "
                f"records that are over: {kind}.",
                f"It stopped because that is unusually much, and goes on by itself once you agree. {_GONE}",
                frozenset({"record", "count", "population"}),
            )
        case "disclosure" | "research_export":
            return _disclosure(view, names.get(view.target, "a recipient of the register"), zone)
        case "listening_role":
            return _listening(view, names)
        case _:
            return Words(f"{STEPS.get(view.action, view.action.replace('_', ' ').capitalize())}.")


def facts(view: ApprovalView, principal: Principal) -> list[Fact]:
    """What the words do not tell: numbers first, then the rest, fingerprints last."""
    found: list[Fact] = []
    if view.action == "schedule_activate":
        version = view.target.rpartition(":")[2]
        found.append(Fact("Document", f"Version {version}", href=f"/app/schedules/{version}"))
    elif view.action == "hold_release":
        manages = decide(principal, Action.MANAGE_MATTERS, controller_id=view.controller_id).allowed
        matter = str(view.details.get("matter"))
        found.append(_fact("Matter", matter, f"/app/matters/{matter}" if manages else None))
        found.append(_fact("Hold", view.target))
    elif view.action not in _TOLD_WHOLE:
        found.append(_fact("For", view.target))
    told = words(view, {}, ZoneInfo("UTC")).told | {"matter"}
    rest = [
        _fact(_LABELS.get(name, name.replace("_", " ").capitalize()), value)
        for name, value in view.details.items()
        if name not in told and value is not None
    ]
    return found + sorted(rest, key=lambda fact: (fact.code, not fact.short[:1].isdigit()))


def _fact(label: str, value: Any, href: str | None = None) -> Fact:
    """A detail as it is told: long ones by their beginning."""
    if isinstance(value, (list, tuple)):
        items = tuple(str(item) for item in value)
        return Fact(label, f"{len(items):,}", items, code=True)
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    if _LONG.fullmatch(text) is None:
        return Fact(label, text, href=href)
    return Fact(label, f"{text[:_SHORT]}…", () if href else (text,), href, code=True)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number"


def _disclosure(view: ApprovalView, recipient: str, zone: ZoneInfo) -> Words:
    told = view.details
    effect = "Copies leave the service. They cannot be taken back, and no erasure here reaches them."
    if view.action == "research_export":
        queue = f" of the queue {told['queue']}" if told.get("queue") else ""
        span = f"from {_day(told.get('since'), zone)} until {_day(told.get('until'), zone)}"
        return Words(
            f"Give {recipient} the recordings{queue} {span} for research, under pseudonyms.",
            effect,
            frozenset({"since", "until", "queue"}),
        )
    recordings = told.get("recordings")
    count = len(recordings) if isinstance(recordings, (list, tuple)) else None
    what = "1 recording" if count == 1 else f"{_number(count)} recordings" if count else "recordings"
    ground = _GROUNDS.get(str(told.get("ground")))
    return Words(
        f"Give {recipient} {what}{f', {ground}' if ground else ''}.",
        effect,
        frozenset({"ground"}) if ground else frozenset(),
    )


def _day(value: Any, zone: ZoneInfo) -> str:
    try:
        return day(datetime.fromisoformat(str(value)), zone.key)
    except ValueError:
        return "an unknown day"


def _listening(view: ApprovalView, names: Mapping[str, str]) -> Words:
    step, spelt = view.details.get("step"), view.details.get("roles")
    roles = [_Role.read(str(role)) for role in spelt] if isinstance(spelt, (list, tuple)) else []
    agent = view.details.get("agent_code")
    noun = "the role" if len(roles) == 1 else "the roles"
    given = f"{noun} {_and(role.words(agent) for role in roles)}" if roles else "a role that hears calls"
    whose = names.get(view.target, "an account")
    owner = f", for which {whose} answers," if view.target in names else ""
    forms: dict[Any, tuple[str, str]] = {
        "role.grant": (f"Give {whose} {given}.", whose),
        "account.create": (f"Make a new account with {given}.", "Whoever gets the account"),
        "token.issue": (f"Issue an API token{owner} with {given}.", "A program that has the token"),
        "password.set": (
            f"Set another password for {whose}, who has {given}.",
            f"Whoever knows the new password signs in as {whose} and",
        ),
    }
    what, who = forms.get(step, (f"Let somebody have {given}.", "They"))
    hears = [f"{role.reach(agent)} for {_and(role.purposes())}" for role in roles if role.purposes()]
    effect = f"{who} may then hear {_and(hears)}." if hears else ""
    return Words(what, effect, frozenset({"step", "roles", "agent_code"}))


@dataclass(frozen=True, slots=True)
class _Role:
    """A role as an approval spells it: ``role:controller:scope:values``."""

    name: str
    scope: Literal["own", "team", "queue"] | str
    values: tuple[str, ...]

    @classmethod
    def read(cls, spelt: str) -> _Role:
        name, _, scope, values = (*spelt.split(":", 3), "", "", "", "")[:4]
        return cls(name, scope, tuple(value for value in values.split(",") if value))

    def words(self, agent: Any) -> str:
        return f"{self.name}, for {self.reach(agent)}" if self.scope else self.name

    def reach(self, agent: Any) -> str:
        several = "s" if len(self.values) > 1 else ""
        if self.scope == "own":
            return f"the calls of agent {agent}" if agent else "their own calls"
        if self.scope == "team":
            return f"the calls of the agent{several} {_and(self.values)}"
        if self.scope == "queue":
            return f"the calls of the queue{several} {_and(self.values)}"
        return "all calls of the controller"

    def purposes(self) -> list[str]:
        """For what it hears, by the table of roles."""
        found = {
            purpose
            for rule in TABLE
            if rule.role.value == self.name and Action.LISTEN in rule.actions
            for purpose in rule.purposes
        }
        return [word for name, word in PURPOSES.items() if name in found]


def _and(words: Iterable[str]) -> str:
    *first, last = [*words] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def is_account(target: str) -> bool:
    """Whether a target is an id; what stands for a user name that nobody has yet is none."""
    try:
        return str(uuid.UUID(target)) == target
    except ValueError:
        return False
