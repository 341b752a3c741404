"""The engine's questions by the thousand: most recordings have nothing around them, and are read as such.

``facts.load_cases`` asks eleven questions of the database for any recording. Of those around which there is
nothing but their dates one statement tells everything; it also tells which they are, so the others are loaded
as ever. ``test_bulk`` compares the two.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.lists import among, as_text
from recorder.catalogue.tables import Controller, Customer, Recording, Source
from recorder.disposition.facts import active_schedule, load_cases, queries_of
from recorder.disposition.hold_queries import Query
from recorder.disposition.plain import is_alone
from retention.model import Case, Facts, Schedule
from retention.periods import financial_year_end, local_day, zone_of

__all__ = ["load_many"]


async def load_many(
    session: AsyncSession,
    controller: Controller,
    ids: Sequence[str],
    now: datetime,
    *which: sa.ColumnElement[bool],
) -> list[tuple[str, Case]]:
    """Questions for many living recordings of one controller; equal to what ``facts.load_cases`` finds.

    Args:
        ids: as `catalogue.lists.as_text` gives them. The caller keeps their rows from changing.
        now: as there.
        which: conditions on the recordings; others are left out.
    """
    schedule = await active_schedule(session, controller.id)
    queries = await queries_of(session, controller.id)
    await asyncio.to_thread(zone_of, controller.time_zone)
    rows = (await session.execute(_query(ids, queries).where(*which))).all()
    plain = await asyncio.to_thread(_cases, rows, controller, schedule)
    others = {uuid.UUID(row[0]): row[0] for row in rows if not row[1]}
    if not others:
        return plain
    loaded = await load_cases(session, list(others), now)
    return plain + [(others[recording_id], case) for recording_id, case in loaded.items()]


def _query(ids: Sequence[str], queries: Sequence[Query]) -> sa.Select[*tuple[Any, ...]]:
    # Texts instead of enumerations, lists and ids: to convert them costs more than all the rest.
    return (
        sa.select(
            as_text(Recording.id),
            is_alone(queries),
            Customer.id.is_not(None),
            Recording.started_at,
            Recording.ended_at,
            Recording.duration_ms,
            sa.cast(Recording.direction, sa.Text),
            Recording.queue,
            Source.name,
            sa.cast(Recording.tags, sa.Text),
            sa.cast(Recording.service_events, sa.Text),
            sa.cast(Recording.lawful_basis, sa.Text),
            Customer.last_contact_at,
            Customer.relationship_ended_at,
            Customer.relationship_end_confirmed_at,
            Customer.financial_year_end,
        )
        .join(Source, Source.id == Recording.source_id)
        .outerjoin(Customer, Customer.id == Recording.customer_id)
        .where(among(Recording.id, ids))
    )


def _cases(rows: Sequence[Any], controller: Controller, schedule: Schedule) -> list[tuple[str, Case]]:
    zone, country, name = zone_of(controller.time_zone), controller.country, controller.time_zone
    month, day = map(int, controller.financial_year_end.split("-"))
    cases = []
    for (
        recording_id,
        alone,
        linked,
        started,
        ended,
        length,
        direction,
        queue,
        source,
        tags,
        events,
        basis,
        contact,
        over,
        confirmed,
        year,
    ) in rows:
        if not alone:
            continue
        facts = Facts(
            zone=name,
            country=country,
            call_started=started,
            call_ended=ended,
            duration=None if length is None else timedelta(milliseconds=length),
            direction=direction,
            source=source,
            queue=queue,
            tags=_listed(tags),
            service_events=_listed(events),
            lawful_basis=basis,
            linked=bool(linked),
            last_contact=contact,
            relationship_ended=over,
            relationship_confirmed_at=confirmed,
            financial_year_end=_year_end(local_day(started, zone), zone, month, day)
            if year is None
            else local_day(year, zone),
        )
        cases.append((recording_id, Case(facts, schedule)))
    return cases


@lru_cache(maxsize=4096)
def _listed(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


@lru_cache(maxsize=16384)
def _year_end(started: date, zone: ZoneInfo, month: int, day: int) -> date:
    return financial_year_end(started, zone, month, day)
