"""The three languages of replies and packages, read once from the package's own files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import jinja2

__all__ = ["LANGUAGES", "TEMPLATES", "Words", "words"]

_HERE: Final = Path(__file__).parent / "texts"
LANGUAGES: Final = ("fi", "sv", "en")
TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.DictLoader({p.name: p.read_text(encoding="utf-8") for p in _HERE.glob("*.html")}),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Words:
    """The sentences of one language."""

    def __init__(self, texts: Mapping[str, Any]) -> None:
        self._texts = texts
        self.language = str(texts["language"])

    def __call__(self, path: str, **values: str) -> str:
        """A sentence by its dotted path, with its blanks filled in."""
        found: Any = self._texts
        for name in path.split("."):
            found = found[name]
        return str(found).format(**values) if values else str(found)

    def has(self, path: str) -> bool:
        """Whether there is a sentence at a path ``section.name``."""
        section, name = path.split(".")
        return name in self._texts[section]

    def day(self, day: date) -> str:
        """A date as people of the language write it."""
        months = self._texts["months"]
        month = months[day.month - 1] if months else ""
        return str(self._texts["date"]).format(
            d=day.day, m=day.month, y=day.year, dd=f"{day.day:02}", mm=f"{day.month:02}", month=month
        )

    def local_day(self, moment: datetime, zone: str) -> str:
        """The date of an instant in a zone."""
        return self.day(moment.astimezone(ZoneInfo(zone)).date())


_WORDS: Final = {
    name: Words(tomllib.loads((_HERE / f"{name}.toml").read_text(encoding="utf-8"))) for name in LANGUAGES
}


def words(language: str) -> Words:
    """The sentences of a language; English where we do not write it."""
    return _WORDS.get(language, _WORDS["en"])
