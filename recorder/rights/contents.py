"""What a package says: of the person, of each call, of each time a call was heard. Staff are left out.

Access (GDPR art. 15) gets everything that is held. Portability (art. 20) gets exactly what the person
provided: the fields that they gave when they registered or called (an assignment to the controller), and the
calls whose ground is consent or an assignment; what others delivered or the controller noted is not in it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.catalogue.enums import ChoiceKind, DataSource
from recorder.catalogue.sealed_fields import CONTACT_NOTE, CUSTOMER_BATCH, CUSTOMER_RECORD, RECORDING_METADATA
from recorder.catalogue.subjects import open_json
from recorder.catalogue.tables import (
    Choice,
    Contact,
    Controller,
    Customer,
    CustomerBatch,
    Recording,
    RightsRequest,
    Subject,
)
from recorder.customers.choices import state_as_of
from recorder.disposition.evaluation import current_decision
from recorder.rights.consulting import consultations
from recorder.rights.recipients import recipients_of
from recorder.services import Services
from retention.model import RequestKind

__all__ = ["SELF_PROVIDED", "call_document", "person_document"]

SELF_PROVIDED: Final = frozenset({DataSource.REGISTRATION, DataSource.CALL})
_STAFF: Final = frozenset({"agents", "agent"})


async def person_document(
    session: AsyncSession, services: Services, row: RightsRequest, ids: Sequence[uuid.UUID], now: datetime
) -> dict[str, Any]:
    """Everything but the calls."""
    controller = await session.get_one(Controller, row.controller_id)
    customer = await session.get_one(Customer, row.customer_id)
    subject = await session.get_one(Subject, customer.subject_id)
    deliveries = await _deliveries(session, services, subject, customer)
    document: dict[str, Any] = {
        "format": 1,
        "kind": row.kind.value,
        "request": str(row.id),
        "made_at": now.isoformat(),
        "controller": {
            "name": controller.name,
            "country": controller.country,
            "authority": controller.authority,
        },
    }
    choices = list(
        await session.scalars(
            sa.select(Choice)
            .where(Choice.customer_id == customer.id)
            .order_by(Choice.effective_at, Choice.id)
        )
    )
    if row.kind is RequestKind.PORTABILITY:
        given: dict[str, Any] = {}
        for delivery in deliveries:
            if delivery["source"] in SELF_PROVIDED:
                given.update(delivery["fields"])
        consents = (ChoiceKind.CONSENT, ChoiceKind.CONSENT_WITHDRAWN)
        return {
            **document,
            "person": {name: value for name, value in given.items() if value not in (None, "", [])},
            "choices": [_choice(choice) for choice in choices if choice.kind in consents],
        }
    values = {}
    if customer.sealed is not None:
        values = open_json(services.keyring, subject, CUSTOMER_RECORD, customer.id, customer.sealed)
    state = state_as_of(choices, now)
    return {
        **document,
        "person": values,
        "deliveries": deliveries,
        "relationship": {
            "last_contact_at": _text(customer.last_contact_at),
            "ended_at": _text(customer.relationship_ended_at),
        },
        "contacts": await _contacts(session, services, subject, customer),
        "choices": [_choice(choice) for choice in choices],
        "choices_now": {
            "objected": sorted(state.objected),
            "consented": sorted(state.consented),
            "consent_withdrawn": sorted(state.consent_withdrawn),
            "restricted": sorted(state.restricted),
            "marketing": state.marketing,
        },
        "consultations": [asdict(use) for use in await consultations(session, ids)],
        "recipients": [r.name for r in await recipients_of(session, services, customer.id, ids)],
    }


async def _deliveries(
    session: AsyncSession, services: Services, subject: Subject, customer: Customer
) -> list[dict[str, Any]]:
    query = sa.select(CustomerBatch).where(CustomerBatch.customer_id == customer.id)
    found = []
    for batch in await session.scalars(query.order_by(CustomerBatch.stored_at, CustomerBatch.id)):
        if batch.sealed is None:
            continue
        opened = open_json(services.keyring, subject, CUSTOMER_BATCH, batch.id, batch.sealed)
        fields = opened.get("fields", {})
        found.append(
            {
                "source": batch.source.value,
                "source_ref": opened.get("source_ref"),
                "stored_at": batch.stored_at.isoformat(),
                "fields": fields,
            }
        )
    return found


async def _contacts(
    session: AsyncSession, services: Services, subject: Subject, customer: Customer
) -> list[dict[str, Any]]:
    query = sa.select(Contact).where(Contact.customer_id == customer.id)
    found = []
    for contact in await session.scalars(query.order_by(Contact.at, Contact.id)):
        entry: dict[str, Any] = {"kind": contact.kind.value, "at": contact.at.isoformat()}
        if contact.recording_id is not None:
            entry["recording"] = str(contact.recording_id)
        if contact.sealed is not None:
            entry.update(open_json(services.keyring, subject, CONTACT_NOTE, contact.id, contact.sealed))
        found.append(entry)
    return found


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "kind": choice.kind.value,
        "purposes": list(choice.purposes),
        "channel": choice.channel,
        "effective_at": choice.effective_at.isoformat(),
        "recorded_at": choice.recorded_at.isoformat(),
        "source": choice.source,
    }


async def call_document(
    session: AsyncSession, services: Services, row: RightsRequest, recording: Recording, now: datetime
) -> dict[str, Any]:
    """One call, in the depth that the request gives a right to."""
    brief: dict[str, Any] = {
        "id": str(recording.id),
        "started_at": recording.started_at.isoformat(),
        "ended_at": _text(recording.ended_at),
        "duration_ms": recording.duration_ms,
        "direction": None if recording.direction is None else recording.direction.value,
        "lawful_basis": recording.lawful_basis.value,
    }
    if row.kind is RequestKind.PORTABILITY:
        return brief
    subject = await session.get_one(Subject, recording.subject_id)
    metadata: dict[str, Any] = {}
    # Under somebody else's key lies what somebody else's call says; a reference sees the call, not that.
    if recording.sealed is not None and recording.customer_id == row.customer_id:
        opened = open_json(services.keyring, subject, RECORDING_METADATA, recording.id, recording.sealed)
        metadata = {name: value for name, value in opened.items() if name not in _STAFF}
    decision = await current_decision(session, services, recording, now)
    return {
        **brief,
        "received_at": recording.received_at.isoformat(),
        "queue": recording.queue,
        "tags": list(recording.tags),
        "service_events": list(recording.service_events),
        "notice": {"version": recording.notice_version, "offset_ms": recording.notice_offset_ms},
        "muted": list(recording.muted),
        "channels": [{"party": entry.get("party")} for entry in recording.channels],
        "media": dict(recording.media),
        "sha256": recording.sha256.hex(),
        "size": recording.size,
        "metadata": metadata,
        "restricted": decision.restricted,
        "kept_until": _text(decision.erase_on),
        "purposes": {
            str(purpose): _text(window.end)
            for purpose, window in decision.windows.items()
            if window.contains(now)
        },
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
