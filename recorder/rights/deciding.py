"""Deciding a request: what is granted and what stays, per recording, with coded grounds; and acting on it.

A ground is never a mere word: ``legal_claims`` needs a hold that stands, ``legal_obligation`` a statute that
keeps the recording. What neither covers goes now; what they cover goes by itself when they fall, because the
granted request stands (GDPR art. 17(3)).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.policy import Action, require
from recorder.access.principals import Principal
from recorder.catalogue.enums import ChoiceKind, ErasureGround, LawfulBasis, RecordingState, RequestStage
from recorder.catalogue.tables import (
    Customer,
    Erasure,
    ErasureItem,
    Hold,
    Matter,
    Recording,
    RequestItem,
    RightsRequest,
)
from recorder.disposition import erasures, holds
from recorder.disposition.erasure_rows import shared_with_others
from recorder.disposition.evaluation import recordings_of
from recorder.disposition.facts import ALIVE, CHUNK, load_cases
from recorder.errors import Conflict, Erased, FieldError, InvalidInput
from recorder.jobs.queue import enqueue
from recorder.rights import notices, register
from recorder.rights.register import RequestView
from recorder.services import Services
from retention.engine import judge
from retention.model import Ground, RequestKind
from retention.rights import RefusalGround, refusal_ground

__all__ = [
    "ERASURE_JOB",
    "GROUNDS",
    "PER_RECORDING",
    "PORTABLE",
    "Decided",
    "Outcome",
    "Refusal",
    "carry_out",
    "decide",
    "outcome_of",
]

ERASURE_JOB: Final = "rights_erasure"
ACTOR: Final = "system:rights"
PORTABLE: Final = frozenset({LawfulBasis.CONSENT, LawfulBasis.ASSIGNMENT})
"""Grounds on which what the person provided can be taken along (GDPR art. 20(1)(a))."""

G, K = RefusalGround, RequestKind
_ALWAYS: Final = frozenset({G.IDENTITY_NOT_SHOWN, G.UNFOUNDED_OR_EXCESSIVE})
GROUNDS: Final[Mapping[RequestKind, frozenset[RefusalGround]]] = {
    K.ACCESS: _ALWAYS | {G.RIGHTS_OF_OTHERS},
    K.RECTIFICATION: _ALWAYS,
    K.ERASURE: _ALWAYS | {G.LEGAL_OBLIGATION, G.LEGAL_CLAIMS},
    K.RESTRICTION: _ALWAYS,
    K.PORTABILITY: _ALWAYS | {G.RIGHTS_OF_OTHERS, G.NOT_SELF_PROVIDED},
    K.OBJECTION: _ALWAYS | {G.COMPELLING_GROUNDS, G.LEGAL_CLAIMS},
    # Withdrawing a consent needs no reason, so there is none to refuse it (art. 7(3)).
    K.CONSENT_WITHDRAWAL: frozenset({G.IDENTITY_NOT_SHOWN}),
}
PER_RECORDING: Final = {
    K.ACCESS: frozenset({G.RIGHTS_OF_OTHERS}),
    K.PORTABILITY: frozenset({G.RIGHTS_OF_OTHERS}),
    K.ERASURE: frozenset({G.LEGAL_OBLIGATION, G.LEGAL_CLAIMS}),
}
_TOLD: Final = frozenset({K.RECTIFICATION, K.ERASURE, K.RESTRICTION})
_COPIES: Final = frozenset({K.ACCESS, K.PORTABILITY})


@dataclass(frozen=True, slots=True)
class Refusal:
    """One recording that a granted request leaves as it is.

    Attributes:
        review_on: when somebody looks whether the ground still stands.
    """

    recording_id: uuid.UUID
    ground: RefusalGround
    review_on: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A person's decision.

    Attributes:
        stage: granted, refused or no_data (nothing is held of the person).
        ground: why it is refused as a whole.
        refusals: named recordings that are left as they are.
        mute_agent: copies are handed out with the agent's channel silent (GDPR art. 15(4)).
        restriction: ground of a granted restriction (GDPR art. 18(1)).
    """

    stage: RequestStage
    ground: RefusalGround | None = None
    refusals: tuple[Refusal, ...] = ()
    mute_agent: bool = False
    restriction: str = "accuracy"


