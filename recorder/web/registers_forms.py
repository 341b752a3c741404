"""What is typed into a register: checked by the API's own rules, with what is wrong said at its field."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from recorder.access.accounts import display_name
from recorder.errors import Erased, FieldError, InvalidInput, NotFound, RecorderError
from recorder.services import Services
from recorder.web import forms
from recorder.web.frame import capital

Body = TypeVar("Body", bound=BaseModel)
_UNSAVED: Final = "nothing is saved yet: look at what is marked below"
_NEEDED: Final = "This is needed."
_DAY: Final = len("2026-03-05")
# What the rules of a field ask for, where it is not that something is missing.
_ASKED: Final[Mapping[str, str]] = {
    "actor": "Name it as the log does, for example account: and the account's id.",
    "country": "Give the two capital letters of the country, for example FI.",
    "reference": "Letters, digits, spaces and . _ : / - only, at most 64; no names.",
    "contract_reference": "Letters, digits, spaces and . _ : / - only, at most 64; no names.",
    "kind": "Choose one that is listed.",
    "safeguard": "Choose one that is listed.",
    "recordings": "At most 500 recordings; leave it empty for all that was open in that time.",
}
_SAID: Final[Mapping[tuple[str, str], str]] = {
    ("aware_at", "not after now"): "This time has not come yet.",
    ("notified_at", "not after now"): "This time has not come yet.",
    ("persons_told_at", "not after now"): "This time has not come yet.",
    ("notified_at", "not before aware_at"): "That is before the breach was noticed.",
    ("seen_until", "after seen_from"): "Give a time after it began to lie open.",
    ("country", "not null"): _NEEDED,
}


class Reading:
    """One form being read; what is wrong is gathered, so that all of it is said at once.

    Args:
        form: what was posted.
        zone: the controller's time zone, in which times are typed.
    """

    def __init__(self, form: Mapping[str, Any], zone: str) -> None:
        self._form = form
        self._zone = zone
        self.wrong: dict[str, str] = {}

    def text(self, name: str, *, limit: int = 200) -> str | None:
        """A field's text with plain line ends; None where nothing was typed."""
        try:
            return forms.text(self._form, name, limit=limit).replace("\r\n", "\n") or None
        except InvalidInput as error:
            self._refuse(name, error)
            return None

    def moment(self, name: str) -> datetime | None:
        """A day and a time; None where nothing was typed."""
        try:
            return forms.moment(self.text(name) or "", "time", self._zone)
        except InvalidInput as error:
            self._refuse(name, error)
            return None

    def end_of_day(self, name: str) -> datetime | None:
        """The first instant after a day, the last on which something holds; None where nothing was typed."""
        typed = self.text(name) or ""
        try:
            return forms.moment(typed[:_DAY], "day", self._zone, days=1)
        except InvalidInput as error:
            self._refuse(name, error)
            return None

    def identifiers(self, name: str, what: str) -> tuple[uuid.UUID, ...]:
        """Ids parted by spaces, commas or lines."""
        try:
            return forms.identifiers(self.text(name, limit=40_000) or "", what)
        except InvalidInput as error:
            self._refuse(name, error)
            return ()

    def _refuse(self, name: str, error: InvalidInput) -> None:
        self.wrong[name] = forms.told(error)[0]

    def body(self, model: type[Body], values: Mapping[str, Any]) -> Body:
        """What was typed as the API takes it.

        Raises:
            InvalidInput: something is wrong; each field says what.
        """
        try:
            made = model.model_validate(values)
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=False):
                name = str(each["loc"][0])
                missing = each["type"] == "missing" or values.get(name) is None
                self.wrong.setdefault(name, _NEEDED if missing else _ASKED.get(name, "This cannot be read."))
            self.raise_wrong()
            raise InvalidInput(_UNSAVED) from None  # of a model as a whole: these have no such rules
        self.raise_wrong()
        return made

    def raise_wrong(self) -> None:
        """Raise what was gathered.

        Raises:
            InvalidInput: something is wrong; each field says what.
        """
        if self.wrong:
            fields = [FieldError(f"/{name}", message) for name, message in self.wrong.items()]
            raise InvalidInput(_UNSAVED, fields=fields)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values that are there."""
    return {name: value for name, value in values.items() if value is not None}


def wrong(form: str, error: RecorderError | None) -> dict[str, Any]:
    """What is wrong with which field of which form, and which of them gets the focus."""
    fields: dict[str, str] = {}
    for each in () if error is None else error.fields:
        name = each.path.strip("/").partition("/")[0]
        sentence = _SAID.get((name, each.message), capital(each.message))
        fields[name] = sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
    return {"form": form, "fields": fields, "first": next(iter(fields), "")}


def failure(error: RecorderError) -> tuple[str, int]:
    """The sentence above the page, and the status of the answer; fields speak for themselves."""
    sentence, status = forms.told(error)
    return (f"{capital(_UNSAVED)}." if error.fields else sentence), status


def the_id(request: web.Request, what: str) -> uuid.UUID:
    """The id in the address.

    Raises:
        NotFound: it is none.
    """
    try:
        return uuid.UUID(request.match_info["id"])
    except ValueError:
        raise NotFound(f"there is no such {what}") from None


class Names:
    """Who an actor of the log is; each is looked up once."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[str, str] = {}

    async def of(self, actor: str) -> str:
        """A colleague's name; in words what else acts."""
        if actor not in self._known:
            self._known[actor] = await self._find(actor)
        return self._known[actor]

    async def _find(self, actor: str) -> str:
        kind, _, identity = actor.partition(":")
        words = {"system": "the service", "os": "the command line", "token": "an API client"}
        if kind != "account":
            return words.get(kind, actor)
        try:
            return await display_name(self._services, uuid.UUID(identity))
        except (Erased, NotFound):
            return "a former colleague"
        except ValueError:
            return actor
