"""Bodies of pushes, read as streams: the parts of a multipart request, and raw ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from multidict import CIMultiDictProxy, MultiMapping

from recorder.errors import FieldError, InvalidInput, MalformedInput, TooLarge, UnsupportedMediaType

_CHUNK: Final = 256 * 1024
_IDENTITY: Final = frozenset({"", "identity"})
_TRANSPARENT: Final = frozenset({"", "binary", "8bit", "7bit"})
_BROKEN: Final = (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, aiohttp.http.HttpProcessingError)


@dataclass(frozen=True, slots=True)
class Part:
    """The audio part of a push.

    Attributes:
        size: its length in bytes, where its own Content-Length says so.
    """

    headers: MultiMapping[str]
    file_name: str | None
    content_type: str | None
    size: int | None
    chunks: AsyncIterator[bytes]


async def read_push(request: web.Request, *, metadata_limit: int, idle: float) -> tuple[bytes, Part]:
    """Read the ``metadata`` part of a push and open its ``audio`` part.

    Args:
        metadata_limit: most bytes of metadata.
        idle: seconds without a byte after which the body is given up.

    Raises:
        UnsupportedMediaType: it is not multipart/form-data.
        MalformedInput: its parts cannot be read.
        InvalidInput: a part is missing, or they come in another order.
        TooLarge: the metadata is over the limit.
    """
    if not request.content_type.startswith("multipart/"):
        raise UnsupportedMediaType("send multipart/form-data with the parts metadata and audio")
    refuse_encoding(request.headers)
    reader = await _multipart(request)
    first = await _next(reader, idle)
    if first is None or first.name != "metadata":
        raise _missing("metadata", "send the part metadata (JSON) first")
    raw = bytearray()
    async for chunk in _chunks(first, idle):
        raw += chunk
        if len(raw) > metadata_limit:
            raise TooLarge(f"the metadata is over {metadata_limit} bytes")
    audio = await _next(reader, idle)
    if audio is None or audio.name != "audio":
        raise _missing("audio", "send the part audio after the part metadata")
    return bytes(raw), _audio(reader, audio, idle)


def _audio(reader: MultipartReader, part: BodyPartReader, idle: float) -> Part:
    size = _announced(part)
    return Part(
        headers=part.headers,
        file_name=part.filename,
        content_type=part.headers.get(hdrs.CONTENT_TYPE),
        size=size,
        chunks=_to_the_end(reader, part, size, idle),
    )


class PartReader:
    """The parts of a multipart body, one after another, whatever their names and order."""

    def __init__(self, reader: MultipartReader, idle: float) -> None:
        self._reader, self._idle = reader, idle

    @classmethod
    async def open(cls, request: web.Request, *, idle: float) -> PartReader:
        """Begin to read a multipart request.

        Raises:
            MalformedInput: it has no boundary that can be read.
        """
        return cls(await _multipart(request), idle)

    async def next(self) -> BodyPartReader | None:
        """The next part; None at the closing boundary.

        Raises:
            MalformedInput: the body broke off or stalled, or its parts cannot be read.
            UnsupportedMediaType: the part is encoded.
        """
        return await _next(self._reader, self._idle)

    async def content(self, part: BodyPartReader, limit: int) -> bytes:
        """All of a small part.

        Raises:
            TooLarge: it is over the limit.
            MalformedInput: it broke off or stalled.
        """
        raw = bytearray()
        try:
            # The whole of it, so that a sender that drips holds nothing for longer.
            async with asyncio.timeout(self._idle):
                async for chunk in _chunks(part, self._idle):
                    raw += chunk
                    if len(raw) > limit:
                        raise TooLarge("what surrounds the audio is over the limit of metadata")
        except TimeoutError:
            raise _stalled() from None
        return bytes(raw)

    def audio(self, part: BodyPartReader) -> Part:
        """A part as audio. Only the part after it, or the closing boundary, proves that it is whole."""
        size = _announced(part)
        return Part(
            headers=part.headers,
            file_name=part.filename,
            content_type=part.headers.get(hdrs.CONTENT_TYPE),
            size=size,
            chunks=_counted(part, size, self._idle),
        )


async def _multipart(request: web.Request) -> MultipartReader:
    try:
        return await request.multipart()
    except (ValueError, AssertionError):
        raise MalformedInput("the multipart body cannot be read") from None


def _announced(part: BodyPartReader) -> int | None:
    # RFC 7578 deprecates a part's Content-Length and aiohttp does not read by it; where it is given it
    # spares a store the multipart upload, so it is believed and checked.
    length = part.headers.get(hdrs.CONTENT_LENGTH, "")
    return int(length) if length.isdecimal() and len(length) < 16 else None


async def _counted(part: BodyPartReader, size: int | None, idle: float) -> AsyncIterator[bytes]:
    seen = 0
    async for chunk in _chunks(part, idle):
        seen += len(chunk)
        if size is not None and seen > size:
            raise _broken()
        yield chunk
    if size is not None and seen != size:
        raise _broken()


async def _to_the_end(
    reader: MultipartReader, part: BodyPartReader, size: int | None, idle: float
) -> AsyncIterator[bytes]:
    async for chunk in _counted(part, size, idle):
        yield chunk
    # The closing boundary proves that the part is whole.
    if await _next(reader, idle) is not None:
        raise InvalidInput(
            "the push has a part after audio",
            fields=[FieldError("", "send exactly the parts metadata and audio")],
        )


async def _next(reader: MultipartReader, idle: float) -> BodyPartReader | None:
    try:
        async with asyncio.timeout(idle):
            part = await reader.next()
    except TimeoutError:
        raise _stalled() from None
    except (ValueError, AssertionError, RuntimeError, *_BROKEN):
        raise _broken() from None
    if isinstance(part, MultipartReader):
        raise MalformedInput("a part of the push is itself multipart")
    if part is not None:
        coding = part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "").strip().lower()
        if coding not in _TRANSPARENT:
            raise UnsupportedMediaType("send the parts as they are, without a transfer encoding")
        refuse_encoding(part.headers)
    return part


async def _chunks(part: BodyPartReader, idle: float) -> AsyncIterator[bytes]:
    while not part.at_eof():
        try:
            async with asyncio.timeout(idle):
                chunk = await part.read_chunk(_CHUNK)
        except TimeoutError:
            raise _stalled() from None
        except (ValueError, AssertionError, *_BROKEN):
            raise _broken() from None
        if chunk:
            yield chunk


async def raw_body(request: web.Request, *, idle: float) -> AsyncIterator[bytes]:
    """The chunks of a raw body.

    Raises:
        MalformedInput: while iterating: it broke off, or stalled for ``idle`` seconds.
    """
    chunks = request.content.iter_any()
    while True:
        try:
            async with asyncio.timeout(idle):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise _stalled() from None
        except _BROKEN:
            raise _broken() from None
        if chunk is None:
            return
        yield chunk


def refuse_encoding(headers: MultiMapping[str]) -> None:
    """Refuse compressed content: its digests and limits would be those of something else.

    Raises:
        UnsupportedMediaType: there is a Content-Encoding.
    """
    if headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in _IDENTITY:
        raise UnsupportedMediaType("send the body as it is, without a Content-Encoding")


def digest_fields(headers: MultiMapping[str]) -> list[tuple[str, str | None]]:
    """The digest fields of a part or a request; several of a name are one list (RFC 9110 section 5.3)."""
    found: list[tuple[str, str | None]] = []
    for name in ("Content-Digest", "Repr-Digest"):
        values = headers.getall(name, [])
        found.append((name, ", ".join(values) if values else None))
    return found


def sent_at(headers: CIMultiDictProxy[str]) -> datetime | None:
    """The sender's clock, from its ``Date`` field; None without one that can be read."""
    value = headers.get(hdrs.DATE)
    if value is None:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _missing(name: str, message: str) -> InvalidInput:
    return InvalidInput(message, fields=[FieldError(f"/{name}", message)])


def _broken() -> MalformedInput:
    return MalformedInput("the body broke off or its parts are malformed; nothing was kept")


def _stalled() -> MalformedInput:
    return MalformedInput("the body stalled; nothing was kept")
