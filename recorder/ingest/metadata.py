"""The metadata of a pushed recording: names, limits, and how a query string becomes it.

Import leniently, export strictly: the API route refuses what it cannot read (422), a raw PUT or an
adapter keeps the recording and says in quarantine what was wrong. Values are never echoed: they may
be personal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from recorder.catalogue.enums import Direction, LawfulBasis
from recorder.errors import FieldError, InvalidInput

MAX_EXTERNAL_ID: Final = 256
MAX_DURATION_SECONDS: Final = 48 * 3600
CARD_SECURITY: Final = "card_security"
"""The reason of a muted span that is destroyed at ingest (PCI DSS 3.3.1)."""

_RFC3339: Final = re.compile(
    r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$", re.ASCII
)
_MAX_DEPTH: Final = 8
_MUTING: Final = {"pause": True, "mute": True, "resume": False, "unmute": False}
_PAUSE_REASON: Final = "payment"


def _instant(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise ValueError("give date, time and offset as in 2026-03-05T10:15:00+02:00 (RFC 3339)")
    return value.replace(",", ".")


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None or not 1970 <= value.year <= 9000:
        raise ValueError("give a time from 1970 on, with its offset")
    return value.astimezone(UTC)


def _printable(value: str) -> str:
    # NUL has no place in PostgreSQL's text, a lone surrogate none in UTF-8.
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("contains a character that cannot be stored")
    return value


def _bounded(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    def walk(item: JsonValue, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(item, str):
            _printable(item)
        elif isinstance(item, list):
            for each in item:
                walk(each, depth + 1)
        elif isinstance(item, dict):
            for name, each in item.items():
                _printable(name)
                walk(each, depth + 1)

    walk(value, 0)
    return value


Instant = Annotated[datetime, BeforeValidator(_instant), AfterValidator(_utc)]
Seconds = Annotated[float, Field(ge=0, le=MAX_DURATION_SECONDS, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(_printable)]
Line = Annotated[Text, Field(max_length=256)]
Identifier = Annotated[Text, Field(min_length=1, max_length=MAX_EXTERNAL_ID)]
Code = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.:#-]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CallRef(_Part):
    """Which call a recording belongs to; recordings of one call share its ``external_id``.

    ``part`` orders what was recorded piece by piece; ``transferred_from`` is the sender's id of the call out
    of which this one came by an attended transfer.
    """

    external_id: Identifier
    part: Annotated[int, Field(ge=0, le=10_000)] | None = None
    transferred_from: Identifier | None = None


class CustomerRef(_Part):
    """What the sender knows of the customer on the line; kept sealed."""

    number: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    phone: Annotated[Text, Field(min_length=1, max_length=128)] | None = None
    email: Annotated[Text, Field(min_length=1, max_length=254)] | None = None


class Channel(_Part):
    """Who is heard on a channel, in the order of the channels; never guessed by index."""

    party: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z][a-z0-9_]*$")]


class MediaHint(_Part):
    """What the audio is; believed where the bytes themselves do not tell (raw G.722, mu-law, GSM)."""

    codec: Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[A-Za-z0-9][\w.+/-]*$")] | None = None
    sample_rate: Annotated[int, Field(ge=1000, le=384_000)] | None = None
    channels: Annotated[int, Field(ge=1, le=16)] | None = None


class ServiceEvent(_Part):
    """A service event the call proves; ``ref`` is sealed, ``type`` is plain.

    ``pause``, ``resume``, ``mute`` and ``unmute`` say when in the audio (``offset``, seconds) nothing was to
    be recorded, and why (``reason``, ``payment`` unless told); they mute the stretch as ``muted`` does.
    """

    type: Code
    ref: Line | None = None
    offset: Seconds | None = None
    reason: Code | None = None

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.type in _MUTING and self.offset is None:
            raise ValueError(f"{self.type} needs its offset in the audio, in seconds")
        return self


class Notice(_Part):
    """Which recording notice was played, and when in the call (seconds)."""

    version: Annotated[Text, Field(min_length=1, max_length=64)]
    offset: Seconds | None = None


class MutedSpan(_Part):
    """A stretch nobody but legal hears, in seconds from the start of the audio."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    from_: Seconds = Field(alias="from")
    to: Seconds
    reason: Code

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.to <= self.from_:
            raise ValueError("must end after it begins")
        return self


