"""The log's leader: gives entries their places, grows the tree, signs, and takes copies to the object store.

Entries are written without a place in the transactions of what they record, so writing one never waits for
another. About once a second the leader takes *all* entries that have no place yet; there is no high-water
mark that a slow transaction could slip under.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Final

import jwt
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwt import PyJWS
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit import merkle, notes
from recorder.audit.merkle import Coordinate
from recorder.audit.notes import Checkpoint
from recorder.catalogue.tables import AuditCheckpoint, AuditEntry, AuditNode
from recorder.errors import Corrupt
from recorder.services import Services
from storage.objects import Version

COPIES: Final = "log/checkpoints/"
RESTORES: Final = "log/restores/"
RESTORE_TYPE: Final = "log-restore+jws"
_LEADER: Final = 0x7461_6C6C_6C6F_67  # advisory lock of PostgreSQL; any constant of our own
_BATCH: Final = 2000


class Sequencer:
    """Extends the log. Any number may exist; at most one works at a time, the others find nothing to do."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._copied: Checkpoint | None = None

    async def run_once(self) -> Checkpoint | None:
        """Give every waiting entry its place and sign the new tree head.

        Returns:
            The new checkpoint; None when nothing was waiting or another leader is at work.

        Raises:
            Corrupt: what is stored contradicts the last checkpoint; nothing was added to it.
            Unavailable: the database is away.
        """
        newest: Checkpoint | None = None
        if not await self._waiting():
            return None
        while True:
            async with self._services.database.transaction() as session:
                taken, checkpoint = await self._extend(session)
            newest = checkpoint or newest
            if taken < _BATCH:
                return newest

    async def copy_checkpoints(self) -> Checkpoint | None:
        """Put the newest checkpoint into the object store, once it is known to continue the copies there.

        Call it about once a minute. The key holds size and root, so that no copy ever replaces another; where
        the store keeps legal holds, the copy gets one.

        Returns:
            What was copied; None when the newest checkpoint has its copy already.

        Raises:
            Corrupt: the log does not continue what was copied before: history was rewritten or cut off.
            StorageError: the store is away or refuses.
        """
        if self._copied is None:
            self._copied = await newest_copy(self._services)
        async with self._services.database.snapshot() as session:
            row = await newest_checkpoint(session)
            await _check_continues(session, self._copied, 0 if row is None else row.size)
        if row is None or (self._copied is not None and row.size == self._copied.size):
            return None
        store, key = self._services.store, copy_key(row.size, row.root)
        body = row.note.encode()
        stat = await store.put(key, _once(body), size=len(body))
        if (await store.capabilities()).legal_hold:
            await store.set_legal_hold(key, stat.version_id, True)
        now = self._services.clock.now()
        async with self._services.database.transaction() as session:
            await session.execute(
                sa.update(AuditCheckpoint).where(AuditCheckpoint.size == row.size).values(copied_at=now)
            )
        self._copied = notes.open_note(row.note, log_key(self._services))
        return self._copied

    async def _waiting(self) -> int:
        # Asked by a reader first, so that an idle log never takes SQLite's one write lock.
        async with self._services.database.snapshot() as session:
            rows = await session.execute(
                sa.select(sa.func.count()).select_from(AuditEntry).where(AuditEntry.index.is_(None))
            )
        waiting = int(rows.scalar_one())
        self._services.metrics.unsequenced.set(waiting)
        return waiting

    async def _extend(self, session: AsyncSession) -> tuple[int, Checkpoint | None]:
        if not await _lead(session):
            return 0, None
        rows = await session.execute(
            sa.select(AuditEntry.id, AuditEntry.payload)
            .where(AuditEntry.index.is_(None))
            .order_by(AuditEntry.at, AuditEntry.id)
            .limit(_BATCH)
        )
        waiting = rows.all()
        if not waiting:
            return 0, None
        tree = await self._tree(session)
        places: list[dict[str, object]] = []
        grown: list[dict[str, object]] = []
        for entry_id, payload in waiting:
            places.append({"entry": entry_id, "place": tree.size})
            grown += [
                {"level": node.at.level, "position": node.at.position, "hash": node.hash}
                for node in tree.append(merkle.leaf_hash(payload))
            ]
        await session.execute(
            sa.update(AuditEntry.__table__)  # type: ignore[arg-type]  # the table itself: executemany without the ORM
            .where(AuditEntry.id == sa.bindparam("entry"))
            .values(index=sa.bindparam("place")),
            places,
        )
        await session.execute(sa.insert(AuditNode), grown)
        checkpoint = self._sign(session, tree, self._services.clock.now())
        return len(waiting), checkpoint

    async def _tree(self, session: AsyncSession) -> merkle.GrowingTree:
        row = await newest_checkpoint(session)
        size = 0 if row is None else row.size
        last = (await session.execute(sa.select(sa.func.max(AuditEntry.index)))).scalar_one()
        if (0 if last is None else last + 1) != size:
            raise Corrupt("the audit log and its newest checkpoint disagree; run recorder audit verify")
        try:
            tree = merkle.GrowingTree(size, await load_nodes(session, merkle.cover(0, size)))
        except KeyError:
            raise Corrupt("nodes of the audit log are missing; run recorder audit verify") from None
        if row is not None:
            signed = notes.open_note(row.note, log_key(self._services))
            if (signed.size, signed.root) != (size, tree.root()):
                raise Corrupt("the audit log is not what was signed; run recorder audit verify")
        return tree

    def _sign(self, session: AsyncSession, tree: merkle.GrowingTree, now: datetime) -> Checkpoint:
        key = self._services.keyring.signing_key("log")
        checkpoint = Checkpoint(notes.origin_of(key.public_key()), tree.size, tree.root())
        session.add(
            AuditCheckpoint(
                size=tree.size,
                root=checkpoint.root,
                note=notes.sign(checkpoint, key),
                signed_at=now,
                copied_at=None,
            )
        )
        return checkpoint


