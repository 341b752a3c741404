"""From ``Upload-Metadata`` to the pipeline's request, kept as sealed JSON until its bytes are here."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from recorder.errors import FieldError, InvalidInput
from recorder.ingest.digests import DigestCheck
from recorder.ingest.metadata import RecordingMetadata, metadata_from_query, parse_metadata
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import extension_of

SEALED_AS: Final = "upload.request"
"""``resumable_uploads.sealed``: what `Asked.document` gives, under the upload's own subject."""
# What upload clients call the file's name and type.
_NAMES: Final = ("filename", "name")
_TYPES: Final = ("filetype", "type", "content_type")
_IDLE: Final = frozenset({*_NAMES, *_TYPES, "relativePath", "is_confidential"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What a source asks for when it creates an upload.

    Attributes:
        header: ``Upload-Metadata`` as sent, to be answered by HEAD.
        request: for the pipeline; None for a part, which has no call yet.
    """

    header: str | None
    request: IngestRequest | None

    def document(self) -> dict[str, Any]:
        """As JSON, to be sealed."""
        document: dict[str, Any] = {"header": self.header}
        if (request := self.request) is None:
            return document
        document["request"] = {
            "metadata": request.metadata.document(),
            "reasons": list(request.reasons),
            "estimated": list(request.estimated),
            "unparsed": dict(request.unparsed),
            "extension": request.extension,
            "content_type": request.content_type,
            "file_name": request.file_name,
            "digests": [
                [name, algorithm, base64.b64encode(digest).decode()]
                for name, algorithm, digest in request.digests.announced
            ],
        }
        return document

    @classmethod
    def of(cls, document: dict[str, Any], *, size: int | None) -> Asked:
        """Read it back.

        Args:
            size: bytes of the whole upload.
        """
        said = document.get("request")
        if said is None:
            return cls(document["header"], None)
        digests = [(n, f"{a}=:{d}:") for n, a, d in said["digests"]]
        request = IngestRequest(
            metadata=RecordingMetadata.model_validate(said["metadata"]),
            strict=False,
            reasons=tuple(said["reasons"]),
            estimated=tuple(said["estimated"]),
            unparsed=said["unparsed"],
            extension=said["extension"],
            content_type=said["content_type"],
            file_name=said["file_name"],
            size=size,
            digests=DigestCheck.from_fields(digests),
        )
        return cls(document["header"], request)


def ask(
    header: str | None,
    pairs: Sequence[tuple[str, bytes]],
    *,
    digests: DigestCheck,
    now: datetime,
    reasons: Sequence[str] = (),
) -> Asked:
    """Read what an upload says of its recording.

    The key ``metadata`` holds the JSON document of a push, which has to be right. Without it, each key is
    what a parameter of a raw push is, and what cannot be used is kept and named in the reasons.

    Args:
        digests: of the whole recording, as announced.
        reasons: what is known against it already.

    Raises:
        InvalidInput: no id of the recording, or a document that cannot be used.
    """
    texts = [(key, value.decode(errors="replace").replace("\x00", "")) for key, value in pairs]
    given = dict(texts)
    file_name = next((given[n][:256] for n in _NAMES if given.get(n)), None)
    content_type = next((given[n][:100] for n in _TYPES if given.get(n)), None)
    stem, extension = (None, None) if file_name is None else extension_of(file_name)
    found: tuple[str, ...] = ()
    unparsed: dict[str, Any] = {}
    if "metadata" in given:
        if odd := sorted(given.keys() - _IDLE - {"metadata"}):
            fields = [
                FieldError(f"/{key[:60]}", "belongs into the document of the key metadata") for key in odd
            ]
            raise InvalidInput("beside the key metadata only file name and type are taken", fields=fields)
        metadata = parse_metadata(dict(pairs)["metadata"])
    else:
        external_id = given.pop("external_id", None) or stem
        if not external_id:
            field = FieldError("/external_id", "give the key external_id, filename or metadata")
            raise InvalidInput(f"{field.path}: {field.message}", fields=[field])
        said = [(key, value) for key, value in texts if key not in _IDLE and key != "external_id"]
        metadata, found, unparsed = metadata_from_query(external_id, said, now=now)
    request = IngestRequest(
        metadata=metadata,
        strict=False,
        reasons=tuple(dict.fromkeys((*found, *reasons))),
        estimated=("started_at",) if "started-at-estimated" in found else (),
        unparsed=unparsed,
        extension=extension,
        content_type=content_type,
        file_name=file_name,
        digests=digests,
    )
    return Asked(header, request)
