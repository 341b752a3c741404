"""A sender's request as an envelope and a stream of audio, whatever shape its body has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_to_bytes

from aiohttp import BodyPartReader, hdrs, web

from recorder.api.addresses import CREDENTIALS, forwarded_scheme
from recorder.api.bodies import PartReader, raw_body, refuse_encoding
from recorder.errors import MalformedInput, TooLarge
from recorder.ingest.adapters.base import Envelope
from recorder.ingest.sniff import EXTENSIONS, extension_of
from recorder.settings import Settings

_MAX_FIELDS: Final = 256
_DOCUMENT: Final = re.compile(
    r"(?:application|text)/(?:json|xml|vcon(?:\+gzip)?|jose|x-www-form-urlencoded)|[\w.-]+/[\w.+-]+\+(?:json|xml|jws)"
)
_FORM: Final = "application/x-www-form-urlencoded"
_AUDIO_NAMES: Final = frozenset({"audio", "ngfile", "file", "recording", "wav"})
_MAGIC: Final = (b"RIFF", b"RIFX", b"OggS", b"fLaC", b"ID3", b"#!AMR", b"\x1aE\xdf\xa3", b".snd", b"FORM")
_CONTROL: Final = frozenset(range(32)) - {9, 10, 13}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recording's worth of a request.

    Attributes:
        chunks: the audio; None where the request carries none.
        late: fills while the audio is read with what came after it.
        headers: of the audio itself (the part's, else the request's).
    """

    envelope: Envelope
    chunks: AsyncIterator[bytes] | None
    late: dict[str, Any]
    headers: Any


async def deliveries(
    request: web.Request,
    *,
    settings: Settings,
    source_settings: Mapping[str, Any],
    document_limit: int,
    now: datetime,
) -> AsyncGenerator[Delivery]:
    """Take a request apart: one delivery, or one for each audio part of a multipart body.

    Each one's audio has to be read to its end before the next is asked for.

    Raises:
        MalformedInput: the body cannot be read.
        TooLarge: what surrounds the audio, or a document, is over its limit.
        UnsupportedMediaType: the body is compressed.
    """
    refuse_encoding(request.headers)
    bare = Envelope(
        method=request.method,
        path=path_of(request),
        query=tuple((_text(n), _text(v)) for n, v in request.query.items()),
        headers=_headers(request),
        now=now,
        url=_url(request, settings),
        settings=source_settings,
    )
    if request.content_type.startswith("multipart/"):
        async for delivery in _parts(request, bare, settings):
            yield delivery
        return
    declared = request.headers.get(hdrs.CONTENT_TYPE) or request.headers.get("content_type")
    if not request.can_read_body and request.method != "PUT":
        yield Delivery(replace(bare, document=b"", content_type=declared), None, {}, request.headers)
        return
    chunks = raw_body(request, idle=settings.upload_idle_seconds)
    kind = (declared or "").partition(";")[0].strip().lower()
    if _DOCUMENT.fullmatch(kind) is not None:
        head = await anext(chunks, b"")
        if not misdeclared(kind, head):
            document = await _document(head, chunks, document_limit, settings.upload_idle_seconds)
            fields = form_fields(document) if kind == _FORM else ()
            envelope = replace(bare, document=document, fields=fields, content_type=declared)
            yield Delivery(envelope, None, {}, request.headers)
            return
        declared, chunks = None, _joined(head, chunks)
    envelope = replace(bare, content_type=declared, size=request.content_length)
    yield Delivery(envelope, chunks, {}, request.headers)


def misdeclared(kind: str, head: bytes) -> bool:
    """Whether bytes declared as a document are audio: ``curl --data-binary`` says that it sends a form."""
    if head.startswith(_MAGIC) or head[4:8] == b"ftyp":
        return True
    if kind != _FORM:
        return False
    try:
        head[:-3].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return True
    return not _CONTROL.isdisjoint(head)


