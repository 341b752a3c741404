"""A new upload with what its first request brings: nothing, some bytes, or all of them."""

from __future__ import annotations

from recorder.access.principals import Principal
from recorder.catalogue.tables import UploadState
from recorder.ingest.resumable import creating, receiving
from recorder.ingest.resumable.creating import Creation
from recorder.ingest.resumable.receiving import Body, Progress
from recorder.services import Services


async def begin_upload(
    services: Services, principal: Principal, creation: Creation, body: Body | None, *, request_id: str
) -> Progress:
    """Create an upload and take its first bytes in.

    Args:
        body: None where the request brings no byte.

    Raises:
        RecorderError: as `creating.check` and `receiving.patch`; nothing is left of the upload then, unless
            every byte of it is here.
    """
    begun = await creating.check(services, principal, creation, request_id=request_id)
    if body is not None and receiving.comes_whole(begun, body):
        return await receiving.take_whole(services, begun, body, principal=principal, request_id=request_id)
    if body is None:
        row = await creating.create(services, begun)
        if row.state is UploadState.OPEN:
            return Progress(row)
        return await receiving.again(services, row, request_id)
    receiving.refuse_flood(services, begun.admitted.source.id)
    hold = services.resumable.begin(begun.upload_id, begun.admitted.source.id)
    row = await creating.create(services, begun, hold=hold)
    return await receiving.begin(services, row, body, hold, actor=principal.actor, request_id=request_id)
