"""The choices ledger read as of a moment: append-only entries in, what holds out. Pure.

Most restrictive wins: of a giving and a taking entry at the same moment the taking one stands, and an
objection stands beside a consent until it is withdrawn itself (GDPR art. 7(3), 18, 21).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from recorder.catalogue.enums import ChoiceKind
from retention.model import Purpose

EVERY_PURPOSE: Final = frozenset(Purpose)
OBJECTION_CLOSES: Final = frozenset({Purpose.TRAINING, Purpose.QUALITY})
"""What an objection that names no purpose closes."""

# Each pair: what restricts, what gives back.
_PAIRS: Final = (
    (ChoiceKind.OBJECTION, ChoiceKind.OBJECTION_WITHDRAWN),
    (ChoiceKind.RESTRICTION, ChoiceKind.RESTRICTION_LIFTED),
    (ChoiceKind.CONSENT_WITHDRAWN, ChoiceKind.CONSENT),
)


class Entry(Protocol):
    """One entry of the ledger, as `recorder.catalogue.tables.Choice` has it."""

    @property
    def kind(self) -> ChoiceKind: ...  # noqa: D102 - see the table
    @property
    def purposes(self) -> list[str]: ...  # noqa: D102 - see the table
    @property
    def channel(self) -> str | None: ...  # noqa: D102 - see the table
    @property
    def effective_at(self) -> datetime: ...  # noqa: D102 - see the table


@dataclass(frozen=True, slots=True)
class ChoiceState:
    """What a person's choices come to at a moment.

    Attributes:
        objected: purposes closed by an objection.
        consented: purposes a consent stands for.
        consent_withdrawn: purposes whose consent was withdrawn.
        restricted: purposes under restriction.
        marketing: per channel, whether direct marketing is allowed.
    """

    objected: frozenset[Purpose] = frozenset()
    consented: frozenset[Purpose] = frozenset()
    consent_withdrawn: frozenset[Purpose] = frozenset()
    restricted: frozenset[Purpose] = frozenset()
    marketing: dict[str, bool] = field(default_factory=dict)

    def may_market(self, channel: str) -> bool:
        """Whether direct marketing may use a channel: only with a consent that no ban outweighs."""
        every = self.marketing.get("*")
        if every is False:
            return False
        return self.marketing.get(channel, every is True)


def reaches(kind: ChoiceKind, purposes: Iterable[str]) -> frozenset[Purpose]:
    """The purposes an entry speaks of; one that names none speaks of all that its kind can reach."""
    named = frozenset(Purpose(p) for p in purposes)
    if named:
        return named
    if kind in (ChoiceKind.OBJECTION, ChoiceKind.OBJECTION_WITHDRAWN):
        return OBJECTION_CLOSES
    return EVERY_PURPOSE


def state_as_of(entries: Iterable[Entry], moment: datetime) -> ChoiceState:
    """What holds at a moment; entries that take effect later are not looked at."""
    past = [entry for entry in entries if entry.effective_at <= moment]
    standing = {taking: _standing(past, taking, giving) for taking, giving in _PAIRS}
    withdrawn = standing[ChoiceKind.CONSENT_WITHDRAWN]
    given = frozenset(
        purpose
        for entry in past
        if entry.kind is ChoiceKind.CONSENT
        for purpose in reaches(entry.kind, entry.purposes)
    )
    return ChoiceState(
        objected=standing[ChoiceKind.OBJECTION],
        consented=given - withdrawn,
        consent_withdrawn=withdrawn,
        restricted=standing[ChoiceKind.RESTRICTION],
        marketing=_marketing(past),
    )


GIVES_BACK: Final = {
    ChoiceKind.OBJECTION_WITHDRAWN: ChoiceKind.OBJECTION,
    ChoiceKind.RESTRICTION_LIFTED: ChoiceKind.RESTRICTION,
}
"""Entries that take back an earlier one of the person."""


def standing_purposes(entries: Iterable[Entry], giving: ChoiceKind, moment: datetime) -> frozenset[Purpose]:
    """The purposes that an entry of a giving-back kind could free at a moment."""
    state = state_as_of(entries, moment)
    return state.objected if giving is ChoiceKind.OBJECTION_WITHDRAWN else state.restricted


def _standing(entries: list[Entry], taking: ChoiceKind, giving: ChoiceKind) -> frozenset[Purpose]:
    latest: dict[Purpose, tuple[datetime, bool]] = {}
    for entry in entries:
        if entry.kind in (taking, giving):
            mark = (entry.effective_at, entry.kind is taking)  # True sorts above False: taking wins a tie
            for purpose in reaches(entry.kind, entry.purposes):
                latest[purpose] = max(latest.get(purpose, mark), mark)
    return frozenset(purpose for purpose, (_, taken) in latest.items() if taken)


def _marketing(entries: list[Entry]) -> dict[str, bool]:
    latest: dict[str, tuple[datetime, bool]] = {}
    for entry in entries:
        if entry.kind in (ChoiceKind.MARKETING_BAN, ChoiceKind.MARKETING_CONSENT):
            mark = (entry.effective_at, entry.kind is ChoiceKind.MARKETING_BAN)
            channel = entry.channel or "*"
            latest[channel] = max(latest.get(channel, mark), mark)
    state = {channel: not banned for channel, (_, banned) in latest.items()}
    if state.get("*") is False:  # a ban on everything outweighs a consent to one channel
        return dict.fromkeys(state, False)
    return state
