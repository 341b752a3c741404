"""The copy of a call that a person gets: its audio (GDPR art. 15(3)), through pipes, never in a plain file.

Where the decision says so the agent's side is silent (art. 15(4)). Which channel is whose comes from the
recording's metadata and is never guessed: where the voices cannot be told apart, no copy is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import ObjectRole
from recorder.catalogue.tables import Recording
from recorder.playback import editing, ffmpeg
from recorder.playback.editing import Layout
from recorder.playback.media import OGG_OPUS, Input, content_type_of, input_of, is_playable, pcm_layout
from recorder.playback.objects import living_objects, stored_object
from recorder.playback.spans import CARD_SECURITY, read_spans
from recorder.services import Services
from storage.vault import StoredObject

__all__ = ["Copy", "opened", "plan"]

_CUSTOMER: Final = "customer"
_OGG: Final[Mapping[str, Any]] = {"container": "ogg", "codec": "opus"}
_SUFFIXES: Final = {
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/webm": "webm",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
}


@dataclass(frozen=True, slots=True)
class Copy:
    """How one copy is made.

    Attributes:
        source: the sealed object; None where there is no copy, and ``withheld`` says why.
        content_type: of the copy.
        decoding: how it is decoded; None where the bytes are handed out as they are.
        silent: channels that are silenced.
        withheld: ``withheld`` (the voices cannot be separated) or ``missing`` (it cannot be read).
    """

    source: StoredObject | None
    content_type: str = ""
    decoding: Input | None = None
    layout: Layout | None = None
    silent: tuple[int, ...] = ()
    withheld: str | None = None

    @property
    def suffix(self) -> str:
        """The file name's ending."""
        return _SUFFIXES.get(self.content_type.split(";", 1)[0], "bin")


async def plan(session: AsyncSession, recording: Recording, *, mute_agent: bool, degraded: bool) -> Copy:
    """How the copy of a recording is made.

    Args:
        mute_agent: only the customer's own voice is handed out.
        degraded: its audio could not be decoded on an earlier try.
    """
    objects = await living_objects(session, recording.id)
    spans = read_spans(recording.muted, card_data_removed=recording.card_data_removed)
    # A card security code that is still in the original is for nobody (PCI DSS 3.3.1).
    card = any(span.reason == CARD_SECURITY for span in spans)
    role = ObjectRole.REDACTED if card or ObjectRole.ORIGINAL not in objects else ObjectRole.ORIGINAL
    if role not in objects:
        return Copy(None, withheld="missing")
    source = stored_object(*objects[role])
    media = recording.media if role is ObjectRole.ORIGINAL else {**recording.media, **_OGG}
    as_is = content_type_of(media) if role is ObjectRole.ORIGINAL else OGG_OPUS
    decoding, layout = input_of(media), pcm_layout(media)
    if mute_agent:
        silent = others_channels(recording.channels, media.get("channels"))
        if silent is None or degraded or decoding is None:
            return Copy(None, withheld="withheld" if silent is None else "missing")
        if silent:
            return Copy(source, OGG_OPUS, decoding, layout, silent)
    if is_playable(media) or decoding is None or degraded:
        return Copy(source, as_is)
    return Copy(source, OGG_OPUS, decoding, layout)


def others_channels(parties: Sequence[Mapping[str, Any]], channels: object) -> tuple[int, ...] | None:
    """The channels that are not the customer's; None where that cannot be said for every channel."""
    names = [str(entry.get("party") or "") for entry in parties]
    if not names or len(names) != channels or len(names) > 2 or _CUSTOMER not in names or "mixed" in names:
        return None
    return tuple(number for number, name in enumerate(names) if name != _CUSTOMER)


@asynccontextmanager
async def opened(services: Services, copy: Copy) -> AsyncIterator[AsyncIterator[bytes]]:
    """The copy's bytes.

    Raises:
        MediaError: it cannot be decoded; on entering or while iterating.
        storage.errors.StorageError: the stored bytes are gone, altered, or out of reach.
    """
    if copy.source is None:
        raise ValueError("there is no copy of this recording")
    async with services.vault.read(copy.source) as source:
        if copy.decoding is None or copy.layout is None:
            yield source
        elif not copy.silent:
            async with ffmpeg.transcode(source, copy.decoding, copy.layout) as pieces:
                yield pieces
        else:
            async with (
                ffmpeg.decode(source, copy.decoding, copy.layout) as pcm,
                ffmpeg.encode(_silenced(pcm, copy.layout, copy.silent), copy.layout) as pieces,
            ):
                yield pieces


async def _silenced(
    pcm: AsyncIterator[bytes], layout: Layout, channels: Sequence[int]
) -> AsyncIterator[bytes]:
    kept = bytearray()
    async for piece in pcm:
        kept += piece
        usable = len(kept) - len(kept) % layout.frame_bytes
        frames = bytes(kept[:usable])
        del kept[:usable]
        if frames:
            yield await asyncio.to_thread(editing.silence_channels, frames, layout, channels)
