"""May this caller do this? One table and one pure function that answers with its reason.

The table is the rule: what it does not name is refused. A right is a role at a controller, for an action, for
a purpose where the action uses a call's audio, as far as the grant's scope reaches. Whether the window of the
purpose is still open is a second question (``retention``); both must say yes. docs/access.md has it in prose.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from recorder.access.principals import Grant, Principal
from recorder.catalogue.enums import Role, ScopeKind
from recorder.errors import Forbidden
from retention.model import Purpose


class Action(StrEnum):
    """What someone may want to do. The values are stable: they stand in refusals and in the log."""

    LISTEN = "listen"
    CREATE_LINK = "create_link"
    EXPORT_AUDIO = "export_audio"
    LIST_RECORDINGS = "list_recordings"
    SEARCH_RECORDINGS = "search_recordings"
    VIEW_RECORDING = "view_recording"
    VIEW_RETENTION = "view_retention"
    VIEW_HISTORY = "view_history"
    MANAGE_COLLECTIONS = "manage_collections"
    ASSESS = "assess"
    VIEW_ASSESSMENTS = "view_assessments"
    PUSH = "push"
    VIEW_RECEIPT = "view_receipt"
    MANAGE_CUSTOMERS = "manage_customers"
    ADD_CONTACT = "add_contact"
    ADD_CHOICE = "add_choice"
    VIEW_CUSTOMERS = "view_customers"
    MANAGE_MATTERS = "manage_matters"
    DISCLOSE = "disclose"
    MANAGE_REQUESTS = "manage_requests"
    ERASE = "erase"
    VIEW_SCHEDULES = "view_schedules"
    MANAGE_SCHEDULES = "manage_schedules"
    MANAGE_SOURCES = "manage_sources"
    MANAGE_ACCOUNTS = "manage_accounts"
    MANAGE_QUARANTINE = "manage_quarantine"
    VIEW_HEALTH = "view_health"
    ROTATE_KEYS = "rotate_keys"
    VIEW_AUDIT = "view_audit"
    VIEW_REPORTS = "view_reports"
    VIEW_REGISTERS = "view_registers"
    MANAGE_RECIPIENTS = "manage_recipients"
    MANAGE_BREACHES = "manage_breaches"
    COPY_STAFF = "copy_staff"
    VIEW_APPROVALS = "view_approvals"
    DECIDE_APPROVAL = "decide_approval"


class Reach(StrEnum):
    """How far a rule goes at most; the scope of the grant may be narrower."""

    OWN = "own"  # the calls of one's own agent code, whatever the grant says
    FEEDBACK = "feedback"  # of those, the calls given to one as feedback
    SCOPE = "scope"  # the calls inside the grant's scope
    CONTROLLER = "controller"  # the whole controller, so the grant must be for all of it
    SOURCE = "source"  # what belongs to the token's own source


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table. ``purposes`` is empty where the action touches no audio."""

    role: Role
    reach: Reach
    actions: frozenset[Action]
    purposes: frozenset[Purpose] = frozenset()


def _rule(role: Role, reach: Reach, *actions: Action, purposes: tuple[Purpose, ...] = ()) -> Rule:
    return Rule(role, reach, frozenset(actions), frozenset(purposes))


A, P = Action, Purpose
_FIND: Final = (A.LIST_RECORDINGS, A.SEARCH_RECORDINGS, A.VIEW_RECORDING, A.VIEW_RETENTION)

