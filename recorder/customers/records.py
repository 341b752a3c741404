"""Customer records: upsert, look-up, contacts and choices. Everything personal is sealed under the customer.

Each delivery is a batch with its source, reference and time of storing; batches are never changed. The
record is what the batches come to: a field that a batch names replaces the older value, one that it names
as null is cleared, one that it leaves out stays.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Final

import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import DataSource, SubjectKind
from recorder.catalogue.locks import lock_values
from recorder.catalogue.sealed_fields import CUSTOMER_BATCH, CUSTOMER_RECORD
from recorder.catalogue.subjects import add_subject, blind_index, open_json, seal_json
from recorder.catalogue.tables import (
    BlindIndex,
    Controller,
    Customer,
    CustomerBatch,
    Subject,
)
from recorder.customers import normalise
from recorder.customers.matching import (
    EMAIL,
    NAME,
    NUMBER,
    PHONE,
    MatchKeys,
    adopt_unlinked,
    match_keys,
)
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import FieldError, InvalidInput, NotFound
from recorder.services import Services

MAX_FOUND: Final = 50


def _storable(value: str) -> str:
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("contains a character that cannot be stored")
    return value.strip()


Text = Annotated[str, AfterValidator(_storable)]
Number = Annotated[Text, Field(min_length=1, max_length=64)]
Name = Annotated[Text, Field(max_length=200)]
Phone = Annotated[Text, Field(min_length=1, max_length=64)]
Email = Annotated[Text, Field(min_length=3, max_length=254)]


class ServiceBought(BaseModel):
    """A service that the customer bought. Of the payment what a voucher says, and no card number."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, Field(min_length=1, max_length=200)]
    on: date | None = None
    amount: Annotated[str, Field(pattern=r"^\d{1,12}(\.\d{1,4})?$")] | None = Field(
        None, description="a decimal number as text"
    )
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")] | None = None
    paid_by: Annotated[str, Field(max_length=40, pattern=r"^[a-z_]+$")] | None = Field(
        None, description="the way of payment, for example invoice or card"
    )
    reference: Annotated[Text, Field(max_length=100)] | None = None


class CustomerUpsert(BaseModel):
    """What a source says of a customer now."""

    model_config = ConfigDict(extra="forbid")

    number: Number = Field(description="customer number; never a national identity number")
    source: DataSource
    source_ref: Annotated[Text, Field(max_length=200)] | None = Field(
        None, description="the source's own reference; default the request id"
    )
    name: Name | None = None
    form_of_address: Annotated[Text, Field(max_length=100)] | None = None
    phone: Phone | None = None
    phones: Annotated[list[Phone], Field(max_length=20)] | None = None
    email: Email | None = None
    emails: Annotated[list[Email], Field(max_length=20)] | None = None
    address: (
        Annotated[Text, Field(max_length=1000)] | dict[str, Annotated[Text, Field(max_length=300)]] | None
    ) = None
    language: Annotated[str, Field(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")] | None = (
        None
    )
    gender: Annotated[Text, Field(max_length=40)] | None = None
    other_contacts: (
        Annotated[list[Annotated[Text, Field(min_length=1, max_length=300)]], Field(max_length=20)] | None
    ) = Field(None, description="other ways to reach them; not searched by")
    wishes: Annotated[Text, Field(max_length=2000)] | None = None
    services_bought: Annotated[list[ServiceBought], Field(max_length=200)] | None = Field(
        None, description="services bought, all of them: a delivery replaces the list"
    )


class CustomerQuery(BaseModel):
    """Exactly one value to look a customer up by; the name by all of its whole words."""

    model_config = ConfigDict(extra="forbid")

    number: Number | None = None
    phone: Phone | None = None
    email: Email | None = None
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = None


@dataclass(frozen=True, slots=True)
class CustomerRecord:
    """A customer as somebody who may sees them.

    Attributes:
        values: the current fields: number, name, form_of_address, phones, emails, address, language,
            gender, other_contacts, wishes, services_bought; those never given are missing.
    """

    id: uuid.UUID
    values: dict[str, Any]
    last_contact_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Upserted:
    """What an upsert did.

    Attributes:
        created: the customer was not known before.
        linked: recordings that had waited for this customer.
        changed: something new was said.
    """

    id: uuid.UUID
    created: bool
    linked: tuple[uuid.UUID, ...]
    changed: bool = True


# Formats of national identity numbers (FI henkilötunnus, SE personnummer with its separator or century).
_HETU: Final = re.compile(r"^(\d{6})[-+ABCDEFUVWXY](\d{3})([0-9A-FHJ-NPR-Y])$")
_HETU_CHECK: Final = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_PERSONNUMMER: Final = re.compile(r"^(?:19|20)?(\d{2})(\d{2})(\d{2})[-+](\d{4})$")


def is_national_identity_number(number: str) -> bool:
    """Whether a number has form and check digit of a Finnish or Swedish personal identity number."""
    hetu = _HETU.match(number)
    if hetu and _HETU_CHECK[int(hetu.group(1) + hetu.group(2)) % 31] == hetu.group(3):
        return True
    if found := _PERSONNUMMER.match(number):
        digits = [int(d) for d in "".join(found.groups())]
        doubled = (d if i % 2 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits))
        return sum(doubled) % 10 == 0 and 1 <= int(found.group(2)) <= 12
    return False


