"""What there is to know of a spooled delivery, and its form on disk. Pure; see `storage.spool`."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from struct import Struct
from typing import Any, Final
from uuid import UUID

from storage.errors import TamperedObject
from storage.keys import epoch_under_controller
from storage.sealed import object_aad, sealed_size
from storage.wraps import bind, derive, open_wrap, seal_wrap

_MAGIC: Final = Struct(">4sBI")
_NAME: Final = b"TSPL"
_VERSION: Final = 1
_ROLE: Final = "spooled"


@dataclass(frozen=True, slots=True)
class SpooledAudio:
    """The audio of a delivery that has arrived whole: plaintext size in bytes and digest."""

    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """What is kept beside the audio.

    Attributes:
        identity: keyed digest under which the same delivery is recognised; stands in the clear.
        digest: SHA-256 of the bytes received; stands in the clear.
        received_at: when they had all arrived.
        document: everything else; JSON, sealed.
    """

    identity: bytes
    digest: bytes
    received_at: datetime
    document: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SpoolItem:
    """One delivery in the spool, as its clear header tells.

    Attributes:
        id: random id given by whoever added it.
        name: of its files; sorts in the order of arrival.
        controller_id: whose key it is sealed under.
        epoch: of that key.
        size: of the plaintext, in bytes.
        stored: bytes on disk, envelope included.
    """

    id: UUID
    name: str
    controller_id: str
    epoch: int
    identity: bytes
    digest: bytes
    sha256: bytes
    size: int
    received_at: datetime
    stored: int


def key_label(item_id: UUID) -> str:
    """Under which label a delivery's key is sealed."""
    return f"spool:{item_id}"


def audio_aad(item_id: UUID) -> bytes:
    """What binds sealed audio to its delivery."""
    return object_aad(item_id, _ROLE)


def audio_key(key: bytes) -> bytes:
    """The key of a delivery's audio."""
    return derive(key, bind("tallenne.spool.audio"))


def clear_header(item_id: UUID, controller_id: str, wrapped: bytes, audio: SpooledAudio, note: Note) -> bytes:
    """The header that needs no key: random ids, keyed digests, sizes and times."""
    return json.dumps(
        {
            "id": str(item_id),
            "controller": controller_id,
            "identity": note.identity.hex(),
            "digest": note.digest.hex(),
            "sha256": audio.sha256.hex(),
            "size": audio.size,
            "received_at": note.received_at.astimezone(UTC).isoformat(timespec="microseconds"),
            "key": base64.b64encode(wrapped).decode("ascii"),
        }
    ).encode("ascii")


def seal_envelope(key: bytes, header: bytes, document: dict[str, Any]) -> bytes:
    """The bytes of an envelope; the header is bound to the sealed document."""
    sealed = seal_wrap(
        derive(key, bind("tallenne.spool.envelope")),
        json.dumps(document, separators=(",", ":")).encode(),
        bind("tallenne.spool.envelope", header),
    )
    return _MAGIC.pack(_NAME, _VERSION, len(header)) + header + sealed


def open_envelope(key: bytes, header: bytes, sealed: bytes) -> dict[str, Any]:
    """The document that :func:`seal_envelope` sealed beside this header.

    Raises:
        TamperedObject: it is not what was written, or another one's.
    """
    opened = open_wrap(
        derive(key, bind("tallenne.spool.envelope")),
        sealed,
        bind("tallenne.spool.envelope", header),
        what="a spooled envelope",
    )
    document: dict[str, Any] = json.loads(opened)
    return document


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Header and sealed part of an envelope.

    Raises:
        TamperedObject: it is torn, or no envelope.
    """
    if len(raw) < _MAGIC.size:
        raise TamperedObject("a spooled envelope is torn")
    name, version, length = _MAGIC.unpack_from(raw)
    if name != _NAME or version != _VERSION or len(raw) < _MAGIC.size + length:
        raise TamperedObject("a spooled envelope is torn or of an unknown version")
    header = raw[_MAGIC.size : _MAGIC.size + length]
    return header, raw[_MAGIC.size + length :]


def item_of(name: str, header: bytes, envelope: int) -> SpoolItem:
    """A delivery as its header tells it.

    Raises:
        TamperedObject: the header cannot be read, or lies under another name.
    """
    try:
        told = json.loads(header)
        size = int(told["size"])
        wrapped = base64.b64decode(told["key"], validate=True)
        item = SpoolItem(
            id=UUID(told["id"]),
            name=name,
            controller_id=str(told["controller"]),
            epoch=epoch_under_controller(wrapped),
            identity=bytes.fromhex(told["identity"]),
            digest=bytes.fromhex(told["digest"]),
            sha256=bytes.fromhex(told["sha256"]),
            size=size,
            received_at=datetime.fromisoformat(told["received_at"]),
            stored=sealed_size(size) + envelope,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise TamperedObject("the header of a spooled envelope cannot be read") from error
    if item.received_at.tzinfo is None or name.partition("-")[2] != item.id.hex:
        raise TamperedObject("a spooled envelope lies under another name")
    return item
