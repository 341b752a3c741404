"""Muting a stretch of a stored call."""

from __future__ import annotations

import uuid
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recorder.api.framework import ApiCall, Route
from recorder.disposition.redaction import redact
from recorder.errors import Conflict, Erased, Forbidden, InvalidInput, NotFound, Unavailable

_LONGEST: Final = 48 * 3600.0
Seconds = Annotated[float, Field(ge=0, le=_LONGEST, allow_inf_nan=False)]


class RedactionBody(BaseModel):
    """The stretch, in seconds of audio, and why nobody is to hear it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    from_: Seconds = Field(alias="from")
    to: Seconds
    reason: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_]*$")] = Field(
        description="card_security destroys the stretch for good; any other reason is an overlay"
    )

    @model_validator(mode="after")
    def _ordered(self) -> RedactionBody:
        if self.to <= self.from_:
            raise ValueError("must end after it begins")
        return self


class RedactionAnswer(BaseModel):
    """What was muted, and whether it is gone for good."""

    recording: uuid.UUID
    from_: float = Field(serialization_alias="from")
    to: float
    reason: str
    destroyed: bool
    certificate: uuid.UUID | None = Field(description="of the original's destruction")


async def add_redaction(call: ApiCall) -> RedactionAnswer:
    """POST /api/v1/recordings/{id}/redactions."""
    body: RedactionBody = call.body
    done = await redact(
        call.services,
        call.principal,
        call.uuid("id"),
        # Rounded outwards: better a millisecond too much than one too few.
        from_ms=int(body.from_ * 1000),
        to_ms=-int(-body.to * 1000 // 1),
        reason=body.reason,
        request_id=call.request_id,
    )
    return RedactionAnswer(
        recording=done.recording_id,
        from_=done.from_ms / 1000,
        to=done.to_ms / 1000,
        reason=done.reason,
        destroyed=done.destroyed,
        certificate=done.certificate_id,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/v1/recordings/{id}/redactions",
        add_redaction,
        summary="Mute a stretch; with reason card_security, destroy it at once",
        body=RedactionBody,
        answer=RedactionAnswer,
        status=201,
        raises=(NotFound, Forbidden, Erased, Conflict, InvalidInput, Unavailable),
    ),
)
