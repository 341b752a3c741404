"""What is told outside: a few kinds of entries of the audit log, in words that stay the same. Pure.

Events are read from the log rather than written beside it: a push costs nothing more, every event is
sequenced, and what is told is what is proved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Event type by (action, outcome) of the entry; None stands for any outcome.
_TYPES: Final[Mapping[tuple[str, str | None], str]] = {
    ("recording.stored", "ok"): "recording.stored",
    ("recording.quarantined", None): "recording.quarantined",
    ("recording.conflict", None): "recording.quarantined",
    ("recording.refused", None): "recording.failed",
    ("fetch.failed", None): "recording.failed",
    ("recording.absent", None): "recording.failed",
    ("recording.drained", None): "recording.drained",
    ("recording.odd", None): "recording.odd",
    ("erasure.finished", "ok"): "recording.erased",
    ("completeness.gap", None): "completeness.gap",
    ("completeness.closed", None): "completeness.closed",
    ("finding.opened", None): "finding.opened",
}

EVENT_TYPES: Final = tuple(sorted({*_TYPES.values(), "webhook.test"}))
"""Everything an endpoint can ask for."""

ACTIONS: Final = tuple(sorted({action for action, _ in _TYPES}))
"""Actions of the log that may become events."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as receivers get it.

    Attributes:
        payload: ``{type, timestamp, data}``, the form that Standard Webhooks recommends.
    """

    type: str
    payload: dict[str, Any]


def type_of(action: str, outcome: str) -> str | None:
    """The event type of a log entry; None when nobody outside is told of such."""
    return _TYPES.get((action, outcome)) or _TYPES.get((action, None))


def event_of(entry: bytes, *, index: int) -> Event | None:
    """The event that an entry of the log stands for.

    Args:
        entry: Its canonical JSON.
        index: Its place, which orders events and finds the entry again.

    Returns:
        None when nobody outside is told of such an entry.
    """
    said = json.loads(entry)
    kind = type_of(said["action"], said["outcome"])
    if kind is None:
        return None
    data = {
        "controller": said["controller"],
        said["object"]["type"]: said["object"]["id"],
        "outcome": said["outcome"],
        "log_index": index,
        "request_id": said["request"],
        "details": said["details"],
    }
    return Event(kind, {"type": kind, "timestamp": said["time"], "data": data})
