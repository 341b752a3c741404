"""Clients of our own ways in: the multipart push, and a tus 1.0.0 client."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import aiohttp

from recorder.simulate.calls import SimulatedCall
from recorder.simulate.sending import Sender, Sent, Target, answer, asked, what

_TUS: Final = "1.0.0"
_PIECE: Final = 64 * 1024


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
        return await answer(target.session.post(url, data=form, headers=headers))


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
            said = {**what(call), "external_id": call.id, "filename": f"{call.id}.wav"}
            metadata = ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in said.items())
            headers = {**common, "Upload-Length": str(len(body)), "Upload-Metadata": metadata}
            async with asked(target.session.post(f"{target.server}/uploads", headers=headers)) as (
                response,
                sent,
            ):
                if sent.status != 201:
                    return sent
                address = response.headers["Location"]
            if address.startswith("/"):
                address = target.server + address
            self._begun[call.id] = address
        async with asked(target.session.head(address, headers=common)) as (response, sent):
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
            async with asked(target.session.patch(address, data=data, headers=headers)) as (response, sent):
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
