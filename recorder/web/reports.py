"""Pages for those who answer for the calls: the retention report with its plot, the record of processing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.api.framework import REQUEST_ID
from recorder.disposition import processing_record, reporting
from recorder.disposition.reporting import WHY_WORDS, Counted, RetentionReport
from recorder.errors import InvalidInput
from recorder.jobs.chores import next_sweep_time
from recorder.playback import finding
from recorder.web.frame import caller, frame, page, render
from recorder.web.plot import Theme, stacked_bars
from recorder.web.views import PURPOSES, day, exact

_STATES: Final = {
    "stored": "Stored",
    "spooled": "On their way to the store",
    "quarantined": "In quarantine",
    "erasing": "Being erased",
}
_GROUNDS: Final = {
    "request": "Request of the person",
    "relationship_ended": "End of the relationship",
    "retention": "End of the retention period",
    "court_order": "Order of a court or authority",
    "card_security": "Card security code",
}
_RECORD_NUMBERS: Final = ("total", "due", "kept", "destroyed")
RECORDS: Final = {
    "request": "Requests of persons",
    "matter": "Matters",
    "disclosure": "Disclosures",
    "breach": "Breaches",
    "approval": "Approvals",
    "account": "Profiles of staff",
    "contact": "Contacts",
    "customer": "Customers",
    "expected_recording": "Announced recordings",
    "spooled_receipt": "Receipts of spooled calls",
    "listen": "Listens",
    "listening_link": "Listening links",
    "log_entry": "Log entries",
    "assessment": "Assessments",
}
_MONTHS: Final = 144  # twelve years of bars; what goes later is in the last one
_NO_RULE: Final = "no rule"
_THEMES: Final[dict[str, Theme]] = {"light": "light", "dark": "dark"}


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/retention", page(retention))
    app.router.add_get("/app/retention.svg", page(retention_plot))
    app.router.add_get("/app/article-30", page(article_30))


async def retention(request: web.Request) -> web.StreamResponse:
    """What is kept, why, until when, what was erased, what is overdue."""
    services, principal = caller(request)
    controller_id = finding.controller_of(principal, None)
    found = await reporting.report(services, principal, controller_id, request_id=request[REQUEST_ID])
    shown = await frame(request, "retention")
    wrong = found.overdue.count + found.overdue_erasures
    zone = ZoneInfo(found.time_zone)
    sweeps = next_sweep_time(services.settings.sweep_at, found.time_zone, found.made_at)
    return render(
        "retention.html",
        shown
        | {
            "made_at": exact(found.made_at, zone),
            "schedule": found.schedule,
            "wrong": wrong,
            "overdue": found.overdue.count,
            "overdue_erasures": found.overdue_erasures,
            "due": found.due.count,
            "sweeps": f"{day(sweeps, found.time_zone)} at {sweeps:%H:%M}",
            "late": [
                ("Goes with the next sweep", *_cells(found.due)),
                ("Waits for an open request", *_cells(found.waiting)),
                ("Overdue", *_cells(found.overdue)),
            ],
            "states": [
                *((_STATES.get(state, state), *_cells(what)) for state, what in found.by_state.items()),
                ("Of these, held", *_cells(found.held)),
                ("Of these, restricted", *_cells(found.restricted)),
                ("All", *_cells(found.total)),
            ],
            "why": [(_why(k.why, k.rule), *_cells(k.what)) for k in found.why],
            "dated": [(d.month, d.rule or _NO_RULE, *_cells(d.what)) for d in found.dated],
            "undated": found.undated.count,
            "records": [
                (RECORDS.get(line["record"], line["record"]), *(f"{line[k]:,}" for k in _RECORD_NUMBERS))
                for line in found.records
                if line["total"] or line["destroyed"]
            ],
            "erased": [
                (e.month, _GROUNDS.get(e.ground, e.ground), f"{e.recordings:,}", f"{e.certificates:,}")
                for e in reversed(found.erased)
            ],
        },
    )


async def retention_plot(request: web.Request) -> web.StreamResponse:
    """What falls due by month and rule, as bars."""
    services, principal = caller(request)
    theme = _THEMES.get(request.query.get("theme", "light"))
    if theme is None:
        raise InvalidInput("the theme is light or dark")
    controller_id = finding.controller_of(principal, None)
    found = await reporting.recent(services, principal, controller_id, request_id=request[REQUEST_ID])
    return web.Response(
        text=plot_of(found, theme),
        content_type="image/svg+xml",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )


async def article_30(request: web.Request) -> web.StreamResponse:
    """The record of processing activities, to be printed."""
    services, principal = caller(request)
    controller_id = finding.controller_of(principal, None)
    found = await processing_record.record_of(
        services, principal, controller_id, request_id=request[REQUEST_ID]
    )
    return render("article30.html", article_30_values(found))


def article_30_values(found: processing_record.ProcessingRecord) -> dict[str, Any]:
    """What the printable page shows."""
    return {
        "record": found,
        "made_at": exact(found.made_at, ZoneInfo(found.controller["time_zone"])),
        "purpose_words": PURPOSES,
    }


def plot_of(found: RetentionReport, theme: Theme) -> str:
    """The bars of a report: what is late already stands in the month of the report."""
    first = found.made_at.astimezone(ZoneInfo(found.time_zone))
    last = max((d.month for d in found.dated), default="")
    columns = list(_months(first, last))
    place = {month: index for index, month in enumerate(columns)}
    series: dict[str, list[int]] = {}
    for due in sorted(found.dated, key=lambda d: d.rule or _NO_RULE):
        values = series.setdefault(due.rule or _NO_RULE, [0] * len(columns))
        values[place.get(due.month, 0 if due.month < columns[0] else -1)] += due.what.count
    return stacked_bars(
        "Recordings that fall due, by month and rule",
        columns,
        series,
        theme,
        unit="recordings due in a month",
    )


def _months(first: datetime, last: str) -> Iterable[str]:
    """Months from the report's to the last one, at least a year and at most twelve."""
    for index in range(_MONTHS):
        years, month = divmod(first.month - 1 + index, 12)
        text = f"{first.year + years:04d}-{month + 1:02d}"
        if index >= 12 and text > last:
            return
        yield text


def _why(why: str, rule: str | None) -> str:
    words = WHY_WORDS[why]
    return words[:1].upper() + words[1:] if rule is None else f"Rule {rule}"


def _cells(what: Counted) -> tuple[str, str, str]:
    """Count, hours and bytes as a page shows them."""
    size, units = float(what.bytes), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{what.count:,}", f"{what.seconds / 3600:,.1f}", f"{size:,.0f} {units[0]}"
