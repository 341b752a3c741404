"""``redact``: a stretch of a call that nobody is to hear."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import click

from recorder.commands.context import (
    confirm,
    json_option,
    opened,
    parse_id,
    principal,
    run,
    show_json,
    yes_option,
)
from recorder.commands.failures import Usage

if TYPE_CHECKING:
    from recorder.disposition.redaction import Redaction

_TIME: Final = re.compile(r"(?:(?:(\d{1,2}):)?([0-5]?\d):)?(\d{1,6}(?:\.\d{1,3})?)", re.ASCII)


@click.command(short_help="Mute a stretch of a call; a card security code is destroyed.")
@click.argument("recording")
@click.option("--from", "start", metavar="TIME", required=True, help="Start: seconds, or [h:]mm:ss[.mmm].")
@click.option("--to", "end", metavar="TIME", required=True, help="End, in the same form.")
@click.option("--reason", metavar="CODE", required=True,
              help="card_security destroys; payment, third_party and others are overlays.")  # fmt: skip
@yes_option
@json_option
def redact(recording: str, start: str, end: str, reason: str, yes: bool, as_json: bool) -> None:
    """Mute a stretch of a stored call.

    With --reason card_security the stretch is destroyed before the command ends, legal hold or not: a muted
    copy takes the original's place, and a certificate says so. Any other reason silences the stretch for
    everybody but those who may hear the original.
    """
    recording_id = parse_id(recording, "the recording")
    from_ms, to_ms = _milliseconds(start, up=False), _milliseconds(end, up=True)
    if re.fullmatch(r"[a-z][a-z0-9_]{0,63}", reason) is None:
        raise Usage("a reason is a code such as card_security, payment or third_party")
    if reason == "card_security":
        confirm("Destroy this stretch of the original for good?", yes=yes)

    async def work() -> Redaction:
        from recorder.disposition import redaction

        async with opened() as services:
            return await redaction.redact(
                services, principal(), recording_id, from_ms=from_ms, to_ms=to_ms, reason=reason
            )

    done = run(work())
    if as_json:
        show_json(
            {
                "recording": done.recording_id,
                "from": done.from_ms / 1000,
                "to": done.to_ms / 1000,
                "reason": done.reason,
                "destroyed": done.destroyed,
                "certificate": done.certificate_id,
            }
        )
    elif done.destroyed:
        click.echo(f"destroyed; certificate {done.certificate_id}")
    else:
        click.echo("muted for everybody but those who may hear the original")


def _milliseconds(text: str, *, up: bool) -> int:
    """Read a time on the command line; rounded outwards.

    Raises:
        Usage: It is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise Usage("a time is seconds, or [h:]mm:ss[.mmm], for example 1:23.5")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    exact = (hours * 3600 + minutes * 60 + seconds) * 1000
    return -int(-round(exact, 3) // 1) if up else int(round(exact, 3))