# fmt: off
TABLE: Final[tuple[Rule, ...]] = (
    # role          reach               actions
    _rule(Role.TELEPHONY, Reach.SOURCE, A.PUSH, A.VIEW_RECEIPT),

    _rule(Role.CRM,     Reach.CONTROLLER, A.MANAGE_CUSTOMERS, A.ADD_CONTACT, A.ADD_CHOICE),

    _rule(Role.AGENT,   Reach.OWN,        *_FIND, A.VIEW_ASSESSMENTS),
    _rule(Role.AGENT,   Reach.FEEDBACK,   A.LISTEN, purposes=(P.TRAINING,)),
    _rule(Role.AGENT,   Reach.OWN,        A.LISTEN, purposes=(P.QUALITY,)),

    _rule(Role.TRAINER, Reach.SCOPE,      *_FIND, A.MANAGE_COLLECTIONS),
    _rule(Role.TRAINER, Reach.SCOPE,      A.LISTEN, A.CREATE_LINK, purposes=(P.TRAINING,)),

    _rule(Role.QUALITY, Reach.SCOPE,      *_FIND, A.ASSESS, A.VIEW_ASSESSMENTS),
    _rule(Role.QUALITY, Reach.SCOPE,      A.LISTEN, A.CREATE_LINK, purposes=(P.QUALITY,)),

    _rule(Role.LEGAL,   Reach.CONTROLLER, *_FIND, A.VIEW_HISTORY, A.VIEW_CUSTOMERS, A.VIEW_SCHEDULES,
                                          A.MANAGE_MATTERS, A.DISCLOSE, A.VIEW_REPORTS, A.VIEW_APPROVALS,
                                          A.DECIDE_APPROVAL),
    _rule(Role.LEGAL,   Reach.CONTROLLER, A.VIEW_REGISTERS, A.MANAGE_RECIPIENTS, A.MANAGE_BREACHES),
    _rule(Role.LEGAL,   Reach.CONTROLLER, A.LISTEN, A.CREATE_LINK, A.EXPORT_AUDIO,
                                          purposes=(P.SERVICE_EVIDENCE, P.LEGAL_PROTECTION)),

    _rule(Role.PRIVACY, Reach.CONTROLLER, *_FIND, A.VIEW_HISTORY, A.VIEW_CUSTOMERS, A.MANAGE_CUSTOMERS,
                                          A.ADD_CONTACT, A.ADD_CHOICE, A.MANAGE_REQUESTS, A.DISCLOSE, A.ERASE,
                                          A.VIEW_SCHEDULES, A.MANAGE_SCHEDULES, A.VIEW_REPORTS,
                                          A.VIEW_APPROVALS, A.DECIDE_APPROVAL),
    _rule(Role.PRIVACY, Reach.CONTROLLER, A.VIEW_REGISTERS, A.MANAGE_RECIPIENTS, A.MANAGE_BREACHES,
                                          A.COPY_STAFF),
    _rule(Role.PRIVACY, Reach.CONTROLLER, A.LISTEN, A.CREATE_LINK, A.EXPORT_AUDIO,
                                          purposes=(P.SERVICE_EVIDENCE, P.SECURITY)),

    _rule(Role.OPERATOR, Reach.CONTROLLER, A.MANAGE_SOURCES, A.MANAGE_ACCOUNTS, A.MANAGE_QUARANTINE,
                                          A.VIEW_HEALTH, A.ROTATE_KEYS),

    _rule(Role.AUDITOR, Reach.CONTROLLER, A.VIEW_AUDIT, A.VIEW_HISTORY, A.VIEW_RETENTION, A.VIEW_SCHEDULES,
                                          A.VIEW_REPORTS, A.VIEW_REGISTERS, A.VIEW_APPROVALS),
)
# fmt: on

# Uses of a call's audio: never without a purpose, never from the command line.
AUDIO: Final = frozenset({A.LISTEN, A.CREATE_LINK, A.EXPORT_AUDIO})
# Steps that only a person with an account of their own may take: a token has no second pair of eyes.
PERSONAL: Final = frozenset({A.DECIDE_APPROVAL})
# What is listed rather than named: the answer is filtered by `visible`, so no target is asked for.
LISTS: Final = frozenset({A.LIST_RECORDINGS, A.SEARCH_RECORDINGS})

ROLE_WORDS: Final[dict[Role, str]] = {
    Role.TELEPHONY: "A telephony source",
    Role.CRM: "A CRM client",
    Role.AGENT: "An agent",
    Role.TRAINER: "Training",
    Role.QUALITY: "Quality",
    Role.LEGAL: "Legal",
    Role.PRIVACY: "Privacy",
    Role.OPERATOR: "Operations",
    Role.AUDITOR: "Audit",
}
ACTION_WORDS: Final[dict[Action, str]] = {
    A.LISTEN: "listen to calls",
    A.CREATE_LINK: "make listening links",
    A.EXPORT_AUDIO: "export calls",
    A.LIST_RECORDINGS: "list calls",
    A.SEARCH_RECORDINGS: "search calls",
    A.VIEW_RECORDING: "see a call's record",
    A.VIEW_RETENTION: "see how long a call is kept",
    A.VIEW_HISTORY: "see who used a call",
    A.MANAGE_COLLECTIONS: "keep training collections",
    A.ASSESS: "assess calls",
    A.VIEW_ASSESSMENTS: "see assessments",
    A.PUSH: "push recordings",
    A.VIEW_RECEIPT: "see receipts",
    A.MANAGE_CUSTOMERS: "write customer records",
    A.ADD_CONTACT: "record customer contacts",
    A.ADD_CHOICE: "record a customer's choices",
    A.VIEW_CUSTOMERS: "look customers up",
    A.MANAGE_MATTERS: "manage matters and holds",
    A.DISCLOSE: "disclose recordings",
    A.MANAGE_REQUESTS: "handle data subjects' requests",
    A.ERASE: "erase recordings",
    A.VIEW_SCHEDULES: "see retention schedules",
    A.MANAGE_SCHEDULES: "change retention schedules",
    A.MANAGE_SOURCES: "manage sources",
    A.MANAGE_ACCOUNTS: "manage accounts and tokens",
    A.MANAGE_QUARANTINE: "manage the quarantine",
    A.VIEW_HEALTH: "see the service's health",
    A.ROTATE_KEYS: "rotate keys",
    A.VIEW_AUDIT: "read the audit log",
    A.VIEW_REPORTS: "see reports",
    A.VIEW_REGISTERS: "see the registers",
    A.MANAGE_RECIPIENTS: "keep the register of recipients",
    A.MANAGE_BREACHES: "handle personal data breaches",
    A.COPY_STAFF: "copy what is kept of staff",
    A.VIEW_APPROVALS: "see approvals",
    A.DECIDE_APPROVAL: "decide approvals",
}


