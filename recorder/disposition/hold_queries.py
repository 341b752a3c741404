"""Holds on whatever matches: the query as stored, who it reaches, and a superset of that in SQL.

Nothing is copied when a call matches: every decision asks the standing queries afresh, so a call that comes
in later, or is tagged later, is held from its next decision on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from recorder.catalogue.enums import Direction, LawfulBasis, RecordingState
from recorder.catalogue.tables import Recording, RecordingAgent, RecordingTag, Source
from recorder.errors import FieldError, InvalidInput
from retention.holds import HoldQuery
from retention.model import Condition, Facts

_LISTS: Final = ("direction", "source", "queue", "tag", "service_event", "basis")
_DURATIONS: Final = ("duration_at_least", "duration_less_than")
_TIMES: Final = ("started_from", "started_before")
FIELDS: Final = (*_LISTS, "agent", *_TIMES, *_DURATIONS)


@dataclass(frozen=True, slots=True)
class Query:
    """A hold's query.

    Attributes:
        facts: what the retention engine's facts answer; None where only agents are named.
        agents: at least one of these agent codes served the call; empty for any.
    """

    facts: HoldQuery | None
    agents: frozenset[str]

    def matches(self, facts: Facts, agents: list[str]) -> bool:
        """Whether the hold reaches a call; what is unknown is held rather than lost."""
        if self.agents and self.agents.isdisjoint(agents):
            return False
        return self.facts is None or self.facts.matches(facts)


def parse(document: Mapping[str, Any]) -> Query:
    """Read a query.

    Args:
        document: ``direction``, ``source``, ``queue``, ``tag``, ``service_event``, ``basis``, ``agent``:
            lists of which any may match; ``started_from``, ``started_before``: RFC 3339;
            ``duration_at_least``, ``duration_less_than``: seconds. All that are given must match.

    Raises:
        InvalidInput: nothing is given, or a value cannot be.
    """
    unknown = sorted(set(document) - set(FIELDS))
    if unknown:
        raise InvalidInput(
            "the query names something unknown", fields=[FieldError("/query", unknown[0][:60])]
        )
    given = {name: value for name, value in document.items() if value not in (None, [])}
    if not given:
        raise InvalidInput("a hold on everything names at least one condition")
    try:
        lists = {name: frozenset(map(str, given[name])) for name in _LISTS if name in given}
        _ = [Direction(value) for value in lists.get("direction", frozenset())]
        _ = [LawfulBasis(value) for value in lists.get("basis", frozenset())]
        spans = {name: timedelta(seconds=float(given[name])) for name in _DURATIONS if name in given}
        times = {name: _instant(given[name]) for name in _TIMES if name in given}
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput("the query holds a value that cannot be") from None
    agents = frozenset(map(str, given.get("agent", ())))
    when = Condition(**lists, **spans)  # type: ignore[arg-type]  # the names are Condition's own
    facts = None if when.is_empty and not times else HoldQuery(when=when, **times)
    return Query(facts, agents)


def candidates(controller_id: uuid.UUID, query: Query) -> sa.Select[uuid.UUID]:
    """Ids of living recordings that may match, in id order: all that do, and few others."""
    return (
        sa.select(Recording.id)
        .where(
            Recording.controller_id == controller_id,
            Recording.state.not_in([RecordingState.ERASING, RecordingState.ERASED]),
            may_match(query),
        )
        .order_by(Recording.id)
    )


def may_match(query: Query) -> sa.ColumnElement[bool]:
    """Whether a recording may match: true of all that do, and of few others; never NULL."""
    conditions: list[sa.ColumnElement[bool]] = []
    if query.agents:
        served = sa.select(RecordingAgent.recording_id).where(RecordingAgent.agent.in_(query.agents))
        conditions.append(Recording.id.in_(served))
    if query.facts is None:
        return sa.and_(sa.true(), *conditions)
    when = query.facts.when
    if query.facts.started_from is not None:
        conditions.append(Recording.started_at >= query.facts.started_from)
    if query.facts.started_before is not None:
        conditions.append(Recording.started_at < query.facts.started_before)
    if when.queue is not None:
        conditions += [Recording.queue.is_not(None), Recording.queue.in_(when.queue)]
    if when.direction is not None:
        directions = [Direction(value) for value in when.direction]
        conditions.append(sa.or_(Recording.direction.is_(None), Recording.direction.in_(directions)))
    if when.basis is not None:
        conditions.append(Recording.lawful_basis.in_([LawfulBasis(value) for value in when.basis]))
    if when.source is not None:
        sources = sa.select(Source.id).where(Source.name.in_(when.source))
        conditions.append(Recording.source_id.in_(sources))
    if when.tag is not None:
        tagged = sa.select(RecordingTag.recording_id).where(RecordingTag.tag.in_(when.tag))
        conditions.append(Recording.id.in_(tagged))
    return sa.and_(sa.true(), *conditions)


def _instant(value: object) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return moment.astimezone(UTC)
