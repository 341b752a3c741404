"""Whatever comes, an adapter answers with intents or refuses what has no audio; it never loses audio."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.api.deliveries import form_fields, misdeclared
from recorder.errors import InvalidInput, MalformedInput
from recorder.ingest.adapters.base import Audio, Envelope
from recorder.ingest.adapters.common import base_name, bounded, code, storable, unix_time
from recorder.ingest.adapters.registry import ADAPTERS

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
MINE = ("generic", "spool", "freeswitch", "kazoo", "asterisk", "rtpengine", "oreka", "siprec")

_WORDS = [
    "external_id",
    "metadata",
    "started_at",
    "from",
    "to",
    "direction",
    "call",
    "part",
    "duration",
    "agent",
    "session_id",
    "hostname",
    "type",
    "recid",
    "stage",
    "filename",
    "timestamp",
    "labels",
    "label",
    "extra",
    "channels",
    "sample_rate",
    "notice_version",
    "lawful_basis",
    "nativecallid",
    "localparty",
    "muted",
    "service_events",
]
_HEADER_NAMES = [
    "call-id",
    "file-name",
    "kind",
    "label",
    "tag",
    "call-start-time",
    "stream-start-time",
    "stream-end-time",
    "call-metadata",
    "file-format",
]
_ODD = ["", "0", "-1", "nan", "1e999", "null", "[]", "{}", "x" * 5000, "\x00", "in", "tape", "<recording/>"]
_ODD += ['{"external_id": 5}', "<!DOCTYPE a>", '{"a":' * 2000, "2026-03-05T09:00:00+02:00"]
_TOLD = ["mod_httapi/1.0", "1772694900.123456", "from:1|to:2|direction:in"]
_NAMES = st.one_of(st.sampled_from(_WORDS), st.text(max_size=12))
_VALUES = st.one_of(st.text(max_size=60), st.sampled_from(_ODD))
_PAIRS = st.lists(st.tuples(_NAMES, _VALUES), max_size=8).map(tuple)
_HEADERS = st.dictionaries(
    st.sampled_from([*(f"x-recording-{name}" for name in _HEADER_NAMES), "user-agent", "content_type"]),
    st.one_of(_VALUES, st.sampled_from(_TOLD)),
    max_size=8,
)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    return Envelope(
        method=draw(st.sampled_from(["GET", "POST", "PUT"])),
        path=tuple(draw(st.lists(st.text(min_size=1, max_size=30), max_size=3))),
        query=draw(_PAIRS),
        headers=draw(_HEADERS),
        now=NOW,
        fields=draw(_PAIRS),
        document=draw(st.one_of(st.none(), st.binary(max_size=20))),
        part_name=draw(st.one_of(st.none(), st.text(max_size=100))),
        file_name=draw(st.one_of(st.none(), st.text(max_size=400))),
        content_type=draw(st.one_of(st.none(), st.text(max_size=40))),
        size=draw(st.one_of(st.none(), st.integers(0, 2**40))),
    )


@given(envelopes(), st.sampled_from(MINE))
def test_no_envelope_surprises_an_adapter(envelope: Envelope, kind: str) -> None:
    adapter = ADAPTERS[kind]
    adapter.verify(envelope, {})
    try:
        intents = adapter.read(envelope)
        refused = None
    except InvalidInput as error:
        intents, refused = (), error
    if refused is not None:
        # Without audio there is nothing to lose. With it, only card data that would be kept is refused.
        assert envelope.document is not None or "card data" in refused.message
        return
    audio = [intent for intent in intents if isinstance(intent, Audio)]
    assert len(audio) == (1 if envelope.document is None else 0)
    for intent in audio:
        metadata = intent.request.metadata
        assert 0 < len(metadata.external_id) <= 256
        assert "\x00" not in metadata.external_id
        assert not intent.request.strict
        intent.request.sealed_document()
    adapter.reply(envelope, intents)


@given(st.text(), st.integers(40, 300))
def test_bounded_names_are_bounded_and_storable(text: str, limit: int) -> None:
    short = bounded(text, limit)
    assert len(short) <= limit
    assert short == bounded(text, limit)
    short.encode()
    assert "/" not in base_name(text)
    assert "\\" not in base_name(text)
    storable(text).encode()
    assert code(text) is None or 0 < len(str(code(text))) <= 64


@given(st.one_of(st.text(max_size=30), st.floats().map(str), st.integers().map(str)))
def test_unix_times(text: str) -> None:
    found = unix_time(text)
    assert found is None or found.tzinfo is UTC


@given(st.binary(max_size=400))
def test_any_form_is_read_or_refused(document: bytes) -> None:
    try:
        pairs = form_fields(document)
    except MalformedInput:
        return
    assert all(isinstance(value, str) for pair in pairs for value in pair)


def test_a_form_of_too_many_fields_is_refused() -> None:
    with pytest.raises(MalformedInput):
        form_fields(b"a=1&" * 1000)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=10))
def test_a_form_is_no_audio(fields: dict[str, str]) -> None:
    body = "&".join(f"{quote(n)}={quote(v)}" for n, v in fields.items()).encode()
    assert not misdeclared("application/x-www-form-urlencoded", body)


@given(st.binary(min_size=1, max_size=5000))
def test_audio_in_wav_is_never_a_document(data: bytes) -> None:
    assert misdeclared("application/json", b"RIFF" + data)
