"""Changing a retention schedule, for a signed-in person: store, simulate, activate with a second person."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from recorder.access.approvals import ApprovalView, request_approval, use_approval
from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.catalogue.tables import Approval, Controller, ScheduleVersion
from recorder.disposition import other_records, schedules
from recorder.disposition.estate import Progress, simulate
from recorder.disposition.facts import active_schedule
from recorder.errors import Conflict, Forbidden, NotFound
from recorder.services import Services
from retention.model import Schedule
from retention.shortening import Stricter, stricter
from retention.simulate import Comparison

STEP: Final = "schedule_activate"
# By how much more may go at the activation than was approved: calls that reached their day meanwhile.
_TOLERANCE: Final = 1.1
_SPARE: Final = 20


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a schedule would do to what there is now.

    Attributes:
        controller_id: Whose recordings.
        against: Version in force, to which it was compared; 0 where none is.
        version: The simulated schedule's own number.
        document_sha256: Of its text.
        comparison: The counts.
        records: Of the other records, by kind: how many are due now by the version in force, and by this.
        stricter: What of the rules cannot be shown to keep as long as those in force, whatever there is.
        shortens_records: Whether records that are there would go earlier than by the version in force.
    """

    controller_id: uuid.UUID
    against: int
    version: int
    document_sha256: str
    comparison: Comparison
    records: Mapping[str, tuple[int, int]]
    shortens_records: bool
    stricter: tuple[Stricter, ...] = ()

    @property
    def needs_approval(self) -> bool:
        """Whether a second person must agree: a schedule is in force, and this one shortens something."""
        shorter = self.comparison.shortens or self.shortens_records or bool(self.stricter)
        return self.against > 0 and shorter

    def to_json(self) -> dict[str, Any]:
        """As builtins, with a digest that an approval is bound to."""
        report = {
            "controller": str(self.controller_id),
            "against": self.against,
            "version": self.version,
            "document_sha256": self.document_sha256,
            "needs_approval": self.needs_approval,
            **self.comparison.to_json(),
            "records": [
                {"record": name, "due_old": old, "due_new": new} for name, (old, new) in self.records.items()
            ],
            "shortens_records": self.shortens_records,
            "stricter": [asdict(found) for found in self.stricter],
        }
        text = json.dumps(report, sort_keys=True, separators=(",", ":"))
        return {**report, "digest": hashlib.sha256(text.encode()).hexdigest()}

    def to_approve(self) -> dict[str, Any]:
        """What a second person agrees to: this document, with this effect."""
        report = self.to_json()
        return {
            "document_sha256": self.document_sha256,
            "simulation": report["digest"],
            "against": self.against,
            "erased_now": self.comparison.due_new[0].count,
            "closed_now": _closed(self.comparison),
            "records_now": sum(new for _, new in self.records.values()),
        }


async def store(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    document: str,
    *,
    request_id: str | None,
) -> ScheduleVersion:
    """Store a new version as a draft; nothing changes until it is activated.

    Raises:
        Forbidden: the caller does not manage schedules here.
        InvalidInput: the document is no usable schedule; with line and column of each problem.
        Conflict: its number is not the next one.
    """
    await _permit(services, principal, Action.MANAGE_SCHEDULES, controller_id, request_id)
    async with services.database.transaction() as session:
        return await schedules.add_version(
            session, controller_id, document, actor=principal.actor, now=services.clock.now()
        )


async def simulate_document(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    document: str,
    *,
    progress: Progress | None = None,
    request_id: str | None = None,
) -> Simulation:
    """What a document would change if it were in force now, over all recordings. Nothing is stored.

    Raises:
        Forbidden: the caller may not see schedules here.
        InvalidInput: the document is no usable schedule; with line and column of each problem.
    """
    await _permit(services, principal, Action.VIEW_SCHEDULES, controller_id, request_id)
    return await _simulate(services, controller_id, document, progress)


async def simulate_version(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    version: int,
    *,
    progress: Progress | None = None,
    request_id: str | None = None,
) -> Simulation:
    """The same for a stored version.

    Raises:
        Forbidden: the caller may not see schedules here.
        NotFound: there is no such version.
    """
    await _permit(services, principal, Action.VIEW_SCHEDULES, controller_id, request_id)
    async with services.database.snapshot() as session:
        document = (await schedules.get(session, controller_id, version)).document
    return await _simulate(services, controller_id, document, progress)


