"""Hearing a recording: ranges of audio, the drawn wave, listening links."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field

from recorder.access import sessions, tokens
from recorder.access.principals import Principal
from recorder.api.framework import (
    SERVICES,
    STREAMING,
    ApiCall,
    Route,
    json_response,
    no_content,
)
from recorder.errors import (
    Conflict,
    Corrupt,
    Erased,
    Forbidden,
    NotFound,
    RangeNotSatisfiable,
    Unauthenticated,
    Unavailable,
)
from recorder.playback import links, serve
from recorder.playback.audio import Audio
from recorder.playback.continuing import Continued, Credential, SessionDigest, continue_listen
from recorder.playback.decide import Rendition
from recorder.playback.memory import KnownListen
from recorder.playback.ranges import matches, select_range
from retention.model import Purpose
from storage.objects import Chunk

_AT_ONCE: Final = 256 * 1024
AUDIO_PATH: Final = "/api/v1/recordings/{id}/audio"
CONTINUED: web.RequestKey[Continued] = web.RequestKey("continued", Continued)
CREDENTIAL: web.RequestKey[Credential] = web.RequestKey("credential", object)  # type: ignore[arg-type]  # a union
AUDIO_TYPES: Final = (
    "audio/wav",
    "audio/ogg",
    "audio/mpeg",
    "audio/webm",
    "audio/flac",
    "audio/mp4",
    "audio/aac",
    "application/octet-stream",
)
_SUFFIXES: Final = {
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/mpeg": "mp3",
    "audio/webm": "webm",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
    "application/json": "json",
}


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AudioQuery(_Query):
    """What a recording is heard for, and in which form."""

    purpose: Purpose = Field(description="what the call is heard for; every listen declares one")
    rendition: Rendition = Rendition.PLAYBACK


class PeaksQuery(_Query):
    """For which purpose the wave is wanted; any that the caller has, unless told."""

    purpose: Purpose | None = None


class NewLinkBody(BaseModel):
    """A listening link to be made."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purpose
    rendition: Rendition = Rendition.PLAYBACK
    recipient: uuid.UUID | None = Field(None, description="the one account that may open it")
    minutes: Annotated[int, Field(gt=0)] | None = Field(None, description="how long it works")


class LinkAnswer(BaseModel):
    """A listening link; the address is shown this once."""

    id: uuid.UUID
    url: str
    expires_at: datetime


async def get_audio(call: ApiCall) -> web.StreamResponse:
    """Audio of a recording, whole or one range of it."""
    query: AudioQuery = call.query
    known = call.request.get(CONTINUED)
    if known is not None:
        audio = replace(known.audio, fetch=known.fetch)
        return await _send(call, audio, _again(call, audio, query.purpose, query.rendition))
    audio = await serve.open_listen(
        call.services,
        call.principal,
        call.uuid("id"),
        query.purpose,
        query.rendition,
        counted=call.request.method != hdrs.METH_HEAD,
        request_id=call.request_id,
    )
    _remember(call.request, audio, query)
    return await _send(call, audio, _again(call, audio, query.purpose, query.rendition))


def _again(call: ApiCall, audio: Audio, purpose: Purpose, rendition: Rendition) -> serve.Again:
    """The same question in the middle of the answer, from the credential on."""

    async def ask() -> None:
        await serve.check_again(
            call.services, await _who(call), audio, purpose, rendition, request_id=call.request_id
        )

    return ask


async def _who(call: ApiCall) -> Principal:
    """Who the request's credential belongs to by now.

    Raises:
        Unauthenticated: it was revoked, has expired, or its account is gone.
    """
    found: Principal | None = call.principal
    authorization = call.request.headers.get(hdrs.AUTHORIZATION, "")
    cookie = call.request.cookies.get(sessions.COOKIE)
    if authorization[:7].lower() == "bearer ":
        found = await tokens.authenticate_bearer(call.services, authorization)
    elif cookie is not None:
        session = await sessions.authenticate_session(call.services, cookie)
        found = None if session is None else session[0]
    if found is None or found.actor != call.principal.actor:
        raise Unauthenticated("the session has ended")
    return found


