"""A complete world in memory behind the sweep's and the erasure's ports.

It has transactions: a step's changes and its audit entry appear together or not at all. It has
places to die: `crash` is called before, inside and after every transaction, and around every
single deletion in the object store, and may raise.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from retention.decision import Decision
from retention.erasure import ORDER
from retention.errors import Unavailable, UnknownErasure
from retention.model import Case
from retention.ports import ErasureState, Judge


@dataclass
class StoredRecording:
    case: Case
    customer: str
    key: str
    """The subject key under which its data key is wrapped."""
    data_keys: dict[str, str | None]
    """By object, the wrapped data key; None once destroyed."""
    state: str = "stored"
    original_refused: bool = False
    decision: Decision | None = None

    def __deepcopy__(self, memo: object) -> StoredRecording:
        return replace(self, data_keys=dict(self.data_keys))  # the rest is frozen


@dataclass
class StoredErasure:
    ground: str
    scope: str
    target: str
    step: str | None = None
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    proved: tuple[str, ...] = ()
    certificate: tuple[str, ...] | None = None


@dataclass
class Tables:
    """What a database would hold; copied whole for a transaction."""

    recordings: dict[str, StoredRecording] = field(default_factory=dict)
    erasures: dict[str, StoredErasure] = field(default_factory=dict)
    keys: dict[str, str | None] = field(default_factory=dict)
    tombstones: set[str] = field(default_factory=set)
    approvals: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """By id: for how many, and whether granted; spent ones are deleted."""
    audit: list[tuple[str, str]] = field(default_factory=list)


def _no_crash(place: str) -> None:
    """Nobody dies here."""


class MemoryWorld:
    """Implements `SweepPort` and `ErasurePort`."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.bucket: set[tuple[str, str]] = set()
        self.crash: Callable[[str], None] = _no_crash
        self.away = False
        self.stubborn = 0
        """How many deletions the store acknowledges without doing."""

    @contextmanager
    def transaction(self, name: str) -> Iterator[Tables]:
        self.crash(f"{name}: before")
        draft = copy.deepcopy(self.tables)
        yield draft
        self.crash(f"{name}: before commit")
        self.tables = draft
        self.crash(f"{name}: after commit")

    # -- setting the scene -----------------------------------------------------------------------

    def add(self, recording_id: str, case: Case, customer: str = "c1") -> None:
        objects = {f"{recording_id}-original", f"{recording_id}-rendition"}
        self.tables.keys.setdefault(customer, f"key-of-{customer}")
        self.tables.recordings[recording_id] = StoredRecording(
            case, customer, customer, {name: f"wrapped-{name}" for name in sorted(objects)}
        )
        self.bucket |= {(name, version) for name in objects for version in ("v1", "v2")}

    def put_erasure(self, erasure_id: str, ground: str, scope: str, target: str) -> None:
        self.tables.erasures[erasure_id] = StoredErasure(ground, scope, target)

    def readable(self, recording_id: str) -> bool:
        """Whether someone holding everything that is left could still hear the original."""
        recording = self.tables.recordings[recording_id]
        name = f"{recording_id}-original"
        has_bytes = any(stored == name for stored, _ in self.bucket)
        has_keys = recording.data_keys[name] is not None and self.tables.keys.get(recording.key) is not None
        return has_bytes and has_keys

    # -- erasure ---------------------------------------------------------------------------------

    def _erasure(self, tables: Tables, erasure_id: str) -> StoredErasure:
        if erasure_id not in tables.erasures:
            raise UnknownErasure(erasure_id)
        return tables.erasures[erasure_id]

    def _going(self, tables: Tables, erasure: StoredErasure) -> list[str]:
        return sorted(r for r, o in erasure.outcomes.items() if o["outcome"] == "erased")

    def _objects(self, tables: Tables, erasure: StoredErasure) -> list[str]:
        names = [n for r in self._going(tables, erasure) for n in tables.recordings[r].data_keys]
        return [n for n in names if n.endswith("-original")] if erasure.scope == "original" else names

    def _passed(self, erasure: StoredErasure, step: str) -> bool:
        """Whether this step is behind: a slower worker must neither repeat nor unwind it."""
        order = [str(s) for s in ORDER]
        if erasure.step is None or erasure.step not in order or step not in order:
            return erasure.step == step
        return order.index(erasure.step) >= order.index(step)

    def _done(self, tables: Tables, erasure_id: str, step: str) -> None:
        tables.erasures[erasure_id].step = step
        tables.audit.append((erasure_id, step))

    async def state(self, erasure_id: str) -> ErasureState:
        erasure = self._erasure(self.tables, erasure_id)
        return ErasureState(
            erasure.ground, erasure.scope, erasure.step, len(self._going(self.tables, erasure))
        )

    async def begin(self, erasure_id: str, judge: Judge, now: datetime) -> int:
        with self.transaction("begin") as tables:
            erasure = self._erasure(tables, erasure_id)
            if erasure.step is not None:
                return len(self._going(tables, erasure))
            for recording_id, recording in tables.recordings.items():
                mine = recording.customer if erasure.scope == "customer" else recording_id
                if mine != erasure.target or recording.state != "stored":
                    continue
                verdict = judge(recording.case, erasure.ground)
                erasure.outcomes[recording_id] = {
                    "outcome": "erased" if verdict.erase else "kept",
                    "code": verdict.code,
                    "until": "" if verdict.until is None else verdict.until.isoformat(),
                }
                if verdict.erase and erasure.scope == "original":
                    recording.original_refused = True
                elif verdict.erase:
                    recording.state = "erasing"
            self._done(tables, erasure_id, "begin")
            return len(self._going(tables, erasure))

    async def abandon(self, erasure_id: str, now: datetime) -> None:
        self._record(erasure_id, "abandon")

    def _record(self, erasure_id: str, step: str) -> None:
        with self.transaction(step) as tables:
            if not self._passed(self._erasure(tables, erasure_id), step):
                self._done(tables, erasure_id, step)

    async def rewrap_kept(self, erasure_id: str, now: datetime) -> None:
        with self.transaction("rewrap_kept") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "rewrap_kept"):
                return
            if erasure.scope == "customer":
                fresh = f"{erasure.target}-fresh-{erasure_id}"
                kept = [r for r, o in erasure.outcomes.items() if o["outcome"] == "kept"]
                for recording_id in kept:
                    tables.recordings[recording_id].key = fresh
                    tables.keys[fresh] = f"key-of-{fresh}"
            self._done(tables, erasure_id, "rewrap_kept")

    async def destroy_keys(self, erasure_id: str, now: datetime) -> None:
        with self.transaction("destroy_keys") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "destroy_keys"):
                return
            for name in self._objects(tables, erasure):
                tables.recordings[name.rsplit("-", 1)[0]].data_keys[name] = None
            if erasure.scope == "customer":
                tables.keys[erasure.target] = None
            self._done(tables, erasure_id, "destroy_keys")

    async def delete_objects(self, erasure_id: str, now: datetime) -> None:
        if self.away:
            raise Unavailable("the store is away")
        names = set(self._objects(self.tables, self._erasure(self.tables, erasure_id)))
        for item in sorted(self.bucket):
            if item[0] not in names:
                continue
            self.crash(f"delete {item}: before")
            if self.stubborn > 0:
                self.stubborn -= 1
            else:
                self.bucket.discard(item)
            self.crash(f"delete {item}: after")
        self._record(erasure_id, "delete_objects")

    async def prove_absence(self, erasure_id: str, now: datetime) -> int:
        names = set(self._objects(self.tables, self._erasure(self.tables, erasure_id)))
        left = sum(name in names for name, _ in self.bucket)
        if left:
            return left
        with self.transaction("prove_absence") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "prove_absence"):
                return 0
            erasure.proved = tuple(sorted(names))
            self._done(tables, erasure_id, "prove_absence")
        return 0

    async def tombstone(self, erasure_id: str, now: datetime) -> None:
        with self.transaction("tombstone") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "tombstone"):
                return
            if erasure.scope != "original":
                tables.tombstones |= {
                    hashlib.sha256(r.encode()).hexdigest() for r in self._going(tables, erasure)
                }
            self._done(tables, erasure_id, "tombstone")

    async def certificate(self, erasure_id: str, now: datetime) -> None:
        with self.transaction("certificate") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "certificate"):
                return
            erasure.certificate = erasure.certificate or (erasure.ground, *erasure.proved)
            self._done(tables, erasure_id, "certificate")

    async def finish(self, erasure_id: str, now: datetime) -> None:
        with self.transaction("finish") as tables:
            erasure = self._erasure(tables, erasure_id)
            if self._passed(erasure, "finish"):
                return
            for recording_id in self._going(tables, erasure):
                if erasure.scope != "original":
                    tables.recordings[recording_id].state = "erased"
            self._done(tables, erasure_id, "finish")

    async def outcomes(self, erasure_id: str) -> Mapping[str, Mapping[str, str]]:
        return self._erasure(self.tables, erasure_id).outcomes

    # -- sweep -----------------------------------------------------------------------------------

    async def unfinished(self, limit: int) -> Sequence[str]:
        over = ("finish", "abandon")
        return [e for e, row in sorted(self.tables.erasures.items()) if row.step not in over][:limit]

    async def due(self, now: datetime, limit: int, after: str | None) -> Sequence[str]:
        living = [r for r, row in sorted(self.tables.recordings.items()) if row.state == "stored"]
        return [r for r in living if after is None or r > after][:limit]

    async def case(self, recording_id: str) -> Case | None:
        recording = self.tables.recordings[recording_id]
        return recording.case if recording.state == "stored" else None

    async def population(self) -> int:
        return sum(row.state == "stored" for row in self.tables.recordings.values())

    async def settle(self, recording_id: str, decision: Mapping[str, object], now: datetime) -> None:
        self.tables.recordings[recording_id].decision = Decision.from_json(decision)

    async def brake(self, count: int, population: int, now: datetime) -> str:
        for approval_id, (covers, _) in self.tables.approvals.items():
            if covers >= count:
                return approval_id
        approval_id = f"approval-{len(self.tables.approvals) + 1}"
        self.tables.approvals[approval_id] = (count, False)
        self.tables.audit.append((approval_id, "brake"))
        return approval_id

    async def use_approval(self, approval_id: str, count: int, now: datetime) -> bool:
        covers, granted = self.tables.approvals.get(approval_id, (0, False))
        if not granted or covers < count:
            return False
        del self.tables.approvals[approval_id]
        return True

    async def open_erasure(self, recording_id: str, ground: str, scope: str, now: datetime) -> str | None:
        erasure_id = f"erasure-{scope}-{recording_id}"
        with self.transaction("open_erasure") as tables:
            row = tables.erasures.get(erasure_id)
            if row is None or row.step == "abandon":
                tables.erasures[erasure_id] = StoredErasure(ground, scope, recording_id)
        return None if row is not None and row.step == "finish" else erasure_id
