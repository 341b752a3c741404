"""Beginning an upload: who may, of what, and how long it will be."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.principals import Principal
from recorder.catalogue.tables import ResumableUpload, Source, UploadKind, UploadState
from recorder.errors import Conflict, MalformedInput, TooLarge, TooMany
from recorder.ingest.admission import Admitted, admit
from recorder.ingest.digests import DigestCheck
from recorder.ingest.pipeline import lawful_basis
from recorder.ingest.resumable import rows
from recorder.ingest.resumable.active import Hold
from recorder.ingest.resumable.asking import Asked, ask
from recorder.ingest.resumable.protocol import Concat, metadata_pairs
from recorder.services import Services


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that may be created.

    Attributes:
        known: the one that a repeated request made before.
    """

    upload_id: uuid.UUID
    admitted: Admitted
    asked: Asked
    kind: UploadKind
    length: int | None
    parts: tuple[uuid.UUID, ...] | None = None
    known: ResumableUpload | None = None


@dataclass(frozen=True, slots=True)
class Creation:
    """A request for a new upload.

    Attributes:
        length: in bytes; None where it is deferred or follows from the parts.
        deferred: whether a later request brings the length.
        metadata: ``Upload-Metadata`` as sent.
        digests: of the whole recording.
    """

    length: int | None
    deferred: bool
    metadata: str | None
    concat: Concat | None
    digests: DigestCheck
    sent_at: datetime | None


async def check(services: Services, principal: Principal, creation: Creation, *, request_id: str) -> Begun:
    """Check a request for a new upload; nothing is written.

    Raises:
        Forbidden: the caller is no source.
        MalformedInput: the length or the metadata cannot be read.
        InvalidInput: the metadata does not tell what the recording is, or there is no lawful basis.
        Conflict: a part is not complete.
        TooLarge: it is longer than it may be.
        TooMany: the source has too many unfinished uploads.
        Erased: this call was erased.
    """
    final = creation.concat is not None and creation.concat.final
    if final == (creation.length is not None or creation.deferred) or (
        creation.length is not None and creation.deferred
    ):
        what = "a final upload has no length of its own" if final else "give either, and not both"
        raise MalformedInput(f"Upload-Length or Upload-Defer-Length: {what}")
    upload_id = uuid.uuid4()
    asked = _asked(services, creation)
    admitted = await _admitted(services, principal, asked, upload_id, request_id)
    kind = UploadKind.WHOLE
    if creation.concat is not None:
        kind = UploadKind.FINAL if final else UploadKind.PARTIAL
    parts, length = None, creation.length
    if creation.concat is not None and creation.concat.parts is not None:
        parts = creation.concat.parts
        known, length = await _parts(services, admitted, admitted.identity, parts)
        if known is not None:
            return Begun(upload_id, admitted, asked, kind, length, parts, known)
    limit = limit_of(services, admitted.source.max_bytes)
    if length is not None and length > limit:
        raise TooLarge(f"the recording is over this source's limit of {limit} bytes")
    if await rows.under_way(services, admitted.source.id) >= services.settings.open_uploads_per_source:
        raise TooMany("this source has too many unfinished uploads; end some of them", retry_after=60)
    return Begun(upload_id, admitted, asked, kind, length, parts)


async def create(services: Services, begun: Begun, *, hold: Hold | None = None) -> ResumableUpload:
    """Create an upload that was checked.

    Args:
        hold: on it, where bytes follow in the same request (`receiving.begin` ends it).
    """
    if begun.known is not None:
        return begun.known
    admitted = begun.admitted
    return await rows.insert(
        services,
        upload_id=begun.upload_id,
        controller_id=admitted.controller.id,
        source_id=admitted.source.id,
        identity=None if begun.asked.request is None else admitted.identity,
        kind=begun.kind,
        length=begun.length,
        asked=begun.asked,
        parts=begun.parts,
        hold=hold,
    )


def limit_of(services: Services, max_bytes: int | None) -> int:
    """The largest recording of a source, in bytes."""
    most = services.settings.max_upload_bytes
    return most if max_bytes is None else min(most, max_bytes)


async def limit_for(services: Services, source_id: uuid.UUID) -> int:
    """The largest recording that a source may send, in bytes."""
    async with services.database.snapshot() as session:
        source = await session.get_one(Source, source_id)
    return limit_of(services, source.max_bytes)


def _asked(services: Services, creation: Creation) -> Asked:
    pairs = metadata_pairs(creation.metadata)
    if creation.concat is not None and not creation.concat.final:
        return Asked(creation.metadata, None)
    now = services.clock.now()
    skew = timedelta(seconds=services.settings.clock_skew_seconds)
    skewed = creation.sent_at is not None and abs(creation.sent_at - now) > skew
    reasons = ("clock-skew",) if skewed else ()
    return ask(creation.metadata, pairs, digests=creation.digests, now=now, reasons=reasons)


async def _admitted(
    services: Services, principal: Principal, asked: Asked, upload_id: uuid.UUID, request_id: str
) -> Admitted:
    request = asked.request
    # A part is of no recording yet; whether its source may push is asked all the same.
    admitted = await admit(
        services,
        principal,
        None,
        external_id=str(upload_id) if request is None else request.metadata.external_id,
        leg=None if request is None else request.metadata.leg,
        request_id=request_id,
    )
    if request is not None:
        lawful_basis(request, admitted)
        admitted.refuse_erased()
    return admitted


async def _parts(
    services: Services, admitted: Admitted, identity: bytes | None, parts: tuple[uuid.UUID, ...]
) -> tuple[ResumableUpload | None, int]:
    """Check parts that are to be put together; their whole length, and the upload that does so already."""
    now = services.clock.now()
    async with services.database.transaction() as session:
        known = await _known(session, admitted.source.id, identity, parts)
        if known is not None:
            return known, known.length or 0
        length = 0
        for part in parts:
            row = await session.get(ResumableUpload, part, with_for_update=True)
            row = rows.own(row, admitted.source.id)
            rows.refuse_ended(row, now)
            if row.kind is not UploadKind.PARTIAL:
                raise MalformedInput("Upload-Concat names an upload that is no part")
            if row.length is None or row.received != row.length:
                raise Conflict("a part is not complete; send the rest of it first", kind="part-incomplete")
            length += row.length
            row.expires_at = max(row.expires_at, now + 7 * timedelta(days=1))
    return None, length


async def _known(
    session: AsyncSession, source_id: uuid.UUID, identity: bytes | None, parts: tuple[uuid.UUID, ...]
) -> ResumableUpload | None:
    """The final upload of these very parts, where a repeated request made it before."""
    query = sa.select(ResumableUpload).where(
        ResumableUpload.source_id == source_id,
        ResumableUpload.identity == identity,
        ResumableUpload.kind == UploadKind.FINAL,
        ResumableUpload.state.in_([UploadState.FINISHING, UploadState.DONE, UploadState.REFUSED]),
    )
    wanted = [str(part) for part in parts]
    return next((row for row in await session.scalars(query) if row.parts == wanted), None)