@dataclass(slots=True)
class Outcome:
    """What granting does, by recording; of what is refused, the ground and when it is looked at again."""

    granted: list[uuid.UUID] = field(default_factory=list)
    refused: dict[uuid.UUID, tuple[str, datetime | None]] = field(default_factory=dict)


async def decide(
    services: Services, principal: Principal, rights_id: uuid.UUID, decided: Decided, *, request_id: str
) -> RequestView:
    """Decide a request and do, or order, what follows from it.

    Raises:
        NotFound: no such request.
        Forbidden: the caller may not, or the identity was not made sure.
        Conflict: it was decided before, has no customer yet, or a ground has nothing to stand on.
        InvalidInput: a ground that this kind of request cannot be refused on.
    """
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        register.refuse_decided(row)
        _check(row, decided)
        if row.kind is RequestKind.ERASURE and decided.stage is RequestStage.GRANTED:
            require(principal, Action.ERASE, controller_id=row.controller_id)
        outcome = Outcome()
        row.decided_at, row.decided_by, row.stage = now, principal.actor, decided.stage
        row.mute_agent = decided.mute_agent
        row.ground = None if decided.ground is None else decided.ground.value
        if decided.stage is RequestStage.GRANTED:
            customer_id = register.require_identity(row)
            await session.get_one(Customer, customer_id, with_for_update={"key_share": True})
            outcome = await outcome_of(session, row, decided, now)
            await _store(session, row, outcome, now)
            if outcome.refused:
                row.stage = RequestStage.PARTLY_GRANTED
            await _act(session, services, row, decided, outcome, principal.actor, request_id)
        else:
            row.completed_at = now
        register.audit(
            session,
            row,
            "request.decided",
            principal.actor,
            now,
            request_id,
            stage=row.stage.value,
            ground=row.ground,
            granted=len(outcome.granted),
            refused=len(outcome.refused),
            mute_agent=row.mute_agent,
        )
        await session.flush()
        await register.reevaluate_reached(session, services, row, now)
        return await register.view_of(session, services, row)


def _check(row: RightsRequest, decided: Decided) -> None:
    problems = []
    refused = decided.stage is RequestStage.REFUSED
    if decided.stage not in {RequestStage.GRANTED, RequestStage.REFUSED, RequestStage.NO_DATA}:
        problems.append(FieldError("/outcome", "is granted, refused or no_data"))
    if refused and decided.ground not in GROUNDS[row.kind]:
        allowed = ", ".join(sorted(GROUNDS[row.kind]))
        problems.append(FieldError("/ground", f"this kind of request is refused on one of: {allowed}"))
    if not refused and decided.ground is not None:
        problems.append(FieldError("/ground", "goes with a refusal only"))
    for index, refusal in enumerate(decided.refusals):
        if decided.stage is not RequestStage.GRANTED:
            problems.append(FieldError("/recordings", "name recordings where the rest is granted"))
        elif refusal.ground not in PER_RECORDING.get(row.kind, frozenset()):
            problems.append(FieldError(f"/recordings/{index}/ground", "is no ground for this kind"))
    if decided.restriction not in holds.RESTRICTION_GROUNDS:
        problems.append(FieldError("/restriction", f"is one of {', '.join(holds.RESTRICTION_GROUNDS)}"))
    if problems:
        raise InvalidInput("; ".join(f"{p.path}: {p.message}" for p in problems), fields=problems)


async def outcome_of(
    session: AsyncSession, row: RightsRequest, decided: Decided, now: datetime, *, lock: bool = True
) -> Outcome:
    """What becomes of each recording that the request reaches; without ``lock`` only a forecast."""
    if row.kind not in PER_RECORDING and not row.scoped:
        return Outcome()
    reached = await _reached(session, row, lock=lock)
    named = {refusal.recording_id: refusal for refusal in decided.refusals}
    if unknown := named.keys() - {r.id for r in reached}:
        raise InvalidInput(f"{len(unknown)} of the recordings named are not reached by this request")
    if row.kind is RequestKind.ERASURE:
        return await _judge(session, reached, named, now)
    outcome = Outcome()
    for recording in reached:
        if (refusal := named.get(recording.id)) is not None:
            outcome.refused[recording.id] = (refusal.ground.value, refusal.review_on)
        elif row.kind is RequestKind.PORTABILITY and recording.lawful_basis not in PORTABLE:
            outcome.refused[recording.id] = (G.NOT_SELF_PROVIDED.value, None)
        else:
            outcome.granted.append(recording.id)
    return outcome


