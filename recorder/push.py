"""The client side of a push: one file to one service, in constant memory, until a receipt proves it.

The service's answer is believed only when its signed receipt (compact JWS, RFC 7515, EdDSA) names the very
bytes that lie here; until then a sender must keep its copy.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import jwt

from recorder.errors import (
    ConfigurationError,
    Conflict,
    Corrupt,
    Erased,
    Forbidden,
    InvalidInput,
    RecorderError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from recorder.ingest.receipts import ReceiptInvalid, verify_receipt

_CHUNK: Final = 256 * 1024
_ANSWER_LIMIT: Final = 1024 * 1024
_EXPECT_FROM: Final = 1024 * 1024  # larger bodies wait for "100 Continue": a refusal then costs nothing
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
CONTENT_TYPES: Final = {
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".webm": "audio/webm",
    ".flac": "audio/flac",
    ".amr": "audio/AMR",
    ".g722": "audio/G722",
    ".gsm": "audio/GSM",
    ".ulaw": "audio/basic",
    ".alaw": "audio/PCMA",
}

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Retry:
    """How long to keep trying.

    Attributes:
        attempts: tries of one file, the first included.
        base: seconds before the second try; doubles with each, half of it random.
        longest: seconds that no single wait exceeds, whatever ``Retry-After`` asks.
    """

    attempts: int = 6
    base: float = 0.5
    longest: float = 60.0

    def delay(self, attempt: int, asked: float | None, chance: float) -> float:
        """Seconds to wait after the attempt of this number (from 1).

        Args:
            attempt: The attempt that failed.
            asked: What the service's ``Retry-After`` said, in seconds.
            chance: A number in [0, 1): spreads senders that failed together.
        """
        backed_off = self.base * 2.0 ** (attempt - 1) * (0.5 + chance / 2)
        return min(self.longest, backed_off if asked is None else max(asked, backed_off))


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one file.

    Attributes:
        recording_id: the service's id; None after a dry run.
        state: ``stored``, ``quarantined`` or ``spooled``; ``checked`` after a dry run.
        repeat: the service had this very recording already.
        sha256: hexadecimal digest of the file.
        answer: the whole answer.
    """

    recording_id: str | None
    state: str
    repeat: bool
    sha256: str
    size: int
    attempts: int
    answer: Mapping[str, Any] = field(repr=False)