def form_fields(document: bytes) -> tuple[tuple[str, str], ...]:
    """The fields of a form (``application/x-www-form-urlencoded``).

    Raises:
        MalformedInput: there are more than anybody sends.
    """
    try:
        pairs = parse_qsl(
            document.decode("utf-8", "replace"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise MalformedInput(f"the form has more than {_MAX_FIELDS} fields") from None
    return tuple(pairs)


def path_of(request: web.Request) -> tuple[str, ...]:
    """The segments of a path below its source, decoded one by one; a slash inside one stays inside it."""
    pieces = request.rel_url.raw_path.split("/")
    below = pieces[4:] if "token" in request.match_info else pieces[3:]
    return tuple(_decode(piece) for piece in below if piece)


async def _parts(request: web.Request, bare: Envelope, settings: Settings) -> AsyncIterator[Delivery]:
    reader = await PartReader.open(request, idle=settings.upload_idle_seconds)
    fields = _Fields(reader, settings.max_metadata_bytes)
    part = await fields.read_on()
    if part is None:
        envelope = replace(bare, document=b"", fields=tuple(fields.read), content_type=request.content_type)
        yield Delivery(envelope, None, {}, request.headers)
    while part is not None:
        audio = reader.audio(part)
        late: dict[str, Any] = {}
        envelope = replace(
            bare,
            fields=tuple(fields.read),
            part_name=None if part.name is None else _text(part.name),
            file_name=None if audio.file_name is None else _text(audio.file_name),
            content_type=audio.content_type,
            size=audio.size,
        )
        yield Delivery(envelope, fields.audio(audio.chunks, late), late, audio.headers)
        part = fields.next


class _Fields:
    """The parts between the audio; together they are as bounded as metadata is."""

    def __init__(self, reader: PartReader, limit: int) -> None:
        self._reader, self._left = reader, limit
        self.read: list[tuple[str, str]] = []
        self.next: BodyPartReader | None = None

    async def read_on(self) -> BodyPartReader | None:
        """Read fields up to the next audio part, or the end."""
        while (part := await self._reader.next()) is not None:
            if is_audio(part):
                break
            if len(self.read) >= _MAX_FIELDS:
                raise MalformedInput(f"the body has more than {_MAX_FIELDS} parts")
            raw = await self._reader.content(part, self._left)
            self._left -= len(raw)
            self.read.append((_text(part.name or ""), _lenient(raw)))
        self.next = part
        return part

    async def audio(self, chunks: AsyncIterator[bytes], late: dict[str, Any]) -> AsyncIterator[bytes]:
        """The audio, and then what follows it: only the next part or the closing boundary proves it whole."""
        async for chunk in chunks:
            yield chunk
        before = len(self.read)
        await self.read_on()
        if len(self.read) > before:
            late["fields_after_audio"] = [list(pair) for pair in self.read[before:]]


def is_audio(part: BodyPartReader) -> bool:
    """Whether a part is a recording rather than something told of one."""
    kind = part.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if kind.startswith(("audio/", "video/")):
        return True
    if part.name == "metadata" or _DOCUMENT.fullmatch(kind) is not None:
        return False
    if part.filename is not None:
        known = extension_of(part.filename)[1] in EXTENSIONS
        return known or kind != "text/plain"
    return part.name in _AUDIO_NAMES or kind == "application/octet-stream"


async def _document(head: bytes, chunks: AsyncIterator[bytes], limit: int, seconds: float) -> bytes:
    """All of a document; a sender that drips holds nothing for longer than so many seconds."""
    read = bytearray(head)
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                read += chunk
                if len(read) > limit:
                    break
    except TimeoutError:
        raise MalformedInput(f"the document did not arrive within {seconds:g} seconds") from None
    if len(read) > limit:
        raise TooLarge(f"the document is over {limit} bytes")
    return bytes(read)


async def _joined(head: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in chunks:
        yield chunk


def _headers(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        lower = name.lower()
        if lower not in CREDENTIALS:
            found[lower] = f"{found[lower]}, {_text(value)}" if lower in found else _text(value)
    return found


def _url(request: web.Request, settings: Settings) -> str:
    """The address the sender used; behind a proxy only the operator's own setting or its header knows."""
    origin = settings.public_url
    if origin is None:
        origin = f"{forwarded_scheme(request, settings.trusted_proxies)}://{_text(request.host)}"
    return origin.rstrip("/") + request.raw_path


def _decode(piece: str) -> str:
    return _lenient(unquote_to_bytes(piece))


def _text(value: str) -> str:
    """Text without lone surrogates, in which aiohttp hands on bytes that are no UTF-8."""
    return _lenient(value.encode("utf-8", "surrogateescape")) if not value.isascii() else value


def _lenient(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
