"""Reading forms: codes of closed lists, ids, dates of the controller's calendar; failures as sentences."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

from aiohttp import web

from recorder.api.problems import kind_of
from recorder.errors import InvalidInput, RecorderError
from recorder.web.frame import capital

Code = TypeVar("Code", bound=StrEnum)
_EARLIEST: Final = 1900
_LATEST: Final = 9000


def text(form: Mapping[str, Any], name: str, *, limit: int = 200) -> str:
    """A field's text, without space around it; empty where it was not given.

    Raises:
        InvalidInput: it is longer, or has a character that cannot be stored.
    """
    value = form.get(name, "")
    if not isinstance(value, str):
        raise InvalidInput(f"{_label(name)} is a text, not a file")
    found = value.strip()
    if len(found) > limit or "\x00" in found:
        raise InvalidInput(f"{_label(name)}: at most {limit:,} characters")
    return found


def code(form: Mapping[str, Any], name: str, kind: type[Code]) -> Code:
    """A code of a closed list.

    Raises:
        InvalidInput: it is none of them.
    """
    found = maybe_code(form, name, kind)
    if found is None:
        raise InvalidInput(f"{_label(name)}: choose one")
    return found


def maybe_code(form: Mapping[str, Any], name: str, kind: type[Code]) -> Code | None:
    """The same; None where nothing was chosen."""
    value = text(form, name)
    try:
        return kind(value) if value else None
    except ValueError:
        raise InvalidInput(f"{_label(name)}: choose one that is listed") from None


def one_of(form: Mapping[str, Any], name: str, allowed: Collection[str]) -> str:
    """A word out of a list.

    Raises:
        InvalidInput: it is none of them.
    """
    value = text(form, name)
    if value not in allowed:
        raise InvalidInput(f"{_label(name)}: choose one that is listed")
    return value


def identifier(value: str, what: str) -> uuid.UUID:
    """A random id that somebody copied.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return uuid.UUID(value)
    except ValueError:
        raise InvalidInput(
            f"that is not the id of {what}: it has 32 hexadecimal digits, with or without dashes"
        ) from None


def identifiers(value: str, what: str) -> tuple[uuid.UUID, ...]:
    """Ids parted by spaces, commas or lines."""
    return tuple(identifier(part, what) for part in value.replace(",", " ").split())


def words(value: str) -> list[str]:
    """Words parted by commas."""
    return [part.strip() for part in value.split(",") if part.strip()]


def moment(value: str, name: str, zone: str, *, days: int = 0) -> datetime | None:
    """A day, or a day and a time, of the controller's calendar; None where nothing was given.

    Args:
        days: how many days later is meant, for the end of a span of whole days.

    Raises:
        InvalidInput: it is neither.
    """
    if not value:
        return None
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not None or not _EARLIEST <= found.year <= _LATEST:
            raise ValueError
    except ValueError:
        raise InvalidInput(f"{_label(name)}: give a date, for example 2026-03-05") from None
    return (found + timedelta(days=days)).replace(tzinfo=ZoneInfo(zone))


def told(error: RecorderError) -> tuple[str, int]:
    """What went wrong as a sentence, and the status of the answer."""
    kind = kind_of(type(error))
    sentence = capital(error.message)
    if not sentence.endswith((".", "!", "?")):
        sentence += "."
    return sentence, 500 if kind is None else kind.status


def options(labels: Mapping[str, str], codes: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """Value and word of each option of a list, in the order of the labels."""
    chosen = None if codes is None else {str(value) for value in codes}
    return [(value, word) for value, word in labels.items() if chosen is None or value in chosen]


def see(address: str) -> web.HTTPSeeOther:
    """Where to look after a form was carried out: reloading sends nothing again."""
    return web.HTTPSeeOther(address)


def _label(name: str) -> str:
    return name.replace("_", " ").partition(".")[0]
