"""One sender of each kind: the very requests that the system makes, as docs/telephony has them.

A sender knows how its system retries, and nothing of why: a system that forgets a recording after one attempt
forgets it here as well.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import quote, urlencode

import aiohttp

from recorder.push import json_object
from recorder.simulate.calls import RATE, SimulatedCall

_ANSWER_LIMIT: Final = 1024 * 1024
_TUS: Final = "1.0.0"
_PIECE: Final = 64 * 1024
_OPEN: Final = 0xFFFFFFFF
"""A length in a WAV file that is not known yet."""


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


class Sender:
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

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """Hand one call over, once.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: no answer came.
        """
        raise NotImplementedError


def piece(body: bytes, external_id: str, leg: str | None = None) -> Piece:
    """Audio as a checker looks for it."""
    return Piece(external_id, leg, hashlib.sha256(body).hexdigest(), len(body))


@asynccontextmanager
async def _asked(request: Any) -> AsyncIterator[tuple[aiohttp.ClientResponse, Sent]]:
    async with request as response:
        document = json_object(await response.content.read(_ANSWER_LIMIT))
        yield response, Sent(response.status, document)


async def _answer(request: Any) -> Sent:
    async with _asked(request) as (_, sent):
        return sent


def _what(call: SimulatedCall) -> dict[str, str]:
    return {
        "started_at": call.started_at.isoformat(),
        "from": call.caller,
        "to": call.callee,
        "direction": "inbound",
        "agent": call.agent,
        "queue": call.queue,
    }


class Generic(Sender):
    """The API's own multipart push."""

    kind = "generic"
    retries = 5

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        body = call.wav()
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        form = aiohttp.MultipartWriter("form-data")
        document = {
            "external_id": call.id,
            "started_at": call.started_at.isoformat(),
            "direction": "inbound",
            "caller": call.caller,
            "callee": call.callee,
            "agents": [call.agent],
            "queue": call.queue,
            "channels": [{"party": "customer"}, {"party": "agent"}],
        }
        form.append_json(document).set_content_disposition("form-data", name="metadata")
        part = form.append(
            target.body(body), {"Content-Type": "audio/wav", "Content-Digest": f"sha-256=:{digest}:"}
        )
        part.set_content_disposition("form-data", name="audio", filename=f"{call.id}.wav")
        headers = {"Authorization": f"Bearer {target.token}"}
        url = f"{target.server}/api/v1/recordings"
        return await _answer(target.session.post(url, data=form, headers=headers))


class FreeSwitch(Sender):
    """``mod_http_cache``: a raw PUT, everything else in the address, and no second try."""

    kind = "freeswitch"

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        body = call.wav()
        url = f"{target.base}/{call.id}.wav?{urlencode(_what(call))}"
        headers = {
            "User-Agent": "freeswitch-http-cache/1.0",
            "Content-Type": "audio/x-wav",
            "Content-Length": str(len(body)),
        }
        expects = len(body) > 1024 * 1024
        return await _answer(
            target.session.put(url, data=target.body(body), headers=headers, expect100=expects)
        )


class Httapi(Sender):
    """FreeSWITCH's ``mod_httapi``: a form of the session, with the recording as one part."""

    kind = "freeswitch"

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        form = aiohttp.MultipartWriter("form-data")
        session = str(uuid.uuid5(uuid.NAMESPACE_URL, call.id))
        for name, value in (("session_id", session), ("hostname", "fs1")):
            form.append(value).set_content_disposition("form-data", name=name)
        part = form.append(target.body(call.wav()), {"Content-Type": "audio/wav"})
        part.set_content_disposition("form-data", name="message", filename=f"{call.id}.wav")
        url = f"{target.base}/{call.id}.wav?{urlencode(_what(call))}"
        return await _answer(target.session.post(url, data=form, headers={"User-Agent": "mod_httapi/1.0"}))


class Kazoo(Sender):
    """Kazoo: a raw PUT whose media type stands in a header of a name of its own."""

    kind = "kazoo"

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), f"call_recording_{call.id}")]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        url = f"{target.base}/call_recording_{quote(call.id)}.wav"
        return await _answer(
            target.session.put(
                url,
                data=target.body(call.wav()),
                headers={"content_type": "audio/wav"},
                skip_auto_headers=("Content-Type",),
            )
        )


