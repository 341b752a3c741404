"""The audit log's entries of one recording, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.audit.query import EntryView
from recorder.web.views import PURPOSES, clock, exact

_WORDS: Final = {
    "recording.stored": "Received and stored",
    "recording.quarantined": "Received, put into quarantine",
    "recording.refused": "Refused",
    "recording.repeated": "Sent again, the same bytes",
    "recording.conflict": "Sent again with other bytes",
    "recording.linked": "Linked to a customer",
    "recording.viewed": "Opened its personal details",
    "recording.assessed": "Assessed",
    "recording.copied": "Copied",
    "recording.disclosed": "Disclosed",
    "peaks.made": "Wave drawn",
    "rendition.made": "Playback version made",
    "redacted.made": "Muted version made",
    "quarantine.accepted": "Taken out of quarantine",
    "quarantine.rechecked": "Checked again",
    "listen.opened": "Began to listen",
    "listen.closed": "Listened",
    "listen.refused": "Was refused to listen",
    "access.refused": "Was refused",
    "link.created": "Made a listening link",
    "link.revoked": "Revoked a listening link",
    "link.refused": "A listening link was refused",
    "hold.placed": "Placed a legal hold",
    "hold.released": "Released a legal hold",
    "restriction.placed": "Restricted it",
    "restriction.lifted": "Lifted the restriction",
    "erasure.requested": "Asked for its erasure",
    "erasure.begun": "Erasure began",
    "erasure.destroy_keys": "Keys destroyed",
    "erasure.finished": "Erased; the certificate is signed",
}
KINDS: Final = {
    "listen.": "Listening",
    "access.refused": "Refusals of access",
    "link.": "Listening links",
    "recording.": "Arrival, views, assessments",
    "recording.stored": "Received and stored",
    "recording.viewed": "Opened its personal details",
    "rendition.": "Playback versions",
    "redacted.": "Muted versions",
    "quarantine.": "Decisions on quarantine",
}
"""By what the newest entries about recordings can be narrowed: an action, or how actions begin."""
_MACHINES: Final = {"source": "Telephony source", "token": "API client", "link": "Listening link"}
_PARTS: Final = {"sweep": "Sweep", "renditions": "Renditions", "erasure": "Erasure"}


@dataclass(frozen=True, slots=True)
class Act:
    """One line of a custody."""

    when: str
    iso: str
    who: str
    who_id: str
    what: str
    outcome: str
    purpose: str
    detail: str
    index: int | None


def acts(entries: Iterable[EntryView], people: Mapping[str, str], zone: str) -> list[Act]:
    """The lines, in the order of the log; a listen that has ended is one line with its seconds.

    Args:
        people: words for the actors that are accounts.
        zone: IANA zone in which times are shown.
    """
    parsed = [(view, view.entry) for view in entries]
    ended = {e["details"].get("listen"): e for _, e in parsed if e["action"] == "listen.closed"}
    found = []
    for view, entry in parsed:
        action, detail = entry["action"], _detail(entry)
        if action == "listen.closed":
            continue
        if action == "listen.opened":
            end = ended.get(entry["details"].get("listen"))
            if end is not None:
                action, detail = "listen.closed", _detail(end)
            else:
                detail = "not ended yet"
        found.append(_act(view, entry, action, detail, people, ZoneInfo(zone)))
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One of the newest entries about recordings: when, what, which; nobody by name."""

    when: str
    iso: str
    what: str
    outcome: str
    recording: str
    index: int | None


def lines(entries: Iterable[EntryView], zone: str) -> list[Line]:
    """The entries in the order given."""
    found = []
    for view in entries:
        entry = view.entry
        moment = datetime.fromisoformat(str(entry["time"]))
        found.append(
            Line(
                when=exact(moment, ZoneInfo(zone)),
                iso=moment.isoformat(),
                what=_words(str(entry["action"])),
                outcome=str(entry["outcome"]),
                recording=str(entry["object"]["id"]),
                index=view.index,
            )
        )
    return found


def _words(action: str) -> str:
    return _WORDS.get(action, action.replace(".", ": ").replace("_", " ").capitalize())


def _act(
    view: EntryView,
    entry: Mapping[str, Any],
    action: str,
    detail: str,
    people: Mapping[str, str],
    zone: ZoneInfo,
) -> Act:
    actor = str(entry["actor"])
    kind, _, name = actor.partition(":")
    if actor in people:
        who = people[actor]
    elif kind == "system":
        who = f"The service ({_PARTS.get(name, name)})"
    elif kind == "os":
        who = "Command line"
    else:
        who = _MACHINES.get(kind, kind)
    moment = datetime.fromisoformat(str(entry["time"]))
    purpose = str(entry["purpose"] or "")
    return Act(
        when=exact(moment, zone),
        iso=moment.isoformat(),
        who=who,
        who_id=name if kind in ("account", "source", "token", "link") else "",
        what=_words(action),
        outcome=str(entry["outcome"]),
        purpose=PURPOSES.get(purpose, purpose),
        detail=detail,
        index=view.index,
    )


def _detail(entry: Mapping[str, Any]) -> str:
    details: Mapping[str, Any] = entry["details"]
    parts = []
    if isinstance(details.get("seconds"), int):
        parts.append(f"{clock(details['seconds'] * 1000)} of sound")
    if details.get("reason"):
        parts.append(str(details["reason"]).replace("-", " ").replace("_", " "))
    if entry["action"] == "access.refused" and details.get("action"):
        parts.append(str(details["action"]).replace("_", " "))
    if isinstance(details.get("reasons"), list):
        parts += [str(reason).replace("-", " ") for reason in details["reasons"]]
    return ", ".join(parts)
