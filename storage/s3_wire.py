"""The HTTP side of the S3 store: bodies out and in, and what the answers mean. Nothing here knows minio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn, Self

import aiohttp

from storage.errors import Misuse, ObjectMissing, StoreRefused, StoreUnavailable
from storage.objects import Chunk

__all__ = [
    "PART_SIZE",
    "GatheredPart",
    "Outgoing",
    "S3Body",
    "chain",
    "error_code",
    "gather_parts",
    "http_time",
    "refuse",
    "replay",
    "total_size",
]

# S3 wants at least 5 MiB a part.
PART_SIZE: Final = 8 * 1024 * 1024
_MISSING: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchUpload", "MethodNotAllowed"})
_RETRY_LATER: Final = frozenset({"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError"})
_CODE: Final = re.compile(rb"<Code>([A-Za-z.]{1,64})</Code>")
_TOTAL: Final = re.compile(r"bytes \d+-\d+/(\d+)")


class S3Body:
    """The `Body` of a `get`; `content` None is an empty one."""

    def __init__(self, content: aiohttp.StreamReader | None, size: int, version_id: str | None) -> None:
        self.size = size
        self.version_id = version_id
        self._content = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            # One piece as it was received; `readany` would copy all that wait into one.
            piece = b"" if self._content is None else (await self._content.readchunk())[0]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnavailable(f"the S3 server broke off ({type(error).__name__})") from None
        if not piece:
            raise StopAsyncIteration
        return piece


class Outgoing:
    """A request body of exactly `size` bytes. It remembers why it failed; it times the server alone.

    Attributes:
        failure: What the source, or its length, raised inside the request.
    """

    def __init__(self, body: AsyncIterable[Chunk], size: int, patience: float) -> None:
        self.failure: BaseException | None = None
        self._body = body
        self._size = size
        self._patience = patience

    async def run(self, timer: asyncio.Timeout) -> AsyncIterator[Chunk]:
        """Yield the body, with the timer running only while it is the server that we wait for."""
        clock = asyncio.get_running_loop().time
        sent = 0
        try:
            async for chunk in self._body:
                sent += len(chunk)
                if sent > self._size:
                    raise Misuse("the body is longer than its announced size")
                timer.reschedule(clock() + self._patience)
                yield chunk
                timer.reschedule(None)
            if sent != self._size:
                raise Misuse("the body is shorter than its announced size")
            timer.reschedule(clock() + self._patience)
        except GeneratorExit:
            raise
        except BaseException as error:
            self.failure = error
            raise


class GatheredPart:
    """Chunks enough for one part of a multipart upload."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.size = 0
        self.is_last = False


async def gather_parts(body: AsyncIterable[Chunk]) -> AsyncIterator[GatheredPart]:
    """Gather a body into parts of `PART_SIZE` or a little more; only the last may be short, even empty."""
    part = GatheredPart()
    async for chunk in body:
        if part.size >= PART_SIZE:
            yield part
            part = GatheredPart()
        part.chunks.append(chunk)
        part.size += len(chunk)
    part.is_last = True
    yield part


async def chain(first: GatheredPart, rest: AsyncIterator[GatheredPart]) -> AsyncIterator[GatheredPart]:
    """Yield the first part, then the rest."""
    yield first
    async for part in rest:
        yield part


async def replay(chunks: list[Chunk] | list[bytes]) -> AsyncIterator[Chunk]:
    """Yield chunks that are at hand already."""
    for chunk in chunks:
        yield chunk


def refuse(status: int, code: str, key: str, version_id: str | None) -> NoReturn:
    """Raise what an S3 error answer means to us.

    Raises:
        StoreUnavailable: The server's own failure, or its wish for less.
        ObjectMissing: The object, version or upload is not there.
        StoreRefused: Everything else needs a person.
    """
    if status >= 500 or status in {408, 429} or code in _RETRY_LATER:
        raise StoreUnavailable(f"the S3 server failed with {status} {code}".rstrip())
    if code in _MISSING or (status in {404, 405} and code == ""):
        raise ObjectMissing(key, version_id)
    if code == "NoSuchBucket":
        raise StoreRefused("the S3 server has no such bucket: make it, or correct the settings")
    if status == 403:
        raise StoreRefused(
            f"the S3 server denies access ({code or 'no reason given'}): "
            "check the keys, the policy and the clock"
        )
    raise StoreRefused(f"the S3 server refused with {status} {code}".rstrip())


def total_size(response: aiohttp.ClientResponse, *, ranged: bool, start: int, end: int | None) -> int:
    """Return the size of the whole object that a GET answer is about.

    Raises:
        StoreRefused: The server ignored the range, or does not say the total.
    """
    whole = int(response.headers.get("Content-Length", "-1"))
    if response.status == 206:
        total = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        if total is not None:
            return int(total[1])
    elif whole >= 0 and (not ranged or (start == 0 and (end is None or end >= whole))):
        return whole
    raise StoreRefused("the S3 server does not serve ranges as RFC 9110 says")


def error_code(document: bytes) -> str:
    """Return the code that an S3 error document names, or an empty text."""
    found = _CODE.search(document)
    return "" if found is None else found[1].decode("ascii")


def http_time(text: str | None) -> datetime:
    """Read an HTTP date (RFC 9110, section 5.6.7)."""
    if text is None:
        raise StoreRefused("the S3 server's answer has no time")
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        raise StoreRefused("the S3 server's answer has a malformed time") from None