@dataclass(frozen=True, slots=True)
class Target:
    """The call or source that an action is about; what scopes look at.

    Attributes:
        agents: codes of the agents who served the call.
        queue: the queue it came through.
        source_id: the source that pushed it, or is to push.
        feedback: the call was given to the asking agent as feedback, for example by a listening link.
    """

    agents: tuple[str, ...] = ()
    queue: str | None = None
    source_id: uuid.UUID | None = None
    feedback: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. ``code`` is stable for programs, ``text`` is for people.

    Attributes:
        code: ``ok``, ``other-controller``, ``role``, ``purpose-missing``, ``purpose``, ``scope`` or
            ``not-a-person``.
    """

    allowed: bool
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ScopeFilter:
    """Calls that one grant reaches: all, or those of these agents, or those of these queues.

    Filters are joined with OR; no filter at all means no call.
    """

    everything: bool = False
    agents: frozenset[str] = field(default=frozenset())
    queues: frozenset[str] = field(default=frozenset())

    def covers(self, target: Target) -> bool:
        """Whether a call lies inside."""
        return self.everything or not self.agents.isdisjoint(target.agents) or target.queue in self.queues


def decide(
    principal: Principal,
    action: Action,
    *,
    controller_id: uuid.UUID,
    purpose: Purpose | None = None,
    target: Target | None = None,
) -> Verdict:
    """Say whether the principal may do this at this controller, and why.

    Pure: the same arguments always get the same answer. Without a target, only a right that reaches the whole
    controller counts, except for lists, whose rows :func:`visible` filters.
    """
    if principal.kind in ("os", "system"):
        return _decide_console(principal, action)
    grants = [g for g in principal.grants if g.controller_id == controller_id]
    if not grants:
        return Verdict(False, "other-controller", "You have no role at this controller.")
    if action in PERSONAL and principal.kind != "account":
        text = f"Only a person with an account may {ACTION_WORDS[action]}; a token is not a person."
        return Verdict(False, "not-a-person", text)
    held = _words(grants)
    pairs = [(rule, g) for g in grants for rule in TABLE if rule.role is g.role and action in rule.actions]
    if not pairs:
        return Verdict(False, "role", f"{held} may not {ACTION_WORDS[action]}.")
    if action in AUDIO:
        if purpose is None:
            return Verdict(
                False, "purpose-missing", f"Name the purpose: nobody may {ACTION_WORDS[action]} without one."
            )
        pairs = [(rule, g) for rule, g in pairs if purpose in rule.purposes]
        if not pairs:
            text = f"{held} may not {ACTION_WORDS[action]} for {_spoken(purpose)}."
            return Verdict(False, "purpose", text)
    for rule, grant in pairs:
        if _reaches(principal, rule, grant, action, target):
            return Verdict(
                True, "ok", f"{ROLE_WORDS[rule.role]} may {_phrase(action, purpose)}{_extent(rule, grant)}."
            )
    extents = sorted({_extent(rule, grant) for rule, grant in pairs})
    text = f"{_words([g for _, g in pairs])} may {_phrase(action, purpose)} only{' or'.join(extents)}."
    return Verdict(False, "scope", text)


def require(
    principal: Principal,
    action: Action,
    *,
    controller_id: uuid.UUID,
    purpose: Purpose | None = None,
    target: Target | None = None,
) -> None:
    """Return when :func:`decide` says yes.

    Raises:
        Forbidden: it says no; the reason is the verdict's code.
    """
    verdict = decide(principal, action, controller_id=controller_id, purpose=purpose, target=target)
    if not verdict.allowed:
        raise Forbidden(verdict.text, reason=verdict.code)


def visible(
    principal: Principal, controller_id: uuid.UUID, action: Action = Action.LIST_RECORDINGS
) -> tuple[ScopeFilter, ...]:
    """The calls a caller may know of at a controller, playable or not, as filters joined with OR."""
    if principal.kind in ("os", "system"):
        return (ScopeFilter(everything=True),) if _decide_console(principal, action).allowed else ()
    found: list[ScopeFilter] = []
    for grant in principal.grants:
        for rule in TABLE:
            if grant.controller_id == controller_id and rule.role is grant.role and action in rule.actions:
                scope = _filter(principal, rule, grant)
                if scope is not None and scope not in found:
                    found.append(scope)
    everything = ScopeFilter(everything=True)
    return (everything,) if everything in found else tuple(found)


def purposes_for(principal: Principal, controller_id: uuid.UUID, target: Target) -> tuple[Purpose, ...]:
    """The purposes for which a caller's roles let them listen to a call; windows still apply."""
    return tuple(
        purpose
        for purpose in Purpose
        if decide(
            principal, Action.LISTEN, controller_id=controller_id, purpose=purpose, target=target
        ).allowed
    )


