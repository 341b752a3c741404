"""jambonz: the JSON that opens a stream of a call, and the WAV header that stands before its frames. Pure."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from recorder.errors import FieldError, InvalidInput
from recorder.ingest.adapters.base import Envelope
from recorder.ingest.adapters.common import bounded, lenient_request, storable
from recorder.ingest.request import IngestRequest

KIND: Final = "jambonz"
DTMF: Final = "keys-pressed"
BROKEN_OFF: Final = "broken-off"
CHANNELS: Final = 2
_WIDTH: Final = 2
_RATES: Final = range(8_000, 48_001)
_USED: Final = frozenset({"callSid", "from", "to", "direction", "sampleRate"})
_PARTIES: Final = ("caller", "callee")


def read_opening(envelope: Envelope) -> tuple[IngestRequest, bytes]:
    """What a stream's first text frame says of it.

    A stream is sent once: one that opens again for the same call brings what was said since. So its name has
    its time in it, and both become recordings of one call.

    Returns:
        The request, and the header of a WAV file of unknown length.

    Raises:
        InvalidInput: it names no call, or a sample rate that no telephony has.
    """
    try:
        told = json.loads(envelope.document or b"")
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise _wrong("", "the first frame is no JSON object")
    call = _text(told, "callSid")
    if call is None:
        raise _wrong("/callSid", "is missing")
    rate = told.get("sampleRate", 8_000)
    if isinstance(rate, str) and rate.isascii() and rate.isdigit() and len(rate) < 8:
        rate = int(rate)
    if not isinstance(rate, int) or rate not in _RATES:
        raise _wrong("/sampleRate", "is not between 8000 and 48000")
    name = bounded(call, 200)
    document: dict[str, Any] = {
        "external_id": f"{name}:{envelope.now:%Y%m%dT%H%M%S.%fZ}",
        "call": {"external_id": name},
        "started_at": envelope.now.isoformat(),
        "extra": {str(n): v for n, v in told.items() if n not in _USED and v not in (None, "")},
    }
    for ours, theirs in (("caller", "from"), ("callee", "to")):
        if (line := _text(told, theirs)) is not None:
            document[ours] = line
    if (direction := _text(told, "direction")) in ("inbound", "outbound"):
        document["direction"] = direction
    parties = envelope.settings.get("channels") or _PARTIES
    if len(parties) == CHANNELS:
        document["channels"] = [{"party": party} for party in parties]
    request = lenient_request(envelope, document)
    return replace(request, extension="wav", content_type="audio/wav", size=None), wav_header(rate)


def wav_header(rate: int) -> bytes:
    """The head of a WAV file (RIFF) of 16-bit stereo PCM whose end is where the file ends."""
    block = CHANNELS * _WIDTH
    form = struct.pack("<HHIIHH", 1, CHANNELS, rate, rate * block, block, 8 * _WIDTH)
    unknown = 0xFFFFFFFF
    return struct.pack(
        "<4sI4s4sI16s4sI", b"RIFF", unknown, b"WAVE", b"fmt ", len(form), form, b"data", unknown
    )


def is_key(text: str) -> bool:
    """Whether a text frame says that a key was pressed. Which one is not kept: it may be a card's."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.get("event") == "dtmf"


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    return storable(value).strip()[:256] or None if isinstance(value, str) else None


def _wrong(path: str, what: str) -> InvalidInput:
    return InvalidInput(f"{path}: {what}", fields=[FieldError(path, what)])
