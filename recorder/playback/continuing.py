"""The next range of a listen that is open: every check again, in one statement.

The full way (`serve.open_listen`) finds out who asks, loads every fact about the recording and calculates the
retention decision afresh. Between two ranges almost never anything changes, so what is asked here is whether
something did. One SELECT, which is one consistent snapshot, reads the credential, the caller's grants, the
recording with its stored decision, the version of the schedule in force, the object with its wrapped key and
the listen. All of these are judged on every range, by the functions that the full way uses:

1. the credential lives (not revoked, expired or idle; account, owner and source not switched off);
2. the recording is stored, and role, purpose and scope allow (`policy.decide`);
3. the stored decision still speaks for the present: it was made under the schedule in force and nothing that
   it knows of changes it by now (`reevaluate_at`). Every contact, choice, hold, request and link stores a new
   one in its own transaction, and between those a stored decision can only be more closed than a fresh one
   (`retention.decision`). It must allow the purpose now (`allows`);
4. muted spans and card codes still lead to the very object that was heard, its key and its subject's key are
   there, and no newer one took its place;
5. the listen is the caller's own, for this purpose, open and not idle.

Anything else, a refusal above all, is not answered here but goes the full way: only that writes entries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from recorder.access import sessions, tokens
from recorder.access.policy import Action, Target, decide
from recorder.access.principals import Principal
from recorder.access.tokens import TokenClaim
from recorder.catalogue.base import UtcDateTime
from recorder.catalogue.enums import ObjectRole, RecordingState
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import (
    Account,
    ApiToken,
    Listen,
    ListeningLink,
    Recording,
    RoleGrant,
    ScheduleVersion,
    Source,
    StoredObjectRow,
    Subject,
    WebSession,
)
from recorder.errors import Forbidden
from recorder.playback.audio import Audio
from recorder.playback.decide import Rendition, role_of
from recorder.playback.media import content_type_of
from recorder.playback.memory import KnownListen
from recorder.services import Services
from retention.decision import Decision, allows
from retention.errors import Misuse
from storage.keys import SubjectKeyRef
from storage.vault import Fetch, StoredObject

__all__ = ["Continued", "Credential", "SessionDigest", "continue_listen"]


@dataclass(frozen=True, slots=True)
class SessionDigest:
    """A browser session's cookie, hashed as it is kept."""

    digest: bytes


Credential = TokenClaim | SessionDigest


@dataclass(frozen=True, slots=True)
class Continued:
    """What the next range of a listen may be read from, and who hears it.

    Attributes:
        fetch: its ciphertext, under way; whoever holds this closes it.
    """

    principal: Principal
    audio: Audio
    fetch: Fetch


async def continue_listen(
    services: Services, credential: Credential, known: KnownListen, start: int, end: int
) -> Continued | None:
    """Check everything about the next range of an open listen while its ciphertext is fetched.

    Args:
        credential: as the request brought it; nothing about it is taken as true.
        known: what was remembered of the listen.
        start: first byte of the range.
        end: after its last byte.

    Returns:
        None when this is anything but the plain continuation of an open listen: take the full way.

    Raises:
        Unavailable: the database is away.
    """
    fetch = services.vault.fetch(known.key, known.version_id, known.size, start, end)
    try:
        found = await _check(services, credential, known)
    except BaseException:
        await fetch.aclose()
        raise
    if found is None:
        await fetch.aclose()
        return None
    principal, audio = found
    return Continued(principal, audio, fetch)


async def _check(
    services: Services, credential: Credential, known: KnownListen
) -> tuple[Principal, Audio] | None:
    now = services.clock.now()
    if isinstance(credential, TokenClaim):
        rows = await services.database.lookup(_BY_TOKEN, token_id=credential.id, listen_id=known.listen_id)
        principal = tokens.token_principal(rows[0] if rows else None, credential, now)
        # What is to be noted about a credential is noted on the full way.
        if principal is None or tokens.use_is_due(rows[0], now):
            return None
        feedback = False
    else:
        rows = await services.database.lookup(
            _BY_SESSION, session_digest=credential.digest, listen_id=known.listen_id, now=now
        )
        principal = sessions.session_principal(services, rows, now)
        if principal is None or sessions.sight_is_due(services, rows[0], now):
            return None
        feedback = bool(rows[0].feedback)
    audio = _audio(services, rows[0], principal, known, now, feedback=feedback)
    return None if audio is None else (principal, audio)


def _audio(
    services: Services, row: Any, principal: Principal, known: KnownListen, now: datetime, *, feedback: bool
) -> Audio | None:
    if not _is_same_listen(services, row, principal, known, now):
        return None
    if row.recording_state is not RecordingState.STORED:
        return None
    verdict = decide(
        principal,
        Action.LISTEN,
        controller_id=row.controller_id,
        purpose=known.purpose,
        target=Target(tuple(row.agents), row.queue, row.source_id, feedback),
    )
    if not verdict.allowed:
        return None
    decision = _standing_decision(row, now)
    if decision is None or not allows(decision, known.purpose, now)[0]:
        return None
    try:
        role = role_of(
            row.muted,
            row.media,
            decision,
            principal.roles(row.controller_id),
            known.purpose,
            Rendition(known.rendition),
            card_data_removed=row.card_data_removed,
        )
    except Forbidden:
        return None
    obj = _object(row)
    if obj is None or row.object_role is not role or row.replaced:
        return None
    content_type = content_type_of(row.media) if role is ObjectRole.ORIGINAL else row.content_type
    return Audio(
        known.recording_id, row.controller_id, obj, content_type, row.duration_ms, listen_id=known.listen_id
    )


