"""Readers of sidecars by kind: our own JSON, SIPREC metadata (RFC 7865), vCon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from recorder.ingest.adapters.siprec import parse_siprec
from recorder.spooling.describing import SidecarReader, read_json


def read_siprec(raw: bytes, _name: str, _ended: datetime) -> Mapping[str, Any]:
    """SIPREC metadata. The file's own name stays its id: a session may have several files."""
    document = parse_siprec(raw).document()
    document.pop("external_id", None)
    return document


READERS: Final[Mapping[str, SidecarReader]] = {"json": read_json, "siprec": read_siprec}
