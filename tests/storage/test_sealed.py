"""The sealed format: golden vectors, round trips, tampering, and what Tink makes of it."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import tink
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tink import secret_key_access, streaming_aead, tink_config
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from storage.errors import Misuse, TamperedObject
from storage.ranges import plan_range
from storage.sealed import (
    FIRST_PLAIN_SIZE,
    HEADER_SIZE,
    SEGMENT_PLAIN_SIZE,
    SEGMENT_SIZE,
    TAG_SIZE,
    Opener,
    Sealer,
    object_aad,
    plain_size,
    sealed_size,
    segment_count,
)

KEY = bytes(range(32))
OBJECT = UUID("00112233-4455-4677-8899-aabbccddeeff")
AAD = object_aad(OBJECT, "original")
BORDERS = [
    0,
    1,
    FIRST_PLAIN_SIZE - 1,
    FIRST_PLAIN_SIZE,
    FIRST_PLAIN_SIZE + 1,
    FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE - 1,
    FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE,
    FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE + 1,
    SEGMENT_SIZE,
    5 * SEGMENT_SIZE + 12345,
]
VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "sealed_vectors.json").read_text(encoding="ascii")
)


def pattern(size: int) -> bytes:
    """The plaintext of the golden vectors: byte i is i * 7 + i // 256, modulo 256."""
    block = bytes((i * 7 + i // 256) % 256 for i in range(65536))
    return (block * (size // 65536 + 1))[:size]


def seal(plaintext: bytes, *, key: bytes = KEY, aad: bytes = AAD, piece: int = 50_000) -> bytes:
    sealer = Sealer(key, aad)
    parts = [sealer.header()]
    parts += [bytes(sealer.update(plaintext[i : i + piece])) for i in range(0, len(plaintext), piece)]
    return b"".join([*parts, sealer.finish()])


def open_all(sealed: bytes, size: int, *, key: bytes = KEY, aad: bytes = AAD) -> bytes:
    opener = Opener(key, aad, sealed[:HEADER_SIZE])
    return bytes(opener.open_run(0, sealed[HEADER_SIZE:], last=segment_count(size) - 1))


def open_range(sealed: bytes, size: int, start: int, end: int) -> bytes:
    plan = plan_range(size, start, end)
    fetched = sealed[plan.cipher_start : plan.cipher_end]
    opener = Opener(KEY, AAD, sealed[:HEADER_SIZE])
    run = opener.open_run(plan.first, fetched[HEADER_SIZE:] if plan.has_header else fetched, last=plan.last)
    return bytes(run[plan.skip : plan.skip + plan.length])


def tink_primitive(key: bytes) -> Any:
    tink_config.register()
    keyset = tink_pb2.Keyset(primary_key_id=1)
    entry = keyset.key.add(key_id=1, status=tink_pb2.ENABLED, output_prefix_type=tink_pb2.RAW)
    entry.key_data.type_url = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
    entry.key_data.key_material_type = tink_pb2.KeyData.SYMMETRIC
    entry.key_data.value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(
        version=0,
        key_value=key,
        params=aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
            ciphertext_segment_size=SEGMENT_SIZE, derived_key_size=32, hkdf_hash_type=common_pb2.SHA256
        ),
    ).SerializeToString()
    handle = tink.proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    return handle.primitive(streaming_aead.StreamingAead)


# Golden vectors


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["plaintext_size"]))
def test_golden_vectors(vector: dict[str, Any]) -> None:
    plaintext = pattern(vector["plaintext_size"])
    aad = object_aad(UUID(vector["object_id"]), vector["role"])
    key = bytes.fromhex(vector["data_key"])
    sealer = Sealer(
        key, aad, salt=bytes.fromhex(vector["salt"]), nonce_prefix=bytes.fromhex(vector["nonce_prefix"])
    )

    sealed = sealer.header() + sealer.update(plaintext) + sealer.finish()

    assert aad.hex() == vector["aad"]
    assert len(sealed) == vector["sealed_size"]
    assert sealed[:64].hex() == vector["sealed_head"]
    assert sealed[-16:].hex() == vector["sealed_tail"]
    assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"]
    assert hashlib.sha256(plaintext).hexdigest() == vector["plaintext_sha256"]
    assert open_all(sealed, len(plaintext), key=key, aad=aad) == plaintext


def test_the_associated_data_is_as_written_down() -> None:
    assert b"tallenne.object\x00" + b"\x01" + OBJECT.bytes + b"\x08" + b"original" == AAD


def test_the_parts_of_the_associated_data_do_not_run_into_each_other() -> None:
    ids = [OBJECT, UUID(int=OBJECT.int + 1)]
    made = {object_aad(object_id, role) for object_id in ids for role in ("a", "ab", "b", "original")}
    assert len(made) == 8


@pytest.mark.parametrize("role", ["", "Original", "a b", "ä", "-a", "a" * 65, "a\n"])
def test_a_malformed_role_is_misuse(role: str) -> None:
    with pytest.raises(Misuse):
        object_aad(OBJECT, role)


def test_an_unknown_format_version_is_misuse() -> None:
    with pytest.raises(Misuse):
        object_aad(OBJECT, "original", 2)


# Round trips


@pytest.mark.parametrize("size", BORDERS)
def test_sizes_at_the_borders(size: int) -> None:
    plaintext = pattern(size)
    sealed = seal(plaintext)

    assert len(sealed) == sealed_size(size)
    assert plain_size(len(sealed)) == size
    assert open_all(sealed, size) == plaintext


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 4 * SEGMENT_SIZE),
    cuts=st.lists(st.integers(0, 4 * SEGMENT_SIZE), max_size=12),
)
@example(size=FIRST_PLAIN_SIZE, cuts=[FIRST_PLAIN_SIZE])
@example(size=FIRST_PLAIN_SIZE + 1, cuts=[FIRST_PLAIN_SIZE])
@example(size=3 * SEGMENT_SIZE, cuts=[0, 0, 1, FIRST_PLAIN_SIZE, FIRST_PLAIN_SIZE + 1])
def test_however_the_plaintext_is_cut_the_object_is_the_same(size: int, cuts: list[int]) -> None:
    plaintext = pattern(size)
    borders = [0, *sorted(min(cut, size) for cut in cuts), size]
    sealer = Sealer(KEY, AAD, salt=bytes(32), nonce_prefix=bytes(7))
    whole = Sealer(KEY, AAD, salt=bytes(32), nonce_prefix=bytes(7))

    pieces = [bytes(sealer.update(plaintext[a:b])) for a, b in itertools.pairwise(borders)]
    sealed = b"".join([sealer.header(), *pieces, sealer.finish()])

    assert sealed == whole.header() + whole.update(bytearray(plaintext)) + whole.finish()
    assert open_all(sealed, size) == plaintext


