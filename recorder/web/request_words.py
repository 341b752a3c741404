"""The register of requests in words: types, channels, grounds, states, how long there is for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from recorder.catalogue.enums import RequestStage
from recorder.catalogue.tables import Controller, RightsRequest
from recorder.rights.previewing import Foreseen
from recorder.rights.reminders import SOON
from recorder.web.views import Mark, clock, exact
from recorder.web.views import day as day_of
from retention.model import RequestKind
from retention.rights import RefusalGround

KINDS: Final[Mapping[str, str]] = {
    "access": "Access",
    "rectification": "Rectification",
    "erasure": "Erasure",
    "restriction": "Restriction",
    "portability": "Portability",
    "objection": "Objection",
    "consent_withdrawal": "Withdrawal of consent",
}
CHANNELS: Final[Mapping[str, str]] = {
    "email": "E-mail",
    "post": "Letter",
    "visit": "Visit",
    "web": "Web form",
    "phone": "Telephone",
}
METHODS: Final[Mapping[str, str]] = {
    "customer_login": "Signed in as a customer",
    "bank_id": "Bank identification",
    "mobile_id": "Mobile certificate",
    "document_seen": "Identity document seen",
    "call_back": "Called back on a known number",
    "control_questions": "Control questions",
    "known_address": "Sent to a known address",
    "power_of_attorney": "Power of attorney",
}
OUTCOMES: Final[Mapping[str, str]] = {"confirmed": "It is the person", "not_shown": "Not shown"}
LANGUAGES: Final[Mapping[str, str]] = {"fi": "Finnish", "sv": "Swedish", "en": "English"}
STAGES: Final[Mapping[str, str]] = {
    "pending": "To be decided",
    "granted": "Granted",
    "partly_granted": "Granted in part",
    "refused": "Refused",
    "no_data": "No data held",
    "undone": "Taken back",
}
EXTENSIONS: Final[Mapping[str, str]] = {
    "complexity": "It is complex",
    "number_of_requests": "There are many requests",
}
UNDOINGS: Final[Mapping[str, str]] = {
    "wrong_person": "It is another person's",
    "filed_in_error": "It was filed in error",
    "withdrawn_by_person": "The person takes it back",
}
RESTRICTIONS: Final[Mapping[str, str]] = {
    "accuracy": "Accuracy is contested",
    "unlawful": "Processing was unlawful; the person wants no erasure",
    "legal_claims": "The person needs it for legal claims",
    "objection": "An objection is being weighed",
    "request_pending": "A request is being looked into",
}
GROUNDS: Final[Mapping[str, str]] = {
    "legal_obligation": "The law obliges to keep it, art. 17(3)(b)",
    "legal_claims": "Legal claims, art. 17(3)(e)",
    "identity_not_shown": "Identity not shown, art. 12(2)",
    "unfounded_or_excessive": "Manifestly unfounded or excessive, art. 12(5)",
    "compelling_grounds": "Compelling legitimate grounds, art. 21(1)",
    "rights_of_others": "Rights of others, art. 15(4) and 20(4)",
    "not_self_provided": "Not on consent or assignment, art. 20(1)",
    "shared": "Other people hang on this call; to be decided separately",
    "came_late": "Something came to keep it after the decision",
}
PACKAGES: Final[Mapping[str, str]] = {
    "queued": "They wait for their turn.",
    "building": "They are being made.",
    "ready": "They are ready.",
    "failed": "They could not be made.",
    "expired": "They have expired; order others if they are still needed.",
}


def left(row: RightsRequest, controller: Controller, now: datetime) -> Mark:
    """How long there is for the answer, in days of the controller's calendar, with its colour."""
    if row.stage is RequestStage.UNDONE:
        return Mark("stored", "Taken back")
    if row.completed_at is not None:
        return Mark("stored", f"Answered {day_of(row.completed_at, controller.time_zone)}")
    today = now.astimezone(ZoneInfo(controller.time_zone)).date()
    days = (row.last_day - today).days
    if days < 0:
        return Mark("due", f"{_days(-days)} late")
    kind = "restricted" if days <= SOON.days else "stored"
    return Mark(kind, "Last day today" if days == 0 else f"{_days(days)} left")


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count} days"


def row(request: RightsRequest, controller: Controller, now: datetime) -> dict[str, Any]:
    """A request in the register: nothing of it is personal."""
    zone = ZoneInfo(controller.time_zone)
    return {
        "id": request.id,
        "reference": str(request.id)[:8],
        "kind": KINDS[request.kind.value],
        "channel": CHANNELS[request.channel.value],
        "stage": STAGES[request.stage.value],
        "filed": day_of(request.filed_at, zone.key),
        "filed_exact": exact(request.filed_at, zone),
        "filed_iso": request.filed_at.isoformat(),
        "last_day": calendar_day(request.last_day),
        "extended": request.extended_at is not None,
        "left": left(request, controller, now),
        "matched": request.customer_id is not None,
        "identity": OUTCOMES.get(request.identity_outcome or "", "Not checked yet"),
    }


def foreseen(item: Foreseen, kind: RequestKind, controller: Controller, *, decided: bool) -> dict[str, Any]:
    """A recording of a request, with what becomes of it."""
    zone = ZoneInfo(controller.time_zone)
    stays = item.outcome == "refused"
    if item.outcome is None or item.outcome == "pending":
        words = ""
    elif kind is RequestKind.ERASURE:
        words = ("Kept" if decided else "Stays") if stays else ("Erased" if decided else "Goes")
    elif kind is RequestKind.RESTRICTION:
        words = "Not restricted" if stays else "Restricted"
    else:
        words = (
            ("Left out" if decided else "Stays out") if stays else ("In the copies" if decided else "Goes in")
        )
    review = None
    if item.review_on is not None:
        # A statute's end is the first instant after its last day; what is looked at again has a day.
        review = day_of(item.review_on, zone.key)
    return {
        "id": item.recording_id,
        "started": exact(item.started_at, zone),
        "iso": item.started_at.isoformat(),
        "length": clock(item.duration_ms),
        "queue": item.queue or "–",
        "stays": stays,
        "words": words,
        "ground": GROUNDS.get(item.ground or "", (item.ground or "").replace("_", " ").capitalize()),
        "claims": item.ground == RefusalGround.LEGAL_CLAIMS.value,
        "review": review,
    }


def calendar_day(day: date) -> str:
    """A day of the calendar, as instants of it are written."""
    return day_of(datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo("UTC")), "UTC")