async def continued(request: web.Request, authorization: str, cookie: str | None) -> Continued | None:
    """The next range of a listen that this process knows, checked and under way; None: take the full way.

    Preconditions, and ranges outside, are the full way's.

    Args:
        request: any GET of audio, not yet authenticated.
        authorization: its Authorization field.
        cookie: its session's cookie, counted only without a bearer token.
    """
    headers = request.headers
    if request.method != hdrs.METH_GET or hdrs.IF_MATCH in headers or hdrs.IF_NONE_MATCH in headers:
        return None
    credential = _credential(authorization, cookie)
    if credential is None:
        return None
    request[CREDENTIAL] = credential
    services = request.app[SERVICES]
    known = services.memory.listens.get((credential, request.raw_path))
    if known is None:
        return None
    try:
        chosen = select_range(
            headers.get(hdrs.RANGE), known.size, etag=known.etag, if_range=headers.get(hdrs.IF_RANGE)
        )
    except RangeNotSatisfiable:
        return None
    found = await continue_listen(services, credential, known, chosen.start, chosen.end)
    if found is None:
        services.memory.listens.drop((credential, request.raw_path))
        return None
    request[CONTINUED] = found
    return found


def _credential(authorization: str, cookie: str | None) -> Credential | None:
    if authorization[:7].lower() == "bearer ":
        return tokens.read_token(authorization[7:].strip())
    digest = None if cookie is None else sessions.session_digest(cookie)
    return None if digest is None else SessionDigest(digest)


def _remember(request: web.Request, audio: Audio, query: AudioQuery) -> None:
    credential = request.get(CREDENTIAL)
    if credential is None or audio.listen_id is None:
        return
    request.app[SERVICES].memory.listens.put(
        (credential, request.raw_path),
        KnownListen(
            audio.listen_id,
            audio.recording_id,
            query.purpose,
            query.rendition.value,
            audio.obj.object_id,
            audio.obj.key,
            audio.obj.version_id,
            audio.size,
            audio.etag,
        ),
    )


async def get_listen(call: ApiCall) -> web.StreamResponse:
    """The same through a listening link."""
    audio = await links.open_link(
        call.services,
        call.principal,
        call.path["token"],
        counted=call.request.method != hdrs.METH_HEAD,
        request_id=call.request_id,
    )

    async def ask() -> None:
        principal = await _who(call)
        purpose, rendition = await links.check_link(call.services, principal, call.path["token"])
        await serve.check_again(
            call.services, principal, audio, purpose, rendition, request_id=call.request_id
        )

    return await _send(call, audio, ask)


async def get_peaks(call: ApiCall) -> web.StreamResponse:
    """The drawn wave: smallest and largest sample per pixel and channel."""
    query: PeaksQuery = call.query
    audio = await serve.open_peaks(
        call.services, call.principal, call.uuid("id"), query.purpose, request_id=call.request_id
    )
    return await _send(call, audio)


async def post_link(call: ApiCall) -> web.StreamResponse:
    """Make a listening link."""
    body: NewLinkBody = call.body
    made = await links.create_link(
        call.services,
        call.principal,
        call.uuid("id"),
        body.purpose,
        rendition=body.rendition,
        recipient_id=body.recipient,
        minutes=body.minutes,
        request_id=call.request_id,
    )
    answer = LinkAnswer(id=made.id, url=made.url, expires_at=made.expires_at)
    return json_response(answer, 201)


async def delete_link(call: ApiCall) -> web.StreamResponse:
    """Revoke a listening link."""
    await links.revoke_link(
        call.services, call.principal, call.uuid("id"), call.uuid("link"), request_id=call.request_id
    )
    return no_content()


