"""Customers and contacts out of files: CSV or NDJSON, line by line, with a word on every line refused.

A line is checked before anything of its batch is written; batches are transactions. Importing a file again
changes nothing: what says nothing new leaves no trace, so that a stopped import is simply run once more.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Final, Literal

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from recorder.access.guard import permit
from recorder.access.policy import Action
from recorder.access.principals import Principal
from recorder.audit.events import AuditEvent, record
from recorder.catalogue.enums import ContactKind, DataSource
from recorder.catalogue.locks import lock_values
from recorder.catalogue.subjects import blind_index
from recorder.catalogue.tables import Contact, Controller
from recorder.customers import normalise
from recorder.customers.contacts import add_in, refuse_future
from recorder.customers.matching import NUMBER
from recorder.customers.records import (
    CustomerUpsert,
    Number,
    Prepared,
    Text,
    by_number,
    prepare,
    upsert_in,
)
from recorder.disposition.evaluation import reevaluate_customer
from recorder.errors import InvalidInput
from recorder.services import Services
from recorder.tabular import read_csv, read_ndjson

Kind = Literal["customers", "contacts"]
Layout = Literal["csv", "ndjson"]

_BATCH: Final = 100
_SEVERAL: Final = {
    "phone": "phones",
    "phones": "phones",
    "email": "emails",
    "emails": "emails",
    "other_contacts": "other_contacts",
}
_SEPARATOR: Final = ";"


class ImportedContact(BaseModel):
    """A contact in a file; the customer by number."""

    model_config = ConfigDict(extra="forbid")

    number: Number
    kind: ContactKind
    at: AwareDatetime
    reference: Annotated[Text, Field(max_length=200)] | None = None
    note: Annotated[Text, Field(max_length=2000)] | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that was not taken; never with its values, which are personal.

    Attributes:
        line: from 1; of a record over several lines the last one.
        field: JSON pointer, or empty for the line as a whole.
    """

    line: int
    field: str
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What an import came to.

    Attributes:
        linked: recordings that had waited for one of these customers.
    """

    read: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0
    linked: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def rejected_lines(self) -> int:
        """How many lines were refused; one may have several reasons."""
        return len({item.line for item in self.rejected})


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that was read."""

    number: int
    values: Mapping[str, Any]


