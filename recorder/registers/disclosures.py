"""Disclosures: recordings given to somebody outside, on a lawful ground, with a second person's approval.

The register says that something was given and why; GDPR art. 19 notices are sent by it. What is handed over
is exported under the exporter's own right and purpose.

What may be given follows the recording's windows. An authority that asks gets what may be used for legal
protection or as evidence; a restriction leaves of that what statute and holds keep (art. 18). The person's
own request and a court's order reach what is restricted, too, and nothing whose time is over.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.approvals import ApprovalView, request_approval, use_approval
from recorder.access.guard import permit, refusals_recorded
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import RecordingState
from recorder.catalogue.tables import (
    Disclosure,
    DisclosureRecording,
    Recording,
    RecordingLink,
    RegisteredRecipient,
)
from recorder.disposition.facts import load_cases
from recorder.errors import Erased, Forbidden, NotFound
from recorder.registers.recipients import name_of, require_recipient
from recorder.registers.regions import require_regions
from recorder.rights.recipients import Recipient, register_source
from recorder.services import Services
from retention.decision import allows
from retention.engine import decide_case
from retention.model import Purpose

STEP: Final = "disclosure"
_EVIDENCE: Final = (Purpose.LEGAL_PROTECTION, Purpose.SERVICE_EVIDENCE)
GROUNDS: Final = frozenset({"customer_request", "authority_request", "court_order"})


@dataclass(frozen=True, slots=True)
class NewDisclosure:
    """What is to be given to whom; what is None makes it refused.

    Attributes:
        ground: one of ``GROUNDS``.
        reference: the request's or the order's number; no person's name.
    """

    recording_ids: tuple[uuid.UUID, ...]
    ground: str | None = None
    reference: str | None = None
    recipient_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class DisclosureView:
    """A disclosure and its recordings."""

    row: Disclosure
    recording_ids: tuple[uuid.UUID, ...]


async def disclose(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    new: NewDisclosure,
    *,
    approval_id: uuid.UUID | None,
    request_id: str,
) -> DisclosureView | ApprovalView:
    """Enter a disclosure that a second person approved; without an approval, ask for it.

    Returns:
        The disclosure, or the approval that is now waited for.

    Raises:
        Forbidden: the caller may not disclose here; no ground, reference or recipient; the recipient may not
            be given anything; a recording may not be given on this ground now; store or keys are where data
            may not be; the approval does not cover this.
        NotFound: no such recipient or recording at this controller.
        Erased: a recording is gone.
    """
    await permit(services, principal, Action.DISCLOSE, controller_id=controller_id, request_id=request_id)
    now = services.clock.now()
    async with (
        refusals_recorded(
            services,
            principal,
            "disclosure.refused",
            controller_id=controller_id,
            now=now,
            request_id=request_id,
        ),
        services.database.transaction() as session,
    ):
        return await _disclose(session, services, principal, controller_id, new, approval_id, now, request_id)


async def _disclose(
    session: AsyncSession,
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    new: NewDisclosure,
    approval_id: uuid.UUID | None,
    now: datetime,
    request_id: str,
) -> DisclosureView | ApprovalView:
    require_regions(services.settings, now)
    if new.ground not in GROUNDS:
        raise Forbidden(
            f"A disclosure needs a lawful ground: {', '.join(sorted(GROUNDS))}.", reason="disclosure-ground"
        )
    if not new.reference:
        raise Forbidden("A disclosure names its legal reference.", reason="disclosure-reference")
    if new.recipient_id is None:
        raise Forbidden("A disclosure names its recipient.", reason="disclosure-recipient")
    recipient = await require_recipient(session, new.recipient_id, now)
    if recipient.controller_id != controller_id:
        raise NotFound("no such recipient")
    recording_ids = sorted(set(new.recording_ids))
    await _lock_recordings(session, controller_id, recording_ids)
    await _require_open(session, recording_ids, new.ground, now)
    details = {
        "ground": new.ground,
        "reference": new.reference,
        "recordings": [str(recording_id) for recording_id in recording_ids],
    }
    if approval_id is None:
        return await request_approval(
            session,
            principal,
            controller_id=controller_id,
            action=STEP,
            target=str(recipient.id),
            now=now,
            details=details,
            request_id=request_id,
        )
    await use_approval(
        session,
        approval_id,
        actor=principal.actor,
        controller_id=controller_id,
        action=STEP,
        target=str(recipient.id),
        now=now,
        details=details,
        request_id=request_id,
    )
    row = Disclosure(
        id=uuid.uuid4(),
        controller_id=controller_id,
        recipient_id=recipient.id,
        ground=new.ground,
        reference=new.reference,
        approval_id=approval_id,
        disclosed_at=now,
        disclosed_by=principal.actor,
    )
    await enter(session, row, recording_ids, request_id=request_id)
    return DisclosureView(row, tuple(recording_ids))


async def enter(
    session: AsyncSession, row: Disclosure, recording_ids: Sequence[uuid.UUID], *, request_id: str
) -> None:
    """Put a disclosure on the register, and each of its recordings into the log."""
    session.add(row)
    await session.flush()
    for recording_id in recording_ids:
        session.add(DisclosureRecording(disclosure_id=row.id, recording_id=recording_id))
        event = AuditEvent(
            action="recording.disclosed",
            actor=row.disclosed_by,
            object_type="recording",
            object_id=str(recording_id),
            controller_id=row.controller_id,
            request_id=request_id,
            details={
                "disclosure": str(row.id),
                "recipient": str(row.recipient_id),
                "ground": row.ground,
                "approval": str(row.approval_id),
            },
        )
        record(session, event, now=row.disclosed_at)


async def list_disclosures(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    *,
    recording_id: uuid.UUID | None = None,
    recipient_id: uuid.UUID | None = None,
    limit: int = 200,
    request_id: str,
) -> list[DisclosureView]:
    """A controller's disclosures, the newest first.

    Raises:
        Forbidden: the caller may not see the registers here.
    """
    await permit(
        services, principal, Action.VIEW_REGISTERS, controller_id=controller_id, request_id=request_id
    )
    query = sa.select(Disclosure).where(Disclosure.controller_id == controller_id)
    if recipient_id is not None:
        query = query.where(Disclosure.recipient_id == recipient_id)
    if recording_id is not None:
        of = sa.select(DisclosureRecording.disclosure_id).where(
            DisclosureRecording.recording_id == recording_id
        )
        query = query.where(Disclosure.id.in_(of))
    async with services.database.snapshot() as session:
        query = query.order_by(Disclosure.disclosed_at.desc(), Disclosure.id).limit(limit)
        rows = list(await session.scalars(query))
        what: dict[uuid.UUID, list[uuid.UUID]] = {}
        pairs = sa.select(DisclosureRecording.disclosure_id, DisclosureRecording.recording_id).where(
            DisclosureRecording.disclosure_id.in_([row.id for row in rows])
        )
        for disclosure_id, disclosed_id in await session.execute(pairs):
            what.setdefault(disclosure_id, []).append(disclosed_id)
    return [DisclosureView(row, tuple(sorted(what.get(row.id, ())))) for row in rows]


async def logged_recipients(
    session: AsyncSession,
    services: Services,
    customer_id: uuid.UUID | None,
    recording_ids: Sequence[uuid.UUID],
) -> list[Recipient]:
    """Who was given any of these recordings, or any of a customer's: the source of GDPR art. 19 notices."""
    about = [DisclosureRecording.recording_id.in_(list(recording_ids))]
    if customer_id is not None:
        theirs = sa.select(RecordingLink.recording_id).where(RecordingLink.customer_id == customer_id)
        about.append(DisclosureRecording.recording_id.in_(theirs))
    given = (
        sa.select(Disclosure.recipient_id)
        .join(DisclosureRecording, DisclosureRecording.disclosure_id == Disclosure.id)
        .where(sa.or_(*about))
    )
    rows = await session.scalars(sa.select(RegisteredRecipient).where(RegisteredRecipient.id.in_(given)))
    # A person whose name was removed when they were ended cannot be told any more.
    named = [(row.id, await name_of(session, services, row)) for row in rows.all()]
    return [Recipient(recipient_id, name) for recipient_id, name in named if name]


