"""Erasure as a resumable sequence of steps, each of which is safe to repeat.

    begin ─► rewrap_kept ─► destroy_keys ─► delete_objects ⇄ prove_absence ─► tombstone ─► certificate
      │                                                                                        └─► finish
      └───► abandon                (nothing to erase: the recording stays, with its reason)

The machine has no memory of its own: the port stores the name of the last completed step in the
transaction of that step. A process that dies anywhere therefore repeats at most the one step it was
in. `begin` is the last moment at which anything can stop an erasure; what it marked goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from retention.engine import judge
from retention.errors import AbsenceNotProved, Misuse
from retention.model import Case, Ground, Verdict
from retention.ports import ErasurePort, ErasureState

__all__ = ["ORDER", "PROOF_ATTEMPTS", "Erasure", "ErasureResult", "Scope", "Step", "next_step"]

PROOF_ATTEMPTS = 3
"""How often objects are deleted and looked for before the erasure gives up for this run."""


class Scope(StrEnum):
    """What one erasure covers."""

    RECORDING = "recording"
    CUSTOMER = "customer"
    ORIGINAL = "original"


class Step(StrEnum):
    """The steps, as stored."""

    BEGIN = "begin"
    ABANDON = "abandon"
    REWRAP_KEPT = "rewrap_kept"
    DESTROY_KEYS = "destroy_keys"
    DELETE_OBJECTS = "delete_objects"
    PROVE_ABSENCE = "prove_absence"
    TOMBSTONE = "tombstone"
    CERTIFICATE = "certificate"
    FINISH = "finish"


ORDER = (
    Step.BEGIN,
    Step.REWRAP_KEPT,
    Step.DESTROY_KEYS,
    Step.DELETE_OBJECTS,
    Step.PROVE_ABSENCE,
    Step.TOMBSTONE,
    Step.CERTIFICATE,
    Step.FINISH,
)
"""The way of an erasure that finds something to erase."""


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """How an erasure ended.

    Attributes:
        erasure_id: The erasure.
        erased: Whether it ran to its end; False if everything in its scope had to stay.
        outcomes: By recording id, ``{"outcome", "code", "until"}`` as the port stored them.
    """

    erasure_id: str
    erased: bool
    outcomes: Mapping[str, Mapping[str, str]]


def next_step(state: ErasureState) -> Step | None:
    """The step to run now, or None when the erasure is over.

    A customer's erasure runs to its end even if every recording stays: the customer's own record
    goes, and what stays gets a fresh key.

    Raises:
        Misuse: The stored step is not one of these.
    """
    if state.step is None:
        return Step.BEGIN
    try:
        step, scope = Step(state.step), Scope(state.scope)
    except ValueError as error:
        raise Misuse("a stored erasure with an unknown step or scope") from error
    if step in (Step.FINISH, Step.ABANDON):
        return None
    if step is Step.BEGIN and state.to_erase == 0 and scope is not Scope.CUSTOMER:
        return Step.ABANDON
    return ORDER[ORDER.index(step) + 1]


class Erasure:
    """Runs erasures over a port.

    Args:
        port: The world; see `retention.ports.ErasurePort`.
        clock: Gives each step its time, aware.
    """

    def __init__(self, port: ErasurePort, clock: Callable[[], datetime]) -> None:
        self._port = port
        self._clock = clock
        self._steps: Mapping[Step, Callable[[str, datetime], Awaitable[object]]] = {
            Step.BEGIN: self._begin,
            Step.ABANDON: port.abandon,
            Step.REWRAP_KEPT: port.rewrap_kept,
            Step.DESTROY_KEYS: port.destroy_keys,
            Step.DELETE_OBJECTS: port.delete_objects,
            Step.PROVE_ABSENCE: self._prove_absence,
            Step.TOMBSTONE: port.tombstone,
            Step.CERTIFICATE: port.certificate,
            Step.FINISH: port.finish,
        }

    async def run(self, erasure_id: str) -> ErasureResult:
        """Run an erasure from wherever it stands to its end. Running a finished one changes nothing.

        Raises:
            UnknownErasure: No such erasure.
            Unavailable: A store or the catalogue is away; run again later.
            AbsenceNotProved: The store still lists what was deleted; run again later.
            Misuse: The port broke its contract (a step that did not record itself).
        """
        state = await self._port.state(erasure_id)
        if state.scope == Scope.ORIGINAL and state.ground != Ground.CARD_SECURITY:
            raise Misuse("only a card security code destroys an original by itself")
        while (step := next_step(state)) is not None:
            await self._steps[step](erasure_id, self._clock())
            before, state = state, await self._port.state(erasure_id)
            if state.step == before.step:
                raise Misuse(f"step {step} returned without recording itself")
        outcomes = await self._port.outcomes(erasure_id)
        return ErasureResult(erasure_id, state.step == Step.FINISH, outcomes)

    async def _begin(self, erasure_id: str, now: datetime) -> int:
        def verdict(case: Case, ground: str) -> Verdict:
            return judge(case, ground, now)

        return await self._port.begin(erasure_id, verdict, now)

    async def _prove_absence(self, erasure_id: str, now: datetime) -> None:
        leftovers = await self._port.prove_absence(erasure_id, now)
        for _ in range(PROOF_ATTEMPTS - 1):
            if leftovers == 0:
                return
            await self._port.delete_objects(erasure_id, self._clock())
            leftovers = await self._port.prove_absence(erasure_id, self._clock())
        if leftovers:
            raise AbsenceNotProved(erasure_id, leftovers)
