"""A call as a whole: its recordings in order, and the calls that a transfer ties to it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from recorder.access.principals import Principal
from recorder.catalogue import recordings as queries
from recorder.catalogue.recordings import Filters
from recorder.catalogue.tables import Call, Recording
from recorder.errors import NotFound
from recorder.playback import finding
from recorder.playback.finding import Found
from recorder.services import Services

_MOST: Final = 200
Way = Literal["self", "from", "to"]


@dataclass(frozen=True, slots=True)
class CallPart:
    """What the caller may know of one call.

    Attributes:
        way: the call itself; the one it came from; or the one it went on to, by a transfer.
        recordings: of those that the caller may know of, in order.
    """

    id: uuid.UUID
    way: Way
    started_at: datetime
    recordings: tuple[Found, ...]


async def whole_call(
    services: Services, principal: Principal, call_id: uuid.UUID, *, request_id: str | None = None
) -> tuple[CallPart, ...]:
    """A call and those that a transfer ties to it, in the order in which they began.

    Raises:
        NotFound: there is none, or nothing of it that the caller may know of.
        Forbidden: the caller lists no recordings at its controller.
    """
    async with services.database.snapshot() as session:
        call = await session.get(Call, call_id)
        if call is None:
            raise NotFound("there is no such call")
        linked = await queries.linked_calls(session, call_id)
        started = {call_id: call.started_at}
        for other, _ in linked:
            started[other] = (await session.get_one(Call, other)).started_at
    parts: list[CallPart] = []
    ways: list[tuple[uuid.UUID, Way]] = [(call_id, "self")]
    ways += [(other, "from" if way == "from" else "to") for other, way in linked]
    for part_id, way in ways:
        page = await finding.find(
            services,
            principal,
            call.controller_id,
            Filters(call_id=part_id),
            limit=_MOST,
            oldest_first=True,
            request_id=request_id,
        )
        items = tuple(sorted(page.items, key=lambda found: order(found.recording)))
        if items:
            parts.append(CallPart(part_id, way, started[part_id], items))
        elif way == "self":
            raise NotFound("there is no such call")
    return tuple(sorted(parts, key=lambda part: (part.started_at, part.id)))


def order(recording: Recording) -> tuple[bool, int, datetime, datetime, uuid.UUID]:
    """Where a recording stands in its call: as the sender counts, else by time."""
    part = recording.part
    return (part is None, part or 0, recording.started_at, recording.received_at, recording.id)
