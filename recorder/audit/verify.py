"""Checking the whole log from its payloads up, and naming the first entry that is not what was signed.

1. Every payload is hashed in the order of the indexes; indexes have no gaps.
2. The tree grown from these hashes must have, at every checkpoint of the database, the signed root.
3. The same at every copy in the object store, which also shows what was cut off, or rewritten with the key.
4. The other columns of an entry must repeat what its payload says.
5. The stored nodes must be those of the tree; they only help to find *which* entry of a bad stretch is bad.
6. An entry whose time was over by the retention schedule is empty: its leaf is taken from the stored nodes,
   which the signed roots prove, and some ``log.disposed`` entry must name its place.

An entry that waits for its place is covered by nothing yet; the report says how many there are.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit import merkle, notes
from recorder.audit.log import copies, log_key, read_copy
from recorder.audit.merkle import Coordinate, GrowingTree, Node
from recorder.catalogue.tables import AuditCheckpoint, AuditEntry, AuditNode
from recorder.errors import Corrupt
from recorder.services import Services

_PAGE: Final = 1000
Progress = Callable[[int, int], None]


class Entry(NamedTuple):
    """One row, as read for checking."""

    place: int
    payload: bytes
    id: uuid.UUID
    controller_id: uuid.UUID | None
    at: datetime
    actor: str
    action: str
    object_type: str
    object_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was signed.

    Attributes:
        kind: ``changed``, ``missing``, ``cut-off``, ``uncovered``, ``columns``, ``checkpoint``, ``copy`` or
            ``node``.
        index: the first entry concerned; None where no single entry is.
        text: one sentence for people.
    """

    kind: str
    index: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the verification saw.

    Attributes:
        size: entries whose place and payload were checked.
        root: root hash over them.
        checkpoints: checkpoints of the database that were compared.
        copies: copies in the object store that were compared.
        waiting: entries without a place yet.
        problems: empty when the log is whole; otherwise the first problem of each kind of check.
    """

    size: int
    root: bytes
    checkpoints: int
    copies: int
    waiting: int
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything is as it was signed."""
        return not self.problems

    @property
    def first_bad_index(self) -> int | None:
        """The first entry that is not as it was signed."""
        return min((p.index for p in self.problems if p.index is not None), default=None)


@dataclass(slots=True)
class _Head:
    """A signed size and root to meet on the way."""

    size: int
    root: bytes
    origin: str  # for the words of a problem: "the checkpoint", "the store's copy"


