"""Key epochs: a new key-encryption key, everything alive moved under it, the old one destroyed.

A subject that lost a recording or a link gets a *new* key: its old one, in an old backup, would still open
the erased object's data key. Everybody else's key is merely wrapped anew. Once nothing hangs on an epoch any
more and the backups that need it have expired, it is destroyed, and what it wrapped in any copy of the
database stays unreadable for good.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import SubjectKind
from recorder.catalogue.subjects import subject_ref
from recorder.catalogue.tables import Customer, RightsRequest, SpoolState, Subject
from recorder.disposition.rekeying import (
    lock_recordings_of,
    lock_subject,
    move_customer_fields,
    move_recordings,
    move_request,
)
from recorder.errors import Conflict, NotFound
from recorder.services import Services
from storage.errors import Misuse
from storage.keys import new_subject_key, rewrap_subject

PERSONAL = (SubjectKind.CUSTOMER, SubjectKind.UNLINKED, SubjectKind.REQUEST)


@dataclass(frozen=True, slots=True)
class EpochState:
    """One epoch of a controller.

    Attributes:
        subjects: keys that it still wraps.
        destroyable_on: when no backup needs it any more; None while that cannot be said (it is the current
            one, or still wraps keys).
    """

    epoch: int
    created: datetime | None
    destroyed: datetime | None
    is_current: bool
    subjects: int
    destroyable_on: datetime | None


async def rotate(services: Services, controller_id: uuid.UUID, *, actor: str, now: datetime) -> int:
    """Begin a new epoch. Living keys follow in the background; see :func:`rewrap_outdated`.

    Returns:
        The new epoch's number.

    Raises:
        storage.errors.KeyringError: the keyring cannot be written or does not know the controller.
    """
    epoch = await asyncio.to_thread(services.keyring.rotate, str(controller_id), now)
    async with services.database.transaction() as session:
        _audit(session, "keys.rotated", controller_id, actor, now, epoch=epoch)
    return epoch


async def rewrap_outdated(
    services: Services, controller_id: uuid.UUID, now: datetime, *, limit: int = 50
) -> int:
    """One step of a rotation: move up to ``limit`` subjects to the current epoch.

    Call until it returns 0. Each subject is one transaction; stopping anywhere loses nothing.

    Returns:
        How many were moved.
    """
    current = services.keyring.current_epoch(str(controller_id))
    async with services.database.snapshot() as session:
        query = (
            sa.select(Subject.id)
            .where(
                Subject.controller_id == controller_id,
                Subject.wrapped_key.is_not(None),
                Subject.epoch < current,
            )
            .order_by(Subject.id)
            .limit(limit)
        )
        waiting = list(await session.scalars(query))
    for subject_id in waiting:
        async with services.database.transaction() as session:
            await _move(session, services, subject_id, current)
    if waiting and not await _outdated(services, controller_id, current):
        async with services.database.transaction() as session:
            _audit(session, "keys.rewrapped", controller_id, "system:rotation", now, epoch=current)
    return len(waiting)


async def _move(session: AsyncSession, services: Services, subject_id: uuid.UUID, current: int) -> None:
    # The locks that writers of personal fields and of objects take, before the key changes under them.
    mine = RightsRequest.subject_id == subject_id
    await session.execute(sa.select(RightsRequest.id).where(mine).with_for_update())
    await session.execute(
        sa.select(Customer.id).where(Customer.subject_id == subject_id).with_for_update(key_share=True)
    )
    recordings = await lock_recordings_of(session, subject_id)
    subject = await lock_subject(session, subject_id)
    if subject.wrapped_key is None or subject.epoch >= current:
        return
    old = subject_ref(subject)
    if subject.rekey_needed and subject.kind in PERSONAL:
        new = new_subject_key(services.keyring, str(subject.controller_id), str(subject.id))
        await move_recordings(session, services.keyring, old, new, [r.id for r in recordings])
        await move_customer_fields(session, services.keyring, old, new)
        await move_request(session, services.keyring, old, new)
        subject.rekey_needed = False
    else:
        new = rewrap_subject(services.keyring, old, current)
    subject.wrapped_key, subject.epoch = new.wrapped, new.epoch


async def _outdated(services: Services, controller_id: uuid.UUID, epoch: int) -> int:
    async with services.database.snapshot() as session:
        query = (
            sa.select(sa.func.count())
            .select_from(Subject)
            .where(
                Subject.controller_id == controller_id,
                Subject.wrapped_key.is_not(None),
                Subject.epoch < epoch,
            )
        )
        return int(await session.scalar(query) or 0)


async def epochs(services: Services, controller_id: uuid.UUID) -> list[EpochState]:
    """Every epoch of a controller, the oldest first."""
    async with services.database.snapshot() as session:
        query = (
            sa.select(Subject.epoch, sa.func.count())
            .where(Subject.controller_id == controller_id, Subject.wrapped_key.is_not(None))
            .group_by(Subject.epoch)
        )
        used: dict[int, int] = {row[0]: row[1] for row in await session.execute(query)}
    known = services.keyring.epochs(str(controller_id))
    window = timedelta(days=services.settings.backup_window_days)
    states = []
    for info in known:
        # Backups made until the next epoch began may hold keys that only this one opens.
        successor = next((other for other in known if other.epoch == info.epoch + 1), None)
        free = info.epoch not in used and successor is not None and successor.created is not None
        states.append(
            EpochState(
                epoch=info.epoch,
                created=info.created,
                destroyed=info.destroyed,
                is_current=info.is_current,
                subjects=used.get(info.epoch, 0),
                destroyable_on=successor.created + window
                if free and successor is not None and successor.created is not None
                else None,
            )
        )
    return states


async def destroy_epoch(
    services: Services,
    controller_id: uuid.UUID,
    epoch: int,
    *,
    actor: str,
    now: datetime,
    before_backups_expire: bool = False,
) -> None:
    """Destroy an old epoch for good.

    Args:
        before_backups_expire: do it although backups of the window still need it; they become useless.

    Raises:
        NotFound: there is no such epoch.
        Conflict: it is the current one, still wraps keys (of spooled deliveries too), or the backup window
            is not over.
        storage.errors.KeyringError: the keyring cannot be written.
    """
    state = next((s for s in await epochs(services, controller_id) if s.epoch == epoch), None)
    if state is None:
        raise NotFound("no such key epoch")
    if state.destroyed is not None:
        return
    if state.is_current:
        raise Conflict("this is the current epoch; rotate first", kind="epoch-current")
    if state.subjects:
        raise Conflict(
            f"{state.subjects} keys still hang on this epoch; let the rotation finish", kind="epoch-used"
        )
    if waiting := await _spooled(services, controller_id, epoch):
        raise Conflict(
            f"{waiting} spooled deliveries hang on this epoch; let the spools drain", kind="epoch-used"
        )
    if not before_backups_expire and (state.destroyable_on is None or now < state.destroyable_on):
        when = (
            "its successor has no date"
            if state.destroyable_on is None
            else f"until {state.destroyable_on:%Y-%m-%d}"
        )
        raise Conflict(f"backups may still need this epoch: {when}", kind="epoch-in-backups")
    async with services.database.transaction() as session:
        _audit(session, "keys.epoch_destruction_begun", controller_id, actor, now, epoch=epoch)
    try:
        await asyncio.to_thread(services.keyring.destroy_epoch, str(controller_id), epoch, now)
    except Misuse as error:
        raise Conflict("the keyring does not let go of this epoch", kind="epoch-current") from error
    async with services.database.transaction() as session:
        _audit(session, "keys.epoch_destroyed", controller_id, actor, now, epoch=epoch)


async def _spooled(services: Services, controller_id: uuid.UUID, epoch: int) -> int:
    """Deliveries that hang on an epoch: in this host's spool, and in others as they last told."""
    here = 0
    if services.spool is not None:
        await services.spool.load()
        here = services.spool.epochs(str(controller_id)).get(epoch, 0)
    async with services.database.snapshot() as session:
        told = list(await session.scalars(sa.select(SpoolState.epochs)))
    elsewhere = sum(int(state.get(str(controller_id), {}).get(str(epoch), 0)) for state in told)
    return max(here, elsewhere)


def _audit(
    session: AsyncSession, action: str, controller_id: uuid.UUID, actor: str, now: datetime, *, epoch: int
) -> None:
    event = AuditEvent(
        action=action,
        actor=actor,
        object_type="controller",
        object_id=str(controller_id),
        controller_id=controller_id,
        details={"epoch": epoch},
    )
    record(session, event, now=now)