class RecordingMetadata(_Part):
    """What a sender says of one recording. Unknown fields are refused."""

    external_id: Identifier
    leg: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    call: CallRef | None = None
    started_at: Instant
    ended_at: Instant | None = None
    duration: Seconds | None = None
    direction: Direction | None = None
    caller: Line | None = None
    callee: Line | None = None
    customer: CustomerRef | None = None
    agents: Annotated[list[Code], Field(max_length=32)] = []
    queue: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    channels: Annotated[list[Channel], Field(max_length=16)] = []
    media: MediaHint | None = None
    service_events: Annotated[list[ServiceEvent], Field(max_length=64)] = []
    lawful_basis: LawfulBasis | None = None
    notice: Notice | None = None
    muted: Annotated[list[MutedSpan], Field(max_length=256)] = []
    tags: Annotated[list[Code], Field(max_length=64)] = []
    extra: Annotated[dict[str, JsonValue], AfterValidator(_bounded)] = {}

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.ended_at is not None:
            if self.ended_at < self.started_at:
                raise ValueError("ended_at lies before started_at")
            spoken = (self.ended_at - self.started_at).total_seconds()
            if spoken > MAX_DURATION_SECONDS:
                raise ValueError("ended_at lies more than two days after started_at")
            if self.duration is not None and abs(spoken - self.duration) > 1.0:
                raise ValueError("ended_at and duration contradict each other; give one of them")
        return self

    @property
    def end(self) -> datetime | None:
        """When the call ended, as said or as it follows from the duration."""
        if self.ended_at is not None:
            return self.ended_at
        return None if self.duration is None else self.started_at + timedelta(seconds=self.duration)

    @property
    def silences(self) -> tuple[MutedSpan, ...]:
        """What nobody is to hear: ``muted``, and what pauses say; doubt mutes rather than lets through.

        A pause without its end reaches to the end of the audio, an end without its pause from the start.
        """
        spans, since, reasons = list(self.muted), None, list[str]()
        placed = [(e.offset, e) for e in self.service_events if e.type in _MUTING and e.offset is not None]
        known = False
        for offset, event in sorted(placed, key=lambda item: item[0]):
            reason = event.reason or _PAUSE_REASON
            if _MUTING[event.type]:
                since = offset if since is None else since
                reasons.append(reason)
                known = True
            elif since is not None or not known:
                spans += _stretches(since or 0.0, offset, reasons or [reason])
                since, reasons, known = None, [], True
        if since is not None:
            spans += _stretches(since, float(MAX_DURATION_SECONDS), reasons)
        return tuple(spans)

    def document(self) -> dict[str, Any]:
        """As sealed and compared: JSON, without what was not given."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def _stretches(start: float, end: float, reasons: Iterable[str]) -> list[MutedSpan]:
    return [MutedSpan(from_=start, to=end, reason=r) for r in dict.fromkeys(reasons) if end > start]


def pointer(parts: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901); names are cut, because an unknown name is the sender's own text."""
    return "".join("/" + str(p)[:60].replace("~", "~0").replace("/", "~1") for p in parts)