register_source(logged_recipients)


async def _require_open(
    session: AsyncSession, recording_ids: Sequence[uuid.UUID], ground: str, now: datetime
) -> None:
    """Every recording may be given on this ground now, by a decision made afresh.

    Raises:
        Forbidden: one may not; the reason is the retention engine's code.
    """
    cases = await load_cases(session, recording_ids, now)
    for recording_id in recording_ids:
        decision = decide_case(cases[recording_id], now)
        if decision.destroy_original:
            raise Forbidden(
                "A recording holds a card security code that is to be destroyed first.",
                reason="card-security",
            )
        if ground == "authority_request":
            answers = [allows(decision, purpose, now) for purpose in _EVIDENCE]
            if not any(allowed for allowed, _ in answers):
                text = (
                    "A recording may not be given to an authority that asks: nothing keeps it for evidence."
                )
                raise Forbidden(text, reason=answers[0][1].code.replace("_", "-"))
        elif not any(
            window.contains(now) for window in (*decision.windows.values(), *decision.suspended.values())
        ):
            raise Forbidden("The time of a recording is over.", reason="window-closed")


async def _lock_recordings(
    session: AsyncSession, controller_id: uuid.UUID, recording_ids: Sequence[uuid.UUID]
) -> None:
    # Against an erasure that is deciding: who erases afterwards sees the disclosure, and tells its recipient.
    query = (
        sa.select(Recording)
        .where(Recording.id.in_(recording_ids), Recording.controller_id == controller_id)
        .order_by(Recording.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    found = list(await session.scalars(query))
    if len(found) != len(recording_ids) or not found:
        raise NotFound("no such recording")
    for recording in found:
        if recording.state is RecordingState.QUARANTINED:
            raise Forbidden("A recording waits in quarantine for a person to judge it.", reason="quarantined")
        if recording.state in {RecordingState.ERASING, RecordingState.ERASED}:
            certificate = recording.certificate_id
            raise Erased(
                "a recording has been erased",
                certificate_id=None if certificate is None else str(certificate),
            )
