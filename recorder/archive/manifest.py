"""What is known of old recordings: a manifest in CSV or NDJSON, or file names alone. Pure.

CSV has a header; ``file`` is required, ``sha256`` (hexadecimal) is compared, the other columns are the
parameters of a raw push (``started_at``, ``from``, ``number``, ``queue``, …). NDJSON has one object a line,
with ``file``, and beside it the metadata of a push, or a ``metadata`` object. Times may lack their offset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from recorder.errors import InvalidInput
from recorder.ingest.adapters.filenames import FileNames
from recorder.ingest.digests import DigestCheck
from recorder.ingest.metadata import (
    MAX_EXTERNAL_ID,
    RecordingMetadata,
    lenient_metadata,
    metadata_from_query,
)
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import extension_of
from recorder.tabular import read_csv, read_ndjson

Layout = Literal["csv", "ndjson"]
IMPORTED: Final = "imported"
"""Tag of every recording that was brought in from an archive."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recording of the archive.

    Attributes:
        key: digest of what the manifest says, under which the journal knows it; not personal.
        file: path or key below the archive's root, as the manifest writes it; personal.
        request: to the pipeline; its size is filled in when the file is opened.
    """

    line: int
    key: str
    file: str = field(repr=False)
    request: IngestRequest = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A line that names no recording, and why; never with its values."""

    line: int
    reason: str


def read_manifest(
    lines: Iterable[str],
    layout: Layout,
    *,
    now: datetime,
    names: FileNames | None = None,
    zone: ZoneInfo | None = None,
) -> Iterator[Entry | Unusable]:
    """Read a manifest.

    Args:
        lines: Of the file, each with its end.
        layout: CSV with a header, or one JSON object a line.
        now: Stands in for a start that is told nowhere; the recording is flagged.
        names: Reads what the manifest leaves out from the file's name.
        zone: Of times that carry no offset; without it they are refused.
    """
    reading: Iterator[tuple[int, Mapping[str, Any] | str]]
    reading = read_csv(lines) if layout == "csv" else read_ndjson(lines)
    for number, values in reading:
        if isinstance(values, str):
            yield Unusable(number, values)
        else:
            yield _entry(number, _zoned(values, zone), now, names)


def read_names(files: Iterable[str], *, now: datetime, names: FileNames) -> Iterator[Entry | Unusable]:
    """Make entries of file names alone."""
    for number, name in enumerate(files, 1):
        yield _entry(number, {"file": name}, now, names)


def _zoned(values: Mapping[str, Any], zone: ZoneInfo | None) -> Mapping[str, Any]:
    """The same, with offsets where a time has none."""
    found = dict(values)
    for name in ("started_at", "ended_at"):
        value = found.get(name)
        if zone is None or not isinstance(value, str):
            continue
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            continue  # the pipeline says what is wrong with it
        if at.tzinfo is None:
            found[name] = at.replace(tzinfo=zone).isoformat()
    return found


def _entry(
    number: int, values: Mapping[str, Any], now: datetime, names: FileNames | None
) -> Entry | Unusable:
    file = values.get("file")
    if not isinstance(file, str) or not file.strip() or "\x00" in file or len(file) > 1024:
        return Unusable(number, "it names no file")
    digest = values.get("sha256")
    try:
        announced = None if digest in (None, "") else bytes.fromhex(str(digest))
    except ValueError:
        announced = b""
    if announced is not None and len(announced) != 32:
        return Unusable(number, "its sha256 is not 64 hexadecimal digits")
    stem, extension = extension_of(PurePosixPath(file.replace("\\", "/")).name)
    try:
        metadata, reasons, unparsed = _metadata(stem, values, now, names, file)
    except InvalidInput as error:
        return Unusable(number, error.message)
    if IMPORTED not in metadata.tags:
        metadata = metadata.model_copy(update={"tags": [*metadata.tags, IMPORTED]})
    request = IngestRequest(
        metadata=metadata,
        strict=False,
        reasons=reasons,
        estimated=("started_at",) if "started-at-estimated" in reasons else (),
        unparsed=unparsed,
        extension=extension,
        file_name=PurePosixPath(file.replace("\\", "/")).name[:256],
    )
    canonical = json.dumps(values, sort_keys=True, default=str, ensure_ascii=True)
    key = hashlib.sha256(canonical.encode()).hexdigest()
    return Entry(number, key, file, _expecting(request, announced))


def _expecting(request: IngestRequest, announced: bytes | None) -> IngestRequest:
    if announced is None:
        return request
    return replace(request, digests=DigestCheck.expecting([("sha256", "sha-256", announced)]))


def _metadata(
    stem: str, values: Mapping[str, Any], now: datetime, names: FileNames | None, file: str
) -> tuple[RecordingMetadata, tuple[str, ...], dict[str, Any]]:
    said = {name: value for name, value in values.items() if name not in ("file", "sha256")}
    from_name = {} if names is None else dict(names.read(file).document)
    external_id = str(said.pop("external_id", from_name.get("external_id", stem)))[:MAX_EXTERNAL_ID]
    if all(isinstance(value, str) for value in said.values()):
        pairs = [(name, value) for name, value in said.items() if value.strip()]
        if from_name:
            # What the manifest says comes first; the name fills in what it leaves out.
            pairs.append(("metadata", json.dumps(from_name, default=_text)))
        return metadata_from_query(external_id, pairs, now=now)
    nested = said.pop("metadata", {})
    document = {
        **from_name,
        **said,
        **(nested if isinstance(nested, dict) else {}),
        "external_id": external_id,
    }
    return lenient_metadata(document, {}, now)


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
