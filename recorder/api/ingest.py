"""Pushing recordings on the API, their receipts; the quarantine."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from recorder.api.bodies import digest_fields, read_push, sent_at
from recorder.api.framework import ApiCall, Route, json_response
from recorder.catalogue.enums import RecordingState
from recorder.errors import (
    Conflict,
    Erased,
    InvalidInput,
    MalformedInput,
    NotFound,
    TooLarge,
    TooMany,
    UnsupportedMediaType,
)
from recorder.ingest import quarantine
from recorder.ingest.digests import DigestCheck
from recorder.ingest.metadata import parse_metadata
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.sniff import extension_of
from recorder.playback.finding import controller_of


class PushQuery(BaseModel):
    """Options of a push."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="check all, keep nothing, say what would happen")


class MediaAnswer(BaseModel):
    """What the audio is, told from its bytes or believed from what surrounds them."""

    model_config = ConfigDict(extra="allow")

    container: str
    codec: str
    sample_rate: int | None = None
    channels: int | None = None
    content_type: str
    known_by: str | None = Field(None, description="bytes, metadata, extension, type, source or nothing")
    duration_ms: int | None = None


class CustomerAnswer(BaseModel):
    """Whose call it is."""

    status: Literal["linked", "candidates", "unlinked", "pending"] = Field(
        description="pending: the recording is acknowledged from the spool, and this settles later"
    )
    id: uuid.UUID | None = None
    matched_by: str | None = None
    confidence: int | None = Field(None, description="percent; of each candidate where there are several")
    candidates: int = 0


class PushAnswer(BaseModel):
    """What became of a push. The sender may delete its copy against the receipt."""

    id: uuid.UUID | None
    call_id: uuid.UUID | None
    state: RecordingState
    reasons: list[str] = Field(description="codes: why quarantined, what was estimated or looks wrong")
    sha256: str = Field(description="of the kept bytes, hexadecimal")
    size: int = Field(description="of the kept bytes")
    media: MediaAnswer
    customer: CustomerAnswer
    retention: dict[str, Any] | None = Field(None, description="dates, flags and windows by purpose")
    receipt: str | None = Field(None, description="compact JWS (EdDSA) over id, sha256, size, received_at")
    differences: list[str] = Field(
        default=[], description="JSON pointers of metadata that differ from the first delivery's"
    )
    dry_run: bool = False
    would: Literal["created", "repeated", "conflict", "erased"] | None = Field(
        None, description="in a dry run: what the push would come to"
    )
    others: list[PushAnswer] = Field(
        default=[], description="further recordings that came in the same body, in their order"
    )


class ReceiptAnswer(BaseModel):
    """A receipt, signed again: the text is the same as the first."""

    id: uuid.UUID
    receipt: str


async def push(call: ApiCall) -> web.StreamResponse:
    """Take a multipart push: metadata first, then audio."""
    settings = call.services.settings
    raw, part = await read_push(
        call.request, metadata_limit=settings.max_metadata_bytes, idle=settings.upload_idle_seconds
    )
    file_name = part.file_name
    asked = IngestRequest(
        metadata=parse_metadata(raw),
        extension=None if file_name is None else extension_of(file_name)[1],
        content_type=part.content_type,
        file_name=None if file_name is None else _storable(file_name),
        size=part.size,
        digests=DigestCheck.from_fields(digest_fields(part.headers)),
        idempotency_key=call.request.headers.get("Idempotency-Key"),
        sent_at=sent_at(call.request.headers),
    )
    intake = Intake(call.services)
    step = intake.rehearse if call.query.dry_run else intake.accept_durably
    outcome = await step(asked, part.chunks, principal=call.principal, request_id=call.request_id)
    body = push_answer(outcome, dry_run=call.query.dry_run)
    return push_response(body, created=outcome.kind is OutcomeKind.CREATED)


def _storable(file_name: str) -> str:
    """A sender's file name as text; bytes that are no UTF-8 arrive as lone surrogates, which none keeps."""
    return file_name.replace("\x00", "").encode(errors="replace").decode()[:256]


