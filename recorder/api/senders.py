"""What telephony systems push, in every shape they have: `/ingest/{source}/…` and `/ingest/t/{token}/…`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from recorder.api.bodies import digest_fields, sent_at
from recorder.api.deliveries import Delivery, deliveries
from recorder.api.framework import ApiCall, Route, json_response
from recorder.api.ingest import PUSH_ERRORS, PushAnswer, push_answer, push_response
from recorder.errors import Conflict, Erased, InvalidInput, RecorderError
from recorder.ingest.adapters.base import (
    Adapter,
    Audio,
    Inline,
    Intent,
    Later,
    NoAudio,
    Reply,
    SenderOutcome,
)
from recorder.ingest.adapters.raw import read_raw
from recorder.ingest.adapters.registry import DOCUMENT_LIMITS, SIGNED, adapter_of
from recorder.ingest.adapters.vcon_forms import GZIP
from recorder.ingest.digests import DigestCheck
from recorder.ingest.fetching import later
from recorder.ingest.pipeline import Intake
from recorder.ingest.request import IngestRequest, Outcome, OutcomeKind
from recorder.ingest.secrets import secrets_of
from recorder.ingest.senders import Sender, note, sender_of

log = logging.getLogger("recorder.ingest")
_MAX_AUDIO_PARTS: Final = 32
_QUICK: Final = 256 * 1024
_TRUE: Final = frozenset({"1", "true", "yes"})


class NotedAnswer(BaseModel):
    """What became of a delivery that brought no audio."""

    noted: list[SenderOutcome] = Field(description="one for each recording that was spoken of")


@dataclass(slots=True)
class _Taken:
    """What a request has come to so far."""

    dry_run: bool
    outcomes: list[Outcome] = field(default_factory=list)
    intents: list[Intent] = field(default_factory=list)
    seen: set[tuple[str, str | None]] = field(default_factory=set)
    refused: RecorderError | None = None


async def take(call: ApiCall) -> web.StreamResponse:
    """Take whatever a sender of the source's kind sends. Any 2xx is sent only once all of it is durable."""
    services, request = call.services, call.request
    sender = await sender_of(
        services, call.principal, request.match_info.get("source"), request_id=call.request_id
    )
    adapter = adapter_of(sender.kind)
    secrets = await secrets_of(services, sender.id) if sender.kind in SIGNED else {}
    taken = _Taken(dry_run=request.query.get("dry_run", "").lower() in _TRUE)
    parts = deliveries(
        request,
        settings=services.settings,
        source_settings=sender.settings,
        document_limit=DOCUMENT_LIMITS.get(sender.kind, services.settings.max_metadata_bytes),
        now=services.clock.now(),
    )
    reply: Reply | None = None
    async with aclosing(parts):
        async for part in parts:
            delivery = replace(part, envelope=replace(part.envelope, secrets=secrets))
            adapter.verify(delivery.envelope, secrets)
            document = delivery.envelope.document or b""
            read = partial(_read, adapter, delivery)
            # Audio inside a document takes a while to be parsed and decoded, and what is compressed may be
            # large inside; others are served meanwhile.
            slow = len(document) > _QUICK or document.startswith(GZIP)
            intents = await asyncio.to_thread(read) if slow else read()
            done = [await _run(call, sender, delivery, intent, taken) for intent in intents]
            taken.intents += done
            if not taken.dry_run:
                reply = adapter.reply(delivery.envelope, tuple(done))
            if len(taken.outcomes) > _MAX_AUDIO_PARTS:
                raise InvalidInput(f"send at most {_MAX_AUDIO_PARTS} recordings in one body")
    if taken.refused is not None:
        raise taken.refused
    return _answer(taken, reply)


def _read(adapter: Adapter, delivery: Delivery) -> tuple[Intent, ...]:
    """What the adapter makes of it. Audio that it does not ask for is kept all the same."""
    envelope = delivery.envelope
    intents: tuple[Intent, ...]
    try:
        intents = adapter.read(envelope)
    except RecorderError:
        raise
    except Exception as error:
        if delivery.chunks is None:
            raise
        # Whatever an adapter stumbles over, the audio is here now and may not come again.
        log.error("an adapter failed", extra={"kind": adapter.kind, "error": type(error).__name__})
        plain = read_raw(envelope)
        intents = (Audio(replace(plain, reasons=(*plain.reasons, "metadata-invalid:adapter"))),)
    if delivery.chunks is not None and not any(isinstance(intent, Audio) for intent in intents):
        intents = (*intents, Audio(read_raw(envelope)))
    return intents


