"""Raw pushes of FreeSWITCH, Kazoo and Asterisk: the common form, with what each of them adds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from recorder.ingest.adapters.base import Audio, Envelope, Intent, Reply
from recorder.ingest.adapters.common import first, lenient_request, named
from recorder.ingest.adapters.filenames import FREEPBX, FileNames
from recorder.ingest.adapters.raw import RawAdapter, no_audio, pairs_of, read_raw
from recorder.ingest.metadata import CallRef
from recorder.ingest.request import IngestRequest

_KAZOO: Final = re.compile(r"(?:.*/)?call_recording_(.+)")
_NEXT: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<document type="xml/freeswitch-httapi"><params/><variables/><work/></document>\n'
)


@dataclass(slots=True)
class FreeSwitchAdapter(RawAdapter):
    """``mod_http_cache`` and ``curl`` push raw bodies; ``mod_httapi`` a form with its session first."""

    kind: str = "freeswitch"

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording.

        Raises:
            InvalidInput: no audio came.
        """
        if not from_httapi(envelope):
            return RawAdapter.read(self, envelope)
        if envelope.document is not None:
            raise no_audio("let the httapi application record with `action`, or set method=PUT and put_file")
        return (Audio(_of_session(envelope)),)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """``mod_httapi`` waits for a document that says how the call goes on: as its dialplan has it."""
        del intents
        return Reply(_NEXT, "text/xml") if from_httapi(envelope) else None


def from_httapi(envelope: Envelope) -> bool:
    """Whether ``mod_httapi`` sent this."""
    by_agent = envelope.headers.get("user-agent", "").startswith("mod_httapi/")
    return by_agent or (
        envelope.part_name is not None
        and all(first(envelope.fields, name) is not None for name in ("session_id", "hostname"))
    )


def _of_session(envelope: Envelope) -> IngestRequest:
    request = read_raw(envelope)
    session = first((*envelope.query, *envelope.fields), "session_id")
    if not session:
        return request
    metadata = request.metadata
    if metadata.call is None:
        metadata = metadata.model_copy(update={"call": CallRef(external_id=session[:256])})
    if not envelope.path and first(envelope.query, "external_id") is None:
        # The file's name is a temporary one; the part's is the name the dialplan gave the recording.
        metadata = metadata.model_copy(
            update={"external_id": session[:256], "leg": (envelope.part_name or "")[:64] or None}
        )
    return replace(request, metadata=metadata)


@dataclass(slots=True)
class KazooAdapter(RawAdapter):
    """Kazoo names its files after the call."""

    kind: str = "kazoo"

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording.

        Raises:
            InvalidInput: no audio came.
        """
        intents: list[Intent] = []
        for intent in RawAdapter.read(self, envelope):
            if isinstance(intent, Audio):
                metadata = intent.request.metadata
                found = _KAZOO.fullmatch(metadata.external_id)
                if found is not None and metadata.call is None:
                    metadata = metadata.model_copy(update={"call": CallRef(external_id=found[1])})
                intents.append(Audio(replace(intent.request, metadata=metadata)))
        return tuple(intents)


@dataclass(slots=True)
class AsteriskAdapter(RawAdapter):
    """Asterisk and FreePBX: a script or the spool agent pushes a file under its own name."""

    kind: str = "asterisk"

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording; what the request says goes before what the file's name says.

        Raises:
            InvalidInput: no audio came.
        """
        if envelope.document is not None:
            raise no_audio("send the file as the body: curl -T FILE URL/")
        external_id, extension, made_up = named(envelope)
        plain = read_raw(envelope)
        facts = file_names(envelope.settings).read(external_id)
        if made_up or not facts.matched:
            return (Audio(plain),)
        said: dict[str, Any] = plain.metadata.model_dump(by_alias=True, exclude_unset=True)
        for name in plain.estimated:
            said.pop(name, None)
        given = {name for name, _ in pairs_of(envelope)}
        document = {**facts.document, **said}
        if "leg" in facts.document and "leg" not in given:
            document["external_id"] = facts.document["external_id"]
        reasons = [reason for reason in plain.reasons if reason != "started-at-estimated"]
        request = lenient_request(
            envelope, document, reasons=reasons, unparsed=plain.unparsed, extension=extension
        )
        return (Audio(request),)


def file_names(settings: Mapping[str, Any]) -> FileNames:
    """The reader of a source's file names."""
    return _file_names(
        tuple(settings.get("file_names") or (FREEPBX,)),
        settings.get("time_zone") or "UTC",
        settings.get("extension_digits", 5),
    )


@lru_cache(maxsize=256)
def _file_names(patterns: tuple[str, ...], zone: str, digits: int) -> FileNames:
    return FileNames(patterns, time_zone=zone, extension_digits=digits)
