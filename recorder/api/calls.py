"""A call as a whole."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from recorder.api.framework import ApiCall, Route
from recorder.api.recordings import RecordingItem, item_of
from recorder.errors import Forbidden, NotFound
from recorder.playback.calls import whole_call


class CallRecording(RecordingItem):
    """A recording in its call; ``part`` is its place as the sender counts."""

    part: int | None
    channels: list[dict[str, object]]


class CallAnswer(BaseModel):
    """One call, with what the caller may know of."""

    id: uuid.UUID
    way: Literal["self", "from", "to"] = Field(
        description="the call asked for, the one it came from by a transfer, or the one it went on to"
    )
    started_at: datetime
    recordings: list[CallRecording]


class WholeCall(BaseModel):
    """A call and those that a transfer ties to it, in order."""

    calls: list[CallAnswer]


async def get_call(call: ApiCall) -> WholeCall:
    """GET /api/v1/calls/{id}."""
    parts = await whole_call(call.services, call.principal, call.uuid("id"), request_id=call.request_id)
    return WholeCall(
        calls=[
            CallAnswer(
                id=part.id,
                way=part.way,
                started_at=part.started_at,
                recordings=[
                    CallRecording(
                        **item_of(found), part=found.recording.part, channels=found.recording.channels
                    )
                    for found in part.recordings
                ],
            )
            for part in parts
        ]
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/api/v1/calls/{id}",
        get_call,
        summary="A call: its recordings in order, and what a transfer ties to it",
        answer=WholeCall,
        raises=(NotFound, Forbidden),
    ),
)
