"""What a sender is told: from rows, so that a repeat gets what the first delivery got."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import LinkRole
from recorder.catalogue.tables import Recording, RecordingLink
from recorder.customers.matching import Match
from recorder.ingest.receipts import Receipt, sign_receipt
from recorder.ingest.request import Outcome, OutcomeKind
from recorder.ingest.storing import Delivery
from recorder.services import Services


async def outcome_of(
    session: AsyncSession,
    services: Services,
    row: Recording,
    kind: OutcomeKind,
    *,
    differences: tuple[str, ...] = (),
    match: Match | None = None,
) -> Outcome:
    """The answer for a stored recording, with its receipt.

    Args:
        match: whose call it is, where that was settled just now; else the links are read.
    """
    return Outcome(
        kind=kind,
        recording_id=row.id,
        call_id=row.call_id,
        state=row.state,
        reasons=tuple(row.reasons),
        sha256=row.sha256,
        size=row.size,
        media=_media(row),
        customer=await _customer(session, row) if match is None else _who(match),
        retention=_retention(row),
        receipt=sign_receipt(services.keyring, receipt_of(row)),
        differences=differences,
    )


def receipt_of(row: Recording) -> Receipt:
    """What is acknowledged: the bytes received, and the kept ones where card data was destroyed."""
    if row.received_sha256 is None or row.received_size is None:
        return Receipt(row.id, row.sha256, row.size, row.received_at)
    return Receipt(
        row.id,
        row.received_sha256,
        row.received_size,
        row.received_at,
        kept_sha256=row.sha256,
        kept_size=row.size,
    )


def preview(delivery: Delivery, first: Recording | None, match: Match) -> Outcome:
    """The answer of a dry run: nothing in it exists but what was stored before."""
    received = delivery.received_sha256
    kind = OutcomeKind.CREATED
    if first is not None:
        same = (first.received_sha256 or first.sha256) == received
        kind = OutcomeKind.REPEATED if same else OutcomeKind.CONFLICT
    return Outcome(
        kind=kind,
        recording_id=None if first is None else first.id,
        call_id=None if first is None else first.call_id,
        state=delivery.state,
        reasons=delivery.reasons,
        sha256=received,
        size=delivery.arrival.received_size,
        media=delivery.arrival.media.document(),
        customer=_who(match),
        retention=None,
        receipt=None,
    )


def _who(match: Match) -> dict[str, Any]:
    if match.certain:
        return {
            "status": "linked",
            "id": str(match.customers[0]),
            "matched_by": match.by,
            "confidence": match.confidence,
            "candidates": 0,
        }
    return {
        "status": "candidates" if match.customers else "unlinked",
        "id": None,
        "matched_by": match.by,
        "confidence": match.confidence if match.customers else None,
        "candidates": len(match.customers),
    }


async def _customer(session: AsyncSession, row: Recording) -> dict[str, Any]:
    links = (
        await session.scalars(sa.select(RecordingLink).where(RecordingLink.recording_id == row.id))
    ).all()
    principal = next((link for link in links if link.role is LinkRole.PRINCIPAL), None)
    if principal is not None:
        return {
            "status": "linked",
            "id": str(principal.customer_id),
            "matched_by": principal.matched_by,
            "confidence": principal.confidence,
            "candidates": 0,
        }
    candidates = [link for link in links if link.role is LinkRole.CANDIDATE]
    return {
        "status": "candidates" if candidates else "unlinked",
        "id": None,
        "matched_by": candidates[0].matched_by if candidates else None,
        "confidence": candidates[0].confidence if candidates else None,
        "candidates": len(candidates),
    }


def _media(row: Recording) -> dict[str, Any]:
    return {**row.media, "duration_ms": row.duration_ms}


def _retention(row: Recording) -> dict[str, Any]:
    decision = row.decision or {}
    return {
        "erase_on": None if row.erase_on is None else row.erase_on.isoformat(),
        "held": row.held,
        "restricted": row.restricted,
        "schedule_version": row.schedule_version,
        "windows": decision.get("windows", {}),
    }