_LONG = pattern(3 * SEGMENT_SIZE + 777)
_LONG_SEALED = seal(_LONG)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_range_is_the_slice(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(_LONG)))
    end = data.draw(st.integers(start, len(_LONG)))
    assert open_range(_LONG_SEALED, len(_LONG), start, end) == _LONG[start:end]


@pytest.mark.parametrize(
    "size", [0, 1, FIRST_PLAIN_SIZE, FIRST_PLAIN_SIZE + 1, FIRST_PLAIN_SIZE + SEGMENT_PLAIN_SIZE]
)
def test_ranges_that_end_on_a_border(size: int) -> None:
    plaintext = pattern(size)
    sealed = seal(plaintext)
    edges = {0, size, min(size, FIRST_PLAIN_SIZE), max(size - 1, 0), min(size, FIRST_PLAIN_SIZE + 1)}
    for start in edges:
        for end in edges:
            if start <= end:
                assert open_range(sealed, size, start, end) == plaintext[start:end]


@settings(max_examples=200, deadline=None)
@given(size=st.integers(0, 10 * SEGMENT_SIZE), data=st.data())
def test_a_plan_fetches_the_needed_segments_and_no_other(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    plan = plan_range(size, start, end)

    assert 0 <= plan.first < plan.stop <= plan.last + 1 == segment_count(size)
    assert plan.cipher_start == plan.first * SEGMENT_SIZE
    assert plan.cipher_end == min(plan.stop * SEGMENT_SIZE, sealed_size(size))
    assert plan.length == end - start
    inside = plan.cipher_end - plan.cipher_start - TAG_SIZE * (plan.stop - plan.first)
    inside -= HEADER_SIZE if plan.has_header else 0
    assert plan.skip + plan.length <= inside
    if plan.length > 0:
        # Neither the first nor the last fetched segment could be left out.
        assert plan.skip < SEGMENT_PLAIN_SIZE - (HEADER_SIZE if plan.has_header else 0)
        if plan.stop - plan.first > 1:
            last_inside = min(SEGMENT_SIZE, plan.cipher_end - (plan.stop - 1) * SEGMENT_SIZE) - TAG_SIZE
            assert plan.skip + plan.length > inside - last_inside


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (6, 5), (0, 11), (11, 11)])
def test_a_range_outside_the_object_is_misuse(start: int, end: int) -> None:
    with pytest.raises(Misuse):
        plan_range(10, start, end)


@given(size=st.integers(0, 2**45))
def test_sizes_have_an_inverse(size: int) -> None:
    assert plain_size(sealed_size(size)) == size
    assert sealed_size(size) == HEADER_SIZE + size + TAG_SIZE * segment_count(size)


