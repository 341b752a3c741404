"""Listening links: one recording, one purpose, for a short time, revocable.

A link's token is a JWS (RFC 7515, EdDSA) that holds nothing but the link's random id; what it opens lies in
the catalogue. It is no ticket past the door: whoever opens it is signed in, and policy and window are asked
about *them*, every time. What it adds is that the recording was handed to a named person, which is what lets
an agent hear their own call as feedback.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import jwt
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState, Role
from recorder.catalogue.tables import Account, ApiToken, ListeningLink, Recording
from recorder.errors import Erased, FieldError, Forbidden, InvalidInput, NotFound
from recorder.playback.decide import Rendition, allowed_recording, choose_role
from recorder.playback.serve import Audio, audit_refusal, open_listen
from recorder.services import Services
from retention.model import Purpose

__all__ = ["NewLink", "create_link", "open_link", "read_token", "revoke_link", "sign_token"]

_TYPE: Final = "tallenne-link+jwt"
_MAX_TOKEN: Final = 512
# Besides who made a link, those who answer for the controller's recordings may end it.
_REVOKERS: Final = frozenset({Role.LEGAL, Role.PRIVACY})


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link that was just made; the token is shown this once."""

    id: uuid.UUID
    url: str
    expires_at: datetime


async def create_link(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose,
    *,
    rendition: Rendition = Rendition.PLAYBACK,
    recipient_id: uuid.UUID | None = None,
    minutes: int | None = None,
    request_id: str | None = None,
) -> NewLink:
    """Make a listening link.

    Args:
        recipient_id: the one account that may open it; None for anybody signed in who may listen.
        minutes: how long it works; at most, and unless told, as the settings say.

    Raises:
        NotFound, Erased, Forbidden: the caller may not hear the recording, or make links to it.
        InvalidInput: the recipient is no living account of this controller, or it would last too long.
    """
    longest = services.settings.link_minutes
    minutes = longest if minutes is None else minutes
    if not 0 < minutes <= longest:
        raise InvalidInput(
            f"a link works for 1 to {longest} minutes",
            fields=[FieldError("/minutes", f"give 1 to {longest}")],
        )
    now = services.clock.now()
    try:
        async with services.database.transaction() as session:
            allowed = await allowed_recording(
                session, services, principal, recording_id, purpose, now=now, action=Action.CREATE_LINK
            )
            choose_role(allowed, principal, purpose, rendition)
            controller_id = allowed.recording.controller_id
            await _check_recipient(session, controller_id, recipient_id)
            link = ListeningLink(
                id=uuid.uuid4(),
                recording_id=recording_id,
                purpose=purpose.value,
                rendition=rendition.value,
                created_by=principal.actor,
                recipient_id=recipient_id,
                created_at=now,
                expires_at=now + timedelta(minutes=minutes),
                revoked_at=None,
            )
            session.add(link)
            event = _event("link.created", principal, link, controller_id, request_id)
            record(session, event, now=now)
    except (Forbidden, Erased) as refusal:
        await audit_refusal(
            services, principal, recording_id, purpose, refusal, action="link.refused", request_id=request_id
        )
        raise
    url = f"{services.settings.resolved_public_url}/listen/{sign_token(services, link.id)}"
    return NewLink(link.id, url, link.expires_at)


async def revoke_link(
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    link_id: uuid.UUID,
    *,
    request_id: str | None = None,
) -> None:
    """End a link at once. Ending it twice is no error.

    Raises:
        NotFound: this recording has no such link, or none that the caller may know of.
    """
    now = services.clock.now()
    async with services.database.transaction() as session:
        link = await session.get(ListeningLink, link_id, with_for_update=True)
        recording = await session.get(Recording, recording_id)
        if link is None or recording is None or link.recording_id != recording_id:
            raise NotFound("this recording has no such link")
        mine = link.created_by == principal.actor
        if not mine and not principal.roles(recording.controller_id) & _REVOKERS:
            raise NotFound("this recording has no such link")
        if link.revoked_at is None:
            link.revoked_at = now
            event = _event("link.revoked", principal, link, recording.controller_id, request_id)
            record(session, event, now=now)


