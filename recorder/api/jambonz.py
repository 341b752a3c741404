"""The WebSocket that jambonz streams calls to: one text frame of JSON, then the audio as it is spoken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from recorder.api.framework import STREAMING, ApiCall, Route
from recorder.api.senders import take
from recorder.errors import InvalidInput, RecorderError, TooMany, Unavailable
from recorder.ingest.adapters.base import Envelope, NoAudio, SenderOutcome
from recorder.ingest.adapters.jambonz import BROKEN_OFF, DTMF, KIND, is_key, read_opening
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest
from recorder.ingest.senders import Sender, note, sender_of
from storage.errors import StorageError

log = logging.getLogger("recorder.ingest")

PROTOCOL: Final = "audio.jambonz.org"
_HEARTBEAT: Final = 30.0
_QUIET: Final = 3600.0
"""Seconds without a frame after which a stream is over, though its peer still answers."""
_LARGEST_FRAME: Final = 1024 * 1024
_MANY_KEYS: Final = 10_000


class _Stream:
    """The frames after the first, as the body of a push. Only one is held at a time."""

    def __init__(self, socket: web.WebSocketResponse, found: list[str]) -> None:
        self._socket = socket
        self._found = found
        self._first: bytes | None = None
        self._texts = 0

    async def opened(self) -> bool:
        """Wait for the first audio; False where the stream ends without any."""
        self._first = await self._next()
        return self._first is not None

    async def body(self, header: bytes) -> AsyncIterator[bytes]:
        """A WAV file: it ends where the call does, or where the line broke."""
        yield header
        frame, self._first = self._first, None
        while frame is not None:
            yield frame
            frame = await self._next()

    async def _next(self) -> bytes | None:
        while True:
            try:
                message = await self._socket.receive(timeout=_QUIET)
            except TimeoutError:
                self._remark(BROKEN_OFF)
                return None
            if message.type is WSMsgType.BINARY:
                return bytes(message.data)
            if message.type is not WSMsgType.TEXT:
                if not _orderly(message):
                    self._remark(BROKEN_OFF)
                return None
            self._texts += 1
            if self._texts <= _MANY_KEYS and is_key(message.data):
                self._remark(DTMF)

    def _remark(self, code: str) -> None:
        if code not in self._found:
            self._found.append(code)


def _orderly(message: WSMessage) -> bool:
    """Whether the sender hung up, rather than vanished."""
    return message.type is WSMsgType.CLOSE and message.data in (None, 0, WSCloseCode.OK, 1005)


async def record(call: ApiCall) -> web.StreamResponse:
    """Take a call as it is spoken. What came before a line broke is kept."""
    request, services = call.request, call.services
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return await take(call)
    sender = await sender_of(
        services, call.principal, request.match_info.get("source"), request_id=call.request_id
    )
    if sender.kind != KIND:
        raise InvalidInput(f"the source is not of the kind {KIND}, and takes no WebSocket")
    # The peer's closing frame is answered once the stream is durable: it is the only receipt there is.
    socket = web.WebSocketResponse(
        protocols=(PROTOCOL,),
        heartbeat=_HEARTBEAT,
        max_msg_size=_LARGEST_FRAME,
        compress=False,
        autoclose=False,
    )
    await socket.prepare(request)
    request[STREAMING] = True
    try:
        await _converse(call, sender, socket)
    except (RecorderError, StorageError) as error:
        log.warning(
            "a stream was not kept", extra={"kind": type(error).__name__, "request_id": call.request_id}
        )
        again = isinstance(error, Unavailable | TooMany | StorageError)
        code = WSCloseCode.TRY_AGAIN_LATER if again else WSCloseCode.POLICY_VIOLATION
        await socket.close(code=code, message=type(error).__name__.encode())
    except asyncio.CancelledError:
        # The line is gone, or the service stops. The upload goes on without us: let it see the end.
        with contextlib.suppress(Exception):
            await asyncio.shield(socket.close(code=WSCloseCode.GOING_AWAY))
        raise
    else:
        await socket.close()
    return socket


async def _converse(call: ApiCall, sender: Sender, socket: web.WebSocketResponse) -> None:
    services = call.services
    try:
        first = await socket.receive(timeout=services.settings.upload_idle_seconds)
    except TimeoutError:
        raise InvalidInput("the stream said nothing of itself") from None
    if first.type is not WSMsgType.TEXT or len(first.data) > services.settings.max_metadata_bytes:
        raise InvalidInput("the stream's first frame is no text")
    envelope = Envelope(
        method="GET",
        path=(),
        query=(),
        headers={},
        now=services.clock.now(),
        document=first.data.encode(errors="replace"),
        settings=sender.settings,
    )
    asked, header = read_opening(envelope)
    stream = _Stream(socket, asked.found)
    if await stream.opened():
        await _accept(call, sender, asked, stream.body(header))
    else:
        told = NoAudio(asked, SenderOutcome.ABSENT, "no-frames")
        noting = asyncio.create_task(
            note(services, sender, told, actor=call.principal.actor, request_id=call.request_id)
        )
        services.uploads.track(noting)  # the line is closed, and with it this request may be cancelled
        await asyncio.shield(noting)


async def _accept(call: ApiCall, sender: Sender, asked: IngestRequest, body: AsyncIterator[bytes]) -> None:
    await Intake(call.services).accept_durably(
        asked, body, principal=call.principal, request_id=call.request_id, source=str(sender.id)
    )


def _route(path: str) -> Route:
    return Route(
        "GET",
        path,
        record,
        "Stream a call over a WebSocket, as jambonz does",
        "ingest",
        other={101: "The stream is open"},
        raises=(InvalidInput,),
        raw=True,
        security=() if "{token}" in path else ("bearer", "basic"),
    )


# Mounted before the routes of all senders, which would match as well.
ROUTES: tuple[Route, ...] = (
    _route("/ingest/t/{token}/record/{vendor}"),
    _route("/ingest/{source}/record/{vendor}"),
)