class Rtpengine(Sender):
    """rtpengine's recording daemon: mix and each party's stream, told of by headers; retried in memory."""

    kind = "rtpengine"
    retries = 10

    def _files(self, call: SimulatedCall) -> list[tuple[str, bytes]]:
        return [("mix", call.wav()), ("ssrc-1", call.wav(0)), ("ssrc-2", call.wav(1))]

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(body, call.id, leg) for leg, body in self._files(call)]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`; the answer is the worst of the three."""
        worst = Sent(0)
        for leg, body in self._files(call):
            form = aiohttp.MultipartWriter("form-data")
            part = form.append(target.body(body), {"Content-Type": "audio/wav"})
            part.set_content_disposition("form-data", name="ngfile", filename=f"{call.id}-{leg}.wav")
            headers = {
                "X-Recording-Call-ID": call.id,
                "X-Recording-File-Name": f"{call.id}-{leg}.wav",
                "X-Recording-Full-File-Name": f"/var/lib/rtpengine-recording/{call.id}-{leg}.wav",
                "X-Recording-File-Format": "wav",
                "X-Recording-Kind": "mixed" if leg == "mix" else "single",
                "X-Recording-Call-Start-Time": f"{call.started_at.timestamp():.6f}",
                "X-Recording-Stream-Start-Time": f"{call.started_at.timestamp():.6f}",
                "X-Recording-Call-End-Time": f"{call.ended_at.timestamp():.6f}",
                "X-Recording-Call-Metadata": f"from:{call.caller}|to:{call.callee}|queue:{call.queue}",
            }
            sent = await _answer(target.session.post(f"{target.base}/", data=form, headers=headers))
            worst = max(worst, sent, key=lambda one: one.status)
        return worst


class Asterisk(Sender):
    """A script after MixMonitor: curl, the file under FreePBX's name."""

    kind = "asterisk"
    retries = 3

    def _name(self, call: SimulatedCall) -> str:
        stamp = f"{call.started_at:%Y%m%d-%H%M%S}"
        unique = f"{int(call.started_at.timestamp())}.{call.number}"
        return f"q-{call.queue}-{call.caller.lstrip('+')}-{stamp}-{unique}"

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), self._name(call))]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        url = f"{target.base}/{quote(self._name(call))}.wav?call={quote(call.id)}"
        return await _answer(target.session.put(url, data=target.body(call.wav())))


class Siprec(Sender):
    """A session recording server: RFC 7865 metadata, then the audio."""

    kind = "siprec"
    retries = 3

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        session = base64.b64encode(uuid.uuid5(uuid.NAMESPACE_URL, call.id).bytes).decode()
        metadata = _SIPREC.format(
            session=session, start=call.started_at.isoformat(), stop=call.ended_at.isoformat(), call=call
        )
        form = aiohttp.MultipartWriter("form-data")
        part = form.append(metadata, {"Content-Type": "application/rs-metadata+xml"})
        part.set_content_disposition("form-data", name="metadata", filename="metadata.xml")
        part = form.append(target.body(call.wav()), {"Content-Type": "audio/wav"})
        part.set_content_disposition("form-data", name="audio", filename=f"{call.id}.wav")
        return await _answer(target.session.post(f"{target.base}/{call.id}.wav?labels=1,2", data=form))


_SIPREC: Final = """<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode>
<session session_id="{session}"><start-time>{start}</start-time></session>
<participant participant_id="cA=="><nameID aor="tel:{call.caller}"/></participant>
<participant participant_id="cB=="><nameID aor="sip:{call.agent}@pbx.example"/></participant>
<stream stream_id="sA==" session_id="{session}"><label>1</label></stream>
<stream stream_id="sB==" session_id="{session}"><label>2</label></stream>
<sessionrecordingassoc session_id="{session}"><associate-time>{start}</associate-time>
<disassociate-time>{stop}</disassociate-time></sessionrecordingassoc>
<participantstreamassoc participant_id="cA=="><send>sA==</send><recv>sB==</recv></participantstreamassoc>
<participantstreamassoc participant_id="cB=="><send>sB==</send><recv>sA==</recv></participantstreamassoc>
</recording>"""


class Oreka(Sender):
    """orkaudio: word of the tape at each stage; the audio by a script, with the same words."""

    kind = "oreka"
    retries = 3

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        told = {
            "type": "tape",
            "recid": call.id,
            "captureport": "SIM",
            "timestamp": str(int(call.started_at.timestamp())),
            "filename": f"{call.id}.wav",
            "localparty": call.agent,
            "remoteparty": call.caller,
            "direction": "in",
            "nativecallid": call.id,
        }
        for stage in ("start", "stop"):
            asked = urlencode({**told, "stage": stage, "duration": str(int(call.seconds))})
            await _answer(target.session.get(f"{target.base}/command?{asked}"))
        sent = await _answer(
            target.session.put(f"{target.base}/?{urlencode(told)}", data=target.body(call.wav()))
        )
        asked = urlencode({**told, "stage": "ready", "duration": str(int(call.seconds))})
        await _answer(target.session.get(f"{target.base}/command?{asked}"))
        return sent


class Tus(Sender):
    """A tus 1.0.0 client: creates, sends in pieces, and after a break asks how far it came."""

    kind = "generic"
    retries = 20

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        body = call.wav()
        common = {"Tus-Resumable": _TUS, "Authorization": f"Bearer {target.token}"}
        address = self._begun.get(call.id)
        if address is None:
            said = {**_what(call), "external_id": call.id, "filename": f"{call.id}.wav"}
            metadata = ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in said.items())
            headers = {**common, "Upload-Length": str(len(body)), "Upload-Metadata": metadata}
            async with _asked(target.session.post(f"{target.server}/uploads", headers=headers)) as (
                response,
                sent,
            ):
                if sent.status != 201:
                    return sent
                address = response.headers["Location"]
            if address.startswith("/"):
                address = target.server + address
            self._begun[call.id] = address
        async with _asked(target.session.head(address, headers=common)) as (response, sent):
            if sent.status in (404, 410):
                del self._begun[call.id]
                return Sent(503)
            if sent.status != 200:
                return sent
            offset = int(response.headers["Upload-Offset"])
        while True:
            headers = {
                **common,
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
            }
            data = target.body(body[offset : offset + _PIECE])
            async with _asked(target.session.patch(address, data=data, headers=headers)) as (response, sent):
                if sent.status != 204:
                    return sent
                offset = int(response.headers["Upload-Offset"])
                if offset == len(body):
                    named = {
                        "id": response.headers.get("Recording-Id"),
                        "receipt": response.headers.get("Upload-Receipt"),
                        "state": response.headers.get("Recording-State"),
                    }
                    return Sent(204, {name: value for name, value in named.items() if value is not None})


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
        return await _answer(target.session.post(target.base, data=data, headers=headers))


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
        sent = await _answer(target.session.post(url, data=fields, headers=headers))
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
        sent = await _answer(target.session.post(target.base, data=body, headers=headers))
        return Sent(sent.status, sent.answer, later=True)


def _sid(prefix: str, call: SimulatedCall) -> str:
    return prefix + hashlib.md5(call.id.encode(), usedforsecurity=False).hexdigest()


def _media(target: Target) -> Media:
    if target.media is None:
        raise AssertionError("kinds whose audio is fetched need a place for it")
    return target.media


class Jambonz(Sender):
    """jambonz: a WebSocket, the call's facts as text, then the audio as it is spoken."""

    kind = "jambonz"

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """The stream as a WAV file whose length its head leaves open; its name has the time of arrival."""
        form = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 4, 4, 16)
        head = struct.pack("<4sI4s4sI16s4sI", b"RIFF", _OPEN, b"WAVE", b"fmt ", 16, form, b"data", _OPEN)
        return [replace(piece(head + call.pcm, call.id), external_id=None)]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        facts = {
            "accountSid": str(uuid.UUID(int=1)),
            "callSid": call.id,
            "callId": f"{call.id}@jambonz.example",
            "direction": "inbound",
            "from": call.caller,
            "to": call.callee,
            "sampleRate": 8000,
            "originatingSipIp": "192.0.2.10",
        }
        url = f"{target.base}/record/custom".replace("http", "ws", 1)
        async with target.session.ws_connect(url) as socket:
            await socket.send_json(facts)
            for start in range(0, len(call.pcm), 3200):
                await socket.send_bytes(call.pcm[start : start + 3200])
            await socket.close()
            # 1011 and the like: what came could not be kept. A clean close is the only receipt there is.
            return Sent(101 if socket.close_code in (1000, 1005, None) else 503)


SENDERS: Final[Mapping[str, type[Sender]]] = {
    "generic": Generic,
    "freeswitch": FreeSwitch,
    "httapi": Httapi,
    "kazoo": Kazoo,
    "rtpengine": Rtpengine,
    "asterisk": Asterisk,
    "siprec": Siprec,
    "oreka": Oreka,
    "tus": Tus,
    "vcon": Vcon,
    "twilio": Twilio,
    "signalwire": SignalWire,
    "zoom": Zoom,
    "jambonz": Jambonz,
}
"""By the name of what is simulated; several may push to a source of one kind."""

FETCHED: Final = frozenset({"twilio", "signalwire", "zoom"})
"""Those whose audio the service fetches."""
