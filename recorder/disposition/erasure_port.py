"""The steps of erasure on the catalogue and the object store; see ``retention.ports.ErasurePort``.

Each step changes rows, records its name and writes its audit entry in one transaction; a step that was
recorded does nothing when it is called again. The store is asked between transactions, never within one.
"""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder import errors
from recorder.audit.events import AuditEvent, Detail, record
from recorder.catalogue.enums import ErasureGround, RecordingState
from recorder.catalogue.tables import Certificate, Erasure, ErasureItem, Recording, StoredObjectRow, Tombstone
from recorder.disposition import erasure_rows as rows
from recorder.disposition import ledger
from recorder.disposition.certificates import CERTIFICATE_TYPE, certificate_document, sign, text
from recorder.disposition.facts import load_cases
from recorder.ingest.pending_erasure import forget_pending
from recorder.ingest.resumable import ending as uploads
from recorder.ingest.spool_erasure import doom_spooled
from recorder.rights import shredding
from recorder.services import Services
from retention.erasure import ORDER, Step
from retention.errors import Unavailable, UnknownErasure
from retention.ports import ErasureState, Judge
from storage.errors import KeyDestroyed, Misuse, ObjectLocked, StorageError
from storage.objects import Upload, Version
from storage.spool import SpoolItem

ACTOR: Final = "system:erasure"
_ABREAST: Final = 8
_POSITION: Final = {str(step): position for position, step in enumerate(ORDER)}
_T = TypeVar("_T")


class Blocked(Unavailable):
    """Something stands in the way that a person has to look at; the erasure stays open and overdue."""


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """A dependency that is away or refuses leaves this erasure to a later run; see the ports' contract."""
    try:
        yield
    except Misuse:
        raise
    except (errors.Unavailable, StorageError) as error:
        kind = Blocked if isinstance(error, ObjectLocked | KeyDestroyed) else Unavailable
        raise kind(str(error)) from error


