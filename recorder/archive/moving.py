"""From one object store to another: sealed bytes as they are, each object read back before it counts.

Objects keep keys and seals, so nothing is opened on the way. What the catalogue knows is then opened in the
new store from the first to the last byte, everything else (the log's copies, the ledger of erasures) compared
with the old one. Copying may run beside the service, and as often as wanted; switching over copies the rest,
takes away what was erased meanwhile, and puts the new store's versions into the catalogue in one transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.tables import (
    MovedObject,
    RequestPackage,
    StoredObjectRow,
    Subject,
    UploadPiece,
)
from recorder.errors import Conflict, Erased
from recorder.playback.objects import stored_object
from recorder.services import Services
from storage.errors import KeyDestroyed, ObjectMissing, StorageError, TamperedObject
from storage.objects import ObjectStore, Stat
from storage.vault import StoredObject, Vault

_VERSIONED: Final = (StoredObjectRow, RequestPackage, UploadPiece)
_PAGE: Final = 500


@dataclass(slots=True)
class Moved:
    """What a run came to.

    Attributes:
        copied: objects copied and read back now.
        known: objects that an earlier run had copied.
        removed: copies of what was erased meanwhile, taken out of the new store.
        damaged: keys of objects that open neither here nor there: a faithful copy, and the scrub's matter.
        failed: keys of objects whose copy was not what it should be; it was removed again.
    """

    copied: int = 0
    known: int = 0
    bytes: int = 0
    removed: int = 0
    damaged: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def name_of(address: str) -> str:
    """Under which name the catalogue knows a store."""
    return hashlib.sha256(address.rstrip("/").encode()).hexdigest()


async def copy(
    services: Services,
    target: ObjectStore,
    name: str,
    *,
    progress: Callable[[Moved], None] | None = None,
) -> Moved:
    """Copy what the new store does not have yet.

    Raises:
        Conflict: the new store holds objects that are not of this installation's move.
        storage.errors.StorageError: one of the stores is away; what was copied stays copied.
    """
    await target.check()
    done = Moved()
    await _refuse_foreign(services, target, name)
    vault = Vault(target, services.keyring)
    async for page in _pages(services.store.list()):
        async with services.database.snapshot() as session:
            known = set(
                await session.scalars(
                    sa.select(MovedObject.key).where(
                        MovedObject.target == name, MovedObject.key.in_([stat.key for stat in page])
                    )
                )
            )
        for stat in page:
            if stat.key in known:
                done.known += 1
            else:
                await _one(services, target, vault, name, stat, done)
            if progress is not None:
                progress(done)
    return done


async def switch(
    services: Services,
    principal: Principal,
    target: ObjectStore,
    name: str,
    *,
    progress: Callable[[Moved], None] | None = None,
) -> Moved:
    """Finish the copy and let the catalogue point into the new store. Nothing else may write meanwhile.

    Raises:
        Conflict: an object is not in the new store, or not as it should be; nothing was changed.
        storage.errors.StorageError: one of the stores is away; nothing was changed.
    """
    done = await copy(services, target, name, progress=progress)
    if done.failed:
        raise Conflict(f"{len(done.failed)} copies are not what they should be; run it again")
    done.removed = await _remove_erased(services, target, name)
    async with services.database.transaction() as session:
        missing = await session.scalar(
            sa.select(sa.func.count())
            .select_from(StoredObjectRow)
            .where(
                StoredObjectRow.deleted_at.is_(None),
                StoredObjectRow.wrapped_key.is_not(None),
                ~sa.exists().where(MovedObject.target == name, MovedObject.key == StoredObjectRow.key),
            )
        )
        if missing:
            raise Conflict(
                f"{missing} objects are not in the new store: stop everything that writes, look at"
                " `recorder doctor` and the findings, and run it again"
            )
        for table in _VERSIONED:
            version = sa.select(MovedObject.version_id).where(
                MovedObject.target == name, MovedObject.key == table.key
            )
            there = sa.exists().where(MovedObject.target == name, MovedObject.key == table.key)
            await session.execute(sa.update(table).where(there).values(version_id=version.scalar_subquery()))
        # The new store holds nothing yet: the worker sets the holds again where the catalogue wants them.
        await session.execute(sa.update(StoredObjectRow).values(held_in_store=False))
        event = AuditEvent(
            action="store.switched",
            actor=principal.actor,
            object_type="store",
            object_id=name,
            details={"copied": done.copied + done.known, "removed": done.removed},
        )
        record(session, event, now=services.clock.now())
        await session.execute(sa.delete(MovedObject).where(MovedObject.target == name))
    return done


async def _one(
    services: Services, target: ObjectStore, vault: Vault, name: str, stat: Stat, done: Moved
) -> None:
    digest = hashlib.sha256()

    async def sealed() -> AsyncIterator[bytes]:
        async with services.store.get(stat.key) as body:
            async for chunk in body:
                digest.update(chunk)
                yield chunk

    try:
        put = await target.put(stat.key, sealed(), size=stat.size)
    except ObjectMissing:
        return  # erased since it was listed
    if not await _same(services, target, vault, stat, put.version_id, digest.digest(), done):
        await target.delete_all(stat.key)
        done.failed.append(stat.key)
        return
    holds = (await services.store.capabilities()).legal_hold and (await target.capabilities()).legal_hold
    if holds and await services.store.legal_hold(stat.key, stat.version_id):
        await target.set_legal_hold(stat.key, put.version_id, True)
    async with services.database.transaction() as session:
        session.add(
            MovedObject(
                target=name,
                key=stat.key,
                version_id=put.version_id,
                size=stat.size,
                verified_at=services.clock.now(),
            )
        )
    done.copied += 1
    done.bytes += stat.size


async def _same(
    services: Services,
    target: ObjectStore,
    vault: Vault,
    stat: Stat,
    version_id: str | None,
    digest: bytes,
    done: Moved,
) -> bool:
    """Whether what lies in the new store is what lay in the old one, and opens."""
    async with services.database.snapshot() as session:
        sealed = await _known(session, stat.key)
    if sealed is not None:
        try:
            await vault.verify(replace(sealed, version_id=version_id, header=None))
        except KeyDestroyed:
            pass  # erased meanwhile; the switch takes its copy away
        except (TamperedObject, StorageError):
            done.damaged.append(stat.key)
        else:
            return True
    again = hashlib.sha256()
    async with target.get(stat.key, version_id=version_id) as body:
        async for chunk in body:
            again.update(chunk)
    faithful = again.digest() == digest
    if not faithful and stat.key in done.damaged:
        done.damaged.remove(stat.key)
    return faithful


async def _known(session: AsyncSession, key: str) -> StoredObject | None:
    row = (
        await session.execute(
            sa.select(StoredObjectRow, Subject)
            .join(Subject, Subject.id == StoredObjectRow.subject_id)
            .where(StoredObjectRow.key == key, StoredObjectRow.deleted_at.is_(None))
        )
    ).one_or_none()
    if row is None:
        return None
    try:
        return stored_object(row[0], row[1])
    except Erased:
        return None


async def _refuse_foreign(services: Services, target: ObjectStore, name: str) -> None:
    """A move into a bucket that something else uses would mix what cannot be told apart later."""
    async for page in _pages(target.list()):
        async with services.database.snapshot() as session:
            ours = set(
                await session.scalars(
                    sa.select(MovedObject.key).where(
                        MovedObject.target == name, MovedObject.key.in_([stat.key for stat in page])
                    )
                )
            )
        for stat in page:
            if stat.key in ours:
                continue
            try:
                # A run that died between the copy and its row left one of ours.
                await services.store.stat(stat.key)
            except ObjectMissing:
                raise Conflict("the new store holds objects of somebody else: give an empty one") from None


async def _remove_erased(services: Services, target: ObjectStore, name: str) -> int:
    """What was erased while it was being copied must not live on in the new store."""
    here = {stat.key async for stat in services.store.list()}
    removed = 0
    async for page in _pages(target.list()):
        for stat in page:
            if stat.key not in here:
                await target.delete_all(stat.key)
                async with services.database.transaction() as session:
                    await session.execute(
                        sa.delete(MovedObject).where(MovedObject.target == name, MovedObject.key == stat.key)
                    )
                removed += 1
    return removed


async def _pages(stats: AsyncIterator[Stat]) -> AsyncIterator[list[Stat]]:
    page: list[Stat] = []
    async for stat in stats:
        page.append(stat)
        if len(page) == _PAGE:
            yield page
            page = []
    if page:
        yield page
