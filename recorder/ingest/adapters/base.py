"""The one shape of all adapters: a pure function from what a sender sent to what the pipeline is asked.

An adapter does no input and output, reads no clock and never sees audio: it gets an :class:`Envelope`, which
is everything of a delivery but its audio, and answers with :class:`Audio`, :class:`Inline`, :class:`Later`,
:class:`NoAudio` or :class:`Reply`. It imports leniently: what it cannot read becomes a reason and is kept
sealed (``IngestRequest.unparsed``), never a refusal of audio that was pushed. Only an envelope that carries
no audio and cannot be understood raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from recorder.ingest.request import IngestRequest


@dataclass(frozen=True, slots=True)
class Envelope:
    """A delivery without its audio.

    Attributes:
        method: of the request.
        path: segments of the URL below the source, decoded.
        query: parameters in order; a name may repeat.
        headers: by lower-case name; several of one name are joined by ``", "`` (RFC 9110 section 5.2).
        fields: form fields, of a form or of the parts before the audio.
        document: a body that is no audio (JSON, XML, a form as sent), bounded; else None.
        part_name: of the audio part of a multipart request.
        file_name: of the audio part, as the sender wrote it.
        content_type: declared for the audio, or for the document.
        size: bytes of audio to come, where that is known.
        url: the request's own address as the sender used it; some signatures are over it.
        now: when it arrived, UTC.
        settings: of the source, as the operator set them.
        secrets: of the source, for what can only be read or answered with them.
    """

    method: str
    path: tuple[str, ...]
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    now: datetime
    fields: tuple[tuple[str, str], ...] = ()
    document: bytes | None = None
    part_name: str | None = None
    file_name: str | None = None
    content_type: str | None = None
    size: int | None = None
    url: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class SenderOutcome(StrEnum):
    """What became of a recording that brought no audio; a fact to keep, not an error."""

    MISSING = "missing"  # should be here by a CDR or a learned rate, and is not
    FETCHING = "fetching"  # announced; its audio is still to be fetched
    ABSENT = "absent"
    TOO_SHORT = "too_short"
    SILENT = "silent"
    FAILED = "failed"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True)
class Audio:
    """The audio is the body (or the part) of this very request."""

    request: IngestRequest


@dataclass(frozen=True, slots=True)
class Inline:
    """The audio was inside the document."""

    request: IngestRequest
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Later:
    """The audio lies elsewhere and is fetched in the background, from allowed hosts only.

    Attributes:
        url: where; personal or secret parts are possible, so it is only ever kept sealed.
        headers: to send along (a bearer token of this one download); kept sealed.
        credential: name of the source's secret to sign in with (``basic``, ``bearer``), or None.
        encryption: how the audio is wrapped, in the sender's terms, or None.
    """

    request: IngestRequest
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    credential: str | None = None
    encryption: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NoAudio:
    """The sender says that there is none.

    Attributes:
        code: the sender's own code, such as Twilio's ``16102``; never personal.
    """

    request: IngestRequest
    outcome: SenderOutcome
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Nothing to keep; the sender waits for these bytes."""

    body: bytes = b""
    content_type: str = "application/json"
    status: int = 200


Intent = Audio | Inline | Later | NoAudio | Reply


class Adapter(Protocol):
    """One kind of sender."""

    kind: str
    """The source's kind that this adapter reads."""

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Check the sender's own signature, for kinds that have one.

        Raises:
            Unauthenticated: it is missing or wrong.
        """

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """Read a delivery. At most one intent is :class:`Audio`.

        Raises:
            MalformedInput: a delivery without audio that cannot be understood.
            InvalidInput: the same, naming fields.
        """

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """What the sender wants to hear once all intents are durable; None is the usual push answer."""