def _is_same_listen(
    services: Services, row: Any, principal: Principal, known: KnownListen, now: datetime
) -> bool:
    active = services.counts.active_at(known.listen_id)
    last = row.listen_active if active is None else max(active, row.listen_active)
    return (
        row.listen_actor == principal.actor
        and row.listen_recording == known.recording_id
        and row.listen_purpose == known.purpose.value
        and row.listen_object == known.object_id
        and row.listen_link is None
        and row.listen_closed is None
        and last >= now - timedelta(seconds=services.settings.listen_idle_seconds)
    )


def _standing_decision(row: Any, now: datetime) -> Decision | None:
    """The stored decision, if it still speaks for this moment."""
    if row.decision is None or row.schedule_version is None or row.schedule_version != row.active_version:
        return None
    decision = _parsed(row.decision)
    if decision is None or decision.schedule_version != row.active_version:
        return None
    if decision.reevaluate_at is not None and decision.reevaluate_at <= now:
        return None
    return decision if decision.decided_at <= now else None


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Decision | None:
    """A stored decision; remembered by its very words, so that another one is another entry."""
    value = json.loads(text)
    if value is None:
        return None
    try:
        return Decision.from_json(value)
    except Misuse:
        return None


def _object(row: Any) -> StoredObject | None:
    if row.object_deleted is not None or row.wrapped_key is None or row.subject_key is None:
        return None
    return StoredObject(
        object_id=row.listen_object,
        role=row.object_role.value,
        key=row.object_key,
        version_id=row.version_id,
        size=row.size,
        sha256=row.sha256,
        wrapped_key=row.wrapped_key,
        subject=SubjectKeyRef(
            str(row.subject_controller), str(row.subject_id), row.subject_epoch, row.subject_key
        ),
        header=row.header,
    )


def _columns() -> Sequence[sa.ColumnElement[Any]]:
    newer = aliased(StoredObjectRow)
    return (
        Listen.recording_id.label("listen_recording"),
        Listen.object_id.label("listen_object"),
        Listen.actor.label("listen_actor"),
        Listen.purpose.label("listen_purpose"),
        Listen.link_id.label("listen_link"),
        Listen.last_active_at.label("listen_active"),
        Listen.closed_at.label("listen_closed"),
        Recording.state.label("recording_state"),
        Recording.controller_id.label("controller_id"),
        Recording.agents.label("agents"),
        Recording.queue.label("queue"),
        Recording.source_id.label("source_id"),
        Recording.muted.label("muted"),
        Recording.card_data_removed.label("card_data_removed"),
        Recording.media.label("media"),
        Recording.duration_ms.label("duration_ms"),
        Recording.schedule_version.label("schedule_version"),
        sa.cast(Recording.decision, sa.Text).label("decision"),
        sa.select(sa.func.max(ScheduleVersion.version))
        .where(
            ScheduleVersion.controller_id == Recording.controller_id,
            ScheduleVersion.activated_at.is_not(None),
        )
        .correlate(Recording)
        .scalar_subquery()
        .label("active_version"),
        StoredObjectRow.role.label("object_role"),
        StoredObjectRow.key.label("object_key"),
        StoredObjectRow.version_id.label("version_id"),
        StoredObjectRow.wrapped_key.label("wrapped_key"),
        StoredObjectRow.size.label("size"),
        StoredObjectRow.sha256.label("sha256"),
        StoredObjectRow.content_type.label("content_type"),
        StoredObjectRow.header.label("header"),
        StoredObjectRow.deleted_at.label("object_deleted"),
        sa.exists()
        .where(
            newer.recording_id == Recording.id,
            newer.role == StoredObjectRow.role,
            newer.id != StoredObjectRow.id,
            newer.created_at >= StoredObjectRow.created_at,
            newer.deleted_at.is_(None),
            newer.wrapped_key.is_not(None),
        )
        .correlate(Recording, StoredObjectRow)
        .label("replaced"),
        Subject.id.label("subject_id"),
        Subject.controller_id.label("subject_controller"),
        Subject.epoch.label("subject_epoch"),
        Subject.wrapped_key.label("subject_key"),
    )


def _of_listen(statement: sa.Select[Any]) -> sa.Select[Any]:
    return (
        statement.select_from(Listen)
        .join(Recording, Recording.id == Listen.recording_id)
        .join(StoredObjectRow, StoredObjectRow.id == Listen.object_id)
        .join(Subject, Subject.id == StoredObjectRow.subject_id)
        .where(Listen.id == sa.bindparam("listen_id", type_=sa.Uuid()))
    )


_BY_TOKEN: Final = Lookup(
    _of_listen(sa.select(*tokens.token_columns(), *_columns()))
    .join(ApiToken, ApiToken.id == sa.bindparam("token_id", type_=sa.Uuid()))
    .outerjoin(Source, Source.id == ApiToken.source_id)
    .outerjoin(Account, Account.id == ApiToken.owner_id)
)
_FEEDBACK: Final = (
    sa.exists()
    .where(
        ListeningLink.recording_id == Recording.id,
        ListeningLink.recipient_id == Account.id,
        ListeningLink.revoked_at.is_(None),
        ListeningLink.expires_at > sa.bindparam("now", type_=UtcDateTime()),
    )
    .correlate(Recording, Account)
    .label("feedback")
)
_BY_SESSION: Final = Lookup(
    _of_listen(sa.select(*sessions.session_columns(), *_columns(), _FEEDBACK))
    .join(WebSession, WebSession.token_hash == sa.bindparam("session_digest", type_=sa.LargeBinary()))
    .join(Account, Account.id == WebSession.account_id)
    .outerjoin(RoleGrant, sessions.living_grant())
)
