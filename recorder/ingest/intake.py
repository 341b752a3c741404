"""The bytes of a delivery on their way in: counted, hashed, sniffed, silenced where they must be. No SQL."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from recorder.errors import TooLarge
from recorder.ingest.metadata import RecordingMetadata
from recorder.ingest.request import IngestRequest
from recorder.ingest.silencing import card_spans, destroy_spans, fixed_rate
from recorder.ingest.sniff import HEAD_SIZE, UNKNOWN, Hints, Media, contradictions, sniff
from recorder.metrics import Metrics
from storage.vault import RunningDigest

Chunk = bytes | bytearray


class Arrival:
    """One body. Open it (`begin`), then read what is to be kept (`kept`) to its end.

    Attributes:
        media: of what is kept; known after `begin`.
        received_size: bytes that arrived.
        card_removed: whether card data was destroyed on the way, so that kept and received differ.
    """

    def __init__(
        self,
        request: IngestRequest,
        body: AsyncIterable[Chunk],
        *,
        limit: int,
        source_media: dict[str, Any] | None,
        metrics: Metrics,
    ) -> None:
        self.media: Media = UNKNOWN
        self.received_size = 0
        self.card_removed = False
        self._request = request
        self._limit = limit
        self._metrics = metrics
        self._incoming = self._count(body)
        self._hints = hints_of(request, source_media)
        self._spans = card_spans(request.metadata.silences)
        self._received = hashlib.sha256()
        request.digests.share("sha-256", self._received)
        self._received_media: Media = UNKNOWN
        self._head: list[Chunk] = []

    async def begin(self) -> None:
        """Read the head and tell the media.

        Raises:
            TooLarge: the body is over the limit.
        """
        size = 0
        async for chunk in self._incoming:
            self._head.append(chunk)
            size += len(chunk)
            if size >= HEAD_SIZE:
                break
        self._received_media = self.media = sniff(b"".join(self._head), self._hints)
        self.card_removed = bool(self._spans) and size > 0

    def kept(self) -> AsyncIterator[Chunk]:
        """The bytes to keep, once.

        Raises:
            TooLarge: while iterating, the body is over the limit.
            InvalidInput: card data cannot be destroyed in this kind of audio.
        """
        if not self.card_removed:
            return self._all()
        pieces, self.media = destroy_spans(self._all(), self.media, self._spans)
        return pieces

    async def drain(self) -> None:
        """Read the rest of the body and keep nothing, so that its digest can be compared."""
        async for _ in self._all():
            pass

    @property
    def received_sha256(self) -> bytes:
        """Of what arrived; the last word once the body is read to its end."""
        return self._received.digest()

    @property
    def kept_hasher(self) -> RunningDigest | None:
        """The running SHA-256 of what is kept, where that is what arrives."""
        return None if self.card_removed else self._received

    @property
    def kept_size_known(self) -> int | None:
        """Bytes to keep, if they can be told beforehand."""
        if self.card_removed and fixed_rate(self.media) is None:
            return None
        return self._request.size

    def reasons(self) -> tuple[str, ...]:
        """What the bytes give reason to doubt."""
        if self.received_size == 0:
            return (*self._request.found, "empty")
        if not self._received_media.known:
            return (*self._request.found, "media-unknown")
        # A rate says little of some codecs (Opus names the rate of what was encoded): a remark, no more.
        differ = (
            "sample-rate-differs" if what == "sample_rate" else f"media-differs:{what}"
            for what in contradictions(self._received_media, self._hints)
        )
        return (*self._request.found, *differ)

    def duration_ms(self, kept_size: int) -> int | None:
        """Length of the kept audio where it follows from its size, in milliseconds."""
        rate = fixed_rate(self.media)
        if rate is None:
            return None
        start, announced = rate.start, self.media.data_size
        return rate.duration_ms(kept_size if announced is None else min(kept_size, start + announced))

    async def _count(self, body: AsyncIterable[Chunk]) -> AsyncIterator[Chunk]:
        async for chunk in body:
            self.received_size += len(chunk)
            if self.received_size > self._limit:
                raise TooLarge(f"the recording is over this source's limit of {self._limit} bytes")
            self._received.update(chunk)
            self._request.digests.update(chunk)
            self._metrics.received.inc(len(chunk))
            yield chunk

    async def _all(self) -> AsyncIterator[Chunk]:
        head, self._head = self._head, []
        for chunk in head:
            yield chunk
        async for chunk in self._incoming:
            yield chunk


@dataclass(frozen=True, slots=True)
class Arrived:
    """What is left to know of a body that arrived earlier; the names are those of `Arrival`."""

    media: Media
    received_size: int
    received_sha256: bytes
    card_removed: bool
    duration: int | None

    def duration_ms(self, kept_size: int) -> int | None:
        """Length of the kept audio, in milliseconds, as it was told from its size then."""
        del kept_size
        return self.duration


def hints_of(request: IngestRequest, source_media: dict[str, Any] | None) -> Hints:
    """What surrounds the bytes of a delivery."""
    hints = Hints(extension=request.extension, content_type=request.content_type, source=source_media or None)
    said = request.metadata.media
    if said is None:
        return hints
    return replace(hints, codec=said.codec, sample_rate=said.sample_rate, channels=said.channels)


def counterpart(metadata: RecordingMetadata) -> str | None:
    """The number on the customer's side of the call; None where the direction does not tell."""
    return {"inbound": metadata.caller, "outbound": metadata.callee}.get(metadata.direction or "")