async def activate(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    version: int,
    *,
    approval_id: uuid.UUID | None = None,
    progress: Progress | None = None,
    request_id: str | None = None,
) -> tuple[ScheduleVersion | ApprovalView, Simulation | None]:
    """Put a stored version in force; where it shortens anything, with a second person's approval.

    Returns:
        The version now in force, or the approval that is waited for; and the simulation that decided which,
        None if the version is in force already.

    Raises:
        Forbidden: the caller does not manage schedules here, or the approval does not cover this.
        NotFound: there is no such version.
        Conflict: a newer version is in force; or more would go by now than was approved.
    """
    await _permit(services, principal, Action.MANAGE_SCHEDULES, controller_id, request_id)
    async with services.database.snapshot() as session:
        row = await schedules.get(session, controller_id, version)
        if row.activated_at is not None:
            return row, None
    simulation = await _simulate(services, controller_id, row.document, progress)
    now, target = services.clock.now(), f"{controller_id}:{version}"
    async with services.database.transaction() as session:
        # What was compared must still be what is in force when this commits.
        await session.get(Controller, controller_id, with_for_update={"key_share": True})
        if (await active_schedule(session, controller_id)).version != simulation.against:
            raise Conflict("another version came into force meanwhile; simulate again")
        if simulation.needs_approval:
            details = simulation.to_approve()
            if approval_id is None:
                asked = await request_approval(
                    session,
                    principal,
                    controller_id=controller_id,
                    action=STEP,
                    target=target,
                    details=details,
                    now=now,
                    request_id=request_id,
                )
                return asked, simulation
            approval = await session.get(Approval, approval_id)
            if approval is None:
                raise Forbidden("The approval is for something else.", reason="approval-mismatch")
            _within(details, approval.details)
            await use_approval(
                session,
                approval_id,
                actor=principal.actor,
                controller_id=controller_id,
                action=STEP,
                target=target,
                details=approval.details,
                now=now,
                request_id=request_id,
            )
        row = await schedules.activate(
            session,
            controller_id,
            version,
            actor=principal.actor,
            now=now,
            approval_id=approval_id if simulation.needs_approval else None,
        )
    return row, simulation


def _within(details: Mapping[str, Any], approved: Mapping[str, Any]) -> None:
    """Nothing else, and not much more, than what was approved.

    Raises:
        Forbidden: another document, or compared with another version.
        Conflict: the estate changed so that much more would go.
    """
    if any(details[key] != approved.get(key) for key in ("document_sha256", "against")):
        raise Forbidden("The approval is for something else.", reason="approval-mismatch")
    for key in ("erased_now", "closed_now", "records_now"):
        if details[key] > approved.get(key, 0) * _TOLERANCE + _SPARE:
            raise Conflict("more would go by now than was approved: ask again", kind="simulation-outdated")


async def _simulate(
    services: Services, controller_id: uuid.UUID, document: str, progress: Progress | None
) -> Simulation:
    async with services.database.snapshot() as session:
        controller = await session.get(Controller, controller_id)
        if controller is None:
            raise NotFound("no such controller")
        old: Schedule = await active_schedule(session, controller_id)
    new = schedules.check(document, controller=controller.code, country=controller.country)
    now = services.clock.now()
    comparison = await simulate(services, controller, old, new, now, progress=progress)
    async with services.database.snapshot() as session:
        before = await other_records.count(session, controller_id, now, schedule=old)
        after = await other_records.count(session, controller_id, now, schedule=new)
    records = {b.name: (b.due, a.due) for b, a in zip(before, after, strict=True)}
    present = {found.name for found in after if found.total}
    shortens = other_records.shortened(old, new, now, controller.time_zone) & present
    digest = hashlib.sha256(document.encode()).hexdigest()
    return Simulation(
        controller_id,
        old.version,
        new.version,
        digest,
        comparison,
        records,
        bool(shortens),
        stricter(old, new),
    )


def _closed(comparison: Comparison) -> int:
    return sum(movement.closed.count for movement in comparison.movements.values())


async def _permit(
    services: Services,
    principal: Principal,
    action: Action,
    controller_id: uuid.UUID,
    request_id: str | None,
) -> None:
    await permit(services, principal, action, controller_id=controller_id, request_id=request_id)