async def upsert(
    services: Services,
    controller_id: uuid.UUID,
    given: CustomerUpsert,
    *,
    actor: str,
    request_id: str,
) -> Upserted:
    """Create or change the customer of this number, and link the calls that waited for it.

    Raises:
        InvalidInput: a phone or e-mail is not one, or the number is a national identity number.
    """
    async with services.database.transaction() as session:
        controller = await session.get_one(Controller, controller_id)
        delivery = prepare(services, controller, given)
        await lock_values(session, delivery.locks)
        done = await upsert_in(session, services, delivery, actor=actor, request_id=request_id)
        if done.linked:
            await reevaluate_customer(session, services, done.id, services.clock.now())
        return done


@dataclass(frozen=True, slots=True)
class Prepared:
    """A delivery whose values are checked and normalised.

    Attributes:
        locks: digests to lock before it is taken in.
    """

    given: CustomerUpsert
    controller: Controller
    fields: dict[str, Any]
    number_digest: bytes
    locks: frozenset[bytes]


def prepare(services: Services, controller: Controller, given: CustomerUpsert) -> Prepared:
    """Check a delivery and normalise its values.

    Raises:
        InvalidInput: a phone or e-mail is not one, or the number is a national identity number.
    """
    fields = _normalised(given, controller.country)
    digest = blind_index(services.keyring, controller.id, NUMBER, fields["number"])
    keys = _keys(services, controller, fields)
    return Prepared(given, controller, fields, digest, frozenset({digest, *keys.digests}))


async def upsert_in(
    session: AsyncSession,
    services: Services,
    delivery: Prepared,
    *,
    actor: str,
    request_id: str,
    skip_unchanged: bool = False,
) -> Upserted:
    """The same in a running transaction that holds the delivery's locks; re-evaluating is the caller's.

    Args:
        skip_unchanged: a delivery that says nothing new leaves no trace, so that it can be repeated.
    """
    now, fields, controller = services.clock.now(), delivery.fields, delivery.controller
    customer = await by_number(session, controller.id, delivery.number_digest)
    created = customer is None
    if customer is None:
        customer = await _new_customer(session, services, controller.id, now)
    subject = await session.get_one(Subject, customer.subject_id)
    known = _values(services, subject, customer)
    values = _merge(known, fields)
    if skip_unchanged and not created and values == known:
        return Upserted(customer.id, created, (), changed=False)
    customer.sealed = seal_json(services.keyring, subject, CUSTOMER_RECORD, customer.id, values)
    customer.updated_at = now
    _add_batch(session, services, subject, customer, delivery.given, fields, request_id, now)
    await _reindex(session, services, customer, values)
    await session.flush()
    linked = await adopt_unlinked(
        session,
        services,
        customer,
        _keys(services, controller, values),
        actor=actor,
        now=now,
        request_id=request_id,
    )
    event = AuditEvent(
        action="customer.upserted",
        actor=actor,
        object_type="customer",
        object_id=str(customer.id),
        controller_id=controller.id,
        request_id=request_id,
        details={
            "created": created,
            "source": delivery.given.source.value,
            "fields": sorted(fields),
            "linked": len(linked),
        },
    )
    record(session, event, now=now)
    await session.flush()
    return Upserted(customer.id, created, linked)


