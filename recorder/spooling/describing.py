"""What is said of a recording: put together from its file, its name, a call record and a sidecar.

Weakest first, later ones win: the file itself (name and time), the configured fixed values, the call record,
the file name's pattern, the sidecar. Sections (``call``, ``customer``, ``media``, ``notice``, ``extra``) are
joined field by field, lists replaced whole. Of a call record and a file name that both tell the start, the
file name's is the recording's own and wins; the record's numbers win over those in the name, which may be
extensions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Final

from recorder.errors import InvalidInput, RecorderError
from recorder.ingest.adapters.filenames import NameFacts
from recorder.ingest.metadata import lenient_metadata
from recorder.spooling.cdr import Sought

MAX_SIDECAR: Final = 16 * 1024 * 1024
_SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "json": (".json",),
    "siprec": (".xml", ".siprec.xml"),
    "vcon": (".vcon", ".vcon.json"),
}
_CARD: Final = frozenset({"muted", "service_events"})
_FROM_RECORD: Final = ("caller", "callee", "direction", "queue", "agents")


class Undescribable(RecorderError):
    """A sidecar, or what it says must not be heard, cannot be read: pushing without it could do harm."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A metadata file beside the audio, as read."""

    path: bytes
    kind: str
    document: Mapping[str, Any]


SidecarReader = Callable[[bytes, str, datetime], Mapping[str, Any]]
"""From a sidecar's bytes, the audio file's name and its time to metadata; raises RecorderError."""


def printable(path: bytes) -> str:
    r"""A path as text; bytes that are no UTF-8 become ``\xNN``, and so does nothing else."""
    return path.decode("utf-8", "backslashreplace").replace("\x00", "")


def name_of(path: bytes) -> str:
    """The last part of a path, as text."""
    return PurePosixPath(printable(path)).name


def sidecar_paths(path: bytes, kinds: Sequence[str]) -> list[tuple[bytes, str]]:
    """Where a file's sidecar may be, with its kind, best first."""
    folder, slash, name = path.rpartition(b"/")
    stem = name.rpartition(b".")[0]
    bases = [path, folder + slash + stem] if stem else [path]
    return [
        (base + os.fsencode(suffix), kind)
        for kind in ("vcon", "siprec", "json")
        if kind in kinds
        for suffix in _SUFFIXES[kind]
        for base in bases
    ]


def read_sidecar(
    raw: bytes, kind: str, name: str, ended: datetime, readers: Mapping[str, SidecarReader]
) -> Mapping[str, Any]:
    """Read a sidecar.

    Raises:
        Undescribable: It cannot be read.
    """
    try:
        return readers[kind](raw, name, ended)
    except (RecorderError, ValueError, RecursionError):
        raise Undescribable("the sidecar cannot be read", f"sidecar-{kind}-unreadable") from None


def read_json(raw: bytes, _name: str, _ended: datetime) -> Mapping[str, Any]:
    """A sidecar in the form of ``POST /api/v1/recordings``."""
    document = json.loads(raw)
    if not isinstance(document, dict):
        raise ValueError("a sidecar is an object")
    return document


def sought(path: bytes, named: NameFacts | None) -> Sought:
    """What to look a call record up by."""
    name = PurePosixPath(printable(path)).name
    stem = name.rpartition(".")[0] or name
    if named is None:
        return Sought(name, stem)
    return Sought(name, stem, named.uniqueid, named.linkedid)


def describe(
    path: bytes,
    ended: datetime,
    *,
    fixed: Mapping[str, Any],
    record: Mapping[str, Any],
    named: NameFacts | None,
    sidecar: Mapping[str, Any],
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Put everything together into the metadata of a push; see the module for the order.

    Args:
        path: Of the file, relative to the directory.
        ended: The file's time: when its last byte was written, about the end of the call.
        fixed: Configured values.
        record: From the call record.
        named: From the file name.
        sidecar: From the sidecar.
        remarks: Codes of what is missing, such as ``cdr-missing``; they travel in ``extra.spool``.

    Raises:
        Undescribable: Stretches that are not to be heard cannot be read, or there is no usable id.
    """
    name = PurePosixPath(printable(path)).name
    document: dict[str, Any] = {"external_id": (name.rpartition(".")[0] or name)[:256]}
    noted = list(remarks)
    _join(document, fixed)
    _join(document, record)
    if named is not None and named.matched:
        _join(document, {k: v for k, v in named.document.items() if k not in _FROM_RECORD or k not in record})
    elif named is not None:
        noted.append("name-unknown")
    _join(document, sidecar)
    if "started_at" not in document:
        noted.append("started-at-from-file")
        document["started_at"] = ended.astimezone(UTC).isoformat(timespec="seconds")
    try:
        metadata, reasons, unread = lenient_metadata(document, {}, ended.astimezone(UTC))
    except InvalidInput:
        raise Undescribable("no id for this recording", "metadata-invalid") from None
    if _CARD & unread.keys():
        # These may be card data: pushed without, they would be kept.
        raise Undescribable("stretches that are not to be heard cannot be read", "muted-unreadable")
    noted += [reason for reason in reasons if reason != "started-at-estimated"]
    complete = metadata.document()
    own: dict[str, Any] = {"file": printable(path)[:1000]}
    if noted:
        own["remarks"] = noted
    if unread:
        # As text: what could not be used may hold what no document can.
        own["unread"] = json.dumps(unread, default=str)[:10_000]
    extra = complete.setdefault("extra", {})
    extra["spool"] = own
    return complete


def _join(document: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        have = document.get(name)
        if isinstance(have, dict) and isinstance(value, Mapping):
            document[name] = {**have, **value}
        elif value is not None:
            document[name] = dict(value) if isinstance(value, Mapping) else value
