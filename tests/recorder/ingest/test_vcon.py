"""vCons in every form: inline and by URL, signed and encrypted, old drafts and new, and bombs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey, RSAKey

from recorder.errors import InvalidInput, MalformedInput, RecorderError, TooLarge
from recorder.ingest.adapters import vcon_forms
from recorder.ingest.adapters.base import Envelope, Inline, Later, NoAudio, SenderOutcome
from recorder.ingest.adapters.vcon import VconAdapter
from recorder.rights import vcon as export
from tests.recorder.ingest.conftest import encode, tone

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
ADAPTER = VconAdapter()
WAV = encode(tone(0.1))
MONO = encode(tone(0.1), channels=1)
UUID = "0199e054-ed10-8035-b9a2-279e0d16bc46"


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def inline(audio: bytes = WAV, **fields: Any) -> dict[str, Any]:
    return {
        "type": "recording",
        "start": "2026-03-05T07:58:00.123+00:00",
        "duration": 12.5,
        "parties": [0, 1],
        "mediatype": "audio/x-wav",
        "filename": "call.wav",
        "encoding": "base64url",
        "body": b64url(audio),
        **fields,
    }


def document(*dialogs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "uuid": UUID,
        "created_at": "2026-03-05T07:59:00Z",
        "parties": [
            {"tel": "tel:+358401234567", "name": "Maija", "role": "customer"},
            {"sip": "sip:agent@example.com", "role": "agent"},
        ],
        "dialog": list(dialogs) or [inline()],
        "analysis": [],
        "attachments": [],
        **fields,
    }


def sent(vcon: object, *, unsigned: bool = True, **settings: Any) -> Envelope:
    secrets = settings.pop("secrets", {})
    body = vcon if isinstance(vcon, bytes) else json.dumps(vcon).encode()
    return Envelope(
        "POST",
        (),
        (),
        {},
        NOW,
        document=body,
        content_type="application/vcon",
        settings={"unsigned": unsigned, **settings},
        secrets=secrets,
    )


def only(vcon: object, **options: Any) -> Inline:
    [intent] = ADAPTER.read(sent(vcon, **options))
    assert isinstance(intent, Inline)
    return intent


def test_inline_audio() -> None:
    intent = only(document())
    request, metadata = intent.request, intent.request.metadata
    assert intent.body == WAV
    assert metadata.external_id == f"{UUID}:0"
    assert metadata.call is not None
    assert (metadata.call.external_id, metadata.call.part) == (UUID, None)
    assert metadata.started_at == datetime(2026, 3, 5, 7, 58, 0, 123000, tzinfo=UTC)
    assert metadata.duration == 12.5
    assert (metadata.caller, metadata.callee) == ("+358401234567", "agent@example.com")
    assert metadata.direction == "inbound"
    assert metadata.customer is not None
    assert metadata.customer.phone == "+358401234567"
    assert [channel.party for channel in metadata.channels] == ["customer", "agent"]
    assert (request.reasons, request.strict) == ((), False)
    assert (request.file_name, request.extension, request.content_type) == ("call.wav", "wav", "audio/x-wav")


@pytest.mark.parametrize("encoding", ["base64url", "base64", None])
def test_every_spelling_of_base64(encoding: str | None) -> None:
    body = base64.b64encode(WAV).decode() if encoding == "base64" else base64.urlsafe_b64encode(WAV).decode()
    dialog = inline(body="\n".join(body[i : i + 70] for i in range(0, len(body), 70)))
    if encoding is None:
        del dialog["encoding"]
    else:
        dialog["encoding"] = encoding
    assert only(document(dialog)).body == WAV


def test_an_old_draft_without_created_at() -> None:
    old = document(inline(encoding="base64", body=base64.b64encode(WAV).decode()), vcon="0.0.1", appended={})
    del old["created_at"]
    old["dialog"][0]["mimetype"] = old["dialog"][0].pop("mediatype")
    digest = b64url(hashlib.sha512(WAV).digest())
    old["dialog"][0] |= {"alg": "SHA-512", "signature": digest}
    request = only(old).request
    assert request.content_type == "audio/x-wav"
    assert request.digests.announced == [("content_hash", "sha-512", hashlib.sha512(WAV).digest())]


def test_a_flat_list_of_parties_on_one_channel_is_no_order_of_channels() -> None:
    assert only(document(inline(MONO))).request.metadata.channels == []


def test_channels_by_nested_parties() -> None:
    vcon = document(inline(parties=[None, [0, 1]]), parties=[{"role": "Customer"}, {"role": "bot!"}])
    assert [c.party for c in only(vcon).request.metadata.channels] == ["nobody", "mixed"]
    vcon = document(inline(parties=[[1], 0]), parties=[{}, {"role": "Advisor"}])
    found = only(vcon, parties={"advisor": "agent"}).request.metadata
    assert [c.party for c in found.channels] == ["agent", "party_0"]


def by_url(**fields: Any) -> dict[str, Any]:
    dialog = inline(url="https://files.example.com/a.wav", **fields)
    del dialog["body"], dialog["encoding"]
    return dialog


def test_audio_behind_a_url() -> None:
    digest = hashlib.sha512(WAV).digest()
    [intent] = ADAPTER.read(
        sent(document(by_url(content_hash=f"sha512-{b64url(digest)}")), credential="bearer")
    )
    assert isinstance(intent, Later)
    assert (intent.url, intent.credential) == ("https://files.example.com/a.wav", "bearer")
    assert intent.request.digests.announced == [("content_hash", "sha-512", digest)]
    assert intent.request.reasons == ()
    [bare] = ADAPTER.read(sent(document(by_url())))
    assert isinstance(bare, Later)
    assert (bare.request.reasons, bare.credential) == (("content-hash-missing",), None)
    [odd] = ADAPTER.read(sent(document(by_url(content_hash=["md5-xx", "sha512-short"]))))
    assert isinstance(odd, Later)
    assert odd.request.reasons == ("content-hash-unknown",)


def test_a_recording_set_is_one_call_in_parts() -> None:
    dialogs = [
        {"type": "recording-set", "start": "2026-03-05T07:58:00Z", "recordings": [2, 1], "parties": [0, 1]},
        inline(recording_set=0),
        inline(recording_set=0),
        {"type": "text", "start": "2026-03-05T07:58:00Z", "body": "hello"},
        {"type": "incomplete", "start": "2026-03-05T07:58:00Z", "disposition": "no-answer"},
        {"type": "transfer", "start": "2026-03-05T07:58:00Z"},
    ]
    second, first, missed = ADAPTER.read(sent(document(*dialogs)))
    assert isinstance(first, Inline)
    assert isinstance(second, Inline)
    assert isinstance(missed, NoAudio)
    calls = [intent.request.metadata.call for intent in (first, second)]
    assert [(c.external_id, c.part) for c in calls if c is not None] == [(UUID, 0), (UUID, 1)]
    assert first.request.metadata.external_id == f"{UUID}:2"
    assert "text-not-kept" in first.request.reasons
    assert (missed.outcome, missed.code) == (SenderOutcome.ABSENT, "no-answer")


@pytest.mark.parametrize(
    ("body", "basis", "remark"),
    [
        ({"lawful_basis": "consent"}, "consent", None),
        ({"lawful_basis": "contract", "expiration": "2030-01-01T00:00:00Z"}, "customer_relationship", None),
        ({"lawful_basis": "legitimate_interests", "expiration": None}, "objective_connection", None),
        ({"lawful_basis": "consent", "expiration": "2026-01-01T00:00:00Z"}, None, "lawful-basis-expired"),
        ({"lawful_basis": "vital_interests"}, None, "lawful-basis-unknown"),
        ([], None, "lawful-basis-unreadable"),
        (
            {"lawful_basis": "consent", "purpose_grants": [{"purpose": "recording", "granted": False}]},
            "consent",
            "recording-not-granted",
        ),
    ],
)
def test_the_lawful_basis(body: Any, basis: str | None, remark: str | None) -> None:
    for attachment in (
        {"purpose": "lawful_basis", "encoding": "json", "body": json.dumps(body)},
        {"type": "lawful_basis", "encoding": "none", "body": body},
        {"purpose": "lawful_basis", "encoding": "base64url", "body": b64url(json.dumps(body).encode())},
    ):
        request = only(document(attachments=[attachment])).request
        assert request.metadata.lawful_basis == basis
        assert request.reasons == (() if remark is None else (remark,))


def test_extensions_that_must_be_understood() -> None:
    assert only(document(critical=["CC"])).request.reasons == ()
    for name in ("critical", "must_support"):
        with pytest.raises(InvalidInput):
            ADAPTER.read(sent(document(**{name: ["encrypted-telepathy"]})))
        with pytest.raises(InvalidInput):
            ADAPTER.read(sent(document(**{name: "CC"})))


def test_pressed_keys_are_not_kept() -> None:
    history = [{"party": 0, "time": "2026-03-05T07:58:01Z", "event": "keydown", "button": "4929"}]
    request = only(document(inline(party_history=history))).request
    assert "4929" not in json.dumps(request.sealed_document())
    assert "Maija" in json.dumps(request.metadata.extra["vcon"])


def test_gzip_and_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(json.dumps(document()).encode())
    assert only(packed).body == WAV
    with pytest.raises(MalformedInput):
        ADAPTER.read(sent(packed[:-20]))
    with pytest.raises(MalformedInput):
        ADAPTER.read(sent(b"\x1f\x8b" + b"x" * 50))
    monkeypatch.setattr(vcon_forms, "MAX_PLAIN", 1_000_000)
    with pytest.raises(TooLarge):
        ADAPTER.read(sent(gzip.compress(b" " * 2_000_000)))
    nested = gzip.compress(
        b'{"payload":"' + base64.b64encode(gzip.compress(b" " * 2_000_000)) + b'","signature":""}'
    )
    with pytest.raises(TooLarge):
        ADAPTER.read(sent(nested))


@pytest.mark.parametrize("value", [b"[]", b"{}", b'"",""', b"1"])
def test_a_document_of_very_many_values_is_not_built(value: bytes) -> None:
    """A few kilobytes compressed would be gigabytes of objects."""
    many = b'{"a":[' + b",".join([value] * 600_000) + b"]}"
    with pytest.raises(TooLarge):
        ADAPTER.read(sent(gzip.compress(many, 1)))


class Authority:
    """A certification authority, a signer under it, and what they issue."""

    def __init__(self, *, ca: bool = True, valid: timedelta = timedelta(days=365)) -> None:
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._issue("root", self.root_key.public_key(), "root", self.root_key, ca=True)
        self.middle_key = ec.generate_private_key(ec.SECP256R1())
        self.middle = self._issue("middle", self.middle_key.public_key(), "root", self.root_key, ca=ca)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.leaf = self._issue("signer", self.key.public_key(), "middle", self.middle_key, valid=valid)

    @staticmethod
    def _issue(
        name: str,
        key: Any,
        issuer: str,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        valid: timedelta = timedelta(days=365),
    ) -> x509.Certificate:
        def called(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = x509.CertificateBuilder(
            called(issuer), called(name), key, 1, NOW - timedelta(days=30), NOW - timedelta(days=30) + valid
        )
        return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True).sign(
            by, hashes.SHA256()
        )

    @property
    def anchors(self) -> dict[str, str]:
        return {"trust_anchors": self.root.public_bytes(serialization.Encoding.PEM).decode()}

    def x5c(self) -> list[str]:
        return [
            base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode()
            for one in (self.leaf, self.middle)
        ]

    def sign(self, vcon: object, *, in_both: bool = False) -> dict[str, Any]:
        payload = vcon if isinstance(vcon, bytes) else json.dumps(vcon).encode()
        protected = {"alg": "RS256", **({"x5c": self.x5c()} if in_both else {})}
        registry = vcon_forms._Signatures(algorithms=["RS256"])
        key = RSAKey.import_key(vcon_forms._pem(self.key))
        signed: Any = jws.serialize_json([{"protected": protected}], payload, key, registry=registry)
        signed["signatures"][0]["header"] = {"x5c": self.x5c(), "uuid": UUID}
        if in_both:
            signed["signatures"][0]["header"]["alg"] = "RS256"
        return dict(signed)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("in_both", [False, True])
def test_a_signed_vcon(authority: Authority, in_both: bool) -> None:
    signed = authority.sign(document(), in_both=in_both)
    intent = only(signed, unsigned=False, secrets=authority.anchors)
    assert (intent.body, intent.request.reasons) == (WAV, ())
    [one] = signed.pop("signatures")
    assert only({**signed, **one}, unsigned=False, secrets=authority.anchors).request.reasons == ()


def test_a_changed_vcon_is_kept_but_doubted(authority: Authority) -> None:
    signed = authority.sign(document())
    signed["payload"] = b64url(json.dumps(document(subject="other")).encode())
    for options in ({}, {"unsigned": True}, {"secrets": authority.anchors}):
        intent = only(signed, **{"unsigned": False, **options})
        assert (intent.body, intent.request.reasons) == (WAV, ("signature-invalid",))


@pytest.mark.parametrize(
    "damage",
    [
        {"signatures": []},
        {"signatures": [1]},
        {"signatures": "x"},
        {"signatures": [{"header": {"x5c": ["AAAA"], "alg": "none"}, "signature": ""}]},
        {"signatures": [{"header": 1, "protected": "e30", "signature": "x"}]},
    ],
)
def test_a_signature_that_is_none(authority: Authority, damage: dict[str, Any]) -> None:
    signed = {**authority.sign(document()), **damage}
    intent = only(signed, secrets=authority.anchors)
    assert intent.request.reasons == ("signature-invalid",)


def test_whom_nobody_vouches_for(authority: Authority) -> None:
    signed = authority.sign(document())
    others = Authority().anchors
    bare = {**signed, "signatures": [{n: v for n, v in signed["signatures"][0].items() if n != "header"}]}
    assert only(bare, unsigned=True, secrets=others).request.reasons == ("signature-untrusted",)
    assert only(bare, unsigned=True).request.reasons == ()
    assert only(signed, unsigned=False, secrets=others).request.reasons == ("signature-untrusted",)
    assert only(signed, unsigned=True, secrets=others).request.reasons == ("signature-untrusted",)
    assert only(signed, unsigned=False).request.reasons == ("signature-untrusted",)
    assert only(signed, unsigned=True).request.reasons == (), "as good as unsigned, which the operator takes"
    assert only(document(), unsigned=False).request.reasons == ("vcon-unsigned",)
    assert only(document(), unsigned=True).request.reasons == ()


def test_chains_that_do_not_hold() -> None:
    for authority in (Authority(ca=False), Authority(valid=timedelta(days=1))):
        signed = authority.sign(document())
        reasons = only(signed, unsigned=False, secrets=authority.anchors).request.reasons
        assert reasons == ("signature-untrusted",)


def test_a_signature_around_a_signature(authority: Authority) -> None:
    inner = Authority(valid=timedelta(days=1)).sign(document())
    intent = only(authority.sign(inner), unsigned=False, secrets=authority.anchors)
    assert (intent.body, intent.request.reasons) == (WAV, ())
    deep: dict[str, Any] = document()
    for _ in range(6):
        deep = authority.sign(deep)
    with pytest.raises(MalformedInput):
        ADAPTER.read(sent(deep, secrets=authority.anchors))


@pytest.mark.parametrize("kind", ["rsa", "ec", "flattened"])
def test_an_encrypted_vcon(authority: Authority, kind: str) -> None:
    signed = json.dumps(authority.sign(document())).encode()
    private: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "ec"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    pem = vcon_forms._pem(private)
    public = vcon_forms._pem(private.public_key())
    key: Any = ECKey.import_key(public) if kind == "ec" else RSAKey.import_key(public)
    alg = "ECDH-ES+A256KW" if kind == "ec" else "RSA-OAEP"
    shared = {"enc": "A256CBC-HS512"}
    encryption: Any
    if kind == "flattened":  # as the working group's own example has it
        encryption = jwe.FlattenedJSONEncryption({**shared, "alg": alg}, signed)
        encryption.add_recipient({}, key)
    else:
        encryption = jwe.GeneralJSONEncryption(shared, signed)
        encryption.add_recipient({"alg": alg}, key)
    registry = vcon_forms._Encryptions(algorithms=[alg, "A256CBC-HS512"])
    packed: Any = jwe.encrypt_json(encryption, None, registry=registry)
    secrets = {**authority.anchors, "vcon_key": pem.decode()}
    intent = only(packed, unsigned=False, secrets=secrets)
    assert (intent.body, intent.request.reasons) == (WAV, ())
    for wrong in ({}, {"vcon_key": vcon_forms._pem(ec.generate_private_key(ec.SECP384R1())).decode()}):
        with pytest.raises(InvalidInput):
            ADAPTER.read(sent(packed, secrets=wrong))


@pytest.mark.parametrize(
    "vcon",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        {"uuid": UUID},
        document({"type": "text", "start": "2026-03-05T07:58:00Z"}),
        document(*[inline(b"")] * 40),
        {"payload": "%%%", "signatures": [{}]},
    ],
)
def test_what_is_no_recorded_call_is_refused(vcon: object) -> None:
    with pytest.raises((InvalidInput, MalformedInput)):
        ADAPTER.read(sent(vcon))


def test_a_body_that_cannot_be_read_is_kept_as_it_came() -> None:
    wrong: tuple[dict[str, Any], ...] = ({"body": "not base64 at all!"}, {"encoding": "hex"})
    for changes in wrong:
        intent = only(document(inline(**changes)))
        assert "metadata-invalid:body" in intent.request.reasons
        assert intent.body
    [missing] = ADAPTER.read(sent(document(inline(body=""))))
    assert isinstance(missing, NoAudio)


async def test_our_own_export_comes_back() -> None:
    recording_id = uuid.uuid4()
    dialog = export.Dialog(
        start=NOW, duration=0.1, parties=(0, 1), mediatype="audio/wav", filename="recording.wav"
    )
    basis = {"lawful_basis": "statutory_obligation", "purpose_grants": []}
    attachment = {"purpose": "lawful_basis", "start": NOW.isoformat(), "party": 0, "encoding": "json"}
    vcon = export.document(
        recording_id,
        NOW,
        [{"role": "customer"}, {"org": "Example", "role": "agent"}],
        dialog,
        [{**attachment, "body": json.dumps(basis)}],
    )

    async def audio() -> AsyncIterator[bytes]:
        for start in range(0, len(WAV), 1000):
            yield WAV[start : start + 1000]

    text = b"".join([piece async for piece in export.stream(vcon, audio())])
    intent = only(text)
    metadata = intent.request.metadata
    assert (intent.body, intent.request.reasons) == (WAV, ())
    assert metadata.external_id == f"{vcon['uuid']}:0"
    assert metadata.lawful_basis == "statutory_obligation"
    assert [channel.party for channel in metadata.channels] == ["customer", "agent"]
    assert metadata.started_at == NOW


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_NAMES = (
    *("start", "duration", "parties", "originator", "mediatype", "filename", "body", "encoding", "url"),
    *("content_hash", "alg", "signature", "recordings", "disposition", "session_id"),
)
_DIALOG = st.fixed_dictionaries(
    {"type": st.sampled_from(["recording", "recording-set", "incomplete", "text"])},
    optional=dict.fromkeys(_NAMES, _JSON),
)
_TOP = ("uuid", "created_at", "parties", "attachments", "critical", "subject")


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {"dialog": st.lists(_DIALOG, min_size=1, max_size=3)},
        optional=dict.fromkeys(
            ("uuid", "created_at", "parties", "attachments", "critical", "subject"), _JSON
        ),
    ),
    st.dictionaries(st.sampled_from(["payload", "signatures", "ciphertext", "protected"]), _JSON, max_size=1),
)
def test_no_vcon_breaks_the_reading(vcon: dict[str, Any], wrapping: dict[str, Any]) -> None:
    try:
        intents = ADAPTER.read(sent({**vcon, **wrapping}))
    except RecorderError:
        return
    for intent in intents:
        assert isinstance(intent, Inline | Later | NoAudio)
        assert intent.request.metadata.external_id


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    for body in (data, gzip.compress(data), b"\x1f\x8b\x08" + data):
        with pytest.raises(RecorderError):
            ADAPTER.read(sent(body))
