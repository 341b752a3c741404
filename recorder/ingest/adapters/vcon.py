"""vCons (draft-ietf-vcon-vcon-core), drafts old and new: one call, a recording for each dialog with audio."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from recorder.errors import FieldError, InvalidInput, MalformedInput
from recorder.ingest.adapters.base import Envelope, Inline, Intent, Later, NoAudio, Reply, SenderOutcome
from recorder.ingest.adapters.common import base_name, bounded, lenient_request, storable
from recorder.ingest.adapters.vcon_forms import open_vcon, unbase64
from recorder.ingest.digests import SIZES, DigestCheck
from recorder.ingest.request import IngestRequest
from recorder.ingest.sniff import HEAD_SIZE, Hints, extension_of, sniff

_SUPPORTED: Final = frozenset({"cc", "contact_center", "lawful_basis"})
_MAX_RECORDINGS: Final = 32
_MAX_PARTIES: Final = 64
_PARTY: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_HASH: Final = re.compile(r"(sha-?(?:256|512))-([A-Za-z0-9_-]+={0,2})", re.ASCII | re.IGNORECASE)
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)
_SEALED: Final = (
    "created_at",
    "updated_at",
    "subject",
    "extensions",
    "redacted",
    "amended",
    "appended",
    "group",
)
# Articles 6(1)(a) to (f) of the GDPR in the vocabulary of the lawful basis extension, and our own words.
_BASES: Final = {
    "consent": "consent",
    "contract": "customer_relationship",
    "legal_obligation": "statutory_obligation",
    "legitimate_interests": "objective_connection",
    "legitimate_interest": "objective_connection",
    "customer_relationship": "customer_relationship",
    "assignment": "assignment",
    "objective_connection": "objective_connection",
    "statutory_obligation": "statutory_obligation",
}


@dataclass(slots=True)
class VconAdapter:
    """vCons that are posted, by a conserver or by anybody."""

    kind: str = "vcon"

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Nothing here: a vCon that is not signed as it should be is kept in quarantine, not refused."""
        del envelope, secrets

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """Each recording of the call.

        Raises:
            MalformedInput: it is no vCon.
            InvalidInput: it is encrypted to somebody else, demands an extension that is not supported, or
                tells of no recording.
            TooLarge: it is a bomb.
        """
        opened = open_vcon(
            envelope.document or b"",
            envelope.secrets,
            now=envelope.now,
            unsigned_allowed=envelope.settings.get("unsigned") is True,
        )
        vcon = opened.vcon
        _refuse_unknown(vcon)
        call = _Call(envelope, vcon, opened.doubts)
        intents = [
            intent for n, one in enumerate(call.dialogs) if (intent := call.intent(n, one)) is not None
        ]
        if not intents:
            raise _wrong("/dialog", "holds no recording")
        if len(intents) > _MAX_RECORDINGS:
            raise _wrong("/dialog", f"holds more than {_MAX_RECORDINGS} recordings")
        return tuple(intents)

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """The usual answer."""
        del envelope, intents
        return None


