"""SIPREC recording metadata (RFC 7865, RFC 7866) as real session border controllers write it. Pure.

Tolerant: any namespace (older ones have none of RFC 7865's), either spelling of ``datamode``, missing streams
and associations, times with ``+0200`` or without an offset. Intolerant of document types and entities, which
the format has no use for and attacks have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from recorder.ingest.adapters.base import Audio, Envelope, Intent, Reply
from recorder.ingest.adapters.common import bounded, code, first, lenient_request, named, storable
from recorder.ingest.adapters.raw import no_audio, read_raw
from recorder.ingest.metadata import MAX_EXTERNAL_ID
from recorder.ingest.request import IngestRequest

MEDIA_TYPE: Final = "application/rs-metadata+xml"
MAX_ELEMENTS: Final = 5000
_MAX_TEXT: Final = 256
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s*(Z|z|[+-]\d\d:?\d\d)?", re.ASCII
)
_SIP: Final = re.compile(r"(?:sips?|tel):([^@;?>]*)", re.IGNORECASE)


class SiprecError(ValueError):
    """The document cannot be read as recording metadata; the message says why and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part: addresses of record and display names, personal."""

    id: str
    names: tuple[tuple[str, str | None], ...] = field(repr=False)
    calling: bool | None = None

    @property
    def number(self) -> str | None:
        """The user part of the first address: a number or an extension."""
        for aor, _ in self.names:
            if (found := _SIP.match(aor)) is not None and found[1]:
                return storable(unquote(found[1]))[:128]
        return None


@dataclass(frozen=True, slots=True)
class Stream:
    """A media stream; ``label`` is the ``a=label`` of its SDP (RFC 4574)."""

    id: str
    session_id: str | None
    label: str | None
    senders: tuple[str, ...] = ()
    receivers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """A communication session, in its group where it has one."""

    id: str
    sip_session_ids: tuple[str, ...] = ()
    group: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Siprec:
    """A recording metadata document."""

    complete: bool
    sessions: tuple[Session, ...]
    participants: tuple[Participant, ...] = field(repr=False)
    streams: tuple[Stream, ...]

    def senders_of(self, label: str) -> tuple[Participant, ...]:
        """Who is heard on the stream of a label."""
        ids = {i for stream in self.streams if stream.label == label for i in stream.senders}
        return tuple(p for p in self.participants if p.id in ids)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the document, which is not the order of any file's channels."""
        return tuple(s.label for s in self.streams if s.label is not None)

    def document(
        self, *, parties: Mapping[str, str] | None = None, labels: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Metadata in the form of a push.

        Args:
            parties: who is heard on a stream, by its label, as the operator knows it.
            labels: of the file's channels in their order, where the sender says so; a file of one stream
                needs none. Without them no channel is given a party: the order is never guessed.

        Returns:
            As far as it is known: ``external_id`` (of the session), ``call``, times, ``caller``, ``callee``,
            ``customer``, ``agents``, ``channels``, and the participants in ``extra``.
        """
        parties = parties or {}
        found: dict[str, Any] = {}
        if self.sessions:
            session = self.sessions[0]
            found["external_id"] = bounded(session.id, MAX_EXTERNAL_ID)
            found["call"] = {"external_id": bounded(session.group or session.id, MAX_EXTERNAL_ID)}
            starts = [s.started_at for s in self.sessions if s.started_at is not None]
            ends = [s.ended_at for s in self.sessions if s.ended_at is not None]
            if starts:
                found["started_at"] = min(starts)
            if ends and (not starts or max(ends) >= min(starts)):
                found["ended_at"] = max(ends)
        for participant in self.participants:
            if participant.calling is not None and participant.number is not None:
                found.setdefault("caller" if participant.calling else "callee", participant.number)
        self._known_parties(found, parties)
        channels = [parties.get(label) for label in labels or (self.labels if len(self.labels) == 1 else ())]
        if any(channels):
            found["channels"] = [{"party": party or "unknown"} for party in channels[:16]]
        extra = self._extra(parties)
        if extra:
            found["extra"] = {"siprec": extra}
        return found

    def _known_parties(self, found: dict[str, Any], parties: Mapping[str, str]) -> None:
        for label, party in parties.items():
            for participant in self.senders_of(label):
                number = participant.number
                if number is None:
                    continue
                if party == "customer":
                    found.setdefault("customer", {"phone": number})
                elif party == "agent" and (agent := code(number)) is not None:
                    agents = found.setdefault("agents", [])
                    if agent not in agents:
                        agents.append(agent)

    def _extra(self, parties: Mapping[str, str]) -> dict[str, Any]:
        sent = {i: s.label for s in self.streams if s.label is not None for i in s.senders}
        people = [
            {
                "aor": [aor for aor, _ in p.names],
                "name": next((name for _, name in p.names if name), None),
                "label": sent.get(p.id),
                "party": parties.get(sent.get(p.id, "")),
            }
            for p in self.participants[:32]
        ]
        sessions = [i for s in self.sessions[:8] for i in s.sip_session_ids]
        return {
            **({"participants": people} if people else {}),
            **({"sip_sessions": sessions} if sessions else {}),
        }


def parse_siprec(xml: bytes) -> Siprec:
    """Read a recording metadata document.

    Raises:
        SiprecError: it is not XML, has a document type or entities, or is no such document.
    """
    try:
        root = fromstring(xml, forbid_dtd=True, forbid_entities=True, forbid_external=True)
    except DefusedXmlException:
        raise SiprecError("it has a document type or entities, which are not taken") from None
    except (ParseError, ValueError, LookupError, RecursionError):
        raise SiprecError("it is not well-formed XML") from None
    if _local(root) != "recording":
        raise SiprecError("its root is not the element recording (RFC 7865)")
    elements = list(_walk(root))
    mode = next((_text(e) for e in elements if _local(e).lower() == "datamode"), "complete")
    streams = _streams(elements)
    found = Siprec(
        complete=mode.lower() != "partial",
        sessions=_sessions(elements),
        participants=tuple(_participant(e) for e in elements if _local(e) == "participant"),
        streams=streams,
    )
    if not (found.sessions or found.participants or found.streams):
        raise SiprecError("it has neither sessions nor participants nor streams")
    return found


def parse_time(text: str) -> datetime | None:
    """A time as session border controllers write them, UTC; one without an offset is taken as UTC."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    day, clock, fraction, offset = found.groups()
    offset = "+00:00" if offset is None or offset in "Zz" else offset
    if ":" not in offset:
        offset = f"{offset[:3]}:{offset[3:]}"
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _walk(root: Element) -> Iterator[Element]:
    for count, element in enumerate(root.iter()):
        if count > MAX_ELEMENTS:
            raise SiprecError(f"it has more than {MAX_ELEMENTS} elements")
        yield element


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: Element) -> str:
    return storable((element.text or "").strip())[:_MAX_TEXT]


