"""A service that takes uploads over real sockets, and a bare client of the protocol."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

from recorder.access import tokens
from recorder.access.principals import Principal
from recorder.api import ingest, tus
from recorder.api.framework import SERVICES, mount
from recorder.api.middleware import add_headers, authenticate, observe, problems
from recorder.catalogue.enums import Role
from recorder.catalogue.tables import (
    Controller,
    Recording,
    ResumableUpload,
    Source,
    StoredObjectRow,
    Subject,
    UploadPiece,
)
from recorder.services import Services
from storage.vault import StoredObject

Client = TestClient[web.Request, web.Application]
VERSION = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


def app_of(services: Services) -> web.Application:
    app = web.Application(middlewares=[observe, problems, authenticate], client_max_size=1024)
    app[SERVICES] = services
    app.on_response_prepare.append(add_headers)
    app.on_response_prepare.append(tus.add_headers)
    mount(app, (*tus.ROUTES, *ingest.ROUTES))
    return app


async def token_of(services: Services, controller: Controller, source: Source | None) -> str:
    issued = await tokens.issue_token(
        services,
        Principal("os", "test", controller.id),
        controller_id=controller.id,
        label="test",
        role=Role.CRM if source is None else Role.TELEPHONY,
        source_id=None if source is None else source.id,
    )
    return issued.token


def said(**pairs: str | bytes) -> str:
    """An ``Upload-Metadata`` field."""
    items = [(key, value.encode() if isinstance(value, str) else value) for key, value in pairs.items()]
    return ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in items)


@dataclass
class Tus:
    """The protocol, spoken by hand."""

    client: Client
    token: str
    more: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: Any = None
    ) -> ClientResponse:
        auth = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        answer = await self.client.request(
            method, path, headers={**auth, **VERSION, **self.more, **(headers or {})}, data=data
        )
        await answer.read()
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert answer.headers["Cache-Control"] == "no-store"
        return answer

    async def create(self, length: int | None, metadata: str | None = None, **headers: str) -> str:
        """Begin an upload; its address."""
        given = {"Upload-Metadata": said(external_id="call-1") if metadata is None else metadata}
        given |= {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
        answer = await self.ask("POST", "/uploads", {**given, **headers})
        assert answer.status == 201, await answer.text()
        return answer.headers["Location"]

    async def patch(self, url: str, offset: int, data: Any, **headers: str) -> ClientResponse:
        return await self.ask("PATCH", url, {**BYTES, "Upload-Offset": str(offset), **headers}, data)

    async def offset(self, url: str) -> int:
        answer = await self.ask("HEAD", url)
        assert answer.status == 200, answer.status
        return int(answer.headers["Upload-Offset"])


async def left(services: Services) -> tuple[int, int, int]:
    """Recordings, pieces, and objects in the store."""
    async with services.database.snapshot() as session:
        recordings = await session.scalar(sa.select(sa.func.count()).select_from(Recording))
        pieces = await session.scalar(sa.select(sa.func.count()).select_from(UploadPiece))
    return int(recordings or 0), int(pieces or 0), len([stat async for stat in services.store.list("o/")])


async def upload_row(services: Services, url: str) -> tuple[ResumableUpload, Subject]:
    """An upload and its subject."""
    import uuid

    async with services.database.snapshot() as session:
        row = await session.get_one(ResumableUpload, uuid.UUID(url.rpartition("/")[2]))
        return row, await session.get_one(Subject, row.subject_id)


async def kept(services: Services) -> dict[str, bytes]:
    """Every recording's bytes, read back and verified, by state."""
    from recorder.catalogue.subjects import subject_ref

    found: dict[str, bytes] = {}
    async with services.database.snapshot() as session:
        query = sa.select(Recording, StoredObjectRow, Subject).where(
            StoredObjectRow.recording_id == Recording.id, Subject.id == StoredObjectRow.subject_id
        )
        for recording, row, subject in (await session.execute(query)).all():
            obj = StoredObject(
                row.id,
                row.role.value,
                row.key,
                row.version_id,
                row.size,
                row.sha256,
                row.wrapped_key or b"",
                subject_ref(subject),
                row.header,
            )
            async with services.vault.read(obj) as pieces:
                found[str(recording.id)] = b"".join([piece async for piece in pieces])
    return found


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes like no others, behind the header of a WAV file."""
    return random.Random(seed).randbytes(size)