class _Walk:
    """Grows the tree entry by entry; the first signed head that does not fit ends it."""

    def __init__(self, heads: Sequence[_Head]) -> None:
        self.tree = GrowingTree()
        self.problem: Problem | None = None
        self.bad_columns: Problem | None = None
        self.bad_node: Problem | None = None
        self._emptied: list[int] = []  # places without a payload
        self._disposed: list[tuple[int, int]] = []  # first and last of what the log says was disposed of
        self._good = 0  # the greatest size known to be as signed
        self._suspect: int | None = None  # the first leaf since then that differs from its stored node
        self._coming = deque(head for head in heads if head.size)

    def take(self, page: Sequence[Entry], stored: Mapping[int, bytes]) -> list[Node]:
        """Add a page; ``stored`` are the leaves as the nodes have them. Returns the nodes completed."""
        completed: list[Node] = []
        for entry in page:
            index = self.tree.size
            if entry.place != index:
                self._stop(Problem("missing", index, f"entry {index} is missing"))
                break
            if entry.payload:
                leaf = merkle.leaf_hash(entry.payload)
            else:
                leaf = stored.get(index, b"")
                self._emptied.append(index)
            if self._suspect is None and stored.get(index) != leaf:
                self._suspect = index
            completed += self.tree.append(leaf)
            if entry.payload and self.bad_columns is None:
                self.bad_columns = _check_columns(entry)
            if entry.action == "log.disposed" and entry.payload:
                self._disposed += _places(entry.payload)
            if not self._meet_heads():
                break
        return completed

    def end(self) -> None:
        """No entry is left: what is signed beyond was cut off, what is beyond the signed is not covered."""
        size = self.tree.size
        if self.problem is not None:
            return
        if self._coming:
            head = self._coming[0]
            text = f"entries from {size} on are cut off: {head.origin} covers {head.size}"
            self._stop(Problem("cut-off", size, text))
        elif self._good < size:
            text = f"entry {self._good} has a place that no checkpoint covers"
            self._stop(Problem("uncovered", self._good, text))

    def unexplained(self) -> Problem | None:
        """The first place that is empty although nothing in the log says that it was disposed of."""
        runs = sorted(self._disposed)
        position, reach = 0, -1
        for index in self._emptied:
            while position < len(runs) and runs[position][0] <= index:
                reach = max(reach, runs[position][1])
                position += 1
            if index > reach:
                return Problem("changed", index, f"entry {index} was emptied, and no entry says why")
        return None

    def _meet_heads(self) -> bool:
        while self._coming and self._coming[0].size == self.tree.size:
            head = self._coming.popleft()
            if head.root != self.tree.root():
                text = (
                    f"an entry from {self._good} to {head.size - 1} is not what was signed: {head.origin} "
                    "contradicts them, and the stored nodes were rewritten to match"
                )
                self._stop(Problem("changed", self._good, text))
                return False
            if self._suspect is not None and self.bad_node is None:
                # The stretch is as signed, so the leaf that differed was the node's fault.
                text = f"the stored leaf of entry {self._suspect} was changed; the entry itself was not"
                self.bad_node = Problem("node", self._suspect, text)
            self._good, self._suspect = self.tree.size, None
        return True

    def _stop(self, problem: Problem) -> None:
        """Keep the problem, unless the stored leaves point at an earlier entry of the unproved stretch."""
        if self._suspect is not None:
            text = f"entry {self._suspect} is not what was signed"
            problem = Problem("changed", self._suspect, text)
        self.problem = problem


async def verify_log(services: Services, *, progress: Progress | None = None) -> Report:
    """Check everything, in one consistent view of the database.

    Args:
        services: The service.
        progress: Called now and then with the entries checked and their total.

    Raises:
        Unavailable: the database is away.
        StorageError: the object store is away or refuses.
    """
    copied, problems = await _read_copies(services)
    async with services.database.snapshot() as session:
        if session.get_bind().dialect.name == "postgresql":
            # One view for the whole walk, as SQLite has by itself.
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        signed, bad_signature = await _read_checkpoints(services, session)
        problems += bad_signature
        heads = sorted([*copied, *signed], key=lambda head: head.size)
        total = await _count(session, AuditEntry.index.is_not(None))
        waiting = await _count(session, AuditEntry.index.is_(None))
        walk = _Walk(heads)
        await _follow(session, walk, total, progress)
    emptied = None if walk.problem is not None else walk.unexplained()
    problems += [p for p in (walk.problem, walk.bad_columns, emptied) if p is not None]
    if not problems and walk.bad_node is not None:
        problems.append(walk.bad_node)
    return Report(
        size=walk.tree.size,
        root=walk.tree.root(),
        checkpoints=len(signed),
        copies=len(copied),
        waiting=waiting,
        problems=tuple(problems),
    )


async def _follow(session: AsyncSession, walk: _Walk, total: int, progress: Progress | None) -> None:
    async for page in _pages(session):
        completed = walk.take(page, await _leaves(session, walk.tree.size, len(page)))
        if walk.bad_node is None:
            walk.bad_node = await _check_nodes(session, completed)
        if progress is not None:
            progress(walk.tree.size, total)
        if walk.problem is not None:
            return
    walk.end()


async def _pages(session: AsyncSession) -> AsyncIterator[list[Entry]]:
    after = -1
    columns = (
        AuditEntry.index,
        AuditEntry.payload,
        AuditEntry.id,
        AuditEntry.controller_id,
        AuditEntry.at,
        AuditEntry.actor,
        AuditEntry.action,
        AuditEntry.object_type,
        AuditEntry.object_id,
        AuditEntry.outcome,
    )
    while True:
        rows = await session.execute(
            sa.select(*columns).where(AuditEntry.index > after).order_by(AuditEntry.index).limit(_PAGE)
        )
        page = [Entry._make(row) for row in rows]
        if not page:
            return
        yield page
        after = page[-1].place


