"""What all senders share: the service they push to, what they hand over, and the answer they get."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol

import aiohttp

from recorder.push import json_object
from recorder.simulate.calls import SimulatedCall

_ANSWER_LIMIT: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Audio that was handed over: what a checker must find again.

    Attributes:
        external_id, leg: under which the service has to know it; None where the service names it itself.
        sha256: hexadecimal, of the bytes as they have to be kept.
    """

    external_id: str | None
    leg: str | None
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The service's word.

    Attributes:
        status: of the last request; 101 for a WebSocket that was taken to its end.
        answer: JSON of it, where there is one.
        later: the audio is fetched by the service afterwards.
    """

    status: int
    answer: Mapping[str, Any] = field(default_factory=dict, repr=False)
    later: bool = False


class Media(Protocol):
    """Where a system keeps audio that the service fetches."""

    def offer(self, name: str, body: bytes) -> str:
        """Put audio there and return its address."""


@dataclass(slots=True)
class Target:
    """The service, and a source of it.

    Attributes:
        server: ``http(s)://host[:port]``.
        secret: what the system signs with (Twilio's auth token, Zoom's secret token).
        media: for kinds whose audio is fetched.
        hinder: wraps a body; tests break connections off with it.
        now: the clock of the system, for signatures that have a time.
    """

    session: aiohttp.ClientSession
    server: str
    token: str = field(repr=False)
    secret: str = field(default="", repr=False)
    media: Media | None = None
    hinder: Callable[[bytes], AsyncIterator[bytes]] | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def base(self) -> str:
        """Address with the token in it."""
        return f"{self.server}/ingest/t/{self.token}"

    def body(self, data: bytes) -> Any:
        """A request's body."""
        return data if self.hinder is None else self.hinder(data)


class Sender(ABC):
    """One kind of sender.

    Attributes:
        kind: of the source at the service.
        retries: attempts after the first that the real system makes.
    """

    kind: ClassVar[str]
    retries: ClassVar[int] = 0

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """What of a call is handed over."""
        return [piece(call.wav(), call.id)]

    @abstractmethod
    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """Hand one call over, once.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: no answer came.
        """


def piece(body: bytes, external_id: str, leg: str | None = None) -> Piece:
    """Audio as a checker looks for it."""
    return Piece(external_id, leg, hashlib.sha256(body).hexdigest(), len(body))


@asynccontextmanager
async def asked(request: Any) -> AsyncIterator[tuple[aiohttp.ClientResponse, Sent]]:
    """The same, with the answer's headers at hand."""
    async with request as response:
        document = json_object(await response.content.read(_ANSWER_LIMIT))
        yield response, Sent(response.status, document)


async def answer(request: Any) -> Sent:
    """Make a request and read its answer, bounded."""
    async with asked(request) as (_, sent):
        return sent


def what(call: SimulatedCall) -> dict[str, str]:
    """Facts of a call in the words of a raw push."""
    return {
        "started_at": call.started_at.isoformat(),
        "from": call.caller,
        "to": call.callee,
        "direction": "inbound",
        "agent": call.agent,
        "queue": call.queue,
    }