def _normalised(given: CustomerUpsert, region: str) -> dict[str, Any]:
    """The fields that were named, normalised; None for those named as null.

    Raises:
        InvalidInput: naming each field that is wrong.
    """
    problems: list[FieldError] = []
    named = given.model_fields_set
    fields: dict[str, Any] = {
        name: getattr(given, name)
        for name in (
            "name",
            "form_of_address",
            "address",
            "language",
            "gender",
            "other_contacts",
            "wishes",
        )
        if name in named
    }
    if "services_bought" in named:
        fields["services_bought"] = [
            one.model_dump(mode="json", exclude_none=True) for one in given.services_bought or []
        ]
    fields["number"] = normalise.number(given.number)
    if not fields["number"]:
        problems.append(FieldError("/number", "is empty"))
    elif is_national_identity_number(fields["number"]):
        problems.append(FieldError("/number", "is a national identity number; use a customer number"))

    def several(one: str, many: str, parse: Any, what: str) -> None:
        if one not in named and many not in named:
            return
        values = [] if getattr(given, one) is None else [(f"/{one}", getattr(given, one))]
        values += [(f"/{many}/{i}", v) for i, v in enumerate(getattr(given, many) or [])]
        parsed = [(path, parse(value)) for path, value in values]
        problems.extend(FieldError(path, what) for path, value in parsed if value is None)
        fields[many] = list(dict.fromkeys(value for _, value in parsed if value is not None))

    several(
        "phone", "phones", lambda v: normalise.phone(v, region), "is not a telephone number; give it as +358…"
    )
    several("email", "emails", normalise.email, "is not an e-mail address")
    if problems:
        listing = "; ".join(f"{p.path}: {p.message}" for p in problems)
        raise InvalidInput(listing, fields=problems)
    return fields


