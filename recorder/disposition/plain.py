"""Which recordings only their dates decide, and local days in SQL: the leaves of the set-based paths."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from recorder.catalogue.base import UtcDateTime
from recorder.catalogue.enums import ChoiceKind, LinkRole
from recorder.catalogue.tables import (
    Choice,
    ErasureItem,
    Hold,
    Recording,
    RecordingLink,
    RequestItem,
    Restriction,
    RightsRequest,
)
from recorder.disposition.hold_queries import Query, may_match

__all__ = ["LocalDays", "circumstanced", "is_alone", "is_plain", "is_regular", "offsets_of"]

_DAY: Final = 86400
# Added before an integer division and taken off after it, so that it rounds down also before 1970.
_FAR: Final = 1_000_000
# Marketing entries never move a window.
_MOVING: Final = tuple(
    k for k in ChoiceKind if k not in {ChoiceKind.MARKETING_BAN, ChoiceKind.MARKETING_CONSENT}
)


def is_plain(now: datetime, queries: Sequence[Query]) -> sa.ColumnElement[bool]:
    """Whether nothing but its own dates and those of its customer decides a recording at ``now``.

    Args:
        queries: those of the controller's holds, released ones included.
    """
    return sa.and_(is_regular(now), Recording.id.not_in(circumstanced()), *(~may_match(q) for q in queries))


def is_regular(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a recording's own facts are complete, without contradiction and without card data."""
    return sa.and_(
        Recording.started_at <= now,
        Recording.duration_ms.is_not(None),
        Recording.duration_ms >= 0,
        sa.or_(Recording.ended_at.is_(None), Recording.ended_at >= Recording.started_at),
        has_no_card_data(),
    )


def has_no_card_data() -> sa.ColumnElement[bool]:
    """Whether no card security code is in a recording's original."""
    return sa.or_(Recording.card_data_removed, sa.cast(Recording.muted, sa.Text).not_like("%card_security%"))


# What ``facts.load_cases`` looks for around a recording. Whatever is added to the one must be added to the
# other: everything else is decided by its dates alone. ``test_estate`` and ``test_bulk`` have one of each.
_OF_PEOPLE: Final = (
    (Choice.customer_id, Choice.kind.in_(_MOVING)),
    (Hold.customer_id, sa.true()),
    (Restriction.customer_id, sa.true()),
    (RightsRequest.customer_id, sa.true()),
)
_OF_RECORDINGS: Final = (
    Hold.recording_id,
    Restriction.recording_id,
    ErasureItem.recording_id,
    RequestItem.recording_id,
)
_REACHING: Final = (LinkRole.PRINCIPAL, LinkRole.REFERENCE)


def circumstanced() -> sa.CompoundSelect[tuple[uuid.UUID]]:
    """Ids of the recordings around which there is anything but a hold's query; for looking at all of them.

    Too many are harmless.
    """
    people = sa.union(
        *(sa.select(whose).where(whose.is_not(None), which) for whose, which in _OF_PEOPLE)
    ).subquery()
    those = sa.select(people.c[0])
    return sa.union(
        sa.select(Recording.id).where(Recording.customer_id.in_(those)),
        sa.select(RecordingLink.recording_id).where(
            RecordingLink.role.in_(_REACHING), RecordingLink.customer_id.in_(those)
        ),
        *(sa.select(which).where(which.is_not(None)) for which in _OF_RECORDINGS),
    )


def is_alone(queries: Sequence[Query]) -> sa.ColumnElement[bool]:
    """Whether there is nothing around a recording, nor card data in it; for looking at some of them.

    A second person on it counts as something: too few are harmless.
    """
    second = sa.exists().where(
        RecordingLink.recording_id == Recording.id,
        RecordingLink.role.in_(_REACHING),
        RecordingLink.customer_id.is_distinct_from(Recording.customer_id),
    )
    return sa.and_(
        has_no_card_data(),
        *(~sa.exists().where(whose == Recording.customer_id, which) for whose, which in _OF_PEOPLE),
        ~second,
        *(~sa.exists().where(which == Recording.id) for which in _OF_RECORDINGS),
        *(~may_match(query) for query in queries),
    )


