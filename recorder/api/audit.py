"""The service's public keys, and the audit log: checkpoint, entries, proofs."""

from __future__ import annotations

import base64
import uuid
from typing import Annotated, Any, Literal, Self

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.api.framework import ApiCall, Route
from recorder.audit import notes, query
from recorder.audit.log import log_key
from recorder.errors import Corrupt, Erased, Forbidden, InvalidInput, NotFound, Unavailable
from recorder.ingest.receipts import jwk
from recorder.playback.finding import controller_of

Size = Annotated[int, Field(ge=0, le=2**53)]


class Key(BaseModel):
    """A public key as a JSON Web Key (RFC 8037)."""

    name: str = Field(description="what it signs: log, receipts, links, certificates")
    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str = Field(description="RFC 7638 thumbprint")
    alg: str
    use: str
    note_verifier: str | None = Field(
        None, description="the log's key as witnesses take it (c2sp.org/signed-note)"
    )


class Keys(BaseModel):
    """Every key that this installation signs with."""

    keys: list[Key]


class CheckpointQuery(BaseModel):
    """Which checkpoint."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = Field(None, description="where the caller has several")
    size: Size | None = Field(None, description="of so many entries; the newest where left out")


class EntriesQuery(BaseModel):
    """Filters of the log."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = Field(None, description="where the caller has several")
    object: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@:-]{1,64}$")] | None = None
    actor: Annotated[str, Field(pattern=r"^[a-z]{1,10}:[A-Za-z0-9_.@-]{1,100}$")] | None = None
    action: Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]*)?$", max_length=60)] | None = Field(
        None, description="with a dot at the end: every action that begins so"
    )
    outcome: Literal["ok", "refused", "failed"] | None = None
    order: Literal["newest", "oldest"] = "newest"
    cursor: Size | None = Field(None, description="next of the page before")
    limit: Annotated[int, Field(ge=1, le=query.MAX_PAGE)] = 100


class Entry(BaseModel):
    """An entry. Its leaf hash is SHA-256(0x00 || payload)."""

    id: uuid.UUID
    index: int
    entry: dict[str, Any]
    payload: str = Field(description="base64 of exactly the bytes that are hashed (JCS, RFC 8785)")


class Entries(BaseModel):
    """A page of the log."""

    items: list[Entry]
    next: int | None


class ProofQuery(BaseModel):
    """Of an entry under a checkpoint, or of a checkpoint under a later one."""

    model_config = ConfigDict(extra="forbid")

    controller: uuid.UUID | None = Field(None, description="where the caller has several")
    entry: uuid.UUID | None = Field(None, description="id of the entry to prove")
    first: Size | None = Field(None, description="or: size of the earlier checkpoint")
    size: Size | None = Field(
        None, description="size of the checkpoint to prove under; the newest if left out"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.entry is None) == (self.first is None):
            raise ValueError("give either entry or first")
        return self


class Proof(BaseModel):
    """Hashes in base64, from the leaf's side to the root's, for RFC 9162 section 2.1.3.2 or 2.1.4.2."""

    kind: Literal["inclusion", "consistency"]
    path: list[str]
    checkpoint: str = Field(description="signed note that the proof leads to")
    first_checkpoint: str | None = Field(None, description="consistency: the earlier signed note")
    entry: Entry | None = None
    leaf_hash: str | None = None


async def keys(call: ApiCall) -> Keys:
    """Public keys, for receipts, certificates and checkpoints."""
    public = call.services.keyring.public_keys()
    return Keys(keys=[_key(name, key) for name, key in sorted(public.items())])


async def checkpoint(call: ApiCall) -> web.StreamResponse:
    """The newest signed tree head, as the note it is."""
    asked: CheckpointQuery = call.query
    await _permit(call, asked.controller)
    async with call.services.database.snapshot() as session:
        found = await query.checkpoint_note(session, asked.size)
    return web.Response(
        body=found.note.encode(),
        content_type="text/plain",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )


async def entries(call: ApiCall) -> Entries:
    """A page of the entries of the caller's controller and of the installation as a whole."""
    asked: EntriesQuery = call.query
    controller_id = await _permit(call, asked.controller)
    async with call.services.database.snapshot() as session:
        page = await query.entries_page(
            session,
            controller_ids=[controller_id],
            after=asked.cursor,
            limit=asked.limit,
            newest_first=asked.order == "newest",
            object_id=asked.object,
            actor=asked.actor,
            action=asked.action,
            outcome=asked.outcome,
        )
    return Entries(items=[_entry(view) for view in page.items], next=page.next)


async def proof(call: ApiCall) -> Proof:
    """Prove an entry under a signed checkpoint, or that a checkpoint continues an earlier one."""
    asked: ProofQuery = call.query
    controller_id = await _permit(call, asked.controller)
    async with call.services.database.snapshot() as session:
        if asked.entry is None:
            grown = await query.consistency_proof(session, asked.first or 0, asked.size)
            return Proof(
                kind="consistency",
                path=[_b64(h) for h in grown.path],
                checkpoint=grown.second,
                first_checkpoint=grown.first,
            )
        found = await query.inclusion_proof(
            session, asked.entry, controller_ids=[controller_id], size=asked.size
        )
    return Proof(
        kind="inclusion",
        path=[_b64(h) for h in found.path],
        checkpoint=found.checkpoint,
        entry=_entry(found.entry),
        leaf_hash=_b64(found.leaf_hash),
    )


async def _permit(call: ApiCall, named: uuid.UUID | None) -> uuid.UUID:
    controller_id = controller_of(call.principal, named)
    await permit(
        call.services,
        call.principal,
        Action.VIEW_AUDIT,
        controller_id=controller_id,
        object_type="log",
        object_id=notes.origin_of(log_key(call.services)),
        request_id=call.request_id,
    )
    return controller_id


def _key(name: str, key: Ed25519PublicKey) -> Key:
    verifier = notes.verifier_key(notes.origin_of(key), key) if name == "log" else None
    return Key.model_validate({**jwk(key), "name": name, "note_verifier": verifier})


def _entry(view: query.EntryView) -> Entry:
    if view.index is None:
        raise Corrupt("an entry without a place cannot be shown here")
    return Entry(id=view.id, index=view.index, entry=view.entry, payload=_b64(view.payload))


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


_REFUSES = (Forbidden, InvalidInput)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/v1/keys", keys, "Public keys of receipts, certificates and the log", "audit",
          answer=Keys, auth="public"),
    Route("GET", "/api/v1/audit/checkpoint", checkpoint, "A signed checkpoint of the audit log", "audit",
          query=CheckpointQuery, raises=(*_REFUSES, NotFound), answer_types=("text/plain",)),
    Route("GET", "/api/v1/audit/entries", entries, "Entries of the audit log", "audit",
          query=EntriesQuery, answer=Entries, raises=(*_REFUSES, Corrupt)),
    Route("GET", "/api/v1/audit/proof", proof, "Proof of an entry, or of the log's growth", "audit",
          query=ProofQuery, answer=Proof, raises=(*_REFUSES, NotFound, Erased, Unavailable, Corrupt)),
)  # fmt: skip
