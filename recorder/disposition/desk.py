"""The use cases of disposition for a signed-in person: permission first, then one transaction each."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from recorder.access.approvals import ApprovalView, request_approval, use_approval
from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.tables import (
    Certificate,
    Customer,
    Hold,
    Matter,
    Recording,
    Restriction,
    ScheduleVersion,
)
from recorder.disposition import holds, schedules
from recorder.disposition.evaluation import certificate_of
from recorder.errors import Conflict, NotFound
from recorder.services import Services
from storage.errors import StorageError

HOLD_RELEASE = "hold_release"


@dataclass(frozen=True, slots=True)
class MatterView:
    """A matter with what is sealed of it, and its holds."""

    matter: Matter
    title: str
    notes: str
    custodians: Sequence[str]
    holds: Sequence[Hold]


@dataclass(frozen=True, slots=True)
class NewMatter:
    """What a matter is opened with.

    Attributes:
        review_on: when somebody looks whether it is still needed.
        title: may be personal; sealed, as are notes and custodians.
        custodians: who keeps what the matter needs, and answers for it.
    """

    reference: str
    ground: str
    review_on: datetime
    title: str = ""
    notes: str = ""
    custodians: Sequence[str] = ()


async def open_matter(
    services: Services, principal: Principal, controller_id: uuid.UUID, new: NewMatter, *, request_id: str
) -> MatterView:
    """Open a matter.

    Raises:
        Forbidden: the caller does not manage matters here.
        InvalidInput: an unknown ground.
    """
    await permit(
        services, principal, Action.MANAGE_MATTERS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.transaction() as session:
        matter = await holds.open_matter(
            session,
            services,
            controller_id=controller_id,
            reference=new.reference,
            ground=new.ground,
            review_on=new.review_on,
            title=new.title,
            notes=new.notes,
            custodians=new.custodians,
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )
    return MatterView(matter, new.title, new.notes, new.custodians, ())


async def list_matters(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> list[MatterView]:
    """A controller's matters, the newest first.

    Raises:
        Forbidden: the caller does not manage matters here.
    """
    await permit(
        services, principal, Action.MANAGE_MATTERS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        query = sa.select(Matter).where(Matter.controller_id == controller_id)
        matters = list(await session.scalars(query.order_by(Matter.opened_at.desc(), Matter.id).limit(200)))
        found = await session.scalars(
            sa.select(Hold)
            .where(Hold.matter_id.in_([m.id for m in matters]))
            .order_by(Hold.placed_at, Hold.id)
        )
        by_matter: dict[uuid.UUID, list[Hold]] = {}
        for hold in found:
            by_matter.setdefault(hold.matter_id, []).append(hold)
        views = []
        for matter in matters:
            words = await holds.read_matter(session, services, matter)
            views.append(_view(matter, words, by_matter.get(matter.id, [])))
        return views


async def get_matter(
    services: Services, principal: Principal, matter_id: uuid.UUID, *, request_id: str
) -> MatterView:
    """One matter.

    Raises:
        NotFound: there is none of this id.
        Forbidden: the caller does not manage matters there.
    """
    await _permit_matter(services, principal, matter_id, request_id)
    async with services.database.snapshot() as session:
        matter = await holds.get_matter(session, matter_id)
        words = await holds.read_matter(session, services, matter)
        query = sa.select(Hold).where(Hold.matter_id == matter_id).order_by(Hold.placed_at, Hold.id)
        return _view(matter, words, list(await session.scalars(query)))


def _view(matter: Matter, words: dict[str, Any], found: Sequence[Hold]) -> MatterView:
    return MatterView(matter, words["title"], words["notes"], tuple(words["custodians"]), found)


async def amend_matter(
    services: Services,
    principal: Principal,
    matter_id: uuid.UUID,
    *,
    review_on: datetime | None,
    notes: str | None,
    custodians: Sequence[str] | None,
    request_id: str,
) -> MatterView:
    """Set another review date, other notes or custodians; what is None stays.

    Raises:
        NotFound, Forbidden: as for :func:`get_matter`.
        Conflict: the matter is closed.
    """
    await _permit_matter(services, principal, matter_id, request_id)
    async with services.database.transaction() as session:
        matter = await holds.get_matter(session, matter_id, lock=True)
        await holds.amend_matter(
            session,
            services,
            matter,
            review_on=review_on,
            notes=notes,
            custodians=custodians,
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )
    return await get_matter(services, principal, matter_id, request_id=request_id)


async def close_matter(
    services: Services, principal: Principal, matter_id: uuid.UUID, *, request_id: str
) -> MatterView:
    """Close a matter whose holds have all been released.

    Raises:
        NotFound, Forbidden: as for :func:`get_matter`.
        Conflict: a hold stands.
    """
    await _permit_matter(services, principal, matter_id, request_id)
    async with services.database.transaction() as session:
        matter = await holds.get_matter(session, matter_id, lock=True)
        await holds.close_matter(
            session, services, matter, actor=principal.actor, now=services.clock.now(), request_id=request_id
        )
    return await get_matter(services, principal, matter_id, request_id=request_id)


async def place_hold(
    services: Services,
    principal: Principal,
    matter_id: uuid.UUID,
    *,
    recording_id: uuid.UUID | None,
    customer_id: uuid.UUID | None,
    query: Mapping[str, Any] | None = None,
    request_id: str,
) -> Hold:
    """Hold a recording, all of a customer's, or all that matches a query.

    Raises:
        NotFound, Forbidden: as for :func:`get_matter`; also no such target there.
        Conflict: the matter is closed.
        Erased: the recording is gone.
        InvalidInput: not exactly one target.
    """
    await _permit_matter(services, principal, matter_id, request_id)
    async with services.database.transaction() as session:
        matter = await holds.get_matter(session, matter_id, lock=True)
        hold = await holds.place_hold(
            session,
            services,
            matter,
            recording_id=recording_id,
            customer_id=customer_id,
            query=query,
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )
    await _align(services, hold)
    return hold


async def release_hold(
    services: Services,
    principal: Principal,
    matter_id: uuid.UUID,
    hold_id: uuid.UUID,
    *,
    approval_id: uuid.UUID | None,
    request_id: str,
) -> Hold | ApprovalView:
    """Release a hold, with a second person's approval; without one, ask for it.

    Returns:
        The released hold, or the approval that is now waited for.

    Raises:
        NotFound, Forbidden: as for :func:`get_matter`; also an approval that does not cover this.
        Conflict: the hold was released before.
    """
    await _permit_matter(services, principal, matter_id, request_id)
    now = services.clock.now()
    async with services.database.transaction() as session:
        matter = await holds.get_matter(session, matter_id, lock=True)
        # Of this very matter: an approval that was asked for with other details showed another one.
        details = {"matter": str(matter_id)}
        if approval_id is None:
            hold = await session.get(Hold, hold_id)
            if hold is None or hold.matter_id != matter_id:
                raise NotFound("no such hold")
            if hold.released_at is not None:
                raise Conflict("the hold was released before", kind="hold-released")
            return await request_approval(
                session,
                principal,
                controller_id=matter.controller_id,
                action=HOLD_RELEASE,
                target=str(hold_id),
                now=now,
                details=details,
                request_id=request_id,
            )
        await use_approval(
            session,
            approval_id,
            actor=principal.actor,
            controller_id=matter.controller_id,
            action=HOLD_RELEASE,
            target=str(hold_id),
            now=now,
            details=details,
            request_id=request_id,
        )
        hold = await holds.release_hold(
            session, services, matter, hold_id, actor=principal.actor, now=now, request_id=request_id
        )
    await _align(services, hold)
    return hold


async def restrict(
    services: Services,
    principal: Principal,
    *,
    recording_id: uuid.UUID | None,
    customer_id: uuid.UUID | None,
    ground: str,
    request_id: str,
) -> Restriction:
    """Restrict processing of a recording or a customer (GDPR art. 18).

    Raises:
        NotFound: no such target.
        Forbidden: the caller does not handle requests there.
        InvalidInput: not exactly one target, or an unknown ground.
    """
    controller_id = await _owner(services, recording_id, customer_id)
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.transaction() as session:
        return await holds.restrict(
            session,
            services,
            controller_id=controller_id,
            recording_id=recording_id,
            customer_id=customer_id,
            ground=ground,
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )


async def lift_restriction(
    services: Services, principal: Principal, restriction_id: uuid.UUID, *, request_id: str
) -> Restriction:
    """Lift a restriction; the person was told before.

    Raises:
        NotFound: no such restriction.
        Forbidden: the caller does not handle requests there.
        Conflict: it was lifted before.
    """
    async with services.database.snapshot() as session:
        row = await session.get(Restriction, restriction_id)
    if row is None:
        raise NotFound("no such restriction")
    controller_id = await _owner(services, row.recording_id, row.customer_id)
    await permit(
        services, principal, Action.MANAGE_REQUESTS, controller_id=controller_id, request_id=request_id
    )
    async with services.database.transaction() as session:
        return await holds.lift_restriction(
            session,
            services,
            restriction_id,
            controller_id=controller_id,
            actor=principal.actor,
            now=services.clock.now(),
            request_id=request_id,
        )


async def list_schedules(
    services: Services, principal: Principal, controller_id: uuid.UUID, *, request_id: str
) -> Sequence[ScheduleVersion]:
    """A controller's schedule versions, the newest first.

    Raises:
        Forbidden: the caller may not see them.
    """
    await permit(
        services, principal, Action.VIEW_SCHEDULES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        return await schedules.listing(session, controller_id)


async def get_schedule(
    services: Services, principal: Principal, controller_id: uuid.UUID, version: int, *, request_id: str
) -> ScheduleVersion:
    """One version with its document.

    Raises:
        NotFound: there is none of this number.
        Forbidden: the caller may not see it.
    """
    await permit(
        services, principal, Action.VIEW_SCHEDULES, controller_id=controller_id, request_id=request_id
    )
    async with services.database.snapshot() as session:
        return await schedules.get(session, controller_id, version)


async def get_certificate(
    services: Services, principal: Principal, certificate_id: uuid.UUID, *, request_id: str
) -> Certificate:
    """A certificate of erasure.

    Raises:
        NotFound: there is none of this id.
        Forbidden: the caller may not see what became of recordings there.
    """
    async with services.database.snapshot() as session:
        row = await certificate_of(session, certificate_id)
    await permit(
        services,
        principal,
        Action.VIEW_HISTORY,
        controller_id=row.controller_id,
        object_type="certificate",
        object_id=str(certificate_id),
        request_id=request_id,
    )
    return row


async def _permit_matter(
    services: Services, principal: Principal, matter_id: uuid.UUID, request_id: str
) -> None:
    async with services.database.snapshot() as session:
        matter = await holds.get_matter(session, matter_id)
    await permit(
        services,
        principal,
        Action.MANAGE_MATTERS,
        controller_id=matter.controller_id,
        object_type="matter",
        object_id=str(matter_id),
        request_id=request_id,
    )


async def _owner(
    services: Services, recording_id: uuid.UUID | None, customer_id: uuid.UUID | None
) -> uuid.UUID:
    async with services.database.snapshot() as session:
        if recording_id is not None:
            query = sa.select(Recording.controller_id).where(Recording.id == recording_id)
        else:
            query = sa.select(Customer.controller_id).where(Customer.id == customer_id)
        found = await session.scalar(query)
    if found is None:
        raise NotFound("no such recording or customer")
    return found


async def _align(services: Services, hold: Hold) -> None:
    """The catalogue decides; where the store is away now, the clock's next round aligns it."""
    with contextlib.suppress(StorageError):
        await holds.align_store(services, hold)
