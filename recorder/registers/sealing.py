"""The register's words that may name persons lie under the controller's own key."""

from __future__ import annotations

import uuid

from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.tables import Controller, Subject
from recorder.errors import NotFound


async def controller_subject(session: AsyncSession, controller_id: uuid.UUID) -> Subject:
    """The subject whose key seals a controller's own records.

    Raises:
        NotFound: there is no such controller.
    """
    controller = await session.get(Controller, controller_id)
    if controller is None or controller.subject_id is None:
        raise NotFound("no such controller")
    # Reread: a key rotation may have moved it since this session first saw it.
    return await session.get_one(Subject, controller.subject_id, populate_existing=True)
