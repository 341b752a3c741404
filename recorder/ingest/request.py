"""What an adapter makes of a delivery, and what the pipeline makes of that."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from recorder.catalogue.enums import RecordingState
from recorder.ingest.digests import DigestCheck
from recorder.ingest.metadata import RecordingMetadata

# Reasons that put a recording into quarantine, by the part before the colon. Any other reason is a remark.
QUARANTINING: Final = frozenset(
    {
        "conflict",  # other bytes under an identity that is taken
        "digest-mismatch",  # not the bytes that the sender announced
        "empty",
        "media-differs",  # the bytes are not what the metadata says
        "media-undecodable",
        "media-unknown",
        "metadata-invalid",  # metadata-invalid:<field>
        "signature-invalid",  # what was signed was changed
        "signature-untrusted",  # by somebody whom the operator does not trust
        "vcon-unsigned",
    }
)


def quarantines(reasons: tuple[str, ...] | list[str]) -> bool:
    """Whether any of the reasons puts a recording into quarantine."""
    return any(reason.split(":", 1)[0] in QUARANTINING for reason in reasons)


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """One delivery, ready for the pipeline.

    Attributes:
        metadata: as sent, or the best that could be made of it.
        strict: refuse what is wrong (the API) instead of keeping it in quarantine (PUT, adapters).
        reasons: codes of what is known to be wrong, or was made up, already.
        estimated: names of metadata fields that the service filled in; never compared.
        unparsed: what could not be used; sealed beside the metadata.
        extension: audio extension of the file name or URL, without the dot.
        content_type: as the sender declared it.
        file_name: as the sender wrote it; personal, sealed.
        size: bytes to come, if the sender said so in a way that can be relied on.
        digests: announced digests of the audio.
        idempotency_key: the ``Idempotency-Key`` of the request.
        sent_at: the sender's clock, from the ``Date`` field.
        found: codes of what came to light while the body came; filled by whoever reads it.
    """

    metadata: RecordingMetadata
    strict: bool = True
    reasons: tuple[str, ...] = ()
    estimated: tuple[str, ...] = ()
    unparsed: Mapping[str, Any] = field(default_factory=dict)
    extension: str | None = None
    content_type: str | None = None
    file_name: str | None = None
    size: int | None = None
    digests: DigestCheck = field(default_factory=DigestCheck)
    idempotency_key: str | None = None
    sent_at: datetime | None = None
    found: list[str] = field(default_factory=list)

    def sealed_document(self) -> dict[str, Any]:
        """What is sealed of the recording's metadata."""
        document = self.metadata.document()
        if self.file_name is not None:
            document["_file_name"] = self.file_name
        if self.estimated:
            document["_estimated"] = list(self.estimated)
        if self.unparsed:
            document["_unparsed"] = dict(self.unparsed)
        return document


class OutcomeKind(StrEnum):
    """What became of a delivery."""

    CREATED = "created"
    REPEATED = "repeated"
    CONFLICT = "conflict"
    ERASED = "erased"
    SPOOLED = "spooled"  # durable on local disk; it becomes one of the others when it is drained


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a delivery, before it becomes HTTP.

    Attributes:
        recording_id: None in a dry run that found nothing stored.
        sha256: of the kept original.
        size: of the kept original, in bytes.
        customer: ``{status, id, matched_by, candidates}``.
        retention: the decision in its JSON form, or None in a dry run.
        receipt: compact JWS, or None in a dry run.
        differences: JSON pointers of metadata in which a repeat differs from the first delivery.
    """

    kind: OutcomeKind
    recording_id: uuid.UUID | None
    call_id: uuid.UUID | None
    state: RecordingState
    reasons: tuple[str, ...]
    sha256: bytes
    size: int
    media: dict[str, Any]
    customer: dict[str, Any]
    retention: dict[str, Any] | None
    receipt: str | None
    differences: tuple[str, ...] = ()
