"""Twilio's recording callbacks, and SignalWire's, which have nearly the same names.

The callback carries no audio: it says what became of a recording and where it can be fetched. It is signed
over the address it was sent to and its fields, by Twilio's own scheme ("Validating signatures": HMAC-SHA1, or
HMAC-SHA256 where a signing key of its own is used).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

from recorder.errors import FieldError, InvalidInput, Unauthenticated
from recorder.ingest.adapters.base import Envelope, Intent, Later, NoAudio, Reply, SenderOutcome
from recorder.ingest.adapters.common import bounded, storable
from recorder.ingest.metadata import MAX_EXTERNAL_ID, metadata_from_query
from recorder.ingest.request import IngestRequest

_OUTCOMES: Final = {"16101": SenderOutcome.TOO_SHORT, "16102": SenderOutcome.SILENT}
_DIRECTIONS: Final = {
    "inbound": "inbound",
    "outbound": "outbound",
    "outbound-api": "outbound",
    "outbound-dial": "outbound",
}
_OURS: Final = frozenset({"dry_run", "external_id", "bodySHA256"})
_CODE: Final = re.compile(r"[0-9A-Za-z_-]{1,40}", re.ASCII)
_SECONDS: Final = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
_ALGORITHMS: Final = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_EMPTY_TWIML: Final = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'
_MEDIA: Final = re.compile(r"\.(?:wav|mp3|json|xml)$", re.ASCII)
# (type, name of the key, wrapped key, nonce) in both of Twilio's spellings.
_SPELLINGS: Final = (
    ("public_key_sid", "encrypted_cek", "iv"),
    ("encryption_public_key_sid", "encryption_cek", "encryption_iv"),
)


@dataclass(slots=True)
class TwilioAdapter:
    """Callbacks of ``recordingStatusCallback``, and of the ``action`` of ``<Record>``."""

    kind: str = "twilio"
    headers: tuple[str, ...] = ("x-twilio-signature",)

    def verify(self, envelope: Envelope, secrets: Mapping[str, str]) -> None:
        """Check the signature over address and fields.

        Raises:
            Unauthenticated: it is missing or wrong, or the source has no ``auth_token``.
        """
        if envelope.settings.get("signature") == "off":
            return
        given = [envelope.headers[name] for name in self.headers if name in envelope.headers]
        tokens = [value for name, value in sorted(secrets.items()) if name.startswith("auth_token")]
        if not tokens:
            raise Unauthenticated("the source has no auth_token to check signatures with")
        check = (signed, signed_raw) if self.kind == "signalwire" else (signed,)
        if not any(is_right(envelope, token, one) for is_right in check for token in tokens for one in given):
            raise Unauthenticated("the request is not signed with the source's auth_token")

    def read(self, envelope: Envelope) -> tuple[Intent, ...]:
        """One recording: where its audio is, or why there is none.

        Raises:
            InvalidInput: no recording is named, or none of its states is.
        """
        fields = _fields(envelope)
        request = _request(envelope, fields)
        status = fields.get("RecordingStatus", "completed").lower()
        code = fields.get("ErrorCode", "")
        told = code if _CODE.fullmatch(code) else None
        if status == "completed":
            return (self._later(envelope, fields, request),)
        if status == "in-progress":
            return (NoAudio(request, SenderOutcome.FETCHING, "in-progress"),)
        if status == "absent":
            return (NoAudio(request, _OUTCOMES.get(code, SenderOutcome.ABSENT), told),)
        if status == "failed":
            return (NoAudio(request, SenderOutcome.FAILED, told),)
        raise _missing("RecordingStatus", "is none of in-progress, completed, absent, failed")

    def reply(self, envelope: Envelope, intents: tuple[Intent, ...]) -> Reply | None:
        """204 to a status callback; the ``action`` of a ``<Record>`` wants TwiML."""
        del intents
        if "RecordingStatus" in _fields(envelope):
            return Reply(status=204)
        return Reply(_EMPTY_TWIML, "text/xml")

    def _later(self, envelope: Envelope, fields: Mapping[str, str], request: IngestRequest) -> Later:
        address = fields.get("RecordingUrl", "")
        if not address:
            raise _missing("RecordingUrl", "is missing")
        encryption = _encryption(fields.get("EncryptionDetails"))
        both = self.kind == "twilio" and fields.get("RecordingChannels") == "2" and encryption is None
        credential = str(envelope.settings.get("credential", "basic"))
        return Later(
            request,
            url=_media_url(address, both=both),
            credential=None if credential == "none" else credential,
            encryption=encryption,
        )


def signed(envelope: Envelope, token: str, given: str) -> bool:
    """Whether Twilio signed this request: over its address, with the port and without it, and its fields.

    A body that is no form counts only by ``bodySHA256`` in the address: without it, the signature of a
    callback without a body would do for any body that somebody puts under it.
    """
    settings = envelope.headers.get("x-twilio-webhooks-signature-settings", "")
    named = [part.partition("=")[2].strip() for part in settings.split(",") if "algorithm=" in part]
    algorithm = _ALGORITHMS.get((named[0] if named else "HMAC_SHA1").upper())
    if algorithm is None:
        return False
    fields: tuple[tuple[str, str], ...] = envelope.fields
    if envelope.document is None:
        return False  # audio in the request itself, which no callback has and no signature covers
    hashed = parse_qs(urlsplit(envelope.url).query).get("bodySHA256")
    if envelope.document and not fields and hashed is None:
        return False
    if hashed is not None and not fields:
        digest = hashlib.sha256(envelope.document).hexdigest()
        if not hmac.compare_digest(digest.encode(), hashed[0].encode(errors="replace")):
            return False
    text = "".join(name + value for name, value in sorted(set(fields)))
    return any(
        hmac.compare_digest(_mac(token, url + text, algorithm), given.encode(errors="replace"))
        for url in _with_and_without_port(envelope.url)
    )


def signed_raw(envelope: Envelope, token: str, given: str) -> bool:
    """Whether SignalWire signed this request by its own scheme: over its address and its body, in hex."""
    algorithm = {40: "sha1", 64: "sha256"}.get(len(given))
    document = envelope.document
    if algorithm is None or document is None or (envelope.fields and not document):
        return False  # audio, or the fields of a multipart body, would not be covered
    return any(
        hmac.compare_digest(
            hmac.new(token.encode(), url.encode(errors="replace") + document, algorithm).hexdigest().encode(),
            given.encode(errors="replace"),
        )
        for url in _with_and_without_port(envelope.url)
    )


def _mac(token: str, text: str, algorithm: Any) -> bytes:
    return base64.b64encode(hmac.digest(token.encode(), text.encode(errors="replace"), algorithm))


def _with_and_without_port(url: str) -> Iterable[str]:
    parts = urlsplit(url)
    host, colon, port = parts.netloc.rpartition(":")
    if not colon or not port.isdigit():
        host, port = parts.netloc, "443" if parts.scheme == "https" else "80"
    # Put together by hand: the signature is over the very characters of the address.
    rest = url[len(parts.scheme) + len("://") + len(parts.netloc) :]
    return (f"{parts.scheme}://{host}{rest}", f"{parts.scheme}://{host}:{port}{rest}")


def _fields(envelope: Envelope) -> dict[str, str]:
    """Twilio's fields, of a form, a query or JSON; its names begin with a capital, the operator's do not."""
    found = {n: storable(v) for n, v in reversed((*envelope.query, *envelope.fields)) if n[:1].isupper()}
    kind = (envelope.content_type or "").partition(";")[0].strip().lower()
    if not envelope.fields and kind == "application/json":
        try:
            read = json.loads(envelope.document or b"")
        except (ValueError, RecursionError):
            raise InvalidInput("the callback is not JSON") from None
        if isinstance(read, dict):
            found |= {n: storable(str(v)) for n, v in read.items() if isinstance(v, str | int | float)}
    return found


def _request(envelope: Envelope, fields: Mapping[str, str]) -> IngestRequest:
    sid = fields.get("RecordingSid", "").strip()
    if not sid:
        raise _missing("RecordingSid", "is missing")
    external_id = bounded(sid, MAX_EXTERNAL_ID)
    document = _document(envelope, fields)
    own = [(n, v) for n, v in (*envelope.query, *envelope.fields) if not n[:1].isupper() and n not in _OURS]
    pairs = [("metadata", json.dumps(document)), *own]
    metadata, reasons, unparsed = metadata_from_query(external_id, pairs, now=envelope.now)
    return IngestRequest(
        metadata=metadata,
        strict=False,
        reasons=reasons,
        estimated=("started_at",) if "started-at-estimated" in reasons else (),
        unparsed=unparsed,
        extension="wav",
    )


def _document(envelope: Envelope, fields: Mapping[str, str]) -> dict[str, Any]:
    """What Twilio tells of a recording, in our names; what has none is kept as it came."""
    used = {"RecordingSid", "RecordingUrl", "RecordingStatus", "EncryptionDetails", "ErrorCode"}
    document: dict[str, Any] = {}

    def take(name: str, *fields_: str) -> None:
        for field in fields_:
            value = fields.get(field, "").strip()
            used.add(field)
            if value:
                document.setdefault(name, value)

    take("caller", "From", "Caller")
    take("callee", "To", "Called")
    take("call", "ConferenceSid", "CallSid")
    if "call" in document:
        document["call"] = {"external_id": bounded(document["call"], MAX_EXTERNAL_ID)}
    direction = _DIRECTIONS.get(fields.get("Direction", "").lower())
    if direction is not None:
        document["direction"] = direction
    started = _instant(fields.get("RecordingStartTime"))
    if started is not None:
        document["started_at"] = started.isoformat()
    duration = fields.get("RecordingDuration", "")
    if _SECONDS.fullmatch(duration):  # -1 while it is not known
        document["duration"] = float(duration)
    channels = envelope.settings.get("channels") or []
    if fields.get("RecordingChannels") == str(len(channels)):
        document["channels"] = [{"party": party} for party in channels]
    document["extra"] = {name: value for name, value in fields.items() if name not in used}
    return document


def _instant(text: str | None) -> datetime | None:
    """A time as Twilio writes it: RFC 2822."""
    if not text:
        return None
    try:
        parsed = parsedate_to_datetime(text)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed.year >= 1970 else None


def _encryption(text: str | None) -> dict[str, str] | None:
    """How the audio is wrapped.

    Raises:
        InvalidInput: the details cannot be read, so that the audio could not be either.
    """
    if not text:
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        read = None
    if isinstance(read, dict):
        for names in _SPELLINGS:
            values = [read.get(name) for name in names]
            if all(isinstance(value, str) for value in values):
                return dict(zip(("key", "cek", "iv"), map(str, values), strict=True))
    raise _missing("EncryptionDetails", "cannot be read")


def _media_url(address: str, *, both: bool) -> str:
    """The address of the WAV file; with both channels, where there are two."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise _missing("RecordingUrl", "is no address") from None
    query = [part for part in parts.query.split("&") if part]
    if both:
        query.append("RequestedChannels=2")
    return urlunsplit(parts._replace(path=_MEDIA.sub("", parts.path) + ".wav", query="&".join(query)))


def _missing(name: str, what: str) -> InvalidInput:
    return InvalidInput(f"{name}: {what}", fields=[FieldError(name, what)])


SIGNALWIRE: Final = TwilioAdapter(
    "signalwire", ("x-signalwire-sha256-signature", "x-signalwire-signature", "x-twilio-signature")
)

__all__ = ["SIGNALWIRE", "TwilioAdapter", "signed", "signed_raw"]