@pytest.mark.parametrize(
    "size", [0, 1, HEADER_SIZE, HEADER_SIZE + TAG_SIZE - 1, SEGMENT_SIZE + 1, SEGMENT_SIZE + TAG_SIZE]
)
def test_sizes_that_no_object_has(size: int) -> None:
    with pytest.raises(TamperedObject):
        plain_size(size)


def test_more_than_two_to_the_32_segments_are_refused() -> None:
    largest = FIRST_PLAIN_SIZE + (2**32 - 1) * SEGMENT_PLAIN_SIZE
    assert segment_count(largest) == 2**32
    with pytest.raises(Misuse):
        sealed_size(largest + 1)
    with pytest.raises(Misuse):
        sealed_size(-1)
    with pytest.raises(TamperedObject):
        plain_size(2**32 * SEGMENT_SIZE + 17)
    sealer = Sealer(KEY, AAD)
    sealer._number = 2**32 - 2
    sealer.update(bytes(FIRST_PLAIN_SIZE + 1))  # the last segment but one leaves
    with pytest.raises(Misuse):
        sealer.update(bytes(SEGMENT_PLAIN_SIZE))  # the last one may not be followed


@pytest.mark.parametrize(
    "changes",
    [{"salt": bytes(31)}, {"salt": bytes(33)}, {"nonce_prefix": bytes(6)}, {"nonce_prefix": bytes(12)}],
)
def test_a_salt_or_prefix_of_another_length_is_misuse(changes: dict[str, bytes]) -> None:
    with pytest.raises(Misuse):
        Sealer(KEY, AAD, **changes)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_of_another_length_is_misuse(length: int) -> None:
    with pytest.raises(Misuse):
        Sealer(bytes(length), AAD)
    with pytest.raises(Misuse):
        Opener(bytes(length), AAD, Sealer(KEY, AAD).header())


def test_a_finished_sealer_takes_nothing_more() -> None:
    sealer = Sealer(KEY, AAD)
    sealer.finish()
    with pytest.raises(Misuse):
        sealer.update(b"x")
    with pytest.raises(Misuse):
        sealer.finish()


def test_two_objects_share_neither_salt_nor_prefix() -> None:
    headers = {Sealer(KEY, AAD).header() for _ in range(50)}
    assert len({header[1:33] for header in headers}) == 50
    assert len({header[33:] for header in headers}) == 50


# Tampering


def test_every_flipped_byte_is_seen() -> None:
    plaintext = pattern(200)
    sealed = seal(plaintext)
    for place in range(len(sealed)):
        for bit in (0x01, 0x80):
            flipped = bytearray(sealed)
            flipped[place] ^= bit
            with pytest.raises(TamperedObject):
                open_all(bytes(flipped), 200)


@pytest.mark.parametrize("segment", [0, 1, 2, 3])
@pytest.mark.parametrize("place", [0, 1, 30_000, -17, -16, -1])
def test_a_flip_in_any_segment_is_seen_by_reads_of_it_and_only_by_those(segment: int, place: int) -> None:
    start = segment * SEGMENT_SIZE + (HEADER_SIZE if segment == 0 else 0)
    stop = min((segment + 1) * SEGMENT_SIZE, len(_LONG_SEALED))
    flipped = bytearray(_LONG_SEALED)
    flipped[(start if place >= 0 else stop) + min(place, 700)] ^= 0x10

    for number in range(4):
        plain_start = 0 if number == 0 else FIRST_PLAIN_SIZE + (number - 1) * SEGMENT_PLAIN_SIZE
        wanted = (bytes(flipped), len(_LONG), plain_start, plain_start + 1)
        if number == segment:
            with pytest.raises(TamperedObject):
                open_range(*wanted)
        else:
            assert open_range(*wanted) == _LONG[plain_start : plain_start + 1]


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("around", [-1, 0, 1, TAG_SIZE])
def test_truncation_at_every_segment_border_is_seen(kept: int, around: int) -> None:
    cut = max(kept * SEGMENT_SIZE, HEADER_SIZE) + around
    truncated = _LONG_SEALED[:cut]
    with pytest.raises(TamperedObject):
        # Believing the shorter size: the last segment then lacks its mark.
        open_all(truncated, plain_size(len(truncated)))
    if len(truncated) > HEADER_SIZE and around != 0:
        with pytest.raises(TamperedObject):
            # Believing the recorded size: a segment ends too early.
            open_all(truncated, len(_LONG))


@pytest.mark.parametrize(("one", "other"), [(1, 2), (0, 1), (2, 3)])
def test_segments_in_another_order_are_seen(one: int, other: int) -> None:
    opener = Opener(KEY, AAD, _LONG_SEALED[:HEADER_SIZE])
    segments = [_LONG_SEALED[i : i + SEGMENT_SIZE] for i in range(0, len(_LONG_SEALED), SEGMENT_SIZE)]
    segments[0] = segments[0][HEADER_SIZE:]
    for number in (one, other):
        assert opener.open_segment(number, segments[number], is_last=number == 3)
    segments[one], segments[other] = segments[other], segments[one]
    for number in (one, other):
        with pytest.raises(TamperedObject):
            opener.open_segment(number, segments[number], is_last=number == 3)