async def _reached(session: AsyncSession, row: RightsRequest, *, lock: bool) -> list[Recording]:
    """The living recordings that the request is about, locked in id order.

    An erasure reaches those whose key is the customer's; what becomes of others' calls a person decides.
    """
    assert row.customer_id is not None  # noqa: S101 - require_identity came before
    if row.scoped:
        named = sa.select(RequestItem.recording_id).where(RequestItem.request_id == row.id)
        ids = list(await session.scalars(named))
    else:
        ids = await recordings_of(session, row.customer_id)
    found: list[Recording] = []
    for start in range(0, len(ids), CHUNK):
        query = (
            sa.select(Recording)
            .where(Recording.id.in_(sorted(ids)[start : start + CHUNK]), Recording.state.in_(ALIVE))
            .order_by(Recording.id)
            .execution_options(populate_existing=True)
        )
        found += await session.scalars(query.with_for_update(key_share=True) if lock else query)
    if row.kind is RequestKind.ERASURE:
        found = [recording for recording in found if recording.customer_id == row.customer_id]
    return found


async def _judge(
    session: AsyncSession,
    reached: Sequence[Recording],
    named: Mapping[uuid.UUID, Refusal],
    now: datetime,
) -> Outcome:
    """Which recordings an erasure takes, by the same question that the erasure itself will ask."""
    outcome = Outcome()
    ids = [recording.id for recording in reached]
    cases = await load_cases(session, ids, now)
    shared: set[uuid.UUID] = set()
    for start in range(0, len(ids), CHUNK):
        shared |= await shared_with_others(session, ids[start : start + CHUNK])
    for recording in reached:
        verdict = judge(cases[recording.id], Ground.REQUEST, now)
        ground = refusal_ground(verdict)
        refusal = named.get(recording.id)
        if refusal is not None and refusal.ground is not ground:
            raise Conflict(
                f"nothing keeps a recording on the ground {refusal.ground}: place a hold first, or let it go",
                kind="ground-unfounded",
                recording_id=str(recording.id),
            )
        if verdict.erase and recording.id not in shared:
            outcome.granted.append(recording.id)
            continue
        review = verdict.until
        if refusal is not None and refusal.review_on is not None:
            review = refusal.review_on
        elif ground is G.LEGAL_CLAIMS:
            review = await _review_of_holds(session, recording)
        code = "shared" if verdict.erase else verdict.code
        outcome.refused[recording.id] = (code if ground is None else ground.value, review)
    return outcome


async def _review_of_holds(session: AsyncSession, recording: Recording) -> datetime | None:
    query = (
        sa.select(sa.func.min(Matter.review_on))
        .join(Hold, Hold.matter_id == Matter.id)
        .where(
            sa.or_(Hold.recording_id == recording.id, Hold.customer_id == recording.customer_id),
            Hold.released_at.is_(None),
        )
    )
    return await session.scalar(query)


async def _store(session: AsyncSession, row: RightsRequest, outcome: Outcome, now: datetime) -> None:
    await session.execute(sa.delete(RequestItem).where(RequestItem.request_id == row.id))
    for recording_id in outcome.granted:
        session.add(
            RequestItem(request_id=row.id, recording_id=recording_id, outcome="granted", decided_at=now)
        )
    for recording_id, (ground, review_on) in outcome.refused.items():
        session.add(
            RequestItem(
                request_id=row.id,
                recording_id=recording_id,
                outcome="refused",
                ground=ground,
                review_on=review_on,
                decided_at=now,
            )
        )
    await session.flush()


async def _act(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    decided: Decided,
    outcome: Outcome,
    actor: str,
    request_id: str,
) -> None:
    now = row.decided_at
    assert now is not None and row.customer_id is not None  # noqa: PT018, S101 - set by decide
    if row.kind in _TOLD:
        told = [*outcome.granted, *outcome.refused] or await recordings_of(session, row.customer_id)
        await notices.create(session, services, row, told, now)
    match row.kind:
        case RequestKind.OBJECTION:
            # It was called on when it arrived, and acts from then (GDPR art. 21(1)).
            row.choice_id = register.write_choice(
                session, row, ChoiceKind.OBJECTION, actor, row.filed_at, now, request_id
            )
        case RequestKind.CONSENT_WITHDRAWAL:
            row.choice_id = register.write_choice(
                session, row, ChoiceKind.CONSENT_WITHDRAWN, actor, row.filed_at, now, request_id
            )
        case RequestKind.RESTRICTION:
            await _restrict(session, services, row, decided, outcome, actor, request_id)
        case RequestKind.ERASURE:
            enqueue(session, ERASURE_JOB, row.id, now=now)
        case _:
            pass
    if row.kind not in _COPIES and row.kind is not RequestKind.ERASURE:
        row.completed_at = now


