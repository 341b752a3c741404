"""Packages of copies: ordered, built in the background, sealed, handed out for a while, gone.

A package is streamed into the vault as it is made: a member at a time, a piece at a time, nothing of it ever
unsealed on a disk. It becomes visible in a transaction that looks at its recordings under lock, so that no
package outlives an erasure that began while it was made.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.policy import Action, require
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import JobState, PackageState, RecordingState, RequestStage
from recorder.catalogue.subjects import subject_ref
from recorder.catalogue.tables import (
    Controller,
    Customer,
    Job,
    PackageRecording,
    Recording,
    RequestItem,
    RequestPackage,
    RightsRequest,
    Subject,
)
from recorder.disposition.facts import CHUNK
from recorder.errors import Conflict, Erased, NotFound, RecorderError
from recorder.jobs.queue import enqueue
from recorder.playback.ffmpeg import MediaError
from recorder.rights import contents, copies, index_page, register, vcon
from recorder.rights.archive import Member, zipped
from recorder.rights.copies import Copy
from recorder.rights.index_page import CallEntry
from recorder.services import Services
from retention.model import Purpose, RequestKind
from storage.keys import wrap_data_key
from storage.vault import StoredObject, WrittenObject

__all__ = ["LIFE", "PACKAGE_JOB", "Download", "build", "open_download", "order"]

PACKAGE_JOB: Final = "rights_package"
LIFE: Final = timedelta(days=14)
"""For how long a finished package can be fetched."""
ROLE: Final = "package"
ACTOR: Final = "system:rights"
PURPOSE: Final = Purpose.SERVICE_EVIDENCE
"""What copies are handed out for: the purpose under which privacy answers a request."""
_ATTEMPTS: Final = 5
_GRANTED: Final = (RequestStage.GRANTED, RequestStage.PARTLY_GRANTED)
_COPIES: Final = (RequestKind.ACCESS, RequestKind.PORTABILITY)


class Changed(RecorderError):
    """A recording left while its copy was made; the next try goes without it."""


@dataclass(frozen=True, slots=True)
class Download:
    """A package that may be streamed to the caller now."""

    obj: StoredObject
    file_name: str


@dataclass(slots=True)
class _Build:
    """One try at building a package."""

    services: Services
    package_id: uuid.UUID
    row: RightsRequest
    controller: Controller
    ids: list[uuid.UUID]
    degraded: set[uuid.UUID]
    now: datetime
    calls: list[CallEntry] = field(default_factory=list)
    reading: uuid.UUID | None = None


async def order(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> RequestPackage:
    """Have the package of a granted request made, unless one is under way or can be fetched.

    Raises:
        NotFound: no such request.
        Forbidden: the caller may not export calls to answer it, or the identity was not made sure.
        Conflict: it is no request for copies, or was not granted.
    """
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        require(principal, Action.EXPORT_AUDIO, controller_id=row.controller_id, purpose=PURPOSE)
        if row.kind not in _COPIES or row.stage not in _GRANTED:
            raise Conflict("copies are made for granted access and portability requests", kind="no-copies")
        register.require_identity(row)
        newest = await newest_package(session, rights_id)
        if newest is not None and (is_ready(newest, now) or await _under_way(session, newest)):
            return newest
        package = RequestPackage(
            id=uuid.uuid4(),
            request_id=rights_id,
            state=PackageState.QUEUED,
            done=0,
            total=0,
            requested_by=principal.actor,
            created_at=now,
        )
        session.add(package)
        enqueue(session, PACKAGE_JOB, package.id, now=now)
        register.audit(
            session, row, "package.ordered", principal.actor, now, request_id, package=str(package.id)
        )
        return package


async def _under_way(session: AsyncSession, package: RequestPackage) -> bool:
    """Whether somebody is still going to make it; one whose job failed for good is noted as failed."""
    if package.state not in {PackageState.QUEUED, PackageState.BUILDING}:
        return False
    job = sa.select(Job.id).where(
        Job.kind == PACKAGE_JOB,
        Job.target_id == package.id,
        Job.state.in_([JobState.QUEUED, JobState.RUNNING]),
    )
    if await session.scalar(job.limit(1)) is not None:
        return True
    package.state, package.error = PackageState.FAILED, "gave_up"
    return False


async def newest_package(session: AsyncSession, rights_id: uuid.UUID) -> RequestPackage | None:
    """The newest package of a request."""
    query = sa.select(RequestPackage).where(RequestPackage.request_id == rights_id)
    return await session.scalar(query.order_by(RequestPackage.created_at.desc(), RequestPackage.id).limit(1))


def is_ready(package: RequestPackage, now: datetime) -> bool:
    """Whether a package can be fetched."""
    live = package.state is PackageState.READY and package.wrapped_key is not None
    return live and package.expires_at is not None and now < package.expires_at


# -- building --------------------------------------------------------------------------------------


async def build(services: Services, package_id: uuid.UUID) -> None:
    """Make a package; a handler of background work, safe to repeat.

    Audio that cannot be decoded is handed out as it was received, or, where a voice had to be silenced, left
    out and said so; a recording that is erased meanwhile is left out.

    Raises:
        Changed: recordings left on every try.
        storage.errors.StorageError, Unavailable: a dependency is away; trying again later may help.
    """
    degraded: set[uuid.UUID] = set()
    left = _ATTEMPTS
    while left > 0:
        job = await _begin(services, package_id, degraded)
        if job is None:
            return
        try:
            async with contextlib.aclosing(zipped(_members(job))) as pieces:
                written = await services.vault.write(pieces, role=ROLE)
        except MediaError:
            if job.reading is None or job.reading in degraded:
                raise
            degraded.add(job.reading)  # each recording is degraded once, so this ends
            continue
        if await _settle(job, written):
            return
        left -= 1
    raise Changed("recordings of the package were erased while it was made")


async def fail(services: Services, package_id: uuid.UUID, error: str) -> None:
    """Note that a package will not be made."""
    async with services.database.transaction() as session:
        package = await session.get(RequestPackage, package_id, with_for_update=True)
        if package is not None and package.state in {PackageState.QUEUED, PackageState.BUILDING}:
            package.state, package.error = PackageState.FAILED, error[:80]


async def _begin(services: Services, package_id: uuid.UUID, degraded: set[uuid.UUID]) -> _Build | None:
    async with services.database.transaction() as session:
        package = await session.get(RequestPackage, package_id, with_for_update=True)
        if package is None or package.state not in {PackageState.QUEUED, PackageState.BUILDING}:
            return None
        row = await session.get_one(RightsRequest, package.request_id)
        customer = None if row.customer_id is None else await session.get(Customer, row.customer_id)
        if row.stage not in _GRANTED or customer is None or customer.erased_at is not None:
            package.state, package.error = PackageState.FAILED, "nothing_to_copy"
            return None
        granted = (
            sa.select(RequestItem.recording_id)
            .join(Recording, Recording.id == RequestItem.recording_id)
            .where(
                RequestItem.request_id == row.id,
                RequestItem.outcome == "granted",
                Recording.state.in_([RecordingState.STORED, RecordingState.QUARANTINED]),
            )
            .order_by(Recording.started_at, Recording.id)
        )
        ids = list(await session.scalars(granted))
        package.state, package.done, package.total = PackageState.BUILDING, 0, len(ids)
        controller = await session.get_one(Controller, row.controller_id)
    return _Build(services, package_id, row, controller, ids, degraded, services.clock.now())


async def _members(job: _Build) -> AsyncGenerator[Member]:
    """The files of the archive, one after the other; each is read to its end before the next."""
    async with job.services.database.snapshot() as session:
        document = await contents.person_document(session, job.services, job.row, job.ids, job.now)
    document["calls"] = [str(recording_id) for recording_id in job.ids]
    yield Member("data.json", job.now, _json(document))
    for number, recording_id in enumerate(job.ids, start=1):
        async with contextlib.aclosing(_call(job, number, recording_id)) as members:
            async for member in members:
                yield member
        job.reading = None
        async with job.services.database.transaction() as session:
            await session.execute(
                sa.update(RequestPackage).where(RequestPackage.id == job.package_id).values(done=number)
            )
    page = index_page.render(document, job.calls, language=job.row.language, zone=job.controller.time_zone)
    yield Member("index.html", job.now, page)


async def _call(job: _Build, number: int, recording_id: uuid.UUID) -> AsyncGenerator[Member]:
    services, folder = job.services, f"calls/{number:04}"
    # Portability takes along what the person provided: their own voice, and nobody else's.
    mute = job.row.mute_agent or job.row.kind is RequestKind.PORTABILITY
    async with services.database.snapshot() as session:
        recording = await session.get_one(Recording, recording_id)
        call = await contents.call_document(session, services, job.row, recording, job.now)
        copy = await copies.plan(session, recording, mute_agent=mute, degraded=recording_id in job.degraded)
    audio = None if copy.source is None else f"{folder}/recording.{copy.suffix}"
    note = copy.withheld or ("muted" if copy.silent else None)
    call["copy"] = {"file": audio, "content_type": copy.content_type or None, "note": note}
    yield Member(f"{folder}/call.json", job.now, _json(call))
    job.reading = recording_id
    document = _vcon(job, recording, copy)
    if audio is None:
        yield Member(f"{folder}/call.vcon.json", job.now, vcon.stream(document, None))
    else:
        async with copies.opened(services, copy) as pieces:
            yield Member(audio, job.now, pieces)
        async with copies.opened(services, copy) as pieces:
            yield Member(f"{folder}/call.vcon.json", job.now, vcon.stream(document, pieces))
    job.calls.append(CallEntry(call, audio, f"{folder}/call.vcon.json", note))


def _vcon(job: _Build, recording: Recording, copy: Copy) -> dict[str, Any]:
    """The call as a vCon: the customer, and the controller in the place of its staff."""
    named = [str(entry.get("party") or "") for entry in recording.channels]
    whose = tuple(0 if name == "customer" else 1 for name in named) or (0, 1)
    dialog = None
    if copy.source is not None:
        dialog = vcon.Dialog(
            start=recording.started_at,
            duration=None if recording.duration_ms is None else recording.duration_ms / 1000,
            parties=tuple(None if n in copy.silent else who for n, who in enumerate(whose)),
            mediatype=copy.content_type,
            filename=f"recording.{copy.suffix}",
        )
    basis: dict[str, Any] = {"lawful_basis": recording.lawful_basis.value, "purpose_grants": []}
    attachment = {
        "purpose": "lawful_basis",
        "start": recording.started_at.isoformat(),
        "party": 0,
        "encoding": "json",
        "body": json.dumps(basis),
    }
    if dialog is not None:
        attachment["dialog"] = 0
    parties: list[Any] = [{"role": "customer"}, {"org": job.controller.name, "role": "agent"}]
    return vcon.document(recording.id, job.now, parties, dialog, [attachment])


async def _json(document: dict[str, Any]) -> AsyncIterator[bytes]:
    yield json.dumps(document, ensure_ascii=False, indent=2, sort_keys=True).encode()


async def _settle(job: _Build, written: WrittenObject) -> bool:
    """Make the finished package visible, or destroy it where what it copies has left.

    Returns:
        Whether there is nothing more to do.
    """
    services, settled, done = job.services, False, True
    async with services.database.transaction() as session:
        row = await register.lock_request(session, job.row.id)
        package = await session.get_one(
            RequestPackage, job.package_id, with_for_update=True, populate_existing=True
        )
        if package.state is PackageState.BUILDING and row.stage in _GRANTED:
            done = await _all_there(session, row, job.ids)
            if done:
                await _seal(session, services, row, package, written)
                for recording_id in job.ids:
                    session.add(PackageRecording(package_id=package.id, recording_id=recording_id))
                register.audit(
                    session,
                    row,
                    "package.built",
                    ACTOR,
                    services.clock.now(),
                    None,
                    package=str(package.id),
                    recordings=len(job.ids),
                    muted=sum(1 for call in job.calls if call.note == "muted"),
                    withheld=sum(1 for call in job.calls if call.audio is None),
                )
                settled = True
    # After an error the commit is in doubt: the object stays for the reconciler to judge.
    if not settled:
        await services.vault.destroy(written.key)
    return done


async def _all_there(session: AsyncSession, row: RightsRequest, ids: Sequence[uuid.UUID]) -> bool:
    """Whether the customer and every recording live, locked against an erasure that begins now."""
    customer = await session.get_one(
        Customer, row.customer_id, with_for_update={"key_share": True}, populate_existing=True
    )
    living = 0
    for start in range(0, len(ids), CHUNK):
        query = (
            sa.select(Recording.id)
            .where(
                Recording.id.in_(sorted(ids)[start : start + CHUNK]),
                Recording.state.in_([RecordingState.STORED, RecordingState.QUARANTINED]),
            )
            .order_by(Recording.id)
            .with_for_update(key_share=True)
        )
        living += len(list(await session.scalars(query)))
    return customer.erased_at is None and living == len(ids)


async def _seal(
    session: AsyncSession,
    services: Services,
    row: RightsRequest,
    package: RequestPackage,
    written: WrittenObject,
) -> None:
    subject = await session.get_one(Subject, row.subject_id, with_for_update=True, populate_existing=True)
    now = services.clock.now()
    package.wrapped_key = wrap_data_key(
        services.keyring,
        subject_ref(subject),
        written.data_key,
        object_id=written.object_id,
        size=written.size,
        sha256=written.sha256,
    )
    package.object_id, package.key, package.version_id = written.object_id, written.key, written.version_id
    package.size, package.sealed_size = written.size, written.sealed_size
    package.sha256, package.header = written.sha256, written.header
    package.state, package.built_at, package.expires_at = PackageState.READY, now, now + LIFE


# -- handing out -----------------------------------------------------------------------------------


async def status(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> RequestPackage:
    """The newest package of a request.

    Raises:
        NotFound: no such request, or nothing was ordered for it.
        Forbidden: the caller does not handle requests there.
    """
    async with register.changing(services, principal, rights_id, request_id, lock=False) as (session, row, _):
        package = await newest_package(session, row.id)
        if package is None:
            raise NotFound("no copies were ordered for this request")
        return package


async def open_download(
    services: Services, principal: Principal, rights_id: uuid.UUID, *, request_id: str
) -> Download:
    """Write down that the package is handed out, then let it be streamed.

    Raises:
        NotFound: no such request, or nothing was ordered for it.
        Forbidden: the caller may not export calls to answer it.
        Conflict: it is not finished.
        Erased: it has expired, or something that it held copies of was erased.
    """
    async with register.changing(services, principal, rights_id, request_id) as (session, row, now):
        require(principal, Action.EXPORT_AUDIO, controller_id=row.controller_id, purpose=PURPOSE)
        package = await newest_package(session, rights_id)
        if package is None:
            raise NotFound("no copies were ordered for this request")
        if package.state in {PackageState.QUEUED, PackageState.BUILDING, PackageState.FAILED}:
            raise Conflict("the package is not finished", kind="package-not-ready")
        if not is_ready(package, now):
            raise Erased("the package has expired; order another one")
        subject = await session.get_one(Subject, row.subject_id, populate_existing=True)
        stored = _stored(package, subject)
        _audit_download(session, row, package, principal, now, request_id)
        held = sa.select(PackageRecording.recording_id).where(PackageRecording.package_id == package.id)
        for recording_id in await session.scalars(held):
            event = AuditEvent(
                action="recording.copied",
                actor=principal.actor,
                object_type="recording",
                object_id=str(recording_id),
                controller_id=row.controller_id,
                purpose=PURPOSE.value,
                request_id=request_id,
                details={"request": str(row.id), "package": str(package.id)},
            )
            record(session, event, now=now)
        row.completed_at = row.completed_at or now
    return Download(stored, f"{row.kind.value}-{row.id}.zip")


def _stored(package: RequestPackage, subject: Subject) -> StoredObject:
    parts = (package.object_id, package.key, package.size, package.sha256, package.wrapped_key)
    object_id, key, size, sha256, wrapped = parts
    if object_id is None or key is None or size is None or sha256 is None or wrapped is None:
        raise Erased("the package is gone")
    return StoredObject(
        object_id=object_id,
        role=ROLE,
        key=key,
        version_id=package.version_id,
        size=size,
        sha256=sha256,
        wrapped_key=wrapped,
        subject=subject_ref(subject),
        header=package.header,
    )


def _audit_download(
    session: AsyncSession,
    row: RightsRequest,
    package: RequestPackage,
    principal: Principal,
    now: datetime,
    request_id: str,
) -> None:
    register.audit(
        session,
        row,
        "package.downloaded",
        principal.actor,
        now,
        request_id,
        package=str(package.id),
        bytes=package.size,
    )
