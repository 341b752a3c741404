"""The agent's side of a push: resumable by tus 1.0.0, or whole by one multipart request.

https://tus.io/protocols/resumable-upload, version 1.0.0; what our service adds is in docs/uploads.md.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp

from recorder.errors import (
    Conflict,
    Corrupt,
    Forbidden,
    RecorderError,
    Unauthenticated,
    Unavailable,
)
from recorder.push import (
    CONTENT_TYPES,
    PASSING,
    check_receipt,
    in_flight,
    json_object,
    key_id,
    problem_of,
    read_keys,
    reason_of,
    retry_after,
)
from recorder.spooling.pacing import Bandwidth

TUS: Final = "1.0.0"
UPLOADS: Final = "/uploads"
_ANSWER_LIMIT: Final = 1024 * 1024
_OFFSET_TYPE: Final = "application/offset+octet-stream"


class Busy(RecorderError):
    """The service is at work on this very delivery: ask again shortly."""


class Garbled(RecorderError):
    """The service did not get what was sent; once may be an accident on the way."""


class UploadGone(RecorderError):
    """The resumable upload is no more (expired, or of a service that was set up anew)."""


class Away(Unavailable):
    """The service did not answer, or asked to come back later.

    Attributes:
        asked: seconds of its ``Retry-After``, or None.
    """

    def __init__(self, message: str, asked: float | None) -> None:
        super().__init__(message, dependency="service")
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One file to push.

    Attributes:
        descriptor: of the open file; positions are given with each read.
        name: of the file, printable.
        key: names the delivery.
        metadata: as in ``POST /api/v1/recordings``.
    """

    descriptor: int
    name: str
    size: int
    sha256: bytes
    key: str
    metadata: Mapping[str, Any] = field(repr=False)

    @property
    def header(self) -> str:
        """``Upload-Metadata``."""
        values = {
            "metadata": json.dumps(dict(self.metadata), ensure_ascii=False).encode(),
            "filename": self.name.encode(),
            "filetype": self.content_type.encode(),
        }
        return ",".join(f"{name} {_base64(value)}" for name, value in values.items())

    @property
    def content_type(self) -> str:
        """By the file's extension."""
        _, dot, extension = self.name.rpartition(".")
        return CONTENT_TYPES.get(f"{dot}{extension}".lower(), "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Held:
    """What the service holds now, by a receipt that verified."""

    recording_id: str
    receipt: str
    outcome: str
    reasons: tuple[str, ...]


MAX_HEADER: Final = 7000
"""Servers and proxies take header lines of about 8000 bytes; more metadata goes by the other way."""

Moved = Callable[[int], Awaitable[None]]
Created = Callable[[str], Awaitable[None]]


class Service:
    """One service over one connection pool. Use as an asynchronous context manager."""

    def __init__(self, server: str, token: str, bandwidth: Bandwidth, *, chunk: int) -> None:
        """Push to ``server`` with a source's ``token``, ``chunk`` bytes a request at most."""
        self._server = server
        self._token = token
        self._bandwidth = bandwidth
        self._chunk = chunk
        self._keys: dict[str, Any] = {}
        self._algorithm: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Service:
        # No total limit: a recording may be gigabytes and a line slow; a stalled one ends by the read limit.
        timeout = aiohttp.ClientTimeout(total=None, connect=15, sock_read=120)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "recorder-spool"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def resumable(self) -> bool:
        """Whether the service takes resumable uploads.

        Raises:
            Away: It does not answer.
        """
        status, headers, answer = await self._ask("OPTIONS", f"{self._server}{UPLOADS}")
        if status in PASSING:
            raise self._away(status, headers, answer)
        if status not in {200, 204} or TUS not in headers.get("Tus-Version", "").replace(" ", "").split(","):
            return False
        if "creation" not in headers.get("Tus-Extension", ""):
            return False
        offered = headers.get("Tus-Checksum-Algorithm", "").replace(" ", "").split(",")
        self._algorithm = next((one for one in ("sha256", "sha1") if one in offered), None)
        return True

    async def push_whole(self, file: Outgoing, moved: Moved) -> Held:
        """Push by one request.

        Raises:
            Away: Nothing was accepted; the same again later.
            Busy: The same delivery is being worked on.
            RecorderError: The service refuses; the type says why.
        """
        form = aiohttp.MultipartWriter("form-data")
        part = form.append_json(dict(file.metadata))
        part.set_content_disposition("form-data", name="metadata")
        payload = aiohttp.payload.AsyncIterablePayload(
            self._pieces(file, 0, file.size, moved), content_type=file.content_type
        )
        payload.headers["Content-Digest"] = f"sha-256=:{_base64(file.sha256)}:"
        part = form.append_payload(payload)
        part.set_content_disposition("form-data", name="audio", filename=file.name)
        status, headers, answer = await self._ask(
            "POST",
            f"{self._server}/api/v1/recordings",
            data=form,
            headers={"Idempotency-Key": f'"{file.key}"'},
        )
        if status not in {200, 201, 202}:
            raise self._refusal(status, headers, answer)
        return await self._held(answer, file, repeat=status == 200)

    async def create(self, file: Outgoing) -> str:
        """Make a resumable upload and return its address.

        Raises:
            Away: Try again later.
            RecorderError: The service refuses; the type says why.
        """
        headers = {
            "Tus-Resumable": TUS,
            "Upload-Length": str(file.size),
            "Upload-Metadata": file.header,
            "Repr-Digest": f"sha-256=:{_base64(file.sha256)}:",
            "Idempotency-Key": f'"{file.key}"',
        }
        status, answered, answer = await self._ask("POST", f"{self._server}{UPLOADS}", headers=headers)
        if status != 201:
            raise self._refusal(status, answered, answer)
        url = urljoin(f"{self._server}{UPLOADS}", answered.get("Location", ""))
        ours, theirs = urlsplit(self._server), urlsplit(url)
        if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
            # A proxy hides the real address; the token is shown to no other host than the configured one.
            url = f"{self._server}{theirs.path}"
        return url

    async def offset(self, url: str) -> int:
        """How many bytes of an upload have arrived.

        Raises:
            UploadGone: It is no more.
            Away: Try again later.
            RecorderError: The service refuses; the type says why.
        """
        status, headers, answer = await self._ask("HEAD", url, headers={"Tus-Resumable": TUS})
        if status in {404, 409, 410}:
            # An answer to HEAD has no body to say why: a new upload is refused with the reason.
            raise UploadGone("the upload is no more")
        if status not in {200, 204}:
            raise self._refusal(status, headers, answer)
        return _offset(headers)

    async def send(self, url: str, file: Outgoing, offset: int, moved: Moved) -> tuple[int, Held | None]:
        """Send the next stretch of an upload.

        Returns:
            The offset that the service confirms, and what it holds once the upload is complete.

        Raises:
            UploadGone: It is no more.
            Busy: Another request still writes to it, or the offset is another: ask for it.
            Away: Try again later.
            RecorderError: The service refuses; the type says why.
        """
        length = min(self._chunk, file.size - offset)
        headers = {
            "Tus-Resumable": TUS,
            "Upload-Offset": str(offset),
            "Content-Type": _OFFSET_TYPE,
            "Content-Length": str(length),
        }
        if self._algorithm is not None:
            digest = await asyncio.to_thread(_hash, self._algorithm, file.descriptor, offset, length)
            headers["Upload-Checksum"] = f"{self._algorithm} {_base64(digest)}"
        status, answered, answer = await self._ask(
            "PATCH", url, headers=headers, data=self._pieces(file, offset, length, moved)
        )
        if status in {404, 410} and _kind(answer) != "erased":
            raise UploadGone("the upload is no more")
        if status == 460:
            raise Busy("a stretch did not arrive as it was sent")
        if status not in {200, 201, 202, 204}:
            raise self._refusal(status, answered, answer)
        reached = _offset(answered)
        if reached < file.size:
            return reached, None
        if "Upload-Receipt" not in answered:
            raise Corrupt("the service's answer has no receipt")
        return reached, await self._complete(answered, url, file)

    # Inside

    async def _complete(self, headers: Mapping[str, str], url: str, file: Outgoing) -> Held:
        answer: dict[str, Any] = {
            "id": headers.get("Recording-Id"),
            "receipt": headers.get("Upload-Receipt"),
            "state": headers.get("Recording-State", "stored"),
        }
        if answer["state"] == "quarantined":
            with suppress(RecorderError):  # only to say why; it is held either way
                _, _, document = await self._ask("GET", url, headers={"Tus-Resumable": TUS})
                recording = document.get("recording")
                answer["reasons"] = recording.get("reasons") if isinstance(recording, dict) else None
        return await self._held(answer, file, repeat=False)

    async def _held(self, answer: Mapping[str, Any], file: Outgoing, *, repeat: bool) -> Held:
        receipt, recording_id = answer.get("receipt"), answer.get("id")
        if not isinstance(receipt, str) or not isinstance(recording_id, str):
            raise Corrupt("the service's answer has no receipt")
        kid = key_id(receipt)
        if kid not in self._keys:
            self._keys = await self._fetch_keys()
        check_receipt(
            receipt, self._keys, sha256=file.sha256.hex(), size=file.size, recording_id=recording_id
        )
        state = str(answer.get("state", "stored"))
        reasons = answer.get("reasons")
        return Held(
            recording_id,
            receipt,
            "repeated" if repeat else state,
            tuple(str(one) for one in reasons) if isinstance(reasons, list) else (),
        )

    async def _fetch_keys(self) -> dict[str, Any]:
        status, headers, document = await self._ask("GET", f"{self._server}/api/v1/keys")
        if status != 200:
            raise self._refusal(status, headers, document)
        return read_keys(document)

    async def _ask(
        self, method: str, url: str, **options: Any
    ) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        assert self._session is not None, "use Service as an asynchronous context manager"  # noqa: S101
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                raw = await response.content.read(_ANSWER_LIMIT)
                return response.status, response.headers, json_object(raw)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise Away(f"no answer ({reason_of(error)})", None) from None

    def _refusal(self, status: int, headers: Mapping[str, str], answer: Mapping[str, Any]) -> RecorderError:
        if in_flight(status, answer):
            return Busy("the service is at work on this delivery")
        if status in PASSING or status >= 500 or 300 <= status < 400:
            return self._away(status, headers, answer)
        if status in {404, 405, 501} and not _kind(answer):
            # Not this file's fault: another program answers at this address.
            return Away(f"answered {status}: is this address a recorder?", None)
        problem = problem_of(status, answer)
        if status == 400:
            return Garbled(problem.message)
        if status == 409 and _kind(answer) in {"", "wrong-offset"}:
            return Busy("the upload is at another offset")
        if status == 423:
            return Busy("another request writes to the upload")
        return problem

    def _away(self, status: int, headers: Mapping[str, str], answer: Mapping[str, Any]) -> Away:
        asked = retry_after(headers, datetime.now(UTC))
        return Away(f"answered {status} ({_kind(answer) or 'no reason given'})", asked)

    async def _pieces(self, file: Outgoing, start: int, length: int, moved: Moved) -> AsyncIterator[bytes]:
        """Read a stretch, as fast as the bandwidth allows; a file that became shorter ends the request."""
        at, end = start, start + length
        while at < end:
            count = min(self._bandwidth.piece, end - at)
            piece = await asyncio.to_thread(os.pread, file.descriptor, count, at)
            if not piece:
                raise ConnectionError("the file became shorter")
            await self._bandwidth.take(len(piece))
            yield piece
            at += len(piece)
            await moved(at)


def refused_for_good(error: RecorderError) -> bool:
    """Whether trying this file again would change nothing; wrong tokens are everybody's trouble, not its."""
    return not isinstance(
        error, (Unavailable, Busy, UploadGone, Garbled, Corrupt, Unauthenticated, Forbidden)
    )


def code_of(error: BaseException) -> str:
    """A stable code for the journal, without words of the service (they may name fields, never values)."""
    if isinstance(error, Away):
        return "service-away"
    if isinstance(error, Conflict):
        return error.kind
    if isinstance(error, OSError):
        return "unreadable"
    name = type(error).__name__
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")


def _kind(answer: Mapping[str, Any]) -> str:
    """The stable suffix of a problem's type; empty for an answer that is no problem document of ours."""
    return str(answer.get("type") or "").rpartition(":")[2]


def _offset(headers: Mapping[str, str]) -> int:
    value = headers.get("Upload-Offset", "")
    if not value.isascii() or not value.isdigit():
        raise Corrupt("the service's answer has no offset: is this address a recorder?")
    return int(value)


def _hash(algorithm: str, descriptor: int, start: int, length: int) -> bytes:
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    at, end = start, start + length
    while at < end:
        piece = os.pread(descriptor, min(1024 * 1024, end - at), at)
        if not piece:
            break
        hasher.update(piece)
        at += len(piece)
    return hasher.digest()


def digest_of(descriptor: int) -> tuple[bytes, int]:
    """SHA-256 and length of an open file, read from its start in constant memory."""
    hasher = hashlib.sha256()
    at = 0
    while piece := os.pread(descriptor, 1024 * 1024, at):
        hasher.update(piece)
        at += len(piece)
    return hasher.digest(), at


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