def _attribute(element: Element, *names: str) -> str | None:
    for name in names:
        for key, value in element.attrib.items():
            if key.rpartition("}")[2].lower() == name and value.strip():
                return storable(value.strip())[:_MAX_TEXT]
    return None


def _children(element: Element, *names: str) -> list[str]:
    texts = (_text(e) for e in element.iter() if e is not element and _local(e) in names)
    return [text for text in texts if text]


def _times(elements: Sequence[Element], session_id: str, *names: str) -> list[datetime]:
    """Times told of a session, by itself or by what associates something with it."""
    found: list[datetime] = []
    for element in elements:
        local = _local(element)
        own = local == "session" and _attribute(element, "session_id", "id") == session_id
        beside = local.endswith("assoc") and _attribute(element, "session_id", "session") == session_id
        if own or beside:
            found += [t for text in _children(element, *names) if (t := parse_time(text)) is not None]
    return found


def _sessions(elements: Sequence[Element]) -> tuple[Session, ...]:
    groups = [i for e in elements if _local(e) == "group" and (i := _attribute(e, "group_id", "id"))]
    sessions: list[Session] = []
    for element in elements:
        if _local(element) != "session":
            continue
        session_id = _attribute(element, "session_id", "id")
        if session_id is None:
            continue
        referred = _children(element, "group-ref", "group", "groupref")
        starts = _children(element, "start-time")
        begun = [t for text in starts if (t := parse_time(text)) is not None]
        begun = begun or _times(elements, session_id, "associate-time")
        ended = _times(elements, session_id, "stop-time") or _times(elements, session_id, "disassociate-time")
        sessions.append(
            Session(
                id=session_id,
                sip_session_ids=tuple(_children(element, "sipSessionID")),
                group=referred[0] if referred else (groups[0] if len(groups) == 1 else None),
                started_at=min(begun, default=None),
                ended_at=max(ended, default=None),
            )
        )
        if len(sessions) >= 32:
            break
    return tuple(sessions)


