"""The answer to a step that two people take: it was asked for, and waits for the second."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from recorder.access.approvals import ApprovalView
from recorder.api.framework import Other, json_response
from recorder.catalogue.enums import ApprovalState


class ApprovalPending(BaseModel):
    """A step that waits for a second person: once approved, send the same request with ``approval``."""

    approval: uuid.UUID
    state: ApprovalState
    expires_at: datetime


def pending(view: ApprovalView) -> web.Response:
    """202 with what the second person is asked."""
    return json_response(ApprovalPending(approval=view.id, state=view.state, expires_at=view.expires_at), 202)


ASKED: Final[Mapping[int, Other]] = {
    202: Other("asked for; a second person has to approve it", ApprovalPending),
}
"""What the routes of such steps document."""