async def open_link(
    services: Services,
    principal: Principal,
    token: str,
    *,
    counted: bool = True,
    request_id: str | None = None,
) -> Audio:
    """Listen through a link: the link is checked first, then everything that `open_listen` checks.

    Args:
        counted: False for a HEAD.

    Raises:
        NotFound: the token is not one of ours.
        Forbidden: the link is over, or not for this caller; or they may not listen.
        Erased, Conflict, Unavailable: as for `open_listen`.
    """
    link_id = read_token(services, token)
    now = services.clock.now()
    async with services.database.snapshot() as session:
        link = await session.get(ListeningLink, link_id)
        if link is None:
            raise NotFound("there is no such link")
        recording = await session.get_one(Recording, link.recording_id)
        # An erasure revokes links, but gone (and for whom to know) is the better answer; open_listen has it.
        gone = recording.state in (RecordingState.ERASING, RecordingState.ERASED)
        refusal = None if gone else await _refusal(session, link, principal, now)
    purpose = Purpose(link.purpose)
    if refusal is not None:
        await audit_refusal(services, principal, link.recording_id, purpose, refusal, request_id=request_id)
        raise refusal
    return await open_listen(
        services,
        principal,
        link.recording_id,
        purpose,
        Rendition(link.rendition),
        counted=counted,
        link_id=link.id,
        request_id=request_id,
    )


async def check_link(services: Services, principal: Principal, token: str) -> tuple[Purpose, Rendition]:
    """Whether a link still opens for this caller, in the middle of an answer; what it is for.

    Raises:
        NotFound: the token is not one of ours.
        Forbidden: the link is over, or not for this caller.
    """
    async with services.database.snapshot() as session:
        link = await session.get(ListeningLink, read_token(services, token))
        if link is None:
            raise NotFound("there is no such link")
        refusal = await _refusal(session, link, principal, services.clock.now())
    if refusal is not None:
        raise refusal
    return Purpose(link.purpose), Rendition(link.rendition)


def sign_token(services: Services, link_id: uuid.UUID) -> str:
    """The token of a link: a compact JWS that names its id."""
    key = services.keyring.signing_key("links")
    return jwt.encode({"link": link_id.hex}, key, algorithm="EdDSA", headers={"typ": _TYPE})


def read_token(services: Services, token: str) -> uuid.UUID:
    """The id of the link that a token is for.

    Raises:
        NotFound: it was not signed here, or is malformed.
    """
    unknown = NotFound("there is no such link")
    if len(token) > _MAX_TOKEN:
        raise unknown
    try:
        decoded = jwt.decode_complete(token, services.keyring.public_keys()["links"], algorithms=["EdDSA"])
        if decoded["header"].get("typ") != _TYPE:
            raise unknown
        return uuid.UUID(hex=decoded["payload"]["link"])
    except (jwt.InvalidTokenError, KeyError, ValueError, AttributeError, TypeError):
        raise unknown from None


async def _refusal(
    session: AsyncSession, link: ListeningLink, principal: Principal, now: datetime
) -> Forbidden | None:
    if link.revoked_at is not None:
        return Forbidden("This link was revoked; ask for a new one.", reason="link-revoked")
    if now >= link.expires_at:
        return Forbidden("This link has run out; ask for a new one.", reason="link-expired")
    if link.recipient_id is not None and principal.actor != f"account:{link.recipient_id}":
        return Forbidden("This link is for another person.", reason="link-recipient")
    if not await _maker_lives(session, link.created_by, now):
        return Forbidden("Who made this link has left; ask for a new one.", reason="link-maker")
    return None


async def _maker_lives(session: AsyncSession, actor: str, now: datetime) -> bool:
    """Whether the account or token that made a link still works: a leaver's links end with them."""
    kind, _, name = actor.partition(":")
    if kind == "account":
        account = await session.get(Account, uuid.UUID(name))
        return account is not None and account.disabled_at is None
    if kind == "token":
        token = await session.get(ApiToken, uuid.UUID(name))
        if token is None or token.revoked_at is not None:
            return False
        return token.expires_at is None or now < token.expires_at
    return False


async def _check_recipient(
    session: AsyncSession, controller_id: uuid.UUID, recipient_id: uuid.UUID | None
) -> None:
    if recipient_id is None:
        return
    account = await session.get(Account, recipient_id)
    if account is None or account.controller_id != controller_id or account.disabled_at is not None:
        raise InvalidInput(
            "the recipient is no living account of this controller",
            fields=[FieldError("/recipient", "give the id of a colleague's account")],
        )


def _event(
    action: str, principal: Principal, link: ListeningLink, controller_id: uuid.UUID, request_id: str | None
) -> AuditEvent:
    return AuditEvent(
        action=action,
        actor=principal.actor,
        object_type="recording",
        object_id=str(link.recording_id),
        controller_id=controller_id,
        purpose=link.purpose,
        request_id=request_id,
        details={
            "link": str(link.id),
            "recipient": None if link.recipient_id is None else str(link.recipient_id),
            "rendition": link.rendition,
        },
    )
