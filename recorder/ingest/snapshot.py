"""Filling the local copy of tokens and sources that admits pushes while the catalogue is away."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import sqlalchemy as sa

from recorder.access.tokens import token_columns
from recorder.catalogue.enums import Role
from recorder.catalogue.lookups import Lookup
from recorder.catalogue.tables import Account, ApiToken, Controller, Source
from recorder.offline import KnownSource, KnownToken
from recorder.services import Services
from storage.errors import StorageError

log = logging.getLogger("recorder.ingest")

_TOKENS: Final = Lookup(
    sa.select(*token_columns())
    .select_from(ApiToken)
    .join(Source, Source.id == ApiToken.source_id)
    .outerjoin(Account, Account.id == ApiToken.owner_id)
    .where(ApiToken.role == Role.TELEPHONY, ApiToken.revoked_at.is_(None))
)
SOURCE_COLUMNS: Final = (
    Source.id.label("source_id"),
    Source.name,
    Source.kind,
    Source.settings,
    Source.default_lawful_basis,
    Source.default_media,
    Source.max_bytes,
    Source.enabled,
    Controller.id.label("controller_id"),
    Controller.country,
    Controller.time_zone,
    Controller.financial_year_end,
)
_SOURCES: Final = Lookup(
    sa.select(*SOURCE_COLUMNS).select_from(Source).join(Controller, Controller.id == Source.controller_id)
)


async def refresh(services: Services) -> None:
    """Copy what admits pushes, and keep the copy beside the spool.

    Raises:
        Unavailable: the database is away; the copy stays as it is, and ages.
    """
    now = services.clock.now()
    tokens = [KnownToken.model_validate(row) for row in await services.database.lookup(_TOKENS)]
    sources = [KnownSource.model_validate(row) for row in await services.database.lookup(_SOURCES)]
    services.offline.fill(tokens, sources, now)
    if services.spool is not None:
        path = services.spool.root / "admission.sealed"
        try:
            await asyncio.to_thread(services.offline.save, path, services.keyring)
        except (OSError, StorageError) as error:
            log.warning("the admission snapshot cannot be kept", extra={"kind": type(error).__name__})
