"""May this caller hear this recording now, and which of its objects? State, policy, window, in this order."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.policy import Action, Target, decide
from recorder.access.principals import Principal
from recorder.catalogue.enums import ObjectRole, RecordingState, Role
from recorder.catalogue.tables import ListeningLink, Recording
from recorder.disposition.evaluation import current_decision
from recorder.errors import Erased, Forbidden, NotFound, Unavailable
from recorder.playback.media import is_playable
from recorder.playback.spans import CARD_SECURITY, read_spans
from recorder.playback.words import refusal_text
from recorder.services import Services
from retention.decision import Decision, allows
from retention.model import Purpose

__all__ = ["Rendition", "allowed_recording", "choose_role", "open_window", "role_of"]


class Rendition(StrEnum):
    """What the caller asks to hear."""

    PLAYBACK = "playback"
    ORIGINAL = "original"
    REDACTED = "redacted"


# Muted spans are open to whoever answers a claim or a request with the call, and to nobody else.
_LEGAL_PURPOSES: Final = frozenset({Purpose.LEGAL_PROTECTION, Purpose.SERVICE_EVIDENCE})
_LEGAL_ROLES: Final = frozenset({Role.LEGAL, Role.PRIVACY})


@dataclass(frozen=True, slots=True)
class Allowed:
    """A recording that may be used now, and the decision that says so."""

    recording: Recording
    decision: Decision


async def allowed_recording(
    session: AsyncSession,
    services: Services,
    principal: Principal,
    recording_id: uuid.UUID,
    purpose: Purpose,
    *,
    now: datetime,
    action: Action = Action.LISTEN,
    lock: bool = False,
) -> Allowed:
    """Return the recording when state, policy and window all agree.

    Args:
        lock: hold off an erasure of this recording until the transaction ends.

    Raises:
        NotFound: there is none.
        Erased: it is erased or being erased; the certificate is named once there is one.
        Forbidden: quarantine, role, purpose, scope or window refuses.
        Unavailable: its audio has not arrived in the store yet.
    """
    recording = await session.get(
        Recording,
        recording_id,
        with_for_update={"key_share": True} if lock else None,
        populate_existing=True,
    )
    if recording is None:
        raise NotFound("there is no such recording")
    controller_id = recording.controller_id
    target = await _target(session, principal, recording, now)
    verdict = decide(principal, action, controller_id=controller_id, purpose=purpose, target=target)
    if verdict.code == "other-controller":
        # Before its state, which is nobody else's business.
        raise Forbidden(verdict.text, reason=verdict.code)
    _check_state(recording)
    if not verdict.allowed:
        raise Forbidden(verdict.text, reason=verdict.code)
    decision = await current_decision(session, services, recording, now)
    open_window(decision, purpose, now)
    return Allowed(recording, decision)


def open_window(decision: Decision, purpose: Purpose, now: datetime) -> None:
    """Return when the purpose's window is open.

    Raises:
        Forbidden: it is not; the reason is the retention engine's code.
    """
    allowed, reason = allows(decision, purpose, now)
    if not allowed:
        raise Forbidden(refusal_text(decision, purpose, reason), reason=reason.code.replace("_", "-"))


def choose_role(allowed: Allowed, principal: Principal, purpose: Purpose, rendition: Rendition) -> ObjectRole:
    """Which object answers.

    Raises:
        Forbidden: the original is asked for and holds what this caller may not hear.
    """
    recording = allowed.recording
    return role_of(
        recording.muted,
        recording.media,
        allowed.decision,
        principal.roles(recording.controller_id),
        purpose,
        rendition,
        card_data_removed=recording.card_data_removed,
    )


def role_of(
    muted: Sequence[Mapping[str, Any]],
    media: Mapping[str, Any],
    decision: Decision,
    roles: frozenset[Role],
    purpose: Purpose,
    rendition: Rendition,
    *,
    card_data_removed: bool,
) -> ObjectRole:
    """Which object answers, from plain values.

    Raises:
        Forbidden: the original is asked for and holds what this caller may not hear.
    """
    spans = read_spans(muted, card_data_removed=card_data_removed)
    # A card security code that has not been destroyed yet is for nobody's ears, legal included.
    card = decision.destroy_original or any(span.reason == CARD_SECURITY for span in spans)
    legal = purpose in _LEGAL_PURPOSES and bool(roles & _LEGAL_ROLES)
    if rendition is Rendition.ORIGINAL:
        if card:
            text = "The original holds a card security code and is for nobody; ask for the playback version."
            raise Forbidden(text, reason="card-security")
        if spans and not legal:
            text = "Parts of this call are muted, so its original is for legal purposes only."
            raise Forbidden(text, reason="muted")
        return ObjectRole.ORIGINAL
    if card or (spans and (rendition is Rendition.REDACTED or not legal)):
        return ObjectRole.REDACTED
    return ObjectRole.ORIGINAL if is_playable(media) else ObjectRole.RENDITION


def _check_state(recording: Recording) -> None:
    match recording.state:
        case RecordingState.ERASING | RecordingState.ERASED:
            certificate = None if recording.certificate_id is None else str(recording.certificate_id)
            raise Erased("This recording was erased; nothing of it can be heard.", certificate_id=certificate)
        case RecordingState.QUARANTINED:
            text = "This recording is in quarantine and cannot be heard until a person has judged it."
            raise Forbidden(text, reason="quarantined")
        case RecordingState.SPOOLED:
            raise Unavailable("its audio waits for the object store", dependency="store")
        case RecordingState.STORED:
            return


async def _target(session: AsyncSession, principal: Principal, recording: Recording, now: datetime) -> Target:
    return Target(
        agents=tuple(recording.agents),
        queue=recording.queue,
        source_id=recording.source_id,
        feedback=await _given_as_feedback(session, principal, recording.id, now),
    )


async def _given_as_feedback(
    session: AsyncSession, principal: Principal, recording_id: uuid.UUID, now: datetime
) -> bool:
    """Whether a living listening link of this recording names the caller."""
    if principal.kind != "account" or not any(g.role is Role.AGENT for g in principal.grants):
        return False
    query = sa.select(ListeningLink.id).where(
        ListeningLink.recording_id == recording_id,
        ListeningLink.recipient_id == uuid.UUID(principal.id),
        ListeningLink.revoked_at.is_(None),
        ListeningLink.expires_at > now,
    )
    return (await session.scalars(query.limit(1))).first() is not None
