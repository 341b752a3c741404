"""Readers of sidecars by kind: our own JSON, SIPREC metadata (RFC 7865), vCon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from recorder.ingest.adapters.base import Envelope, Intent, Reply
from recorder.ingest.adapters.common import base_name
from recorder.ingest.adapters.siprec import parse_siprec
from recorder.ingest.adapters.vcon import VconAdapter
from recorder.ingest.request import IngestRequest
from recorder.spooling.describing import SidecarReader, read_json


def read_siprec(raw: bytes, _name: str, _ended: datetime) -> Mapping[str, Any]:
    """SIPREC metadata. The file's own name stays its id: a session may have several files."""
    document = parse_siprec(raw).document()
    document.pop("external_id", None)
    return document


def read_vcon(raw: bytes, name: str, ended: datetime) -> Mapping[str, Any]:
    """What a vCon says of the dialog whose file this is; its only one, where it names none.

    It is not held to be signed: it lies where the audio lies. What the audio is, the file tells.

    Raises:
        ValueError: Several dialogs, and none of this file's name.
        RecorderError: It cannot be read.
    """
    envelope = Envelope(
        method="POST",
        path=(),
        query=(),
        headers={},
        now=ended.astimezone(UTC),
        document=raw,
        settings={"unsigned": True},
    )
    requests = [one for one in map(_request, VconAdapter().read(envelope)) if one is not None]
    named = [one for one in requests if one.file_name is not None and base_name(one.file_name) == name]
    chosen = named or requests
    if len(chosen) != 1:
        raise ValueError("no single dialog is this file's")
    document = chosen[0].metadata.document()
    document.pop("external_id", None)
    if "started-at-estimated" in chosen[0].reasons:
        document.pop("started_at", None)
    return document


def _request(intent: Intent) -> IngestRequest | None:
    return None if isinstance(intent, Reply) else intent.request


READERS: Final[Mapping[str, SidecarReader]] = {
    "json": read_json,
    "siprec": read_siprec,
    "vcon": read_vcon,
}
"""By kind, as the configuration names them."""
