"""A call as a vCon (draft-ietf-vcon-vcon-core), in pieces, so that the audio is never held whole."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

__all__ = ["MEDIA_TYPE", "Dialog", "document", "stream"]

MEDIA_TYPE: Final = "application/vcon"
_SLOT: Final = "\x00body\x00"


@dataclass(frozen=True, slots=True)
class Dialog:
    """The recording of a vCon.

    Attributes:
        parties: index of the party on each channel, None where the channel is silent; or of all on one.
    """

    start: datetime
    duration: float | None
    parties: tuple[int | None, ...]
    mediatype: str
    filename: str


def document(
    recording_id: uuid.UUID,
    created_at: datetime,
    parties: list[Mapping[str, Any]],
    dialog: Dialog | None,
    attachments: list[Mapping[str, Any]],
) -> dict[str, Any]:
    """A vCon with a slot where :func:`stream` puts the audio.

    Args:
        recording_id: tells its UUID (version 8, as the draft wants), always the same for a recording.
        dialog: None where there is no copy of the audio.
    """
    entry: list[dict[str, Any]] = []
    if dialog is not None:
        one: dict[str, Any] = {
            "type": "recording",
            "start": dialog.start.isoformat(),
            "parties": list(dialog.parties),
            "mediatype": dialog.mediatype.split(";", 1)[0],
            "filename": dialog.filename,
            "encoding": "base64url",
            "body": _SLOT,
        }
        if dialog.duration is not None:
            one["duration"] = dialog.duration
        entry.append(one)
    return {
        "uuid": str(_uuid8(recording_id)),
        "created_at": created_at.isoformat(),
        "parties": [dict(party) for party in parties],
        "dialog": entry,
        "attachments": [dict(attachment) for attachment in attachments],
    }


def _uuid8(recording_id: uuid.UUID) -> uuid.UUID:
    number = int.from_bytes(hashlib.sha256(b"vcon:" + recording_id.bytes).digest()[:16])
    number = number & ~(0xF << 76) | 8 << 76
    return uuid.UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


async def stream(vcon: Mapping[str, Any], audio: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    """The JSON text, with the audio as unpadded base64url (RFC 4648 section 5) in its slot."""
    text = json.dumps(vcon, ensure_ascii=False, separators=(",", ":"))
    before, _, after = text.partition(json.dumps(_SLOT))
    yield before.encode()
    if audio is None:
        return
    yield b'"'
    kept = b""
    async for piece in audio:
        kept += piece
        whole = len(kept) - len(kept) % 3
        yield base64.urlsafe_b64encode(kept[:whole])
        kept = kept[whole:]
    yield base64.urlsafe_b64encode(kept).rstrip(b"=")
    yield b'"' + after.encode()
