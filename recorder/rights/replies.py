"""The letter that a request is answered with: receipt, notice of extension, or decision. Pure.

A decision always names the supervisory authority and the right to a remedy (GDPR art. 12(4)), also where
everything was granted: who disagrees should not have to look for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from recorder.catalogue.enums import IdentityOutcome, RequestStage
from recorder.catalogue.tables import RequestItem
from recorder.rights.register import RequestView
from recorder.rights.wording import TEMPLATES, Words, words
from retention.model import RequestKind

__all__ = ["Letter", "compose"]


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter in parts, to be shown as plain text or as a page to print."""

    language: str
    sender: str
    addressee: str
    date: str
    subject: str
    reference: str
    before: tuple[str, ...]
    entries: tuple[str, ...]
    after: tuple[str, ...]

    def text(self) -> str:
        """Plain text, paragraphs parted by empty lines."""
        head = "\n".join(line for line in (self.sender, self.date) if line)
        entries = "\n".join(f"- {entry}" for entry in self.entries)
        parts = [head, self.addressee, self.subject, self.reference, *self.before]
        parts += [entries, *self.after, self.sender]
        return "\n\n".join(part for part in parts if part) + "\n"

    def html(self) -> str:
        """A page to print; everything that came from outside is escaped."""
        return TEMPLATES.get_template("letter.html").render(
            language=self.language,
            sender=self.sender,
            addressee=self.addressee,
            date=self.date,
            subject=self.subject,
            reference=self.reference,
            before=self.before,
            entries=self.entries,
            after=self.after,
        )


def compose(view: RequestView, now: datetime, language: str | None = None) -> Letter:
    """The letter that fits where the request stands.

    Args:
        now: the date of the letter.
        language: ``fi``, ``sv`` or ``en``; the request's own unless told.
    """
    row, say = view.row, words(language or view.row.language)
    zone = view.controller.time_zone
    before = [say("received", filed=say.local_day(row.filed_at, zone))]
    entries: list[str] = []
    after: list[str] = []
    if row.stage in {RequestStage.PENDING, RequestStage.UNDONE}:
        before += _waiting(view, say)
    else:
        first, entries, after = _decision(view, say)
        before.append(first)
    after.append(say("complaint.text", authority=view.controller.authority))
    return Letter(
        language=say.language,
        sender=view.controller.name,
        addressee=str(view.person.get("name", "")),
        date=say.local_day(now, zone),
        subject=say("subject", kind=say(f"kind.{row.kind}")),
        reference=say("reference", reference=str(row.id)),
        before=tuple(before),
        entries=tuple(entries),
        after=tuple(after),
    )


def _waiting(view: RequestView, say: Words) -> list[str]:
    row = view.row
    last_day = say.day(row.last_day)
    if row.extended_at is None:
        found = [say("receipt.text", last_day=last_day)]
    else:
        found = [say("extension.text", last_day=last_day), say(f"extension.{row.extension_reason}")]
    if row.identity_outcome is not IdentityOutcome.CONFIRMED:
        found.append(say("receipt.identity"))
    return found


def _decision(view: RequestView, say: Words) -> tuple[str, list[str], list[str]]:
    row = view.row
    if row.stage is RequestStage.NO_DATA:
        return say("no_data.text"), [], []
    if row.stage is RequestStage.REFUSED:
        return say("refused.text", ground=say(f"ground.{row.ground}")), [], []
    after = [say("notices.text")] if view.notices else []
    if row.stage is RequestStage.GRANTED:
        return say(f"granted.{row.kind}"), [], after
    entries = [_entry(view, say, item) for item in view.items if item.outcome == "refused"]
    if row.kind is RequestKind.ERASURE:
        after = [say("partly.resumes"), *after]
    return say("partly.text"), entries, after


def _entry(view: RequestView, say: Words, item: RequestItem) -> str:
    zone = view.controller.time_zone
    known = item.ground is not None and say.has(f"ground.{item.ground}")
    entry = say(
        "partly.item",
        date=say.local_day(view.started[item.recording_id], zone),
        ground=say(f"ground.{item.ground}" if known else "ground.other"),
    )
    if item.review_on is not None:
        ends = item.ground == "legal_obligation"  # the first instant after the statute's last day
        day = item.review_on - timedelta(microseconds=1) if ends else item.review_on
        entry += say("partly.until" if ends else "partly.review", review=say.local_day(day, zone))
    return entry
