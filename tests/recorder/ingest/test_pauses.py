"""Pauses that a sender reports become muted stretches; doubt mutes."""

from __future__ import annotations

from typing import Any

import pytest

from recorder.errors import InvalidInput
from recorder.ingest.metadata import MAX_DURATION_SECONDS, RecordingMetadata, metadata_from_query
from recorder.ingest.silencing import card_spans
from tests.recorder.conftest import START


def silences(
    *events: tuple[str, float] | tuple[str, float, str], **more: Any
) -> list[tuple[float, float, str]]:
    listed = [{"type": e[0], "offset": e[1], **({"reason": e[2]} if len(e) == 3 else {})} for e in events]
    metadata = RecordingMetadata.model_validate(
        {"external_id": "x", "started_at": "2026-03-05T10:00:00Z", "service_events": listed, **more}
    )
    return [(s.from_, s.to, s.reason) for s in metadata.silences]


END = float(MAX_DURATION_SECONDS)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("pause", 2.0), ("resume", 5.0)], [(2.0, 5.0, "payment")]),
        ([("resume", 5.0), ("pause", 2.0)], [(2.0, 5.0, "payment")]),
        ([("mute", 1.0, "third_party"), ("unmute", 2.0)], [(1.0, 2.0, "third_party")]),
        ([("pause", 2.0)], [(2.0, END, "payment")]),
        ([("resume", 5.0, "card_security")], [(0.0, 5.0, "card_security")]),
        ([("pause", 2.0), ("pause", 3.0), ("resume", 5.0)], [(2.0, 5.0, "payment")]),
        ([("pause", 2.0), ("resume", 5.0), ("resume", 7.0)], [(2.0, 5.0, "payment")]),
        (
            [("pause", 2.0), ("mute", 3.0, "card_security"), ("resume", 5.0)],
            [(2.0, 5.0, "payment"), (2.0, 5.0, "card_security")],
        ),
        ([("pause", 2.0), ("resume", 2.0)], []),
        ([("payment", 2.0)], []),
        ([("pause", 1.0), ("resume", 2.0), ("pause", 3.0)], [(1.0, 2.0, "payment"), (3.0, END, "payment")]),
    ],
)
def test_pauses_mute(events: list[Any], expected: list[tuple[float, float, str]]) -> None:
    assert silences(*events) == expected


def test_pauses_stand_beside_what_is_muted() -> None:
    muted = [{"from": 8, "to": 9, "reason": "payment"}]
    found = silences(("pause", 2.0, "card_security"), ("resume", 5.0), muted=muted)
    assert found == [(8.0, 9.0, "payment"), (2.0, 5.0, "card_security")]
    metadata = RecordingMetadata.model_validate(
        {
            "external_id": "x",
            "started_at": "2026-03-05T10:00:00Z",
            "service_events": [{"type": "pause", "offset": 2, "reason": "card_security"}],
        }
    )
    assert card_spans(metadata.silences) == ((2.0, END),)


def test_a_pause_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="needs its offset"):
        silences(("pause", None))  # type: ignore[arg-type]  # the mistake


def test_a_raw_put_never_keeps_a_code_whose_pause_cannot_be_read() -> None:
    good = '[{"type": "pause", "offset": 2, "reason": "card_security"}, {"type": "resume", "offset": 4}]'
    metadata, _, _ = metadata_from_query("x", [("service_events", good)], now=START)
    assert card_spans(metadata.silences) == ((2.0, 4.0),)
    with pytest.raises(InvalidInput):
        metadata_from_query(
            "x", [("service_events", '[{"type": "pause", "reason": "card_security"}]')], now=START
        )
