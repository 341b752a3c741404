"""Zoom Phone: the check of the address, signatures, recordings to fetch, and what is no event."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.errors import RecorderError, Unauthenticated
from recorder.ingest.adapters.base import Envelope, Later, Reply
from recorder.ingest.adapters.zoom import ZoomAdapter

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
SECRET = "eI1bCZzxTVS7d8R5GFCNzA"
ZOOM = ZoomAdapter()
COMPLETED: dict[str, Any] = {
    "event": "phone.recording_completed",
    "event_ts": 1626230691572,
    "download_token": "abc.def.ghi",
    "payload": {
        "account_id": "AAAAAABBBB",
        "object": {
            "recordings": [
                {
                    "id": "55a6a0e4d1ab4e3b9e6a4a3b1c2d3e4f",
                    "call_id": "6998252170489343232",
                    "call_log_id": "e4b1b2ad-5a65-4e44-9d4a-ff0000000000",
                    "caller_number": "+358401234567",
                    "caller_number_type": 2,
                    "caller_name": "Maija Meikäläinen",
                    "callee_number": "1002",
                    "callee_number_type": 1,
                    "callee_name": "Service",
                    "direction": "inbound",
                    "duration": 31,
                    "date_time": "2026-03-05T07:58:26Z",
                    "recording_type": "Automatic",
                    "download_url": "https://zoom.us/v2/phone/recording/download/55a6a0e4",
                    "owner": {"type": "user", "id": "u", "name": "Agent One", "extension_number": 1002},
                    "accepted_by": {"name": "Agent One", "extension_number": "1002"},
                    "outgoing_by": {"name": "Agent Two", "extension_number": "1003"},
                },
                {"id": "second", "download_url": "https://zoom.us/v2/phone/recording/download/second"},
            ]
        },
    },
}


def sent(
    event: object, *, secret: str = SECRET, at: datetime = NOW, headers: dict[str, str] | None = None
) -> Envelope:
    body = event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode()
    stamp = str(int(at.timestamp()))
    mac = hmac.new(secret.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    signed = {"x-zm-signature": f"v0={mac}", "x-zm-request-timestamp": stamp}
    return Envelope(
        "POST",
        (),
        (),
        {**signed, **(headers or {})},
        NOW,
        document=body,
        content_type="application/json",
        secrets={"secret_token": SECRET},
    )


def test_recordings_are_fetched_with_their_token() -> None:
    asked = sent(COMPLETED)
    ZOOM.verify(asked, asked.secrets)
    first, second = ZOOM.read(asked)
    assert isinstance(first, Later)
    assert isinstance(second, Later)
    assert first.url == "https://zoom.us/v2/phone/recording/download/55a6a0e4"
    assert first.headers == {"Authorization": "Bearer abc.def.ghi"}
    metadata = first.request.metadata
    assert metadata.external_id == "55a6a0e4d1ab4e3b9e6a4a3b1c2d3e4f"
    assert metadata.call is not None
    assert metadata.call.external_id == "6998252170489343232"
    assert (metadata.caller, metadata.callee, metadata.direction) == ("+358401234567", "1002", "inbound")
    assert metadata.started_at == datetime(2026, 3, 5, 7, 58, 26, tzinfo=UTC)
    assert (metadata.duration, metadata.agents) == (31, ["1003", "1002"])
    assert metadata.extra["caller_name"] == "Maija Meikäläinen"
    assert first.request.reasons == ()
    assert first.request.content_type is None, "the document's type is not the audio's"
    assert second.request.reasons == ("started-at-estimated",)
    reply = ZOOM.reply(asked, (first, second))
    assert reply is not None
    assert reply.status == 204


def test_the_check_of_the_address_is_answered() -> None:
    plain = "qgg8vlvZRS6UYooatFL8Aw"
    asked = sent({"event": "endpoint.url_validation", "payload": {"plainToken": plain}, "event_ts": 1})
    ZOOM.verify(asked, asked.secrets)
    [reply] = ZOOM.read(asked)
    assert isinstance(reply, Reply)
    expected = hmac.new(SECRET.encode(), plain.encode(), hashlib.sha256).hexdigest()
    assert json.loads(reply.body) == {"plainToken": plain, "encryptedToken": expected}


def test_signatures_are_checked() -> None:
    from datetime import timedelta

    good = sent(COMPLETED)
    ZOOM.verify(good, {"secret_token": SECRET})
    for bad, secrets in (
        (good, {}),
        (good, {"secret_token": "other"}),
        (sent(COMPLETED, secret="other"), good.secrets),
        (sent(COMPLETED, at=NOW - timedelta(minutes=6)), good.secrets),
        (sent(COMPLETED, at=NOW + timedelta(minutes=6)), good.secrets),
        (sent(COMPLETED, headers={"x-zm-signature": ""}), good.secrets),
        (sent(COMPLETED, headers={"x-zm-signature": "v0=ä"}), good.secrets),
        (sent(COMPLETED, headers={"x-zm-request-timestamp": "soon"}), good.secrets),
        (sent(COMPLETED, headers={"x-zm-request-timestamp": "9" * 400}), good.secrets),
    ):
        with pytest.raises(Unauthenticated):
            ZOOM.verify(bad, secrets)


def test_other_events_need_nothing() -> None:
    [reply] = ZOOM.read(sent({"event": "phone.caller_ringing", "payload": {"object": {}}}))
    assert isinstance(reply, Reply)
    assert reply.status == 200


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        {"event": "phone.recording_completed"},
        {"event": "phone.recording_completed", "payload": {"object": {"recordings": []}}},
        {"event": "phone.recording_completed", "payload": {"object": {"recordings": [1]}}},
        {"event": "phone.recording_completed", "payload": {"object": {"recordings": [{"id": "x"}]}}},
        {"event": "phone.recording_completed", "payload": {"object": {"recordings": [{}] * 101}}},
        {"event": "endpoint.url_validation", "payload": {}},
        {"event": "endpoint.url_validation", "payload": {"plainToken": "x" * 2000}},
    ],
)
def test_what_is_no_event_is_refused(event: object) -> None:
    with pytest.raises(RecorderError):
        ZOOM.read(sent(event))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from([*COMPLETED["payload"]["object"]["recordings"][0], "end_time", "x"]),
        _JSON,
        max_size=12,
    )
)
def test_no_recording_breaks_the_reading(fields: dict[str, Any]) -> None:
    event = {"event": "phone.recording_completed", "payload": {"object": {"recordings": [fields]}}}
    try:
        [intent] = ZOOM.read(sent(event))
    except RecorderError:
        return
    assert isinstance(intent, Later)
    assert intent.request.metadata.external_id
