"""Each kind's adapter on requests as its senders write them: pure, without a service."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recorder.catalogue.enums import Direction
from recorder.errors import InvalidInput
from recorder.ingest.adapters.base import Adapter, Audio, NoAudio, Reply, SenderOutcome
from recorder.ingest.adapters.registry import ADAPTERS, KINDS, SETTINGS, adapter_of
from recorder.ingest.adapters.rtpengine import leg_of
from recorder.ingest.request import IngestRequest
from tests.recorder.ingest.adapters.recorded import NOW, envelope

START = datetime(2026, 3, 5, 7, 15, tzinfo=UTC)


def read(kind: str, payload: str, **settings: Any) -> IngestRequest:
    (intent,) = ADAPTERS[kind].read(envelope(payload, settings=settings))
    assert isinstance(intent, Audio)
    assert intent.request.strict is False
    return intent.request


def test_every_kind_has_settings_and_every_adapter_its_own_kind() -> None:
    assert set(ADAPTERS) <= set(SETTINGS)
    assert {"generic", "spool"} < set(KINDS)
    for kind, adapter in ADAPTERS.items():
        typed: Adapter = adapter
        assert typed.kind == kind
    assert adapter_of("of-another-release").kind == "generic"


def test_freeswitch_http_cache() -> None:
    request = read("freeswitch", "freeswitch-http-cache")
    told = request.metadata
    assert told.external_id == "7a3f0c1e-9a54-4c1c-8b1e-0d6f7a1c2b3d"
    assert (told.caller, told.callee, told.queue, told.agents) == ("+358401234567", "1200", "sales", ["1001"])
    assert (told.started_at, told.direction) == (START, Direction.INBOUND)
    assert (request.extension, request.content_type, request.reasons) == ("wav", "audio/x-wav", ())


def test_freeswitch_httapi() -> None:
    asked = envelope("freeswitch-httapi")
    request = read("freeswitch", "freeswitch-httapi")
    told = request.metadata
    assert told.external_id == "0f4c8a0e-3b69-4a6b-9d0e-2a0f6f6f7b11"
    assert told.leg == "complaint"
    assert told.call is not None
    assert told.call.external_id == told.external_id
    assert told.extra["Caller-Caller-ID-Number"] == "0401234567"
    assert request.reasons == ("started-at-estimated",)
    reply = ADAPTERS["freeswitch"].reply(asked, (Audio(request),))
    assert reply is not None
    assert (reply.status, reply.content_type) == (200, "text/xml")
    assert b'type="xml/freeswitch-httapi"' in reply.body
    assert ADAPTERS["freeswitch"].reply(envelope("freeswitch-http-cache"), ()) is None


def test_httapi_without_a_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no audio came"):
        ADAPTERS["freeswitch"].read(replace(envelope("freeswitch-httapi"), document=b"", part_name=None))


def test_kazoo_names_its_media_in_a_header_of_its_own() -> None:
    request = read("kazoo", "kazoo")
    assert request.metadata.external_id == "call_recording_a84b4c76e66710@pc33.example"
    assert request.metadata.call is not None
    assert request.metadata.call.external_id == "a84b4c76e66710@pc33.example"
    assert (request.content_type, request.extension) == ("audio/mpeg", "mp3")


def test_asterisk_tells_by_the_file_name_and_the_query_goes_before_it() -> None:
    request = read("asterisk", "asterisk", time_zone="Europe/Helsinki")
    told = request.metadata
    assert told.external_id == "q-600-0401234567-20260305-091500-1772694900.42"
    assert told.call is not None
    assert told.call.external_id == "1772694900.42"
    assert (told.started_at, told.caller, told.callee, told.queue) == (START, "0401234567", "600", "600")
    assert (told.direction, told.agents, request.reasons) == (Direction.INBOUND, ["1001"], ())


def test_asterisk_with_a_pattern_of_ones_own_or_none_that_fits() -> None:
    asked = replace(envelope("asterisk"), path=("20260305T091500_0401234567_abc.wav",), query=())
    with_pattern = replace(asked, settings={"file_names": ["{datetime}_{caller}_{call}"]})
    (intent,) = ADAPTERS["asterisk"].read(with_pattern)
    assert isinstance(intent, Audio)
    assert intent.request.metadata.call is not None
    assert intent.request.metadata.call.external_id == "abc"
    assert intent.request.metadata.started_at == datetime(2026, 3, 5, 9, 15, tzinfo=UTC)
    (other,) = ADAPTERS["asterisk"].read(asked)
    assert isinstance(other, Audio)
    assert other.request.reasons == ("started-at-estimated",)


def test_rtpengine_mix_and_ssrc_are_two_recordings_of_one_call() -> None:
    mix = read("rtpengine", "rtpengine-mix", parties={"caller": "customer"})
    leg = read("rtpengine", "rtpengine-ssrc", parties={"caller": "customer"})
    assert mix.metadata.external_id == leg.metadata.external_id == "a84b4c76e66710@pc33.example"
    assert mix.metadata.call == leg.metadata.call
    assert (mix.metadata.leg, leg.metadata.leg) == ("6c3f1d2b9e0a4471-mix", "6c3f1d2b9e0a4471-9a54f0c1")
    assert mix.metadata.started_at == datetime(2026, 3, 5, 7, 15, 1, 1, tzinfo=UTC)
    assert leg.metadata.started_at == datetime(2026, 3, 5, 7, 15, 2, 500_000, tzinfo=UTC)
    assert mix.metadata.ended_at == datetime(2026, 3, 5, 7, 15, 42, 654_321, tzinfo=UTC)
    assert [c.party for c in leg.metadata.channels] == ["customer"]
    assert mix.metadata.channels == []
    assert (mix.metadata.caller, mix.metadata.queue) == ("0401234567", "sales")
    assert (leg.metadata.caller, leg.metadata.extra["rtpengine"]["tag"]) == ("0401234567", "9fxced76sl")  # type: ignore[call-overload,index]
    assert mix.reasons == leg.reasons == ()
    assert (mix.extension, mix.file_name) == ("wav", "a84b4c76e66710%40pc33.example-6c3f1d2b9e0a4471-mix.wav")


def test_rtpengine_that_sends_the_path_alone_is_told_what_to_do() -> None:
    for method in ("POST", "GET"):
        with pytest.raises(InvalidInput, match=r"notify-record.*recorder spool"):
            ADAPTERS["rtpengine"].read(replace(envelope("rtpengine-path-only"), method=method))


def test_rtpengine_with_headers_that_make_no_sense_loses_no_audio() -> None:
    asked = envelope("rtpengine-mix")
    headers = {
        **asked.headers,
        "x-recording-stream-start-time": "nan",
        "x-recording-call-start-time": "9" * 40,
    }
    headers |= {"x-recording-call-id": "x" * 5000 + "\x00", "x-recording-call-metadata": "direction:sideways"}
    (intent,) = ADAPTERS["rtpengine"].read(replace(asked, headers=headers))
    assert isinstance(intent, Audio)
    assert set(intent.request.reasons) == {"started-at-estimated", "metadata-invalid:direction"} | (
        {r for r in intent.request.reasons if r.startswith("metadata-invalid:")}
    )
    assert intent.request.unparsed["stream-start-time"] == "nan"
    assert len(intent.request.metadata.external_id) == 256


def test_legs_stay_the_same_and_stay_apart() -> None:
    long = [leg_of("z" * 300 + tail, "call") for tail in ("-mix", "-1", "-mix")]
    assert long[0] == long[2] != long[1]
    assert all(leg is not None and len(leg) <= 64 for leg in long)
    assert leg_of("a@b-1-mix", "a@b") == "1-mix"
    assert leg_of("", "a@b") is None


@pytest.mark.parametrize("stage", ["start", "stop", "ready"])
def test_oreka_keeps_its_tape_until_the_recording_is_here(stage: str) -> None:
    adapter, asked = ADAPTERS["oreka"], envelope(f"oreka-{stage}")
    (intent,) = adapter.read(asked)
    assert isinstance(intent, NoAudio)
    assert (intent.outcome, intent.code) == (SenderOutcome.FETCHING, stage)
    told = intent.request.metadata
    assert told.external_id == "20260305_091500_RTAB"
    assert told.call is not None
    assert told.call.external_id == "a84b4c76e66710@pc33.example"
    assert (told.caller, told.callee, told.agents) == ("0401234567", "201", ["201"])
    assert (told.started_at, told.duration) == (START, None if stage == "start" else 42.0)
    waiting = adapter.reply(asked, (intent,))
    assert waiting is not None
    assert waiting.body == b"class=taperesponse success=true comment= deletetape=false\n"
    here = adapter.reply(asked, (NoAudio(intent.request, SenderOutcome.RECEIVED),))
    assert here is not None
    # To `start`, deletetape=true would stop the recording of the call.
    assert (b"deletetape=true" in here.body) == (stage == "ready")


def test_oreka_speaks_of_other_things_too() -> None:
    (intent,) = ADAPTERS["oreka"].read(envelope("oreka-ping"))
    assert isinstance(intent, Reply)
    assert b"success=true" in intent.body
    with pytest.raises(InvalidInput):
        ADAPTERS["oreka"].read(replace(envelope("oreka-ready"), query=(("type", "tape"),)))


def test_siprec_beside_the_audio() -> None:
    request = read("siprec", "siprec", parties={"96": "customer", "97": "agent"})
    told = request.metadata
    assert told.external_id == "rs-1"
    assert told.call is not None
    assert told.call.external_id == "7+OTCyoxTmqmqyA/1weDAg=="
    assert (told.started_at, told.ended_at) == (START, START + timedelta(seconds=42))
    assert [c.party for c in told.channels] == ["customer", "agent"]
    assert told.customer is not None
    assert (told.customer.phone, told.agents) == ("+358401234567", ["agent-7"])
    assert "Maija Meikäläinen" in str(told.extra["siprec"])
    assert request.reasons == ()


def test_siprec_that_cannot_be_read_is_kept_beside_its_recording() -> None:
    bomb = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;">]><recording>&y;</recording>'
    for xml in (
        bomb,
        "<recording",
        "<html/>",
        "<recording/>",
        '<?xml version="1.0" encoding="nope"?><recording/>',
    ):
        asked = replace(envelope("siprec"), fields=(("metadata", xml),))
        (intent,) = ADAPTERS["siprec"].read(asked)
        assert isinstance(intent, Audio)
        assert "metadata-invalid:siprec" in intent.request.reasons
        assert intent.request.unparsed["siprec"] == xml


def test_a_form_of_any_names() -> None:
    told = read("generic", "generic-form")
    assert told.metadata.external_id == "call-7"
    assert (told.metadata.caller, told.metadata.started_at) == ("0401234567", START)
    assert (told.file_name, told.extension) == ("../../etc/in-1.wav", "wav")
    by_file = replace(envelope("generic-form"), fields=())
    (intent,) = ADAPTERS["generic"].read(by_file)
    assert isinstance(intent, Audio)
    assert intent.request.metadata.external_id == "in-1"


def test_what_nothing_names_is_kept_under_its_time() -> None:
    bare = replace(envelope("generic-form"), fields=(), file_name=None)
    (intent,) = ADAPTERS["generic"].read(bare)
    assert isinstance(intent, Audio)
    assert intent.request.metadata.external_id == f"unnamed-{NOW:%Y%m%dT%H%M%S.%f}Z"
    assert "metadata-invalid:external_id" in intent.request.reasons


def test_nothing_at_all_is_refused_by_every_kind() -> None:
    nothing = replace(envelope("rtpengine-path-only"), headers={}, method="GET")
    for kind in ("generic", "spool", "freeswitch", "kazoo", "asterisk", "siprec", "rtpengine", "oreka"):
        with pytest.raises(InvalidInput):
            ADAPTERS[kind].read(nothing)