async def _restrict(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    decided: Decided,
    outcome: Outcome,
    actor: str,
    request_id: str,
) -> None:
    now = row.decided_at
    assert now is not None  # noqa: S101 - set by decide
    targets: list[dict[str, Any]] = [{"recording_id": recording_id} for recording_id in outcome.granted]
    for target in targets if row.scoped else [{"customer_id": row.customer_id}]:
        await holds.restrict(
            session,
            services,
            controller_id=row.controller_id,
            ground=decided.restriction,
            actor=actor,
            now=now,
            request_id=request_id,
            **target,
        )


async def carry_out(services: Services, rights_id: uuid.UUID) -> None:
    """Erase what a granted request takes; a handler of background work, safe to repeat.

    Raises:
        Unavailable: the store or the database is away; the erasure is open and goes on later.
    """
    async with services.database.snapshot() as session:
        row = await session.get_one(RightsRequest, rights_id)
        granted = row.stage in {RequestStage.GRANTED, RequestStage.PARTLY_GRANTED}
        if row.kind is not RequestKind.ERASURE or not granted or row.completed_at is not None:
            return
        items = sa.select(RequestItem.recording_id).where(RequestItem.request_id == row.id)
        named = list(await session.scalars(items)) if row.scoped else []
    actor = row.decided_by or ACTOR
    if row.scoped:
        for recording_id in named:
            await _erase_one(services, recording_id, actor, row.decided_at)
    elif row.customer_id is not None:
        await _erase_customer(services, row.customer_id, actor)
    async with services.database.transaction() as session:
        row = await register.lock_request(session, rights_id)
        if row.completed_at is not None:
            return
        now = services.clock.now()
        erased, kept = await _settle_items(session, row)
        if kept:
            row.stage = RequestStage.PARTLY_GRANTED
        row.completed_at = now
        register.audit(session, row, "request.completed", ACTOR, now, None, erased=erased, kept=kept)


async def _erase_customer(services: Services, customer_id: uuid.UUID, actor: str) -> None:
    try:
        await erasures.erase_customer(
            services,
            customer_id,
            ground=ErasureGround.REQUEST,
            requested_by=actor,
            now=services.clock.now(),
        )
    except Erased:
        return  # another erasure, or this handler's last run, was there first


async def _erase_one(services: Services, recording_id: uuid.UUID, actor: str, since: datetime | None) -> None:
    async with services.database.snapshot() as session:
        tried = (
            sa.select(ErasureItem.recording_id)
            .join(Erasure, Erasure.id == ErasureItem.erasure_id)
            .where(
                ErasureItem.recording_id == recording_id,
                Erasure.ground == ErasureGround.REQUEST,
                Erasure.requested_at >= since,
                Erasure.finished_at.is_not(None),
            )
        )
        if await session.scalar(tried.limit(1)) is not None:
            return
    try:
        await erasures.erase_recording(
            services,
            recording_id,
            ground=ErasureGround.REQUEST,
            requested_by=actor,
            now=services.clock.now(),
        )
    except Erased:
        return


async def _settle_items(session: AsyncSession, row: RightsRequest) -> tuple[int, int]:
    """What became of each recording after all: between decision and erasure a hold may have come or gone."""
    query = (
        sa.select(RequestItem, Recording.state)
        .join(Recording, Recording.id == RequestItem.recording_id)
        .where(RequestItem.request_id == row.id)
    )
    erased = kept = 0
    for item, state in (await session.execute(query)).all():
        if state in {RecordingState.ERASING, RecordingState.ERASED}:
            item.outcome, item.ground, item.review_on = "granted", None, None
            erased += 1
            continue
        kept += 1
        if item.outcome == "granted":
            item.outcome, item.ground = "refused", "came_late"
    await session.flush()
    return erased, kept
