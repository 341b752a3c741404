"""From what the use cases answer to what a page shows: words, dates in the controller's zone, marks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.catalogue.enums import Direction, RecordingState
from recorder.catalogue.tables import Controller, Recording
from recorder.playback.calls import CallPart
from recorder.playback.finding import Found
from recorder.playback.spans import read_spans
from recorder.playback.words import PURPOSE_WORDS, day
from retention.model import Purpose

__all__ = ["PURPOSES", "Mark", "call", "clock", "day", "exact", "facts", "quarantined", "row", "whole"]

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
_WHY_QUARANTINED: Final = {
    "conflict": "Another recording with other bytes already has this id. Ask the sender which one is right.",
    "digest-mismatch": "The bytes are not those that the sender announced. Have it sent again.",
    "empty": "There is no audio in it.",
    "media-differs": "The audio is not what the metadata says it is.",
    "media-undecodable": "Nothing here can decode the audio.",
    "media-unknown": "The format of the audio is not known.",
    "metadata-invalid": "A field of the metadata could not be read",
}
_REMARKS: Final = {
    "started-at-estimated": "The start was not given; the time of receipt stands in for it.",
    "started-at-future": "It claims to start in the future.",
    "ended-at-future": "It claims to end in the future.",
    "silent": "There is nothing to be heard in it.",
    "too-short": "It is too short to be a call.",
    "clock-skew": "The sender's clock differs from ours.",
    "accepted": "Taken out of quarantine by a person.",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A state with its colour and, always, its word."""

    kind: str
    word: str


def row(found: Found, controller: Controller, purpose: str | None, now: datetime) -> dict[str, Any]:
    """A call in the list."""
    recording = found.recording
    zone = ZoneInfo(controller.time_zone)
    closed = purpose is None or Purpose(purpose) not in found.playable
    flags = marks(recording, now)
    if closed and purpose is not None and recording.state is RecordingState.STORED:
        flags = [mark for mark in flags if mark.kind != "stored"]
        flags.append(Mark("shut", f"Not for {PURPOSES[purpose]}"))
    return {
        "id": recording.id,
        "started": short(recording.started_at, zone, now),
        "exact": exact(recording.started_at, zone),
        "iso": recording.started_at.isoformat(),
        "length": clock(recording.duration_ms),
        "direction": _DIRECTIONS[recording.direction],
        "queue": recording.queue or "–",
        "agents": ", ".join(recording.agents) or "–",
        "tags": ", ".join(recording.tags),
        "marks": flags,
        "closed": closed,
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
    # What is as it should be needs no mark; in a list, a page of green says nothing.
    return found if len(found) == 1 else [mark for mark in found if mark.kind != "stored"]


def kept(recording: Recording, controller: Controller) -> str:
    """Until when, in two words: the day on which it goes, as `retention.explain` has it."""
    if recording.held:
        return "while held"
    if recording.erase_on is None:
        return "open-ended"
    return day(recording.erase_on, controller.time_zone)


def quarantined(recording: Recording, controller: Controller) -> dict[str, Any]:
    """A recording that waits for a person."""
    zone = ZoneInfo(controller.time_zone)
    return {
        "id": recording.id,
        "started": exact(recording.started_at, zone),
        "received": exact(recording.received_at, zone),
        "size": f"{recording.size:,} bytes".replace(",", "\u202f"),
        "length": clock(recording.duration_ms),
        "sound": _sound(recording),
        "queue": recording.queue or "–",
        "agents": ", ".join(recording.agents) or "–",
        "why": [_reason(reason) for reason in recording.reasons],
    }


def _reason(code: str) -> str:
    name, _, field = code.partition(":")
    words = _WHY_QUARANTINED.get(name) or _REMARKS.get(name) or name.replace("-", " ").capitalize() + "."
    return f"{words}: {field}." if field else words


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
        "started": short(recording.started_at, zone, now),
        "seconds": 0 if recording.duration_ms is None else recording.duration_ms / 1000,
        "marks": marks(recording, now),
        "muted": list(spans(recording)),
        "card_removed": recording.card_data_removed,
        # What was destroyed on arrival is silence for everybody; the rest is there for legal purposes.
        "still_there": bool(read_spans(recording.muted, card_data_removed=recording.card_data_removed)),
        "lanes": lanes(recording),
    }