def push_answer(outcome: Outcome, *, dry_run: bool) -> PushAnswer:
    """An outcome as it is answered."""
    return PushAnswer(
        id=outcome.recording_id,
        call_id=outcome.call_id,
        state=outcome.state,
        reasons=list(outcome.reasons),
        sha256=outcome.sha256.hex(),
        size=outcome.size,
        media=MediaAnswer.model_validate(outcome.media),
        customer=CustomerAnswer.model_validate(outcome.customer),
        retention=outcome.retention,
        receipt=outcome.receipt,
        differences=list(outcome.differences),
        dry_run=dry_run,
        would=outcome.kind.value if dry_run else None,
    )


def push_response(body: PushAnswer, *, created: bool) -> web.Response:
    """The HTTP answer to a push."""
    if body.dry_run:
        return json_response(body)
    location = {"Location": f"/api/v1/recordings/{body.id}"}
    if any(each.state is RecordingState.SPOOLED for each in (body, *body.others)):
        return json_response(body, 202, location)
    return json_response(body, 201 if created else 200, location)


async def receipt(call: ApiCall) -> ReceiptAnswer:
    """Sign a recording's receipt again, for the source that pushed it."""
    recording_id = call.uuid("id")
    text = await quarantine.receipt_again(
        call.services, call.principal, recording_id, request_id=call.request_id
    )
    return ReceiptAnswer(id=recording_id, receipt=text)


class QuarantineQuery(BaseModel):
    """Which page of the quarantine."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = None
    cursor: Annotated[str, Field(max_length=200)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class QuarantinedItem(BaseModel):
    """A recording in quarantine, without anything personal and without its audio."""

    id: uuid.UUID
    call_id: uuid.UUID
    source_id: uuid.UUID
    reasons: list[str]
    received_at: datetime
    started_at: datetime
    size: int
    media: dict[str, Any]
    conflict_of: uuid.UUID | None
    erase_on: datetime | None


class QuarantineAnswer(BaseModel):
    """One page, the oldest first."""

    items: list[QuarantinedItem]
    next: str | None


class QuarantineDecision(BaseModel):
    """What a person decides about a quarantined recording."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["accept", "recheck"] = Field(
        description="accept: it becomes an ordinary recording; recheck: the media is looked at again"
    )


class QuarantineDecided(BaseModel):
    """Where it stands now."""

    id: uuid.UUID
    state: RecordingState


async def list_quarantine(call: ApiCall) -> QuarantineAnswer:
    """List what is in quarantine."""
    page = await quarantine.list_quarantined(
        call.services,
        call.principal,
        controller_of(call.principal, call.query.controller),
        cursor=call.query.cursor,
        limit=call.query.limit,
        request_id=call.request_id,
    )
    items = [QuarantinedItem.model_validate(row, from_attributes=True) for row in page.items]
    return QuarantineAnswer(items=items, next=page.next)


async def decide_quarantine(call: ApiCall) -> QuarantineDecided:
    """Decide about one recording in quarantine."""
    recording_id = call.uuid("id")
    state = await quarantine.decide(
        call.services, call.principal, recording_id, call.body.decision, request_id=call.request_id
    )
    return QuarantineDecided(id=recording_id, state=state)


PUSH_ERRORS = (
    InvalidInput,
    MalformedInput,
    TooLarge,
    TooMany,
    Conflict,
    Erased,
    UnsupportedMediaType,
)

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/v1/recordings",
        push,
        "Push a recording: part metadata (JSON), then part audio",
        "ingest",
        query=PushQuery,
        answer=PushAnswer,
        status=201,
        other={
            200: "The same bytes again, or a dry run",
            202: "Durable on local disk, while the object store or the catalogue is away",
        },
        raises=PUSH_ERRORS,
        raw=True,
        request_types=("multipart/form-data",),
    ),
    Route(
        "GET",
        "/api/v1/recordings/{id}/receipt",
        receipt,
        "A recording's signed receipt, for the source that pushed it",
        "ingest",
        answer=ReceiptAnswer,
        raises=(NotFound, Erased),
    ),
    Route(
        "GET",
        "/api/v1/quarantine",
        list_quarantine,
        "Recordings in quarantine and why",
        "quarantine",
        query=QuarantineQuery,
        answer=QuarantineAnswer,
    ),
    Route(
        "POST",
        "/api/v1/quarantine/{id}/decision",
        decide_quarantine,
        "Decide about a recording in quarantine",
        "quarantine",
        body=QuarantineDecision,
        answer=QuarantineDecided,
        raises=(NotFound, Conflict, Erased),
    ),
)
