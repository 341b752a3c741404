"""The first frame of a jambonz stream: what it says, and whatever else anybody may send."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.errors import InvalidInput
from recorder.ingest.adapters.base import Envelope
from recorder.ingest.adapters.jambonz import is_key, read_opening
from recorder.ingest.sniff import Hints, sniff

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)


def opening(told: object, **settings: Any) -> Envelope:
    text = told if isinstance(told, str) else json.dumps(told)
    return Envelope("GET", (), (), {}, NOW, document=text.encode(), settings=settings)


def test_what_the_first_frame_says() -> None:
    told = {"callSid": "c1", "callId": "sip", "from": "+358401234567", "to": "100", "direction": "outbound"}
    request, header = read_opening(opening({**told, "sampleRate": "16000"}, channels=["agent", "customer"]))
    metadata = request.metadata
    assert metadata.external_id == "c1:20260305T080000.000000Z"
    assert metadata.call is not None
    assert metadata.call.external_id == "c1"
    assert (metadata.caller, metadata.callee, metadata.direction) == ("+358401234567", "100", "outbound")
    assert [channel.party for channel in metadata.channels] == ["agent", "customer"]
    assert metadata.extra == {"callId": "sip"}
    assert (request.reasons, request.strict) == ((), False)
    media = sniff(header + bytes(400), Hints())
    assert (media.codec, media.sample_rate, media.channels, media.data_size) == ("pcm_s16le", 16_000, 2, None)


@pytest.mark.parametrize("told", ["", "{", "[]", {}, {"callSid": 1}, {"callSid": "x", "sampleRate": 7999}])
def test_what_names_no_call_is_refused(told: object) -> None:
    with pytest.raises(InvalidInput):
        read_opening(opening(told))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(["callSid", "from", "to", "direction", "sampleRate", "callId", "accountSid"])


@given(st.text(max_size=60) | st.dictionaries(_NAMES, _JSON, max_size=7))
def test_no_frame_breaks_the_reading(told: object) -> None:
    assert is_key(told if isinstance(told, str) else json.dumps(told)) in (True, False)
    try:
        request, header = read_opening(opening(told))
    except InvalidInput:
        return
    assert request.metadata.external_id
    assert len(header) == 44
