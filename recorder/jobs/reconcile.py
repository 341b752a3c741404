"""Catalogue and object store, compared both ways.

A process that dies between storing an object and committing its row leaves an orphan: bytes that nobody was
promised. A row whose object is missing is the opposite and far worse: it becomes a finding for a person
(`recorder.jobs.findings`), as does an object of another size, and any foreign version under its key.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import Recording, RequestPackage, StoredObjectRow, UploadPiece
from recorder.jobs.findings import Seen, close_gone, report
from recorder.services import Services
from storage.errors import ObjectLocked, ObjectMissing
from storage.objects import Upload, Version

log = logging.getLogger("recorder.reconcile")

PREFIX: Final = "o/"
GRACE: Final = timedelta(days=1)
"""Younger objects and uploads may belong to a push that is still under way."""
ACTOR: Final = "system:reconciler"
_PAGE: Final = 400


@dataclass(slots=True)
class Findings:
    """What the comparison found.

    Attributes:
        orphans: keys of objects without a row, deleted now.
        uploads: keys of abandoned uploads, aborted now.
        missing: ids of objects whose row says that they live and that the store does not have.
        resized: ids of objects that have another size in the store.
        locked: keys of orphans that the store would not delete.
        extra: keys of our objects under which other versions or delete markers lie.
    """

    orphans: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    missing: list[uuid.UUID] = field(default_factory=list)
    resized: list[uuid.UUID] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def alarming(self) -> bool:
        """Whether a person has to look."""
        return bool(self.missing or self.resized or self.locked or self.extra)


async def reconcile(services: Services, now: datetime, *, grace: timedelta = GRACE) -> Findings:
    """Compare once: delete orphans and abandoned uploads older than ``grace``, report what is missing.

    Raises:
        storage.errors.StoreUnavailable, recorder.errors.Unavailable: a dependency is away; nothing is lost.
    """
    findings = Findings()
    began = services.clock.now()
    await _orphans(services, now - grace, findings)
    await _uploads(services, now - grace, findings)
    await _missing(services, now - grace, findings)
    await _report(services, findings, now)
    await report(services, findings.seen, began)
    await close_gone(services, ("missing", "resized", "extra_version", "locked"), began, now)
    return findings


async def _orphans(services: Services, before: datetime, findings: Findings) -> None:
    page: dict[str, list[Version]] = {}
    # Versions rather than objects: what lies below a delete marker takes space and can be read, too.
    async for version in services.store.versions(PREFIX):
        if version.modified >= before:
            continue
        if len(page) == _PAGE and version.key not in page:
            await _judge(services, page, findings)
            page = {}
        page.setdefault(version.key, []).append(version)
    await _judge(services, page, findings)


async def _judge(services: Services, page: Mapping[str, Sequence[Version]], findings: Findings) -> None:
    """Delete what nobody was promised; keep for a person what lies beside an object of ours."""
    if not page:
        return
    async with services.database.snapshot() as session:
        query = sa.select(StoredObjectRow).where(
            StoredObjectRow.key.in_(page), StoredObjectRow.deleted_at.is_(None)
        )
        known = {row.key: row for row in await session.scalars(query)}
        packages = sa.select(RequestPackage.key).where(
            RequestPackage.key.in_(page), RequestPackage.deleted_at.is_(None)
        )
        others = set(await session.scalars(packages))
        # Pieces of unfinished uploads; those whose keys are gone are deleted by their own chore.
        others |= set(await session.scalars(sa.select(UploadPiece.key).where(UploadPiece.key.in_(page))))
    for key, versions in page.items():
        if (row := known.get(key)) is not None:
            _compare(row, versions, findings)
        elif key not in others:
            try:
                await services.vault.destroy(key)
                findings.orphans.append(key)
            except ObjectLocked:
                findings.locked.append(key)
                findings.seen.append(Seen("locked", key))


def _compare(row: StoredObjectRow, versions: Sequence[Version], findings: Findings) -> None:
    foreign = [v for v in versions if v.version_id != row.version_id]
    if not foreign or row.wrapped_key is None:
        return  # an erasure that is under way deletes them all
    findings.extra.append(row.key)
    detail = {
        "versions": [v.version_id for v in foreign][:20],
        "markers": sum(v.is_delete_marker for v in foreign),
    }
    findings.seen.append(Seen("extra_version", row.key, row, detail))


async def _uploads(services: Services, before: datetime, findings: Findings) -> None:
    abandoned: list[Upload] = [u async for u in services.store.uploads(PREFIX) if u.started < before]
    for upload in abandoned:
        await services.store.abort_upload(upload)
        findings.uploads.append(upload.key)


async def _missing(services: Services, before: datetime, findings: Findings) -> None:
    after = uuid.UUID(int=0)
    while True:
        async with services.database.snapshot() as session:
            query = (
                sa.select(StoredObjectRow)
                .join(Recording, Recording.id == StoredObjectRow.recording_id)
                .where(
                    StoredObjectRow.id > after,
                    StoredObjectRow.deleted_at.is_(None),
                    StoredObjectRow.wrapped_key.is_not(None),
                    StoredObjectRow.created_at < before,
                    Recording.state.not_in([RecordingState.ERASING, RecordingState.ERASED]),
                )
                .order_by(StoredObjectRow.id)
                .limit(_PAGE)
            )
            rows = list(await session.scalars(query))
        if not rows:
            return
        for row in rows:
            try:
                stat = await services.store.stat(row.key, row.version_id)
            except ObjectMissing:
                if await _still_lives(services, row.id):
                    findings.missing.append(row.id)
                    findings.seen.append(Seen("missing", row.key, row, {"role": str(row.role)}))
                continue
            if stat.size != row.sealed_size:
                findings.resized.append(row.id)
                sizes = {"role": str(row.role), "wanted": row.sealed_size, "found": stat.size}
                findings.seen.append(Seen("resized", row.key, row, sizes))
        after = rows[-1].id


async def _still_lives(services: Services, object_id: uuid.UUID) -> bool:
    """Whether a missing object was not simply erased between the two looks."""
    async with services.database.snapshot() as session:
        row = await session.get(StoredObjectRow, object_id)
        return row is not None and row.wrapped_key is not None


async def _report(services: Services, findings: Findings, now: datetime) -> None:
    async with services.database.transaction() as session:
        for key in findings.orphans:
            _audit(session, "object.orphan_deleted", key, "ok", now)
        for key in findings.uploads:
            _audit(session, "upload.aborted", key, "ok", now)
        for key in findings.locked:
            _audit(session, "object.orphan_locked", key, "failed", now)
        for object_id in findings.missing:
            _audit(session, "object.missing", str(object_id), "failed", now)
        for object_id in findings.resized:
            _audit(session, "object.resized", str(object_id), "failed", now)
    if findings.alarming:
        log.error(
            "the store does not hold what the catalogue says",
            extra={
                "missing": len(findings.missing),
                "resized": len(findings.resized),
                "locked": len(findings.locked),
                "extra": len(findings.extra),
            },
        )


def _audit(session: AsyncSession, action: str, name: str, outcome: str, now: datetime) -> None:
    event = AuditEvent(action=action, actor=ACTOR, object_type="object", object_id=name[:64], outcome=outcome)
    record(session, event, now=now)
