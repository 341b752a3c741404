"""Metadata from a file, its name, a call record and a sidecar; what wins, and what is never lost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from recorder.errors import ConfigurationError
from recorder.ingest.adapters.filenames import FileNames
from recorder.ingest.metadata import RecordingMetadata
from recorder.spooling.config import load_config, read_token
from recorder.spooling.describing import (
    Undescribable,
    describe,
    printable,
    read_sidecar,
    sidecar_paths,
    sought,
)
from recorder.spooling.sidecars import READERS

PATH = b"2026/03/05/external-2001-0401234567-20260305-101500-1772698500.42.wav"
ENDED = datetime(2026, 3, 5, 8, 20, tzinfo=UTC)
NAMES = FileNames(time_zone="Europe/Helsinki")

SIPREC = b"""<?xml version="1.0"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode>
<session session_id="S1"><sipSessionID>a;b</sipSessionID></session>
<participant participant_id="P1"><nameID aor="sip:+358401234567@example.com"/></participant>
<stream stream_id="T1" session_id="S1"><label>96</label></stream>
<sessionrecordingassoc session_id="S1">
<associate-time>2026-03-05T08:15:00Z</associate-time></sessionrecordingassoc>
<participantstreamassoc participant_id="P1"><send>T1</send></participantstreamassoc></recording>"""
VCON = {
    "uuid": "0190-8", "created_at": "2026-03-05T08:15:00Z",
    "parties": [{"tel": "+358401234567", "role": "customer"}, {"tel": "+3582001", "role": "agent"}],
    "dialog": [
        {"type": "recording", "start": "2026-03-05T08:15:00Z", "parties": [0, 1], "filename": "a.wav",
         "url": "https://pbx/a.wav", "mediatype": "audio/wav"},
        {"type": "recording", "start": "2026-03-05T08:17:00Z", "parties": [0, 1], "filename": "b.wav",
         "url": "https://pbx/b.wav", "mediatype": "audio/wav"},
    ],
}  # fmt: skip


def described(**given: Any) -> dict[str, Any]:
    given = {"fixed": {}, "record": {}, "named": None, "sidecar": {}} | given
    return describe(PATH, ENDED, **given)


def test_a_file_alone_is_described_by_its_name_and_time_and_says_so() -> None:
    document = described()
    assert document["external_id"] == "external-2001-0401234567-20260305-101500-1772698500.42"
    assert document["started_at"] == "2026-03-05T08:20:00Z"
    assert document["extra"]["spool"] == {"file": PATH.decode(), "remarks": ["started-at-from-file"]}


def test_later_sources_win_and_sections_are_joined() -> None:
    document = described(
        fixed={"direction": "internal", "tags": ["pbx-1"], "extra": {"site": "Oulu"}, "queue": "fixed"},
        record={
            "caller": "+358401234567",
            "started_at": "2026-03-05T08:14:00Z",
            "extra": {"cdr": {"billsec": 9}},
        },
        named=NAMES.read(PATH.decode()),
        sidecar={"queue": "sidecar", "customer": {"number": "1002"}},
    )
    assert document["caller"] == "+358401234567"  # the record's, though the name has one too
    assert document["callee"] == "2001"
    assert document["started_at"] == "2026-03-05T08:15:00Z"  # the name's: it is the recording's own
    assert document["direction"] == "inbound"
    assert document["queue"] == "sidecar"
    assert document["tags"] == ["pbx-1"]
    assert document["customer"] == {"number": "1002"}
    assert {"site", "cdr", "spool"} == document["extra"].keys()
    assert "remarks" not in document["extra"]["spool"]


def test_what_cannot_be_used_travels_sealed_and_named() -> None:
    document = described(sidecar={"agents": "not a list", "colour": "red", "queue": "q1"})
    assert document["queue"] == "q1"
    assert document["extra"]["spool"]["unread"] == '{"agents": "not a list", "colour": "red"}'
    assert "metadata-invalid:agents" in document["extra"]["spool"]["remarks"]


def test_stretches_not_to_be_heard_that_cannot_be_read_hold_the_file_back() -> None:
    for broken in ({"muted": [{"from": 9, "to": 3, "reason": "card_security"}]}, {"service_events": "pause"}):
        with pytest.raises(Undescribable) as caught:
            described(sidecar=broken)
        assert caught.value.code == "muted-unreadable"


@given(
    st.binary(min_size=1, max_size=60).filter(lambda b: b"/" not in b and b"\0" not in b),
    st.dictionaries(
        st.sampled_from(["caller", "queue", "started_at", "direction", "agents", "extra", "call", "x"]),
        st.none() | st.text(max_size=10) | st.lists(st.text(max_size=5), max_size=3) | st.dictionaries(
            st.text(max_size=5), st.integers(), max_size=2),
    ),
)  # fmt: skip
def test_whatever_the_name_and_the_sidecar_a_push_can_be_made(
    name: bytes, sidecar: Mapping[str, Any]
) -> None:
    path = b"2026/" + name + b".wav"
    named = NAMES.read(printable(path))
    document = describe(path, ENDED, fixed={}, record={}, named=named, sidecar=sidecar)
    again = RecordingMetadata.model_validate_json(json.dumps(document).encode())
    assert again.external_id
    assert sought(path, named).recordingfile.endswith(".wav")


def test_names_that_are_no_utf8_are_told_apart() -> None:
    assert printable(b"caf\xe9.wav") == "caf\\xe9.wav"
    assert printable("café.wav".encode()) == "café.wav"


def test_sidecars_of_a_file() -> None:
    paths = [os.fsdecode(path) for path, _ in sidecar_paths(b"d.x/a.wav", ("json", "siprec", "vcon"))]
    assert paths[0] == "d.x/a.wav.vcon"
    assert {"d.x/a.json", "d.x/a.wav.json", "d.x/a.xml", "d.x/a.vcon.json"} < set(paths)
    assert [kind for _, kind in sidecar_paths(b"d.x/a", ("json",))] == ["json"]


def test_a_siprec_sidecar() -> None:
    document = read_sidecar(SIPREC, "siprec", "a.wav", ENDED, READERS)
    assert document["call"] == {"external_id": "S1"}
    assert document["started_at"] == datetime(2026, 3, 5, 8, 15, tzinfo=UTC)
    assert "external_id" not in document
    described(sidecar=document)


def test_a_vcon_sidecar_tells_of_the_dialog_of_this_file() -> None:
    raw = json.dumps(VCON).encode()
    document = read_sidecar(raw, "vcon", "b.wav", ENDED, READERS)
    assert document["started_at"] == "2026-03-05T08:17:00Z"
    assert document["call"] == {"external_id": "0190-8", "part": 1}
    assert document["customer"]["phone"] == "+358401234567"
    described(sidecar=document)
    with pytest.raises(Undescribable):
        read_sidecar(raw, "vcon", "other.wav", ENDED, READERS)


@pytest.mark.parametrize("kind", ["json", "siprec", "vcon"])
@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"[]", b"{", b"[" * 100_000, b"<a>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"],
)
def test_a_sidecar_that_cannot_be_read_is_named(kind: str, raw: bytes) -> None:
    with pytest.raises(Undescribable) as caught:
        read_sidecar(raw, kind, "a.wav", ENDED, READERS)
    assert caught.value.code == f"sidecar-{kind}-unreadable"


# The configuration


def test_options_win_over_the_file_and_sections_are_reached(tmp_path: Path) -> None:
    file = tmp_path / "spool.toml"
    file.write_text(
        'directory = "/var/spool/asterisk/monitor"\nserver = "https://recorder.example/"\n'
        'time_zone = "Europe/Helsinki"\npatterns = "freepbx"\nparallel = 4\n'
        '[complete]\nsettle = 3\n[cdr]\nwait = 60\n[cdr.csv]\npath = "/x/Master.csv"\ncolumns = "asterisk"\n'
    )
    config = load_config(file, {"parallel": 8, "complete.settle": 1.0, "bandwidth": None, "patterns": ()})
    assert (config.parallel, config.complete.settle, config.server) == (8, 1.0, "https://recorder.example")
    assert config.cdr is not None
    assert config.cdr.wait == 60
    names = config.names()
    assert names is not None
    assert names.read(PATH.decode()).uniqueid == "1772698500.42"


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        ({"directory": "/x", "server": "ftp://x"}, "server"),
        ({"directory": "/x", "server": "http://user:secret@x"}, "server"),
        ({"directory": "/x", "archive": "/x/old"}, "pushed again"),
        ({"directory": "/x", "after": "archive"}, "archive"),
        ({"directory": "/x", "patterns": ("freepbx",)}, "time_zone"),
        ({"directory": "/x", "patterns": ("{nonsense}",), "time_zone": "UTC"}, "patterns"),
        ({"directory": "/x", "time_zone": "Helsinki"}, "time_zone"),
        ({"directory": "/x", "notify": "0.0.0.0:80"}, "loopback"),
        ({"directory": "/x", "colour": "red"}, "colour"),
        ({}, "directory"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given_: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        load_config(None, given_)
    assert "secret" not in str(caught.value)


def test_the_token_comes_from_a_file_a_credential_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("rec_file\n")
    config = load_config(None, {"directory": "/x"})
    assert read_token(config, {"RECORDER_TOKEN": "rec_env"}) == "rec_env"
    assert read_token(config, {"CREDENTIALS_DIRECTORY": str(tmp_path), "RECORDER_TOKEN": "e"}) == "rec_file"
    own = load_config(None, {"directory": "/x", "token_file": tmp_path / "token"})
    assert read_token(own, {}) == "rec_file"
    with pytest.raises(ConfigurationError, match="RECORDER_TOKEN"):
        read_token(config, {})


def test_which_names_are_recordings() -> None:
    config = load_config(None, {"directory": "/x", "exclude": ("*-silent.wav", "trash/*")})
    assert config.is_audio(b"2026/a.wav")
    assert config.is_audio(b"caf\xe9.gsm")
    for name in (b".a.wav", b"a.wav.part", b"a.txt", b"a-silent.wav", b"trash/a.wav", b"a.wav.json"):
        assert not config.is_audio(name), name