def field_errors(error: ValidationError) -> list[FieldError]:
    """Pydantic's findings as pointers and words, without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [FieldError(pointer(item["loc"]), item["msg"]) for item in found[:50]]


def parse_metadata(raw: bytes) -> RecordingMetadata:
    """Read the ``metadata`` part of a push.

    Raises:
        InvalidInput: it is not JSON, or a field is missing, unknown or wrong; each is named.
    """
    try:
        return RecordingMetadata.model_validate_json(raw)
    except ValidationError as error:
        fields = field_errors(error)
        listing = "; ".join(f"{f.path or '/'}: {f.message}" for f in fields[:5])
        raise InvalidInput(f"the metadata cannot be used: {listing}", fields=fields) from None


def differences(
    first: Mapping[str, Any], again: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> list[str]:
    """Pointers of the top-level fields in which two metadata documents differ."""
    skip = {*ignore}
    names = sorted({n for n in (*first, *again) if not n.startswith("_")} - skip)
    return [pointer([name]) for name in names if first.get(name) != again.get(name)]


# Query parameters of a raw PUT. Left: what senders write; right: where it belongs.
_QUERY: Final[dict[str, tuple[str, ...]]] = {
    "leg": ("leg",),
    "call": ("call", "external_id"),
    "part": ("call", "part"),
    "transferred_from": ("call", "transferred_from"),
    "started_at": ("started_at",),
    "ended_at": ("ended_at",),
    "duration": ("duration",),
    "direction": ("direction",),
    "caller": ("caller",),
    "from": ("caller",),
    "callee": ("callee",),
    "to": ("callee",),
    "number": ("customer", "number"),
    "phone": ("customer", "phone"),
    "email": ("customer", "email"),
    "queue": ("queue",),
    "lawful_basis": ("lawful_basis",),
    "codec": ("media", "codec"),
    "sample_rate": ("media", "sample_rate"),
    "channels": ("media", "channels"),
    "notice_version": ("notice", "version"),
    "notice_offset": ("notice", "offset"),
}
_QUERY_LISTS: Final = {"agent": "agents", "agents": "agents", "tag": "tags", "tags": "tags"}
_MAY_NAME_SPANS: Final = frozenset({"muted", "metadata", "service_events"})
_MAX_QUERY: Final = 64
QueryPair = tuple[str, str]


def metadata_from_query(
    external_id: str, query: Iterable[QueryPair], *, now: datetime
) -> tuple[RecordingMetadata, tuple[str, ...], dict[str, Any]]:
    """Make the best of a query string.

    Args:
        external_id: from the path.
        query: decoded pairs in order.
        now: stands in for a ``started_at`` that is missing or unreadable.

    Returns:
        The metadata; stable codes of what was wrong (``metadata-invalid:<field>``) or made up
        (``started-at-estimated``); what could not be used, to be sealed beside it.

    Raises:
        InvalidInput: the external id itself cannot be used; or spans of card data are named in a way that
            cannot be read, so that they would be kept.
    """
    document: dict[str, Any] = {"external_id": external_id}
    extra: dict[str, Any] = {}
    unparsed: dict[str, Any] = {}
    pairs = list(query)
    for name, value in pairs[:_MAX_QUERY]:
        value = value.replace("\x00", "")[:4096]
        if name in _QUERY_LISTS:
            items = [v for v in (part.strip() for part in value.split(",")) if v]
            have = document.setdefault(_QUERY_LISTS[name], [])
            if isinstance(have, list):  # else the parameter `metadata` holds something that is named below
                have.extend(items)
        elif name in ("extra", "muted", "service_events", "metadata"):
            _merge_json(document, extra, unparsed, name, value)
        elif name in _QUERY:
            *above, last = _QUERY[name]
            target = document.setdefault(above[0], {}) if above else document
            if isinstance(target, dict):
                target.setdefault(last, value)
        elif value:
            extra[name[:64]] = value
    if extra and isinstance(document.setdefault("extra", {}), dict):
        document["extra"] = {**extra, **document["extra"]}
    found = lenient_metadata(document, unparsed, now)
    _refuse_lost_card_spans(pairs, found[0])
    return found


def _refuse_lost_card_spans(pairs: Iterable[QueryPair], metadata: RecordingMetadata) -> None:
    """Keep no card security code because its span could not be read: not even in quarantine (PCI DSS 3.3.1).

    Raises:
        InvalidInput: the sender names more spans of card data than were understood.
    """
    named = sum(value.count(CARD_SECURITY) for name, value in pairs if name in _MAY_NAME_SPANS)
    reasons = [*(s.reason for s in metadata.muted), *(e.reason for e in metadata.service_events)]
    if named > reasons.count(CARD_SECURITY):
        field = FieldError("muted", "give a JSON list of {from, to, reason}, once, with from before to")
        raise InvalidInput(
            f"the spans of card data cannot be read, so nothing was kept; {field.path}: {field.message}",
            fields=[field],
        )


def _merge_json(
    document: dict[str, Any], extra: dict[str, Any], unparsed: dict[str, Any], name: str, value: str
) -> None:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        unparsed[name] = value
        return
    if name == "metadata" and isinstance(parsed, dict):
        for key, each in parsed.items():
            if key in RecordingMetadata.model_fields:
                if each is not None:  # null says nothing, and must not hide what another parameter says
                    document.setdefault(key, each)
            else:
                extra[str(key)[:64]] = each
    elif name == "metadata":
        unparsed[name] = value
    else:
        document[name] = parsed


def lenient_metadata(
    document: dict[str, Any], unparsed: dict[str, Any], now: datetime
) -> tuple[RecordingMetadata, tuple[str, ...], dict[str, Any]]:
    """Make the best of a metadata document: what is wrong moves to ``unparsed`` and becomes a reason.

    Args:
        document: as `RecordingMetadata` reads it; changed on the way.
        unparsed: what could not be used already; added to.
        now: stands in for a ``started_at`` that is missing or unreadable.

    Returns:
        As `metadata_from_query`.

    Raises:
        InvalidInput: the external id itself cannot be used.
    """
    reasons = [f"metadata-invalid:{name}" for name in unparsed]
    estimated = "started_at" not in document
    if estimated:
        document["started_at"] = now
    for _ in range(len(document) + 2):
        try:
            # Text in, as from a query string: "8000" is a sample rate.
            metadata = RecordingMetadata.model_validate(document)
            break
        except ValidationError as error:
            bad = {str(item["loc"][0]) if item["loc"] else "ended_at" for item in error.errors()}
            if "external_id" in bad:
                raise InvalidInput(
                    "the external id in the path cannot be used",
                    fields=[FieldError("external_id", f"1 to {MAX_EXTERNAL_ID} printable characters")],
                ) from None
            for name in sorted(bad & document.keys()):
                unparsed[name] = document.pop(name)
                reasons.append(f"metadata-invalid:{name}")
            if "started_at" in bad:
                document["started_at"], estimated = now, True
    else:
        raise InvalidInput("the metadata cannot be used")
    if estimated:
        reasons.append("started-at-estimated")
        if metadata.duration is not None:
            started = now - timedelta(seconds=metadata.duration)
            metadata = metadata.model_copy(update={"started_at": started})
    return metadata, tuple(dict.fromkeys(reasons)), unparsed


MediaSource = Literal["bytes", "metadata", "extension", "type", "source"]
