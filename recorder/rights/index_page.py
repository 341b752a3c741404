"""The page at the front of a package: what is in it, for a person to read. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recorder.rights.wording import TEMPLATES, words

__all__ = ["CallEntry", "render"]


@dataclass(frozen=True, slots=True)
class CallEntry:
    """One call on the page.

    Attributes:
        document: what ``call.json`` says.
        audio: path of the copy inside the package; None where there is none.
        note: ``muted``, ``withheld`` or ``missing``.
    """

    document: dict[str, Any]
    audio: str | None
    vcon: str
    note: str | None


async def render(
    document: dict[str, Any], calls: Sequence[CallEntry], *, language: str, zone: str
) -> AsyncIterator[bytes]:
    """The page in pieces; everything from outside is escaped."""
    say = words(language)
    made = say.local_day(datetime.fromisoformat(document["made_at"]), zone)

    def day(text: str) -> str:
        return say.local_day(datetime.fromisoformat(text), zone)

    def shown(entry: CallEntry) -> dict[str, Any]:
        call = entry.document
        facts = [
            ("started", call["started_at"]),
            ("length", "" if call["duration_ms"] is None else f"{call['duration_ms'] / 1000:.0f}"),
            ("direction", call["direction"] or ""),
            ("basis", call["lawful_basis"]),
        ]
        if "kept_until" in call:
            until = call["kept_until"]
            facts.append(("kept_until", say("package.open_ended") if until is None else day(until)))
            facts.append(("purposes", ", ".join(sorted(call["purposes"]))))
        return {
            "started": day(call["started_at"]),
            "facts": facts,
            "audio": entry.audio,
            "vcon": entry.vcon,
            "note": entry.note,
        }

    template = TEMPLATES.get_template("package.html")
    pieces = template.generate(
        say=say,
        kind=document["kind"],
        controller=document["controller"],
        made=made,
        reference=document["request"],
        person=[(name, _plain(value)) for name, value in sorted(document["person"].items())],
        calls=[shown(entry) for entry in calls],
        tables=_tables(document),
    )
    for piece in pieces:
        yield piece.encode()


def _tables(document: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    choices = [
        (c["effective_at"], c["kind"], ", ".join(c["purposes"]), c["channel"] or "")
        for c in document["choices"]
    ]
    found: list[tuple[str, list[tuple[str, ...]]]] = []
    if "deliveries" in document:
        found.append(("source", [(d["source"], d["stored_at"]) for d in document["deliveries"]]))
    if "contacts" in document:
        found.append(("contacts", [(c["at"], c["kind"], c.get("note", "")) for c in document["contacts"]]))
    found.append(("choices", [tuple(choice) for choice in choices]))
    if "consultations" in document:
        uses: list[tuple[str, ...]] = [
            (u["at"], u["purpose"] or "", u["what"], u["recording"]) for u in document["consultations"]
        ]
        found.append(("consultations", uses))
        found.append(("recipients", [(name,) for name in document["recipients"]]))
    return found


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(str(item) for item in value.values())
    return str(value)
