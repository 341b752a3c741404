"""Raw bodies and multipart forms whose path, query and fields say what they are.

The kinds ``generic`` and ``spool``, FreeSWITCH (``mod_http_cache`` and ``mod_httapi``) and Kazoo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recorder.errors import InvalidInput
from recorder.ingest.adapters.base import Audio, Envelope, Intent, Reply
from recorder.ingest.adapters.common import about_audio, named
from recorder.ingest.metadata import metadata_from_query
from recorder.ingest.request import IngestRequest

_OF_THE_FRAME = frozenset({"dry_run", "external_id"})


def pairs_of(envelope: Envelope) -> list[tuple[str, str]]:
    """Query and fields as one list, without what is no metadata."""
    return [(n, v) for n, v in (*envelope.query, *envelope.fields) if n not in _OF_THE_FRAME]


def read_raw(envelope: Envelope) -> IngestRequest:
    """The request of a delivery that says what it is in path, query and fields."""
    external_id, extension, made_up = named(envelope)
    metadata, reasons, unparsed = metadata_from_query(external_id, pairs_of(envelope), now=envelope.now)
    request = IngestRequest(
        metadata=metadata,
        strict=False,
        reasons=(*made_up, *reasons),
        estimated=("started_at",) if "started-at-estimated" in reasons else (),
        unparsed=unparsed,
    )
    return about_audio(envelope, request, extension=extension)


def no_audio(what: str) -> InvalidInput:
    """The refusal of a delivery that brings no audio, so that its sender keeps what it has."""
    return InvalidInput(f"no audio came: {what}; nothing was kept")


@dataclass(slots=True)
class RawAdapter:
    """Audio in the body or in a part; everything else is told by path, query and fields."""

    kind: str

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Nothing is signed."""
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording.

        Raises:
            InvalidInput: no audio came.
        """
        if envelope.document is not None:
            raise no_audio("send it as the body, or as a part of multipart/form-data")
        return (Audio(read_raw(envelope)),)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """The usual answer."""
        del envelope, intents
        return None