def test_a_segment_of_another_object_is_seen() -> None:
    other = seal(pattern(len(_LONG)))  # same key, same AAD, same plaintext: only salt and prefix differ
    spliced = (
        _LONG_SEALED[:SEGMENT_SIZE]
        + other[SEGMENT_SIZE : 2 * SEGMENT_SIZE]
        + _LONG_SEALED[2 * SEGMENT_SIZE :]
    )
    with pytest.raises(TamperedObject):
        open_all(spliced, len(_LONG))


def test_a_header_of_another_object_is_seen() -> None:
    other = seal(_LONG)
    with pytest.raises(TamperedObject):
        open_all(other[:HEADER_SIZE] + _LONG_SEALED[HEADER_SIZE:], len(_LONG))


def test_the_mark_of_the_last_segment_is_authenticated() -> None:
    opener = Opener(KEY, AAD, _LONG_SEALED[:HEADER_SIZE])
    with pytest.raises(TamperedObject):
        opener.open_segment(1, _LONG_SEALED[SEGMENT_SIZE : 2 * SEGMENT_SIZE], is_last=True)
    with pytest.raises(TamperedObject):
        opener.open_segment(3, _LONG_SEALED[3 * SEGMENT_SIZE :], is_last=False)


def test_bytes_behind_the_end_are_seen() -> None:
    for more in (b"\x00", bytes(TAG_SIZE), bytes(SEGMENT_SIZE)):
        with pytest.raises(TamperedObject):
            open_all(_LONG_SEALED + more, len(_LONG))


@pytest.mark.parametrize(
    "aad",
    [
        object_aad(OBJECT, "rendition"),
        object_aad(UUID(int=OBJECT.int ^ 1), "original"),
        AAD.replace(b"\x01", b"\x02", 1),
        b"",
    ],
)
def test_another_identity_does_not_open_it(aad: bytes) -> None:
    with pytest.raises(TamperedObject):
        open_all(seal(b"something"), 9, aad=aad)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(TamperedObject):
        open_all(seal(b"something"), 9, key=bytes(32))


@pytest.mark.parametrize(
    "header", [b"", bytes(40), b"\x28" + bytes(38), b"\x28" + bytes(40), b"\x27" + bytes(39)]
)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    with pytest.raises(TamperedObject) as tampered:
        Opener(KEY, AAD, header, object_id=OBJECT)
    assert tampered.value.object_id == OBJECT
    assert str(OBJECT) in str(tampered.value)


@pytest.mark.parametrize("size", [0, TAG_SIZE - 1, SEGMENT_SIZE + 1])
def test_a_segment_of_an_impossible_size_is_refused(size: int) -> None:
    opener = Opener(KEY, AAD, _LONG_SEALED[:HEADER_SIZE])
    with pytest.raises(TamperedObject):
        opener.open_segment(1, bytes(size), is_last=True)


def test_what_the_format_does_not_hide_or_hold() -> None:
    """The stated limits: the size shows, and an older object under the same key and id still opens."""
    assert len(seal(pattern(1000))) - len(seal(pattern(999))) == 1
    first, second = seal(b"first"), seal(b"later")
    assert open_all(first, 5) == b"first"
    assert open_all(second, 5) == b"later"


# Tink


class _Sink(io.BytesIO):
    """Keeps its bytes when Tink closes it."""

    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


@pytest.mark.parametrize("size", BORDERS)
def test_tink_opens_ours(size: int) -> None:
    plaintext = pattern(size)
    with tink_primitive(KEY).new_decrypting_stream(io.BytesIO(seal(plaintext)), AAD) as stream:
        assert stream.read() == plaintext


@pytest.mark.parametrize("size", BORDERS)
def test_we_open_tinks(size: int) -> None:
    plaintext = pattern(size)
    sink = _Sink()
    with tink_primitive(KEY).new_encrypting_stream(sink, AAD) as stream:
        stream.write(plaintext)

    assert len(sink.kept) == sealed_size(size)
    assert open_all(sink.kept, size) == plaintext
    if size > 0:
        assert open_range(sink.kept, size, size // 2, size) == plaintext[size // 2 :]


def test_tink_refuses_what_we_refuse() -> None:
    sealed = bytearray(seal(b"something"))
    sealed[-1] ^= 1
    with (
        pytest.raises(tink.TinkError),
        tink_primitive(KEY).new_decrypting_stream(io.BytesIO(bytes(sealed)), AAD) as stream,
    ):
        stream.read()
