"""What came and what should have: a page for operators, drawn by the hour."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.api.framework import REQUEST_ID
from recorder.catalogue.tables import Controller
from recorder.completeness import viewing
from recorder.completeness.viewing import HourView
from recorder.errors import InvalidInput
from recorder.playback import finding
from recorder.web.frame import caller, frame, page, render
from recorder.web.plot import Theme, stacked_bars
from recorder.web.views import clock, exact

_THEMES: Final[dict[str, Theme]] = {"light": "light", "dark": "dark"}
_SHOWN: Final = timedelta(hours=48)
_GAPS: Final = timedelta(days=14)
_OUTCOMES: Final = {
    "missing": "Not here, says the call detail record",
    "fetching": "Still to be fetched from the sender",
    "absent": "The sender has no audio",
    "too_short": "Too short to be recorded",
    "silent": "Silent",
    "failed": "The sender could not record it, or it could not be fetched",
}
_BASES: Final = {"cdr": "call detail records", "learned": "the weeks before"}


def mount(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/app/completeness", page(completeness))
    app.router.add_get("/app/completeness.svg", page(plot))


async def completeness(request: web.Request) -> web.StreamResponse:
    """Gaps, what was told of and is not here, and the last two days by the hour."""
    services, principal = caller(request)
    shown = await frame(request, "completeness")
    controller: Controller = shown["controller"]
    zone, now = ZoneInfo(controller.time_zone), services.clock.now()
    hours = await _hours(request, now - _GAPS, now)
    expected = await viewing.expected(
        services, principal, controller.id, outcome=None, limit=100, request_id=request[REQUEST_ID]
    )
    gaps = [view for view in hours if view.row.gap]
    recent = [view for view in hours if view.row.hour >= now - _SHOWN]
    return render(
        "completeness.html",
        shown
        | {
            "gaps": [
                (
                    exact(view.row.hour, zone),
                    view.source,
                    view.row.received,
                    view.row.expected,
                    _BASES.get(view.row.basis or "", ""),
                )
                for view in reversed(gaps)
            ],
            "table": [
                (exact(view.row.hour, zone), view.source, view.row.received, _number(view.row.expected))
                for view in reversed(recent)
            ],
            "expected": [
                (
                    exact(row.started_at, zone),
                    clock(row.duration_ms),
                    _OUTCOMES.get(row.outcome, row.outcome),
                    row.code or "–",
                )
                for row in expected
            ],
        },
    )


async def plot(request: web.Request) -> web.StreamResponse:
    """Recordings by hour: those that came, and those that are missing."""
    services, _ = caller(request)
    theme = _THEMES.get(request.query.get("theme", "light"))
    if theme is None:
        raise InvalidInput("the theme is light or dark")
    now = services.clock.now()
    hours = await _hours(request, now - _SHOWN, now)
    zone = ZoneInfo((await frame(request, "completeness"))["controller"].time_zone)
    return web.Response(
        text=drawn(hours, zone, now, theme),
        content_type="image/svg+xml",
        charset="utf-8",
        headers={"Cache-Control": "no-store"},
    )


def drawn(hours: list[HourView], zone: ZoneInfo, now: datetime, theme: Theme) -> str:
    """The bars: what came of each source, and on top what is missing."""
    first = (now - _SHOWN).replace(minute=0, second=0, microsecond=0)
    columns = [first + timedelta(hours=n) for n in range(int(_SHOWN / timedelta(hours=1)))]
    place = {hour: index for index, hour in enumerate(columns)}
    series: dict[str, list[int]] = defaultdict(lambda: [0] * len(columns))
    for view in hours:
        index = place.get(view.row.hour)
        if index is None:
            continue
        series[view.source][index] += view.row.received
        if view.row.gap and view.row.expected is not None:
            series["missing"][index] += max(0, view.row.expected - view.row.received)
    missing = series.pop("missing", None)
    ordered = dict(sorted(series.items())) | ({} if missing is None else {"missing": missing})
    labels = [f"{hour.astimezone(zone):%a %H:%M}" for hour in columns]
    return stacked_bars(
        "Recordings by the hour in which their calls began", labels, ordered, theme, unit="recordings an hour"
    )


async def _hours(request: web.Request, since: datetime, before: datetime) -> list[HourView]:
    services, principal = caller(request)
    return await viewing.hours(
        services,
        principal,
        finding.controller_of(principal, None),
        since=since,
        before=before,
        request_id=request[REQUEST_ID],
    )


def _number(value: int | None) -> str:
    return "–" if value is None else str(value)
