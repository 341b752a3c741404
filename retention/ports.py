"""What the sweep and the erasure ask of the world.

The service implements these protocols structurally. Ids are opaque strings, everything else is
builtins, times, or a value of `retention.model`. Rules for every implementation:

- A method that changes something commits the change *and its audit entry in one transaction*, so
  there is no audit port. A method that returns has committed; one that raises may have committed.
- Every method is idempotent: called again with the same arguments, also after a crash in its
  middle or by two workers at once, it ends in the same state and writes no second audit entry. A
  step that is already behind does nothing: the stored step never moves backwards.
- A dependency that is away raises `retention.errors.Unavailable` (or a subclass): the caller
  stops this erasure and a later run resumes it. Any other exception is a defect.
- `tests/retention/memory_port.py` is a complete implementation to compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from retention.model import Case, Verdict

__all__ = ["ErasurePort", "ErasureState", "Judge", "SweepPort"]

Judge = Callable[[Case, str], Verdict]
"""``(case, ground) -> verdict``: pure and synchronous, so it is safe inside a transaction."""


class ErasureState(NamedTuple):
    """Where an erasure stands, as stored.

    Attributes:
        ground: A value of `retention.model.Ground`.
        scope: ``recording``, ``customer`` or ``original`` (the original audio of one recording,
            whose muted derivative lives on; only with ground ``card_security``).
        step: Name of the last completed step, or None before the first one.
        to_erase: How many recordings `begin` found erasable; 0 before `begin`.
    """

    ground: str
    scope: str
    step: str | None
    to_erase: int


class ErasurePort(Protocol):
    """One method per step of erasure, in this order; see `retention.erasure` for the machine.

    The row of the erasure (id, ground, scope, target, step) exists before the machine runs:
    `SweepPort.open_erasure`, or the service's own use case for a request, creates it.
    """

    async def state(self, erasure_id: str) -> ErasureState:
        """Read where the erasure stands.

        Raises:
            UnknownErasure: There is no such erasure.
        """
        ...

    async def begin(self, erasure_id: str, judge: Judge, now: datetime) -> int:
        """Decide, under lock, what goes and what stays, and mark what goes as ``erasing``.

        Atomic, one transaction: lock the erasure, the customer and its recordings against new
        holds, choices and schedule versions; build a fresh `Case` for every recording in scope;
        call ``judge(case, ground)`` for each; store per recording ``erased`` or ``kept`` with the
        verdict's code and date; set the state ``erasing`` (410 from here on, and a hold can no
        longer be placed) on those that go; record step ``begin`` and the audit entry. With scope
        ``original`` the recording is not marked: only its original is refused from here on.

        Idempotent: if ``begin`` is already recorded, return the stored count without judging again.

        Returns:
            How many recordings go. 0 with scope ``recording`` or ``original`` makes the machine
            call `abandon`.
        """
        ...

    async def abandon(self, erasure_id: str, now: datetime) -> None:
        """End an erasure whose recording must stay, with its reason. Records step ``abandon``.

        Nothing was marked. A later ground or a fallen hold opens a new erasure.
        """
        ...

    async def rewrap_kept(self, erasure_id: str, now: datetime) -> None:
        """Give what stays of this customer a fresh key, and re-wrap its data keys under it.

        Atomic: the new subject key, every re-wrapped data key (and sealed field that is kept) and
        step ``rewrap_kept``. Nothing is destroyed yet. For one recording of a living customer
        there is nothing to do but record the step. Re-read the wraps under lock: a re-wrap by a
        concurrent key rotation must not be lost.
        """
        ...

    async def destroy_keys(self, erasure_id: str, now: datetime) -> None:
        """Destroy the wrapped keys; from here the audio cannot be read by anyone.

        Scope ``recording`` and ``original``: the data keys of every object in scope. Scope
        ``customer``: those, and the customer's old subject key. Atomic with step
        ``destroy_keys``. On SQLite complete only after a WAL checkpoint that was not busy. Mark
        the subject as owed a new key at the next epoch, because its old one opens old backups.
        """
        ...

    async def delete_objects(self, erasure_id: str, now: datetime) -> None:
        """Delete every version of every object in scope from the store.

        Original, renditions, redacted copies, peaks, clips, upload parts, spool files and caches;
        also delete markers. A legal hold of the store is lifted first where the ground is
        ``card_security``. Missing objects are success. Record ``delete_objects`` once the store
        has acknowledged all of it.
        """
        ...

    async def prove_absence(self, erasure_id: str, now: datetime) -> int:
        """List the store again and count the versions that are still there.

        Asks the store, never the catalogue. Only a count of 0 records step ``prove_absence``,
        with the time and the list of what was proved absent for the certificate. A positive
        count records nothing: the machine calls `delete_objects` again.

        Returns:
            How many versions are left.
        """
        ...

    async def tombstone(self, erasure_id: str, now: datetime) -> None:
        """Write a keyed hash of each erased recording's identity, so that no late push revives it.

        Also appends to the erasure ledger kept beside the log's checkpoints. Scope ``original``
        writes none, since the recording lives on; it records the step. Atomic with the step.
        """
        ...

    async def certificate(self, erasure_id: str, now: datetime) -> None:
        """Sign and store the certificate: objects and versions, key ids, times, ground, asker.

        No personal data, and the date after which no backup can hold a usable key. A repeated
        call keeps the first certificate.
        """
        ...

    async def finish(self, erasure_id: str, now: datetime) -> None:
        """Set the recordings ``erased``, delete their personal fields, close the erasure.

        Atomic with step ``finish`` and the closing audit entry.
        """
        ...

    async def outcomes(self, erasure_id: str) -> Mapping[str, Mapping[str, str]]:
        """What `begin` decided, by recording id.

        Returns:
            ``{recording_id: {"outcome": "erased" | "kept", "code": verdict code,
            "until": RFC 3339 or ""}}``; empty before `begin`.
        """
        ...


class SweepPort(Protocol):
    """What the daily sweep asks of the catalogue."""

    async def unfinished(self, limit: int) -> Sequence[str]:
        """Ids of erasures that were begun and not finished, oldest first, to be resumed."""
        ...

    async def due(self, now: datetime, limit: int, after: str | None) -> Sequence[str]:
        """Recording ids whose *stored* decision says that they may be due, in ascending id order.

        Candidates: stored ``erase_on`` <= `now`, stored ``reevaluate_at`` <= `now`, or a
        card-security destruction outstanding; not erased, not erasing. A superset is fine (each
        is decided afresh), a missing one is not.
        Rows that another worker has in hand are listed too, or the bulk brake would undercount.

        Args:
            now: The sweep's instant.
            limit: Page size.
            after: Last id of the page before, or None.
        """
        ...

    async def case(self, recording_id: str) -> Case | None:
        """Fresh facts, active schedule, holds, choices and requests; None if erased meanwhile."""
        ...

    async def population(self) -> int:
        """How many recordings are alive: the whole of which the bulk brake takes its share."""
        ...

    async def settle(self, recording_id: str, decision: Mapping[str, object], now: datetime) -> None:
        """Store a fresh decision (`Decision.to_json`) of a candidate that turned out not to be due."""
        ...

    async def brake(self, count: int, population: int, now: datetime) -> str:
        """Record that a sweep stopped because it would erase `count`, and ask a second person.

        Returns:
            Id of the approval: an unspent one for at least this count, granted or still pending,
            if there is one, else a new pending one.
        """
        ...

    async def use_approval(self, approval_id: str, count: int, now: datetime) -> bool:
        """Spend an approval that a second person has granted for at least `count`.

        Returns:
            False, changing nothing, if it is unknown, not granted, too small or spent.
        """
        ...

    async def open_erasure(self, recording_id: str, ground: str, scope: str, now: datetime) -> str | None:
        """Create the erasure of one recording, or find the open one.

        Atomic and unique per recording and scope: of two workers one gets the id and the other
        None (or the same id, whose steps are idempotent).

        Returns:
            Erasure id, or None if another worker has it or it is erased already.
        """
        ...
