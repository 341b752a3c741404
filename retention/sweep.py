"""The daily sweep: what is due goes, unless suddenly too much is.

1. Erasures that an earlier run did not finish are resumed.
2. Every candidate is decided afresh by the engine; its stored decision only proposed it. A dry run
   is this step, and nothing but this step.
3. The bulk brake compares what would go with what there is, before the first of them goes. Originals
   with a card security code are exempt: nothing may delay them.
4. Each due recording gets an erasure, which judges it once more under lock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from retention.decision import Decision
from retention.engine import decide_case
from retention.erasure import ErasureResult, Scope
from retention.errors import AbsenceNotProved, Misuse, Unavailable
from retention.model import Ground
from retention.ports import SweepPort

__all__ = ["BulkBrake", "Finding", "Sweep", "SweepReport"]


@dataclass(frozen=True, slots=True)
class BulkBrake:
    """How much one sweep may erase without a second person.

    Attributes:
        share: Of all living recordings, between 0 and 1.
        count: In number, whatever the share.
        spare: So few never stop a sweep by their share, which in a small estate is always large.
    """

    share: float = 0.05
    count: int = 1000
    spare: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.count < 0 or self.spare < 0:
            raise Misuse("a bulk brake has a share between 0 and 1, and counts from 0")

    def stops(self, due: int, population: int) -> bool:
        """Whether `due` of `population` is too much at once."""
        return due > self.count or (due > self.spare and due > self.share * population)


@dataclass(frozen=True, slots=True)
class Finding:
    """A recording that goes.

    Attributes:
        recording_id: Which.
        ground: On which ground.
        scope: ``recording``, or ``original`` for a card security code.
        decision: Why.
    """

    recording_id: str
    ground: Ground
    scope: Scope
    decision: Decision


@dataclass(slots=True)
class SweepReport:
    """What a sweep found and did.

    Attributes:
        now: Its instant.
        dry_run: Whether it only looked.
        considered: How many candidates were decided afresh.
        due: What goes (dry run: would go).
        stale: Candidates that are not due after all; their decisions were stored anew.
        braked: Whether the bulk brake stopped it before anything went.
        approval_id: The approval to be granted by a second person, if braked.
        erased: Recording ids (with scope ``original``: whose original) that went.
        kept: Recording ids that the judgement under lock kept after all.
        elsewhere: Recording ids (of resumed erasures, theirs) that another worker has in hand or has
            finished meanwhile.
        resumed: Ids of unfinished erasures that were brought to their end.
        failed: By erasure or recording id, the name of the error; to be tried again by the next run.
    """

    now: datetime
    dry_run: bool
    considered: int = 0
    due: list[Finding] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    braked: bool = False
    approval_id: str | None = None
    erased: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Sweep:
    """Finds what is due and hands it to erasure.

    Args:
        port: The catalogue; see `retention.ports.SweepPort`.
        erase: Runs an erasure to its end, usually `retention.erasure.Erasure.run`. None says that
            another worker has it in hand, or has finished it.
        limits: The bulk brake.
        page: Candidates fetched at a time.
    """

    def __init__(
        self,
        port: SweepPort,
        erase: Callable[[str], Awaitable[ErasureResult | None]],
        limits: BulkBrake | None = None,
        page: int = 500,
    ) -> None:
        if page < 1:
            raise Misuse("a page holds at least one candidate")
        self._port = port
        self._erase = erase
        self._limits = limits or BulkBrake()
        self._page = page

    async def run(self, now: datetime, *, dry_run: bool = False, approval: str | None = None) -> SweepReport:
        """Sweep once.

        Args:
            now: The instant at which everything is decided; aware.
            dry_run: Only report.
            approval: Id of an approval by a second person for more than the brake lets through.

        Raises:
            Unavailable: The catalogue is away; nothing or part of it was done, run again.
        """
        report = SweepReport(now, dry_run)
        if not dry_run:
            await self._resume(report)
        await self._decide(report)
        if dry_run:
            report.braked = self._limits.stops(self._whole(report), await self._port.population())
            return report
        free = await self._let_through(report, approval)
        for finding in report.due:
            if free or finding.scope is Scope.ORIGINAL:
                await self._erase_one(finding, report)
        return report

    async def _resume(self, report: SweepReport) -> None:
        for erasure_id in await self._port.unfinished(self._page):
            if await self._attempt(erasure_id, erasure_id, report) is not None:
                report.resumed.append(erasure_id)

    async def _decide(self, report: SweepReport) -> None:
        after: str | None = None
        while ids := await self._port.due(report.now, self._page, after):
            for recording_id in ids:
                await self._decide_one(recording_id, report)
            after = ids[-1]

    async def _decide_one(self, recording_id: str, report: SweepReport) -> None:
        case = await self._port.case(recording_id)
        if case is None:
            return
        report.considered += 1
        decision = decide_case(case, report.now)
        if decision.due:
            report.due.append(Finding(recording_id, decision.ground, Scope.RECORDING, decision))
        elif decision.destroy_original:
            report.due.append(Finding(recording_id, Ground.CARD_SECURITY, Scope.ORIGINAL, decision))
        else:
            report.stale.append(recording_id)
            if not report.dry_run:
                await self._port.settle(recording_id, decision.to_json(), report.now)

    async def _let_through(self, report: SweepReport, approval: str | None) -> bool:
        count = self._whole(report)
        population = await self._port.population()
        if not self._limits.stops(count, population):
            return True
        if approval is not None and await self._port.use_approval(approval, count, report.now):
            return True
        known = await self._port.brake(count, population, report.now)
        if await self._port.use_approval(known, count, report.now):
            return True
        report.braked, report.approval_id = True, known
        return False

    @staticmethod
    def _whole(report: SweepReport) -> int:
        """What the brake counts: a card security code goes at once, and its recording lives on."""
        return sum(finding.scope is Scope.RECORDING for finding in report.due)

    async def _erase_one(self, finding: Finding, report: SweepReport) -> None:
        recording_id = finding.recording_id
        erasure_id = await self._port.open_erasure(
            recording_id, str(finding.ground), str(finding.scope), report.now
        )
        if erasure_id is None:
            report.elsewhere.append(recording_id)
            return
        result = await self._attempt(erasure_id, recording_id, report)
        if result is not None:
            (report.erased if result.erased else report.kept).append(recording_id)

    async def _attempt(self, erasure_id: str, name: str, report: SweepReport) -> ErasureResult | None:
        """One erasure that cannot be finished now must not stop the others."""
        try:
            result = await self._erase(erasure_id)
            if result is None:
                report.elsewhere.append(name)
            return result
        except (Unavailable, AbsenceNotProved) as error:
            report.failed[name] = type(error).__name__
            return None