def _participant(element: Element) -> Participant:
    names: list[tuple[str, str | None]] = []
    calling: bool | None = None
    for child in element.iter():
        local = _local(child).lower()
        if local == "nameid":
            shown = _children(child, "name")
            names.append((_attribute(child, "aor") or "", shown[0] if shown else None))
        elif local == "aor":
            names.append((_text(child), None))
        elif local in ("callingparty", "callerorig"):
            calling = _text(child).lower() in ("true", "1", "yes")
    return Participant(_attribute(element, "participant_id", "id") or "", tuple(names[:8]), calling)


def _streams(elements: Sequence[Element]) -> tuple[Stream, ...]:
    senders: dict[str, list[str]] = {}
    receivers: dict[str, list[str]] = {}
    for element in elements:
        # RFC 7865 associates beside, older documents inside of the participant.
        if _local(element) in ("participantstreamassoc", "participant"):
            who = _attribute(element, "participant_id", "id")
            if who is None:
                continue
            for sent in _children(element, "send"):
                senders.setdefault(sent, []).append(who)
            for received in _children(element, "recv"):
                receivers.setdefault(received, []).append(who)
    streams: list[Stream] = []
    for element in elements:
        if _local(element) == "stream" and (stream_id := _attribute(element, "stream_id", "id")) is not None:
            labels = _children(element, "label")
            streams.append(
                Stream(
                    stream_id,
                    _attribute(element, "session_id", "session"),
                    labels[0] if labels else None,
                    tuple(senders.get(stream_id, ())),
                    tuple(receivers.get(stream_id, ())),
                )
            )
    return tuple(streams[:64])


@dataclass(slots=True)
class SiprecAdapter:
    """Audio with its recording metadata in a part before it, from a session recording server."""

    kind: str = "siprec"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Nothing is signed."""
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording; a document that cannot be read is kept sealed, and the recording in quarantine.

        Raises:
            InvalidInput: no audio came.
        """
        if envelope.document is not None:
            raise no_audio("send the metadata as a part of multipart/form-data, and the audio after it")
        return (Audio(_request(envelope)),)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """The usual answer."""
        del envelope, intents
        return None


def is_xml(text: str) -> bool:
    """Whether a field holds an XML document."""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _request(envelope: Envelope) -> IngestRequest:
    xml = next((pair for pair in envelope.fields if is_xml(pair[1])), None)
    if xml is None:
        return read_raw(envelope)
    pairs = (*envelope.query, *(pair for pair in envelope.fields if pair is not xml))
    plain = read_raw(_without(envelope, xml))
    given = first(pairs, "labels") or first(pairs, "label")
    labels = [label.strip() for label in (given or "").split(",") if label.strip()][:16]
    try:
        told = parse_siprec(xml[1].encode()).document(
            parties=envelope.settings.get("parties") or {}, labels=labels
        )
    except SiprecError as error:
        reasons = (*plain.reasons, "metadata-invalid:siprec")
        return replace(
            plain, reasons=reasons, unparsed={**plain.unparsed, "siprec": xml[1], "why": str(error)}
        )
    # What the sender says outright goes before what its metadata document says.
    said = plain.metadata.model_dump(by_alias=True, exclude_unset=True)
    for name in plain.estimated:
        said.pop(name, None)
    _, extension, made_up = named(envelope)
    if made_up and "external_id" in told:
        said["external_id"] = told["external_id"]
        if labels:
            said.setdefault("leg", bounded("-".join(labels), 64))
    document = {**told, **said}
    if "extra" in told and "extra" in said:
        document["extra"] = {**told["extra"], **said["extra"]}
    known = {"started-at-estimated", *(made_up if "external_id" in told else ())}
    still = [reason for reason in plain.reasons if reason not in known]
    return lenient_request(envelope, document, reasons=still, unparsed=plain.unparsed, extension=extension)


def _without(envelope: Envelope, field: tuple[str, str]) -> Envelope:
    return replace(envelope, fields=tuple(pair for pair in envelope.fields if pair is not field))