async def _send(call: ApiCall, audio: Audio, again: serve.Again | None = None) -> web.StreamResponse:
    """Answer with what the request's preconditions and range ask for (RFC 9110 sections 13.2.2 and 14)."""
    request = call.request
    response = _Stream(headers=_headers(audio))
    if_match, if_none_match = request.headers.get(hdrs.IF_MATCH), request.headers.get(hdrs.IF_NONE_MATCH)
    if if_match is not None and not matches(if_match, audio.etag, weak=False):
        return web.Response(status=412, headers={"ETag": audio.etag})
    if if_none_match is not None and matches(if_none_match, audio.etag, weak=True):
        response.set_status(304)
        await response.prepare(request)
        return response
    if request.method == hdrs.METH_HEAD:
        # Range is defined for GET alone (section 14.2).
        response.content_length = audio.size
        await response.prepare(request)
        return response
    chosen = select_range(
        request.headers.get(hdrs.RANGE),
        audio.size,
        etag=audio.etag,
        if_range=request.headers.get(hdrs.IF_RANGE),
    )
    async with serve.stream(call.services, audio, chosen.start, chosen.end, again=again) as pieces:
        # The first segment is verified by now, so this answer is no longer an error.
        if chosen.partial:
            response.set_status(206)
            response.headers[hdrs.CONTENT_RANGE] = chosen.content_range
        response.content_length = chosen.length
        if chosen.length <= _AT_ONCE:
            # So little that it is whole in memory before the first byte: every failure is still an answer.
            return await _send_at_once(request, response, pieces)
        # From here a failure must break the connection: ending early would look like the end.
        request[STREAMING] = True
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    return response


async def _send_at_once(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[Chunk]
) -> web.StreamResponse:
    body = [piece async for piece in pieces]
    request[STREAMING] = True
    await response.prepare(request)
    await response.write(body[0] if len(body) == 1 else b"".join(body))
    await response.write_eof()
    return response


class _Stream(web.StreamResponse):
    """Its header section leaves together with the first piece of the body, which is there already."""

    _send_headers_immediately = False


def _headers(audio: Audio) -> dict[str, str]:
    suffix = _SUFFIXES.get(audio.content_type.partition(";")[0], "bin")
    return {
        hdrs.CONTENT_TYPE: audio.content_type,
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.ETAG: audio.etag,
        hdrs.CACHE_CONTROL: "private, no-store",
        hdrs.CONTENT_DISPOSITION: f'inline; filename="{audio.recording_id}.{suffix}"',
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


_OTHER: Final = {
    206: "One range of it (RFC 9110 section 14)",
    304: "The caller has it already",
    412: "A precondition does not hold",
}
_RAISES: Final = (NotFound, Forbidden, Erased, Conflict, RangeNotSatisfiable, Corrupt, Unavailable)

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        AUDIO_PATH,
        get_audio,
        summary="Hear a recording for a purpose",
        tag="playback",
        query=AudioQuery,
        other=_OTHER,
        raises=_RAISES,
        raw=True,
        head=True,
        answer_types=AUDIO_TYPES,
    ),
    Route(
        "GET",
        "/api/v1/recordings/{id}/peaks",
        get_peaks,
        summary="The drawn wave of a recording",
        tag="playback",
        query=PeaksQuery,
        other=_OTHER,
        raises=_RAISES,
        raw=True,
        answer_types=("application/json",),
    ),
    Route(
        "POST",
        "/api/v1/recordings/{id}/links",
        post_link,
        summary="Make a listening link",
        tag="playback",
        body=NewLinkBody,
        answer=LinkAnswer,
        status=201,
        raises=(NotFound, Forbidden, Erased),
    ),
    Route(
        "DELETE",
        "/api/v1/recordings/{id}/links/{link}",
        delete_link,
        summary="Revoke a listening link",
        tag="playback",
        status=204,
        raises=(NotFound,),
    ),
    Route(
        "GET",
        "/listen/{token}",
        get_listen,
        summary="Hear a recording through a listening link",
        tag="playback",
        other=_OTHER,
        raises=_RAISES,
        raw=True,
        head=True,
        answer_types=AUDIO_TYPES,
    ),
)
