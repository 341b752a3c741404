"""From a script to what a telephony system would push: stereo audio and its metadata."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.demo.encoding import encode
from recorder.demo.scripts import CUSTOMERS, DemoCall, Turn, voice_of
from recorder.demo.speech import SAMPLE_RATE, Speaker

_LEAD_MS: Final = 400
_PAUSES_MS: Final = (350, 520, 280, 610, 430)
_CARD_MARGIN_MS: Final = 200  # around spoken card data: a recorder's pause button is never exact


@dataclass(frozen=True, slots=True)
class Spoken:
    """A dialogue as sound.

    Attributes:
        samples: interleaved 16-bit stereo at :data:`SAMPLE_RATE`, agent left, customer right.
        card_spans: where card data is said, milliseconds from the start.
    """

    samples: array[int]
    card_spans: tuple[tuple[int, int], ...]

    @property
    def duration_ms(self) -> int:
        """Length in milliseconds."""
        return len(self.samples) // 2 * 1000 // SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Push:
    """One recording, ready to be pushed."""

    metadata: dict[str, Any]
    audio: bytes
    content_type: str
    file_name: str


def speak(speaker: Speaker, call: DemoCall) -> Spoken:
    """Say a call's turns one after the other, each party on its own channel."""
    pieces: list[tuple[Turn, int, array[int]]] = []
    at = _LEAD_MS * SAMPLE_RATE // 1000
    for number, turn in enumerate(call.turns):
        said = speaker.say(turn.text, voice_of(call, turn.party))
        pieces.append((turn, at, said))
        at += len(said) + _PAUSES_MS[number % len(_PAUSES_MS)] * SAMPLE_RATE // 1000
    samples = array("h", bytes(4 * at))
    for turn, start, said in pieces:
        channel = 0 if turn.party == "agent" else 1
        samples[2 * start + channel : 2 * (start + len(said)) + channel : 2] = said
    spans = tuple(_span(start, len(said)) for turn, start, said in pieces if turn.card)
    return Spoken(samples, spans)


def _span(start: int, length: int) -> tuple[int, int]:
    begin, end = start * 1000 // SAMPLE_RATE, (start + length) * 1000 // SAMPLE_RATE
    return max(0, begin - _CARD_MARGIN_MS), end + _CARD_MARGIN_MS


def build_push(speaker: Speaker, call: DemoCall, first_day: date, zone: ZoneInfo) -> Push:
    """Build what the demo's telephony system pushes for a call.

    Args:
        speaker: The voices.
        call: The script.
        first_day: The day of the demo's first start; ages count back from it, so that a demo that was
            interrupted pushes the same call again rather than another one.
        zone: The controller's time zone.
    """
    spoken = speak(speaker, call)
    audio = encode(spoken.samples, SAMPLE_RATE, call.coding)
    started = datetime.combine(first_day - timedelta(days=call.age_days), time(*call.clock), zone)
    ended = started + timedelta(milliseconds=spoken.duration_ms)
    metadata: dict[str, Any] = {
        "external_id": call.external_id,
        "started_at": started.isoformat(),
        "ended_at": ended.isoformat(timespec="milliseconds"),
        "direction": call.direction,
        "agents": [call.agent],
        "queue": call.queue,
        "channels": _channels(call),
        "service_events": [{"type": kind, "ref": reference} for kind, reference in call.service_events],
        "tags": ["demo", *call.tags, call.language],
        "notice": {"version": "2025-1", "offset": 0.4},
    }
    if call.call is not None:
        metadata["call"] = {"external_id": call.call[0], "part": call.call[1]}
        if call.transferred_from is not None:
            metadata["call"]["transferred_from"] = call.transferred_from
    if call.coding.media is not None:
        metadata["media"] = call.coding.media
    other = call.stranger_phone if call.customer is None else CUSTOMERS[call.customer].phone
    metadata["caller" if call.direction == "inbound" else "callee"] = other
    if call.customer is not None:
        metadata["customer"] = {"number": CUSTOMERS[call.customer].number}
    if spoken.card_spans:
        metadata["muted"] = muted_spans(spoken.card_spans)
    return Push(metadata, audio, call.coding.content_type, f"{call.external_id}.{call.coding.suffix}")


def muted_spans(spans: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Spans in seconds, as ``metadata.muted`` has them."""
    return [{"from": begin / 1000, "to": end / 1000, "reason": "card_security"} for begin, end in spans]


def _channels(call: DemoCall) -> list[dict[str, str]]:
    if call.coding.channels == 1:
        return [{"party": "mixed"}]
    return [{"party": "agent"}, {"party": "customer"}]