def log_key(services: Services) -> Ed25519PublicKey:
    """The public key of this installation's log."""
    return services.keyring.public_keys()["log"]


async def newest_checkpoint(session: AsyncSession) -> AuditCheckpoint | None:
    """The checkpoint of the greatest size in the database; unverified."""
    found = await session.execute(sa.select(AuditCheckpoint).order_by(AuditCheckpoint.size.desc()).limit(1))
    return found.scalar_one_or_none()


async def load_nodes(session: AsyncSession, wanted: Iterable[Coordinate]) -> dict[Coordinate, bytes]:
    """Stored hashes of some complete subtrees; those that are missing are left out."""
    places = [tuple(at) for at in wanted]
    if not places:
        return {}
    rows = await session.execute(
        sa.select(AuditNode.level, AuditNode.position, AuditNode.hash).where(
            sa.tuple_(AuditNode.level, AuditNode.position).in_(places)
        )
    )
    return {Coordinate(level, position): hashed for level, position, hashed in rows}


def copy_key(size: int, root: bytes) -> str:
    """Object key of a checkpoint's copy; keys sort by size."""
    return f"{COPIES}{size:020d}-{root.hex()}"


async def copies(services: Services) -> AsyncIterator[Version]:
    """Every copy that the log must continue, by size; delete markers do not hide any.

    Left out are those that a restore abandoned which a person has accepted; see `recorder.audit.restores`.

    Raises:
        Corrupt: an accepted restore in the store is not signed by this log's key.
        StorageError: the store is away or refuses.
    """
    abandoned = await _abandoned(services)
    async for version in services.store.versions(COPIES):
        if not version.is_delete_marker and version.key not in abandoned:
            yield version


async def _abandoned(services: Services) -> frozenset[str]:
    found: set[str] = set()
    async for stat in services.store.list(RESTORES):
        async with services.store.get(stat.key) as pieces:
            raw = b"".join([piece async for piece in pieces])
        try:
            if jwt.get_unverified_header(raw).get("typ") != RESTORE_TYPE:
                raise ValueError(RESTORE_TYPE)
            document = json.loads(PyJWS().decode(raw, log_key(services), algorithms=["EdDSA"]))
            found.update(map(str, document["abandoned"]))
        except (jwt.InvalidTokenError, ValueError, KeyError, TypeError):
            raise Corrupt(f"the accepted restore {stat.key} is not signed by this log") from None
    return frozenset(found)


async def newest_copy(services: Services) -> Checkpoint | None:
    """The greatest checkpoint that the object store keeps, with its signature checked.

    Raises:
        Corrupt: the copy is not signed by this installation's log key.
        StorageError: the store is away or refuses.
    """
    newest: Version | None = None
    async for version in copies(services):
        newest = version
    return None if newest is None else await read_copy(services, newest)


async def read_copy(services: Services, version: Version) -> Checkpoint:
    """Read and verify one copy.

    Raises:
        Corrupt: it is malformed, not signed by this installation's log key, or lies under another's name.
        StorageError: the store is away or refuses, or there is no such copy.
    """
    body = bytearray()
    if version.size <= notes.MAX_NOTE:
        async with services.store.get(version.key, version_id=version.version_id) as pieces:
            async for piece in pieces:
                body += piece
    try:
        checkpoint = notes.open_note(body.decode(), log_key(services))
    except (notes.BadNote, UnicodeDecodeError):
        raise Corrupt(f"the copy {version.key} is not a checkpoint of this log") from None
    if copy_key(checkpoint.size, checkpoint.root) != version.key:
        raise Corrupt(f"the copy {version.key} holds another checkpoint")
    return checkpoint


async def refuse_if_rolled_back(services: Services) -> None:
    """Return when the database's log continues the store's newest checkpoint; for start-up.

    Raises:
        Corrupt: the store has seen more (an old database was restored), or something else.
        StorageError: the store is away or refuses.
    """
    copy = await newest_copy(services)
    async with services.database.snapshot() as session:
        row = await newest_checkpoint(session)
        await _check_continues(session, copy, 0 if row is None else row.size)


async def _check_continues(session: AsyncSession, copy: Checkpoint | None, size: int) -> None:
    if copy is None:
        return
    if copy.size > size:
        raise Corrupt(
            f"the store keeps a checkpoint of {copy.size} audit entries, the database has {size}: an older "
            "database was restored, or entries were cut off; run recorder restore-check"
        )
    nodes = await load_nodes(session, merkle.cover(0, copy.size))
    try:
        root = merkle.range_hash(0, copy.size, nodes)
    except KeyError:
        root = b""
    if root != copy.root:
        raise Corrupt(
            f"the first {copy.size} audit entries are not those that were copied to the store; "
            "run recorder audit verify"
        )


async def _lead(session: AsyncSession) -> bool:
    # A writing transaction on SQLite is alone (BEGIN IMMEDIATE); on PostgreSQL the lock ends with it.
    if session.get_bind().dialect.name != "postgresql":
        return True
    got = await session.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_LEADER)))
    return bool(got.scalar_one())


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
