"""Switchboards and recorders: they bring the audio themselves, in the very requests of docs/telephony."""

from __future__ import annotations

import base64
import struct
import uuid
from dataclasses import replace
from typing import Final
from urllib.parse import quote, urlencode

import aiohttp

from recorder.simulate.calls import RATE, SimulatedCall
from recorder.simulate.sending import Piece, Sender, Sent, Target, answer, piece, what

_OPEN: Final = 0xFFFFFFFF
"""A length in a WAV file that is not known yet."""


class FreeSwitch(Sender):
    """``mod_http_cache``: a raw PUT, everything else in the address, and no second try."""

    kind = "freeswitch"

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        body = call.wav()
        url = f"{target.base}/{call.id}.wav?{urlencode(what(call))}"
        headers = {
            "User-Agent": "freeswitch-http-cache/1.0",
            "Content-Type": "audio/x-wav",
            "Content-Length": str(len(body)),
        }
        expects = len(body) > 1024 * 1024
        return await answer(
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
        url = f"{target.base}/{call.id}.wav?{urlencode(what(call))}"
        return await answer(target.session.post(url, data=form, headers={"User-Agent": "mod_httapi/1.0"}))


class Kazoo(Sender):
    """Kazoo: a raw PUT whose media type stands in a header of a name of its own."""

    kind = "kazoo"

    def pieces(self, call: SimulatedCall) -> list[Piece]:
        """See `Sender`."""
        return [piece(call.wav(), f"call_recording_{call.id}")]

    async def send(self, target: Target, call: SimulatedCall) -> Sent:
        """See `Sender`."""
        url = f"{target.base}/call_recording_{quote(call.id)}.wav"
        return await answer(
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
            sent = await answer(target.session.post(f"{target.base}/", data=form, headers=headers))
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
        return await answer(target.session.put(url, data=target.body(call.wav())))


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
        return await answer(target.session.post(f"{target.base}/{call.id}.wav?labels=1,2", data=form))


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
            await answer(target.session.get(f"{target.base}/command?{asked}"))
        sent = await answer(
            target.session.put(f"{target.base}/?{urlencode(told)}", data=target.body(call.wav()))
        )
        asked = urlencode({**told, "stage": "ready", "duration": str(int(call.seconds))})
        await answer(target.session.get(f"{target.base}/command?{asked}"))
        return sent


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
