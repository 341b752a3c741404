"""Plots as SVG files, drawn on the server: no script, no style, nothing but shapes with their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, Literal

__all__ = ["Theme", "stacked_bars"]

Theme = Literal["light", "dark"]

# Okabe and Ito's colours, which people who confuse red and green can tell apart; the last is for the rest.
_COLOURS: Final[Mapping[Theme, tuple[str, ...]]] = {
    "light": ("#0072b2", "#d55e00", "#00795a", "#a8548a", "#8a6d00", "#3b3f9e", "#6b6b66"),
    "dark": ("#56b4e9", "#f08b3f", "#3ecf9f", "#e0a0c8", "#f0d84a", "#a5a8f5", "#a9aaa2"),
}
_INK: Final[Mapping[Theme, tuple[str, str]]] = {
    "light": ("#5c5d57", "#dcdcd6"),
    "dark": ("#a9aaa2", "#363733"),
}
_WIDTH, _HEIGHT = 960, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 44, 28
_SERIES = 6


def stacked_bars(
    title: str, columns: Sequence[str], series: Mapping[str, Sequence[int]], theme: Theme, *, unit: str
) -> str:
    """A stacked bar for each column.

    Args:
        title: for those who do not see it.
        columns: their labels, in order; every so many is written below the axis.
        series: values by name, one for each column; beyond six the smallest are drawn as one.
        unit: what is counted.
    """
    shown = _joined(series, len(columns))
    ink, line = _INK[theme]
    colours = dict(zip(shown, _COLOURS[theme], strict=False))
    totals = [sum(values[i] for values in shown.values()) for i in range(len(columns))]
    top, step = _scale(max(totals, default=0))
    height, width = _HEIGHT - _TOP - _BOTTOM, _WIDTH - _LEFT - _RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
    ]
    for value in range(0, top + 1, step):
        y = _TOP + height - height * value / top
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="{line}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{ink}">{value:,}</text>')
    pitch = width / max(1, len(columns))
    for index, label in enumerate(columns):
        base = float(_TOP + height)
        for name, values in shown.items():
            tall = height * values[index] / top
            if tall:
                base -= tall
                words = escape(f"{label}: {values[index]:,} {name}")
                parts.append(
                    f'<rect x="{_LEFT + index * pitch:.1f}" y="{base:.1f}" '
                    f'width="{max(1.0, min(40.0, pitch * 0.85)):.1f}" height="{max(0.5, tall):.1f}" '
                    f'fill="{colours[name]}"><title>{words}</title></rect>'
                )
        if index % max(1, -(-len(columns) // 10)) == 0:
            parts.append(
                f'<text x="{_LEFT + index * pitch:.1f}" y="{_HEIGHT - 8}" fill="{ink}">{escape(label)}</text>'
            )
    parts.append(_legend(colours, ink, unit))
    parts.append("</svg>")
    return "".join(parts)


def _joined(series: Mapping[str, Sequence[int]], length: int) -> dict[str, Sequence[int]]:
    if len(series) <= _SERIES:
        return dict(series)
    largest = sorted(series, key=lambda name: -sum(series[name]))
    kept = set(largest[:_SERIES])
    found = {name: values for name, values in series.items() if name in kept}
    rest = [values for name, values in series.items() if name not in kept]
    return found | {"others": [sum(values[i] for values in rest) for i in range(length)]}


def _scale(largest: int) -> tuple[int, int]:
    """A round top of the axis and the step of its lines: at most six lines."""
    step = 1
    while step * 5 < largest:
        step = step * 5 // 2 if str(step).startswith("2") else step * 2
    return max(step, -(-largest // step) * step), step


def _legend(colours: Mapping[str, str], ink: str, unit: str) -> str:
    parts = [f'<text x="{_LEFT}" y="14" fill="{ink}">{escape(unit)}</text>']
    x = _LEFT
    for name, colour in colours.items():
        text = name if len(name) <= 24 else f"{name[:23]}…"
        parts.append(f'<rect x="{x}" y="22" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="31" fill="{ink}">{escape(text)}</text>')
        x += 30 + 7 * len(text)
    return "".join(parts)
