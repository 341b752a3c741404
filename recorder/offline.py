"""Who may push while the catalogue is away: a short-lived local copy of tokens and sources.

It is refreshed while the catalogue answers and never believed for longer than `MAX_AGE`, so that what was
revoked stays revoked within that time. On disk it is sealed, part by part, under each controller's key: who
holds the file learns nothing, and who can write it can put nothing in.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from recorder.catalogue.enums import LawfulBasis, Role, ScopeKind
from storage.errors import StorageError
from storage.keys import Keyring, open_under_controller, seal_under_controller

MAX_AGE: Final = timedelta(minutes=15)
_LABEL: Final = "admission"


class _Row(BaseModel):
    model_config = ConfigDict(
        frozen=True, from_attributes=True, ser_json_bytes="base64", val_json_bytes="base64"
    )


class KnownToken(_Row):
    """A source's token; the fields are those of `recorder.access.tokens.token_columns`."""

    token_id: uuid.UUID
    token_hash: bytes
    token_role: Role
    token_controller: uuid.UUID
    token_scope: ScopeKind
    token_values: list[str]
    token_source: uuid.UUID
    token_expires: datetime | None
    token_revoked: datetime | None
    token_used: datetime | None
    token_source_enabled: bool | None
    token_source_settings: dict[str, Any] | None = None
    token_owner_left: datetime | None


class KnownSource(_Row):
    """A source and what a push needs to know of its controller."""

    source_id: uuid.UUID
    name: str
    kind: str
    settings: dict[str, Any]
    default_lawful_basis: LawfulBasis | None
    default_media: dict[str, Any] | None
    max_bytes: int | None
    enabled: bool
    controller_id: uuid.UUID
    country: str
    time_zone: str
    financial_year_end: str


class _Part(_Row):
    taken_at: datetime
    tokens: list[KnownToken]
    sources: list[KnownSource]


class OfflineAdmission:
    """The copy at hand. Empty until it is filled or read; asked only while the catalogue is away."""

    def __init__(self) -> None:
        self._taken_at: datetime | None = None
        self._tokens: Mapping[uuid.UUID, KnownToken] = {}
        self._sources: Mapping[uuid.UUID, KnownSource] = {}

    def fill(self, tokens: Iterable[KnownToken], sources: Iterable[KnownSource], now: datetime) -> None:
        """Replace it by what the catalogue says now."""
        self._taken_at = now
        self._tokens = {token.token_id: token for token in tokens}
        self._sources = {source.source_id: source for source in sources}

    def fresh(self, now: datetime) -> bool:
        """Whether it may be believed."""
        return self._taken_at is not None and timedelta(0) <= now - self._taken_at <= MAX_AGE

    def token(self, token_id: uuid.UUID, now: datetime) -> KnownToken | None:
        """A source's token, as it was; None where it is unknown or the copy is too old."""
        return self._tokens.get(token_id) if self.fresh(now) else None

    def source(self, source_id: uuid.UUID | None, now: datetime) -> KnownSource | None:
        """A source, as it was; None where it is unknown or the copy is too old."""
        return None if source_id is None or not self.fresh(now) else self._sources.get(source_id)

    def save(self, path: Path, keyring: Keyring) -> None:
        """Write it to disk, sealed; blocking. A copy that tears is only an older one.

        Raises:
            OSError: it cannot be written.
            storage.errors.KeyringError: the keyring cannot be used.
        """
        if self._taken_at is None:
            return
        parts = {}
        for controller in {str(source.controller_id) for source in self._sources.values()}:
            part = _Part(
                taken_at=self._taken_at,
                tokens=[t for t in self._tokens.values() if str(t.token_controller) == controller],
                sources=[s for s in self._sources.values() if str(s.controller_id) == controller],
            )
            sealed = seal_under_controller(keyring, controller, _LABEL, part.model_dump_json().encode())
            parts[controller] = base64.b64encode(sealed).decode("ascii")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w") as out:
            json.dump(parts, out)
        temporary.replace(path)

    def load(self, path: Path, keyring: Keyring) -> None:
        """Read it from disk; blocking. What is missing, torn or forged leaves it empty."""
        try:
            parts = json.loads(path.read_text())
            opened = [
                _Part.model_validate_json(
                    open_under_controller(keyring, controller, _LABEL, base64.b64decode(sealed))
                )
                for controller, sealed in parts.items()
            ]
        except (OSError, ValueError, ValidationError, StorageError, AttributeError, TypeError):
            return
        if opened:
            self.fill(
                [token for part in opened for token in part.tokens],
                [source for part in opened for source in part.sources],
                min(part.taken_at for part in opened),
            )
