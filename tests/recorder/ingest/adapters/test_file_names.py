"""File names of switchboards: what they tell, and what no name can do."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.catalogue.enums import Direction
from recorder.ingest.adapters.filenames import FREE, FREEPBX, TYPED, FileNames, PatternError, compile_pattern
from recorder.ingest.metadata import RecordingMetadata

HELSINKI = FileNames(time_zone="Europe/Helsinki")
START = datetime(2026, 3, 5, 7, 15, tzinfo=UTC)
TAIL = "20260305-091500-1772694900.42"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"out-0401234567-201-{TAIL}.wav",
         {"caller": "201", "callee": "0401234567", "direction": Direction.OUTBOUND, "agents": ["201"]}),
        (f"q-600-0401234567-{TAIL}.gsm",
         {"caller": "0401234567", "callee": "600", "direction": Direction.INBOUND, "queue": "600"}),
        (f"rg-601-+358401234567-{TAIL}.wav49",
         {"caller": "+358401234567", "callee": "601", "direction": Direction.INBOUND, "queue": "601"}),
        (f"exten-202-201-{TAIL}.ulaw", {"caller": "201", "callee": "202", "direction": Direction.INTERNAL}),
        (f"exten-202-0401234567-{TAIL}.alaw",
         {"caller": "0401234567", "callee": "202", "direction": Direction.INBOUND}),
        (f"force-201-unknown-{TAIL}.g722",
         {"caller": "unknown", "callee": "201", "direction": Direction.INBOUND}),
        (f"conf-800-201-{TAIL}.wav", {"caller": "201", "callee": "800", "direction": Direction.INTERNAL}),
        (f"page-999-201-{TAIL}.wav", {"caller": "201", "callee": "999", "direction": Direction.INTERNAL}),
        (f"internal-202-201-{TAIL}.wav", {"caller": "201", "callee": "202", "direction": Direction.INTERNAL}),
        (f"external-0401234567-Matti Meikäläinen-{TAIL}.wav",
         {"caller": "Matti Meikäläinen", "callee": "0401234567", "direction": Direction.INBOUND}),
        (f"q-600-Meikäläinen-Virtanen-{TAIL}.wav",
         {"caller": "Meikäläinen-Virtanen", "callee": "600", "direction": Direction.INBOUND, "queue": "600"}),
    ],
)  # fmt: skip
def test_freepbx_types(name: str, told: dict[str, Any]) -> None:
    facts = HELSINKI.read("/var/spool/asterisk/monitor/2026/03/05/" + name)
    stem = name.rpartition(".")[0]
    assert facts.matched
    assert facts.uniqueid == "1772694900.42"
    assert facts.kind == name.partition("-")[0]
    assert dict(facts.document) == {
        "external_id": stem,
        "call": {"external_id": "1772694900.42"},
        "started_at": START,
        **told,
    }
    RecordingMetadata.model_validate(facts.document)


def test_a_system_name_and_the_legs_of_a_mix() -> None:
    facts = HELSINKI.read("out-1-201-20260305-091500-pbx1-1772694900.42.wav")
    assert facts.uniqueid == "pbx1-1772694900.42"
    legs = [HELSINKI.read(f"out-1-201-{TAIL}{leg}.wav").document for leg in ("", "-in", "-out")]
    assert [leg.get("leg") for leg in legs] == [None, "in", "out"]
    assert len({leg["external_id"] for leg in legs}) == 1


def test_the_hour_that_comes_twice_is_told_by_the_unique_id() -> None:
    first = HELSINKI.read("out-1-201-20261025-033000-1792888200.1.wav").document["started_at"]
    second = HELSINKI.read("out-1-201-20261025-033000-1792891800.1.wav").document["started_at"]
    assert (first, second) == (
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    )


def test_an_impossible_date_gives_way_to_the_unique_id() -> None:
    facts = HELSINKI.read("out-1-201-20261399-996199-1772694900.42.wav")
    assert facts.document["started_at"] == datetime(2026, 3, 5, 7, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "name", "told"),
    [
        ("{caller}_{callee}_{datetime}", "0401234567_1200_20260305T071500.mp3",
         {"caller": "0401234567", "callee": "1200", "started_at": START, "direction": Direction.INBOUND}),
        ("rec-{call}.{epoch}.{leg}", "rec-abc.1772694900.b.ogg",
         {"call": {"external_id": "abc"}, "started_at": START, "leg": "b"}),
        ("{date}_{time}_{agent}@{queue}({customer})", "2026-03-05_07.15.00_a7@sales(C-100).wav",
         {"started_at": START, "agents": ["a7"], "queue": "sales", "customer": {"number": "C-100"}}),
        ("{}+{direction}+{duration}", "x+outbound+12.wav",
         {"direction": Direction.OUTBOUND, "duration": 12.0}),
    ],
)  # fmt: skip
def test_patterns_of_ones_own(pattern: str, name: str, told: dict[str, Any]) -> None:
    facts = FileNames([pattern]).read(name)
    assert facts.matched
    assert dict(facts.document) == {"external_id": name.rpartition(".")[0], **told}


def test_the_first_pattern_that_fits_is_taken() -> None:
    names = FileNames([FREEPBX, "{call}-{}"])
    assert names.read(f"out-1-201-{TAIL}.wav").kind == "out"
    assert names.read("abc-x.wav").document["call"] == {"external_id": "abc"}
    assert not names.read("abc.wav").matched


@pytest.mark.parametrize(
    "pattern", ["", "x" * 501, "{nope}", "{date", "date}", "{caller}{callee}", "{call}-{call}", "{Date}"]
)
def test_a_pattern_that_cannot_work_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compile_pattern(pattern)


@given(st.text(max_size=400))
def test_any_name_is_read(name: str) -> None:
    facts = HELSINKI.read(name)
    assert 0 < len(facts.document["external_id"]) <= 256
    assert "/" not in facts.document["external_id"]
    document = {"started_at": START, **facts.document}
    RecordingMetadata.model_validate(document)


_FIELD = st.sampled_from([f"{{{name}}}" for name in sorted({*TYPED, *FREE, ""})])
_PIECES = st.lists(st.one_of(_FIELD, st.sampled_from(["-", "_", ".", "a", "(", "\\", "/"])), max_size=12)


@given(_PIECES, st.text(alphabet="-_.a0123456789(", max_size=200))
def test_any_pattern_reads_any_name_or_is_refused(pieces: list[str], name: str) -> None:
    try:
        names = FileNames(["".join(pieces)])
    except PatternError:
        return
    document = names.read(name).document
    assert 0 < len(document["external_id"]) <= 256


def test_long_names_take_no_long_time() -> None:
    many = FileNames(["{from}-{dest}-{caller}-{callee}-{queue}-{agent}-{date}-{uniqueid}", FREEPBX])
    names = ["-" * 1024, "a-" * 512, "20260305-" * 120, "q-" + "20260305-091500-" * 60, "9" * 1024]
    started = time.process_time()
    for name in names * 20:
        assert not many.read(name).matched
    # Backtracking would take minutes to centuries; a hundred reads take milliseconds.
    assert time.process_time() - started < 5
