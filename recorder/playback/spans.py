"""Muted spans: which stretches of a recording nobody hears without a legal purpose. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["CARD_SECURITY", "Span", "card_spans", "frames_of", "read_spans"]

CARD_SECURITY: Final = "card_security"
"""Card security codes must not remain after authorisation (PCI DSS 3.3.1): for nobody's ears."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of a recording, in milliseconds from its start; ``end_ms`` None means to the end."""

    start_ms: int
    end_ms: int | None
    reason: str = ""


def read_spans(muted: Iterable[Mapping[str, Any]], *, card_data_removed: bool = False) -> tuple[Span, ...]:
    """The spans that have to be silenced, in order.

    A card security span that was destroyed at ingest is silence already and needs no overlay. Anything
    that cannot be read as a span silences the whole recording: better too much than too little.
    """
    spans = []
    for item in muted:
        reason = str(item.get("reason") or "")
        if reason == CARD_SECURITY and card_data_removed:
            continue
        start, end = _offset(item.get("from_ms")), _offset(item.get("to_ms"))
        if start is None or (end is None and item.get("to_ms") is not None):
            spans.append(Span(0, None, reason))
        elif end is None or end > start:
            spans.append(Span(start, end, reason))
    return tuple(sorted(spans, key=lambda s: (s.start_ms, math.inf if s.end_ms is None else s.end_ms)))


def card_spans(muted: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """The stretches with a card security code, in milliseconds, in order."""
    found = [(s["from_ms"], s["to_ms"]) for s in muted if s.get("reason") == CARD_SECURITY]
    return sorted(set(found))


def _offset(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def frames_of(spans: Sequence[Span], rate: int, first: int, count: int) -> list[tuple[int, int]]:
    """The parts of a piece of audio that the spans cover.

    Args:
        spans: what to silence.
        rate: frames (samples of every channel) a second.
        first: number of the piece's first frame in the recording.
        count: frames in the piece.

    Returns:
        Ranges [start, end) of frames, counted from the piece's start, rounded outwards.
    """
    covered = []
    for span in spans:
        start = span.start_ms * rate // 1000 - first
        end = count if span.end_ms is None else -(-span.end_ms * rate // 1000) - first
        start, end = max(0, start), min(count, end)
        if start < end:
            covered.append((start, end))
    return covered
