"""Providers: they sign what they say, and most of them only say where the audio is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from email.utils import format_datetime

from recorder.simulate.calls import SimulatedCall
from recorder.simulate.sending import Media, Piece, Sender, Sent, Target, answer, piece


class Vcon(Sender):
    """A vCon conserver's webhook: the audio inside the document."""

    kind = "vcon"
    retries = 3

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), f"{_vcon_id(call)}:0")]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        body = call.wav()
        document = {
            "uuid": _vcon_id(call),
            "created_at": call.ended_at.isoformat(),
            "parties": [{"tel": call.caller, "role": "customer"}, {"name": call.agent, "role": "agent"}],
            "dialog": [
                {
                    "type": "recording",
                    "start": call.started_at.isoformat(),
                    "duration": round(call.seconds, 3),
                    "parties": [0, 1],
                    "originator": 0,
                    "mediatype": "audio/x-wav",
                    "filename": f"{call.id}.wav",
                    "body": base64.urlsafe_b64encode(body).rstrip(b"=").decode(),
                    "encoding": "base64url",
                    "content_hash": "sha512-"
                    + base64.urlsafe_b64encode(hashlib.sha512(body).digest()).rstrip(b"=").decode(),
                }
            ],
            "analysis": [],
            "attachments": [],
        }
        data = target.body(json.dumps(document).encode())
        headers = {"Content-Type": "application/vcon"}
        return await answer(target.session.post(target.base, data=data, headers=headers))


def _vcon_id(call: SimulatedCall) -> str:
    # Version 8, as the draft wants it: any bits, with version and variant in their places.
    bits = uuid.uuid5(uuid.NAMESPACE_URL, call.id).int & ~(0xF << 76) | 8 << 76
    return str(uuid.UUID(int=bits))


class Twilio(Sender):
    """Twilio: a signed callback, answered at once; the audio is fetched afterwards. One retry."""

    kind = "twilio"
    retries = 1

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), _sid("RE", call))]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        fields = {
            "AccountSid": "AC" + "0" * 32,
            "CallSid": _sid("CA", call),
            "RecordingSid": _sid("RE", call),
            "RecordingStatus": "completed",
            "RecordingDuration": str(max(1, int(call.seconds))),
            "RecordingChannels": "2",
            "RecordingSource": "DialVerb",
            "RecordingTrack": "both",
            "RecordingStartTime": format_datetime(call.started_at),
            "ErrorCode": "0",
        }
        fields["RecordingUrl"] = _media(target).offer(fields["RecordingSid"], call.wav())
        url = target.base
        text = url + "".join(name + fields[name] for name in sorted(fields))
        signature = base64.b64encode(hmac.digest(target.secret.encode(), text.encode(), hashlib.sha1))
        headers = {"X-Twilio-Signature": signature.decode(), "User-Agent": "TwilioProxy/1.1"}
        sent = await answer(target.session.post(url, data=fields, headers=headers))
        return Sent(sent.status, sent.answer, later=True)


class SignalWire(Twilio):
    """SignalWire posts the same under its own roof."""

    kind = "signalwire"


class Zoom(Sender):
    """Zoom Phone: a signed event with an address and a token for the download."""

    kind = "zoom"
    retries = 3

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), _sid("", call))]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        recording = {
            "id": _sid("", call),
            "call_id": call.id,
            "caller_number": call.caller,
            "caller_number_type": 2,
            "callee_number": call.callee,
            "callee_number_type": 1,
            "direction": "inbound",
            "duration": int(call.seconds),
            "date_time": f"{call.started_at:%Y-%m-%dT%H:%M:%SZ}",
            "download_url": _media(target).offer(_sid("", call), call.wav()),
        }
        stamp = str(int(target.now().timestamp()))
        event = {
            "event": "phone.recording_completed",
            "event_ts": int(call.ended_at.timestamp() * 1000),
            "payload": {"account_id": "sim", "object": {"recordings": [recording]}},
            "download_token": "sim-token",
        }
        body = json.dumps(event).encode()
        digest = hmac.digest(target.secret.encode(), f"v0:{stamp}:".encode() + body, hashlib.sha256).hex()
        headers = {
            "Content-Type": "application/json",
            "x-zm-request-timestamp": stamp,
            "x-zm-signature": f"v0={digest}",
        }
        sent = await answer(target.session.post(target.base, data=body, headers=headers))
        return Sent(sent.status, sent.answer, later=True)


def _sid(prefix: str, call: SimulatedCall) -> str:
    return prefix + hashlib.md5(call.id.encode(), usedforsecurity=False).hexdigest()


def _media(target: Target) -> Media:
    if target.media is None:
        raise AssertionError("kinds whose audio is fetched need a place for it")
    return target.media
