"""From what the use cases answer to what a page shows: words, dates in the controller's zone, marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.access.policy import Target, purposes_for
from recorder.access.principals import Principal
from recorder.catalogue.enums import Direction, RecordingState
from recorder.catalogue.tables import Controller, Recording
from recorder.playback.finding import Found
from recorder.playback.words import PURPOSE_WORDS, day
from retention.model import Purpose

PURPOSES: Final = {purpose.value: words.lower() for purpose, words in PURPOSE_WORDS.items()}
_STATES: Final = {
    RecordingState.STORED: "Stored",
    RecordingState.SPOOLED: "On its way to the store",
    RecordingState.QUARANTINED: "In quarantine",
    RecordingState.ERASING: "Being erased",
    RecordingState.ERASED: "Erased",
}
_DIRECTIONS: Final = {
    Direction.INBOUND: "Inbound",
    Direction.OUTBOUND: "Outbound",
    Direction.INTERNAL: "Internal",
    None: "–",
}
_BASES: Final = {
    "customer_relationship": "Customer relationship",
    "consent": "Consent",
    "assignment": "Assignment",
    "objective_connection": "Other objective connection",
    "statutory_obligation": "Statutory obligation",
}
_MUTED_BY: Final = {"card_security": "card security code", "payment": "payment", "pause": "recording paused"}


@dataclass(frozen=True, slots=True)
class Mark:
    """A state with its colour and, always, its word."""

    kind: str
    word: str


def declarable(principal: Principal, controller: Controller) -> list[str]:
    """The purposes that a person may declare at all, for some call of this controller."""
    found: set[Purpose] = set()
    for grant in principal.grants:
        if grant.controller_id != controller.id:
            continue
        agents = tuple(sorted({*grant.values, *([principal.agent_code] if principal.agent_code else [])}))
        for queue in (None, *sorted(grant.values)):
            target = Target(agents=agents, queue=queue, source_id=None, feedback=True)
            found.update(purposes_for(principal, controller.id, target))
    return [purpose.value for purpose in Purpose if purpose in found]


def row(found: Found, controller: Controller, now: datetime) -> dict[str, Any]:
    """A call in the list."""
    recording = found.recording
    zone = ZoneInfo(controller.time_zone)
    return {
        "id": recording.id,
        "started": short(recording.started_at, zone, now),
        "exact": exact(recording.started_at, zone),
        "length": clock(recording.duration_ms),
        "direction": _DIRECTIONS[recording.direction],
        "queue": recording.queue or "–",
        "agents": ", ".join(recording.agents) or "–",
        "tags": ", ".join(recording.tags),
        "marks": marks(recording, now),
        "kept": kept(recording, controller),
    }


def marks(recording: Recording, now: datetime) -> list[Mark]:
    """State and flags, each with a word beside its colour."""
    found = [Mark(recording.state.value, _STATES[recording.state])]
    if recording.held:
        found.append(Mark("held", "Legal hold"))
    if recording.restricted:
        found.append(Mark("restricted", "Restricted"))
    if recording.erase_on is not None and recording.erase_on <= now and not recording.held:
        found.append(Mark("due", "Due for erasure"))
    return found


def kept(recording: Recording, controller: Controller) -> str:
    """Until when, in two words."""
    if recording.held:
        return "while held"
    if recording.erase_on is None:
        return "open-ended"
    return last_day(recording.erase_on, controller.time_zone)


def last_day(end: datetime, zone: str) -> str:
    """The last day of a window whose end is the first instant after it."""
    return day(end - timedelta(microseconds=1), zone)


def call(recording: Recording, controller: Controller, now: datetime) -> dict[str, Any]:
    """A call on its own page."""
    zone = ZoneInfo(controller.time_zone)
    direction = _DIRECTIONS[recording.direction]
    kind = "Call" if recording.direction is None else f"{direction} call"
    return {
        "id": recording.id,
        "title": f"{kind}, {recording.queue}" if recording.queue else kind,
        "exact": exact(recording.started_at, zone),
        "length": clock(recording.duration_ms),
        "seconds": 0 if recording.duration_ms is None else recording.duration_ms / 1000,
        "marks": marks(recording, now),
        "muted": list(spans(recording)),
        "lanes": lanes(recording),
    }


def lanes(recording: Recording) -> list[dict[str, str]]:
    """The channels, by party where the sender said which is which."""
    names = {"agent": "Agent", "customer": "Customer", "mixed": "Both"}
    count = max(1, min(2, int(recording.media.get("channels") or 1)))
    found = []
    for index in range(count):
        said = recording.channels[index].get("party") if index < len(recording.channels) else None
        if count == 1:
            said = said or "mixed"
        found.append({"party": said or "mixed", "name": names.get(said or "", f"Channel {index + 1}")})
    return found


def spans(recording: Recording) -> Iterator[dict[str, Any]]:
    """Muted parts, in seconds and in words."""
    for span in recording.muted:
        start, end = span.get("from_ms") or 0, span.get("to_ms") or recording.duration_ms or 0
        reason = str(span.get("reason") or "")
        words = _MUTED_BY.get(reason, reason.replace("_", " "))
        yield {
            "from": start / 1000,
            "to": end / 1000,
            "words": f"{clock(start)} to {clock(end)}: {words}"
            if words
            else f"{clock(start)} to {clock(end)}",
        }


def facts(
    recording: Recording, controller: Controller, metadata: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """What is known of a call, for the side of its page."""
    zone = ZoneInfo(controller.time_zone)
    media = recording.media
    sound = ", ".join(
        str(part)
        for part in (
            media.get("codec") or media.get("container"),
            f"{media['sample_rate']} Hz" if media.get("sample_rate") else None,
            {1: "mono", 2: "stereo"}.get(int(media.get("channels") or 0)),
        )
        if part
    )
    found = [
        ("Agent", ", ".join(recording.agents)),
        ("Queue", recording.queue or ""),
        ("Tags", ", ".join(recording.tags)),
        ("Events", ", ".join(event.replace("_", " ") for event in recording.service_events)),
        ("Basis", _BASES.get(recording.lawful_basis.value, recording.lawful_basis.value)),
        ("Customer", "linked" if recording.customer_id is not None else "not known yet"),
        ("Received", exact(recording.received_at, zone)),
        ("Sound", sound),
        ("Notes", ", ".join(reason.replace("_", " ") for reason in recording.reasons)),
    ]
    for name, label in (("caller", "Caller"), ("callee", "Callee")):
        value = None if metadata is None else metadata.get(name)
        if value:
            found.append((label, str(value)))
    found.append(("SHA-256", recording.sha256.hex()))
    return [(label, value) for label, value in found if value]


def clock(milliseconds: int | None) -> str:
    """A length as minutes and seconds."""
    if milliseconds is None:
        return "–"
    seconds = round(milliseconds / 1000)
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def exact(moment: datetime, zone: ZoneInfo) -> str:
    """A moment in full, in the controller's zone."""
    local = moment.astimezone(zone)
    return f"{day(moment, zone.key)} {local:%H:%M:%S %Z}"


def short(moment: datetime, zone: ZoneInfo, now: datetime) -> str:
    """A moment for a narrow column: the time today, the day this year, the date before."""
    local, today = moment.astimezone(zone), now.astimezone(zone)
    if local.date() == today.date():
        return f"today {local:%H:%M}"
    if local.date() == (today - timedelta(days=1)).date():
        return f"yesterday {local:%H:%M}"
    date = day(moment, zone.key).split(" ")
    return (
        f"{date[0]} {date[1][:3]} {local:%H:%M}"
        if local.year == today.year
        else f"{date[0]} {date[1][:3]} {date[2]}"
    )