class SqlErasurePort:
    """``retention.ports.ErasurePort`` on one service's database, keyring and store."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @_translated()
    async def state(self, erasure_id: str) -> ErasureState:
        """See ``ErasurePort``."""
        async with self._services.database.snapshot() as session:
            erasure = await self._find(session, erasure_id)
            return ErasureState(
                str(erasure.ground), erasure.scope, erasure.step, int(erasure.detail.get("to_erase", 0))
            )

    @_translated()
    async def begin(self, erasure_id: str, judge: Judge, now: datetime) -> int:
        """See ``ErasurePort``; a recording that others hang on as well waits for a person."""
        doomed: list[SpoolItem] = []
        async with self._step(erasure_id) as (session, erasure):
            if erasure.step is not None:
                return int(erasure.detail["to_erase"])
            targets = await rows.lock_targets(session, erasure)
            if erasure.scope == "original" and (keep := await rows.derivative(session, erasure)) is not None:
                erasure.detail = {**erasure.detail, "keep": str(keep)}
            outcomes = await self._judge(session, erasure, targets, judge, now)
            for recording in targets:
                outcome, code, until = outcomes[recording.id]
                session.add(
                    ErasureItem(
                        erasure_id=erasure.id,
                        recording_id=recording.id,
                        outcome=outcome,
                        detail={"code": code, "until": "" if until is None else text(until)},
                    )
                )
            gone = [r for r in targets if outcomes[r.id][0] == "erased"]
            if erasure.scope != "original":
                for recording in gone:
                    recording.state = RecordingState.ERASING
                await rows.close_access(session, [r.id for r in gone], now)
                identities = {r.identity for r in gone}
                doomed = await doom_spooled(
                    session,
                    self._services,
                    erasure.controller_id,
                    customer_id=erasure.customer_id,
                    identities=identities,
                    now=now,
                )
                pending = await forget_pending(
                    session,
                    self._services,
                    erasure.controller_id,
                    customer_id=erasure.customer_id,
                    identities=identities,
                    now=now,
                )
                rows.note_copies(erasure, uploads=pending, spooled=len(doomed))
            if erasure.customer_id is not None:
                await rows.stop_matching(session, erasure.customer_id, now)
            erasure.detail = {**erasure.detail, "to_erase": len(gone)}
            self._done(
                session,
                erasure,
                Step.BEGIN,
                now,
                action="erasure.begun",
                erased=[str(r.id) for r in gone],
                kept=[str(r.id) for r in targets if outcomes[r.id][0] == "kept"],
            )
        if self._services.spool is not None:
            for item in doomed:
                await self._services.spool.remove(item)
        return len(gone)

    async def _judge(
        self,
        session: AsyncSession,
        erasure: Erasure,
        targets: list[Recording],
        judge: Judge,
        now: datetime,
    ) -> dict[uuid.UUID, tuple[str, str, datetime | None]]:
        ids = [recording.id for recording in targets]
        cases = await load_cases(session, ids, now)
        by_person = erasure.ground is ErasureGround.REQUEST and erasure.detail.get("shared") != "erase"
        shared = await rows.shared_with_others(session, ids) if by_person else set()
        outcomes: dict[uuid.UUID, tuple[str, str, datetime | None]] = {}
        for recording in targets:
            verdict = judge(cases[recording.id], str(erasure.ground))
            if verdict.erase and recording.id in shared:
                outcomes[recording.id] = ("kept", "shared", None)
            elif (
                verdict.erase and erasure.scope == "original" and not await rows.derivative(session, erasure)
            ):
                outcomes[recording.id] = ("kept", "no_derivative", None)
            else:
                outcomes[recording.id] = ("erased" if verdict.erase else "kept", verdict.code, verdict.until)
        for recording in targets:
            # Conflicting bytes of a recording that must stay stay beside it, until the same ground falls.
            first = None if recording.conflict_of is None else outcomes.get(recording.conflict_of)
            if first is not None and first[0] == "kept":
                outcomes[recording.id] = first
        return outcomes

    @_translated()
    async def abandon(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``."""
        async with self._step(erasure_id) as (session, erasure):
            if erasure.finished_at is None:
                erasure.finished_at = now
                codes = sorted({str(i.detail["code"]) for i in await rows.items(session, erasure)})
                self._done(session, erasure, Step.ABANDON, now, because=codes)

    @_translated()
    async def rewrap_kept(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``."""
        async with self._step(erasure_id) as (session, erasure):
            if not _past(erasure, Step.REWRAP_KEPT):
                moved = 0
                if erasure.customer_id is not None:
                    moved = await rows.move_kept(session, self._services, erasure, now)
                self._done(session, erasure, Step.REWRAP_KEPT, now, moved=moved)

    @_translated()
    async def destroy_keys(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``; the audit entry goes with the destruction, the step with the clean files."""
        async with self._step(erasure_id) as (session, erasure):
            if _past(erasure, Step.DESTROY_KEYS):
                return
            if "keys_destroyed" not in erasure.detail:
                await rows.destroy(session, self._services, erasure, now)
                erasure.detail = {**erasure.detail, "keys_destroyed": text(now)}
                _audit(session, erasure, "erasure.destroy_keys", now, subjects=_subjects(erasure))
        if not await self._services.database.flush_deleted():
            raise Unavailable("a reader holds the write-ahead log; old pages are not gone yet")
        async with self._step(erasure_id) as (_, erasure):
            if not _past(erasure, Step.DESTROY_KEYS):
                _advance(erasure, Step.DESTROY_KEYS, now)

    @_translated()
    async def delete_objects(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``; what is found is noted before it is deleted, for the certificate."""
        async with self._services.database.snapshot() as session:
            erasure = await self._find(session, erasure_id)
            if _past(erasure, Step.PROVE_ABSENCE):
                return
            in_scope = await rows.objects(session, erasure)
            lift = erasure.ground is ErasureGround.CARD_SECURITY
            packages = [uuid.UUID(found) for found in rows.copies_of(erasure)["packages"]]
        found = await self._each(in_scope, self._listed)
        await self._note_versions(erasure_id, in_scope, found)
        await self._each(in_scope, functools.partial(self._delete, lift=lift))
        await shredding.delete_dead(self._services, packages)
        await uploads.delete_dead(self._services)
        async with self._step(erasure_id) as (session, erasure):
            fresh = await rows.objects(session, erasure)
            done = {row.id for row in in_scope}
            for row in fresh:
                if row.id in done:
                    row.deleted_at = row.deleted_at or now
            if not _past(erasure, Step.DELETE_OBJECTS):
                self._done(session, erasure, Step.DELETE_OBJECTS, now, objects=len(done))

    @_translated()
    async def prove_absence(self, erasure_id: str, now: datetime) -> int:
        """See ``ErasurePort``."""
        async with self._services.database.snapshot() as session:
            erasure = await self._find(session, erasure_id)
            if _past(erasure, Step.PROVE_ABSENCE):
                return 0
            in_scope = await rows.objects(session, erasure)
            packages = [uuid.UUID(found) for found in rows.copies_of(erasure)["packages"]]
        found = await self._each(in_scope, self._listed)
        left = sum(len(versions) + len(uploads) for versions, uploads in found)
        left += await shredding.count_left(self._services, packages)
        if left == 0:
            async with self._step(erasure_id) as (session, erasure):
                if not _past(erasure, Step.PROVE_ABSENCE):
                    self._done(session, erasure, Step.PROVE_ABSENCE, now, objects=len(in_scope))
        return left

    @_translated()
    async def tombstone(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``."""
        async with self._services.database.snapshot() as session:
            erasure = await self._find(session, erasure_id)
            if _past(erasure, Step.TOMBSTONE):
                return
            gone = await self._gone(session, erasure)
            entries = [await _ledger_item(session, erasure, recording) for recording in gone]
        await ledger.append(self._services, erasure, entries, now)
        async with self._step(erasure_id) as (session, erasure):
            if _past(erasure, Step.TOMBSTONE):
                return
            for recording in await self._gone(session, erasure):
                if erasure.scope == "original":
                    continue
                if await session.get(Tombstone, (recording.source_id, recording.identity)) is None:
                    session.add(
                        Tombstone(
                            source_id=recording.source_id,
                            identity=recording.identity,
                            recording_id=recording.id,
                            certificate_id=None,
                            erased_at=now,
                        )
                    )
            self._done(session, erasure, Step.TOMBSTONE, now, recordings=len(entries))

    @_translated()
    async def certificate(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``."""
        async with self._step(erasure_id) as (session, erasure):
            if _past(erasure, Step.CERTIFICATE):
                return
            certificate_id = uuid.uuid4()
            document = certificate_document(
                certificate_id,
                erasure,
                await rows.items(session, erasure),
                copies=rows.copies_of(erasure),
                backup_window=timedelta(days=self._services.settings.backup_window_days),
                now=now,
            )
            session.add(
                Certificate(
                    id=certificate_id,
                    controller_id=erasure.controller_id,
                    erasure_id=erasure.id,
                    document=document,
                    signature=sign(self._services.keyring, document, kind=CERTIFICATE_TYPE),
                    issued_at=now,
                )
            )
            await session.flush()
            erasure.certificate_id = certificate_id
            gone = [item.recording_id for item in await rows.items(session, erasure, "erased")]
            for start in range(0, len(gone), 400):
                page = gone[start : start + 400]
                values = {"certificate_id": certificate_id}
                await session.execute(
                    sa.update(Tombstone).where(Tombstone.recording_id.in_(page)).values(**values)
                )
                await session.execute(sa.update(Recording).where(Recording.id.in_(page)).values(**values))
            self._done(session, erasure, Step.CERTIFICATE, now, certificate=str(certificate_id))

    @_translated()
    async def finish(self, erasure_id: str, now: datetime) -> None:
        """See ``ErasurePort``; an object that somebody stored meanwhile sends the erasure back once more."""
        async with self._step(erasure_id) as (session, erasure):
            if erasure.finished_at is not None:
                return
            late = [row for row in await rows.objects(session, erasure) if row.deleted_at is None]
            if late:
                detail = dict(erasure.detail)
                detail.pop("keys_destroyed", None)
                erasure.detail, erasure.step = detail, str(Step.REWRAP_KEPT)
                erasure.certificate_id = None
                _audit(session, erasure, "erasure.reopened", now, objects=len(late))
            else:
                await rows.close_recordings(session, self._services, erasure, now)
                erasure.finished_at = now
                self._done(session, erasure, Step.FINISH, now, action="erasure.finished")
        if late:
            raise Unavailable("an object was stored while its recording was being erased")

    @_translated()
    async def outcomes(self, erasure_id: str) -> Mapping[str, Mapping[str, str]]:
        """See ``ErasurePort``."""
        async with self._services.database.snapshot() as session:
            erasure = await self._find(session, erasure_id)
            return {
                str(item.recording_id): {
                    "outcome": item.outcome,
                    "code": str(item.detail.get("code", "")),
                    "until": str(item.detail.get("until", "")),
                }
                for item in await rows.items(session, erasure)
            }

    # -- the store -----------------------------------------------------------------------------

    async def _each(
        self, objects: list[StoredObjectRow], work: Callable[[StoredObjectRow], Awaitable[_T]]
    ) -> list[_T]:
        slots = asyncio.Semaphore(_ABREAST)

        async def one(row: StoredObjectRow) -> _T:
            async with slots:
                return await work(row)

        return list(await asyncio.gather(*(one(row) for row in objects)))

    async def _listed(self, row: StoredObjectRow) -> tuple[list[Version], list[Upload]]:
        """What the store still has of one object; a key that merely begins alike is not it."""
        store = self._services.store
        versions = [v async for v in store.versions(row.key) if v.key == row.key]
        uploads = [u async for u in store.uploads(row.key) if u.key == row.key]
        return versions, uploads

    async def _delete(self, row: StoredObjectRow, *, lift: bool) -> None:
        versions, uploads = await self._listed(row)
        for upload in uploads:
            await self._services.store.abort_upload(upload)
        if lift:
            for version in versions:
                if not version.is_delete_marker and await self._services.store.legal_hold(
                    row.key, version.version_id
                ):
                    await self._services.store.set_legal_hold(row.key, version.version_id, False)
        await self._services.vault.destroy(row.key)

    async def _note_versions(
        self,
        erasure_id: str,
        objects: list[StoredObjectRow],
        found: list[tuple[list[Version], list[Upload]]],
    ) -> None:
        seen = {
            str(row.id): [v.version_id or "null" for v in versions]
            for row, (versions, _) in zip(objects, found, strict=True)
        }
        by_recording: dict[uuid.UUID, list[StoredObjectRow]] = {}
        for row in objects:
            by_recording.setdefault(row.recording_id, []).append(row)
        async with self._step(erasure_id) as (session, erasure):
            for item in await rows.items(session, erasure, "erased"):
                before = {o["id"]: o for o in item.detail.get("objects", [])}
                for row in by_recording.get(item.recording_id, []):
                    known = before.setdefault(str(row.id), {"id": str(row.id), "role": str(row.role)})
                    versions = [*known.get("versions", []), *seen[str(row.id)]]
                    before[str(row.id)] = {
                        **known,
                        "key": row.key,
                        "versions": list(dict.fromkeys(versions)),
                    }
                item.detail = {**item.detail, "objects": list(before.values())}

    # -- rows ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _step(self, erasure_id: str) -> AsyncIterator[tuple[AsyncSession, Erasure]]:
        """A transaction that holds the erasure's row."""
        async with self._services.database.transaction() as session:
            yield session, await self._find(session, erasure_id, lock=True)

    async def _find(self, session: AsyncSession, erasure_id: str, *, lock: bool = False) -> Erasure:
        query = sa.select(Erasure).where(Erasure.id == uuid.UUID(erasure_id))
        found = (await session.scalars(query.with_for_update() if lock else query)).one_or_none()
        if found is None:
            raise UnknownErasure(erasure_id)
        return found

    async def _gone(self, session: AsyncSession, erasure: Erasure) -> list[Recording]:
        ids = [item.recording_id for item in await rows.items(session, erasure, "erased")]
        found: list[Recording] = []
        for start in range(0, len(ids), 400):
            query = sa.select(Recording).where(Recording.id.in_(ids[start : start + 400]))
            found += await session.scalars(query.order_by(Recording.id))
        return found

    def _done(
        self,
        session: AsyncSession,
        erasure: Erasure,
        step: Step,
        now: datetime,
        *,
        action: str | None = None,
        **details: Detail,
    ) -> None:
        _advance(erasure, step, now)
        _audit(session, erasure, action or f"erasure.{step}", now, **details)


def _advance(erasure: Erasure, step: Step, now: datetime) -> None:
    times = {**erasure.detail.get("times", {}), str(step): text(now)}
    erasure.detail = {**erasure.detail, "times": times}
    erasure.step = str(step)


def _past(erasure: Erasure, step: Step) -> bool:
    """Whether a step is recorded already (or the erasure was given up)."""
    if erasure.step is None:
        return False
    return _POSITION.get(erasure.step, len(ORDER)) >= _POSITION[str(step)]


def _subjects(erasure: Erasure) -> list[str]:
    return [str(key["subject"]) for key in erasure.detail.get("subject_keys", [])]


def _audit(session: AsyncSession, erasure: Erasure, action: str, now: datetime, **details: Detail) -> None:
    record(
        session,
        AuditEvent(
            action=action,
            actor=ACTOR,
            object_type="erasure",
            object_id=str(erasure.id),
            controller_id=erasure.controller_id,
            details={"ground": str(erasure.ground), "scope": erasure.scope, **details},
        ),
        now=now,
    )


async def _ledger_item(session: AsyncSession, erasure: Erasure, recording: Recording) -> dict[str, Any]:
    query = sa.select(StoredObjectRow.id, StoredObjectRow.key).where(
        StoredObjectRow.recording_id == recording.id
    )
    if erasure.scope == "original":
        query = query.where(StoredObjectRow.id != uuid.UUID(erasure.detail["keep"]))
    return {
        "id": str(recording.id),
        "source": str(recording.source_id),
        "identity": recording.identity.hex(),
        "objects": [{"id": str(o.id), "key": o.key} for o in await session.execute(query)],
    }