class _Call:
    """What the dialogs of one vCon share."""

    def __init__(self, envelope: Envelope, vcon: Mapping[str, Any], doubts: Sequence[str]) -> None:
        self._envelope = envelope
        self._vcon = vcon
        self._doubts = doubts
        self.parties = [one if isinstance(one, dict) else {} for one in _list(vcon, "parties")[:_MAX_PARTIES]]
        self.dialogs = [one if isinstance(one, dict) else {} for one in _list(vcon, "dialog")]
        self._several = sum(one.get("type") == "recording" for one in self.dialogs) > 1
        self.name = self._named()
        self._basis, self._grounds, self._remarks = _lawful_basis(_list(vcon, "attachments"), envelope.now)
        for kind, remark in (("analysis", "analysis-not-kept"), ("text", "text-not-kept")):
            if _list(vcon, kind) or any(one.get("type") == kind for one in self.dialogs):
                self._remarks.append(remark)

    def intent(self, index: int, dialog: Mapping[str, Any]) -> Intent | None:
        """What one dialog asks for; None where it is nothing to hear."""
        kind = dialog.get("type")
        if kind == "incomplete":
            disposition = dialog.get("disposition")
            known = isinstance(disposition, str) and _CODE.fullmatch(disposition) is not None
            request = self._request(index, dialog, (), None)
            return NoAudio(request, SenderOutcome.ABSENT, str(disposition) if known else None)
        if kind != "recording":
            return None
        if isinstance(body := dialog.get("body"), str) and body:
            return self._inline(index, dialog, body)
        if isinstance(url := dialog.get("url"), str) and url:
            digests, remarks = _digests(dialog)
            credential = str(self._envelope.settings.get("credential", "none"))
            return Later(
                self._request(index, dialog, remarks, digests),
                url=url,
                credential=None if credential == "none" else credential,
            )
        return NoAudio(self._request(index, dialog, (), None), SenderOutcome.ABSENT, "no-body")

    def _inline(self, index: int, dialog: Mapping[str, Any], body: str) -> Inline:
        digests, remarks = _digests(dialog, inline=True)
        encoding = dialog.get("encoding", "base64url")
        try:
            audio = unbase64(body) if encoding in ("base64url", "base64") else None
        except MalformedInput:
            audio = None
        if audio is None:  # kept as it came, for a person to see what was meant
            return Inline(
                self._request(index, dialog, (*remarks, "metadata-invalid:body"), None),
                body.encode("utf-8", "replace"),
            )
        channels = sniff(audio[:HEAD_SIZE], Hints()).channels
        return Inline(self._request(index, dialog, remarks, digests, channels), audio)

    def _request(
        self,
        index: int,
        dialog: Mapping[str, Any],
        remarks: Iterable[str],
        digests: DigestCheck | None,
        channels: int | None = None,
    ) -> IngestRequest:
        reasons = (*self._doubts, *self._remarks, *remarks)
        request = lenient_request(self._envelope, self._document(index, dialog, channels), reasons=reasons)
        name, kind = dialog.get("filename"), dialog.get("mediatype", dialog.get("mimetype"))
        file_name = storable(name)[:256] if isinstance(name, str) and name else None
        return replace(
            request,
            size=None,
            file_name=file_name,
            extension=None if file_name is None else extension_of(base_name(file_name))[1],
            content_type=storable(kind)[:100] if isinstance(kind, str) and kind.isprintable() else None,
            digests=digests or DigestCheck(),
        )

    def _document(self, index: int, dialog: Mapping[str, Any], channels: int | None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "external_id": f"{self.name}:{index}",
            "call": {"external_id": self.name},
            "extra": {"vcon": self._sealed(dialog)},
        }
        if (part := self._part(index)) is not None:
            document["call"]["part"] = part
        started = dialog.get("start") or self._vcon.get("created_at")
        if isinstance(started, str):
            document["started_at"] = started.strip()
        duration = dialog.get("duration")
        if isinstance(duration, int | float) and not isinstance(duration, bool):
            document["duration"] = duration
        document |= self._speakers(dialog, channels)
        if self._basis is not None:
            document["lawful_basis"] = self._basis
        return document

    def _part(self, index: int) -> int | None:
        """Which part of a paused recording, or of several, this is."""
        for one in self.dialogs:
            members = one.get("recordings")
            if one.get("type") == "recording-set" and isinstance(members, list) and index in members:
                return int(members.index(index))
        if not self._several:
            return None
        return len([one for one in self.dialogs[:index] if one.get("type") == "recording"])

    def _speakers(self, dialog: Mapping[str, Any], channels: int | None) -> dict[str, Any]:
        """Who called whom, and who is heard where; nothing is told by position alone."""
        found: dict[str, Any] = {}
        heard = dialog.get("parties")
        placed = heard if isinstance(heard, list) else [heard]
        several = any(one is None or isinstance(one, list) for one in placed) and len(placed) > 1
        # A flat list of parties may also be all who speak on one channel: then only the audio tells.
        if placed != [None] and (channels == len(placed) or (several and channels is None)):
            found["channels"] = [{"party": self._party(one)} for one in placed]
        known = [n for n in dict.fromkeys(_flat(placed)) if 0 <= n < len(self.parties)]
        origin = dialog.get("originator")
        caller = origin if _index(origin) and origin < len(self.parties) else (known[0] if known else None)
        others = [n for n in known if n != caller]
        roles = {n: self._role(n) for n in known}
        if caller is not None and (line := _line(self.parties[caller])) is not None:
            found["caller"] = line
        if len(others) == 1 and (line := _line(self.parties[others[0]])) is not None:
            found["callee"] = line
        if caller is not None and len(others) == 1:
            direction = {("customer", "agent"): "inbound", ("agent", "customer"): "outbound"}
            if (way := direction.get((roles.get(caller, ""), roles[others[0]]))) is not None:
                found["direction"] = way
        customers = [n for n, role in roles.items() if role == "customer"]
        if len(customers) == 1 and (customer := _customer(self.parties[customers[0]])):
            found["customer"] = customer
        return found

    def _party(self, one: object) -> str:
        """Our name for who is heard on a channel."""
        if one is None or one == []:
            return "nobody"
        if isinstance(one, list):
            return self._party(one[0]) if len(one) == 1 else "mixed"
        return self._role(one) if _index(one) and one < len(self.parties) else "unknown"

    def _role(self, number: int) -> str:
        said = str(self.parties[number].get("role", "")).strip().lower()
        mapped = dict(self._envelope.settings.get("parties") or {})
        name = str(mapped.get(said) or mapped.get(str(number)) or said)
        return name if _PARTY.fullmatch(name) else f"party_{number}"

    def _sealed(self, dialog: Mapping[str, Any]) -> dict[str, Any]:
        """What has no place of its own. Keys that were pressed are left out: they may be a card's."""
        kept = {name: self._vcon[name] for name in _SEALED if self._vcon.get(name)}
        kept["uuid"], kept["parties"] = self.name, self.parties
        kept |= {n: dialog[n] for n in ("session_id", "application", "message_id") if dialog.get(n)}
        if self._grounds:
            kept["lawful_basis"] = self._grounds
        return kept

    def _named(self) -> str:
        name = self._vcon.get("uuid")
        if isinstance(name, str) and name.strip():
            return bounded(name.strip(), 200)
        told = json.dumps([self._vcon.get("created_at"), self.parties, self.dialogs], sort_keys=True)
        return "vcon-" + hashlib.sha256(told.encode()).hexdigest()