async def _run(call: ApiCall, sender: Sender, delivery: Delivery, intent: Intent, taken: _Taken) -> Intent:
    """Make one intent durable.

    Returns:
        The intent, or what turned out to be true instead.
    """
    match intent:
        case Audio(asked):
            chunks = delivery.chunks or _nothing()
            outcome = await _accept(call, sender, _told(asked, call, delivery, taken), chunks, taken)
            taken.outcomes.append(outcome)
        case Inline(asked, body):
            sized = replace(_distinct(asked, taken), size=len(body))
            try:
                taken.outcomes.append(await _accept(call, sender, sized, _once(body), taken))
            except (Conflict, Erased) as error:
                taken.refused = error  # told once the others of the same document are safe
        case Later() if not taken.dry_run:
            try:
                await later(
                    call.services, call.principal, intent, request_id=call.request_id, source=str(sender.id)
                )
            except Erased as error:
                taken.refused = error
        case NoAudio() if not taken.dry_run:
            actor = call.principal.actor
            return await note(call.services, sender, intent, actor=actor, request_id=call.request_id)
        case _:
            pass
    return intent


def _told(asked: IngestRequest, call: ApiCall, delivery: Delivery, taken: _Taken) -> IngestRequest:
    """A request with what the frame knows: digests, the sender's clock, and what follows the audio."""
    alone = delivery.envelope.part_name is None
    delivery.late.update(asked.unparsed)
    return replace(
        _distinct(asked, taken),
        strict=False,
        # It still fills while the audio is read; by the time it is sealed, all of the body is here.
        unparsed=delivery.late,
        digests=DigestCheck.from_fields(digest_fields(delivery.headers)),
        idempotency_key=call.request.headers.get("Idempotency-Key") if alone else None,
        sent_at=sent_at(call.request.headers),
    )


def _distinct(asked: IngestRequest, taken: _Taken) -> IngestRequest:
    """Several recordings of one request are several: one without a name of its own is told by its place."""
    metadata = asked.metadata
    if (metadata.external_id, metadata.leg) in taken.seen:
        place = len(taken.outcomes) + 1
        leg = f"{(metadata.leg or 'part')[:56]}-{place}"
        metadata = metadata.model_copy(update={"leg": leg})
    taken.seen.add((metadata.external_id, metadata.leg))
    return replace(asked, metadata=metadata)


async def _accept(
    call: ApiCall, sender: Sender, asked: IngestRequest, chunks: AsyncIterator[bytes], taken: _Taken
) -> Outcome:
    intake = Intake(call.services)
    step = intake.rehearse if taken.dry_run else intake.accept_durably
    return await step(
        asked, chunks, principal=call.principal, request_id=call.request_id, source=str(sender.id)
    )


def _answer(taken: _Taken, reply: Reply | None) -> web.StreamResponse:
    own = reply or next((i for i in taken.intents if isinstance(i, Reply)), None)
    if own is not None:
        return web.Response(
            status=own.status,
            body=own.body,
            headers={"Content-Type": own.content_type, "Cache-Control": "no-store"},
        )
    if not taken.outcomes:
        noted = [_outcome(intent) for intent in taken.intents if isinstance(intent, NoAudio | Later)]
        fetching = any(isinstance(intent, Later) for intent in taken.intents)
        return json_response(NotedAnswer(noted=noted), 202 if fetching else 200)
    first, *others = [push_answer(outcome, dry_run=taken.dry_run) for outcome in taken.outcomes]
    created = any(outcome.kind is OutcomeKind.CREATED for outcome in taken.outcomes)
    return push_response(first.model_copy(update={"others": others}), created=created)


def _outcome(intent: NoAudio | Later) -> SenderOutcome:
    return intent.outcome if isinstance(intent, NoAudio) else SenderOutcome.FETCHING


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


_METHODS: Final[tuple[Literal["GET", "POST", "PUT"], ...]] = ("GET", "POST", "PUT")
_PATHS: Final = (
    ("/ingest/t/{token}", "told by the token in the path, for senders without other credentials"),
    ("/ingest/t/{token}/{tail:.*}", "told by the token in the path, which names the recording"),
    ("/ingest/{source}", "as its kind has it"),
    ("/ingest/{source}/{external_id}", "its name in the path, its metadata in the query string or a form"),
    ("/ingest/{source}/{external_id}/{tail:.*}", "its name, of several segments, in the path"),
)
_TYPES: Final = ("application/octet-stream", "audio/*", "multipart/form-data", "application/json")


def _route(method: Literal["GET", "POST", "PUT"], path: str, how: str) -> Route:
    return Route(
        method,
        path,
        take,
        f"Push a recording, or word of one: {how}",
        "ingest",
        answer=PushAnswer,
        status=201,
        other={200: "The same bytes again, a dry run, or word without audio", 202: "Fetched or stored soon"},
        raises=PUSH_ERRORS,
        raw=True,
        request_types=() if method == "GET" else _TYPES,
        security=() if "{token}" in path else ("bearer", "basic"),
    )


ROUTES: tuple[Route, ...] = tuple(_route(m, path, how) for path, how in _PATHS for m in _METHODS)