def whole(parts: Sequence[CallPart], here: uuid.UUID, purpose: Purpose | None) -> list[dict[str, Any]]:
    """The recordings of a call and of those that a transfer ties to it, in order."""
    found: list[dict[str, Any]] = []
    for part in parts:
        for number, item in enumerate(part.recordings, 1):
            words = f"Recording {number}" if len(part.recordings) > 1 else "Recording"
            parties = [str(channel.get("party")) for channel in item.recording.channels]
            if len(parties) == 1:
                words += f", {parties[0]}"
            if part.way != "self":
                words += {"from": " before the transfer", "to": " after the transfer"}[part.way]
            asked = "" if purpose is None else f"?purpose={purpose.value}"
            found.append(
                {
                    "words": words,
                    "href": f"/app/calls/{item.recording.id}{asked}",
                    "length": clock(item.recording.duration_ms),
                    "here": item.recording.id == here,
                }
            )
    return found


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
            "why": words,
            "words": f"{clock(start)} to {clock(end)}{': ' if words else ''}{words}",
        }


def facts(
    recording: Recording, controller: Controller, metadata: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """What is known of a call, for the side of its page."""
    zone = ZoneInfo(controller.time_zone)
    found = [
        ("Agent", ", ".join(recording.agents)),
        ("Queue", recording.queue or ""),
        ("Tags", ", ".join(recording.tags)),
        ("Events", ", ".join(event.replace("_", " ") for event in recording.service_events)),
        ("Basis", _BASES.get(recording.lawful_basis.value, recording.lawful_basis.value)),
        ("Customer", "linked" if recording.customer_id is not None else "not known yet"),
        ("Received", exact(recording.received_at, zone)),
        ("Sound", _sound(recording)),
        ("Notes", " ".join(_reason(reason) for reason in recording.reasons)),
    ]
    for name, label in (("caller", "Caller"), ("callee", "Callee")):
        value = None if metadata is None else metadata.get(name)
        if value:
            found.append((label, str(value)))
    found += [("Id", str(recording.id)), ("SHA-256", recording.sha256.hex())]
    return [(label, value) for label, value in found if value]


def _sound(recording: Recording) -> str:
    media = recording.media
    parts = (
        media.get("codec") or media.get("container"),
        f"{media['sample_rate']} Hz" if media.get("sample_rate") else None,
        {1: "mono", 2: "stereo"}.get(int(media.get("channels") or 0)),
    )
    return ", ".join(str(part) for part in parts if part)


def clock(milliseconds: int | None) -> str:
    """A length as minutes and seconds; a dash while it is not known."""
    if milliseconds is None:
        return "–"
    # Cut off, not rounded: a player's clock stops at the last whole second.
    minutes, seconds = divmod(milliseconds // 1000, 60)
    return f"{minutes:02d}:{seconds:02d}"


def exact(moment: datetime, zone: ZoneInfo) -> str:
    """A moment in full, in the controller's zone."""
    local = moment.astimezone(zone)
    return f"{day(moment, zone.key)} {local:%H:%M:%S %Z}"


def short(moment: datetime, zone: ZoneInfo, now: datetime) -> str:
    """A moment for a narrow column: by the day where it is near, with the time unless it is years away."""
    local, today = moment.astimezone(zone), now.astimezone(zone)
    if local.date() == today.date():
        return f"Today {local:%H:%M}"
    if local.date() == (today - timedelta(days=1)).date():
        return f"Yesterday {local:%H:%M}"
    date = day(moment, zone.key)
    if local.year != today.year:
        return date
    return f"{date.removesuffix(f' {local.year}')} {local:%H:%M}"
