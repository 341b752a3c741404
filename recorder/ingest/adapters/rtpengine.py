"""rtpengine's recording daemon: one file a request, told of by ``X-Recording-*`` headers.

Names and forms are those of ``recording-daemon/notify.c``. One call gives several files (the mix, and one for
each SSRC); they share the Call-ID and are told apart by what their file names have beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from recorder.errors import InvalidInput
from recorder.ingest.adapters.base import Audio, Envelope, Intent, Reply
from recorder.ingest.adapters.common import (
    MAX_LEG,
    base_name,
    bounded,
    lenient_request,
    storable,
    unix_time,
)
from recorder.ingest.adapters.raw import no_audio, pairs_of, read_raw
from recorder.ingest.metadata import MAX_EXTERNAL_ID, metadata_from_query
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import extension_of

_HEADER: Final = "x-recording-"
_TIMES: Final = ("call-start-time", "call-end-time", "stream-start-time", "stream-end-time")
_KEPT: Final = (
    "kind",
    "tag",
    "label",
    "tag-metadata",
    "call-metadata",
    "db-metadata",
    "call-db-id",
    "stream-db-id",
)
_MINGLED: Final = ("call-metadata", "db-metadata", "tag-metadata")


@dataclass(slots=True)
class RtpengineAdapter:
    """Reads the daemon's HTTP notifications."""

    kind: str = "rtpengine"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """The daemon signs nothing."""
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One file of a call.

        Raises:
            InvalidInput: the notification names a file and does not bring it, as without ``notify-record``.
        """
        if envelope.document is not None:
            raise path_only()
        told = {n.removeprefix(_HEADER): v for n, v in envelope.headers.items() if n.startswith(_HEADER)}
        if not told.get("call-id"):
            return (Audio(read_raw(envelope)),)
        return (Audio(_request(envelope, told)),)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """The usual answer; the daemon looks at the status alone."""
        del envelope, intents
        return None


def path_only() -> InvalidInput:
    """The refusal of a notification without its file: a 2xx would make the daemon forget it."""
    return no_audio(
        "set notify-record = yes in rtpengine-recording.conf, or run `recorder spool` beside the daemon"
    )


def _request(envelope: Envelope, told: Mapping[str, str]) -> IngestRequest:
    call_id = storable(told["call-id"])
    file_name = base_name(told.get("file-name") or envelope.file_name or "")
    stem, extension = extension_of(file_name)
    document: dict[str, Any] = {
        "external_id": bounded(call_id, MAX_EXTERNAL_ID),
        "call": {"external_id": bounded(call_id, MAX_EXTERNAL_ID)},
    }
    leg = leg_of(stem, call_id)
    if leg is not None:
        document["leg"] = leg
    unparsed: dict[str, Any] = {}
    times = {}
    for name in _TIMES:
        if name in told and (at := unix_time(told[name])) is not None:
            times[name] = at
        elif name in told:
            unparsed[name] = told[name]
    started = times.get("stream-start-time", times.get("call-start-time"))
    ended = times.get("stream-end-time", times.get("call-end-time"))
    if started is not None:
        document["started_at"] = started
        if ended is not None and ended >= started:
            document["ended_at"] = ended
    party = (envelope.settings.get("parties") or {}).get(told.get("label", ""))
    if party is not None and told.get("kind", "").lower() != "mixed":
        document["channels"] = [{"party": party}]
    said, reasons, rest = _said(envelope, told)
    extra = {name: told[name] for name in _KEPT if told.get(name)}
    document = {**said, **document, "extra": {**said.get("extra", {}), "rtpengine": extra}}
    request = lenient_request(
        envelope,
        document,
        reasons=reasons,
        unparsed={**rest, **unparsed},
        extension=extension or told.get("file-format", "").lower() or None,
    )
    return replace(request, file_name=storable(file_name)[:256] or request.file_name)


def leg_of(stem: str, call_id: str) -> str | None:
    """What a file name has beside the call's id: the daemon's random part, and ``mix`` or the SSRC."""
    for prefix in (quote(call_id, safe=""), quote(call_id, safe="@"), call_id):
        if stem.startswith(prefix):
            stem = stem[len(prefix) :].lstrip("-_")
            break
    if not stem:
        return None
    if len(stem) <= MAX_LEG:
        return stem
    # Its end tells the streams of a call apart; the digest keeps the whole of it.
    return hashlib.sha256(stem.encode()).hexdigest()[:24] + "~" + stem[-(MAX_LEG - 25) :]


def _said(
    envelope: Envelope, told: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """What query and the operator's metadata (``name:value|name:value``) say, in the words of a raw push."""
    pairs = pairs_of(envelope)
    for source in _MINGLED:
        for item in told.get(source, "").split("|")[:32]:
            name, colon, value = item.partition(":")
            if colon and value.strip() and name.strip().lower() in _SPOKEN:
                pairs.append((name.strip().lower(), value.strip()))
    metadata, reasons, rest = metadata_from_query("x", pairs, now=envelope.now)
    document = metadata.model_dump(by_alias=True, exclude_unset=True, exclude={"external_id"})
    if "started-at-estimated" in reasons:
        document.pop("started_at", None)
    return document, tuple(r for r in reasons if r != "started-at-estimated"), rest


_SPOKEN: Final = frozenset(
    {"from", "to", "caller", "callee", "direction", "agent", "queue", "tag", "number", "phone", "email"}
    | {"lawful_basis", "notice_version", "notice_offset"}
)