def _places(payload: bytes) -> list[tuple[int, int]]:
    """What a ``log.disposed`` entry names; nothing where it names nothing that can be read."""
    try:
        flat = json.loads(payload)["details"]["places"]
        return [(int(first), int(last)) for first, last in zip(flat[::2], flat[1::2], strict=True)]
    except (ValueError, KeyError, TypeError):
        return []


def _check_columns(entry: Entry) -> Problem | None:
    try:
        said = json.loads(entry.payload)
        repeated = {
            "id": said["id"] == str(entry.id),
            "time": datetime.fromisoformat(said["time"]) == entry.at.astimezone(UTC),
            "actor": said["actor"] == entry.actor,
            "action": said["action"] == entry.action,
            "object": said["object"] == {"type": entry.object_type, "id": entry.object_id},
            "controller": said["controller"]
            == (None if entry.controller_id is None else str(entry.controller_id)),
            "outcome": said["outcome"] == entry.outcome,
        }
    except (ValueError, KeyError, TypeError):
        return Problem("columns", entry.place, f"the payload of entry {entry.place} cannot be read")
    wrong = [name for name, same in repeated.items() if not same]
    if not wrong:
        return None
    text = f"the columns of entry {entry.place} do not repeat its payload: {', '.join(wrong)}"
    return Problem("columns", entry.place, text)


async def _leaves(session: AsyncSession, start: int, count: int) -> dict[int, bytes]:
    rows = await session.execute(
        sa.select(AuditNode.position, AuditNode.hash).where(
            AuditNode.level == 0, AuditNode.position.between(start, start + count - 1)
        )
    )
    return dict(rows.all())


async def _check_nodes(session: AsyncSession, completed: Sequence[Node]) -> Problem | None:
    """Compare the inner nodes of a page with the stored ones."""
    by_level: dict[int, dict[Coordinate, bytes]] = {}
    for node in completed:
        if node.at.level:
            by_level.setdefault(node.at.level, {})[node.at] = node.hash
    for level, nodes in sorted(by_level.items()):
        first, last = min(nodes).position, max(nodes).position
        rows = await session.execute(
            sa.select(AuditNode.position, AuditNode.hash).where(
                AuditNode.level == level, AuditNode.position.between(first, last)
            )
        )
        stored = dict(rows.all())
        for at, hashed in nodes.items():
            if stored.get(at.position) != hashed:
                text = f"the stored node at level {at.level}, position {at.position} was changed"
                return Problem("node", None, text)
    return None


async def _read_checkpoints(services: Services, session: AsyncSession) -> tuple[list[_Head], list[Problem]]:
    key = log_key(services)
    heads: list[_Head] = []
    problems: list[Problem] = []
    rows = await session.stream(
        sa.select(AuditCheckpoint.size, AuditCheckpoint.root, AuditCheckpoint.note)
        .order_by(AuditCheckpoint.size)
        .execution_options(yield_per=_PAGE)
    )
    async for size, root, note in rows:
        try:
            signed = notes.open_note(note, key)
        except notes.BadNote:
            signed = None
        if signed is None or (signed.size, signed.root) != (size, root):
            if not problems:
                text = f"the checkpoint of {size} entries is not signed by this log's key as it stands"
                problems.append(Problem("checkpoint", None, text))
            continue
        heads.append(_Head(size, root, f"the checkpoint of {size} entries"))
    return heads, problems


async def _read_copies(services: Services) -> tuple[list[_Head], list[Problem]]:
    heads: list[_Head] = []
    problems: list[Problem] = []
    async for version in copies(services):
        try:
            copy = await read_copy(services, version)
        except Corrupt as error:
            if not problems:
                problems.append(Problem("copy", None, error.message))
            continue
        heads.append(_Head(copy.size, copy.root, f"the object store's copy of {copy.size} entries"))
    return heads, problems


async def _count(session: AsyncSession, condition: sa.ColumnElement[bool]) -> int:
    rows = await session.execute(sa.select(sa.func.count()).select_from(AuditEntry).where(condition))
    return int(rows.scalar_one())
