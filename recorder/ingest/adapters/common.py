"""What adapters share: names, lenient requests, and text that came as something else."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from recorder.ingest.adapters.base import Envelope
from recorder.ingest.metadata import MAX_EXTERNAL_ID, lenient_metadata
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import extension_of

MAX_LEG: Final = 64
_UNIX: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_CODE: Final = re.compile(r"[^\w.:#-]+")


def storable(text: str) -> str:
    """Text without what no database keeps: NUL, and lone surrogates (bytes that were no UTF-8)."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def bounded(text: str, limit: int) -> str:
    """A name within a limit that stays the same for the same name, and another for another."""
    text = storable(text)
    if len(text) <= limit:
        return text
    return text[: limit - 33] + "~" + hashlib.sha256(text.encode()).hexdigest()[:32]


def base_name(file_name: str) -> str:
    """The last part of a file name, however its system separates directories."""
    return storable(file_name).replace("\\", "/").rstrip("/").rpartition("/")[2]


def named(envelope: Envelope) -> tuple[str, str | None, tuple[str, ...]]:
    """The external id of a delivery, its audio extension, and reasons where the id was made up.

    The path names a recording, else the parameter or field ``external_id``, else the file. One that nothing
    names is kept under the time of its arrival, for a person to look at.
    """
    by_path = "/".join(envelope.path)
    pairs = (*envelope.query, *envelope.fields)
    given = first(pairs, "external_id") or _inside(first(pairs, "metadata"))
    file_name = None if envelope.file_name is None else base_name(envelope.file_name)
    name = by_path or given or file_name or ""
    external_id, extension = extension_of(storable(name))
    if extension is None and file_name is not None:
        extension = extension_of(file_name)[1]
    if not external_id.strip():
        made_up = f"unnamed-{envelope.now.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"
        return made_up, extension, ("metadata-invalid:external_id",)
    return bounded(external_id, MAX_EXTERNAL_ID), extension, ()


def _inside(document: str | None) -> str | None:
    """The external id of a ``metadata`` parameter."""
    try:
        read = None if document is None else json.loads(document)
    except (ValueError, RecursionError):
        return None
    found = read.get("external_id") if isinstance(read, dict) else None
    return found if isinstance(found, str) else None


def first(pairs: Iterable[tuple[str, str]], name: str) -> str | None:
    """The first value of a name, or None."""
    return next((value for key, value in pairs if key == name), None)


def lenient_request(
    envelope: Envelope,
    document: dict[str, Any],
    *,
    reasons: Iterable[str] = (),
    unparsed: Mapping[str, Any] | None = None,
    extension: str | None = None,
) -> IngestRequest:
    """A request of the best that can be made of a metadata document."""
    metadata, found, rest = lenient_metadata(document, dict(unparsed or {}), envelope.now)
    request = IngestRequest(
        metadata=metadata,
        strict=False,
        reasons=tuple(dict.fromkeys((*reasons, *found))),
        estimated=("started_at",) if "started-at-estimated" in found else (),
        unparsed=rest,
    )
    return about_audio(envelope, request, extension=extension)


def about_audio(envelope: Envelope, request: IngestRequest, *, extension: str | None = None) -> IngestRequest:
    """A request with what the envelope says of the audio."""
    name = envelope.file_name
    if extension is None and name is not None:
        extension = extension_of(base_name(name))[1]
    return replace(
        request,
        extension=extension,
        content_type=envelope.content_type,
        file_name=None if name is None else storable(name)[:256],
        size=envelope.size,
    )


def unix_time(text: str) -> datetime | None:
    """Unix seconds with or without a fraction; None where it is nothing like that."""
    if _UNIX.fullmatch(text.strip()) is None:
        return None
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def code(text: str) -> str | None:
    """Text as a code for lists and filters; None where nothing is left."""
    return _CODE.sub("_", storable(text)).strip("_")[:64] or None