def scopes_for(role: Role) -> frozenset[ScopeKind]:
    """The scopes in which a grant of this role gives any right; others are refused when granting."""
    reaches = {rule.reach for rule in TABLE if rule.role is role}
    if Reach.SCOPE in reaches:
        return frozenset(ScopeKind)
    if Reach.CONTROLLER in reaches:
        return frozenset({ScopeKind.CONTROLLER})
    return frozenset({ScopeKind.OWN})


def hears(role: Role) -> bool:
    """Whether a role ever reaches a call's audio, for any purpose."""
    return any(rule.role is role and rule.purposes and rule.actions & AUDIO for rule in TABLE)


def _decide_console(principal: Principal, action: Action) -> Verdict:
    # The shell on the host and the service's own jobs administer the installation: they may do what needs no
    # ears and no second person. What they do is in the log under the operating-system user's name.
    if action in AUDIO:
        return Verdict(
            False, "role", f"The command line may not {ACTION_WORDS[action]}; sign in with an account."
        )
    if action in PERSONAL:
        text = f"Only a person with an account may {ACTION_WORDS[action]}; sign in with an account."
        return Verdict(False, "not-a-person", text)
    who = "The operating-system user" if principal.kind == "os" else "The service itself"
    return Verdict(True, "ok", f"{who} may {ACTION_WORDS[action]}.")


def _filter(principal: Principal, rule: Rule, grant: Grant) -> ScopeFilter | None:
    """The calls that a rule and a grant reach together; None when none at all."""
    # An agent code names a person only at the account's own controller; elsewhere it is somebody else's.
    at_home = principal.agent_code is not None and grant.controller_id == principal.controller_id
    own = ScopeFilter(agents=frozenset({principal.agent_code or ""})) if at_home else None
    if rule.reach in (Reach.OWN, Reach.FEEDBACK):
        return own
    if grant.scope is ScopeKind.CONTROLLER:
        return ScopeFilter(everything=True)
    if rule.reach is not Reach.SCOPE:
        return None
    if grant.scope is ScopeKind.OWN:
        return own
    if not grant.values:
        return None
    return (
        ScopeFilter(agents=grant.values)
        if grant.scope is ScopeKind.TEAM
        else ScopeFilter(queues=grant.values)
    )


def _reaches(principal: Principal, rule: Rule, grant: Grant, action: Action, target: Target | None) -> bool:
    if rule.reach is Reach.SOURCE:
        # The token speaks for exactly one source, so an unnamed source is its own.
        if principal.source_id is None:
            return False
        return target is None or target.source_id == principal.source_id
    scope = _filter(principal, rule, grant)
    if scope is None:
        return False
    if target is None:
        return action in LISTS or scope.everything
    if rule.reach is Reach.FEEDBACK and not target.feedback:
        return False
    return scope.covers(target)


def _extent(rule: Rule, grant: Grant) -> str:
    if rule.reach is Reach.SOURCE:
        return " for its own source"
    if rule.reach is Reach.FEEDBACK:
        return " among one's own calls that were given as feedback"
    if rule.reach is Reach.CONTROLLER:
        return " with a grant for the whole controller"
    scope = ScopeKind.OWN if rule.reach is Reach.OWN else grant.scope
    return {
        ScopeKind.OWN: " among one's own calls",
        ScopeKind.TEAM: " among the calls of the team",
        ScopeKind.QUEUE: " among the calls of the queue",
        ScopeKind.CONTROLLER: " at this controller",
    }[scope]


def _phrase(action: Action, purpose: Purpose | None) -> str:
    words = ACTION_WORDS[action]
    return f"{words} for {_spoken(purpose)}" if action in AUDIO and purpose is not None else words


def _spoken(purpose: Purpose) -> str:
    return purpose.value.replace("_", " ")


def _words(grants: list[Grant]) -> str:
    names = list(dict.fromkeys(ROLE_WORDS[g.role] for g in grants))
    first, *rest = names
    return " and ".join([first, *(name[0].lower() + name[1:] for name in rest)])
