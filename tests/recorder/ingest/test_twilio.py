"""Twilio and SignalWire: payloads as they send them, signatures by Twilio's own library, hostile ones too."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from recorder.errors import InvalidInput, Unauthenticated
from recorder.ingest.adapters.base import Envelope, Later, NoAudio, SenderOutcome
from recorder.ingest.adapters.twilio import SIGNALWIRE, TwilioAdapter

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
TOKEN = "12345678901234567890123456789012"
TWILIO = TwilioAdapter()
URL = "https://recorder.example.com/ingest/t/rt_abc/twilio"
COMPLETED = (
    "RecordingSource=DialVerb&RecordingSid=RE557ce644e5ab84fa21cc21112e22c485"
    "&RecordingUrl=https%3A%2F%2Fapi.twilio.com%2F2010-04-01%2FAccounts%2FAC1%2FRecordings%2FRE557ce644e5ab"
    "&RecordingStatus=completed&RecordingChannels=2&ErrorCode=0&CallSid=CA8dfedb55c129dd4d6bd1f59af9d11080"
    "&RecordingStartTime=Thu%2C%2005%20Mar%202026%2009%3A58%3A01%20%2B0200&AccountSid=AC1&RecordingDuration=59"
)


def envelope(form: str | None = COMPLETED, *, url: str = URL, **fields: Any) -> Envelope:
    path, _, query = url.partition("?")
    del path
    return Envelope(
        method="GET" if form is None else "POST",
        path=(),
        query=tuple(parse_qsl(query, keep_blank_values=True)),
        headers=fields.pop("headers", {}),
        now=NOW,
        fields=() if form is None else tuple(parse_qsl(form, keep_blank_values=True)),
        document=b"" if form is None else form.encode(),
        content_type=None if form is None else "application/x-www-form-urlencoded",
        url=url,
        **fields,
    )


def later(read: Envelope, adapter: TwilioAdapter = TWILIO) -> Later:
    [intent] = adapter.read(read)
    assert isinstance(intent, Later)
    return intent


def test_a_completed_recording_is_fetched() -> None:
    asked = envelope(settings={"channels": ["customer", "agent"]})
    intent = later(asked)
    metadata = intent.request.metadata
    assert intent.url == (
        "https://api.twilio.com/2010-04-01/Accounts/AC1/Recordings/RE557ce644e5ab.wav?RequestedChannels=2"
    )
    assert (intent.credential, intent.encryption) == ("basic", None)
    assert metadata.external_id == "RE557ce644e5ab84fa21cc21112e22c485"
    assert metadata.call is not None
    assert metadata.call.external_id == "CA8dfedb55c129dd4d6bd1f59af9d11080"
    assert metadata.started_at == datetime(2026, 3, 5, 7, 58, 1, tzinfo=UTC)
    assert metadata.duration == 59
    assert [channel.party for channel in metadata.channels] == ["customer", "agent"]
    assert metadata.extra["RecordingSource"] == "DialVerb"
    assert intent.request.reasons == ()
    assert not intent.request.strict
    reply = TWILIO.reply(asked, (intent,))
    assert reply is not None
    assert (reply.status, reply.body) == (204, b"")


def test_the_callback_by_get_and_what_the_operator_added_to_its_address() -> None:
    asked = envelope(None, url=f"{URL}?agent=a17&queue=sales&lawful_basis=consent&{COMPLETED}")
    metadata = later(asked).request.metadata
    assert (metadata.agents, metadata.queue, metadata.lawful_basis) == (["a17"], "sales", "consent")
    assert metadata.duration == 59


def test_the_action_of_record_gets_twiml_and_parties() -> None:
    form = urlencode(
        {
            "AccountSid": "AC1",
            "CallSid": "CA1",
            "From": "+358401234567",
            "To": "+358912345",
            "Direction": "inbound",
            "RecordingUrl": "https://api.twilio.com/2010-04-01/Accounts/AC1/Recordings/RE1",
            "RecordingSid": "RE1",
            "RecordingDuration": "7",
            "Digits": "hangup",
        }
    )
    asked = envelope(form)
    intent = later(asked)
    metadata = intent.request.metadata
    assert (metadata.caller, metadata.callee, metadata.direction) == (
        "+358401234567",
        "+358912345",
        "inbound",
    )
    assert intent.request.reasons == ("started-at-estimated",)
    assert intent.request.estimated == ("started_at",)
    assert intent.url.endswith("/RE1.wav")
    reply = TWILIO.reply(asked, (intent,))
    assert reply is not None
    assert reply.content_type == "text/xml"
    assert b"<Response/>" in reply.body


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        ("in-progress", "", SenderOutcome.FETCHING),
        ("absent", "16101", SenderOutcome.TOO_SHORT),
        ("absent", "16102", SenderOutcome.SILENT),
        ("absent", "", SenderOutcome.ABSENT),
        ("absent", "+358 40", SenderOutcome.ABSENT),
        ("failed", "19999", SenderOutcome.FAILED),
    ],
)
def test_no_audio_is_an_outcome(status: str, code: str, outcome: SenderOutcome) -> None:
    form = urlencode({"RecordingSid": "RE1", "RecordingStatus": status, "ErrorCode": code, "CallSid": "CA1"})
    [intent] = TWILIO.read(envelope(form))
    assert isinstance(intent, NoAudio)
    assert intent.outcome is outcome
    expected = {"in-progress": "in-progress"}.get(status, code if code.isdecimal() else None)
    assert intent.code == expected


@pytest.mark.parametrize(
    "details",
    [
        {"type": "rsa-aes", "public_key_sid": "CR1", "encrypted_cek": "Zm9v", "iv": "YmFy"},
        {"encryption_public_key_sid": "CR1", "encryption_cek": "Zm9v", "encryption_iv": "YmFy"},
    ],
)
def test_both_spellings_of_encryption(details: dict[str, str]) -> None:
    intent = later(envelope(f"{COMPLETED}&{urlencode({'EncryptionDetails': json.dumps(details)})}"))
    assert intent.encryption == {"key": "CR1", "cek": "Zm9v", "iv": "YmFy"}
    assert intent.url.endswith(".wav"), "an encrypted file is what it is"
    assert "EncryptionDetails" not in intent.request.metadata.extra


@pytest.mark.parametrize(
    "form",
    [
        "",
        "RecordingStatus=completed",
        "RecordingSid=RE1&RecordingStatus=completed",
        "RecordingSid=RE1&RecordingStatus=paused&RecordingUrl=https://x/",
        "RecordingSid=RE1&RecordingUrl=https://[x/",
        "RecordingSid=RE1&RecordingUrl=https://x/&EncryptionDetails={",
        "RecordingSid=RE1&RecordingUrl=https://x/&EncryptionDetails=[]",
        "RecordingSid=RE1&RecordingUrl=https://x/&EncryptionDetails=%7B%22iv%22%3A1%7D",
    ],
)
def test_what_cannot_be_understood_is_refused(form: str) -> None:
    with pytest.raises(InvalidInput):
        TWILIO.read(envelope(form))


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://recorder.example.com:443/ingest/t/rt_abc/twilio",
        "https://recorder.example.com:8443/ingest/t/x?agent=a%20b&queue=",
        "http://recorder.example.com/ingest/t/x",
        "http://recorder.example.com:8080/ingest/t/x?a=1&a=2",
    ],
)
@pytest.mark.parametrize("signed_with_port", [True, False])
@pytest.mark.parametrize("algorithm", ["HMAC_SHA1", "HMAC_SHA256"])
def test_signatures_of_twilios_own_library(url: str, signed_with_port: bool, algorithm: str) -> None:
    from urllib.parse import urlparse

    from twilio.request_validator import add_port, remove_port

    fields = MultiDict(parse_qsl(f"{COMPLETED}&Empty=&Twice=b&Twice=a&Twice=a", keep_blank_values=True))
    validator = RequestValidator(TOKEN)
    over = add_port(urlparse(url)) if signed_with_port else remove_port(urlparse(url))
    signature = validator.compute_signature(over, fields, algorithm)
    assert validator.validate(url, fields, signature, algorithm), "the library believes it"
    headers = {"x-twilio-signature": signature}
    if algorithm != "HMAC_SHA1":
        headers["x-twilio-webhooks-signature-settings"] = f"key=webhooks_1,algorithm={algorithm}"
    asked = envelope(f"{COMPLETED}&Empty=&Twice=b&Twice=a&Twice=a", url=url, headers=headers)
    TWILIO.verify(asked, {"auth_token": TOKEN})
    TWILIO.verify(asked, {"auth_token": "old", "auth_token_next": TOKEN})
    for secrets in ({}, {"auth_token": "other"}, {"basic": TOKEN}):
        with pytest.raises(Unauthenticated):
            TWILIO.verify(asked, secrets)
    with pytest.raises(Unauthenticated):
        TWILIO.verify(
            envelope(COMPLETED.replace("RE557", "RE558"), url=url, headers=headers), {"auth_token": TOKEN}
        )


def test_a_json_callback_is_signed_by_the_hash_of_its_body() -> None:
    body = json.dumps({"RecordingSid": "RE1", "RecordingStatus": "failed", "CallSid": "CA1"})
    url = f"{URL}?bodySHA256={hashlib.sha256(body.encode()).hexdigest()}"
    validator = RequestValidator(TOKEN)
    signature = validator.compute_signature(url, {})
    assert validator.validate(url, body, signature)

    def sent(text: str) -> Envelope:
        return Envelope(
            "POST",
            (),
            tuple(parse_qsl(url.partition("?")[2])),
            {"x-twilio-signature": signature},
            NOW,
            document=text.encode(),
            content_type="application/json",
            url=url,
        )

    TWILIO.verify(sent(body), {"auth_token": TOKEN})
    [intent] = TWILIO.read(sent(body))
    assert isinstance(intent, NoAudio)
    with pytest.raises(Unauthenticated):
        TWILIO.verify(sent(body.replace("RE1", "RE2")), {"auth_token": TOKEN})


def signature(url: str) -> str:
    """Of a callback by GET: over its address alone."""
    return base64.b64encode(hmac.digest(TOKEN.encode(), url.encode(), "sha1")).decode()


@pytest.mark.parametrize(
    ("document", "fields", "content_type"),
    [
        (json.dumps({"RecordingUrl": "https://elsewhere.example/a"}).encode(), (), "application/json"),
        (b"<x/>", (), "text/xml"),
        (None, (), "audio/wav"),  # audio as the body itself
        (None, (("RecordingStatus", "failed"),), "audio/wav"),
    ],
)
def test_a_signature_without_a_body_is_none_of_a_body(
    document: bytes | None, fields: tuple[tuple[str, str], ...], content_type: str
) -> None:
    url = f"{URL}?{COMPLETED}"
    headers = {"x-twilio-signature": signature(url)}
    TWILIO.verify(envelope(None, url=url, headers=headers), {"auth_token": TOKEN})
    forged = replace(
        envelope(None, url=url, headers=headers),
        method="POST",
        document=document,
        fields=fields,
        content_type=content_type,
    )
    with pytest.raises(Unauthenticated):
        TWILIO.verify(forged, {"auth_token": TOKEN})


@pytest.mark.parametrize(("document", "fields"), [(b"", (("RecordingStatus", "failed"),)), (None, ())])
def test_signalwires_own_scheme_covers_all_of_a_body(
    document: bytes | None, fields: tuple[tuple[str, str], ...]
) -> None:
    """Fields of a multipart body, and audio, are in no document that the signature is over."""
    url = f"{URL}?{COMPLETED}"
    given = hmac.new(TOKEN.encode(), url.encode(), "sha256").hexdigest()
    headers = {"x-signalwire-sha256-signature": given}
    SIGNALWIRE.verify(envelope(None, url=url, headers=headers), {"auth_token": TOKEN})
    forged = replace(envelope(None, url=url, headers=headers), document=document, fields=fields)
    with pytest.raises(Unauthenticated):
        SIGNALWIRE.verify(forged, {"auth_token": TOKEN})


def test_without_a_secret_nothing_is_believed_unless_the_operator_says_so() -> None:
    with pytest.raises(Unauthenticated):
        TWILIO.verify(envelope(), {})
    TWILIO.verify(envelope(settings={"signature": "off"}), {})


def test_signalwire_signs_under_its_own_name_and_names_files() -> None:
    url = "https://example.signalwire.com/api/laml/2010-04-01/Accounts/x/Recordings/RE1.mp3"
    form = urlencode(
        {"RecordingSid": "RE1", "RecordingStatus": "completed", "RecordingUrl": url, "CallSid": "c"}
    )
    text = URL + "".join(n + v for n, v in sorted(parse_qsl(form)))
    signature = base64.b64encode(hmac.digest(TOKEN.encode(), text.encode(), "sha1")).decode()
    asked = envelope(form, headers={"x-signalwire-signature": signature})
    SIGNALWIRE.verify(asked, {"auth_token": TOKEN})
    with pytest.raises(Unauthenticated):
        TWILIO.verify(asked, {"auth_token": TOKEN})
    assert later(asked, SIGNALWIRE).url == url.replace(".mp3", ".wav")


@pytest.mark.parametrize(
    ("header", "algorithm"), [("x-signalwire-signature", "sha1"), ("x-signalwire-sha256-signature", "sha256")]
)
def test_signalwires_own_scheme_is_over_the_raw_body(header: str, algorithm: str) -> None:
    mac = hmac.new(TOKEN.encode(), (URL + COMPLETED).encode(), algorithm).hexdigest()
    asked = envelope(headers={header: mac})
    SIGNALWIRE.verify(asked, {"auth_token": TOKEN})
    for wrong in (
        envelope(COMPLETED + "&x=1", headers={header: mac}),
        envelope(headers={header: mac[:-1] + ("0" if mac[-1] != "0" else "1")}),
        envelope(headers={header: "ä" * len(mac)}),
        envelope(),
    ):
        with pytest.raises(Unauthenticated):
            SIGNALWIRE.verify(wrong, {"auth_token": TOKEN})
    with pytest.raises(Unauthenticated):
        TWILIO.verify(envelope(headers={"x-twilio-signature": mac}), {"auth_token": TOKEN})


_NAMES = st.sampled_from(
    [
        "RecordingSid",
        "RecordingStatus",
        "RecordingUrl",
        "RecordingDuration",
        "RecordingStartTime",
        "ErrorCode",
        "CallSid",
        "From",
        "EncryptionDetails",
        "RecordingChannels",
        "Direction",
        "metadata",
        "muted",
        "agent",
    ]
)


@given(st.lists(st.tuples(_NAMES, st.text(max_size=60)), max_size=12), st.text(max_size=40))
def test_no_callback_breaks_the_reading(pairs: list[tuple[str, str]], signature: str) -> None:
    asked = Envelope(
        "POST", (), (), {"x-twilio-signature": signature}, NOW, fields=tuple(pairs), document=b"", url=URL
    )
    with pytest.raises(Unauthenticated):
        TWILIO.verify(asked, {"auth_token": TOKEN})
    try:
        [intent] = TWILIO.read(asked)
    except InvalidInput:
        return
    assert isinstance(intent, Later | NoAudio)
    assert intent.request.metadata.external_id
