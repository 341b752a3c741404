"""Zoom Phone's events: recordings that are ready, with an address and a token to fetch each one."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from recorder.errors import FieldError, InvalidInput, MalformedInput, Unauthenticated
from recorder.ingest.adapters.base import Envelope, Intent, Later, Reply
from recorder.ingest.adapters.common import bounded, code, lenient_request, storable, unix_time
from recorder.ingest.metadata import MAX_EXTERNAL_ID

_WINDOW: Final = timedelta(minutes=5)
_VALIDATION: Final = "endpoint.url_validation"
_COMPLETED: Final = "phone.recording_completed"
_MAX_RECORDINGS: Final = 100
_USED: Final = frozenset({"id", "call_id", "caller_number", "callee_number", "direction", "duration"}) | {
    "date_time",
    "end_time",
    "download_url",
}


@dataclass(slots=True)
class ZoomAdapter:
    """Events of a Zoom webhook subscription."""

    kind: str = "zoom"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Check ``x-zm-signature`` and that the event is fresh.

        Raises:
            Unauthenticated: the signature is missing, wrong or old, or the source has no ``secret_token``.
        """
        secret = secrets.get("secret_token")
        if secret is None:
            raise Unauthenticated("the source has no secret_token to check signatures with")
        stamp = envelope.headers.get("x-zm-request-timestamp", "")
        at = unix_time(stamp)
        if at is None or abs(envelope.now - at) > _WINDOW:
            raise Unauthenticated("x-zm-request-timestamp is missing or too old")
        message = b"v0:" + stamp.encode() + b":" + (envelope.document or b"")
        expected = "v0=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
        given = envelope.headers.get("x-zm-signature", "")
        if not hmac.compare_digest(expected.encode(), given.encode(errors="replace")):
            raise Unauthenticated("x-zm-signature is not of this event and the source's secret_token")

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """Recordings to fetch, or the answer to Zoom's check of the address.

        Raises:
            MalformedInput: it is not JSON.
            InvalidInput: it is no event, or names a recording that cannot be fetched.
        """
        try:
            event = json.loads(envelope.document or b"")
        except (ValueError, RecursionError):
            raise MalformedInput("the event is not JSON") from None
        payload = event.get("payload") if isinstance(event, dict) else None
        if not isinstance(payload, dict):
            raise _wrong("/payload", "is missing")
        kind = event.get("event")
        if kind == _VALIDATION:
            return (_validated(payload, envelope.secrets.get("secret_token", "")),)
        if kind != _COMPLETED:
            return (Reply(b"{}"),)  # an event that is not about audio to come
        about = payload.get("object")
        recordings = about.get("recordings") if isinstance(about, dict) else None
        if not isinstance(recordings, list) or not 1 <= len(recordings) <= _MAX_RECORDINGS:
            raise _wrong("/payload/object/recordings", f"give 1 to {_MAX_RECORDINGS} recordings")
        token = event.get("download_token")
        return tuple(
            _later(envelope, one, token if isinstance(token, str) else None, index)
            for index, one in enumerate(recordings)
        )

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """Zoom wants 200 or 204."""
        del envelope
        return None if any(isinstance(intent, Reply) for intent in intents) else Reply(status=204)


def _validated(payload: Mapping[str, Any], secret: str) -> Reply:
    plain = payload.get("plainToken")
    if not isinstance(plain, str) or not plain.isascii() or len(plain) > 1024:
        raise _wrong("/payload/plainToken", "is missing")
    digest = hmac.new(secret.encode(), plain.encode(), hashlib.sha256).hexdigest()
    return Reply(json.dumps({"plainToken": plain, "encryptedToken": digest}).encode())


def _later(envelope: Envelope, one: object, token: str | None, index: int) -> Later:
    where = f"/payload/object/recordings/{index}"
    if not isinstance(one, dict):
        raise _wrong(where, "is no object")
    name, address = _text(one.get("id")), _text(one.get("download_url"))
    if name is None or address is None:
        raise _wrong(where, "has no id, or no download_url")
    document: dict[str, Any] = {"external_id": bounded(name, MAX_EXTERNAL_ID)}
    for ours, theirs in (("caller", "caller_number"), ("callee", "callee_number")):
        if (number := _text(one.get(theirs))) is not None:
            document[ours] = number
    if (call := _text(one.get("call_id"))) is not None:
        document["call"] = {"external_id": bounded(call, MAX_EXTERNAL_ID)}
    if (direction := _text(one.get("direction"))) in ("inbound", "outbound"):
        document["direction"] = direction
    if (started := _text(one.get("date_time"))) is not None:
        document["started_at"] = started
    if isinstance(one.get("duration"), int | float):
        document["duration"] = one["duration"]
    agents = [_extension(one.get(name)) for name in ("outgoing_by", "accepted_by")]
    document["agents"] = list(dict.fromkeys(agent for agent in agents if agent is not None))
    document["extra"] = {str(n): v for n, v in one.items() if n not in _USED and v not in (None, "")}
    request = lenient_request(envelope, document)
    # What the envelope says of a document is nothing of the audio.
    headers = {} if token is None or not token.isprintable() else {"Authorization": f"Bearer {token}"}
    return Later(
        replace(request, content_type=None, extension=None, file_name=None, size=None),
        url=address,
        headers=headers,
        credential=None if headers else "bearer",
    )


def _extension(person: object) -> str | None:
    """Who of the centre was on the line: by extension, never by name."""
    number = person.get("extension_number") if isinstance(person, dict) else None
    text = _text(number)
    return None if text is None else code(text)


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return storable(str(value)).strip() or None


def _wrong(path: str, what: str) -> InvalidInput:
    return InvalidInput(f"{path}: {what}", fields=[FieldError(path, what)])
