"""Oreka's ``tape`` messages, as orkaudio sends them to its tracker; and its audio, where a script pushes it.

orkaudio takes 200 alone for success, forgets a message on 400, deletes its file on ``deletetape=true`` to
``ready``, and stops recording on it to ``start``. So a file is given up only once its recording is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from recorder.errors import InvalidInput
from recorder.ingest.adapters.base import Audio, Envelope, Intent, NoAudio, Reply, SenderOutcome
from recorder.ingest.adapters.common import base_name, bounded, code, lenient_request, storable, unix_time
from recorder.ingest.adapters.raw import pairs_of, read_raw
from recorder.ingest.metadata import MAX_EXTERNAL_ID
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import extension_of

_DIRECTIONS: Final = {"in": "inbound", "out": "outbound", "inbound": "inbound", "outbound": "outbound"}
_KEPT: Final = ("recid", "captureport", "localentrypoint", "service", "localip", "remoteip", "nativecallid",
                "tags", "ondemand", "side", "audiokeepdirection", "filename")  # fmt: skip


@dataclass(slots=True)
class OrekaAdapter:
    """Reads tape messages."""

    kind: str = "oreka"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Nothing is signed."""
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """Word of a tape; other messages (``ping``, ``init``) keep nothing.

        Raises:
            InvalidInput: a tape message names no recording.
        """
        told = _told(envelope)
        if envelope.document is None:
            named = told.get("filename") or told.get("recid")
            return (Audio(_request(envelope, told) if named else read_raw(envelope)),)
        if told.get("type", "tape") != "tape":
            return (Reply(_line("simpleresponse"), "text/plain"),)
        if not (told.get("filename") or told.get("recid")):
            raise InvalidInput("the tape message has neither recid nor filename")
        return (
            NoAudio(_request(envelope, told), SenderOutcome.FETCHING, code(told.get("stage", "")) or None),
        )

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """In the form of orkaudio; the file may go when its recording is here, and only then."""
        if envelope.document is None or any(isinstance(intent, Reply) for intent in intents):
            return None
        here = all(isinstance(i, NoAudio) and i.outcome is SenderOutcome.RECEIVED for i in intents)
        done = bool(intents) and here and _told(envelope).get("stage") == "ready"
        return Reply(_line("taperesponse", deletetape="true" if done else "false"), "text/plain")


def _told(envelope: Envelope) -> dict[str, str]:
    return {name.lower(): value for name, value in reversed(pairs_of(envelope))}


def _line(name: str, **more: str) -> bytes:
    fields = {"class": name, "success": "true", "comment": "", **more}
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode() + b"\n"


def _request(envelope: Envelope, told: Mapping[str, str]) -> IngestRequest:
    """The recording a message is about, under the name its file has, as the spool agent pushes it too."""
    file_name = base_name(told.get("filename", ""))
    stem, extension = extension_of(file_name)
    call = told.get("nativecallid") or told.get("recid") or stem
    document: dict[str, Any] = {
        "external_id": bounded(stem or told["recid"], MAX_EXTERNAL_ID),
        "call": {"external_id": bounded(call, MAX_EXTERNAL_ID)},
    }
    if (started := unix_time(told.get("timestamp", ""))) is not None:
        document["started_at"] = started
    if told.get("stage") != "start" and told.get("duration", "").isdecimal():
        document["duration"] = told["duration"]
    direction = _DIRECTIONS.get(told.get("direction", "").lower())
    local, remote = (storable(told.get(name, ""))[:256] for name in ("localparty", "remoteparty"))
    if direction is not None:
        document["direction"] = direction
        pair = (remote, local) if direction == "inbound" else (local, remote)
        document |= {name: value for name, value in zip(("caller", "callee"), pair, strict=True) if value}
    elif remote or local:
        document["extra"] = {"localparty": local, "remoteparty": remote}
    if (agent := code(local)) is not None:
        document["agents"] = [agent]
    kept = {name: told[name] for name in _KEPT if told.get(name)}
    document["extra"] = {**document.get("extra", {}), "oreka": kept}
    return lenient_request(envelope, document, extension=extension)