def offsets_of(zone: ZoneInfo, first: datetime, last: datetime) -> list[tuple[datetime, int]]:
    """A zone's offsets from UTC between two instants: (from when, seconds), in order."""

    def offset(second: int) -> int:
        shift = datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset()
        return 0 if shift is None else int(shift.total_seconds())

    at, end = int(first.timestamp()) - 2 * _DAY, int(last.timestamp()) + 2 * _DAY
    found = [(at, offset(at))]
    while at < end:
        # Ramadan interrupts summer time in Morocco for a month; nowhere does an offset last less than a week.
        later = min(at + 7 * _DAY, end)
        if offset(later) != found[-1][1]:
            low, high = at, later
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == found[-1][1] else (low, middle)
            found.append((high, offset(high)))
        at = later
    return [(datetime.fromtimestamp(second, UTC), shift) for second, shift in found]


@dataclass(frozen=True, slots=True)
class LocalDays:
    """Local days in SQL, as days since 1970.

    The zone's offsets are written into the statement: SQLite knows no zones, and a database's own tables may
    be of another release than those the engine reads.

    Attributes:
        sqlite: which dialect.
        offsets: as `offsets_of` gives them, over all dates that will be asked for.
    """

    sqlite: bool
    offsets: Sequence[tuple[datetime, int]]

    def day(self, column: Any) -> sa.ColumnElement[Any]:
        """The local day of an instant in a column."""
        return _day(self.seconds(column) + self.search(column, self.offsets))

    def day_at(self, second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """The local day of an instant in seconds since 1970."""
        shift = _search(second, self.offsets, lambda at: _number(int(at.timestamp())))
        return _day(second + shift)

    def milliseconds(self, column: Any) -> sa.ColumnElement[Any]:
        """An instant in milliseconds since 1970."""
        if self.sqlite:
            return self.seconds(column) * _number(1000) + sa.cast(
                sa.func.substr(column, _number(21), _number(3)), sa.Integer
            )
        return sa.cast(sa.func.floor(sa.extract("epoch", column) * 1000), sa.BigInteger)

    def seconds(self, column: Any) -> sa.ColumnElement[Any]:
        """An instant in whole seconds since 1970."""
        if self.sqlite:
            # Without its fraction: SQLite rounds to milliseconds first, and 23:59:59.9996 is not tomorrow.
            whole = sa.func.substr(column, _number(1), _number(19))
            return sa.cast(sa.func.strftime(sa.literal_column("'%s'"), whole), sa.Integer)
        return sa.cast(sa.func.floor(sa.extract("epoch", column)), sa.BigInteger)

    def search(self, column: Any, spans: Sequence[tuple[datetime, int]]) -> sa.ColumnElement[Any]:
        """The number of the span in which an instant lies: (from when, number), in order."""
        return _search(column, spans, self._instant)

    def _instant(self, at: datetime) -> Any:
        text = at.strftime("%Y-%m-%d %H:%M:%S.000000") if self.sqlite else at.isoformat()
        return sa.literal_column(f"'{text}'" if self.sqlite else f"timestamptz '{text}'", UtcDateTime())


def _search(value: Any, spans: Sequence[tuple[datetime, int]], limit: Any) -> sa.ColumnElement[Any]:
    """A search by halves, as nested CASE."""
    if len(spans) == 1:
        return _number(spans[0][1])
    middle = len(spans) // 2
    early, late = (_search(value, half, limit) for half in (spans[:middle], spans[middle:]))
    return sa.case((value < limit(spans[middle][0]), early), else_=late)


def _day(second: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return (second + _number(_FAR * _DAY)) // _number(_DAY) - _number(_FAR)


def _number(value: int) -> sa.ColumnElement[int]:
    # An expression that is grouped by must be the same text each time, so no bound values.
    return sa.literal_column(str(value), sa.BigInteger())
