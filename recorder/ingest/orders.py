"""An order to fetch as JSON, and back; it is kept sealed only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recorder.ingest.adapters.base import Later
from recorder.ingest.digests import DigestCheck
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.request import IngestRequest

_PLAIN = ("extension", "content_type", "file_name")


def order_document(intent: Later) -> dict[str, Any]:
    """Everything of an intent, as JSON."""
    request = intent.request
    return {
        "url": intent.url,
        "headers": dict(intent.headers),
        "credential": intent.credential,
        "encryption": None if intent.encryption is None else dict(intent.encryption),
        "metadata": request.metadata.document(),
        "reasons": list(request.reasons),
        "estimated": list(request.estimated),
        "unparsed": dict(request.unparsed),
        "digests": [[header, name, digest.hex()] for header, name, digest in request.digests.announced],
        **{name: getattr(request, name) for name in _PLAIN},
    }


def order_intent(document: Mapping[str, Any]) -> Later:
    """What :func:`order_document` wrote, with fresh hashers for its digests."""
    announced = [(str(h), str(n), bytes.fromhex(d)) for h, n, d in document["digests"]]
    request = IngestRequest(
        metadata=RecordingMetadata.model_validate(document["metadata"]),
        strict=False,
        reasons=tuple(document["reasons"]),
        estimated=tuple(document["estimated"]),
        unparsed=document["unparsed"],
        digests=DigestCheck.expecting(announced),
        **{name: document[name] for name in _PLAIN},
    )
    return Later(
        request,
        url=document["url"],
        headers=document["headers"],
        credential=document["credential"],
        encryption=document["encryption"],
    )
