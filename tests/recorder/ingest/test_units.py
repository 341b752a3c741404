"""The pure parts: digests, media, metadata, receipts."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from recorder.errors import InvalidInput, MalformedInput
from recorder.ingest import receipts
from recorder.ingest.digests import DigestCheck, parse_digests
from recorder.ingest.metadata import (
    RecordingMetadata,
    differences,
    metadata_from_query,
    parse_metadata,
)
from recorder.ingest.sniff import Hints, Media, contradictions, extension_of, sniff
from storage.keyrings.memory import MemoryKeyring

NOW = datetime(2026, 3, 5, 8, 0, tzinfo=UTC)
# RFC 9530, appendix D: the SHA-512 and the SHA-256 of `{"hello": "world"}` and a line feed.
HELLO = b'{"hello": "world"}\n'
HELLO_256 = "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="
HELLO_512 = "YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg=="


def test_the_vectors_of_the_rfc() -> None:
    field = f"sha-256=:{HELLO_256}:, sha-512=:{HELLO_512}:"
    check = DigestCheck.from_fields([("Content-Digest", field), ("Repr-Digest", None)])
    check.update(HELLO[:5])
    check.update(HELLO[5:])
    assert check.mismatched() == ()
    check.update(b"x")
    assert check.mismatched() == ("Content-Digest",)


@pytest.mark.parametrize(
    ("field", "algorithms"),
    [
        (f"sha-256=:{HELLO_256}:", {"sha-256"}),
        (f"sha-256=:{HELLO_256}:;q=0.5;a ,\tmd5=:AAAA:", {"sha-256"}),
        (f"unixsum=30637, sha-512=:{HELLO_512}:", {"sha-512"}),
        (f'x="a, \\"b", sha-256=:{HELLO_256.rstrip("=")}:', {"sha-256"}),
        (f"sha-256=:{base64.b64encode(bytes(32)).decode()}:, sha-256=:{HELLO_256}:", {"sha-256"}),
        ("md5=:AAAA:", set()),
        ("", set()),
    ],
)
def test_structured_fields_are_read(field: str, algorithms: set[str]) -> None:
    found = parse_digests(field, header="Content-Digest")
    assert set(found) == algorithms
    if "sha-256" in algorithms:
        assert found["sha-256"] == hashlib.sha256(HELLO).digest()


@pytest.mark.parametrize(
    "field",
    [
        HELLO_256,
        f"SHA-256=:{HELLO_256}:",
        f"sha-256={HELLO_256}",
        "sha-256=:AAAA:",
        "sha-256",
        "sha-256=?1",
        f"sha-256=:{HELLO_256}:,",
        f"sha-256=:{HELLO_256}: sha-512=:{HELLO_512}:",
        "sha-256=:A:",
        "sha-256=:" + "A" * 9000 + ":",
    ],
)
def test_malformed_fields_are_refused(field: str) -> None:
    with pytest.raises(MalformedInput):
        parse_digests(field, header="Content-Digest")


@given(st.text(max_size=200))
def test_no_field_breaks_the_parser(field: str) -> None:
    try:
        found = parse_digests(field, header="Content-Digest")
    except MalformedInput:
        return
    assert all(len(digest) in (32, 64) for digest in found.values())


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"OggS", b"ID3", b"fLaC", b"\xff\xfb"]),
)
def test_no_bytes_break_the_sniffer(data: bytes, start: bytes) -> None:
    media = sniff(start + data, Hints(extension="wav"))
    assert isinstance(media, Media)
    json.dumps(media.document())


def test_hints_are_believed_in_order_and_only_without_bytes() -> None:
    noise = b"\x11\x22" * 300
    assert sniff(noise, Hints()).known is False
    assert sniff(noise, Hints(extension="mp3")).known is False  # an mp3 would have shown itself
    order = Hints(codec="g722", extension="ulaw", content_type="audio/PCMA", source={"codec": "gsm"})
    assert (sniff(noise, order).codec, sniff(noise, order).known_by) == ("g722", "metadata")
    assert sniff(noise, Hints(extension="ulaw", content_type="audio/PCMA")).codec == "pcm_mulaw"
    assert sniff(noise, Hints(content_type="audio/x-gsm; rate=8000")).codec == "gsm"
    by_source = sniff(noise, Hints(source={"codec": "pcm_alaw", "sample_rate": 16000, "channels": 2}))
    assert (by_source.codec, by_source.sample_rate, by_source.channels, by_source.block) == (
        "pcm_alaw", 16000, 2, 2,
    )  # fmt: skip
    assert sniff(b"", Hints(codec="g722")).known is False


def test_silent_mulaw_is_no_mp3() -> None:
    assert sniff(b"\xff" * 5000, Hints(extension="ulaw")).codec == "pcm_mulaw"
    assert sniff(b"\xff\xfb" * 500, Hints(extension="ulaw")).codec == "pcm_mulaw"


def wav_header(tag: int, bits: int, *, data: int, extra: bytes = b"") -> bytes:
    form = struct.pack("<HHIIHH", tag, 2, 8000, 32000, 4, bits) + extra
    return (
        struct.pack("<4sI4s", b"RIFF", 0, b"WAVE")
        + struct.pack("<4sI", b"LIST", 3) + b"abc\0"
        + struct.pack("<4sI", b"fmt ", len(form)) + form
        + struct.pack("<4sI", b"data", data)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "bits", "codec"),
    [
        (1, 8, "pcm_u8"),
        (1, 16, "pcm_s16le"),
        (3, 32, "pcm_f32le"),
        (6, 8, "pcm_alaw"),
        (7, 8, "pcm_mulaw"),
        (0x31, 0, "gsm_ms"),
        (0x55, 0, "mp3"),
        (0x9999, 0, "unknown"),
    ],
)
def test_wav_headers(tag: int, bits: int, codec: str) -> None:
    head = wav_header(tag, bits, data=1000)
    media = sniff(head + bytes(1000), Hints())
    assert (media.container, media.codec, media.sample_rate, media.channels) == ("wav", codec, 8000, 2)
    assert (media.data_start, media.data_size) == (len(head), 1000)
    assert media.known is (codec != "unknown")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_wav_sizes_that_mean_to_the_end(size: int) -> None:
    assert sniff(wav_header(1, 16, data=size) + bytes(100), Hints()).data_size is None


def test_extensible_wav_names_its_codec_in_the_guid() -> None:
    extra = struct.pack("<HHI", 22, 16, 3) + struct.pack("<H", 7) + bytes(14)
    assert sniff(wav_header(0xFFFE, 8, data=9, extra=extra), Hints()).codec == "pcm_mulaw"


def test_contradictions() -> None:
    media = sniff(wav_header(1, 16, data=0) + bytes(100), Hints())
    assert contradictions(media, Hints(codec="pcm", channels=2, sample_rate=8000)) == ()
    assert contradictions(media, Hints(codec="opus", channels=1)) == ("codec", "channels")
    assert contradictions(media, Hints(codec="something-else")) == ()


def test_extensions() -> None:
    assert extension_of("9f1c.wav") == ("9f1c", "wav")
    assert extension_of("1700000000.42") == ("1700000000.42", None)
    assert extension_of(".wav") == (".wav", None)
    assert extension_of("a.b.GSM") == ("a.b", "gsm")


def meta(**fields: Any) -> bytes:
    return json.dumps({"external_id": "1", "started_at": "2026-03-05T09:00:00+02:00", **fields}).encode()


def test_metadata_of_every_field() -> None:
    parsed = parse_metadata(
        meta(
            leg="a",
            call={"external_id": "c", "part": 2},
            ended_at="2026-03-05T09:01:00.5+02:00",
            direction="outbound",
            caller="100",
            callee="anonymous",
            customer={"number": "1", "phone": "2", "email": "3"},
            agents=["a7"],
            queue="Tuki ja neuvonta",
            channels=[{"party": "agent"}],
            media={"codec": "g722", "sample_rate": 16000, "channels": 1},
            service_events=[{"type": "order", "ref": "x"}],
            lawful_basis="consent",
            notice={"version": "3", "offset": 0.4},
            muted=[{"from": 1, "to": 2.5, "reason": "card_security"}],
            tags=["fi"],
            extra={"a": [1, {"b": None}]},
        )
    )
    assert parsed.started_at == datetime(2026, 3, 5, 7, 0, tzinfo=UTC)
    assert RecordingMetadata.model_validate(parsed.document()) == parsed
    assert parse_metadata(meta(duration=30)).end == datetime(2026, 3, 5, 7, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"a/b~": 1}, "/a~1b~0"),
        ({"agents": ["a", "b c"]}, "/agents/1"),
        ({"tags": ["x"] * 65}, "/tags"),
        ({"extra": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}}, "/extra"),
        ({"started_at": 1700000000}, "/started_at"),
        ({"started_at": "2026-13-05T09:00:00Z"}, "/started_at"),
        ({"started_at": "0001-01-01T00:00:00+14:00"}, "/started_at"),
        ({"duration": -1}, "/duration"),
        ({"ended_at": "2026-03-05T08:00:00+02:00"}, ""),
        ({"ended_at": "2026-03-05T09:10:00+02:00", "duration": 5}, ""),
        ({"caller": "a\x00b"}, "/caller"),
        ({"external_id": ""}, "/external_id"),
        ({"customer": {"name": "x"}}, "/customer/name"),
        ({"media": {"channels": 0}}, "/media/channels"),
    ],
)
def test_metadata_that_is_refused(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_metadata(meta(**fields))
    assert path in [f.path for f in refused.value.fields]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_no_json_breaks_the_metadata(value: Any) -> None:
    raw = json.dumps({"external_id": "1", "started_at": "2026-03-05T09:00:00Z", "extra": value}).encode()
    try:
        parsed = parse_metadata(raw)
    except InvalidInput:
        return
    json.dumps(parsed.document())


def test_a_query_becomes_metadata() -> None:
    parsed, reasons, unparsed = metadata_from_query(
        "x",
        [
            ("started_at", "2026-03-05T09:00:00+02:00"),
            ("from", "0401234567"),
            ("to", "100"),
            ("agents", "a1, a2"),
            ("agent", "a3"),
            ("phone", "+358"),
            ("codec", "g722"),
            ("sample_rate", "16000"),
            ("channels", "1"),
            ("muted", '[{"from":1,"to":2,"reason":"card_security"}]'),
            ("metadata", '{"queue":"q","odd":1}'),
            ("campaign", "spring"),
        ],
        now=NOW,
    )
    assert (reasons, unparsed) == ((), {})
    assert parsed.caller == "0401234567"
    assert parsed.agents == ["a1", "a2", "a3"]
    assert parsed.media is not None
    assert parsed.media.sample_rate == 16000
    assert parsed.muted[0].to == 2
    assert parsed.queue == "q"
    assert parsed.extra == {"campaign": "spring", "odd": 1}


def test_a_query_that_is_half_wrong_keeps_the_other_half() -> None:
    parsed, reasons, unparsed = metadata_from_query(
        "x",
        [
            ("duration", "60"),
            ("sample_rate", "many"),
            ("queue", "q"),
            ("muted", "{nonsense"),
            ("agent", "a b"),
        ],
        now=NOW,
    )
    assert reasons == (
        "metadata-invalid:muted",
        "metadata-invalid:agents",
        "metadata-invalid:media",
        "started-at-estimated",
    )
    assert set(unparsed) == {"muted", "agents", "media"}
    assert parsed.queue == "q"
    assert (NOW - parsed.started_at).total_seconds() == 60
    with pytest.raises(InvalidInput):
        metadata_from_query("x" * 300, [], now=NOW)


CARD = '[{"from":2,"to":4,"reason":"card_security"}]'


@pytest.mark.parametrize(
    "pairs",
    [
        [("muted", '[{"from":2,"to":4,"reason":"card_security"},{"from":9,"to":8,"reason":"x"}]')],
        [("muted", CARD[:-1])],
        [("muted", CARD), ("muted", CARD.replace("2", "3"))],
        [("metadata", f'{{"muted":{CARD}}}'), ("muted", CARD)],
        [("metadata", f'{{"muted":{CARD}')],
        [*((f"x{n}", "1") for n in range(64)), ("muted", CARD)],
    ],
)
def test_a_span_of_card_data_that_cannot_be_read_is_never_kept_in_full(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        metadata_from_query("x", pairs, now=NOW)
    assert refusal.value.fields[0].path == "muted"
    assert metadata_from_query("x", [("muted", CARD)], now=NOW)[0].muted[0].reason == "card_security"


@pytest.mark.parametrize(
    ("pairs", "bad"),
    [
        ([("extra", "[1]"), ("z", "1")], "extra"),
        ([("metadata", '{"agents":"abc"}'), ("agent", "a1")], "agents"),
        ([("metadata", '{"media":5}'), ("codec", "g722")], "media"),
        ([("metadata", '{"customer":"c"}'), ("phone", "1")], "customer"),
    ],
)
def test_parameters_that_contradict_one_another_are_kept_aside(
    pairs: list[tuple[str, str]], bad: str
) -> None:
    _, reasons, unparsed = metadata_from_query("x", pairs, now=NOW)
    assert f"metadata-invalid:{bad}" in reasons
    assert bad in unparsed
    said, _, _ = metadata_from_query("x", [("metadata", '{"customer":null}'), ("phone", "1")], now=NOW)
    assert said.customer is not None
    assert said.customer.phone == "1"


@given(st.lists(st.tuples(st.sampled_from(["started_at", "ended_at", "duration", "muted", "metadata", "extra",
                                           "call", "part", "agent", "channels", "z"]), st.text(max_size=30)),
                max_size=8))  # fmt: skip
def test_no_query_breaks_the_reader(pairs: list[tuple[str, str]]) -> None:
    parsed, reasons, _ = metadata_from_query("x", pairs, now=NOW)
    assert parsed.external_id == "x"
    assert all(" " not in reason for reason in reasons)


def test_differences_name_fields_only() -> None:
    first = {"a": 1, "b": [1], "_x": 1}
    assert differences(first, {"a": 1, "b": [2], "c": 3, "_x": 2}) == ["/b", "/c"]
    assert differences(first, {"a": 2, "b": [1]}, ignore=["a"]) == []


def test_receipts_are_what_others_can_check() -> None:
    keyring = MemoryKeyring()
    receipt = receipts.Receipt(uuid.uuid4(), bytes(32), 5, NOW)
    token = receipts.sign_receipt(keyring, receipt)
    assert token == receipts.sign_receipt(keyring, receipt)
    public = keyring.public_keys()["receipts"]
    header, payload, signature = token.split(".")

    def unpadded(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    # RFC 7515 by hand, with nothing of the library that made it.
    public.verify(unpadded(signature), f"{header}.{payload}".encode())
    assert json.loads(unpadded(header)) == {
        "alg": "EdDSA", "kid": receipts.jwk(public)["kid"], "typ": "recording-receipt+jws",
    }  # fmt: skip
    altered = json.loads(unpadded(payload)) | {"size": 6}
    forged = base64.urlsafe_b64encode(json.dumps(altered).encode()).rstrip(b"=").decode()
    with pytest.raises(InvalidSignature):
        public.verify(unpadded(signature), f"{header}.{forged}".encode())
    keys = {receipts.jwk(public)["kid"]: public}
    assert receipts.verify_receipt(token, keys)["size"] == 5
    other = Ed25519PrivateKey.generate().public_key()
    for bad_token, bad_keys in (
        (f"{header}.{forged}.{signature}", keys),
        (token, {receipts.jwk(other)["kid"]: other}),
        (token, {receipts.jwk(public)["kid"]: other}),
        ("a.b", keys),
        ("", keys),
    ):
        with pytest.raises(receipts.ReceiptInvalid):
            receipts.verify_receipt(bad_token, bad_keys)


def test_a_jwk_thumbprint_is_the_rfc_one() -> None:
    # RFC 8037, appendix A.2 and A.3.
    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    assert receipts.jwk(Ed25519PublicKey.from_public_bytes(raw))["kid"] == (
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    )
