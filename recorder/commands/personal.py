"""What is personal reaches a command by stdin or a prompt: arguments stand in process lists and histories."""

from __future__ import annotations

import json
import sys
import uuid
from typing import TYPE_CHECKING, Any

import click

from recorder.commands.context import principal
from recorder.commands.failures import Usage

if TYPE_CHECKING:
    from recorder.services import Services

__all__ = ["customer_of", "person", "prompted", "read_words", "secretly"]

_LIMIT = 64 * 1024


async def customer_of(services: Services, controller_id: uuid.UUID, number: str) -> uuid.UUID:
    """The customer with a number.

    Raises:
        Usage: nobody living has it.
    """
    from recorder.customers.records import CustomerQuery, search

    if not 1 <= len(number) <= 64:
        raise Usage("a customer's number has 1 to 64 characters")
    found = await search(
        services,
        controller_id,
        CustomerQuery(number=number),
        actor=principal().actor,
        request_id=str(uuid.uuid4()),
    )
    if not found:
        raise Usage("no living customer has this number")
    return found[0].id


def read_words(allowed: frozenset[str]) -> dict[str, Any]:
    """A JSON object of what is personal, from stdin.

    Raises:
        Usage: it is none, or names something else.
    """
    text = sys.stdin.read(_LIMIT + 1)
    try:
        found = json.loads(text) if len(text) <= _LIMIT else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() <= allowed:
        raise Usage(f"stdin: a JSON object of at most 64 KiB with {', '.join(sorted(allowed))}")
    return found


def person() -> dict[str, str]:
    """Who asks, from stdin: customer (a number), name, contact, message.

    Raises:
        Usage: something else came.
    """
    limits = {"customer": 64, "name": 200, "contact": 500, "message": 8000}
    found = read_words(frozenset(limits))
    for name, value in found.items():
        if not isinstance(value, str) or len(value) > limits[name] or "\x00" in value:
            raise Usage(f"stdin: {name} is a text of at most {limits[name]} characters")
    return {name: value for name, value in found.items() if value}


def prompted() -> dict[str, str]:
    """The same, asked for at a terminal; nothing without one."""
    if not sys.stdin.isatty():
        return {}
    asked = {
        name: click.prompt(
            f"{name.capitalize()}, empty where not known", default="", show_default=False, err=True
        )
        for name in ("customer", "name", "contact", "message")
    }
    return {name: value for name, value in asked.items() if value}


def secretly(what: str) -> str:
    """A value from stdin, asked for at a terminal."""
    if sys.stdin.isatty():
        return str(click.prompt(what, err=True)).strip()
    return sys.stdin.readline().strip()