def _merge(old: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    merged = {**old, **fields}
    return {name: value for name, value in merged.items() if value not in (None, [], "")}


def _keys(services: Services, controller: Controller, values: dict[str, Any]) -> MatchKeys:
    return match_keys(
        services.keyring,
        controller.id,
        region=controller.country,
        number=values.get("number"),
        phones=values.get("phones", ()),
        emails=values.get("emails", ()),
    )


async def by_number(session: AsyncSession, controller_id: uuid.UUID, digest: bytes) -> Customer | None:
    """The living customer who has a number, locked for the rest of the transaction."""
    query = (
        sa.select(Customer)
        .join(BlindIndex, BlindIndex.customer_id == Customer.id)
        .where(
            BlindIndex.controller_id == controller_id,
            BlindIndex.kind == NUMBER,
            BlindIndex.digest == digest,
            BlindIndex.recording_id.is_(None),
            Customer.erased_at.is_(None),
        )
        .limit(1)
        .with_for_update(of=Customer, key_share=True)
    )
    return (await session.scalars(query)).one_or_none()


async def _new_customer(
    session: AsyncSession, services: Services, controller_id: uuid.UUID, now: datetime
) -> Customer:
    subject = add_subject(session, services.keyring, controller_id, SubjectKind.CUSTOMER, now=now)
    await session.flush()
    customer = Customer(
        id=uuid.uuid4(),
        controller_id=controller_id,
        subject_id=subject.id,
        sealed=None,
        last_contact_at=None,
        relationship_ended_at=None,
        relationship_end_confirmed_at=None,
        created_at=now,
        updated_at=now,
        erased_at=None,
    )
    session.add(customer)
    await session.flush()
    return customer


def _values(services: Services, subject: Subject, customer: Customer) -> dict[str, Any]:
    if customer.sealed is None:
        return {}
    return open_json(services.keyring, subject, CUSTOMER_RECORD, customer.id, customer.sealed)


def _add_batch(
    session: AsyncSession,
    services: Services,
    subject: Subject,
    customer: Customer,
    given: CustomerUpsert,
    fields: dict[str, Any],
    request_id: str,
    now: datetime,
) -> None:
    batch_id = uuid.uuid4()
    document = {"source_ref": given.source_ref or request_id, "fields": fields}
    session.add(
        CustomerBatch(
            id=batch_id,
            customer_id=customer.id,
            source=given.source,
            sealed=seal_json(services.keyring, subject, CUSTOMER_BATCH, batch_id, document),
            stored_at=now,
        )
    )


async def _reindex(
    session: AsyncSession, services: Services, customer: Customer, values: dict[str, Any]
) -> None:
    """Rebuild the look-up digests of the record itself; those that came with calls stay."""
    await session.execute(
        sa.delete(BlindIndex).where(BlindIndex.customer_id == customer.id, BlindIndex.recording_id.is_(None))
    )
    plain: list[tuple[str, str]] = [(NUMBER, values["number"])]
    plain += [(PHONE, phone) for phone in values.get("phones", ())]
    plain += [(EMAIL, email) for email in values.get("emails", ())]
    plain += [(NAME, token) for token in normalise.name_tokens(values.get("name") or "")]
    for kind, value in plain:
        session.add(
            BlindIndex(
                id=uuid.uuid4(),
                controller_id=customer.controller_id,
                kind=kind,
                digest=blind_index(services.keyring, customer.controller_id, kind, value),
                subject_id=customer.subject_id,
                customer_id=customer.id,
                recording_id=None,
            )
        )


async def query_digests(
    session: AsyncSession, services: Services, controller_id: uuid.UUID, asked: CustomerQuery
) -> list[tuple[str, bytes]]:
    """(kind, digest) pairs that all must be met.

    Raises:
        InvalidInput: nothing to look up by, or a value that cannot be one.
    """
    region = (await session.get_one(Controller, controller_id)).country
    plain: list[tuple[str, str | None, str]] = []
    if asked.number is not None:
        plain.append((NUMBER, normalise.number(asked.number) or None, "/number"))
    if asked.phone is not None:
        plain.append((PHONE, normalise.phone(asked.phone, region), "/phone"))
    if asked.email is not None:
        plain.append((EMAIL, normalise.email(asked.email), "/email"))
    if asked.name is not None:
        tokens = normalise.name_tokens(asked.name)
        plain += [(NAME, token, "/name") for token in tokens] or [(NAME, None, "/name")]
    wrong = [FieldError(path, "cannot be looked up by") for _, value, path in plain if value is None]
    if wrong or not plain:
        fields = wrong or [FieldError("", "give number, phone, email or name")]
        raise InvalidInput("; ".join(f"{f.path} {f.message}".strip() for f in fields), fields=fields)
    return [
        (kind, blind_index(services.keyring, controller_id, kind, value))
        for kind, value, _ in plain
        if value is not None
    ]


async def search(
    services: Services, controller_id: uuid.UUID, asked: CustomerQuery, *, actor: str, request_id: str
) -> list[CustomerRecord]:
    """Find customers by exact value; several values must all fit. At most `MAX_FOUND`, in id order.

    Each look-up is in the audit log, with the kinds of values and the count, never the values.

    Raises:
        InvalidInput: nothing to look up by, or a value that cannot be one.
    """
    async with services.database.transaction() as session:
        pairs = await query_digests(session, services, controller_id, asked)
        query = sa.select(Customer, Subject).join(Subject, Subject.id == Customer.subject_id)
        query = query.where(Customer.controller_id == controller_id, Customer.erased_at.is_(None))
        for kind, digest in pairs:
            query = query.where(
                Customer.id.in_(
                    sa.select(BlindIndex.customer_id).where(
                        BlindIndex.controller_id == controller_id,
                        BlindIndex.kind == kind,
                        BlindIndex.digest == digest,
                        BlindIndex.recording_id.is_(None),
                    )
                )
            )
        rows = await session.execute(query.order_by(Customer.id).limit(MAX_FOUND))
        found = [_record(services, subject, customer) for customer, subject in rows]
        record(
            session,
            AuditEvent(
                action="customer.searched",
                actor=actor,
                object_type="controller",
                object_id=str(controller_id),
                controller_id=controller_id,
                request_id=request_id,
                details={"by": sorted({kind for kind, _ in pairs}), "found": len(found)},
            ),
            now=services.clock.now(),
        )
        return found


def _record(services: Services, subject: Subject, customer: Customer) -> CustomerRecord:
    return CustomerRecord(
        customer.id,
        _values(services, subject, customer),
        customer.last_contact_at,
        customer.created_at,
        customer.updated_at,
    )


async def living(session: AsyncSession, controller_id: uuid.UUID, customer_id: uuid.UUID) -> Customer:
    """The customer, locked for the rest of the transaction.

    Raises:
        NotFound: there is none here, or it was erased.
    """
    customer = await session.get(Customer, customer_id, with_for_update={"key_share": True})
    if customer is None or customer.controller_id != controller_id or customer.erased_at is not None:
        raise NotFound("there is no such customer")
    return customer