async def import_lines(
    services: Services,
    principal: Principal,
    controller_id: uuid.UUID,
    lines: Iterable[str],
    *,
    kind: Kind,
    layout: Layout,
    source: DataSource = DataSource.REGISTRATION,
    request_id: str,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Take customers, or contacts with them, out of the lines of a file.

    Args:
        services: Parts of the service.
        principal: Who imports.
        controller_id: Whose customers they are.
        lines: Of the file, read as they are needed.
        kind: What a line is.
        layout: CSV with a header, or one JSON object a line.
        source: Where the data are from, where a line does not say.
        request_id: Reference of the deliveries, and ties audit entries together.
        dry_run: Check only.
        progress: Called with the number of lines read so far.

    Raises:
        Forbidden: the caller does not manage customers here.
        Unavailable: the database is away; what was read before is in, and running it again is safe.
    """
    action = Action.MANAGE_CUSTOMERS if kind == "customers" else Action.ADD_CONTACT
    await permit(services, principal, action, controller_id=controller_id, request_id=request_id)
    async with services.database.snapshot() as session:
        controller = await session.get_one(Controller, controller_id)
    report = ImportReport()
    read = (
        _lines(read_csv(lines), report, cells=True)
        if layout == "csv"
        else _lines(read_ndjson(lines), report, cells=False)
    )
    run = _Run(services, controller, principal.actor, request_id, source, dry_run, report)
    while batch := await asyncio.to_thread(_take, read):
        await (run.customers(batch) if kind == "customers" else run.contacts(batch))
        report.read = max(line.number for line in batch)
        if progress is not None:
            progress(report.read)
    if not dry_run:
        await run.tell(kind)
    return report


def _take(lines: Iterator[_Line]) -> list[_Line]:
    return list(islice(lines, _BATCH))


@dataclass(frozen=True, slots=True)
class _Run:
    services: Services
    controller: Controller
    actor: str
    request_id: str
    source: DataSource
    dry_run: bool
    report: ImportReport

    async def customers(self, batch: Sequence[_Line]) -> None:
        ready: list[Prepared] = []
        for line in batch:
            values = {"source": self.source.value, **line.values}
            try:
                given = CustomerUpsert.model_validate(values)
                ready.append(prepare(self.services, self.controller, given))
            except (ValidationError, InvalidInput) as error:
                self._refuse(line, error)
        if self.dry_run or not ready:
            return
        async with self.services.database.transaction() as session:
            await lock_values(session, {digest for one in ready for digest in one.locks})
            for one in ready:
                done = await upsert_in(
                    session,
                    self.services,
                    one,
                    actor=self.actor,
                    request_id=self.request_id,
                    skip_unchanged=True,
                )
                self.report.created += done.created
                self.report.changed += done.changed and not done.created
                self.report.unchanged += not done.changed
                self.report.linked += len(done.linked)
                if done.linked:
                    await reevaluate_customer(session, self.services, done.id, self.services.clock.now())

    async def contacts(self, batch: Sequence[_Line]) -> None:
        ready: list[tuple[_Line, ImportedContact]] = []
        for line in batch:
            try:
                given = ImportedContact.model_validate(line.values)
                refuse_future(self.services, given.at)
                ready.append((line, given))
            except (ValidationError, InvalidInput) as error:
                self._refuse(line, error)
        if self.dry_run or not ready:
            return
        touched: set[uuid.UUID] = set()
        async with self.services.database.transaction() as session:
            # In one order everywhere, so that two imports never wait for each other.
            for line, given in sorted(ready, key=lambda pair: pair[1].number):
                touched |= await self._contact(session, line, given)
            await session.flush()
            for customer_id in sorted(touched):
                await reevaluate_customer(session, self.services, customer_id, self.services.clock.now())

    async def _contact(self, session: AsyncSession, line: _Line, given: ImportedContact) -> set[uuid.UUID]:
        number = normalise.number(given.number)
        digest = blind_index(self.services.keyring, self.controller.id, NUMBER, number)
        customer = await by_number(session, self.controller.id, digest)
        if customer is None:
            self.report.rejected.append(Rejected(line.number, "/number", "no customer has this number"))
            return set()
        known = sa.select(Contact.id).where(
            Contact.customer_id == customer.id, Contact.kind == given.kind, Contact.at == given.at
        )
        if await session.scalar(known.limit(1)) is not None:
            self.report.unchanged += 1
            return set()
        told = {"reference": given.reference, "note": given.note}
        await add_in(
            session,
            self.services,
            customer,
            kind=given.kind,
            at=given.at,
            note={name: value for name, value in told.items() if value is not None} or None,
            actor=self.actor,
            request_id=self.request_id,
        )
        self.report.created += 1
        return {customer.id}

    async def tell(self, kind: Kind) -> None:
        event = AuditEvent(
            action=f"{kind}.imported",
            actor=self.actor,
            object_type="controller",
            object_id=str(self.controller.id),
            controller_id=self.controller.id,
            request_id=self.request_id,
            details={
                "read": self.report.read,
                "created": self.report.created,
                "changed": self.report.changed,
                "rejected": self.report.rejected_lines,
            },
        )
        async with self.services.database.transaction() as session:
            record(session, event, now=self.services.clock.now())

    def _refuse(self, line: _Line, error: ValidationError | InvalidInput) -> None:
        if isinstance(error, InvalidInput):
            found = [(item.path, item.message) for item in error.fields]
        else:
            # Never the value; an unknown name is the file's own text, so it is cut.
            found = [
                ("".join(f"/{str(part)[:60]}" for part in item["loc"]), item["msg"])
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
        self.report.rejected += [Rejected(line.number, path, reason) for path, reason in found]


def _lines(
    read: Iterator[tuple[int, Mapping[str, Any] | str]], report: ImportReport, *, cells: bool
) -> Iterator[_Line]:
    for number, values in read:
        if isinstance(values, str):
            report.rejected.append(Rejected(number, "", values))
        else:
            yield _Line(number, _values(values) if cells else values)


def _values(cells: Mapping[str, str]) -> dict[str, Any]:
    """Cells as the fields of a delivery; an empty cell says nothing, several values stand apart by ``;``."""
    found: dict[str, Any] = {}
    for name, cell in cells.items():
        text = cell.strip()
        if not text:
            continue
        if name in _SEVERAL:
            parts = [part.strip() for part in text.split(_SEPARATOR) if part.strip()]
            found.setdefault(_SEVERAL[name], []).extend(parts)
        else:
            found[name] = text
    return found
