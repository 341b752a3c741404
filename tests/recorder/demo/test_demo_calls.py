"""The demo's calls: spoken, on the right channels, in codecs that decode, the same at every start."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from array import array
from collections import Counter
from datetime import date
from zoneinfo import ZoneInfo

import av
import phonenumbers
import pytest

from recorder.demo import encoding
from recorder.demo.calls import Spoken, build_push, speak
from recorder.demo.encoding import Coding
from recorder.demo.scripts import CALLS, CUSTOMERS, DemoCall
from recorder.demo.speech import SAMPLE_RATE, Speaker, Voice
from recorder.errors import ConfigurationError
from recorder.ingest.metadata import CARD_SECURITY, parse_metadata

HELSINKI = ZoneInfo("Europe/Helsinki")
FIRST_DAY = date(2026, 3, 5)


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture(scope="module")
def spoken(speaker: Speaker) -> dict[str, Spoken]:
    return {call.external_id: speak(speaker, call) for call in CALLS}


def loudness(samples: array[int]) -> int:
    return max((abs(value) for value in samples), default=0)


def test_every_call_is_a_short_conversation_with_one_party_on_each_channel(spoken: dict[str, Spoken]) -> None:
    for call in CALLS:
        said = spoken[call.external_id]
        assert 20_000 <= said.duration_ms <= 60_000, call.external_id
        agent, customer = said.samples[0::2], said.samples[1::2]
        assert loudness(agent) > 5_000, call.external_id
        assert loudness(customer) > 5_000, call.external_id
        # Nobody interrupts: where one speaks the other is silent.
        assert not any(a and c for a, c in zip(agent, customer, strict=True)), call.external_id
        assert len(call.turns) >= 6
        assert [turn.party for turn in call.turns[:2]] == ["agent", "customer"]


def test_the_demo_has_the_variety_that_it_promises() -> None:
    assert {call.language for call in CALLS} == {"fi", "sv", "en"}
    assert len({(call.coding.codec, call.coding.container) for call in CALLS}) >= 9
    assert Counter(call.fate for call in CALLS if call.fate) == {"hold": 1, "restriction": 1, "objection": 1}
    assert [call.external_id for call in CALLS if call.customer is None] == ["demo-0006"]
    assert any(turn.card for call in CALLS for turn in call.turns)
    assert max(call.age_days for call in CALLS) > 8 * 366
    # Quality hears a call for a year, unless the customer objected or had the processing restricted.
    closed = {call.customer for call in CALLS if call.fate in {"objection", "restriction"}}
    heard = [call for call in CALLS if call.age_days < 330 and call.customer not in closed]
    assert len(heard) >= 6
    assert len({call.external_id for call in CALLS}) == len(CALLS)


def test_the_customer_past_the_date_called_only_once() -> None:
    oldest = max(CALLS, key=lambda call: call.age_days)
    assert [call for call in CALLS if call.customer == oldest.customer] == [oldest]


def test_customers_have_numbers_that_parse_and_addresses_that_reach_nobody() -> None:
    for customer in CUSTOMERS:
        assert phonenumbers.is_valid_number(phonenumbers.parse(customer.phone))
        assert customer.email.split("@")[1] in {"example.fi", "example.se", "example.com"}
    for field in ("number", "phone", "email"):
        assert len({getattr(customer, field) for customer in CUSTOMERS}) == len(CUSTOMERS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.external_id)
def test_every_push_is_valid_and_decodes_to_the_length_it_says(speaker: Speaker, call: DemoCall) -> None:
    push = build_push(speaker, call, FIRST_DAY, HELSINKI)
    metadata = parse_metadata(json.dumps(push.metadata).encode())
    assert metadata.ended_at is not None
    said = (metadata.ended_at - metadata.started_at).total_seconds()
    container = call.coding.container if call.coding.media else None
    with av.open(io.BytesIO(push.audio), mode="r", format=container) as file:
        stream = file.streams.audio[0]
        heard = sum(frame.samples for frame in file.decode(stream)) / (stream.rate or 0)
        assert stream.channels == call.coding.channels
    assert heard == pytest.approx(said, abs=0.2)
    assert (metadata.started_at.astimezone(HELSINKI).date() - FIRST_DAY).days == -call.age_days


def test_a_second_start_pushes_the_same_bytes() -> None:
    script = (
        "import hashlib, sys; from datetime import date; from zoneinfo import ZoneInfo\n"
        "from recorder.demo.calls import build_push; from recorder.demo.scripts import CALLS\n"
        "from recorder.demo.speech import Speaker; speaker = Speaker()\n"
        "for call in CALLS:\n"
        "    push = build_push(speaker, call, date(2026, 3, 5), ZoneInfo('Europe/Helsinki'))\n"
        "    print(hashlib.sha256(push.audio).hexdigest(), push.metadata)\n"
    )
    starts = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout
        for _ in range(2)
    ]
    assert starts[0].count("\n") == len(CALLS)
    assert starts[0] == starts[1]


def test_the_card_number_and_nothing_else_is_marked(speaker: Speaker) -> None:
    call = next(call for call in CALLS if any(turn.card for turn in call.turns))
    said = speak(speaker, call)
    ((begin, end),) = said.card_spans
    quiet = array("h", said.samples)
    first, last = (2 * (at * SAMPLE_RATE // 1000) for at in (begin, end))
    quiet[first:last] = array("h", bytes(2 * (last - first)))
    whole = sum(1 for value in said.samples[1::2] if value)
    outside = sum(1 for value in quiet[1::2] if value)
    assert 0 < outside < whole
    # The agent's words stay whole: only the customer's turn lies in the span.
    assert sum(map(bool, quiet[0::2])) == sum(map(bool, said.samples[0::2]))
    (muted,) = build_push(speaker, call, FIRST_DAY, HELSINKI).metadata["muted"]
    assert muted["reason"] == CARD_SECURITY
    assert (muted["from"], muted["to"]) == pytest.approx((begin / 1000, end / 1000), abs=0.1)


def test_an_unknown_voice_is_named(speaker: Speaker) -> None:
    with pytest.raises(ConfigurationError, match="no voice xx-none"):
        speaker.say("hello", Voice("xx-none"))


@pytest.mark.parametrize(
    "coding",
    [
        encoding.WAV_PCM16, encoding.WAV_PCM16_8K, encoding.WAV_PCM8, encoding.WAV_MULAW, encoding.WAV_ALAW,
        encoding.G722, encoding.MP3, encoding.OPUS, encoding.WEBM, encoding.FLAC, encoding.AMR,
    ],
    ids=lambda coding: f"{coding.container}-{coding.codec}",
)  # fmt: skip
def test_silence_of_no_length_is_still_a_file(coding: Coding) -> None:
    assert encoding.encode(array("h", bytes(4 * 1600)), 16_000, coding)