def _refuse_unknown(vcon: Mapping[str, Any]) -> None:
    """A vCon may say what its reader must understand.

    Raises:
        InvalidInput: we do not.
    """
    for name in ("critical", "must_support"):
        demanded = vcon.get(name) or []
        if not isinstance(demanded, list):
            raise _wrong(f"/{name}", "is no list")
        if any(str(one).lower() not in _SUPPORTED for one in demanded):
            raise _wrong(f"/{name}", "demands an extension that is not supported")


def _digests(
    dialog: Mapping[str, Any], *, inline: bool = False
) -> tuple[DigestCheck | None, tuple[str, ...]]:
    """The digests of a dialog's audio, in the new spelling and the old."""
    told = dialog.get("content_hash")
    values = [one for one in (told if isinstance(told, list) else [told]) if isinstance(one, str)]
    if isinstance(dialog.get("signature"), str) and isinstance(dialog.get("alg"), str):
        values.append(f"{dialog['alg']}-{dialog['signature']}")
    announced = []
    for value in values:
        match = _HASH.fullmatch(value.strip())
        if match is None:
            continue
        name = "sha-" + match[1][-3:]
        try:
            digest = unbase64(match[2])
        except MalformedInput:
            continue
        if len(digest) == SIZES[name]:
            announced.append(("content_hash", name, digest))
    if announced:
        return DigestCheck.expecting(announced), ()
    return None, () if inline and not values else (
        "content-hash-unknown" if values else "content-hash-missing",
    )


def _lawful_basis(attachments: Sequence[Any], now: datetime) -> tuple[str | None, list[Any], list[str]]:
    """Why the recording is lawful: our word for it, all that was said of it, and remarks."""
    basis: str | None = None
    grounds: list[Any] = []
    remarks: list[str] = []
    for one in attachments:
        if not isinstance(one, dict) or "lawful_basis" not in (one.get("purpose"), one.get("type")):
            remarks.append("attachment-not-kept")
            continue
        body = _body(one)
        if not isinstance(body, dict):
            remarks.append("lawful-basis-unreadable")
            continue
        grounds.append(body)
        ours = _BASES.get(str(body.get("lawful_basis", "")).strip().lower())
        if ours is None:
            remarks.append("lawful-basis-unknown")
        elif _expired(body.get("expiration"), now):
            remarks.append("lawful-basis-expired")
        else:
            basis = basis or ours
        grants = body.get("purpose_grants")
        named = [g for g in grants if isinstance(g, dict)] if isinstance(grants, list) else []
        if any(g.get("purpose") in ("recording", "record") and g.get("granted") is False for g in named):
            remarks.append("recording-not-granted")
    return basis, grounds, list(dict.fromkeys(remarks))


def _body(attachment: Mapping[str, Any]) -> object:
    body = attachment.get("body")
    if not isinstance(body, str):
        return body
    try:
        text = unbase64(body) if str(attachment.get("encoding", "")).startswith("base64") else body
        return json.loads(text)
    except (ValueError, RecursionError, MalformedInput):
        return None


def _expired(told: object, now: datetime) -> bool:
    if not isinstance(told, str):
        return False
    try:
        until = datetime.fromisoformat(told)
    except ValueError:
        return False
    return (until if until.tzinfo is not None else until.replace(tzinfo=UTC)) <= now


def _line(party: Mapping[str, Any]) -> str | None:
    for name in ("tel", "sip", "mailto"):
        value = party.get(name)
        if isinstance(value, str) and value.strip():
            text = storable(value).strip()
            return (text.partition(":")[2] if text.lower().startswith(f"{name}:") else text)[:256] or None
    return None


def _customer(party: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for ours, theirs, most in (("phone", "tel", 128), ("email", "mailto", 254)):
        only = _line({theirs: party.get(theirs)})
        if only is not None:
            found[ours] = only[:most]
    return found


def _flat(placed: Sequence[object]) -> Iterable[int]:
    for one in placed:
        for each in one if isinstance(one, list) else (one,):
            if isinstance(each, int) and not isinstance(each, bool):
                yield each


def _index(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list(owner: Mapping[str, Any], name: str) -> list[Any]:
    value = owner.get(name)
    return value if isinstance(value, list) else []


def _wrong(path: str, what: str) -> InvalidInput:
    return InvalidInput(f"{path}: {what}", fields=[FieldError(path, what)])
