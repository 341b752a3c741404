"""Requests as senders write them on the wire, to be replayed over a socket or read by an adapter alone."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from recorder.ingest.adapters.base import Envelope

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
_PAYLOADS = Path(__file__).parent / "payloads"
_AUDIO = b"@@AUDIO@@"
_HIDDEN = {"authorization", "cookie", "x-conserver-api-token"}


def raw(name: str) -> bytes:
    """A payload that is no request."""
    return (_PAYLOADS / name).read_bytes()


def wire(name: str, *, token: str = "rec_x", audio: bytes = b"") -> bytes:
    """A recorded request as bytes on the wire, with its length announced and this audio in it."""
    head, _, body = raw(f"{name}.http").partition(b"\n\n")
    basic = base64.b64encode(f"pbx:{token}".encode())
    head = head.replace(b"@@TOKEN@@", token.encode()).replace(b"@@BASIC@@", basic)
    multipart = b"multipart/" in head
    body = body.replace(b"\n", b"\r\n") if multipart else body.removesuffix(b"\n")
    body = body.replace(_AUDIO, audio)
    lines = head.split(b"\n")
    if body or not lines[0].startswith(b"GET"):
        lines.append(b"Content-Length: %d" % len(body))
    lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def envelope(name: str, *, settings: dict[str, Any] | None = None) -> Envelope:
    """A recorded request as an adapter sees it; taken apart by other means than the service's."""
    head, _, body = wire(name, audio=_AUDIO).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    url = urlsplit(target)
    below = url.path.split("/")[4 if url.path.startswith("/ingest/t/") else 3 :]
    content_type = headers.get("content-type", headers.get("content_type"))
    options: dict[str, Any] = {"content_type": content_type}
    if content_type is not None and content_type.startswith("multipart/"):
        options |= _parts(content_type, body)
    elif body != _AUDIO:
        options["document"] = body
    return Envelope(
        method=method,
        path=tuple(unquote(piece) for piece in below if piece),
        query=tuple(parse_qsl(url.query, keep_blank_values=True)),
        headers={k: v for k, v in headers.items() if k not in _HIDDEN},
        now=NOW,
        settings=settings or {},
        **options,
    )


def _parts(content_type: str, body: bytes) -> dict[str, Any]:
    whole = f"Content-Type: {content_type}\r\n\r\n".encode() + body
    message = email.message_from_bytes(whole, policy=email.policy.HTTP)
    fields: list[tuple[str, str]] = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if content.strip() == _AUDIO:
            return {
                "fields": tuple(fields),
                "part_name": name,
                "file_name": part.get_filename(),
                "content_type": part.get("content-type"),
            }
        fields.append((str(name), content.decode()))
    return {"fields": tuple(fields), "document": b""}


@dataclass(frozen=True)
class Answered:
    """What came back over the socket."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send(port: int, request: bytes) -> Answered:
    """Send a request as it is and read the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    version, code, _ = status.split(" ", 2)
    return Answered(
        int(code), version, {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}, body
    )