class Pusher:
    """Pushes files to one service over one connection pool. Use as an asynchronous context manager."""

    def __init__(
        self,
        server: str,
        token: str,
        *,
        source: str | None = None,
        dry_run: bool = False,
        retry: Retry | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Push to ``server`` (``http(s)://host[:port]``) with a source's ``token``.

        Args:
            server: Address of the service.
            token: Bearer token of the source.
            source: Push by ``PUT /ingest/{source}/…``, which quarantines what it cannot accept, rather than
                by ``POST /api/v1/recordings``, which refuses it.
            dry_run: Everything is checked, nothing is kept.
            retry: How long to keep trying.
            sleep: Waits; replaced in tests.
            chance: Random numbers in [0, 1).

        Raises:
            ConfigurationError: The address is not one.
        """
        parts = urlsplit(server)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError("the server's address is http(s)://host[:port]")
        self._server = server.rstrip("/")
        self._token = token
        self._source = source
        self._dry_run = dry_run
        self._retry = retry or Retry()
        self._sleep = sleep
        self._chance = chance
        self._keys: dict[str, Any] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Pusher:
        # No total time limit: a recording may be gigabytes; a stalled connection ends by the read limit.
        timeout = aiohttp.ClientTimeout(total=None, connect=15, sock_read=120)
        self._session = aiohttp.ClientSession(
            timeout=timeout, headers={"Authorization": f"Bearer {self._token}", "User-Agent": "recorder-push"}
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def push(
        self, path: Path, metadata: Mapping[str, Any], *, progress: Progress | None = None
    ) -> Pushed:
        """Push one file and check its receipt.

        Args:
            path: The audio.
            metadata: As in ``POST /api/v1/recordings``; ``external_id`` and ``started_at`` are filled in from
                the file's name and time where they are missing.
            progress: Called with the number of bytes sent of this attempt.

        Raises:
            Unavailable: The service stayed away through all attempts.
            Unauthenticated: The token is wrong, expired or revoked.
            Forbidden: The token may not push.
            InvalidInput: The service does not accept metadata or audio.
            TooLarge: The file is over the source's limit.
            Conflict: Another recording has this identity.
            Erased: The recording was here and has been erased.
            Corrupt: The receipt is missing, false, or about other bytes.
        """
        digest, size = await asyncio.to_thread(_digest, path)
        full = {**await asyncio.to_thread(_from_file, path), **metadata}
        key = str(uuid.uuid4())  # one delivery, however many attempts
        attempt = 0
        while True:
            attempt += 1
            asked: float | None = None
            try:
                status, headers, answer = await self._send(path, full, digest, size, key, progress)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                problem: RecorderError = Unavailable(
                    f"no answer from {self._server} ({reason_of(error)})", dependency="service"
                )
            else:
                if status in {200, 201, 202}:
                    break
                problem = problem_of(status, answer)
                if status not in PASSING and not in_flight(status, answer):
                    raise problem
                asked = retry_after(headers, datetime.now(UTC))
            if attempt >= self._retry.attempts:
                raise problem
            await self._sleep(self._retry.delay(attempt, asked, self._chance()))
        if self._dry_run:
            _check_rehearsal(answer)
        else:
            await self._check_receipt(answer, digest.hex(), size)
        return Pushed(
            recording_id=answer.get("id"),
            state="checked" if self._dry_run else str(answer.get("state", "stored")),
            repeat=answer.get("would") == "repeated" if self._dry_run else status == 200,
            sha256=digest.hex(),
            size=size,
            attempts=attempt,
            answer=answer,
        )

    async def _send(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        digest: bytes,
        size: int,
        key: str,
        progress: Progress | None,
    ) -> tuple[int, Mapping[str, str], dict[str, Any]]:
        assert self._session is not None, "use Pusher as an asynchronous context manager"  # noqa: S101
        file = await asyncio.to_thread(_Counted, path, progress or _ignore)
        try:
            content_type = CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream")
            content_digest = f"sha-256=:{base64.b64encode(digest).decode()}:"  # RFC 9530
            headers = {"Idempotency-Key": f'"{key}"'}
            data: Any
            if self._source is None:
                method, url = "POST", f"{self._server}/api/v1/recordings"
                data = aiohttp.MultipartWriter("form-data")
                part = data.append_json(dict(metadata))
                part.set_content_disposition("form-data", name="metadata")
                part = data.append(file, {"Content-Type": content_type, "Content-Digest": content_digest})
                part.set_content_disposition("form-data", name="audio", filename=path.name)
                params: dict[str, str] = {}
            else:
                method = "PUT"
                name = quote(f"{metadata['external_id']}{path.suffix}", safe="")
                url = f"{self._server}/ingest/{quote(self._source, safe='')}/{name}"
                data = file
                headers |= {
                    "Content-Type": content_type,
                    "Content-Digest": content_digest,
                    "Content-Length": str(size),
                }
                document = {k: v for k, v in metadata.items() if k != "external_id"}
                params = {"metadata": json.dumps(document, ensure_ascii=False)}
            if self._dry_run:
                params["dry_run"] = "true"
            async with self._session.request(
                method, url, data=data, params=params, headers=headers, expect100=size >= _EXPECT_FROM
            ) as response:
                raw = await response.content.read(_ANSWER_LIMIT)
                return response.status, response.headers, json_object(raw)
        finally:
            await asyncio.to_thread(file.close)

    async def _check_receipt(self, answer: Mapping[str, Any], sha256: str, size: int) -> None:
        receipt = answer.get("receipt")
        if not isinstance(receipt, str):
            raise Corrupt("the service's answer has no receipt: keep the file and ask the operator")
        kid = key_id(receipt)
        if self._keys is None or kid not in self._keys:
            self._keys = await self._fetch_keys()
        check_receipt(receipt, self._keys, sha256=sha256, size=size, recording_id=answer.get("id"))

    async def _fetch_keys(self) -> dict[str, Any]:
        assert self._session is not None  # noqa: S101
        try:
            async with self._session.get(f"{self._server}/api/v1/keys") as response:
                document = json_object(await response.content.read(_ANSWER_LIMIT))
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"the recording is stored, but {self._server} did not give its keys ({reason_of(error)}); "
                "push again to have the receipt checked",
                dependency="service",
            ) from None
        if status != 200:
            raise problem_of(status, document)
        return read_keys(document)


def read_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public keys of ``GET /api/v1/keys`` (a JWK set, RFC 7517) by key id.

    Raises:
        Corrupt: The document is not a usable key set.
    """
    try:
        return {str(key.key_id): key.key for key in jwt.PyJWKSet.from_dict(dict(document)).keys}
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        raise Corrupt("the service's key set cannot be read: is this address a recorder?") from None


def check_receipt(
    receipt: str, keys: Mapping[str, Any], *, sha256: str, size: int, recording_id: str | None
) -> Mapping[str, Any]:
    """Check a receipt against the bytes that were pushed and return its payload.

    Raises:
        Corrupt: Unknown key, false signature, or a receipt about other bytes or another recording.
    """
    try:
        payload = verify_receipt(receipt, keys)
    except ReceiptInvalid:
        raise Corrupt("the receipt does not verify with the keys that the service publishes") from None
    if payload.get("sha256") != sha256 or payload.get("size") != size:
        raise Corrupt("the receipt is about other bytes than were pushed")
    if recording_id is not None and payload.get("id") != recording_id:
        raise Corrupt("the receipt is about another recording")
    return payload


class _Counted(io.BufferedReader):
    """A file that tells how much of it has been read; aiohttp reads it in a thread."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(io.FileIO(path, "rb"), _CHUNK)
        self._progress = progress
        self._sent = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and report."""
        piece = super().read(size)
        if piece:
            self._sent += len(piece)
            self._progress(self._sent)
        return piece


def _ignore(_sent: int) -> None:
    return


def _digest(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.digest(), file.tell()


def _from_file(path: Path) -> dict[str, Any]:
    ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return {"external_id": path.stem, "started_at": ended.isoformat(timespec="seconds")}


def json_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object; empty for anything else."""
    with suppress(ValueError):
        value = json.loads(raw)
        if isinstance(value, dict):
            return value
    return {}


def key_id(receipt: str) -> str | None:
    """Name of the key that a receipt says it was signed with."""
    try:
        kid = jwt.get_unverified_header(receipt).get("kid")
    except jwt.PyJWTError:
        return None
    return kid if isinstance(kid, str) else None


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in words without an address."""
    # Messages of the HTTP client repeat the address; the system's word, or a type, is enough.
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return "timed out" if isinstance(error, TimeoutError) else type(error).__name__


def in_flight(status: int, answer: Mapping[str, Any]) -> bool:
    """Whether the service is still at work on an earlier try of this delivery."""
    return status == 409 and str(answer.get("type", "")).endswith("in-flight")


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110 section 10.2.3): a number or a date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())


def _check_rehearsal(answer: Mapping[str, Any]) -> None:
    """Refuse as the push itself would be refused."""
    match answer.get("would"):
        case "conflict":
            raise Conflict("other bytes are stored under this identity; the push would be quarantined")
        case "erased":
            raise Erased("the recording was here and has been erased; the push would be refused")
        case _:
            return


def problem_of(status: int, answer: Mapping[str, Any]) -> RecorderError:
    """Our error for an RFC 9457 problem of the service."""
    text = str(answer.get("detail") or answer.get("title") or f"the service answered {status}")
    fields = answer.get("errors")
    if isinstance(fields, list):
        named = [f"{f.get('pointer')}: {f.get('detail')}" for f in fields if isinstance(f, dict)]
        missing = [one for one in named if one not in text]
        text = "; ".join([text, *missing])
    if status == 401:
        return Unauthenticated(text)
    if status == 403:
        return Forbidden(text, reason="forbidden")
    if status == 409:
        return Conflict(text)
    if status == 410:
        return Erased(text)
    if status == 413:
        return TooLarge(text)
    if status in PASSING or status >= 500:
        return Unavailable(text, dependency="service")
    return InvalidInput(text)
